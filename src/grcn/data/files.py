"""Finding and opening the files of a data set: names that annotations give lead inside its root or nowhere."""

from __future__ import annotations

import os
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Container
from pathlib import Path

from grcn.data.image import SUFFIXES
from grcn.errors import AnnotationError, DataError

MAX_TEXT = 2**26  # bytes of a list, label or XML file; the largest real ones are a hundredth of it

CLASS_LISTS = ("classes.txt", "labels.txt", "obj.names")

_QUOTE = reprlib.Repr()
_QUOTE.maxlevel = 2  # deeper, YAML's aliases multiply

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


def split_kind(name: str) -> str | None:
    """What a split is by its usual name: train, trainval, val, test; None for any other.

    >>> split_kind("train2017"), split_kind("Valid"), split_kind("fold3")
    ('train', 'val', None)
    """
    return _KINDS.get(re.sub(r"[-_ ]*\d*$", "", name.lower()))


class Root:
    """A data set's folder, and the guard of its border.

    Args:
        path: the folder; its symbolic links are followed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.realpath(path))
        self._folders: dict[str, bool] = {}

    def holds(self, path: str | Path) -> bool:
        """Whether the path, with its symbolic links followed, lies inside the root."""
        try:
            if os.path.islink(path):
                return self._inside(path)
            # Links are followed once per folder: a data set has few folders and very many files.
            parent = os.path.dirname(path)
            if parent not in self._folders:
                self._folders[parent] = self._inside(parent)
            return self._folders[parent] or Path(path) == self.path
        except (OSError, ValueError):  # names that no file system takes
            return False

    def _inside(self, path: str | Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self.path)

    def join(self, folder: Path, name: str) -> Path | None:
        """`folder / name`, or None where that leaves the root by `..`, an absolute path or a symbolic link."""
        if not name or "\0" in name:
            return None
        path = os.path.normpath(os.path.join(folder, name))
        return Path(path) if self.holds(path) else None

    def guarded(self, path: Path) -> Path:
        """The path itself.

        Raises:
            AnnotationError: if a symbolic link leads it outside the root.
        """
        if not self.holds(path):
            raise AnnotationError(
                f"{path}: a link that leads outside {self.path}, which is not followed; pass the folder that holds both"
            )
        return path

    def folder(self, parent: Path, *names: str) -> Path | None:
        """The first of the named (in lower case) subfolders that exists, whatever the case of its own letters.

        Raises:
            AnnotationError: if it is a link that leads outside the root.
        """
        found = {path.name.lower(): path for path in reversed(subfolders(parent))}
        return next((self.guarded(found[name]) for name in names if name in found), None)

    def files(self, parent: Path, suffix: str) -> list[Path]:
        """The files with a suffix, by name; hidden ones left out.

        Raises:
            AnnotationError: if one is a link that leads outside the root.
        """
        return [self.guarded(path) for path in _list(parent, lambda e: e.name.lower().endswith(suffix) and e.is_file())]

    def tree(self, parent: Path, suffix: str, without: Container[Path] = ()) -> list[Path]:
        """The files with a suffix in a folder and in those below it, folder by folder.

        Args:
            without: folders below it that are passed over.

        Raises:
            AnnotationError: if a file or a folder is a link that leads outside the root.
        """
        found: list[Path] = []
        folders, seen = [parent], set()
        while folders:
            folder = self.guarded(folders.pop())
            if (real := os.path.realpath(folder)) not in seen:  # links may lead in circles
                seen.add(real)
                found += self.files(folder, suffix)
                folders += [inner for inner in reversed(subfolders(folder)) if inner not in without]
        return found


def subfolders(parent: Path) -> list[Path]:
    """The subfolders, by name; hidden ones left out. Links among them are not followed here."""
    return _list(parent, lambda e: e.is_dir())


def image_files(parent: Path, suffixes: Container[str] = SUFFIXES) -> list[Path]:
    """The image files of a folder, by suffix, sorted by name; hidden ones left out."""
    return _list(parent, lambda e: os.path.splitext(e.name)[1].lower() in suffixes)


def by_stem(parent: Path, suffix: str) -> dict[str, Path]:
    """What a folder has with a suffix, whatever the case of its letters, by stem; hidden ones left out.

    Of names that differ in that case only, the one in lower case.
    """
    return {path.stem: path for path in _list(parent, lambda e: e.name.lower().endswith(suffix))}


def _list(parent: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return [parent / name for name in sorted(e.name for e in entries if e.name[0] != "." and wanted(e))]
    except OSError as error:
        raise DataError(f"{parent}: cannot be listed: {error.strerror}") from None


def read_bytes(path: Path, limit: int = MAX_TEXT) -> bytes:
    """A file's bytes.

    Raises:
        AnnotationError: if it cannot be read or is larger than `limit`.
    """
    try:
        if not path.is_file():
            raise AnnotationError(f"{path}: not a file")
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > limit:
        raise AnnotationError(f"{path}: larger than {limit} bytes")
    return data


def read_start(path: Path, size: int) -> bytes:
    """A file's first bytes; none where it cannot be read."""
    try:
        if path.is_file():  # opening a pipe would wait for ever
            with open(path, "rb") as file:
                return file.read(size)
    except OSError:
        pass
    return b""


def read_lines(path: Path) -> list[str]:
    """A UTF-8 text file's lines, stripped; empty ones are kept, so that index + 1 is the line's number.

    Raises:
        AnnotationError: if it cannot be read or is not UTF-8.
    """
    try:
        return [line.strip() for line in read_bytes(path).decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None


def read_class_list(root: Root, folder: Path | None = None) -> tuple[str, ...] | None:
    """The class names in `classes.txt` or the like, one a line, where the folder (default: the root) has one.

    Raises:
        AnnotationError: if a name stands there twice.
    """
    for name in CLASS_LISTS:
        path = (folder or root.path) / name
        if path.is_file():
            names = tuple(line for line in read_lines(root.guarded(path)) if line)
            check_names(names, str(path))
            return names
    return None


def check_names(names: tuple[str, ...], where: str) -> None:
    """Raises AnnotationError if a class name occurs twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise AnnotationError(f"{where}: class '{twice[0]}' is named twice")


def number(text: object) -> float:
    """A number from an annotation, NaN and infinity included.

    Raises:
        ValueError: for anything else.

    >>> number(" 12.50"), number("1e3")
    (12.5, 1000.0)
    """
    if type(text) is float:  # nearly all of a COCO file's millions
        return text
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ValueError("not a number")
    if isinstance(text, str) and ("_" in text or not text.isascii()):
        raise ValueError("not a number")  # float() takes 1_000 and digits of every script
    try:
        return float(text)
    except OverflowError:
        return float("inf")


def shown(value: object) -> str:
    """A value from an annotation as an error message quotes it: short, whatever it is.

    >>> shown([1, 2, 3]), shown("a" * 100)
    ('[1, 2, 3]', "'aaaaaaaaaaaa...aaaaaaaaaaaaa'")
    """
    text = _QUOTE.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
