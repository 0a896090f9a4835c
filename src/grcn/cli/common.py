"""Code that several commands share: options, loading what they name, progress and messages."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from grcn.errors import DataError, Interrupted

if TYPE_CHECKING:
    from grcn.cli.parser import Group, Parser
    from grcn.data.dataset import Dataset
    from grcn.predict.detector import Detector
    from grcn.thresholds import Thresholds
    from grcn.types import Detections


def add_data_options(parser: Parser, split: str) -> None:
    group = parser.add_argument_group("data set")
    group.add_argument("--data", type=str, required=True, metavar="DIR", help="folder of the data set")
    add_split_options(group, split)


def add_split_options(group: Group, split: str, format_name: str = "--format") -> None:
    group.add_argument(
        "--split", type=str, default="auto", metavar="NAME", help=f"split to use; auto finds the {split} split"
    )
    add_format_option(group, format_name)


def add_format_option(group: Group, name: str = "--format") -> None:
    from grcn.config import ReadFormat

    group.add_argument(name, choices=get_args(ReadFormat), default="auto", help="annotation format")


def add_device_options(parser: Parser, batches: bool = True) -> None:
    group = parser.add_argument_group("running the detector")
    group.add_argument("--device", type=str, default="auto", help=DEVICES)
    group.add_argument(
        "--optimize",
        choices=("fold", "bf16", "none"),
        default="fold",
        help="fold: batch norm merged into the convolutions, faster with the same detections; bf16: weights in "
        "bfloat16 as well, with slightly different detections; none: the network as trained",
    )
    if batches:
        group.add_argument("--batch_size", type=int, default=1, help="images per batch, all of one size")
        group.add_argument("--workers", type=int, default=2, help="threads that read images ahead")


DEVICES = "cpu, cuda, cuda:1, ...; auto takes a GPU if there is one, and the CPU for exported files"


def add_calibration_option(group: Group) -> None:
    group.add_argument(
        "--calibrated",
        action="store_true",
        help="give scores as probabilities of being right; `grcn evaluate --save thresholds` stores what this needs",
    )


def load_detector(source: str, options: Any) -> Detector:
    from grcn.predict.detector import Detector
    from grcn.runtime import tune_cpu

    tune_cpu()
    calibrated = options.get("calibrated", False)
    detector = Detector.load(source, device=options.device, optimize=options.optimize, calibrated=calibrated)
    said = ", calibrated" if calibrated else ""
    say(f"{source}: {detector.preset or 'detector'} on {detector.device}, optimize {options.optimize}{said}")
    return detector


def read_detections(
    source: str, options: Any, *, is_run: bool, class_names: Sequence[str] | None = None
) -> tuple[Dataset, list[Detections], Thresholds | None]:
    """Returns the data set that the options name, the detections of a run or a results file, and the run's thresholds.

    Args:
        source: a run folder or weights, or a COCO results file.
        options: options with `data`, `split`, `format` and, for a run, those of `add_device_options`.
        is_run: whether `source` is a run; otherwise it is a results file.
        class_names: class names to open the data set with; None: those of the source.
    """
    from grcn.data.dataset import list_splits, open_dataset, resolve_split
    from grcn.data.holdout import HELD_OUT
    from grcn.data.results import load_results
    from grcn.predict.dataset import predict_dataset
    from grcn.predict.results import KEY, load_own_results, read_key

    split = resolve_split(options.data, options.split, "test", options.format)
    if split == HELD_OUT and options.split == "auto":
        if not is_run:
            splits = ", ".join(f"'{name}'" for name in list_splits(options.data, options.format))
            raise DataError(f"{options.data}: no split for 'test'; name one with --split: {splits} or '{HELD_OUT}'")
        why = "using the photos that training holds out (a run with val_split none has been trained on them)"
        say(f"{options.data}: no split for 'test': {why}")

    def open_with(own: Sequence[str] | None) -> Dataset:
        dataset = open_dataset(options.data, split=split, format=options.format, class_names=class_names or own)
        _tell_defects(dataset)
        return dataset

    if is_run:
        detector = load_detector(source, options)
        dataset = open_with(detector.class_names)
        with progress_bar(f"{source}: detecting in {options.data}, {split}") as progress:
            detections = predict_dataset(
                detector, dataset, batch_size=options.batch_size, workers=options.workers, progress=progress
            )
        return dataset, detections, detector.thresholds
    path = Path(source)
    if not path.with_name(KEY).exists():
        dataset = open_with(None)
        return dataset, load_results(path, dataset), None
    key = read_key(path.with_name(KEY))
    dataset = open_with(key.class_names)
    if dataset.class_names != key.class_names:
        raise DataError(
            f"{path}: its classes are {list(key.class_names)}, those of the first source "
            f"{list(dataset.class_names)}; use sources with the same classes"
        )
    detections, missing = load_own_results(path, key, dataset)
    if not key.complete:
        say(f"{path}: predict was stopped after {len(key.images)} images; the others count as without detections")
    if missing:
        say(f"{path}: {missing} of {len(key.images)} images are not in '{split}' and are left out")
    return dataset, detections, None


@contextmanager
def keeping(what: str) -> Iterator[None]:
    """Handles Ctrl-C and SIGTERM in the same way: the exit code is that of the signal, and a line says what is kept.

    Raises:
        Interrupted: in place of KeyboardInterrupt.
    """
    number = signal.SIGINT

    def stop(*_: object) -> None:
        nonlocal number
        number = signal.SIGTERM
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"{number.name}: {what}", number) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def ended() -> Iterator[threading.Event]:
    """For work without an end of its own: the first Ctrl-C or SIGTERM sets the event, a second one interrupts."""
    event = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]

    def end(*_: object) -> None:
        event.set()
        restore()

    def restore() -> None:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

    for number in numbers:
        signal.signal(number, end)
    try:
        yield event
    finally:
        restore()


def _tell_defects(dataset: Dataset) -> None:
    if count := sum(defect.exit_code != 0 for defect in dataset.defects):
        say(f"{dataset.root}: {count} defects in '{dataset.split}'; `grcn check` lists them")


def say(message: str) -> None:
    print(f"grcn: {message}", file=sys.stderr)


def say_letters(class_names: Sequence[str]) -> None:
    """Prints a note if pictures cannot show the names of some classes."""
    from grcn.fonts import note

    if told := note(tuple(class_names)):
        say(told)


def print_json(content: Any) -> None:
    is_unicode = str(sys.stdout.encoding).lower().startswith("utf")
    print(json.dumps(content, indent=2, ensure_ascii=not is_unicode))


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error if that is a terminal; yields a function of (done, total[, description])."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int, now: str = what) -> None:
            bar.update(task, completed=done, total=total, description=now)

        yield tell
