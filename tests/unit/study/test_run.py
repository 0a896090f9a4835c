"""What a trial's result says of the objects that it learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from grcn.data.dataset import open_dataset
from grcn.scenes.generate import generate
from grcn.study.plan import read_study
from grcn.study.run import Job, _objects


def test_objects_are_counted_by_the_map_from_which_each_task_reads_them(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "question: Which map?\nbaseline: own\n"
        "base: {preset: grcn_r18_fpn, weights: random, iterations: 1}\n"
        "data: {beach: {generate: {images: 12, size: [128, 96], object_size: [10, 70]},"
        "  config: {model: {input: {short_side: 96, long_side: 128}}}}}\n"
        "cells: {own: {model: {cls_cells: 2, loc_cells: 7}}}\n"
    )
    (trial, *_), sources = (study := read_study(tmp_path / "mine.yaml")).trials, study.sources
    folder = generate(tmp_path / "beach", **sources["beach"].generate)
    told = _objects(Job(trial, sources["beach"], str(folder), "", {}, {}), trial.config.model)
    boxes = np.concatenate([record.target.boxes for record in open_dataset(folder, split="train").records])
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    assert told["count"] == len(sides)
    for task, cells in (("cls", 2), ("loc", 7)):
        spans = [sides >= cells * stride for stride in (8, 16, 32)]  # the finest takes what spans none
        shares = [
            1 - spans[0].mean(),
            *(a.mean() - b.mean() for a, b in zip(spans, [*spans[1:], spans[2] * 0], strict=True)),
        ]
        np.testing.assert_allclose(told["levels"][task], shares, atol=6e-4)
    assert told["levels"]["cls"] != told["levels"]["loc"]
