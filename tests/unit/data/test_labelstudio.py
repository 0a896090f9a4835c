"""Label Studio: what is written for it, corrected in its format, is read back as a data set."""

import json
import math
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grcn.data.dataset import AnnotatedImage, list_splits, open_dataset
from grcn.data.formats.labelstudio import write_labelstudio, write_labelstudio_config
from grcn.errors import AnnotationError, DataError, ImageError

NAMES = ("cat & <dog>", "être", "3")
WIDTH, HEIGHT = 640, 480


def image(root: Path, name: str = "a b.png", size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> None:
    (root / "images").mkdir(exist_ok=True)
    PIL.Image.new("RGB", size).save(root / "images" / name, **options)


def result(box: tuple[float, ...] = (10.0, 20.0, 30.0, 60.0), name: str = "cat", **changes: Any) -> dict[str, Any]:
    """One rectangle as Label Studio exports it; `value_KEY` changes a key of its value."""
    x1, y1, x2, y2 = (100 * v / side for v, side in zip(box, (WIDTH, HEIGHT) * 2, strict=True))
    value = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0, "rectanglelabels": [name]}
    value |= {key.removeprefix("value_"): v for key, v in changes.items() if key.startswith("value_")}
    entry = {
        "id": "x1",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": value,
    }
    return entry | {key: v for key, v in changes.items() if not key.startswith("value_")}


def task(*results: Any, address: str = "/data/local-files/?d=found/images/a%20b.png", **changes: Any) -> dict[str, Any]:
    annotation = {"id": 5, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": list(results)}
    annotation["updated_at"] = "2026-01-02T10:00:00Z"
    return {"id": 3, "annotations": [annotation], "predictions": [], "data": {"image": address}} | changes


def export(root: Path, *tasks: Any, name: str = "project-1-at-2026-01-02.json") -> None:
    (root / name).write_text(json.dumps(list(tasks)), encoding="utf-8")


def correct(path: Path) -> list[dict[str, Any]]:
    """What Label Studio exports when every prediction is accepted as it is."""
    tasks = json.loads(path.read_text(encoding="utf-8"))
    for i, entry in enumerate(tasks):
        (prediction,) = entry.pop("predictions")
        entry["id"] = i
        entry["annotations"] = [{"result": prediction["result"], "was_cancelled": False}]
    return tasks


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, ...]:
    x1, y1 = draw(st.floats(0, WIDTH - 2, width=32)), draw(st.floats(0, HEIGHT - 2, width=32))
    return x1, y1, draw(st.floats(x1 + 0.1, WIDTH)), draw(st.floats(y1 + 0.1, HEIGHT))


@given(st.lists(st.tuples(boxes(), st.integers(0, 2), st.floats(0, 1)), max_size=6, unique_by=lambda item: item[1]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_out_accepted_and_in_again(tmp_path: Path, objects: list[tuple[tuple[float, ...], int, float]]) -> None:
    image(tmp_path)
    given_boxes, ids, scores = (list(column) for column in zip(*objects, strict=True)) if objects else ([], [], [])
    own = AnnotatedImage("a b.png", HEIGHT, WIDTH, np.array(given_boxes, dtype=np.float32), ids, scores)
    write_labelstudio(tmp_path / "tasks.json", [own], NAMES, folder="found/images", model_version="grcn_r18")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    export(tmp_path, *correct(tmp_path / "tasks.json"))
    data = open_dataset(tmp_path)
    assert (data.format, data.split, data.class_names, data.defects) == ("labelstudio", "train", NAMES, ())
    assert data[0].target.labels.tolist() == ids
    assert np.allclose(data[0].target.boxes, np.array(given_boxes).reshape(-1, 4), atol=1e-4, rtol=0)


def test_what_label_studio_is_told(tmp_path: Path) -> None:
    own = AnnotatedImage("a b.png", HEIGHT, WIDTH, [(64, 48, 320, 240), (0, 0, 640, 480)], [1, 0], [0.75, 0.25])
    none = AnnotatedImage("é&.png", HEIGHT, WIDTH, [], [], [])
    write_labelstudio(tmp_path / "tasks.json", [own, none], NAMES, folder="found/images", model_version="grcn_r18")
    first, second = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert first["data"]["image"] == "/data/local-files/?d=found/images/a%20b.png"
    (prediction,) = first["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("grcn_r18", 0.5)
    box = prediction["result"][0]
    assert box["value"] == {"x": 10, "y": 10, "width": 40, "height": 40, "rotation": 0, "rectanglelabels": ["être"]}
    assert (box["type"], box["original_width"], box["original_height"]) == ("rectanglelabels", WIDTH, HEIGHT)
    assert box["score"] == 0.75
    assert second["predictions"] == [{"model_version": "grcn_r18", "result": []}]
    assert second["data"]["image"].endswith("/%C3%A9%26.png")

    write_labelstudio_config(tmp_path / "labels.xml", NAMES)
    view = ElementTree.parse(tmp_path / "labels.xml").getroot()
    rectangles = view.find("RectangleLabels")
    assert (rectangles.get("name"), rectangles.get("toName")) == (box["from_name"], box["to_name"])
    assert view.find("Image").attrib == {"name": "image", "value": "$image"}
    assert tuple(label.get("value") for label in rectangles) == NAMES


@pytest.mark.parametrize(
    "address",
    [
        "/data/local-files/?d=found/images/a%20b.png",
        "/data/upload/7/4fa2b8c1-a%20b.png",
        "https://photos.example/2026/a%20b.png?size=large",
        "s3://bucket/folder/a%20b.png",
        "images/a b.png",
        "a b.png",
        "C:\\photos\\a b.png",
    ],
)
def test_images_are_found_by_the_end_of_their_address(tmp_path: Path, address: str) -> None:
    image(tmp_path)
    export(tmp_path, task(result(), address=address))
    assert open_dataset(tmp_path)[0].path == tmp_path.resolve() / "images" / "a b.png"


def test_the_longest_end_of_an_address_counts(tmp_path: Path) -> None:
    for name in ("a.png", "day1/a.png", "day2/a.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        image(tmp_path, name)
    ends = ("day1/a.png", "day2/a.png", "day3/a.png")
    export(tmp_path, *(task(result(), address=f"/data/local-files/?d=photos/{end}") for end in ends))
    data = open_dataset(tmp_path)
    folder = tmp_path.resolve() / "images"
    assert [record.path for record in data] == [folder / "day1/a.png", folder / "day2/a.png", folder / "a.png"]
    assert [record.image_id for record in data] == ["images/day1/a", "images/day2/a", "images/a"]


def test_of_several_annotations_the_right_one_counts(tmp_path: Path) -> None:
    def annotation(name: str, **keys: Any) -> dict[str, Any]:
        return {"result": [result(name=name)], **keys}

    older, newer = annotation("older", updated_at="2026-01-02"), annotation("newer", updated_at="2026-01-03")
    cancelled = annotation("cancelled", updated_at="2026-01-04", was_cancelled=True)
    truth = annotation("truth", updated_at="2026-01-01", ground_truth=True)
    image(tmp_path)
    for annotations, name in (
        ([newer, older], "newer"),
        ([older, newer, cancelled], "newer"),
        ([truth, newer], "truth"),
    ):
        export(tmp_path, task(annotations=annotations))
        data = open_dataset(tmp_path)
        assert [data.class_names[i] for i in data[0].target.labels] == [name]


def test_what_is_not_annotated_is_counted_and_left_out(tmp_path: Path) -> None:
    for name in ("a b.png", "none.png", "new.png", "skipped.png", "unknown.png"):
        image(tmp_path, name)
    cancelled = {"result": [result()], "was_cancelled": True}
    tasks = [
        task(result()),
        task(address="none.png"),
        task(address="new.png", annotations=[]),
        task(address="skipped.png", annotations=[cancelled]),
        task(address="gone.png"),
    ]
    export(tmp_path, *tasks)
    data = open_dataset(tmp_path)
    assert [(record.image_id, len(record.target)) for record in data] == [("a b", 1), ("none", 0)]
    assert [(defect.kind, defect.object_index, defect.exit_code) for defect in data.defects] == [
        ("missing-image", 4, ImageError.exit_code),
        ("missing-annotation", 2, AnnotationError.exit_code),
        ("missing-annotation", 3, AnnotationError.exit_code),
        ("missing-annotation", None, AnnotationError.exit_code),
    ]
    assert data.defects[3].file == "images/unknown.png"


def test_other_shapes_are_counted_and_turned_rectangles_enclosed(tmp_path: Path) -> None:
    image(tmp_path)
    polygon = {"type": "polygonlabels", "value": {"points": [[1, 2]], "polygonlabels": ["cat"]}}
    # Label Studio turns about the first corner, clockwise: 100 x 40 by 90 degrees reaches 40 to the left and 100 down.
    turned = result((200, 100, 300, 140), value_rotation=90)
    diagonal = result((300, 200, 400, 300), value_rotation=45)
    export(tmp_path, task(polygon, turned, diagonal))
    data = open_dataset(tmp_path)
    assert [defect.kind for defect in data.defects] == ["other-annotation", "box-turned", "box-turned"]
    half = 100 / math.sqrt(2)
    expected = [(160, 100, 200, 200), (300 - half, 200, 300 + half, 200 + 2 * half)]
    assert np.allclose(data[0].target.boxes, expected, atol=1e-3)


def test_sizes_that_differ_from_the_images(tmp_path: Path) -> None:
    """A browser shows an image upright; one that does not gives its size before the orientation is applied."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise to stand upright
    image(tmp_path, "upright.jpg", size=(HEIGHT, WIDTH), exif=exif)
    image(tmp_path, "lying.jpg", size=(WIDTH, HEIGHT), exif=exif)
    image(tmp_path, "small.jpg", size=(WIDTH // 2, HEIGHT // 2))
    boxed = result((0, 0, 64, 48))
    export(tmp_path, *(task(boxed, address=f"{name}.jpg") for name in ("upright", "lying", "small")))
    data = open_dataset(tmp_path)
    upright, lying, small = (record.target.boxes for record in data)
    assert np.allclose(upright, [[0, 0, 64, 48]], atol=1e-3)
    assert np.allclose(lying, [[HEIGHT - 48, 0, HEIGHT, 64]], atol=1e-3)
    assert np.allclose(small, [[0, 0, 32, 24]], atol=1e-3), "percent of the image that is there"
    assert [defect.kind for defect in data.defects] == ["exif-turned", "size-mismatch"]


def test_splits_are_exports(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        image(tmp_path, name)
    export(tmp_path, task(result(name="cat"), address="a.png"), name="train.json")
    export(tmp_path, task(result(name="ant"), address="b.png"), name="val.json")
    assert list_splits(tmp_path) == ("train", "val")
    for split, label in (("train", 1), ("val", 0)):
        data = open_dataset(tmp_path, split=split)
        assert data.class_names == ("ant", "cat"), "the same in every split"
        assert (data.defects, data[0].target.labels.tolist()) == ((), [label])


def test_pre_annotations_alone_are_no_data_set(tmp_path: Path) -> None:
    image(tmp_path)
    own = AnnotatedImage("a b.png", HEIGHT, WIDTH, [(0, 0, 9, 9)], [0], [0.5])
    write_labelstudio(tmp_path / "tasks.json", [own], NAMES)
    with pytest.raises(DataError, match=r"no data set found.*labelstudio: \*\.json, Label Studio's JSON export"):
        open_dataset(tmp_path)


def without(entry: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in keys}


FAULTS: dict[str, tuple[Any, str]] = {
    "no task": (7, r"task 1: no 'data'"),
    "JSON-MIN": ({"image": "a.png", "label": [], "annotations": []}, r"task 1: no 'data' .* JSON-MIN"),
    "no address": (task(data={"image": 7}), r"task 1: 'data' has no text 'image'"),
    "an empty address": (task(data={"image": "http://x"}), r"task 1: 'image' is 'http://x', which names no file"),
    "a broken address": (task(data={"image": "http://[x/a.png"}), r"task 1: .*IPv6"),
    "no annotations": (without(task(), "annotations"), r"task 1: 'annotations' is not a list"),
    "no result": (task(annotations=[{}]), r"task 1: 'annotations' is not a list"),
    "no rectangle": (task("x"), r"task 1, result 0: no 'value'"),
    "no label": (task(result(value_rectanglelabels=[])), r"result 0: 'rectanglelabels' is \[\], not a list of one"),
    "two labels": (task(result(value_rectanglelabels=["a", "b"])), r"result 0: 'rectanglelabels' is \['a', 'b'\]"),
    "no number": (task(result(), result(value_x="far")), r"result 1: 'x' is 'far', not a number"),
    "no width": (task(result(value_width=None)), r"result 0: 'width' is None"),
    "no size": (task(without(result(), "original_width")), r"'original_width' is None, not a number"),
    "a size of zero": (task(result(original_width=0)), r"result 0: image of 0 x 480"),
    "two sizes": (task(result(), result(original_width=9)), r"result 1: image of 9 x 480, but another object gives"),
    "a turned image": (task(result(image_rotation=90)), r"result 0: drawn on a rotated image"),
    "an unknown class": (task(result(name="unicorn")), r"result 0: class 'unicorn' is not one of the classes \(cat\)"),
    "the same image": (task(), r"task 1: a b\.png is also the image of task 0"),
    "an escape": (task(address="/data/local-files/?d=x/../../secret.png"), r"task 1: .* leads outside"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_name_task_and_object(tmp_path: Path, case: str) -> None:
    entry, message = FAULTS[case]
    image(tmp_path)
    image(tmp_path, "c.png")
    if isinstance(entry, dict) and case not in ("the same image", "an escape") and "a%20b" in str(entry.get("data")):
        entry = entry | {"data": {"image": "c.png"}}
    (tmp_path / "classes.txt").write_text("cat\n")
    export(tmp_path, task(result()), entry)
    with pytest.raises(AnnotationError, match=rf"project-1-at-2026-01-02\.json: .*{message}"):
        open_dataset(tmp_path)
    data = open_dataset(tmp_path, on_error="collect")
    assert any(defect.message.endswith("left out") for defect in data.defects)
    assert len(data[0].target) == 1


@pytest.mark.parametrize(
    "name", ["\0", "a\0.png", "\ud800.png", "x" * 5000, "..", "../secret.png", "%2e%2e/secret.png"]
)
def test_addresses_that_lead_nowhere(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    image(root)
    PIL.Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    export(root, task(result(), address=name))
    data = open_dataset(root, on_error="collect")
    assert len(data) == 0
    assert {defect.kind for defect in data.defects} <= {"path-escape", "missing-image", "bad-task"}


def test_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    image(root)
    PIL.Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    (root / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    export(root, task(result(), address="link.png"))
    with pytest.raises(AnnotationError, match="leads outside"):
        open_dataset(root)


@pytest.mark.parametrize("content", ['[{"data": 1, "annotations"', '[["data", "annotations"', "[" * 10**5])
def test_broken_json(tmp_path: Path, content: str) -> None:
    image(tmp_path)
    (tmp_path / "a.json").write_text(content + '"data" "annotations"')
    with pytest.raises(AnnotationError, match=r"a\.json: not JSON"):
        open_dataset(tmp_path)


def test_thousands_of_images_are_read_in_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are compared a few times for each task; a count, since time depends on the machine."""
    count, calls = 200, 0
    image(tmp_path)
    for i in range(count):
        (tmp_path / "images" / f"{i}.png").hardlink_to(tmp_path / "images" / "a b.png")
    export(tmp_path, *(task(result(), address=f"/data/upload/{i}.png") for i in range(count)))
    equal = Path.__eq__

    def counted(self: Path, other: object) -> bool:
        nonlocal calls
        calls += 1
        return equal(self, other)

    monkeypatch.setattr(type(tmp_path), "__eq__", counted)
    dataset = open_dataset(tmp_path, on_error="collect")
    assert len(dataset) == count
    assert [defect.kind for defect in dataset.defects] == ["missing-annotation"], "of 'a b.png'"
    assert calls <= 15 * count


def test_names_that_are_not_text_go_out_and_come_in(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    image(tmp_path, name)
    write_labelstudio(tmp_path / "tasks.json", [AnnotatedImage(name, HEIGHT, WIDTH, np.empty((0, 4)), [])], NAMES)
    (tmp_path / "classes.txt").write_text("cat")
    export(tmp_path, *correct(tmp_path / "tasks.json"))
    assert [record.path.name for record in open_dataset(tmp_path)] == [name]
