"""Score thresholds, calibration and errors, as a picture and as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from grcn.data.text import and_more, listed
from grcn.palette import PALETTE
from grcn.reports.tables import HINT, MOST_ROWS, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

_BEFORE, _AFTER = PALETTE[:2]  # as in the curves of precision and recall


def reliability_figure(calibration: dict[str, Any]) -> Figure:
    """The reliability diagram: the share of correct detections against the score, before and after temperature scaling.

    A second panel has the number of detections for each score.

    Args:
        calibration: the section of metrics.json, from `grcn.evaluation.calibration.measure_calibration`.
    """
    from matplotlib.figure import Figure

    of_file = calibration.get("of_file")
    used = of_file or calibration
    source = f" of {of_file['data']}, {of_file['split']}" if of_file else " of this split"
    series = (
        (calibration["reliability"], _BEFORE, "o", f"scores as they are: error {calibration['error']:.3f}"),
        (
            calibration["reliability_scaled"],
            _AFTER,
            "s",
            f"temperature {used['temperature']:.2f}{source}: error {used['error_scaled']:.3f}",
        ),
    )
    figure = Figure(figsize=(5.2, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    figure.suptitle(f"Reliability of {calibration['detections']} detections, IoU ≥ {calibration['iou']:g}", fontsize=11)
    above.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":", label="as sure as it is right")
    for bins, color, marker, label in series:
        filled = [row for row in bins if row["detections"]]
        scores, right = ([row[key] for row in filled] for key in ("score", "right"))
        above.plot(scores, right, color=color, marker=marker, markersize=5, linewidth=1.4, label=label)
        edges = [bins[0]["from"], *(row["to"] for row in bins)]
        counts = [row["detections"] for row in bins]
        below.stairs(counts, edges, color=color, linewidth=1.4, baseline=None)
    above.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share that is right")
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", fontsize=8, frameon=False)
    below.set(xlabel="score", ylabel="detections", yscale="symlog", ylim=(0, None), xticks=np.linspace(0, 1, 6))
    for panel in (above, below):
        panel.grid(color="0.88", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def print_scores(metrics: dict[str, Any], console: Console) -> None:
    """Prints the sections `thresholds`, `calibration`, `errors` and `confusion` of metrics.json, in 80 columns.

    The thresholds are those in the detector's file, with what they give here. Without any, the best ones for this split
    are printed.
    """
    from rich.text import Text

    section = metrics["thresholds"]
    shown = section.get("of_file", section)
    source = f"chosen on {shown['data']}, {shown['split']}" if "of_file" in section else "chosen on this split"
    figures = ("best F1\nfrom", "prec.", "recall", "F1", f"prec. {shown['precision']:g}\nfrom", "prec.", "recall")
    rows = table("class", figures, f"score thresholds {source}, and what they give here at IoU {section['iou']:g}")

    def add_row(name: Text, row: dict[str, Any]) -> None:
        best, precise = row["best"] or {}, row["precise"] or {}
        cells = [best.get(key) for key in ("score", "precision", "recall", "F1")]
        cells += [precise.get(key) for key in ("score", "precision", "recall")]
        rows.add_row(name, *("-" if value is None else f"{value:.3f}" for value in cells))

    classes = [
        (name, row)
        for name, row in shown["per_class"].items()
        if row["objects"] or (row["best"] or {}).get("precision") is not None
    ]
    for name, row in classes[:MOST_ROWS]:
        add_row(Text(name), row)
    if more := and_more(len(classes) - MOST_ROWS, HINT):
        rows.add_row(more)
    rows.add_section()
    add_row(Text("all", "bold"), shown["all"])
    console.print(rows)
    for line in (_calibration(metrics["calibration"]), _errors(metrics["errors"]), _confusions(metrics["confusion"])):
        console.print(Text(line), highlight=False)


def _calibration(section: dict[str, Any] | None) -> str:
    if section is None:
        return "calibration error: none, since there are no scores from 0 to 1"
    text = f"calibration error of {section['detections']} scores: {section['error']:.3f}"
    if of_file := section.get("of_file"):
        text += f"; with the stored temperature {of_file['temperature']:.2f}: {of_file['error_scaled']:.3f}"
    return (
        f"{text}; with the best temperature for this split, {section['temperature']:.2f}: {section['error_scaled']:.3f}"
    )


def _errors(section: dict[str, Any]) -> str:
    counts = ", ".join(f"{section[name]} {name}" for name in ("right", "loose", "false", "missed"))
    return f"at {section['scores']}: {counts}"


def _confusions(section: dict[str, Any], most: int = 5) -> str:
    pairs = [
        (count, name, other)
        for name, row in section["found_as"].items()
        for other, count in row.items()
        if other != name
    ]
    told = [f"{name} as {other} {count}" for count, name, other in sorted(pairs, key=lambda pair: -pair[0])]
    return "found as another class: " + (listed(told, most, HINT) or "none")
