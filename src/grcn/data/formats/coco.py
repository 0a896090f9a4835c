"""COCO JSON: one file per split.

Layouts that are read:

- `annotations/instances_train2017.json` with `train2017/`, `images/train2017/` or `images/`. Other names work in the
  same way: the split is the name of the file without `instances_`. Captions, keypoints and the like are ignored.
- `train/_annotations.coco.json` (or any single annotation file) among the images, in a folder that is named for a
  split.
- `*.json` in the root if its content is COCO's, such as FiftyOne's `labels.json` with `data/`.

All categories of the file are classes, in the order of their ids. Ids may have gaps; `category_ids` keeps them.
Roboflow adds a root category that contains all others and has no objects. It is not a class. Crowd objects are kept
with their box, and marked. `area` is kept if it is given; otherwise it is the area of the box. An id may be text in one
place and a number in another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grcn.data.boxes import from_xywh
from grcn.data.files import IMAGE_FOLDERS, ImageFinder, Root, check_names, image_folders, split_kind
from grcn.data.formats.protocol import Format, Opened, Writer
from grcn.data.records import AnnotatedImage, Annotations, Findings, numbered
from grcn.data.text import Id, as_id, by_id, flag, number, read_json, shown, sniff
from grcn.errors import AnnotationError
from grcn.files import write_json

MAX_JSON = 2**30  # bytes; COCO's own largest file has less than half of that

_OTHER_TASKS = (
    "captions_",
    "person_keypoints_",
    "panoptic_",
    "stuff_",
    "image_info_",
    "bbox_labels_",
)  # the last is from Open Images
_SNIFF = 2**20  # bytes of a JSON file within which one of COCO's keys must occur


@dataclass(frozen=True)
class CocoLayout:
    """A COCO folder: the root, the folder in it, and for each split its JSON file and the folders of its images."""

    root: Root
    folder: Path
    splits: dict[str, tuple[Path, tuple[Path, ...]]]

    def open(self, split: str, class_names: Sequence[str] | None, findings: Findings) -> Opened:
        """Reads one split. Records are in the order of their ids. A class that is not in the file gets a new id."""
        path, folders = self.splits[split]
        content = _load(path)
        findings.files.add(path)
        categories = _categories(content["categories"], path)
        root_id = _root_category(content["categories"])
        check_names(tuple(name for key, name in categories.items() if key != root_id), str(path))
        images, places = _images(content["images"], path, ImageFinder(self.root, folders), findings)
        objects = _objects(content["annotations"], path, images, places, categories, findings)
        if root_id is not None and all(item.category != root_id for item in objects):
            message = f"category {root_id} ('{categories.pop(root_id)}') contains all others and has no objects"
            findings.remark("root-category", path, f"{message}: not a class")
        check_names(tuple(categories.values()), str(path))
        names = tuple(class_names) if class_names is not None else tuple(categories.values())
        ids_by_name = {name: category_id for category_id, name in categories.items()}
        unused = iter(range(max(categories, default=0) + 1, max(categories, default=0) + 1 + len(names)))
        category_ids = tuple(ids_by_name[name] if name in ids_by_name else next(unused) for name in names)

        records = findings.records(_annotations(path, images, objects, categories, findings), names)
        # By id, as in pycocotools. If scores are equal across images, the order affects the AP.
        records.sort(key=lambda record: (isinstance(record.image_id, str), record.image_id))
        return Opened(names, records, category_ids)


def recognize(root: Root, folder: Path) -> CocoLayout | None:
    """The COCO layout of a folder, or None if it has none. Opens only the beginnings of JSON files."""
    apart = root.folder(folder, "annotations")
    files = [path for path in root.files(apart, ".json") if not path.name.startswith(_OTHER_TASKS)] if apart else []
    instances = [path for path in files if path.name.startswith("instances_")]
    files = instances or files or [path for path in root.files(folder, ".json") if is_annotation(path)]
    splits = {}
    for path in files:
        name = path.stem.removeprefix("instances_")
        splits[name] = (path, image_folders(root, folder, name))
    if not splits:
        for inner in root.subfolders(folder):
            if split_kind(inner.name):
                inside = [path for path in root.files(root.guarded(inner), ".json") if is_annotation(path)]
                if len(inside) > 1:
                    names = ", ".join(path.name for path in inside)
                    raise AnnotationError(f"{inner}: several annotation files ({names}); keep one")
                if inside:
                    images = root.folder(inner, *IMAGE_FOLDERS)
                    splits[inner.name] = (inside[0], (images, inner, folder) if images else (inner, folder))
    return CocoLayout(root, folder, splits) if splits else None


def is_annotation(path: Path) -> bool:
    """Whether a file holds annotations of this format, judged by its name or its beginning."""
    if path.suffix.lower() != ".json" or path.name.startswith(_OTHER_TASKS):
        return False
    if path.name.endswith("_annotations.coco.json"):
        return True
    start = sniff(path, _SNIFF)
    return start[:1] == "{" and ('"images"' in start or '"annotations"' in start)


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path, dict, "an object with images and annotations", MAX_JSON)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise AnnotationError(f"{path}: no list '{key}', which COCO's format requires")
    return content


def _categories(entries: list[Any], path: Path) -> dict[int, str]:
    """Names by category id, in the order of the ids."""
    categories: dict[int, str] = {}
    for index, entry in enumerate(entries):
        category_id = _number_of(entry)
        if category_id is None or not isinstance(entry.get("name"), str):
            raise AnnotationError(f"{path}: categories[{index}]: needs an integer 'id' and a text 'name'")
        if category_id in categories:
            raise AnnotationError(f"{path}: categories[{index}]: id {category_id} is given twice")
        categories[category_id] = entry["name"].strip()
    return dict(sorted(categories.items()))


def _number_of(entry: Any) -> int | None:
    """The id of a category as a number; in the file it may be text."""
    category_id = as_id(entry.get("id")) if isinstance(entry, dict) else None
    if isinstance(category_id, str) and category_id.isascii() and category_id.isdecimal() and len(category_id) < 20:
        return int(category_id)
    return category_id if isinstance(category_id, int) else None


def _root_category(entries: list[Any]) -> int | None:
    """The id of the single category that contains all others, which Roboflow adds; None if there is none."""
    above = {str(entry.get("supercategory")) for entry in entries if entry.get("supercategory") != "none"}
    root = [entry for entry in entries if entry.get("supercategory") == "none" and above == {entry["name"]}]
    return _number_of(root[0]) if len(root) == 1 else None


@dataclass(frozen=True)
class _Image:
    """An image entry. The path is None if the image is left out with its objects."""

    image_id: int | str
    path: Path | None
    size: tuple[float, float] | None


def _images(
    entries: list[Any], path: Path, finder: ImageFinder, findings: Findings
) -> tuple[list[_Image], dict[Id, int]]:
    """The images, each file once, and the index of each id among them."""
    images: list[_Image] = []
    places: dict[int | str, int] = {}
    place_of: dict[Path, int] = {}
    for index, entry in enumerate(entries):
        where = f"images[{index}]"
        image_id = as_id(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if image_id is None or not isinstance(name, str) or not name:
            findings.fault("bad-image-entry", path, f"{where}: needs an 'id' and a text 'file_name'", index)
            continue
        if image_id in places:
            findings.fault("duplicate", path, f"{where} ('{name}'): id {image_id} is given twice", index)
            continue
        file = findings.locate(finder, name, path, where, index)
        if file in place_of:
            first = images[place_of[file]].image_id
            message = f"{where} ('{name}'): is also the file of id {first}: its objects are added to that image"
            findings.note("duplicate", path, message, index)
            places[image_id] = place_of[file]
            continue
        places[image_id] = len(images)
        if file:
            place_of[file] = len(images)
        images.append(_Image(image_id, file, _size(entry)))
    return images, by_id(places.items())


def _size(entry: dict[str, Any]) -> tuple[float, float] | None:
    try:
        height, width = number(entry.get("height")), number(entry.get("width"))
    except ValueError:
        return None
    return (height, width) if 0 < height < math.inf and 0 < width < math.inf else None


class _Fault(Exception):  # noqa: N818 - becomes an AnnotationError or a defect
    """A problem with one object, and the kind of defect that it is."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class _Object:
    """One entry of `annotations`: its index, the index of its image, and its content."""

    index: int
    image: int
    category: int
    bbox: tuple[float, ...]
    crowd: bool
    area: float  # NaN if the file gives none


def _objects(
    entries: list[Any],
    path: Path,
    images: list[_Image],
    places: dict[Id, int],
    categories: dict[int, str],
    findings: Findings,
) -> list[_Object]:
    seen: set[int | str] = set()
    known = by_id((category_id, category_id) for category_id in categories)
    objects = []
    for index, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise _Fault("bad-object", "not an object of keys and values")
            objects.append(_object(index, entry, places, seen, known))
        except _Fault as fault:
            findings.fault(fault.kind, path, f"annotations[{index}]: {fault}", index)
    # An image that is left out has been counted; its objects are left out with it.
    return [item for item in objects if images[item.image].path]


def _object(
    index: int, entry: dict[str, Any], places: dict[Id, int], seen: set[int | str], known: dict[Id, int]
) -> _Object:
    object_id = as_id(entry.get("id"))
    if object_id is not None:
        if object_id in seen:
            raise _Fault("duplicate", f"id {object_id} is given twice")
        seen.add(object_id)
    image_id, category_id = as_id(entry.get("image_id")), as_id(entry.get("category_id"))
    if image_id is None or image_id not in places:
        raise _Fault("unknown-image", f"image_id {shown(entry.get('image_id'))} is not among the images")
    if category_id is None or category_id not in known:
        raise _Fault("unknown-class", f"category_id {shown(entry.get('category_id'))} is not among the categories")
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise _Fault("bad-object", f"'bbox' is {shown(bbox)}, not a list of x, y, width, height")
    numbers = tuple(_number(value, "bbox") for value in bbox)
    area = math.nan if entry.get("area") is None else _number(entry["area"], "area")
    try:
        crowd = bool(flag(entry.get("iscrowd")))
    except ValueError:
        raise _Fault("bad-object", f"'iscrowd' holds {shown(entry['iscrowd'])}, not a number") from None
    return _Object(index, places[image_id], known[category_id], numbers, crowd, area)


def _number(value: Any, key: str) -> float:
    try:
        return number(value)
    except ValueError:
        raise _Fault("bad-object", f"'{key}' holds {shown(value)}, not a number") from None


def _annotations(
    path: Path, images: list[_Image], objects: list[_Object], categories: dict[int, str], findings: Findings
) -> list[Annotations]:
    """The annotations of each image that can be read."""
    headers = findings.headers([image.path for image in images if image.path])
    objects.sort(key=lambda item: item.image)
    boxes = from_xywh(np.array([item.bbox for item in objects], dtype=np.float64))
    first = np.searchsorted([item.image for item in objects], np.arange(len(images) + 1)).tolist()
    annotated = []
    for image, start, end in zip(images, first, first[1:], strict=False):
        if image.path in headers:
            own = objects[start:end]
            annotated.append(
                Annotations(
                    image.image_id,
                    image.path,
                    headers[image.path],
                    path,
                    [categories[item.category] for item in own],
                    boxes[start:end],
                    places := [item.index for item in own],
                    numbered("annotations[{}]", places),
                    image.size,
                    crowd=[item.crowd for item in own],
                    areas=[item.area for item in own],
                )
            )
    return annotated


def write_coco(
    path: str | Path,
    images: Iterable[AnnotatedImage],
    class_names: Sequence[str],
    category_ids: Sequence[int] | None = None,
) -> None:
    """Writes the COCO JSON file of a split, which `open_dataset` and other tools can read.

    Args:
        path: the file; it is written completely or not at all.
        images: the images and their boxes; they get the ids 1, 2, 3 ... A score is stored with its annotation.
        class_names: [C] names.
        category_ids: [C] ids. Default: 1..C.
    """
    ids = category_ids or range(1, len(class_names) + 1)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, 1):
        entries.append(
            {"id": image_id, "file_name": image.file_name, "height": image.height, "width": image.width},
        )
        boxes = np.asarray(image.boxes, dtype=np.float64).reshape(-1, 4)
        for i, ((x1, y1, x2, y2), class_id) in enumerate(zip(boxes.tolist(), image.class_ids, strict=True)):
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": ids[class_id],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            if image.scores is not None:
                annotation["score"] = float(image.scores[i])
            annotations.append(annotation)
    categories = [{"id": category_id, "name": name} for category_id, name in zip(ids, class_names, strict=True)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    write_json(path, content)


def _finish(folder: Path, images: Sequence[AnnotatedImage], class_names: Sequence[str], detector: str) -> None:
    write_coco(folder / "annotations" / "train.json", images, class_names)


FORMAT = Format(
    recognize,
    is_annotation,
    looked_for="annotations/*.json, or SPLIT/_annotations.coco.json",
    writer=Writer("images", _finish),
)
