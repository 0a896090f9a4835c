"""What happens between steps: figures, validation, saving, and stopping when asked to.

Each callback acts at the end of an optimizer step. Their order matters and is given in `fit`: the figures of a step are
logged, then it is validated, then saved; so a save holds everything that was done up to its iteration.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import lightning.pytorch as pl
import torch
import torchvision
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import grcn
from grcn.config import TrainConfig, to_dict
from grcn.data.loader import Batch, ValidationSet, validation_loader
from grcn.data.records import Dataset
from grcn.evaluation import evaluate
from grcn.files import atomic_file
from grcn.model.detector import RCNN
from grcn.predict.checkpoint import save_detector
from grcn.predict.torch_backend import to_detections
from grcn.training.checkpoint import KEY
from grcn.training.logs import AP_KEYS
from grcn.training.module import LOSSES, Training
from grcn.types import Detections

LOG_EVERY = 10
"""Iterations between rows of training figures; each is the mean since the row before."""


def versions() -> dict[str, str]:
    """The versions that a run's figures depend on."""
    packages = {module.__name__: str(module.__version__) for module in (torch, torchvision, lightning, grcn)}
    return {"python": platform.python_version(), **packages}


class StepEnd(pl.Callback):
    """A callback that acts at the end of optimizer steps, not of accumulated batches."""

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if module.step.complete:
            self.on_step_end(trainer, module)

    def on_step_end(self, trainer: pl.Trainer, module: Training) -> None:
        """After optimizer step number `module.iteration`, from 1."""


class Skipped:
    """Names each image that was skipped, once.

    Args:
        say: told a line for each; on every rank, since each reads other images.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.messages: set[str] = set()

    def note(self, batch: Batch) -> None:
        for message in {message for origin in batch.origins for message in origin.broken} - self.messages:
            self.messages.add(message)
            self.say(f"skipped, {len(self.messages)} so far: {message}")


class Journal(StepEnd):
    """Logs the training figures, as means over LOG_EVERY iterations; the unfinished window is part of the state."""

    def __init__(self, images_per_step: int, images: int, skipped: Skipped) -> None:
        self.images_per_step, self.images, self.skipped = images_per_step, images, skipped
        self.sums: dict[str, float] = {}
        self.count = 0
        self.seconds = self.waited = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "count": self.count, "seconds": self.seconds, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.sums, self.count = dict(state_dict["sums"]), state_dict["count"]
        self.seconds, self.waited = state_dict["seconds"], state_dict["waited"]

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Batch, batch_idx: int) -> None:
        self._started = time.perf_counter()
        self.skipped.note(batch)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        waited = module.trainer.train_dataloader.take_waited()
        self.waited += waited
        self.seconds += waited + time.perf_counter() - self._started
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def on_step_end(self, trainer: pl.Trainer, module: Training) -> None:
        for name, value in module.step.values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if module.iteration % LOG_EVERY and module.iteration != module.iterations:
            return
        means = {name: value / self.count for name, value in self.sums.items()}
        row = {
            "train/epoch": module.iteration * self.images_per_step / self.images,
            "train/lr": module.lr,
            "train/loss": sum(value for name, value in means.items() if name.startswith("loss_")),
            **{f"train/{name}": value for name, value in means.items()},
            "train/images_per_second": self.count * self.images_per_step / max(self.seconds, 1e-9),
            "train/waiting": self.waited / max(self.seconds, 1e-9),
        }
        for logger in trainer.loggers:
            logger.log_metrics(row, step=module.iteration)
        self.sums, self.count, self.seconds, self.waited = {}, 0, 0.0, 0.0


class Validation(StepEnd):
    """AP on the validation split every so often; keeps the best weights, and stops when they stay the best.

    Of equal APs the latest weights are the best. Without objects there is no AP: then the last weights are the best,
    and patience does not count.

    Args:
        data: the split.
        config: of the run, whose folder `out` gets best.safetensors and metrics.json.
        say: told each result in a line.
        skipped: told of images that cannot be decoded.
    """

    def __init__(self, data: Dataset, config: TrainConfig, say: Callable[[str], None], skipped: Skipped) -> None:
        self.say, self.skipped = say, skipped
        self.data, self.every, self.out = data, config.val_every, Path(config.out)
        self.patience = config.patience if has_ap(data) else 0
        self.last_iteration = -1
        self.best_ap = -1.0
        self.since_best = 0
        self.report: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "last_iteration": self.last_iteration,
            "best_ap": self.best_ap,
            "since_best": self.since_best,
            "report": json.dumps(self.report),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_iteration, self.best_ap = state_dict["last_iteration"], state_dict["best_ap"]
        self.since_best, self.report = state_dict["since_best"], json.loads(state_dict["report"])

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        config, world = module.config, trainer.world_size
        self.loader = validation_loader(
            ValidationSet(self.data, module.model.config.input, skip_broken=config.skip_broken),
            batch_size=max(1, config.batch_size // world),
            workers=config.workers,
            rank=trainer.global_rank,
            world=world,
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        # A run that was stopped in the middle of a validation makes up for it.
        if module.iteration and self._due(module):
            self._validate(trainer, module)
        self._stop_if_best_is_old(trainer)

    def on_step_end(self, trainer: pl.Trainer, module: Training) -> None:
        if self._due(module) and not module.stopping:
            self._validate(trainer, module)

    def _due(self, module: Training) -> bool:
        regular = self.every > 0 and module.iteration % self.every == 0
        return self.last_iteration != module.iteration and (regular or module.iteration == module.iterations)

    def _validate(self, trainer: pl.Trainer, module: Training) -> None:
        model = module.best_model
        was_training = model.training
        model.eval()
        found: dict[int, Detections] = {}
        with trainer.precision_plugin.forward_context():
            for batch in self.loader:
                self.skipped.note(batch)
                found |= detect_batch(model, batch, self.data.class_names)
                if module.stop_signal:
                    break
        model.train(was_training)
        shares: list[Any] = [(found, module.stop_signal)]
        if trainer.world_size > 1:
            shares = [None] * trainer.world_size
            torch.distributed.all_gather_object(shares, (found, module.stop_signal))
        module.stopping = module.stop_signal or max(stop for _, stop in shares)
        if module.stopping:
            trainer.should_stop = True
            return
        self.last_iteration = module.iteration
        ap = None
        if trainer.is_global_zero:
            ap = self._keep(trainer, module, model, dict(item for share, _ in shares for item in share.items()))
        ap = trainer.strategy.broadcast(ap)
        if ap is not None and ap > self.best_ap:
            self.best_ap, self.since_best = ap, 0
        else:
            self.since_best += 1
        self._stop_if_best_is_old(trainer)

    def _stop_if_best_is_old(self, trainer: pl.Trainer) -> None:
        if self.patience and self.since_best >= self.patience:
            trainer.should_stop = True

    def _keep(self, trainer: pl.Trainer, module: Training, model: RCNN, found: dict[int, Detections]) -> float | None:
        """Evaluates, logs, and writes what belongs on disk; the AP, None where there is none."""
        metrics = evaluate(
            [found[i] for i in range(len(self.data))], [r.target for r in self.data.records], self.data.class_names
        )
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{k}": metrics[k] for k in AP_KEYS if metrics[k] is not None}, module.iteration)
        ap: float | None = metrics["AP"]
        self.say(f"iteration {module.iteration}: " + "  ".join(f"{key} {_figure(metrics[key])}" for key in AP_KEYS))
        entry = {"iteration": module.iteration, **metrics}
        self.report = {"split": self.data.split, "best": self.report.get("best", entry), "last": entry}
        if ap is None or ap >= self.best_ap:
            self.report["best"] = entry
            save_weights(self.out / "best.safetensors", module, self.data.class_names, metrics=entry)
        with atomic_file(self.out / "metrics.json") as file:
            file.write(json.dumps(self.report, indent=2).encode())
        return ap


def has_ap(data: Dataset) -> bool:
    """Whether there is an object that AP counts."""
    return any((~record.target.crowd).any() for record in data.records)


@torch.no_grad()
def detect_batch(model: RCNN, batch: Batch, class_names: tuple[str, ...]) -> dict[int, Detections]:
    """Detections by index of the image, in its own pixels; `model` is in evaluation mode."""
    device = next(model.parameters()).device
    outputs = model([image.to(device, non_blocking=True) for image in batch.images])
    found = {}
    for image, output, origin in zip(batch.images, outputs, batch.origins, strict=True):
        if origin.broken:  # a black image stands for one that could not be decoded
            output = {name: value[:0] for name, value in output.items()}
        found[origin.number] = to_detections(output, (image.shape[1], image.shape[2]), origin.size, class_names)
    return found


class Saving(StepEnd):
    """Saves the state every so often, at the end, and when a signal asks to stop; then stops.

    Args:
        config: of the run, whose folder `out` gets checkpoints/last.ckpt and last.safetensors. Where neither
            `save_every` nor `val_every` is given, ten times in the run.

    Attributes:
        identity: of the run (`grcn.training.checkpoint.identity`), kept in the checkpoint.
    """

    def __init__(self, config: TrainConfig, class_names: tuple[str, ...]) -> None:
        self.every, self.out, self.class_names = config.save_every or config.val_every, Path(config.out), class_names
        self.identity: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.identity

    def on_step_end(self, trainer: pl.Trainer, module: Training) -> None:
        every = self.every or max(1, module.iterations // 10)
        regular = module.iteration % every == 0 or module.iteration == module.iterations
        if not (regular or module.stopping or trainer.should_stop):
            return
        trainer.save_checkpoint(self.out / "checkpoints" / "last.ckpt", weights_only=False)
        if trainer.is_global_zero:
            save_weights(self.out / "last.safetensors", module, self.class_names)
        if module.stopping:
            trainer.should_stop = True


def save_weights(path: Path, module: Training, class_names: tuple[str, ...], **extra: Any) -> None:
    """The detector in training as a weights file that says where it comes from."""
    extra = {"iteration": module.iteration, "train": to_dict(module.config), "versions": versions(), **extra}
    save_detector(path, module.best_model, class_names=class_names, preset=module.config.preset, extra=extra)


class Signals(pl.Callback):
    """SIGTERM and Ctrl-C let the step under way end and the state be saved; a second one stops at once."""

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only

        # After lightning has set its own handlers, which it takes away again, with these, when the run is over.
        def ask(number: int, frame: FrameType | None) -> None:
            module.stop_signal = number
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            name = signal.Signals(number).name
            # Not print: the signal may have interrupted one.
            os.write(2, f"\n{name}: saving after this step; once more stops at once\n".encode())

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, ask)


class ProgressBar(StepEnd):
    """A bar with time left, AP and losses (RPN and RoI, each class + box) on a terminal; elsewhere a line now and then.

    Args:
        validation: whose last AP is shown.
    """

    LINE_EVERY = 30.0  # seconds

    def __init__(self, validation: Validation | None) -> None:
        self.validation = validation
        self.bar: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._first, self._began = module.iteration, time.monotonic()
        self._last_line = self._began
        # Narrow enough for 80 columns; what does not fit is cut from the end, the losses' parts first.
        columns = (BarColumn(10), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        # What is printed meanwhile goes through the console, which would break long paths in two.
        bar = Progress(*columns, speed_estimate_period=300, console=Console(soft_wrap=True))
        if bar.console.is_terminal:
            self.bar = bar
            self._task = bar.add_task("", total=module.iterations, completed=module.iteration)
            bar.start()

    def on_step_end(self, trainer: pl.Trainer, module: Training) -> None:
        if self.bar is not None:
            self.bar.update(self._task, completed=module.iteration, description=self._describe(module))
            return
        now = time.monotonic()
        if now - self._last_line >= self.LINE_EVERY:
            self._last_line = now
            left = (now - self._began) / (module.iteration - self._first) * (module.iterations - module.iteration)
            print(
                f"iteration {module.iteration}/{module.iterations}  {self._describe(module)}  {left / 60:.0f} min left",
                flush=True,
            )

    def _describe(self, module: Training) -> str:
        objectness, rpn_box, classifier, box = (module.step.values[name] for name in LOSSES)
        report = self.validation.report if self.validation is not None else {}
        ap = f"AP {_figure(report['last']['AP'])}  " if report else ""
        total = objectness + rpn_box + classifier + box
        return f"{ap}loss {total:.3f} (rpn {objectness:.2f}+{rpn_box:.2f}, roi {classifier:.2f}+{box:.2f})"

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
