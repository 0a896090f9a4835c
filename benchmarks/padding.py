"""What padding does: detections of photos in a batch of mixed sizes against those of each photo alone.

    python benchmarks/padding.py DATA [--detectors NAME_OR_FILE ...] [--photos 8] [--out FILE.json]

A detector is a run folder or weights file, or a preset's name: then its weights are random, with batch-norm statistics
of the photos and answers scaled until they spread, so that there is something to compare.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from calibrate import enliven
from grcn.data.dataset import open_dataset, resolve_split
from grcn.model.detector import RCNN, build_detector
from grcn.predict.detector import Detector
from grcn.presets import PRESETS
from grcn.runtime import tune_cpu

SIZES = ((480, 640), (333, 517), (480, 300), (240, 320))  # (height, width); the first pads the others


def crops(data: str, count: int) -> list[Tensor]:
    """The middles of the first test photos, uint8 [3, H, W], of SIZES in turn (or as much as the photo has)."""
    dataset = open_dataset(data, split=resolve_split(data, "auto", "test"))
    images = []
    for i in range(count):
        photo = torch.from_numpy(dataset[i].pixels()).permute(2, 0, 1)
        (height, width), (full_height, full_width) = SIZES[i % len(SIZES)], photo.shape[1:]
        top, left = max(0, full_height - height) // 2, max(0, full_width - width) // 2
        images.append(photo[:, top : top + height, left : left + width])
    return images


def compare(alone: dict[str, Tensor], together: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
    """Differences of scores [M] and of box corners in pixels [M, 4] of the M detections that are found again: same
    class, IoU of 0.5 at least, the best; and how many are not."""
    same = alone["labels"][:, None] == together["labels"]
    overlaps = box_iou(alone["boxes"], together["boxes"]) * same
    if overlaps.numel() == 0:
        return torch.zeros(0), torch.zeros(0, 4), len(alone["labels"])
    best, index = overlaps.max(dim=1)
    again = best >= 0.5
    scores = (alone["scores"] - together["scores"][index]).abs()[again]
    return scores, (alone["boxes"] - together["boxes"][index]).abs()[again], int((~again).sum())


def map_changes(model: RCNN, images: list[Tensor]) -> dict[str, float]:
    """Mean change of the loc map's cells, in its standard deviations, by their distance from a padded edge."""
    batch, _ = model.batch(images)
    (together,), (stride,) = model.separation(batch).loc, model.separation.strides[2]
    bands: dict[tuple[int, float], list[Tensor]] = {(0, 32): [], (32, 64): [], (64, 128): [], (128, torch.inf): []}
    for image, padded in zip(images, together, strict=True):
        own, (height, width) = model.batch([image])[0], image.shape[1:]
        alone = model.separation(own).loc[0][0, :, : -(-height // stride), : -(-width // stride)]
        change = (alone - padded[:, : alone.shape[1], : alone.shape[2]]).abs().mean(dim=0) / alone.std()
        y, x = ((torch.arange(n) + 0.5) * stride for n in change.shape)
        # An edge is padded where the batch goes on beyond what the image alone is padded to.
        below = height - y if own.shape[2] < batch.shape[2] else torch.full_like(y, torch.inf)
        beside = width - x if own.shape[3] < batch.shape[3] else torch.full_like(x, torch.inf)
        distance = torch.minimum(below[:, None], beside)
        if distance.isfinite().any():
            for (near, far), found in bands.items():
                found.append(change[(distance >= near) & (distance < far)])
    return {
        f"map {near}..{far} px" if far < torch.inf else f"map beyond {near} px": torch.cat(found).mean().item()
        for (near, far), found in bands.items()
    }


def measure(source: str, images: list[Tensor]) -> dict[str, Any]:
    """The figures of one detector."""
    torch.manual_seed(0)
    if source in PRESETS:
        nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        model = build_detector(source, 3, weights=None)
        enliven(model, images[: len(SIZES)], [nothing] * len(SIZES), stds=(2.0, 0.2, 2.0, 1.0))
    else:
        model = Detector.load(source, device="cpu").model.eval()
    with torch.no_grad():
        batches = [images[i : i + len(SIZES)] for i in range(0, len(images), len(SIZES))]
        together = [found for batch in batches for found in model(batch)]
        alone = [model([image])[0] for image in images]
        maps = map_changes(model, images[: len(SIZES)])
    pairs = [
        compare(one, other)
        for image, one, other in zip(images, alone, together, strict=True)
        if image.shape[1:] != SIZES[0]  # the largest is not padded, and equal
    ]
    scores, boxes = torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
    lost = sum(p[2] for p in pairs)
    return {
        "detector": source,
        "detections": len(scores) + lost,
        "not found again": lost,
        "score mean": scores.mean().item(),
        "score max": scores.max().item(),
        "box mean px": boxes.mean().item(),
        "box max px": boxes.max().item(),
        **maps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--detectors", nargs="+", default=["faster_rcnn_r18_c5", "grcn_r18", "grcn_r50"])
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    tune_cpu()
    images = crops(arguments.data, arguments.photos)
    rows = [measure(source, images) for source in arguments.detectors]
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{v:.2g}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    if arguments.out:
        record = {"command": "python " + " ".join(sys.argv), "torch": torch.__version__, "rows": rows}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
