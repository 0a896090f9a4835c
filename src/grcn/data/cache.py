"""A cache of large data sets, so that reading them again takes seconds.

A data set is stored in the user's cache folder (`grcn/datasets` in XDG_CACHE_HOME or ~/.cache). The key is a digest of
the request, of the name, size and modification time of every file below the folder and of the code that reads it, and
of the kinds of photos that can be read here. If one of these changes, everything is read again. The cache holds plain
arrays and text, and its boxes are checked like all others. A damaged file is ignored; if a file cannot be written, this
only costs time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grcn.data.image import SUFFIXES
from grcn.data.records import Dataset, Defect, ImageRecord
from grcn.errors import CheckpointError, DataError
from grcn.files import atomic_file
from grcn.types import Target

WORTH = 1000  # a data set with fewer files is not cached: it is read in a fifth of a second
MOST = 2**20  # nor is one with more files: examining them takes more than five seconds
_KEPT = 16  # cached data sets, the most recently read
_SETTLED = 2 * 10**9  # ns; a file that changed more recently may change again within one tick of its clock
_FIELDS = ("boxes", "labels", "difficult", "crowd", "areas")


def state(root: Path) -> bytes | None:
    """A digest of the files below a folder, of the code that reads them, and of the kinds of photos that are read here.

    None if caching is not worth it, or not safe: a link to a folder may lead to files that are not looked at."""
    now, count, digest = time.time_ns(), 0, blake2b(repr(sorted(SUFFIXES)).encode(), digest_size=16)
    with suppress(OSError):
        for source in sorted(Path(__file__).parent.rglob("*.py")):
            status = source.stat()
            digest.update(f"{source}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
        for name, size, changed in _tree(root):
            count += 1
            if now - changed < _SETTLED or count > MOST:
                return None
            digest.update(f"{name}\0{size}\0{changed}\0".encode(errors="surrogateescape"))
        return digest.digest() if count >= WORTH else None
    return None


def cache_file(state: bytes, asked: Sequence[object]) -> Path | None:
    """The cache file for one reading of a data set; None if the user has no home folder.

    Args:
        state: the digest of its folder; asked: the request, such as the split.
    """
    folder = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(folder) if os.path.isabs(folder) else Path("~/.cache").expanduser()
    except RuntimeError:
        return None
    digest = blake2b(state + repr(asked).encode(errors="surrogateescape"), digest_size=16)
    return base / "grcn" / "datasets" / f"{digest.hexdigest()}.npz"


def load(file: Path, root: Path) -> Dataset | None:
    """The data set in a cache file; None if there is none."""
    try:
        with open(file, "rb") as source, np.load(source, allow_pickle=False) as arrays:
            dataset = _unpacked({name: arrays[name] for name in arrays.files}, root)
    except Exception:  # numpy and zipfile raise all kinds of errors if the file is missing or damaged
        return None
    with suppress(OSError):
        os.utime(file)
    return dataset


def save(file: Path, dataset: Dataset) -> None:
    """Stores a data set that has images, and deletes the least recently read ones beyond _KEPT."""
    if not dataset.records:
        return
    with suppress(CheckpointError, OSError):
        with atomic_file(file, durable=False) as sink:
            np.savez(sink, **_packed(dataset))  # type: ignore[arg-type]
        files = sorted(file.parent.glob("*.npz"), key=lambda path: path.stat().st_mtime)
        for path in files[:-_KEPT]:
            path.unlink(missing_ok=True)


def _tree(folder: Path | str) -> Iterator[tuple[str, int, int]]:
    """Path, size and modification time in ns of each file below a folder, in a fixed order, without hidden files.

    For a link, both its own text and the file that it leads to count.

    Raises:
        OSError: on a link to a folder, and if a file or folder cannot be examined.
    """
    with os.scandir(folder) as listed:
        entries = sorted((entry for entry in listed if entry.name[0] != "."), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield entry.path, 0, 0
            yield from _tree(entry.path)
        elif entry.is_dir():
            raise NotADirectoryError(entry.path)
        elif entry.is_symlink():
            status = os.stat(entry.path) if os.path.exists(entry.path) else os.lstat(entry.path)
            yield f"{entry.path}\0{os.readlink(entry.path)}", status.st_size, status.st_mtime_ns
        else:
            status = entry.stat()
            yield entry.path, status.st_size, status.st_mtime_ns


def _packed(dataset: Dataset) -> dict[str, NDArray[Any]]:
    records, root = dataset.records, dataset.root
    text = {
        "format": dataset.format,
        "split": dataset.split,
        "class_names": dataset.class_names,
        "category_ids": dataset.category_ids,
        "ids": [record.image_id for record in records],
        "paths": [str(record.path.relative_to(root)) for record in records],
        "defects": [asdict(defect) for defect in dataset.defects],
        "files": [str(path) for path in dataset.files],
    }
    return {
        "text": np.frombuffer(json.dumps(text).encode(), np.uint8),
        "sizes": np.array([(record.height, record.width) for record in records], dtype=np.int64),
        "counts": np.array([len(record.target) for record in records], dtype=np.int64),
        **{name: np.concatenate([getattr(record.target, name) for record in records]) for name in _FIELDS},
    }


def _unpacked(arrays: dict[str, NDArray[Any]], root: Path) -> Dataset:
    text = json.loads(arrays["text"].tobytes())
    ends = [0, *np.cumsum(arrays["counts"]).tolist()]
    if any(len(arrays[name]) != ends[-1] for name in _FIELDS):
        raise DataError("lengths differ")
    base = f"{root}{os.sep}"
    records = []
    rows = zip(text["ids"], text["paths"], arrays["sizes"].tolist(), ends, ends[1:], strict=False)
    columns = [arrays[name] for name in _FIELDS]
    for image_id, path, (height, width), start, end in rows:
        target = Target(*(column[start:end] for column in columns))
        records.append(ImageRecord(image_id, Path(base + path), height, width, target))
    return Dataset(
        root,
        text["format"],
        text["split"],
        tuple(text["class_names"]),
        tuple(text["category_ids"]),
        tuple(records),
        tuple(Defect(**defect) for defect in text["defects"]),
        frozenset(map(Path, text["files"])),
    )
