"""Resizing and augmentation: boxes follow the pixels, and nothing but (seed, epoch, index) decides."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from grcn.config import AugmentConfig, InputConfig
from grcn.data.transforms import MIN_VISIBLE, augment, color, output_size, resize, scale_boxes

EVERYTHING = AugmentConfig(flip=0.5, vertical_flip=0.5, scale_jitter=(0.5, 1.5), crop=0.7, color=0.5)


def picture(height: int = 60, width: int = 80, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((480, 640), (600, 1000), (600, 800)),
        ((640, 480), (600, 1000), (800, 600)),
        ((300, 1200), (600, 1000), (250, 1000)),  # the cap decides
        ((600, 1000), (600, 1000), (600, 1000)),
        ((333, 517), (100, 1000), (100, 155)),
        ((1, 5000), (600, 1000), (1, 1000)),  # never without a row
    ],
)
def test_output_size(size, limits, expected):
    assert output_size(*size, *limits) == expected


def test_resize_is_antialiased_bilinear_on_uint8():
    image = picture(60, 80)
    small = resize(image, 15, 100)
    assert small.dtype == torch.uint8
    assert small.shape == (3, 15, 20)
    exact = F.resize(image.float(), [15, 20], antialias=True)
    assert (small.float() - exact).abs().max() <= 1
    # Quarter size of noise: with antialiasing each pixel is a mean of many, so the contrast falls.
    assert small.float().std() < 0.5 * image.float().std()


def test_resize_does_not_depend_on_the_memory_layout():
    image = picture(61, 83)
    assert torch.equal(resize(image, 40, 100), resize(image.contiguous(), 40, 100))


def test_boxes_scale_by_each_axis_own_ratio():
    boxes = scale_boxes(torch.tensor([[10.0, 20.0, 30.0, 40.0]]), (333, 517), (100, 155))
    expected = [10 * 155 / 517, 20 * 100 / 333, 30 * 155 / 517, 40 * 100 / 333]
    assert boxes[0].tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("flip", "vertical"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_boxes_stay_on_their_pixels(flip, vertical):
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    image[:, 12:30, 16:36] = 255
    boxes, labels = torch.tensor([[16.0, 12.0, 36.0, 30.0]]), torch.tensor([1])
    config = AugmentConfig(flip=flip, vertical_flip=vertical)
    image, boxes, labels = augment(image, boxes, labels, config, InputConfig(120, 400), seed=0, epoch=0, index=0)
    assert image.shape == (3, 120, 160)
    y, x = torch.nonzero(image[0] > 127, as_tuple=True)
    extent = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1])
    assert (boxes[0] - extent).abs().max() <= 1
    assert labels.tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(8, 90),
    width=st.integers(8, 90),
    count=st.integers(0, 5),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 99),
    index=st.integers(0, 9999),
)
def test_augmented_boxes_are_boxes_of_the_augmented_image(height, width, count, seed, epoch, index):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.8, (count, 2)) * (width, height)
    high = low + rng.uniform(0.01, 0.2, (count, 2)) * (width, height)
    boxes = torch.tensor(np.concatenate((low, high), axis=1), dtype=torch.float32).reshape(-1, 4)
    labels = torch.arange(count)
    size = InputConfig(64, 100)
    image, new, kept = augment(
        picture(height, width), boxes, labels, EVERYTHING, size, seed=seed, epoch=epoch, index=index
    )
    assert image.dtype == torch.uint8
    assert len(new) == len(kept)
    assert (count > 0) == (len(new) > 0)  # a crop never loses all objects, and invents none
    if len(new):
        assert (new[:, 2:] > new[:, :2]).all()
        limit = torch.tensor([image.shape[2], image.shape[1]] * 2) * (1 + 1e-5)
        assert (new >= -1e-3).all()
        assert (new <= limit).all()


def test_a_crop_keeps_what_is_mostly_visible_and_drops_the_rest():
    boxes = torch.tensor([[2.0, 2.0, 22.0, 22.0], [40.0, 30.0, 70.0, 55.0], [5.0, 40.0, 25.0, 58.0]])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    shares, dropped = [], 0
    for index in range(200):
        image, new, labels = augment(
            torch.zeros(3, 60, 80, dtype=torch.uint8),
            boxes,
            torch.arange(3),
            AugmentConfig(flip=0, crop=1.0),
            InputConfig(60, 10000),
            seed=1,
            epoch=0,
            index=index,
        )
        back = scale_boxes(new, (image.shape[1], image.shape[2]), (1, 1))  # shares of the crop, to compare areas
        assert (back <= 1 + 1e-5).all()
        dropped += 3 - len(new)
        # A crop's pixels are enlarged by the same factor in both directions, up to rounding to whole pixels.
        widths, heights = new[:, 2] - new[:, 0], new[:, 3] - new[:, 1]
        zoom = min(image.shape[1], image.shape[2]) / 60
        assert zoom == pytest.approx(1, abs=0.02)
        shares += (widths * heights / areas[labels]).tolist()
    assert dropped > 50
    assert min(shares) >= MIN_VISIBLE  # enlarging only adds area


def test_images_without_objects_are_augmented_too():
    image, boxes, labels = augment(
        picture(), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), EVERYTHING, InputConfig(48, 64),
        seed=0, epoch=0, index=0,
    )  # fmt: skip
    assert image.ndim == 3
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)


def test_the_same_seed_epoch_and_index_give_the_same_sample_and_others_another():
    def sample(seed: int, epoch: int, index: int) -> torch.Tensor:
        torch.rand(index + 1)  # what torch's generator has done before does not matter
        boxes, labels = torch.tensor([[10.0, 10.0, 50.0, 50.0]]), torch.tensor([0])
        return augment(picture(), boxes, labels, EVERYTHING, InputConfig(48, 64), seed=seed, epoch=epoch, index=index)[
            0
        ]

    assert torch.equal(sample(3, 4, 5), sample(3, 4, 5))
    for other in [(2, 4, 5), (3, 3, 5), (3, 4, 4)]:
        assert sample(*other).shape != sample(3, 4, 5).shape or not torch.equal(sample(*other), sample(3, 4, 5))


def test_switching_one_augmentation_on_leaves_the_others_as_they_are():
    boxes, labels = torch.tensor([[10.0, 10.0, 50.0, 50.0]]), torch.tensor([0])
    how = {"seed": 0, "epoch": 0}
    for index in range(20):
        plain = augment(picture(), boxes, labels, AugmentConfig(), InputConfig(60, 80), index=index, **how)
        colored = augment(picture(), boxes, labels, AugmentConfig(color=0.8), InputConfig(60, 80), index=index, **how)
        assert torch.equal(plain[1], colored[1])
        assert not torch.equal(plain[0], colored[0])


def test_color_without_change_is_the_identity():
    assert torch.equal(color(picture(), 1, 1, 1, 0), picture())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((1.4, 1, 1, 0), lambda image: F.adjust_brightness(image, 1.4)),
        ((0.6, 1, 1, 0), lambda image: F.adjust_brightness(image, 0.6)),
        ((1, 1.5, 1, 0), lambda image: F.adjust_contrast(image, 1.5)),
        ((1, 0.5, 1, 0), lambda image: F.adjust_contrast(image, 0.5)),
        ((1, 1, 0.5, 0), lambda image: F.adjust_saturation(image, 0.5)),
        ((1, 1, 1.5, 0), lambda image: F.adjust_saturation(image, 1.5)),
    ],
)
def test_color_changes_are_torchvisions(ours, theirs):
    difference = color(picture(), *ours).int() - theirs(picture()).int()
    assert difference.abs().max() <= 1


def test_hue_turns_the_color_and_keeps_the_luma():
    image = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    image[0] = 140
    turned = color(image, 1, 1, 1, 1 / 3)[:, 0, 0].float()
    assert turned.argmax() != 0  # red no longer leads
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert turned @ luma == pytest.approx(float(image[:, 0, 0].float() @ luma), abs=1)
    grey = torch.full((3, 4, 4), 77, dtype=torch.uint8)
    assert torch.equal(color(grey, 1, 1, 1, 0.4), grey)


def test_color_does_not_depend_on_the_number_of_threads():
    image = picture(700, 900)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(color(image, 1.1, 1.3, 0.8, 0.05))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
