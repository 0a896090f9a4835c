"""The page of `grcn gap`: one HTML file that contains its plots, to read on a screen or in print."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from grcn.evaluation.coco import IOU, nan_mean
from grcn.evaluation.gap import ERRORS, KEYS, ORACLES, Gap, Intervals, rank_correlation
from grcn.palette import PALETTE
from grcn.reports.figures import figure_fonts

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

    _Draw = Callable[[Axes, Sequence[str], Sequence[Gap]], None]

# Each detector has its own colour of the palette. In grey print, line style, marker and hatch tell them apart.
_LINES = ("-", "--", "-.", ":")
_HATCHES = ("", "///", "\\\\\\", "xx", "--", "||", "++")


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
        names: names of the detectors.
        gaps: results of the detectors, on the same images.
        intervals: bootstrap intervals of the detectors; None: the page shows none.
        data: name and split of the data set, for the title.
        detections: number of detections of each detector.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("grcn", "reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["points"] = lambda value: "–" if np.isnan(value) else f"{100 * value:.1f}"
    return environment.get_template("gap_page.html").render(
        data=data,
        images=len(gaps[0].matches["none"].objects),
        objects=int(gaps[0].matches["none"].objects.sum()),
        classes=len(gaps[0].class_names),
        draws=intervals.resamples if intervals else 0,
        iou=f"{gaps[0].errors.iou:g}",
        keys=KEYS,
        oracles=ORACLES,
        errors=ERRORS,
        gaps=[
            {
                "name": name,
                "detections": detections[i],
                "figures": gap.figures(),
                "intervals": intervals.of[i] if intervals else {},
                "differences": intervals.difference[i] if intervals else {},
                "counts": gap.errors.count.sum(axis=1).tolist(),
                "costs": gap.errors.cost,
                "parts": list(_parts(gap)),
            }
            for i, (name, gap) in enumerate(zip(names, gaps, strict=True))
        ],
        pictures={key: _picture(key, draw, names, gaps, height) for key, (draw, height) in _PICTURES.items()},
    )


def _parts(gap: Gap) -> Iterator[dict[str, Any]]:
    """A row of the last table for each class and size.

    It has the AP under each oracle, and the number of true positives, their mean IoU, and the rank correlation of their
    scores and IoUs.
    """
    scores, overlap, objects = gap.true_positives()
    sizes = np.digitize(gap.areas, [32.0**2, 96.0**2])
    parts = [
        (name, [gap.results[o].ap[:, c] for o in ORACLES], gap.labels[objects] == c)
        for c, name in enumerate(gap.class_names)
    ] + [
        (name, [gap.results[o].ap_by_size[s] for o in ORACLES], sizes[objects] == s)
        for s, name in enumerate(("small", "medium", "large"))
    ]
    for name, ap, own in parts:
        yield {
            "name": name,
            "ap": [nan_mean(values) for values in ap],
            "count": int(own.sum()),
            "overlap": nan_mean(overlap[own]),
            "correlation": rank_correlation(scores[own], overlap[own]),
        }


def _picture(key: str, draw: _Draw, names: Sequence[str], gaps: Sequence[Gap], height: float) -> Markup:
    """An SVG picture to put into the page, with its text as text. The same data give the same bytes.

    Args:
        height: height in inches; all pictures have the same width.
    """
    import matplotlib
    from markupsafe import Markup
    from matplotlib.figure import Figure

    # A fixed salt, because the ids in the file depend on it.
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "font.family": "sans-serif"}),
        figure_fonts(names),
    ):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        axes = figure.subplots()
        draw(axes, names, gaps)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    picture = file.getvalue()
    return Markup(picture[picture.index("<svg") :])


def _bars(axes: Axes, names: Sequence[str], groups: Sequence[str], values: Sequence[Sequence[float]]) -> None:
    """Draws groups of bars, with one bar per detector and its value on it."""
    width = 0.8 / len(names)
    for i, (name, heights) in enumerate(zip(names, values, strict=True)):
        at = np.arange(len(groups)) - 0.4 + width * (i + 0.5)
        style = {"color": PALETTE[i % len(PALETTE)], "hatch": _HATCHES[i % len(_HATCHES)], "edgecolor": "white"}
        bars = axes.bar(at, 100 * np.asarray(heights), width, label=name, **style)  # type: ignore[arg-type]
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("AP")
    if len(names) > 1:
        _legend(axes)


def _legend(axes: Axes) -> None:
    """Adds a legend if anything has a label. Labels are names, so a `$` in them does not begin a formula."""
    if axes.get_legend_handles_labels()[0]:
        for text in axes.legend(frameon=False, fontsize=8).get_texts():
            text.set_parse_math(False)


def _line(i: int) -> dict[str, Any]:
    """The style of the lines of detector i."""
    return {"color": PALETTE[i % len(PALETTE)], "linestyle": _LINES[i % len(_LINES)]}


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


# How each picture is drawn, and its height in inches.
_PICTURES: dict[str, tuple[_Draw, float]] = {
    "losses": (_draw_losses, 2.8),
    "by_iou": (_draw_by_iou, 3.4),
    "errors": (_draw_errors, 2.8),
    "overlaps": (_draw_true_positives, 3.0),
    "scores": (_draw_scores, 3.0),
}
