"""The graph that is exported: resizing as torch does it, and what is found as `Detector` finds it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grcn import Detections, Detector
from grcn.config import DetectorConfig, InputConfig, RoIConfig, RPNConfig
from grcn.data.transforms import output_size, resize
from grcn.export.graph import Graph, _output_size, _resized
from grcn.predict.optimize import optimized
from lively import NAMES, assert_same, lively, scene, small

SIDES = st.integers(1, 900)


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, st.integers(32, 300), st.integers(0, 300))
def test_the_size_is_the_detectors(height: int, width: int, short: int, more: int) -> None:
    found = _output_size(torch.tensor([height, width]), InputConfig(short, short + more))
    assert tuple(found.tolist()) == output_size(height, width, short, short + more)


@settings(deadline=None, max_examples=50)
@given(SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_resizing_is_torchs(height: int, width: int, seed: int) -> None:
    image = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8))
    expected = resize(image, 100, 160)
    h, w = expected.shape[1:]
    found = _resized(image.permute(1, 2, 0)[None], torch.tensor([h, w]), (-(-h // 32), -(-w // 32)))[0].permute(2, 0, 1)
    # torch's weights are doubles: a sum next to a half may round to the other side.
    apart = (found[:, :h, :w] - expected).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 1e-3
    assert not found[:, h:].any()
    assert not found[:, :, w:].any()


FEW = DetectorConfig(
    backbone="resnet18",
    input=InputConfig(64, 64),
    rpn=RPNConfig(anchor_sizes=(16.0,), channels=16, pre_nms_test=500, post_nms_test=400),  # 48 anchors in all
    roi=RoIConfig(fc_channels=16, reduce_channels=8, score_threshold=0.0),
)


@pytest.mark.parametrize("config", [small("paper_r18"), FEW], ids=["grcn", "few anchors"])
def test_the_graph_is_the_detector(config: DetectorConfig) -> None:
    """Resized and scaled back in the graph, a batch at a time, or by `Detector`."""
    model = lively(config)
    detector = Detector(model, NAMES)
    graph = Graph(optimized(model, "fold")).eval()
    total = 0
    for height, width in ((96, 128), (133, 77)):
        images = [scene(height, width, seed) for seed in range(2)]
        with torch.no_grad():
            batch = graph(torch.from_numpy(np.stack(images)))
        for i, image in enumerate(images):
            expected, (boxes, scores, ids) = detector.predict(image), (part[i].numpy() for part in batch)
            found = len(expected)
            total += found
            assert (ids[found:] == -1).all()
            assert not scores[found:].any()
            assert_same(Detections(boxes[:found], scores[:found], ids[:found], NAMES), expected)
    assert total > 20


def test_nothing_found_is_nothing_but_filling() -> None:
    model = lively(replace(small("paper_r18"), roi=replace(small("paper_r18").roi, score_threshold=1.0)))
    with torch.no_grad():
        boxes, scores, ids = Graph(model.eval())(torch.zeros(2, 50, 60, 3, dtype=torch.uint8))
    assert not boxes.any()
    assert not scores.any()
    assert (ids == -1).all()


def test_images_of_one_colour_and_one_pixel() -> None:
    graph = Graph(lively(small("paper_r18")).eval())
    for size in ((1, 1), (1, 300), (300, 1)):
        with torch.no_grad():
            parts: tuple[Tensor, ...] = graph(torch.full((1, *size, 3), 255, dtype=torch.uint8))
        assert all(part.isfinite().all() for part in parts)
