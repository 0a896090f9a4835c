"""Small detectors beside yolo11n: one picture of 640x480, all cores, in torch, ONNX Runtime and OpenVINO.

    python benchmarks/lite.py [--peer yolo11n.onnx] [--presets NAME ...] [--rounds 15] [--out FILE.json]

Everything predicts once in each round, in turn; figures are medians. Weights are random: ours calibrated on a scene, at
100 proposals; the peer's as ultralytics builds them, in an environment of its own:

    pip install ultralytics onnx
    yolo export model=yolo11n.yaml format=onnx imgsz=480,640

Ours takes a photo in bytes and gives boxes; the peer is timed without scaling its input and without NMS. int8 is
quantized on scenes, which is enough for timing.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnxruntime
import openvino
import torch

import record
from calibrate import enliven
from export import CASES, calibration_images, open_all, time_all
from grcn.model.detector import build_detector
from grcn.predict.checkpoint import LoadedDetector
from grcn.presets import preset
from grcn.runtime import tune_cpu
from inference import scene

PRESETS = (
    "faster_rcnn_lite0_c4",
    "faster_rcnn_lite0_c5",
    "grcn_lite0",
    "faster_rcnn_lite0_fpn",
    "grcn_lite0_fpn",
)
KINDS = ("torch fp32", "ONNX Runtime fp32", "OpenVINO fp32", "OpenVINO int8")
CLASSES = 80  # as the peer's
TARGETS = {"fp32": 2.0, "int8": 1.0}
"""The most time beside the peer's best in float32, and beside its int8."""


def random_detector(name: str) -> LoadedDetector:
    torch.manual_seed(0)
    image = scene(640, 480)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    config = preset(name)
    config = replace(config, rpn=replace(config.rpn, post_nms_test=100))
    model = enliven(build_detector(config, CLASSES, weights=None), [image, image.flip(2)], [nothing] * 2)
    return LoadedDetector(model, tuple(f"class {i}" for i in range(CLASSES)), name, {})


def peer(file: Path, pixels: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The peer's runs, by kind."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32) / 255
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    model = openvino.Core().read_model(file)
    nncf.set_log_level(logging.ERROR)
    scenes = [
        np.ascontiguousarray(image[:480, :640].transpose(2, 0, 1)[None] / np.float32(255))
        for image in calibration_images(None)
    ]
    quantized = nncf.quantize(
        model, nncf.Dataset(scenes), subset_size=len(scenes), preset=nncf.QuantizationPreset.MIXED
    )
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    plain, small = (openvino.compile_model(m, "CPU", hints) for m in (model, quantized))
    return {
        "ONNX Runtime fp32": lambda: session.run(None, {name: planes}),
        "OpenVINO fp32": lambda: plain(planes),
        "OpenVINO int8": lambda: small(planes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the peer's ONNX file; none: ours alone")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tune_cpu()
    pixels = (scene(640, 480) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    cases = {kind: CASES[kind] for kind in KINDS}
    calls: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.presets:
            own = Path(folder) / name
            own.mkdir()
            for kind, detector in open_all(cases, random_detector(name), own, None).items():
                calls[f"{name}, {kind}"] = lambda detector=detector: detector.predict(pixels)
        if options.peer:
            calls |= {f"yolo11n, {kind}": call for kind, call in peer(options.peer, pixels).items()}
        seconds = time_all(calls, options.rounds)
    ms = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    rows: list[dict[str, Any]] = []
    for name in [*options.presets, *(["yolo11n"] if options.peer else [])]:
        row: dict[str, Any] = {"detector": name} | {
            k: round(ms[f"{name}, {k}"], 1) if f"{name}, {k}" in ms else "" for k in KINDS
        }
        best = {"fp32": min(ms[f"{name}, {k}"] for k in KINDS[1:3]), "int8": ms[f"{name}, {KINDS[3]}"]}
        if options.peer:
            theirs = {"fp32": min(ms[f"yolo11n, {k}"] for k in KINDS[1:3]), "int8": ms[f"yolo11n, {KINDS[3]}"]}
            for kind, target in TARGETS.items():
                ratio = best[kind] / theirs[kind]
                row |= {f"{kind} ratio": round(ratio, 2), f"{kind} met": ratio <= target}
        rows.append(row)
    print(record.table(rows, list(rows[0])))
    if options.out:
        names = ("onnxruntime", "openvino", "nncf")
        every = {name: [round(s, 4) for s in values] for name, values in seconds.items()}
        record.write(options.out, rows, targets=TARGETS, runtimes={n: version(n) for n in names}, seconds=every)


if __name__ == "__main__":
    main()
