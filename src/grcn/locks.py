"""Locks between processes: if two want to write to one folder, the second one waits or gets an error."""

from __future__ import annotations

import functools
import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from grcn.errors import ConfigError
from grcn.files import check_folder, why_not_lockable

if TYPE_CHECKING:
    from filelock import FileLock

MOMENT = 7.0
"""Seconds until the loader processes of a killed run have ended: they check every five whether the run is alive."""


@contextmanager
def locked(path: Path, what: str, *, patience: float = math.inf, remedy: str = "") -> Iterator[bool]:
    """Holds a lock. The system releases it however the process ends.

    Yields True if the lock is held, and False if the caller goes on without it. That happens if this thread holds it
    already, or if locks are not possible (some network file systems, folders that cannot be written). The latter is
    said once on standard error.

    Args:
        path: the lock file. It exists while the lock is held. So do folders that are created for it, unless something
            else is put into them.
        what: the locked thing, in messages.
        patience: seconds to wait for another process. An unlimited wait is announced on standard error.
        remedy: what the user can do if another process holds the lock, in the error.

    Raises:
        ConfigError: if another process holds the lock for longer; it names the process.
    """
    from filelock import FileLock, Timeout

    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    if reason := why_not_lockable(path.parent):
        _tell(f"{what}: cannot be locked ({reason}); make sure that nothing else writes there")
        yield False
        return
    lock = FileLock(path.resolve(), is_singleton=True)
    if lock.is_locked:  # this thread holds it, and cannot wait for itself
        yield False
        return
    holder = _holder(path)  # read first, because older releases of filelock empty the file when they try to lock it
    try:
        _acquire(lock, path, 0 if patience == math.inf else patience)
    except Timeout:
        if patience != math.inf:
            raise ConfigError(f"{what}: {holder} is using it{remedy and '; '}{remedy}") from None
        _tell(f"{what}: {holder} is using it; waiting until it ends")
        _acquire(lock, path)
    try:
        with suppress(OSError):  # on Windows, a locked file cannot be written
            path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield True
    finally:
        with suppress(OSError):
            path.unlink()
        lock.release()
        for folder in made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def locked_folder(out: Path) -> Iterator[None]:
    """Holds the lock of a results folder, so that only one process writes there.

    Raises:
        CheckpointError: if nothing can be written there.
        ConfigError: if another process is using it.
    """
    check_folder(out)
    with locked(
        out / ".lock", str(out), patience=MOMENT, remedy="wait until it ends, or choose another folder (--out)"
    ):
        yield


def _acquire(lock: FileLock, path: Path, seconds: float = -1) -> None:
    """Waits for a lock, forever by default. If the holder removes the folder that it created, the folder is remade."""
    while True:
        with suppress(FileNotFoundError):
            lock.acquire(timeout=seconds)
            return
        path.parent.mkdir(parents=True, exist_ok=True)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200] or "another process"
    except OSError:
        return "another process"


@functools.cache
def _tell(line: str) -> None:
    print(f"grcn: {line}", file=sys.stderr, flush=True)
