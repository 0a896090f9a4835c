"""`grcn gap`: detectors side by side, with the AP that each task loses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grcn.evaluation.gap import ERRORS, KEYS, ORACLES, Gap, Intervals, to_json
from grcn.reports.gap_page import gap_page
from grcn.reports.tables import table


def label(sources: Sequence[str]) -> list[str]:
    """A short name for each source: that of its file or folder, or the whole path if two have the same name.

    >>> label(["runs/c4", "runs/grcn/", "other/c4"])
    ['runs/c4', 'grcn', 'other/c4']
    >>> label(["hf://me/cells", "hf://you/cells"])
    ['hf://me/cells', 'hf://you/cells']
    """
    paths = [Path(source) for source in sources]
    short = [path.stem if path.suffix in (".json", ".jsonl", ".safetensors") else path.resolve().name for path in paths]
    whole = [source if source.startswith("hf://") else str(Path(source)) for source in sources]
    return [name if short.count(name) == 1 else other for name, other in zip(short, whole, strict=True)]


def page_and_json(
    names: Sequence[str], gaps: Sequence[Gap], intervals: Intervals | None, detections: Sequence[int], data: str
) -> tuple[str, dict[str, Any]]:
    """The page as HTML, and the same figures as plain values for JSON."""
    page = gap_page(names, gaps, intervals, data=data, detections=detections)
    matches = gaps[0].matches["none"]
    detectors = []
    for i, (name, gap) in enumerate(zip(names, gaps, strict=True)):
        entry = {"name": name, "detections": detections[i], **to_json(gap)}
        if intervals:
            entry["intervals"] = _finite(intervals.of[i])
            entry["difference_to_first"] = _finite(intervals.difference[i])
        detectors.append(entry)
    content = {
        "data": data,
        "images": len(matches.objects),
        "objects": int(matches.objects.sum()),
        "class_names": list(gaps[0].class_names),
        "resamples": intervals.resamples if intervals else 0,
        "detectors": detectors,
    }
    return page, content


def _finite(intervals: dict[str, tuple[float, float]]) -> dict[str, list[float] | None]:
    return {key: None if np.isnan(ends).any() else list(ends) for key, ends in intervals.items()}


def print_gaps(names: Sequence[str], gaps: Sequence[Gap], intervals: Intervals | None) -> None:
    """Prints the AP that each task and each type of error loses, in points of 100."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    lost = [f"AP loses {oracle}" for oracle in ORACLES[1:]]
    headings = (*KEYS, "lost to\nloc.", "lost to\ncls.", "lost to\nboth")
    rows = table("detector", headings, "AP, and how much of it is lost to each task (points of 100)")
    for i, (name, gap) in enumerate(zip(names, gaps, strict=True)):
        figures = gap.figures()
        rows.add_row(Text(name), *(f"{100 * figures[key]:.1f}" for key in (*KEYS, *lost)))
        if intervals:
            for e, end in enumerate(("2.5%", "97.5%")):
                values = (100 * intervals.of[i][key][e] for key in (*KEYS, *lost))
                rows.add_row(f"  {end}", *(f"{value:.1f}" for value in values), style="dim")
    console.print(rows)
    title = f"AP{100 * gaps[0].errors.iou:g} lost to each type of error, and the number of errors"
    errors = table("detector", [_ERROR_HEADINGS[error] for error in ERRORS], title)
    for name, gap in zip(names, gaps, strict=True):
        errors.add_row(Text(name), *(f"{100 * cost:.1f}" for cost in gap.errors.cost))
        errors.add_row("  number", *(str(count.sum()) for count in gap.errors.count), style="dim")
    console.print()
    console.print(errors)


_ERROR_HEADINGS = {
    "classification": "wrong\nclass",
    "localization": "loose\nbox",
    "both": "\nboth",
    "duplicate": "\nduplicate",
    "background": "\nbackground",
    "missed": "\nmissed",
}
