"""The training state of a run on disk. It is written completely or not at all, and reading it executes nothing.

It holds the `State`, the logged figures and the validations. The key `grcn` identifies the run (`identity`); the state
of another run is refused.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
import torchvision

import grcn
from grcn.config import TrainConfig, differences, from_saved, to_dict
from grcn.data.records import Dataset
from grcn.errors import CheckpointError
from grcn.files import atomic_file
from grcn.predict.checkpoint import save_detector
from grcn.training.state import State

KEY = "grcn"
STATE = "checkpoints/last.ckpt"
"""The place of the training state in a run folder."""

# What may differ between a run and its continuation: none of it changes a weight, up to rounding over other devices.
FREE = {"data", "out", "format", "val_split", "weights", "fit", "epochs", "minutes", "workers", "val_every"}
FREE |= {"save_every", "patience", "accelerator", "devices", "nodes", "loggers", "resume", "checkpoint_activations"}


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Writes a training state; raises CheckpointError if it cannot be written, and leaves the former one intact."""
    with atomic_file(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch then fails to close its archive, and this second error hides that the disk is full.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def save_weights(path: Path, state: State, class_names: tuple[str, ...], **extra: Any) -> None:
    """The detector in training as a weights file that says where it comes from."""
    config = state.config
    extra = {"iteration": state.iteration, "train": to_dict(config), "versions": versions(), **extra}
    save_detector(path, state.best_model, class_names=class_names, preset=config.preset, extra=extra)


def versions() -> dict[str, str]:
    """The versions that the results of a run depend on."""
    packages = {module.__name__: str(module.__version__) for module in (torch, torchvision, lightning_fabric, grcn)}
    return {"python": platform.python_version(), **packages}


def load_state(path: str | Path, *, mapped: bool = False) -> dict[str, Any]:
    """Reads a training state, with its tensors on the CPU.

    Args:
        mapped: leave the tensors on disk until they are used, to look only at the rest.

    Raises:
        CheckpointError: if it is missing, damaged, not a training state of grcn, or holds code. No code is executed.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # the restricted unpickler raises a dozen kinds on hostile or torn files
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: refused, not a training state of plain tensors and values: {reason}") from None
    if not isinstance(state, dict) or not isinstance(state.get(KEY), dict) or "state_dict" not in state:
        raise CheckpointError(f"{path}: not a training state of grcn")
    try:
        return _from_lightning(state) if "optimizer_states" in state else state
    except (KeyError, IndexError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: not a training state of grcn") from None


def _from_lightning(state: dict[str, Any]) -> dict[str, Any]:
    """Converts the state of a run from the time when lightning's Trainer ran the loop."""
    weights = {name.replace("ema.model.", "ema.module.", 1): tensor for name, tensor in state["state_dict"].items()}
    if any(name.startswith("ema.") for name in weights):
        weights["ema.n_averaged"] = torch.tensor(state["global_step"] + 1)
    return {
        KEY: state[KEY],
        "global_step": state["global_step"],
        "state_dict": weights,
        "optimizer": state["optimizer_states"][0],
        "scaler": {},
        "figures": state["callbacks"]["Journal"],
        "validation": state["callbacks"].get("Validation"),
    }


def identity(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """The identity of a run, as plain values: its configuration, its classes and a digest of its training data."""
    return {"config": to_dict(config), "classes": list(data.class_names), "data": fingerprint(data)}


def fingerprint(data: Dataset) -> dict[str, Any]:
    """Counts, and a digest over the images' ids and sizes and their objects, in order; not over pixels or paths."""
    digest = hashlib.sha256()
    for record in data.records:
        target = record.target
        digest.update(repr((record.image_id, record.height, record.width, len(target))).encode())
        for array in (target.boxes, target.labels, target.difficult, target.crowd):
            digest.update(np.ascontiguousarray(array).tobytes())
    objects = sum(len(record.target) for record in data.records)
    return {"images": len(data), "objects": objects, "digest": digest.hexdigest()[:16]}


def saved_config(path: str | Path, saved: dict[str, Any]) -> TrainConfig:
    """The configuration in an identity. Fields that are newer than the saved run have their defaults.

    Raises:
        CheckpointError: naming a key that this version does not know or take.
    """
    return from_saved(TrainConfig, saved.get("config"), path)


def check_same(path: str | Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises an error if a run would be continued as another one.

    Args:
        saved, now: two identities.

    Raises:
        CheckpointError: if they differ, listing every difference as old -> new; on a key that this version does not
            know.
    """
    former, present = (_settled(of_run, saved_config(path, of_run)) for of_run in (saved, now))
    if told := differences(former, present):
        raise CheckpointError(
            f"{path}: cannot be resumed as this run: {'; '.join(told)}. Resume with the former values, or start "
            "a new run in another folder (--weights FILE starts from its weights)"
        )


def _settled(identity: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    fixed = {key: value for key, value in to_dict(config).items() if key not in FREE}
    return {**fixed, "classes": identity.get("classes"), "data": identity.get("data")}
