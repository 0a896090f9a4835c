"""Small detectors with random weights, and something to show them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calibrate import enliven
from grcn.config import DetectorConfig, RPNConfig
from grcn.model.backbones import make_backbone
from grcn.model.detector import RCNN, resolve
from grcn.presets import PRESETS

# One of each family and kind of block runs with every test, the others in the slow lane.
FAMILIES = (
    "faster_rcnn_lite0_c4",
    "faster_rcnn_lite0_fpn",
    "faster_rcnn_r18_c5",
    "faster_rcnn_r50_c4",
    "faster_rcnn_r50_fpn_v2",
    "faster_rcnn_vgg16",
    "grcn_lite0",
    "grcn_r18",
    "grcn_r18_fpn",
    "grcn_vgg16",
    "paper_r18",
    "paper_vgg16",
)
TIMM = (
    "timm:tf_efficientnet_lite0",
    "timm:resnet18",
    "timm:regnety_004",
    "timm:mobilenetv4_conv_small",
    "timm:hgnetv2_b0",
    "timm:convnext_tiny",
    "timm:swin_tiny_patch4_window7_224",
)
"""The networks of timm that docs/tutorials/new-backbone.md says something of."""
_SEPARATED = DetectorConfig(separation="conv4", cls_stride=32, cls_context="global")
NAMED = {
    **PRESETS,
    "paper_r18": replace(_SEPARATED, backbone="resnet18", rpn=RPNConfig(channels=256)),
    "paper_vgg16": replace(
        _SEPARATED, backbone="vgg16", head="vgg_fc", cls_stride=16, loc_stride=8, rpn=RPNConfig("cls", channels=512)
    ),
}
"""The presets, and G-RCN as we read the paper: own conv5s, strides that differ, the whole image for classification."""
EACH_PRESET = [pytest.param(name, marks=() if name in FAMILIES else pytest.mark.slow) for name in sorted(NAMED)]


def small(config: DetectorConfig | str, **changes: Any) -> DetectorConfig:
    """The same detector, narrow, with few cells per RoI, small anchors and few boxes; `changes` to its other fields."""
    config = NAMED[config] if isinstance(config, str) else config
    pyramid: dict[str, Any] = {"neck_channels": 16, "cls_cells": 3.0, "loc_cells": 3.0}
    has_neck = changes.get("neck", config.neck) != "none"
    return replace(
        config,
        **(pyramid if has_neck else {})
        | {
            "rpn": replace(
                config.rpn,
                channels=16,
                anchor_sizes=(16.0, 24.0, 32.0, 48.0, 64.0) if has_neck else (16.0, 32.0, 64.0),
                batch_per_image=10_000 if has_neck else 64,  # so that each map is seen
                pre_nms_train=100,
                pre_nms_test=100,
                post_nms_train=12,
                post_nms_test=12,
            ),
            "roi": replace(
                config.roi,
                size=None if config.head == "vgg_fc" else 4,
                reduce_channels=16,
                fc_channels=32,
                batch_per_image=12,
            ),
        }
        | changes,
    )


def build(config: DetectorConfig, num_classes: int = 3, *, pretrained: bool = False) -> RCNN:
    """The detector with random weights, or as on pretrained ones: with their norm and frozen stages."""
    backbone = make_backbone(config.backbone, config.norm, pretrained=pretrained)
    return RCNN(resolve(config, backbone, pretrained=pretrained), num_classes, backbone)


def random_images(*sizes: tuple[int, int]) -> list[Tensor]:
    """Noise that is coarse enough to survive a few strides: [3, H, W] in 0..1 of each (height, width)."""
    return [
        nn.functional.interpolate(torch.rand(1, 3, h // 8 + 1, w // 8 + 1), (h, w), mode="bicubic")[0].clamp(0, 1)
        for h, w in sizes
    ]


def objects(count: int, num_classes: int = 3, size: float = 64.0) -> dict[str, Tensor]:
    """`count` objects anywhere in the top left `size` pixels."""
    corner = torch.rand(count, 2) * size / 2
    return {
        "boxes": torch.cat((corner, corner + size / 8 + torch.rand(count, 2) * size * 3 / 8), dim=1),
        "labels": torch.randint(num_classes, (count,)),
    }


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def enlivened(model: RCNN, images: list[Tensor]) -> RCNN:
    """`model` with batch-norm statistics of `images` and answers that spread: detections are many and differ."""
    return enliven(model, images, [objects(2, model.num_classes) for _ in images])
