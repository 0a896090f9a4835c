"""Loggers for the figures of a run: a CSV file, and by name TensorBoard, Weights & Biases and MLflow."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from grcn.config import TrainConfig
from grcn.errors import CheckpointError, ConfigError
from grcn.files import atomic_file
from grcn.training.step import LOSSES

AP_KEYS = ("AP", "AP50", "AP70", "AP75")
COLUMNS = ("iteration", "epoch", "lr", "loss", *LOSSES, "grad_norm", "images_per_second", "waiting", *AP_KEYS)
"""Columns of metrics.csv. `waiting` is the share of the time spent waiting for the next batch."""

IDS = "loggers.json"
"""File in the run folder with the ids of the run at the services, so that it stays one run if the folder moves."""

LOG_EVERY = 10
"""Iterations between rows of training figures; each is the mean since the row before."""


class Logger(Protocol):
    """A receiver of figures. It is opened when the run begins or continues."""

    def log(self, figures: dict[str, float], iteration: int) -> None: ...

    def close(self, *, failed: bool) -> None:
        """Called at the end of the run; `failed`: it ended by an error or a signal."""


class CsvLog:
    """`metrics.csv`: a row per logged iteration or validation, appended at once.

    Args:
        path: the file. Rows after iteration `start`, which a killed run wrote after its last save, are dropped, and so
            is an incomplete last row.
    """

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        rows = []
        if start and path.is_file():
            with open(path, newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS) and row[0].isdecimal()]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *(row for row in rows if int(row[0]) <= start)])
        with atomic_file(path) as binary:
            binary.write(text.getvalue().encode())

    def log(self, figures: dict[str, float], iteration: int) -> None:
        values = {"iteration": iteration} | {key.rpartition("/")[2]: value for key, value in figures.items()}
        with open(self.path, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow([values.get(column, "") for column in COLUMNS])

    def close(self, *, failed: bool) -> None:
        """Each row was written as it came."""


class TensorBoardLog:
    """Event files in a folder. Events that a killed run wrote after `start`, its last save, are hidden."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def log(self, figures: dict[str, float], iteration: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, iteration)

    def close(self, *, failed: bool) -> None:
        self.writer.close()


class WandbLog:
    """A run of Weights & Biases, new or continued. A run of the calling program is not affected."""

    STEP = "trainer/global_step"  # lightning's name, so that runs that lightning began can continue

    def __init__(self, out: Path, run_id: str) -> None:
        import wandb

        self.run: Any = wandb.init(
            project="grcn", name=out.name, dir=out, id=run_id, resume="allow", reinit="create_new"
        )
        self.run.define_metric(self.STEP)
        self.run.define_metric("*", step_metric=self.STEP, step_sync=True)

    def log(self, figures: dict[str, float], iteration: int) -> None:
        self.run.log({**figures, self.STEP: iteration})

    def close(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class MLflowLog:
    """A run in MLflow's store in the run folder, new or continued."""

    def __init__(self, out: Path, run_id: str | None) -> None:
        from mlflow import MlflowClient

        self.client: Any = MlflowClient(f"sqlite:///{out.resolve()}/mlflow.db")  # MLflow 3 no longer accepts folders
        if run_id is None:
            experiment = self.client.get_experiment_by_name("grcn")
            number = self.client.create_experiment("grcn") if experiment is None else experiment.experiment_id
            run_id = self.client.create_run(number, run_name=out.name).info.run_id
        self.client.update_run(run_id, status="RUNNING")
        self.run_id = run_id

    def log(self, figures: dict[str, float], iteration: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.run_id, [Metric(name, value, now, iteration) for name, value in figures.items()])

    def close(self, *, failed: bool) -> None:
        self.client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


def check_loggers(names: Sequence[str]) -> None:
    """Raises ConfigError if a logger needs a package that is not installed."""
    for name in names:
        try:
            if name != "csv":
                importlib.import_module(name)
        except ModuleNotFoundError:
            raise ConfigError(f"logger '{name}' needs its package: pip install 'grcn[{name}]'") from None


def make_loggers(config: TrainConfig, out: Path, start: int) -> list[Logger]:
    """The loggers that `config` names, continuing at iteration `start`. Their ids are kept in the folder.

    Raises:
        CheckpointError: if the file IDS in the folder is not valid.
    """
    ids = _read_ids(out / IDS)
    loggers: list[Logger] = []
    for name in config.loggers:
        if name == "csv":
            loggers.append(CsvLog(out / "metrics.csv", start))
        elif name == "tensorboard":
            loggers.append(TensorBoardLog(out / "tensorboard", start))
        elif name == "wandb":
            ids.setdefault(name, hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12])
            loggers.append(WandbLog(out, ids[name]))
        else:
            mlflow = MLflowLog(out, ids.get(name))
            ids[name] = mlflow.run_id
            loggers.append(mlflow)
    if ids:
        with atomic_file(out / IDS) as file:
            file.write(f"{json.dumps(ids, indent=2)}\n".encode())
    return loggers


def _read_ids(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        ids = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not the loggers' ids ({type(error).__name__}); remove it for new ones"
        ) from None
    for name, own in ids.items():
        if not isinstance(own, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", own):
            raise CheckpointError(f"{path}: {name} {own!r} is not an id; remove the file for a new one")
    return ids


class Figures:
    """Averages the figures of training steps over LOG_EVERY iterations. The unfinished window is part of the state.

    Args:
        loggers: they get each row, and the validations; empty on other ranks than the first.
        images: number of images in the data set, to convert iterations to epochs.
    """

    def __init__(self, loggers: list[Logger], config: TrainConfig, images: int) -> None:
        self.loggers = loggers
        self.images_per_step, self.images = config.batch_size * config.optim.accumulate, images
        self.iterations = config.iterations
        self._begin()

    def _begin(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.steps = 0
        self.seconds = self.waited = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "sums": dict(self.sums),
            "counts": dict(self.counts),
            "count": self.steps,
            "seconds": self.seconds,
            "waited": self.waited,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.steps = dict(state["sums"]), state["count"]
        self.counts = dict(state.get("counts", dict.fromkeys(self.sums, self.steps)))
        self.seconds, self.waited = state["seconds"], state["waited"]

    def add(self, step: dict[str, float], *, iteration: int, lr: float, seconds: float, waited: float) -> None:
        """Adds the figures of step number `iteration`, from 1. Missing figures are left out of their means."""
        for name, value in step.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.steps += 1
        self.seconds, self.waited = self.seconds + seconds, self.waited + waited
        if iteration % LOG_EVERY and iteration != self.iterations:
            return
        means = {name: value / self.counts[name] for name, value in self.sums.items()}
        self.log(
            {
                "train/epoch": iteration * self.images_per_step / self.images,
                "train/lr": lr,
                "train/loss": sum(value for name, value in means.items() if name.startswith("loss_")),
                **{f"train/{name}": value for name, value in means.items()},
                "train/images_per_second": self.steps * self.images_per_step / max(self.seconds, 1e-9),
                "train/waiting": self.waited / max(self.seconds, 1e-9),
            },
            iteration,
        )
        self._begin()

    def log(self, figures: dict[str, float], iteration: int) -> None:
        for logger in self.loggers:
            logger.log(figures, iteration)

    def close(self, *, failed: bool) -> None:
        for logger in self.loggers:
            logger.close(failed=failed)
