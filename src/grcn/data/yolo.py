"""YOLO text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from grcn.data.records import AnnotatedImage


def write_yolo(path: str | Path, image: AnnotatedImage) -> None:
    """Writes one image's YOLO label file."""
    raise NotImplementedError


def write_yolo_yaml(path: str | Path, class_names: Sequence[str], splits: Mapping[str, str]) -> None:
    """Writes a data.yaml."""
    raise NotImplementedError
