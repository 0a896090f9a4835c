"""Photos per second of `grcn predict`, drawing on: of this tree and of another one, in turn.

    python benchmarks/predict.py PHOTOS [--before TREE] [--preset grcn_r18] [--large 100] [--small 200] [--rounds 3]

PHOTOS is a folder of JPEGs. Each is enlarged to 4000x3000 (large) and taken as it is (small), as often as it takes to
have so many. TREE is a checkout whose `grcn predict` is run on the same files. Weights are random and calibrated, so
that boxes are drawn. A process is timed from its start to its end; twice as many photos tell what one costs without the
start, and whether memory stays flat. The network's waiting is measured in this process.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import record
from calibrate import enliven
from grcn import Detector
from grcn.data.image import read_image
from grcn.data.transforms import resize
from grcn.model.detector import build_detector
from grcn.predict.checkpoint import save_detector
from grcn.predict.job import predict_sources
from grcn.predict.sources import find_sources
from grcn.runtime import peak_memory

LARGE = (4000, 3000)
TARGET = 1.6  # photos a second, of before, for the large


def make_photos(source: Path, folder: Path, count: int, large: bool) -> None:
    """`count` JPEGs, of the photos in `source` in turn."""
    folder.mkdir(parents=True)
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    kinds = files[: min(len(files), 12 if large else count)]
    for i in range(count):
        target, kind = folder / f"{i:05}.jpg", folder / f"{i % len(kinds):05}.jpg"
        if i >= len(kinds):
            os.link(kind, target)
        elif large:
            with Image.open(kinds[i]) as photo:
                photo.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC).save(target, quality=90)
        else:
            shutil.copyfile(kinds[i], target)


def save_weights(path: Path, preset: str, photo: NDArray[np.uint8]) -> None:
    """Random weights that answer differently from place to place in `photo`."""
    model = build_detector(preset, 3, weights=None)
    image = resize(torch.from_numpy(photo).permute(2, 0, 1), 600, 1000)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    enliven(model, [image, image.flip(2)], [nothing] * 2)
    save_detector(path, model, class_names=("a", "b", "c"), preset=preset, extra={})


def run(tree: Path, weights: Path, photos: Path, out: Path) -> tuple[float, float]:
    """Seconds of the command, and the largest memory of its process in MB."""
    command = [sys.executable, "-m", "grcn", "predict", str(weights), str(photos), "--out", str(out), "--device", "cpu"]
    began, most = time.perf_counter(), 0.0
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(tree / "src")}, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        most = max(most, peak_memory(process.pid))
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    shutil.rmtree(out)
    return seconds, most


def waiting_share(weights: Path, photos: Path, out: Path) -> float:
    """The share of a run's time in which the network has no photo to look at."""
    detector = Detector.load(weights, device="cpu")
    spent = [0.0]

    @contextmanager
    def counted() -> Iterator[None]:
        own, network = detector.network.detect, detector.network

        def detect(*args: Any) -> Any:
            began = time.perf_counter()
            found = own(*args)
            spent[0] += time.perf_counter() - began
            return found

        network.detect = detect  # type: ignore[method-assign]
        yield

    sources, _ = find_sources([str(photos)], out)
    with counted():
        began = time.perf_counter()
        predict_sources(detector, sources, out)
        whole = time.perf_counter() - began
    shutil.rmtree(out)
    return 1 - spent[0] / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--preset", default="grcn_r18")
    parser.add_argument("--large", type=int, default=100)
    parser.add_argument("--small", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    here = Path(__file__).parents[1]
    trees = {"now": here, **({"before": options.before} if options.before else {})}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, count in (("large", options.large), ("small", options.small)):
            if not count:
                continue
            for times in (1, 2):
                make_photos(options.photos, work / f"{name}-{times}", times * count, name == "large")
            weights = work / "model.safetensors"
            if not weights.exists():
                photo = read_image(min((work / f"{name}-1").iterdir()))
                save_weights(weights, options.preset, photo)
            seconds: dict[tuple[str, int], list[float]] = {}
            memory: dict[tuple[str, int], list[float]] = {}
            for _ in range(options.rounds):
                for times in (1, 2):
                    for tree in trees:
                        taken, most = run(trees[tree], weights, work / f"{name}-{times}", work / "out")
                        seconds.setdefault((tree, times), []).append(taken)
                        memory.setdefault((tree, times), []).append(most)
            for tree in trees:
                once, twice = (statistics.median(seconds[tree, times]) for times in (1, 2))
                rows.append(
                    {
                        "photos": f"{count} and {2 * count} {name}",
                        "tree": tree,
                        "start, s": round(2 * once - twice, 2),
                        "photos/s": round(count / (twice - once), 2),
                        "MB": round(max(memory[tree, 1])),
                        "MB, twice as many": round(max(memory[tree, 2])),
                        "seconds": [round(value, 2) for times in (1, 2) for value in seconds[tree, times]],
                    }
                )
            rows[-len(trees)]["network waits"] = round(waiting_share(weights, work / f"{name}-1", work / "out"), 3)
            if options.before:
                rows[-2]["times before"] = round(rows[-2]["photos/s"] / rows[-1]["photos/s"], 2)
    for row in rows:
        print(row)
    if options.out:
        record.write(options.out, rows, preset=options.preset, rounds=options.rounds, target=TARGET)


if __name__ == "__main__":
    main()
