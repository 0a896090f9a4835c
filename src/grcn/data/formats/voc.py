"""PASCAL VOC: one XML file an image.

Layouts that are read, with folder names in any case and `images` as good as `JPEGImages`:

- `Annotations/ID.xml`, `JPEGImages/ID.jpg`, `ImageSets/Main/SPLIT.txt` with one ID a line, as VOC itself. The lists
  of single classes (`aeroplane_train.txt`) are no splits. Lists hold wherever the XML files lie: in subfolders of
  `Annotations` (`cam/0` or, where no other file has that name, `0`), beside the images, or in the root. Where
  `Main` has none, those of `ImageSets` itself count; where no folder is named for a split, those of `Segmentation` or
  of another folder there.
- The same without `ImageSets`: the splits are the subfolders of `Annotations`; where there are none, or where XML
  files lie beside subfolders of which none is named for a split, all of it is `train`.
- XML beside the images, in the root (split `train`) or in folders named for splits (`train/`, `valid/`, `test/`).

An XML file belongs to the image of its own name; what it says in `<filename>`, `<folder>` and `<path>` is often left
over from someone else's machine and decides only between images that differ in suffix. Class order: `classes.txt`
in the root where there is one, else by name over the XML files of every split, so that all splits agree.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, ParseError, SubElement, indent

import defusedxml.ElementTree
import numpy as np
from defusedxml import DefusedXmlException
from numpy.typing import NDArray

from grcn.data.boxes import clean_boxes, from_voc
from grcn.data.files import (
    Root,
    image_files,
    number,
    read_bytes,
    read_class_list,
    read_lines,
    read_start,
    split_kind,
    subfolders,
)
from grcn.data.image import SUFFIXES, UNREAD, UNREAD_SUFFIXES
from grcn.data.records import AnnotatedImage, Findings, ImageRecord
from grcn.errors import AnnotationError, ImageError
from grcn.files import atomic_file
from grcn.types import Target

LOOKED_FOR = "Annotations/*.xml with JPEGImages/, or *.xml beside the images"

_XML = ("annotations", "annotation", "xmls", "xml")
_IMAGES = ("jpegimages", "images", "image", "imgs")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocSplit:
    """Where a split's files lie: XML in `xml` and below, images in the first of `images` that has them, IDs in `ids`.

    ids None: every XML file. An ID is the path of an XML file below `xml`, without its suffix.
    """

    xml: Path
    images: tuple[Path, ...]
    ids: Path | None = None


@dataclass(frozen=True)
class VocLayout:
    """A VOC folder: its root and its splits by name."""

    root: Root
    splits: dict[str, VocSplit]


@dataclass(frozen=True)
class VocFile:
    """What one XML file says.

    Args:
        file_name: the image's, as given.
        size: height and width as given; None where they are absent or zero.
        names: [N] class names.
        corners: [N, 4] xmin, ymin, xmax, ymax as given, 1-based inclusive.
        difficult: [N] bool.
        indices: [N] the objects' places among the file's objects, from 0.
    """

    file_name: str
    size: tuple[float, float] | None
    names: tuple[str, ...]
    corners: NDArray[np.float64]
    difficult: NDArray[np.bool_]
    indices: tuple[int, ...]


def is_annotation(path: Path) -> bool:
    """Whether a file is annotations of this format, by its beginning."""
    return path.suffix.lower() == ".xml" and b"<annotation" in read_start(path, 4096)


def find_voc(root: Root) -> VocLayout | None:
    """The VOC layout of a folder, or None if it has none. Opens no annotation."""
    top = root.path
    xml, beside = root.folder(top, *_XML), root.folder(top, *_IMAGES)
    images = tuple(folder for folder in [beside, xml, top] if folder)
    lists = _split_lists(root)
    if not lists and not (xml and any(split_kind(folder.name) for folder in subfolders(xml))):
        lists = _other_lists(root)
    for folder in [xml, beside, top] if lists else []:
        if folder and (root.files(top, ".xml") if folder == top else root.tree(folder, ".xml")):
            return VocLayout(root, {name: VocSplit(folder, images, ids) for name, ids in lists.items()})
    splits = _split_folders(root, xml, images) if xml else {}
    if not splits:
        for folder in subfolders(top):
            if split_kind(folder.name):
                inner = root.folder(root.guarded(folder), *_XML) or folder
                own = tuple(path for path in [root.folder(folder, *_IMAGES), inner, folder] if path)
                if root.tree(inner, ".xml"):
                    splits[folder.name] = VocSplit(inner, own)
        if root.files(top, ".xml"):
            splits.setdefault("train", VocSplit(top, images))
    return VocLayout(root, splits) if splits else None


def _split_folders(root: Root, xml: Path, images: tuple[Path, ...]) -> dict[str, VocSplit]:
    """Splits by the subfolders of `Annotations`, where there are no lists."""
    at_top = root.files(xml, ".xml")
    folders = {path.name: path for path in subfolders(xml) if root.tree(path, ".xml")}
    if at_top and not any(split_kind(name) for name in folders):
        return {"train": VocSplit(xml, images)}
    splits = {}
    for name, folder in folders.items():
        beside = tuple(inner for outer in images if (inner := root.folder(outer, name.lower())))
        splits[name] = VocSplit(folder, beside + images)
    return splits


def _split_lists(root: Root) -> dict[str, Path]:
    """`ImageSets/Main/*.txt` by split, or `ImageSets/*.txt`; lists of single classes left out."""
    sets = root.folder(root.path, "imagesets")
    places = [place for place in (sets and root.folder(sets, "main"), sets) if place]
    return next((lists for place in places if (lists := _lists_in(root, place))), {})


def _other_lists(root: Root) -> dict[str, Path]:
    """Those of `ImageSets/Segmentation`, or else of the first other folder there that has any."""
    sets = root.folder(root.path, "imagesets")
    folders = sorted(subfolders(sets), key=lambda folder: folder.name.lower() != "segmentation") if sets else []
    return next((lists for folder in folders if (lists := _lists_in(root, root.guarded(folder)))), {})


def _lists_in(root: Root, folder: Path) -> dict[str, Path]:
    lists = {path.stem: path for path in root.files(folder, ".txt")}
    return {name: path for name, path in lists.items() if not _is_class_list(name, path, lists)}


def _is_class_list(name: str, path: Path, lists: dict[str, Path]) -> bool:
    """Whether `CLASS_SPLIT.txt` is the list of one class of the split `SPLIT.txt`: `ID -1`, `ID 0` or `ID 1` a line."""
    class_name, _, split = name.rpartition("_")
    if not class_name or split not in lists:
        return False
    first = next((line for line in read_lines(path) if line), "")
    return first.split()[-1:] in (["-1"], ["0"], ["1"]) and len(first.split()) > 1


def read_voc(
    layout: VocLayout, split: str, class_names: Sequence[str] | None, findings: Findings
) -> tuple[tuple[str, ...], list[ImageRecord]]:
    """Reads one split.

    Args:
        layout: of the folder.
        split: one of the layout's.
        class_names: the classes and their order; None: the folder's own.
        findings: where defects go.

    Returns:
        The class names, and the records in the order of the split's list, else by name.

    Raises:
        AnnotationError, ImageError: naming file and object, unless the findings collect them.
    """
    root, place = layout.root, layout.splits[split]
    names = tuple(class_names) if class_names is not None else read_class_list(root)
    own = _ids(layout, place)
    entries = own if place.ids is None else _listed(root, place, place.ids, own, findings)
    findings.files.update(entries.values())
    files = {xml: _read_xml(xml, findings) for xml in entries.values()}
    if names is None:
        # What is wrong in the files of other splits is told when those are opened.
        others = [_read_xml(xml, Findings(root.path, "collect")) for xml in _all_xml(layout) if xml not in files]
        names = tuple(sorted({name for file in [*files.values(), *others] if file for name in file.names}))
    finder = _ImageFinder(root, place.images, own)
    records = []
    xml_of: dict[Path, Path] = {}
    for image_id, xml in entries.items():
        file = files[xml]
        image = finder.find(image_id, file, xml, findings) if file else None
        if image and (other := xml_of.setdefault(image, xml)) != xml:
            message = f"its image, {image.name}, is that of {other.relative_to(root.path)}, too"
            findings.fault("duplicate", xml, message)
        elif file and image and (record := _record(image_id, xml, file, image, names, findings)):
            records.append(record)
    if place.ids is None:
        _note_unlabelled(layout, records, findings)
    return names, records


def _ids(layout: VocLayout, place: VocSplit) -> dict[str, Path]:
    """The XML files of a split's folder and those below it by ID; those of other splits' folders left out."""
    root, folder = layout.root, place.xml
    if folder == root.path:  # whatever lies below the root may be something else
        files = root.files(folder, ".xml")
    else:
        files = root.tree(folder, ".xml", {other.xml for other in layout.splits.values()} - {folder})
    start = len(str(folder)) + 1
    return {os.path.splitext(str(xml)[start:])[0].replace(os.sep, "/"): xml for xml in files}


def _all_xml(layout: VocLayout) -> list[Path]:
    folders = {place.xml: place for place in layout.splits.values()}
    return [xml for place in folders.values() for xml in _ids(layout, place).values()]


def _listed(root: Root, place: VocSplit, ids: Path, own: dict[str, Path], findings: Findings) -> dict[str, Path]:
    """The XML file of each image that a list names, by ID."""
    by_name: dict[str, list[str]] = {}
    for image_id in own:
        by_name.setdefault(os.path.basename(image_id), []).append(image_id)
    entries: dict[str, Path] = {}
    for line, text in enumerate(read_lines(ids), 1):
        if not text:
            continue
        stem, suffix = os.path.splitext(text)
        image_id = os.path.normpath(stem if suffix.lower() in SUFFIXES else text)
        alike = by_name.get(image_id, [])
        # An ID names a file in two folders, so it may not climb out of either.
        if image_id.startswith("..") or root.join(place.xml, f"{image_id}.xml") is None:
            findings.fault("path-escape", ids, f"line {line}: '{text}' leads outside {root.path}", line)
            continue
        if image_id not in own and len(alike) == 1:
            image_id = alike[0]
        if image_id in entries:
            findings.note("duplicate", ids, f"line {line}: '{text}' is listed twice: taken once", line)
        elif image_id in own:
            entries[image_id] = own[image_id]
        elif alike:
            message = f"line {line}: '{text}' may be {' or '.join(alike[:3])}: image left out; name its folder"
            findings.note("missing-annotation", ids, message, line)
        else:
            message = f"line {line}: '{text}' has no {place.xml.relative_to(root.path) / image_id}.xml: image left out"
            findings.note("missing-annotation", ids, message, line)
    return entries


class _ImageFinder:
    """Finds images by the stem of their name, whatever their suffix; lists each folder once.

    Args:
        folders: in which they may lie, below their ID's own folder or, where no XML file has that ID, without it.
        ids: of all XML files.
    """

    def __init__(self, root: Root, folders: tuple[Path, ...], ids: Container[str]) -> None:
        self.root, self.folders, self.ids = root, folders, ids
        self._names: dict[Path, dict[str, list[str]]] = {}

    def find(self, image_id: str, file: VocFile, xml: Path, findings: Findings) -> Path | None:
        parent, stem = os.path.split(image_id)
        parents = [parent] if not parent or stem in self.ids else [parent, ""]
        inner = [self.root.join(outer, parent) if parent else outer for parent in parents for outer in self.folders]
        places = [folder for folder in inner if folder and folder.is_dir()]
        for folder in places:
            if names := self._in(folder).get(stem):
                path = folder / (file.file_name if file.file_name in names else names[0])
                if self.root.holds(path):
                    return path
                message = f"{path.name} is a link that leads outside {self.root.path}"
                findings.fault("path-escape", path, message)
                return None
        for folder in places:
            for path in image_files(folder, UNREAD_SUFFIXES):
                if stem in (path.stem, path.name):
                    findings.note("unread-kind", path, f"{UNREAD}; left out, with its objects", error=ImageError)
                    return None
        looked = ", ".join(str(folder.relative_to(self.root.path)) for folder in self.folders)
        findings.note("missing-image", xml, f"no image '{image_id}' in {looked}: left out", error=ImageError)
        return None

    def _in(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            for path in image_files(folder):
                names.setdefault(path.stem, []).append(path.name)
                names.setdefault(path.name, []).append(path.name)  # for `a.jpg.xml`
            self._names[folder] = names
        return self._names[folder]


def _note_unlabelled(layout: VocLayout, records: list[ImageRecord], findings: Findings) -> None:
    """Counts images beside those read that no XML file speaks of: they are not taken for images without objects."""
    known = {xml.stem for xml in _all_xml(layout)}
    for folder in dict.fromkeys(record.path.parent for record in records):
        for image in image_files(folder):
            if image.stem not in known and image.name not in known:
                findings.note("missing-annotation", image, "no XML file of its name: image left out")


def _record(
    image_id: str, xml: Path, file: VocFile, image: Path, class_names: tuple[str, ...], findings: Findings
) -> ImageRecord | None:
    header = findings.header(image)
    if header is None:
        return None
    ids = {name: i for i, name in enumerate(class_names)}
    for index, name in zip(file.indices, file.names, strict=True):
        if name not in ids:
            findings.unknown_class(xml, f"object {index}", name, class_names, index)
    known = np.array([i for i, name in enumerate(file.names) if name in ids], dtype=np.int64)
    aligned = findings.align(xml, image, header, file.size, from_voc(file.corners))
    labels = np.array([ids[file.names[i]] for i in known], dtype=np.int64)
    boxes, kept, problems = clean_boxes(aligned[known], header.height, header.width, labels)
    for problem in problems:
        at = known[problem.index]
        message = f"object {file.indices[at]} ('{file.names[at]}'): {problem.message}"
        findings.note(problem.kind, xml, message, file.indices[at])
    target = Target(boxes, labels[kept], difficult=file.difficult[known[kept]])
    return ImageRecord(image_id, image, header.height, header.width, target)


def _read_xml(path: Path, findings: Findings) -> VocFile | None:
    """One XML file; None where it is broken as a whole and that is collected."""
    try:
        root = defusedxml.ElementTree.fromstring(read_bytes(path))
    except AnnotationError as error:
        findings.whole(path, error)
        return None
    except DefusedXmlException as error:
        what = "declares entities, which are not expanded" if "Entit" in type(error).__name__ else "refers to a DTD"
        findings.fault("broken-annotation", path, f"{what}; remove the declaration")
        return None
    # expat reports its own errors as ParseError and unknown encodings as ValueError or LookupError.
    except (ParseError, ValueError, LookupError) as error:
        findings.fault("broken-annotation", path, f"not well-formed XML: {error}")
        return None
    if root.tag != "annotation":
        findings.fault("broken-annotation", path, f"root element <{root.tag}>, expected <annotation>")
        return None
    return _objects(root, path, findings)


def _objects(root: Element, path: Path, findings: Findings) -> VocFile:
    names, corners, difficult, indices = [], [], [], []
    for index, element in enumerate(root.findall("object")):
        name = (element.findtext("name") or "").strip()
        try:
            if not name:
                raise ValueError("no <name>")
            box = element.find("bndbox")
            if box is None:
                raise ValueError("no <bndbox>")
            values = [_number(box, tag) for tag in _CORNERS]
            flag = element.find("difficult") is not None and _number(element, "difficult") != 0
        except ValueError as error:
            label = f"object {index}" + (f" ('{name}')" if name else "")
            findings.fault("bad-object", path, f"{label}: {error}", index)
            continue
        names.append(name)
        corners.append(values)
        difficult.append(flag)
        indices.append(index)
    file_name = os.path.basename((root.findtext("filename") or "").strip().replace("\\", "/"))
    boxes = np.array(corners, dtype=np.float64).reshape(-1, 4)
    return VocFile(file_name, _size(root), tuple(names), boxes, np.array(difficult, dtype=bool), tuple(indices))


def _number(element: Element, tag: str) -> float:
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"no <{tag}>")
    try:
        return number(text)
    except ValueError:
        raise ValueError(f"<{tag}> is '{text.strip()[:40]}', not a number") from None


def _size(root: Element) -> tuple[float, float] | None:
    """Height and width as given; None where they are absent, zero or no numbers: the image's header has them."""
    size = root.find("size")
    try:
        height, width = (_number(size, "height"), _number(size, "width")) if size is not None else (0.0, 0.0)
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None


def write_voc(path: str | Path, image: AnnotatedImage, class_names: Sequence[str]) -> None:
    """Writes one image's VOC XML file, to be read again by `open_dataset` and by other tools.

    Corners are 1-based inclusive, as VOC's, with up to three decimals. A side of one pixel or less would read as
    none, so it is written as just over one. Scores stand in `<score>`, which readers of VOC pass over.

    Args:
        path: of the file, made or replaced whole or not at all.
        image: the image and its boxes.
        class_names: [C] names.
    """
    root = Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", image.file_name)
    size = SubElement(root, "size")
    for tag, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        _add(size, tag, str(value))
    _add(root, "segmented", "0")
    boxes = np.asarray(image.boxes, dtype=np.float64).reshape(-1, 4)
    for i, ((x1, y1, x2, y2), class_id) in enumerate(zip(boxes.tolist(), image.class_ids, strict=True)):
        element = SubElement(root, "object")
        _add(element, "name", class_names[class_id])
        for tag, text in (("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            _add(element, tag, text)
        box = SubElement(element, "bndbox")
        corners = (x1 + 1, y1 + 1, max(x2, x1 + 1.001), max(y2, y1 + 1.001))
        for tag, corner in zip(_CORNERS, corners, strict=True):
            _add(box, tag, f"{corner:.3f}".rstrip("0").rstrip("."))
        if image.scores is not None:
            _add(element, "score", f"{image.scores[i]:.6f}")
    indent(root, "\t")
    with atomic_file(path, durable=False) as file:
        ElementTree(root).write(file, encoding="utf-8")


def _add(parent: Element, tag: str, text: str) -> None:
    SubElement(parent, tag).text = text
