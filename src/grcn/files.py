"""Writes files completely or not at all, and checks in advance whether they can be written."""

from __future__ import annotations

import errno
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from grcn.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAMES = 8
"""Number of names for unfinished versions of one file.

Up to this many writers at a time leave nothing behind that a later writer does not remove."""


@contextmanager
def atomic_file(path: str | Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Opens a file for writing. The file gets its name only when it is complete and on the disk.

    After a crash, a kill or a full disk, an earlier file of that name is unchanged. Several writers of one name, also
    in other processes, each write their own `.NAME.N.partial` beside it, and the last one to finish wins. The next
    writer removes the partial file of a killed writer.

    Args:
        path: the file; its folder is created if it does not exist.
        durable: also survive a power cut. This waits for the disk, so it is too slow for thousands of files.

    Raises:
        CheckpointError: if the file cannot be written. If another file that is used meanwhile is the cause, the message
            names that file as well.
    """
    path = Path(path)
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _own_partial(path) as partial:
            with open(partial, "wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(partial, path)
        if durable:
            _sync_folder(path.parent)  # the new name itself must reach the disk
    except OSError as error:
        kept = "; what was there before is intact" if os.path.lexists(path) else ""
        other = error.filename if isinstance(error.filename, str) else None
        named = "" if other is None or Path(other) in (path, partial) else f"{other}: "
        raise CheckpointError(f"{path}: cannot be written: {named}{error.strerror or error}{kept}") from error


@contextmanager
def _own_partial(path: Path) -> Iterator[Path]:
    """Yields a name beside `path` that no other living writer uses, and removes the partial files of dead writers.

    A writer holds a lock on its partial file as long as it lives. Without locks (Windows, some network file systems),
    the name is random, and the partial file of a killed writer stays.
    """
    start = f".{path.name[:50]}"  # a name has at most 255 bytes; files whose names start alike share these names
    partials = [path.with_name(f"{start}.{number}.partial") for number in range(NAMES)]
    own: tuple[Path, int] | None = None
    for partial in partials if fcntl is not None else ():
        if own and not os.path.lexists(partial):
            continue
        try:
            held = _hold(partial)
        except _NoLocks:
            break
        if held is None:
            continue
        if own is None:
            own = partial, held
        else:
            partial.unlink(missing_ok=True)
            os.close(held)
    partial, held = own or (path.with_name(f"{start}.{secrets.token_hex(8)}.partial"), None)
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:  # only once the file is renamed or removed: a process that gets the lock takes it for one left by a kill
        if held is not None:
            os.close(held)


class _NoLocks(Exception):  # noqa: N818 - not a fault: a random name is used instead
    """The file system has no locks."""


def _hold(path: Path) -> int | None:
    """Creates a file if it does not exist, and locks it until the descriptor is closed; None if it is already locked.

    Raises:
        _NoLocks: if the file system has no locks; the file is removed.
        OSError: if the file cannot be created.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if os.path.lexists(path):  # it belongs to another user
            return None
        raise OSError(error.errno, error.strerror) from None  # without this name, which the user has never seen
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):  # locked by another process, or finished and renamed just now
        pass
    except OSError as error:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise _NoLocks from error
    os.close(descriptor)
    return None


def _sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, if the system supports this."""
    if os.name == "nt":  # Windows cannot open folders
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # the folder can be written but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system does not support it
            raise
    finally:
        os.close(descriptor)


def why_not_lockable(folder: Path) -> str | None:
    """The reason why files in a folder cannot be locked: it cannot be written, or its file system has no locks.

    None if they can be locked."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.strerror or str(error)
    return None


def to_json(content: Any, *, indent: int | None = None) -> bytes:
    """Encodes JSON in UTF-8, with a line break at the end.

    Bytes of a file name that are not UTF-8 are escaped, as `\\udce9`, so that the name can be read back unchanged.

    Raises:
        ValueError: on NaN and infinity, which JSON does not have.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def write_json(path: str | Path, content: Any, *, indent: int | None = None, durable: bool = True) -> None:
    """Writes a JSON file completely or not at all; arguments and errors as in `atomic_file` and `to_json`."""
    data = to_json(content, indent=indent)
    with atomic_file(path, durable=durable) as file:
        file.write(data)


def check_folder(out: str | Path) -> None:
    """Checks that files can be written in a folder, which need not exist yet. It leaves nothing behind.

    Raises:
        CheckpointError: if they cannot be written.
    """
    out = Path(out)
    try:
        with suppress(FileNotFoundError):
            out.stat()  # fails if a part of the path is not a folder or a name is too long
        nearest = next(folder for folder in (out, *out.parents) if os.path.lexists(folder))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise CheckpointError(
            f"{out}: nothing can be written there: {error.strerror or error}; choose another place (--out)"
        ) from None


def check_file(out: str | Path) -> None:
    """Checks that a file can be written, like `check_folder`; raises CheckpointError if not."""
    check_folder(Path(out).parent)
    if Path(out).is_dir():
        raise CheckpointError(f"{out}: a folder; choose the name of a file (--out)")
