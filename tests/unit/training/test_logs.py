"""The run's own CSV, and loggers by name."""

import csv
import shutil
import sys
from uuid import uuid4

import lightning.pytorch.loggers as lightning_loggers
import pytest
from lightning.pytorch.loggers import Logger

from grcn.errors import CheckpointError, ConfigError
from grcn.training.logs import COLUMNS, CsvLog, make_loggers, write_ids


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_rows_have_fixed_columns(tmp_path):
    log = CsvLog(tmp_path / "metrics.csv", 0)
    log.experiment  # noqa: B018 lightning asks for it
    log.log_metrics({"train/loss": 0.5, "train/lr": 0.01}, 10)
    log.log_metrics({"val/AP": 0.25}, 10)
    first, second = rows(log.path)
    assert tuple(first) == COLUMNS
    assert (first["iteration"], first["loss"], first["lr"], first["AP"]) == ("10", "0.5", "0.01", "")
    assert (second["iteration"], second["loss"], second["AP"]) == ("10", "", "0.25")


def test_resuming_drops_what_was_written_after_the_save(tmp_path):
    log = CsvLog(tmp_path / "metrics.csv", 0)
    log.experiment  # noqa: B018
    for iteration in (10, 20, 30):
        log.log_metrics({"train/loss": float(iteration)}, iteration)
    with open(log.path, "a") as file:
        file.write("20,1.0,0.0")  # torn by a kill
    log = CsvLog(log.path, 20)
    log.experiment  # noqa: B018
    log.log_metrics({"train/loss": 3.0}, 30)
    assert [(row["iteration"], row["loss"]) for row in rows(log.path)] == [
        ("10", "10.0"),
        ("20", "20.0"),
        ("30", "3.0"),
    ]


def test_a_new_run_starts_a_new_file(tmp_path):
    (tmp_path / "metrics.csv").write_text("something else\n1,2\n")
    CsvLog(tmp_path / "metrics.csv", 0).experiment  # noqa: B018
    assert rows(tmp_path / "metrics.csv") == []
    assert (tmp_path / "metrics.csv").read_text().startswith("iteration,")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_logger_without_its_package_is_one_line(tiny, tmp_path, name, monkeypatch):
    for package in (name, f"{name}_skinny"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"logger '{name}' needs its package: pip install 'grcn\[{name}\]'"):
        make_loggers(tiny.tiny_config("data", tmp_path, loggers=(name,)), tmp_path, 0)


class Service(Logger):
    """In the place of lightning's loggers of wandb, which is told an id, and of mlflow, which gives one."""

    def __init__(self, id=None, run_id=None, **options):
        super().__init__()
        self.options = options
        self.version = id or run_id or uuid4().hex

    name = version = ""
    log_metrics = log_hyperparams = None


def test_a_service_knows_a_run_that_is_resumed_and_moved_by_one_id(tiny, tmp_path, monkeypatch):
    for name in ("WandbLogger", "MLFlowLogger"):
        monkeypatch.setattr(lightning_loggers, name, Service)
    names = ("csv", "wandb", "mlflow")
    run = tmp_path / "a"
    run.mkdir()
    config = tiny.tiny_config("data", run, loggers=names)
    loggers = make_loggers(config, run, 0)
    write_ids(names, loggers, run)
    first = [logger.version for logger in loggers[1:]]
    moved = shutil.move(run, tmp_path / "b")
    again = make_loggers(config, moved, 4)
    assert [logger.version for logger in again[1:]] == first
    assert again[2].options["tracking_uri"] == f"sqlite:///{moved}/mlflow.db"
    other = [logger.version for logger in make_loggers(config, tmp_path / "c", 0)[1:]]
    assert not set(other) & set(first)


def test_only_services_have_ids(tiny, tmp_path):
    config = tiny.tiny_config("data", tmp_path, loggers=("csv",))
    write_ids(config.loggers, make_loggers(config, tmp_path, 0), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "5", '{"mlflow": 5}', '{"mlflow": "../../x"}', "[1]"])
def test_ids_that_are_none_are_refused_in_one_line(tiny, tmp_path, content):
    (tmp_path / "loggers.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"loggers\.json: ") as caught:
        make_loggers(tiny.tiny_config("data", tmp_path, loggers=("csv",)), tmp_path, 0)
    assert "\n" not in str(caught.value)
