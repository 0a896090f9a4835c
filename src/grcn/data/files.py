"""Finds the files of a data set. A name from an annotation leads to a file inside the root, or to none.

A folder is listed once. If there is no exact match, a name also matches a file whose name differs only in letter case
or Unicode form, so that a data set written on one system can be read on another.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import TypeVar
from unicodedata import normalize

from grcn.data.image import SUFFIXES, UNREAD_SUFFIXES, unread
from grcn.data.text import read_lines, shown
from grcn.errors import AnnotationError, DataError

CLASS_LISTS = ("classes.txt", "labels.txt", "obj.names")
IMAGE_FOLDERS = ("images", "jpegimages", "image", "imgs", "data")
"""Names of folders of images, in lower case."""

_KINDS = {
    "train": "train",
    "training": "train",
    "trainval": "trainval",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

T = TypeVar("T")


def split_kind(name: str) -> str | None:
    """The role of a split by its usual name: train, trainval, val or test; None for any other name.

    >>> split_kind("train2017"), split_kind("Valid"), split_kind("fold3")
    ('train', 'val', None)
    """
    return _KINDS.get(re.sub(r"[-_ ]*\d*$", "", name.lower()))


def named_split(name: str) -> str | None:
    """The split that is named in the name of a file, among other words; None if it names none or several.

    >>> named_split("oidv6-train-annotations-bbox"), named_split("Valid_labels"), named_split("annotations")
    ('train', 'Valid', None)
    """
    words = [word for word in re.split(r"[\W_]+", name) if split_kind(word)]
    return words[0] if len(words) == 1 else None


def split_by_folder(name: str) -> str | None:
    """The folder in the annotated name of an image that is named after a split; None if there is none.

    >>> split_by_folder("photos/train/cam0/1.jpg"), split_by_folder("test/1.jpg"), split_by_folder("train.jpg")
    ('train', 'test', None)
    """
    return next((part for part in reversed(name.replace("\\", "/").split("/")[:-1]) if split_kind(part)), None)


class Names(dict[str, T]):
    """Values by name. `find` also matches names that differ only in case or Unicode form.

    >>> Names({"A.JPG": 1, "b": 2, "B": 3}).find("a.jpg"), Names({"b": 2, "B": 3}).find("b"), Names({"c": 4}).find("d")
    (1, 2, None)
    """

    _alike: dict[str, list[str]] | None = None

    def find(self, name: str) -> T | None:
        """The value of that name, or else the only one whose name differs only in case or Unicode form."""
        if name in self:
            return self[name]
        if self._alike is None:
            self._alike = {}
            for own in self:
                self._alike.setdefault(_folded(own), []).append(own)
        alike = self._alike.get(_folded(name), [])
        return self[alike[0]] if len(alike) == 1 else None


def _folded(name: str) -> str:
    return normalize("NFC", normalize("NFC", name).casefold())


class Folder:
    """The entries of a folder, sorted by name, without hidden ones.

    Args:
        path: the folder.

    Attributes:
        names: all names; `folders` and `files` are subsets (a link counts as what it leads to).
        links: the names that are links.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with os.scandir(path) as listed:
                entries = sorted((e for e in listed if e.name[0] != "."), key=lambda e: e.name)
        except OSError as error:
            raise DataError(f"{path}: cannot be listed: {error.strerror}") from None
        self.names = Names((e.name, e.name) for e in entries)
        self.folders = Names((e.name, e.name) for e in entries if e.is_dir())
        self.files = [e.name for e in entries if e.is_file()]
        self.links = frozenset(e.name for e in entries if e.is_symlink())


class Root:
    """The folder of a data set. It makes sure that nothing outside of it is opened.

    Args:
        path: the folder; its symbolic links are followed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.realpath(path))
        self._inside: dict[str, bool] = {}
        self._listed: dict[Path, Folder] = {}

    def holds(self, path: str | Path) -> bool:
        """Whether the path, with its symbolic links followed, lies inside the root."""
        try:
            if os.path.islink(path):
                return self._leads_inside(path)
            # Links are followed once per folder: a data set has few folders and very many files.
            parent = os.path.dirname(path)
            if parent not in self._inside:
                self._inside[parent] = self._leads_inside(parent)
            return self._inside[parent] or Path(path) == self.path
        except (OSError, ValueError):  # names that no file system takes
            return False

    def _leads_inside(self, path: str | Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self.path)

    def join(self, folder: Path, name: str) -> Path | None:
        """`folder / name`, or None if that leaves the root by `..`, an absolute path or a symbolic link."""
        if not name or "\0" in name:
            return None
        path = os.path.normpath(os.path.join(folder, name))
        return Path(path) if self.holds(path) else None

    def guarded(self, path: Path) -> Path:
        """Returns the path unchanged.

        Raises:
            AnnotationError: if a symbolic link leads it outside the root.
        """
        if not self.holds(path):
            raise AnnotationError(
                f"{path}: a link that leads outside {self.path}, which is not followed; pass the folder that holds both"
            )
        return path

    def listing(self, folder: Path) -> Folder:
        """The entries of a folder inside the root, as they were at the first request.

        Raises:
            DataError: if it cannot be listed.
        """
        if folder not in self._listed:
            self._listed[folder] = Folder(folder)
        return self._listed[folder]

    def folder(self, parent: Path, *names: str) -> Path | None:
        """The first of the named subfolders that exists, whatever the case of its letters.

        Raises:
            AnnotationError: if it is a link that leads outside the root.
        """
        found = next((name for wanted in names if (name := self.listing(parent).folders.find(wanted))), None)
        return self.guarded(parent / found) if found else None

    def subfolders(self, parent: Path) -> list[Path]:
        """The subfolders, by name; hidden ones left out. Links among them are not followed here."""
        return [parent / name for name in self.listing(parent).folders]

    def files(self, parent: Path, suffix: str) -> list[Path]:
        """The files with a suffix, by name; hidden ones left out.

        Raises:
            AnnotationError: if one is a link that leads outside the root.
        """
        return [self.guarded(parent / name) for name in self.listing(parent).files if name.lower().endswith(suffix)]

    def images(self, parent: Path, suffixes: Container[str] = SUFFIXES) -> list[Path]:
        """The image files of a folder, by suffix, sorted by name; hidden ones left out."""
        return [parent / name for name in self.listing(parent).names if os.path.splitext(name)[1].lower() in suffixes]

    def by_stem(self, parent: Path, suffix: str) -> Names[Path]:
        """The entries of a folder with a suffix in any letter case, by stem, without hidden ones.

        Of entries whose suffixes differ only in case, the one in lower case is used.
        """
        names = self.listing(parent).names
        return Names((os.path.splitext(n)[0], parent / n) for n in names if n.lower().endswith(suffix))

    def tree(self, parent: Path, suffix: str, without: Container[Path] = ()) -> list[Path]:
        """The files with a suffix in a folder and in those below it, folder by folder.

        Args:
            without: folders below it that are passed over.

        Raises:
            AnnotationError: if a file or a folder is a link that leads outside the root.
        """
        return self.walk(parent, lambda folder: self.files(folder, suffix), without, self.guarded)

    def walk(
        self,
        parent: Path,
        of: Callable[[Path], Sequence[Path]],
        without: Container[Path] = (),
        guard: Callable[[Path], Path | None] = lambda path: path,
    ) -> list[Path]:
        """The results of `of` for a folder and all folders below it, folder by folder.

        Args:
            without: folders below it that are passed over.
            guard: gives a folder to go into, or None.
        """
        found: list[Path] = []
        folders, seen = [parent], set()
        while folders:
            folder = guard(folders.pop())
            if folder and (real := os.path.realpath(folder)) not in seen:  # links may lead in circles
                seen.add(real)
                found += of(folder)
                folders += [inner for inner in reversed(self.subfolders(folder)) if inner not in without]
        return found

    def upwards(self, folder: Path) -> list[Path]:
        """The folder and its parents, up to the root."""
        return [place for place in (folder, *folder.parents) if place.is_relative_to(self.path)]


def image_folders(root: Root, folder: Path, split: str) -> tuple[Path, ...]:
    """Folders in which the images of a split named in a file may lie, the most likely first."""
    images = root.folder(folder, *IMAGE_FOLDERS)
    outer = [place for place in (folder, images) if place]
    inner = [found for place in outer if (found := root.folder(place, split))]
    kind = split_kind(split)
    for place in outer if kind and not inner else []:
        inner += [root.guarded(found) for found in root.subfolders(place) if split_kind(found.name) == kind]
    return tuple(dict.fromkeys(inner + ([images] if images else []) + [folder]))


class NotFoundError(Exception):
    """The reason why an image that an annotation names cannot be used.

    Args:
        kind: kind of defect.
        message: the fault, with the name.
        file: the file that was found in its place.
    """

    def __init__(self, kind: str, message: str, file: Path | None = None) -> None:
        super().__init__(message)
        self.kind, self.file = kind, file


class ImageFinder:
    """Finds the images that annotations name, by the longest end of the name that leads to a file in the folders.

    Names are often paths of another machine, and their separators may be backslashes. Nothing outside the root is
    searched. If two different names lead to the same file only by their ends, the second one is not found, since the
    file could belong to either.

    Args:
        root: the folder that all images must be inside.
        folders: folders in which the images may lie, the most likely first.
    """

    def __init__(self, root: Root, folders: Sequence[Path]) -> None:
        self.root, self.folders = root, tuple(dict.fromkeys(folders))
        self._places: dict[tuple[Path, tuple[str, ...]], Path | None] = {}
        self._found: dict[Path, tuple[list[str], bool]] = {}

    def find(self, name: str) -> Path:
        """The image file.

        Raises:
            NotFoundError: if there is none, or it is of a kind that is not read.
        """
        own = self.root.join(self.root.path, name) if os.path.isabs(name) else None
        relative = os.path.relpath(own, self.root.path) if own else name
        for text in dict.fromkeys((relative, relative.replace("\\", "/"))):  # a backslash may belong to a name, too
            parts = [part for part in os.path.normpath(text).split("/") if part not in ("", ".")]
            climbs = parts.count("..")  # all of them at the beginning
            for start in (0, *range(max(climbs, 1), len(parts))) if parts else ():
                for folder in self.folders:
                    if path := self._at(folder, parts[start:]):
                        return self._checked(path, parts, start > 0, name)
        if "\0" in name or (own is None and (os.path.isabs(name) or self._leaves(climbs))):
            raise NotFoundError("path-escape", f"{shown(name)} leads outside {self.root.path}")
        looked = ", ".join(os.path.relpath(folder, self.root.path) for folder in self.folders)
        raise NotFoundError("missing-image", f"no image {shown(name)} in {looked}")

    def _leaves(self, climbs: int) -> bool:
        return any(climbs > len(folder.relative_to(self.root.path).parts) for folder in self.folders)

    def _at(self, folder: Path, parts: Sequence[str]) -> Path | None:
        """The file at a path below a folder. Each folder on the way is looked up only once."""
        key = (folder, tuple(parts[:-1]))
        if key not in self._places:
            place: Path | None = folder
            for part in parts[:-1]:
                if place:
                    place = place.parent if part == ".." else self._inner(place, part)
                place = place if place and place.is_relative_to(self.root.path) else None
            self._places[key] = place
        place = self._places[key]
        listed = self.root.listing(place) if place else None
        found = listed.names.find(parts[-1]) if listed else None
        return listed.path / found if listed and found and found not in listed.folders else None

    def _inner(self, folder: Path, name: str) -> Path | None:
        found = self.root.listing(folder).folders.find(name)
        return folder / found if found and self.root.holds(folder / found) else None

    def _checked(self, path: Path, parts: list[str], by_end: bool, name: str) -> Path:
        if path.name in self.root.listing(path.parent).links and not self.root.holds(path):
            message = f"{shown(name)} is a link that leads outside {self.root.path}"
            raise NotFoundError("path-escape", f"{message}; pass the folder that holds both", path)
        if path.suffix.lower() in UNREAD_SUFFIXES:
            raise NotFoundError("unread-kind", unread(path.suffix), path)
        first, first_by_end = self._found.setdefault(path, (parts, by_end))
        if first != parts and (by_end or first_by_end):
            raise NotFoundError("ambiguous-name", f"{shown(name)} and {shown('/'.join(first))} both end in {path.name}")
        return path


def read_class_list(root: Root, places: Iterable[Path]) -> tuple[str, ...] | None:
    """The class names in `classes.txt` or a similar file, one per line, from the first folder that has one.

    Raises:
        AnnotationError: if a name occurs twice.
    """
    for place in places:
        for name in CLASS_LISTS:
            if (found := root.listing(place).names.find(name)) and (place / found).is_file():
                return read_names(root.guarded(place / found))
    return None


def read_names(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one per line.

    Raises:
        AnnotationError: if a name occurs twice.
    """
    names = tuple(line for line in read_lines(path) if line)
    check_names(names, str(path))
    return names


def check_names(names: tuple[str, ...], where: str) -> None:
    """Raises AnnotationError if a class name occurs twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise AnnotationError(f"{where}: class '{twice[0]}' is named twice")
