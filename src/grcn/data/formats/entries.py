"""Annotation files that name images and say what is in each: what their formats share."""

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
        place, where: in the file, as a number and in words.
        area: in pixels; NaN where it is not given.
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
    """What an annotation file says of one image.

    Args:
        name: of the image, as given.
        file: that says it.
        place, where: in the file, as a number and in words.
        size: the image's (height, width), as given; None where it is not.
        objects: what is in it; None where the image is not annotated.
        fractions: whether the objects' corners are in fractions of the image's sides, not in pixels.
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
    """What is annotated in each image that can be read, and all images that the entries speak of.

    Args:
        find: the image of an entry; None where it is left out, and that is counted.
        folder: that ids of images are relative to, where their stems are not enough.

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
            message = f"{entry.where}: {image.name} is the image of {other}, too"
            findings.fault("duplicate", entry.file, message, entry.place)
    ids = ImageIds(images, folder)
    headers = findings.headers(list(entry_of))
    return [_annotations(ids.of(image), entry_of[image], image, headers[image]) for image in headers], images


def finding(finder: ImageFinder, findings: Findings) -> Callable[[Entry], Path | None]:
    """Finds images by their entries' names, which may lack the suffix, as Open Images' ids and CVAT's frames do."""
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
    """Counts images beside those read of which no entry speaks: they are not taken for images without objects."""
    for folder in dict.fromkeys(item.path.parent for item in annotated):
        for image in root.images(folder):
            if image not in mentioned:
                findings.note("missing-annotation", image, f"no {what} speaks of it: image left out")


def _annotations(image_id: str, entry: Entry, image: Path, header: ImageHeader) -> Annotations:
    objects = entry.objects or []
    boxes = np.array([item.corners for item in objects], dtype=np.float64).reshape(-1, 4)
    if entry.fractions:
        # Of the sides of the image as it was annotated, which a browser shows upright, but not an old one.
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
    """The splits of images by the folders in their names; None where these do not name several splits.

    >>> divided(["train/1.jpg", "test/1.jpg"]), divided(["train/1.jpg", "2.jpg"])
    (['train', 'test'], None)
    """
    splits = [split for name in names if (split := split_by_folder(name))]
    return splits if len(splits) == len(names) and len(set(splits)) > 1 else None


def label_names(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The classes that occur, by name."""
    return tuple(sorted({item.label for entry in entries for item in entry.objects or ()}))
