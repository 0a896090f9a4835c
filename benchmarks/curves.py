"""Draws how runs learned: the loss, and AP where it was validated, over iterations, from their metrics.csv.

python benchmarks/curves.py RUN... --out curves.png
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path

import matplotlib.pyplot as plt

from grcn.palette import PALETTE


def column(rows: list[dict[str, str]], name: str) -> tuple[list[int], list[float]]:
    """Iterations and values where the column has any."""
    found = [(int(row["iteration"]), float(row[name])) for row in rows if row.get(name)]
    return [iteration for iteration, _ in found], [value for _, value in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders that hold their metrics.csv")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    runs = {}
    for run in options.runs:
        with open(run / "metrics.csv", newline="") as file:
            runs[run.name] = list(csv.DictReader(file))
    validated = any(column(rows, "AP")[0] for rows in runs.values())
    figure, axes = plt.subplots(1, 2 if validated else 1, figsize=(10 if validated else 6, 3.6), squeeze=False)
    for (name, rows), color in zip(runs.items(), itertools.cycle(PALETTE), strict=False):
        axes[0, 0].plot(*column(rows, "loss"), label=name, linewidth=1, color=color)
        if validated:
            for key, style in (("AP50", "-"), ("AP70", "--"), ("AP", ":")):
                axes[0, 1].plot(*column(rows, key), style, marker="o", label=f"{name} {key}", color=color)
    for axis, label in zip(axes[0], ("training loss", "on the validation split"), strict=False):
        axis.set_xlabel("iterations")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
