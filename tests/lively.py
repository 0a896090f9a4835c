"""Small detectors with random weights that find much, scenes to find it in, and what equal detections are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from building import NAMED
from calibrate import enliven, tame
from grcn import Detections
from grcn.config import DetectorConfig, InputConfig
from grcn.export.export import TORCH
from grcn.model.detector import RCNN, build_detector
from grcn.scenes.render import render_scene

NAMES = ("a", "b", "c")
exports = pytest.mark.skipif(torch.__version__ < TORCH, reason=f"export needs torch {TORCH}")
"""Marks a test that exports a detector."""


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    pixels, _ = render_scene(np.random.default_rng(seed), (width, height), (12.0, 90.0), (6, 9))
    return np.ascontiguousarray(pixels)


def small(name: str) -> DetectorConfig:
    """The preset at a small input, with a small head."""
    config = NAMED[name]
    sizes = (12.0, 24.0, 48.0) if config.neck == "none" else (12.0, 18.0, 24.0, 36.0, 48.0)
    cells = {} if config.neck == "none" else {"neck_channels": 32, "cls_cells": 3.0, "loc_cells": 3.0}
    return replace(
        config,
        input=InputConfig(96, 160),
        rpn=replace(config.rpn, anchor_sizes=sizes, channels=32, pre_nms_test=200, post_nms_test=40),
        roi=replace(config.roi, fc_channels=32, reduce_channels=16),
        **cells,
    )


def lively(config: DetectorConfig) -> RCNN:
    """Random weights whose answers spread."""
    torch.manual_seed(0)
    model = build_detector(config, len(NAMES), weights=None)
    tame(model)
    image = torch.from_numpy(scene(96, 128)).permute(2, 0, 1) / 255
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return enliven(model, [image, image.flip(2)], [nothing] * 2)


def assert_same(found: Detections, expected: Detections, pixels: float = 0.05, score: float = 1e-3) -> None:
    """As many detections, and for each its own equal of the other; in any order, since equal scores have none."""
    assert found.class_names == expected.class_names
    assert len(found) == len(expected)
    free = np.ones(len(found), dtype=bool)
    for box, own_score, class_id in zip(expected.boxes, expected.scores, expected.class_ids, strict=True):
        alike = free & (found.class_ids == class_id) & (np.abs(found.scores - own_score) <= score)
        alike &= (np.abs(found.boxes - box) <= pixels).all(axis=1)
        assert alike.any(), f"class {class_id}, score {own_score}, {box}: not among the others"
        free[alike.argmax()] = False
