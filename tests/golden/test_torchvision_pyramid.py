"""The parts of a pyramid against torchvision's: neck, levels, pooling over levels, anchors."""

from __future__ import annotations

from collections import OrderedDict
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from grcn.geometry.anchors import cell_anchors, pyramid_anchors
from grcn.geometry.levels import roi_levels
from grcn.model.neck import FPN
from grcn.model.ops import pyramid_roi_align
from lively import exports

SEEDS = st.integers(0, 2**31)
STEADY = settings(deadline=None, derandomize=True, max_examples=40)
STRIDES = (4, 8, 16, 32)

# Neck


@given(
    seed=SEEDS,
    inputs=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    channels=st.integers(1, 12),
    norm=st.booleans(),
    coarsest=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    odd=st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), min_size=3, max_size=3),
)
@STEADY
def test_the_neck(
    seed: int, inputs: list[int], channels: int, norm: bool, coarsest: tuple[int, int], odd: list[tuple[int, int]]
) -> None:
    """Outputs, gradients and, with norm, statistics, in training; then outputs in evaluation."""
    torch.manual_seed(seed)
    ours = FPN(inputs, channels, norm=norm).double()
    layer = nn.BatchNorm2d if norm else None
    theirs = FeaturePyramidNetwork(inputs, channels, LastLevelMaxPool(), layer).double()
    ours.load_state_dict(theirs.state_dict())
    sizes = [coarsest]
    for down, right in odd:  # each map twice as large as the one after it, give or take a cell
        sizes.insert(0, (max(1, 2 * sizes[0][0] + down), max(1, 2 * sizes[0][1] + right)))
    maps = [
        torch.randn(2, n, *size, dtype=torch.float64, requires_grad=True)
        for n, size in zip(inputs, sizes[-len(inputs) :], strict=True)
    ]
    results = []
    for mode in (True, False):
        found: list[Tensor] = ours.train(mode)(maps)
        expected = list(theirs.train(mode)(OrderedDict((str(i), each) for i, each in enumerate(maps))).values())
        assert len(found) == len(inputs) + 1
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        results.append((found, expected))
    upstream = [torch.randn_like(each) for each in results[0][0]]
    pairs = zip(results[0], (ours, theirs), strict=True)
    gradients = [torch.autograd.grad(outputs, [*maps, *model.parameters()], upstream) for outputs, model in pairs]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-12)


def test_the_neck_starts_as_torchvisions() -> None:
    for norm in (False, True):
        torch.manual_seed(0)
        theirs = FeaturePyramidNetwork([8, 16], 12, LastLevelMaxPool(), nn.BatchNorm2d if norm else None)
        ours = FPN([8, 16], 12, norm=norm)
        for name, value in theirs.state_dict().items():
            own = ours.state_dict()[name]
            assert own.shape == value.shape
            if value.is_floating_point() and value.numel() > 50:
                assert own.std() == pytest.approx(value.std().item(), rel=0.2), name
            else:
                assert own.min() == value.min(), name


# Levels


def boxes_at_the_borders(cells: float) -> Tensor:
    """Squares and others of equal area whose side is at, or some last bits beside, a power of two times `cells`."""
    sides = torch.tensor([cells * 2.0**k for k in range(8)])
    ulps = torch.arange(-40, 41)
    sides = (sides.view(torch.int32)[:, None] + ulps.to(torch.int32)).view(torch.float32).flatten()
    square = torch.stack((sides, sides), dim=1)
    long = torch.stack((sides * 2, sides / 2), dim=1)
    return torch.cat(
        [torch.cat((corner, corner + both), 1) for both in (square, long) for corner in (square * 0, both)]
    )


@given(seed=SEEDS, levels=st.tuples(st.integers(2, 4), st.integers(0, 4)), scale=st.floats(1, 2000))
@STEADY
def test_levels_of_random_boxes(seed: int, levels: tuple[int, int], scale: float) -> None:
    first, more = levels
    generator = torch.Generator().manual_seed(seed)
    corner, sides = (torch.rand(2, 300, 2, generator=generator) * scale).unbind()
    sides[::9] = 0
    boxes = torch.cat((corner, corner + sides), dim=1)
    expected = LevelMapper(first, first + more)([boxes])
    assert torch.equal(roi_levels(boxes, 14, 2**first, more + 1), expected)
    assert torch.equal(roi_levels(boxes.view(5, 60, 4), 14, 2**first, more + 1), expected.view(5, 60))


@pytest.mark.parametrize("cells", [14, 3.5, 7, 28])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_at_the_very_border(cells: float, dtype: torch.dtype) -> None:
    boxes = boxes_at_the_borders(cells).to(dtype)
    expected = LevelMapper(2, 5, canonical_scale=round(16 * cells))([boxes])
    assert len(expected.unique()) == 4
    assert torch.equal(roi_levels(boxes, cells, 4, 4), expected)


# Pooling


def random_case(seed: int, count: int, images: int = 2) -> tuple[list[Tensor], Tensor, Tensor]:
    """Maps of four levels for images of 96x160 pixels, RoIs of all kinds, and their levels."""
    torch.manual_seed(seed)
    maps = [torch.randn(images, 5, 96 // stride, 160 // stride) for stride in STRIDES]
    maps = [each.to(memory_format=torch.channels_last).requires_grad_() for each in maps]
    corner = (torch.rand(count, 2) * 1.4 - 0.2) * torch.tensor([160.0, 96.0])
    sides = torch.rand(count, 2) ** 2 * torch.tensor([160.0, 96.0])
    sides[::7] = 0
    rois = torch.cat((torch.randint(images, (count, 1)).sort(0)[0].float(), corner, corner + sides), dim=1)
    return maps, rois, roi_levels(rois[:, 1:], 2, 4, 4)


@given(seed=SEEDS, count=st.integers(0, 40), asked=st.sets(st.sampled_from(("is_compiling", "is_exporting"))))
@STEADY
def test_pooling_over_levels(seed: int, count: int, asked: set[str]) -> None:
    """All ways: that of a CPU, that of a GPU, which waits for nothing, and that of exported graphs."""
    on_gpu, exported = "is_compiling" in asked, "is_exporting" in asked
    maps, rois, levels = random_case(seed, count)
    assert count < 40 or len(levels.unique()) == 4
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=32)
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(2)]
    theirs = pooler({str(i): each for i, each in enumerate(maps)}, boxes, [(96, 160)] * 2)
    with patch.multiple("torch.compiler", is_compiling=lambda: on_gpu or exported, is_exporting=lambda: exported):
        ours = pyramid_roi_align(maps, rois, levels, 7, [1 / s for s in STRIDES], 2, aligned=False)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(theirs)
    mine, other = (torch.autograd.grad(pooled, maps, upstream) for pooled in (ours, theirs))
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_pooling_is_each_levels_own(aligned: bool, ratio: int) -> None:
    """Whatever the rule says: levels by hand, samples by size, the half-pixel correction, a map of any size."""
    maps, rois, _ = random_case(3, 60)
    maps[1] = torch.randn(2, 5, 13, 19)
    scales = [1 / s for s in STRIDES]
    levels = torch.arange(60) % 4
    found = pyramid_roi_align(maps, rois, levels, 3, scales, ratio, aligned=aligned)
    for i in range(60):
        level = int(levels[i])
        pooled = torch.ops.torchvision.roi_align(maps[level], rois[i : i + 1], scales[level], 3, 3, ratio, aligned)
        torch.testing.assert_close(found[i], pooled[0], rtol=1e-5, atol=1e-5)


def test_a_gpu_never_waits_for_how_many_rois_a_level_has() -> None:
    maps, rois, _ = random_case(5, 40)
    scales = [1 / s for s in STRIDES]
    with patch("torch.compiler.is_compiling", lambda: True), torch.profiler.profile() as profile:
        levels = roi_levels(rois[:, 1:], 2, 4, 4)
        pyramid_roi_align(maps, rois, levels, 7, scales, 2, aligned=False).sum().backward()
    called = {event.key for event in profile.key_averages()}
    assert "torchvision::roi_align" in called
    assert not called & {"aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select", "aten::index"}


def test_pooling_over_levels_keeps_the_precision_of_boxes() -> None:
    maps, rois, levels = random_case(4, 30)
    scales = [1 / s for s in STRIDES]
    for ratio in (0, 2):
        found = pyramid_roi_align([each.bfloat16() for each in maps], rois, levels, 7, scales, ratio, aligned=True)
        rounded = [each.bfloat16().float() for each in maps]
        exact = pyramid_roi_align(rounded, rois, levels, 7, scales, ratio, aligned=True)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, exact.bfloat16(), atol=0, rtol=1 / 128)


# Anchors


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.lists(st.floats(4, 600), min_size=5, max_size=5))
@STEADY
def test_anchors_of_a_pyramid(size: tuple[int, int], sides: list[float]) -> None:
    """Images of whole cells at stride 32, so that the last map is of every second cell, rounded up."""
    height, width = (32 * n for n in size)
    grids = [(height // stride, width // stride) for stride in STRIDES]
    grids.append(tuple(-(-n // 2) for n in grids[-1]))  # type: ignore[arg-type]
    ratios = (0.5, 1.0, 2.0)
    generator = AnchorGenerator(tuple((side,) for side in sides), (ratios,) * 5)
    images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    (expected,) = generator(images, [torch.zeros(1, 2, *grid) for grid in grids])
    found = pyramid_anchors([cell_anchors([side], ratios) for side in sides], grids, (height, width))
    assert [len(each) for each in found] == [3 * h * w for h, w in grids]
    assert torch.equal(torch.cat(found), expected)


class Parts(nn.Module):
    """A pyramid's way from maps to features of RoIs, whose number does not depend on what is found."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = FPN((3, 3, 3, 3), 4)
        for i, side in enumerate((32, 64, 128, 256, 512)):
            self.register_buffer(f"cells{i}", cell_anchors([side], (0.5, 1.0, 2.0)))

    def forward(self, image: Tensor, cells: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        high, wide = cells.tolist()
        for n in (high, wide):
            torch._check(n >= 1)
            torch._check(n <= 40)
        image = nn.functional.interpolate(image, size=(high * 32, wide * 32), mode="bilinear")
        pyramid = self.neck([nn.functional.avg_pool2d(image, stride) for stride in STRIDES])
        sizes = [(each.shape[2], each.shape[3]) for each in pyramid]
        cell = [self.get_buffer(f"cells{i}") for i in range(5)]
        anchors = torch.cat(pyramid_anchors(cell, sizes, (image.shape[2], image.shape[3])))
        levels = roi_levels(rois[:, 1:], 14, 4, 4)
        pooled = pyramid_roi_align(pyramid[:4], rois, levels, 7, [1 / s for s in STRIDES], 2, aligned=False)
        return torch.cat((pooled.flatten(1), rois), dim=1), anchors


@exports
def test_an_exported_graph_takes_any_size_and_leaves_levels_empty() -> None:
    ort = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = Parts().eval().requires_grad_(False)
    corner = torch.rand(12, 2) * 50

    def inputs(high: int, wide: int, largest: float) -> tuple[Tensor, Tensor, Tensor]:
        boxes = torch.cat((corner, corner + 1 + torch.rand(12, 2) * largest), dim=1)
        return torch.rand(1, 3, 90, 130), torch.tensor([high, wide]), torch.cat((torch.zeros(12, 1), boxes), dim=1)

    program = torch.export.export(model, inputs(3, 5, 500))
    onnx = torch.onnx.export(program, dynamo=True, verbose=False)
    session = ort.InferenceSession(onnx.model_proto.SerializeToString())
    for case in ((3, 5, 900), (1, 1, 30), (4, 2, 300)):
        given_ = inputs(*case)
        found = session.run(
            None, {each.name: value.numpy() for each, value in zip(session.get_inputs(), given_, strict=True)}
        )
        for ours, theirs in zip(found, model(*given_), strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-4)
