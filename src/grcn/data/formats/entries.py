"""Code that several formats share: their annotation files have an entry for each image, with its objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from grcn.data.files import ImageFinder, NotFoundError, Root, split_by_folder
from grcn.data.image import SUFFIXES, UNREAD_SUFFIXES, ImageHeader
from grcn.data.records import Annotations, Findings, ImageIds

Corners = tuple[float, float, float, float]


class Object(NamedTuple):
    """One object of an image.

    Args:
        label: its class.
        corners: xyxy.
        place, where: its position in the file, as a number and in words.
        area: in square pixels; NaN if it is not given.
    """

    label: str
    corners: Corners
    place: int
    where: str
    difficult: bool = False
    crowd: bool = False
    area: float = float("nan")


@dataclass
class Entry:
    """The content of an annotation file for one image.

    Args:
        name: the name of the image, as given.
        file: the annotation file.
        place, where: the position in that file, as a number and in words.
        size: (height, width) of the image, as given; None if it is not given.
        objects: the objects in the image; None if the image is not annotated.
        fractions: whether corners are fractions of the image's sides instead of pixels.
    """

    name: str
    file: Path
    place: int
    where: str
    size: tuple[float, float] | None = None
    objects: list[Object] | None = field(default_factory=list)
    fractions: bool = False


def read_entries(
    entries: Sequence[Entry],
    find: Callable[[Entry], Path | None],
    folder: Path,
    findings: Findings,
) -> tuple[list[Annotations], set[Path]]:
    """The annotations of each image that can be read, and all images that the entries mention.

    Args:
        find: gives the image of an entry; None if it is left out and counted.
        folder: the folder that image ids are relative to if stems are not unique.

    Raises:
        AnnotationError, ImageError: unless the findings collect them.
    """
    found = [find(entry) for entry in entries]
    images = {image for image in found if image}
    findings.files.update(images)
    entry_of: dict[Path, Entry] = {}
    for entry, image in zip(entries, found, strict=True):
        if image and entry.objects is None:
            message = f"{entry.where} ({image.name}) is not annotated: image left out"
            findings.note("missing-annotation", entry.file, message, entry.place)
        elif image and (first := entry_of.setdefault(image, entry)) is not entry:
            other = first.where if first.file == entry.file else f"{first.where} of {first.file.name}"
            message = f"{entry.where}: {image.name} is also the image of {other}"
            findings.fault("duplicate", entry.file, message, entry.place)
    ids = ImageIds(images, folder)
    headers = findings.headers(list(entry_of))
    return [_annotations(ids.of(image), entry_of[image], image, headers[image]) for image in headers], images


def finding(finder: ImageFinder, findings: Findings) -> Callable[[Entry], Path | None]:
    """Makes a function that finds the image of an entry. The entry's name may lack the suffix, as in Open Images."""
    names = (name for folder in finder.folders for name in finder.root.listing(folder).files)
    suffixes = dict.fromkeys((*sorted({Path(name).suffix for name in names}), ".jpg", ".png", ".jpeg"))
    photos = SUFFIXES | UNREAD_SUFFIXES

    def is_there(name: str) -> bool:
        try:
            finder.find(name)
        except NotFoundError as error:
            return error.kind != "missing-image"
        return True

    def find(entry: Entry) -> Path | None:
        name = entry.name
        if Path(name).suffix.lower() not in photos:
            whole = (name + suffix for suffix in suffixes if suffix.lower() in photos)
            name = next((one for one in whole if is_there(one)), name)
        return findings.locate(finder, name, entry.file, entry.where, entry.place)

    return find


def note_unmentioned(
    root: Root, annotated: Iterable[Annotations], mentioned: set[Path], what: str, findings: Findings
) -> None:
    """Counts images beside the annotated ones that no entry mentions. They do not count as images without objects."""
    for folder in dict.fromkeys(item.path.parent for item in annotated):
        for image in root.images(folder):
            if image not in mentioned:
                findings.note("missing-annotation", image, f"no {what} mentions it: image left out")


def _annotations(image_id: str, entry: Entry, image: Path, header: ImageHeader) -> Annotations:
    objects = entry.objects or []
    boxes = np.array([item.corners for item in objects], dtype=np.float64).reshape(-1, 4)
    if entry.fractions:
        # Fractions of the sides of the image as the annotator saw it. Browsers show it upright, but old ones as stored.
        height, width = header.stored if entry.size == header.stored else (header.height, header.width)
        with np.errstate(invalid="ignore", over="ignore"):
            boxes = boxes * np.array([width, height, width, height], dtype=np.float64)
    return Annotations(
        image_id,
        image,
        header,
        entry.file,
        [item.label for item in objects],
        boxes,
        [item.place for item in objects],
        lambda i: objects[i].where,
        entry.size,
        difficult=[item.difficult for item in objects],
        crowd=[item.crowd for item in objects],
        areas=[item.area for item in objects],
    )


def divided(names: Sequence[str]) -> list[str] | None:
    """The splits of images by the folders in their names; None if these do not name several splits.

    >>> divided(["train/1.jpg", "test/1.jpg"]), divided(["train/1.jpg", "2.jpg"])
    (['train', 'test'], None)
    """
    splits = [split for name in names if (split := split_by_folder(name))]
    return splits if len(splits) == len(names) and len(set(splits)) > 1 else None


def label_names(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The classes that occur, sorted by name."""
    return tuple(sorted({item.label for entry in entries for item in entry.objects or ()}))
