"""The parts of one optimizer step: its seeds, its losses, and the check before its update.

All random generators are seeded at the start of a step: the sampling of anchors and proposals in an image by (seed,
batch, place of the image in the batch), on whatever rank it is; dropout by (seed, batch, rank). So a checkpoint needs
no state of generators, and a resumed run does the same as an uninterrupted one.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from grcn.data.loader import Batch
from grcn.errors import DivergedError
from grcn.training.signals import Stop

LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The type that autocast computes in, by `TrainConfig.precision`."""


def step_seed(seed: int, batch: int, place: int) -> int:
    """The seed of one image, or one rank, of one batch of a run."""
    return int(np.random.SeedSequence((seed, batch, place)).generate_state(1, np.uint64)[0])


def seed_batch(seed: int, batch: int, images: int, fabric: Fabric) -> list[int]:
    """Seeds this rank's generators for batch number `batch` of the run; returns the seeds of its `images` images."""
    rank, world = fabric.global_rank, fabric.world_size
    torch.manual_seed(step_seed(seed, batch, rank))
    # The loader gives rank r of W the places r, r + W, ... of the batch.
    return [step_seed(seed, batch, place) for place in range(rank, images * world, world)]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for the forward pass. Fabric's own would also round the boxes to learn from."""
    return torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF, cache_enabled=False)


def gather(fabric: Fabric, mine: Any) -> list[Any]:
    """The values of all ranks, in the order of ranks."""
    if fabric.world_size == 1:
        return [mine]
    everyone: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


@dataclass
class StepLosses:
    """The losses of the current step: [4] for each of its batches, in the order of LOSSES, and its image files."""

    losses: list[Tensor] = field(default_factory=list)
    files: list[list[str]] = field(default_factory=list)

    def add(self, losses: dict[str, Tensor], batch: Batch) -> Tensor:
        """Stores the losses of one batch, and returns their sum for the backward pass."""
        self.losses.append(torch.stack([losses[name].detach().float() for name in LOSSES]))
        self.files.append([origin.file for origin in batch.origins])
        return torch.stack([losses[name] for name in LOSSES]).sum()

    def check(self, norm: Tensor, fabric: Fabric, stop: Stop, iteration: int, *, scaled: bool) -> dict[str, float]:
        """Called between backward pass and update; returns the step's figures, means over its batches and all ranks.

        It also tells all ranks whether any of them was asked to stop. All this takes one small reduction and one wait
        for the device.

        Args:
            norm: norm of the gradients, 0-dim.
            iteration: number of steps before this one.
            scaled: whether a scaler skips updates with gradients that are not finite; then their norm is left out.

        Raises:
            DivergedError: on all ranks if anything else is not finite; it names the losses and their images.
        """
        means = torch.stack(self.losses).mean(dim=0)
        summed = torch.cat((means, means.new_tensor([float(stop.asked)])))
        if fabric.world_size > 1:
            torch.distributed.all_reduce(summed)
        *losses, anyone_asked, norm_value = torch.cat((summed, norm[None])).tolist()  # the step's one wait
        norm_counts = bool(np.isfinite(norm_value))
        if not np.isfinite(losses).all() or not (norm_counts or scaled):
            raise DivergedError(self._describe_divergence(norm_value, fabric, iteration))
        if anyone_asked:
            stop.agreed = stop.asked or signal.SIGTERM
        figures = {name: value / fabric.world_size for name, value in zip(LOSSES, losses, strict=True)}
        return figures | ({"grad_norm": norm_value} if norm_counts else {})

    def _describe_divergence(self, norm: float, fabric: Fabric, iteration: int) -> str:
        """The message of the error: which losses of which images, collected from all ranks."""
        mine = [
            (name, value, files)
            for losses, files in zip(self.losses, self.files, strict=True)
            for name, value in zip(LOSSES, losses.tolist(), strict=True)
            if not np.isfinite(value)
        ]
        found = [item for rank in gather(fabric, mine) for item in rank]
        what = sorted({f"{name} is {value}" for name, value, _ in found}) or [f"gradient's norm is {norm}"]
        files = sorted({file for _, _, files in found for file in files}) or sorted(
            file for files in self.files for file in files
        )
        return (
            f"iteration {iteration}: {', '.join(what)} on images {', '.join(files)}; nothing was updated and the "
            "last save is intact. Try a lower optim.lr, a longer schedule.warmup or a smaller optim.clip_norm"
        )
