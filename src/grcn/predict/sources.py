"""The sources of `grcn predict`: images, folders, glob patterns, videos, standard input and live streams.

Each source gets a unique name."""

from __future__ import annotations

import glob
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grcn.data.formats import WRITERS
from grcn.data.image import SUFFIXES, UNREAD_SUFFIXES, unread
from grcn.errors import DataError

VIDEO_SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts"])
_LIVE = re.compile(r"(rtsps?|https?)://(?P<where>.+)|camera:(?P<camera>.+)", re.IGNORECASE | re.DOTALL)
RESULTS = ("drawn", "frames", *WRITERS)
"""The folders that `grcn predict` makes in its `--out`."""


@dataclass(frozen=True)
class Source:
    """One image, video or live source.

    Args:
        path: the file; None: standard input, or live.
        name: the name of its outputs, without suffix; unique in a run, whatever the letter case.
        address: the address of a live source (`grcn.predict.video.read_live`).
    """

    path: Path | None
    name: str
    address: str = ""

    @property
    def is_live(self) -> bool:
        return bool(self.address)

    @property
    def is_video(self) -> bool:
        return self.is_live or (self.path is not None and self.path.suffix.lower() in VIDEO_SUFFIXES)

    def __str__(self) -> str:
        if self.is_live:
            return re.sub(r"//[^/?#]*@", "//", self.address)  # without user and password
        return "-" if self.path is None else str(self.path)


def find_sources(arguments: Sequence[str], out: Path) -> tuple[list[Source], list[Path]]:
    """Finds the images and videos that the arguments name, each file once, in order.

    Args:
        arguments: files; folders, which are searched with their subfolders; glob patterns (`**` for subfolders); `-`;
            or a single live source: `rtsp://...`, `http://...`, `camera:NAME`, or a device such as /dev/video0.
        out: the folder of results. Files in the result folders of an earlier run are not used as sources.

    Returns:
        The sources, and the files in folders that were left out because they have no suffix of an image or video.

    Raises:
        DataError: if an argument matches nothing, a source would be overwritten, or a live source is not the only one.
    """
    live = [source for source in map(_live_source, arguments) if source is not None]
    if live and len(arguments) > 1:
        raise DataError(f"{live[0]}: is a live stream, which has no end; give it as the only source")
    if live:
        return live, []
    results = {(out / folder).resolve() for folder in RESULTS}

    def is_result(path: Path) -> bool:
        return not results.isdisjoint(path.resolve().parents)

    paths: list[Path | None] = []
    left_out: list[Path] = []
    for argument in arguments:
        if argument == "-":
            paths.append(None)
            continue
        path = Path(argument)
        if path.is_dir():
            files = [file for file in _files_below(path) if not is_result(file)]
            known = [file for file in files if file.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES]
            if not known:
                photo = next((file for file in files if file.suffix.lower() in UNREAD_SUFFIXES), None)
                why = f"; {photo.name}: {unread(photo.suffix)}" if photo else ""
                raise DataError(f"{argument}: no image or video in this folder ({len(files)} other files){why}")
            paths += known
            left_out += [file for file in files if file.suffix.lower() not in SUFFIXES | VIDEO_SUFFIXES]
            continue
        if path.exists():
            files = [path]
        elif glob.has_magic(argument):
            found = sorted(Path(match) for match in glob.glob(argument, recursive=True))
            files = [file for file in found if file.is_file()]
            if not files:
                raise DataError(f"{argument}: no file matches this pattern")
        else:
            raise DataError(f"{argument}: no such file or folder")
        if overwritten := next(filter(is_result, files), None):
            raise DataError(f"{overwritten}: would be overwritten by the results in {out}; choose another --out")
        paths += files
    return _name(_unique(paths)), left_out


def _live_source(argument: str) -> Source | None:
    if Path(argument).is_char_device():
        argument = f"camera:{argument}"
    found = _LIVE.fullmatch(argument)
    if found is None:
        return None
    scheme, rest = argument.split(":", 1)
    where = found["camera"] or found["where"].rpartition("@")[2].partition("?")[0]
    name = "-".join(re.findall(r"[A-Za-z0-9]+", f"{scheme if found['camera'] else ''} {where}"))[:60] or "live"
    return Source(None, name, f"{scheme.lower()}:{rest}")


def _files_below(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders, sorted, without hidden ones."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(part[0] == "." for part in path.relative_to(folder).parts))


def _unique(paths: Iterable[Path | None]) -> list[Path | None]:
    """`paths` without those that lead to the same file as an earlier one."""
    seen: dict[Path | None, Path | None] = {}
    for path in paths:
        seen.setdefault(path and path.resolve(), path)
    return list(seen.values())


def _name(paths: Iterable[Path | None]) -> list[Source]:
    """Names sources after the stems of their files. If a stem is taken, a number is added: `a`, `a-2`, `a-3`.

    Names that differ only in letter case count as equal, since some file systems do not distinguish them. White space
    becomes `_`, since lists of images have one name per line and some readers split lines at blanks. Control characters
    and bytes that are not UTF-8 also become `_`, since neither XML nor such a list can hold them.
    """
    taken: set[str] = set()
    last: dict[str, int] = {}  # the number that each stem got last, since looking from 1 each time takes ever longer
    sources = []
    for path in paths:
        stem = "_".join(path.stem.split()) if path else "stdin"
        stem = "".join("_" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in stem)
        key = stem.casefold()
        name, number = stem, last.get(key, 1)
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        last[key] = number
        taken.add(name.casefold())
        sources.append(Source(path, name))
    return sources
