"""Converts torchvision's detectors with a pyramid to ours, whether trained on COCO or by a user.

torchvision has published the weights of two of them. `convert` also takes your own state dict. Nothing here unpickles
anything but tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from grcn.config import DetectorConfig, Norm
from grcn.errors import CheckpointError, ConfigError
from grcn.model.backbones.pretrained import download_state_dict, read_state_dict
from grcn.predict.checkpoint import LoadedDetector, filled
from grcn.presets import preset as named

PUBLISHED = {
    "faster_rcnn_r50_fpn": "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "faster_rcnn_r50_fpn_v2": "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
}
"""Addresses of published weights, by preset. Each ends with the hash of the file."""

CLASS_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
"""COCO's 80 classes, by class id."""

UNNAMED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Category ids from 1 to 90 that COCO's lists no longer name; torchvision's detectors have a logit for each."""

CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in UNNAMED)
"""COCO's own number of each class."""


class Converted(NamedTuple):
    """A detector of torchvision, converted to ours.

    Attributes:
        preset: our preset that computes the same, except for the backbone.
        backbone: torchvision's name of the backbone.
        norm: norm layers of the backbone: `frozen_bn`, or `bn` if the file counts batches.
        norm_eps: what the norms add to the variance. It is 0 in the published v1, whose state dict does not say so;
            None: torch's default.
        class_names: COCO's names if there are COCO's 91 logits, otherwise None, since a state dict has no names.
        unnamed: number of logits after those of the classes that count in the softmax but stand for no class.
        tensors: the state dict.
    """

    preset: str
    backbone: str
    norm: Norm
    norm_eps: float | None
    class_names: tuple[str, ...] | None
    unnamed: int
    tensors: dict[str, Tensor]


# torchvision's names and ours. Files from before 2022 have no `.0` in the neck and no `.0.0` in the RPN.
_LAYER1 = re.compile(r"backbone\.body\.layer1\.(\d{1,3})\.([\w.]+)")
_NAMES = [
    (re.compile(theirs), ours)
    for theirs, ours in (
        (r"backbone\.body\.conv1\.(\w+)", r"separation.trunk.conv1.0.\1"),
        (r"backbone\.body\.bn1\.(\w+)", r"separation.trunk.conv1.1.\1"),
        (r"backbone\.body\.layer2\.([\w.]+)", r"separation.trunk.conv3.\1"),
        (r"backbone\.body\.layer3\.([\w.]+)", r"separation.trunk.conv4.\1"),
        (r"backbone\.body\.layer4\.([\w.]+)", r"separation.trunk.conv5.\1"),
        (r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(?:0\.)?(weight|bias)", r"separation.neck.\1_blocks.\2.0.\3"),
        (r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.1\.(\w+)", r"separation.neck.\1_blocks.\2.1.\3"),
        (r"rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)", r"rpn.conv.\1"),
        (r"rpn\.head\.conv\.1\.0\.(weight|bias)", r"rpn.conv2.\1"),
        (r"rpn\.head\.cls_logits\.(\w+)", r"rpn.objectness.\1"),
        (r"rpn\.head\.bbox_pred\.(\w+)", r"rpn.deltas.\1"),
        (r"roi_heads\.box_head\.(fc[67])\.(\w+)", r"roi.heads.shared.\1.\2"),
        (r"roi_heads\.box_head\.([0-3])\.([01])\.(\w+)", r"roi.heads.shared.convs.\1.\2.\3"),
        (r"roi_heads\.box_head\.5\.(\w+)", r"roi.heads.shared.fc6.\1"),
        (r"roi_heads\.box_predictor\.cls_score\.(\w+)", r"roi.scores.\1"),
        (r"roi_heads\.box_predictor\.bbox_pred\.(\w+)", r"roi.deltas.\1"),
    )
]
_NEEDED = ("backbone.body.conv1.weight", "rpn.head.cls_logits.weight", "roi_heads.box_predictor.cls_score.weight")


def is_torchvision(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is from a detector of torchvision, not from a backbone or from one of our detectors."""
    return all(name in state for name in _NEEDED)


def fetch(preset: str) -> Converted:
    """The published weights of a preset, from torch's cache (TORCH_HOME) or downloaded there and checked by their hash.

    Raises:
        ConfigError: if none are published.
        CheckpointError: if they cannot be downloaded, or do not have the expected hash.
    """
    if preset not in PUBLISHED:
        raise ConfigError(f"weights 'coco' with preset '{preset}': there are some only for {' and '.join(PUBLISHED)}")
    url = PUBLISHED[preset]
    return convert(download_state_dict(url), url)


def convert(state: Mapping[str, Tensor], source: str) -> Converted:
    """Converts a state dict of torchvision's `fasterrcnn_resnet50_fpn`, its `_v2` or a similar detector to ours.

    - fc6 becomes a convolution over the 7x7 cells of a RoI, which computes the same.
    - Our detectors regress no box for the background, so these rows are dropped.
    - Of COCO's 91 logits, the ten without a name are moved to the end. Their boxes are dropped, since they are never
      shown.

    Args:
        state: a state dict as torchvision writes it now or wrote it before 2022.
        source: the name of the file in errors.

    Raises:
        CheckpointError: naming the first tensor that does not belong to such a detector.
    """
    if not is_torchvision(state):
        missing = next(name for name in _NEEDED if name not in state)
        raise CheckpointError(f"{source}: not torchvision's Faster R-CNN with a pyramid: lacks {missing}")
    for name, value in state.items():
        if value.layout != torch.strided or value.is_meta:
            raise CheckpointError(f"{source}: {_short(name)} is not a plain tensor")
    scores = state["roi_heads.box_predictor.cls_score.weight"]
    if scores.ndim != 2 or len(scores) < 2:
        raise CheckpointError(
            f"{source}: scores of shape {tuple(scores.shape)}; needs a row of the background, and more"
        )
    rows = len(scores)
    is_coco = rows == 1 + len(CLASS_NAMES) + len(UNNAMED)
    named, unnamed = (list(CATEGORY_IDS), list(UNNAMED)) if is_coco else (list(range(1, rows)), [])
    is_v2 = "rpn.head.conv.1.0.weight" in state
    is_frozen = not is_v2 and not any(name.endswith("num_batches_tracked") for name in state)
    tensors = {}
    for name, value in state.items():
        try:
            if name.startswith("roi_heads.box_predictor.cls_score."):
                value = value[[0, *named, *unnamed]]
            elif name.startswith("roi_heads.box_predictor.bbox_pred."):
                value = value.reshape(rows, 4, *value.shape[1:])[named].flatten(0, 1)
            elif name in ("roi_heads.box_head.fc6.weight", "roi_heads.box_head.5.weight"):
                value = value.reshape(len(value), -1, 7, 7)
        except (RuntimeError, IndexError):
            raise CheckpointError(
                f"{source}: {_short(name)} of shape {tuple(value.shape)}, with {rows} logits"
            ) from None
        tensors[_our_name(name, source)] = value
    return Converted(
        "faster_rcnn_r50_fpn_v2" if is_v2 else "faster_rcnn_r50_fpn",
        _backbone_of(state, source),
        "frozen_bn" if is_frozen else "bn",
        0.0 if is_frozen else None,
        CLASS_NAMES if is_coco else None,
        len(unnamed),
        tensors,
    )


def has_published(config: DetectorConfig) -> bool:
    """Whether `load_published` has a detector to start `config` from."""
    return _of_kind(config) is not None


def _of_kind(config: DetectorConfig) -> str | None:
    """The preset with published weights that has the backbone, neck and head of `config`."""
    kind = (config.backbone, config.neck, config.head)
    return next((n for n in PUBLISHED if kind == ((theirs := named(n)).backbone, theirs.neck, theirs.head)), None)


def load_published(config: DetectorConfig) -> LoadedDetector:
    """The published COCO detector with the backbone, neck and head of `config`.

    Raises:
        ConfigError: if none is published.
        CheckpointError: as in `fetch`.
    """
    if name := _of_kind(config):
        return as_detector(fetch(name), PUBLISHED[name])
    raise ConfigError(
        f"weights 'coco' with backbone '{config.backbone}', neck '{config.neck}' and head '{config.head}': there are "
        f"some only for {' and '.join(PUBLISHED)}"
    )


def read_torchvision(path: Path) -> LoadedDetector | None:
    """The detector in a file of torchvision; None if the file holds another state dict, such as that of a backbone.

    Classes other than COCO's are named by their number, from 1.

    Raises:
        CheckpointError: if the file is missing, broken or holds anything but tensors.
    """
    state = read_state_dict(path)
    return replace(as_detector(convert(state, str(path)), str(path)), file=path) if is_torchvision(state) else None


def as_detector(converted: Converted, source: str) -> LoadedDetector:
    """Builds the detector; `source` is its name in errors.

    Raises:
        CheckpointError: if a tensor is missing, or has another shape than in torchvision's detectors.
    """
    theirs = named(converted.preset)
    rows = len(converted.tensors["roi.scores.weight"]) - 1 - converted.unnamed
    class_names = converted.class_names or tuple(str(number) for number in range(1, rows + 1))
    config = replace(
        theirs,
        backbone=converted.backbone,
        norm=converted.norm,
        norm_eps=converted.norm_eps,
        frozen_stages=2,  # for training that starts from these weights, as in torchvision
        roi=replace(theirs.roi, unnamed_logits=converted.unnamed),
    )
    model = filled(config, class_names, converted.tensors, source)
    return LoadedDetector(model, class_names, converted.preset, {})


# By blocks in layer3, and whether one has a third convolution.
_BACKBONES = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
    (36, True): "resnet152",
}


def _backbone_of(state: Mapping[str, Tensor], source: str) -> str:
    prefix = "backbone.body.layer3."
    blocks = {name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)}
    shape = len(blocks), f"{prefix}0.conv3.weight" in state
    if shape not in _BACKBONES:
        raise CheckpointError(f"{source}: {len(blocks)} blocks in layer3; no ResNet of torchvision's has so many")
    return _BACKBONES[shape]


def _short(name: str) -> str:
    return repr(name[:100])  # it may be of any length and hold a line break


def _our_name(name: str, source: str) -> str:
    if match := _LAYER1.fullmatch(name):  # our conv2 begins with the max pooling
        return f"separation.trunk.conv2.{int(match[1]) + 1}.{match[2]}"
    for theirs, ours in _NAMES:
        if match := theirs.fullmatch(name):
            return match.expand(ours)
    raise CheckpointError(f"{source}: {_short(name)} is not in torchvision's fasterrcnn_resnet50_fpn or its _v2")
