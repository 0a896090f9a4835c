"""PASCAL VOC: one XML file per image.

Layouts that are read. Folder names may have any case. `JPEGImages` may be called `images` or, as in FiftyOne, `data`,
and `Annotations` may be called `labels`:

- `Annotations/ID.xml`, `JPEGImages/ID.jpg`, and `ImageSets/Main/SPLIT.txt` with one ID per line, as in VOC itself.
  Lists of a single class (`aeroplane_train.txt`) are not splits. The XML files may be in subfolders of `Annotations`
  (their ID is `cam/0`, or `0` if no other file has that name), beside the images, or in the root. If `Main` has no
  lists, those in `ImageSets` itself count. If there are none and no folder is named for a split, those in
  `Segmentation` or another folder of `ImageSets` count.
- The same without `ImageSets`. The splits are the subfolders of `Annotations`. Everything is `train` if there are no
  subfolders, or if XML files lie beside subfolders of which none is named for a split.
- XML files beside the images, in the root (split `train`) or in folders that are named for splits (`train/`, `valid/`,
  `test/`).

An XML file belongs to the image with the same name. Its `<filename>`, `<folder>` and `<path>` often come from another
machine, so they only decide between images that differ in their suffix. Classes are in the order of `classes.txt`.
Without that file, they are sorted by name over the XML files of all splits, so that all splits agree.

Corners are 1-based and inclusive, as in VOC, unless the data set shows that they count from 0. It does if more objects
begin at 0 than at 1, and these are not just rare mistakes. A `<difficult>` that is empty or says `Unspecified` counts
as not difficult.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np
from numpy.typing import NDArray

from grcn.data.boxes import from_voc
from grcn.data.files import IMAGE_FOLDERS, Names, Root, read_class_list, split_kind
from grcn.data.formats.protocol import Format, Opened, Writer, write_list
from grcn.data.image import SUFFIXES, UNREAD_SUFFIXES, ImageHeader
from grcn.data.records import AnnotatedImage, Annotations, Defect, Findings, numbered
from grcn.data.text import flag, number, read_lines, read_xml, sniff
from grcn.errors import AnnotationError, ImageError
from grcn.files import atomic_file

_XML = ("annotations", "annotation", "xmls", "xml", "labels")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_ROOT = re.compile(r"<annotation[\s>/]")
_RARE = 0.01  # if fewer of the objects begin at 0, these are mistakes


@dataclass(frozen=True)
class VocSplit:
    """The places of a split's files.

    Args:
        xml: the folder of the XML files, which may be in subfolders.
        images: folders of images; the first that has an image is used.
        ids: the list of IDs; None: all XML files. An ID is the path of an XML file below `xml`, without its suffix.
    """

    xml: Path
    images: tuple[Path, ...]
    ids: Path | None = None


@dataclass(frozen=True)
class VocFile:
    """The content of one XML file.

    Args:
        file_name: the name of the image, as given.
        size: height and width as given; None if they are missing or zero.
        names: [N] class names.
        corners: [N, 4] xmin, ymin, xmax, ymax as given.
        difficult: [N] bool.
        indices: [N] the index of each object among all objects of the file, from 0.
    """

    file_name: str
    size: tuple[float, float] | None
    names: tuple[str, ...]
    corners: NDArray[np.float64]
    difficult: tuple[bool, ...]
    indices: tuple[int, ...]


@dataclass(frozen=True)
class VocLayout:
    """A VOC folder: the root, the folder in it, and its splits by name."""

    root: Root
    folder: Path
    splits: dict[str, VocSplit]
    _read: dict[Path, tuple[VocFile | None, tuple[Defect, ...]]] = field(default_factory=dict)

    def open(self, split: str, class_names: Sequence[str] | None, findings: Findings) -> Opened:
        """Reads one split. Records are in the order of its list or, without one, sorted by name."""
        root, place = self.root, self.splits[split]
        own = self._ids(place)
        entries = own if place.ids is None else _listed(root, place, place.ids, own, findings)
        findings.files.update(entries.values())
        files = {image_id: self._file(xml, findings) for image_id, xml in entries.items()}
        every = [file for xml in self._all_xml() if (file := self._file(xml))]
        names = tuple(class_names) if class_names is not None else read_class_list(root, root.upwards(self.folder))
        if names is None:
            names = tuple(sorted({name for file in every for name in file.names}))
        finder = _StemFinder(root, place.images, own)
        images: dict[Path, str] = {}
        for image_id, file in files.items():
            image = finder.find(image_id, file, entries[image_id], findings) if file else None
            if image and (first := images.setdefault(image, image_id)) != image_id:
                message = f"its image, {image.name}, is also that of {entries[first].relative_to(root.path)}"
                findings.fault("duplicate", entries[image_id], message)
        headers = findings.headers(list(images))
        origin = 0 if _counts_from_0(every, place, findings) else 1
        annotated = [
            _annotations(image_id, image, headers[image], entries[image_id], file, origin)
            for image, image_id in images.items()
            if image in headers and (file := files[image_id])
        ]
        records = findings.records(annotated, names)
        if place.ids is None:
            self._note_unlabelled(images, findings)
        return Opened(names, records)

    def _ids(self, place: VocSplit) -> Names[Path]:
        """The XML files in and below the folder of a split, by ID, without those in the folders of other splits."""
        root, folder = self.root, place.xml
        if folder == self.folder:  # the folders below it may hold anything
            files = root.files(folder, ".xml")
        else:
            files = root.tree(folder, ".xml", {other.xml for other in self.splits.values()} - {folder})
        start = len(str(folder)) + 1
        return Names((os.path.splitext(str(xml)[start:])[0].replace(os.sep, "/"), xml) for xml in files)

    def _all_xml(self) -> list[Path]:
        folders = {place.xml: place for place in self.splits.values()}
        return [xml for place in folders.values() for xml in self._ids(place).values()]

    def _file(self, xml: Path, findings: Findings | None = None) -> VocFile | None:
        """The content of an XML file, which is read once; None if the whole file is broken. Faults go to `findings`.

        Faults in the files of other splits are reported when those are opened.
        """
        if xml not in self._read or (findings and findings.on_error == "raise" and self._read[xml][1]):
            own = Findings(self.root.path, findings.on_error if findings else "collect")
            self._read[xml] = _read_xml(xml, own), tuple(own.defects)
        file, defects = self._read[xml]
        if findings:
            findings.defects += defects
        return file

    def _note_unlabelled(self, used: Iterable[Path], findings: Findings) -> None:
        """Counts images beside the used ones that have no XML file. They do not count as images without objects."""
        known = Names((xml.stem, xml) for xml in self._all_xml())
        for folder in dict.fromkeys(image.parent for image in used):
            for image in self.root.images(folder):
                if known.find(image.stem) is None and known.find(image.name) is None:
                    findings.note("missing-annotation", image, "no XML file of its name: image left out")


def is_annotation(path: Path) -> bool:
    """Whether a file holds annotations of this format, judged by its beginning."""
    return path.suffix.lower() == ".xml" and _ROOT.search(sniff(path, 4096)) is not None


def _any_voc(files: Iterable[Path]) -> bool:
    """Whether any of the XML files is not CVAT's. Opens their beginnings until one is found."""
    return any("<annotations" not in sniff(path, 4096) for path in files)


def recognize(root: Root, folder: Path) -> VocLayout | None:
    """The VOC layout of a folder, or None if it has none. Opens the beginnings of XML files."""
    apart = (inner for name in _XML if (inner := root.folder(folder, name)))
    xml = next((inner for inner in apart if _any_voc(root.tree(inner, ".xml"))), None)
    beside = root.folder(folder, "jpegimages", *IMAGE_FOLDERS)
    images = tuple(place for place in [beside, xml, folder] if place)
    lists = _split_lists(root, folder)
    if not lists and not (xml and any(split_kind(inner.name) for inner in root.subfolders(xml))):
        lists = _other_lists(root, folder)
    near = root.folder(folder, "jpegimages", *IMAGE_FOLDERS[:-1])  # not `data`, which may hold anything
    for place in [xml, near, folder] if lists else []:
        if place and _any_voc(root.files(folder, ".xml") if place == folder else root.tree(place, ".xml")):
            return VocLayout(root, folder, {name: VocSplit(place, images, ids) for name, ids in lists.items()})
    splits = _split_folders(root, xml, images) if xml else {}
    if not splits:
        for inner in root.subfolders(folder):
            if split_kind(inner.name):
                within = root.folder(root.guarded(inner), *_XML) or inner
                own = (root.folder(inner, "jpegimages", *IMAGE_FOLDERS), within, inner)
                if _any_voc(root.tree(within, ".xml")):
                    splits[inner.name] = VocSplit(within, tuple(path for path in own if path))
        if _any_voc(root.files(folder, ".xml")):
            splits.setdefault("train", VocSplit(folder, images))
    return VocLayout(root, folder, splits) if splits else None


def _split_folders(root: Root, xml: Path, images: tuple[Path, ...]) -> dict[str, VocSplit]:
    """Splits by the subfolders of `Annotations`, if there are no lists."""
    at_top = root.files(xml, ".xml")
    folders = {path.name: path for path in root.subfolders(xml) if root.tree(path, ".xml")}
    if at_top and not any(split_kind(name) for name in folders):
        return {"train": VocSplit(xml, images)}
    splits = {}
    for name, folder in folders.items():
        beside = tuple(inner for outer in images if (inner := root.folder(outer, name)))
        splits[name] = VocSplit(folder, beside + images)
    return splits


def _sets(root: Root, folder: Path) -> Path | None:
    """`ImageSets` in the folder, or in the nearest parent that has it."""
    return next((sets for place in root.upwards(folder) if (sets := root.folder(place, "imagesets"))), None)


def _split_lists(root: Root, folder: Path) -> dict[str, Path]:
    """The lists `ImageSets/Main/*.txt`, or else `ImageSets/*.txt`, by split, without lists of a single class."""
    sets = _sets(root, folder)
    places = [place for place in (sets and root.folder(sets, "main"), sets) if place]
    return next((lists for place in places if (lists := _lists_in(root, place))), {})


def _other_lists(root: Root, folder: Path) -> dict[str, Path]:
    """The lists in `ImageSets/Segmentation`, or else in the first other folder there that has any."""
    sets = _sets(root, folder)
    folders = sorted(root.subfolders(sets), key=lambda inner: inner.name.lower() != "segmentation") if sets else []
    return next((lists for inner in folders if (lists := _lists_in(root, root.guarded(inner)))), {})


def _lists_in(root: Root, folder: Path) -> dict[str, Path]:
    lists = {path.stem: path for path in root.files(folder, ".txt")}
    return {name: path for name, path in lists.items() if not _is_class_list(name, path, lists)}


def _is_class_list(name: str, path: Path, lists: dict[str, Path]) -> bool:
    """Whether `CLASS_SPLIT.txt` lists one class of the split `SPLIT.txt`, with lines `ID -1`, `ID 0` or `ID 1`."""
    class_name, _, split = name.rpartition("_")
    if not class_name or split not in lists:
        return False
    first = next((line for line in read_lines(path) if line), "")
    return first.split()[-1:] in (["-1"], ["0"], ["1"]) and len(first.split()) > 1


def _listed(root: Root, place: VocSplit, ids: Path, own: Names[Path], findings: Findings) -> dict[str, Path]:
    """The XML file of each image that a list names, by ID."""
    by_name: Names[list[str]] = Names()
    for image_id in own:
        by_name.setdefault(os.path.basename(image_id), []).append(image_id)
    ids_of = {xml: image_id for image_id, xml in own.items()}
    entries: dict[str, Path] = {}
    for line, text in enumerate(read_lines(ids), 1):
        if not text:
            continue
        stem, suffix = os.path.splitext(text.replace("\\", "/"))
        wanted = os.path.normpath(stem if suffix.lower() in (*SUFFIXES, ".xml") else text.replace("\\", "/"))
        parts = wanted.split("/")
        alike = by_name.find(wanted) or []
        ends = ["/".join(parts[start:]) for start in range(len(parts))] + (alike if len(alike) == 1 else [])
        xml = next((found for end in ends if (found := own.find(end))), None)
        if xml and ids_of[xml] in entries:
            findings.note("duplicate", ids, f"line {line}: '{text}' is listed twice: used once", line)
        elif xml:
            entries[ids_of[xml]] = xml
        elif wanted.startswith("..") or root.join(place.xml, f"{wanted}.xml") is None:
            findings.fault("path-escape", ids, f"line {line}: '{text}' leads outside {root.path}", line)
        elif alike:
            message = f"line {line}: '{text}' may be {' or '.join(alike[:3])}: image left out; name its folder"
            findings.note("missing-annotation", ids, message, line)
        else:
            message = f"line {line}: '{text}' has no {place.xml.relative_to(root.path) / wanted}.xml: image left out"
            findings.note("missing-annotation", ids, message, line)
    return entries


class _StemFinder:
    """Finds images by the stem of their name, whatever their suffix.

    Args:
        folders: folders in which the images may lie. The image of ID `cam/0` is looked for in `cam` below them and, if
            no XML file has the ID `0`, also directly in them.
        ids: the IDs of all XML files.
    """

    def __init__(self, root: Root, folders: tuple[Path, ...], ids: Names[Path]) -> None:
        self.root, self.folders, self.ids = root, folders, ids
        self._names: dict[Path, Names[list[str]]] = {}

    def find(self, image_id: str, file: VocFile, xml: Path, findings: Findings) -> Path | None:
        """The image; None if it is left out and counted."""
        parent, stem = os.path.split(image_id)
        parents = [parent] if not parent or stem in self.ids else [parent, ""]
        inner = [self.root.join(outer, parent) if parent else outer for parent in parents for outer in self.folders]
        places = [folder for folder in inner if folder and folder.is_dir()]
        for folder in places:
            if names := self._in(folder).find(stem):
                path = folder / (file.file_name if file.file_name in names else names[0])
                if path.suffix.lower() in UNREAD_SUFFIXES:
                    continue  # another folder may have the photo in a kind that is read
                if self.root.holds(path):
                    return path
                message = f"{path.name} is a link that leads outside {self.root.path}"
                findings.fault("path-escape", path, f"{message}; pass the folder that holds both")
                return None
        for folder in places:
            if names := self._in(folder).find(stem):
                findings.unread(folder / names[0])
                return None
        looked = ", ".join(str(folder.relative_to(self.root.path)) for folder in self.folders)
        findings.note("missing-image", xml, f"no image '{image_id}' in {looked}: left out", error=ImageError)
        return None

    def _in(self, folder: Path) -> Names[list[str]]:
        """The images of a folder by stem and, for `a.jpg.xml`, by name. Kinds that are not read come last."""
        if folder not in self._names:
            names: Names[list[str]] = Names()
            for path in (*self.root.images(folder), *self.root.images(folder, UNREAD_SUFFIXES)):
                names.setdefault(path.stem, []).append(path.name)
                names.setdefault(path.name, []).append(path.name)
            self._names[folder] = names
        return self._names[folder]


def _counts_from_0(files: Sequence[VocFile], place: VocSplit, findings: Findings) -> bool:
    """Whether the corners of a data set count from 0. If so, a remark says it."""
    least = np.concatenate([np.zeros(0), *(file.corners[:, :2].min(axis=1) for file in files)])
    with np.errstate(invalid="ignore"):
        zeros, ones = int(((least >= 0) & (least < 1)).sum()), int((least == 1).sum())
    if zeros <= ones or zeros < _RARE * len(least):
        return False
    message = f"{zeros} of {len(least)} objects begin at 0, {ones} at 1: corners are read as counted from 0, not from 1"
    findings.remark("counts-from-0", place.xml, message)
    return True


def _annotations(image_id: str, image: Path, header: ImageHeader, xml: Path, file: VocFile, first: int) -> Annotations:
    return Annotations(
        image_id,
        image,
        header,
        xml,
        file.names,
        from_voc(file.corners, first),
        file.indices,
        numbered("object {}", file.indices),
        file.size,
        difficult=file.difficult,
    )


def _read_xml(path: Path, findings: Findings) -> VocFile | None:
    """The content of an XML file; None if the whole file is broken and errors are collected."""
    try:
        root = read_xml(path, "annotation")
    except AnnotationError as error:
        findings.broken(path, error)
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
            hard = _difficult(element, name, index, path, findings)
        except ValueError as error:
            label = f"object {index}" + (f" ('{name}')" if name else "")
            findings.fault("bad-object", path, f"{label}: {error}", index)
            continue
        names.append(name)
        corners.append(values)
        difficult.append(hard)
        indices.append(index)
    file_name = os.path.basename((root.findtext("filename") or "").strip().replace("\\", "/"))
    boxes = np.array(corners, dtype=np.float64).reshape(-1, 4)
    return VocFile(file_name, _size(root), tuple(names), boxes, tuple(difficult), tuple(indices))


def _difficult(element: Element, name: str, index: int, path: Path, findings: Findings) -> bool:
    text = element.findtext("difficult")
    try:
        hard = flag(text)
    except ValueError:
        raise ValueError(f"<difficult> is '{(text or '').strip()[:40]}', not a number") from None
    if text is not None and hard is None:
        message = f"object {index} ('{name}'): <difficult> is '{text.strip()}': counts as not difficult"
        findings.remark("difficult-open", path, message, index)
    return bool(hard)


def _number(element: Element, tag: str) -> float:
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"no <{tag}>")
    try:
        return number(text)
    except ValueError:
        raise ValueError(f"<{tag}> is '{text.strip()[:40]}', not a number") from None


def _size(root: Element) -> tuple[float, float] | None:
    """Height and width as given; None if they are missing, zero or not numbers, as the image's header has them."""
    size = root.find("size")
    try:
        height, width = (_number(size, "height"), _number(size, "width")) if size is not None else (0.0, 0.0)
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None


def write_voc(path: str | Path, image: AnnotatedImage, class_names: Sequence[str]) -> None:
    """Writes the VOC XML file of one image, which `open_dataset` and other tools can read.

    Corners are 1-based and inclusive, as in VOC, with up to three decimals. A side of one pixel or less would be read
    as no side, so it is written as just over one pixel. Scores are in `<score>`, which readers of VOC ignore.

    Args:
        path: the file; it is written completely or not at all.
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


def _finish(folder: Path, images: Sequence[AnnotatedImage], class_names: Sequence[str], detector: str) -> None:
    write_list(folder / "ImageSets" / "Main" / "train.txt", [Path(image.file_name).stem for image in images])
    write_list(folder / "classes.txt", class_names)  # the XML files name only the classes that occur


FORMAT = Format(
    recognize,
    is_annotation,
    looked_for="Annotations/*.xml with JPEGImages/, or *.xml beside the images",
    writer=Writer("JPEGImages", _finish, "Annotations/{}.xml", write_voc),
)
