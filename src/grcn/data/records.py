"""The results of the readers of data sets, and how they record defects."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grcn.data.boxes import clean_boxes
from grcn.data.files import ImageFinder, NotFoundError
from grcn.data.image import ImageHeader, read_header, read_image, unread, upright_boxes
from grcn.data.text import listed
from grcn.errors import AnnotationError, DataError, ImageError
from grcn.types import Target

OnError = Literal["raise", "collect"]
Boxes = NDArray[np.float64]

MOST_CLASSES = 10_000  # without names; the largest public data sets of boxes have a thousand classes


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set with its annotated objects.

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
            ImageError: if it cannot be decoded or has another size than in the record; it names the file.
        """
        pixels = read_image(self.path)
        self._check_size(*pixels.shape[:2])
        return pixels

    def _check_size(self, height: int, width: int) -> None:
        if (height, width) != (self.height, self.width):
            raise ImageError(
                f"{self.path}: is {width} x {height}, but was {self.width} x {self.height} when its boxes were read; "
                "check the boxes, and do not change photos while they are in use"
            )


@dataclass(frozen=True)
class Defect:
    """A defect in a data set, and what was done about it.

    Args:
        kind: a short name for counting, such as `box-clipped` or `missing-image`.
        file: the file that has it, relative to the root of the data set.
        message: what was found and what was done.
        object_index: the place in the file: VOC's objects and COCO's entries count from 0, lines of text from 1; None:
            the whole file.
        exit_code: exit code of the kind of error that it belongs to; 0: a remark, with no loss of data.
    """

    kind: str
    file: str
    message: str
    object_index: int | None = None
    exit_code: int = AnnotationError.exit_code

    def __post_init__(self) -> None:
        for name in ("file", "message"):  # file names may not be printable
            object.__setattr__(self, name, getattr(self, name).encode(errors="replace").decode())


@dataclass(frozen=True)
class Dataset:
    """One split of a data set, read and checked; pixels are decoded later, by `ImageRecord.pixels`.

    Args:
        root: the folder that was opened; the data set may lie in a subfolder.
        format: the annotation format.
        split: the name of the split in the folder.
        class_names: [C] names; class id i is `class_names[i]`.
        category_ids: [C] the COCO file's category id of each class; 1..C for the other formats.
        records: the images.
        defects: all defects; nothing is dropped silently.
        files: files that were read for the split or that those files name: annotations, lists, photos left out.
    """

    root: Path
    format: str
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
    """One image and its boxes, for writing in one of the formats.

    Args:
        file_name: name of the image file for the annotation.
        height, width: size of the image, in pixels.
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
class Annotations:
    """The annotations of one image, as a reader found them.

    Args:
        image_id: as in `ImageRecord`.
        path, header: path and header of the image.
        file: the file that holds the annotations.
        names: [N] the classes of the objects.
        boxes: [N, 4] xyxy in pixels of the image that was annotated.
        places: [N] the place of each object in the file, as in `Defect`.
        where: gives the name of the object with an index 0..N-1 for messages.
        size: (height, width) of the annotated image; None if the file does not say.
        difficult, crowd: [N] flags; empty: all False.
        areas: [N] areas in the file, NaN for those that it does not give; empty: areas of the boxes.
    """

    image_id: int | str
    path: Path
    header: ImageHeader
    file: Path
    names: Sequence[str]
    boxes: ArrayLike
    places: Sequence[int]
    where: Callable[[int], str]
    size: tuple[float, float] | None = None
    difficult: Sequence[bool] = ()
    crowd: Sequence[bool] = ()
    areas: Sequence[float] = ()


@dataclass
class Findings:
    """The findings of a reader: raises errors, or collects them and goes on.

    Args:
        root: the folder that was opened; defects name files relative to it.
        on_error: with `raise`, broken files raise an error; with `collect`, each becomes a defect, and its file or
            object is left out.
        files: files that were read or named; see `Dataset`.
    """

    root: Path
    on_error: OnError = "raise"
    defects: list[Defect] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)

    def note(
        self, kind: str, file: Path, message: str, index: int | None = None, error: type[DataError] = AnnotationError
    ) -> None:
        """Counts a defect that never stops reading."""
        self._add(kind, file, message, index, error.exit_code)

    def remark(self, kind: str, file: Path, message: str, index: int | None = None) -> None:
        """Adds a remark on something unusual that was handled without loss of data."""
        self._add(kind, file, message, index, 0)

    def _add(self, kind: str, file: Path, message: str, index: int | None, exit_code: int) -> None:
        name = file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else str(file)
        self.defects.append(Defect(kind, name, message, index, exit_code))

    def fault(
        self, kind: str, file: Path, message: str, index: int | None = None, error: type[DataError] = AnnotationError
    ) -> None:
        """Raises `error`, or counts a defect if errors are collected."""
        if self.on_error == "raise":
            raise error(f"{file}: {message}")
        self.note(kind, file, f"{message}: left out", index, error)

    def broken(self, file: Path, error: AnnotationError) -> None:
        """Reports a file that cannot be read at all, from the error that names it."""
        self.fault("broken-annotation", file, str(error).removeprefix(f"{file}: "))

    def locate(self, finder: ImageFinder, name: str, file: Path, where: str, index: int) -> Path | None:
        """The image that an annotation names. None if it is left out with its objects, which is counted."""
        try:
            return finder.find(name)
        except NotFoundError as error:
            if error.kind == "unread-kind" and error.file:
                self.unread(error.file)
            elif error.kind == "missing-image":
                self.note(error.kind, file, f"{where}: {error}: left out, with its objects", index, ImageError)
            else:
                self.fault(error.kind, file, f"{where}: {error}", index)
            return None

    def classes_by_number(self, highest: int, place: Path) -> tuple[str, ...]:
        """Names for classes 0 to `highest` if the data set has none: their numbers, with a remark.

        Raises:
            AnnotationError: if these are too many to be classes.
        """
        if highest >= MOST_CLASSES:
            raise AnnotationError(f"{place}: class {highest} has no name; list the class names in classes.txt")
        if highest >= 0:
            message = f"is missing, and no other file names the classes, so they are called 0 to {highest}"
            remedy = "to name them, write that file with one name per line, in that order"
            self.remark("classes-by-number", place / "classes.txt", f"{message}; {remedy}")
        return tuple(map(str, range(highest + 1)))

    def unread(self, image: Path) -> None:
        """Counts a photo of a kind that is not read."""
        self.note("unread-kind", image, f"{unread(image.suffix)}; left out, with its objects", error=ImageError)

    def headers(self, images: Sequence[Path]) -> dict[Path, ImageHeader]:
        """The sizes of the images from their headers. Broken images are left out if errors are collected.

        Raises:
            ImageError: on the first broken image, unless errors are collected.
        """
        found = {}
        for image in images:
            try:
                found[image] = read_header(image)
            except ImageError as error:
                if self.on_error == "raise":
                    raise
                message = f"{str(error).removeprefix(f'{image}: ')}: left out"
                self.note("broken-image", image, message, error=ImageError)
        return found

    def records(self, annotated: Sequence[Annotations], class_names: Sequence[str]) -> list[ImageRecord]:
        """The records of a split, with class ids and upright boxes that follow the policy of `grcn.data.boxes`.

        Boxes of all images are cleaned together, since doing this image by image takes many times as long.

        Raises:
            AnnotationError: on an object of another class, unless the findings collect them.
        """
        counts = [len(item.names) for item in annotated]
        ends: list[int] = np.cumsum([0, *counts]).tolist()
        owner = np.repeat(np.arange(len(annotated)), counts)
        boxes = np.concatenate([np.zeros((0, 4)), *(np.reshape(item.boxes, (-1, 4)) for item in annotated)])
        ids = {name: class_id for class_id, name in enumerate(class_names)}
        labels = np.array([ids.get(name, -1) for item in annotated for name in item.names], dtype=np.int64)
        for i in np.flatnonzero(labels < 0):
            self._unknown_class(annotated[owner[i]], int(i) - ends[owner[i]], class_names)
        for item, start, end in zip(annotated, ends, ends[1:], strict=False):
            if item.size is not None and item.size != (item.header.height, item.header.width):
                boxes[start:end] = self._align(item, boxes[start:end])

        def flags(name: str, empty: object, dtype: type) -> NDArray[Any]:
            values = (getattr(item, name) or [empty] * len(item.names) for item in annotated)
            return np.array([value for some in values for value in some], dtype=dtype)

        difficult, crowd = flags("difficult", False, bool), flags("crowd", False, bool)
        areas = flags("areas", math.nan, np.float32)
        known = np.flatnonzero(labels >= 0)
        sizes = np.array([(a.header.height, a.header.width) for a in annotated], dtype=np.int64).reshape(-1, 2)[owner]
        same = np.stack([owner, labels, crowd], axis=1)[known]  # a crowd is not a duplicate of an object
        boxes32, kept, problems = clean_boxes(boxes[known], sizes[known, 0], sizes[known, 1], same)
        for problem in problems:
            at = known[problem.index]
            item, i = annotated[owner[at]], int(at) - ends[owner[at]]
            message = f"{item.where(i)} ('{item.names[i]}'): {problem.message}"
            self.note(problem.kind, item.file, message, item.places[i])
        kept = known[kept]
        areas = np.where(np.isfinite(areas[kept]), areas[kept], (boxes32[:, 2:] - boxes32[:, :2]).prod(axis=1))
        first: list[int] = np.searchsorted(owner[kept], np.arange(len(annotated) + 1)).tolist()
        labels, difficult, crowd = labels[kept], difficult[kept], crowd[kept]
        records = []
        for item, start, end in zip(annotated, first, first[1:], strict=False):
            own = slice(start, end)
            target = Target(boxes32[own], labels[own], difficult[own], crowd[own], areas[own])
            records.append(ImageRecord(item.image_id, item.path, item.header.height, item.header.width, target))
        return records

    def _unknown_class(self, item: Annotations, i: int, known: Sequence[str]) -> None:
        message = f"{item.where(i)}: class '{item.names[i]}' is not one of the classes ({listed(known, 10)})"
        self.fault("unknown-class", item.file, message, item.places[i])

    def _align(self, item: Annotations, boxes: Boxes) -> Boxes:
        """Boxes as annotated, [N, 4] xyxy, in the upright image's pixels.

        The size in the header is used. If the (height, width) in the annotation is that of the image as stored, and not
        that of the upright image, the boxes were drawn on the image as stored and are rotated with it.
        """
        assert item.size is not None
        height, width = item.size
        header = item.header
        said = f"{item.path.name}: annotated as {width:g} x {height:g}"
        stored_height, stored_width = header.stored
        if height == stored_height and width == stored_width:
            said += f", its size before EXIF orientation {header.orientation}: boxes are rotated with the image"
            self.note("exif-turned", item.file, said)
            return upright_boxes(boxes, header)
        said += f", but is {header.width} x {header.height}: the image's size is used"
        self.note("size-mismatch", item.file, said)
        return boxes


def numbered(pattern: str, places: Sequence[int]) -> Callable[[int], str]:
    """For `Annotations.where`: a pattern with the object's place in it, such as `line {}`."""
    return lambda i: pattern.format(places[i])


class ImageIds:
    """Ids for images whose format has none: their stems, or their paths if several share a stem.

    Args:
        images: all images of a split.
        folder: the folder that paths are relative to.
    """

    def __init__(self, images: Iterable[Path], folder: Path) -> None:
        self.folder = folder
        every = set(images)
        self._stems = Counter(image.stem for image in every)
        self._paths = Counter(image.with_suffix("") for image in every) if len(self._stems) < len(every) else None

    def of(self, image: Path) -> str:
        """An image's id."""
        if self._paths is None or self._stems[image.stem] == 1:
            return image.stem
        bare = image.with_suffix("")
        return Path(os.path.relpath(bare if self._paths[bare] == 1 else image, self.folder)).as_posix()
