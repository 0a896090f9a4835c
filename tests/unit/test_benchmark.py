"""`grcn benchmark`: every way to run a detector is measured in a process of its own, and told in 80 columns."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import grcn.benchmark
from grcn.benchmark import Measured, benchmark, table
from grcn.cli.main import main
from grcn.errors import CheckpointError, ConfigError, ImageError
from grcn.predict.checkpoint import save_detector
from grcn.runtime import peak_memory
from lively import NAMES, lively, small


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "last.safetensors"
    save_detector(path, lively(small("grcn_r18")), class_names=NAMES, preset="grcn_r18", extra={})
    return path


def test_the_command_measures_each_way_to_run_a_detector(weights: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "figures.json"
    words = ["benchmark", str(weights.parent), "--count", "2", "--rounds", "2", "--batch_size", "2", "--out", str(out)]
    assert main(words) == 0
    record = json.loads(out.read_text())
    assert {"grcn", "python", "processor", "cores", "system"} <= set(record)
    assert (record["photos"], record["rounds"], record["sizes"]) == (2, 2, ["800x600"])
    labels = ["torch, float32 as trained", "torch, float32 folded", "torch, bfloat16 folded"]
    assert [own["label"] for own in record["candidates"]] == labels
    for own in record["candidates"]:
        assert own["device"] == "cpu"
        assert own["threads"] >= 1
        assert "torch" in own["versions"]
        assert len(own["milliseconds"]) == 2 * 2
        assert 0 < own["p50"] <= own["p95"]
        assert set(own["per_second"]) == {"1", "2"}
        assert own["per_second"]["1"] == pytest.approx(1000 / own["p50"])
        # Its own process's: far less than this one's with all that tests have loaded, were it counted, too.
        assert 100 < own["megabytes"]["1"] <= own["megabytes"]["2"]
        assert own["gpu_megabytes"] == {"1": None, "2": None}
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    assert all(label in told for label in labels)
    assert "threads" in told


def test_a_long_table_has_80_columns() -> None:
    many = {1: 12345.6, 8: 1.2, 16: 3.4, 1024: 99999.9}
    own = Measured("runs/" + 90 * "x", "OpenVINO, float32 in bfloat16", "cpu", 64, {}, [1.0, 2.0], many, many, many)
    for rows in ([own], [own, replace(own, gpu_megabytes=dict.fromkeys(many))]):
        lines = table(rows).splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[2].endswith("xxx")
        assert any("  OpenVINO, float32 in bfloat16" in line for line in lines)
        assert "GPU" in lines[0]
    assert "GPU" not in table([replace(own, gpu_megabytes=dict.fromkeys(many))])


@pytest.mark.slow
def test_what_a_candidate_stumbles_over_is_said(weights: Path, monkeypatch) -> None:
    with pytest.raises(CheckpointError, match="no such run folder"):
        benchmark(["absent"], [])
    with pytest.raises(ConfigError, match="device 'quick'"):
        benchmark([str(weights)], [], device="quick")
    monkeypatch.setattr(grcn.benchmark, "_ways", lambda source: [(source, "fold", "torch, float32")])
    grey = np.zeros((40, 50, 3), np.uint8)
    with pytest.raises(ImageError, match="float64"):
        benchmark([str(weights)], [grey / 255], rounds=1, batch_sizes=[1])


@pytest.mark.slow
def test_a_candidate_that_dies_ends_it_in_one_line(weights: Path, monkeypatch) -> None:
    monkeypatch.setattr(grcn.benchmark, "_ways", lambda source: [(source, "fold", "torch, float32")])

    def kill(done: int, total: int, now: str) -> None:
        import multiprocessing

        if "batch" in now:
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(
        CheckpointError, match=r"last.safetensors: torch, .* ended with code -9; perhaps memory ran out"
    ):
        benchmark([str(weights)], [np.zeros((40, 50, 3), np.uint8)], progress=kill)


def test_a_gpu_s_memory_is_what_the_driver_tells_of_this_process(monkeypatch, tmp_path: Path) -> None:
    assert grcn.benchmark._gpu_memory("cpu (ONNX Runtime)") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert grcn.benchmark._gpu_memory("cuda:0 (ONNX Runtime)") is None
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho 1, 77\necho {os.getpid()}, 512\n")
    tool.chmod(0o755)
    assert grcn.benchmark._gpu_memory("cuda:0 (ONNX Runtime)") == 512


def test_peak_memory_is_what_was_held_and_let_go() -> None:
    program = """
import numpy as np
from grcn.runtime import peak_memory
before = peak_memory()
held = np.ones(2**25)  # 256 MB
del held
print(peak_memory() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 240 < float(done.stdout) < 300
    assert peak_memory(2**22 - 1) == 0  # no such process


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--count", "0"], "count 0: needs 1"),
        (["--rounds", "-1"], "rounds -1: needs 1"),
        (["--batch_size", "0"], "batch_size"),
        (["--batch_size", "1", "2", "3", "4", "5"], "batch_size"),
    ],
)
def test_wrong_words(words: list[str], told: str, capsys) -> None:
    assert main(["benchmark", "run", *words]) == 2
    assert told in capsys.readouterr().err
