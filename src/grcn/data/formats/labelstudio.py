"""Label Studio: writes tasks with detections to correct there, and reads its JSON export to train on.

`write_labelstudio` writes a list of tasks for import into Label Studio. Each task has the address of an image and one
prediction. An export that is read must be `JSON`, not `JSON-MIN`, with the images in `images` or beside it. A single
export is the split `train`, unless its name is that of another split. Several exports are named for their splits.

Both have boxes in percent of the image's sides. An image is found by the end of its address, because Label Studio adds
to the names of files that it serves or stores. Classes come from `classes.txt`; otherwise they are sorted by name over
all exports.

An export is read in this way:

- If a task has several annotations, the one that is marked as ground truth counts, otherwise the one that was updated
  last. Cancelled ones do not count.
- A task without annotation is left out and counted. It does not count as an image without objects.
- A rotated rectangle becomes the upright box around it, and is counted. Other shapes and choices are skipped and
  counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np

from grcn.data.files import IMAGE_FOLDERS, ImageFinder, NotFoundError, Root, read_class_list, split_kind
from grcn.data.formats.entries import (
    Corners,
    Entry,
    Object,
    finding,
    label_names,
    note_unmentioned,
    read_entries,
)
from grcn.data.formats.protocol import Format, Opened, Writer, write_list
from grcn.data.records import AnnotatedImage, Findings
from grcn.data.text import number, read_json, shown, sniff
from grcn.files import atomic_file, write_json

MAX_JSON = 2**28  # bytes; a box takes about 200

_SNIFF = 2**20  # bytes of a JSON file within which the keys of an export must occur
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio's prefix for the name of an uploaded file
_TYPE = "rectanglelabels"


@dataclass(frozen=True)
class LabelStudioLayout:
    """A folder with exports of Label Studio: the root, the folder in it, and the JSON file of each split."""

    root: Root
    folder: Path
    splits: dict[str, Path]

    def open(self, split: str, class_names: Sequence[str] | None, findings: Findings) -> Opened:
        """Reads one split. Records are in the order of the file."""
        root, path = self.root, self.splits[split]
        findings.files.add(path)
        tasks = _read(path, findings)
        names = tuple(class_names) if class_names is not None else read_class_list(root, root.upwards(self.folder))
        if names is None:
            # Faults in the files of other splits are reported when those are opened.
            others = [_read(other, Findings(root.path, "collect")) for other in self.splits.values() if other != path]
            names = label_names(task for some in [tasks, *others] for task in some)
        images = root.folder(self.folder, *IMAGE_FOLDERS)
        finder = ImageFinder(root, [images, self.folder] if images else [self.folder])
        find = finding(finder, findings)
        annotated, mentioned = read_entries(tasks, lambda task: find(_as_stored(task, finder)), self.folder, findings)
        if len(self.splits) == 1:
            note_unmentioned(root, annotated, mentioned, "task", findings)
        return Opened(names, findings.records(annotated, names))


def recognize(root: Root, folder: Path) -> LabelStudioLayout | None:
    """The layout of a folder, or None if it holds no export. Opens only the beginnings of JSON files."""
    files = [path for path in root.files(folder, ".json") if is_annotation(path)]
    if len(files) == 1 and split_kind(files[0].stem) is None:
        return LabelStudioLayout(root, folder, {"train": files[0]})
    return LabelStudioLayout(root, folder, {path.stem: path for path in files}) if files else None


def is_annotation(path: Path) -> bool:
    """Whether a file is an export: a JSON list of tasks with annotations. Tasks with predictions only are not."""
    start = sniff(path, _SNIFF) if path.suffix.lower() == ".json" else ""
    return start[:1] == "[" and '"data"' in start and '"annotations"' in start


def _read(path: Path, findings: Findings) -> list[Entry]:
    """The tasks of an export."""
    content = read_json(path, list, "Label Studio's list of tasks", MAX_JSON)
    tasks = []
    for index, task in enumerate(content):
        try:
            name = "/".join(_parts(_address(task)))
            annotation = _annotation(task)
        except ValueError as error:
            findings.fault("bad-task", path, f"task {index}: {error}", index)
            continue
        objects, size = (None, None) if annotation is None else _objects(index, annotation, path, findings)
        tasks.append(Entry(name, path, index, f"task {index}", size, objects, fractions=True))
    return tasks


def _address(entry: Any) -> str:
    data = entry.get("data") if isinstance(entry, dict) else None
    if not isinstance(data, dict):
        raise ValueError("no 'data' with the image's address; export as JSON, not JSON-MIN")
    texts = [value for value in data.values() if isinstance(value, str)]
    address = data.get("image", texts[0] if len(texts) == 1 else None)
    if not isinstance(address, str):
        raise ValueError("'data' has no text 'image', the image's address")
    return address


def _annotation(entry: dict[str, Any]) -> list[Any] | None:
    """The result of the annotation that counts; None if there is none.

    Raises:
        ValueError: if the annotations do not have the form of the format.
    """
    annotations = entry.get("annotations")
    if not isinstance(annotations, list) or not all(
        isinstance(one, dict) and isinstance(one.get("result"), list) for one in annotations
    ):
        raise ValueError("'annotations' is not a list of objects with a list 'result'")
    valid = [one for one in annotations if not one.get("was_cancelled")]
    if not valid:
        return None
    best = max(valid, key=lambda one: (bool(one.get("ground_truth")), str(one.get("updated_at") or "")))
    result: list[Any] = best["result"]
    return result


def _objects(
    index: int, result: list[Any], path: Path, findings: Findings
) -> tuple[list[Object], tuple[float, float] | None]:
    """The rectangles of a task's result, and the image's height and width if they give it."""
    objects: list[Object] = []
    sizes: set[tuple[float, float]] = set()
    for place, entry in enumerate(result):
        where = f"task {index}, result {place}"
        kind = entry.get("type") if isinstance(entry, dict) else None
        if isinstance(kind, str) and kind != _TYPE:
            findings.note("other-annotation", path, f"{where}: '{kind[:40]}' is not a rectangle: skipped", index)
            continue
        try:
            name, corners, size, turned = _box(entry)
            if sizes - {size}:
                raise ValueError(f"image of {size[1]:g} x {size[0]:g}, but another object gives another size")
        except ValueError as error:
            findings.fault("bad-object", path, f"{where}: {error}", index)
            continue
        if turned:
            findings.note("box-turned", path, f"{where} ('{name}'): rotated: the upright box around it is used", index)
        objects.append(Object(name, corners, index, where))
        sizes.add(size)
    return objects, next(iter(sizes), None)


def _box(entry: Any) -> tuple[str, Corners, tuple[float, float], bool]:
    """One rectangle: its class, its corners in fractions, the image's height and width, and whether it is rotated.

    Raises:
        ValueError: if the rectangle is wrong; the message says how.
    """
    value = entry.get("value") if isinstance(entry, dict) else None
    if not isinstance(value, dict):
        raise ValueError("no 'value'")
    labels = value.get(_TYPE)
    if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str) or not labels[0].strip():
        raise ValueError(f"'{_TYPE}' is {shown(labels)}, not a list of one class name")
    if _number(entry, "image_rotation", 0.0) % 360:
        raise ValueError("drawn on a rotated image; rotate it back in Label Studio")
    height, width = _number(entry, "original_height"), _number(entry, "original_width")
    if not (0 < height < math.inf and 0 < width < math.inf):
        raise ValueError(f"image of {width:g} x {height:g}")
    x, y, w, h = (_number(value, key) for key in ("x", "y", "width", "height"))
    corners = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], dtype=np.float64) / 100  # fractions
    angle = math.radians(_number(value, "rotation", 0.0) % 360)
    if angle:  # about the first corner, clockwise, in pixels
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        sides = np.array([width, height])
        corners = ((corners - corners[0]) * sides) @ turn / sides + corners[0]
        first, second = corners.min(axis=0), corners.max(axis=0)  # NaN stays NaN
    else:
        first, second = corners[0], corners[2]
    return labels[0].strip(), (first[0], first[1], second[0], second[1]), (height, width), bool(angle)


def _number(entry: dict[str, Any], key: str, default: float | None = None) -> float:
    value = entry.get(key)
    if value is None and default is not None:
        return default
    try:
        return number(value)
    except ValueError:
        raise ValueError(f"'{key}' is {shown(value)}, not a number") from None


def _as_stored(task: Entry, finder: ImageFinder) -> Entry:
    """The task, without Label Studio's prefix in the image's name if there is no image with the full name."""
    folder, slash, own = task.name.rpartition("/")
    try:
        finder.find(task.name)
    except NotFoundError as error:
        if error.kind == "missing-image":
            return replace(task, name=folder + slash + _UPLOADED.sub("", own))
    return task


def _parts(address: str) -> tuple[str, ...]:
    """The parts of the path in an address. For a file from a local folder, the path is in the query of the address.

    Raises:
        ValueError: if it is not an address, or names no file.
    """
    split = urlsplit(address)
    local = parse_qs(split.query, errors="surrogateescape").get("d") if split.path.endswith("/local-files/") else None
    names = (local[0] if local else unquote(split.path, errors="surrogateescape")).replace("\\", "/").split("/")
    parts = tuple(name for name in names if name not in ("", "."))
    if not parts:
        raise ValueError(f"'image' is {shown(address)}, which names no file")
    return parts


def write_labelstudio(
    path: str | Path,
    images: Iterable[AnnotatedImage],
    class_names: Sequence[str],
    *,
    folder: str = "images",
    model_version: str = "grcn",
) -> None:
    """Writes tasks with predictions, for a Label Studio project with the interface of `write_labelstudio_config`.

    Args:
        path: the JSON file; it is written completely or not at all.
        images: the images and their detections. The score of an image is the mean of the scores in it.
        class_names: [C] names.
        folder: the folder of the images below Label Studio's document root (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT).
        model_version: the name of the detector in Label Studio.
    """
    tasks = []
    for image in images:
        boxes = np.asarray(image.boxes, dtype=np.float64).reshape(-1, 4)
        percent = 100 * boxes / np.array([image.width, image.height] * 2, dtype=np.float64)
        result = []
        for i, ((x1, y1, x2, y2), class_id) in enumerate(zip(percent.tolist(), image.class_ids, strict=True)):
            value = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
            item: dict[str, Any] = {
                "id": f"box-{i}",
                "type": _TYPE,
                "from_name": "label",
                "to_name": "image",
                "original_width": image.width,
                "original_height": image.height,
                "image_rotation": 0,
                "value": {**value, _TYPE: [class_names[class_id]]},
            }
            if image.scores is not None:
                item["score"] = float(image.scores[i])
            result.append(item)
        prediction: dict[str, Any] = {"model_version": model_version, "result": result}
        if image.scores is not None and len(image.scores):
            prediction["score"] = float(np.mean(image.scores))
        address = f"/data/local-files/?d={quote(f'{folder}/{image.file_name}', errors='surrogateescape')}"
        tasks.append({"data": {"image": address}, "predictions": [prediction]})
    write_json(path, tasks)


def write_labelstudio_config(path: str | Path, class_names: Sequence[str]) -> None:
    """Writes the labeling interface of a Label Studio project: one image, with rectangles of the C classes."""
    view = Element("View")
    SubElement(view, "Image", name="image", value="$image")
    labels = SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in class_names:
        SubElement(labels, "Label", value=name)
    indent(view)
    with atomic_file(path) as file:
        ElementTree(view).write(file, encoding="utf-8")


def _finish(folder: Path, images: Sequence[AnnotatedImage], class_names: Sequence[str], detector: str) -> None:
    place = f"{folder.name}/{_WRITER.images}"
    write_labelstudio(folder / "tasks.json", images, class_names, folder=place, model_version=detector)
    write_labelstudio_config(folder / "interface.txt", class_names)  # not `.xml`, which would make it look like VOC
    write_list(folder / "classes.txt", class_names)  # an export names only the classes that occur


_WRITER = Writer("images", _finish)
FORMAT = Format(recognize, is_annotation, looked_for="*.json, Label Studio's JSON export, with images/", writer=_WRITER)
