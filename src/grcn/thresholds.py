"""Score thresholds of a detector, and the temperature that turns its scores into probabilities.

`grcn.evaluation.thresholds` chooses them on a split. They are stored in the header of the weights and of exported
files, under `extra` with the key `thresholds`. docs/adr/0025-thresholds-and-calibration.md has the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from grcn.config import Score, ScoreChoice
from grcn.errors import CheckpointError, ConfigError
from grcn.types import Array, Detections

KEY = "thresholds"
_LEAST = 1e-7
"""Scores are kept at least this far from 0 and 1, whose logits are infinite. Float32 resolves 6e-8 near 1."""
_MAX_SHOWN = 8


@dataclass(frozen=True)
class Thresholds:
    """Score thresholds and a temperature, as chosen on a split.

    Args:
        class_names: the C names.
        best: [C] the score with the best F1 for each class; None for a class without objects in the split.
        precise: [C] the lowest score at which the detections of a class reach `precision`; None if no score does.
        overall: the score with the best F1 for all classes together.
        precision: the wanted precision.
        temperature: the logit of a score is divided by it to get a probability.
        iou: lowest IoU with an object at which a detection counts as correct.
        data, split: the data set and split on which they were chosen.
    """

    class_names: tuple[str, ...]
    best: tuple[float | None, ...]
    precise: tuple[float | None, ...]
    overall: float
    precision: float
    temperature: float
    iou: float
    data: str
    split: str

    def of(self, choice: ScoreChoice) -> Array:
        """[C] float32, the lowest score that is kept of each class.

        For a class without a threshold, `best` uses `overall`, and `precise` is infinite, so that no detection of that
        class is kept.
        """
        if choice == "best":
            return np.array([self.overall if score is None else score for score in self.best], dtype=np.float32)
        return np.array([np.inf if score is None else score for score in self.precise], dtype=np.float32)

    def calibrated(self) -> Thresholds:
        """The same thresholds for calibrated scores."""

        def scale(scores: Sequence[float | None]) -> tuple[float | None, ...]:
            return tuple(None if s is None else float(np.float32(scaled(s, self.temperature))) for s in scores)

        (overall,) = scale([self.overall])
        assert overall is not None
        return replace(self, best=scale(self.best), precise=scale(self.precise), overall=overall)

    def in_words(self, choice: ScoreChoice) -> str:
        """The thresholds of a choice, and where they come from, in one line."""
        shown = ("never" if math.isinf(score) else f"{score:.2f}" for score in self.of(choice))
        scores = [f"{name} {text}" for name, text in zip(self.class_names, shown, strict=True)]
        listed = ", ".join(scores[:_MAX_SHOWN]) + (", ..." if len(scores) > _MAX_SHOWN else "")
        what = "best F1" if choice == "best" else f"precision {self.precision:g}"
        return f"{listed} ({what} on {self.data}, {self.split}; IoU {self.iou:g})"

    def to_json(self) -> dict[str, Any]:
        """Plain values for the header of a file."""
        return {
            "data": self.data,
            "split": self.split,
            "iou": self.iou,
            "best": dict(zip(self.class_names, self.best, strict=True)),
            "overall": self.overall,
            "precision": self.precision,
            "precise": dict(zip(self.class_names, self.precise, strict=True)),
            "temperature": self.temperature,
        }

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any], class_names: Sequence[str], source: object) -> Thresholds | None:
        """Reads the thresholds from a header; None if it has none.

        Args:
            extra: `extra` of the header.
            class_names: the class names of the detector.
            source: the name of the file in errors.

        Raises:
            CheckpointError: if they are damaged.
        """
        if (content := extra.get(KEY)) is None:
            return None
        names = tuple(class_names)
        try:
            if set(content["best"]) != set(names) or set(content["precise"]) != set(names):
                raise ValueError("classes")
            best, precise = (tuple(_score(content[key][name]) for name in names) for key in ("best", "precise"))
            overall, precision, iou, temperature = (
                float(content[key]) for key in ("overall", "precision", "iou", "temperature")
            )
            if not (0 <= overall <= 1 and 0 < precision <= 1 and 0 < iou <= 1 and 1e-3 <= temperature <= 1e3):
                raise ValueError("range")
            data, split = str(content["data"])[:200], str(content["split"])[:200]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(
                f"{source}: the thresholds in its header are damaged ({' '.join(str(error).split())[:80]}); "
                "`grcn evaluate --save thresholds` writes them again"
            ) from None
        return cls(names, best, precise, overall, precision, temperature, iou, data, split)


def _score(value: Any) -> float | None:
    if value is None:
        return None
    if not 0 <= (score := float(value)) <= 1:
        raise ValueError("score")
    return score


def check_score(score: Score) -> None:
    """Raises ConfigError if `score` is neither in 0..1 nor a choice."""
    if isinstance(score, str):
        if score not in get_args(ScoreChoice):
            raise ConfigError(
                f"score '{score}': use a number from 0 to 1, or one of {', '.join(get_args(ScoreChoice))}"
            )
    elif not 0 <= score <= 1:
        raise ConfigError(f"score {score}: needs a number from 0 to 1")


def check_precision(precision: float) -> None:
    """Raises ConfigError outside 0 < precision <= 1."""
    if not 0 < precision <= 1:
        raise ConfigError(f"precision {precision}: needs a number above 0 and at most 1")


def scaled(scores: Any, temperature: float) -> Array:
    """Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks"), on the logit of a score.

    Args:
        scores: scores in 0..1, of any shape.
        temperature: a number above 0. Above 1 it moves scores towards 0.5, below 1 away from it.

    Returns:
        sigmoid(logit(score) / temperature), float64. The order of scores does not change.
    """
    return sigmoid(logits(scores) / temperature)


def logits(scores: Any) -> Array:
    """log(score / (1 - score)), float64, kept finite for scores of 0 and 1."""
    kept = np.clip(np.asarray(scores, dtype=np.float64), _LEAST, 1 - _LEAST)
    result: Array = np.log(kept / (1 - kept))
    return result


def sigmoid(values: Array) -> Array:
    """1 / (1 + exp(-values))."""
    result: Array = 1 / (1 + np.exp(-np.clip(values, -500, 500)))
    return result


def unscaled(score: float, temperature: float) -> float:
    """The inverse of `scaled`, a little lower, so that `scaled` maps it to at most `score`; 0 for 0."""
    return 0.0 if score <= 0 else max(0.0, float(scaled(score, 1 / temperature)) - 1e-6)


def calibrate(found: Detections, temperature: float) -> Detections:
    """The same detections, with the probability that each is right as its score."""
    scores = scaled(found.scores, temperature).astype(np.float32)
    return Detections(found.boxes, scores, found.class_ids, found.class_names)


def no_thresholds(source: object, *, exported: bool = False) -> ConfigError:
    """The error for a detector without thresholds, which says what to do.

    Args:
        source: the file, or None if it is not known.
        exported: whether it was written by `grcn export`.
    """
    run = "RUN" if exported else source or "RUN"
    then = " on the run that it was made from, and export that run again" if exported else ""
    return ConfigError(
        f"{source or 'the detector'}: no thresholds or temperature in its header; choose them with "
        f"`grcn evaluate {run} --data DIR --split val --save thresholds`{then}"
    )
