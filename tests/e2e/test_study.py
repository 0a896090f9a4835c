"""A study run to its tables: by the command, killed and continued, and on Ray with a worker killed."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.version import Version
from PIL import Image
from safetensors.numpy import load_file

from grcn.cli.main import main
from grcn.data.dataset import open_dataset
from grcn.errors import CheckpointError, ConfigError, DataError, GrcnError
from grcn.study import read_study, run_study, write_tables
from grcn.study.provenance import fingerprint
from grcn.study.run import Resources, _run_folder, fingerprints_of, read_result, result_path

STUDY = """
question: Does it run?
baseline: shared
seeds: [0, 1]
base:
  preset: grcn_r18
  weights: random
  iterations: ITERATIONS
  save_every: 2
  batch_size: 2
  workers: 0
  val_split: val
  val_every: 2
  loggers: [csv]
  model:
    backbone: timm:test_resnet
    norm: auto
    input: {short_side: 64, long_side: 96}
    rpn: {anchor_sizes: [12, 24], post_nms_train: 50, post_nms_test: 20}
    roi: {fc_channels: 16, batch_per_image: 16, score_threshold: 0.0}
data:
  beach: {generate: {images: 8, size: [96, 64]}}
cells:
  shared: {model: {separation: none, cls_stride: 16, cls_context: none}}
  parted: {}
"""


def write_study(folder: Path, iterations: int = 4) -> Path:
    path = folder / "mine.yaml"
    path.write_text(STUDY.replace("ITERATIONS", str(iterations)))
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study `mine.yaml` and, in `out`, its results."""
    folder = tmp_path_factory.mktemp("study")
    run_study(read_study(write_study(folder)), folder / "out", progress=False, say=lambda line: None)
    return folder


def results(folder: Path) -> dict[str, Any]:
    study = read_study(folder / "mine.yaml")
    return {trial.name: read_result(folder / "out", trial) for trial in study.trials}


def test_results_hold_figures_curve_and_configuration(done: Path) -> None:
    every = results(done)
    assert len(every) == 4
    for result in every.values():
        assert set(result["metrics"]) >= {"AP", "AP50", "AP70", "per_class"}
        assert set(result["gap"]["loses"]["AP"]) == {"localization", "classification", "both"}
        assert [row[0] for row in result["curve"]] == [2, 4]
        assert result["config"]["iterations"] == 4
        assert result["seconds"]["all"] > 0
        assert result["versions"]["torch"]
    assert not list((done / "out" / "runs").rglob("*.safetensors")), "run folders go when their trial is done"
    size = sum(path.stat().st_size for path in (done / "out" / "results").rglob("*.json")) / 4
    assert size < 20_000, "small enough to keep"


def test_what_is_done_is_skipped_and_what_is_missing_is_run(done: Path) -> None:
    study, lines = read_study(done / "mine.yaml"), []
    before = results(done)
    lost = study.trials[2]
    result_path(done / "out", lost).unlink()
    assert run_study(study, done / "out", progress=False, say=lines.append) == 1
    assert lines[0] == "mine: 3 of 4 trials are done"
    assert lines[-1].startswith(f"[1/1] {lost.name}: AP50")
    again = results(done)
    assert again[lost.name]["metrics"] == before[lost.name]["metrics"]
    assert run_study(study, done / "out", progress=False, say=lines.append) == 0


HOLD = """
import sys
from pathlib import Path
from grcn.locks import locked
with locked(Path(sys.argv[1]), "a trial"):
    print("held", flush=True)
    sys.stdin.read()
    if len(sys.argv) > 2:
        Path(sys.argv[3]).parent.mkdir(parents=True, exist_ok=True)
        Path(sys.argv[3]).write_bytes(Path(sys.argv[2]).read_bytes())
"""


@pytest.mark.parametrize("end", ["killed", "done"])
def test_what_another_process_is_at_comes_last(
    done: Path, tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other holds a trial's lock until it is waited for; then it is killed, or has done it."""
    study, lines = read_study(done / "mine.yaml"), list[str]()
    out = tmp_path / "out"
    shutil.copytree(done / "out", out, ignore=shutil.ignore_patterns("mine"))
    for trial in study.trials[:2]:
        result_path(out, trial).unlink()
    run = _run_folder(out, study.trials[0])
    results = (result_path(done / "out", study.trials[0]), result_path(out, study.trials[0]))
    words = [str(run.with_name(f".{run.name}.lock")), *(map(str, results) if end == "done" else ())]
    other = subprocess.Popen([sys.executable, "-c", HOLD, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"

    class Errors(io.StringIO):
        def write(self, text: str) -> int:
            if "waiting until it ends" in text:
                other.stdin.close() if end == "done" else other.kill()
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", said := Errors())
    try:
        assert run_study(study, out, progress=False, say=lines.append) == (1 if end == "done" else 2)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
        other.stdin.close()
    waited, own = (study.trials[i].name for i in (0, 1))
    assert lines[1].startswith(f"[1/2] {own}: AP50"), "the one that is free first"
    assert lines[2].startswith(f"[2/2] {waited}: {'done by another process' if end == 'done' else 'AP50'}")
    # Before 4.0, a filelock that was refused has emptied the file that names the holder.
    holder = f"process {other.pid} on " if Version(metadata.version("filelock")) >= Version("4") else "another process"
    assert f"({waited}): {holder}" in said.getvalue()
    assert "is using it; waiting until it ends" in said.getvalue()
    assert len(list((out / "results").rglob("*.json"))) == 4
    assert not run.with_name(f".{run.name}.lock").exists()


def test_tables(done: Path) -> None:
    study = read_study(done / "mine.yaml")
    files = write_tables(study, done / "out")
    assert [f.relative_to(done / "out").as_posix() for f in files] == [
        "mine/table.md",
        "mine/trials.csv",
        "mine/beach.png",
    ]
    text = files[0].read_text()
    assert "Does it run?" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| `parted`"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert (cells[1], cells[5]) == ("2", "`shared`")
    every = results(done)
    ap = [100 * every[f"beach parted seed {seed}"]["metrics"]["AP"] for seed in (0, 1)]
    assert cells[4].startswith(f"{sum(ap) / 2:.1f} ± ")
    with open(files[1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["cell"], r["seed"]) for r in rows] == [
        ("shared", "0"),
        ("parted", "0"),
        ("shared", "1"),
        ("parted", "1"),
    ]
    assert float(rows[1]["AP"]) == every["beach parted seed 0"]["metrics"]["AP"]
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_tables_of_half_a_study(done: Path, tmp_path: Path) -> None:
    study = read_study(done / "mine.yaml")
    with pytest.raises(DataError, match="no results of mine there; run `grcn study run mine` first"):
        write_tables(study, tmp_path)
    one = study.trials[1]
    there = result_path(tmp_path, one)
    there.parent.mkdir(parents=True)
    there.write_bytes(result_path(done / "out", one).read_bytes())
    text = write_tables(study, tmp_path)[0].read_text()
    assert "Not run: `shared`." in text
    assert "| `parted` | 1 |" in text


def test_a_table_along_training_has_the_mean_of_the_seeds(done: Path, tmp_path: Path) -> None:
    study = read_study(done / "mine.yaml")
    for trial, last in zip((t for t in study.trials if t.cell == "parted"), (0.25, 0.75), strict=True):
        result = json.loads(result_path(done / "out", trial).read_text())
        result["curve"] = [[2, 0.3, 0.2, 0.1], [4, 1.0, last, 0.5]]
        there = result_path(tmp_path, trial)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(json.dumps(result))
    lines = write_tables(study, tmp_path)[0].read_text().splitlines()
    assert "| iteration | 2 | 4 |" in lines
    assert "| of `parted` | 20.0 / 10.0 | 50.0 / 50.0 |" in lines
    assert not [line for line in lines if line.startswith("| of `shared`")]


def test_a_result_that_is_none_is_said(done: Path, tmp_path: Path) -> None:
    study = read_study(done / "mine.yaml")
    there = result_path(tmp_path, study.trials[0])
    there.parent.mkdir(parents=True)
    for content in ("{", "[]", '{"metrics": {}}', "\xff"):
        there.write_text(content, encoding="latin-1")
        with pytest.raises(CheckpointError, match="not a trial's result"):
            run_study(study, tmp_path, progress=False, say=lambda line: None)


def test_a_result_of_other_settings_is_not_taken(done: Path, tmp_path: Path) -> None:
    """As where a default has changed since: fields at their default are no part of the digest."""
    one = read_study(done / "mine.yaml").trials[0]
    there = result_path(tmp_path, one)
    there.parent.mkdir(parents=True)
    record = json.loads(result_path(done / "out", one).read_text())
    for part, field, value in (("optim", "momentum", 0.8), ("schedule", "no longer there", 1)):
        record["config"][part][field] = value
    there.write_text(json.dumps(record))
    with pytest.raises(CheckpointError) as caught:
        read_result(tmp_path, one)
    assert str(caught.value) == (
        f"{there}: not of beach shared seed 0 as it is now: optim.momentum 0.8 -> 0.9 (a default has changed since); "
        "move it away to train again"
    )


def test_results_say_where_they_come_from(done: Path) -> None:
    photos = open_dataset(next((done / "out" / "data").iterdir()), split="train").records
    boxes = np.concatenate([record.target.boxes for record in photos])  # 96x64, as the detectors' input
    sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    for result in results(done).values():
        assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|grcn [0-9.]+", result["commit"])
        assert result["fingerprints"] == {"data": fingerprint(next((done / "out" / "data").iterdir()))}
        assert result["source"]["test_split"] == "test"
        study = read_study(done / "mine.yaml")
        assert result["study"] == {"name": "mine", "digest": study.digest}
        assert result["objects"] == {"count": len(sizes), "median": pytest.approx(np.median(sizes), abs=0.06)}


def test_a_table_says_where_it_mixes_commits_and_data(done: Path, tmp_path: Path) -> None:
    study = read_study(done / "mine.yaml")
    shutil.copytree(done / "out" / "results", tmp_path / "results")
    paths = [result_path(tmp_path, trial) for trial in study.trials]
    records = [json.loads(path.read_text()) for path in paths]
    photos = records[0]["fingerprints"]["data"]
    for path, record, of in zip(paths, records, ("1a", "1a", "2b", None), strict=True):
        path.write_text(json.dumps({**record, "commit": of}))
    del records[3]["commit"], records[3]["fingerprints"]  # as before there were any
    paths[3].write_text(json.dumps(records[3]))
    text, rows = (file.read_text() for file in write_tables(study, tmp_path)[:2])
    assert (
        "\n\n**Commit: mixed**, by cell and seed: 1a (`shared` 0, `parted` 0); 2b (`shared` 1); unknown (`parted` 1). "
        f"**Photos and labels: mixed**, by cell and seed: {photos} (`shared` 0 1, `parted` 0); unknown (`parted` 1).\n"
    ) in text
    origins = [(row["commit"], row["photos_and_labels"]) for row in csv.DictReader(rows.splitlines())]
    assert origins == [("1a", photos), ("1a", photos), ("2b", photos), ("unknown", "unknown")]
    one = study.only(seeds=[0])
    assert f"\n\nCommit: 1a. Photos and labels: {photos}.\n" in write_tables(one, tmp_path)[0].read_text()


def test_a_result_of_other_photos_or_labels_is_not_taken(beach: Path, tmp_path: Path) -> None:
    """Nor a run that was kept, whose weights would be scored as they are."""
    shutil.copytree(beach, tmp_path / "beach")
    path = write_study(tmp_path, iterations=1)
    path.write_text(path.read_text().replace("{generate: {images: 8, size: [96, 64]}}", "{path: beach}"))
    study, lines = read_study(path).only(cells=["shared"], seeds=[0]), []

    def run() -> int:
        lines.clear()
        return run_study(study, tmp_path / "out", root=tmp_path, keep_runs=True, progress=False, say=lines.append)

    def kept() -> list[Path]:
        return [*(tmp_path / "out" / "results" / "beach").iterdir(), *(tmp_path / "out" / "runs" / "beach").iterdir()]

    assert run() == 1
    there = result_path(tmp_path / "out", study.trials[0])
    first = json.loads(there.read_text())
    (tmp_path / "beach" / "README.md").write_text("no photo, no label")
    assert (run(), lines) == (0, ["mine: 1 of 1 trials are done"])

    for photo in (tmp_path / "beach" / "JPEGImages").iterdir():
        Image.new("RGB", (96, 72)).save(photo)
    assert run() == 1
    assert lines[:2] == [
        "mine: 0 of 1 trials are done",
        "1 trials were done with other photos, labels or weights; they run again, and the former results are put aside",
    ]
    second = json.loads(there.read_text())
    assert second["fingerprints"] != first["fingerprints"]
    assert second["loss"] != first["loss"], "trained anew"
    names = sorted(path.name for path in kept())
    assert [json.loads(p.read_text()) for p in kept() if p.suffix == ".json" and p != there] == [first]
    assert len(names) == 4
    assert all((run / "last.safetensors").is_file() for run in kept() if run.is_dir())
    assert run() == 0

    label = next((tmp_path / "beach" / "Annotations").iterdir())
    label.write_bytes(label.read_bytes() + b"\n")
    study = read_study(path).only(cells=["shared", "parted"], seeds=[0])
    there.write_text(json.dumps({k: v for k, v in second.items() if k != "fingerprints"}))
    assert run() == 1, "a result that does not say of which photos counts"
    assert lines[:2] == [
        "mine: 1 of 2 trials are done",
        "1 of these results do not say which photos and labels they are of",
    ]
    (tmp_path / "beach").rename(tmp_path / "gone")
    assert run() == 0, "what is done counts where the photos are not at hand"


def test_a_result_from_other_weights_is_not_taken(done: Path, tmp_path: Path) -> None:
    """The content counts; the path, which the digest holds, stays."""
    study = read_study(done / "mine.yaml")
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"one")
    trial = replace(study.trials[0], config=replace(study.trials[0].config, weights=str(file)))
    before = fingerprints_of([trial], {})
    file.write_bytes(b"two")
    assert before[trial].keys() == {"weights"}
    assert fingerprints_of([trial], {}) != before
    file.unlink()
    assert fingerprints_of([trial], {}) == {trial: {}}


def test_a_trial_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    path = write_study(tmp_path, iterations=1)
    path.write_text(path.read_text().replace("parted: {}", "parted: {optim: {lr: 1.0e+30}, iterations: 3}"))
    lines: list[str] = []
    with pytest.raises(
        GrcnError, match=r"2 of 4 trials failed, the first: beach parted seed 0: .*; the others are done"
    ):
        run_study(read_study(path), tmp_path / "out", progress=False, say=lines.append)
    done = [name for name, result in results(tmp_path).items() if result]
    assert done == ["beach shared seed 0", "beach shared seed 1"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{path: nowhere}", "no folder .*nowhere; give the folder of the data sets with --root"),
        ("{path: ../elsewhere}", "leads out of the root"),
        ("{generate: {pictures: 3}}", "data.beach.generate: .*pictures"),
    ],
)
def test_data_that_is_not_there(tmp_path: Path, source: str, message: str) -> None:
    path = write_study(tmp_path)
    path.write_text(path.read_text().replace("{generate: {images: 8, size: [96, 64]}}", source))
    with pytest.raises(ConfigError, match=message):
        run_study(read_study(path), tmp_path / "out", root=tmp_path, progress=False, say=lambda line: None)


def test_the_commands(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(done / "mine.yaml"), "--out", str(done / "out")]
    assert main(["study", "run", *words, "--seeds", "0", "--cells", "parted"]) == 0
    assert "mine: 1 of 1 trials are done" in capsys.readouterr().out
    assert main(["study", "table", *words]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("table.md")
    assert main(["study", "run", "strides"]) == 2
    assert "nor a study of the package" in capsys.readouterr().err
    assert main(["study"]) == 0
    assert "study table" in capsys.readouterr().out


FORKED = """  half: {iterations: 2, model: {separation: none, cls_stride: 16, cls_context: none}}
  again: {start: half, iterations: 1, optim: {lr: 1.0e-9}, model: {separation: none, cls_stride: 16, cls_context: none}}
  parted: {start: half, iterations: 1, model: {separation: roi, cls_stride: 16, cls_context: none}}
"""


def write_forks(folder: Path) -> Path:
    path = write_study(folder)
    head = path.read_text().partition("  shared: {model")[0].replace("baseline: shared", "baseline: again")
    path.write_text(head.replace("seeds: [0, 1]", "seeds: [0]") + FORKED)
    return path


def test_cells_that_start_from_another(tmp_path: Path) -> None:
    study, lines = read_study(write_forks(tmp_path)), list[str]()
    out = tmp_path / "out"
    assert run_study(study, out, keep_runs=True, progress=False, say=lines.append) == 3
    assert "half" in lines[2], "first what the others start from"
    (kept,) = (out / "starts" / "beach").iterdir()
    before = load_file(kept)
    (last,) = (out / "runs" / "beach").glob("again-*/last.safetensors")
    after = load_file(last)
    assert before.keys() == after.keys()
    learned = [name for name in before if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert all(np.allclose(before[name], after[name], atol=1e-5) for name in learned)
    path = result_path(out, next(trial for trial in study.trials if trial.cell == "parted"))
    other = study.only(cells=["parted"])
    assert run_study(other, out, progress=False, say=lines.append) == 0
    for gone, again in (([path], 1), ([path, kept], 2), ([kept], 0)):
        for file in gone:
            file.unlink()
        assert run_study(other, out, progress=False, say=lines.append) == again, (
            "with what it starts from, where needed"
        )
        assert path.is_file()


def test_a_cell_that_others_start_from_leaves_its_weights_when_it_runs_alone(tmp_path: Path) -> None:
    study, out = read_study(write_forks(tmp_path)), tmp_path / "out"
    for cell in ("half", "parted"):
        assert run_study(study.only(cells=[cell]), out, progress=False, say=lambda line: None) == 1


def test_a_cell_whose_start_fails_says_so(tmp_path: Path) -> None:
    path = write_forks(tmp_path)
    path.write_text(path.read_text().replace("half: {iterations: 2,", "half: {iterations: 2, optim: {lr: 1.0e+30},"))
    lines: list[str] = []
    with pytest.raises(GrcnError, match="3 of 3 trials failed, the first: beach half"):
        run_study(read_study(path), tmp_path / "out", progress=False, say=lines.append)
    assert "the weights of beach half seed 0, from which it starts, do not exist" in lines[-1]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "grcn", "study", "run", str(folder / "mine.yaml"), "--out", str(folder / "out")]
    return subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 400) -> None:
    """Long enough for a machine with five times as much to do as it has cores."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            process.kill()
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_study_that_is_killed_continues_within_its_trial(done: Path, tmp_path: Path, number: int) -> None:
    """Killed while its second trial trains; the same command gives the results of the study that was left alone."""
    write_study(tmp_path)
    first, second = read_study(tmp_path / "mine.yaml").trials[:2]
    process = start(tmp_path, "--seeds", "0")
    run = tmp_path / "out" / "runs" / "beach" / f"{second.cell}-{second.seed}-{second.digest}"
    wait_for((run / "checkpoints" / "last.ckpt").is_file, process)
    process.send_signal(number)
    out = process.communicate(timeout=60)[0]
    assert process.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM), out
    assert read_result(tmp_path / "out", first) is not None
    assert read_result(tmp_path / "out", second) is None
    process = start(tmp_path, "--seeds", "0")
    out = process.communicate(timeout=180)[0]
    assert process.returncode == 0, out
    assert "mine: 1 of 2 trials are done" in out
    for trial in (first, second):
        result, alone = results(tmp_path)[trial.name], results(done)[trial.name]
        assert result["metrics"] == alone["metrics"], trial.name
        assert result["curve"] == alone["curve"]


@pytest.mark.slow
def test_on_ray_with_a_worker_killed(done: Path, tmp_path: Path) -> None:
    """Two workers at a time, one killed while it trains: its trial is started again, continues, and all are right."""
    pytest.importorskip("ray")
    write_study(tmp_path)
    study = read_study(tmp_path / "mine.yaml")
    process = start(tmp_path, "--engine", "ray", "--cpus", "1", "--seeds", "0")
    runs = tmp_path / "out" / "runs" / "beach"
    first, second = study.trials[:2]
    wait_for((runs / f"{first.cell}-{first.seed}-{first.digest}" / "checkpoints" / "last.ckpt").is_file, process)
    workers = ray_workers(process.pid)
    assert workers, "no worker of Ray was found"
    os.kill(workers[0], signal.SIGKILL)
    out = process.communicate(timeout=240)[0]
    assert process.returncode == 0, out
    for trial in (first, second):
        assert results(tmp_path)[trial.name]["metrics"] == results(done)[trial.name]["metrics"], trial.name


def ray_workers(driver: int) -> list[int]:
    """Process ids of the Ray workers that run a trial, among the descendants of the driver."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                parents = ancestors(int(folder.name))
            except OSError:
                continue
            if command.startswith("ray::_in_worker") and driver in parents:
                found.append(int(folder.name))
    return found


def ancestors(process: int) -> set[int]:
    chain = set()
    while process > 1:
        stat = Path(f"/proc/{process}/stat").read_text()
        process = int(stat.rpartition(")")[2].split()[1])
        chain.add(process)
    return chain


def test_ray_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    write_study(tmp_path)
    with pytest.raises(ConfigError, match=r"pip install 'grcn\[study\]'"):
        run_study(
            read_study(tmp_path / "mine.yaml"),
            tmp_path / "out",
            engine="ray",
            resources=Resources(cpus=1),
            say=lambda line: None,
        )


def test_the_result_file_is_json_without_nan(done: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    for path in (done / "out" / "results").rglob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)
