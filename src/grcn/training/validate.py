"""Measures AP on the validation split at intervals, keeps the best weights, and decides on early stopping."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from grcn.config import TrainConfig
from grcn.data.loader import open_files_error
from grcn.data.records import Dataset
from grcn.errors import ImageError
from grcn.evaluation import evaluate
from grcn.evaluation.thresholds import choose_thresholds
from grcn.evaluation.voc import match_voc
from grcn.files import atomic_file
from grcn.model.detector import RCNN
from grcn.predict.detector import Detector
from grcn.predict.optimize import optimized
from grcn.thresholds import KEY
from grcn.training.checkpoint import save_weights
from grcn.training.logs import AP_KEYS, Figures
from grcn.training.progress import Skipped, number
from grcn.training.signals import Stop
from grcn.training.state import State
from grcn.training.step import gather
from grcn.types import Detections

_GPU_BATCH = 8


class Validation:
    """Measures AP on the validation split at intervals, and saves the best weights with their score thresholds.

    It ends the run early if the best weights stay the best for long enough. For equal AP, the latest weights are the
    best. Without objects there is no AP; then the last weights count as the best, and patience has no effect.

    Args:
        data: the validation split; None: no validation.
        config: the configuration of the run; its folder `out` gets best.safetensors and metrics.json.
        say: called with a line for each result.
        skipped: called with the errors of images that cannot be decoded.
    """

    def __init__(self, data: Dataset | None, config: TrainConfig, say: Callable[[str], None], skipped: Skipped) -> None:
        self.say, self.skipped = say, skipped
        self.data, self.config, self.out = data, config, Path(config.out)
        self.patience = config.patience if data is not None and has_ap(data) else 0
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

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last_iteration, self.best_ap = state["last_iteration"], state["best_ap"]
        self.since_best, self.report = state["since_best"], json.loads(state["report"])

    def is_due(self, iteration: int) -> bool:
        """Whether the weights after this step must be validated and are not yet."""
        every, last = self.config.val_every, self.config.iterations
        regular = every > 0 and iteration > 0 and iteration % every == 0
        return self.data is not None and self.last_iteration != iteration and (regular or iteration == last)

    @property
    def is_over(self) -> bool:
        """Whether the best weights have stayed the best for long enough."""
        return bool(self.patience) and self.since_best >= self.patience

    def __call__(self, fabric: Fabric, state: State, figures: Figures, stop: Stop) -> None:
        """Validates. If a signal asks to stop meanwhile, `stop` is agreed on and the validation is discarded."""
        assert self.data is not None
        found = detect_split(fabric, state.best_model, self.data, self.config, self.skipped, stop)
        shares = gather(fabric, (found, stop.asked))
        stop.agreed = stop.asked or max(asked for _, asked in shares)
        if stop.agreed:
            return
        self.last_iteration = state.iteration
        ap = None
        if fabric.is_global_zero:
            ap = self._keep(state, figures, dict(item for share, _ in shares for item in share.items()))
        ap = fabric.broadcast(ap)
        if ap is not None and ap > self.best_ap:
            self.best_ap, self.since_best = ap, 0
        else:
            self.since_best += 1

    def _keep(self, state: State, figures: Figures, found: dict[int, Detections]) -> float | None:
        """Evaluates, logs and writes the results; returns the AP, or None if there is none."""
        assert self.data is not None
        targets = [record.target for record in self.data.records]
        detections = [found[i] for i in range(len(targets))]
        metrics = evaluate(detections, targets, self.data.class_names)
        figures.log({f"val/{key}": metrics[key] for key in AP_KEYS if metrics[key] is not None}, state.iteration)
        ap: float | None = metrics["AP"]
        self.say(f"iteration {state.iteration}: " + "  ".join(f"{key} {number(metrics[key])}" for key in AP_KEYS))
        entry = {"iteration": state.iteration, **metrics}
        self.report = {"split": self.data.split, "best": self.report.get("best", entry), "last": entry}
        if ap is None or ap >= self.best_ap:
            self.report["best"] = entry
            matches = match_voc(targets, detections, len(self.data.class_names), iou=[0.5])
            chosen = choose_thresholds(matches, self.data.class_names, data=self.data.root.name, split=self.data.split)
            about = {"metrics": entry, **({KEY: chosen.to_json()} if chosen else {})}
            save_weights(self.out / "best.safetensors", state, self.data.class_names, **about)
        with atomic_file(self.out / "metrics.json") as file:
            file.write(json.dumps(self.report, indent=2).encode())
        return ap


def has_ap(data: Dataset) -> bool:
    """Whether there is an object that AP counts."""
    return any((~record.target.crowd).any() for record in data.records)


def detect_split(
    fabric: Fabric, model: RCNN, data: Dataset, config: TrainConfig, skipped: Skipped, stop: Stop
) -> dict[int, Detections]:
    """This rank's share of the detections in a split, by image number; incomplete if `stop` is asked for.

    They equal the detections of `grcn evaluate` with the saved weights, so both give the same AP.

    Raises:
        ImageError: on an image that cannot be decoded, unless such images are skipped; then it has no detections.
    """
    if fabric.world_size > 1:
        for buffer in model.buffers():  # batch norm of each rank has seen only its own images; use the first rank's
            torch.distributed.broadcast(buffer, 0)
    found: dict[int, Detections] = {}
    numbers = range(fabric.global_rank, len(data), fabric.world_size)
    with closing(stream_split(model, data, numbers, config.workers)) as work:
        for number, result in work:
            if isinstance(result, ImageError):
                if limit := open_files_error(result):
                    raise limit
                if not config.skip_broken:
                    raise ImageError(f"{result} (skip_broken goes on without it)")
                skipped.note([str(result)])
                result = Detections(np.empty((0, 4)), np.empty(0), np.empty(0), data.class_names)
            found[number] = result
            if stop.asked:
                break
    return found


def stream_split(
    model: RCNN, data: Dataset, numbers: Iterable[int], workers: int
) -> Generator[tuple[int, Detections | ImageError]]:
    """The detections in the images of these numbers, in order; `model` is not changed."""
    detector = Detector(optimized(model, "fold"), data.class_names)
    batch_size = 1 if detector.device.type == "cpu" else _GPU_BATCH
    yield from detector.stream(
        numbers, batch_size=batch_size, workers=workers, read=lambda number: data[number].pixels()
    )
