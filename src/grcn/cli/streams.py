"""Standard streams that never stop a command, even if they are closed, broken or missing."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO, cast


@contextmanager
def lasting_streams() -> Iterator[Output]:
    """Replaces the standard streams, inside its block, by streams that accept everything; yields standard output.

    - A missing stream (closed, or None) is empty to read, and everything written to it is lost.
    - Characters that its encoding lacks, such as the invalid bytes of a file name, are escaped.
    - After a write fails, as into `head`, all further output is lost; `Output.error` has the error.
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
    """A text stream that never raises an error on writing.

    Attributes:
        error: the first error; everything written after it is lost.
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
        """Restores the original settings of the stream."""
        self._reconfigure(self._errors)

    def _reconfigure(self, errors: str | None) -> None:
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors=errors)

    def _lose(self, error: OSError) -> None:
        """Discards the content of the buffers and everything that is written later."""
        self.error = self.error or error
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _fill_descriptors() -> None:
    """Opens the descriptors 0 to 2 if they are closed. Otherwise the next files would get them, and messages that a
    library writes to standard error could end up inside a photo."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
