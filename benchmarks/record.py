"""What every record of a benchmark holds beside its figures: the command, versions and the machine."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision

from grcn.runtime import processor


def write(path: Path, rows: Sequence[dict[str, Any]], **more: Any) -> None:
    """Writes `rows` as JSON with all that a reader needs to judge or repeat them."""
    record = {
        "command": "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *map(_short, sys.argv[1:])]),
        **header(),
        **more,
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def header() -> dict[str, Any]:
    """The commit (empty where git does not know it), versions and the machine."""
    git = ["git", "-C", str(Path(__file__).parents[1]), "describe", "--always", "--dirty", "--exclude", "*"]
    known = shutil.which("git") is not None
    return {
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() if known else "",
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        "machine": {"processor": processor(), "threads": torch.get_num_threads(), "system": platform.system()},
    }


def _short(argument: str) -> str:
    """An absolute path by its last name: where a machine keeps its files is of no use to others."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """`rows` as a Markdown table of `columns`."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
