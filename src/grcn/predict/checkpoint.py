"""Saves and loads detectors: one safetensors file each, with preset, configuration and class names in its header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from grcn.config import DetectorConfig
from grcn.errors import CheckpointError, first_line
from grcn.files import atomic_file
from grcn.model.backbones import Backbone, is_named
from grcn.model.backbones.pretrained import fits
from grcn.model.detector import RCNN, outline
from grcn.predict.header import KEY, Header, read_header


def save_detector(
    path: str | Path, model: RCNN, *, class_names: tuple[str, ...], preset: str, extra: dict[str, Any]
) -> None:
    """Writes a detector to one safetensors file, completely or not at all.

    Args:
        class_names: the names by class id; preset: the preset's name; extra: JSON values such as metrics.

    Raises:
        CheckpointError: if the file cannot be written; an earlier file of that name is unchanged.
    """
    header = Header(model.config, class_names, preset, extra)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_file(path) as file:
        file.write(safetensors.torch.save(tensors, {KEY: header.to_json()}))


def add_to_header(path: str | Path, entries: Mapping[str, Any]) -> None:
    """Sets keys of `extra` in the header of a weights file; its tensors do not change.

    Raises:
        CheckpointError: if the file cannot be read or written, or is not a detector.
    """
    metadata, tensors = _read(path)
    header = read_header(path, metadata)
    changed = replace(header, extra={**header.extra, **entries})
    content = safetensors.torch.save(tensors, {**metadata, KEY: changed.to_json()})
    with atomic_file(path) as file:
        file.write(content)


@dataclass(frozen=True)
class LoadedDetector:
    """A detector read from a file: the module, in evaluation mode, and the fields of the header."""

    model: RCNN
    class_names: tuple[str, ...]
    preset: str
    extra: dict[str, Any]
    file: Path | None = None


def _with_numbers(backbone: Backbone) -> Backbone:
    """A copy of `backbone` whose stages have values even on the meta device, because they may fill their own layers."""
    result = copy(backbone)

    def stage(*args: Any, **options: Any) -> nn.Sequential:
        with torch.device("cpu"):
            return backbone.stage(*args, **options)

    result.stage = stage  # type: ignore[method-assign]
    return result


def load_detector(path: str | Path, *, backbone: Backbone | None = None) -> LoadedDetector:
    """Reads a file that `save_detector` wrote.

    The header is checked against the tensors in the file before memory for them is allocated. The header can only name
    a backbone of torchvision or timm; a file cannot cause anything else to be imported.

    Args:
        path: the file.
        backbone: your own network, if the detector was built with one.

    Raises:
        CheckpointError: if the file is missing, broken, or not a detector of this package.
    """
    metadata, tensors = _read(path)
    header = read_header(path, metadata)
    model = filled(header.config, header.class_names, tensors, str(path), backbone)
    return LoadedDetector(model, header.class_names, header.preset, header.extra, Path(path))


def read_file_header(path: str | Path) -> Header:
    """The header of a weights file, without its tensors.

    Raises:
        CheckpointError: if it is missing, broken, or not a detector.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except Exception as error:  # safetensors raises its own kind, OSError and more
        raise CheckpointError(f"{path}: cannot be read as safetensors: {first_line(error)}") from None
    return read_header(path, metadata)


def _read(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return metadata, safetensors.torch.load_file(path)
    except Exception as error:  # safetensors raises its own kind, OSError and more
        raise CheckpointError(f"{path}: cannot be read as safetensors: {first_line(error)}") from None


def filled(
    config: DetectorConfig,
    class_names: Sequence[str],
    tensors: Mapping[str, Tensor],
    source: str,
    backbone: Backbone | None = None,
) -> RCNN:
    """Builds a detector from tensors, in evaluation mode. The tensors are checked against `config` first.

    Args:
        config: a resolved configuration (`grcn.model.detector.resolve`).
        source: the name of the file in errors.
        backbone: as in `load_detector`.

    Raises:
        CheckpointError: if the tensors do not fit such a detector.
    """
    if backbone is None and not is_named(config.backbone):
        raise CheckpointError(
            f"{source}: its backbone {config.backbone[:100]!r} is your own network; load it in Python with "
            "load_detector(path, backbone=...), and export it there to use it in commands and services"
        )
    try:
        with torch.device("meta"):
            model = outline(config, len(class_names), backbone and _with_numbers(backbone))
    except Exception as error:  # such as sizes beyond what torch can count
        raise CheckpointError(f"{source}: its configuration cannot be built: {first_line(error)}") from None
    wanted = model.state_dict()
    unlike = wanted.keys() ^ tensors.keys() | {k for k in wanted.keys() & tensors if not fits(tensors[k], wanted[k])}
    if unlike:
        listed = ", ".join(sorted(unlike)[:4])
        raise CheckpointError(f"{source}: {len(unlike)} tensors do not fit its configuration: {listed}")
    if any(buffer.is_meta for name, buffer in model.named_buffers() if name not in wanted):
        # Buffers that no file has, such as the windows of a Swin, are computed when the network is built.
        model = outline(config, len(class_names), backbone)
    # Copy to the type and layout of the model. The tensors from safetensors are the mapped file itself, which someone
    # may write to while the detector is in use.
    own = {name: torch.empty_like(like, device="cpu").copy_(tensors[name]) for name, like in wanted.items()}
    model.load_state_dict(own, assign=True)
    return model.eval()
