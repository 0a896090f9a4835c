"""Samples of several photos: every box lies where its object is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grcn.config import AugmentConfig, InputConfig
from grcn.data.dataset import open_dataset
from grcn.data.extra import load_extra
from grcn.data.loader import TrainingSet
from grcn.data.mixing import mosaic, paste_objects
from grcn.data.transforms import augment
from grcn.errors import ConfigError, DataError
from grcn.geometry.boxes import area

SIDES = st.integers(20, 90)
SEEDS = st.integers(0, 2**31)


def photo(height: int, width: int, value: int, boxes: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Black, with its objects filled with `value`; each object's label is `value`."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = value
    return image, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.full((len(boxes),), value)


def check(image: Tensor, boxes: Tensor, labels: Tensor) -> None:
    """Each box is within the image, and its middle filled with its object's value; edges are blurred by resizing."""
    assert image.dtype == torch.uint8
    assert len(boxes) == len(labels)
    for box, label in zip(boxes, labels, strict=True):
        x1, y1, x2, y2 = box.tolist()
        assert 0 <= x1 < x2 <= image.shape[2]
        assert 0 <= y1 < y2 <= image.shape[1]
        edge_y, edge_x = 0.3 * (y2 - y1), 0.3 * (x2 - x1)
        inside = image[0, int(np.ceil(y1 + edge_y)) : int(y2 - edge_y), int(np.ceil(x1 + edge_x)) : int(x2 - edge_x)]
        assert inside.numel() == 0 or (inside.float() - float(label)).abs().max() <= 2


@given(SEEDS, SIDES, SIDES, st.lists(st.tuples(SIDES, SIDES), min_size=3, max_size=3))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_mosaics_boxes_lie_on_their_objects(
    seed: int, height: int, width: int, others: list[tuple[int, int]]
) -> None:
    sizes = [(height, width), *others]
    photos = [photo(h, w, 60 * (k + 1), [[w // 4, h // 4, w - w // 4, h - h // 4]]) for k, (h, w) in enumerate(sizes)]
    image, boxes, labels = mosaic(photos, np.random.default_rng(seed))
    assert image.shape == (3, height, width)
    check(image, boxes, labels)


@given(SEEDS, SIDES, SIDES, st.integers(0, 6))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_pasted_objects_cover_no_other_and_are_where_they_are_said_to_be(
    seed: int, height: int, width: int, count: int
) -> None:
    own = photo(height, width, 120, [[2, 2, 12, 14]])
    spots = [[3 + 10 * k, 4, 3 + 10 * k + 8, 16] for k in range(count)]
    other = photo(60, 90, 200, spots)
    image, boxes, labels = paste_objects(own, other, np.random.default_rng(seed))
    assert labels[0] == 120
    assert set(labels[1:].tolist()) <= {200}
    assert len(boxes) <= 4
    check(image, boxes[1:], labels[1:])
    for k, box in enumerate(boxes):
        rest = torch.cat((boxes[:k], boxes[k + 1 :]))
        common = (torch.minimum(box[2:], rest[:, 2:]) - torch.maximum(box[:2], rest[:, :2])).clamp(min=0).prod(dim=1)
        assert (common <= 0.1 * torch.minimum(area(box[None]), area(rest)) + 1e-3).all()
    assert not own[0].eq(200).any()  # the photo that was given is left alone


def test_objects_are_pasted_at_all() -> None:
    found = [
        len(paste_objects(photo(80, 80, 9, []), photo(60, 60, 7, [[5, 5, 20, 20]] * 5), np.random.default_rng(seed))[1])
        for seed in range(5)
    ]
    assert min(found) >= 2


@given(SEEDS, SIDES, SIDES, st.floats(0.3, 2.0), st.floats(0, 1.5))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_large_scale_jitter_grows_no_input(seed: int, height: int, width: int, low: float, more: float) -> None:
    config = AugmentConfig(flip=0.5, large_scale_jitter=(low, low + more))
    sample = photo(height, width, 200, [[width // 4, height // 4, width - width // 4, height - height // 4]])
    image, boxes, labels = augment(*sample, config, InputConfig(64, 96), seed=seed, epoch=0, index=0)
    plain = augment(*sample, AugmentConfig(), InputConfig(64, 96), seed=seed, epoch=0, index=0)[0]
    assert image.shape[1] <= plain.shape[1]
    assert image.shape[2] <= plain.shape[2]
    check(image, boxes, labels)


def training_set(beach, config: AugmentConfig, **changes) -> TrainingSet:
    return TrainingSet(open_dataset(beach), InputConfig(48, 64), config, seed=3, **changes)


def test_mixed_samples_depend_on_their_place_alone_and_end_before_the_run(beach) -> None:
    plain = training_set(beach, AugmentConfig())
    mixed = training_set(beach, AugmentConfig(mosaic=1.0, copy_paste=1.0), samples=100)
    for index in range(4):
        first, second = mixed[0, index], mixed[0, index]
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1]["boxes"], second[1]["boxes"])
        assert not torch.equal(first[0], plain[0, index][0])
    pasted = training_set(beach, AugmentConfig(copy_paste=1.0))
    late = 8  # epochs of 10 images: 80 of 100 samples
    assert torch.equal(mixed[late, 2][0], pasted[late, 2][0])
    assert not torch.equal(mixed[late - 1, 2][0], pasted[late - 1, 2][0])


def test_ones_own_augmentation_comes_last(beach, tmp_path, monkeypatch) -> None:
    (tmp_path / "mine_grcn.py").write_text(
        "def dark(image, boxes, labels, rng):\n    return image // 2, boxes, labels\n"
        "def random(image, boxes, labels, rng):\n    return image + rng.integers(5), boxes, labels\n"
        "def wrong(image, boxes, labels, rng):\n    return image, boxes + 1000, labels\n"
        "def broken(image, boxes, labels, rng):\n    return image[0] / 0 + boxes.no\n"
    )
    monkeypatch.chdir(tmp_path)
    plain = training_set(beach, AugmentConfig())[0, 0]

    def made(name: str):
        config = AugmentConfig(extra=f"mine_grcn:{name}")
        return training_set(beach, config, extra=load_extra(config.extra))[0, 0]

    assert torch.equal(made("dark")[0], plain[0] // 2)
    assert torch.equal(made("random")[0], made("random")[0])
    for name, message in (("wrong", "boxes [N, 4] float32 within it"), ("broken", "AttributeError")):
        error = made(name)
        assert isinstance(error, DataError)  # handed over, from a worker too
        assert f"augment.extra 'mine_grcn:{name}'" in str(error)
        assert message in str(error)
    for name, message in (("mine_grcn:no", "has no function 'no'"), ("no_such_module:f", "ModuleNotFoundError")):
        with pytest.raises(ConfigError, match=message):
            load_extra(name)
    with pytest.raises(ConfigError, match="needs module:function"):
        AugmentConfig(extra="mine")
