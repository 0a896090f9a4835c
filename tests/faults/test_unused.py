"""Fault matrix, files that no split, suffix or spelling covers: each is counted by name in `check`."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
from rich.console import Console

from grcn.data.check import CheckReport, check_dataset, render
from grcn.errors import DataError

XML = (
    "<annotation><object><name>cat</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>60</ymax></bndbox>"
    "</object></annotation>"
)
ROW = "0 0.2 0.5 0.2 0.5\n"
ROW_OF_METADATA = '{"file_name": "a.jpg", "objects": {"bbox": [[10, 20, 20, 40]], "categories": ["cat"]}}\n'
ROW_OF_TABLE = "filename,class,xmin,ymin,xmax,ymax\nx.jpg,cat,10,20,30,60\n"
SPLITS = {"train": 60, "val": 120}  # and the grey of its photo


def photo(path: Path, grey: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (100, 80), (grey, grey, grey)).save(path, {".png": "PNG"}.get(path.suffix.lower(), "JPEG"))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def coco_json(name: str) -> str:
    images = [{"id": 1, "file_name": name, "width": 100, "height": 80}]
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 40]}]
    return json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]})


def export_json(name: str) -> str:
    value = {"x": 10, "y": 25, "width": 20, "height": 50, "rectanglelabels": ["cat"]}
    result = [{"type": "rectanglelabels", "original_width": 100, "original_height": 80, "value": value}]
    return json.dumps([{"data": {"image": name}, "annotations": [{"result": result}]}])


def voc(root: Path) -> None:
    for split, grey in SPLITS.items():
        photo(root / "JPEGImages" / f"{split}.jpg", grey)
        write(root / "Annotations" / f"{split}.xml", XML)
        write(root / "ImageSets" / "Main" / f"{split}.txt", f"{split}\n")


def voc_folders(root: Path) -> None:
    for split, grey in SPLITS.items():
        photo(root / "JPEGImages" / split / "a.jpg", grey)
        write(root / "Annotations" / split / "a.xml", XML)


def coco(root: Path) -> None:
    for split, grey in SPLITS.items():
        photo(root / "images" / f"{split}.jpg", grey)
        write(root / "annotations" / f"instances_{split}.json", coco_json(f"{split}.jpg"))


def roboflow(root: Path) -> None:
    for split, grey in SPLITS.items():
        photo(root / split / "a.jpg", grey)
        write(root / split / "_annotations.coco.json", coco_json("a.jpg"))


def yolo(root: Path) -> None:
    for split, grey in SPLITS.items():
        photo(root / "images" / split / "a.jpg", grey)
        write(root / "labels" / split / "a.txt", ROW)
    write(root / "data.yaml", "train: images/train\nval: images/val\nnames: [cat]\n")


def yolo_lists(root: Path) -> None:
    for split, grey in SPLITS.items():
        photo(root / "images" / f"{split}.jpg", grey)
        write(root / "labels" / f"{split}.txt", ROW)
        write(root / f"{split}.txt", f"images/{split}.jpg\n")
    write(root / "classes.txt", "cat\n")


def labelstudio(root: Path) -> None:
    for split, grey in SPLITS.items():
        photo(root / "images" / f"{split}.jpg", grey)
        write(root / f"{split}.json", export_json(f"{split}.jpg"))


def cvat(root: Path) -> None:
    images = []
    for split, grey in SPLITS.items():
        photo(root / "images" / split / "a.jpg", grey)
        box = '<box label="cat" occluded="0" xtl="10" ytl="20" xbr="30" ybr="60" z_order="0"></box>'
        images.append(f'<image id="0" name="a.jpg" subset="{split}" width="100" height="80">{box}</image>')
    write(root / "annotations.xml", f"<annotations>{''.join(images)}</annotations>")


def imagefolder(root: Path) -> None:
    for split, grey in SPLITS.items():
        photo(root / split / "a.jpg", grey)
        write(root / split / "metadata.jsonl", ROW_OF_METADATA)


def table(root: Path) -> None:
    for split, grey in SPLITS.items():
        photo(root / "images" / f"{split}.jpg", grey)
        write(root / f"{split}_labels.csv", ROW_OF_TABLE.replace("x.jpg", f"{split}.jpg"))


# The data set, a file put into it, and what that is counted as.
CASES: list[tuple[Callable[[Path], None], str, str]] = [
    *((make, "{folder}/in_no_split.jpg", "in-no-split") for make in (voc, coco, yolo_lists)),
    *((make, "{folder}/deep/er/x.JPG", "in-no-split") for make in (voc, voc_folders, coco, labelstudio)),
    *((make, "{folder}/x.jxl", "unread-kind") for make in (voc, voc_folders, coco, roboflow, yolo, labelstudio)),
    *((make, "{folder}/x.CR2", "unread-kind") for make in (voc, coco, yolo, labelstudio)),
    *((make, "{folder}/no_suffix", "unread-kind") for make in (voc, coco, yolo, labelstudio)),
    *((make, "{folder}/x.jpg_", "unread-kind") for make in (voc, yolo)),
    *((make, "at_top.jpg", "in-no-split") for make in (voc, voc_folders, coco, roboflow, yolo, labelstudio)),
    *((make, "notes.docx", "unused-file") for make in (voc, coco, yolo, labelstudio)),
    *((make, "{folder}/x.csv", "unused-file") for make in (voc, coco, roboflow, yolo, labelstudio)),
    (voc, "Annotations/in_no_split.xml", "in-no-split"),
    (voc, "Annotations/deep/er/x.XML", "in-no-split"),
    (voc, "labels.xml", "unused-file"),  # of something else
    (voc_folders, "Annotations/at_top.xml", "in-no-split"),
    (coco, "annotations/val2.json", "in-no-split"),  # beside `instances_*.json`
    (coco, "annotations/more/x.json", "in-no-split"),
    (coco, "annotations/captions_train.json", "unused-file"),
    (roboflow, "extra/_annotations.coco.json", "in-no-split"),
    (roboflow, "top.json", "unused-file"),
    (yolo, "images/at_top.jpg", "in-no-split"),
    (yolo, "images/extra/x.jpg", "in-no-split"),
    (yolo, "labels/extra/x.txt", "in-no-split"),
    (yolo, "labels/train/x.txt", "missing-image"),  # the reader's own word for it
    (yolo, "labels/train/a.TXT", "in-no-split"),  # beside a.txt
    (yolo, "images/train/A.txt", "in-no-split"),
    (yolo, "train.txt", "unused-file"),
    (yolo, "other.yaml", "unused-file"),
    (labelstudio, "old/export.json", "in-no-split"),
    (labelstudio, "package.json", "unused-file"),
    *((make, "{folder}/x.JPG", "in-no-split") for make in (cvat, imagefolder, table)),
    *((make, "at_top.jpg", "in-no-split") for make in (cvat, imagefolder, table)),
    *((make, "notes.docx", "unused-file") for make in (cvat, imagefolder, table)),
    *((make, "{folder}/x.jxl", "unread-kind") for make in (cvat, imagefolder, table)),
    (cvat, "old/annotations.xml", "in-no-split"),
    (cvat, "x.csv", "unused-file"),
    (imagefolder, "old/metadata.jsonl", "in-no-split"),
    (imagefolder, "other.jsonl", "unused-file"),
    (table, "old/a.csv", "in-no-split"),
    (table, "x.csv", "unused-file"),
    (table, "metadata.csv", "unused-file"),
]
FOLDERS = {
    voc: "JPEGImages",
    voc_folders: "JPEGImages/train",
    roboflow: "train",
    yolo: "images/train",
    cvat: "images/train",
    imagefolder: "train",
}
TEXTS = {".xml": XML, ".txt": ROW, ".jsonl": ROW_OF_METADATA, ".csv": ROW_OF_TABLE}


def put(root: Path, make: Callable[[Path], None], name: str, kind: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".jpg", ".jpg_", ""):
        photo(path)
    elif kind == "unused-file" or path.suffix.lower() not in (*TEXTS, ".json"):
        path.write_text("images/x.jpg: <labels/>\n")
    else:
        texts = TEXTS | ({".xml": XML.replace("annotation>", "annotations>")} if make is cvat else {})
        path.write_text(texts.get(path.suffix.lower(), (export_json if make is labelstudio else coco_json)("x.jpg")))


def found(report: CheckReport) -> list[tuple[str, str]]:
    return [(defect.kind, defect.file) for defect in report.defects]


@pytest.mark.parametrize(("make", "name", "kind"), CASES)
def test_what_no_split_uses_is_counted_by_name(
    tmp_path: Path, make: Callable[[Path], None], name: str, kind: str
) -> None:
    make(tmp_path)
    name = name.format(folder=FOLDERS.get(make, "images"))
    put(tmp_path, make, name, kind)
    report = check_dataset(tmp_path)
    assert found(report) == [(kind, name)]
    assert (report.exit_code == 0) == (kind == "unused-file"), "a file of another kind is only remarked"
    console = Console(file=io.StringIO(), width=200)
    render(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert name in text
    assert ("No defects found" in text) == (kind == "unused-file")


@pytest.mark.parametrize(
    "make", [voc, voc_folders, coco, roboflow, yolo, yolo_lists, labelstudio, cvat, imagefolder, table]
)
def test_what_no_one_takes_for_data_is_not_counted(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    folder = FOLDERS.get(make, "images")
    for name in ("README.md", "LICENSE", "README.dataset.txt", ".hidden.jpg", ".git/x.jpg", "Thumbs.db"):
        write(tmp_path / name, "x")
        write(tmp_path / folder / name, "x")
    write(tmp_path / "labels.cache", "x")
    photo(tmp_path / "SegmentationClass" / "train.png")
    write(tmp_path / "ImageSets" / "Layout" / "train.txt", "train\n")
    if make is voc:
        write(tmp_path / "ImageSets" / "Main" / "cat_train.txt", "train 1\n")
    assert found(check_dataset(tmp_path)) == []


def test_all_that_lies_in_the_folder_passed(tmp_path: Path) -> None:
    """The data set is a folder of it; what lies beside that would vanish."""
    voc(tmp_path / "deep" / "VOC2007")
    photo(tmp_path / "beside.jpg")
    voc(tmp_path / "other" / "deeper" / "still" / "set")
    report = check_dataset(tmp_path)
    assert report.root == tmp_path.resolve()
    assert {kind for kind, _ in found(report)} == {"in-no-split"}
    names = {Path(file).name for _, file in found(report)}
    assert names == {"beside.jpg", "train.jpg", "val.jpg", "train.xml", "val.xml"}


def test_links(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    yolo(root)
    photo(outside / "x.jpg")
    photo(root / "store" / "used.bin")
    (root / "images" / "train" / "linked.jpg").symlink_to("../../store/used.bin")
    (root / "more").symlink_to("images")  # what it holds lies in `images`
    (root / "other.jpg").symlink_to("images/train/a.jpg")
    (root / "loop").symlink_to("..")
    (root / "away").symlink_to(outside)
    (root / "away.jpg").symlink_to(outside / "x.jpg")
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(root / "pipe")
    assert found(check_dataset(root)) == [
        ("path-escape", "away"),
        ("path-escape", "away.jpg"),
        ("in-no-split", "gone.jpg"),
        ("path-escape", "loop"),
        ("unused-file", "pipe"),
    ]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    coco(tmp_path)
    photo(tmp_path / "images" / os.fsdecode(b"\xff.jpg"))
    report = check_dataset(tmp_path)
    assert found(report) == [("in-no-split", "images/?.jpg")]
    json.dumps(report.to_dict(), ensure_ascii=False).encode()


def test_a_folder_too_deep_to_be_listed(tmp_path: Path) -> None:
    coco(tmp_path)
    folder = os.open(tmp_path, os.O_DIRECTORY)
    for _ in range(18):
        os.mkdir("d" * 240, dir_fd=folder)
        inner = os.open("d" * 240, os.O_DIRECTORY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    report = check_dataset(tmp_path)
    assert [defect.kind for defect in report.defects] == ["unread-folder"]
    assert report.exit_code == DataError.exit_code


def test_named_splits_say_nothing_of_other_files(tmp_path: Path) -> None:
    voc(tmp_path)
    photo(tmp_path / "JPEGImages" / "x.jpg")
    assert found(check_dataset(tmp_path, splits=["train"])) == []


@pytest.mark.parametrize("make", [voc, voc_folders, coco, yolo, labelstudio, cvat, imagefolder, table])
@pytest.mark.parametrize("spoil", ["cut off", "no photo", "gone", "of another kind"])
def test_a_split_without_one_readable_photo(tmp_path: Path, make: Callable[[Path], None], spoil: str) -> None:
    make(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        data = path.read_bytes()
        path.unlink()
        if spoil != "gone":
            content = {"cut off": data[:-200], "no photo": b"x", "of another kind": data}[spoil]
            (path.with_suffix(".jxl") if spoil == "of another kind" else path).write_bytes(content)
    report = check_dataset(tmp_path)
    assert [file for kind, file in found(report) if kind == "no-photos"] == ["train", "val"]
    assert report.exit_code


@pytest.mark.parametrize(("make", "empty"), [(voc, "ImageSets/Main/val.txt"), (yolo_lists, "val.txt")])
def test_a_split_of_nothing(tmp_path: Path, make: Callable[[Path], None], empty: str) -> None:
    make(tmp_path)
    (tmp_path / empty).write_text("\n")
    assert ("no-photos", "val") in found(check_dataset(tmp_path))
