"""The page of `grcn gap`: one HTML file with its plots inside, to read on a screen or in print."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from grcn.evaluation.coco import IOU, nan_mean
from grcn.evaluation.gap import ERRORS, KEYS, ORACLES, Gap, Intervals, rank_correlation
from grcn.reports.figures import figure_fonts
from grcn.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by every kind of colour vision; in grey print by line style, marker and hatch.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_HATCHES = ("", "///", "\\\\\\", "xx", "--", "||", "++")

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0.8rem 0; font-size: 0.92rem; }
th, td { padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #555; }
.wide { overflow-x: auto; } figure { margin: 0.5rem 0; } svg { max-width: 100%; height: auto; }
figcaption, .note { color: #444; font-size: 0.9rem; } .range { color: #555; font-size: 0.82rem; white-space: nowrap; }
@media print { body { font-size: 10.5pt; max-width: none; margin: 0; } h2, figure, table { break-inside: avoid; } }
"""


def gap_page(
    names: Sequence[str],
    gaps: Sequence[Gap],
    intervals: Intervals | None,
    *,
    data: str,
    detections: Sequence[int],
) -> str:
    """The page as HTML.

    Args:
        names: of the detectors.
        gaps: theirs, on the same images.
        intervals: bootstrap intervals of the same detectors; None: without.
        data: the data set's name and split, as the title says it.
        detections: how many each detector made.
    """
    images, objects = len(gaps[0].matches["none"].objects), int(gaps[0].matches["none"].objects.sum())
    iou = gaps[0].errors.iou
    several = len(gaps) > 1
    sections = [
        f"<h1>What each task loses: {escape(data)}</h1>",
        f'<p class="note">{images} images, {objects} objects, {len(gaps[0].class_names)} classes; detections: '
        + ", ".join(f"{escape(name)} {count}" for name, count in zip(names, detections, strict=True))
        + ". AP by the COCO rule, in points of 100."
        + (f" Ranges are 95% bootstrap intervals over images, {intervals.resamples} draws." if intervals else "")
        + "</p>",
        "<h2>Oracles: what would be gained by mending one task</h2>",
        "<p>Every detection that overlaps an object by at least 0.1 takes the box of the object it overlaps most "
        "(localization), its class (classification), or both; scores and all else stay. What AP gains is what "
        "the task loses.</p>",
        _oracle_table(names, gaps, intervals),
        _figure(_draw_losses, names, gaps, "AP that each task loses, by detector.", (7.2, 2.8)),
    ]
    if several and intervals:
        sections += [
            f"<h2>Differences to {escape(names[0])}</h2>",
            "<p>On the same draws of images; a range that leaves out zero would hold on other images of the same kind. "
            "It does not tell how another training seed would move it.</p>",
            _difference_table(names, gaps, intervals),
        ]
    sections += _details(names, gaps, iou)
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'  # none, so that no browser asks a server for one
        f"<title>grcn gap: {escape(data)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _details(names: Sequence[str], gaps: Sequence[Gap], iou: float) -> list[str]:
    """The sections below the oracles: by IoU, errors, how tight boxes are, classes and sizes."""
    return [
        "<h2>AP by IoU</h2>",
        _figure(
            _draw_by_iou,
            names,
            gaps,
            "AP as the IoU that a detection needs grows; thin: with localization mended.",
            (7.2, 3.4),
        ),
        "<h2>Errors and what they cost</h2>",
        f"<p>TIDE's types at IoU {iou:g}: each false positive and each missed object has one cause; the cost is the "
        "AP gained by mending that cause alone, so costs do not add up.</p>",
        _error_table(names, gaps),
        _figure(_draw_errors, names, gaps, f"Cost of each type in AP at IoU {iou:g}.", (7.2, 2.8)),
        "<h2>How tight the true positives are</h2>",
        _figure(
            _draw_true_positives,
            names,
            gaps,
            "Share of the true positives at IoU 0.5 whose IoU is at least the value below.",
            (7.2, 3.0),
        ),
        _figure(
            _draw_scores,
            names,
            gaps,
            "Mean IoU of true positives by tenths of their scores: where scores tell the quality of boxes, it rises.",
            (7.2, 3.0),
        ),
        "<h2>By class and by size</h2>",
        _breakdown_table(names, gaps),
        '<p class="note">AP and the AP with each task mended; the rank correlation (Spearman) is between score and '
        "IoU of true positives at IoU 0.5. Sizes are COCO's: small below 32², large above 96² pixels.</p>",
    ]


def _points(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def _range(interval: tuple[float, float]) -> str:
    low, high = (_points(value) for value in interval)
    return f'<span class="range">{low} to {high}</span>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    heading = "".join(f"<th>{cell}</th>" for cell in head)
    return f'<div class="wide"><table><thead><tr>{heading}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _oracle_table(names: Sequence[str], gaps: Sequence[Gap], intervals: Intervals | None) -> str:
    rows = []
    for i, (name, gap) in enumerate(zip(names, gaps, strict=True)):
        figures = gap.figures()
        for oracle in ORACLES:
            row = [escape(name) if oracle == "none" else f"&emsp;{oracle} mended"]
            for key in KEYS:
                figure = key if oracle == "none" else f"{key} {oracle}"
                row.append(_points(figures[figure]) + (f" {_range(intervals.of[i][figure])}" if intervals else ""))
            loss = f"AP loses {oracle}"
            row.append("" if oracle == "none" else _points(figures[loss]))
            rows.append(row)
    return _table(["detector", *KEYS, "AP lost"], rows)


def _difference_table(names: Sequence[str], gaps: Sequence[Gap], intervals: Intervals) -> str:
    wanted = [*KEYS, "AP loses localization", "AP loses classification"]
    first = gaps[0].figures()
    rows = []
    for i in range(1, len(gaps)):
        figures = gaps[i].figures()
        cells = [f"{100 * (figures[k] - first[k]):+.1f} {_range(intervals.difference[i][k])}" for k in wanted]
        rows.append([escape(names[i]), *cells])
    return _table(["detector", *KEYS, "AP lost to localization", "AP lost to classification"], rows)


def _error_table(names: Sequence[str], gaps: Sequence[Gap]) -> str:
    rows = []
    for name, gap in zip(names, gaps, strict=True):
        counts = gap.errors.count.sum(axis=1)
        for heading, cells in (
            (escape(name), [str(int(count)) for count in counts]),
            ("&emsp;share", [f"{100 * count / max(counts.sum(), 1):.0f}%" for count in counts]),
            ("&emsp;cost", [_points(cost) for cost in gap.errors.cost]),
        ):
            rows.append([heading, *cells])
    return _table(["detector", *ERRORS], rows)


def _breakdown_table(names: Sequence[str], gaps: Sequence[Gap]) -> str:
    rows = []
    for name, gap in zip(names, gaps, strict=True):
        scores, overlap, objects = gap.true_positives()
        sizes = np.digitize(gap.areas, [32.0**2, 96.0**2])
        parts: list[tuple[str, list[Array], Array]] = [
            (class_name, [gap.results[o].ap[:, c] for o in ORACLES], gap.labels[objects] == c)
            for c, class_name in enumerate(gap.class_names)
        ] + [
            (size, [gap.results[o].ap_by_size[s] for o in ORACLES], sizes[objects] == s)
            for s, size in enumerate(("small", "medium", "large"))
        ]
        for part, ap, own in parts:
            correlation = rank_correlation(scores[own], overlap[own])
            rows.append(
                [
                    f"{escape(name)}: {escape(part)}",
                    *(_points(nan_mean(values)) for values in ap),
                    str(int(own.sum())),
                    _points(float(overlap[own].mean())) if own.any() else "–",
                    "–" if correlation is None else f"{correlation:.2f}",
                ]
            )
    head = ["detector: part", "AP", *(f"{o} mended" for o in ORACLES[1:]), "true positives", "mean IoU", "rank corr."]
    return _table(head, rows)


def _figure(
    draw: Callable[[Axes, Sequence[str], Sequence[Gap]], None],
    names: Sequence[str],
    gaps: Sequence[Gap],
    caption: str,
    inches: tuple[float, float],
) -> str:
    """An SVG picture inside the page, its text as text."""
    import matplotlib
    from matplotlib.figure import Figure

    # The salt makes the ids in the file, and so the file, the same at each writing.
    style = {"svg.fonttype": "none", "svg.hashsalt": caption, "font.family": "sans-serif"}
    with matplotlib.rc_context(style), figure_fonts(names):
        figure = Figure(figsize=inches, layout="constrained")
        axes = figure.subplots()
        draw(axes, names, gaps)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    picture = file.getvalue()
    return f"<figure>{picture[picture.index('<svg') :]}<figcaption>{escape(caption)}</figcaption></figure>"


def _bars(axes: Axes, names: Sequence[str], groups: Sequence[str], values: Sequence[Sequence[float]]) -> None:
    """Groups of bars, a bar for each detector, each with its value."""
    width = 0.8 / len(names)
    for i, (name, heights) in enumerate(zip(names, values, strict=True)):
        at = np.arange(len(groups)) - 0.4 + width * (i + 0.5)
        style = {"color": _COLORS[i % len(_COLORS)], "hatch": _HATCHES[i % len(_HATCHES)], "edgecolor": "white"}
        bars = axes.bar(at, 100 * np.asarray(heights), width, label=name, **style)  # type: ignore[arg-type]
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("AP")
    if len(names) > 1:
        _legend(axes)


def _legend(axes: Axes) -> None:
    """Of what has a label, if anything has; labels hold names, so a `$` in them is no formula."""
    if axes.get_legend_handles_labels()[0]:
        for text in axes.legend(frameon=False, fontsize=8).get_texts():
            text.set_parse_math(False)


def _line(i: int) -> dict[str, Any]:
    """How the lines of detector i look."""
    return {"color": _COLORS[i % len(_COLORS)], "linestyle": _LINES[i % len(_LINES)]}


def _draw_losses(axes: Axes, names: Sequence[str], gaps: Sequence[Gap]) -> None:
    figures = [gap.figures() for gap in gaps]
    _bars(axes, names, ORACLES[1:], [[f[f"AP loses {o}"] for o in ORACLES[1:]] for f in figures])


def _draw_errors(axes: Axes, names: Sequence[str], gaps: Sequence[Gap]) -> None:
    _bars(axes, names, ERRORS, [gap.errors.cost.tolist() for gap in gaps])


def _draw_by_iou(axes: Axes, names: Sequence[str], gaps: Sequence[Gap]) -> None:
    for i, (name, gap) in enumerate(zip(names, gaps, strict=True)):
        style = _line(i)
        for oracle, width, label in (("none", 2.0, name), ("localization", 0.8, None)):
            ap = [100 * nan_mean(gap.results[oracle].at(t)) for t in IOU]  # type: ignore[index]
            axes.plot(IOU, ap, linewidth=width, label=label, **style)
    axes.set(xlabel="IoU", ylabel="AP", ylim=(0, 100), xticks=IOU)
    _legend(axes)


def _draw_true_positives(axes: Axes, names: Sequence[str], gaps: Sequence[Gap]) -> None:
    for i, (name, gap) in enumerate(zip(names, gaps, strict=True)):
        overlap = gap.true_positives()[1]
        if len(overlap):
            at = np.linspace(0.5, 1, 101)
            style = _line(i)
            share = 100 * (overlap[:, None] >= at).mean(axis=0)
            axes.plot(at, share, label=f"{name} (median {np.median(overlap):.2f})", **style)
    axes.set(xlabel="IoU", ylabel="% of true positives", xlim=(0.5, 1), ylim=(0, 102))
    _legend(axes)


def _draw_scores(axes: Axes, names: Sequence[str], gaps: Sequence[Gap]) -> None:
    for i, (name, gap) in enumerate(zip(names, gaps, strict=True)):
        scores, overlap, _ = gap.true_positives()
        tenths = [part for part in np.array_split(overlap[np.argsort(scores, kind="stable")], 10) if len(part)]
        correlation = rank_correlation(scores, overlap)
        label = name if correlation is None else f"{name} (rank correlation {correlation:.2f})"
        style = _line(i) | {"marker": "os^Dv<>"[i % 7]}
        axes.plot(range(1, len(tenths) + 1), [part.mean() for part in tenths], label=label, markersize=4, **style)
    axes.set(xlabel="tenth of the scores, from the least sure to the surest", ylabel="mean IoU", xticks=range(1, 11))
    _legend(axes)
