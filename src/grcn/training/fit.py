"""One training run, from its configuration to its folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import safetensors
import torch
import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.utilities import rank_zero_only

from grcn.config import DetectorConfig, TrainConfig, from_saved, to_dict
from grcn.data.dataset import DataFolder, Dataset, OnError
from grcn.data.files import split_kind
from grcn.data.loader import Loader, Stream, TrainingSet, objects, training_loader, worker_deaths
from grcn.errors import CheckpointError, ConfigError, DataError, ImageError, Interrupted
from grcn.files import atomic_file
from grcn.locks import locked_run
from grcn.model.backbones import make_backbone
from grcn.model.detector import RCNN, build_detector, outline, resolve
from grcn.predict.checkpoint import find_weights, load_detector
from grcn.predict.hub import local
from grcn.predict.published import load_published, read_torchvision
from grcn.presets import detector_of
from grcn.runtime import tune_cpu
from grcn.training.callbacks import Journal, ProgressBar, Saving, Signals, Skipped, Validation, has_ap, versions
from grcn.training.checkpoint import KEY, AtomicCheckpointIO, check_same, identity, load_state, saved_config
from grcn.training.finetune import transfer_weights
from grcn.training.length import DEFAULT_EPOCHS, FEW_IMAGES, from_epochs, measure
from grcn.training.logs import make_loggers, write_ids
from grcn.training.module import Training

Say = Callable[[str], None]

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def train(config: TrainConfig, *, progress: bool = True) -> Path:
    """Trains a detector and returns its run folder.

    The folder holds config.yaml (resolved), classes.txt, versions.json, metrics.csv, metrics.json (of the best and the
    last validation), best.safetensors (by AP on the validation split), last.safetensors and
    checkpoints/last.ckpt, from which `resume` continues: on a CPU, bit for bit as if it had never stopped.

    Args:
        config: of the run. Without a length it takes DEFAULT_EPOCHS. `minutes` count from this call to the end of the
            last validation: a few steps and validation batches are timed on a throw-away copy of the model, and what
            fits becomes `iterations` in config.yaml.
        progress: show progress and warnings; the files are written either way.

    Raises:
        ConfigError: on what cannot be carried out.
        DataError: on a data set that cannot be trained on; ImageError on an image that cannot be decoded.
        CheckpointError: on weights or a state that do not fit, or a disk that is full; the last save is intact.
        DivergedError: on a loss that is not finite; nothing was updated.
        Interrupted: after SIGTERM or Ctrl-C, the state having been saved.
    """
    started = time.monotonic()
    tune_cpu()
    lead = _is_lead()
    say: Say = _print if progress and lead else _say_nothing
    config = _settle(config)
    with locked_run(Path(config.out)) if lead else nullcontext(), _quiet(), worker_deaths():
        return _train(config, started, lead, progress, say)


def _train(config: TrainConfig, started: float, lead: bool, progress: bool, say: Say) -> Path:
    out = Path(config.out)
    if lead and not config.resume and (out / "config.yaml").exists():
        raise ConfigError(f"{out}: holds a run already; continue it with resume, or choose another folder with out")
    data, val_data = _open(config, say)
    config = replace(config, train_split=data.split, val_split=val_data.split if val_data else "none")
    if config.fit == "data":
        from grcn.data.check import fit

        config = replace(config, model=fit(data, detector_of(config)))

    torch.manual_seed(config.seed)
    checkpoint = out / "checkpoints" / "last.ckpt"
    start = 0
    if config.resume and checkpoint.exists():
        state = load_state(checkpoint, mapped=True)
        config = _as_saved(config, saved_config(checkpoint, state[KEY]), data)
        check_same(checkpoint, state[KEY], identity(config, data))
        start = int(state["global_step"])
        model = outline(detector_of(config), len(data.class_names))  # its weights come with the state
        say(f"{out}: continuing at iteration {start} of {config.iterations}")
        if start >= config.iterations:
            return out
    else:
        if config.resume:
            say(f"{out}: no saved state; starting from the beginning")
            config = _planned_before(config, out)
        model = _start(config, data, say)
    config = replace(config, model=model.config)

    skipped = Skipped(_print if progress else _say_nothing)
    validation = Validation(val_data, config, say, skipped) if val_data is not None else None
    saving = Saving(config, data.class_names)
    callbacks: list[pl.Callback] = [Signals(), Journal(config.batch_size * config.optim.accumulate, len(data), skipped)]
    callbacks += [validation] if validation is not None else []
    callbacks += [saving]
    callbacks += [ProgressBar(validation)] if progress and lead else []
    trainer = _trainer(config, start, callbacks)
    if lead:
        if not config.iterations:
            device = trainer.strategy.root_device
            iterations = _length(config, model, data, val_data, device, started, say)
            config = replace(config, iterations=iterations, epochs=0.0, minutes=0.0)
        saving.identity = identity(config, data)
        _write_folder(out, config, data)
        write_ids(config.loggers, trainer.loggers, out)
    module = Training(model, config)
    try:
        trainer.fit(
            module,
            datamodule=TrainingData(data, config),
            ckpt_path=str(checkpoint) if start else None,
            weights_only=True,
        )
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise CheckpointError(
            f"{out}: cannot be written: {error.strerror}; {_how_to_resume(out)} from the last save"
        ) from None
    except SystemExit:
        if not module.stop_signal:
            raise
        raise Interrupted(
            f"{out}: stopped at once; {_how_to_resume(out)} from the last save", module.stop_signal
        ) from None
    if module.stopping and lead:
        raise Interrupted(
            f"{out}: stopped at iteration {module.iteration}, saved; {_how_to_resume(out)}", module.stopping
        )
    if validation is not None and validation.report:
        best = validation.report["best"]
        figure = "no AP; best.safetensors is" if best["AP"] is None else f"best AP {best['AP']:.3f}"
        say(f"{out}: {figure} at iteration {best['iteration']} of {module.iteration}")
    return out


class TrainingData(pl.LightningDataModule):
    """The training batches of this rank, from the iteration at which the trainer stands."""

    def __init__(self, data: Dataset, config: TrainConfig) -> None:
        super().__init__()
        self.data, self.config = data, config

    def train_dataloader(self) -> Loader:
        config, trainer = self.config, cast(pl.Trainer, self.trainer)
        module = cast(Training, trainer.lightning_module)
        accumulate = config.optim.accumulate
        stream = Stream(
            len(self.data),
            config.batch_size,
            module.iterations * accumulate,
            config.seed,
            start=trainer.global_step * accumulate,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        samples = TrainingSet(
            self.data,
            module.model.config.input,
            config.augment,
            seed=config.seed,
            use_difficult=config.use_difficult,
            skip_broken=config.skip_broken,
        )
        pin_memory = trainer.strategy.root_device.type == "cuda"
        return training_loader(samples, stream, workers=config.workers, pin_memory=pin_memory)


def _settle(config: TrainConfig) -> TrainConfig:
    """`config` with its folder and detector named, after what can be checked without data."""
    world = config.devices * config.nodes
    if config.batch_size % world:
        raise ConfigError(f"batch_size {config.batch_size} over {world} devices: needs a multiple of {world}")
    if "TORCHELASTIC_RUN_ID" in os.environ and (started := os.environ.get("WORLD_SIZE")) != str(world):
        # Each would take itself for the whole run, and all would write into one folder.
        raise ConfigError(
            f"torchrun started {started} processes for {config.devices} devices on {config.nodes} nodes: give devices "
            "(per node) and nodes as torchrun has them"
        )
    return replace(
        config,
        out=config.out or f"runs/{config.preset}-{Path(config.data).resolve().name}",
        model=detector_of(config),
    )


def _open(config: TrainConfig, say: Say) -> tuple[Dataset, Dataset | None]:
    """Training and validation data; None where there is no split to validate on."""
    folder = DataFolder(config.data, config.format)
    split = folder.resolve(config.train_split, "train")
    on_error: OnError = "collect" if config.skip_broken else "raise"
    data = folder.open(split, on_error=on_error)
    if not any(len(labels) for _, labels in (objects(r, use_difficult=config.use_difficult) for r in data.records)):
        raise DataError(f"{config.data}: split '{split}' holds no objects to learn from{_left_out(data, config)}")
    _say_defects(data, say)
    if config.val_split == "none":
        return data, None
    if config.val_split == "auto" and len(folder.splits) == 1:
        say(f"{config.data}: no split to validate on: no AP, and no best.safetensors")
        return data, None
    try:
        val_split = folder.resolve(config.val_split, "val")
    except DataError as error:
        raise DataError(f"{error}; or val_split none to train without validation") from None
    if val_split == split:
        say(f"warning: validating on '{split}', the training split: its AP says nothing about other images")
    elif config.val_split == "auto" and split_kind(val_split) == "test":
        say(f"warning: validating on '{val_split}': weights chosen by its AP look better on it than they are")
    val_data = folder.open(val_split, class_names=data.class_names, on_error=on_error)
    _say_defects(val_data, say)
    if not has_ap(val_data):
        say(f"warning: split '{val_split}' holds no objects: no AP, no early stop, and the last weights are the best")
    return data, val_data


def _left_out(data: Dataset, config: TrainConfig) -> str:
    """Of a data set that has objects none of which is trained on: why."""
    crowd = sum(int(r.target.crowd.sum()) for r in data.records)
    difficult = sum(len(r.target) for r in data.records) - crowd
    parts = [f"{crowd} crowd"] if crowd else []
    parts += [f"{difficult} difficult, and use_difficult is {str(config.use_difficult).lower()}"] if difficult else []
    return f": only {' and '.join(parts)}" if parts else ""


def _say_defects(data: Dataset, say: Say) -> None:
    for defect in data.defects:
        if defect.exit_code == ImageError.exit_code:
            say(f"{data.root}: {defect.file}: {defect.message}")
    if count := sum(defect.exit_code != 0 for defect in data.defects):
        say(f"{data.root}: split '{data.split}' has defects ({count}); `grcn check` lists them")


def _as_saved(config: TrainConfig, former: TrainConfig, data: Dataset) -> TrainConfig:
    """`config` with what it leaves open taken from the run it continues: length, norm, frozen stages."""
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
        file = out / "config.yaml"
        former = from_saved(TrainConfig, yaml.safe_load(file.read_text(encoding="utf-8")), file)
        return replace(config, iterations=former.iterations, minutes=0.0)
    return config


def _start(config: TrainConfig, data: Dataset, say: Say) -> RCNN:
    """A new detector with the weights that `config` names."""
    classes = len(data.class_names)
    if config.weights in ("imagenet", "random"):
        return build_detector(detector_of(config), classes, None if config.weights == "random" else "imagenet")
    if config.weights == "coco":
        source, loaded = Path("coco"), load_published(detector_of(config))
    else:
        source = find_weights(local(config.weights))
        is_ours = source.suffix == ".safetensors" and _is_detector(source)
        found = load_detector(source) if is_ours else read_torchvision(source)
        if found is None:
            return build_detector(detector_of(config), classes, source)
        loaded = found
    model = outline(_like(detector_of(config), loaded.model.config), classes)
    say(f"{source}: {transfer_weights(model, data.class_names, loaded)}")
    return model


def _is_detector(path: Path) -> bool:
    """Whether a safetensors file is one of grcn's; a file that cannot be read is left to its reader's error."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return "grcn" in (file.metadata() or {})
    except Exception:  # safetensors raises its own kind, OSError and more
        return True


def _like(config: DetectorConfig, former: DetectorConfig) -> DetectorConfig:
    """`config` with norm and frozen stages settled as in the detector it is to start from."""
    if former.backbone != config.backbone:
        return resolve(config, make_backbone(config.backbone, config.norm), pretrained=False)
    frozen = former.frozen_stages if config.frozen_stages is None else config.frozen_stages
    norm = former.norm if config.norm == "auto" else config.norm
    eps = former.norm_eps if config.norm_eps is None else config.norm_eps
    return replace(config, norm=norm, norm_eps=eps, frozen_stages=frozen)


def _length(
    config: TrainConfig,
    model: RCNN,
    data: Dataset,
    val_data: Dataset | None,
    device: torch.device,
    started: float,
    say: Say,
) -> int:
    """The run's iterations, from its epochs or minutes."""
    images_per_step = config.batch_size * config.optim.accumulate
    if not config.minutes:
        epochs = config.epochs or DEFAULT_EPOCHS
        iterations = from_epochs(epochs, len(data), images_per_step)
        say(f"{epochs:g} epochs of {len(data)} images: {iterations} iterations of {images_per_step}")
        return iterations
    timing = measure(model, config, data, val_data, device)
    left = 60 * config.minutes - (time.monotonic() - started)
    iterations = timing.iterations(left, config.val_every)
    say(
        f"{config.minutes:g} minutes: {iterations} iterations of {timing.step:.3g} s and {timing.validation:.3g} s per "
        f"validation ({iterations * images_per_step / len(data):.3g} epochs)"
    )
    if iterations * images_per_step < FEW_IMAGES:
        say(
            f"{iterations * images_per_step} images are few to learn from: give more minutes, or a smaller model.input "
            "without fit, whose strides grow finer as the input shrinks"
        )
    return iterations


def _trainer(config: TrainConfig, start: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Lightning's Trainer over one endless epoch; what happens between steps is in the callbacks.

    Raises:
        ConfigError: on devices that are not there.
    """
    plugins: list[Any] = [AtomicCheckpointIO()]
    if SLURMEnvironment.detect():
        # Lightning would save elsewhere and requeue the job; `resume` in the job's command does that with our state.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    try:
        return pl.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy="ddp" if config.devices * config.nodes > 1 else "auto",
            precision="bf16-mixed" if config.precision == "bf16" else "32-true",
            accumulate_grad_batches=config.optim.accumulate,
            max_epochs=1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=make_loggers(config, Path(config.out), start),
            default_root_dir=config.out,
            callbacks=callbacks,
            plugins=plugins,
        )
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(
            f"accelerator {config.accelerator}, {config.devices} devices: {' '.join(str(error).split())}"
        ) from None


def _write_folder(out: Path, config: TrainConfig, data: Dataset) -> None:
    """What stands in a run folder from the beginning."""
    contents = {
        "config.yaml": yaml.safe_dump(to_dict(replace(config, resume=False)), sort_keys=False, allow_unicode=True),
        "classes.txt": "".join(f"{name}\n" for name in data.class_names),
        "versions.json": json.dumps(versions(), indent=2) + "\n",
    }
    for name, text in contents.items():
        with atomic_file(out / name) as file:
            file.write(text.encode())


def _how_to_resume(out: Path) -> str:
    return f"`grcn train --config {out}/config.yaml --resume true` continues"


def _is_lead() -> bool:
    """Whether this process writes the run folder: rank 0, by the environment that the launcher has set."""
    node = os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0"))
    return getattr(rank_zero_only, "rank", 0) == 0 and node == "0"


def _print(text: str) -> None:
    print(text, flush=True)


def _say_nothing(text: str) -> None:
    pass


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps lightning's notices to itself: tips, and advice on what is decided here on purpose."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
            # lightning 2.6 with torch 2.15
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
