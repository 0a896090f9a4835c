"""Small detectors with random weights, and something to show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from grcn.config import DetectorConfig, resolve
from grcn.model.backbone import build_classifier
from grcn.model.detector import RCNN
from grcn.presets import preset


def small(config: DetectorConfig | str, **changes: Any) -> DetectorConfig:
    """The same detector, narrow, with few cells per RoI, small anchors and few boxes; `changes` to its other fields."""
    config = preset(config) if isinstance(config, str) else config
    return replace(
        config,
        **{
            "rpn": replace(
                config.rpn,
                channels=16,
                anchor_sizes=(16.0, 32.0, 64.0),
                batch_per_image=64,
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
    config = resolve(config, pretrained=pretrained)
    return RCNN(config, num_classes, build_classifier(config.backbone, config.norm))


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


def enliven(model: RCNN, images: list[Tensor]) -> None:
    """Batch-norm statistics of `images` and answers that spread, so that detections are many and differ."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()
        model(images, [objects(2, model.num_classes) for _ in images])
        answers: list[tuple[nn.Module, float]] = [
            (model.rpn.objectness, 1.5),
            (model.rpn.deltas, 0.1),
            (model.roi.scores, 1.5),
            (model.roi.deltas, 0.5),
        ]
        handles = [layer.register_forward_hook(_spreading_hook(spread)) for layer, spread in answers]
        model.eval()(images)
    for handle in handles:
        handle.remove()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # what follows leaves the statistics as they are, so tests may run in any order


def _spreading_hook(spread: float) -> Callable[[Any, Any, Tensor], Tensor]:
    def hook(layer: Any, _: Any, output: Tensor) -> Tensor:
        shape = [-1 if d == 1 else 1 for d in range(output.ndim)]
        mean = output.mean(dim=[d for d in range(output.ndim) if d != 1])
        factor = spread / (output - mean.reshape(shape)).std()
        layer.bias.copy_((layer.bias - mean) * factor)
        layer.weight.mul_(factor)
        return (output - mean.reshape(shape)) * factor

    return hook
