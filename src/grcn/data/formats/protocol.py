"""What a format of annotations is to the rest of the package: how its folders are recognized, opened and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from grcn.data.files import Root
from grcn.data.records import AnnotatedImage, Findings, ImageRecord
from grcn.files import atomic_file


class Opened(NamedTuple):
    """A split as read: [C] class names, records, and where the format has its own the [C] category ids."""

    class_names: tuple[str, ...]
    records: list[ImageRecord]
    category_ids: tuple[int, ...] | None = None


class Layout(Protocol):
    """A data set recognized in a folder; it reads what it needs of that once, when it is first needed."""

    @property
    def folder(self) -> Path:
        """In which it was recognized, the root or one below it."""

    @property
    def splits(self) -> Mapping[str, Any]:
        """Its splits by name."""

    def open(self, split: str, class_names: Sequence[str] | None, findings: Findings) -> Opened:
        """Reads one split.

        Args:
            split: one of the layout's.
            class_names: the classes and their order, to which the data set's are matched by name; None: its own.
            findings: where defects go.

        Raises:
            AnnotationError, ImageError: naming file and object, unless the findings collect them.
            DataError: if there is nothing to read.
        """


@dataclass(frozen=True)
class Writer:
    """How images and what was found in them become a data set of a format.

    Args:
        images: the folder of the images, relative to the data set's.
        finish: writes what is written once, when all images are done: called with the data set's folder, its images
            (at least one), [C] class names, and what to call the detector.
        labels: an image's own file of labels, relative to the data set's folder, `{}` for the image's stem; None: none.
        write: writes that file: called with its path, the image and [C] class names.
    """

    images: str
    finish: Callable[[Path, Sequence[AnnotatedImage], Sequence[str], str], None]
    labels: str | None = None
    write: Callable[[Path, AnnotatedImage, Sequence[str]], None] = lambda path, image, names: None


@dataclass(frozen=True)
class Format:
    """One row of the table of formats.

    Args:
        recognize: finds the layout of a folder in (or at) the root; None where it has none of this format. Opens only
            what it must, and raises AnnotationError where that is broken.
        is_annotation: whether a file is annotations of this format, by its name and its beginning.
        looked_for: what `recognize` looks for, in words.
        writer: None: data sets are not written in it.
        aside: whether it is looked for only where no other format is found, at any depth: a table of boxes often lies
            beside a data set as a second form of it.
    """

    recognize: Callable[[Root, Path], Layout | None]
    is_annotation: Callable[[Path], bool]
    looked_for: str
    writer: Writer | None = None
    aside: bool = False


def write_list(path: Path, lines: Sequence[str]) -> None:
    """Writes a text file of lines, made or replaced whole or not at all."""
    with atomic_file(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
