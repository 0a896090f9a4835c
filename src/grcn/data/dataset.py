"""Opening a data set: recognize its format, find its splits, read one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from grcn.data.records import AnnotatedImage, Dataset, Defect, Format, ImageRecord, OnError

__all__ = [
    "AnnotatedImage",
    "Dataset",
    "Defect",
    "Format",
    "ImageRecord",
    "OnError",
    "list_splits",
    "open_dataset",
    "resolve_split",
]


def open_dataset(
    root: str | Path,
    *,
    split: str = "train",
    format: Literal["auto", "voc", "coco", "yolo"] = "auto",
    class_names: Sequence[str] | None = None,
    on_error: OnError = "raise",
) -> Dataset:
    raise NotImplementedError


def list_splits(root: str | Path, format: str = "auto") -> tuple[str, ...]:
    raise NotImplementedError


def resolve_split(root: str | Path, wanted: str, kind: Literal["train", "val", "test"], format: str = "auto") -> str:
    raise NotImplementedError
