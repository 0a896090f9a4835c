"""Prediction side by side with torchvision: batch 1, 800x600, ResNet-50, random weights calibrated on a scene.

    python benchmarks/inference.py [--rounds 9] [--cases NAME ...] [--out FILE.json]

Every detector of a case predicts once in each round, in turn, so that what the machine does meanwhile meets all alike;
the figure is the ratio of the medians. Where the weights are the same, so must the detections be.

Peers, from torchvision's parts, as they come (float32, contiguous):
- c4: layer4 as the box head on 14x14 RoI features; 300 proposals.
- dc5: layer4 dilated in the body, two fully connected layers on 7x7x2048 RoI features; 300 proposals.
- fpn: fasterrcnn_resnet50_fpn, at its own 1000 proposals.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import record
from calibrate import enliven
from grcn.model.detector import build_detector
from grcn.predict.optimize import optimized
from grcn.runtime import tune_cpu
from grcn.scenes.render import render_scene
from peers import Scale, c4_pair, c5_pair, fpn_pair, no_resize, separated

CLASSES = 20


@dataclass(frozen=True)
class Case:
    """One comparison: the two detectors' names, the target of ours / theirs, and whether their weights are equal."""

    ours: str
    theirs: str
    target: float
    same_weights: bool = False


CASES = {
    "c4": Case("faster_rcnn_r50_c4", "torchvision c4", 0.85, same_weights=True),
    "c5": Case("faster_rcnn_r50_c5, fc2", "torchvision dc5", 0.60, same_weights=True),
    "grcn-c4": Case("grcn_r50", "torchvision c4", 0.25),
    "fpn": Case("faster_rcnn_r50_fpn", "torchvision fpn", 0.65, same_weights=True),
    "grcn_fpn-fpn": Case("grcn_r50_fpn", "torchvision fpn", 0.60),
    "grcn-fpn": Case("grcn_r50", "torchvision fpn", 0.60),
    "grcn-bf16-fpn": Case("grcn_r50, bf16", "torchvision fpn", 0.25),
}


def scene(width: int = 800, height: int = 600) -> Tensor:
    """A picture of the embedded set's kind, float [3, H, W] in 0..1."""
    pixels, _ = render_scene(np.random.default_rng(0), (width, height), (20.0, 250.0), (8, 12))
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous() / 255


def detectors(names: set[str], image: Tensor) -> dict[str, nn.Module]:
    """The detectors of these names, in evaluation mode."""
    torch.manual_seed(0)
    made: dict[str, nn.Module] = {}
    for key, pair in (("c4", c4_pair), ("c5", c5_pair)):
        if {CASES[key].ours, CASES[key].theirs} & names:
            ours, theirs = pair(image, Scale(classes=CLASSES))
            no_resize(theirs, [image])
            made |= {CASES[key].ours: optimized(ours, "fold"), CASES[key].theirs: theirs}
    if {"faster_rcnn_r50_fpn", "grcn_r50_fpn", "torchvision fpn"} & names:
        ours, theirs = fpn_pair(image, CLASSES)
        no_resize(theirs, [image])
        made |= {"faster_rcnn_r50_fpn": optimized(ours, "fold"), "torchvision fpn": theirs}
        made["grcn_r50_fpn"] = optimized(separated(ours, "grcn_r50_fpn"), "fold")
    if {"grcn_r50", "grcn_r50, bf16"} & names:
        nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        grcn = enliven(build_detector("grcn_r50", CLASSES, weights=None), [image, image.flip(2)], [nothing] * 2)
        made |= {"grcn_r50": optimized(grcn, "fold"), "grcn_r50, bf16": optimized(grcn, "bf16")}
    return {name: model.eval() for name, model in made.items() if name in names}


def time_all(models: dict[str, nn.Module], image: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each prediction: [rounds] by name, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for k in range(rounds + 1):
            for name, model in models.items():
                began = time.perf_counter()
                model([image])
                if k:
                    seconds[name].append(time.perf_counter() - began)
    return seconds


def difference(ours: nn.Module, theirs: nn.Module, image: Tensor) -> dict[str, Any]:
    """How far the detections of two detectors with the same weights are apart."""
    with torch.inference_mode():
        mine, other = ours([image])[0], theirs([image])[0]
    if len(mine["boxes"]) != len(other["boxes"]):
        return {"detections": [len(mine["boxes"]), len(other["boxes"])]}
    return {
        "detections": len(mine["boxes"]),
        "box_px": (mine["boxes"] - other["boxes"]).abs().max().item(),
        "score": (mine["scores"] - other["scores"]).abs().max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tune_cpu()
    image = scene()
    cases = {key: CASES[key] for key in options.cases}
    models = detectors({name for case in cases.values() for name in (case.ours, case.theirs)}, image)
    seconds = time_all(models, image, options.rounds)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        {
            "ours": case.ours,
            "theirs": case.theirs,
            "ours_s": round(median[case.ours], 3),
            "theirs_s": round(median[case.theirs], 3),
            "ratio": round(median[case.ours] / median[case.theirs], 3),
            "target": case.target,
            "met": median[case.ours] / median[case.theirs] <= case.target,
            **({"same": difference(models[case.ours], models[case.theirs], image)} if case.same_weights else {}),
        }
        for case in cases.values()
    ]
    print(record.table(rows, ("ours", "theirs", "ours_s", "theirs_s", "ratio", "target", "met")))
    for row in rows:
        if "same" in row:
            print(f"{row['ours']}, {row['theirs']}: {row['same']}")
    if options.out:
        record.write(options.out, rows, seconds={k: [round(s, 4) for s in v] for k, v in seconds.items()})


if __name__ == "__main__":
    main()
