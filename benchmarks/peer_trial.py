"""Trains and scores another's detector on one of our backbones, as a study or `grcn train` trains ours.

    python benchmarks/peer_trial.py CONFIG.yaml --out RUN [--detector fasterrcnn] [--test_split test] [--seed 0]

Everything before and after the network is ours and the same for all: photos, augmentation, input size, ImageNet's
weights, optimizer, schedule, moving average and evaluation. CONFIG is that of `grcn train`; of its `model` count the
backbone, `neck_channels`, the anchors and the input. Detectors: torchvision's FasterRCNN, RetinaNet and FCOS, and
effdet's EfficientDet-Lite0 (`pip install effdet`).

Interrupted, the same command continues from the last save. Writes RUN/result.json: metrics on the test split with the
last weights, versions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
import yaml

import record
from grcn import Detector
from grcn.config import DetectorConfig, TrainConfig
from grcn.data.dataset import open_dataset
from grcn.data.records import Dataset
from grcn.evaluation import evaluate
from grcn.predict.dataset import predict_dataset
from grcn.presets import detector_of, train_config
from grcn.training import train
from trained_peers import KINDS, Peer, make_peer

METRICS = ("AP", "AP50", "AP70", "AP75", "APs", "APm", "APl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--detector", choices=KINDS, default="fasterrcnn")
    parser.add_argument("--test_split", default="test")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    values = yaml.safe_load(options.config.read_text())
    config = train_config({**values, "out": str(options.out), "seed": options.seed, "resume": True})
    made: list[Peer] = []

    def make(config: DetectorConfig, num_classes: int, weights: str | None = None) -> Peer:
        made.append(make_peer(options.detector, config, num_classes, weights))
        return made[0]

    def start(config: TrainConfig, data: Dataset, say: Any) -> Peer:
        return make(detector_of(config), len(data.class_names), None if config.weights == "random" else config.weights)

    with patch("grcn.training.run.new_detector", start), patch("grcn.training.run.outline", make):
        run = train(config)
    data = open_dataset(config.data, split=options.test_split, format=config.format)
    model = made[0]
    model.load_state_dict(safetensors.torch.load_file(run / "last.safetensors"))
    found = predict_dataset(Detector(model.eval(), data.class_names), data)
    metrics = evaluate(found, [r.target for r in data.records], data.class_names)
    rows = [{"detector": options.detector, "seed": options.seed, **{key: metrics[key] for key in METRICS}}]
    print(record.table(rows, ("detector", "seed", "AP", "AP50", "AP70")))
    record.write(run / "result.json", rows, config={**values, "data": Path(config.data).name})


if __name__ == "__main__":
    main()
