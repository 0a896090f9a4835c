"""Training and the fault matrix, with real processes: kills, signals, a full disk, divergence, ranks without objects.

All compare with one run that nothing happened to. What needs no process of its own is in tests/unit/training.
"""

import csv
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grcn.config import OptimConfig, ScheduleConfig
from grcn.errors import CheckpointError, DataError, DivergedError
from grcn.predict.checkpoint import load_detector
from grcn.training import train
from grcn.training.checkpoint import KEY, load_state

SCRIPT = Path(__file__).parents[1] / "training_script.py"
LONG = {"iterations": 60, "val_every": 30, "save_every": 4, "workers": 1}
STATE = "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def whole(tiny, beach, tmp_path_factory) -> Path:
    return train(tiny.tiny_config(beach, tmp_path_factory.mktemp("runs") / "whole", **LONG), progress=False)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
@pytest.mark.parametrize("workers", [0, 4])
def test_the_number_of_workers_changes_nothing(tiny, beach, whole, tmp_path, workers):
    run = train(tiny.tiny_config(beach, tmp_path / "run", **LONG | {"workers": workers}), progress=False)
    tiny.assert_equal_runs(run, whole)


@contextmanager
def process(data: Path, out: Path, **changes):
    """A training process; ended by force where the test has not seen its end."""
    words = [f"{name}={value!r}" for name, value in changes.items()]
    child = subprocess.Popen(
        [sys.executable, SCRIPT, data, out, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def end_of(child: subprocess.Popen) -> tuple[int, str]:
    """Exit code and standard error."""
    _, errors = child.communicate(timeout=120)
    return child.returncode, errors


def saved_iteration(run: Path) -> int:
    return int(load_state(run / STATE, mapped=True)["global_step"]) if (run / STATE).exists() else 0


def wait_for_save(child: subprocess.Popen, run: Path, iteration: int) -> None:
    deadline = time.monotonic() + 120
    while saved_iteration(run) < iteration:
        assert child.poll() is None, end_of(child)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_that_is_killed_terminated_and_interrupted_ends_as_one_that_was_not(tiny, beach, whole, tmp_path):
    run = tmp_path / "run"
    with process(beach, run, **LONG) as child:
        wait_for_save(child, run, 4)
        child.kill()
        assert end_of(child)[0] == -signal.SIGKILL
    lost = saved_iteration(run)
    assert lost >= 4
    run = run.rename(tmp_path / "moved")
    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")):
        before = saved_iteration(run)
        with process(beach, run, **LONG, resume=True) as child:
            wait_for_save(child, run, before + 1)
            os.killpg(child.pid, number)  # the loader's workers too, as a terminal and a batch system do
            code, errors = end_of(child)
        assert code == 128 + number, errors
        assert f"{name}: saving after this step" in errors
        assert re.search(
            r"Interrupted: .*stopped at iteration \d+, saved; `grcn train --config .* --resume true`", errors
        )
        assert "Traceback" not in errors
        assert before < saved_iteration(run) < LONG["iterations"]
        assert load_detector(run / "last.safetensors").extra["iteration"] == saved_iteration(run)
    train(tiny.tiny_config(beach, run, **LONG | {"resume": True, "workers": 0}), progress=False)
    tiny.assert_equal_runs(whole, run)
    assert not list(run.rglob("*.partial"))


def test_a_disk_that_is_full_during_a_save_costs_at_most_an_interval(tiny, beach, whole, tmp_path):
    run = tmp_path / "run"
    with process(beach, run, **LONG) as child:
        wait_for_save(child, run, 8)  # the second: the first has been followed by its weights
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        code, errors = end_of(child)
    assert code == CheckpointError.exit_code, errors
    assert "cannot be written" in errors
    assert "Traceback" not in errors
    assert saved_iteration(run) >= 8
    assert not list(run.rglob("*.partial"))
    load_detector(run / "last.safetensors")
    train(tiny.tiny_config(beach, run, **LONG | {"resume": True}), progress=False)
    tiny.assert_equal_runs(whole, run)


def test_too_many_open_files_are_named_with_their_limit(beach, tmp_path):
    with process(beach, tmp_path / "run", **LONG | {"workers": 2, "batch_size": 8}) as child:
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (44, 44))
        code, errors = end_of(child)
    assert code == DataError.exit_code, errors
    assert (
        "DataError: too many open files: their limit is too low for the loader; raise it (`ulimit -n 4096`)" in errors
    )
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_signal_without_standard_streams_saves_and_writes_into_no_other_file(tiny, beach, whole, tmp_path):
    """With its streams closed a process gives their numbers to the files that it opens."""
    run = tmp_path / "run"
    words = [f"{name}={value!r}" for name, value in LONG.items()]
    child = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "-", sys.executable, SCRIPT, beach, run, *words])
    try:
        wait_for_save(child, run, 4)
        child.send_signal(signal.SIGTERM)
        assert child.wait(120) == 128 + signal.SIGTERM
    finally:
        child.kill()
    assert not [file for file in run.rglob("*") if file.is_file() and b"saving after this step" in file.read_bytes()]
    train(tiny.tiny_config(beach, run, **LONG | {"resume": True}), progress=False)
    tiny.assert_equal_runs(whole, run)


def test_divergence_stops_before_the_update_and_names_loss_and_images(tiny, beach, tmp_path):
    optim = OptimConfig(lr=1e25, clip_norm=0.0)
    schedule = ScheduleConfig(kind="constant", warmup=0)
    config = tiny.tiny_config(beach, tmp_path / "run", optim=optim, schedule=schedule, save_every=1)
    with pytest.raises(DivergedError, match=r"iteration 1: loss_\w+ is (nan|inf)") as caught:
        train(config, progress=False)
    assert "\n" not in str(caught.value)
    assert len(set(re.findall(r"[^ ,]+\.jpg", str(caught.value)))) == 2
    assert saved_iteration(tmp_path / "run") == 1
    weights = load_state(tmp_path / "run" / STATE)["state_dict"]
    assert all(tensor.isfinite().all() for name, tensor in weights.items() if "running" not in name)


def test_a_hostile_state_is_refused_before_anything_trains(tiny, beach, whole, tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    run = tmp_path / "run"
    shutil.copytree(whole, run)
    state = load_state(run / STATE)
    torch.save({**state, KEY: {**state[KEY], "more": Hostile()}}, run / STATE)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: refused"):
        train(tiny.tiny_config(beach, run, **LONG | {"resume": True}), progress=False)
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def almost_empty(beach, tmp_path) -> Path:
    """Ten training images of which one has objects: most batches have none, and of two ranks one at least."""
    data = shutil.copytree(beach, tmp_path / "beach")
    names = (data / "ImageSets/Main/train.txt").read_text().split()
    for name in names[1:]:
        path = data / "Annotations" / f"{name}.xml"
        path.write_text(re.sub(r"<object>.*?</object>", "", path.read_text(), flags=re.DOTALL))
    (data / "classes.txt").write_text(
        "".join(f"{name}\n" for name in ("buoy", "catamaran", "kayak", "parasol", "raft", "towel"))
    )
    return data


def test_batches_without_objects_train(tiny, almost_empty, tmp_path):
    run = train(
        tiny.tiny_config(almost_empty, tmp_path / "run", iterations=6, save_every=0, val_every=0), progress=False
    )
    (row,) = [row for row in csv.DictReader((run / "metrics.csv").read_text().splitlines()) if row["loss"]]
    assert float(row["loss"]) > 0
    assert all(tensor.isfinite().all() for tensor in load_state(run / STATE)["state_dict"].values())


@pytest.mark.slow
def test_two_ranks_train_with_one_of_them_without_objects_and_stop_together(tiny, almost_empty, tmp_path):
    """SIGTERM reaches only the first; the run then goes on with one process."""
    run = tmp_path / "run"
    changes = {"iterations": 14, "val_every": 4, "save_every": 2, "devices": 2, "workers": 1}
    with process(almost_empty, run, **changes) as child:
        wait_for_save(child, run, 4)
        child.send_signal(signal.SIGTERM)
        code, errors = end_of(child)
    assert code == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors
    stopped = saved_iteration(run)
    assert 4 <= stopped < 14
    assert load_state(run / STATE, mapped=True)["validation"]["last_iteration"] >= 4
    train(tiny.tiny_config(almost_empty, run, **changes | {"devices": 1, "resume": True}), progress=False)
    assert saved_iteration(run) == 14
    assert all(tensor.isfinite().all() for tensor in load_state(run / STATE)["state_dict"].values())


@pytest.fixture(scope="module")
def in_one(tiny, beach, tmp_path_factory) -> tuple[Path, dict]:
    """A run in one process, and its settings: with a norm that does not look at the batch, since a rank's batch norm
    sees its own images only. And with a seed whose ten steps pass no knife's edge: with seed 0 the last bit of a sum
    decides which cell wins a max pooling, and two steps later which proposal survives; with 1, sums made in four ways
    (fc6 as convolution and as product, SGD fused and not) agree to 6e-8."""
    model = replace(tiny.tiny_model(), backbone="resnet18", norm="group")
    changes = {"iterations": 10, "val_every": 10, "save_every": 4, "batch_size": 4, "model": model, "seed": 1}
    return train(tiny.tiny_config(beach, tmp_path_factory.mktemp("one") / "run", **changes), progress=False), changes


def assert_near(run: Path, other: Path) -> None:
    rows = []
    for out in (run, other):
        with open(out / "metrics.csv", newline="") as file:
            rows.append([float(r["loss"]) for r in csv.DictReader(file) if r["loss"]])
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)
    first, second = (load_state(out / STATE)["state_dict"] for out in (run, other))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-3, atol=1e-5, msg=name)


def test_two_ranks_and_then_one_equal_one_process(tiny, beach, in_one, tmp_path):
    whole, changes = in_one
    run = tmp_path / "run"
    with process(beach, run, **changes, devices=2) as child:
        wait_for_save(child, run, 2)
        child.send_signal(signal.SIGTERM)
        code, errors = end_of(child)
    assert code == 128 + signal.SIGTERM, errors
    assert 2 <= saved_iteration(run) < 10
    train(tiny.tiny_config(beach, run, **changes, resume=True), progress=False)
    assert_near(whole, run)


@pytest.mark.slow
def test_two_nodes_under_torchrun_equal_one_process(beach, in_one, tmp_path):
    """Two launchers, each with one process, that find each other by a port; as docs/training.md has it."""
    whole, changes = in_one
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [f"{name}={value!r}" for name, value in (changes | {"devices": 1, "nodes": 2}).items()]
    run = tmp_path / "run"
    nodes = []
    try:
        for rank in range(2):
            launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
            launcher += [f"--node-rank={rank}", "--master-addr=127.0.0.1", f"--master-port={port}"]
            nodes.append(subprocess.Popen([*launcher, SCRIPT, beach, run, *words], stderr=subprocess.PIPE, text=True))
        ends = [end_of(node) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [code for code, _ in ends] == [0, 0], ends
    assert_near(whole, run)


@pytest.mark.slow
def test_thirty_kills_at_random_moments_lose_nothing_but_time():
    words = [sys.executable, SCRIPT.with_name("kill_script.py"), "--kills", "30", "--seed", str(random.randrange(1000))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, (words[-1], done.stderr)
    assert json.loads(done.stdout)["kills"] >= 20
