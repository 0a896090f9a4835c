"""Large data sets as they were read last (`grcn.data.cache`)."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from grcn.data import cache
from grcn.data.dataset import DataFolder, Dataset, open_dataset
from grcn.data.formats import coco, voc, yolo
from grcn.errors import AnnotationError

OLD = 1_000_000_000


def settle(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (OLD, OLD), follow_symlinks=False)


def change(path: Path, content: str, seconds: int = 1) -> None:
    path.write_text(content)
    os.utime(path, (OLD + seconds, OLD + seconds))


def photo(path: Path, width: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (width, 80)).save(path)


def as_coco(root: Path) -> Path:
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(4)]
    boxes = [{"id": i, "image_id": i % 3, "category_id": 1, "bbox": [10, 20, 30 + i, 40]} for i in range(5)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "Katze"}]}
    (root / "annotations").mkdir()
    (root / "annotations" / "train.json").write_text(json.dumps(content))
    return root / "annotations" / "train.json"


def as_yolo(root: Path) -> Path:
    (root / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    (root / "labels").mkdir()
    for i in range(4):
        (root / "labels" / f"{i}.txt").write_text("0 0.5 0.5 0.2 0.2\n" * (i > 0))
    return root / "labels" / "1.txt"


def as_voc(root: Path) -> Path:
    (root / "images").rename(root / "JPEGImages")
    (root / "Annotations").mkdir()
    box = "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>400</xmax><ymax>60</ymax></bndbox>"
    for i in range(4):
        content = f"<annotation><object><name>cat</name>{box}</object></annotation>"
        (root / "Annotations" / f"{i}.xml").write_text(content)
    return root / "Annotations" / "1.xml"


FORMATS = {"coco": as_coco, "yolo": as_yolo, "voc": as_voc}


@pytest.fixture(params=list(FORMATS))
def labels(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of labels of a small data set in `tmp_path / "set"`, that is worth remembering."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "WORTH", 3)
    for i in range(4):
        photo(tmp_path / "set" / "images" / f"{i}.png", 100 + i)
    file = FORMATS[request.param](tmp_path / "set")
    settle(tmp_path / "set")
    return file


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> tuple[Dataset, int]:
    """The data set, and how often labels were read for it."""
    read: list[object] = []
    with monkeypatch.context() as patch:
        for layout in (coco.CocoLayout, voc.VocLayout, yolo.YoloLayout):
            own = layout.open
            patch.setattr(layout, "open", lambda *args, own=own: (read.append(args), own(*args))[1])
        return open_dataset(folder, **options), len(read)  # type: ignore[arg-type]


def same(a: Dataset, b: Dataset) -> bool:
    def plain(dataset: Dataset) -> Dataset:
        return replace(dataset, records=())

    return plain(a) == plain(b) and all(
        (x.image_id, x.path, x.height, x.width) == (y.image_id, y.path, y.height, y.width)
        and all(
            np.array_equal(getattr(x.target, name), getattr(y.target, name))
            and getattr(x.target, name).dtype == getattr(y.target, name).dtype
            for name in ("boxes", "labels", "difficult", "crowd", "areas")
        )
        for x, y in zip(a, b, strict=True)
    )


def test_a_data_set_is_read_once(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, read = opened(tmp_path / "set", monkeypatch)
    assert read == 1
    again, read = opened(tmp_path / "set", monkeypatch)
    assert read == 0
    assert same(first, again)
    assert bool(first.defects) == (labels.suffix == ".xml")
    _, read = opened(tmp_path / "set", monkeypatch, class_names=("cat", "Katze", "dog"))
    assert read == 1  # asked in another way
    _, read = opened(tmp_path / "set", monkeypatch, on_error="collect")
    assert read == 1


def test_every_change_is_seen(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "set"
    images = next(path for path in (folder / "images", folder / "JPEGImages") if path.is_dir())

    def read_anew() -> bool:
        anew = opened(folder, monkeypatch)[1] == 1
        assert opened(folder, monkeypatch)[1] == 0
        return anew

    assert read_anew()
    change(labels, labels.read_text())
    assert read_anew()
    photo(images / "1.png", 55)
    settle(images)
    assert read_anew()
    photo(images / "sub" / "new.png")
    settle(images)
    assert read_anew()
    (images / "sub" / "new.png").rename(images / "sub" / "other.png")
    assert read_anew()
    (images / "link.png").symlink_to("1.png")
    settle(folder)
    assert read_anew()
    (images / "link.png").unlink()
    (images / "link.png").symlink_to("2.png")
    settle(folder)
    assert read_anew()
    (folder / "notes.txt").write_text("one")
    settle(folder)
    assert read_anew()
    monkeypatch.setattr(cache, "SUFFIXES", cache.SUFFIXES | {".new"})  # the extra has been installed
    assert read_anew()


def test_what_changed_just_now_is_not_remembered(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(labels, (time.time(),) * 2)
    assert [opened(tmp_path / "set", monkeypatch)[1] for _ in range(2)] == [1, 1]


def test_a_broken_data_set_is_broken_again(labels: Path, tmp_path: Path) -> None:
    change(labels, "{no labels")
    for _ in range(2):
        with pytest.raises(AnnotationError):
            open_dataset(tmp_path / "set", format={".json": "coco", ".txt": "yolo", ".xml": "voc"}[labels.suffix])


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "lengths", "text", "pickle", "folder"])
def test_a_torn_or_hostile_memory_is_passed_over(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "WORTH", 3)
    for i in range(4):
        photo(tmp_path / "set" / "images" / f"{i}.png")
    as_yolo(tmp_path / "set")
    settle(tmp_path / "set")
    first, _ = opened(tmp_path / "set", monkeypatch)
    (file,) = (tmp_path / "cache" / "grcn" / "datasets").iterdir()
    data = bytearray(file.read_bytes())
    with np.load(file) as arrays:
        content = dict(arrays)
    if damage == "lengths":
        content["counts"] = content["counts"] + 1
    if damage == "text":
        content["text"] = np.frombuffer(b'{"ids": 3}', np.uint8)
    if damage == "pickle":
        content["boxes"] = np.array([{}], dtype=object)
    data[data.index(b"cat") if b"cat" in data else 100] ^= damage == "flipped"
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage in ("cut", "empty", "flipped"):
        file.write_bytes({"cut": data[:-50], "empty": b"", "flipped": bytes(data)}[damage])
    else:
        np.savez(file, **content)
    again, read = opened(tmp_path / "set", monkeypatch)
    assert read == 1
    assert same(first, again)


def test_a_memory_that_cannot_be_written_costs_time_only(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [opened(tmp_path / "set", monkeypatch)[1] for _ in range(2)] == [1, 1]


def test_few_data_sets_are_kept(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_KEPT", 2)
    for name in ("a", "b", "c"):
        opened(tmp_path / "set", monkeypatch, class_names=("cat", "Katze", name))
    assert len(list((tmp_path / "cache" / "grcn" / "datasets").iterdir())) == 2
    assert opened(tmp_path / "set", monkeypatch, class_names=("cat", "Katze", "c"))[1] == 0


def test_small_and_huge_folders_are_not_remembered(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WORTH", 1000), ("MOST", 3)):
        with monkeypatch.context() as patch:
            patch.setattr(cache, name, value)
            DataFolder(tmp_path / "set").open("train")
    assert not (tmp_path / "cache").exists()


def test_a_data_set_without_one_photo_is_counted_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "WORTH", 3)
    (tmp_path / "set" / "images").mkdir(parents=True)
    for i in range(4):
        (tmp_path / "set" / "images" / f"{i}.png").write_bytes(b"no photo")
    as_yolo(tmp_path / "set")
    settle(tmp_path / "set")
    for _ in range(2):
        found, read = opened(tmp_path / "set", monkeypatch, on_error="collect")
        assert (len(found), read) == (0, 1)
        assert found.defects


def test_labels_behind_a_link_to_a_hidden_folder_are_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "WORTH", 3)
    for i in range(4):
        photo(tmp_path / "set" / "images" / f"{i}.png")
    as_yolo(tmp_path / "set")
    (tmp_path / "set" / "labels").rename(tmp_path / "set" / ".store")
    (tmp_path / "set" / "labels").symlink_to(".store")
    settle(tmp_path / "set")
    assert len(opened(tmp_path / "set", monkeypatch)[0][1].target) == 1
    change(tmp_path / "set" / ".store" / "1.txt", "")
    assert len(opened(tmp_path / "set", monkeypatch)[0][1].target) == 0


def test_what_python_makes_of_the_code_is_no_change(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.state(tmp_path / "set")
    (Path(cache.__file__).parent / "__pycache__").mkdir(exist_ok=True)
    made = Path(cache.__file__).parent / "__pycache__" / "grcn_test.pyc"
    try:
        made.write_bytes(b"")
        assert cache.state(tmp_path / "set")
    finally:
        made.unlink()
