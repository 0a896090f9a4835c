"""CVAT: an unpacked export "CVAT for images 1.1", which is an XML file with its images.

Layouts that are read:

- `annotations.xml` with `images/`, the export of a task, a job or a project (the XML file may be in `annotations/`,
  with the images beside that folder). The subsets of a project are the splits, each with its images in
  `images/SUBSET`. Images in no subset, which CVAT calls `default`, belong to `train`. A task without subsets is one
  split, `train`, unless all its images are in folders that are named for several splits.
- Several XML files in a folder, which are named for their splits (`train.xml`, `val.xml`).
- Exports in folders that are named for splits (`train/annotations.xml`).

Classes are the labels of the export, in its order, without parts of skeletons and labels that only other shapes can
have. `classes.txt` takes precedence. An export is read in this way:

- A box is an object. A rotated box (about its centre, clockwise) becomes the upright box around it, and is counted.
- Other shapes (polygons, masks, ellipses, skeletons) and tags are skipped and counted. An image that has nothing else
  is an image without objects.
- Of the attributes of a box, `difficult` and `is_crowd` are used, as in CVAT's own exports to VOC and COCO. `occluded`
  has no counterpart here.

Names of images may lack the suffix, as the frames of a video do. Tracks ("CVAT for video 1.1") are an error, because
CVAT can also export a video for images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from grcn.data.files import ImageFinder, Root, image_folders, read_class_list, split_kind
from grcn.data.formats.entries import (
    Corners,
    Entry,
    Object,
    divided,
    finding,
    note_unmentioned,
    read_entries,
)
from grcn.data.formats.protocol import Format, Opened
from grcn.data.records import Findings
from grcn.data.text import flag, number, read_xml, sniff
from grcn.errors import AnnotationError

MAX_XML = 2**28  # bytes; a box takes about 150, a mask more

_FEW = 100  # a folder with more XML files is VOC, and they are not all opened to see that
_NO_SUBSET = ("", "default")
_BOXED = ("any", "rectangle")  # types of labels that a box can have
_FLAGS = ("difficult", "is_crowd", "iscrowd")  # attributes that CVAT itself exports to VOC and COCO


@dataclass(frozen=True)
class CvatLayout:
    """A folder with exports of CVAT: the root, the folder in it, and each split's XML file and folders of images.

    Args:
        divided: whether there is a single XML file, which says which image is in which split.
    """

    root: Root
    folder: Path
    splits: dict[str, tuple[Path, tuple[Path, ...]]]
    divided: bool = False

    def open(self, split: str, class_names: Sequence[str] | None, findings: Findings) -> Opened:
        """Reads one split. Records are in the order of the file."""
        path, folders = self.splits[split]
        findings.files.add(path)
        export = _load(path)
        images = export.findall("image")
        splits = _splits(images) if self.divided else [split] * len(images)
        own = [_entry(i, images[i], path, findings) for i in range(len(images)) if splits[i] == split]
        entries = [entry for entry in own if entry]
        names = tuple(class_names) if class_names is not None else self._names({path: export})
        finder = finding(ImageFinder(self.root, folders), findings)
        annotated, mentioned = read_entries(entries, finder, self.folder, findings)
        if len(self.splits) == 1:
            note_unmentioned(self.root, annotated, mentioned, "image entry", findings)
        return Opened(names, findings.records(annotated, names))

    def _names(self, loaded: Mapping[Path, Element]) -> tuple[str, ...]:
        """The classes, the same for every split."""
        own = read_class_list(self.root, self.root.upwards(self.folder))
        if own is not None:
            return own
        listed: dict[str, None] = {}
        drawn: set[str] = set()
        for path in dict.fromkeys(path for path, _ in self.splits.values()):
            # Faults in the files of other splits are reported when those are opened.
            export = loaded[path] if path in loaded else _load(path)
            listed |= dict.fromkeys(_labels(export))
            drawn |= {(box.get("label") or "").strip() for box in export.findall("image/box")} - {""}
        return (*listed, *sorted(drawn - listed.keys()))


def recognize(root: Root, folder: Path) -> CvatLayout | None:
    """The layout of a folder, or None if it holds no export. A single export is read to find its subsets."""
    apart = root.folder(folder, "annotations")
    files = _exports(root, folder) or (_exports(root, apart) if apart else [])
    if len(files) == 1 and split_kind(files[0].stem) is None:
        images = _load(files[0]).findall("image")
        subsets: dict[str, set[str]] = {}
        for image, split in zip(images, _splits(images), strict=True):
            subsets.setdefault(split, set()).add(image.get("subset") or split)
        places = {
            split: tuple(dict.fromkeys(place for one in sorted(own) for place in image_folders(root, folder, one)))
            for split, own in (subsets or {"train": {"train"}}).items()
        }
        return CvatLayout(root, folder, {split: (files[0], found) for split, found in places.items()}, True)
    splits = {path.stem: (path, image_folders(root, folder, path.stem)) for path in files}
    for inner in [] if files else root.subfolders(folder):
        if split_kind(inner.name) and (within := _exports(root, root.guarded(inner))):
            if len(within) > 1:
                names = ", ".join(path.name for path in within)
                raise AnnotationError(f"{inner}: several exports of CVAT ({names}); keep one")
            near = (*image_folders(root, inner, inner.name), *image_folders(root, folder, inner.name))
            splits[inner.name] = (within[0], near)
    return CvatLayout(root, folder, splits) if splits else None


def is_annotation(path: Path) -> bool:
    """Whether a file is an export of CVAT, judged by its beginning."""
    return path.suffix.lower() == ".xml" and "<annotations" in sniff(path, 4096)


def _exports(root: Root, folder: Path) -> list[Path]:
    files = root.files(folder, ".xml")
    return [path for path in files if is_annotation(path)] if len(files) <= _FEW else []


def _load(path: Path) -> Element:
    export = read_xml(path, "annotations", MAX_XML)
    if export.find("track") is not None:
        raise AnnotationError(f"{path}: holds the tracks of a video; export it from CVAT as 'CVAT for images 1.1'")
    return export


def _splits(images: Sequence[Element]) -> list[str]:
    """The split of each image of an export: its subset, or without subsets the folder in its name."""
    subsets = [image.get("subset", "").strip() for image in images]
    if all(subset in _NO_SUBSET for subset in subsets):
        return divided([image.get("name", "") for image in images]) or ["train"] * len(images)
    train = next((subset for subset in subsets if split_kind(subset) == "train"), "train")
    return [train if subset in _NO_SUBSET else subset for subset in subsets]


def _labels(export: Element) -> list[str]:
    """The labels that boxes can have."""
    return [
        name
        for label in export.iterfind("meta//labels/label")
        if (name := (label.findtext("name") or "").strip())
        and label.find("parent") is None
        and (label.findtext("type") or "any").strip() in _BOXED
    ]


def _entry(index: int, image: Element, path: Path, findings: Findings) -> Entry | None:
    """The entry of an image of an export; None if it has no name, which is counted."""
    name = image.get("name", "")
    where = f"image {index} ('{name[-60:]}')"
    if not name.strip():
        findings.fault("bad-image-entry", path, f"image {index}: no 'name'", index)
        return None
    objects = []
    for place, shape in enumerate(image):
        at = f"{where}, shape {place}"
        if shape.tag != "box":
            findings.note("other-annotation", path, f"{at}: '{shape.tag[:40]}' is not a box: skipped", index)
            continue
        try:
            label, corners, turned = _box(shape)
        except ValueError as error:
            findings.fault("bad-object", path, f"{at}: {error}", index)
            continue
        if turned:
            findings.note("box-turned", path, f"{at} ('{label}'): rotated: the upright box around it is used", index)
        yes = _flags(shape, f"{at} ('{label}')", index, path, findings)
        objects.append(Object(label, corners, index, at, "difficult" in yes, "is_crowd" in yes))
    return Entry(name, path, index, where, _size(image), objects)


def _box(shape: Element) -> tuple[str, Corners, bool]:
    """Class and corners of a box, and whether it is rotated.

    Raises:
        ValueError: if the box is wrong; the message says how.
    """
    label = (shape.get("label") or "").strip()
    if not label:
        raise ValueError("no 'label'")
    x1, y1, x2, y2 = (_number(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
    angle = math.radians(_number(shape, "rotation") % 180 if shape.get("rotation") else 0)
    x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    if not angle or not (w > 0 and h > 0):
        return label, (x1, y1, x2, y2), False
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    half_w, half_h = (w * cos + h * sin) / 2, (w * sin + h * cos) / 2
    return label, (x - half_w, y - half_h, x + half_w, y + half_h), True


def _number(shape: Element, key: str) -> float:
    text = shape.get(key)
    if text is None:
        raise ValueError(f"no '{key}'")
    try:
        return number(text)
    except ValueError:
        raise ValueError(f"'{key}' is '{text.strip()[:40]}', not a number") from None


def _flags(shape: Element, where: str, index: int, path: Path, findings: Findings) -> set[str]:
    """The names of _FLAGS that are set for a box."""
    said = set()
    for attribute in shape.findall("attribute"):
        name, text = attribute.get("name", "").strip().lower(), attribute.text
        if name in _FLAGS:
            try:
                yes = flag(text)
            except ValueError:
                message = f"{where}: attribute '{name}' is '{(text or '').strip()[:40]}': counts as no"
                findings.remark("difficult-open", path, message, index)
                continue
            if yes:
                said.add("is_crowd" if "crowd" in name else name)
    return said


def _size(image: Element) -> tuple[float, float] | None:
    """Height and width as given; None if they are missing or not numbers, as the image's header has them anyway."""
    try:
        height, width = _number(image, "height"), _number(image, "width")
    except ValueError:
        return None
    return (height, width) if 0 < height < math.inf and 0 < width < math.inf else None


FORMAT = Format(recognize, is_annotation, looked_for="annotations.xml, CVAT's export for images 1.1, with images/")
