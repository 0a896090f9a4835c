"""CVAT: the XML file of an export "CVAT for images 1.1", unpacked, with its images.

Layouts that are read:

- `annotations.xml` with `images/`, as a task, a job or a project is exported (the XML file may lie in `annotations/`,
  the images beside it). The subsets of a project are the splits, each with its images in `images/SUBSET`; what is in no
  subset, which CVAT calls `default`, is `train`. A task without subsets is one split, `train`, unless all its images
  lie in folders named for several.
- Several XML files in a folder: the splits that they are named for (`train.xml`, `val.xml`).
- Exports in folders named for splits (`train/annotations.xml`).

Classes are the labels of the export, in its order, without those that are drawn as another shape alone and the parts of
skeletons; `classes.txt` goes before them. What of an export is an object:

- a box; one that is turned (about its centre, clockwise) becomes the box around it, and is counted;
- other shapes (polygons, masks, ellipses, skeletons) and tags are passed over and counted; an image that has nothing
  else is one without objects;
- of a box's attributes, `difficult` and `is_crowd`, as CVAT itself takes them to VOC and COCO. `occluded` has no
  counterpart here.

Names may lack the suffix, as those of a video's frames do. Tracks ("CVAT for video 1.1") are an error: CVAT exports
videos for images, too.
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

MAX_XML = 2**28  # bytes; some 150 a box, and more in masks

_FEW = 100  # XML files in a folder; VOC has more, which are not all opened to see that they are VOC's
_NO_SUBSET = ("", "default")
_BOXED = ("any", "rectangle")  # types of labels of which boxes can be drawn
_FLAGS = ("difficult", "is_crowd", "iscrowd")  # attributes that CVAT itself takes to VOC and COCO


@dataclass(frozen=True)
class CvatLayout:
    """A folder with exports of CVAT: the root, the folder in it, and each split's XML file and folders of images.

    Args:
        divided: whether the one XML file says itself which image is in which split.
    """

    root: Root
    folder: Path
    splits: dict[str, tuple[Path, tuple[Path, ...]]]
    divided: bool = False

    def open(self, split: str, class_names: Sequence[str] | None, findings: Findings) -> Opened:
        """Reads one split; records are in the file's order."""
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
            # What is wrong in the files of other splits is told when those are opened.
            export = loaded[path] if path in loaded else _load(path)
            listed |= dict.fromkeys(_labels(export))
            drawn |= {(box.get("label") or "").strip() for box in export.findall("image/box")} - {""}
        return (*listed, *sorted(drawn - listed.keys()))


def recognize(root: Root, folder: Path) -> CvatLayout | None:
    """The layout of a folder, or None if it holds no export. Reads a single export, for the subsets in it."""
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
    """Whether a file is an export of CVAT, by its beginning."""
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
    """The split of each image of an export: its subset, else the folder named for a split that it lies in."""
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
    """What an image of an export says; None where it names none and that is counted."""
    name = image.get("name", "")
    where = f"image {index} ('{name[-60:]}')"
    if not name.strip():
        findings.fault("bad-image-entry", path, f"image {index}: no 'name'", index)
        return None
    objects = []
    for place, shape in enumerate(image):
        at = f"{where}, shape {place}"
        if shape.tag != "box":
            findings.note("other-annotation", path, f"{at}: '{shape.tag[:40]}' is no box: passed over", index)
            continue
        try:
            label, corners, turned = _box(shape)
        except ValueError as error:
            findings.fault("bad-object", path, f"{at}: {error}", index)
            continue
        if turned:
            findings.note("box-turned", path, f"{at} ('{label}'): turned: the box around it is taken", index)
        yes = _flags(shape, f"{at} ('{label}')", index, path, findings)
        objects.append(Object(label, corners, index, at, "difficult" in yes, "is_crowd" in yes))
    return Entry(name, path, index, where, _size(image), objects)


def _box(shape: Element) -> tuple[str, Corners, bool]:
    """Class and corners of a box, and whether it is turned.

    Raises:
        ValueError: saying what is wrong with it.
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
    """Those of _FLAGS that a box says of itself."""
    said = set()
    for attribute in shape.findall("attribute"):
        name, text = attribute.get("name", "").strip().lower(), attribute.text
        if name in _FLAGS:
            try:
                yes = flag(text)
            except ValueError:
                message = f"{where}: attribute '{name}' is '{(text or '').strip()[:40]}': taken as no"
                findings.remark("difficult-open", path, message, index)
                continue
            if yes:
                said.add("is_crowd" if "crowd" in name else name)
    return said


def _size(image: Element) -> tuple[float, float] | None:
    """Height and width as given; None where they are absent or no numbers: the image's header has them."""
    try:
        height, width = _number(image, "height"), _number(image, "width")
    except ValueError:
        return None
    return (height, width) if 0 < height < math.inf and 0 < width < math.inf else None


FORMAT = Format(recognize, is_annotation, looked_for="annotations.xml, CVAT's export for images 1.1, with images/")
