"""`grcn models`: the detectors as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from grcn.model.summary import DetectorSummary


def print_models(summaries: Mapping[str, DetectorSummary]) -> None:
    """Prints a row for each detector."""
    table = _table("preset", "shared", "head", "context")
    for heading in ("RPN", "cls", "loc", "params M", "GMAC"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, summary in summaries.items():
        config = summary.config
        contexts = {"cls": config.cls_context, "loc": config.loc_context}
        table.add_row(
            name,
            {"none": "end", "roi": "RoIs"}.get(config.separation, config.separation),
            config.head,
            ", ".join(f"{task} {context}" for task, context in contexts.items() if context != "none") or "-",
            *(_range(strides) for strides in summary.strides),
            f"{summary.parameters / 1e6:.1f}",
            f"{summary.macs / 1e9:.0f}",
        )
    console = Console()
    console.print(table)
    any_summary = next(iter(summaries.values()))
    console.print(
        _conditions(any_summary) + "; shared: last part that both tasks share; RPN, cls, loc: strides of their maps",
        style="dim",
    )


def print_model(name: str, summary: DetectorSummary) -> None:
    """Prints one detector stage by stage."""
    table = _table("task", "stage", "reads", title=name)
    for heading in ("stride", "width", "cells", "params M", "GMAC"):
        table.add_column(heading, justify="right", no_wrap=True)
    last = summary.stages[0].task
    for stage in summary.stages:
        if stage.task != last:
            table.add_row()
        last = stage.task
        table.add_row(
            stage.task,
            stage.name,
            stage.reads,
            "" if stage.stride is None else str(stage.stride),
            str(stage.channels),
            "" if stage.cells is None else f"{stage.cells[0]}x{stage.cells[1]}",
            f"{stage.parameters / 1e6:.2f}",
            f"{stage.macs / 1e9:.2f}",
        )
    table.add_row()
    table.add_row("", "sum", "", "", "", "", f"{summary.parameters / 1e6:.2f}", f"{summary.macs / 1e9:.2f}")
    console = Console()
    console.print(table)
    config = summary.config
    for task, strides, cells, context in (
        ("classification", summary.strides[1], config.cls_cells, config.cls_context),
        ("localization", summary.strides[2], config.loc_cells, config.loc_context),
    ):
        beside = "" if context == "none" else f", with {context} context"
        rule = "" if len(strides) == 1 else f"; each RoI reads the coarsest on which it spans {cells:g} cells"
        which = "a map" if len(strides) == 1 else "maps"
        console.print(f"{task} sees {which} of stride {_range(strides)}{rule}{beside}")
    console.print(_conditions(summary), style="dim")


def _range(strides: Sequence[int]) -> str:
    return str(strides[0]) if len(strides) == 1 else f"{strides[0]}-{strides[-1]}"


def _table(*headings: str, title: str | None = None) -> Table:
    """A table narrow enough for 80 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0), title=title)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _conditions(summary: DetectorSummary) -> str:
    height, width = summary.size
    return (
        f"for one image of {width}x{height}, {summary.proposals} proposals and {summary.num_classes} classes; "
        "GMAC: 10^9 multiply-adds of convolutions and linear layers"
    )
