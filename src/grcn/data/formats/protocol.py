"""The interface of an annotation format: how its folders are recognized, opened and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from grcn.data.files import Root
from grcn.data.records import AnnotatedImage, Findings, ImageRecord
from grcn.files import atomic_file


class Opened(NamedTuple):
    """A split as read: [C] class names, the records, and the [C] category ids if the format has its own."""

    class_names: tuple[str, ...]
    records: list[ImageRecord]
    category_ids: tuple[int, ...] | None = None


class Layout(Protocol):
    """A data set that was recognized in a folder. It reads its files once, when they are first needed."""

    @property
    def folder(self) -> Path:
        """The folder in which it was recognized: the root, or one below it."""

    @property
    def splits(self) -> Mapping[str, Any]:
        """The splits by name."""

    def open(self, split: str, class_names: Sequence[str] | None, findings: Findings) -> Opened:
        """Reads one split.

        Args:
            split: the name of a split of this layout.
            class_names: the classes in their order; those of the data set are matched by name. None: the data set's.
            findings: takes the defects.

        Raises:
            AnnotationError, ImageError: on a fault, naming file and object, unless the findings collect errors.
            DataError: if there is nothing to read.
        """


@dataclass(frozen=True)
class Writer:
    """Writes images and their detections as a data set of a format.

    Args:
        images: the folder of the images, relative to the folder of the data set.
        finish: writes the files for the whole data set, when all images are done. It is called with the folder of the
            data set, its images (at least one), [C] class names, and the name of the detector.
        labels: the label file of an image, relative to the folder of the data set, with `{}` for the image's stem;
            None: images have no label files.
        write: writes the label file. It is called with its path, the image and [C] class names.
    """

    images: str
    finish: Callable[[Path, Sequence[AnnotatedImage], Sequence[str], str], None]
    labels: str | None = None
    write: Callable[[Path, AnnotatedImage, Sequence[str]], None] = lambda path, image, names: None


@dataclass(frozen=True)
class Format:
    """One row of the table of formats.

    Args:
        recognize: finds the layout of a folder, which is the root or lies in it; None if there is none of this format.
            It opens as few files as possible, and raises AnnotationError if these are broken.
        is_annotation: whether a file holds annotations of this format, judged by its name and its beginning.
        looked_for: what `recognize` looks for, in words.
        writer: writes the format; None: it is only read.
        aside: whether to look for the format only if no other format is found at any depth. A table of boxes often lies
            beside a data set as a second form of it.
    """

    recognize: Callable[[Root, Path], Layout | None]
    is_annotation: Callable[[Path], bool]
    looked_for: str
    writer: Writer | None = None
    aside: bool = False


def write_list(path: Path, lines: Sequence[str]) -> None:
    """Writes a text file of lines, completely or not at all."""
    with atomic_file(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
