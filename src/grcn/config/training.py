"""The configuration of a training run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from grcn.config.detector import DetectorConfig
from grcn.config.fields import (
    Bounds,
    Count,
    Decay,
    Factor,
    Iterations,
    Machines,
    NotNegative,
    Positive,
    PositiveShare,
    Share,
    Text,
    check_fields,
)
from grcn.errors import ConfigError

# The names of the tables in grcn.data.formats, which a test compares: help and files are read without numpy.
ReadFormat = Literal["auto", "voc", "coco", "yolo", "labelstudio", "cvat", "imagefolder", "csv"]
WrittenFormat = Literal["voc", "coco", "yolo", "labelstudio", "fiftyone"]


_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class AugmentConfig:
    """Training augmentation; each sample's is a function of (seed, epoch, index).

    Args:
        flip: probability of a horizontal flip.
        vertical_flip: probability of a vertical flip.
        scale_jitter: range of the factor on the resized short side.
        large_scale_jitter: range of a further factor; what it makes larger than the input is cropped away.
        crop: probability of a random crop that keeps at least one object.
        color: strength of brightness, contrast, saturation and hue jitter, 0..1.
        mosaic: probability that a sample is made of four photos, each smaller; none in the last fifth of a run.
        copy_paste: probability that up to three objects of another photo are pasted, as rectangles.
        extra: `module:function` of one's own, called last: it takes image [3, H, W] uint8, boxes [N, 4] float32,
            labels [N] int64 and a numpy Generator, and returns the first three.
    """

    flip: Share = 0.5
    vertical_flip: Share = 0.0
    scale_jitter: tuple[Factor, Factor] = (1.0, 1.0)
    large_scale_jitter: tuple[Factor, Factor] = (1.0, 1.0)
    crop: Share = 0.0
    color: Share = 0.0
    mosaic: Share = 0.0
    copy_paste: Share = 0.0
    extra: Text = ""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("scale_jitter", "large_scale_jitter"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"{name} {[low, high]}: needs the lower factor first")
        if self.extra and not _FUNCTION.fullmatch(self.extra):
            raise ConfigError(f"extra '{self.extra}': needs module:function")


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer's step.

    Args:
        name: `sgd` (with momentum) or `adamw`; `auto`: by the backbone.
        lr: learning rate at a total batch of 16 images, scaled linearly to the batch in use; null: 0.02 for sgd, 0.001
            for adamw, or the recipe's where it chooses the optimizer.
        momentum: of SGD.
        weight_decay: as usual; norm layers and biases are not decayed; null: 0.0001 for sgd, 0.05 for adamw.
        clip_norm: largest gradient norm; 0: no clipping.
        accumulate: batches whose gradients are added up for one step.
        ema: decay of the weights' exponential moving average, the one that is evaluated and kept; 0: none; null: by the
            length of the run.
    """

    name: Literal["auto", "sgd", "adamw"] = "auto"
    lr: Positive | None = None
    momentum: Decay = 0.9
    weight_decay: Share | None = None
    clip_norm: NotNegative = 10.0
    accumulate: Count = 1
    ema: Decay | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over a run.

    Args:
        kind: `step`: times `gamma` at each milestone; `cosine`: to zero; `constant`; `auto`: cosine.
        warmup: iterations of linear warm-up from a thousandth; at most a tenth of the run.
        milestones: fractions of the run, rising.
        gamma: the factor at a milestone.
    """

    kind: Literal["auto", "step", "cosine", "constant"] = "auto"
    warmup: Iterations = 500
    milestones: Annotated[tuple[Share, ...], Bounds(ge=0, le=100)] = (0.67, 0.89)
    gamma: PositiveShare = 0.1

    def __post_init__(self) -> None:
        check_fields(self)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"milestones {list(self.milestones)}: needs rising fractions of the run")


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    What is `auto` or null here, but for the names of the splits and of the format, the recipe chooses for the data and
    the machine (`grcn.training.recipe`); the run folder's config.yaml says what it chose.

    Args:
        data: the data set's folder.
        preset: name of the detector (`grcn models` lists them); `auto`: by the machine.
        out: the run folder; empty: `runs/PRESET-DATA`.
        format: how `data` is annotated.
        train_split: name of the split to train on; `auto`: by its usual name.
        val_split: name of the split to validate on; `held-out`: a part of the training split, which is then not trained
            on; `auto`: by its usual name, else held-out; `none`: no validation.
        weights: `imagenet`, `coco` (torchvision's published detectors, for presets with a pyramid on ResNet-50),
            `auto` (coco where there is one for the preset, else imagenet), `random`, a backbone state-dict file, or a
            detector to fine-tune from: its run folder, its file, a state dict of torchvision's, or `hf://user/name` on
            the Hugging Face Hub.
        fit: `data`: take input size, anchors and strides from the data set (`grcn check` shows them); `auto`: where
            `model` is the preset's.
        iterations: length of the run in optimizer steps; this, `epochs` or `minutes`.
        epochs: length of the run in passes over the data; 24 where no length is given.
        minutes: length of the run in time, turned into iterations by timing the first steps on this machine.
        batch_size: images per step over all devices.
        workers: loader processes per device, and threads that read while it validates.
        seed: of weights, order, sampling and augmentation.
        val_every: iterations between validations; 0: only at the end.
        save_every: iterations between saves of the training state; 0: at each validation, or ten times in the run.
        patience: stop after this many validations without a better AP; 0: never.
        precision: `fp32`, or `bf16` or `fp16` for autocast; `fp16` scales the losses and skips steps that overflow;
            `auto`: bf16 where the processor or the GPU multiplies in it, else fp32.
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
    preset: Text = "auto"
    out: Text = ""
    format: ReadFormat = "auto"
    train_split: Text = "auto"
    val_split: Text = "auto"
    weights: Text = "auto"
    fit: Literal["auto", "none", "data"] = "auto"
    iterations: Iterations = 0
    epochs: NotNegative = 0.0
    minutes: NotNegative = 0.0
    batch_size: Count = 8
    workers: Annotated[int, Bounds(ge=0, le=1000)] = 2
    seed: Annotated[int, Bounds(ge=0, lt=2**63)] = 0
    val_every: Iterations = 0
    save_every: Iterations = 0
    patience: Iterations = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
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
