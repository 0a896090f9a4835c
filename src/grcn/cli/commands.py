"""The commands of `grcn`. Each parses its arguments, calls the functions of the package, and returns the exit code.

A command imports what it needs only after its arguments are parsed, so that `--help` and errors are printed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grcn.cli import benchmark, data, demo, evaluate, export, models, predict, push, serve, study, train


@dataclass(frozen=True)
class Command:
    """A subcommand: a summary in one line, and the function that takes its arguments and returns the exit code."""

    summary: str
    run: Callable[[Sequence[str]], int]


GROUPS = {
    "look at data": {
        "check": Command("show what a data set holds, and what is wrong with it", data.check),
        "data generate": Command("write a small rendered data set to try things on", data.generate),
        "data download": Command("download VOC 2007, VOC 2012 or COCO 2017", data.download),
    },
    "train": {
        "train": Command("train a detector on a folder of labelled photos", train.train),
        "models": Command("list the detectors, or show one stage by stage", models.models),
    },
    "measure": {
        "evaluate": Command("score a detector, or results of any tool, against labels", evaluate.evaluate),
        "gap": Command("measure what wrong classes and loose boxes each cost", evaluate.gap),
        "benchmark": Command("measure speed and memory of detectors on this machine", benchmark.benchmark),
        "study run": Command("train and score the detectors of a comparison", study.run),
        "study table": Command("write the tables and plots of a comparison", study.table),
    },
    "use": {
        "predict": Command("find objects in photos and videos", predict.predict),
        "demo": Command("run the whole job on sample data; try a detector in a browser", demo.demo),
        "serve": Command("serve a detector over HTTP: photos in, objects out", serve.serve),
    },
    "share": {
        "export": Command("write a detector for ONNX Runtime, OpenVINO or torch", export.export),
        "push": Command("upload a detector to the Hugging Face Hub", push.push),
    },
}
"""The commands, grouped by what a person wants to do."""

COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
