"""What is written can be read back, in every format."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grcn.data.dataset import AnnotatedImage, open_dataset
from grcn.data.formats.coco import write_coco
from grcn.data.formats.voc import write_voc
from grcn.data.formats.yolo import write_yolo, write_yolo_yaml

NAMES = ("cat & <dog>", "yes", "être", "3")
WIDTH, HEIGHT = 640, 480


def voc(root: Path, image: AnnotatedImage) -> None:
    write_voc(root / "a.xml", image, NAMES)
    (root / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")


def coco(root: Path, image: AnnotatedImage) -> None:
    (root / "annotations").mkdir(exist_ok=True)
    write_coco(root / "annotations" / "train.json", [image], NAMES, category_ids=(7, 8, 20, 21))


def yolo(root: Path, image: AnnotatedImage) -> None:
    write_yolo(root / "a.txt", image)
    write_yolo_yaml(root / "data.yaml", NAMES, {"train": "."})


def image_of(boxes: list[tuple[float, ...]], ids: list[int], scores: list[float] | None = None) -> AnnotatedImage:
    return AnnotatedImage("a.png", HEIGHT, WIDTH, np.array(boxes, dtype=np.float32), ids, scores)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    return tmp_path


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, ...]:
    x1, y1 = draw(st.floats(0, WIDTH - 2, width=32)), draw(st.floats(0, HEIGHT - 2, width=32))
    return x1, y1, draw(st.floats(x1 + 1.5, WIDTH)), draw(st.floats(y1 + 1.5, HEIGHT))


@pytest.mark.parametrize("write", [voc, coco, yolo])
@given(
    st.lists(st.tuples(boxes(), st.integers(0, 3), st.floats(0, 1)), max_size=6, unique_by=lambda item: item[1]),
    st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(
    root: Path,
    write: Callable[[Path, AnnotatedImage], None],
    objects: list[tuple[tuple[float, ...], int, float]],
    scored: bool,
) -> None:
    given_boxes, ids, scores = (list(column) for column in zip(*objects, strict=True)) if objects else ([], [], [])
    write(root, image_of(given_boxes, ids, scores if scored else None))
    data = open_dataset(root)
    assert data.class_names == NAMES
    assert data.defects == ()
    assert data[0].target.labels.tolist() == ids
    assert np.allclose(data[0].target.boxes, np.array(given_boxes).reshape(-1, 4), atol=2e-3)


@pytest.mark.parametrize("write", [voc, coco, yolo])
def test_the_smallest_boxes_survive(root: Path, write: Callable[[Path, AnnotatedImage], None]) -> None:
    """In VOC's inclusive corners a side of one pixel reads as none, so it is written as slightly more."""
    small = [(10, 20, 11, 21), (10, 20, 10.25, 60), (WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT)]
    write(root, image_of(small, [0, 1, 2]))
    data = open_dataset(root)
    assert data.defects == ()
    assert np.allclose(data[0].target.boxes, small, atol=1 if write is voc else 1e-3)


def test_voc_files_are_as_voc_writes_them(root: Path) -> None:
    voc(root, image_of([(0, 10, 30, 60.5)], [0], [0.875]))
    tree = ElementTree.parse(root / "a.xml").getroot()
    assert [tree.findtext(tag) for tag in ("filename", "size/width", "size/height", "size/depth")] == [
        "a.png",
        "640",
        "480",
        "3",
    ]
    box = [tree.findtext(f"object/bndbox/{tag}") for tag in ("xmin", "ymin", "xmax", "ymax")]
    assert box == ["1", "11", "30", "60.5"], "1-based, inclusive"
    assert [tree.findtext(f"object/{tag}") for tag in ("name", "difficult", "score")] == [NAMES[0], "0", "0.875000"]


def test_coco_files_are_as_coco_writes_them(root: Path) -> None:
    coco(root, image_of([(0, 10, 30, 60)], [2], [0.875]))
    content = json.loads((root / "annotations" / "train.json").read_text())
    assert content["images"] == [{"id": 1, "file_name": "a.png", "height": 480, "width": 640}]
    assert content["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 20, "bbox": [0, 10, 30, 50], "area": 1500, "iscrowd": 0, "score": 0.875}
    ]
    assert content["categories"][2] == {"id": 20, "name": "être"}


def test_yolo_files_are_as_yolo_writes_them(root: Path) -> None:
    yolo(root, image_of([(0, 120, 320, 360)], [3], [0.875]))
    assert (root / "a.txt").read_text() == "3 0.25000000 0.50000000 0.50000000 0.50000000 0.875000\n"
    assert (root / "data.yaml").read_text().startswith("train: .\nnames:\n  0: cat & <dog>\n  1: 'yes'\n")
