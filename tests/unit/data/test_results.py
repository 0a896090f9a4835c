import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grcn.data.records import Dataset, ImageRecord
from grcn.data.results import load_results
from grcn.errors import AnnotationError
from grcn.evaluation import evaluate
from grcn.types import Target


def dataset(ids, *, files=None, category_ids=(1, 2), format="coco"):
    files = files or [f"{image_id}.jpg" for image_id in ids]
    records = tuple(
        ImageRecord(image_id, Path("/data/images", file), 100, 100, Target([[10, 10, 30, 20]], [0]))
        for image_id, file in zip(ids, files, strict=True)
    )
    names = ("cat", "dog", "owl")[: len(category_ids)]
    return Dataset(Path("/data"), format, "test", names, category_ids, records, ())


def result(image_id, category_id=1, bbox=(10, 10, 20, 10), score=0.5):
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), "score": score}


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "results.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_results_go_to_their_images_and_classes(write):
    # Ids out of order, in the data set and in the file; category ids with gaps.
    data = dataset([30, 10, 20], category_ids=(7, 90))
    path = write([result(20, 90, (1, 2, 3, 4.5), 0.25), result(30, 7), result(20, 7, (0, 0, 5, 5), 1)])
    found = load_results(path, data)
    assert [len(d) for d in found] == [1, 0, 2]
    assert found[0].boxes.tolist() == [[10, 10, 30, 20]]
    assert found[2].boxes.tolist() == [[0, 0, 5, 5], [1, 2, 4, 6.5]]
    assert found[2].scores.tolist() == [1, 0.25]
    assert found[2].names == ["cat", "dog"]


def test_our_own_results_come_back_as_they_were(write):
    data = dataset([5, 6], category_ids=(3, 1))
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (20, 2)).astype(np.float32)
    boxes = np.concatenate([corner, corner + rng.uniform(1, 50, (20, 2)).astype(np.float32)], axis=1)
    first = load_results(write([]), data)[0]
    given_ = type(first)(boxes, rng.random(20), rng.integers(0, 2, 20), data.class_names)
    found = load_results(write(given_.to_coco(6, data.category_ids)), data)
    assert len(found[0]) == 0
    np.testing.assert_allclose(found[1].boxes, given_.boxes, rtol=1e-6)
    assert np.array_equal(found[1].scores, given_.scores)
    assert np.array_equal(found[1].class_ids, given_.class_ids)


def test_equal_scores_keep_the_order_of_the_file(write):
    path = write([result(1 + x % 3, bbox=(x, 0, 1, 1), score=0.9 if x == 9 else 0.5) for x in range(60)])
    found = load_results(path, dataset([1, 2, 3]))
    assert found[0].boxes[:, 0].tolist() == [9, *(x for x in range(0, 60, 3) if x != 9)]
    assert found[2].boxes[:, 0].tolist() == list(range(2, 60, 3))


@pytest.mark.parametrize("image_id", ["BloodImage_00338", "000005", 5])
def test_images_of_a_voc_data_set_go_by_file_stem(write, image_id):
    data = dataset(["000004", "000005", "BloodImage_00338"], format="voc")
    lengths = [len(d) for d in load_results(write([result(image_id)]), data)]
    assert lengths == ([0, 0, 1] if image_id == "BloodImage_00338" else [0, 1, 0])


def test_images_of_a_coco_data_set_go_by_id_and_by_stem(write):
    # The second image's stem is no id of the data set's; the first's, "2", is the string, not the id 2.
    data = dataset([1, 2], files=["2.jpg", "frame_1.jpg"])
    found = load_results(write([result(2), result("frame_1"), result("2"), result(1.0)]), data)
    assert [len(d) for d in found] == [2, 2]


def test_a_stem_that_two_images_share_names_none(write):
    data = dataset([1, 2], files=["a/x.jpg", "b/x.jpg"])
    with pytest.raises(AnnotationError, match="result 0: image_id 'x' is not an image"):
        load_results(write([result("x")]), data)


def test_ids_may_mean_what_the_caller_says(write):
    data = dataset([10, 20])
    path = write([result(1, 5), result(2, 6), result(3, 6)])
    found = load_results(path, data, image_of={1: 1, 2: None, 3: 0}, class_of={5: 0, 6: 1})
    assert [d.names for d in found] == [["dog"], ["cat"]]  # image 2's detection is left out
    with pytest.raises(AnnotationError, match="result 0: image_id 1 is not an image"):
        load_results(path, data, image_of={10: 0}, class_of={5: 0})
    with pytest.raises(AnnotationError, match="result 1: category_id 6 is not one"):
        load_results(path, data, image_of={1: 1, 2: 1}, class_of={5: 0})


def test_boxes_without_area_and_scores_beyond_1_are_kept(write):
    found = load_results(write([result(1, bbox=(1, 1, 0, 5), score=37.5), result(1)]), dataset([1]))
    assert found[0].scores.tolist() == [37.5, 0.5]
    assert evaluate(found, [Target([[10, 10, 30, 20]], [0])], ("cat", "dog"))["AP50"] == pytest.approx(0.5)


def test_a_byte_order_mark_and_other_keys_are_no_trouble(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**result(1), "segmentation": [], "id": 4, "area": 0}]), encoding="utf-8-sig")
    assert len(load_results(path, dataset([1]))[0]) == 1


def without(key):
    return {k: v for k, v in result(1).items() if k != key}


BAD = [
    (result(2), "image_id 2 is not an image of /data"),
    (result("1.jpg"), "image_id '1.jpg' is not an image"),
    (result(True), "image_id True is not an id"),
    (result(None), "image_id None is not an id"),
    (result([1]), r"image_id \[1\] is not an id"),
    (result(1, category_id=3), r"category_id 3 is not one of the data set's \[1, 2\]"),
    (result(1, category_id="one"), "category_id 'one' is not one"),
    (result(1, category_id={}), "category_id {} is not an id"),
    (result(1, score=float("nan")), "score nan is not a finite number"),
    (result(1, score=float("inf")), "score inf is not"),
    (result(1, score=10**400), "score 1000.*is not"),
    (result(1, score="0.5"), "score '0.5' is not"),
    (result(1, score=True), "score True is not"),
    (result(1, bbox=(1, 2, float("nan"), 4)), r"bbox \[1, 2, nan, 4\] is not four finite numbers"),
    (result(1, bbox=(1, 2, 3)), "bbox .* is not four"),
    (result(1, bbox=(1, 2, 3, 1e30)), "bbox .* is not four"),
    (result(1, bbox=(1, 2, "3", 4)), "bbox .* is not four"),
    ({**result(1), "bbox": "1 2 3 4"}, "bbox '1 2 3 4' is not four"),
    (result(1, bbox=(10, 10, -5, 5)), r"bbox \[10, 10, -5, 5\] has a negative width or height"),
    (without("image_id"), "no image_id"),
    (without("category_id"), "no category_id"),
    (without("bbox"), "no bbox"),
    (without("score"), "no score"),
    ([1, 2, 3], r"is \[1, 2, 3\]: each must be an object"),
    (None, "is None: each must be"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_a_bad_result_is_named_by_its_index(write, bad, message):
    path = write([result(1), result(1), bad])
    with pytest.raises(AnnotationError, match=message) as caught:
        load_results(path, dataset([1]))
    text = str(caught.value)
    assert text.startswith(f"{path}: result 2")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[{]", "not JSON"),
        ('{"images": []}', "a JSON dict; COCO results are a list"),
        ('{"annotations": []}', "such as its 'annotations'"),
        ("7", "a JSON int"),
        ("[" * 100_000, "nested too deeply"),
        (f"[{'1' * 5000}]", "not JSON"),
    ],
)
def test_a_file_that_is_no_list_of_results_is_refused(write, content, message):
    path = write(content)
    with pytest.raises(AnnotationError, match=message) as caught:
        load_results(path, dataset([1]))
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be read: No such file"):
        load_results(tmp_path / "none.json", dataset([1]))
    with pytest.raises(AnnotationError, match="cannot be read: Is a directory"):
        load_results(tmp_path, dataset([1]))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00[")
    with pytest.raises(AnnotationError, match="not JSON"):
        load_results(tmp_path / "binary.json", dataset([1]))


def test_a_file_beyond_the_limit_is_refused_unread(write):
    path = write([result(1)])
    size = path.stat().st_size
    assert len(load_results(path, dataset([1]), max_bytes=size)[0]) == 1
    with pytest.raises(AnnotationError, match=f"larger than {size - 1} bytes"):
        load_results(path, dataset([1]), max_bytes=size - 1)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields = {
    "image_id": st.just(1) | values,
    "category_id": st.just(1) | values,
    "bbox": st.lists(st.floats(0, 50), min_size=4, max_size=4) | values,
    "score": st.floats() | values,
}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional=fields) | values, max_size=3) | values)
def test_anything_is_either_loaded_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "results.json"
    path.write_text(json.dumps(content))
    try:
        found = load_results(path, dataset([1]))
    except AnnotationError as error:
        refusal = str(error)
    else:
        assert len(found[0]) == len(content)
        return
    assert refusal.startswith(str(path))


def test_results_of_one_a_line_are_the_same(tmp_path):
    """As `grcn predict` leaves them where it is stopped, or killed in the middle of a line."""
    data, path = dataset([1, 2]), tmp_path / "results.jsonl"
    lines = "".join(json.dumps(result(image_id)) + "\n" for image_id in (1, 2, 2))
    path.write_text(lines + json.dumps(result(1))[:20])
    assert [len(found) for found in load_results(path, data)] == [1, 2]
    path.write_text("")
    assert [len(found) for found in load_results(path, data)] == [0, 0]
    path.write_text("{\n" + lines)
    with pytest.raises(AnnotationError, match=r"results\.jsonl: not JSON"):
        load_results(path, data)
