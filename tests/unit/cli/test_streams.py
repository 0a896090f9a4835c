"""Whatever the standard streams are, or if they are none, the work is done and the streams left as they were."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grcn.cli.streams import lasting_streams


def test_streams_that_are_none_are_empty_and_take_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with lasting_streams() as out:
        assert sys.stdin.read() == ""
        print("lost")
        print("lost, too", file=sys.stderr)
        assert out.error is None
    assert (sys.stdin, sys.stdout, sys.stderr) == (None, None, None)


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [
        ("ascii", "café 狗", b"caf\\xe9 \\u72d7"),
        ("utf-8", "café 狗", "café 狗".encode()),
        ("utf-8", "a\udce9.jpg", b"a\\udce9.jpg"),  # a file name that is not UTF-8
        ("cp1252", "café 狗", b"caf\xe9 \\u72d7"),
    ],
)
def test_what_an_encoding_lacks_is_escaped(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, written: bytes
) -> None:
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding, "strict") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    with lasting_streams():
        print(text, end="")
        print(text, end="", file=sys.stderr)
        assert sys.stdout.encoding == encoding
    for name, stream in streams.items():
        assert stream.buffer.getvalue() == written, "flushed at the end"
        assert (getattr(sys, name), stream.errors) == (stream, "strict")


def test_streams_are_as_they_were_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", "strict")
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(ZeroDivisionError), lasting_streams():  # noqa: PT012
        print("before", end="")
        raise ZeroDivisionError
    assert (sys.stdout, stream.errors, stream.buffer.getvalue()) == (stream, "strict", b"before")


def test_a_reader_that_goes_is_told_once_and_the_rest_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with open(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with lasting_streams() as out:
            print("read", flush=True)
            assert os.read(reading, 100) == b"read\n"
            os.close(reading)
            print("x" * 100_000, flush=True)
            first = out.error
            assert isinstance(first, BrokenPipeError)
            print("more", flush=True)
            assert out.error is first


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_gets_the_number_of_a_closed_stream(closed: str, tmp_path: Path) -> None:
    """Else what a library writes as an error would stand in the midst of it."""
    script = (
        "import os, sys\n"
        "from grcn.cli.streams import lasting_streams\n"
        "with lasting_streams(), open('file', 'w') as file:\n"
        "    print(file.fileno() > 2, file=file)\n"
        "    os.write(2, b'what a library says')\n"
    )
    words = ["sh", "-c", f'exec "$@" {closed}', "-", sys.executable, "-c", script]
    done = subprocess.run(words, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "True\n"
