"""What a person's name for a trained detector stands for: told here alone, and without torch."""

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
    """Where a detector lies, and what reads it.

    Args:
        kind: `weights`: a file of grcn's. `state_dict`: a file of torch's, or safetensors that are not grcn's. `onnx`,
            `openvino`: an exported one. `preset`: a name of `grcn.presets`, not a file.
        path: the file; of a preset its name.
        fetched: it lies in a cache, downloaded from an address.
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
    """The detector that `source` stands for.

    Args:
        source: a run folder (its `best.safetensors`, else `last.safetensors`), a file, an OpenVINO folder, a preset's
            name where no file has it, or an address `hf://user/name[@revision]`, whose weights are downloaded; as a
            Path, which makes one slash of two, too.

    Raises:
        CheckpointError: if there is none, on a `.pt2` file, and as `grcn.predict.hub.download_weights`.
        ConfigError: as `grcn.predict.hub.download_weights`.
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
    """Whether a safetensors file is one of grcn's; a file that cannot be read is left to its reader's error."""
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
