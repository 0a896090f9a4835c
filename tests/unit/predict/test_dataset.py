from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from grcn import Detector, preset
from grcn.data.records import Dataset, ImageRecord
from grcn.errors import DataError, ImageError
from grcn.evaluation import evaluate
from grcn.predict.dataset import predict_dataset
from grcn.predict.stream import Prepared
from grcn.types import Detections, Target

NAMES = ("bright", "dark")


class Thresholder:
    """A network with no learning: one box over the whole picture, its score the mean brightness."""

    num_classes, device, config = 2, "none", preset("faster_rcnn_r18_c5")

    def __init__(self):
        self.calls = []

    def prepare(self, image):
        return Prepared(image, image.shape[:2])

    def detect(self, images, class_names, score=None):
        self.calls.append((len(images), score))
        values = [image.input.mean() / 255 for image in images]
        return [
            Detections([[0, 0, image.size[1], image.size[0]]], [value], [0 if value > 0.5 else 1], class_names)
            for image, value in zip(images, values, strict=True)
        ]


def detector(network=None, class_names=NAMES):
    return Detector(network or Thresholder(), class_names)


@pytest.fixture
def dataset(tmp_path):
    records = []
    for i, level in enumerate((250, 20, 200, 60, 130)):
        path = tmp_path / f"{i}.png"
        PIL.Image.fromarray(np.full((20, 10 + i, 3), level, np.uint8)).save(path)
        target = Target([[0, 0, 10 + i, 20]], [0 if level > 127 else 1])
        records.append(ImageRecord(str(i), path, 20, 10 + i, target))
    return Dataset(tmp_path, "voc", "test", NAMES, (1, 2), tuple(records), ())


def spoil(dataset, index):
    Path(dataset[index].path).write_bytes(b"no picture")


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_detections_are_aligned_with_the_records(dataset, batch_size):
    network = Thresholder()
    found = predict_dataset(detector(network), dataset, batch_size=batch_size)
    assert [d.boxes[0, 2] for d in found] == [10, 11, 12, 13, 14]
    assert network.calls == [(1, None)] * 5  # each is of another size
    assert evaluate(found, [r.target for r in dataset.records], NAMES)["AP"] == pytest.approx(1)


def test_score_is_passed_on(dataset):
    found = predict_dataset(detector(), dataset, score=0.6)
    assert [len(d) for d in found] == [1, 0, 1, 0, 0]


def test_progress_is_told_of_each_image(dataset):
    told = []
    predict_dataset(detector(), dataset, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_broken_image_raises_unless_told_otherwise(dataset):
    spoil(dataset, 2)
    with pytest.raises(ImageError, match=r"2\.png"):
        predict_dataset(detector(), dataset, batch_size=2)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_broken_image_can_count_as_empty(dataset, batch_size):
    spoil(dataset, 0)
    spoil(dataset, 3)
    broken = []
    found = predict_dataset(
        detector(), dataset, batch_size=batch_size, on_broken=lambda record, error: broken.append((record, error))
    )
    assert [record.image_id for record, _ in broken] == ["0", "3"]
    assert all(isinstance(error, ImageError) for _, error in broken)
    assert [len(d) for d in found] == [0, 1, 1, 0, 1]
    metrics = evaluate(found, [r.target for r in dataset.records], NAMES)
    assert metrics["per_class"]["dark"]["AP"] == pytest.approx(51 / 101)  # one of two: skipping is no gain


@pytest.mark.parametrize("batch_size", [1, 5])
def test_an_image_of_another_size_is_broken(dataset, batch_size):
    PIL.Image.new("RGB", (30, 20)).save(dataset[3].path)
    with pytest.raises(ImageError, match=r"3\.png: is 30 x 20, but was 13 x 20 when its boxes were read"):
        predict_dataset(detector(), dataset, batch_size=batch_size)
    broken = []
    predict_dataset(detector(), dataset, batch_size=batch_size, on_broken=lambda record, _: broken.append(record))
    assert broken == [dataset[3]]


def test_a_detector_of_other_classes_is_refused(dataset):
    with pytest.raises(DataError, match=r"\['bright', 'dark'\] are not the detector's \['dark', 'bright'\]"):
        predict_dataset(detector(class_names=("dark", "bright")), dataset)


def test_no_images(dataset):
    empty = Dataset(dataset.root, "voc", "test", NAMES, (1, 2), (), ())
    assert predict_dataset(detector(), empty) == []
