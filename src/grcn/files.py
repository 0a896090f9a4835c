"""Files that are written whole or not at all, and whether any can be."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from grcn.errors import CheckpointError


@contextmanager
def atomic_file(path: str | Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write that takes its name only when it is complete and on the disk.

    A crash, a kill or a full disk leaves the earlier file of that name as it was. What it leaves of the new one,
    `.NAME.partial` beside it, is overwritten by the next attempt.

    Args:
        path: of the file; its folder is made where absent.
        durable: outlive a power cut, too, which takes waiting for the disk; not for files by the thousand.

    Raises:
        CheckpointError: where the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if durable:
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the new name itself must reach the disk
            finally:
                os.close(folder)
    except OSError as error:
        kept = "; what was there before is intact" if os.path.lexists(path) else ""
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}{kept}") from error


def to_json(content: Any, *, indent: int | None = None) -> bytes:
    """JSON in UTF-8 and a line break. Of a file name that is not UTF-8 the odd bytes are escaped, as `\\udce9`, so that
    what is read back names the same file.

    Raises:
        ValueError: on NaN and infinity, which JSON lacks.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def write_json(path: str | Path, content: Any, *, indent: int | None = None, durable: bool = True) -> None:
    """Writes a JSON file whole or not at all; arguments and errors as those of `atomic_file` and `to_json`."""
    data = to_json(content, indent=indent)
    with atomic_file(path, durable=durable) as file:
        file.write(data)


def check_folder(out: str | Path) -> None:
    """Tries whether files can be written in a folder, which need not exist; makes nothing that stays.

    Raises:
        CheckpointError: where they cannot.
    """
    out = Path(out)
    try:
        with suppress(FileNotFoundError):
            out.stat()  # a part of the path that is no folder, a name that is too long
        nearest = next(folder for folder in (out, *out.parents) if os.path.lexists(folder))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise CheckpointError(
            f"{out}: nothing can be written there: {error.strerror or error}; choose another place (--out)"
        ) from None


def check_file(out: str | Path) -> None:
    """Tries whether a file can be written, as `check_folder` its folder; raises CheckpointError where it cannot."""
    check_folder(Path(out).parent)
    if Path(out).is_dir():
        raise CheckpointError(f"{out}: a folder; choose the name of a file (--out)")
