"""The part of a training split that is held out: by class, near-duplicates together, the same every time."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from grcn.data.dataset import open_dataset
from grcn.data.holdout import HELD_OUT, _choose, hold_out, near_duplicates
from grcn.data.records import Dataset, ImageRecord
from grcn.errors import DataError
from grcn.types import Target


def dataset(folder: Path, classes: list[list[int]], pictures: list[np.ndarray] | None = None) -> Dataset:
    """Photos that show these classes each; noise, unless given."""
    records = []
    for i, labels in enumerate(classes):
        path = folder / f"{i:03}.png"
        noise = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise if pictures is None else pictures[i]).save(path)
        boxes = np.tile(np.array([[1.0, 1.0, 9.0, 9.0]]), (len(labels), 1)).reshape(-1, 4)
        records.append(ImageRecord(path.stem, path, 40, 40, Target(boxes, np.array(labels, dtype=np.int64))))
    return Dataset(folder, "voc", "train", ("a", "b", "c"), (1, 2, 3), tuple(records), ())


def ids(data: Dataset) -> list[object]:
    return [record.image_id for record in data]


def test_every_class_is_in_both_parts_about_one_to_four(tmp_path: Path) -> None:
    data = dataset(tmp_path, [[0]] * 40 + [[0, 1]] * 15 + [[2]] * 5)
    rest, held = hold_out(data)
    assert held is not None
    assert (held.split, rest.split) == (HELD_OUT, "train")
    assert sorted([*ids(rest), *ids(held)]) == ids(data)
    assert len(held) == 12
    shown = np.array([[label in record.target.labels for label in range(3)] for record in held]).sum(axis=0)
    assert shown.tolist() == [11, 3, 1]
    assert ids(rest) == sorted(ids(rest))  # in the order of the whole


def test_it_depends_on_nothing_but_photos_and_labels(tmp_path: Path) -> None:
    data = dataset(tmp_path, [[i % 3] for i in range(30)])
    shuffled = Dataset(data.root, "voc", "train", data.class_names, (1, 2, 3), data.records[::-1], ())
    assert sorted(ids(hold_out(data)[1])) == sorted(ids(hold_out(shuffled, workers=1)[1]))


def test_near_duplicates_stay_together(tmp_path: Path) -> None:
    scenes = [
        np.asarray(
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((200, 160))
        )
        for i in range(10)
    ]
    pictures = []
    for scene in scenes:  # as it is; brighter; saved small
        pictures += [
            scene,
            np.clip(scene.astype(int) + 12, 0, 255).astype(np.uint8),
            np.asarray(Image.fromarray(scene).resize((120, 96))),
        ]
    data = dataset(tmp_path, [[0]] * 30, pictures)
    assert near_duplicates([record.path for record in data]).tolist() == sorted(list(range(10)) * 3)
    _, held = hold_out(data)
    assert held is not None
    numbers = sorted(int(str(i)) for i in ids(held))
    assert numbers
    assert numbers == [3 * scene + k for scene in sorted({n // 3 for n in numbers}) for k in range(3)]


def test_a_photo_that_cannot_be_read_is_alone(tmp_path: Path) -> None:
    data = dataset(tmp_path, [[0]] * 2)
    data[0].path.write_bytes(b"no photo")
    assert near_duplicates([record.path for record in data]).tolist() == [0, 1]


@pytest.mark.parametrize("count", [0, 1, 4])
def test_of_too_few_none_is_held_out(tmp_path: Path, count: int) -> None:
    data = dataset(tmp_path, [[0]] * count)
    assert hold_out(data) == (data, None)


def test_photos_that_are_all_alike_are_not_parted(tmp_path: Path) -> None:
    data = dataset(tmp_path, [[0]] * 10, [np.full((40, 40, 3), 99, np.uint8)] * 10)
    assert hold_out(data) == (data, None)


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=5, max_size=60))
@example([[], [], [0, 1], [0, 2], [0, 3]])
@settings(deadline=None, derandomize=True, max_examples=100)
def test_a_class_of_three_photos_has_one_on_each_side(photos: list[list[int]]) -> None:
    counts = np.zeros((len(photos), 5))
    for i, labels in enumerate(photos):
        counts[i, labels] = 1
        counts[i, 4] = 1
    held = _choose(counts)
    total, out = counts.sum(axis=0), counts[held].sum(axis=0)
    for all_of_it, held_of_it in zip(total[:4], out[:4], strict=True):
        assert all_of_it == 0 or held_of_it < all_of_it
    rarest = min((n for n in total[:4] if n), default=0)
    if rarest >= 3:
        assert out[:4][total[:4] == rarest].max() >= 1
    assert out[4] <= 0.5 * total[4]


def test_the_split_is_opened_by_its_name(beach: Path, tmp_path: Path) -> None:
    data = shutil.copytree(beach, tmp_path / "data")
    held = open_dataset(data, split=HELD_OUT)
    assert set(ids(held)) < set(ids(open_dataset(data, split="train")))
    names = data / "ImageSets/Main/train.txt"
    names.write_text("\n".join(names.read_text().split()[:2]) + "\n")
    with pytest.raises(DataError, match="2 photos in 'train': too few to hold some out"):
        open_dataset(data, split=HELD_OUT)
