"""The training loop: from photos to saved weights, step by step.

Batch k of a run is a function of (seed, k), so a run can continue from its state and the number of its step. A save
includes everything up to its iteration: first come the figures of the step, then its validation, then the save.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from grcn.config import TrainConfig
from grcn.data.extra import load_extra
from grcn.data.loader import Loader, Stream, TrainingSet, training_loader
from grcn.data.records import Dataset
from grcn.training.checkpoint import KEY, STATE, save_state, save_weights
from grcn.training.logs import Figures
from grcn.training.optimizer import clip_gradients
from grcn.training.progress import ProgressBar, Skipped
from grcn.training.signals import Stop
from grcn.training.state import State
from grcn.training.step import StepLosses, autocast, seed_batch
from grcn.training.validate import Validation


@dataclass(frozen=True)
class Run:
    """The parts of a run. `config` is resolved: `iterations` has its length, and `model` its detector."""

    fabric: Fabric
    config: TrainConfig
    data: Dataset
    identity: dict[str, Any]  # saved with the state
    state: State
    validation: Validation
    figures: Figures
    progress: ProgressBar
    skipped: Skipped

    def load(self, saved: dict[str, Any]) -> None:
        """Continues from a state that `_save` has written."""
        self.state.load_state_dict(saved)
        self.figures.load_state_dict(saved["figures"])
        if saved["validation"]:
            self.validation.load_state_dict(saved["validation"])


def train_loop(run: Run, stop: Stop) -> None:
    """Makes the steps of a run, from its current state to its end, to an early stop, or to a signal.

    Raises:
        DivergedError: on all ranks if losses are not finite, before the update.
        ImageError: if an image cannot be decoded, naming it.
    """
    fabric, config, state = run.fabric, run.config, run.state
    accumulate = config.optim.accumulate
    model = fabric.setup_module(state.model)
    loader = _batches_from(run, state.iteration * accumulate)
    with closing(iter(loader)) as batches, run.progress:
        if run.validation.is_due(state.iteration):  # the run was stopped in the middle of a validation
            _between_steps(run, stop)
        while state.iteration < config.iterations and not (stop.agreed or run.validation.is_over):
            began, lr = time.perf_counter(), state.lr
            losses = StepLosses()
            for part in range(accumulate):
                batch = fabric.to_device(next(batches))
                run.skipped.note(message for origin in batch.origins for message in origin.broken)
                seeds = seed_batch(config.seed, state.iteration * accumulate + part, len(batch.images), fabric)
                with fabric.no_backward_sync(model, enabled=part + 1 < accumulate):  # ranks exchange gradients once
                    with autocast(fabric.device, config.precision):
                        loss = losses.add(model(batch.images, batch.targets, seeds), batch)
                    fabric.backward(state.scaler.scale(loss / accumulate))
            state.scaler.unscale_(state.optimizer)
            norm = clip_gradients(state.model, config.optim.clip_norm)
            step = losses.check(norm, fabric, stop, state.iteration, scaled=state.scaler.is_enabled())
            state.update()
            seconds = time.perf_counter() - began
            run.figures.add(step, iteration=state.iteration, lr=lr, seconds=seconds, waited=loader.take_waited())
            _between_steps(run, stop)
            run.progress.show(state.iteration, step, run.validation.report)


def _between_steps(run: Run, stop: Stop) -> None:
    """Validates if that is due, and saves: at intervals, at the end, and before the run stops."""
    config, state, validation = run.config, run.state, run.validation
    if validation.is_due(state.iteration) and not stop.agreed:
        validation(run.fabric, state, run.figures, stop)
    every = config.save_every or config.val_every or max(1, config.iterations // 10)
    regular = state.iteration % every == 0 or state.iteration == config.iterations
    if regular or stop.agreed or validation.is_over:
        _save(run)


def _save(run: Run) -> None:
    """Saves the state and the weights for prediction, while the other ranks wait."""
    out, state = Path(run.config.out), run.state
    if run.fabric.is_global_zero:
        parts = {"figures": run.figures.state_dict(), "validation": run.validation.state_dict()}
        save_state(out / STATE, {KEY: run.identity, **state.state_dict(), **parts})
        save_weights(out / "last.safetensors", state, run.data.class_names)
    run.fabric.barrier()


def _batches_from(run: Run, start: int) -> Loader:
    """The training batches of this rank, from number `start` of the run."""
    config, fabric = run.config, run.fabric
    stream = Stream(
        len(run.data),
        config.batch_size,
        config.iterations * config.optim.accumulate,
        config.seed,
        start=start,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )
    samples = TrainingSet(
        run.data,
        run.state.model.config.input,
        config.augment,
        seed=config.seed,
        samples=config.iterations * config.batch_size * config.optim.accumulate,
        extra=load_extra(config.augment.extra),
        use_difficult=config.use_difficult,
        skip_broken=config.skip_broken,
    )
    return training_loader(samples, stream, workers=config.workers, pin_memory=fabric.device.type == "cuda")
