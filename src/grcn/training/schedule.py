"""The learning rate over a run: a pure function of the iteration, so that a resumed run needs no state for it."""

from __future__ import annotations

import math

from grcn.config import ScheduleConfig, TrainConfig

WARMUP_START = 1e-3
WARMUP_SHARE = 0.1
LR_BATCH = 16
"""The batch size that `OptimConfig.lr` refers to."""


USUAL_LR = {"sgd": 0.02, "adamw": 0.001}


def base_lr(config: TrainConfig) -> float:
    """The learning rate of a run before its schedule, scaled to its batch size."""
    lr = USUAL_LR[config.optim.name] if config.optim.lr is None else config.optim.lr
    return lr * config.batch_size * config.optim.accumulate / LR_BATCH


def lr_factor(iteration: int, total: int, config: ScheduleConfig) -> float:
    """The factor on the base learning rate at `iteration`, 0-based, of a run of `total` iterations.

    Warm-up is linear from a thousandth over `config.warmup` iterations, but at most over a tenth of the run, so that a
    short run also reaches its learning rate (Goyal et al. 2017, section 2.2). It multiplies the rest of the schedule.
    """
    warmup = min(config.warmup, int(total * WARMUP_SHARE))
    start = WARMUP_START + (1 - WARMUP_START) * iteration / warmup if iteration < warmup else 1.0
    if config.kind == "cosine":
        return start * 0.5 * (1 + math.cos(math.pi * min(iteration / total, 1.0)))
    if config.kind == "step":
        return start * config.gamma ** sum(iteration >= milestone * total for milestone in config.milestones)
    return start
