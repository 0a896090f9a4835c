"""Half an hour on a GPU, ordered by worth: correctness, speed beside torchvision, a profile, then trials of a study.

    python benchmarks/gpu.py [--minutes 9] [--device cuda] [--study NAME ...] [--out gpu-out/cuda] [--archive FILE]

Each part that is done is a file in OUT/parts, and each trial one in OUT/study; the same command continues with what is
missing. A part that failed is tried again by the next call. Nothing is running any more when the minutes are over:
trials are told to save their state a little earlier. OUT/kit is what gpu_kit.py unpacked: the data sets, and the folder
in which trials run, so that a study may name `weights/FILE`, and finds a published file of ImageNet weights there, too.
Of a step of a small detector most is the host's work: `--processes 16` trains as many at a time.

All that is worth keeping is packed into one archive again after each step, so that a call that is cut off leaves it,
too. To go on elsewhere, unpack that archive in OUT. With --device cpu everything is small: that is for trying.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

import gpu_kit
import gpu_parts
from grcn.scenes.generate import generate
from grcn.study import Study, read_study
from grcn.study.plan import Trial
from grcn.study.run import data_folder, read_result, result_path

HERE = Path(__file__).parent
STUDIES = {
    "cuda": ("claim", "claim_4", "claim_5", "claim_5b", "claim_7", "augment"),
    "cpu": (str(HERE / "gpu_try.yaml"),),
}
RECORDS = HERE.parent / "docs" / "results" / "studies"
"""Results of trials that were run before; they are not run again."""
SECTIONS = ("correct", "speed", "profile", "trials")
Job = tuple[Trial, ...]
"""Trials for one process: one, or several of which some start from another."""
SPAWN = multiprocessing.get_context("spawn")
SAVING = 20.0
"""Seconds before the deadline at which trials are told to stop, and at most that they may take for it."""
GRACE = 5.0
"""Seconds after the deadline at which a part that hangs is killed."""
LEAST = 40.0
"""Seconds that a trial needs to get anywhere."""
ARCHIVE_BYTES = 15_900_000
KEPT = ("kit/kit.json", "parts/*.json", "study/results/**/*.json", "logs/*.log")
"""What goes into the archive, the most worth first."""


@dataclass(frozen=True)
class Session:
    """One call: where its records go, on which device, until when (time.time), and its archive."""

    out: Path
    device: str
    deadline: float
    archive: Path

    @property
    def left(self) -> float:
        return self.deadline - time.time()

    def is_done(self, part: str) -> bool:
        """Whether there is a record of it without an error."""
        content = self.read(part)
        return content is not None and "error" not in content

    def read(self, part: str) -> dict[str, Any] | None:
        path = self.out / "parts" / f"{part}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def log(self, name: str) -> Path:
        path = self.out / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def measure(session: Session, section: str, parts: Mapping[str, gpu_parts.Part]) -> None:
    """Runs the parts that are not done in a process of their own; in another one what follows a part that broke it."""
    todo = [name for name in parts if not session.is_done(name)]
    print(f"{section}: {len(parts) - len(todo)} of {len(parts)} parts are done", flush=True)
    while todo:
        if session.left < min(parts[name].seconds for name in todo):
            print(f"{section}: no time left for {len(todo)} parts", flush=True)
            return
        began = time.time()
        words = ["--device", session.device, "--until", str(session.deadline), "--out", str(session.out / "parts")]
        code = _run([sys.executable, str(HERE / "gpu_parts.py"), *todo, *words], session.left + GRACE)
        pack(session)
        if code == 0:
            return
        tried = [i for i, name in enumerate(todo) if _changed(session.out / "parts" / f"{name}.json", began)]
        print(f"{section}: ended with status {code}", flush=True)
        if not tried:
            return
        todo = todo[tried[-1] + 1 :]


def _changed(path: Path, since: float) -> bool:
    return path.is_file() and path.stat().st_mtime >= since


def _run(command: list[str], timeout: float) -> int:
    process = subprocess.Popen(command)
    try:
        return process.wait(timeout)
    except BaseException as error:
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return -signal.SIGKILL


def take_records(session: Session, studies: Sequence[str]) -> None:
    """Copies the results of the studies' trials that are in RECORDS; those that are in OUT stay as they are."""
    for trial in {trial for study in studies for trial in read_study(study).trials}:
        known, own = (result_path(folder, trial) for folder in (RECORDS, session.out / "study"))
        if known.is_file() and not own.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(known, own)


def waiting(session: Session, study: Study, root: Path) -> list[Job]:
    """The jobs to run, in the study's order: not done, each trial once, and of data sets that are here as a whole."""
    distinct = {(trial.data, trial.digest): trial for trial in study.trials}.values()
    absent = {
        name
        for name, source in study.sources.items()
        if source.generate is None
        and not ((root / source.path).is_dir() and gpu_kit.complete(session.out / "kit", source.path))
    }
    for name in sorted(absent):
        print(f"{study.name}: data set {name} is not here, or not all of it: its trials are left out", flush=True)
    jobs: dict[tuple[str, str], list[Trial]] = {}
    for trial in distinct:
        if trial.data not in absent:
            jobs.setdefault((trial.data, (trial.start or trial).digest), []).append(trial)
    return [tuple(job) for job in jobs.values() if any(read_result(session.out / "study", t) is None for t in job)]


def render(session: Session, studies: Sequence[str], root: Path) -> dict[str, SpawnProcess]:
    """Begins to render the sets that are rendered, in processes of their own, and returns these by the set's name:
    trials that start together would each render for themselves, and 2,000 pictures take some minutes. They end with
    this process."""
    wanted = {
        name: (data_folder(name, source, session.out / "study", root), source.generate)
        for study in studies
        for name, source in read_study(study).sources.items()
        if source.generate is not None
    }
    rendering = {
        name: SPAWN.Process(target=generate, args=(folder,), kwargs=given, daemon=True)
        for name, (folder, given) in wanted.items()
    }
    for process in rendering.values():
        process.start()
    return rendering


def run_trials(
    session: Session, studies: Sequence[str], root: Path, processes: int, rendering: Mapping[str, SpawnProcess]
) -> None:
    """Trains and scores trials of studies, several at a time, each in a process of its own, until the time is over.
    Those on a set that is being rendered wait for it, and others go first."""
    todo: list[tuple[str, Job]] = []
    planned: set[tuple[str, str]] = set()
    for study in studies:
        plan = read_study(study)
        jobs = [job for job in waiting(session, plan, root) if {(t.data, t.digest) for t in job} - planned]
        planned |= {(trial.data, trial.digest) for job in jobs for trial in job}
        print(f"{plan.name}: {sum(map(len, jobs))} of its {len(plan.trials)} trials to do", flush=True)
        todo += [(study, job) for job in jobs]
    todo.sort(key=lambda entry: entry[1][0].seed)  # what the time leaves undone is then whole seeds
    running: dict[subprocess.Popen[bytes], tuple[Job, float]] = {}
    try:
        while session.left > SAVING and (todo or running):
            absent = {name for name, process in rendering.items() if process.is_alive()}
            ready = [entry for entry in todo if entry[1][0].data not in absent]
            if session.left < SAVING + LEAST:
                ready = todo = []
            for study, job in ready[: processes - len(running)]:
                todo.remove((study, job))
                running[_start(session, study, job, root, processes)] = (job, time.time())
            time.sleep(0.2)
            for process in [process for process in running if process.poll() is not None]:
                job, began = running.pop(process)
                _tell(session, job, process.returncode, began)
                pack(session)
    finally:
        for process in running:
            process.terminate()  # it makes its step, saves and ends
        stop = time.time() + SAVING
        for process, (job, began) in running.items():
            try:
                process.wait(max(0.0, stop - time.time()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _tell(session, job, process.returncode, began)


def _start(session: Session, study: str, job: Job, root: Path, processes: int) -> subprocess.Popen[bytes]:
    words = ["--data", job[0].data, "--seeds", str(job[0].seed), "--cells", *(trial.cell for trial in job)]
    words += ["--root", str(root), "--out", str(session.out / "study")]
    folder = session.out / "kit"
    folder.mkdir(parents=True, exist_ok=True)
    found = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(found)}
    if (folder / "weights").is_dir():  # where torch.hub, and so timm, looks for what it has fetched
        (folder / "torch/hub").mkdir(parents=True, exist_ok=True)
        if not (folder / "torch/hub/checkpoints").is_symlink():
            (folder / "torch/hub/checkpoints").symlink_to(folder / "weights")
        environment["TORCH_HOME"] = str(folder / "torch")
    if session.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with session.log(_label(job)).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "grcn", "study", "run", study, *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
        )


def _tell(session: Session, job: Job, code: int, began: float) -> None:
    """A line for a job that has ended, or was told to."""
    results = [read_result(session.out / "study", trial) for trial in job]
    found = [f"{t.cell} AP {r['metrics']['AP'] or 0:.3f}" for t, r in zip(job, results, strict=True) if r is not None]
    if None in results:
        lines = session.log(_label(job)).read_text(errors="replace").splitlines()
        found.append(f"status {code}: {lines[-1] if lines else ''}")
    print(f"{job[0].data} seed {job[0].seed}: {', '.join(found)}; {time.time() - began:.0f} s", flush=True)


def _label(job: Job) -> str:
    return f"{job[0].data}-{job[0].cell}-{job[0].seed}-{job[0].digest}"


def pack(session: Session) -> list[str]:
    """Writes the archive; returns what was left out so that it stays below its limit, the least worth first."""
    files = [path for pattern in KEPT for path in sorted(session.out.glob(pattern))]
    left_out: list[str] = []
    while len(content := _packed(session.out, files, left_out)) > ARCHIVE_BYTES:
        left_out.append(str(files.pop().relative_to(session.out)))
    session.archive.parent.mkdir(parents=True, exist_ok=True)
    new = session.archive.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, session.archive)
    return left_out


def _packed(out: Path, files: Sequence[Path], left_out: Sequence[str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path in files:
            tar.add(path, path.relative_to(out))
        note = "".join(f"{name}\n" for name in left_out).encode()
        entry = tarfile.TarInfo("left_out.txt")
        entry.size = len(note)
        tar.addfile(entry, io.BytesIO(note))
    return packed.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9, help="of this call, at most")
    parser.add_argument("--device", choices=gpu_parts.SIZES, default="cuda")
    parser.add_argument(
        "--study", nargs="+", help="YAML files or names of studies; default: the claim's; cpu: a tiny one"
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="what to do; default: all")
    parser.add_argument("--processes", type=int, default=4, help="trials at a time")
    parser.add_argument("--root", type=Path, help="folder of the study's data sets; default: OUT/kit/data")
    parser.add_argument("--out", type=Path, help="folder of records; default: gpu-out/DEVICE")
    parser.add_argument("--archive", type=Path, metavar="FILE.tar.gz", help="default: OUT/gpu.tar.gz")
    options = parser.parse_args()
    deadline = time.time() + 60 * options.minutes
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("cuda: torch finds no such device; --device cpu is for trying")
    out = (options.out or Path("gpu-out") / options.device).resolve()
    named = options.study or STUDIES[options.device]
    studies = [str(Path(study).resolve()) if Path(study).is_file() else study for study in named]
    session = Session(out, options.device, deadline, (options.archive or out / "gpu.tar.gz").resolve())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    root = (options.root or out / "kit" / "data").resolve()
    try:
        rendering = render(session, studies, root) if "trials" in options.sections else {}
        for section, parts in gpu_parts.parts(options.device).items():
            if section in options.sections:
                measure(session, section, parts)
        if "trials" in options.sections:
            take_records(session, studies)
            run_trials(session, studies, root, options.processes, rendering)
    finally:
        for name in pack(session):
            print(f"left out of the archive: {name}")
        print(
            f"{session.archive}: {session.archive.stat().st_size / 1e3:.0f} kB; the same command continues", flush=True
        )


if __name__ == "__main__":
    main()
