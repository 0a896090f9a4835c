"""The training and validation data of a run, and the messages about them at the start."""

from __future__ import annotations

from grcn.config import TrainConfig
from grcn.data.dataset import DataFolder, Dataset, OnError
from grcn.data.holdout import HELD_OUT, hold_out
from grcn.data.loader import objects
from grcn.errors import DataError, ImageError
from grcn.training.progress import Say
from grcn.training.validate import has_ap


def open_data(config: TrainConfig, say: Say) -> tuple[Dataset, Dataset | None]:
    """The training data and the validation data; the latter is None if there is no split for it.

    Raises:
        DataError: if there is nothing to learn from, or no such split.
    """
    folder = DataFolder(config.data, config.format)
    split = folder.resolve(config.train_split, "train")
    on_error: OnError = "collect" if config.skip_broken else "raise"
    data = folder.open(split, on_error=on_error)
    if not any(len(labels) for _, labels in (objects(r, use_difficult=config.use_difficult) for r in data.records)):
        raise DataError(f"{config.data}: split '{split}' holds no objects to learn from{_left_out(data, config)}")
    _say_defects(data, say)
    if config.val_split == "none":
        return data, None
    try:
        val_split = folder.resolve(config.val_split, "val")
    except DataError as error:
        raise DataError(f"{error}; or val_split none to train without validation") from None
    if val_split == HELD_OUT:
        return _hold_out(data, config, say)
    if val_split == split:
        say(f"warning: validating on '{split}', the training split: its AP says nothing about other images")
    val_data = folder.open(val_split, class_names=data.class_names, on_error=on_error)
    _say_defects(val_data, say)
    if not has_ap(val_data):
        say(
            f"warning: split '{val_split}' holds no objects, so no AP and no early stop; the last weights count "
            "as the best"
        )
    return data, val_data


def _hold_out(data: Dataset, config: TrainConfig, say: Say) -> tuple[Dataset, Dataset | None]:
    """Training and validation data from one split."""
    rest, held = hold_out(data, config.workers)
    said = f"{config.data}: no split to validate on"
    if held is None or not has_ap(held) or not has_ap(rest):
        say(f"{said}, and too few photos to hold some out: no AP, and no best.safetensors")
        return data, None
    say(
        f"{said}: {len(held)} of the {len(data)} photos of '{data.split}' are held out, by class, near-duplicates "
        "together; val_split none trains on all"
    )
    return rest, held


def _left_out(data: Dataset, config: TrainConfig) -> str:
    """The reason why none of the objects of a data set is trained on."""
    crowd = sum(int(r.target.crowd.sum()) for r in data.records)
    difficult = sum(len(r.target) for r in data.records) - crowd
    parts = [f"{crowd} crowd"] if crowd else []
    parts += [f"{difficult} difficult, and use_difficult is {str(config.use_difficult).lower()}"] if difficult else []
    return f": only {' and '.join(parts)}" if parts else ""


def _say_defects(data: Dataset, say: Say) -> None:
    for defect in data.defects:
        if defect.exit_code == ImageError.exit_code or defect.kind == "classes-by-number":
            say(f"{data.root}: {defect.file}: {defect.message}")
    if count := sum(defect.exit_code != 0 for defect in data.defects):
        say(f"{data.root}: split '{data.split}' has defects ({count}); `grcn check` lists them")
