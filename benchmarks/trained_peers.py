"""Detectors of others with the calls of ours, so that `grcn.train` trains them as it trains ours.

Each stands on one of our backbones with ImageNet's weights, and sees photos as ours do, at the same size. Theirs is the
detector: pyramid, heads, matching, losses and post-processing, at their own settings.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from grcn.config import DetectorConfig
from grcn.model.backbones import make_backbone
from grcn.model.backbones.pretrained import load_backbone
from grcn.model.detector import RCNN, resolve

MAX_SIDE_UNIT = 128
"""EfficientDet takes pictures whose sides are multiples of it."""


class Body(nn.Module):
    """Our backbone's stages under torchvision's pyramid.

    Args:
        stages: conv1..conv5.
        inputs: channels of the maps that the pyramid takes, of the last stages.
        top: two more maps above conv5's, as one-stage detectors have them, in place of one by pooling.
    """

    def __init__(self, stages: Sequence[nn.Module], inputs: Sequence[int], channels: int, *, top: bool) -> None:
        super().__init__()
        self.stages, self.out_channels, self.first = nn.ModuleList(stages), channels, len(stages) - len(inputs)
        more = LastLevelP6P7(channels, channels) if top else LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(list(inputs), channels, more)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = OrderedDict[str, Tensor]()
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number >= self.first:
                maps[str(number - self.first)] = x
        pyramid: dict[str, Tensor] = self.fpn(maps)
        return pyramid


def _faster_rcnn(config: DetectorConfig, body: Callable[..., Body], classes: int, **norm: Any) -> nn.Module:
    sizes = tuple((size,) for size in config.rpn.anchor_sizes)
    anchors = AnchorGenerator(sizes, (config.rpn.anchor_ratios,) * len(sizes))
    return FasterRCNN(body(4, top=False), classes + 1, rpn_anchor_generator=anchors, **norm)


def _retinanet(config: DetectorConfig, body: Callable[..., Body], classes: int, **norm: Any) -> nn.Module:
    return RetinaNet(body(3, top=True), classes + 1, **norm)


def _fcos(config: DetectorConfig, body: Callable[..., Body], classes: int, **norm: Any) -> nn.Module:
    return FCOS(body(3, top=True), classes + 1, **norm)


TORCHVISION = {"fasterrcnn": _faster_rcnn, "retinanet": _retinanet, "fcos": _fcos}


class Peer(RCNN):
    """Another's detector with the calls of ours; the training loop asks nothing else of it."""

    theirs: nn.Module

    def _begin(self, config: DetectorConfig, num_classes: int, weights: str | None) -> Any:
        """Our backbone, with weights where some are named."""
        nn.Module.__init__(self)
        pretrained = weights is not None
        backbone = make_backbone(config.backbone, config.norm, pretrained=pretrained)
        self.config, self.num_classes = resolve(config, backbone, pretrained=pretrained), num_classes
        if weights is not None:
            load_backbone(backbone, weights)
        return backbone

    def checkpoint_activations(self, on: bool) -> None:
        assert not on

    def train(self, mode: bool = True) -> Peer:
        nn.Module.train(self, mode)
        return self


class TorchvisionPeer(Peer):
    """One of torchvision's."""

    def __init__(self, kind: str, config: DetectorConfig, num_classes: int, weights: str | None) -> None:
        backbone = self._begin(config, num_classes, weights)
        stages = [
            backbone.stage(number, *each) for number, each in enumerate(pairwise((1, *backbone.strides)), start=1)
        ]
        for stage in stages[: self.config.frozen_stages]:
            stage.requires_grad_(False)

        def body(maps: int, *, top: bool) -> Body:
            return Body(stages, backbone.channels[-maps:], config.neck_channels, top=top)

        mean, std = list(backbone.mean), list(backbone.std)
        self.theirs = TORCHVISION[kind](config, body, num_classes, image_mean=mean, image_std=std)
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
            return _four(self.theirs(images, [t | {"labels": t["labels"] + 1} for t in targets]))
        if score is not None:
            (self.theirs.roi_heads if hasattr(self.theirs, "roi_heads") else self.theirs).score_thresh = score
        return [found | {"labels": found["labels"] - 1} for found in self.theirs(images)]


class EfficientDetPeer(Peer):
    """effdet's tf_efficientdet_lite0, with the weights that ours starts from in its backbone."""

    def __init__(self, config: DetectorConfig, num_classes: int, weights: str | None) -> None:
        import effdet

        self._begin(config, num_classes, None)
        unit = MAX_SIDE_UNIT
        self.side = -(-config.input.long_side // unit) * unit
        network = effdet.create_model(
            "tf_efficientdet_lite0", num_classes=num_classes, pretrained=False, pretrained_backbone=False,
            image_size=(self.side, self.side),
        )  # fmt: skip
        if weights is not None:
            whole = make_backbone(config.backbone, "bn", pretrained=True)
            load_backbone(whole, weights)
            assert whole.network is not None
            missing, _ = network.backbone.load_state_dict(whole.network.state_dict(), strict=False)
            assert not missing, missing
        self.theirs = effdet.DetBenchTrain(network, create_labeler=True)
        self.finds = [effdet.DetBenchPredict(network)]  # in a list: its tensors are the other's, and counted once
        for name in ("mean", "std"):
            self.register_buffer(name, torch.full((3, 1, 1), 0.5))

    def forward(
        self,
        images: list[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        seeds: Sequence[int] | None = None,
        score: float | None = None,
    ) -> Any:
        batch = images[0].new_zeros((len(images), 3, self.side, self.side), dtype=torch.float32)
        for place, image in zip(batch, images, strict=True):
            pixels = image / 255 if image.dtype == torch.uint8 else image
            place[:, : image.shape[1], : image.shape[2]] = (pixels - self.mean) / self.std
        if self.training:
            assert targets is not None
            most = max(1, *(len(target["labels"]) for target in targets))
            boxes, classes = batch.new_full((len(images), most, 4), -1.0), batch.new_full((len(images), most), -1.0)
            for k, target in enumerate(targets):
                boxes[k, : len(target["labels"])] = target["boxes"][:, [1, 0, 3, 2]]
                classes[k, : len(target["labels"])] = target["labels"].float() + 1
            losses = self.theirs(batch, {"bbox": boxes, "cls": classes})
            return _four({"classification": losses["class_loss"], "bbox_regression": losses["box_loss"] * 50.0})
        found = []
        for image, rows in zip(images, self.finds[0].to(batch.device).eval()(batch), strict=True):
            height, width = image.shape[1:]
            boxes = rows[:, :4].clamp(min=0).minimum(rows.new_tensor([width, height, width, height]))
            keep = (rows[:, 4] > (0.01 if score is None else score)) & (
                (boxes[:, 2:] - boxes[:, :2]).min(dim=1).values > 0
            )
            found.append({"boxes": boxes[keep], "scores": rows[keep, 4], "labels": rows[keep, 5].long() - 1})
        return found


def _four(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses under the names that the training loop logs; what a detector does not have is zero."""
    if "loss_classifier" in losses:
        return losses
    zero = torch.zeros((), device=next(iter(losses.values())).device)
    boxes = losses["bbox_regression"] + losses.get("bbox_ctrness", zero)
    return {
        "loss_objectness": zero,
        "loss_rpn_box_reg": zero,
        "loss_classifier": losses["classification"],
        "loss_box_reg": boxes,
    }


def make_peer(kind: str, config: DetectorConfig, num_classes: int, weights: str | None) -> Peer:
    """`fasterrcnn`, `retinanet`, `fcos` or `effdet`."""
    if kind == "effdet":
        return EfficientDetPeer(config, num_classes, weights)
    return TorchvisionPeer(kind, config, num_classes, weights)


KINDS = (*TORCHVISION, "effdet")
