"""What sizes mean for a detector: anchors' reach against a full grid, cells, and a fit that is always possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from building import NAMED
from grcn.config import DetectorConfig, InputConfig, RPNConfig
from grcn.data.dataset import open_dataset
from grcn.data.records import Dataset, ImageRecord
from grcn.data.sizing import (
    IOUS,
    MAX_ENLARGE,
    Objects,
    _centres,
    best_anchor,
    best_iou,
    fit_config,
    measure,
    objects_at,
    rpn_stride,
)
from grcn.errors import DataError
from grcn.presets import PRESETS
from grcn.types import Target


def dataset(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int] | None = None,
    size: tuple[int, int] = (480, 640),
    crowd: Sequence[bool] | None = None,
    names: tuple[str, ...] = ("a", "b"),
) -> Dataset:
    """One image with these boxes."""
    target = Target(np.array(boxes).reshape(-1, 4), labels or [0] * len(boxes), crowd=crowd)  # type: ignore[arg-type]
    record = ImageRecord(0, Path("a.jpg"), *size, target)
    return Dataset(Path("root"), "voc", "train", names, tuple(range(1, len(names) + 1)), (record,), ())


FPN = DetectorConfig("resnet18", neck="fpn", head="fc2", separation="roi", input=InputConfig(480, 1000))
SEPARATED = NAMED["paper_r18"]
CONFIGS = {**NAMED, "fpn": FPN}


def squares(*sizes: float, labels: Sequence[int] | None = None) -> Dataset:
    return dataset([[10, 10, 10 + s, 10 + s] for s in sizes], labels)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_reach_equals_the_best_of_torchvisions_whole_grid(stride: int) -> None:
    rng = np.random.default_rng(stride)
    height, width = 210, 330  # neither is a multiple of the stride
    sizes, ratios = (20.0, 45.0, 100.0, 300.0), (0.4, 1.0, 2.3)
    corner = rng.uniform(0, (width - 4, height - 4), (300, 2))
    side = np.minimum(np.exp(rng.uniform(1, 6, (300, 2))), (width, height) - corner)
    boxes = np.concatenate([corner, corner + side], axis=1)
    boxes = np.concatenate([boxes, [[0, 0, width, height], [width - 3, height - 3, width, height]]])
    cells = -(-height // stride), -(-width // stride)
    # Its stride is the image's size over the map's, rounded down: the padded size gives ours.
    image = torch.zeros(1, 3, cells[0] * stride, cells[1] * stride)
    generator = AnchorGenerator((sizes,), (ratios,))
    anchors = generator(ImageList(image, [(height, width)]), [torch.zeros(1, 1, *cells)])[0]
    expected = box_iou(torch.tensor(boxes), anchors.double()).max(dim=1).values.numpy()
    objects = Objects(boxes, np.tile([float(height), width], (302, 1)), np.zeros(302, np.int64), ("a",))
    np.testing.assert_allclose(best_iou(objects, sizes, ratios, stride), expected, atol=1e-6)


def test_objects_are_measured_at_the_input_size_without_crowds() -> None:
    data = dataset([[0, 0, 100, 50], [0, 0, 10, 10], [5, 5, 400, 400]], [1, 0, 0], crowd=[False, False, True])
    objects = objects_at([data], 240, 1000)
    np.testing.assert_allclose(objects.boxes, [[0, 0, 50, 25], [0, 0, 5, 5]])
    np.testing.assert_allclose(objects.image_sizes, [[240, 320], [240, 320]])
    assert objects.labels.tolist() == [1, 0]
    np.testing.assert_allclose(objects_at([data], 240, 300).image_sizes[0], [225, 300])  # capped


def test_measure() -> None:
    sizing = measure([squares(16, 32, 64)], replace(SEPARATED, input=InputConfig(480, 1000)))
    assert sizing.cells[16] == pytest.approx((1.2, 1.5, 2, 3, 3.6))
    assert sizing.cells[32] == pytest.approx([v / 2 for v in sizing.cells[16]])
    assert (sizing.cls_stride, sizing.loc_stride, sizing.rpn_stride) == (32, 16, 16)
    assert (sizing.smallest_class, sizing.smallest_median) == ("a", pytest.approx(32))
    plain = sizing.to_dict()
    assert plain["cells"]["16"]["p50"] == 2
    assert set(plain["anchor_reach"]) == {"0.5", "0.7"}


def test_the_smallest_class_counts_and_rare_ones_do_not() -> None:
    common = [100.0] * 90
    data = squares(*common, *[30.0] * 10, labels=[0] * 90 + [1] * 10)
    assert objects_at([data], 480, 1000).smallest_class() == ("b", pytest.approx(30))
    data = squares(*common, *[30.0] * 9, labels=[0] * 90 + [1] * 9)
    assert objects_at([data], 480, 1000).smallest_class() == ("a", pytest.approx(100))
    data = squares(50, 60, labels=[0, 1])  # all are rare: the best there is
    assert objects_at([data], 480, 1000).smallest_class()[0] == "a"


def test_classes_of_several_data_sets_are_matched_by_name() -> None:
    one, two = dataset([[0, 0, 10, 10]], [1], names=("a", "b")), dataset([[0, 0, 20, 20]], [0], names=("b", "c"))
    objects = objects_at([one, two], 480, 1000)
    assert [objects.class_names[label] for label in objects.labels] == ["b", "b"]


@pytest.mark.parametrize(
    ("small", "strides"),
    [(80, (32, 16)), (40, (16, 16)), (25, (16, 8)), (20, (8, 8)), (5, (8, 8))],
)
def test_strides_grow_finer_with_smaller_objects(small: float, strides: tuple[int, int]) -> None:
    """At a cap that leaves the images as they are, 1.5 and 2 cells of 32, 16 and 8 px are the limits."""
    config = replace(SEPARATED, input=InputConfig(480, 1000))
    fitted = fit_config(squares(*[small] * 20), config)
    assert (fitted.cls_stride, fitted.loc_stride) == strides
    assert fitted.input.short_side == 480


def test_small_images_are_enlarged_for_small_objects_only_as_far_as_the_caps() -> None:
    config = PRESETS["grcn_r18"]
    assert fit_config(dataset([[0, 0, 64, 64]], size=(200, 300)), config).input == InputConfig(200, 1000)
    assert fit_config(dataset([[0, 0, 20, 20]], size=(200, 300)), config).input == InputConfig(320, 1000)  # 20 -> 32 px
    assert fit_config(dataset([[0, 0, 4, 4]], size=(200, 300)), config).input.short_side == 200 * MAX_ENLARGE
    assert fit_config(dataset([[0, 0, 4, 4]], size=(500, 700)), config).input.short_side == 600
    assert fit_config(dataset([[0, 0, 400, 400]], size=(2000, 3000)), config).input.short_side == 600


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.floats(1.5, 470), min_size=1, max_size=40),
    name=st.sampled_from(sorted(CONFIGS)),
    short=st.integers(32, 800),
    slim=st.floats(0.02, 1.0),
)
def test_a_fit_is_always_possible_and_never_coarser(sizes: list[float], name: str, short: int, slim: float) -> None:
    config = replace(CONFIGS[name], input=InputConfig(short, 1333))
    data = dataset([[5, 5, 5 + s, 5 + max(s * slim, 0.5)] for s in sizes], [i % 2 for i in range(len(sizes))])
    fitted = fit_config(data, config)  # __post_init__ refuses what cannot be built
    assert fitted.cls_stride <= config.cls_stride
    assert fitted.loc_stride <= config.loc_stride
    assert fitted.input.short_side <= short
    assert rpn_stride(fitted) <= rpn_stride(config) or fitted.neck_stride == 8
    assert fitted.rpn.anchor_sizes == tuple(sorted(fitted.rpn.anchor_sizes))
    assert len(set(fitted.rpn.anchor_sizes)) == len(fitted.rpn.anchor_sizes) or config.neck != "none"
    assert len(fitted.rpn.anchor_sizes) <= len(config.rpn.anchor_sizes)
    root = np.sqrt(np.outer(fitted.rpn.anchor_ratios, (1.0,)))
    sides = np.concatenate([np.array(fitted.rpn.anchor_sizes) * root, np.array(fitted.rpn.anchor_sizes) / root])
    assert np.rint(sides / 2).min() >= 1  # no anchor without area
    changed = {"input", "cls_stride", "loc_stride", "neck_stride", "rpn"}
    assert all(getattr(fitted, f) == getattr(config, f) for f in config.__dataclass_fields__ if f not in changed)
    # Never worse than the preset's anchors on what it optimises.
    objects = objects_at([data], fitted.input.short_side, fitted.input.long_side)
    weights = 1 / np.sqrt(np.bincount(objects.labels)[objects.labels])

    def overlap(rpn: RPNConfig) -> float:
        return float(np.average(best_anchor(objects, replace(fitted, rpn=rpn)), weights=weights))

    own = config.rpn.anchor_sizes[-len(fitted.rpn.anchor_sizes) if config.neck != "none" else 0 :]
    assert overlap(fitted.rpn) >= overlap(replace(config.rpn, anchor_sizes=own))


# Pyramids


@pytest.mark.parametrize(("small", "finest"), [(10, 4), (55, 4), (56, 8), (200, 8)])
def test_a_pyramid_has_no_finer_map_than_a_class_needs(small: float, finest: int) -> None:
    fitted = fit_config(squares(*[small] * 20, *[400] * 20, labels=[0] * 20 + [1] * 20), FPN)
    assert (fitted.neck_stride, len(fitted.rpn.anchor_sizes)) == (finest, 5 if finest == 4 else 4)
    assert (fitted.cls_stride, fitted.loc_stride, fitted.cls_cells, fitted.loc_cells) == (16, 16, 14, 14)


def test_a_few_small_objects_of_a_class_keep_the_finest_map() -> None:
    for few, finest in ((1, 8), (4, 4)):
        data = squares(*[40] * few, *[100] * (20 - few), *[400] * 20, labels=[0] * 20 + [1] * 20)
        assert fit_config(data, FPN).neck_stride == finest
    coarse = replace(FPN, neck_stride=8, rpn=RPNConfig(anchor_sizes=(64, 128, 256, 512)))
    assert fit_config(squares(10, 20), coarse).neck_stride == 8  # never finer than asked for


FITTED: dict[tuple[float, ...], tuple[float, ...]] = {
    (20, 45, 100, 210, 470): (20, 45, 100, 210, 470),
    (40, 40, 300): (40, 64, 128, 300, 512),  # where they have some 8 cells; the other maps keep 8
    (40, 50, 60): (40, 50, 60, 256, 512),  # not on a map of stride 32, which would leave the largest 2 cells
    (33, 44, 57, 70, 90): (33, 44, 63, 90, 512),  # two together: 90 has no 2 cells of stride 64
    (60, 130, 470): (60, 130, 256, 470),  # without the map of stride 4
}


def test_each_map_of_a_pyramid_has_anchors_of_one_size_that_its_cells_can_tell_apart() -> None:
    assert {sizes: fit_config(squares(*sizes), FPN).rpn.anchor_sizes for sizes in FITTED} == FITTED


def test_anchors_of_a_pyramid_are_each_maps_own() -> None:
    config = replace(FPN, rpn=RPNConfig(anchor_sizes=(32, 64, 128, 256, 512), anchor_ratios=(1.0,)))
    boxes = np.array([[0, 0, 16, 16], [84, 84, 116, 116], [200, 200, 264, 264], [204, 200, 268, 264]], dtype=float)
    objects = Objects(boxes, np.tile([480.0, 640.0], (4, 1)), np.zeros(4, np.int64), ("a",))
    # Of 32 pixels every 4 and of 64 every 8: the last one would have its own if those of 64 were every 4, too.
    np.testing.assert_allclose(best_anchor(objects, config)[1:], [1, 1, 60 / 68])
    sizing = measure([squares(60, 60)], config)
    assert (sizing.cls_stride, sizing.loc_stride, sizing.rpn_stride) == (4, 4, 4)
    sizing = measure([squares(60, 60)], replace(config, cls_cells=3.5, loc_cells=7.0))
    assert (sizing.cls_stride, sizing.loc_stride) == (16, 8)


def test_centres_are_the_clusters() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(m, 0.02, n) for m, n in ((1.0, 500), (2.0, 30), (4.0, 100))])
    np.testing.assert_allclose(_centres(values, np.ones(630), 3), [1, 2, 4], atol=0.02)
    assert len(_centres(np.full(50, 3.0), np.ones(50), 5)) == 1  # no two anchors for the same size
    np.testing.assert_allclose(_centres(np.array([0.0, 1.0]), np.array([1.0, 3.0]), 1), [0.75])


@pytest.mark.parametrize("data", [dataset([]), dataset([[0, 0, 9, 9]], crowd=[True])])
def test_without_objects_there_is_nothing_to_fit(data: Dataset) -> None:
    with pytest.raises(DataError, match=r"root \(train\): no objects"):
        fit_config(data, PRESETS["grcn_r18"])
    with pytest.raises(DataError, match="no objects"):
        measure([data], PRESETS["grcn_r18"])


@pytest.mark.parametrize(("name", "split"), [("bccd", "train"), ("deeppcb", "trainval")])
@pytest.mark.parametrize("preset", ["grcn_r18", "faster_rcnn_r18_c4", "fpn"])
def test_anchors_reach_more_of_real_data(shared_data: Path, name: str, split: str, preset: str) -> None:
    """At IoU 0.7, at which the RPN learns: against the default, also at the same input size and stride."""
    data = open_dataset(shared_data / name, split=split)
    config = CONFIGS[preset]
    fitted = fit_config(data, config)
    before, after = measure([data], config), measure([data], fitted)
    anchors_only = measure([data], replace(config, rpn=fitted.rpn, input=fitted.input))
    assert after.reach[0.7] > before.reach[0.7] + 0.08
    assert after.reach[0.7] > 0.8
    assert after.reach[0.5] > 0.99
    default_at_its_input = measure([data], replace(config, input=fitted.input))
    assert anchors_only.reach[0.7] > default_at_its_input.reach[0.7]
    assert tuple(after.reach) == IOUS
