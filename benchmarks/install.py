"""Each extra installed alone, and a command that needs it: megabytes of wheels, seconds, megabytes on the disk.

    python benchmarks/install.py [EXTRA...] [--uv UV] [--out FILE.json]

uv installs what uv.lock says for the extra, and grcn as a wheel, into an environment of its own that goes afterwards;
seconds depend on what uv's cache has. `core` is no extra at all. Where an extra is of no use alone, the one it is tried
with is named. The data set, run and exported detectors that the commands take are made before, by this environment.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from PIL import Image

import record
from grcn.cli.main import main as grcn

ROOT = Path(__file__).parents[1]
TRAIN = (
    "grcn train --data photos --preset grcn_r18 --weights random --iterations 1 --batch_size 2 --workers 0"
    " --val_split none --model.input.short_side 96 --model.input.long_side 128 --model.roi.fc_channels 16"
    " --model.roi.score_threshold 0"
)
PREDICT = "photos/JPEGImages --out found --score 0"
STUDY = """
question: Does it run?
baseline: shared
seeds: [0, 1]
base: {preset: grcn_r18, weights: random, iterations: 1, batch_size: 2, workers: 0, model: {input: {short_side: 64,
  long_side: 96}, roi: {fc_channels: 16}}}
data: {photos: {path: photos}}
cells:
  shared: {model: {separation: none, cls_stride: 16, cls_context: none}}
  parted: {}
"""
VIDEO = """
from pathlib import Path
import numpy as np
from grcn.predict.video import read_video, write_video
with open("a.mp4", "wb") as file, write_video(file, 10, 96, 128) as write:
    [write(np.full((96, 128, 3), 20 * i, np.uint8)) for i in range(5)]
with read_video(Path("a.mp4")) as video:
    print(len(list(video.frames)), "frames")
"""
TRACK = """
from grcn.predict.track import Tracker
from grcn.types import Detections
tracker = Tracker(25, 0.3)
for number in range(3):
    found = tracker.update(number, Detections([[10 + number, 10, 40 + number, 40]], [0.9], [0], ("a",)))
assert found.track_ids[0] >= 0, found
"""
SUPERVISION = """
from grcn.types import Detections
found = Detections([[1, 2, 3, 4]], [0.5], [0], ("a",))
print(Detections.from_supervision(found.to_supervision(), ("a",)))
"""
HUB = """
from grcn.predict.checkpoint import load_detector
from grcn.predict.hub import model_card
print(model_card("someone/photos", load_detector("run/last.safetensors")))
"""


@dataclass(frozen=True)
class Trial:
    """What shows that an extra is enough.

    Args:
        commands: lines for the shell of the environment, or Python where they have several lines.
        beside: another extra, without which this one is of no use.
        page: a command that serves, and the path that is asked of it.
    """

    commands: tuple[str, ...] = ()
    beside: str = ""
    page: tuple[str, str] | None = None


TRIALS = {
    "core": Trial(
        (
            "grcn check photos",
            "grcn evaluate --predictions results.json --data photos",
            "grcn gap results.json --data photos --resamples 3 --out gap",
        )
    ),
    "train": Trial((f"{TRAIN} --out new", f"grcn predict new {PREDICT}")),
    "onnx": Trial((f"grcn predict model.onnx {PREDICT}",)),
    "openvino": Trial((f"grcn predict openvino {PREDICT}",)),
    "export": Trial(
        (
            "grcn export run --format onnx --out new.onnx",
            "grcn export run --format openvino --int8 --data photos --out int8",
        )
    ),
    "video": Trial((VIDEO, f"grcn predict model.onnx clip.mp4 {PREDICT}"), beside="onnx"),
    "track": Trial((TRACK, f"grcn predict model.onnx clip.mp4 {PREDICT} --track"), beside="onnx"),
    "supervision": Trial((SUPERVISION,)),
    "heic": Trial((f"grcn predict model.onnx photo.heic {PREDICT}",), beside="onnx"),
    "parquet": Trial(("grcn check folder",)),
    "study": Trial(
        ("grcn study run study.yaml --out studies --engine ray", "grcn study table study.yaml --out studies")
    ),
    "serve": Trial(beside="onnx", page=("grcn serve model.onnx --port 0", "/healthz")),
    "demo": Trial(page=("grcn demo run", "/")),
    "hub": Trial((HUB,)),
    "tensorboard": Trial((f"{TRAIN} --loggers [tensorboard] --out new",)),
    "wandb": Trial((f"{TRAIN} --loggers [wandb] --out new",)),
    "mlflow": Trial((f"{TRAIN} --loggers [mlflow] --out new",)),
    "all": Trial(("grcn export run --format onnx --out new.onnx", f"grcn predict new.onnx {PREDICT}")),
}


def prepare(folder: Path) -> None:
    """Writes what the commands take: data sets, a run, exported detectors, results, a study, a video, a HEIC photo."""
    sys.path.append(str(ROOT / "tests"))
    import pyarrow
    from pyarrow import parquet

    import heic
    from grcn.predict.video import write_video

    before = Path.cwd()
    os.chdir(folder)
    try:
        for words in (
            "data generate photos --images 16 --size 96 72",
            f"{TRAIN.removeprefix('grcn ')} --out run",
            "export run --format onnx --out model.onnx",
            "export run --format openvino --out openvino",
            "evaluate run --data photos --out report",
        ):
            with redirect_stdout(sys.stderr):  # standard output is for the figures
                code = grcn(words.split())
            if code:
                raise RuntimeError(f"grcn {words}: exit code {code}")
    finally:
        os.chdir(before)
    shutil.move(folder / "report" / "results.json", folder / "results.json")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "photo.heic").write_bytes(heic.HEIC)
    (folder / "folder" / "train").mkdir(parents=True)
    photo = shutil.copy(next((folder / "photos" / "JPEGImages").iterdir()), folder / "folder" / "train")
    row = {"file_name": Path(photo).name, "objects": {"bbox": [[10, 10, 50, 40]], "categories": ["towel"]}}
    parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "folder" / "train" / "metadata.parquet")
    with open(folder / "clip.mp4", "wb") as file, write_video(file, 10, 72, 96) as write:
        for path in sorted((folder / "photos" / "JPEGImages").iterdir())[:3]:
            write(np.asarray(Image.open(path).resize((96, 72))))


def install(extra: str, environment: Path, uv: str = "uv") -> dict[str, Any]:
    """Installs one extra alone, and what its trial names beside it, into a new environment.

    Returns:
        `packages`, `wheels` and `disk` in MB, `seconds`.

    Raises:
        RuntimeError: with what uv said.
    """
    extras = [name for name in (extra, TRIALS[extra].beside) if name not in ("", "core")]
    words = [uv, "sync", "--frozen", "--no-editable", "--reinstall-package", "grcn", "--python", sys.executable]
    start = time.perf_counter()
    done = subprocess.run(
        [*words, *(word for name in extras for word in ("--extra", name))],
        cwd=ROOT,
        env=os.environ | {"UV_PROJECT_ENVIRONMENT": str(environment)},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{extra}: {done.stderr}")
    (packages,) = environment.glob("lib/python*/site-packages")
    names = [path.name.removesuffix(".dist-info").rpartition("-") for path in packages.glob("*.dist-info")]
    sizes = _wheel_sizes()
    wheels = [sizes[canonicalize_name(name), version] for name, _, version in names if name != "grcn"]
    disk = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file() and not path.is_symlink())
    return {"packages": len(wheels), "wheels": sum(wheels) / 1e6, "disk": disk / 1e6, "seconds": seconds}


def _wheel_sizes() -> dict[tuple[str, str], int]:
    """Bytes of the wheel that suits this Python and system, or of the source archive, by package and version."""
    rank = {tag: i for i, tag in enumerate(sys_tags())}
    sizes = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
        fitting = []
        for wheel in package.get("wheels", ()):
            tags = parse_wheel_filename(wheel["url"].rpartition("/")[2])[3]
            if ranks := [rank[tag] for tag in tags if tag in rank]:
                fitting.append((min(ranks), wheel["size"]))
        archive = package.get("sdist", {}).get("size", 0)
        sizes[package["name"], package.get("version", "")] = min(fitting)[1] if fitting else archive
    return sizes


def try_out(extra: str, environment: Path, work: Path) -> float:
    """Runs the trial of an extra in the folder of `prepare`; gives its seconds.

    Raises:
        RuntimeError: with what the command said.
    """
    clean = {"PATH": f"{environment / 'bin'}:/usr/bin:/bin", "HOME": str(work), "OMP_NUM_THREADS": "1"}
    offline = {"WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    trial, start = TRIALS[extra], time.perf_counter()
    for command in trial.commands:
        words = ["python", "-c", command] if "\n" in command else command.split()
        words[0] = str(environment / "bin" / words[0])
        done = subprocess.run(words, cwd=work, env=clean | offline, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise RuntimeError(f"{extra}: {command}: {done.stdout}{done.stderr}")
    if trial.page:
        _visit(*trial.page, environment, work, clean | offline)
    return time.perf_counter() - start


def _visit(command: str, path: str, environment: Path, work: Path, variables: dict[str, str]) -> None:
    program, *words = command.split()
    log = work / "served.log"
    with open(log, "w") as out:
        server = subprocess.Popen(
            [str(environment / "bin" / program), *words], cwd=work, env=variables, stdout=out, stderr=out
        )
        try:
            end = time.monotonic() + 120
            while not (address := re.search(r"http://[\w.]+:\d+", log.read_text())):
                if server.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{command}: {log.read_text()}")
                time.sleep(0.1)
            with urllib.request.urlopen(address[0] + path, timeout=60) as answer:
                answer.read()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", metavar="EXTRA", default=list(TRIALS), help=f"of {', '.join(TRIALS)}")
    parser.add_argument("--uv", default="uv")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for extra in options.extras:
            row = {"extra": extra, "beside": TRIALS[extra].beside}
            with tempfile.TemporaryDirectory() as place:
                work = Path(place) / "work"
                shutil.copytree(folder, work)
                row |= install(extra, Path(place) / "environment", options.uv)
                row["trial_seconds"] = try_out(extra, Path(place) / "environment", work)
            rows.append(row)
            print(json.dumps(row), flush=True)
    if options.out:
        record.write(options.out, rows)


if __name__ == "__main__":
    main()
