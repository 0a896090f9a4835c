"""YOLO: one text file of boxes an image, in fractions of the image's sides.

Layouts that are read:

- `data.yaml` (or the one YAML file in the root that has `names`), whose `train`, `val` and `test` name folders of
  images, lists of images, or several of these.
- Without it, or for splits that it does not give: `images/SPLIT` with `labels/SPLIT`, `SPLIT/images` with
  `SPLIT/labels`, `SPLIT.txt` lists; `images` with `labels` alone, or with images beside subfolders of which none is
  named for a split, are one split, `train`. Names then stand in `classes.txt`.

What `data.yaml` says holds inside the root only. Its `path` and absolute names are usually those of another machine:
`path` is used where it leads to a folder in the root, and passed over otherwise; an entry that begins with one `../`,
as Roboflow writes, is also looked for without it; any other entry that leads out of the root is refused.

An image's labels lie in the folder where `images` in its path is `labels`, else beside it, the case of letters of both
names and of `.txt` aside. No label file: an image without objects, as YOLO has it. Rows are `class cx cy w h`, with an
optional score that is passed over (6 numbers), or `class x1 y1 x2 y2 x3 y3 ...`, a polygon, whose box is taken. With
`kpt_shape` in the YAML, rows are a box followed by keypoints. A box that reaches out of 0..1 is clipped as in every
format; coordinates beyond -1..2 are no fractions (pixels, most likely) and an error.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from grcn.data.boxes import LARGEST, clean_boxes, from_yolo
from grcn.data.files import (
    CLASS_LISTS,
    Root,
    by_stem,
    check_names,
    image_files,
    number,
    read_bytes,
    read_class_list,
    read_lines,
    read_start,
    shown,
    split_kind,
    subfolders,
)
from grcn.data.image import UNREAD, UNREAD_SUFFIXES
from grcn.data.records import AnnotatedImage, Findings, ImageRecord
from grcn.errors import AnnotationError, DataError, ImageError
from grcn.files import atomic_file
from grcn.types import Target

LOOKED_FOR = "data.yaml, or images/ with labels/*.txt"

MAX_YAML = 2**20  # bytes; aliases in a YAML file multiply, so it is kept small

_KEYS = ("train", "val", "valid", "test")


@dataclass(frozen=True)
class YoloLayout:
    """A YOLO folder.

    Args:
        root: its guard.
        splits: folders of images and lists of images, by split.
        names: the class names; None where no file gives them.
        keypoints: whether rows hold keypoints after the box.
        passed_over: what the YAML file says and is not followed: kind of defect and message.
        yaml: that file.
    """

    root: Root
    splits: dict[str, tuple[Path, ...]]
    names: tuple[str, ...] | None
    keypoints: bool = False
    passed_over: tuple[tuple[str, str], ...] = ()
    yaml: Path | None = None


def is_annotation(path: Path) -> bool:
    """Whether a file is annotations of this format, by its first row."""
    if path.suffix.lower() != ".txt":
        return False
    start = read_start(path, 4096).decode("utf-8-sig", "replace").strip()
    try:
        return len([number(field) for field in start.split("\n")[0].split()]) >= 5
    except ValueError:
        return False


def find_yolo(root: Root) -> YoloLayout | None:
    """The YOLO layout of a folder, or None if it has none. Opens its YAML file and list of names only.

    Raises:
        AnnotationError: if the YAML file is broken, or names places outside the root that have no counterpart in it.
    """
    by_folders = _splits_by_folders(root)
    path = _find_yaml(root)
    if path is None:
        return YoloLayout(root, by_folders, _names_list(root)) if by_folders else None
    content = _load_yaml(path)
    splits: dict[str, tuple[Path, ...]] = {}
    passed_over: list[tuple[str, str]] = []
    for key in _KEYS:
        entries = content.get(key) or []
        entries = [entries] if isinstance(entries, str) else entries
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise AnnotationError(f"{path}: {key}: {shown(entries)} is neither a folder nor a list of folders")
        found = [_resolve(root, content.get("path"), entry) for entry in entries]
        stray = [entry for entry, place in zip(entries, found, strict=True) if place is None]
        same = next((name for name in by_folders if split_kind(name) == split_kind(key)), None)
        if stray and same is None:
            raise AnnotationError(f"{path}: {key}: '{stray[0]}' leads outside {root.path}, which is not followed")
        if stray:
            message = f"{key}: '{stray[0]}' leads outside the folder: '{same}' is taken by its name instead"
            passed_over.append(("path-escape", message))
            continue
        places = tuple(place for place in found if place and place.exists())
        if places:
            splits[key] = places
        if len(places) < len(entries):
            passed_over.append(("missing-split", f"{key}: {shown(entries)} is not all there"))
    kinds = {split_kind(name) for name in splits}
    splits |= {name: places for name, places in by_folders.items() if split_kind(name) not in kinds}
    if not splits:
        raise AnnotationError(f"{path}: none of the folders and lists that it names is in {root.path}")
    keypoints = "kpt_shape" in content
    return YoloLayout(root, splits, _yaml_names(content, path), keypoints, tuple(passed_over), path)


def _find_yaml(root: Root) -> Path | None:
    files = [*root.files(root.path, ".yaml"), *root.files(root.path, ".yml")]
    named = [path for path in files if path.stem.lower() in ("data", "dataset")]
    for path in named + [path for path in files if path not in named]:
        try:
            content = _load_yaml(path)
        except AnnotationError:
            if path in named:
                raise
            continue  # someone else's file
        if "names" in content and any(key in content for key in _KEYS):
            return path
    return None


def _load_yaml(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(read_bytes(path, MAX_YAML))
    # PyYAML lets errors of its conversions through: bad dates, keys that cannot be hashed, and the like.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise AnnotationError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: expected keys and values")
    return content


def _yaml_names(content: dict[Any, Any], path: Path) -> tuple[str, ...]:
    names = content["names"]
    if isinstance(names, dict):
        try:
            by_id = {int(key): name for key, name in names.items()}
        except (TypeError, ValueError):
            by_id = {}
        if sorted(by_id) != list(range(len(names))):
            raise AnnotationError(f"{path}: names: the keys are not 0 to {len(names) - 1}")
        names = [by_id[class_id] for class_id in range(len(by_id))]
    if not isinstance(names, list):
        raise AnnotationError(f"{path}: names: {shown(names)} is not a list of names")
    for name in names:
        # An unquoted yes, no, on or off is a truth value to YAML.
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise AnnotationError(f"{path}: names: {shown(name)} is not a name; put it in quotes")
    if isinstance(content.get("nc"), int) and content["nc"] != len(names):
        raise AnnotationError(f"{path}: nc is {content['nc']}, but there are {len(names)} names")
    result = tuple(str(name).strip() for name in names)
    check_names(result, str(path))
    return result


def _resolve(root: Root, base: object, entry: str) -> Path | None:
    """The place in the root that an entry of the YAML file names; None if it leads outside."""
    start = root.join(root.path, base) if isinstance(base, str) else None
    places = [root.join(folder, entry) for folder in (start, root.path) if folder]
    if entry.startswith("../"):
        places.append(root.join(root.path, entry.removeprefix("../")))
    inside = [place for place in places if place]
    return next((place for place in inside if place.exists()), inside[0] if inside else None)


def _splits_by_folders(root: Root) -> dict[str, tuple[Path, ...]]:
    """Splits by the names of folders and lists, where there are label files."""
    top = root.path
    images, labels = root.folder(top, "images"), root.folder(top, "labels")
    splits: dict[str, tuple[Path, ...]] = {}
    if images and labels:
        inner = [root.guarded(path) for path in subfolders(images) if root.folder(labels, path.name.lower())]
        splits = {path.name: (path,) for path in inner}
        at_top = any(path.name not in CLASS_LISTS for path in root.files(labels, ".txt"))
        if at_top and (not splits or (image_files(images) and not any(split_kind(name) for name in splits))):
            splits = {"train": (images,)}
    for folder in subfolders(top):
        if split_kind(folder.name) and (inside := root.folder(root.guarded(folder), "images")):
            if root.folder(folder, "labels"):
                splits[folder.name] = (inside,)
        elif split_kind(folder.name) and _labelled_beside(folder):
            splits[folder.name] = (folder,)
    if not splits and _labelled_beside(top):
        splits = {"train": (top,)}
    if splits:
        lists = [path for path in root.files(top, ".txt") if split_kind(path.stem)]
        splits = {path.stem: (path,) for path in lists} or splits
    return splits


def _labelled_beside(folder: Path) -> bool:
    labels = by_stem(folder, ".txt")
    return any(image.stem in labels and labels[image.stem].is_file() for image in image_files(folder))


def _names_list(root: Root) -> tuple[str, ...] | None:
    folders = [root.path, root.folder(root.path, "labels"), root.folder(root.path, "images")]
    return next((names for folder in folders if folder and (names := read_class_list(root, folder))), None)


def read_yolo(
    layout: YoloLayout, split: str, class_names: Sequence[str] | None, findings: Findings
) -> tuple[tuple[str, ...], list[ImageRecord]]:
    """Reads one split.

    Args:
        layout: of the folder.
        split: one of the layout's.
        class_names: the classes and their order, to which the folder's are matched by name; None: the folder's own.
        findings: where defects go.

    Returns:
        The class names, and the records by the path of their images.

    Raises:
        AnnotationError, ImageError: naming file and line, unless the findings collect them.
        DataError: if nothing names the classes.
    """
    own = layout.names if layout.names is not None else tuple(class_names or ())
    if not own:
        raise DataError(f"{layout.root.path}: nothing names the classes; add data.yaml or classes.txt, one name a line")
    names = tuple(class_names) if class_names is not None else own
    if layout.yaml:
        findings.files.add(layout.yaml)
    for kind, message in layout.passed_over:
        findings.note(kind, layout.yaml or layout.root.path, message)
    images = [image for source in layout.splits[split] for image in _images(layout.root, source, findings)]
    images = list(dict.fromkeys(images))
    stems = Counter(image.stem for image in images)
    records = []
    labels = _Labels(layout.root)
    image_of: dict[Path, Path] = {}
    for image in images:
        label = labels.of(image)
        if label and not layout.root.holds(label):
            findings.fault("path-escape", label, f"a link that leads outside {layout.root.path}")
            continue
        if label and (other := image_of.setdefault(label, image)) != image:
            message = f"stands for {other.name} and {image.name}: its boxes are taken for both; give each its own name"
            findings.note("label-shared", label, message)
        relative = image.relative_to(layout.root.path).with_suffix("").as_posix()
        image_id = image.stem if stems[image.stem] == 1 else relative
        if record := _record(image_id, image, label, own, names, layout.keypoints, findings):
            records.append(record)
    if images and not image_of:
        raise DataError(f"{images[0]}: neither it nor any other image of split '{split}' has a label file")
    findings.files.update(image_of)
    _note_orphans(labels, images, findings)
    return names, records


def _images(root: Root, source: Path, findings: Findings) -> list[Path]:
    """The images of a folder and its subfolders, or of a list."""
    if source.is_file():
        findings.files.add(source)
        return _listed(root, source, findings)
    images: list[Path] = []
    folders, seen = [source], set()
    while folders:
        folder = folders.pop()
        if (real := os.path.realpath(folder)) in seen:  # links may lead in circles
            continue
        seen.add(real)
        for path in image_files(folder, UNREAD_SUFFIXES):
            findings.note("unread-kind", path, f"{UNREAD}; left out, with its objects", error=ImageError)
        for path in [*image_files(folder), *(inner := subfolders(folder))]:
            if not root.holds(path):
                findings.fault("path-escape", path, f"a link that leads outside {root.path}")
            elif path not in inner:
                images.append(path)
            else:
                folders.append(path)
    return sorted(images)


def _listed(root: Root, source: Path, findings: Findings) -> list[Path]:
    images: list[Path] = []
    seen: set[Path] = set()
    for line, text in enumerate(read_lines(source), 1):
        if not text:
            continue
        places = [root.join(folder, text) for folder in (source.parent, root.path)]
        image = next((place for place in places if place and os.path.isfile(place)), None)
        if image is None and None in places:
            findings.fault("path-escape", source, f"line {line}: '{text}' leads outside {root.path}", line)
        elif image is None:
            findings.note("missing-image", source, f"line {line}: no image '{text}': left out", line, ImageError)
        elif image in seen:
            findings.note("duplicate", source, f"line {line}: '{text}' is listed twice: taken once", line)
        else:
            seen.add(image)
            images.append(image)
    return images


class _Labels:
    """Finds the label files of images; lists each folder once."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._folders: dict[Path, tuple[Path | None, dict[str, Path], dict[str, Path]]] = {}

    def of(self, image: Path) -> Path | None:
        """The label file of an image, whether it can be read or not."""
        _, apart, beside = self.at(image.parent)
        return apart.get(image.stem) or beside.get(image.stem)

    def at(self, folder: Path) -> tuple[Path | None, dict[str, Path], dict[str, Path]]:
        """For a folder of images: that of labels, its label files by stem, and those beside the images.

        Raises:
            AnnotationError: if the folder of labels is a link that leads outside the root.
        """
        if folder not in self._folders:
            labels = self._apart(folder)
            self._folders[folder] = labels, by_stem(labels, ".txt") if labels else {}, by_stem(folder, ".txt")
        return self._folders[folder]

    def _apart(self, folder: Path) -> Path | None:
        """The folder's path with its last folder `images` as `labels`; None if that is no folder."""
        parts = folder.relative_to(self.root.path).parts
        at = next((i for i in range(len(parts) - 1, -1, -1) if parts[i].lower() == "images"), None)
        if at is None:
            return None
        found: Path | None = self.root.path.joinpath(*parts[:at])
        for name in ("labels", *parts[at + 1 :]):
            exact = found and found / name
            if found and exact:
                found = self.root.guarded(exact) if exact.is_dir() else self.root.folder(found, name.lower())
        return found


def _note_orphans(labels: _Labels, images: Sequence[Path], findings: Findings) -> None:
    """Counts the label files beside those of the images, whose own images are missing."""
    for folder in dict.fromkeys(image.parent for image in images):
        _, apart, _ = labels.at(folder)
        stems = {image.stem for image in image_files(folder)} if apart else set()
        for stem, label in apart.items():
            if stem not in stems and label.name not in CLASS_LISTS:
                findings.note("missing-image", label, "no image of its name: left out", error=ImageError)


def _record(
    image_id: str,
    image: Path,
    label: Path | None,
    own: tuple[str, ...],
    names: tuple[str, ...],
    keypoints: bool,
    findings: Findings,
) -> ImageRecord | None:
    header = findings.header(image)
    if header is None:
        return None
    ids = {name: class_id for class_id, name in enumerate(names)}
    rows: list[tuple[int, int, list[float]]] = []  # line, class id, box
    try:
        lines = read_lines(label) if label else []
    except AnnotationError as error:
        findings.whole(label or image, error)
        return None
    for line, text in enumerate(lines, 1):
        if not text or label is None:
            continue
        try:
            class_id, box = _row(text, len(own), keypoints)
        except ValueError as error:
            findings.fault("bad-object", label, f"line {line}: {error}", line)
            continue
        if own[class_id] in ids:
            rows.append((line, ids[own[class_id]], box))
        else:
            findings.unknown_class(label, f"line {line}", own[class_id], names, line)
    fractions = np.array([box for _, _, box in rows], dtype=np.float64)
    labels = np.array([class_id for _, class_id, _ in rows], dtype=np.int64)
    corners = from_yolo(fractions, header.height, header.width)
    boxes, kept, problems = clean_boxes(corners, header.height, header.width, labels)
    for problem in problems:
        line, class_id, _ = rows[problem.index]
        message = f"line {line} ('{names[class_id]}'): {problem.message}"
        findings.note(problem.kind, label or image, message, line)
    return ImageRecord(image_id, image, header.height, header.width, Target(boxes, labels[kept]))


def _row(text: str, classes: int, keypoints: bool) -> tuple[int, list[float]]:
    """Class id and box (centre x, y, width, height, in fractions) of one row.

    Raises:
        ValueError: saying what is wrong with it.
    """
    fields = text.split()
    try:
        values = [number(value) for value in fields]
    except ValueError:
        raise ValueError(f"'{text[:60]}' does not consist of numbers") from None
    if len(values) < 5:
        raise ValueError(f"{len(values)} numbers, expected class cx cy w h")
    class_id, numbers = values[0], values[1:]
    if not class_id.is_integer() or not 0 <= class_id < classes:
        raise ValueError(f"class {fields[0]} is none of 0 to {classes - 1}, the ids of the names")
    is_box = keypoints or len(numbers) <= 5
    if is_box:
        numbers = numbers[:4]
    elif len(numbers) % 2:
        raise ValueError(f"{len(values)} numbers are neither a box nor a polygon")
    stray = next((v for v in numbers if not -1 <= v <= 2 and abs(v) <= LARGEST), None)
    if stray is not None:
        raise ValueError(f"{stray:g} is no fraction of the image's side; are these pixels?")
    if is_box:
        return int(class_id), numbers
    points = np.array(numbers, dtype=np.float64).reshape(-1, 2)
    first, second = points.min(axis=0), points.max(axis=0)  # NaN stays NaN
    with np.errstate(invalid="ignore", over="ignore"):
        return int(class_id), [*((first + second) / 2).tolist(), *(second - first).tolist()]


def write_yolo(path: str | Path, image: AnnotatedImage) -> None:
    """Writes one image's YOLO label file: `class cx cy w h`, and the score where there is one.

    Args:
        path: of the file, made or replaced whole or not at all.
        image: the image and its boxes.
    """
    boxes = np.asarray(image.boxes, dtype=np.float64).reshape(-1, 4)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    fractions = np.concatenate([centres, sides], axis=1) / np.array([image.width, image.height] * 2, dtype=np.float64)
    scores: Sequence[float | None] = image.scores if image.scores is not None else [None] * len(boxes)
    rows = []
    for class_id, box, score in zip(image.class_ids, fractions.tolist(), scores, strict=True):
        numbers = [f"{value:.8f}" for value in box] + ([] if score is None else [f"{score:.6f}"])
        rows.append(" ".join([str(int(class_id)), *numbers]) + "\n")
    with atomic_file(path, durable=False) as file:
        file.write("".join(rows).encode())


def write_yolo_yaml(path: str | Path, class_names: Sequence[str], splits: Mapping[str, str]) -> None:
    """Writes the `data.yaml` of a YOLO folder.

    Args:
        path: of the file.
        class_names: [C] names.
        splits: the folder of images of each of `train`, `val`, `test`, relative to the file's.
    """
    content = {**splits, "names": dict(enumerate(class_names))}
    with atomic_file(path) as file:
        file.write(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
