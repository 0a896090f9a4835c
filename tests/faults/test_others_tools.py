"""Fault matrix, what other tools write: each layout, encoding and spelling is read, or named."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from unicodedata import normalize

import PIL.Image
import pytest

from grcn.config import ReadFormat, WrittenFormat
from grcn.data.check import check_dataset
from grcn.data.dataset import DataFolder, Dataset, list_splits, open_dataset
from grcn.data.formats import FORMATS, WRITERS
from grcn.errors import AnnotationError, DataError

ROW = "0 0.25 0.5 0.3 0.5\n"


def photo(path: Path, size: tuple[int, int] = (100, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, tuple(os.urandom(3))).save(path, path.suffix[1:].replace("jpg", "jpeg"))


def put(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def xml(*corners: tuple[int, int, int, int], more: str = "") -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    boxes = ("".join(f"<{t}>{v}</{t}>" for t, v in zip(tags, box, strict=True)) for box in corners)
    objects = "".join(f"<object><name>cat</name>{more}<bndbox>{box}</bndbox></object>" for box in boxes)
    return f"<annotation>{objects}</annotation>"


def coco(*names: str, **change: Any) -> dict[str, Any]:
    images = [{"id": i, "file_name": name} for i, name in enumerate(names, 1)]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [10, 20, 30, 40]} | change.get("annotation", {})
        for i in range(1, len(names) + 1)
    ]
    return {"images": images, "annotations": annotations, "categories": change.get("categories", [CAT])}


CAT = {"id": 1, "name": "cat"}


def yolo_11(root: Path) -> None:
    for subset in ("train", "valid"):
        photo(root / f"obj_{subset}_data" / "a.png")
        put(root / f"obj_{subset}_data" / "a.txt", ROW)
        put(root / f"{subset}.txt", f"data/obj_{subset}_data/a.png\n")
    put(root / "obj.names", "cat\ndog\n")
    put(root / "obj.data", "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n")


def fiftyone_yolo4(root: Path) -> None:
    photo(root / "data" / "a.jpg")
    put(root / "data" / "a.txt", ROW)
    put(root / "images.txt", "data/a.jpg\n")
    put(root / "obj.names", "cat\n")
    put(root / "obj.data", "train = data/images.txt\nnames = data/obj.names\n")


def fiftyone_coco(root: Path) -> None:
    photo(root / "train" / "data" / "a.jpg")
    put(root / "train" / "labels.json", json.dumps(coco("a.jpg")))


def fiftyone_voc(root: Path) -> None:
    photo(root / "data" / "a.jpg")
    put(root / "labels" / "a.xml", xml((10, 20, 30, 40)))


def names_above(root: Path) -> None:
    photo(root / "mine" / "a.jpg")
    put(root / "mine" / "a.txt", ROW)
    put(root / "classes.txt", "cat\n")


def lists_above(root: Path) -> None:
    photo(root / "data" / "set" / "JPEGImages" / "a.jpg")
    put(root / "data" / "set" / "Annotations" / "a.xml", xml((10, 20, 30, 40)))
    put(root / "ImageSets" / "Main" / "train.txt", "a\n")


def hub_cache(root: Path) -> None:
    photo(root / "blobs" / "1.png")
    (root / "blobs" / "1.png").rename(root / "blobs" / "1")
    put(root / "blobs" / "2", xml((10, 20, 30, 40)))
    for name, blob in (("JPEGImages/a.png", "1"), ("Annotations/a.xml", "2")):
        (root / "snapshots" / "x" / name).parent.mkdir(parents=True)
        (root / "snapshots" / "x" / name).symlink_to(f"../../../blobs/{blob}")


def letters(root: Path) -> None:
    photo(root / "IMAGES" / "train" / "A.PNG")
    put(root / "Labels" / "Train" / "a.TXT", ROW)
    put(root / "classes.txt", "cat\n")


def listed_voc(root: Path) -> None:
    photo(root / "JPEGImages" / "a.png")
    put(root / "Annotations" / "A.XML", xml((10, 20, 30, 40)))
    put(root / "ImageSets" / "Main" / "train.txt", "C:\\data\\JPEGImages\\a.png\n")


LAYOUTS = (yolo_11, fiftyone_yolo4, fiftyone_coco, fiftyone_voc, names_above, lists_above, hub_cache, letters)


@pytest.mark.parametrize("make", [*LAYOUTS, listed_voc])
def test_layouts(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    report = check_dataset(tmp_path)
    assert (report.splits[0].name, report.splits[0].images, report.splits[0].boxes) == ("train", 1, 1)
    assert [item.name for item in report.classes if item.boxes] == ["cat"]
    assert not report.exit_code, report.defects


def test_folds_that_link_into_a_common_folder(tmp_path: Path) -> None:
    photo(tmp_path / "all" / "images" / "a.png")
    put(tmp_path / "all" / "labels" / "a.txt", ROW)
    for kind, name in (("images", "a.png"), ("labels", "a.txt")):
        (tmp_path / "fold0" / kind / "train").mkdir(parents=True)
        (tmp_path / "fold0" / kind / "train" / name).symlink_to(f"../../../all/{kind}/{name}")
    put(tmp_path / "fold0" / "data.yaml", "train: images/train\nnames: [cat]\n")
    with pytest.raises(DataError, match="several data sets; name a split such as 'fold0/train'"):
        list_splits(tmp_path)
    with pytest.raises(AnnotationError, match="pass the folder that holds both"):
        open_dataset(tmp_path / "fold0")
    data = open_dataset(tmp_path, split="fold0/train")
    assert (data.split, len(data), len(data[0].target)) == ("fold0/train", 1, 1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    for name, root in (("a.png", tmp_path / "coco"), ("images/a.png", tmp_path / "yolo")):
        photo(root / name)
    put(tmp_path / "coco" / "result.json", json.dumps(coco("a.png")).encode(encoding))
    put(tmp_path / "yolo" / "labels" / "a.txt", ROW.encode(encoding))
    put(tmp_path / "yolo" / "list.txt", "images/a.png\r\n".encode(encoding))
    put(tmp_path / "yolo" / "data.yaml", "train: list.txt\nnames: [cat]\n".encode(encoding))
    for root in (tmp_path / "coco", tmp_path / "yolo"):
        data = DataFolder(root).open() if root.name == "yolo" else DataFolder(root).open("result")
        assert (len(data[0].target), data.class_names, data.defects) == (1, ("cat",), ())


@pytest.mark.parametrize(
    "name",
    ["images\\ä.png", "..\\..\\media\\upload\\4\\ä.png", "/content/drive/ds/images/ä.png", "C:\\x\\Ä.PNG", "ä.png"],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_names_of_images(name: str, form: str, kind: str, tmp_path: Path) -> None:
    photo(tmp_path / "images" / normalize("NFC", "ä.png"))
    if kind == "coco":
        put(tmp_path / "train.json", json.dumps(coco(normalize(form, name))))  # type: ignore[arg-type]
    else:
        put(tmp_path / "labels" / normalize("NFD", "ä.txt"), ROW)
        put(tmp_path / "data.yaml", "train: list.txt\nnames: [cat]\n")
        put(tmp_path / "list.txt", normalize(form, name))  # type: ignore[arg-type]
        if "images" not in name:
            photo(tmp_path / normalize("NFC", "ä.png"))
            put(tmp_path / "ä.txt", ROW)
    data = open_dataset(tmp_path)
    assert (len(data[0].target), data.defects) == (1, ())


def test_names_that_only_their_ends_could_tell_apart(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.png")
    put(tmp_path / "train.json", json.dumps(coco("day1/a.png", "day2/a.png")))
    with pytest.raises(AnnotationError, match="both end in"):
        open_dataset(tmp_path)
    assert [d.kind for d in open_dataset(tmp_path, on_error="collect").defects] == ["ambiguous-name"]


@pytest.mark.parametrize(
    ("value", "crowd"), [(True, True), (False, False), ("1", True), (None, False), ("", False), ("true", True)]
)
def test_flags_in_coco(value: object, crowd: bool, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    put(tmp_path / "train.json", json.dumps(coco("a.png", annotation={"iscrowd": value})))
    assert open_dataset(tmp_path)[0].target.crowd.tolist() == [crowd]


@pytest.mark.parametrize(
    ("text", "difficult"),
    [("Unspecified", False), ("", False), (" ", False), ("true", True), ("1.0", True), ("0", False)],
)
def test_difficult_in_voc(text: str, difficult: bool, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    put(tmp_path / "a.xml", xml((10, 20, 30, 40), more=f"<difficult>{text}</difficult>"))
    data = open_dataset(tmp_path)
    assert data[0].target.difficult.tolist() == [difficult]
    assert {defect.exit_code for defect in data.defects} <= {0}


def read_ids(tmp_path: Path, own: object, said: object, category: object) -> Dataset:
    photo(tmp_path / "a.png")
    content = coco("a.png", annotation={"image_id": said, "category_id": category}, categories=[CAT | {"id": "1"}])
    content["images"][0]["id"] = own
    put(tmp_path / "train.json", json.dumps(content))
    return open_dataset(tmp_path)


@pytest.mark.parametrize(("own", "said"), [("7", 7), (7, "7"), ("000007", 7), (7.0, "7")])
@pytest.mark.parametrize("category", [1, "1", 1.0])
def test_ids_as_text_or_numbers(own: object, said: object, category: object, tmp_path: Path) -> None:
    assert len(read_ids(tmp_path, own, said, category)[0].target) == 1


@pytest.mark.parametrize("root_name", ["cat", "pets"])
@pytest.mark.parametrize("used", [False, True])
def test_the_root_category_of_roboflow(root_name: str, used: bool, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    categories = [{"id": 0, "name": root_name, "supercategory": "none"}, CAT | {"supercategory": root_name}]
    put(
        tmp_path / "train.json",
        json.dumps(coco("a.png", annotation={"category_id": int(not used)}, categories=categories)),
    )
    if used and root_name == "cat":
        with pytest.raises(AnnotationError, match="class 'cat' is named twice"):
            open_dataset(tmp_path)
        return
    data = open_dataset(tmp_path)
    assert data.class_names == (("pets", "cat") if used else ("cat",))
    assert data.category_ids == ((0, 1) if used else (1,))


@pytest.mark.parametrize("same", [False, True])
def test_several_yaml_files(same: bool, tmp_path: Path) -> None:
    photo(tmp_path / "images" / "train" / "a.png")
    put(tmp_path / "labels" / "train" / "a.txt", ROW)
    put(tmp_path / "a.yaml", "train: images/train\nnames: [dog, cat]\n")
    put(tmp_path / "b.yml", f"train: images/train\nnames: [{'dog, cat' if same else 'cat, dog'}]\n")
    if not same:
        with pytest.raises(
            AnnotationError, match=r"a\.yaml and b\.yml describe the data set in different ways; keep one"
        ):
            open_dataset(tmp_path)
        put(tmp_path / "data.yaml", "train: images/train\nnames: [dog, cat]\n")
    assert open_dataset(tmp_path).class_names == ("dog", "cat")


def test_corners_that_count_from_0(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    put(tmp_path / "a.xml", xml((0, 5, 20, 30), (3, 0, 40, 80), (50, 50, 100, 70)))
    data = open_dataset(tmp_path)
    assert data[0].target.boxes.tolist() == [[0, 5, 20, 30], [3, 0, 40, 80], [50, 50, 100, 70]]
    assert [(d.kind, d.exit_code) for d in data.defects] == [("counts-from-0", 0)]
    put(tmp_path / "a.xml", xml((0, 5, 20, 30), (1, 1, 40, 80), (1, 50, 100, 70)))
    data = open_dataset(tmp_path)
    assert data[0].target.boxes.tolist() == [[0, 4, 20, 30], [0, 0, 40, 80], [0, 49, 100, 70]]
    assert [d.kind for d in data.defects] == ["box-clipped"]


def test_less_than_a_pixel_outside_is_clipped_and_no_defect(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    put(tmp_path / "train.json", json.dumps(coco("a.png", annotation={"bbox": [-0.9, -0.5, 101.8, 81.4]})))
    data = open_dataset(tmp_path)
    assert (data[0].target.boxes.tolist(), data.defects) == ([[0, 0, 100, 80]], ())


def test_more_objects_than_come_out(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.png", (400, 400))
    boxes = [f"0 {0.02 + 0.04 * (i % 24):.3f} {0.02 + 0.04 * (i // 24):.3f} 0.03 0.03\n" for i in range(240)]
    put(tmp_path / "labels" / "a.txt", "".join(boxes))
    put(tmp_path / "classes.txt", "cat\n")
    report = check_dataset(tmp_path)
    (said,) = [defect for defect in report.defects if defect.kind == "dense-images"]
    assert "1 images hold more than 100 objects, up to 240" in said.message
    assert said.message.endswith("--fit data raises this to 400")
    assert report.suggested
    assert report.suggested.detections_per_image == 400


def test_the_names_of_formats_stand_in_the_configuration() -> None:
    assert get_args(ReadFormat) == ("auto", *FORMATS)
    assert get_args(WrittenFormat) == tuple(WRITERS)
