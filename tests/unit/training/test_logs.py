"""The run's own CSV, and loggers by name."""

import csv
import shutil
import sys
from types import SimpleNamespace
from uuid import uuid4

import pytest

from grcn.errors import CheckpointError, ConfigError
from grcn.training import logs
from grcn.training.logs import COLUMNS, CsvLog, Figures, check_loggers, make_loggers
from grcn.training.step import LOSSES


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_rows_have_fixed_columns(tmp_path):
    log = CsvLog(tmp_path / "metrics.csv", 0)
    log.log({"train/loss": 0.5, "train/lr": 0.01}, 10)
    log.log({"val/AP": 0.25}, 10)
    first, second = rows(log.path)
    assert tuple(first) == COLUMNS
    assert (first["iteration"], first["loss"], first["lr"], first["AP"]) == ("10", "0.5", "0.01", "")
    assert (second["iteration"], second["loss"], second["AP"]) == ("10", "", "0.25")


def test_resuming_drops_what_was_written_after_the_save(tmp_path):
    log = CsvLog(tmp_path / "metrics.csv", 0)
    for iteration in (10, 20, 30):
        log.log({"train/loss": float(iteration)}, iteration)
    with open(log.path, "a") as file:
        file.write("20,1.0,0.0")  # torn by a kill
    log = CsvLog(log.path, 20)
    log.log({"train/loss": 3.0}, 30)
    assert [(row["iteration"], row["loss"]) for row in rows(log.path)] == [
        ("10", "10.0"),
        ("20", "20.0"),
        ("30", "3.0"),
    ]


def test_a_new_run_starts_a_new_file(tmp_path):
    (tmp_path / "metrics.csv").write_text("something else\n1,2\n")
    CsvLog(tmp_path / "metrics.csv", 0)
    assert rows(tmp_path / "metrics.csv") == []
    assert (tmp_path / "metrics.csv").read_text().startswith("iteration,")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_logger_without_its_package_is_one_line(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"logger '{name}' needs its package: pip install 'grcn\[{name}\]'"):
        check_loggers(("csv", name))


class Wandb:
    """In the place of wandb's module and its run."""

    def __init__(self):
        self.options, self.told, self.ended = {}, [], None

    def init(self, **options):
        self.options = options
        return self

    def define_metric(self, name, **how): ...

    def log(self, figures):
        self.told.append(figures)

    def finish(self, exit_code):
        self.ended = exit_code


class Mlflow:
    """In the place of mlflow's client: a store at an address keeps its runs."""

    stores = {}  # noqa: RUF012

    def __init__(self, address):
        self.address, self.runs = address, self.stores.setdefault(address, {})

    def get_experiment_by_name(self, name): ...

    def create_experiment(self, name):
        return "1"

    def create_run(self, experiment, run_name):
        run_id = uuid4().hex
        self.runs[run_id] = []
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def update_run(self, run_id, status): ...

    def log_batch(self, run_id, metrics):
        self.runs[run_id] += metrics

    def set_terminated(self, run_id, status):
        self.runs[run_id].append(status)


@pytest.fixture
def services(monkeypatch):
    """wandb and mlflow, which are not among the packages that tests need; the former's fake."""
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Mlflow))
    monkeypatch.setitem(sys.modules, "mlflow.entities", SimpleNamespace(Metric=lambda *values: values))
    monkeypatch.setattr(Mlflow, "stores", {})
    return wandb


def test_a_service_knows_a_run_that_is_resumed_and_moved_by_one_id(tiny, tmp_path, services):
    names = ("csv", "wandb", "mlflow")
    run = tmp_path / "a"
    run.mkdir()
    config = tiny.tiny_config("data", run, loggers=names)
    make_loggers(config, run, 0)
    first = logs._read_ids(run / "loggers.json")
    assert set(first) == {"wandb", "mlflow"}
    assert services.options["id"] == first["wandb"]
    assert services.options["reinit"] == "create_new"  # a run of the program's own goes on
    moved = shutil.move(run, tmp_path / "b")
    Mlflow.stores[f"sqlite:///{moved}/mlflow.db"] = Mlflow.stores[f"sqlite:///{run}/mlflow.db"]
    again = make_loggers(config, moved, 4)
    assert services.options["id"] == first["wandb"]
    assert logs._read_ids(moved / "loggers.json") == first
    for logger in again:
        logger.log({"train/loss": 0.5}, 5)
        logger.close(failed=False)
    (told,) = Mlflow.stores[f"sqlite:///{moved}/mlflow.db"].values()
    assert told[0][:2] == ("train/loss", 0.5)
    assert (told[0][3], told[1]) == (5, "FINISHED")
    assert services.told == [{"train/loss": 0.5, "trainer/global_step": 5}]
    assert services.ended == 0
    make_loggers(config, tmp_path / "c", 0)
    assert not set(logs._read_ids(tmp_path / "c" / "loggers.json").values()) & set(first.values())


def test_only_services_have_ids(tiny, tmp_path):
    make_loggers(tiny.tiny_config("data", tmp_path, loggers=("csv",)), tmp_path, 0)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("content", ["{", "5", '{"mlflow": 5}', '{"mlflow": "../../x"}', "[1]"])
def test_ids_that_are_none_are_refused_in_one_line(tiny, tmp_path, content):
    (tmp_path / "loggers.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"loggers\.json: ") as caught:
        make_loggers(tiny.tiny_config("data", tmp_path, loggers=("csv",)), tmp_path, 0)
    assert "\n" not in str(caught.value)


def test_a_mean_is_over_the_steps_that_have_the_figure(tiny, tmp_path):
    """As a gradient's norm that has overflowed in fp16."""
    log = CsvLog(tmp_path / "metrics.csv", 0)
    figures = Figures([log], tiny.tiny_config("data", tmp_path, iterations=3), images=10)
    time = {"lr": 0.1, "seconds": 1.0, "waited": 0.25}
    figures.add(dict.fromkeys(LOSSES, 1.0), iteration=1, **time)
    figures.add({**dict.fromkeys(LOSSES, 2.0), "grad_norm": 6.0}, iteration=2, **time)
    again = Figures([log], tiny.tiny_config("data", tmp_path, iterations=3), images=10)
    again.load_state_dict(figures.state_dict())
    again.add({**dict.fromkeys(LOSSES, 3.0), "grad_norm": 4.0}, iteration=3, **time)
    (row,) = rows(log.path)
    assert (row["loss"], row["grad_norm"], row["waiting"]) == ("8.0", "5.0", "0.25")
    assert float(row["images_per_second"]) == 2.0
