"""Shows the progress of a run: lines, and a bar on a terminal. A closed stream does not end the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from grcn.training.step import LOSSES

Say = Callable[[str], None]


def tell(text: str) -> None:
    """Prints a line with letters that the stream can encode; prints nothing if there is no stream."""
    with suppress(OSError, ValueError):
        try:
            print(text, flush=True)
        except UnicodeEncodeError:
            print(text.encode("ascii", "backslashreplace").decode(), flush=True)


def say_nothing(text: str) -> None:
    pass


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


class Skipped:
    """Names each image that was skipped, once.

    Args:
        say: called with a line for each image, on every rank, since ranks read different images.
    """

    def __init__(self, say: Say) -> None:
        self.say = say
        self.messages: set[str] = set()

    def note(self, messages: Iterable[str]) -> None:
        for message in set(messages) - self.messages:
            self.messages.add(message)
            self.say(f"skipped, {len(self.messages)} so far: {message}")


class ProgressBar:
    """On a terminal, a bar with time left, AP and losses (RPN and RoI, each class + box); elsewhere a line at times.

    It is shown inside its `with` block.

    Args:
        iterations: number of iterations of the run; first: number of those that are done already.
        shown: whether anything is shown.
    """

    LINE_EVERY = 30.0  # seconds

    def __init__(self, iterations: int, first: int, *, shown: bool) -> None:
        self.iterations, self.first, self.shown = iterations, first, shown
        self.bar: Progress | None = None

    def __enter__(self) -> ProgressBar:
        self._last_line = self._began = time.monotonic()
        # Narrow enough for 80 columns; what does not fit is cut from the end, the losses' parts first.
        columns = (BarColumn(10), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        # What is printed meanwhile goes through the console, which would break long paths in two.
        bar = Progress(*columns, speed_estimate_period=300, console=Console(soft_wrap=True))
        if self.shown and bar.console.is_terminal:
            self.bar = bar
            self._task = bar.add_task("", total=self.iterations, completed=self.first)
            bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            with suppress(OSError, ValueError):
                self.bar.stop()

    def show(self, iteration: int, losses: dict[str, float], report: dict[str, Any]) -> None:
        """Called after step `iteration` with its losses and the AP of the last validation, which may be empty."""
        text = _describe(losses, f"AP {number(report['last']['AP'])}  " if report else "")
        now = time.monotonic()
        if self.bar is not None:
            with suppress(OSError, ValueError):
                self.bar.update(self._task, completed=iteration, description=text)
        elif self.shown and now - self._last_line >= self.LINE_EVERY:
            self._last_line = now
            left = (now - self._began) / (iteration - self.first) * (self.iterations - iteration)
            tell(f"iteration {iteration}/{self.iterations}  {text}  {left / 60:.0f} min left")


def _describe(losses: dict[str, float], ap: str) -> str:
    objectness, rpn_box, classifier, box = (losses[name] for name in LOSSES)
    total = objectness + rpn_box + classifier + box
    return f"{ap}loss {total:.3f} (rpn {objectness:.2f}+{rpn_box:.2f}, roi {classifier:.2f}+{box:.2f})"
