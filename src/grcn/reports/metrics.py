"""The report of one evaluation: metrics.json, pictures of curves and confusions, and a table for the terminal.

matplotlib is used through its objects (`Figure`), never through `pyplot`, which has global state and may open windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grcn.data.text import and_more, listed
from grcn.evaluation.confusion import confusion_matrix
from grcn.evaluation.voc import VocMatches, ap_key, match_voc
from grcn.files import atomic_file, write_json
from grcn.fonts import drawable
from grcn.palette import PALETTE
from grcn.reports.figures import figure_fonts
from grcn.reports.scores import print_scores, reliability_figure
from grcn.reports.tables import HINT, MOST_ROWS, table
from grcn.types import Array, Detections, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console

CURVE_IOU = (0.5, 0.7)
# In grey print, the line style tells them apart.
_CURVE_STYLES: tuple[dict[str, Any], ...] = (
    {"color": PALETTE[0], "linestyle": "-"},
    {"color": PALETTE[1], "linestyle": "--"},
)
_CLASSES_A_PAGE = 80
_DPI = 150


def write_report(
    out: str | Path,
    metrics: dict[str, Any],
    detections: Sequence[Detections],
    targets: Sequence[Target],
    class_names: Sequence[str],
    *,
    score: float | Array = 0.5,
    iou: float = 0.5,
    scores_in_words: str | None = None,
) -> list[Path]:
    """Writes metrics.json, precision_recall.png, confusion_matrix.png and, with calibration in it, reliability.png.

    The curves follow the VOC rule at IoU 0.5 and 0.7, with one panel for each class that has objects. A picture has at
    most 80 panels; the next is precision_recall_2.png, and so on. The confusion matrix is from `confusion_matrix`. The
    reliability diagram shows the section `calibration` of the metrics.

    Args:
        out: the folder. It is created if it does not exist, and files of these names in it are replaced.
        metrics: the result of `evaluate`.
        detections, targets, class_names: the arguments of `evaluate`.
        score, iou: thresholds of the confusion matrix. `score` may be [C] float32, one per class; `scores_in_words`
            then describes it.

    Returns:
        The files that were written, metrics.json first.

    Raises:
        DataError: if images or classes do not correspond.
        CheckpointError: if the folder cannot be written. A file is written completely or not at all.
    """
    out = Path(out)
    names = drawable(tuple(class_names))
    matches = match_voc(targets, detections, len(names), iou=CURVE_IOU)
    confusions = confusion_matrix(targets, detections, len(names), score=score, iou=iou)
    written = [out / "metrics.json"]
    write_json(written[0], metrics, indent=2)
    with figure_fonts(names):
        said = scores_in_words or f"score ≥ {score:g}"
        figures = {"confusion_matrix.png": confusion_figure(confusions, names, scores_in_words=said, iou=iou)}
        if calibration := metrics.get("calibration"):
            figures["reliability.png"] = reliability_figure(calibration)
        for page, figure in enumerate(precision_recall_figures(matches, names), start=1):
            figures["precision_recall.png" if page == 1 else f"precision_recall_{page}.png"] = figure
        for name, figure in figures.items():
            written.append(out / name)
            with atomic_file(written[-1]) as file:
                figure.savefig(file, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.1)
    return written


def precision_recall_figures(matches: VocMatches, class_names: Sequence[str]) -> list[Figure]:
    """Figures with a panel for each class that has objects: its measured curve, and the envelope that AP integrates.

    Args:
        matches: matches at IoU 0.5 and 0.7.
        class_names: the C names.
    """
    drawn = np.flatnonzero(matches.objects)
    left_out = len(class_names) - len(drawn)
    note = f"\n(no objects and so no curve: {left_out} of {len(class_names)} classes)" if left_out else ""
    pages = [drawn[i : i + _CLASSES_A_PAGE].tolist() for i in range(0, max(len(drawn), 1), _CLASSES_A_PAGE)]
    return [_precision_recall_page(matches, class_names, page, note) for page in pages]


def _precision_recall_page(matches: VocMatches, names: Sequence[str], classes: list[int], note: str) -> Figure:
    from matplotlib.figure import Figure

    count = len(classes)
    columns = max(count, 1) if count <= 3 else min(8, math.ceil(math.sqrt(1.3 * count)))
    rows = max(1, math.ceil(count / columns))
    side, font = (3.0, 9.5) if columns <= 3 else (2.4, 8.5) if columns <= 5 else (2.0, 7.5)  # inches, points
    figure = Figure(figsize=(max(columns * side, 6.0), rows * side + 1.2), layout="constrained")
    figure.suptitle(f"Precision and recall, AP by area (VOC rule){note}", fontsize=11)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()  # sharex is slow with many
    for panel in panels[count:]:
        panel.set_axis_off()
    for panel, class_id in zip(panels, classes, strict=False):
        _draw_curves(panel, matches, class_id)
        aps = "   ".join(f"{ap_key(iou)} {matches.curve(iou, class_id).ap('area'):.3f}" for iou in CURVE_IOU)
        panel.set_title(f"{_wrapped(names[class_id], round(side * 11))}\n{aps}", fontsize=font, parse_math=False)
        panel.tick_params(labelsize=7, labelleft=panel.get_subplotspec().is_first_col())
    if count:
        figure.supxlabel("recall", fontsize=10)
        figure.supylabel("precision", fontsize=10)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    return figure


def _draw_curves(panel: Axes, matches: VocMatches, class_id: int) -> None:
    for iou, style in zip(CURVE_IOU, _CURVE_STYLES, strict=True):
        curve = matches.curve(iou, class_id)
        panel.plot(curve.recall, curve.precision, color=style["color"], linewidth=0.7, alpha=0.45)
        # The envelope starts at recall 0, is level up to each recall, and drops to 0 after the last detection.
        recall = np.concatenate([[0.0], curve.recall, curve.recall[-1:]])
        precision = np.concatenate([curve.envelope[:1], curve.envelope, [0.0]])
        panel.plot(recall, precision, drawstyle="steps-pre", linewidth=1.6, label=f"IoU {iou:g}", **style)
    panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    panel.grid(color="0.88", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def confusion_figure(matrix: Array, class_names: Sequence[str], *, scores_in_words: str, iou: float) -> Figure:
    """The confusion matrix as a picture: counts, coloured by their share of the row.

    Args:
        matrix: [C + 1, C + 1] from `confusion_matrix`.
        class_names: the C names. If there are more than 80, only the 80 classes with most objects are drawn, and the
            title says so.
        scores_in_words, iou: the thresholds of the matrix.
    """
    from matplotlib.figure import Figure

    background = len(class_names)
    most = np.argsort(-matrix[:background].sum(axis=1), kind="stable")[:_CLASSES_A_PAGE]
    shown = np.append(np.sort(most), background)
    counts = matrix[np.ix_(shown, shown)]
    share = counts / np.maximum(matrix[shown].sum(axis=1, keepdims=True), 1)
    names = [_shortened(class_names[c], 28) for c in shown[:-1]]
    n = len(shown)

    cell, font = (0.62, 9.0) if n <= 12 else (0.42, 7.0) if n <= 30 else (0.2, 6.0)  # inches, points
    figure = Figure(figsize=(max(n * cell + 3.2, 6.0), n * cell + 2.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(n), [*names, "background (missed)"], fontsize=max(font, 6.5), rotation=90, parse_math=False)
    axes.set_yticks(range(n), [*names, "background (false)"], fontsize=max(font, 6.5), parse_math=False)
    axes.set_xlabel("found as", fontsize=10)
    axes.set_ylabel("annotated as", fontsize=10)
    only = f"\n(the {n - 1} of {background} classes with most objects)" if n <= background else ""
    figure.suptitle(f"Confusions at IoU ≥ {iou:g}, {scores_in_words}{only}", fontsize=11)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.axhline(n - 1.5, color="0.3", linewidth=1.2)
    axes.axvline(n - 1.5, color="0.3", linewidth=1.2)
    if n <= 30:
        for row, column in zip(*np.nonzero(counts), strict=True):
            ink = "white" if share[row, column] > 0.55 else "black"
            axes.text(column, row, _compact(counts[row, column]), ha="center", va="center", fontsize=font, color=ink)
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 4 / (n * cell)), aspect=18, pad=0.02)
    bar.set_label("share of the row", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def print_metrics(metrics: dict[str, Any], console: Console) -> None:
    """Prints the result of `evaluate`: a table by class, further means, and the rules of counting.

    If thresholds were measured, it also prints them and the calibration. The table has VOC's AP at the first two IoUs;
    the lines below it have all IoUs.
    """
    from rich.text import Text

    coco_keys = ["AP", "AP50", "AP70", "AP75"]
    voc_keys = [key for key in metrics["voc_area"] if key.startswith("AP")]
    title = f"{metrics['images']} images, {metrics['objects']} objects, {metrics['detections']} detections"
    rows = table("class", ("objects", *coco_keys, *(f"VOC\n{key}" for key in voc_keys[:2])), title)

    def add_row(name: Text, coco: dict[str, Any], voc: dict[str, Any]) -> None:
        aps = [coco[key] for key in coco_keys] + [voc[key] for key in voc_keys[:2]]
        rows.add_row(name, str(coco["objects"]), *map(_figure, aps))

    shown = [(name, row) for name, row in metrics["per_class"].items() if row["objects"]]
    for name, row in shown[:MOST_ROWS]:
        add_row(Text(name), row, metrics["voc_area"]["per_class"][name])
    if more := and_more(len(shown) - MOST_ROWS, HINT):
        rows.add_row(more)
    rows.add_section()
    add_row(Text("mean", "bold"), metrics, metrics["voc_area"])
    console.print(rows)
    lines = [
        ("by size", metrics, ["APs", "APm", "APl"]),
        ("recall", metrics, ["AR1", "AR10", "AR100"]),
        ("VOC by area", metrics["voc_area"], voc_keys),
        ("VOC by 11 points", metrics["voc_11point"], voc_keys),
    ]
    for heading, figures, keys in lines:
        console.print(f"{heading}: " + ", ".join(f"{key} {_figure(figures[key])}" for key in keys), highlight=False)
    if "thresholds" in metrics:
        console.print()
        print_scores(metrics, console)
    if metrics["classes_without_objects"]:
        names = listed(metrics["classes_without_objects"], 5, HINT)
        console.print(Text(f"without objects, and so not in the means: {names}"))
    console.print(Text(f"AP: {metrics['rule']}", "dim"))
    for section in ("voc_area", "voc_11point"):
        console.print(Text(f"{section}: {metrics[section]['mode']}; {metrics[section]['difficult']}", "dim"))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _compact(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _wrapped(name: str, width: int) -> str:
    """A name in at most two lines of `width` characters."""
    import textwrap

    return "\n".join(textwrap.wrap(name, width, max_lines=2, placeholder="…")) or name
