"""The detector as a whole: images to feature maps to proposals to losses or detections.

The interface is that of torchvision's detectors, with two differences: images are not resized here (the caller does
this, in the same way for training and prediction), and class ids are 0..C-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from grcn.config import DetectorConfig
from grcn.errors import ConfigError, DataError
from grcn.geometry import boxes as box_ops
from grcn.model.backbones import Backbone, make_backbone
from grcn.model.backbones.layers import quicken
from grcn.model.backbones.pretrained import load_backbone
from grcn.model.heads import ConvHead, make_head, takes_fc
from grcn.model.losses import roi_losses
from grcn.model.roi import Found, Predictions, RoIStage, head_keys
from grcn.model.rpn import RPN, Objects
from grcn.model.separation import Separation
from grcn.presets import preset

# Images are padded at the right and bottom to a multiple of the largest stride, so that every map has whole cells.
MULTIPLE = 32


class RCNN(nn.Module):
    """A detector of the Faster R-CNN / G-RCN family.

    Args:
        config: the configuration, with `norm` and `frozen_stages` resolved (`resolve`).
        num_classes: C, without background.
        backbone: gives the stages, the fully connected layers, and the mean and deviation of the input.

    Raises:
        ConfigError: if the backbone cannot be built as `config` asks.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: DetectorConfig, num_classes: int, backbone: Backbone) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.separation = Separation(config, backbone)
        rpn, cls, loc = self.separation.channels
        self.rpn = RPN(config.rpn, rpn, self.separation.strides[0])
        heads = {key: make_head(config, backbone, cls) for key in head_keys(config)}
        self.roi = RoIStage(config, num_classes, (cls, loc), self.separation.strides[1:], heads)
        # No weights file has these constants, so they need their values even if the rest is on the meta device.
        for name, values in (("mean", backbone.mean), ("std", backbone.std)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(3, 1, 1), persistent=False)
        for stage in self._frozen():
            stage.requires_grad_(False).eval()
        quicken(self)
        # Channels-last convolutions are faster on CPUs and tensor cores. Maps take over the layout of the weights.
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        images: list[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        seeds: Sequence[int] | None = None,
        score: float | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Returns losses in training mode, and detections otherwise.

        Args:
            images: CHW each, RGB, float in 0..1 or uint8, of any sizes.
            targets: in training, for each image `boxes` [G, 4] float xyxy in pixels of that image, and `labels` [G]
                int64, class ids 0..C-1; G may be 0.
            seeds: in training, one seed per image, which determines the anchors and proposals that are sampled for its
                losses. None: torch's generator samples for the batch.
            score: outside training, the lowest score; None: the configuration's `roi.score_threshold`.

        Returns:
            In training: loss_objectness, loss_rpn_box_reg, loss_classifier, loss_box_reg, scalars.
            Otherwise for each image: `boxes` [N, 4], `scores` [N], `labels` [N], by descending score.

        Raises:
            DataError: on images or targets of another form; it names the image and the box.
        """
        batch, sizes = self.batch(images)
        if self.training:
            check_targets(images, targets, self.num_classes)
        objects = _objects(targets, batch) if self.training and targets is not None else None
        generators = None if seeds is None else [torch.Generator(batch.device).manual_seed(s) for s in seeds]
        image_rois = box_ops.image_rois(sizes, batch)
        maps = self.separation(batch.to(self.rpn.conv.weight.dtype))
        proposals, rpn_losses = self.rpn(maps.rpn, image_rois, objects, generators)
        if objects is None:
            predictions: Predictions = self.roi(maps, proposals.boxes, image_rois)
            found = self.roi.detect(predictions, proposals, image_rois, score)
            return _unpadded(self.roi.refine(maps, found, image_rois))
        boxes, labels, target_deltas = self.roi.assign(proposals, objects, generators)
        predictions = self.roi(maps, boxes, image_rois)
        samples = labels.flatten(), boxes.flatten(0, 1), target_deltas.flatten(0, 1)
        return {**rpn_losses, **roi_losses(*predictions, *samples, self.roi.config.roi)}

    def batch(self, images: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Normalized images [B, 3, H, W], zero-padded at the right and bottom, and their sizes (height, width)."""
        check_images(images)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = (-(-max(side) // MULTIPLE) * MULTIPLE for side in zip(*sizes, strict=True))
        batch = self.mean.new_zeros(len(images), 3, height, width)
        for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
            image = image.to(batch, non_blocking=True) / 255 if image.dtype == torch.uint8 else image.to(batch)
            batch[i, :, :h, :w] = (image - self.mean) / self.std
        return batch, sizes

    def checkpoint_activations(self, on: bool) -> None:
        """Whether training stores only the input of each block (`Separation.checkpoint`): less memory, more time."""
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


def _objects(targets: list[dict[str, Tensor]], batch: Tensor) -> Objects:
    """Targets as tensors with the type and device of `batch`."""
    boxes, valid = box_ops.pad([target["boxes"].to(batch, non_blocking=True) for target in targets])
    labels = [target["labels"].to(batch.device, non_blocking=True) for target in targets]
    return Objects(boxes, valid, nn.utils.rnn.pad_sequence(labels, batch_first=True))


def _unpadded(found: Found) -> list[dict[str, Tensor]]:
    """Splits the detections by image. Up to here, no length depends on the content of an image."""
    counts: list[int] = found.valid.sum(dim=1).tolist()
    return [
        {"boxes": boxes[:count], "scores": scores[:count], "labels": labels[:count]}
        for boxes, scores, labels, count in zip(*found[:3], counts, strict=True)
    ]


def resolve(config: DetectorConfig, backbone: Backbone, *, pretrained: bool) -> DetectorConfig:
    """`config` with `norm` and `frozen_stages` resolved for pretrained or random weights.

    Raises:
        ConfigError: if random weights would be frozen.
    """
    frozen_stages = config.frozen_stages if config.frozen_stages is not None else 2 if pretrained else 0
    if not pretrained and (backbone.norm == "frozen_bn" or frozen_stages):
        raise ConfigError(
            f"norm '{backbone.norm}' and frozen_stages {frozen_stages} with random weights: what is frozen would stay "
            "random; use norm 'bn' or 'group' and frozen_stages 0"
        )
    return replace(config, backbone=backbone.name, norm=backbone.norm, frozen_stages=frozen_stages)


def outline(config: DetectorConfig, num_classes: int, backbone: Backbone | None = None) -> RCNN:
    """Builds a detector with random weights, to be loaded afterwards.

    Args:
        config: a resolved configuration (`resolve`); num_classes: C.
        backbone: your own backbone, if `make_backbone` does not know the name in `config`.

    Raises:
        ConfigError: if the name is unknown, or is not that of `backbone`.
    """
    if backbone is None:
        backbone = make_backbone(config.backbone, config.norm)
    elif (backbone.name, backbone.norm) != (config.backbone, config.norm):
        raise ConfigError(
            f"backbone '{backbone.name}' with norm '{backbone.norm}': the detector has '{config.backbone}' with norm "
            f"'{config.norm}'"
        )
    return RCNN(config, num_classes, backbone)


def build_detector(
    config: str | DetectorConfig,
    num_classes: int,
    weights: str | Path | None = "imagenet",
    *,
    backbone: Backbone | None = None,
) -> RCNN:
    """Builds a detector that is ready to train.

    Args:
        config: the name of a preset, or a configuration.
        num_classes: C, without background.
        weights: weights of the backbone. `imagenet`: the published weights of torchvision or timm (downloaded and
            checked); a path: a file with a state dict of the classification network (.pth, .pt or .safetensors); None:
            random weights, with trainable norm.
        backbone: your own network in place of the one that `config` names. With `weights` None it is used as it is, and
            its weights count as random, so none of them may be frozen.

    Raises:
        ConfigError: on an unknown preset, an impossible configuration or an impossible number of classes.
        CheckpointError: on weights that cannot be loaded or do not fit.
    """
    config = preset(config) if isinstance(config, str) else config
    if num_classes < 1:
        raise ConfigError(f"num_classes {num_classes}: a detector needs at least one class")
    pretrained = weights is not None
    backbone = backbone or make_backbone(config.backbone, config.norm, pretrained=pretrained)
    config = resolve(config, backbone, pretrained=pretrained)
    if weights is not None:
        load_backbone(backbone, weights, fc=takes_fc(config, backbone))
    return RCNN(config, num_classes, backbone)


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
