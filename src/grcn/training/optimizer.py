"""The optimizer, the clipping of its gradients, and the moving average of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from grcn.config import OptimConfig
from grcn.model.detector import RCNN

Tensors = tuple[Tensor, ...] | list[Tensor]


def make_optimizer(model: nn.Module, config: OptimConfig, lr: float) -> Optimizer:
    """SGD with momentum, or AdamW, without weight decay on biases and norm layers (tensors of one dimension).

    Args:
        config: the configuration after the recipe.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, fused=True)


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scales all gradients to a total norm of at most `limit` (0: no scaling); returns the norm before, 0-dim."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm.detach().float()


def make_average(model: RCNN, decay: float) -> AveragedModel:
    """The exponential moving average of a model's weights and of the statistics of its norm layers, in evaluation mode.

    Statistics are averaged too, since averaged weights give other activations, which the latest statistics do not fit.

    Args:
        decay: decay of the average. It is smaller in the first steps, (1 + t) / (10 + t) after t steps, so that the
            initial weights do not dominate.
    """

    @torch.no_grad()
    def follow(averaged: Tensors, latest: Tensors, _: Tensor | int) -> None:
        """Moves tensors of one type, in a few launches."""
        steps = int(average.n_averaged)  # on the CPU, unlike the argument, so this does not wait for the device
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, latest, 1 - min(decay, (1 + steps) / (10 + steps)))
        else:
            torch._foreach_copy_(averaged, latest)

    average = AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
    average.n_averaged.fill_(1)  # the initial weights; with 0, torch would replace them by those of the first step
    return average.requires_grad_(False).eval()
