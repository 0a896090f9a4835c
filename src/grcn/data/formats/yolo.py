"""YOLO: one text file of boxes per image, in fractions of the image's sides.

Layouts that are read:

- `data.yaml` or `dataset.yaml` (or the only YAML file in the folder that has `names`). Its `train`, `val` and `test`
  are folders of images, lists of images, or several of these.
- Without it, or for splits that it does not give: `images/SPLIT` with `labels/SPLIT`, `SPLIT/images` with
  `SPLIT/labels`, or lists `SPLIT.txt`. Everything is one split, `train`, if `labels` has no subfolders, or if images
  lie beside subfolders of which none is named for a split. The class names are then in `classes.txt`, also in a parent
  folder. Classes without names are called by their numbers, from `0` to the highest in any split, with a remark.
- Darknet's layout, as CVAT and FiftyOne write it. `obj.data` gives the lists and the file of class names. The lists
  alone are enough if their images have labels.

`data.yaml` counts only inside the root. Its `path` and absolute names are usually those of another machine. `path` is
used if it leads to a folder in the root, and ignored otherwise. An entry that begins with one `../`, as Roboflow writes
it, is also looked for without it. Any other entry that leads out of the root is refused. The images of a list are found
by the ends of their paths.

The label file of an image is in the folder with `labels` in place of `images` in its path, or else beside the image.
The case of these names and of `.txt` does not matter. An image without label file is an image without objects, as usual
in YOLO. Rows are `class cx cy w h`, with an optional score that is ignored (6 numbers), or `class x1 y1 x2 y2 x3 y3`
and so on, a polygon, whose box is used. With `kpt_shape` in the YAML file, rows are a box followed by keypoints. A box
that reaches outside 0..1 is clipped as in every format. Coordinates outside -1..2 are an error, because they are not
fractions but most likely pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from grcn.data.boxes import LARGEST, from_yolo
from grcn.data.files import (
    CLASS_LISTS,
    ImageFinder,
    Names,
    NotFoundError,
    Root,
    check_names,
    read_class_list,
    read_names,
    split_kind,
)
from grcn.data.formats.protocol import Format, Opened, Writer
from grcn.data.image import UNREAD_SUFFIXES
from grcn.data.records import MOST_CLASSES, AnnotatedImage, Annotations, Findings, ImageIds, ImageRecord, numbered
from grcn.data.text import number, read_lines, read_text, shown, sniff
from grcn.errors import AnnotationError, DataError, ImageError
from grcn.files import atomic_file

MAX_YAML = 2**20  # bytes; aliases in a YAML file multiply, so it is kept small

_KEYS = ("train", "val", "valid", "test")


@dataclass(frozen=True)
class YoloLayout:
    """A YOLO folder.

    Args:
        root: the root of the data set.
        folder: the folder in which the layout was found.
        splits: folders of images and lists of images, by split.
        names: the class names; None if no file gives them.
        keypoints: whether rows hold keypoints after the box.
        passed_over: entries of the configuration that are not followed, as kind of defect and message.
        config: the configuration file, YAML or Darknet's.
    """

    root: Root
    folder: Path
    splits: dict[str, tuple[Path, ...]]
    names: tuple[str, ...] | None
    keypoints: bool = False
    passed_over: tuple[tuple[str, str], ...] = ()
    config: Path | None = None

    def open(self, split: str, class_names: Sequence[str] | None, findings: Findings) -> Opened:
        """Reads one split. Records are in the order of its list or, without one, sorted by the path of the image."""
        root = self.root
        own = self.names or tuple(class_names or ()) or findings.classes_by_number(self._highest(), self.folder)
        if self.config:
            findings.files.add(self.config)
        for kind, message in self.passed_over:
            findings.note(kind, self.config or self.folder, message)
        images = [image for source in self.splits[split] for image in _images(self, source, findings)]
        images = list(dict.fromkeys(images))
        labels = _Labels(root)
        label_of: dict[Path, Path | None] = {}
        image_of: dict[Path, Path] = {}
        for image in images:
            label = labels.of(image)
            if label and not root.holds(label):
                message = f"a link that leads outside {root.path}; pass the folder that holds both"
                findings.fault("path-escape", label, message)
                continue
            if label and (other := image_of.setdefault(label, image)) != image:
                message = f"belongs to {other.name} and {image.name}: both get its boxes"
                findings.note("label-shared", label, f"{message}; give each photo its own name")
            label_of[image] = label
        if images and not image_of:
            raise DataError(f"{images[0]}: neither it nor any other image of split '{split}' has a label file")
        findings.files.update(image_of)
        records = self._records(label_of, ImageIds(images, self.folder), own, class_names, findings)
        _note_orphans(labels, images, findings)
        return Opened(tuple(class_names) if class_names is not None else own, records)

    def _highest(self) -> int:
        """The highest class number in any split; -1 if there is none."""
        # Faults in the files of other splits are reported when those are opened.
        unsaid = Findings(self.root.path, "collect")
        images = [
            image for sources in self.splits.values() for source in sources for image in _images(self, source, unsaid)
        ]
        labels = _Labels(self.root)
        found = {label for image in images if (label := labels.of(image)) and self.root.holds(label)}
        numbers = [-1]
        for label in found:
            try:
                numbers += [row.class_id for row in _rows(label, MOST_CLASSES, self.keypoints, unsaid)]
            except AnnotationError:
                continue
        return max(numbers)

    def _records(
        self,
        label_of: dict[Path, Path | None],
        ids: ImageIds,
        own: Sequence[str],
        class_names: Sequence[str] | None,
        findings: Findings,
    ) -> list[ImageRecord]:
        headers = findings.headers(list(label_of))
        rows: dict[Path, list[_Row]] = {}
        for image in headers:
            label = label_of[image]
            try:
                rows[image] = _rows(label, len(own), self.keypoints, findings) if label else []
            except AnnotationError as error:
                findings.broken(label or image, error)
        sizes = np.array([(headers[image].height, headers[image].width) for image, some in rows.items() for _ in some])
        height, width = sizes.reshape(-1, 2).T
        boxes = from_yolo(np.array([row.box for some in rows.values() for row in some]), height, width)
        annotated, start = [], 0
        for image, some in rows.items():
            annotated.append(
                Annotations(
                    ids.of(image),
                    image,
                    headers[image],
                    label_of[image] or image,
                    [own[row.class_id] for row in some],
                    boxes[start : start + len(some)],
                    lines := [row.line for row in some],
                    numbered("line {}", lines),
                )
            )
            start += len(some)
        return findings.records(annotated, class_names if class_names is not None else own)


def is_annotation(path: Path) -> bool:
    """Whether a file holds annotations of this format, judged by its first row."""
    if path.suffix.lower() != ".txt":
        return False
    try:
        return len([number(field) for field in sniff(path, 4096).split("\n")[0].split()]) >= 5
    except ValueError:
        return False


def recognize(root: Root, folder: Path) -> YoloLayout | None:
    """The YOLO layout of a folder, or None if it has none. Opens only its configuration and its list of names.

    Raises:
        AnnotationError: if the YAML file is broken, or names places outside the root that have no counterpart in it.
    """
    config, names, lists = _darknet(root, folder)
    by_folders = _splits_by_folders(root, folder, lists)
    path, content = _find_yaml(root, folder)
    if "names" not in content:
        names = names or _names_list(root, folder)
    if path is None:
        return YoloLayout(root, folder, by_folders, names, config=config) if by_folders else None
    splits: dict[str, tuple[Path, ...]] = {}
    passed_over: list[tuple[str, str]] = []
    for key in _KEYS:
        entries = content.get(key) or []
        entries = [entries] if isinstance(entries, str) else entries
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise AnnotationError(f"{path}: {key}: {shown(entries)} is neither a folder nor a list of folders")
        found = [_resolve(root, folder, content.get("path"), entry.replace("\\", "/")) for entry in entries]
        stray = [entry for entry, place in zip(entries, found, strict=True) if place is None]
        same = next((name for name in by_folders if split_kind(name) == split_kind(key)), None)
        if stray and same is None:
            raise AnnotationError(f"{path}: {key}: '{stray[0]}' leads outside {root.path}, which is not followed")
        if stray:
            message = f"{key}: '{stray[0]}' leads outside the folder: '{same}' is used instead, because of its name"
            passed_over.append(("path-escape", message))
            continue
        places = tuple(place for place in found if place and place.exists())
        if places:
            splits[key] = places
        if len(places) < len(entries):
            passed_over.append(("missing-split", f"{key}: not everything in {shown(entries)} exists"))
    kinds = {split_kind(name) for name in splits}
    splits |= {name: places for name, places in by_folders.items() if split_kind(name) not in kinds}
    if not splits:
        raise AnnotationError(f"{path}: none of the folders and lists that it names is in {root.path}")
    keypoints = "kpt_shape" in content
    names = _yaml_names(content, path) if "names" in content else names
    return YoloLayout(root, folder, splits, names, keypoints, tuple(passed_over), path)


def _find_yaml(root: Root, folder: Path) -> tuple[Path | None, dict[Any, Any]]:
    """The YAML file that describes the data set, and its content; `data.yaml` and `dataset.yaml` come before others.

    Raises:
        AnnotationError: if several files describe it, but in different ways.
    """
    files = [*root.files(folder, ".yaml"), *root.files(folder, ".yml")]
    named = [path for path in files if path.stem.lower() in ("data", "dataset")]
    for some in (named, [path for path in files if path not in named]):
        found: list[tuple[Path, dict[Any, Any]]] = []
        for path in some:
            try:
                content = _load_yaml(path)
            except AnnotationError:
                if path in named:
                    raise
                continue  # the file has another purpose
            if ("names" in content or path in named) and any(key in content for key in _KEYS):
                found.append((path, content))
        if len(found) > 1 and len({_meaning(content) for _, content in found}) > 1:
            names = " and ".join(path.name for path, _ in found)
            raise AnnotationError(
                f"{folder}: {names} describe the data set in different ways; keep one, or name it data.yaml"
            )
        if found:
            return found[0]
    return None, {}


def _meaning(content: dict[Any, Any]) -> str:
    return str(yaml.safe_dump([content.get(key) for key in (*_KEYS, "names", "path")]))  # does not expand aliases


def _load_yaml(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(read_text(path, MAX_YAML))
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
        # An unquoted yes, no, on or off is a boolean in YAML.
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise AnnotationError(f"{path}: names: {shown(name)} is not a name; put it in quotes")
    if isinstance(content.get("nc"), int) and content["nc"] != len(names):
        raise AnnotationError(f"{path}: nc is {content['nc']}, but there are {len(names)} names")
    result = tuple(str(name).strip() for name in names)
    check_names(result, str(path))
    return result


def _resolve(root: Root, folder: Path, base: object, entry: str) -> Path | None:
    """The place in the root that an entry of the YAML file names; None if it leads outside."""
    start = root.join(folder, base) if isinstance(base, str) else None
    places = [root.join(place, entry) for place in (start, folder) if place]
    if entry.startswith("../"):
        places.append(root.join(folder, entry.removeprefix("../")))
    inside = [place for place in places if place]
    return next((place for place in inside if place.exists()), inside[0] if inside else None)


def _darknet(root: Root, folder: Path) -> tuple[Path | None, tuple[str, ...] | None, dict[str, tuple[Path, ...]]]:
    """Darknet's configuration, and the class names and the lists of images that it names."""
    names = root.listing(folder).names
    for path in root.files(folder, ".data"):
        pairs = [line.replace("\\", "/").partition("=") for line in read_lines(path)]
        values = {key.strip().lower(): value.strip().split("/")[-1] for key, _, value in pairs}
        found = {key: root.guarded(folder / name) for key, value in values.items() if (name := names.find(value))}
        lists: dict[str, tuple[Path, ...]] = {key: (found[key],) for key in _KEYS if key in found}
        if lists or "names" in found:
            return path, read_names(found["names"]) if "names" in found else None, lists
    return None, None, {}


def _splits_by_folders(root: Root, top: Path, lists: dict[str, tuple[Path, ...]]) -> dict[str, tuple[Path, ...]]:
    """Splits by the names of folders and lists, if there are label files. Splits in `lists` take precedence."""
    images, labels = root.folder(top, "images"), root.folder(top, "labels")
    splits: dict[str, tuple[Path, ...]] = {}
    if images and labels:
        inner = [root.guarded(path) for path in root.subfolders(images) if root.folder(labels, path.name)]
        splits = {path.name: (path,) for path in inner}
        at_top = any(path.name not in CLASS_LISTS for path in root.files(labels, ".txt"))
        if at_top and (not splits or (root.images(images) and not any(split_kind(name) for name in splits))):
            splits = {"train": (images,)}
    for folder in root.subfolders(top):
        if split_kind(folder.name) and (inside := root.folder(root.guarded(folder), "images")):
            if root.folder(folder, "labels"):
                splits[folder.name] = (inside,)
        elif split_kind(folder.name) and _labelled_beside(root, folder):
            splits[folder.name] = (folder,)
    if not splits and _labelled_beside(root, top):
        splits = {"train": (top,)}
    found = {path.stem: (path,) for path in root.files(top, ".txt") if split_kind(path.stem)}
    found = {name: paths for name, paths in found.items() if paths not in lists.values()}
    if not splits and not lists:
        found = {name: (path,) for name, (path,) in found.items() if _lists_labelled(root, top, path)}
    return {**found, **lists} or splits


def _labelled_beside(root: Root, folder: Path) -> bool:
    labels = root.by_stem(folder, ".txt")
    return any((label := labels.find(image.stem)) and label.is_file() for image in root.images(folder))


def _lists_labelled(root: Root, top: Path, path: Path) -> bool:
    """Whether the first image that a list names has labels."""
    first = sniff(path, 4096).split("\n")[0].strip()
    try:
        return bool(first) and _Labels(root).of(ImageFinder(root, [top]).find(first)) is not None
    except NotFoundError:
        return False


def _names_list(root: Root, folder: Path) -> tuple[str, ...] | None:
    inner = [place for name in ("labels", "images") if (place := root.folder(folder, name))]
    return read_class_list(root, [folder, *inner, *root.upwards(folder)])


def _images(layout: YoloLayout, source: Path, findings: Findings) -> list[Path]:
    """The images of a folder and its subfolders, or of a list."""
    root = layout.root
    if source.is_file():
        findings.files.add(source)
        return _listed(layout, source, findings)

    def inside(path: Path) -> Path | None:
        if root.holds(path):
            return path
        message = f"a link that leads outside {root.path}; pass the folder that holds both"
        findings.fault("path-escape", path, message)
        return None

    def of(folder: Path) -> list[Path]:
        for path in root.images(folder, UNREAD_SUFFIXES):
            findings.unread(path)
        return [path for path in root.images(folder) if inside(path)]

    return sorted(root.walk(source, of, guard=inside))


def _listed(layout: YoloLayout, source: Path, findings: Findings) -> list[Path]:
    finder = ImageFinder(layout.root, [source.parent, layout.folder])
    images: dict[Path, None] = {}
    for line, text in enumerate(read_lines(source), 1):
        image = findings.locate(finder, text, source, f"line {line}", line) if text else None
        if image in images:
            findings.note("duplicate", source, f"line {line}: '{text}' is listed twice: used once", line)
        elif image:
            images[image] = None
    return list(images)


class _Labels:
    """Finds the label files of images."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._folders: dict[Path, tuple[Names[Path], Names[Path]]] = {}

    def of(self, image: Path) -> Path | None:
        """The label file of an image, whether it can be read or not."""
        apart, beside = self.at(image.parent)
        return apart.find(image.stem) or beside.find(image.stem)

    def at(self, folder: Path) -> tuple[Names[Path], Names[Path]]:
        """The label files for a folder of images, by stem: those in the folder of labels, and those beside the images.

        Raises:
            AnnotationError: if the folder of labels is a link that leads outside the root.
        """
        if folder not in self._folders:
            apart = self._apart(folder)
            found = self.root.by_stem(apart, ".txt") if apart else Names[Path]()
            self._folders[folder] = found, self.root.by_stem(folder, ".txt")
        return self._folders[folder]

    def _apart(self, folder: Path) -> Path | None:
        """The path with `labels` in place of its last folder `images`; None if there is no such folder."""
        parts = folder.relative_to(self.root.path).parts
        at = next((i for i in range(len(parts) - 1, -1, -1) if parts[i].lower() == "images"), None)
        if at is None:
            return None
        found: Path | None = self.root.path.joinpath(*parts[:at])
        for name in ("labels", *parts[at + 1 :]):
            found = self.root.folder(found, name) if found else None
        return found


def _note_orphans(labels: _Labels, images: Sequence[Path], findings: Findings) -> None:
    """Counts label files without an image, in the folders of the images' own label files."""
    for folder in dict.fromkeys(image.parent for image in images):
        apart, _ = labels.at(folder)
        stems = Names((image.stem, image) for image in labels.root.images(folder)) if apart else Names[Path]()
        unread = {image.stem for image in labels.root.images(folder, UNREAD_SUFFIXES)}  # reported by themselves
        for stem, label in apart.items():
            if stem in unread:
                findings.files.add(label)
            elif stems.find(stem) is None and label.name not in CLASS_LISTS:
                findings.note("missing-image", label, "no image of its name: left out", error=ImageError)


class _Row(NamedTuple):
    """One row of a label file: its line from 1, the class, and centre x, y, width, height as fractions."""

    line: int
    class_id: int
    box: list[float]


def _rows(label: Path, classes: int, keypoints: bool, findings: Findings) -> list[_Row]:
    rows = []
    for line, text in enumerate(read_lines(label), 1):
        if text:
            try:
                rows.append(_Row(line, *_row(text, classes, keypoints)))
            except ValueError as error:
                findings.fault("bad-object", label, f"line {line}: {error}", line)
    return rows


def _row(text: str, classes: int, keypoints: bool) -> tuple[int, list[float]]:
    """Class id and box (centre x, y, width, height, in fractions) of one row.

    Raises:
        ValueError: if the row is wrong; the message says how.
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
        raise ValueError(f"class {fields[0]} is not one of 0 to {classes - 1}, the ids of the names")
    is_box = keypoints or len(numbers) <= 5
    if is_box:
        numbers = numbers[:4]
    elif len(numbers) % 2:
        raise ValueError(f"{len(values)} numbers are neither a box nor a polygon")
    sure = min(numbers) >= -1 and max(numbers) <= 2  # true for nearly all rows, which need no closer look
    stray = None if sure else next((v for v in numbers if not -1 <= v <= 2 and abs(v) <= LARGEST), None)
    if stray is not None:
        raise ValueError(f"{stray:g} is not a fraction of the image side (0 to 1); are these pixels?")
    if is_box:
        return int(class_id), numbers
    points = np.array(numbers, dtype=np.float64).reshape(-1, 2)
    first, second = points.min(axis=0), points.max(axis=0)  # NaN stays NaN
    with np.errstate(invalid="ignore", over="ignore"):
        return int(class_id), [*((first + second) / 2).tolist(), *(second - first).tolist()]


def write_yolo(path: str | Path, image: AnnotatedImage) -> None:
    """Writes the YOLO label file of one image: rows of `class cx cy w h`, and the score if there is one.

    Args:
        path: the file; it is written completely or not at all.
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
        path: the file; it is written completely or not at all.
        class_names: [C] names.
        splits: the folder of images for `train`, `val` and `test`, relative to the folder of the file.
    """
    content = {**splits, "names": dict(enumerate(class_names))}
    with atomic_file(path) as file:
        file.write(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())


def _finish(folder: Path, images: Sequence[AnnotatedImage], class_names: Sequence[str], detector: str) -> None:
    write_yolo_yaml(folder / "data.yaml", class_names, {"train": "images/train"})


FORMAT = Format(
    recognize,
    is_annotation,
    looked_for="data.yaml, or images/ with labels/*.txt",
    writer=Writer("images/train", _finish, "labels/train/{}.txt", lambda path, image, names: write_yolo(path, image)),
)
