"""Every kernel of `grcn::nms` against torchvision's, set by set."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grcn.geometry import nms
from grcn.geometry.nms import at_once, in_groups, keep_best, set_by_set

KERNELS = {"at once": at_once, "in groups": in_groups, "set by set": set_by_set, "the operator": keep_best}


def random_sets(sets: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Boxes [N, P, 4] that overlap much, far from 0 and from whole numbers, and their scores."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(sets, count, 2, generator=generator) * 60 + 1000 * torch.rand(1, generator=generator)
    sides = 5 + torch.rand(sets, count, 2, generator=generator) * 40
    return torch.cat((corners, corners + sides), dim=2), torch.rand(sets, count, generator=generator)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@given(st.integers(0, 12), st.integers(0, 40), st.sampled_from((0.3, 0.7)), st.floats(0, 1), st.integers(1, 50))
@settings(deadline=None, max_examples=20, derandomize=True)
def test_what_is_kept_is_torchvisions(
    kernel: Callable[..., Tensor], sets: int, count: int, iou: float, threshold: float, most: int
) -> None:
    boxes, scores = random_sets(sets, count, sets + 1000 * count)
    kept = kernel(boxes, scores.t().contiguous().t(), iou, threshold, most)
    assert kept.shape == scores.shape
    for own, own_boxes, own_scores in zip(kept, boxes, scores, strict=True):
        alone = torchvision.ops.nms(own_boxes, own_scores, iou)
        expected = [int(k) for k in alone if own_scores[k] > threshold][:most]
        assert own.nonzero()[:, 0].tolist() == sorted(expected)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_many_boxes_are_kept_as_few_are(kernel: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = random_sets(80, 60, 0)
    scores[3] = -torch.inf  # such as of an image without proposals
    expected = kernel(boxes, scores, 0.5, 0.4, 7)
    monkeypatch.setattr(nms, "FEW", 100)
    monkeypatch.setattr(nms, "GROUP", 100)
    assert torch.equal(kernel(boxes, scores, 0.5, 0.4, 7), expected)
    assert not expected[3].any()
    assert expected.any(dim=1).sum() == 79
