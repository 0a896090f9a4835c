"""The number of iterations of a run: as given, from epochs, or as many as fit into the given minutes."""

from __future__ import annotations

import math
import statistics
import time
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass

import torch

from grcn.config import TrainConfig
from grcn.data.extra import load_extra
from grcn.data.loader import Stream, TrainingSet, training_loader
from grcn.data.records import Dataset
from grcn.model.detector import RCNN
from grcn.training.optimizer import clip_gradients, make_optimizer
from grcn.training.progress import Say
from grcn.training.step import autocast
from grcn.training.validate import stream_split

DEFAULT_EPOCHS = 24.0
"""Length of a run if none is given: about detectron2's "2x" schedule on COCO."""

FEW_IMAGES = 500
"""If a run sees fewer images than this, it warns: with 600, AP was 0.14 and 0.31 in our smallest trials."""

_WARM_UP, _MEASURED = 2, 6  # steps
_VALIDATION_IMAGES = 24
_SHARE = 0.1
"""Share of the minutes after which no more steps, and no more batches of validation, are timed, once there are two."""


@dataclass(frozen=True)
class Timing:
    """Median seconds of an optimizer step with its loading, and seconds of one validation."""

    step: float
    validation: float

    def iterations(self, seconds: float, val_every: int) -> int:
        """The number of iterations that fit into `seconds` with all validations, including the last; at least 1."""
        if val_every:
            return max(1, math.floor((seconds - self.validation) / (self.step + self.validation / val_every)))
        return max(1, math.floor((seconds - self.validation) / self.step))


def from_epochs(epochs: float, images: int, images_per_step: int) -> int:
    """Iterations in which each of `images` is seen `epochs` times, rounded up."""
    return math.ceil(epochs * images / images_per_step)


def find_length(
    config: TrainConfig,
    model: RCNN,
    data: Dataset,
    val_data: Dataset | None,
    device: torch.device,
    started: float,
    say: Say,
) -> int:
    """The number of iterations of a run, from its epochs or minutes. Prints a line about it.

    Args:
        started: the start of the minutes, by time.monotonic.
    """
    images_per_step = config.batch_size * config.optim.accumulate
    if not config.minutes:
        epochs = config.epochs or DEFAULT_EPOCHS
        iterations = from_epochs(epochs, len(data), images_per_step)
        say(f"{epochs:g} epochs of {len(data)} images: {iterations} iterations of {images_per_step}")
        return iterations
    timing = measure(model, config, data, val_data, device)
    left = 60 * config.minutes - (time.monotonic() - started)
    iterations = timing.iterations(left, config.val_every)
    say(
        f"{config.minutes:g} minutes: {iterations} iterations of {timing.step:.3g} s and {timing.validation:.3g} s per "
        f"validation ({iterations * images_per_step / len(data):.3g} epochs)"
    )
    if iterations * images_per_step < FEW_IMAGES:
        say(
            f"training will see {iterations * images_per_step} images, counting each photo every time it is seen: too "
            "few to learn from; give more --minutes"
        )
    return iterations


def measure(model: RCNN, config: TrainConfig, data: Dataset, val_data: Dataset | None, device: torch.device) -> Timing:
    """Times training steps and a few validation batches on a temporary copy of `model`, in this process only.

    With several devices, the exchange of gradients is not included. If steps or validation are slow, fewer are timed.
    """
    limit = _SHARE * 60 * config.minutes
    model = deepcopy(model).to(device).train()
    model.checkpoint_activations(config.checkpoint_activations)
    share = max(1, config.batch_size // (config.devices * config.nodes))
    validation = 0.0
    if val_data is not None:
        per_image = _validation_seconds(model, val_data, config.workers, limit)
        validation = per_image * math.ceil(len(val_data) / (config.devices * config.nodes))
    return Timing(_step_seconds(model, config, data, device, share, limit), validation)


def _step_seconds(
    model: RCNN, config: TrainConfig, data: Dataset, device: torch.device, share: int, limit: float
) -> float:
    optimizer = make_optimizer(model, config.optim, lr=0.0)
    accumulate = config.optim.accumulate
    steps = _WARM_UP + _MEASURED
    loader = training_loader(
        TrainingSet(
            data,
            model.config.input,
            config.augment,
            seed=config.seed,
            extra=load_extra(config.augment.extra),
            use_difficult=config.use_difficult,
            skip_broken=config.skip_broken,
        ),
        Stream(len(data), share, steps * accumulate, config.seed),
        workers=config.workers,
        pin_memory=device.type == "cuda",
    )
    seconds, began = [], time.perf_counter()
    for k, batch in enumerate(loader):
        torch.manual_seed(k)
        images = [image.to(device) for image in batch.images]
        targets = [{name: value.to(device) for name, value in target.items()} for target in batch.targets]
        with autocast(device, config.precision):
            losses = model(images, targets)
        sum(losses.values()).backward()
        if (k + 1) % accumulate == 0:
            clip_gradients(model, config.optim.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            _wait(device)
            seconds.append(time.perf_counter() - began)
            if len(seconds) > 1 and sum(seconds) > limit:
                break
            began = time.perf_counter()
    return statistics.median(seconds[_WARM_UP:] or seconds[-1:])


def _validation_seconds(model: RCNN, data: Dataset, workers: int, limit: float) -> float:
    """Seconds of validation per image, without the first, which is the warm-up. Images that cannot be decoded count."""
    numbers = range(min(len(data), 1 + _VALIDATION_IMAGES))
    times = [time.perf_counter()]
    with closing(stream_split(model, data, numbers, workers)) as work:
        for _ in work:
            times.append(time.perf_counter())
            if len(times) > 3 and times[-1] - times[0] > limit:
                break
    first = min(1, len(times) - 2)
    return (times[-1] - times[first]) / (len(times) - 1 - first)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
