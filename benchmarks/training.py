"""A training step side by side with torchvision: batch 2, 800x600, 8 boxes each, ResNet-50.

    python benchmarks/training.py [--rounds 7] [--detectors NAME ...] [--bf16] [--out FILE.json]

Forward, backward, clipping and update with SGD, as in fine-tuning: norm layers frozen, conv1 and conv2 too. The weights
are random, calibrated on a scene. Every detector makes one step in each round, in turn; the figure is the ratio of the
medians. Peers as in inference.py; all at their own settings for sampling (512 RoIs an image) and proposals (2000), but
for protocol C4, which torchvision does not have: as ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

import record
from calibrate import enliven
from grcn.config import OptimConfig
from grcn.model.backbones import make_backbone
from grcn.model.detector import RCNN, build_detector, resolve
from grcn.runtime import tune_cpu
from grcn.training.optimizer import clip_gradients, make_optimizer
from inference import CLASSES, scene
from peers import Scale, c4_pair, fpn_pair, no_resize, separated

PEERS = ("torchvision c4", "torchvision fpn")
TARGETS = {
    ("faster_rcnn_r50_fpn", "torchvision fpn"): 0.75,
    ("grcn_r50", "torchvision fpn"): 0.65,
    ("grcn_r50", "torchvision c4"): 0.12,
    ("faster_rcnn_r50_c4", "torchvision c4"): 0.85,
}


def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two scenes and eight boxes in each."""
    image = scene()
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(2):
        corner = torch.rand(8, 2, generator=generator) * torch.tensor([600.0, 400.0])
        sides = 32 + torch.rand(8, 2, generator=generator) * 168
        boxes = torch.cat((corner, corner + sides), dim=1)
        targets.append({"boxes": boxes, "labels": torch.randint(1, CLASSES, (8,), generator=generator)})
    return [image, image.flip(2)], targets


def detectors(names: set[str], image: Tensor) -> dict[str, nn.Module]:
    """The detectors of these names, as fine-tuning has them, in training mode."""
    torch.manual_seed(0)
    made: dict[str, nn.Module] = {}
    if {"faster_rcnn_r50_c4", "torchvision c4"} & names:
        ours, theirs = c4_pair(image, Scale(classes=CLASSES, proposals=2000))
        theirs.backbone.layers[:5].requires_grad_(False)
        made |= {"faster_rcnn_r50_c4": frozen(ours), "torchvision c4": theirs}
    if {"faster_rcnn_r50_fpn", "grcn_r50_fpn", "torchvision fpn"} & names:
        ours, theirs = fpn_pair(image, CLASSES)
        own = separated(ours, "grcn_r50_fpn")
        made |= {"faster_rcnn_r50_fpn": ours, "grcn_r50_fpn": own, "torchvision fpn": theirs}
        for part in ("conv1", "layer1"):
            made["torchvision fpn"].backbone.body[part].requires_grad_(False)
    if "grcn_r50" in names:
        nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        made["grcn_r50"] = frozen(
            enliven(build_detector("grcn_r50", CLASSES, weights=None), [image, image.flip(2)], [nothing] * 2)
        )
    for name, model in made.items():
        if name.startswith("torchvision"):
            no_resize(model, [image])
    return {name: model.train() for name, model in made.items() if name in names}


def frozen(model: RCNN) -> RCNN:
    """The same detector with its norm frozen, and conv1 and conv2 too."""
    backbone = make_backbone(model.config.backbone, pretrained=True)
    config = resolve(replace(model.config, frozen_stages=None), backbone, pretrained=True)
    result = RCNN(config, model.num_classes, backbone)
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    result.load_state_dict(state)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--detectors",
        nargs="+",
        default=["faster_rcnn_r50_c4", "faster_rcnn_r50_fpn", "grcn_r50", *PEERS],
        metavar="NAME",
    )
    parser.add_argument("--bf16", action="store_true", help="autocast, for all")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tune_cpu()
    images, targets = batch()
    models = detectors(set(options.detectors), images[0])
    optimizers = {name: make_optimizer(model, OptimConfig(), lr=1e-6) for name, model in models.items()}
    counted = [t | {"labels": t["labels"] + 1} for t in targets]  # torchvision's classes begin at 1
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for k in range(options.rounds + 1):
        for name, model in models.items():
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                losses = model(images, counted if name in PEERS else targets)
            sum(losses.values()).backward()
            clip_gradients(model, 10.0)
            optimizers[name].step()
            optimizers[name].zero_grad()
            if k:
                seconds[name].append(time.perf_counter() - began)
                print(f"{name}: {seconds[name][-1]:.2f} s", flush=True)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        {
            "ours": ours,
            "theirs": theirs,
            "ours_s": round(median[ours], 2),
            "theirs_s": round(median[theirs], 2),
            "ratio": round(median[ours] / median[theirs], 3),
            "target": target,
            "met": median[ours] / median[theirs] <= target,
        }
        for (ours, theirs), target in TARGETS.items()
        if ours in median and theirs in median
    ]
    print(record.table(rows, ("ours", "theirs", "ours_s", "theirs_s", "ratio", "target", "met")))
    if options.out:
        record.write(options.out, rows, seconds={k: [round(s, 3) for s in v] for k, v in seconds.items()})


if __name__ == "__main__":
    main()
