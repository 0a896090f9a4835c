"""The half hour on a GPU: what is sent, what is done in the time, what goes on where it stopped, what comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

import gpu
import gpu_kit
import gpu_parts
from grcn.study import read_study
from grcn.study.run import result_path

INDEX = {
    "alpha": ["gamma>=2", "there", "windows; sys_platform == 'win32'", "extra-only; extra == 'more'"],
    "beta": ["gamma<3", "old; python_version < '3.12'", "Late-One"],
    "gamma": [],
    "late-one": ["alpha[more]"],
    "extra-only": [],
}


def test_the_kit_has_what_is_required_and_not_there() -> None:
    asked: list[str] = []

    def fetch(wanted: Requirement) -> Sequence[str]:
        asked.append(str(wanted))
        return INDEX[wanted.name.lower()]

    found = gpu_kit.missing(
        ["alpha>=1", "beta", "There>=9"], gpu_kit.packages("there  # with its needs\n\n# none\n"), fetch
    )
    assert sorted(found) == ["alpha", "beta", "extra-only", "gamma", "late-one"]
    assert str(found["gamma"].specifier) == "<3,>=2"  # one version that suits both
    assert [word for word in asked if word.startswith("alpha")] == ["alpha>=1", "alpha[more]>=1"]


def test_the_kit_comes_in_pieces_that_are_small_enough(tmp_path: Path) -> None:
    data, kit, out = tmp_path / "set", tmp_path / "kit", tmp_path / "out"
    for i in range(40):
        file = data / f"folder{i % 3}" / f"{'photo' * 15}{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(3000 + i))
    (tmp_path / "machine.txt").write_text("".join(f"{Requirement(line).name}\n" for line in gpu_kit.required()))
    earlier = tmp_path / "gpu.tar.gz"
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "old.json").write_text("{}")
    with tarfile.open(earlier, "w:gz") as tar:
        tar.add(tmp_path / "parts", "parts")
    options = SimpleNamespace(
        machine=tmp_path / "machine.txt", data=[data], weights=[], earlier=[earlier], megabytes=0.08, out=kit
    )
    gpu_kit.gather(options)
    pieces = sorted(kit.iterdir())
    assert [piece.name for piece in pieces] == ["1.tar", "2.tar", "3.tar", "4.tar", "5.tar"]
    assert all(piece.stat().st_size <= 80_000 for piece in pieces)
    pieces[1].rename(tmp_path / "2.tar")
    gpu_kit.unpack(kit, out)
    assert not gpu_kit.complete(out / "kit", "set")  # half of a data set is not trained on
    assert (out / "parts" / "old.json").is_file()
    (tmp_path / "2.tar").rename(pieces[1])
    gpu_kit.unpack(kit, out)
    assert gpu_kit.complete(out / "kit", "set")
    assert len(list((out / "kit/data/set").rglob("*.jpg"))) == 40
    options.megabytes = 0.02
    (data / "large.jpg").write_bytes(bytes(20_000))
    with pytest.raises(SystemExit, match="larger than a piece"):
        gpu_kit.gather(options)


def test_the_kit_has_all_that_trains_but_torch_and_what_torch_needs() -> None:
    there = gpu_kit.packages((gpu_kit.ROOT / "benchmarks/gpu-machine.txt").read_text())
    kit = gpu_kit.missing(gpu_kit.required(), there, lambda wanted: metadata.requires(wanted.name) or [])
    assert {"torch", "torchvision", "numpy", "pillow"}.isdisjoint(kit)
    assert {"lightning-fabric", "lightning-utilities", "safetensors", "simplejpeg", "filelock", "packaging"} <= set(kit)


def test_a_kit_is_unpacked_with_the_standard_library_alone(tmp_path: Path) -> None:
    words = [sys.executable, "-I", "-S", gpu_kit.__file__, "--unpack", str(tmp_path), "--out", str(tmp_path)]
    subprocess.run(words, check=True)


def session(out: Path, seconds: float = 60) -> gpu.Session:
    return gpu.Session(out, "cpu", time.time() + seconds, out / "gpu.tar.gz")


def test_parts_come_in_the_order_of_their_worth() -> None:
    for device, precisions in (("cuda", ("fp32", "bf16", "fp16")), ("cpu", ("fp32", "bf16"))):
        sections = gpu_parts.parts(device)
        assert list(sections) == ["correct", "speed", "profile"]
        each = [f"correct-{name}-{precision}" for precision in precisions for name in gpu_parts.FAMILIES]
        assert list(sections["correct"]) == each
    assert {
        "speed-c5-predict1-bf16",
        "speed-c5-predict8-bf16",
        "speed-c4-predict32-fp32",
        "speed-grcn-train16-bf16",
    } <= set(gpu_parts.parts("cuda")["speed"])


def test_a_part_that_breaks_its_process_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = session(tmp_path)
    named = dict.fromkeys("abc", gpu_parts.Part(1, _never))
    calls: list[list[str]] = []

    def run(command: list[str], timeout: float) -> int:
        names = command[2 : command.index("--device")]
        calls.append(names)
        for name in names:
            broken = name == "b" and len(calls) == 1
            gpu_parts.write(tmp_path / "parts" / f"{name}.json", {"error": "did not come to its end"} if broken else {})
            if broken:
                return -11
        return 0

    monkeypatch.setattr(gpu, "_run", run)
    gpu.measure(here, "section", named)
    assert calls == [["a", "b", "c"], ["c"]]
    gpu.measure(here, "section", named)  # the next call tries again what failed, and nothing else
    assert calls[2:] == [["b"]]
    with tarfile.open(here.archive) as tar:
        assert {"parts/a.json", "parts/b.json", "parts/c.json"} <= set(tar.getnames())


def test_a_process_that_breaks_before_its_first_part_ends_the_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "_run", lambda *_: 1)
    named = dict.fromkeys("ab", gpu_parts.Part(1, _never))
    gpu.measure(session(tmp_path), "section", named)
    assert "section: ended with status 1" in capsys.readouterr().out
    gpu.measure(session(tmp_path, 0.5), "section", named)
    assert "no time left for 2 parts" in capsys.readouterr().out


def test_a_part_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    assert gpu._run([sys.executable, "-c", "import time; time.sleep(60)"], 0.5) == -9
    assert time.monotonic() - began < 20


def test_what_does_not_fit_into_the_time_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = {"a": gpu_parts.Part(1000, _never), "b": gpu_parts.Part(1, lambda *_: {"equal": True})}
    monkeypatch.setattr(gpu_parts, "parts", lambda device: {"section": done})
    _parts(monkeypatch, ["a", "b"], tmp_path, time.time() + 100)
    assert not (tmp_path / "a.json").exists()
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["equal"] is True
    assert written["device"] == "cpu"
    assert {"commit", "versions", "machine", "seconds"} <= written.keys()
    assert "no time left" in capsys.readouterr().out


def test_an_error_is_recorded_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_parts, "parts", lambda device: {"section": {"a": gpu_parts.Part(1, _never)}})
    with pytest.raises(SystemExit) as ended:
        _parts(monkeypatch, ["a"], tmp_path, time.time() + 100)
    assert ended.value.code == 3
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["error"] == "ZeroDivisionError: never"
    assert any("_never" in line for line in written["traceback"])


def _never(*_: Any) -> dict[str, Any]:
    raise ZeroDivisionError("never")


def _parts(monkeypatch: pytest.MonkeyPatch, names: list[str], out: Path, until: float) -> None:
    words = ["gpu_parts.py", *names, "--device", "cpu", "--until", str(until), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(gpu_parts, "tune_cpu", lambda: None)  # of the whole process
    gpu_parts.main()


SIZE = replace(gpu_parts.SIZES["cpu"], rounds=(2, 9), rounds_s=0.0)


def test_a_full_memory_leaves_the_other_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise torch.OutOfMemoryError("full")

    runs = {"ours": lambda: None, "theirs": full}
    seconds, memory = gpu_parts.interleaved(runs, torch.device("cpu"), SIZE, time.time() + 60)
    assert list(seconds) == ["ours"]
    assert len(seconds["ours"]) == 2
    assert memory == {"ours": None, "theirs": "out of memory"}
    with pytest.raises(TimeoutError, match="0 rounds"):
        gpu_parts.interleaved({"ours": lambda: None}, torch.device("cpu"), SIZE, time.time() - 1)


def test_the_archive_stays_below_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = session(tmp_path)
    for name in ("logs/a.log", "logs/b.log", "parts/a.json", "study/results/bccd/1.json", "study/runs/last.ckpt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(torch.randint(0, 256, (4000,), dtype=torch.uint8).numpy().tobytes())
    assert gpu.pack(here) == []
    monkeypatch.setattr(gpu, "ARCHIVE_BYTES", 12_000)
    assert gpu.pack(here) == ["logs/b.log", "logs/a.log"]
    assert here.archive.stat().st_size <= 12_000
    with tarfile.open(here.archive) as tar:
        assert set(tar.getnames()) == {"parts/a.json", "study/results/bccd/1.json", "left_out.txt"}
        left = tar.extractfile("left_out.txt")
        assert left is not None
        assert left.read() == b"logs/b.log\nlogs/a.log\n"


def test_trials_are_apart_and_end_with_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five trials, four at a time; one fails at once, so that the fifth starts; the others are told to stop."""
    started: list[str] = []
    made = []

    def start(here: gpu.Session, study: str, job: gpu.Job, root: Path, processes: int) -> subprocess.Popen[bytes]:
        started.append(job[0].name)
        code = "raise SystemExit(7)" if len(started) == 2 else "import time; time.sleep(60)"
        here.log(gpu._label(job)).write_text("the last line\n")
        made.append(subprocess.Popen([sys.executable, "-c", code]))
        return made[-1]

    monkeypatch.setattr(gpu, "_start", start)
    monkeypatch.setattr(gpu, "SAVING", 1.0)
    monkeypatch.setattr(gpu, "LEAST", 0.1)
    study = tmp_path / "five.yaml"
    text = Path(gpu.STUDIES["cpu"][0]).read_text().replace("seeds: [0]", "seeds: [0, 1]")
    study.write_text(text.replace("  conv4: {model: {separation: conv4}}\n", ""))
    here = session(tmp_path, 6)
    gpu.run_trials(here, [str(study)], tmp_path, 4, {})
    assert time.time() < here.deadline + 2
    assert started == [trial.name for trial in read_study(study).trials][:5]
    assert [process.returncode for process in made] == [-15, 7, -15, -15, -15]
    assert "embedded seed 0: status 7: the last line" in capsys.readouterr().out


def test_recorded_trials_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, here = tmp_path / "records", session(tmp_path, 60)
    monkeypatch.setattr(gpu, "RECORDS", records)
    first, second, *_ = read_study("claim_0").trials
    for trial in (first, second):
        path = result_path(records, trial)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("recorded")
    own = result_path(here.out / "study", second)
    own.parent.mkdir(parents=True)
    own.write_text("own")
    gpu.take_records(here, ["claim_0"])
    found = {path.name: path.read_text() for path in (here.out / "study").rglob("*.json")}
    assert found == {f"{first.digest}.json": "recorded", f"{second.digest}.json": "own"}


def test_data_that_is_not_here_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    todo = gpu.waiting(session(tmp_path), read_study("sharing"), tmp_path)
    assert {trial.data for (trial,) in todo} == {"embedded"}
    assert len({trial.digest for (trial,) in todo}) == len(todo) == 12
    assert "data set bccd is not here" in capsys.readouterr().out


def test_differences_are_measured() -> None:
    wanted = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    found = {"a": torch.tensor([3.0, 0.5]), "b": torch.tensor([4.0])}
    differing = gpu_parts.differing_gradients(found, wanted)
    assert differing == {"gradient": pytest.approx(0.1), "worst": {"a": pytest.approx(0.5 / 3)}}
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    here = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8]), "labels": torch.tensor([1, 2])}
    there = {"boxes": boxes.flip(0) + 0.01, "scores": torch.tensor([0.8, 0.9]), "labels": torch.tensor([2.0, 1.0])}
    tolerance = gpu_parts.FLOAT32
    apart = gpu_parts.differing_detections([there], [here], tolerance)
    assert apart["detections"] == 2
    assert apart["unmatched"] == 0
    assert apart["box_px"] == pytest.approx(0.01, rel=0.01)
    there["labels"] = torch.tensor([2, 2])
    assert gpu_parts.differing_detections([there], [here], tolerance)["unmatched"] == 2


def test_a_wrong_device_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's prediction made wrong: the record says so. Its step is right, the scale of the losses undone."""
    right = gpu_parts.predict

    def wrong(model: Any, images: Any, precision: str) -> Any:
        found = right(model, images, precision)
        return [one | {"boxes": one["boxes"] + (3.0 if precision == "fp16" else 0.0)} for one in found]

    monkeypatch.setattr(gpu_parts, "predict", wrong)
    monkeypatch.setattr(gpu_parts, "HALF", {})
    monkeypatch.setattr(gpu_parts, "LOW", gpu_parts.FLOAT32)
    result = gpu_parts.correctness("grcn_r18", "fp16", torch.device("cpu"), time.time() + 60)
    assert not result["equal"]
    assert result["detections"] > 20
    assert result["unmatched"] == 2 * result["detections"]
    assert result["gradient"] < 1e-3
    assert all(torch.tensor(list(result["losses"].values())) == 0)


def test_events_are_counted() -> None:
    counted = gpu_parts.counts(
        ["aten::nonzero", "aten::conv2d", "cudaLaunchKernel", "cudaLaunchKernel", "cudaStreamSynchronize"]
    )
    assert (counted["operators"], counted["launches"]) == (2, 2)
    assert counted["waits"] == {"aten::nonzero": 1, "cudaStreamSynchronize": 1}
    spans = [("gemm", 0.0, 4.0), ("gemm", 2.0, 5.0), ("Memcpy DtoH (Device -> Pageable)", 8.0, 10.0)]
    seen = gpu_parts.busy(spans)
    assert (seen["kernels"], seen["copies_to_host"], seen["busy"]) == (2, 1, pytest.approx(0.7))


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989.5), ("NVIDIA A100-SXM4-80GB", 312.0), ("NVIDIA L40S", 362.0), ("X", None)],
)
def test_peaks_by_name(monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert gpu_parts.peaks(torch.device("cuda")).get("bf16") == peak


@pytest.mark.slow
def test_the_whole_on_a_cpu(tmp_path: Path) -> None:
    words = [sys.executable, gpu.__file__, "--device", "cpu", "--minutes", "9", "--out", str(tmp_path)]
    subprocess.run(words, check=True)
    sections = gpu_parts.parts("cpu")
    with tarfile.open(tmp_path / "gpu.tar.gz") as tar:
        names = tar.getnames()
        assert {f"parts/{name}.json" for section in sections.values() for name in section} <= set(names)
        assert sum(name.startswith("study/results/embedded/") for name in names) == 4
    again = subprocess.run(words, check=True, capture_output=True, text=True)
    count = len(sections["correct"])
    assert f"{count} of {count} parts are done" in again.stdout
    assert "0 of its 4 trials to do" in again.stdout
