"""Seconds for an iteration of a study's small trial: Lite0, protocol C5, 8 pictures of 400x300, 64 RoIs each.

    python benchmarks/trial.py [--against COMMIT] [--preset NAME] [--weights FILE] [--threads 1]
        [--precision fp32] [--rounds 3] [--iterations 40] [--out FILE.json]

`grcn train`, whole, on rendered pictures: this tree's and, in turn, that of an earlier commit. A round's figure is the
median over its logged spans, the first left out; `waiting` is the share of it in which the loop waits for pictures.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import record
from grcn.scenes.generate import generate

TREE = Path(__file__).parents[1]
BATCH = 8
TARGET = 0.5
SETTINGS = (
    *("--batch_size", str(BATCH), "--workers", "1", "--val_split", "none"),
    *("--model.input.short_side", "300", "--model.input.long_side", "400", "--model.roi.batch_per_image", "64"),
    *("--optim.name", "adamw", "--optim.lr", "0.0005", "--optim.ema", "0.98", "--loggers", "[csv]"),
    *("--optim.weight_decay", "0.0001", "--schedule.kind", "step"),
)


def export(commit: str, folder: Path) -> Path:
    """The source folder of an earlier commit, written below `folder`."""
    archive = folder / "earlier.tar"
    subprocess.run(["git", "-C", TREE, "archive", "-o", archive, commit, "src"], check=True)
    with tarfile.open(archive) as file:
        file.extractall(folder / "earlier", filter="data")
    return folder / "earlier" / "src"


def trial(source: Path, data: Path, out: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds for an iteration by the code in `source`, and the share of them spent waiting for pictures."""
    command = [sys.executable, "-m", "grcn", "train", "--data", str(data), "--out", str(out), *SETTINGS]
    command += ["--precision", options.precision]
    command += ["--preset", options.preset, "--weights", options.weights, "--iterations", str(options.iterations)]
    # torch's cache of downloaded weights is the user's; nothing else of the environment differs between the two.
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    with open(out / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["images_per_second"]][1:]
    seconds = statistics.median(BATCH / float(row["images_per_second"]) for row in rows)
    return seconds, statistics.median(float(row["waiting"]) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="COMMIT", help="of this repository")
    parser.add_argument("--preset", default="faster_rcnn_lite0_c5")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32", help="as `grcn train` takes it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        data = generate(folder / "data", images=200, size=(400, 300), object_size=(60, 160), objects=(2, 5))
        sources = {"now": TREE / "src"}
        if options.against:
            sources = {"before": export(options.against, folder), **sources}
        found: dict[str, list[tuple[float, float]]] = {which: [] for which in sources}
        for k in range(options.rounds):
            for which, source in sources.items():
                found[which].append(trial(source, data, folder / f"{which}-{k}", options))
                print(f"{which}: {found[which][-1][0]:.3f} s an iteration", flush=True)
    seconds = {which: statistics.median(s for s, _ in figures) for which, figures in found.items()}
    row = {
        "preset": options.preset,
        "threads": options.threads,
        "precision": options.precision,
        "now_s": round(seconds["now"], 3),
    }
    row["waiting"] = round(statistics.median(w for _, w in found["now"]), 3)
    if options.against:
        ratio = seconds["now"] / seconds["before"]
        row |= {"before": options.against, "before_s": round(seconds["before"], 3), "ratio": round(ratio, 3)}
        row |= {"target": TARGET, "met": ratio <= TARGET}
    print(record.table([row], list(row)))
    if options.out:
        rounds = {which: [round(s, 3) for s, _ in figures] for which, figures in found.items()}
        record.write(options.out, [row], seconds=rounds)


if __name__ == "__main__":
    main()
