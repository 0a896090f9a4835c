"""One training run: the steps before its loop (folder, data, weights, length) and after it."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.warnings import PossibleUserWarning

from grcn.config import TrainConfig, from_saved, to_dict
from grcn.data.extra import load_extra
from grcn.data.loader import open_files_error, worker_deaths
from grcn.data.records import Dataset
from grcn.errors import CheckpointError, ConfigError, Interrupted
from grcn.files import atomic_file
from grcn.locks import locked_folder
from grcn.model.detector import RCNN, outline
from grcn.predict.torch_backend import NO_MPS
from grcn.presets import detector_of
from grcn.training import recipe
from grcn.training.checkpoint import KEY, STATE, check_same, identity, load_state, saved_config, versions
from grcn.training.data import open_data
from grcn.training.length import find_length, from_epochs
from grcn.training.logs import Figures, check_loggers, make_loggers
from grcn.training.loop import Run, train_loop
from grcn.training.progress import ProgressBar, Say, Skipped, say_nothing, tell
from grcn.training.signals import Stop, stop_requests
from grcn.training.start import new_detector
from grcn.training.state import State
from grcn.training.validate import Validation

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def train(config: TrainConfig, *, progress: bool = True) -> Path:
    """Trains a detector and returns its run folder.

    The folder holds config.yaml (resolved), classes.txt, versions.json, metrics.csv, metrics.json (of the best and the
    last validation), best.safetensors (by AP on the validation split), last.safetensors and checkpoints/last.ckpt.
    `resume` continues from the latter; on a CPU, the result is bit for bit that of a run without interruption.

    torch's generators and the signal handlers of the calling program are restored at the end. `grcn train` also tunes
    malloc, which makes training on a CPU faster (`grcn.runtime.tune_cpu`); this function does not.

    Args:
        config: the configuration; `grcn.training.recipe` chooses what it leaves open. Without a length, a run has
            DEFAULT_EPOCHS. `minutes` count from this call to the end of the last validation: a few steps and validation
            batches are timed on a temporary copy of the model, and the number of iterations that fits becomes
            `iterations` in config.yaml.
        progress: show progress and warnings; the files are written either way.

    Raises:
        ConfigError: on a configuration that cannot be carried out.
        DataError: on a data set that cannot be trained on; ImageError on an image that cannot be decoded.
        CheckpointError: on weights or a state that do not fit, or a full disk; the last save is intact.
        DivergedError: on a loss that is not finite; the weights were not updated with it.
        Interrupted: after SIGTERM or Ctrl-C; the state is saved.
    """
    started = time.monotonic()
    given, config = config, _settle(config)
    with _quiet(), worker_deaths():
        fabric = _fabric(config)
        own_run = locked_folder(Path(config.out)) if fabric.is_global_zero else nullcontext()
        with own_run, torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
            return _train(given, config, fabric, started, progress)


def _train(given: TrainConfig, config: TrainConfig, fabric: Fabric, started: float, progress: bool) -> Path:
    """`train` with a resolved configuration; `given` is the configuration before."""
    out, lead = Path(config.out), fabric.is_global_zero
    say: Say = tell if progress and lead else say_nothing
    if lead and not config.resume and (out / "config.yaml").exists():
        raise ConfigError(
            f"{out}: holds a run already; continue it with --resume true, or choose another folder with --out"
        )
    check_loggers(config.loggers)
    data, val_data = open_data(config, say)
    config = replace(config, train_split=data.split, val_split=val_data.split if val_data else "none")
    if config.fit == "data":
        from grcn.data.sizing import fit_config

        config = replace(config, model=fit_config(data, detector_of(config)))
    torch.manual_seed(config.seed)
    resumed = config.resume and (out / STATE).exists()
    config, model, start = (_resume if resumed else _begin)(config, data, say)
    if start >= config.iterations > 0 and _is_validated(out, val_data):
        return out
    config = replace(config, model=model.config)
    if lead:
        with _named_faults(config):
            iterations = config.iterations or find_length(config, model, data, val_data, fabric.device, started, say)
        config = _of_length(config, iterations)
        chosen = [] if resumed else recipe.explain(given, config, data)
        for line in chosen:
            say(line)
        _write_folder(out, config, data, chosen)
    loggers = make_loggers(config, out, start) if lead else []
    with _other_ranks_end_too(fabric), _named_faults(config):
        fabric.launch()
        config = _of_length(config, fabric.broadcast(config.iterations))  # only the first rank has found it
        skipped = Skipped(tell if progress else say_nothing)
        run = Run(
            fabric,
            config,
            data,
            identity(config, data),
            State(model, config, fabric.device),
            Validation(val_data, config, say, skipped),
            Figures(loggers, config, len(data)),
            ProgressBar(config.iterations, start, shown=progress and lead),
            skipped,
        )
        if resumed:
            run.load(load_state(out / STATE))
        _carry_out(run)
    if lead and run.validation.report:
        best = run.validation.report["best"]
        figure = "no AP; best.safetensors is" if best["AP"] is None else f"best AP {best['AP']:.3f}"
        say(f"{out}: {figure} at iteration {best['iteration']} of {run.state.iteration}")
    return out


def _carry_out(run: Run) -> None:
    """Runs the loop until it ends or is stopped; if it is stopped, raises Interrupted on the first rank."""
    out, fabric, stop, ended = run.config.out, run.fabric, Stop(), False
    try:
        with stop_requests(stop):
            train_loop(run, stop)
        ended = not stop.agreed
    except KeyboardInterrupt:
        if not stop.asked:
            raise
        raise Interrupted(f"{out}: stopped at once; {_how_to_resume(out)} from the last save", stop.asked) from None
    finally:
        run.figures.close(failed=not ended)
        fabric.strategy.teardown()
    if stop.agreed and fabric.is_global_zero:
        raise Interrupted(
            f"{out}: stopped at iteration {run.state.iteration}, saved; {_how_to_resume(out)}", stop.agreed
        )


def _settle(config: TrainConfig) -> TrainConfig:
    """`config` with the names of its folder and detector, after the checks that need no data."""
    world = config.devices * config.nodes
    if config.batch_size % world:
        raise ConfigError(f"batch_size {config.batch_size} over {world} devices: needs a multiple of {world}")
    load_extra(config.augment.extra)  # raises its error here rather than in a worker
    if "TORCHELASTIC_RUN_ID" in os.environ and (started := os.environ.get("WORLD_SIZE")) != str(world):
        # Each process would take itself for the whole run, and all would write to one folder.
        raise ConfigError(
            f"torchrun started {started} processes for {config.devices} devices on {config.nodes} nodes: give devices "
            "(per node) and nodes as torchrun has them"
        )
    if not config.out:
        config = replace(config, out=f"runs/{recipe.choose(config).preset}-{Path(config.data).resolve().name}")
    file = Path(config.out, "config.yaml")
    if config.resume and file.is_file():
        config = recipe.continued(config, _read_config(file))
    return recipe.choose(config)


def _resume(config: TrainConfig, data: Dataset, say: Say) -> tuple[TrainConfig, RCNN, int]:
    """The resolved configuration of the run in its folder, its detector without weights, and the steps it has made."""
    path = Path(config.out) / STATE
    state = load_state(path, mapped=True)
    config = _as_saved(config, saved_config(path, state[KEY]), data)
    check_same(path, state[KEY], identity(config, data))
    start = int(state["global_step"])
    say(f"{config.out}: continuing at iteration {start} of {config.iterations}")
    return config, outline(detector_of(config), len(data.class_names)), start


def _begin(config: TrainConfig, data: Dataset, say: Say) -> tuple[TrainConfig, RCNN, int]:
    """The same for a run without a saved state; its detector has the weights to start from."""
    if config.resume:
        say(f"{config.out}: no saved state; starting from the beginning")
        config = _planned_before(config, Path(config.out))
    return config, new_detector(config, data, say), 0


def _is_validated(out: Path, val_data: Dataset | None) -> bool:
    """Whether a run that has made all its steps has also finished its last validation."""
    state = load_state(out / STATE, mapped=True)
    return val_data is None or (state["validation"] or {}).get("last_iteration") == state["global_step"]


def _of_length(config: TrainConfig, iterations: int) -> TrainConfig:
    ema = recipe.average_decay(iterations) if config.optim.ema is None else config.optim.ema
    return replace(config, iterations=iterations, epochs=0.0, minutes=0.0, optim=replace(config.optim, ema=ema))


def _as_saved(config: TrainConfig, former: TrainConfig, data: Dataset) -> TrainConfig:
    """`config` with the length, norm and frozen stages that it leaves open taken from the run that it continues."""
    model, before = detector_of(config), detector_of(former)
    norm = before.norm if model.norm == "auto" else model.norm
    frozen = before.frozen_stages if model.frozen_stages is None else model.frozen_stages
    iterations = config.iterations
    if config.epochs:
        iterations = from_epochs(config.epochs, len(data), config.batch_size * config.optim.accumulate)
    return replace(
        config,
        model=replace(model, norm=norm, frozen_stages=frozen),
        iterations=iterations or former.iterations,
        epochs=0.0,
        minutes=0.0,
    )


def _planned_before(config: TrainConfig, out: Path) -> TrainConfig:
    """`config` with the length that a run which was killed before its first save had found for its minutes."""
    if config.minutes and (out / "config.yaml").is_file():
        return replace(config, iterations=_read_config(out / "config.yaml").iterations, minutes=0.0)
    return config


def _read_config(file: Path) -> TrainConfig:
    return from_saved(TrainConfig, yaml.safe_load(file.read_text(encoding="utf-8")), file)


def _fabric(config: TrainConfig) -> Fabric:
    """The devices of a run; ranks other than the first are not started yet.

    Raises:
        ConfigError: on devices that do not exist.
    """
    if config.accelerator == "mps":
        raise ConfigError(f"accelerator {NO_MPS}")
    accelerator = config.accelerator
    if accelerator in ("auto", "gpu") and not torch.cuda.is_available() and torch.backends.mps.is_available():
        accelerator = "cpu" if accelerator == "auto" else "cuda"  # Fabric would take Apple's
    strategy = "ddp" if config.devices * config.nodes > 1 else "auto"
    try:
        return Fabric(accelerator=accelerator, devices=config.devices, num_nodes=config.nodes, strategy=strategy)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"accelerator {config.accelerator}, {config.devices} devices: {' '.join(str(error).split())}"
        ) from None


@contextmanager
def _other_ranks_end_too(fabric: Fabric) -> Iterator[None]:
    """Ends the ranks that this process has started if it fails, since they would wait for it."""
    try:
        yield
    except BaseException:
        for process in getattr(fabric.strategy.launcher, "procs", ()):
            process.kill()
        raise


@contextmanager
def _named_faults(config: TrainConfig) -> Iterator[None]:
    """Converts errors of the system to errors that say what they mean for the run.

    Raises:
        CheckpointError: on a disk that is full or fails; DataError on too many open files; ConfigError if the memory of
            a GPU is too small.
    """
    out = Path(config.out)
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(_less_memory(config, error)) from None
    except OSError as error:
        if limit := open_files_error(error):
            raise limit from None
        if error.errno not in _DISK_ERRORS:
            raise
        raise CheckpointError(
            f"{out}: cannot be written: {error.strerror}; {_how_to_resume(out)} from the last save"
        ) from None


def _less_memory(config: TrainConfig, error: torch.OutOfMemoryError) -> str:
    """What to change if the memory of a GPU is too small: half the batch, accumulated to the same steps."""
    said = f"{config.out}: out of memory at batch_size {config.batch_size} ({str(error).splitlines()[0]})"
    half, world = config.batch_size // 2, config.devices * config.nodes
    if half >= world and half % world == 0 and config.batch_size % 2 == 0:
        return f"{said}: batch_size {half} with optim.accumulate {2 * config.optim.accumulate} makes the same steps"
    return f"{said}: checkpoint_activations true, a smaller model.input or a smaller preset needs less"


def _write_folder(out: Path, config: TrainConfig, data: Dataset, chosen: list[str]) -> None:
    """Writes the first files of a run folder, with the choices of the recipe as comments in the configuration."""
    if not chosen and (out / "config.yaml").is_file():  # it is continued
        lines = (out / "config.yaml").read_text(encoding="utf-8").splitlines()
        chosen = [line[2:] for line in lines if line.startswith("# ")]
    contents = {
        "config.yaml": "".join(f"# {line}\n" for line in chosen)
        + yaml.safe_dump(to_dict(replace(config, resume=False)), sort_keys=False, allow_unicode=True),
        "classes.txt": "".join(f"{name}\n" for name in data.class_names),
        "versions.json": json.dumps(versions(), indent=2) + "\n",
    }
    for name, text in contents.items():
        with atomic_file(out / name) as file:
            file.write(text.encode())


def _how_to_resume(out: str | Path) -> str:
    return f"`grcn train --config {out}/config.yaml --resume true` continues"


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses lightning's notices: tips, and advice on things that are decided here on purpose."""
    log = logging.getLogger("lightning_fabric")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
            yield
    finally:
        log.setLevel(level)
