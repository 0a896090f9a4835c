"""What the readers of data sets return, and how they account for what they find wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grcn.data.image import ImageHeader, image_size, read_header, read_image, upright_boxes
from grcn.errors import AnnotationError, DataError, ImageError
from grcn.types import Target

Format = Literal["voc", "coco", "yolo", "labelstudio"]
OnError = Literal["raise", "collect"]
Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set and what is annotated in it.

    Args:
        image_id: the COCO file's id, or the file's stem (other formats).
        path: the image file.
        height, width: of the upright image, in pixels, from its header.
        target: the objects, in pixels of the upright image.
    """

    image_id: int | str
    path: Path
    height: int
    width: int
    target: Target

    def pixels(self) -> NDArray[np.uint8]:
        """The decoded image, [height, width, 3] uint8 RGB.

        Raises:
            ImageError: naming the file, where it cannot be decoded or is of another size than the record's.
        """
        pixels = read_image(self.path)
        self._check_size(*pixels.shape[:2])
        return pixels

    def checked_path(self) -> Path:
        """The image file's path, for one who decodes it himself: its size has been compared with the record's.

        Raises:
            ImageError: as `pixels`.
        """
        self._check_size(*image_size(self.path))
        return self.path

    def _check_size(self, height: int, width: int) -> None:
        if (height, width) != (self.height, self.width):
            raise ImageError(
                f"{self.path}: is {width} x {height}, but was {self.width} x {self.height} when its boxes were read: "
                "they would lie elsewhere; save it anew, and leave it alone meanwhile"
            )


@dataclass(frozen=True)
class Defect:
    """Something wrong in a data set, and what was done about it.

    Args:
        kind: a short name to count by, such as `box-clipped` or `missing-image`.
        file: the file it stands in, relative to the data set's root.
        message: what was found and what was done.
        object_index: where in the file: VOC's objects and COCO's entries from 0, lines of text from 1; None: the whole.
        exit_code: of the error kind that it belongs to; 0: a remark, nothing is lost by it.
    """

    kind: str
    file: str
    message: str
    object_index: int | None = None
    exit_code: int = AnnotationError.exit_code

    def __post_init__(self) -> None:
        for name in ("file", "message"):  # names of files need not be text that can be printed
            object.__setattr__(self, name, getattr(self, name).encode(errors="replace").decode())


@dataclass(frozen=True)
class Dataset:
    """One split of a data set, read and checked; pixels are decoded later, by `ImageRecord.pixels`.

    Args:
        root: the data set's folder.
        format: how it is annotated.
        split: the split's name as the folder gives it.
        class_names: [C] names; class id i is `class_names[i]`.
        category_ids: [C] the COCO file's category id of each class; 1..C for the other formats.
        records: the images.
        defects: what was found wrong; each is counted here, nothing is dropped silently.
        files: what was read for the split, or spoken of in what was read: annotations, lists, photos left out.
    """

    root: Path
    format: Format
    split: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: tuple[ImageRecord, ...]
    defects: tuple[Defect, ...]
    files: frozenset[Path] = frozenset()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> ImageRecord:
        return self.records[index]

    def __iter__(self) -> Iterator[ImageRecord]:
        return iter(self.records)


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and its boxes, to be written by `write_voc`, `write_coco`, `write_yolo` or
    `write_labelstudio`.

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
        files: what was read, or spoken of in what was read; see `Dataset`.
    """

    root: Path
    on_error: OnError = "raise"
    defects: list[Defect] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)

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

    def whole(self, file: Path, error: AnnotationError) -> None:
        """The fault of a file that cannot be read at all, from the error that names it."""
        self.fault("broken-annotation", file, str(error).removeprefix(f"{file}: "))

    def unknown_class(self, file: Path, where: str, name: str, known: Sequence[str], index: int) -> None:
        """The fault of an object whose class is not among the known ones."""
        shown = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
        self.fault("unknown-class", file, f"{where}: class '{name}' is none of the classes ({shown})", index)

    def header(self, image: Path) -> ImageHeader | None:
        """The image's size from its header; None where it is broken and that is collected."""
        try:
            return read_header(image)
        except ImageError as error:
            if self.on_error == "raise":
                raise
            self.note("broken-image", image, f"{str(error).removeprefix(f'{image}: ')}: left out", error=ImageError)
            return None

    def align(
        self, file: Path, image: Path, header: ImageHeader, declared: tuple[float, float] | None, boxes: Boxes
    ) -> Boxes:
        """Boxes as annotated, in the upright image's pixels.

        The header's size holds. Where the annotation's (height, width) is that of the image as stored and not that
        of the upright one, its boxes were drawn on the image as stored, and are turned with it.

        Args:
            file: that holds the annotation.
            declared: the size that the annotation gives; None where it gives none.
            boxes: [N, 4] xyxy.
        """
        if declared is None:
            return boxes
        height, width = declared
        if height == header.height and width == header.width:
            return boxes
        said = f"{image.name}: annotated as {width:g} x {height:g}"
        stored_height, stored_width = header.stored
        if height == stored_height and width == stored_width:
            said += f", its size before EXIF orientation {header.orientation}: boxes turned with the image"
            self.note("exif-turned", file, said)
            return upright_boxes(boxes, header)
        self.note("size-mismatch", file, f"{said}, but is {header.width} x {header.height}: the image's size is used")
        return boxes
