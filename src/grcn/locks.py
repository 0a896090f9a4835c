"""Locks between processes: of two that would write into one folder, the second waits or is refused."""

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
"""Seconds in which what is left of a killed run ends: loader processes look every five whether they are alone."""


@contextmanager
def locked(path: Path, what: str, *, patience: float = math.inf, remedy: str = "") -> Iterator[bool]:
    """Holds a lock, which the system releases however the process ends; true, or false where it goes on without.

    So it does within the lock itself, and where there are no locks (some network file systems, folders that cannot be
    written), which it says once on standard error.

    Args:
        path: of the lock file. It is there for the time, and so are folders on the way to it where nothing else comes
            into them.
        what: is locked, in messages.
        patience: seconds to wait for another process, which is said on standard error where there is no end to it.
        remedy: against a lock that another process holds, in the error.

    Raises:
        ConfigError: if another process holds it for longer; says which.
    """
    from filelock import FileLock, Timeout

    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    if reason := why_not_lockable(path.parent):
        _tell(f"{what}: cannot be locked ({reason}); nothing else may write there now")
        yield False
        return
    lock = FileLock(path.resolve(), is_singleton=True)
    if lock.is_locked:  # by this thread, which cannot wait for itself
        yield False
        return
    holder = _holder(path)  # asked before: older releases of filelock empty the file on trying
    try:
        _acquire(lock, path, 0 if patience == math.inf else patience)
    except Timeout:
        if patience != math.inf:
            raise ConfigError(f"{what}: {holder} is using it{remedy and '; '}{remedy}") from None
        _tell(f"{what}: {holder} is using it; waiting until it ends")
        _acquire(lock, path)
    try:
        with suppress(OSError):  # on Windows what is locked cannot be written
            path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield True
    finally:
        with suppress(OSError):
            path.unlink()
        lock.release()
        for folder in made:
            with suppress(OSError):  # something else is in it
                folder.rmdir()


@contextmanager
def locked_folder(out: Path) -> Iterator[None]:
    """Holds the lock of a folder of results, for the one process that writes it.

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
    """Waits for a lock, without end by default, also where who holds it takes the folder away that it had made."""
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
