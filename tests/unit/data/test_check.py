"""`check_dataset`: counts, overlaps, every defect with its file, and a report that prints and serialises."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console

from grcn.config import InputConfig
from grcn.data.check import MOST_CLASSES, CheckReport, check_dataset, render
from grcn.data.formats.coco import write_coco
from grcn.data.formats.yolo import write_yolo
from grcn.data.records import AnnotatedImage
from grcn.errors import DataError
from grcn.presets import PRESETS
from grcn.scenes.generate import generate


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "set"
    return generate(folder, images=10, size=(160, 120), object_size=(16.0, 70.0))


@pytest.fixture
def voc(pristine: Path, tmp_path: Path) -> Path:
    """A set to damage: images 0-5 train, 6-7 val, 8-9 test."""
    return Path(shutil.copytree(pristine, tmp_path / "voc"))


def image(root: Path, index: int) -> Path:
    return root / "JPEGImages" / f"{index:06d}.jpg"


def xml(root: Path, index: int) -> Path:
    return root / "Annotations" / f"{index:06d}.xml"


def kinds(report: CheckReport) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for defect in report.defects:
        found.setdefault(defect.kind, []).append(defect.file)
    return found


def printed(report: CheckReport, **arguments: int | None) -> str:
    console = Console(file=io.StringIO(), width=100)
    render(report, console, **arguments)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_counts_of_a_clean_set(voc: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = check_dataset(voc, progress=lambda *call: calls.append(call))
    assert (report.format, report.images, report.defects, report.exit_code) == ("voc", 10, (), 0)
    assert {split.name: split.images for split in report.splits} == {"train": 6, "val": 2, "test": 2}
    boxes = sum(path.read_text().count("<object>") for path in (voc / "Annotations").iterdir())
    assert sum(split.boxes for split in report.splits) == sum(item.boxes for item in report.classes) == boxes
    for item in report.classes:
        assert item.boxes == item.small + item.medium + item.large
        assert item.boxes == sum(path.read_text().count(f">{item.name}<") for path in (voc / "Annotations").iterdir())
    assert calls == [(i + 1, 10) for i in range(10)]
    text = printed(report)
    assert "No defects found" in text
    assert "parasol" in text
    assert f"grcn train --data {voc} uses the suggested sizes" in text


def test_size_classes_are_cocos(voc: Path) -> None:
    boxes = [(1, 1, 32, 31), (1, 1, 32, 32), (1, 1, 96, 95), (1, 1, 96, 96)]  # 1-based inclusive: 32x31, 32x32, ...
    objects = "".join(
        "<object><name>x</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
        "".format(*box)
        for box in boxes
    )
    xml(voc, 0).write_text(f"<annotation>{objects}</annotation>")
    item = next(item for item in check_dataset(voc).classes if item.name == "x")
    assert (item.small, item.medium, item.large) == (1, 2, 1)


def test_every_defect_names_its_file_and_the_worst_gives_the_exit_code(voc: Path) -> None:
    broken = image(voc, 1).read_bytes()
    image(voc, 1).write_bytes(broken[: len(broken) // 2])  # its header is fine: only decoding finds it
    report = check_dataset(voc)
    assert kinds(report) == {"broken-image": ["JPEGImages/000001.jpg"]}
    assert report.exit_code == 4
    xml(voc, 7).write_text("<annotation><object>")
    image(voc, 9).unlink()
    report = check_dataset(voc)
    assert report.exit_code == 5
    files = {file for files in kinds(report).values() for file in files}
    assert "JPEGImages/000001.jpg" in files
    assert "Annotations/000007.xml" in files
    assert any("000009" in file for file in files)
    text = printed(report)
    assert "JPEGImages/000001.jpg" in text
    assert "broken-image: 1" in text


def test_overlap_by_file_by_bytes_and_by_pixels(voc: Path) -> None:
    lists = voc / "ImageSets" / "Main"
    (lists / "val.txt").write_text("000006\n000007\n000000\n")  # 0 is in train too
    shutil.copy(image(voc, 1), image(voc, 8))  # test 8 is train 1 under another name
    with Image.open(image(voc, 2)) as picture:  # test 9 is train 2, stored in another format
        picture.save(voc / "JPEGImages" / "000009.png")
    image(voc, 9).unlink()
    report = check_dataset(voc)
    found = {defect.file: defect.message for defect in report.defects}
    assert set(kinds(report)) == {"split-overlap"}
    assert "'val' and also in 'train' (the same file)" in found.pop("JPEGImages/000000.jpg")
    assert "'test' and also in 'train' (the same pixels as JPEGImages/000001.jpg)" in found.pop("JPEGImages/000008.jpg")
    assert "the same pixels as JPEGImages/000002.jpg" in found.pop("JPEGImages/000009.png")
    assert not found
    assert report.exit_code == DataError.exit_code
    assert report.images == 10


def test_a_split_made_of_others_is_no_overlap(voc: Path) -> None:
    lists = voc / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text((lists / "train.txt").read_text() + (lists / "val.txt").read_text())
    report = check_dataset(voc)
    assert not report.defects
    assert report.images == 10
    assert sum(item.boxes for item in report.classes) == sum(s.boxes for s in report.splits if s.name != "trainval")
    (lists / "trainval.txt").write_text("000000\n000008\n")  # neither contains train, nor leaves test alone
    assert {d.message.split(" (")[0] for d in check_dataset(voc).defects} == {
        "in split 'trainval' and also in 'train'",
        "in split 'test' and also in 'trainval'",
    }


def test_a_picture_that_a_split_has_twice_is_a_remark(voc: Path) -> None:
    shutil.copy(image(voc, 1), image(voc, 3))
    report = check_dataset(voc)
    assert kinds(report) == {"photo-twice": ["JPEGImages/000003.jpg"]}
    assert "has the same pixels as JPEGImages/000001.jpg in the same split" in report.defects[0].message
    assert report.exit_code == 0
    text = printed(report)
    assert "No defects found" in text
    assert "photo-twice: 1" in text


@pytest.mark.parametrize("hard", [False, True])
def test_a_file_that_a_split_has_under_two_names_is_a_defect(voc: Path, hard: bool) -> None:
    image(voc, 7).unlink()
    if hard:
        image(voc, 7).hardlink_to(image(voc, 6))
    else:
        image(voc, 7).symlink_to("000006.jpg")
    report = check_dataset(voc)
    assert kinds(report) == {"photo-twice": ["JPEGImages/000007.jpg"]}
    assert "a link to JPEGImages/000006.jpg in the same split" in report.defects[0].message
    assert report.exit_code == DataError.exit_code


@pytest.mark.parametrize("size", [0.4, 1.0, 1.5])
@pytest.mark.parametrize("splits", [("train", "val"), ("val",)])
@pytest.mark.parametrize("format", ["voc", "coco", "yolo"])
def test_boxes_below_a_pixel(tmp_path: Path, format: str, splits: tuple[str, ...], size: float) -> None:
    """Fractions, where the format has pixels; or divided twice, where it has fractions."""
    for i, split in enumerate(("train", "val")):
        side = size if split in splits else 20.0
        photo = AnnotatedImage(f"{split}.png", 80, 100, [(0, 0, side, side), (0, 0, side, side / 2)], [0, 1])
        folder = {"voc": tmp_path / split, "coco": tmp_path / "images", "yolo": tmp_path / split / "images"}[format]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80), (i, i, i)).save(folder / photo.file_name)
        if format == "coco":
            (tmp_path / "annotations").mkdir(exist_ok=True)
            write_coco(tmp_path / "annotations" / f"{split}.json", [photo], ["cat", "dog"])
        elif format == "yolo":
            (tmp_path / split / "labels").mkdir()
            write_yolo(tmp_path / split / "labels" / f"{split}.txt", photo)
            (tmp_path / "classes.txt").write_text("cat\ndog\n")
        else:  # as a tool writes them that takes VOC's corners for fractions
            boxes = "".join(
                f"<object><name>{name}</name><bndbox><xmin>0.01</xmin><ymin>0.01</ymin><xmax>{x2}</xmax>"
                f"<ymax>{y2}</ymax></bndbox></object>"
                for name, (_, _, x2, y2) in zip(("cat", "dog"), photo.boxes, strict=True)
            )
            (folder / f"{split}.xml").write_text(f"<annotation>{boxes}</annotation>")
    report = check_dataset(tmp_path)
    found = [Path(file).name for file in kinds(report).get("boxes-below-pixel", [])]
    assert found == ([] if size > 1 else [f"{split}.png" for split in splits])
    assert report.exit_code or not found


def test_a_class_that_cannot_be_learned(voc: Path) -> None:
    text = xml(voc, 8).read_text()
    first = text.index("<name>")
    xml(voc, 8).write_text(f"{text[:first]}<name>whale{text[text.index('</name>', first) :]}")
    report = check_dataset(voc)
    assert [(d.kind, d.file) for d in report.defects] == [("unknown-class", "test")]
    assert "1 objects of class 'whale', but split 'train' has none" in report.defects[0].message


def test_splits_and_input_size_are_taken(voc: Path) -> None:
    report = check_dataset(voc, splits=["test"], short_side=100, long_side=120, config=PRESETS["faster_rcnn_r18_c4"])
    assert [split.name for split in report.splits] == ["test"]
    assert report.sizing is not None
    assert report.suggested is not None
    assert (report.sizing.short_side, report.sizing.long_side) == (100, 120)
    assert (report.sizing.cls_stride, report.sizing.loc_stride) == (16, 16)
    assert report.suggested.short_side <= 100
    config = replace(PRESETS["grcn_r18"], input=InputConfig(64, 90))
    narrow = check_dataset(voc, splits=["val", "val"], config=config)
    assert [split.name for split in narrow.splits] == ["val"]
    assert narrow.sizing is not None
    assert narrow.sizing.long_side == 90
    with pytest.raises(DataError, match="no split 'holdout'"):
        check_dataset(voc, splits=["holdout"])


def test_a_set_without_objects_has_no_sizes(voc: Path) -> None:
    for path in (voc / "Annotations").iterdir():
        path.write_text("<annotation></annotation>")
    report = check_dataset(voc)
    assert report.sizing is None
    assert report.suggested is None
    assert [split.empty for split in report.splits] == [split.images for split in report.splits]
    assert json.loads(json.dumps(report.to_dict()))["sizing"] is None
    assert "uses the suggested sizes" not in printed(report)


def test_json_is_complete_and_strict(voc: Path) -> None:
    image(voc, 3).write_bytes(b"no image")
    report = check_dataset(voc)
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["exit_code"] == report.exit_code == 4
    assert plain["defects"][0]["file"] == "JPEGImages/000003.jpg"
    assert {item["name"] for item in plain["classes"]} == {item.name for item in report.classes}
    assert plain["sizing"]["cells"]["16"].keys() == {"p10", "p25", "p50", "p75", "p90"}
    assert plain["suggested"]["anchors"]["sizes"]


def test_names_are_printed_as_they_are_and_long_lists_end(voc: Path) -> None:
    text = xml(voc, 0).read_text()
    xml(voc, 0).write_text(text.replace("<name>", "<name>[red]", 1))
    for index in range(6):
        image(voc, index).write_bytes(b"no image")
    text = printed(check_dataset(voc), limit=2)
    assert "[red]" in text
    assert "broken-image: 6" in text
    assert "and 4 more" in text
    assert text.count("JPEGImages/0") == 2


def test_a_suggestion_that_does_not_help_is_not_made(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    generate(root, images=4, size=(160, 120), object_size=(16.0, 70.0))
    report = check_dataset(root, config=PRESETS["grcn_r18"])
    assert report.sizing is not None
    assert report.suggested is not None
    assert f"grcn train --data {root} uses the suggested sizes" in printed(report)
    for now, then in ((1.0, 0.0), (0.9, 0.4), (0.0, 0.0)):
        sizing, suggested = (replace(report.sizing, reach={0.5: share, 0.7: 0.0}) for share in (now, then))
        text = printed(replace(report, sizing=sizing, suggested=suggested))
        assert "uses the suggested sizes" not in text
        assert f"reach IoU 0.5 for {then:.1%} of the objects, those of the preset for {now:.1%}." in text
        assert f"To train without them: grcn train --data {root} --fit none\n" in text


def test_names_that_are_long_and_many_fit_eighty_columns(tmp_path: Path) -> None:
    names = ["Enterobacteriaceae-gram-negative-extended-spectrum", "a ship with cranes " * 4]
    names += [f"c{i}" for i in range(MOST_CLASSES)]
    (tmp_path / "yolo/images/a-split-whose-name-is-so-long-that-its-table-would-be-too-wide").mkdir(parents=True)
    for folder in (tmp_path / "yolo/images").iterdir():
        Image.new("RGB", (64, 64), "green").save(folder / "0.png")
        labels = tmp_path / "yolo/labels" / folder.name
        labels.mkdir(parents=True)
        (labels / "0.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5\n")
    split = folder.name
    (tmp_path / "yolo/data.yaml").write_text(yaml.safe_dump({"names": names, "train": f"images/{split}"}))
    report = check_dataset(tmp_path / "yolo")
    console = Console(file=io.StringIO(), width=80)
    render(report, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    tables = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert max(map(len, tables)) <= 80
    assert "…" not in "".join(lines)
    assert "and 2 more (--all lists all)" in lines
    assert "more classes" not in printed(report, limit=None)


def test_a_broken_json_is_a_defect_of_its_split(tmp_path: Path, pristine: Path) -> None:
    root = tmp_path / "coco"
    shutil.copytree(pristine / "JPEGImages", root / "images")
    images = [{"id": i, "file_name": f"{i:06d}.jpg", "width": 160, "height": 120} for i in range(3)]
    boxes = [{"id": 1, "image_id": 0, "category_id": 7, "bbox": [5, 5, 40, 30], "area": 1200, "iscrowd": 0}]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "thing"}]}
    (root / "annotations").mkdir()
    (root / "annotations" / "train.json").write_text(json.dumps(content))
    (root / "annotations" / "val.json").write_text('{"images": [')
    report = check_dataset(root)
    assert [(defect.kind, defect.file) for defect in report.defects] == [("unreadable-split", "val")]
    assert "val.json" in report.defects[0].message
    assert report.exit_code == 5
    assert [(split.name, split.images) for split in report.splits] == [("train", 3)]


def test_no_data_set_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set found"):
        check_dataset(tmp_path)


def test_real_defects_of_real_data(shared_data: Path) -> None:
    report = check_dataset(shared_data / "bccd", splits=["val"])
    assert [(defect.file, defect.object_index) for defect in report.defects] == [
        ("Annotations/BloodImage_00338.xml", 12)
    ]
    assert report.exit_code == 5
    assert {item.name for item in report.classes} == {"RBC", "WBC", "Platelets"}


def test_no_torch_is_needed() -> None:
    code = "import sys, grcn.data.check, grcn.scenes.generate, grcn.data.download; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
