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

# The names in grcn.data.formats, repeated here so that help and files need no numpy. A test compares them.
ReadFormat = Literal["auto", "voc", "coco", "yolo", "labelstudio", "cvat", "imagefolder", "csv"]
WrittenFormat = Literal["voc", "coco", "yolo", "labelstudio", "fiftyone"]


_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class AugmentConfig:
    """Training augmentation. The augmentation of a sample depends only on (seed, epoch, index).

    Args:
        flip: probability of a horizontal flip.
        vertical_flip: probability of a vertical flip.
        scale_jitter: range of a random factor on the size of the resized image.
        large_scale_jitter: range of a second factor; an image that becomes larger than the input is cropped.
        crop: probability of a random crop that keeps at least one object.
        color: strength of the jitter of brightness, contrast, saturation and hue, 0..1.
        mosaic: probability that four photos are combined into one sample; off in the last fifth of a run.
        copy_paste: probability that up to three objects from another photo are pasted in, as rectangles.
        extra: your own augmentation as `module:function`, called last. It takes image [3, H, W] uint8, boxes [N, 4]
            float32, labels [N] int64 and a numpy Generator, and returns the first three.
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
    """The optimizer.

    Args:
        name: `sgd` (with momentum) or `adamw`; `auto` chooses by the backbone.
        lr: learning rate for a total batch of 16 images; it is scaled linearly to the actual batch size. null: 0.02 for
            sgd and 0.001 for adamw, or the recipe's value if the recipe chooses the optimizer.
        momentum: momentum of SGD.
        weight_decay: weight decay, which norm layers and biases are exempt from; null: 0.0001 for sgd, 0.05 for adamw.
        clip_norm: largest norm of the gradient; 0 turns clipping off.
        accumulate: number of batches whose gradients are summed for one step.
        ema: decay of the exponential moving average of the weights, which is what is evaluated and saved. 0 turns it
            off; null chooses by the length of the run.
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
        kind: `step` multiplies it by `gamma` at each milestone, `cosine` lowers it to zero, `constant` keeps it;
            `auto` is cosine.
        warmup: iterations of linear warm-up, from a thousandth of the learning rate; at most a tenth of the run.
        milestones: fractions of the run at which `step` lowers the learning rate, in ascending order.
        gamma: factor on the learning rate at a milestone.
    """

    kind: Literal["auto", "step", "cosine", "constant"] = "auto"
    warmup: Iterations = 500
    milestones: Annotated[tuple[Share, ...], Bounds(ge=0, le=100)] = (0.67, 0.89)
    gamma: PositiveShare = 0.1

    def __post_init__(self) -> None:
        check_fields(self)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"milestones {list(self.milestones)}: needs fractions of the run in ascending order")


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    The recipe (`grcn.training.recipe`) fills in every field that is `auto` or null, for the data and the machine,
    except for `format` and the names of the splits. The run folder's config.yaml has the values that it chose.

    Args:
        data: folder of the data set.
        preset: detector to train (`grcn models` lists them); `auto` chooses by the machine.
        out: folder of the run; empty: `runs/PRESET-DATA`.
        format: annotation format of `data`.
        train_split: split to train on; `auto` finds the one with a usual name, such as train.
        val_split: split to validate on. `held-out` sets a part of the training split aside for it; `none` turns
            validation off; `auto` finds the split with a usual name, such as val, and otherwise holds a part out.
        weights: weights to start from. `imagenet`: a pretrained backbone; `coco`: torchvision's published detector, for
            presets with a pyramid on ResNet-50; `auto`: coco if the preset has one, otherwise imagenet; `random`. It
            can also be a state-dict file of the backbone, or a detector to fine-tune: its run folder, its file, a
            state dict of torchvision, or `hf://user/name` on the Hugging Face Hub.
        fit: `data` fits input size, anchors and strides to the data set, as `grcn check` shows; `none` keeps those of
            `model`; `auto` fits them unless you change `model`.
        iterations: length of the run in optimizer steps; 0: not given.
        epochs: length of the run in passes over the data; 0: not given, and 24 if no other length is given.
        minutes: length of the run in minutes, converted to iterations by timing the first steps; 0: not given.
        batch_size: images per step, over all devices.
        workers: processes per device that load images, and threads that read images for validation.
        seed: random seed for weights, order, sampling and augmentation.
        val_every: iterations between validations; 0 validates only at the end.
        save_every: iterations between saves of the training state; 0 saves at each validation, or ten times in the run
            if there is none before the end.
        patience: stop after this many validations without a better AP; 0 never stops early.
        precision: `fp32`, or `bf16` or `fp16` for mixed precision (`fp16` with loss scaling). `auto` takes bf16 if the
            processor or the GPU computes in it, otherwise fp32.
        checkpoint_activations: compute feature maps again in the backward pass instead of storing them; this needs less
            memory and a third more time, and gives the same result.
        accelerator: kind of device, as in Lightning Fabric; `gpu` takes the kind of GPU that the machine has.
        devices: devices per machine.
        nodes: number of machines.
        loggers: any of csv, tensorboard, wandb and mlflow; install the extra of the same name for all but csv.
        use_difficult: train on objects that are marked difficult.
        skip_broken: skip and count images that cannot be decoded, instead of stopping.
        resume: continue the run in `out`.
        model: the detector; None: that of the preset. On the command line, in its files and in studies, `model` starts
            from the preset, and the fields that you give there replace its values (`grcn.presets.train_config`).
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
            raise ConfigError(f"{' and '.join(lengths)}: give only one of them as the length of the run")
