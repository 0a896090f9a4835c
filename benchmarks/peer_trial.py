"""Trains and scores torchvision's own FasterRCNN, with a pyramid on one of our backbones, as a study trains ours.

    python benchmarks/peer_trial.py CONFIG.yaml --out RUN [--test_split test] [--seed 0]

Everything before and after the network is ours and the same for both: photos, augmentation, input size, ImageNet's
weights, optimizer, schedule, moving average and evaluation. Theirs is the detector: pyramid, RPN, pooling, heads,
matching, sampling, losses and post-processing, at torchvision's own settings (1000 proposals, 2000 in training, 512
RoIs). CONFIG is that of `grcn train`; of its `model` count the backbone, `neck_channels`, the anchors and the input.

Interrupted, the same command continues from the last save. Writes RUN/result.json: metrics on the test split with the
last weights, seconds of an iteration, versions.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
import torch
import yaml
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

import record
from grcn import Detector
from grcn.config import DetectorConfig, TrainConfig
from grcn.data.dataset import open_dataset
from grcn.data.records import Dataset
from grcn.evaluation import evaluate
from grcn.model.backbones import make_backbone
from grcn.model.backbones.pretrained import load_backbone
from grcn.model.detector import RCNN, resolve
from grcn.predict.dataset import predict_dataset
from grcn.presets import detector_of, train_config
from grcn.training import train

METRICS = ("AP", "AP50", "AP70", "AP75", "APs", "APm", "APl")


class Body(nn.Module):
    """Our backbone's stages under torchvision's pyramid."""

    def __init__(self, stages: Sequence[nn.Module], inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.stages, self.out_channels = nn.ModuleList(stages), channels
        self.fpn = FeaturePyramidNetwork(list(inputs), channels, LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = OrderedDict[str, Tensor]()
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number:
                maps[str(number - 1)] = x
        pyramid: dict[str, Tensor] = self.fpn(maps)
        return pyramid


class Peer(RCNN):
    """torchvision's detector with the calls of ours; the training loop asks nothing else of it."""

    def __init__(self, config: DetectorConfig, num_classes: int, weights: str | None) -> None:
        nn.Module.__init__(self)
        pretrained = weights is not None
        backbone = make_backbone(config.backbone, config.norm, pretrained=pretrained)
        self.config = resolve(config, backbone, pretrained=pretrained)
        self.num_classes = num_classes
        if weights is not None:
            load_backbone(backbone, weights)
        ends = pairwise((1, *backbone.strides))
        stages = [backbone.stage(number, *each) for number, each in enumerate(ends, start=1)]
        for stage in stages[: self.config.frozen_stages]:
            stage.requires_grad_(False)
        sizes = tuple((size,) for size in config.rpn.anchor_sizes)
        self.theirs = FasterRCNN(
            Body(stages, backbone.channels[1:], config.neck_channels),
            num_classes + 1,
            rpn_anchor_generator=AnchorGenerator(sizes, (config.rpn.anchor_ratios,) * len(sizes)),
            image_mean=list(backbone.mean),
            image_std=list(backbone.std),
        )
        self.theirs.transform.resize = lambda image, target: (image, target)  # they come as they are to be seen

    def forward(
        self,
        images: list[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        seeds: Sequence[int] | None = None,
        score: float | None = None,
    ) -> Any:
        images = [image / 255 if image.dtype == torch.uint8 else image for image in images]
        if self.training:
            assert targets is not None
            return self.theirs(images, [t | {"labels": t["labels"] + 1} for t in targets])
        if score is not None:
            self.theirs.roi_heads.score_thresh = score
        return [found | {"labels": found["labels"] - 1} for found in self.theirs(images)]

    def checkpoint_activations(self, on: bool) -> None:
        assert not on

    def train(self, mode: bool = True) -> Peer:
        nn.Module.train(self, mode)
        return self


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--test_split", default="test")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    values = yaml.safe_load(options.config.read_text())
    config = train_config({**values, "out": str(options.out), "seed": options.seed, "resume": True})
    weights = None if config.weights == "random" else config.weights

    made: list[Peer] = []

    def make(config: DetectorConfig, num_classes: int) -> Peer:
        made.append(Peer(config, num_classes, weights))
        return made[0]

    def start(config: TrainConfig, data: Dataset, say: Any) -> Peer:
        return make(detector_of(config), len(data.class_names))

    with patch("grcn.training.run.new_detector", start), patch("grcn.training.run.outline", make):
        run = train(config)
    data = open_dataset(config.data, split=options.test_split, format=config.format)
    (model,) = made
    model.load_state_dict(safetensors.torch.load_file(run / "last.safetensors"))
    found = predict_dataset(Detector(model.eval(), data.class_names), data)
    metrics = evaluate(found, [r.target for r in data.records], data.class_names)
    rows = [{"seed": options.seed, **{key: metrics[key] for key in METRICS}}]
    print(record.table(rows, ("seed", "AP", "AP50", "AP70")))
    record.write(run / "result.json", rows, config={**values, "data": Path(config.data).name})


if __name__ == "__main__":
    main()
