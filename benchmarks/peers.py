"""torchvision's Faster R-CNN assembled as two of our baselines are, and the way of its weights into ours.

The weights are random, but calibrated on a photo (calibrate.py). Tests hold ours to the assembled ones' detections and
losses; benchmarks to their time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead, overwrite_eps
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, roi_align

from calibrate import STDS, spread
from grcn.config import DetectorConfig, RoIConfig
from grcn.model.backbones import make_backbone
from grcn.model.detector import RCNN, outline, resolve
from grcn.predict.checkpoint import LoadedDetector
from grcn.predict.published import as_detector, convert
from grcn.presets import preset
from grcn.training import transfer_weights


@dataclass(frozen=True)
class Scale:
    """How large an assembly is: classes, proposals per image, channels of fc6 and fc7, samples per loss."""

    classes: int = 20
    proposals: int = 300
    fc_channels: int = 1024
    samples: int = 512


class _Body(nn.Module):
    """ResNet-50 up to conv4 or conv5, as FasterRCNN wants its backbone."""

    def __init__(self, layers: list[nn.Module], out_channels: int) -> None:
        super().__init__()
        self.layers, self.out_channels = nn.Sequential(*layers), out_channels

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _Conv5Head(nn.Module):
    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4 = layer4

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(x).mean(dim=(2, 3))


class _AlignedPool(MultiScaleRoIAlign):
    """torchvision's own pooler leaves out the half-pixel correction."""

    def __init__(self) -> None:
        super().__init__(["0"], 14, 2)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        return roi_align(x["0"], boxes, 14, 1 / 16, 2, aligned=True)


class Pair(NamedTuple):
    """The same detector twice."""

    ours: RCNN
    torchvision: FasterRCNN


def c4_pair(image: Tensor, scale: Scale) -> Pair:
    """Protocol C4: layer4 as the box head, on 14x14 of layer3; RoIAlign with the half-pixel correction."""
    network = _calibrated_resnet50(image, dilated=False)
    body = [network.conv1, network.bn1, network.relu, network.maxpool, network.layer1, network.layer2, network.layer3]
    theirs = FasterRCNN(
        _Body(body, 1024),
        box_roi_pool=_AlignedPool(),
        box_head=_Conv5Head(network.layer4),
        box_predictor=FastRCNNPredictor(2048, scale.classes + 1),
        **_arguments(scale),
    )
    spread_answers(theirs, image)
    return Pair(_ours(preset("faster_rcnn_r50_c4"), theirs, scale, conv5="roi.heads.shared.conv5."), theirs)


def c5_pair(image: Tensor, scale: Scale) -> Pair:
    """Dilated conv5 at stride 16 in the extractor, two fully connected layers; RoIAlign without the correction."""
    network = _calibrated_resnet50(image, dilated=True)
    body = [network.conv1, network.bn1, network.relu, network.maxpool]
    theirs = FasterRCNN(
        _Body([*body, network.layer1, network.layer2, network.layer3, network.layer4], 2048),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=TwoMLPHead(2048 * 7 * 7, scale.fc_channels),
        box_predictor=FastRCNNPredictor(scale.fc_channels, scale.classes + 1),
        **_arguments(scale),
    )
    spread_answers(theirs, image)
    config = preset("faster_rcnn_r50_c5")
    config = replace(
        config,
        head="fc2",
        rpn=replace(config.rpn, channels=None),
        roi=RoIConfig(aligned=False, fc_channels=scale.fc_channels),
    )
    return Pair(_ours(config, theirs, scale, conv5="separation.trunk.conv5."), theirs)


def fpn(image: Tensor, classes: int) -> FasterRCNN:
    """torchvision's fasterrcnn_resnet50_fpn, calibrated on a photo, at its own settings."""
    model: FasterRCNN = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes + 1)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None
    with torch.no_grad():
        model.backbone.train()(_normalise(image)[None])
    freeze_norm(model)
    spread_answers(model, image)
    return model


def fpn_pair(image: Tensor, classes: int) -> Pair:
    """Faster R-CNN on a pyramid, both at torchvision's settings."""
    theirs = fpn(image, classes)
    overwrite_eps(theirs, 0.0)  # as for its published weights
    return Pair(as_detector(convert(theirs.state_dict(), "torchvision's"), "torchvision's").model, theirs)


def separated(shared: RCNN, name: str) -> RCNN:
    """The preset called `name` with the weights of `shared`, each task's own parts copies of what was shared."""
    names = tuple(map(str, range(shared.num_classes)))
    own = replace(preset(name), norm=shared.config.norm, norm_eps=0.0, frozen_stages=shared.config.frozen_stages)
    model = outline(own, shared.num_classes)
    report = transfer_weights(model, names, LoadedDetector(shared, names, "", {}))
    assert not report.fresh
    return model


def _arguments(scale: Scale) -> dict[str, Any]:
    """What both assemblies have in common."""
    return {
        "rpn_anchor_generator": AnchorGenerator(((32.0, 64.0, 128.0, 256.0, 512.0),), ((0.5, 1.0, 2.0),)),
        "rpn_batch_size_per_image": scale.samples,
        "box_batch_size_per_image": scale.samples,
        "rpn_pre_nms_top_n_train": 1000,
        "rpn_pre_nms_top_n_test": 1000,
        "rpn_post_nms_top_n_train": scale.proposals,
        "rpn_post_nms_top_n_test": scale.proposals,
    }


def _calibrated_resnet50(image: Tensor, *, dilated: bool) -> nn.Module:
    """A random ResNet-50 with frozen batch norm, whose statistics are those of `image`."""
    network = resnet50(
        weights=None,
        replace_stride_with_dilation=[False, False, dilated],
        norm_layer=lambda channels: nn.BatchNorm2d(channels, momentum=None),
    )
    with torch.no_grad():
        network.train()(_normalise(image)[None])
    freeze_norm(network)
    return network


def freeze_norm(network: nn.Module) -> None:
    """Puts torchvision's frozen batch norm, which its pretrained detectors have, in the place of each batch norm."""
    for module in list(network.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(norm.num_features)
                frozen.load_state_dict(norm.state_dict())
                setattr(module, name, frozen)


def _normalise(image: Tensor) -> Tensor:
    return (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]


def spread_answers(model: FasterRCNN, image: Tensor) -> None:
    """Answers of torchvision's detector that spread on `image`."""
    rpn, box = model.rpn.head, model.roi_heads.box_predictor
    no_resize(model, [image])
    model.eval()
    spread([rpn.cls_logits, rpn.bbox_pred, box.cls_score, box.bbox_pred], STDS, lambda: model([image]))


def no_resize(model: FasterRCNN, images: list[Tensor]) -> None:
    """Makes torchvision's transform leave `images`, which share their longer side, at their size."""
    longer = {max(image.shape[1:]) for image in images}
    assert len(longer) == 1
    model.transform.min_size, model.transform.max_size = (max(min(i.shape[1:]) for i in images),), longer.pop()


def _ours(config: DetectorConfig, theirs: FasterRCNN, scale: Scale, conv5: str) -> RCNN:
    """Our detector with torchvision's weights."""
    config = replace(
        config,
        norm="frozen_bn",
        frozen_stages=0,
        rpn=replace(
            config.rpn,
            batch_per_image=scale.samples,
            pre_nms_train=1000,
            post_nms_train=scale.proposals,
            post_nms_test=scale.proposals,
        ),
        roi=replace(config.roi, batch_per_image=scale.samples),
    )
    backbone = make_backbone(config.backbone, config.norm)
    model = RCNN(resolve(config, backbone, pretrained=True), scale.classes, backbone)
    named = {our_name(key, conv5): our_value(key, value) for key, value in theirs.state_dict().items()}
    model.load_state_dict(named)
    return model


def our_name(key: str, conv5: str) -> str:
    """The name that torchvision's parameter `key` has with us; `conv5` is where our conv5 lives."""
    for theirs, ours in (
        ("backbone.layers.0.", "separation.trunk.conv1.0."),
        ("backbone.layers.1.", "separation.trunk.conv1.1."),
        ("backbone.layers.5.", "separation.trunk.conv3."),
        ("backbone.layers.6.", "separation.trunk.conv4."),
        ("backbone.layers.7.", conv5),
        ("roi_heads.box_head.layer4.", conv5),
        ("roi_heads.box_head.", "roi.heads.shared."),
        ("rpn.head.conv.0.0.", "rpn.conv."),
        ("rpn.head.cls_logits.", "rpn.objectness."),
        ("rpn.head.bbox_pred.", "rpn.deltas."),
        ("roi_heads.box_predictor.cls_score.", "roi.scores."),
        ("roi_heads.box_predictor.bbox_pred.", "roi.deltas."),
    ):
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    block, _, rest = key.removeprefix("backbone.layers.4.").partition(".")  # our conv2 opens with the max pooling
    return f"separation.trunk.conv2.{int(block) + 1}.{rest}"


def our_value(key: str, value: Tensor) -> Tensor:
    """torchvision's parameter `key` as ours: it regresses a box for the background too, in the first four rows, and
    its fc6 is a matrix where ours is a convolution over a RoI's 7x7 cells."""
    if key.startswith("roi_heads.box_predictor.bbox_pred."):
        return value[4:]
    return value.unflatten(1, (-1, 7, 7)) if key == "roi_heads.box_head.fc6.weight" else value
