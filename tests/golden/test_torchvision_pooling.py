"""RoIAlign on the CPU against torchvision's, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from grcn.model.ops import roi_align, roi_pool


def random_rois(count: int, images: int, height: int, width: int, scale: float) -> torch.Tensor:
    """RoIs of all kinds: inside, partly and wholly outside the map, thinner than a cell, without area."""
    corner = (torch.rand(count, 2) * 1.6 - 0.3) * torch.tensor([width, height]) / scale
    sides = torch.rand(count, 2) ** 3 * torch.tensor([width, height]) / scale
    sides[::7] = 0
    return torch.cat((torch.randint(images, (count, 1)).float(), corner, corner + sides), dim=1)


@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 3),
    map_size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.sampled_from((1, 2, 7)),
    ratio=st.integers(1, 3),
    aligned=st.booleans(),
    channels_last=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_values_and_gradients(seed, images, map_size, size, ratio, aligned, channels_last):
    torch.manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features = torch.randn(images, 5, *map_size).to(memory_format=layout).requires_grad_()
    rois = random_rois(15, images, *map_size, scale=1 / 16)
    ours = roi_align(features, rois, size, 1 / 16, ratio, aligned=aligned)
    theirs = torchvision.ops.roi_align(features, rois, size, 1 / 16, ratio, aligned)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(theirs)
    mine, other = (torch.autograd.grad(pooled, features, upstream)[0] for pooled in (ours, theirs))
    torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-5)


def test_samples_at_the_very_border_of_the_map():
    # The first and last samples fall on -1, 0, the last cell, and one beyond it.
    features = torch.randn(1, 3, 4, 6)
    rois = torch.tensor([[0.0, -1.5, -1.5, 0.5, 0.5], [0, 3.5, 1.5, 8.5, 6.5], [0, -0.5, -0.5, 5.5, 3.5]])
    ours = roi_align(features, rois, 1, 1.0, 1, aligned=True)
    torch.testing.assert_close(ours, torchvision.ops.roi_align(features, rois, 1, 1.0, 1, True))


def test_no_rois():
    pooled = roi_align(torch.randn(2, 3, 4, 4), torch.zeros(0, 5), 7, 1 / 16, 2, aligned=True)
    assert pooled.shape == (0, 3, 7, 7)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("autocast", [False, True])
def test_boxes_keep_their_precision_on_a_map_of_lower_precision(ratio, autocast):
    torch.manual_seed(0)
    features = torch.randn(1, 4, 40, 40).bfloat16()
    rois = torch.tensor([[0.0, 301.3, 409.7, 402.9, 599.1]])  # bfloat16 has 302, 410, 402, 600
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        pooled = roi_align(features, rois, 7, 1 / 16, ratio, aligned=True)
        most = roi_pool(features, rois, 7, 1 / 16)
    exact = torchvision.ops.roi_align(features.float(), rois, 7, 1 / 16, ratio, True)
    assert torch.equal(most, torchvision.ops.roi_pool(features.float(), rois, 7, 1 / 16).bfloat16())
    assert pooled.dtype == torch.bfloat16
    # One step of bfloat16; and of float32, where a sum of ones is next to nothing.
    torch.testing.assert_close(pooled, exact.bfloat16(), atol=1e-5, rtol=1 / 128)


def test_the_same_over_any_number_of_threads():
    torch.manual_seed(0)
    features = torch.randn(2, 32, 20, 20).to(memory_format=torch.channels_last).requires_grad_()
    rois = random_rois(200, 2, 20, 20, 1 / 16)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            pooled = roi_align(features, rois, 7, 1 / 16, 2, aligned=True)
            results.append((pooled.detach(), torch.autograd.grad(pooled.square().sum(), features)[0]))
    finally:
        torch.set_num_threads(threads)
    for pooled, gradient in results[1:]:
        assert torch.equal(pooled, results[0][0])
        assert torch.equal(gradient, results[0][1])
