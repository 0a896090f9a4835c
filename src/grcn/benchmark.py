"""`grcn benchmark`: measures the speed and memory of detectors on this machine.

A candidate is one way to run one detector. Each candidate runs in its own process, so that its memory is measured alone
and the threads of one runtime do not disturb another. Only one candidate works at a time. They take turns, round by
round, so that other load on the machine affects all of them alike. A turn begins with a prediction that does not count,
because the caches hold data of the candidate before.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from grcn import __version__
from grcn.config import Optimization
from grcn.errors import CheckpointError
from grcn.predict.detector import Detector
from grcn.predict.locate import locate
from grcn.runtime import peak_memory, processor, tune_cpu

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

    Photos = Sequence[NDArray[np.uint8]]

_LABELS = {
    ("weights", "none"): "torch, float32 as trained",
    ("weights", "fold"): "torch, float32 folded",
    ("weights", "bf16"): "torch, bfloat16 folded",
    ("onnx", "fold"): "ONNX Runtime, {}",
    ("openvino", "fold"): "OpenVINO, {}",
    ("openvino", "bf16"): "OpenVINO, {} in bfloat16",
}
_PACKAGES = {"weights": ("torch", "torchvision"), "onnx": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}


@dataclass
class Measured:
    """One way to run a detector, and its measurements.

    Args:
        source: the run, file or address, as it was given.
        label: runtime and precision.
        device: its name in the runtime.
        threads: threads of torch; for the other runtimes, the cores that they may use.
        versions: versions of the runtime's packages.
        milliseconds: time for each photo alone.
        per_second: photos per second for each batch size, from the median of the rounds.
        megabytes: the most memory that the process has used up to and including each batch size.
        gpu_megabytes: the same for GPU memory; None without a GPU, or if it is not known.
    """

    source: str
    label: str
    device: str
    threads: int
    versions: dict[str, str]
    milliseconds: list[float] = field(default_factory=list)
    per_second: dict[int, float] = field(default_factory=dict)
    megabytes: dict[int, float] = field(default_factory=dict)
    gpu_megabytes: dict[int, float | None] = field(default_factory=dict)

    def percentile(self, percent: float) -> float:
        """The time in milliseconds that `percent` percent of the photos did not exceed."""
        return float(np.percentile(self.milliseconds, percent))


def benchmark(
    sources: Sequence[str],
    photos: Photos,
    *,
    device: str = "auto",
    batch_sizes: Sequence[int] = (1, 4, 8),
    rounds: int = 5,
    progress: Callable[[int, int, str], None] = lambda done, total, now: None,
) -> list[Measured]:
    """Measures every way to run each of the detectors. Loading a detector and decoding photos do not count.

    Args:
        sources: the detectors, as for `Detector.load`.
        photos: [H, W, 3] uint8 RGB; a batch consists of copies of the first photo.
        device: as for `Detector.load`.
        batch_sizes: numbers of photos that pass the network together; 1 is always among them.
        rounds: turns of each candidate for each batch size.
        progress: called with the turns done, all turns, and the candidate whose turn it is.

    Raises:
        GrcnError: as in `Detector.load` and `Detector.predict`.
        CheckpointError: if the process of a candidate ended unexpectedly.
    """
    batches = sorted({1, *batch_sizes})
    ways = [way for source in sources for way in _ways(source)]
    done, total = 0, len(ways) * (len(batches) * rounds + 1)
    measured: list[Measured] = []
    with ExitStack() as opened:
        asks = []
        for source, optimize, label in ways:
            progress(done, total, f"{label}: loading")
            ask = opened.enter_context(_candidate(source, optimize, device, label, photos))
            measured.append(Measured(source, label, **ask(None)))
            asks.append(ask)
            done += 1
        for batch in batches:
            seconds: list[list[float]] = [[] for _ in ways]
            for _ in range(rounds):
                for i, ask in enumerate(asks):
                    progress(done, total, f"{measured[i].label}: batch {batch}")
                    answer = ask(batch)
                    seconds[i] += answer["seconds"]
                    measured[i].megabytes[batch] = answer["megabytes"]
                    measured[i].gpu_megabytes[batch] = answer["gpu_megabytes"]
                    done += 1
            for own, taken in zip(measured, seconds, strict=True):
                own.per_second[batch] = batch / float(np.median(taken))
                if batch == 1:
                    own.milliseconds = [1000 * s for s in taken]
    return measured


def machine() -> dict[str, Any]:
    """The machine on which the figures were measured, and the versions of grcn and Python."""
    return {
        "grcn": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": _cores(),
    }


def table(measured: Sequence[Measured]) -> str:
    """The figures as a table, in lines of at most 80 characters."""
    batches = list(measured[0].per_second)
    has_gpu = any(own.gpu_megabytes[1] is not None for own in measured)
    wide = 7 * (len(batches) + 1 + has_gpu) + 14
    name = 80 - wide
    lines = [
        " " * name
        + f"{'ms a photo':>14}"
        + f"{'photos/s at':>{7 * len(batches)}}"
        + f"{'memory':>7}"
        + "    GPU" * has_gpu,
        " " * name
        + f"{'p50':>7}{'p95':>7}"
        + "".join(f"{batch:>7}" for batch in batches)
        + f"{'MB':>7}"
        + "     MB" * has_gpu,
    ]
    for i, own in enumerate(measured):
        if i == 0 or own.source != measured[i - 1].source:
            lines.append(own.source if len(own.source) <= 80 else f"...{own.source[-77:]}")
        figures = [own.percentile(50), own.percentile(95), *own.per_second.values()]
        label = f"  {own.label}"
        if len(label) >= name:  # it gets its own line
            lines.append(label)
            label = ""
        line = f"{label:<{name}}" + "".join(f"{value:>7.1f}" for value in figures) + f"{own.megabytes[1]:>7.0f}"
        if has_gpu:
            gpu = own.gpu_megabytes[1]
            line += f"{'' if gpu is None else round(gpu):>7}"
        lines.append(line)
    return "\n".join(lines)


def _ways(source: str) -> list[tuple[str, Optimization, str]]:
    """Source, optimization and label of each way to run a detector."""
    located = locate(source)
    kind = located.kind if located.is_exported else "weights"
    precision = "int8" if kind == "openvino" and b'type="FakeQuantize"' in located.path.read_bytes() else "float32"
    order: tuple[Optimization, ...] = ("none", "fold", "bf16")
    return [(source, how, _LABELS[kind, how].format(precision)) for how in order if (kind, how) in _LABELS]


@contextmanager
def _candidate(
    source: str, optimize: Optimization, device: str, label: str, photos: Photos
) -> Iterator[Callable[[int | None], dict[str, Any]]]:
    """Starts the process of a candidate. Yields a function that sends a request and returns the answer.

    The first request is None and gets a description of the candidate. Each later one is a batch size and gets the
    measurements of a turn.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, source, optimize, device, photos), daemon=True)
    process.start()
    theirs.close()

    def ask(batch: int | None) -> dict[str, Any]:
        try:
            if batch is not None:
                ours.send(batch)
            answer = ours.recv()
        except (EOFError, OSError):
            process.join()
            raise CheckpointError(
                f"{source}: {label}: its process ended with code {process.exitcode}; perhaps memory ran out"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    try:
        yield ask
    finally:
        ours.close()
        process.terminate()
        process.join()


def _work(pipe: Connection, source: str, optimize: Optimization, device: str, photos: Photos) -> None:
    """Runs in the process of a candidate, until the pipe is closed."""
    try:
        tune_cpu()
        detector = Detector.load(source, device=device, optimize=optimize)
        kind = locate(source).kind
        packages = _PACKAGES["weights" if kind not in _PACKAGES else kind]
        pipe.send(
            {
                "device": str(detector.device),
                "threads": _torch_threads() if kind not in ("onnx", "openvino") else _cores(),
                "versions": {name: own for name in packages if (own := _version(name))},
            }
        )
        while True:
            batch = pipe.recv()
            pipe.send(
                {
                    "seconds": _turn(detector, photos, batch),
                    "megabytes": peak_memory(),
                    "gpu_megabytes": _gpu_memory(str(detector.device)),
                }
            )
    except (EOFError, KeyboardInterrupt):
        pass
    except Exception as error:
        pipe.send(error)


def _turn(detector: Detector, photos: Photos, batch: int) -> list[float]:
    """The seconds of each prediction: of every photo alone if `batch` is 1, otherwise of one batch."""
    groups = [[photo] for photo in photos] if batch == 1 else [[photos[0]] * batch]
    detector.predict(groups[0], batch_size=batch)
    seconds = []
    for group in groups:
        began = perf_counter()
        detector.predict(group, batch_size=batch)
        seconds.append(perf_counter() - began)
    return seconds


def _gpu_memory(device: str) -> float | None:
    """GPU memory in MB: the most that torch has held, or, for ONNX Runtime, what the driver says is in use now."""
    if not device.startswith("cuda"):
        return None
    if "ONNX" not in device:
        import torch

        return float(torch.cuda.max_memory_reserved(device)) / 2**20
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    held = [line.split(",")[1] for line in lines if line.split(",")[0].strip() == str(os.getpid())]
    return sum(map(float, held)) if held else None


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
