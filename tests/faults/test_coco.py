"""Fault matrix, COCO JSON: parsed by the COCO rules, or an AnnotationError with file and object."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grcn.data.dataset import Dataset, open_dataset
from grcn.errors import AnnotationError, DataError, GrcnError, ImageError

PARSED = [10.0, 20.0, 30.0, 60.0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        PIL.Image.new("RGB", (100, 80)).save(tmp_path / "images" / name)
    return tmp_path


def content() -> dict[str, Any]:
    """Two images, one object each; ids are sparse."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 100, "height": 80},
            {"id": 900, "file_name": "b.png", "width": 100, "height": 80},
        ],
        "annotations": [
            {"id": 5, "image_id": 900, "category_id": 90, "bbox": [10, 20, 20, 40], "area": 500, "iscrowd": 0},
            {"id": 3, "image_id": 7, "category_id": 4, "bbox": [10, 20, 20, 40], "area": 500, "iscrowd": 0},
        ],
        "categories": [{"id": 90, "name": "dog"}, {"id": 4, "name": "cat"}],
    }


def annotate(root: Path, values: Any) -> None:
    text = values if isinstance(values, (str, bytes)) else json.dumps(values)
    data = text if isinstance(text, bytes) else text.encode()
    (root / "annotations" / "instances_train2017.json").write_bytes(data)


def read(root: Path, values: Any, **options: Any) -> Dataset:
    annotate(root, values)
    return open_dataset(root, **options)


def test_sparse_ids(root: Path) -> None:
    data = read(root, content())
    assert data.split == "train2017"
    assert (data.class_names, data.category_ids) == (("cat", "dog"), (4, 90)), "by rising id"
    assert [(record.image_id, record.path.name) for record in data] == [(7, "a.png"), (900, "b.png")]
    assert [record.target.labels.tolist() for record in data] == [[0], [1]]
    assert all(record.target.boxes.tolist() == [PARSED] for record in data)
    assert data[0].target.areas.tolist() == [500]
    assert data.defects == ()


def test_classes_of_a_model_are_matched_by_name(root: Path) -> None:
    data = read(root, content(), class_names=["bird", "dog", "cat"])
    assert data.class_names == ("bird", "dog", "cat")
    assert data.category_ids == (91, 90, 4), "a class that the file lacks gets an id beyond the file's"
    assert [record.target.labels.tolist() for record in data] == [[2], [1]]
    with pytest.raises(AnnotationError, match=r"json: annotations\[0\]: class 'dog' is not one of the classes \(cat\)"):
        open_dataset(root, class_names=["cat"])
    collected = open_dataset(root, class_names=["cat"], on_error="collect")
    assert [len(record.target) for record in collected] == [1, 0]
    assert [(d.kind, d.object_index) for d in collected.defects] == [("unknown-class", 0)]


def test_rle_crowds_are_kept_and_marked(root: Path) -> None:
    values = content()
    values["annotations"][0] |= {"iscrowd": 1, "segmentation": {"counts": [272, 2, 4, 4], "size": [80, 100]}}
    values["annotations"][1] |= {"segmentation": {"counts": "PYYnX1N2", "size": [80, 100]}}
    data = read(root, values)
    assert [record.target.crowd.tolist() for record in data] == [[False], [True]]
    assert data[1].target.boxes.tolist() == [PARSED]


@pytest.mark.parametrize("area", [None, float("nan"), "absent"])
def test_area_falls_back_to_the_box(root: Path, area: Any) -> None:
    values = content()
    values["annotations"][1]["area"] = area
    if area == "absent":
        del values["annotations"][1]["area"]
    assert read(root, values)[0].target.areas.tolist() == [800]


def test_nan_boxes_are_dropped_and_counted(root: Path) -> None:
    values = content()
    values["annotations"][1]["bbox"] = [float("nan"), 20, 20, 40]
    annotate(root, values)
    assert b"NaN" in (root / "annotations" / "instances_train2017.json").read_bytes()
    data = open_dataset(root)
    assert [(d.kind, d.object_index) for d in data.defects] == [("box-not-finite", 1)]
    assert len(data[0].target) == 0


def test_missing_images_are_left_out_and_named(root: Path) -> None:
    values = content()
    values["images"][1]["file_name"] = "lost.png"
    data = read(root, values)
    assert [record.image_id for record in data] == [7]
    [defect] = data.defects
    assert (defect.kind, defect.object_index, defect.exit_code) == ("missing-image", 1, ImageError.exit_code)
    assert "no image 'lost.png' in images, .: left out, with its objects" in defect.message
    values["images"][0]["file_name"] = "lost too.png"
    with pytest.raises(DataError, match="no image in split 'train2017' can be used; first of 2 defects"):
        read(root, values)


def test_wrong_and_absent_sizes(root: Path) -> None:
    values = content()
    del values["images"][0]["width"]
    values["images"][1] |= {"width": 50, "height": float("nan")}
    assert read(root, values).defects == ()
    values["images"][1] |= {"width": 50, "height": 80}
    data = read(root, values)
    assert [(d.kind, data[1].width) for d in data.defects] == [("size-mismatch", 100)]


def test_other_encodings(root: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert len(read(root, json.dumps(content()).encode(encoding))) == 2


WHOLE = {
    "empty": ("", "not JSON"),
    "cut off": (json.dumps(content())[:-10], "not JSON"),
    "no text": (b"\xff\xff\xff", "not JSON"),
    "deep": ("[" * 200_000, "not JSON"),
    "digits": ('{"images": ' + "1" * 5000 + "}", "not JSON"),
    "list": ("[1, 2]", "a JSON list, expected an object"),
    "no images": (content() | {"images": None}, "no list 'images'"),
    "no annotations": ({k: v for k, v in content().items() if k != "annotations"}, "no list 'annotations'"),
    "no categories": (content() | {"categories": {}}, "no list 'categories'"),
    "category without name": (content() | {"categories": [{"id": 1}]}, r"categories\[0\]: needs"),
    "category without id": (content() | {"categories": [{"name": "x"}]}, r"categories\[0\]: needs"),
    "category of text id": (content() | {"categories": [{"id": "one", "name": "x"}]}, r"categories\[0\]: needs"),
    "category NaN": (content() | {"categories": [{"id": float("nan"), "name": "x"}]}, r"categories\[0\]: needs"),
    "no category": (content() | {"categories": ["cat"]}, r"categories\[0\]: needs"),
    "category id twice": (
        content() | {"categories": [{"id": 4, "name": "x"}, {"id": 4, "name": "y"}]},
        r"categories\[1\]: id 4 is given twice",
    ),
    "category name twice": (
        content() | {"categories": [{"id": 4, "name": "x"}, {"id": 5, "name": "x "}]},
        "class 'x' is named twice",
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_files_that_cannot_be_used_at_all(root: Path, case: str) -> None:
    values, reason = WHOLE[case]
    for on_error in ("raise", "collect"):  # nothing is left to collect
        with pytest.raises(AnnotationError, match=rf"instances_train2017\.json: {reason}") as caught:
            read(root, values, on_error=on_error)
        assert "\n" not in str(caught.value)


IMAGES = {
    "no entry": ("a.png", r"images\[0\]: needs"),
    "no id": ({"file_name": "a.png"}, r"images\[0\]: needs"),
    "NaN id": ({"id": float("nan"), "file_name": "a.png"}, r"images\[0\]: needs"),
    "list id": ({"id": [7], "file_name": "a.png"}, r"images\[0\]: needs"),
    "true id": ({"id": True, "file_name": "a.png"}, r"images\[0\]: needs"),
    "no file": ({"id": 7}, r"images\[0\]: needs"),
    "number as file": ({"id": 7, "file_name": 7}, r"images\[0\]: needs"),
    "empty file": ({"id": 7, "file_name": ""}, r"images\[0\]: needs"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_broken_image_entries(root: Path, case: str) -> None:
    entry, reason = IMAGES[case]
    values = content()
    values["images"][0] = entry
    with pytest.raises(AnnotationError, match=rf"json: {reason}"):
        read(root, values)
    data = open_dataset(root, on_error="collect")
    assert [record.image_id for record in data] == [900]
    assert data.defects[0].object_index == 0


def test_image_id_twice(root: Path) -> None:
    values = content()
    values["images"][1]["id"] = 7.0  # equal to the integer, for JSON as for pycocotools
    values["annotations"][0]["image_id"] = 7
    with pytest.raises(AnnotationError, match=r"images\[1\] \('b\.png'\): id 7 is given twice"):
        read(root, values)
    data = open_dataset(root, on_error="collect")
    assert [(record.image_id, len(record.target)) for record in data] == [(7, 2)]
    assert [(d.kind, d.object_index) for d in data.defects] == [("duplicate", 1)]


@pytest.mark.parametrize("name", ["a.png", "./a.png", "images/a.png", "../images/a.png"])
def test_one_file_under_two_ids(root: Path, name: str) -> None:
    """It is one image, with the objects of both; one that both have is one object."""
    values = content()
    values["images"].append({"id": 8, "file_name": name, "width": 100, "height": 80})
    values["annotations"] += [
        {"id": 6, "image_id": 8, "category_id": 90, "bbox": [1, 2, 3, 4]},
        {"id": 7, "image_id": 8, "category_id": 4, "bbox": [10, 20, 20, 40]},
    ]
    data = read(root, values)
    assert [(record.image_id, len(record.target)) for record in data] == [(7, 2), (900, 1)]
    assert data[0].target.labels.tolist() == [0, 1]
    assert [(d.kind, d.object_index) for d in data.defects] == [("duplicate", 2), ("box-twice", 3)]
    assert "is also the file of id 7: its objects are added to that image" in data.defects[0].message


def test_a_file_under_two_ids_that_is_missing(root: Path) -> None:
    values = content()
    values["images"] = [entry | {"file_name": "lost.png"} for entry in values["images"]]
    values["images"].append({"id": 8, "file_name": "a.png"})
    data = read(root, values)
    assert [record.image_id for record in data] == [8]
    assert [(d.kind, d.object_index) for d in data.defects] == [("missing-image", 0), ("missing-image", 1)]


def test_a_crowd_is_no_second_box(root: Path) -> None:
    values = content()
    values["annotations"] += [
        values["annotations"][1] | {"id": 4, "iscrowd": 1},
        values["annotations"][1] | {"id": 6, "category_id": 90},
    ]
    data = read(root, values)
    assert data[0].target.crowd.tolist() == [False, True, False]
    assert data.defects == ()


OBJECTS = {
    "no entry": ([1, 2], "bad-object", "not an object of keys"),
    "unknown image": ({"image_id": 8}, "unknown-image", "image_id 8 is not among"),
    "image of NaN": ({"image_id": float("nan")}, "unknown-image", "image_id nan is not among"),
    "unknown category": ({"category_id": 5}, "unknown-class", "category_id 5 is not among"),
    "text category": ({"category_id": "four"}, "unknown-class", "category_id 'four' is not among"),
    "listed category": ({"category_id": [4]}, "unknown-class", r"category_id \[4\] is not among"),
    "no bbox": ({"bbox": None}, "bad-object", "'bbox' is None, not a list"),
    "short bbox": ({"bbox": [1, 2, 3]}, "bad-object", r"'bbox' is \[1, 2, 3\], not a list"),
    "empty bbox": ({"bbox": []}, "bad-object", r"'bbox' is \[\], not a list"),
    "nested bbox": ({"bbox": [[1, 2], 2, 3, 4]}, "bad-object", r"'bbox' holds \[1, 2\], not a number"),
    "text bbox": ({"bbox": [1, 2, "three", 4]}, "bad-object", "'bbox' holds 'three', not a number"),
    "true bbox": ({"bbox": [1, 2, True, 4]}, "bad-object", "'bbox' holds True, not a number"),
    "text crowd": ({"iscrowd": "two"}, "bad-object", "'iscrowd' holds 'two', not a number"),
    "text area": ({"area": "large"}, "bad-object", "'area' holds 'large', not a number"),
    "id twice": ({"id": 5}, "duplicate", "id 5 is given twice"),
}


@pytest.mark.parametrize("case", OBJECTS)
def test_broken_objects(root: Path, case: str) -> None:
    change, kind, reason = OBJECTS[case]
    values = content()
    values["annotations"][1] = values["annotations"][1] | change if isinstance(change, dict) else change
    with pytest.raises(AnnotationError, match=rf"train2017\.json: annotations\[1\]: {reason}"):
        read(root, values)
    data = open_dataset(root, on_error="collect")
    assert [len(record.target) for record in data] == [0, 1], "the others are kept"
    assert [(d.kind, d.object_index) for d in data.defects] == [(kind, 1)]


def test_huge_numbers_are_absurd_boxes(root: Path) -> None:
    values = content()
    values["annotations"][1]["bbox"] = [10**400, 20, 20, 40]
    assert [d.kind for d in read(root, values).defects] == ["box-not-finite"]


scalars = st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=4)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner)
)


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """The good content with a few places replaced by anything."""
    values: Any = content()
    for _ in range(draw(st.integers(1, 3))):
        place: Any = values
        while True:
            key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
            if draw(st.booleans()) or not isinstance(place[key], (dict, list)) or not place[key]:
                place[key] = draw(anything)
                break
            place = place[key]
    return dict(values)


@given(damaged() | anything | st.binary(max_size=30))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_content_only_our_errors(root: Path, values: Any) -> None:
    annotate(root, values)
    for on_error in ("raise", "collect"):
        try:
            data = open_dataset(root, on_error=on_error)
        except GrcnError as error:
            assert str(root) in str(error)  # noqa: PT017
        else:
            assert all(np.isfinite(record.target.areas).all() for record in data)
