"""Finds files in the folder of a data set that no split uses, so that no file is ignored silently."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from grcn.data.files import CLASS_LISTS
from grcn.data.formats import FORMATS
from grcn.data.image import SUFFIXES, UNREAD_SUFFIXES, brand, unread
from grcn.data.records import Dataset, Defect
from grcn.data.text import read_start
from grcn.errors import AnnotationError, DataError, ImageError

# Files that are obviously not data, in lower case. Hidden files and folders are ignored as well.
_OTHERS = frozenset((*CLASS_LISTS, "generated", "thumbs.db", "desktop.ini"))  # `grcn data generate` makes `generated`
_ABOUT = ("readme", "license", "licence", "copying", "notice", "citation", "changelog")
_MASKS = ("segmentationclass", "segmentationobject")  # VOC's folders of masks, which are not photos

_PHOTOS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"\xff\x0a", b"\0\0\0\x0cJXL ")
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"crx ")


def unused_files(datasets: Sequence[Dataset], named: Iterable[Path]) -> list[Defect]:
    """Finds files below the folder of a data set that are in none of its splits.

    Links to folders are not followed, since files that they lead to inside the folder are found there.

    Args:
        datasets: all splits of the data set.
        named: files that other defects name already.

    Returns:
        Defects by path. Photos and annotations of the data set's format are `in-no-split`, photos of other kinds
        `unread-kind`, links that lead out `path-escape`, and folders that cannot be listed `unread-folder`. All other
        files are `unused-file`, which is only a remark.
    """
    root, format = datasets[0].root, datasets[0].format
    read = chain.from_iterable((*dataset.files, *(r.path for r in dataset.records)) for dataset in datasets)
    used = _real_paths(chain(read, named))
    found = []
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listed:
                entries = list(listed)
        except OSError as error:
            message = f"cannot be listed: {error.strerror}: its content is unknown"
            found.append(Defect("unread-folder", _name(root, folder), message, exit_code=DataError.exit_code))
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name[0] != "." and entry.name.lower() not in _MASKS:
                    folders.append(entry.path)
            elif entry.path not in used and not _is_furniture(entry):
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                if real not in used and (what := _what(Path(entry.path), Path(real), root, format)):
                    kind, message, exit_code = what
                    found.append(Defect(kind, _name(root, entry.path), message, exit_code=exit_code))
    return sorted(found, key=lambda defect: defect.file)


def _name(root: Path, path: str) -> str:
    return path.removeprefix(f"{root}{os.sep}")


def _real_paths(paths: Iterable[Path]) -> set[str]:
    """The paths with links in their folders resolved, and the targets of the paths that are links themselves."""
    folders: dict[str, str] = {}
    found = set()
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.join(folders[folder], name)
        found.add(real)
        if os.path.islink(real):
            found.add(os.path.realpath(real))
    return found


def _is_furniture(entry: os.DirEntry[str]) -> bool:
    name = entry.name.lower()
    if name[0] == "." or name in _OTHERS or name.startswith(_ABOUT) or name.endswith(".cache"):
        return True
    return name.endswith(".txt") and "imagesets" in entry.path.lower().split(os.sep)[-3:-1]


def _what(path: Path, real: Path, root: Path, format: str) -> tuple[str, str, int] | None:
    """The kind of defect, its message and exit code; None for a link to a folder inside the data set."""
    if not real.is_relative_to(root):
        return "path-escape", f"a link that leads outside {root}: not followed", AnnotationError.exit_code
    if real.is_dir():
        return None
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return "in-no-split", "a photo that is in no split: not used", AnnotationError.exit_code
    if suffix in UNREAD_SUFFIXES:
        return "unread-kind", unread(suffix), ImageError.exit_code
    if FORMATS[format].is_annotation(path):
        return "in-no-split", "annotations that are in no split: not used", AnnotationError.exit_code
    start = read_start(path, 16)
    if start.startswith(_PHOTOS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP") or brand(start) in _BRANDS:
        message = f"a photo by its content, but '{path.suffix}' is not the suffix of a kind that is read"
        return "unread-kind", message, ImageError.exit_code
    return "unused-file", "not used: neither a photo nor annotations of this format", 0
