"""The commands of `grcn`: each parses its words, does its job with the package's functions, and returns the exit code.

A command imports what it needs when it runs, after its words are read: `--help` and wrong words are answered at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grcn.cli import data, demo, evaluate, export, models, predict, push, serve, study, train


@dataclass(frozen=True)
class Command:
    """A subcommand: what it does in a line, and the function that takes its words and returns the exit code."""

    summary: str
    run: Callable[[Sequence[str]], int]


COMMANDS = {
    "train": Command("train a detector on a folder of labelled images", train.train),
    "evaluate": Command("AP50, AP70, AP and more of a detector or of a results file", evaluate.evaluate),
    "gap": Command("what classification and localization each cost a detector", evaluate.gap),
    "predict": Command("find objects in images and videos; draw them, write them down", predict.predict),
    "export": Command("write a detector as one file for ONNX Runtime, OpenVINO or torch.export", export.export),
    "check": Command("look through a data set before training on it", data.check),
    "models": Command("list the detectors, or show which map each task of one sees", models.models),
    "data generate": Command("write the embedded data set", data.generate),
    "data download": Command("fetch voc2007, voc2012 or coco2017", data.download),
    "study run": Command("train and score the detectors of a comparison, over data sets and seeds", study.run),
    "study table": Command("the tables and plots of a study", study.table),
    "serve": Command("answer over HTTP: photos in, objects out", serve.serve),
    "push": Command("upload a detector to the Hugging Face Hub", push.push),
    "demo": Command("the whole job on the embedded data set, in minutes; of a run: a page to try it", demo.demo),
}
