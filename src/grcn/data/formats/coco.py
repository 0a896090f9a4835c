"""COCO JSON: one file a split.

Layouts that are read:

- `annotations/instances_train2017.json` with `train2017/`, `images/train2017/` or `images/`; any other name likewise:
  the split is the file's name without `instances_`. Captions, keypoints and the like are passed over.
- `train/_annotations.coco.json` (or any one annotation file) among the images of a folder named for a split.
- `*.json` in the root, where its content is COCO's.

Classes are the file's categories, all of them, by rising id (ids may be sparse); `category_ids` keeps the ids. Crowd
objects are kept, with their box, and marked. `area` is kept where it is given, else the box's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grcn.data.boxes import clean_boxes, from_xywh
from grcn.data.files import Root, check_names, number, read_bytes, read_start, shown, split_kind, subfolders
from grcn.data.image import ImageHeader
from grcn.data.records import AnnotatedImage, Findings, ImageRecord
from grcn.errors import AnnotationError, ImageError
from grcn.files import write_json
from grcn.types import Target

LOOKED_FOR = "annotations/*.json, or SPLIT/_annotations.coco.json"

MAX_JSON = 2**30  # bytes; COCO's own largest file is under half of it

_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
_SNIFF = 2**20  # bytes of a JSON file in which a key of COCO's must show


@dataclass(frozen=True)
class CocoLayout:
    """A COCO folder: its root, and each split's JSON file and the folders in which its images may lie."""

    root: Root
    splits: dict[str, tuple[Path, tuple[Path, ...]]]


def find_coco(root: Root) -> CocoLayout | None:
    """The COCO layout of a folder, or None if it has none. Opens only the beginnings of JSON files."""
    top = root.path
    folder = root.folder(top, "annotations")
    files = [path for path in root.files(folder, ".json") if not path.name.startswith(_OTHER_TASKS)] if folder else []
    instances = [path for path in files if path.name.startswith("instances_")]
    files = instances or files or [path for path in root.files(top, ".json") if is_annotation(path)]
    splits = {}
    for path in files:
        name = path.stem.removeprefix("instances_")
        splits[name] = (path, _image_folders(root, name))
    if not splits:
        for inner in subfolders(top):
            if split_kind(inner.name):
                inside = [path for path in root.files(root.guarded(inner), ".json") if is_annotation(path)]
                if len(inside) > 1:
                    names = ", ".join(path.name for path in inside)
                    raise AnnotationError(f"{inner}: several annotation files ({names}); keep one")
                if inside:
                    images = root.folder(inner, "images")
                    splits[inner.name] = (inside[0], (images, inner, top) if images else (inner, top))
    return CocoLayout(root, splits) if splits else None


def is_annotation(path: Path) -> bool:
    """Whether a file is annotations of this format, by its name or its beginning."""
    if path.suffix.lower() != ".json" or path.name.startswith(_OTHER_TASKS):
        return False
    if path.name.endswith("_annotations.coco.json"):
        return True
    start = read_start(path, _SNIFF)
    return start.lstrip()[:1] == b"{" and (b'"images"' in start or b'"annotations"' in start)


def _image_folders(root: Root, split: str) -> tuple[Path, ...]:
    top = root.path
    images = root.folder(top, "images", "jpegimages", "imgs")
    outer = [folder for folder in (top, images) if folder]
    inner = [found for folder in outer if (found := root.folder(folder, split.lower()))]
    kind = split_kind(split)
    for folder in outer if kind and not inner else []:
        inner += [root.guarded(found) for found in subfolders(folder) if split_kind(found.name) == kind]
    return tuple(dict.fromkeys(inner + ([images] if images else []) + [top]))


def read_coco(
    layout: CocoLayout, split: str, class_names: Sequence[str] | None, findings: Findings
) -> tuple[tuple[str, ...], tuple[int, ...], list[ImageRecord]]:
    """Reads one split.

    Args:
        layout: of the folder.
        split: one of the layout's.
        class_names: the classes and their order, to which categories are matched by name; None: the file's own.
        findings: where defects go.

    Returns:
        The class names, their category ids, and the records in the file's order. A class that the file lacks gets an
        id beyond the file's.

    Raises:
        AnnotationError, ImageError: naming file and object, unless the findings collect them.
    """
    path, folders = layout.splits[split]
    content = _load(path)
    categories = _categories(content, path)
    names = tuple(class_names) if class_names is not None else tuple(categories.values())
    ids_by_name = {name: category_id for category_id, name in categories.items()}
    unused = iter(range(max(categories, default=0) + 1, max(categories, default=0) + 1 + len(names)))
    category_ids = tuple(ids_by_name[name] if name in ids_by_name else next(unused) for name in names)

    findings.files.add(path)
    images, places = _images(content, path, layout.root, folders, findings)
    objects = _objects(content, path, images, places, categories, findings)
    return names, category_ids, _records(path, images, objects, names, findings)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(path, MAX_JSON))
    # ValueError: broken JSON, text that is not Unicode, or integers of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise AnnotationError(
            f"{path}: a JSON {type(content).__name__}, expected an object with images and annotations"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise AnnotationError(f"{path}: no list '{key}', which COCO's format needs")
    return content


def _identity(value: Any) -> int | str | None:
    """An id as COCO files have them, integers or text; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _categories(content: dict[str, Any], path: Path) -> dict[int, str]:
    """Names by category id, in the order of the ids."""
    categories: dict[int, str] = {}
    for index, entry in enumerate(content["categories"]):
        category_id = _identity(entry.get("id")) if isinstance(entry, dict) else None
        if not isinstance(category_id, int) or not isinstance(entry.get("name"), str):
            raise AnnotationError(f"{path}: categories[{index}]: needs an integer 'id' and a text 'name'")
        if category_id in categories:
            raise AnnotationError(f"{path}: categories[{index}]: id {category_id} is given twice")
        categories[category_id] = entry["name"].strip()
    check_names(tuple(categories.values()), str(path))
    return dict(sorted(categories.items()))


@dataclass(frozen=True)
class _Image:
    """An image entry. Path and header are None where the image is left out, with its objects."""

    image_id: int | str
    path: Path | None = None
    header: ImageHeader | None = None
    declared: tuple[float, float] | None = None


def _images(
    content: dict[str, Any], path: Path, root: Root, folders: tuple[Path, ...], findings: Findings
) -> tuple[list[_Image], dict[int | str, int]]:
    """The images, each file once, and the place of each id among them."""
    images: list[_Image] = []
    places: dict[int | str, int] = {}
    place_of: dict[Path, int] = {}
    for index, entry in enumerate(content["images"]):
        where = f"images[{index}]"
        image_id = _identity(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if image_id is None or not isinstance(name, str):
            findings.fault("bad-image-entry", path, f"{where}: needs an 'id' and a text 'file_name'", index)
            continue
        if image_id in places:
            findings.fault("duplicate", path, f"{where} ('{name}'): id {image_id} is given twice", index)
            continue
        file = _locate(name, root, folders, path, where, index, findings)
        if file in place_of:
            first = images[place_of[file]].image_id
            message = f"{where} ('{name}'): the file of id {first}, too: its objects are taken as that one's"
            findings.note("duplicate", path, message, index)
            places[image_id] = place_of[file]
            continue
        places[image_id] = len(images)
        if file:
            place_of[file] = len(images)
        images.append(_Image(image_id, file, findings.header(file) if file else None, _size(entry)))
    return images, places


def _locate(
    name: str, root: Root, folders: tuple[Path, ...], path: Path, where: str, index: int, findings: Findings
) -> Path | None:
    escapes = False
    for folder in folders:
        file = root.join(folder, name)
        if file and os.path.isfile(file):
            return file
        escapes = escapes or file is None
    if escapes:
        findings.fault("path-escape", path, f"{where}: file_name {shown(name)} leads outside {root.path}", index)
    else:
        looked = ", ".join(os.path.relpath(folder, root.path) for folder in folders)
        message = f"{where}: no image {shown(name)} in {looked}: left out, with its objects"
        findings.note("missing-image", path, message, index, ImageError)
    return None


def _size(entry: dict[str, Any]) -> tuple[float, float] | None:
    try:
        height, width = number(entry.get("height")), number(entry.get("width"))
    except ValueError:
        return None
    return (height, width) if 0 < height < math.inf and 0 < width < math.inf else None


class _Fault(Exception):  # noqa: N818 - becomes an AnnotationError or a defect
    """What is wrong with one object, and its kind of defect."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class _Object:
    """One entry of `annotations`: its place there, its image's place in the images, and what it says."""

    index: int
    image: int
    category: str
    bbox: tuple[float, ...]
    crowd: bool
    area: float  # NaN where the file gives none


def _objects(
    content: dict[str, Any],
    path: Path,
    images: list[_Image],
    places: dict[int | str, int],
    categories: dict[int, str],
    findings: Findings,
) -> list[_Object]:
    seen: set[int | str] = set()
    objects = []
    for index, entry in enumerate(content["annotations"]):
        try:
            if not isinstance(entry, dict):
                raise _Fault("bad-object", "not an object of keys and values")
            objects.append(_object(index, entry, places, seen, categories))
        except _Fault as fault:
            findings.fault(fault.kind, path, f"annotations[{index}]: {fault}", index)
    # The objects of an image that is left out go with it; that has been counted.
    return [item for item in objects if images[item.image].header]


def _object(
    index: int,
    entry: dict[str, Any],
    places: dict[int | str, int],
    seen: set[int | str],
    categories: dict[int, str],
) -> _Object:
    object_id = _identity(entry.get("id"))
    if object_id is not None:
        if object_id in seen:
            raise _Fault("duplicate", f"id {object_id} is given twice")
        seen.add(object_id)
    image_id = _identity(entry.get("image_id"))
    if image_id is None or image_id not in places:
        raise _Fault("unknown-image", f"image_id {shown(entry.get('image_id'))} is not among the images")
    category_id = _identity(entry.get("category_id"))
    if not isinstance(category_id, int) or category_id not in categories:
        raise _Fault("unknown-class", f"category_id {shown(entry.get('category_id'))} is not among the categories")
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise _Fault("bad-object", f"'bbox' is {shown(bbox)}, not a list of x, y, width, height")
    numbers = tuple(_number(value, "bbox") for value in bbox)
    crowd = _number(entry.get("iscrowd") or 0, "iscrowd") != 0
    area = math.nan if entry.get("area") is None else _number(entry["area"], "area")
    return _Object(index, places[image_id], categories[category_id], numbers, crowd, area)


def _number(value: Any, key: str) -> float:
    try:
        return number(value)
    except ValueError:
        raise _Fault("bad-object", f"'{key}' holds {shown(value)}, not a number") from None


def _records(
    path: Path, images: list[_Image], objects: list[_Object], names: tuple[str, ...], findings: Findings
) -> list[ImageRecord]:
    """Boxes of the whole file are cleaned at once: image by image takes many times as long."""
    ids = {name: class_id for class_id, name in enumerate(names)}
    for item in objects:
        if item.category not in ids:
            findings.unknown_class(path, f"annotations[{item.index}]", item.category, names, item.index)
    objects = sorted((item for item in objects if item.category in ids), key=lambda item: item.image)
    boxes = from_xywh(np.array([item.bbox for item in objects], dtype=np.float64))  # [N, 4]
    image_of = np.array([item.image for item in objects], dtype=np.int64)  # [N], rising
    first = np.searchsorted(image_of, np.arange(len(images) + 1))  # of each image's objects
    for place, image in enumerate(images):
        if image.path and image.header:
            own = slice(first[place], first[place + 1])
            boxes[own] = findings.align(path, image.path, image.header, image.declared, boxes[own])
    sizes = np.array([(im.header.height, im.header.width) if im.header else (0, 0) for im in images], dtype=np.int64)
    sizes = sizes.reshape(-1, 2)[image_of]
    labels = np.array([ids[item.category] for item in objects], dtype=np.int64)
    crowd = np.array([item.crowd for item in objects], dtype=bool)
    same = np.stack([image_of, labels, crowd], axis=1)  # a crowd is no second box of one of its own
    boxes32, kept, problems = clean_boxes(boxes, sizes[:, 0], sizes[:, 1], same)
    for problem in problems:
        item = objects[problem.index]
        message = f"annotations[{item.index}] ('{item.category}'): {problem.message}"
        findings.note(problem.kind, path, message, item.index)

    labels, crowd = labels[kept], crowd[kept]
    areas = np.array([objects[i].area for i in kept], dtype=np.float32)
    box_areas = (boxes32[:, 2:] - boxes32[:, :2]).prod(axis=1)
    areas = np.where(np.isfinite(areas), areas, box_areas)
    first = np.searchsorted(image_of[kept], np.arange(len(images) + 1))
    records = []
    for place, image in enumerate(images):
        if image.path and image.header:
            own = slice(first[place], first[place + 1])
            target = Target(boxes32[own], labels[own], crowd=crowd[own], areas=areas[own])
            records.append(ImageRecord(image.image_id, image.path, image.header.height, image.header.width, target))
    # By id, as pycocotools goes through images: where scores are equal across images, the order shows in the AP.
    return sorted(records, key=lambda record: (isinstance(record.image_id, str), record.image_id))


def write_coco(
    path: str | Path,
    images: Iterable[AnnotatedImage],
    class_names: Sequence[str],
    category_ids: Sequence[int] | None = None,
) -> None:
    """Writes the COCO JSON file of a split, to be read again by `open_dataset` and by other tools.

    Args:
        path: of the file, made or replaced whole or not at all.
        images: the images and their boxes; they get the ids 1, 2, 3 ... Scores stand with their annotation.
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
