"""Seconds to match anchors with objects, beside torchvision's Matcher on its box_iou.

    python benchmarks/matching.py [--rounds 15] [--out FILE.json]

Four photos of 600x1000 at stride 16 with 15 anchors a cell, in turn; both keep each object's best anchors.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

import record
from grcn.geometry.anchors import cell_anchors, grid_anchors
from grcn.geometry.matching import match
from grcn.runtime import tune_cpu

PHOTOS = 4
OBJECTS = (1, 10, 100, 400)


def make(count: int) -> tuple[Tensor, Tensor]:
    """Anchors [A, 4], and `count` objects of each photo [PHOTOS, count, 4]."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(PHOTOS, count, 2, generator=generator) * torch.tensor([900.0, 500.0])
    objects = torch.cat((corner, corner + 5 + torch.rand(PHOTOS, count, 2, generator=generator) * 150), dim=-1)
    return grid_anchors(cell_anchors((32.0, 64.0, 128.0, 256.0, 512.0), (0.5, 1.0, 2.0)), (38, 63), 16), objects


def compare(count: int, rounds: int) -> dict[str, Any]:
    anchors, objects = make(count)
    real, matcher = torch.ones(PHOTOS, count, dtype=torch.bool), Matcher(0.7, 0.3, True)
    jobs: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: match(objects, real, anchors, foreground=0.7, background=0.3, keep_best=True),
        "torchvision": lambda: torch.stack([matcher(box_iou(own, anchors)) for own in objects]),
    }
    assert torch.equal(*(job() for job in jobs.values()))
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - began)
    ours, theirs = (statistics.median(values) for values in seconds.values())
    return {"objects": count, "ours, s": ours, "torchvision, s": theirs, "ratio": ours / theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tune_cpu()
    rows = [compare(count, options.rounds) for count in OBJECTS]
    print(record.table(rows, list(rows[0])))
    if options.out:
        record.write(options.out, rows, photos=PHOTOS, rounds=options.rounds)


if __name__ == "__main__":
    main()
