"""The spine: images to maps to proposals to losses or detections.

The interface is that of torchvision's detectors, except that images are not resized here (the caller does, once, in
training and prediction alike) and that class ids are 0..C-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VGG, ResNet

from grcn.config import DetectorConfig, resolve
from grcn.errors import ConfigError, DataError
from grcn.geometry import boxes as box_ops
from grcn.model.backbone import build_classifier, out_channels, split_stages
from grcn.model.roi import AverageHead, ConvHead, FCHead, RoIStage, head_keys
from grcn.model.rpn import RPN, Sizes
from grcn.model.separation import Separation
from grcn.model.weights import load_backbone
from grcn.presets import preset

# Images are padded at the right and bottom to a multiple of the largest stride, so that every map has whole cells.
MULTIPLE = 32


class RCNN(nn.Module):
    """A detector of the Faster R-CNN / G-RCN family.

    Args:
        config: what to build, with `norm` and `frozen_stages` settled (`grcn.config.resolve`).
        num_classes: C, without background.
        network: the classification network that stages and fully connected layers are taken from.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: DetectorConfig, num_classes: int, network: ResNet | VGG) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        stages = split_stages(network)
        self.separation = Separation(config, stages)
        trunk, cls, loc = self.separation.channels
        source = ("trunk", "cls", "loc").index(config.rpn.source)
        self.rpn = RPN(config.rpn, (trunk, cls, loc)[source], self.separation.strides[source])
        heads = {key: _head(config, network, stages, cls) for key in head_keys(config)}
        self.roi = RoIStage(config, num_classes, (cls, loc), self.separation.strides[1:], heads)
        # No file of weights holds these constants, so they have values also where the rest is on the meta device.
        for name, values in (("mean", [0.485, 0.456, 0.406]), ("std", [0.229, 0.224, 0.225])):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(3, 1, 1), persistent=False)
        for stage in self._frozen():
            stage.requires_grad_(False).eval()
        # Convolutions on CPU and tensor cores are faster so; the weights' layout spreads to the maps.
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        images: list[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        seeds: Sequence[int] | None = None,
        score: float | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, detections otherwise.

        Args:
            images: CHW each, RGB, float in 0..1 or uint8, of any sizes.
            targets: in training, per image `boxes` [G, 4] float xyxy in that image's pixels and `labels` [G] int64,
                class ids 0..C-1; G may be 0.
            seeds: in training, one per image: which anchors and proposals of an image enter its losses is then a
                function of its own seed; None: torch's generator draws for the batch.
            score: outside training, only detections above it; None: above the configuration's `roi.score_threshold`.

        Returns:
            In training: loss_objectness, loss_rpn_box_reg, loss_classifier, loss_box_reg, scalars.
            Otherwise per image: `boxes` [N, 4], `scores` [N], `labels` [N], by falling score.

        Raises:
            DataError: naming the image, and the box, that breaks this contract.
        """
        batch, sizes = self.batch(images)
        if self.training:
            check_targets(images, targets, self.num_classes)
        else:
            targets = None
        maps = self.separation(batch.to(self.rpn.conv.weight.dtype))
        objects = None if targets is None else box_ops.pad([t["boxes"] for t in targets])
        generators = None if seeds is None else [torch.Generator(batch.device).manual_seed(s) for s in seeds]
        proposals, rpn_losses = self.rpn(getattr(maps, self.config.rpn.source), sizes, objects, generators)
        detections, roi_losses = self.roi(maps, proposals, sizes, targets, generators, score)
        result: dict[str, Tensor] | list[dict[str, Tensor]] = detections if targets is None else rpn_losses | roi_losses
        return result

    def batch(self, images: list[Tensor]) -> tuple[Tensor, Sizes]:
        """Normalised images [B, 3, H, W], zero-padded at the right and bottom, and their sizes (height, width)."""
        check_images(images)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = (-(-max(side) // MULTIPLE) * MULTIPLE for side in zip(*sizes, strict=True))
        batch = self.mean.new_zeros(len(images), 3, height, width)
        for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
            image = image.to(batch, non_blocking=True) / 255 if image.dtype == torch.uint8 else image.to(batch)
            batch[i, :, :h, :w] = (image - self.mean) / self.std
        return batch, sizes

    def checkpoint_activations(self, on: bool) -> None:
        """Whether training keeps only what enters each block (`Separation.checkpoint`): less memory, more time."""
        for module in self.modules():
            if isinstance(module, Separation | ConvHead):
                module.checkpoint = on

    def train(self, mode: bool = True) -> RCNN:
        """Sets the mode; batch norm of frozen stages stays in evaluation mode."""
        super().train(mode)
        for stage in self._frozen():
            stage.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        # Only direct children are stages: the blocks inside a stage have layers called conv1 and conv2 too.
        chains = (self.separation.trunk, self.separation.cls_branch, self.separation.loc_branch)
        frozen = {f"conv{n}" for n in range(1, (self.config.frozen_stages or 0) + 1)}
        return [
            stage
            for chain in (*chains, *self.roi.heads.values())
            for name, stage in chain.named_children()
            if name in frozen
        ]


def _head(config: DetectorConfig, network: ResNet | VGG, stages: list[nn.Sequential], channels: int) -> nn.Module:
    """One RoI head, with its own copy of what it takes from the classification network."""
    if config.head == "conv5":
        return ConvHead(deepcopy(stages[4]), out_channels(config.backbone, 5))
    if config.head == "avgpool":
        return AverageHead(channels)
    width = config.roi.reduce_channels if config.head == "light_fc2" else channels
    head = FCHead(width, config.roi_size, config.fc_channels, dropout=0.5 if config.head == "vgg_fc" else 0.0)
    if isinstance(network, VGG) and config.head == "vgg_fc" and config.fc_channels == 4096:
        for layer, source in ((head.fc6, network.classifier[0]), (head.fc7, network.classifier[3])):
            weight, bias = source.parameters()
            layer.load_state_dict({"weight": weight.reshape(layer.weight.shape), "bias": bias})
    return head


def build_detector(config: str | DetectorConfig, num_classes: int, weights: str | Path | None = "imagenet") -> RCNN:
    """A detector, ready to train.

    Args:
        config: the name of a preset or a configuration.
        num_classes: C, without background.
        weights: what the backbone starts from: `imagenet`, torchvision's published weights (downloaded and checked);
            a file with a state dict of torchvision's classification network (.pth, .pt or .safetensors);
            None: random weights, with trainable norm.

    Raises:
        ConfigError: on an unknown preset, an impossible configuration or number of classes.
        CheckpointError: on weights that cannot be had or do not fit.
    """
    config = preset(config) if isinstance(config, str) else config
    if num_classes < 1:
        raise ConfigError(f"num_classes {num_classes}: a detector needs at least one class")
    config = resolve(config, pretrained=weights is not None)
    network = build_classifier(config.backbone, config.norm)
    if weights is not None:
        load_backbone(network, config, weights)
    return RCNN(config, num_classes, network)


def check_images(images: list[Tensor]) -> None:
    """Raises DataError naming the first image that is not a tensor [3, H, W] of float or uint8."""
    if len(images) == 0:
        raise DataError("images: empty; a batch holds at least one image")
    for i, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise DataError(f"images[{i}]: {type(image).__name__}, expected a tensor [3, H, W]")
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise DataError(f"images[{i}]: shape {tuple(image.shape)}, expected [3, H, W]")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise DataError(f"images[{i}]: {image.dtype}, expected float in 0..1 or uint8")


def check_targets(images: list[Tensor], targets: list[dict[str, Tensor]] | None, num_classes: int) -> None:
    """Raises DataError naming the first target and box that a detector cannot learn from."""
    if targets is None:
        raise DataError("targets: missing; training mode needs one per image (call .eval() to detect)")
    if len(targets) != len(images):
        raise DataError(f"targets: {len(targets)} for {len(images)} images")
    for i, target in enumerate(targets):
        if missing := {"boxes", "labels"} - target.keys():
            raise DataError(f"targets[{i}]: lacks {sorted(missing)}")
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise DataError(f"targets[{i}]['boxes']: shape {tuple(boxes.shape)}, expected [N, 4]")
        if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
            raise DataError(f"targets[{i}]['labels']: {labels.dtype} {tuple(labels.shape)}, expected int64 [N]")
    boxes, labels = torch.cat([t["boxes"] for t in targets]), torch.cat([t["labels"] for t in targets])
    good = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1)
    good &= (labels >= 0) & (labels < num_classes)
    if not good.all():  # the one wait for the device
        index = int((~good).nonzero()[0])
        for i, target in enumerate(targets):
            if index < len(target["boxes"]):
                raise DataError(
                    f"targets[{i}], object {index}: box {target['boxes'][index].tolist()}, label "
                    f"{int(target['labels'][index])}; needs x1 < x2, y1 < y2 and a label in 0..{num_classes - 1}"
                )
            index -= len(target["boxes"])
