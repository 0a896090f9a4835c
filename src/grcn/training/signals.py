"""After SIGTERM or Ctrl-C the current step ends and the state is saved; a second signal stops at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether a run should stop.

    asked: the number of the signal that this rank received; 0: none.
    agreed: the number of the signal of any rank, set at the end of a step on all ranks.
    """

    asked: int = 0
    agreed: int = 0


@contextmanager
def stop_requests(stop: Stop) -> Iterator[None]:
    """Records the first signal in `stop`; a second one ends the process, or raises KeyboardInterrupt (Ctrl-C).

    The former handlers are restored at the end. In a thread no handlers are set, since Python delivers signals only to
    the main thread.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        stop.asked = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        name = signal.Signals(number).name
        with suppress(OSError, ValueError, AttributeError):  # closed, or no file
            if sys.stderr is not None:  # else number 2 may be another file
                # Not print: the signal may have interrupted one.
                os.write(sys.stderr.fileno(), f"\n{name}: saving after this step; once more stops at once\n".encode())

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
