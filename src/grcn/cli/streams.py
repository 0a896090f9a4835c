"""The standard streams of a command: whatever they are, or if they are none, the work is done."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO, cast


@contextmanager
def lasting_streams() -> Iterator[Output]:
    """Standard streams that take everything for the time; gives that of the output.

    - Where there is none (closed, or None), it is empty, or what is written is lost.
    - What its encoding lacks, such as letters in ASCII or the odd bytes of a file name, is escaped.
    - Where writing fails, as into `head`, what follows is lost; `Output.error` tells.
    """
    _fill_descriptors()
    before = sys.stdin, sys.stdout, sys.stderr
    with ExitStack() as opened:
        nothing = [opened.enter_context(open(os.devnull, mode, encoding="utf-8")) for mode in ("r", "w")]
        out, err = (Output(stream or nothing[1]) for stream in before[1:])
        for stream in (out, err):
            opened.callback(stream.restore)
        sys.stdin, sys.stdout, sys.stderr = before[0] or nothing[0], cast(TextIO, out), cast(TextIO, err)
        try:
            yield out
        finally:
            for stream in (out, err):
                stream.flush()
            sys.stdin, sys.stdout, sys.stderr = before


class Output:
    """A text stream whose writer never hears of an error.

    Attributes:
        error: the first one; what was written since is lost.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.error = stream, cast(OSError | None, None)
        self._errors = stream.errors
        self._reconfigure("backslashreplace")

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def restore(self) -> None:
        """Leaves the stream as it was found."""
        self._reconfigure(self._errors)

    def _reconfigure(self, errors: str | None) -> None:
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors=errors)

    def _lose(self, error: OSError) -> None:
        """What the buffers hold, and all that comes, goes into nothing."""
        self.error = self.error or error
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _fill_descriptors() -> None:
    """Opens the descriptors 0 to 2 where they are closed: the next files would get them, and what a library writes as
    errors would stand in the middle of a photo."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
