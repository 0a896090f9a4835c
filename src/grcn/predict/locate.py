"""Finds the detector that a user's name for it refers to. This is the only place that does so; it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grcn.errors import CheckpointError
from grcn.predict.header import KEY
from grcn.predict.hub import PREFIX, download_weights, parse_address
from grcn.presets import PRESETS

OPENVINO_FILE = "model.xml"  # in its folder, with model.bin beside it

_BY_SUFFIX: dict[str, Literal["onnx", "openvino", "state_dict"]] = {
    ".onnx": "onnx",
    ".xml": "openvino",
    ".pth": "state_dict",
    ".pt": "state_dict",
}


@dataclass(frozen=True)
class Located:
    """The place of a detector, and the kind of file that it is.

    Args:
        kind: `weights`: a file of grcn. `state_dict`: a file of torch, or a safetensors file that is not from grcn.
            `onnx`, `openvino`: an exported detector. `preset`: a name in `grcn.presets`, not a file.
        path: the file; for a preset, its name.
        fetched: whether the file was downloaded and lies in a cache.
    """

    kind: Literal["weights", "state_dict", "onnx", "openvino", "preset"]
    path: Path
    fetched: bool = False

    @property
    def is_exported(self) -> bool:
        return self.kind in ("onnx", "openvino")

    def __str__(self) -> str:
        return str(self.path)


def locate(source: str | Path) -> Located:
    """Finds the detector that `source` names.

    Args:
        source: a run folder (`best.safetensors` is used, or `last.safetensors` if there is no best), a file, an
            OpenVINO folder, the name of a preset if there is no file of that name, or `hf://user/name[@revision]`,
            whose weights are downloaded. A Path also works for the last one, although it turns `//` into `/`.

    Raises:
        CheckpointError: if there is none, on a `.pt2` file, and as in `grcn.predict.hub.download_weights`.
        ConfigError: as in `grcn.predict.hub.download_weights`.
    """
    path, text = Path(source), str(source)
    if isinstance(source, Path) and text.startswith("hf:/") and not path.exists():
        text = text.replace("hf:/", PREFIX, 1)
    if text.startswith(PREFIX):
        return Located("weights", download_weights(*parse_address(text)), fetched=True)
    if path.is_dir():
        return _in_folder(path)
    if not path.exists():
        if text in PRESETS:
            return Located("preset", path)
        raise CheckpointError(f"{source}: no such run folder, weights file or preset (`grcn models` lists presets)")
    suffix = path.suffix.lower()
    if suffix == ".pt2":
        raise CheckpointError(
            f"{source}: grcn does not load .pt2 files: torch runs text in them as Python; use torch.export.load "
            "if you trust the file, or export to onnx or openvino"
        )
    if suffix == ".safetensors" and not _is_ours(path):
        return Located("state_dict", path)
    return Located(_BY_SUFFIX.get(suffix, "weights"), path)


def _is_ours(path: Path) -> bool:
    """Whether a safetensors file is from grcn. True for a file that cannot be read: its reader raises the error."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="np") as file:
            return KEY in (file.metadata() or {})
    except Exception:  # safetensors raises its own kind, OSError and more
        return True


def _in_folder(folder: Path) -> Located:
    if (folder / OPENVINO_FILE).is_file():
        return Located("openvino", folder / OPENVINO_FILE)
    for name in ("best.safetensors", "last.safetensors"):
        if (folder / name).is_file():
            return Located("weights", folder / name)
    raise CheckpointError(f"{folder}: no best.safetensors or last.safetensors; is it the folder of a run?")
