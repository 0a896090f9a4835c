"""What one optimizer step does: the LightningModule around the detector.

Everything random in a step is seeded when it starts: the sampling of anchors and proposals in an image by (seed, batch,
place of the image in it), whatever the rank that has it; dropout by (seed, batch, rank). So a checkpoint needs no
generator's state, and a resumed run repeats what an uninterrupted one does.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grcn.config import OptimConfig, TrainConfig
from grcn.data.loader import Batch
from grcn.errors import DivergedError
from grcn.model.detector import RCNN
from grcn.training.schedule import lr_factor

LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
LR_BATCH = 16
"""Images per step that `OptimConfig.lr` is given for."""


class EMA(nn.Module):
    """The exponential moving average of a model's weights and of its norm layers' statistics.

    Args:
        decay: of the average; less in the first steps, (1 + t) / (10 + t) after t of them, so that it does not
            drag the initial weights along.
    """

    def __init__(self, model: RCNN, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.model = deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: RCNN, steps: int) -> None:
        """Moves the average towards `model`, after its optimizer step number `steps`, from 1."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        mine: list[Tensor] = list(self.model.parameters())
        theirs: list[Tensor] = list(model.parameters())
        for own, latest in zip(self.model.buffers(), model.buffers(), strict=True):
            # Averaged weights make other activations than the latest ones, so the latest statistics would not fit them.
            if own.is_floating_point():
                mine.append(own)
                theirs.append(latest)
            else:
                own.copy_(latest)
        torch._foreach_lerp_(mine, theirs, 1 - decay)  # in a few launches

    def train(self, mode: bool = True) -> EMA:
        """Stays in evaluation mode."""
        return super().train(False)


@dataclass
class Step:
    """The optimizer step under way, or just made.

    losses: [batches][4] by the order of LOSSES; files: of the images of each batch; values: what was reduced over
    batches and ranks: the mean losses, then the gradient's norm; complete: whether the update was made.
    """

    losses: list[Tensor] = field(default_factory=list)
    files: list[list[str]] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    complete: bool = False


class Training(pl.LightningModule):
    """The detector in training.

    Args:
        model: the detector.
        config: of the run; `iterations` is its length.

    Attributes:
        step: the step under way, or just made; callbacks read its values.
        stop_signal: the number of a signal that asks this rank to stop; 0: none.
        stopping: that of any rank; set at the end of a step, on all ranks alike.
    """

    def __init__(self, model: RCNN, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.ema = EMA(model, config.optim.ema) if config.optim.ema else None
        model.checkpoint_activations(config.checkpoint_activations)
        self.config = config
        self.iterations = config.iterations
        self.base_lr = config.optim.base_lr * config.batch_size * config.optim.accumulate / LR_BATCH
        self.step = Step()
        self.stop_signal = 0
        self.stopping = 0

    @property
    def best_model(self) -> RCNN:
        """The weights to evaluate and keep: the average where there is one."""
        return self.model if self.ema is None else self.ema.model

    @property
    def iteration(self) -> int:
        """Optimizer steps made since the beginning of the run."""
        return int(self.trainer.global_step)

    def setup(self, stage: str) -> None:
        # Only rank 0 measures how many iterations fit into the minutes given.
        self.iterations = int(self.trainer.strategy.broadcast(self.iterations))

    def configure_optimizers(self) -> Optimizer:
        return make_optimizer(self.model, self.config.optim, self.base_lr)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(step_seed(self.config.seed, batch_idx, self.global_rank))
        if self.step.complete or not self.step.losses:
            self.step = Step()
            self.lr = self.base_lr * lr_factor(self.iteration, self.iterations, self.config.schedule)
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = self.lr

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # The loader gives rank r of W the places r, r + W, ... of the batch.
        places = range(self.global_rank, len(batch.images) * self.trainer.world_size, self.trainer.world_size)
        seeds = [step_seed(self.config.seed, batch_idx, place) for place in places]
        losses = self.model(batch.images, batch.targets, seeds)
        self.step.losses.append(torch.stack([losses[name].detach().float() for name in LOSSES]))
        self.step.files.append([origin.file for origin in batch.origins])
        return torch.stack([losses[name] for name in LOSSES]).sum()

    def configure_gradient_clipping(self, optimizer: Optimizer, *limits: Any, **more: Any) -> None:
        """Between the gradients and the update: clips, and stops the run if anything is not finite.

        Raises:
            DivergedError: on all ranks, naming the loss and the images of those where it happened.
        """
        norm = clip_gradients(self.model, self.config.optim.clip_norm)
        means = torch.stack(self.step.losses).mean(dim=0)
        asked = means.new_tensor([float(self.stop_signal)])
        summed = torch.cat((means, asked))
        world = self.trainer.world_size
        if world > 1:
            torch.distributed.all_reduce(summed)
        *losses, anyone_asked, norm_value = torch.cat(
            (summed, norm[None])
        ).tolist()  # the step's one wait for the device
        self.step.values = {name: value / world for name, value in zip(LOSSES, losses, strict=True)}
        self.step.values["grad_norm"] = norm_value
        if not np.isfinite([*losses, norm_value]).all():
            raise DivergedError(self._describe_divergence())
        if anyone_asked:
            self.stopping = self.stop_signal or signal.SIGTERM

    def _describe_divergence(self) -> str:
        """The error's line: which losses of which images, collected from all ranks."""
        mine = [
            (name, value, files)
            for losses, files in zip(self.step.losses, self.step.files, strict=True)
            for name, value in zip(LOSSES, losses.tolist(), strict=True)
            if not np.isfinite(value)
        ]
        everyone: list[Any] = [mine]
        if self.trainer.world_size > 1:
            everyone = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(everyone, mine)
        found = [item for rank in everyone for item in rank]
        what = sorted({f"{name} is {value}" for name, value, _ in found}) or [
            f"gradient's norm is {self.step.values['grad_norm']}"
        ]
        files = sorted({file for _, _, files in found for file in files}) or sorted(
            file for files in self.step.files for file in files
        )
        return (
            f"iteration {self.iteration}: {', '.join(what)} on images {', '.join(files)}; nothing was updated and the "
            "last save is intact. Try a lower optim.lr, a longer schedule.warmup or a smaller optim.clip_norm"
        )

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, closure: Callable[[], Any] | None = None
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        self.step.complete = True
        if self.ema is not None:
            self.ema.update(self.model, self.iteration + 1)  # lightning counts this step when the hook returns


def step_seed(seed: int, batch: int, place: int) -> int:
    """The seed of one image, or one rank, of one batch of a run."""
    return int(np.random.SeedSequence((seed, batch, place)).generate_state(1, np.uint64)[0])


def make_optimizer(model: nn.Module, config: OptimConfig, lr: float) -> Optimizer:
    """SGD with momentum, or AdamW, without weight decay on biases and norm layers (tensors of one dimension)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, fused=True)


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scales all gradients so that their common norm is at most `limit` (0: leaves them); the norm before, 0-dim."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm.detach().float()
