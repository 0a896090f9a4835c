"""What the readers of VOC, COCO and YOLO return, and how they account for what they find wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from numpy.typing import ArrayLike

from grcn.data.image import ImageHeader, read_header
from grcn.errors import AnnotationError, DataError, ImageError
from grcn.types import Target

Format = Literal["voc", "coco", "yolo"]
OnError = Literal["raise", "collect"]


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set and what is annotated in it.

    Args:
        image_id: the COCO file's id, or the file's stem (VOC, YOLO).
        path: the image file.
        height, width: of the upright image, in pixels, from its header.
        target: the objects, in pixels of the upright image.
    """

    image_id: int | str
    path: Path
    height: int
    width: int
    target: Target


@dataclass(frozen=True)
class Defect:
    """Something wrong in a data set, and what was done about it.

    Args:
        kind: a short name to count by, such as `box-clipped` or `missing-image`.
        file: the file it stands in, relative to the data set's root.
        message: what was found and what was done.
        object_index: which object of the file (YOLO: the line, from 1; COCO: index into `annotations`), or None.
        exit_code: of the error kind that it belongs to.
    """

    kind: str
    file: str
    message: str
    object_index: int | None = None
    exit_code: int = AnnotationError.exit_code


@dataclass(frozen=True)
class Dataset:
    """One split of a data set, read and checked; pixels are decoded later, by `grcn.data.image.read_image`.

    Args:
        root: the data set's folder.
        format: how it is annotated.
        split: the split's name as the folder gives it.
        class_names: [C] names; class id i is `class_names[i]`.
        category_ids: [C] the COCO file's category id of each class; 1..C for the other formats.
        records: the images.
        defects: what was found wrong; each is counted here, nothing is dropped silently.
    """

    root: Path
    format: Format
    split: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: tuple[ImageRecord, ...]
    defects: tuple[Defect, ...]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> ImageRecord:
        return self.records[index]

    def __iter__(self) -> Iterator[ImageRecord]:
        return iter(self.records)


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and its boxes, to be written by `write_voc`, `write_coco` or `write_yolo`.

    Args:
        file_name: the image's file name, as the annotation is to give it.
        height, width: of the image, in pixels.
        boxes: [N, 4] xyxy pixels, half-open.
        class_ids: [N] class ids 0..C-1.
        scores: [N] 0..1 for detections; None for annotations.
    """

    file_name: str
    height: int
    width: int
    boxes: ArrayLike
    class_ids: Sequence[int]
    scores: Sequence[float] | None = None


@dataclass
class Findings:
    """What a reader found wrong: raises, or collects and goes on.

    Args:
        root: the data set's folder; defects name files relative to it.
        on_error: `raise`: broken files raise; `collect`: each becomes a defect and its file or object is left out.
    """

    root: Path
    on_error: OnError = "raise"
    defects: list[Defect] = field(default_factory=list)

    def note(
        self, kind: str, file: Path, message: str, index: int | None = None, error: type[DataError] = AnnotationError
    ) -> None:
        """Counts a defect that never stops reading."""
        name = file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else str(file)
        self.defects.append(Defect(kind, name, message, index, error.exit_code))

    def fault(
        self, kind: str, file: Path, message: str, index: int | None = None, error: type[DataError] = AnnotationError
    ) -> None:
        """Raises `error`, or counts a defect where errors are collected."""
        if self.on_error == "raise":
            raise error(f"{file}: {message}")
        self.note(kind, file, f"{message}: left out", index, error)

    def header(self, image: Path) -> ImageHeader | None:
        """The image's size from its header; None where it is broken and that is collected."""
        try:
            return read_header(image)
        except ImageError as error:
            if self.on_error == "raise":
                raise
            self.note("broken-image", image, f"{str(error).removeprefix(f'{image}: ')}: left out", error=ImageError)
            return None


class Inside:
    """Guards a data set's root: names found in annotations lead to files inside it or nowhere.

    Args:
        root: a resolved folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[str, bool] = {}

    def join(self, folder: Path, name: str) -> Path | None:
        """`folder / name`, or None if that leaves the root by `..`, an absolute path or a symbolic link."""
        if not name or "\0" in name:
            return None
        path = os.path.normpath(folder / name)
        return Path(path) if self.holds(path) else None

    def holds(self, path: str | Path) -> bool:
        """Whether the path, with its symbolic links followed, lies inside the root."""
        parent = os.path.dirname(path)
        # Links are followed once per folder: a data set has few folders and very many files.
        if parent not in self._folders:
            self._folders[parent] = self._inside(parent)
        if not os.path.islink(path):
            return self._folders[parent] or Path(path) == self.root
        return self._inside(path)

    def _inside(self, path: str | Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self.root)
