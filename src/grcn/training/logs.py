"""Where a run's figures go: its own CSV, and lightning's loggers by name."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from grcn.config import TrainConfig
from grcn.errors import CheckpointError, ConfigError
from grcn.files import atomic_file
from grcn.training.module import LOSSES

AP_KEYS = ("AP", "AP50", "AP70", "AP75")
COLUMNS = ("iteration", "epoch", "lr", "loss", *LOSSES, "grad_norm", "images_per_second", "waiting", *AP_KEYS)
"""Columns of metrics.csv. `waiting` is the share of the time in which the next batch was waited for."""


IDS = "loggers.json"
"""In the run folder: the ids under which services know the run, so that it stays one run wherever the folder goes."""


class CsvLog(Logger):
    """`metrics.csv`: a row per logged iteration or validation, appended as it comes.

    Args:
        path: the file; rows beyond iteration `start`, which a killed run wrote after its last save, are dropped, and a
            torn last row with them.
    """

    def __init__(self, path: Path, start: int) -> None:
        super().__init__()
        self.path, self.start = path, start

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_only
    def experiment(self) -> None:
        """Lightning asks for it once, before the first step: the place to prepare the file."""
        rows = []
        if self.start and self.path.is_file():
            with open(self.path, newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS) and row[0].isdecimal()]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *(row for row in rows if int(row[0]) <= self.start)])
        with atomic_file(self.path) as binary:
            binary.write(text.getvalue().encode())

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {"iteration": step} | {key.rpartition("/")[2]: value for key, value in metrics.items()}
        with open(self.path, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow([values.get(column, "") for column in COLUMNS])

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """config.yaml has them."""


def make_loggers(config: TrainConfig, out: Path, start: int) -> list[Logger]:
    """The loggers that `config` names, continuing at iteration `start`.

    Raises:
        ConfigError: where one needs a package that is not installed.
        CheckpointError: where the folder's IDS are no such file.
    """
    ids = _read_ids(out / IDS)
    loggers: list[Logger] = []
    for name in config.loggers:
        try:
            if name == "csv":
                loggers.append(CsvLog(out / "metrics.csv", start))
            elif name == "tensorboard":
                import tensorboard  # noqa: F401 - lightning looks for it only once the run has begun

                # Events that a killed run wrote beyond its last save are hidden.
                purge = start + 1 if start else None
                loggers.append(TensorBoardLogger(save_dir=out, name="", version="tensorboard", purge_step=purge))
            elif name == "wandb":
                from lightning.pytorch.loggers import WandbLogger

                run = ids.get(name) or hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]
                loggers.append(WandbLogger(project="grcn", name=out.name, save_dir=out, id=run, resume="allow"))
            else:
                from lightning.pytorch.loggers import MLFlowLogger

                store = f"sqlite:///{out.resolve()}/mlflow.db"  # MLflow 3 takes folders no longer
                loggers.append(
                    MLFlowLogger(experiment_name="grcn", run_name=out.name, tracking_uri=store, run_id=ids.get(name))
                )
        except ModuleNotFoundError:
            raise ConfigError(f"logger '{name}' needs its package: pip install 'grcn[{name}]'") from None
    return loggers


def write_ids(names: Sequence[str], loggers: Sequence[Logger], out: Path) -> None:
    """Keeps in the run folder the ids of the loggers, by their names, that a service gives one or is told one."""
    ids = {name: logger.version for name, logger in zip(names, loggers, strict=True) if name in ("wandb", "mlflow")}
    if ids:
        with atomic_file(out / IDS) as file:
            file.write(f"{json.dumps(ids, indent=2)}\n".encode())


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
            raise CheckpointError(f"{path}: {name} {own!r} is no id; remove the file for a new one")
    return ids
