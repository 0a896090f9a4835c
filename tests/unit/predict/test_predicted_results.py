"""Results of `grcn predict` are led back to a data set's images and classes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grcn.data.dataset import Dataset, ImageRecord
from grcn.errors import AnnotationError
from grcn.predict.results import ResultsKey, coco_results, load_own_results, read_key, save_fiftyone
from grcn.types import Detections, Target

NAMES = ("cat", "dog")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    target = Target(np.array([[0, 0, 4, 4]]), np.array([0]))
    files = ("one/a.jpg", "one/b.jpg", "two/b.jpg")
    records = tuple(ImageRecord(f"id{i}", tmp_path / file, 10, 10, target) for i, file in enumerate(files))
    return Dataset(tmp_path, "voc", "test", NAMES, (7, 9), records, ())


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def result(image_id: int, category_id: int) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": [1, 2, 3, 4], "score": 0.5}


def test_images_are_found_by_path_then_by_name(dataset: Dataset, tmp_path: Path) -> None:
    images = {
        5: ("b.jpg", str(tmp_path / "two" / "b.jpg")),  # by path; by name it could be either b.jpg
        6: ("a.jpg", "/elsewhere/a.jpg"),  # copied from another machine
        7: ("b.jpg", "/elsewhere/b.jpg"),  # could be either
        8: ("other.jpg", None),
    }
    file = write(tmp_path / "results.json", [result(i, 2) for i in (5, 6, 7, 8, 5)])
    found, missing = load_own_results(file, ResultsKey(NAMES, (1, 2), images), dataset)
    assert missing == 2
    assert [len(detections) for detections in found] == [1, 0, 2]
    np.testing.assert_allclose(found[2].boxes, [[1, 2, 4, 6]] * 2)
    assert found[2].names == ["dog", "dog"], "by the key's category ids, not by the data set's"


def test_results_of_other_images_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    file = write(tmp_path / "results.json", [result(1, 1)])
    with pytest.raises(AnnotationError, match=r"none of its 1 images is in .* \(test\)"):
        load_own_results(file, ResultsKey(NAMES, (1, 2), {1: ("z.jpg", None)}), dataset)


def test_the_key_is_read_back(tmp_path: Path) -> None:
    content = {
        "images": [
            {"id": 1, "file_name": "a.jpg", "path": "/x/a.jpg", "width": 3, "height": 2},
            {"id": 2, "file_name": "-"},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    key = read_key(write(tmp_path / "images.json", content))
    assert key == ResultsKey(NAMES, (1, 2), {1: ("a.jpg", "/x/a.jpg"), 2: ("-", None)})


@pytest.mark.parametrize(
    "content", ["[", "[]", "3", '{"images": []}', '{"images": [1], "categories": []}', "[" * 10000]
)
def test_another_images_json_is_said_to_be_so(tmp_path: Path, content: str) -> None:
    file = tmp_path / "images.json"
    file.write_text(content)
    with pytest.raises(
        AnnotationError, match=r"images\.json: not the list of images that `grcn predict` writes"
    ) as error:
        read_key(file)
    assert "\n" not in str(error.value)


def test_results_carry_the_data_sets_own_ids(dataset: Dataset) -> None:
    none = Detections(np.empty((0, 4)), np.empty(0), np.empty(0), NAMES)
    one = Detections(np.array([[1, 2, 4, 6]]), np.array([0.25]), np.array([1]), NAMES)
    assert coco_results([none, one, none], dataset) == [
        {"image_id": "id1", "category_id": 9, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.25}
    ]


def test_fiftyone_gets_objects_and_detections(dataset: Dataset, tmp_path: Path) -> None:
    found = Detections(np.array([[0, 5, 5, 10]]), np.array([0.5]), np.array([1]), NAMES)
    none = Detections(np.empty((0, 4)), np.empty(0), np.empty(0), NAMES)
    save_fiftyone(tmp_path / "out" / "fiftyone", [found, none, none], dataset)
    samples = json.loads((tmp_path / "out" / "fiftyone" / "samples.json").read_text())["samples"]
    assert [sample["filepath"] for sample in samples] == [str(record.path.resolve()) for record in dataset]
    assert samples[0]["ground_truth"]["detections"] == [
        {"_cls": "Detection", "label": "cat", "bounding_box": [0, 0, 0.4, 0.4]}
    ]
    assert samples[0]["predictions"]["detections"] == [
        {"_cls": "Detection", "label": "dog", "bounding_box": [0, 0.5, 0.5, 0.5], "confidence": 0.5}
    ]
    assert samples[1]["predictions"]["detections"] == []


def test_results_of_a_run_that_was_killed_are_read_as_far_as_they_go(dataset: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(result(i, 2)) + "\n" for i in (1, 2)))
    listed = [{"id": 1, "file_name": "a.jpg", "path": "/elsewhere/a.jpg"}]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"complete": False, "images": listed, "categories": categories}
    key = read_key(write(tmp_path / "images.json", content))
    assert not key.complete
    found, missing = load_own_results(file, key, dataset)
    assert ([len(detections) for detections in found], missing) == ([1, 0, 0], 0)
    with pytest.raises(AnnotationError, match="image_id 2 is not an image"):
        load_own_results(file, read_key(write(tmp_path / "images.json", content | {"complete": True})), dataset)


def test_names_that_are_not_text_are_written_for_fiftyone(dataset: Dataset, tmp_path: Path) -> None:
    odd = replace(dataset.records[0], path=tmp_path / "caf\udce9.jpg", image_id="caf\udce9")
    none = Detections(np.empty((0, 4)), np.empty(0), np.empty(0), NAMES)
    save_fiftyone(tmp_path, [none], replace(dataset, records=(odd,)))
    (sample,) = json.loads((tmp_path / "samples.json").read_text())["samples"]
    assert sample["filepath"] == str(odd.path)
