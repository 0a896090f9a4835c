"""Fault matrix, boxes: one policy, the same in every format, and everything counted."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grcn.data.boxes import clean_boxes
from grcn.data.dataset import open_dataset
from grcn.data.formats import FORMATS
from grcn.errors import AnnotationError

WIDTH, HEIGHT = 100, 80
GOOD = (10.0, 20.0, 30.0, 60.0)

# xyxy half-open pixels -> what remains, and the kind of defect
NAN, INF = float("nan"), float("inf")
CASES = {
    "inside": ((10, 20, 30, 61), (10, 20, 30, 61), None),
    "the same again": (GOOD, None, "box-twice"),
    "the same again, but for the file's rounding": ((10, 20, 30, 60 + 1e-9), None, "box-twice"),
    "the whole image": ((0, 0, WIDTH, HEIGHT), (0, 0, WIDTH, HEIGHT), None),
    "a point": ((40, 30, 40, 30), None, "box-no-area"),
    "no width": ((40, 30, 40, 50), None, "box-no-area"),
    "no height": ((40, 30, 60, 30), None, "box-no-area"),
    "inverted": ((60, 50, 40, 30), None, "box-inverted"),
    "inverted on one axis": ((60, 30, 40, 50), None, "box-inverted"),
    "partly outside, left": ((-10, 10, 20, 30), (0, 10, 20, 30), "box-clipped"),
    "partly outside, all round": ((-10, -10, WIDTH + 10, HEIGHT + 10), (0, 0, WIDTH, HEIGHT), "box-clipped"),
    "wholly outside, right": ((WIDTH + 5, 10, WIDTH + 20, 30), None, "box-outside"),
    "wholly outside, above": ((10, -30, 20, -10), None, "box-outside"),
    "touching from outside": ((WIDTH, 10, WIDTH + 20, 30), None, "box-outside"),
    "NaN": ((NAN, 10, 20, 30), None, "box-not-finite"),
    "all NaN": ((NAN, NAN, NAN, NAN), None, "box-not-finite"),
    "infinite": ((10, 10, INF, 30), None, "box-not-finite"),
    "1e30": ((10, 10, 1e30, 30), None, "box-not-finite"),
    "-1e30": ((-1e30, 10, 20, 30), None, "box-not-finite"),
}


def write_voc(root: Path, box: tuple[float, ...]) -> None:
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(root / "a.png")
    x1, y1, x2, y2 = box
    degenerate = not (x2 > x1 and y2 > y1)
    first = (x1, y1) if degenerate else (x1 + 1, y1 + 1)
    objects = ""
    for xmin, ymin, xmax, ymax in ((11, 21, 30, 60), (*first, x2, y2)):
        corners = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
        objects += f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
    (root / "a.xml").write_text(f"<annotation>{objects}</annotation>")


def write_coco(root: Path, box: tuple[float, ...]) -> None:
    (root / "images").mkdir()
    (root / "annotations").mkdir()
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "a.png")
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
        for i, (x1, y1, x2, y2) in enumerate((GOOD, box))
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "annotations" / "train.json").write_text(json.dumps(content))


def write_yolo(root: Path, box: tuple[float, ...]) -> None:
    (root / "images").mkdir()
    (root / "labels").mkdir()
    (root / "classes.txt").write_text("cat\n")
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "a.png")
    rows = [
        f"0 {(x1 + x2) / 2 / WIDTH!r} {(y1 + y2) / 2 / HEIGHT!r} {(x2 - x1) / WIDTH!r} {(y2 - y1) / HEIGHT!r}"
        for x1, y1, x2, y2 in (GOOD, box)
    ]
    (root / "labels" / "a.txt").write_text("\n".join(rows))


def write_labelstudio(root: Path, box: tuple[float, ...]) -> None:
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(root / "a.png")
    results = [
        {
            "type": "rectanglelabels",
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "value": {
                "x": 100 * x1 / WIDTH,
                "y": 100 * y1 / HEIGHT,
                "width": 100 * (x2 - x1) / WIDTH,
                "height": 100 * (y2 - y1) / HEIGHT,
                "rectanglelabels": ["cat"],
            },
        }
        for x1, y1, x2, y2 in (GOOD, box)
    ]
    task = {"annotations": [{"result": results}], "data": {"image": "/data/local-files/?d=photos/a.png"}}
    (root / "export.json").write_text(json.dumps([task]))


def write_cvat(root: Path, box: tuple[float, ...]) -> None:
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(root / "a.png")
    boxes = "".join(
        f'<box label="cat" source="manual" occluded="0" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" z_order="0"></box>'
        for x1, y1, x2, y2 in (GOOD, box)
    )
    image = f'<image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}">{boxes}</image>'
    (root / "annotations.xml").write_text(f"<annotations><version>1.1</version>{image}</annotations>")


def write_imagefolder(root: Path, box: tuple[float, ...]) -> None:
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(root / "a.png")
    boxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in (GOOD, box)]
    row = {"file_name": "a.png", "objects": {"bbox": boxes, "categories": ["cat", "cat"]}}
    (root / "metadata.jsonl").write_text(json.dumps(row))


def write_csv(root: Path, box: tuple[float, ...]) -> None:
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(root / "a.png")
    rows = [f"a.png,{WIDTH},{HEIGHT},cat,{x1},{y1},{x2},{y2}\n" for x1, y1, x2, y2 in (GOOD, box)]
    (root / "table.csv").write_text("filename,width,height,class,xmin,ymin,xmax,ymax\n" + "".join(rows))


def write_open_images(root: Path, box: tuple[float, ...]) -> None:
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(root / "a.png")
    rows = [f"a,cat,{x1 / WIDTH!r},{x2 / WIDTH!r},{y1 / HEIGHT!r},{y2 / HEIGHT!r}\n" for x1, y1, x2, y2 in (GOOD, box)]
    (root / "table.csv").write_text("ImageID,LabelName,XMin,XMax,YMin,YMax\n" + "".join(rows))


WRITERS = {
    "voc": write_voc,
    "coco": write_coco,
    "yolo": write_yolo,
    "labelstudio": write_labelstudio,
    "cvat": write_cvat,
    "imagefolder": write_imagefolder,
    "csv": write_csv,
    "csv of Open Images": write_open_images,
}
FILES = {  # and where in them the second object stands: as an object, an entry, a line, a task, an image
    "voc": ("a.xml", 1),
    "coco": ("annotations/train.json", 1),
    "yolo": ("labels/a.txt", 2),
    "labelstudio": ("export.json", 0),
    "cvat": ("annotations.xml", 0),
    "imagefolder": ("metadata.jsonl", 1),
    "csv": ("table.csv", 3),
}


def test_every_format_is_tried() -> None:
    assert set(FILES) == set(FORMATS)
    assert set(FORMATS) <= set(WRITERS)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_one_policy_in_every_format(
    write: Callable[[Path, tuple[float, ...]], None], case: str, tmp_path: Path
) -> None:
    box, remains, kind = CASES[case]
    write(tmp_path, box)
    data = open_dataset(tmp_path)
    assert [defect.kind for defect in data.defects] == ([kind] if kind else [])
    assert data[0].target.boxes.dtype == np.float32
    expected = [GOOD] if remains is None else [GOOD, remains]
    assert np.allclose(data[0].target.boxes, expected, atol=1e-4)
    for defect in data.defects:
        assert (defect.file, defect.object_index) == FILES[data.format]
        assert defect.exit_code == AnnotationError.exit_code
        assert "box [" in defect.message
        assert defect.message.endswith("clipped" if kind == "box-clipped" else "dropped")


def test_coordinates_in_pixels_are_an_error_in_yolo(tmp_path: Path) -> None:
    """They are neither fractions nor damaged: the whole file means something else."""
    write_yolo(tmp_path, (0, 0, 1, 1))
    (tmp_path / "labels" / "a.txt").write_text("0 50 40 20 20\n")
    with pytest.raises(AnnotationError, match=r"a\.txt: line 1: 50 is not a fraction"):
        open_dataset(tmp_path)


coordinate = st.floats(width=64) | st.integers(-200, 300).map(float)


@given(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=20), st.integers(1, 300))
@settings(max_examples=200, deadline=None)
def test_any_boxes_come_out_legal_or_are_counted(boxes: list[tuple[float, ...]], width: int) -> None:
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    cleaned, kept, problems = clean_boxes(array, HEIGHT, width, np.zeros(len(array), dtype=np.int64))
    assert len(np.unique(cleaned, axis=0)) == len(cleaned)
    assert cleaned.dtype == np.float32
    x1, y1, x2, y2 = cleaned.T
    assert ((x1 >= 0) & (x1 < x2) & (x2 <= width) & (y1 >= 0) & (y1 < y2) & (y2 <= HEIGHT)).all()
    dropped = {problem.index for problem in problems if problem.kind != "box-clipped"}
    assert sorted([*kept.tolist(), *dropped]) == list(range(len(boxes)))
    for box, index in zip(cleaned, kept.tolist(), strict=True):
        assert np.abs(box - np.clip(array[index], 0, [width, HEIGHT] * 2)).max() <= 1e-4


def test_real_boxes_without_area(shared_data: Path) -> None:
    found = {
        split: [
            (defect.kind, defect.file, defect.object_index)
            for defect in open_dataset(shared_data / "bccd", split=split).defects
        ]
        for split in ("train", "val", "trainval", "test")
    }
    points = [
        ("box-no-area", "Annotations/BloodImage_00338.xml", 12),
        ("box-no-area", "Annotations/BloodImage_00343.xml", 3),
    ]
    assert found == {"train": points[1:], "val": points[:1], "trainval": points, "test": []}
