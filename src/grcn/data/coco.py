"""COCO JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grcn.data.records import AnnotatedImage


def write_coco(path: str | Path, images: Sequence[AnnotatedImage], class_names: Sequence[str]) -> None:
    """Writes the COCO JSON file of a split."""
    raise NotImplementedError
