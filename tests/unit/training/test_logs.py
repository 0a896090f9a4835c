"""The run's own CSV, and loggers by name."""

import csv
import sys

import pytest

from grcn.errors import ConfigError
from grcn.training.logs import COLUMNS, CsvLog, make_loggers


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


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_without_its_package_is_one_line(tiny, tmp_path, name, monkeypatch):
    for package in (name, f"{name}_skinny"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"logger '{name}' needs its package: pip install 'grcn\[{name}\]'"):
        make_loggers(tiny.tiny_config("data", tmp_path, loggers=(name,)), tmp_path, 0)
