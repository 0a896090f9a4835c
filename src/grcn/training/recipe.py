"""The recipe: chooses what a configuration leaves open, such as the detector, its weights and the optimizer.

The rules come from trials on photographs and on cells (docs/training.md has the tables). The config.yaml of a run has
the chosen values, with the reasons as comments above them.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from grcn.config import OptimConfig, TrainConfig
from grcn.data.records import Dataset
from grcn.data.sizing import objects_at
from grcn.predict.checkpoint import read_file_header
from grcn.predict.header import Header
from grcn.predict.locate import locate
from grcn.predict.published import has_published
from grcn.presets import CPU_PRESET, GPU_PRESET, LITE0, detector_of
from grcn.runtime import multiplies_bf16

LITE0_LR = 0.002
"""AdamW's learning rate for EfficientNet-Lite0 from ImageNet, at 16 images."""

AVERAGED_SHARE = 0.05
"""The share of a run's steps that the moving average spans."""
AVERAGED_STEPS = (10, 5000)


def choose_preset(accelerator: str) -> str:
    """The detector to train if none is named: the largest that this machine trains in half an hour."""
    return GPU_PRESET if _on_gpu(accelerator) else CPU_PRESET


def choose(config: TrainConfig) -> TrainConfig:
    """Fills in everything that `config` leaves open, except for the average, which depends on the length of the run.

    - Preset: a pyramid, on ResNet-50 with a GPU and on EfficientNet-Lite0 without one. If `weights` names a detector of
      grcn, that detector is used, with its sizes.
    - Weights: COCO's if there are some for the detector, otherwise ImageNet's.
    - Fit: the detector is fitted to the data unless the configuration gives its `model`, even in part. A fitted
      detector also corrects each box once more (`roi.refine`), which improves AP where boxes must be tight.
    - Optimizer: AdamW for backbones of timm, SGD for the others; the learning rate follows a cosine.
    - Precision: bfloat16 if the processor or the GPU computes in it.
    """
    preset, trained = config.preset, None
    if preset == "auto":
        trained = read_trained(config.weights) if config.model is None else None
        preset = trained.preset if trained else choose_preset(config.accelerator)
        config = replace(config, model=trained.config if trained else config.model)
    fit = ("data" if config.model is None else "none") if config.fit == "auto" else config.fit
    is_open = config.model is None
    config = replace(config, preset=preset, fit=fit)
    model = detector_of(config)
    if is_open:
        model = replace(model, roi=replace(model.roi, refine=1))
    weights, precision = config.weights, config.precision
    if weights == "auto":
        weights = "coco" if has_published(model) else "imagenet"
    if precision == "auto":
        on_gpu = _on_gpu(config.accelerator)
        precision = "bf16" if (torch.cuda.is_bf16_supported(False) if on_gpu else multiplies_bf16()) else "fp32"
    return replace(
        config,
        model=model,
        weights=weights,
        precision=precision,
        optim=_choose_optimizer(config.optim, model.backbone),
        schedule=replace(config.schedule, kind="cosine") if config.schedule.kind == "auto" else config.schedule,
    )


def read_trained(weights: str) -> Header | None:
    """The header of the detector to fine-tune from; None if `weights` does not name a detector of grcn.

    Raises:
        CheckpointError: if there is no such file, or a broken one.
    """
    if weights in ("auto", "imagenet", "coco", "random"):
        return None
    located = locate(weights)
    return read_file_header(located.path) if located.kind == "weights" else None


def _choose_optimizer(optim: OptimConfig, backbone: str) -> OptimConfig:
    name, lr = optim.name, optim.lr
    if name == "auto":
        name = "adamw" if backbone.startswith("timm:") else "sgd"
        lr = LITE0_LR if lr is None and backbone == LITE0 else lr
    decay = {"sgd": 1e-4, "adamw": 0.05}[name] if optim.weight_decay is None else optim.weight_decay
    return replace(optim, name=name, lr=lr, weight_decay=decay)


def continued(config: TrainConfig, former: TrainConfig) -> TrainConfig:
    """`config` with everything that it leaves open taken from the run that it continues."""
    optim, schedule = config.optim, config.schedule
    if optim.name == "auto":
        lr = former.optim.lr if optim.lr is None else optim.lr
        optim = replace(optim, name=former.optim.name, lr=lr)
    if optim.weight_decay is None:
        optim = replace(optim, weight_decay=former.optim.weight_decay)
    if optim.ema is None:
        optim = replace(optim, ema=former.optim.ema)
    if schedule.kind == "auto":
        schedule = replace(schedule, kind=former.schedule.kind)
    open_words = {name: getattr(former, name) for name in ("preset", "weights", "fit", "precision")}
    named = {name: was for name, was in open_words.items() if getattr(config, name) == "auto"}
    return replace(config, optim=optim, schedule=schedule, **named)


def average_decay(iterations: int) -> float:
    """The decay of the moving average of the weights, for a run of some length.

    The average spans a twentieth of the run, so that it follows quickly in short runs and smooths long ones.

    >>> average_decay(400)
    0.95
    """
    fewest, most = AVERAGED_STEPS
    return 1 - 1 / min(max(AVERAGED_SHARE * iterations, fewest), most)


def explain(given: TrainConfig, chosen: TrainConfig, data: Dataset) -> list[str]:
    """At most three lines that say what was chosen and why; no lines if nothing was left open.

    Args:
        given: the configuration before `choose`.
        chosen: the configuration of the run, with its detector fitted to `data`.
    """
    model = detector_of(chosen)
    lines = []
    if given.preset == "auto":
        machine = "a GPU is here" if _on_gpu(given.accelerator) else "no GPU is here"
        lines.append(
            f"detector: {chosen.preset}, from {chosen.weights} weights; {machine}, and small objects need a pyramid"
        )
    if chosen.fit == "data":
        name, median = objects_at([data], model.input.short_side, model.input.long_side).smallest_class()
        anchors = ", ".join(f"{size:g}" for size in model.rpn.anchor_sizes)
        lines.append(
            f"sizes: short side {model.input.short_side} px, anchors of {anchors} px; the smallest class is '{name}', "
            f"its median object {median:.0f} px"
        )
    if given.optim.name == "auto" or given.optim.ema is None or given.precision == "auto":
        optim = chosen.optim
        device = "GPU" if _on_gpu(given.accelerator) else "processor"
        why = {"bf16": f"which this {device} multiplies fast", "fp32": f"since this {device} multiplies nothing faster"}
        reason = f", {why[chosen.precision]}" if given.precision == "auto" else ""
        lines.append(
            f"training: {optim.name}, {chosen.schedule.kind} schedule, weights averaged over "
            f"{min(round(1 / (1 - (optim.ema or 0))), chosen.iterations)} of {chosen.iterations} steps; "
            f"{chosen.precision}{reason}"
        )
    return lines


def _on_gpu(accelerator: str) -> bool:
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
