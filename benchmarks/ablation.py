"""What each way of saving work gives: `grcn_r50` predicts with all of them, then with each taken away in turn.

    python benchmarks/ablation.py [--rounds 7] [--out FILE.json]

Batch 1, 800x600, 300 proposals, float32. All variants predict once in each round, in turn; the row of malloc comes from
a process of its own, since its settings cannot be taken back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import torch
import torchvision
from torch import Tensor

import record
from calibrate import enliven
from grcn.model.detector import build_detector
from grcn.predict.optimize import optimized
from grcn.runtime import convolves_whole_rois, tune_cpu
from inference import CLASSES, scene

ALL, MALLOC = "all", "glibc's own malloc settings"
CONVOLVES = convolves_whole_rois()
FC6 = f"fc6 as a {'matrix product' if CONVOLVES else 'convolution'}"  # the one that this processor does not get


def torchvisions_roi_align(
    features: Tensor, rois: Tensor, size: int, scale: float, sampling_ratio: int, *, aligned: bool
) -> Tensor:
    pooled = torchvision.ops.roi_align(features, rois, size, scale, sampling_ratio, aligned)
    return pooled.contiguous(memory_format=torch.channels_last)


@contextmanager
def no_channels_last(model: torch.nn.Module) -> Iterator[None]:
    model.to(memory_format=torch.contiguous_format)
    try:
        yield
    finally:
        model.to(memory_format=torch.channels_last)


def seconds(rounds: int, only_all: bool) -> dict[str, list[float]]:
    image = scene()
    torch.manual_seed(0)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    trained = enliven(build_detector("grcn_r50", CLASSES, weights=None), [image, image.flip(2)], [nothing] * 2)
    folded = optimized(trained, "fold")
    variants: dict[str, tuple[torch.nn.Module, Callable]] = {ALL: (folded, nullcontext)}
    if not only_all:
        variants |= {
            "torchvision's RoIAlign": (
                folded,
                lambda: mock.patch("grcn.model.roi.roi_align", torchvisions_roi_align),
            ),
            FC6: (folded, lambda: mock.patch("grcn.model.ops.convolves_whole_rois", return_value=not CONVOLVES)),
            "batch norm by itself": (trained, nullcontext),
            "maps not channels-last": (folded, lambda: no_channels_last(folded)),
        }
    spent: dict[str, list[float]] = {name: [] for name in variants}
    with torch.inference_mode():
        for k in range(rounds + 1):
            for name, (model, without) in variants.items():
                with without():
                    began = time.perf_counter()
                    model([image])
                    if k:
                        spent[name].append(time.perf_counter() - began)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--untuned", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.untuned:
        print(json.dumps(seconds(options.rounds, only_all=True)[ALL]))
        return
    tune_cpu()
    spent = seconds(options.rounds, only_all=False)
    words = [sys.executable, __file__, "--untuned", "--rounds", str(options.rounds)]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    spent[MALLOC] = json.loads(answer.stdout.splitlines()[-1])
    whole = statistics.median(spent[ALL])
    rows = [
        {
            "instead": name,
            "ms": round(1000 * statistics.median(times)),
            "more, ms": round(1000 * (statistics.median(times) - whole)),
        }
        for name, times in spent.items()
    ]
    print(record.table(rows, ("instead", "ms", "more, ms")))
    if options.out:
        record.write(options.out, rows, seconds={k: [round(s, 4) for s in v] for k, v in spent.items()})


if __name__ == "__main__":
    main()
