"""Images per second of the training loader's work on one thread, beside PIL and torchvision's v2 transforms on floats.

    python benchmarks/loader.py DATA [--rounds 7] [--images 40] [--out FILE.json]

Decode, resize with jitter and flip, in turn, for the same photos and the same sizes; with and without colour jitter.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

import record
from grcn.config import AugmentConfig, InputConfig
from grcn.data.dataset import Dataset, open_dataset, resolve_split
from grcn.data.loader import TrainingSet

SIZE = InputConfig(600, 1000)
JITTER = (0.9, 1.1)
TARGET = 4.0


def ours(data: Dataset, color: float) -> Callable[[int], Any]:
    samples = TrainingSet(data, SIZE, AugmentConfig(flip=0.5, scale_jitter=JITTER, color=color), seed=0)
    return lambda index: samples[0, index]


def theirs(data: Dataset, color: float) -> Callable[[int], Any]:
    sizes = [round(SIZE.short_side * (JITTER[0] + (JITTER[1] - JITTER[0]) * k / 20)) for k in range(21)]
    steps = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomShortestSize(sizes, max_size=round(SIZE.long_side * JITTER[1])),
        v2.RandomHorizontalFlip(0.5),
    ]
    if color:
        steps.append(v2.ColorJitter(0.5 * color, 0.5 * color, 0.5 * color, 0.1 * color))
    transform = v2.Compose(steps)

    def load(index: int) -> Any:
        row = data[index]
        with Image.open(row.path) as file:
            picture = file.convert("RGB")
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(row.target.boxes), format="XYXY", canvas_size=(row.height, row.width)
        )
        return transform(picture, {"boxes": boxes, "labels": torch.from_numpy(row.target.labels)})

    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = open_dataset(options.data, split=resolve_split(options.data, "auto", "train"))
    rows = []
    for color in (0.0, 1.0):
        loads = {"ours": ours(data, color), "theirs": theirs(data, color)}
        rates: dict[str, list[float]] = {name: [] for name in loads}
        for k in range(options.rounds + 1):
            for name, load in loads.items():
                began = time.perf_counter()
                for index in range(options.images):
                    load(index)
                if k:
                    rates[name].append(options.images / (time.perf_counter() - began))
        median = {name: statistics.median(values) for name, values in rates.items()}
        ratio = median["ours"] / median["theirs"]
        rows.append(
            {
                "colour jitter": bool(color),
                "ours, images/s": round(median["ours"], 1),
                "theirs, images/s": round(median["theirs"], 1),
                "ratio": round(ratio, 2),
                "target": TARGET,
                "met": ratio >= TARGET,
            }
        )
    print(record.table(rows, list(rows[0])))
    if options.out:
        record.write(options.out, rows, images=options.images)


if __name__ == "__main__":
    main()
