"""Exported grcn_r50 beside torchvision's detector in torch: batch 1, 800x600, 300 proposals, all cores.

    python benchmarks/export.py [--rounds 9] [--cases NAME ...] [--data DIR [--run RUN]] [--out FILE.json]

The detectors predict once in each round, in turn, so that what the machine does meanwhile meets all alike; the figure
is the ratio of the medians to fasterrcnn_resnet50_fpn, float32, at its own 1000 proposals. Weights are random,
calibrated on a scene; int8 is quantized on 40 images of DIR, without it on scenes, which is enough for timing.

`products`: what part of OpenVINO's time goes to convolutions and matrix products, by its own count.

With a RUN, a grcn_r50 trained on DIR, each kind of file is made of it, too, at its own input size, and its AP on DIR's
test split stands beside the times, with its distance to that of the run in torch, float32, in points.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from numpy.typing import NDArray

import record
from calibrate import enliven
from grcn import Detector, evaluate, open_dataset
from grcn.config import Optimization
from grcn.export.export import Format, export
from grcn.model.detector import build_detector
from grcn.predict.checkpoint import LoadedDetector, load_detector
from grcn.predict.dataset import predict_dataset
from grcn.predict.locate import OPENVINO_FILE, locate
from grcn.predict.optimize import optimized
from grcn.runtime import tune_cpu
from grcn.scenes.render import render_scene
from inference import CLASSES, scene
from peers import fpn

CALIBRATION = 40
"""Images that int8 is quantized on."""


@dataclass(frozen=True)
class Case:
    """A way to run a detector: its file (None: torch), how it is loaded, and the most time beside torchvision's."""

    file: str | None
    optimize: Optimization
    target: float | None


CASES = {
    "torch fp32": Case(None, "fold", None),
    "torch bf16": Case(None, "bf16", None),
    "ONNX Runtime fp32": Case("model.onnx", "fold", 0.36),
    "OpenVINO fp32": Case("openvino", "fold", 0.36),
    "OpenVINO bf16": Case("openvino", "bf16", 0.17),
    "OpenVINO int8": Case("openvino-int8", "fold", 0.14),
}


def random_detector() -> LoadedDetector:
    """grcn_r50 with random weights that find something in a scene."""
    torch.manual_seed(0)
    image = scene()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    model = enliven(build_detector("grcn_r50", CLASSES, weights=None), [image, image.flip(2)], [nothing] * 2)
    return LoadedDetector(model, tuple(f"class {i}" for i in range(CLASSES)), "grcn_r50", {})


def calibration_images(data: Path | None) -> list[NDArray[np.uint8]]:
    """Evenly spaced images of the training split, or scenes."""
    if data is None:
        return [render_scene(np.random.default_rng(i), (800, 600), (20.0, 250.0), (8, 12))[0] for i in range(4)]
    records = open_dataset(data, split="train").records
    count = min(CALIBRATION, len(records))
    return [records[i * len(records) // count].pixels() for i in range(count)]


def open_all(cases: dict[str, Case], detector: LoadedDetector, folder: Path, data: Path | None) -> dict[str, Detector]:
    """The detector in each of the cases, by name; its files are written to `folder`."""
    formats: dict[str, Format] = {"model.onnx": "onnx", "openvino": "openvino", "openvino-int8": "openvino"}
    for file in {case.file for case in cases.values() if case.file}:
        calibration = calibration_images(data) if file.endswith("int8") else ()
        export(detector, folder / file, formats[file], calibration=calibration)
    opened = {}
    for name, case in cases.items():
        if case.file is not None:
            opened[name] = Detector.load(folder / case.file, optimize=case.optimize)
        else:
            opened[name] = Detector(optimized(detector.model, case.optimize), detector.class_names)
    return opened


def time_all(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call: [rounds] by name, after two rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(rounds + 2):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if k > 1:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def products_share(file: Path, precision: str, pixels: NDArray[np.uint8]) -> float:
    """The part of its operations' time that goes to convolutions and matrix products, in the quickest of five runs."""
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": "YES"}
    request = openvino.compile_model(file / OPENVINO_FILE, "CPU", settings).create_infer_request()
    runs: list[tuple[float, float]] = []
    for _ in range(5):
        request.infer([pixels[None]])
        taken = [(o.node_type, o.real_time.total_seconds()) for o in request.profiling_info]
        products = sum(s for kind, s in taken if kind in ("Convolution", "FullyConnected", "MatMul"))
        runs.append((sum(s for _, s in taken), products))
    everything, products = min(runs)
    return products / everything


def average_precision(detector: Detector, data: Path) -> float:
    """AP on the test split, in points of 100."""
    dataset = open_dataset(data, split="test", class_names=detector.class_names)
    found = predict_dataset(detector, dataset)
    return 100 * evaluate(found, [r.target for r in dataset.records], dataset.class_names)["AP"]


def megabytes(path: Path) -> float:
    files = path.iterdir() if path.is_dir() else [path]
    return round(sum(file.stat().st_size for file in files) / 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tune_cpu()
    cases = {name: CASES[name] for name in options.cases}
    picture = scene()
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    peer = fpn(picture, CLASSES).eval()

    def torchvision_predicts() -> None:
        with torch.inference_mode():
            peer([picture])

    with tempfile.TemporaryDirectory() as folder:
        detectors = open_all(cases, random_detector(), Path(folder), options.data)
        sizes = {name: case.file and megabytes(Path(folder) / case.file) for name, case in cases.items()}
        calls: dict[str, Callable[[], Any]] = {"torchvision": torchvision_predicts}
        calls |= {name: lambda own=own: own.predict(pixels) for name, own in detectors.items()}
        seconds = time_all(calls, options.rounds)
        products = {
            name: products_share(Path(folder) / case.file, "bf16" if case.optimize == "bf16" else "f32", pixels)
            for name, case in cases.items()
            if case.file is not None and case.file.startswith("openvino")
        }
    del detectors, calls
    scores: dict[str, float] = {}
    if options.run is not None:
        trained = load_detector(locate(options.run).path)
        with tempfile.TemporaryDirectory() as folder:
            everything = {"torch fp32": CASES["torch fp32"], **cases}
            for name, detector in open_all(everything, trained, Path(folder), options.data).items():
                scores[name] = average_precision(detector, options.data)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        {
            "case": name,
            "s": round(median[name], 3),
            "ratio": round(median[name] / median["torchvision"], 3),
            "target": case.target,
            "met": case.target and median[name] / median["torchvision"] <= case.target,
            "products": name in products and round(products[name], 3),
            "MB": sizes[name],
            "AP": name in scores and round(scores[name], 2),
            "to torch fp32": name in scores and round(scores[name] - scores["torch fp32"], 2),
        }
        for name, case in cases.items()
    ]
    print(f"torchvision fasterrcnn_resnet50_fpn: {median['torchvision']:.3f} s")
    print(record.table(rows, list(rows[0])))
    if options.out:
        record.write(
            options.out,
            rows,
            torchvision_s=round(median["torchvision"], 3),
            runtimes={name: version(name) for name in ("onnx", "onnxruntime", "openvino", "nncf")},
            seconds={name: [round(s, 4) for s in values] for name, values in seconds.items()},
        )


if __name__ == "__main__":
    main()
