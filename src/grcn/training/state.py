"""Everything that changes during a run. A checkpoint holds it, and a resumed run needs nothing else."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from grcn.config import TrainConfig
from grcn.model.detector import RCNN
from grcn.training.optimizer import make_average, make_optimizer
from grcn.training.schedule import base_lr, lr_factor


class State:
    """The detector in training, on its device, with everything that its next step depends on.

    Args:
        model: the detector, to which `config.checkpoint_activations` is applied.
        config: the configuration of the run; `iterations` is its length.

    Attributes:
        iteration: number of optimizer steps since the beginning of the run.
        average: the moving average of the weights; None if `config.optim.ema` is 0.
        scaler: scaler of the losses in fp16. It skips updates with gradients that overflow, and does nothing in other
            precisions.
    """

    def __init__(self, model: RCNN, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        self.iteration = 0
        self.model = model.to(device).train()
        self.average = make_average(model, config.optim.ema) if config.optim.ema else None
        self.optimizer = make_optimizer(model, config.optim, base_lr(config))
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        model.checkpoint_activations(config.checkpoint_activations)

    @property
    def best_model(self) -> RCNN:
        """The model to evaluate and save: the average if there is one."""
        return self.model if self.average is None else cast(RCNN, self.average.module)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        config = self.config
        return base_lr(config) * lr_factor(self.iteration, config.iterations, config.schedule)

    def update(self) -> None:
        """Makes a step with the gradients, and clears them."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.iteration += 1
        if self.average is not None:
            self.average.update_parameters(self.model)

    @property
    def _weights(self) -> nn.Module:
        return nn.ModuleDict({"model": self.model} | ({"ema": self.average} if self.average is not None else {}))

    def state_dict(self) -> dict[str, Any]:
        return {
            "global_step": self.iteration,
            "state_dict": self._weights.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration = state["global_step"]
        self._weights.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
