"""The named detectors: plain functions that return a configuration. Every part of each is a field to change."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from grcn.config import (
    DetectorConfig,
    InputConfig,
    RoIConfig,
    RPNConfig,
    TrainConfig,
    from_dict,
    merged,
    to_dict,
)
from grcn.errors import ConfigError

_RESNETS = {"r18": "resnet18", "r34": "resnet34", "r50": "resnet50", "r101": "resnet101"}


def faster_rcnn_c4(backbone: str) -> DetectorConfig:
    """Faster R-CNN with a ResNet as published (He et al. 2016): conv5 runs per RoI, on 14x14 cells of conv4."""
    return DetectorConfig(backbone=backbone, head="conv5")


def faster_rcnn_c5(backbone: str) -> DetectorConfig:
    """The corrected protocol: conv5 in the feature extractor, at stride 16; one map and one head for both tasks."""
    return DetectorConfig(backbone=backbone, rpn=RPNConfig(channels=_rpn_channels(backbone)))


def grcn(shared: DetectorConfig) -> DetectorConfig:
    """G-RCN: each task has its own head on the map of the corrected protocol, and the RPN reads the stage before it.

    The paper also separates conv5 and its stride, and adds global context. These are the fields `separation`,
    `cls_stride` and `cls_context`. In our trials they cost more and gained nothing (docs/results/findings.md).
    """
    return replace(shared, separation="roi", rpn=replace(shared.rpn, source="conv4"))


def faster_rcnn_vgg16() -> DetectorConfig:
    """Faster R-CNN with VGG16 as published (Ren et al. 2015)."""
    return DetectorConfig(backbone="vgg16", head="vgg_fc", rpn=RPNConfig(channels=512))


def grcn_vgg16() -> DetectorConfig:
    """G-RCN on VGG16: each task has its own head.

    The RPN stays on conv5, because conv4, at stride 8, has four times as many cells.
    """
    return replace(faster_rcnn_vgg16(), separation="roi")


LITE0 = "timm:tf_efficientnet_lite0"
_LITE0_RPN = RPNConfig(channels=128)
_LITE0_ROI = RoIConfig(reduce_channels=128, fc_channels=512)


def faster_rcnn_lite0_c4() -> DetectorConfig:
    """Protocol C4 on EfficientNet-Lite0 (Tan and Le 2019). Its maps are narrow, so the layers after them are too."""
    return DetectorConfig(backbone=LITE0, head="conv5", rpn=_LITE0_RPN)


def faster_rcnn_lite0_c5() -> DetectorConfig:
    """The corrected protocol on EfficientNet-Lite0."""
    return DetectorConfig(backbone=LITE0, rpn=_LITE0_RPN, roi=_LITE0_ROI)


def faster_rcnn_r50_fpn() -> DetectorConfig:
    """torchvision's `fasterrcnn_resnet50_fpn`, number for number: Faster R-CNN on a pyramid (Lin et al. 2017)."""
    return DetectorConfig(
        backbone="resnet50",
        neck="fpn",
        head="fc2",
        rpn=RPNConfig(post_nms_test=1000),
        roi=RoIConfig(aligned=False),
        input=InputConfig(800, 1333),
    )


def faster_rcnn_r50_fpn_v2() -> DetectorConfig:
    """torchvision's `fasterrcnn_resnet50_fpn_v2`: trained batch norm, and more convolutions after the pyramid."""
    v1 = faster_rcnn_r50_fpn()
    return replace(v1, norm="bn", neck_norm=True, head="conv_fc", rpn=replace(v1.rpn, convs=2))


def faster_rcnn_r18_fpn() -> DetectorConfig:
    """A small Faster R-CNN on a pyramid."""
    return DetectorConfig(backbone="resnet18", neck="fpn", head="fc2")


def faster_rcnn_lite0_fpn() -> DetectorConfig:
    """Faster R-CNN on a pyramid over EfficientNet-Lite0, as narrow as the backbone."""
    return DetectorConfig(backbone=LITE0, neck="fpn", neck_channels=96, head="fc2", roi=RoIConfig(fc_channels=512))


def grcn_fpn(shared: DetectorConfig) -> DetectorConfig:
    """G-RCN on a pyramid: each task has its own head, and its own choice of map for each RoI."""
    return replace(shared, separation="roi", rpn=replace(shared.rpn, post_nms_test=300))


def _rpn_channels(backbone: str) -> int:
    # conv5 of ResNet-50 has 2048 channels. An RPN as wide as that would cost more than the rest of the detector.
    return 256 if backbone in ("resnet18", "resnet34") else 512


def stage_strides(backbone: str) -> tuple[int, int, int, int, int]:
    """Input pixels per cell after each of the stages conv1..conv5 of a named backbone.

    A network that begins with a stride of 4 has no conv1 (`grcn.model.backbones.Backbone`). Its first value has no use.
    """
    return (1, 2, 4, 8, 16) if backbone == "vgg16" else (2, 4, 8, 16, 32)


def _presets() -> dict[str, DetectorConfig]:
    families: dict[str, Callable[[str], DetectorConfig]] = {
        "faster_rcnn_{}_c4": faster_rcnn_c4,
        "faster_rcnn_{}_c5": faster_rcnn_c5,
        "grcn_{}": lambda backbone: grcn(faster_rcnn_c5(backbone)),
    }
    named = {name.format(r): make(b) for name, make in families.items() for r, b in _RESNETS.items()}
    return named | {
        "faster_rcnn_lite0_c4": faster_rcnn_lite0_c4(),
        "faster_rcnn_lite0_c5": faster_rcnn_lite0_c5(),
        "grcn_lite0": grcn(faster_rcnn_lite0_c5()),
        "faster_rcnn_lite0_fpn": faster_rcnn_lite0_fpn(),
        "faster_rcnn_r18_fpn": faster_rcnn_r18_fpn(),
        "faster_rcnn_r50_fpn": faster_rcnn_r50_fpn(),
        "faster_rcnn_r50_fpn_v2": faster_rcnn_r50_fpn_v2(),
        "grcn_lite0_fpn": grcn_fpn(faster_rcnn_lite0_fpn()),
        "grcn_r18_fpn": grcn_fpn(faster_rcnn_r18_fpn()),
        "grcn_r50_fpn": grcn_fpn(faster_rcnn_r50_fpn()),
        "faster_rcnn_vgg16": faster_rcnn_vgg16(),
        "grcn_vgg16": grcn_vgg16(),
    }


PRESETS: dict[str, DetectorConfig] = _presets()

CPU_PRESET, GPU_PRESET = "grcn_lite0_fpn", "grcn_r50_fpn"
"""The presets that are trained if none is named.

Both are pyramids. Trained for the same minutes, a pyramid was better than a single map wherever we tried both
(docs/results/findings.md)."""


def train_config(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a training run from plain values. What their `model` leaves out comes from the preset.

    Raises:
        ConfigError: if any value is wrong.
    """
    given = values.get("model") or None
    if isinstance(given, dict):
        given = merged(to_dict(preset(values.get("preset", TrainConfig.preset))), given)
    elif (name := values.get("preset", TrainConfig.preset)) != TrainConfig.preset:
        preset(name)
    return from_dict(TrainConfig, {**values, "model": given})


def detector_of(config: TrainConfig) -> DetectorConfig:
    """The detector that a run trains: its `model`, or that of its preset if it has none.

    Raises:
        ConfigError: on an unknown preset, and on `auto`, which `grcn.training.recipe` replaces.
    """
    return config.model if config.model is not None else preset(config.preset)


def preset(name: str) -> DetectorConfig:
    """The configuration of the named detector.

    Raises:
        ConfigError: on an unknown name, naming the nearest known one.
    """
    if not isinstance(name, str) or name not in PRESETS:  # a file may say null
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "`grcn models` lists them"
        raise ConfigError(f"unknown preset '{name}'; {hint}")
    return PRESETS[name]
