"""A save that dies, or fails, at each of its system calls: what was saved before stays, or the new save is whole."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import grcn.files
from grcn.errors import CheckpointError
from grcn.training.checkpoint import KEY, load_state, save_state

FORK = multiprocessing.get_context("fork")
CRASH = 77


def state(step: int) -> dict:
    return {"state_dict": {"w": torch.full((50_000,), float(step))}, "global_step": step, KEY: {}}


def save(path: Path, step: int) -> None:
    save_state(path, state(step))


class Calls:
    """Counts the system calls that a save makes, and does `at_end` in the place of number `end`, from 1.

    Args:
        after: do it when the call has been made, not in its place.
    """

    def __init__(self, end: int, at_end: Callable[[], None], *, after: bool = False) -> None:
        self.made: list[str] = []
        self.end, self.at_end, self.after = end, at_end, after

    def wrap(self, name: str, call: Callable) -> Callable:
        def counted(*arguments, **more):
            self.made.append(name)
            mine = len(self.made) == self.end
            if mine and not self.after:
                self.at_end()
            try:
                return call(*arguments, **more)
            finally:
                if mine and self.after:
                    self.at_end()

        return counted

    def install(self, patch: Callable[[object, str, object], None]) -> None:
        calls = self

        class File(io.FileIO):
            """The file below Python's buffer, whose calls are the system's."""

            write = calls.wrap("write", io.FileIO.write)
            close = io.FileIO.close

        def opened(path: Path, mode: str) -> io.BufferedWriter:
            return calls.wrap("open", lambda: io.BufferedWriter(File(path, mode), 4096))()

        patch(grcn.files, "open", opened)
        for name in ("fsync", "replace", "open", "close", "mkdir"):
            patch(os, name, self.wrap(name, getattr(os, name)))


def run_forked(path: Path, calls: Calls) -> tuple[int, list[str]]:
    """Exit code of a process that makes the second save, and the calls it made."""
    ours, theirs = FORK.Pipe()

    def child() -> None:
        calls.install(lambda owner, name, value: setattr(owner, name, value))
        save(path, 2)
        theirs.send(calls.made)

    process = FORK.Process(target=child)
    process.start()
    process.join(60)
    return process.exitcode, ours.recv() if ours.poll() else []


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "last.ckpt"
    save(path, 1)
    return path


def calls_of_a_save(path: Path) -> list[str]:
    code, made = run_forked(path, Calls(0, lambda: None))
    assert code == 0
    return made


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_every_system_call(saved: Path, after: bool) -> None:
    made = calls_of_a_save(saved)
    assert {"open", "write", "fsync", "replace"} <= set(made)
    assert made.count("write") >= 3  # each piece is a place to die
    renamed = made.index("replace") + 1
    for number in range(1, len(made) + 1):
        save(saved, 1)
        code, _ = run_forked(saved, Calls(number, lambda: os._exit(CRASH), after=after))
        assert code == CRASH, (number, made[number - 1])
        found = load_state(saved)  # whole, whichever it is
        expected = 2 if number > renamed or (number == renamed and after) else 1
        assert found["global_step"] == expected, (number, made[number - 1])
        assert (found["state_dict"]["w"] == expected).all()
    save(saved, 3)  # over what the last crash left
    assert load_state(saved)["global_step"] == 3
    assert [file.name for file in saved.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_at_every_system_call(saved: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = calls_of_a_save(saved)

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    renamed = made.index("replace") + 1
    for number, name in enumerate(made, 1):
        if name == "mkdir":
            continue  # the folder is there, so nobody minds
        save(saved, 1)
        with monkeypatch.context() as patch:
            Calls(number, fail).install(lambda *what, patch=patch: patch.setattr(*what, raising=False))
            with pytest.raises((CheckpointError, OSError), match=os.strerror(code)):
                save(saved, 2)
        expected = 2 if number > renamed else 1
        assert load_state(saved)["global_step"] == expected, (number, name)
        assert [file.name for file in saved.parent.iterdir()] == ["last.ckpt"], (number, name)
