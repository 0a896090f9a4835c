"""Anchors, box coding, overlaps and matching against torchvision's, on the same inputs."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from grcn.geometry import boxes as box_ops
from grcn.geometry.anchors import cell_anchors, grid_anchors
from grcn.geometry.matching import BACKGROUND, IGNORED, match

SEEDS = st.integers(0, 2**31)
STEADY = settings(deadline=None, derandomize=True, max_examples=50)


def random_boxes(seed: int, *shape: int, size: float = 400.0, smallest: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * size
    return torch.cat((corner, corner + smallest + torch.rand(*shape, 2, generator=generator) * size / 2), dim=-1)


@given(
    st.lists(st.floats(4, 600), min_size=1, max_size=5),
    st.lists(st.floats(0.2, 5), min_size=1, max_size=4),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.sampled_from((8, 16, 32)),
)
@STEADY
def test_anchors(sizes: list[float], ratios: list[float], grid: tuple[int, int], stride: int) -> None:
    generator = AnchorGenerator((tuple(sizes),), (tuple(ratios),))
    height, width = grid
    images = ImageList(torch.zeros(1, 3, height * stride, width * stride), [(height * stride, width * stride)])
    (expected,) = generator(images, [torch.zeros(1, 2, height, width)])
    assert torch.equal(grid_anchors(cell_anchors(sizes, ratios), grid, stride), expected)


@given(SEEDS, st.tuples(*[st.floats(0.5, 20)] * 4))
@STEADY
def test_coding_both_ways(seed: int, weights: tuple[float, float, float, float]) -> None:
    boxes, references = random_boxes(seed, 20, smallest=10), random_boxes(seed + 1, 20, smallest=10)
    coder = BoxCoder(weights)
    deltas = box_ops.encode(boxes, references, weights)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, references), rtol=1e-5, atol=1e-5)
    decoded = box_ops.decode(deltas, references, weights)
    torch.testing.assert_close(decoded, coder.decode_single(deltas, references), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(decoded, boxes, rtol=0, atol=1e-2)


@given(SEEDS, st.floats(0.1, 100))
@STEADY
def test_decoding_any_deltas_of_several_classes(seed: int, scale: float) -> None:
    references = random_boxes(seed, 12)
    deltas = torch.randn(12, 5, 4, generator=torch.Generator().manual_seed(seed)) * scale
    weights = (10.0, 10.0, 5.0, 5.0)
    expected = BoxCoder(weights).decode(deltas.flatten(1), [references])  # [12, 5, 4]
    found = box_ops.decode(deltas, references[:, None], weights)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    sides = references[:, None, 2:] - references[:, None, :2]
    assert ((found[..., 2:] - found[..., :2]) <= 62.51 * sides + 1e-2).all()
    assert math.isclose(box_ops.MAX_LOG_RATIO, BoxCoder(weights).bbox_xform_clip)


@given(SEEDS, st.integers(0, 8), st.integers(0, 8))
@STEADY
def test_overlaps_and_clipping(seed: int, n: int, m: int) -> None:
    a, b = random_boxes(seed, n) - 50, random_boxes(seed + 1, m)
    torch.testing.assert_close(box_ops.iou(a, b), ops.box_iou(a, b), rtol=0, atol=1e-6)
    assert torch.equal(box_ops.area(a), ops.box_area(a))
    assert torch.equal(box_ops.clip(a, torch.tensor([0.0, 0, 300, 200])), ops.clip_boxes_to_image(a, (200, 300)))


@given(SEEDS, st.integers(1, 9), st.booleans(), st.sampled_from(((0.7, 0.3), (0.5, 0.5), (0.3, 0.1))))
@STEADY
def test_matching(seed: int, count: int, keep_best: bool, thresholds: tuple[float, float]) -> None:
    foreground, background = thresholds
    # Few places, so that overlaps tie and boxes coincide.
    objects, boxes = random_boxes(seed, count, size=8.0).round(), random_boxes(seed + 1, 60, size=8.0).round()
    objects[:, 2:].clamp_(min=1), boxes[:, 2:].clamp_(min=1)
    objects[:, 2:] = torch.maximum(objects[:, 2:], objects[:, :2] + 1)
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    reached = ops.box_iou(objects, boxes).amax(dim=1) > 0  # our one difference, below
    objects = objects[reached]
    expected = torch.full((60,), BACKGROUND)
    if len(objects):
        expected = Matcher(foreground, background, keep_best)(ops.box_iou(objects, boxes))
    real = torch.ones(1, len(objects), dtype=torch.bool)
    options = {"foreground": foreground, "background": background, "keep_best": keep_best}
    assert torch.equal(match(objects[None], real, boxes, **options)[0], expected)
    assert set(expected[expected < 0].tolist()) <= {BACKGROUND, IGNORED}
    # Padded with objects that are not there, which lie right on the boxes, and beside another image's objects.
    padded = torch.cat((objects, boxes[:3]))
    mask = torch.tensor([True] * len(objects) + [False] * 3)
    both = match(torch.stack((padded, padded)), torch.stack((mask, ~mask)), boxes.expand(2, -1, -1), **options)
    assert torch.equal(both[0], expected)
    assert (both[1, :3] >= len(objects)).all()


def test_matching_leaves_boxes_alone_that_an_object_does_not_reach() -> None:
    """torchvision calls every box beside it a best match (of overlap 0) and makes all of them positive."""
    objects, boxes = torch.tensor([[500.0, 500, 510, 510]]), random_boxes(0, 20)
    theirs = Matcher(0.7, 0.3, True)(ops.box_iou(objects, boxes))
    assert (theirs == 0).all()
    real = torch.ones(1, 1, dtype=torch.bool)
    ours = match(objects[None], real, boxes, foreground=0.7, background=0.3, keep_best=True)
    assert (ours == BACKGROUND).all()
