"""The configuration: frozen dataclasses, one per concern, plain values only (no torch), so that they print as YAML.

`DetectorConfig` is the one type behind every detector of the package; `grcn.presets` names the useful ones.
What the paper's abstract does not say is our reading and stands here as a field (docs/explanations/our-reading.md).

A field's type says all that it takes: its choices, its `Bounds`, or that it is free text. `check_fields` holds every
configuration to that, whether it comes from a file, the command line or Python.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from grcn.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Bounds:
    """The finite numbers that a field takes: `ge` at least, `gt` above, `le` at most, `lt` below. Of a list: its count.

    Its text is what an error says after "needs".
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, number: float) -> bool:
        return (
            -math.inf < number < math.inf
            and (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
        )

    def __repr__(self) -> str:
        low = f"{self.ge:,}" if self.ge is not None else f"above {self.gt:,}"
        if self.le is not None:
            return f"{low} to {self.le:,}"
        if self.lt is not None:
            return f"{low} to below {self.lt:,}"
        return f"{low} or more" if self.ge is not None else low


FREE_TEXT = "free text"
Text = Annotated[str, FREE_TEXT]
Share = Annotated[float, Bounds(ge=0, le=1)]
Positive = Annotated[float, Bounds(gt=0)]
NotNegative = Annotated[float, Bounds(ge=0)]
Factor = Annotated[float, Bounds(gt=0, le=10)]
Decay = Annotated[float, Bounds(ge=0, lt=1)]
Count = Annotated[int, Bounds(ge=1, le=1_000_000)]
Side = Annotated[int, Bounds(ge=32, le=1_000_000)]
Iterations = Annotated[int, Bounds(ge=0, le=1_000_000_000)]
Machines = Annotated[int, Bounds(ge=1, le=10_000)]

Separation = Literal["none", "roi", "neck", "conv5", "conv4", "conv3"]
Stride = Literal[8, 16, 32]
Cells = Annotated[float, Bounds(gt=0, le=1000)]
Context = Literal["none", "global", "attention"]
Head = Literal["conv5", "fc2", "light_fc2", "vgg_fc", "conv_fc", "avgpool"]
Norm = Literal["auto", "frozen_bn", "bn", "group", "none"]
Optimization = Literal["none", "fold", "bf16"]
# The names of the tables in grcn.data.formats, which a test compares: help and files are read without numpy.
ReadFormat = Literal["auto", "voc", "coco", "yolo", "labelstudio"]
WrittenFormat = Literal["voc", "coco", "yolo", "labelstudio", "fiftyone"]


@dataclass(frozen=True)
class InputConfig:
    """The size at which images enter the detector; strides and anchors are pixels of this size.

    Args:
        short_side: pixels of the shorter side after resizing.
        long_side: cap on the longer side; an image that would exceed it is resized to it instead.

    Raises:
        ConfigError: as from all classes here, on a field out of its bounds; on a cap below the shorter side.
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
        source: the map it looks at: the trunk's, that of a task, or that of a stage in the trunk.
        convs: its 3x3 convolutions, one after the other.
        channels: width of them; None: the source map's.
        anchor_sizes: square roots of the anchors' areas, in input pixels.
        anchor_ratios: height / width of the anchors.
        foreground_iou: an anchor that overlaps an object at least so much is positive.
        background_iou: an anchor that overlaps all objects less is negative.
        batch_per_image: anchors sampled for the loss.
        positive_fraction: the positives' share of them, at most.
        pre_nms_train: proposals per image kept before NMS in training.
        pre_nms_test: the same in prediction.
        post_nms_train: proposals per image kept after NMS in training.
        post_nms_test: the same in prediction.
        nms: IoU above which the lower-scored proposal is dropped.
        min_size: proposals with a side below this, in input pixels, are dropped.
    """

    source: Literal["trunk", "cls", "loc", "conv3", "conv4", "conv5"] = "trunk"
    convs: Literal[1, 2] = 1
    channels: Count | None = None
    anchor_sizes: Annotated[tuple[Positive, ...], Bounds(ge=1, le=100)] = (32.0, 64.0, 128.0, 256.0, 512.0)
    anchor_ratios: Annotated[tuple[Positive, ...], Bounds(ge=1, le=100)] = (0.5, 1.0, 2.0)
    foreground_iou: Share = 0.7
    background_iou: Share = 0.3
    batch_per_image: Count = 256
    positive_fraction: Share = 0.5
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
    """RoI stage: pooling, the head's widths, sampling, losses and post-processing (Girshick 2015; Ren et al. 2015).

    Args:
        pooling: RoIAlign or RoIPool.
        size: cells per side of a RoI's features; None: 14 for the conv5 head, 7 for the others.
        sampling_ratio: RoIAlign's samples per cell and axis; 0: as many as the cell has pixels.
        aligned: RoIAlign with the half-pixel correction.
        reduce_channels: width of light_fc2's 1x1 convolution on the map.
        fc_channels: width of the fully connected layers; None: 1024, or 4096 for vgg_fc.
        unnamed_logits: logits behind those of the classes, which count in the softmax and stand for no class:
            torchvision's COCO detectors have ten.
        foreground_iou: proposals at or above it are positive, the others background.
        batch_per_image: proposals sampled for the loss.
        positive_fraction: the positives' share of them, at most.
        box_weights: scale of the box deltas x, y, w, h.
        score_threshold: detections below it are dropped.
        nms: IoU above which the lower-scored detection of the same class is dropped.
        detections_per_image: the surest of all classes that are kept.
    """

    pooling: Literal["align", "pool"] = "align"
    size: Annotated[int, Bounds(ge=1, le=100)] | None = None
    sampling_ratio: Annotated[int, Bounds(ge=0, le=100)] = 2
    aligned: bool = True
    reduce_channels: Count = 256
    fc_channels: Count | None = None
    unnamed_logits: Annotated[int, Bounds(ge=0, le=1000)] = 0
    foreground_iou: Share = 0.5
    batch_per_image: Count = 512
    positive_fraction: Share = 0.25
    box_weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    score_threshold: Share = 0.05
    nms: Share = 0.5
    detections_per_image: Count = 100

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DetectorConfig:
    """One detector of the Faster R-CNN / G-RCN family.

    Args:
        backbone: stages conv1..conv5 come from it: torchvision's name of a ResNet, ResNeXt or Wide ResNet, `vgg16`,
            `timm:NAME`, or the name of an object of your own (`build_detector(..., backbone=...)`).
        norm: normalisation layers. `auto`: frozen batch norm on pretrained weights (none for VGG16, as published),
            trainable batch norm on random ones. `group`: group norm of 32 groups.
        norm_eps: what frozen norms add to the variance before they divide by its root; None: what the network's own do.
        frozen_stages: stages conv1..convN that are not trained; None: 2 on pretrained weights, else 0.
        separation: the last stage that both tasks share. `none`: everything, the head too. `roi`: all but the head.
            `neck`: all but the neck's outputs and the head. `conv5`: all stages, but each task has its own layers after
            them. `conv4`, `conv3`: each task has its own copy of the later stages, its branch, and of the neck.
        cls_stride: input pixels per cell of the map that classification's RoI features are pooled from.
        loc_stride: the same for localization.
        neck: what comes between stages and RoIs. `fpn`: a feature pyramid (Lin et al. 2017) over conv2..conv5, each at
            its own stride: maps of strides 4 to 32, and one of 64 for the RPN alone, which has one anchor size a map.
        neck_channels: width of the pyramid's maps.
        neck_norm: batch norm after each convolution of the neck.
        neck_stride: input pixels per cell of the finest of them; 8: conv2 is left out.
        cls_cells: on a pyramid, classification's features of a RoI are pooled from the coarsest map on which its side
            (the square root of its area) spans at least so many cells; 14: as usual.
        loc_cells: the same for localization.
        dilation: where a stage's stride is reduced, dilate its convolutions so that the receptive field stays.
        cls_context: what classification sees beside each RoI. `global`: the feature of the whole image, as one more
            RoI. `attention`: an attention-pooled vector of the map (an extra module, beyond the paper).
        loc_context: the same for localization.
        head: what turns a RoI's features into a vector. `conv5`: the stage conv5 per RoI, then average pooling
            (protocol C4). `fc2`: two fully connected layers. `light_fc2`: a 1x1 convolution on the map first.
            `vgg_fc`: VGG16's fc6 and fc7. `conv_fc`: four 3x3 convolutions with batch norm, then one fully connected
            layer (torchvision's v2). `avgpool`: average pooling alone.

    Raises:
        ConfigError: on a combination that cannot exist, with the reason. What depends on the backbone is checked when
            the detector is built.
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

    Before a neck it is the backbone's own. Where the tasks share one map it is that map's; else the backbone's own,
    reduced where a task needs a finer one.

    Args:
        strides: input pixels per cell at the end of the unmodified backbone's stages conv1..conv5.
    """
    if config.neck != "none":
        return strides[config.trunk_end - 1]
    if config.separation in ("none", "roi", "conv5"):
        return config.cls_stride
    return min(strides[config.trunk_end - 1], config.cls_stride, config.loc_stride)


def branch_strides(config: DetectorConfig, strides: Sequence[int]) -> tuple[int, int]:
    """Input pixels per cell at the end of each task's branch, classification's first; `strides` as in `trunk_stride`.

    Before a neck both are the backbone's own.
    """
    return (strides[4], strides[4]) if config.neck != "none" else (config.cls_stride, config.loc_stride)


def rpn_stride(config: DetectorConfig, strides: Sequence[int]) -> int:
    """Input pixels per cell of the map, of a pyramid the finest, that the RPN sees; `strides` as in `trunk_stride`."""
    if config.neck != "none":
        return config.neck_stride
    source = config.rpn.source
    if source in ("cls", "loc"):
        return config.cls_stride if source == "cls" else config.loc_stride
    trunk = trunk_stride(config, strides)
    return trunk if source == "trunk" else min(strides[int(source[-1]) - 1], trunk)


def check_detector(config: DetectorConfig) -> None:
    """Raises ConfigError where the fields of `config`, each allowed, describe a detector that cannot exist."""
    if config.neck != "none":
        _check_pyramid(config)
        return
    if config.separation == "neck":
        raise ConfigError("separation 'neck' with neck 'none': no neck is there to separate; use neck 'fpn'")
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
    """`check_detector` of a detector with a neck."""
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
            f"rpn.source '{config.rpn.source}' {neck} and separation '{config.separation}': it is no pyramid; use 'loc'"
        )


@dataclass(frozen=True)
class AugmentConfig:
    """Training augmentation; each sample's is a function of (seed, epoch, index).

    Args:
        flip: probability of a horizontal flip.
        vertical_flip: probability of a vertical flip.
        scale_jitter: range of the factor on the resized short side.
        crop: probability of a random crop that keeps at least one object.
        color: strength of brightness, contrast, saturation and hue jitter, 0..1.
    """

    flip: Share = 0.5
    vertical_flip: Share = 0.0
    scale_jitter: tuple[Factor, Factor] = (1.0, 1.0)
    crop: Share = 0.0
    color: Share = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.scale_jitter[0] > self.scale_jitter[1]:
            raise ConfigError(f"scale_jitter {list(self.scale_jitter)}: needs the lower factor first")


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer's step.

    Args:
        name: `sgd` (with momentum) or `adamw`.
        lr: learning rate at a total batch of 16 images, scaled linearly to the batch in use; null: 0.02 for sgd, 0.001
            for adamw.
        momentum: of SGD.
        weight_decay: as usual; norm layers and biases are not decayed.
        clip_norm: largest gradient norm; 0: no clipping.
        accumulate: batches whose gradients are added up for one step.
        ema: decay of the weights' exponential moving average, the one that is evaluated and kept; 0: none.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: NotNegative | None = None
    momentum: Decay = 0.9
    weight_decay: Share = 1e-4
    clip_norm: NotNegative = 10.0
    accumulate: Count = 1
    ema: Decay = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def base_lr(self) -> float:
        """The learning rate at a total batch of 16 images."""
        return self.lr if self.lr is not None else {"sgd": 0.02, "adamw": 0.001}[self.name]


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over a run.

    Args:
        kind: `step`: times `gamma` at each milestone; `cosine`: to zero; `constant`.
        warmup: iterations of linear warm-up from a thousandth; at most a tenth of the run.
        milestones: fractions of the run, rising.
        gamma: the factor at a milestone.
    """

    kind: Literal["step", "cosine", "constant"] = "step"
    warmup: Iterations = 500
    milestones: Annotated[tuple[Share, ...], Bounds(ge=0, le=100)] = (0.67, 0.89)
    gamma: Annotated[float, Bounds(gt=0, le=1)] = 0.1

    def __post_init__(self) -> None:
        check_fields(self)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"milestones {list(self.milestones)}: needs rising fractions of the run")


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Args:
        data: the data set's folder.
        preset: name of the detector (`grcn models` lists them).
        out: the run folder; empty: `runs/PRESET-DATA`.
        format: how `data` is annotated.
        train_split: name of the split to train on; `auto`: by its usual name.
        val_split: name of the split to validate on; `auto`: by its usual name; `none`: no validation.
        weights: `imagenet`, `coco` (torchvision's published detectors, for presets with a pyramid on ResNet-50),
            `random`, a backbone state-dict file, or a detector to fine-tune from: its run folder, its file, a state
            dict of torchvision's, or `hf://user/name` on the Hugging Face Hub.
        fit: `data`: take input size, anchors and strides from the data set (`grcn check` shows them).
        iterations: length of the run in optimizer steps; this, `epochs` or `minutes`.
        epochs: length of the run in passes over the data; 24 where no length is given.
        minutes: length of the run in time, turned into iterations by timing the first steps on this machine.
        batch_size: images per step over all devices.
        workers: loader processes per device, and threads that read while it validates.
        seed: of weights, order, sampling and augmentation.
        val_every: iterations between validations; 0: only at the end.
        save_every: iterations between saves of the training state; 0: at each validation, or ten times in the run.
        patience: stop after this many validations without a better AP; 0: never.
        precision: `fp32`, or `bf16` or `fp16` for autocast; `fp16` scales the losses and skips steps that overflow.
        checkpoint_activations: compute feature maps again in the backward pass instead of keeping them: less memory, a
            third more time, the same result.
        accelerator: as lightning's Fabric; `gpu`: the kind that is there.
        devices: devices per node.
        nodes: machines.
        loggers: any of csv, tensorboard, wandb, mlflow; each but csv is an extra of the same name.
        use_difficult: train on objects marked difficult.
        skip_broken: count and skip images that cannot be decoded instead of stopping.
        resume: continue the run in `out`.
        model: the detector; None: the preset's. On the command line, in its files and in studies it starts from the
            preset's, and what is given there goes first (`grcn.presets.train_config`).
    """

    data: Text
    preset: Text = "grcn_r50"
    out: Text = ""
    format: ReadFormat = "auto"
    train_split: Text = "auto"
    val_split: Text = "auto"
    weights: Text = "imagenet"
    fit: Literal["none", "data"] = "none"
    iterations: Iterations = 0
    epochs: NotNegative = 0.0
    minutes: NotNegative = 0.0
    batch_size: Count = 8
    workers: Annotated[int, Bounds(ge=0, le=1000)] = 2
    seed: Annotated[int, Bounds(ge=0, lt=2**63)] = 0
    val_every: Iterations = 0
    save_every: Iterations = 0
    patience: Iterations = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    checkpoint_activations: bool = False
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: Machines = 1
    nodes: Machines = 1
    loggers: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ("csv",)
    use_difficult: bool = True
    skip_broken: bool = False
    resume: bool = False
    model: DetectorConfig | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        lengths = [name for name in ("iterations", "epochs", "minutes") if getattr(self, name)]
        if len(lengths) > 1:
            raise ConfigError(f"{' and '.join(lengths)}: give one length of the run")


T = TypeVar("T")


@dataclass(frozen=True)
class ServeLimits:
    """What one `grcn serve` takes on.

    Beside the network it holds at most about `max_requests * max_bytes` of files and `3 * max_batch * max_pixels` bytes
    of photos.

    Args:
        max_batch: photos decoded and predicted together.
        max_requests: photos in the service at a time: arriving, waiting and predicted; more get 503.
        max_connections: connections open at a time; requests on more get 503.
        max_bytes: of a request's body; a longer one gets 413.
        max_pixels: of a photo; a larger one gets 422.
        timeout: seconds from a request's head to the end of its answer; then 408 while its body is read, else 504.
    """

    max_batch: Count = 8
    max_requests: Count = 32
    max_connections: Count = 256
    max_bytes: Annotated[int, Bounds(ge=1, le=2**40)] = 20_000_000
    max_pixels: Annotated[int, Bounds(ge=1, le=2**40)] = 2**26  # that of grcn.data.image
    timeout: Positive = 30.0

    def __post_init__(self) -> None:
        check_fields(self)


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dicts, lists and scalars, as YAML and JSON hold it."""
    plain: dict[str, Any] = _plain(asdict(config))
    return plain


def non_defaults(config: Any) -> dict[str, Any]:
    """`to_dict` without the fields that are at their default, within its parts too.

    What stands for a configuration over versions: a field that is added later, with a default, leaves it as it is.
    """
    kept: dict[str, Any] = {}
    for each in fields(config):
        value = getattr(config, each.name)
        if value != (each.default if each.default_factory is MISSING else each.default_factory()):
            kept[each.name] = non_defaults(value) if is_dataclass(value) else _plain(value)
    return kept


def differences(saved: Any, now: Any, where: str = "") -> list[str]:
    """Where two configurations as plain values differ, as `model.cls_stride 16 -> 8`; of the fields that both have."""
    if isinstance(saved, dict) and isinstance(now, dict):
        inside = ((key, f"{where}.{key}".lstrip(".")) for key in saved if key in now)
        return [told for key, name in inside for told in differences(saved[key], now[key], name)]
    return [] if saved == now else [f"{where} {_short(saved)} -> {_short(now)}"]


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Keys and values of both, those of `over` first; mappings within are merged likewise."""
    both = dict(under)
    for key, value in over.items():
        within = isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = merged(both[key], value) if within else value
    return both


def from_dict(kind: type[T], values: Any, where: str = "") -> T:
    """The inverse of `to_dict`; fields that are absent take their defaults.

    Raises:
        ConfigError: on an unknown key (naming the nearest known one) or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where or kind.__name__}: expected keys and values, found {_shown(values)}")
    hints = _hints(kind)
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"; did you mean '{where}{near[0]}'?" if near else ""
            raise ConfigError(f"unknown key {f'{where}{key}'!r}{hint}")  # !r: it may hold a line break
    known = {key: _coerce(hints[key], value, f"{where}{key}") for key, value in values.items()}
    try:
        return kind(**known)
    except TypeError as error:
        raise ConfigError(f"{where or kind.__name__}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None


def check_fields(config: Any) -> None:
    """Holds each field of a configuration to its type; for `__post_init__`.

    A whole number for a float becomes one, a list for a tuple likewise.

    Raises:
        ConfigError: naming the field, its value and what it takes.
    """
    for name, hint in _hints(type(config)).items():
        object.__setattr__(config, name, _coerce(hint, getattr(config, name), name))


_hints: Callable[..., dict[str, Any]] = cache(partial(get_type_hints, include_extras=True))


def from_saved(kind: type[T], values: Any, path: str | Path) -> T:
    """`from_dict` for what grcn wrote itself, of this version or another.

    Raises:
        CheckpointError: naming the file and the key that this version does not know or take.
    """
    try:
        return from_dict(kind, values)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}; if another version of grcn wrote it, use that one") from None


def _coerce(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, f"{where}.")  # type: ignore[arg-type]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = _coerce(arguments[0], value, where)
        for bounds in arguments[1:]:
            if isinstance(bounds, Bounds) and (len(value) if isinstance(value, tuple) else value) not in bounds:
                values = " values" if isinstance(value, tuple) else ""
                raise ConfigError(f"{where} {_shown(value)}: needs {bounds}{values}")
        return value
    if origin is Literal:
        if value in arguments and any(type(value) is type(a) and value == a for a in arguments):
            return value
        raise ConfigError(f"{where}: {_shown(value)} is none of {', '.join(map(str, arguments))}")
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _coerce(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, found {_shown(value)}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise ConfigError(f"{where}: expected {len(kinds)} values, found {len(value)}")
        return tuple(_coerce(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: the number is too large") from None
    if type(value) is not hint:
        raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value in one line of bounded length."""
    try:
        text = " ".join(repr(list(value) if isinstance(value, tuple) else value).split())
    except ValueError:  # Python prints no whole number of more than 4300 digits
        return "a number too large to print"
    return text if len(text) <= 100 else f"{text[:97]}..."
