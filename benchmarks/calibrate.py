"""Random weights that behave like trained ones, for tests and benchmarks: answers that spread, so detections are many.

With weights as they are initialised every score is alike, nothing passes a threshold, and NMS has nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grcn.model.detector import RCNN

STDS = (1.5, 0.1, 1.5, 0.5)
"""Of objectness, RPN deltas, class scores and box deltas."""


@torch.no_grad()
def spread(layers: Sequence[nn.Module], stds: Sequence[float], run: Callable[[], Any]) -> None:
    """Centres each layer's output channels on what `run` sends through it and scales them to `std`, in one pass.

    A layer that `run` uses several times is changed the first time.
    """

    def hook(std: float) -> Callable[[Any, Any, Tensor], Tensor]:
        seen: list[bool] = []

        def scale(layer: Any, _: Any, output: Tensor) -> Tensor | None:
            if seen:
                return None
            seen.append(True)
            shape = [-1 if d == 1 else 1 for d in range(output.ndim)]
            mean = output.mean(dim=[d for d in range(output.ndim) if d != 1])
            factor = std / (output - mean.reshape(shape)).std()
            layer.bias.copy_((layer.bias - mean) * factor)
            layer.weight.mul_(factor)
            return (output - mean.reshape(shape)) * factor

        return scale

    handles = [layer.register_forward_hook(hook(std)) for layer, std in zip(layers, stds, strict=True)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()


def enliven(model: RCNN, images: list[Tensor], targets: list[dict[str, Tensor]], stds: Sequence[float] = STDS) -> RCNN:
    """Batch-norm statistics of `images`, which later training steps leave as they are, and answers that spread on them.

    Returns:
        `model`, in evaluation mode.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches: there is one
    with torch.no_grad():
        model.train()(images, targets)
    for norm in norms:
        norm.momentum = 0.0
    model.eval()
    spread(answer_layers(model), stds, lambda: model(images))
    return model


def tame(model: RCNN) -> None:
    """Makes residual branches weigh little beside what they are added to, as after training: at full weight a hundred
    random layers make of float32's rounding a tenth of a pixel, and of equal computations different answers."""
    for block in model.modules():
        if hasattr(block, "bn2"):  # of ResNets and EfficientNets
            nn.init.constant_(getattr(block, "bn3", block.bn2).weight, 0.3)


def answer_layers(model: RCNN) -> list[nn.Module]:
    """The four that `STDS` is for."""
    return [model.rpn.objectness, model.rpn.deltas, model.roi.scores, model.roi.deltas]
