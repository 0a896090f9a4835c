"""The configuration of a detector.

Where the paper's abstract leaves something open, our reading is a field here (docs/explanations/our-reading.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from grcn.config.fields import Bounds, Count, NotNegative, Positive, PositiveShare, Share, Side, Text, check_fields
from grcn.errors import ConfigError

Separation = Literal["none", "roi", "neck", "conv5", "conv4", "conv3"]
Stride = Literal[8, 16, 32]
Cells = Annotated[float, Bounds(gt=0, le=1000)]
Context = Literal["none", "global", "attention"]
Head = Literal["conv5", "fc2", "light_fc2", "vgg_fc", "conv_fc", "avgpool"]
Norm = Literal["auto", "frozen_bn", "bn", "group", "none"]
Optimization = Literal["none", "fold", "bf16"]


@dataclass(frozen=True)
class InputConfig:
    """The size at which images enter the detector; strides and anchors are pixels of this size.

    Args:
        short_side: pixels of the shorter side after resizing.
        long_side: largest longer side, in pixels; an image that would exceed it is resized to this longer side instead.

    Raises:
        ConfigError: if a field is out of its bounds (as in all classes here), or the longer side is below the shorter.
    """

    short_side: Side = 600
    long_side: Side = 1000

    def __post_init__(self) -> None:
        check_fields(self)
        if self.long_side < self.short_side:
            raise ConfigError(f"long_side {self.long_side}: needs short_side {self.short_side} or more")


@dataclass(frozen=True)
class RPNConfig:
    """Region proposal network (Ren et al. 2015, section 3).

    Args:
        source: the map that it reads: that of the trunk, of a task, or of a stage in the trunk.
        convs: number of its 3x3 convolutions, one after the other.
        channels: width of these convolutions; null: that of the map.
        anchor_sizes: square roots of the anchors' areas, in input pixels.
        anchor_ratios: height / width of the anchors.
        foreground_iou: an anchor is positive if its IoU with an object is at least this.
        background_iou: an anchor is negative if its IoU with every object is below this.
        batch_per_image: anchors per image that are sampled for the loss.
        positive_fraction: largest share of positives among these anchors.
        pre_nms_train: proposals per image kept before NMS in training.
        pre_nms_test: the same in prediction.
        post_nms_train: proposals per image kept after NMS in training.
        post_nms_test: the same in prediction.
        nms: of two proposals with a higher IoU than this, the one with the lower score is dropped.
        min_size: proposals with a side below this, in input pixels, are dropped.
    """

    source: Literal["trunk", "cls", "loc", "conv3", "conv4", "conv5"] = "trunk"
    convs: Literal[1, 2] = 1
    channels: Count | None = None
    anchor_sizes: Annotated[tuple[Positive, ...], Bounds(ge=1, le=100)] = (32.0, 64.0, 128.0, 256.0, 512.0)
    anchor_ratios: Annotated[tuple[Positive, ...], Bounds(ge=1, le=100)] = (0.5, 1.0, 2.0)
    foreground_iou: PositiveShare = 0.7
    background_iou: PositiveShare = 0.3
    batch_per_image: Count = 256
    positive_fraction: PositiveShare = 0.5
    pre_nms_train: Count = 2000
    pre_nms_test: Count = 1000
    post_nms_train: Count = 2000
    post_nms_test: Count = 300
    nms: Share = 0.7
    min_size: NotNegative = 1e-3

    def __post_init__(self) -> None:
        check_fields(self)
        if self.background_iou > self.foreground_iou:
            raise ConfigError(
                f"background_iou {self.background_iou} above foreground_iou {self.foreground_iou}: an anchor would be "
                "both"
            )


@dataclass(frozen=True)
class RoIConfig:
    """RoI stage: pooling, widths of the head, sampling, losses and post-processing (Girshick 2015; Ren et al. 2015).

    Args:
        pooling: `align` for RoIAlign, `pool` for RoIPool.
        size: cells per side of a RoI's features; null: 14 for the conv5 head, 7 for the others.
        sampling_ratio: samples of RoIAlign per cell and axis; 0: as many as the cell has pixels.
        aligned: use RoIAlign with the half-pixel correction.
        reduce_channels: width of the 1x1 convolution of light_fc2 on the map.
        fc_channels: width of the fully connected layers; null: 1024, or 4096 for vgg_fc.
        unnamed_logits: logits after those of the classes that count in the softmax but stand for no class;
            torchvision's COCO detectors have ten.
        foreground_iou: a proposal is positive if its IoU with an object is at least this; the others are background.
        batch_per_image: proposals per image that are sampled for the loss.
        positive_fraction: largest share of positives among these proposals.
        box_weights: factors on the box deltas x, y, w, h.
        class_target: the probability that classification learns for the class of a positive proposal. `one_hot`: 1.
            `iou`: the IoU of the predicted box with the object; the background gets the rest.
        box_loss: `smooth_l1`: of the box deltas. `giou`: 1 - GIoU of the predicted box with the object.
        box_loss_weight: factor on this loss; with `giou`, 10 is usual.
        score_threshold: detections with a lower score are dropped.
        nms: of two detections of one class with a higher IoU than this, the one with the lower score is dropped.
        detections_per_image: most detections per image; of all classes, those with the highest scores are kept.
        refine: number of times that localization runs again in prediction, to correct the boxes that it has found.
    """

    pooling: Literal["align", "pool"] = "align"
    size: Annotated[int, Bounds(ge=1, le=100)] | None = None
    sampling_ratio: Annotated[int, Bounds(ge=0, le=100)] = 2
    aligned: bool = True
    reduce_channels: Count = 256
    fc_channels: Count | None = None
    unnamed_logits: Annotated[int, Bounds(ge=0, le=1000)] = 0
    foreground_iou: PositiveShare = 0.5
    batch_per_image: Count = 512
    positive_fraction: PositiveShare = 0.25
    box_weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    class_target: Literal["one_hot", "iou"] = "one_hot"
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    box_loss_weight: Positive = 1.0
    score_threshold: Share = 0.05
    nms: Share = 0.5
    detections_per_image: Count = 100
    refine: Annotated[int, Bounds(ge=0, le=3)] = 0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DetectorConfig:
    """One detector of the Faster R-CNN / G-RCN family.

    Args:
        backbone: the network with the stages conv1..conv5: torchvision's name of a ResNet, ResNeXt or Wide ResNet,
            `vgg16`, `timm:NAME`, or the name of your own network (`build_detector(..., backbone=...)`).
        norm: norm layers. `auto`: frozen batch norm with pretrained weights (none for VGG16, as published), trainable
            batch norm with random weights. `group`: group norm with 32 groups.
        norm_eps: the number that frozen norms add to the variance before they take its root; null: as in the network.
        frozen_stages: stages conv1..convN are not trained; null: 2 with pretrained weights, otherwise 0.
        separation: the last part that both tasks share. `none`: everything, with the head. `roi`: all but the head.
            `neck`: all but the outputs of the neck and the head. `conv5`: all stages, but each task has its own layers
            after them. `conv4`, `conv3`: each task has its own branch, which is a copy of the later stages, and its own
            copy of the neck.
        cls_stride: input pixels per cell of the map from which classification pools the features of RoIs.
        loc_stride: the same for localization.
        neck: layers between the stages and the RoIs. `fpn`: a feature pyramid (Lin et al. 2017) over conv2..conv5, each
            at its own stride. It has maps of strides 4 to 32, and one of stride 64 for the RPN only. The RPN has one
            anchor size per map.
        neck_channels: width of the maps of the pyramid.
        neck_norm: use batch norm after each convolution of the neck.
        neck_stride: input pixels per cell of the finest map of the pyramid; 8 leaves conv2 out.
        cls_cells: on a pyramid, classification pools a RoI from the coarsest map on which the side of the RoI (the
            square root of its area) spans at least this many cells; 14 is usual.
        loc_cells: the same for localization.
        dilation: dilate the convolutions of a stage whose stride is reduced, so that its receptive field stays.
        cls_context: what classification gets besides each RoI. `global`: the feature of the whole image, as one more
            RoI. `attention`: an attention-pooled vector of the map (an extra module that the paper does not have).
        loc_context: the same for localization.
        head: layers that turn the features of a RoI into a vector. `conv5`: the stage conv5 per RoI, then average
            pooling (protocol C4). `fc2`: two fully connected layers. `light_fc2`: a 1x1 convolution on the map first.
            `vgg_fc`: VGG16's fc6 and fc7. `conv_fc`: four 3x3 convolutions with batch norm, then one fully connected
            layer (torchvision's v2). `avgpool`: only average pooling.

    Raises:
        ConfigError: on an impossible combination, with the reason. Whatever depends on the backbone is checked when the
            detector is built.
    """

    backbone: Text = "resnet50"
    norm: Norm = "auto"
    norm_eps: Share | None = None
    frozen_stages: Annotated[int, Bounds(ge=0, le=5)] | None = None
    separation: Separation = "none"
    cls_stride: Stride = 16
    loc_stride: Stride = 16
    neck: Literal["none", "fpn"] = "none"
    neck_channels: Count = 256
    neck_norm: bool = False
    neck_stride: Literal[4, 8] = 4
    cls_cells: Cells = 14.0
    loc_cells: Cells = 14.0
    dilation: bool = True
    cls_context: Context = "none"
    loc_context: Context = "none"
    head: Head = "light_fc2"
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi: RoIConfig = field(default_factory=RoIConfig)
    input: InputConfig = field(default_factory=InputConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        check_detector(self)

    @property
    def trunk_end(self) -> int:
        """Number of the last stage in the trunk, 3..5."""
        if self.separation in ("conv3", "conv4"):
            return int(self.separation[-1])
        return self.last_stage

    @property
    def last_stage(self) -> int:
        """Number of the last stage that runs on the whole image, 4 or 5."""
        return 4 if self.head == "conv5" else 5

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Input pixels per cell of the pyramid's maps that RoIs are pooled from, finest first; empty without a neck."""
        return () if self.neck == "none" else tuple(s for s in (4, 8, 16, 32) if s >= self.neck_stride)

    @property
    def roi_size(self) -> int:
        return self.roi.size or (14 if self.head == "conv5" else 7)

    @property
    def fc_channels(self) -> int:
        return self.roi.fc_channels or (4096 if self.head == "vgg_fc" else 1024)


def trunk_stride(config: DetectorConfig, strides: Sequence[int]) -> int:
    """Input pixels per cell of the trunk's last map.

    Before a neck, it is the backbone's own stride. If the tasks share one map, it is the stride of that map. Otherwise
    it is the backbone's own stride, reduced if a task needs a finer map.

    Args:
        strides: input pixels per cell after each of the stages conv1..conv5 of the unmodified backbone.
    """
    if config.neck != "none":
        return strides[config.trunk_end - 1]
    if config.separation in ("none", "roi", "conv5"):
        return config.cls_stride
    return min(strides[config.trunk_end - 1], config.cls_stride, config.loc_stride)


def branch_strides(config: DetectorConfig, strides: Sequence[int]) -> tuple[int, int]:
    """Input pixels per cell after each task's branch, classification first; `strides` as in `trunk_stride`.

    Before a neck, both are the backbone's own stride.
    """
    return (strides[4], strides[4]) if config.neck != "none" else (config.cls_stride, config.loc_stride)


def rpn_stride(config: DetectorConfig, strides: Sequence[int]) -> int:
    """Input pixels per cell of the map (of a pyramid, the finest) for the RPN; `strides` as in `trunk_stride`."""
    if config.neck != "none":
        return config.neck_stride
    source = config.rpn.source
    if source in ("cls", "loc"):
        return config.cls_stride if source == "cls" else config.loc_stride
    trunk = trunk_stride(config, strides)
    return trunk if source == "trunk" else min(strides[int(source[-1]) - 1], trunk)


def check_detector(config: DetectorConfig) -> None:
    """Raises ConfigError if the fields of `config`, each valid by itself, describe an impossible detector."""
    if config.neck != "none":
        _check_pyramid(config)
        return
    if config.separation == "neck":
        raise ConfigError("separation 'neck' with neck 'none': there is no neck to separate; use neck 'fpn'")
    for task, cells in (("cls", config.cls_cells), ("loc", config.loc_cells)):
        if cells != DetectorConfig.cls_cells:
            raise ConfigError(
                f"{task}_cells {cells:g} with neck 'none': RoIs have one map to be pooled from; use {task}_stride, or "
                "neck 'fpn'"
            )
    shared = config.separation in ("none", "roi", "conv5")
    if shared and config.cls_stride != config.loc_stride:
        raise ConfigError(
            f"cls_stride {config.cls_stride} and loc_stride {config.loc_stride} with separation "
            f"'{config.separation}': both tasks share one map there; use equal strides or separation 'conv4'"
        )
    if config.head == "conv5":
        if config.separation not in ("none", "roi"):
            raise ConfigError(
                f"head 'conv5' with separation '{config.separation}': conv5 runs per RoI there, so no branch of "
                "stages is left to separate; use separation 'none' or 'roi', or head 'light_fc2'"
            )
        if config.cls_stride == 32:
            raise ConfigError("head 'conv5' with stride 32: RoI features come from conv4, whose stride is 16 or 8")
    if config.head == "vgg_fc" and config.roi_size != 7:
        raise ConfigError(f"head 'vgg_fc' with roi.size {config.roi_size}: fc6 takes 7x7 cells")
    if config.separation == "conv5" and config.head != "light_fc2":
        raise ConfigError(
            f"separation 'conv5' with head '{config.head}': between conv5 and RoI pooling it has no layer to "
            "separate; use separation 'roi', or head 'light_fc2'"
        )
    if config.rpn.source.startswith("conv") and int(config.rpn.source[-1]) > config.trunk_end:
        raise ConfigError(
            f"rpn.source '{config.rpn.source}' after a trunk that ends at conv{config.trunk_end}: each task, or each "
            "RoI, has its own there; use 'cls', 'loc' or an earlier stage"
        )


def _check_pyramid(config: DetectorConfig) -> None:
    """`check_detector` for a detector with a neck."""
    neck = f"with neck '{config.neck}'"
    if config.head not in ("fc2", "conv_fc", "avgpool"):
        raise ConfigError(f"head '{config.head}' {neck}: the maps are narrow, and conv5 is in them; use head 'fc2'")
    if config.separation in ("conv5", "conv3"):
        raise ConfigError(f"separation '{config.separation}' {neck}: use separation 'none', 'roi', 'neck' or 'conv4'")
    for task, stride in (("cls", config.cls_stride), ("loc", config.loc_stride)):
        if stride != DetectorConfig.cls_stride:
            raise ConfigError(
                f"{task}_stride {stride} {neck}: each RoI has a map that suits its size; leave it out, use {task}_cells"
            )
    if config.separation == "none" and config.cls_cells != config.loc_cells:
        raise ConfigError(
            f"cls_cells {config.cls_cells:g} and loc_cells {config.loc_cells:g} with separation 'none': one head reads "
            "one map for both tasks; use equal cells or separation 'roi'"
        )
    for task, context in (("cls", config.cls_context), ("loc", config.loc_context)):
        if context == "attention":
            raise ConfigError(f"{task}_context 'attention' {neck}: it reads one map; use 'global' or 'none'")
    if config.roi.pooling != "align":
        raise ConfigError(f"roi.pooling '{config.roi.pooling}' {neck}: use 'align'")
    levels, sizes = len(config.level_strides) + 1, len(config.rpn.anchor_sizes)
    if sizes != levels:
        raise ConfigError(
            f"rpn.anchor_sizes: {sizes} {neck} and neck_stride {config.neck_stride}: needs {levels}, one for each map"
        )
    own = config.separation in ("neck", "conv4")
    if config.rpn.source.startswith("conv") or (own and config.rpn.source == "trunk"):
        raise ConfigError(
            f"rpn.source '{config.rpn.source}' {neck} and separation '{config.separation}': not a pyramid; use 'loc'"
        )
