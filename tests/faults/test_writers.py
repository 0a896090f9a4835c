"""Several processes that write the same: each file is whole, none fails, and nothing of a killed one stays."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from grcn import locks
from grcn.errors import CheckpointError, ConfigError
from grcn.files import atomic_file
from grcn.locks import locked, locked_folder
from grcn.scenes.generate import generate

FORK = multiprocessing.get_context("fork")


def write_often(path: Path, letter: bytes) -> None:
    for _ in range(60):
        with atomic_file(path, durable=False) as file:
            file.write(letter * 10_000)
            file.flush()
            file.write(letter * 10_000)


def test_four_writers_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    writers = [FORK.Process(target=write_often, args=(path, letter)) for letter in (b"a", b"b", b"c", b"d")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    content = path.read_bytes()
    assert content == content[:1] * 20_000
    assert os.listdir(tmp_path) == ["a.json"]


def hang(path: Path, ready: Path) -> None:
    with atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        ready.mkdir()
        time.sleep(60)


def started(path: Path, ready: Path) -> FORK.Process:
    process = FORK.Process(target=hang, args=(path, ready))
    process.start()
    while not ready.exists():
        time.sleep(0.01)
    return process


def test_what_killed_writers_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    path = tmp_path / "run" / "a.json"
    writers = [started(path, tmp_path / str(number)) for number in range(4)]
    for writer in writers[:3]:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    assert len(os.listdir(path.parent)) == 4
    with atomic_file(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert sorted(os.listdir(path.parent)) == [".a.json.3.partial", "a.json"], "one lives"
    writers[3].kill()
    writers[3].join()


def test_an_error_names_the_file_that_failed(tmp_path: Path) -> None:
    def copy() -> None:
        with atomic_file(tmp_path / "to") as file:
            file.write((tmp_path / "from").read_bytes())

    with pytest.raises(CheckpointError, match=rf"/to: cannot be written: {tmp_path}/from: No such file"):
        copy()
    assert os.listdir(tmp_path) == []


def test_names_as_long_as_names_can_be(tmp_path: Path) -> None:
    with atomic_file(tmp_path / ("写" * 85)) as file:
        file.write(b"whole")
    assert [len(os.fsencode(name)) for name in os.listdir(tmp_path)] == [255]


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with atomic_file(tmp_path / "a") as file:
        file.write(b"whole")
    for _ in range(2):
        with locked(tmp_path / ".lock", "the run", patience=0) as alone:
            assert not alone
    assert os.listdir(tmp_path) == ["a"]
    assert capsys.readouterr().err.splitlines() == [
        "grcn: the run: cannot be locked (No locks available); make sure that nothing else writes there"
    ]


def hold(path: Path, ready: Path) -> None:
    with locked(path, "it"):
        ready.mkdir()
        time.sleep(60)


def test_a_lock_names_its_holder_and_goes_with_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "MOMENT", 0.1)
    holder = FORK.Process(target=hold, args=(tmp_path / "run" / ".lock", tmp_path / "ready"))
    holder.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    with pytest.raises(ConfigError, match=rf"run: process {holder.pid} on .* is using it; wait until it ends, or"):
        locked_folder(tmp_path / "run").__enter__()
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with locked_folder(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").exists()
    assert not (tmp_path / "run" / ".lock").exists()


def make_scenes(out: Path, begun: Path, go: Path) -> None:
    """Renders a set, and stays at its first image until `go` is there."""

    def progress(done: int, total: int) -> None:
        begun.mkdir(exist_ok=True)
        while not go.exists():
            time.sleep(0.01)

    generate(out, images=4, size=(64, 64), progress=progress)


def test_a_rendering_is_waited_for_and_not_made_twice(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, go = tmp_path / "beach", tmp_path / "go"
    first = FORK.Process(target=make_scenes, args=(out, tmp_path / "first", go))
    second = FORK.Process(target=make_scenes, args=(out, tmp_path / "second", go))
    first.start()
    while not (tmp_path / "first").exists():
        time.sleep(0.01)
    second.start()
    told = ""
    while "\n" not in told:
        time.sleep(0.01)
        told += capfd.readouterr().err
    assert told.startswith(f"grcn: {out}: process {first.pid} on ")
    assert told.endswith(" is using it; waiting until it ends\n")
    go.mkdir()
    for process in (first, second):
        process.join(60)
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert not (tmp_path / "second").exists(), "it has rendered nothing"
    assert sorted(os.listdir(tmp_path)) == ["beach", "first", "go"]


def hold_until(path: Path, ready: Path, go: Path) -> None:
    with locked(path, "it"):
        ready.mkdir()
        while not go.exists():
            time.sleep(0.01)


def test_who_waits_for_a_lock_outlives_the_folder_that_its_holder_made(tmp_path: Path) -> None:
    path, go = tmp_path / "a" / "b" / ".lock", tmp_path / "go"
    holder = FORK.Process(target=hold_until, args=(path, tmp_path / "ready", go))
    holder.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    timer = threading.Timer(0.3, go.mkdir)
    timer.start()
    with locked(path, "what is waited for") as alone:
        assert alone
        assert path.exists()
    timer.join()
    holder.join(60)
    assert set(os.listdir(tmp_path)) - {"a"} == {"go", "ready"}  # the folder may go with the last of the two
    assert not path.exists()


def test_a_lock_leaves_no_folder_that_it_made(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b" / ".lock", "it") as alone:
        assert alone
        with locked(tmp_path / "a" / "b" / ".lock", "it") as again:
            assert not again, "a thread does not wait for itself"
    assert os.listdir(tmp_path) == []
