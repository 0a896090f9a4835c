"""The league: equal minutes on two cores, the same start from ImageNet, detectors side by side on small sets.

    python benchmarks/league.py run --data ROOT --out OUT [--minutes 20] [--seeds 0 1 2] [--only aquarium-fcos-0 ...]
    python benchmarks/league.py table OUT --out docs/results/league

ROOT holds aquarium, vehicles and bccd, of which `train` is trained on. Ours is the one command, `grcn train --data SET
--minutes M`, which spends some of its minutes on validation. The others get what it chooses: EfficientNet-Lite0 from
ImageNet, input size, anchors where they take some, optimizer, learning rate, schedule, precision and moving average,
through the same loop, without validation (benchmarks/peer_trial.py). All are scored on `test` with their last weights.

Trials go seed by seed, each in a process of its own, and one that is done is not made again. Beside other work the
minutes are not equal: leave the machine to it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

import record
from trained_peers import KINDS

SETS = ("aquarium", "vehicles", "bccd")
OURS = "grcn"
METRICS = ("AP", "AP50", "AP70", "AP75")
HERE = Path(__file__).parent


def run(options: argparse.Namespace) -> None:
    for seed in options.seeds:
        for name in SETS:
            for detector in (OURS, *KINDS):
                trial = f"{name}-{detector}-{seed}"
                out = options.out / trial
                if (options.only and trial not in options.only) or (out / "result.json").exists():
                    continue
                print(trial, flush=True)
                work = ours if detector == OURS else peer
                work(detector, options.data / name, out, seed, options.minutes)


def ours(detector: str, data: Path, out: Path, seed: int, minutes: float) -> None:
    train = ["train", "--data", data, "--minutes", minutes, "--seed", seed, "--out", out]
    grcn([*train, "--resume", "true"])
    report = out / "test"
    grcn(["evaluate", out / "last.safetensors", "--data", data, "--split", "test", "--out", report])
    metrics = json.loads((report / "metrics.json").read_text())
    config = yaml.safe_load((out / "config.yaml").read_text())
    rows = [{"detector": detector, "seed": seed, **{key: metrics[key] for key in METRICS}}]
    record.write(out / "result.json", rows, iterations=config["iterations"], data=data.name)


def peer(detector: str, data: Path, out: Path, seed: int, minutes: float) -> None:
    values = {
        "data": str(data),
        "train_split": "train",
        "val_split": "none",
        "preset": "faster_rcnn_lite0_fpn",
        "minutes": minutes,
    }
    file = out.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(values))
    words = [file, "--out", out, "--detector", detector, "--seed", seed]
    subprocess.run([sys.executable, HERE / "peer_trial.py", *map(str, words)], check=True)
    result = json.loads((out / "result.json").read_text())
    config = yaml.safe_load((out / "config.yaml").read_text())
    (out / "result.json").write_text(
        json.dumps(result | {"iterations": config["iterations"], "data": data.name}, indent=1) + "\n"
    )


def grcn(words: list[object]) -> None:
    subprocess.run([sys.executable, "-m", "grcn", *map(str, words)], check=True)


def table(options: argparse.Namespace) -> None:
    """One table a set, by AP70: mean and standard deviation over seeds, in points; the records go beside it."""
    results = [
        (path.parent.name, json.loads(path.read_text())) for path in sorted(options.folder.glob("*/result.json"))
    ]
    parts = []
    for name in SETS:
        rows = []
        for detector in (OURS, *KINDS):
            own = [r for trial, r in results if trial.rsplit("-", 1)[0] == f"{name}-{detector}"]
            if own:
                figures = {key: [100 * r["rows"][0][key] for r in own] for key in METRICS}
                steps = statistics.mean(r["iterations"] for r in own)
                rows.append((statistics.mean(figures["AP70"]), detector, len(own), figures, round(steps)))
        if not rows:
            continue
        lines = [f"## {name}", "", "| detector | seeds | " + " | ".join(METRICS) + " | iterations |", "|---" * 7 + "|"]
        for _, detector, count, figures, steps in sorted(rows, reverse=True, key=lambda row: row[0]):
            cells = " | ".join(_spread(figures[key]) for key in METRICS)
            lines.append(f"| {detector} | {count} | {cells} | {steps} |")
        parts.append("\n".join(lines))
    text = "\n\n".join(parts) + "\n"
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "README.md").write_text(f"# The league\n\n{text}")
        for trial, result in results:
            (options.out / f"{trial}.json").write_text(json.dumps(result, indent=1) + "\n")


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("run")
    first.add_argument("--data", type=Path, required=True)
    first.add_argument("--out", type=Path, required=True)
    first.add_argument("--minutes", type=float, default=20.0)
    first.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    first.add_argument("--only", nargs="+", default=[])
    first.set_defaults(do=run)
    second = commands.add_parser("table")
    second.add_argument("folder", type=Path)
    second.add_argument("--out", type=Path)
    second.set_defaults(do=table)
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
