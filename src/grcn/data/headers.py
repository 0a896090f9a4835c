"""The sizes of very many photos, read from their headers once and remembered.

What is remembered lies in one file in the user's cache folder (`grcn` in XDG_CACHE_HOME or ~/.cache): for each photo
16 bytes of a hash over its path, size and time of change, and its height, width and orientation. Nothing else is ever
taken from it, and whoever decodes a photo compares its size. A file that is not whole, or says what no photo can be, is
passed over; one that cannot be written costs time only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from grcn.data.image import MAX_PIXELS, ImageHeader, read_header
from grcn.errors import CheckpointError, ImageError
from grcn.files import atomic_file

WORTH = 1000  # photos from which on it is used; fewer are read in a fifth of a second
MAX_PHOTOS = 2**20  # that are remembered, the latest read first; 28 MB
_SETTLED = 2 * 10**9  # ns; a file changed later than that before now may change again within the same tick of its clock

_MAGIC = b"grcn headers 1\n\0"
_ENTRY = np.dtype([("key", "V16"), ("height", "<u4"), ("width", "<u4"), ("orientation", "<u4")])


def read_headers(images: Sequence[Path]) -> list[ImageHeader | ImageError]:
    """The header of each image, or why it cannot be read."""
    if len(images) < WORTH:
        return [_read(image) for image in images]
    known, now, added = _load(), time.time_ns(), False
    headers: list[ImageHeader | ImageError] = []
    used: dict[bytes, tuple[int, int, int]] = {}
    for image in images:
        key = _key(image, now)
        if key and key in known:
            used[key] = known[key]
            headers.append(ImageHeader(*known[key]))
            continue
        headers.append(header := _read(image))
        if key and isinstance(header, ImageHeader):
            used[key] = header.height, header.width, header.orientation
            added = True
    if added:
        _save({**used, **known})
    return headers


def _read(image: Path) -> ImageHeader | ImageError:
    try:
        return read_header(image)
    except ImageError as error:
        return error


def _key(image: Path, now: int) -> bytes | None:
    """None where the file cannot be looked at, or was changed just now."""
    try:
        status = os.stat(image)
    except (OSError, ValueError):
        return None
    if now - status.st_mtime_ns < _SETTLED:
        return None
    text = f"{image}\0{status.st_size}\0{status.st_mtime_ns}"
    return blake2b(text.encode(errors="surrogateescape"), digest_size=16).digest()


def cache_file() -> Path:
    """Where the sizes are remembered."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(folder) if os.path.isabs(folder) else Path("~/.cache").expanduser()) / "grcn" / "headers"


def _load() -> dict[bytes, tuple[int, int, int]]:
    most = len(_MAGIC) + 16 + MAX_PHOTOS * _ENTRY.itemsize
    try:
        path = cache_file()
        with open(path, "rb") if path.is_file() else open(os.devnull, "rb") as file:
            data = file.read(most + 1)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return {}
    head, entries = len(_MAGIC) + 16, data[len(_MAGIC) + 16 :]
    if len(data) > most or data[:head] != _MAGIC + _digest(entries) or len(entries) % _ENTRY.itemsize:
        return {}
    table = np.frombuffer(entries, _ENTRY)
    sizes = [table[name].astype(np.int64) for name in ("height", "width", "orientation")]
    height, width, orientation = sizes
    valid = (height > 0) & (width > 0) & (orientation >= 1) & (orientation <= 8) & (height * width <= MAX_PIXELS)
    if not valid.all():
        return {}
    keys = table["key"].tobytes()
    values = zip(*(values.tolist() for values in sizes), strict=True)
    return {keys[16 * i : 16 * i + 16]: value for i, value in enumerate(values)}


def _save(known: dict[bytes, tuple[int, int, int]]) -> None:
    kept = [(key, *value) for key, value in list(known.items())[:MAX_PHOTOS]]
    entries = np.array(kept, dtype=_ENTRY).tobytes()
    with suppress(CheckpointError, OSError, RuntimeError), atomic_file(cache_file(), durable=False) as file:
        file.write(_MAGIC + _digest(entries) + entries)


def _digest(entries: bytes) -> bytes:
    return blake2b(entries, digest_size=16).digest()
