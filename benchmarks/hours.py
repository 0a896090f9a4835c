"""How long a training takes on a GPU, computed and not measured: multiply-adds of its steps over a throughput.

    python benchmarks/hours.py [--teraflops 30] [--presets NAME...]

A step's multiply-adds are those of the forward pass (grcn.model.summary: convolutions and linear layers) for the
images and sampled RoIs of a step, and twice as many again for the backward pass of what is not frozen. A multiply-add
is two operations. What throughput to expect says detectron2's model zoo, whose training times on eight V100 in float32
come from networks of the same parts: `--peers` prints the operations a second that they come to.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from grcn import PRESETS, DetectorConfig, preset
from grcn.config import RPNConfig
from grcn.model.summary import summarize


@dataclass(frozen=True)
class Schedule:
    """A training as the field has it: iterations of 16 images, of a typical size as the detector sees it."""

    classes: int
    size: tuple[int, int]
    iterations: int


SCHEDULES = {
    "VOC 07+12": Schedule(20, (600, 800), 18_000),  # detectron2's length: 17.4 passes over 16,551 images
    "COCO 1x": Schedule(80, (800, 1067), 90_000),  # 12.2 passes over 117,266 images
}
BATCH = 16
SEPARATED: dict[str, Any] = {"separation": "conv4", "cls_stride": 32, "cls_context": "global"}
PAPER = {
    **{f"`{name}`": preset(name) for name in ("faster_rcnn_r50_c4", "faster_rcnn_r50_c5")},
    "G-RCN, ResNet-50": replace(preset("faster_rcnn_r50_c5"), **SEPARATED),
    **{f"`{name}`": preset(name) for name in ("faster_rcnn_r101_c4", "faster_rcnn_r101_c5")},
    "G-RCN, ResNet-101": replace(preset("faster_rcnn_r101_c5"), **SEPARATED),
    "`faster_rcnn_vgg16`": preset("faster_rcnn_vgg16"),
    "G-RCN, VGG16": replace(
        preset("faster_rcnn_vgg16"),
        **SEPARATED | {"cls_stride": 16, "loc_stride": 8},
        rpn=RPNConfig(source="cls", channels=512),
    ),
}
"""The detectors of the paper as we read it."""
# detectron2's MODEL_ZOO.md, Faster R-CNN, 1x schedule: seconds an iteration of 16 images on eight V100; their shorter
# sides are drawn from 640 to 800 pixels.
PEERS_SIZE = (720, 960)
PEERS = {
    "R50-C4": (replace(preset("faster_rcnn_r50_c4"), rpn=RPNConfig(channels=1024)), 0.551),
    "R50-DC5": (replace(preset("faster_rcnn_r50_c5"), head="fc2", rpn=RPNConfig(channels=2048)), 0.380),
}


def step_macs(config: DetectorConfig, classes: int, size: tuple[int, int]) -> int:
    """Multiply-adds of a training step on one image of `size` (height, width), from pretrained weights."""
    summary = summarize(config, classes, size, config.roi.batch_per_image)
    frozen = {f"conv{n}" for n in range(1, (summary.config.frozen_stages or 0) + 1)}
    return sum(stage.macs * (1 if stage.name in frozen else 3) for stage in summary.stages)


def hours(config: DetectorConfig, schedule: Schedule, teraflops: float) -> float:
    """Hours of a training at so many 10^12 operations a second."""
    operations = 2 * step_macs(config, schedule.classes, schedule.size) * BATCH * schedule.iterations
    return operations / (teraflops * 1e12) / 3600


def table(detectors: Mapping[str, DetectorConfig], teraflops: float) -> str:
    """Markdown: for each detector and schedule the multiply-adds of a step on one image, and hours."""
    heads = [f"{name}: GMAC an image | hours" for name in SCHEDULES]
    lines = [f"| detector | {' | '.join(heads)} |", "|---" * (1 + 2 * len(SCHEDULES)) + "|"]
    for name, config in detectors.items():
        cells = [name]
        for schedule in SCHEDULES.values():
            macs = step_macs(config, schedule.classes, schedule.size)
            cells += [f"{macs / 1e9:,.0f}", f"{hours(config, schedule, teraflops):.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def peers() -> str:
    """A line for each of detectron2's trainings: what throughput its time means for one GPU."""
    lines = []
    for name, (config, seconds) in PEERS.items():
        macs = step_macs(config, 80, PEERS_SIZE)
        lines.append(
            f"{name}: {macs / 1e9:,.0f} GMAC an image, {2 * macs * BATCH / seconds / 8 / 1e12:.1f} TFLOP/s a GPU"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teraflops", type=float, default=30.0, help="10^12 operations a second that are sustained")
    parser.add_argument("--presets", nargs="+", choices=tuple(PRESETS), help="default: the paper's")
    parser.add_argument("--peers", action="store_true", help="what detectron2's published times come to")
    options = parser.parse_args()
    print(
        peers()
        if options.peers
        else table({f"`{name}`": preset(name) for name in options.presets or ()} or PAPER, options.teraflops)
    )


if __name__ == "__main__":
    main()
