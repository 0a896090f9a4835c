"""PASCAL VOC XML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grcn.data.records import AnnotatedImage


def write_voc(path: str | Path, image: AnnotatedImage, class_names: Sequence[str]) -> None:
    """Writes one image's VOC XML file."""
    raise NotImplementedError
