"""Fault matrix, path escapes: what annotations name outside the data set's root is refused and never opened."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL.Image
import pytest

from grcn.data.dataset import list_splits, open_dataset
from grcn.errors import AnnotationError

Box = "<object><name>cat</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"


@pytest.fixture(scope="module")
def opened() -> list[str]:
    """Every file that this process opens or lists, as the interpreter's audit hook sees it."""
    names: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.scandir", "os.listdir") and isinstance(arguments[0], (str, bytes, os.PathLike)):
            names.append(os.path.realpath(os.fsdecode(arguments[0])))

    sys.addaudithook(hook)  # it cannot be taken away again, so it only takes notes
    return names


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the data set's, with an image, labels and lists that an escape would find."""
    folder = tmp_path / "outside"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for place in (folder, folder / "images"):
        PIL.Image.new("RGB", (10, 10)).save(place / "secret.png")
    (folder / "secret.xml").write_text(f"<annotation>{Box}</annotation>")
    (folder / "labels" / "secret.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "list.txt").write_text("images/secret.png\n")
    (folder / "secret.json").write_text("{}")
    (folder / "data.yaml").write_text("train: images\nnames: [cat]\n")
    return folder


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def nothing_outside_is_opened(opened: list[str], outside: Path) -> Iterator[None]:
    start = len(opened)
    yield
    strays = [name for name in opened[start:] if Path(name).is_relative_to(outside.resolve())]
    assert not strays
    assert len(opened) > start, "the hook sees what is opened"


def voc(root: Path, listed: str = "a") -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (10, 10)).save(root / "JPEGImages" / "a.png")
    (root / "Annotations" / "a.xml").write_text(f"<annotation>{Box}</annotation>")
    (root / "ImageSets" / "Main" / "train.txt").write_text(listed + "\n")


def coco(root: Path, name: str = "a.png") -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    PIL.Image.new("RGB", (10, 10)).save(root / "images" / "a.png")
    images = [{"id": 1, "file_name": name}]
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (root / "annotations" / "train.json").write_text(json.dumps(content))


def yolo(root: Path, config: str = "train: images\n") -> None:
    (root / "images").mkdir(exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    PIL.Image.new("RGB", (10, 10)).save(root / "images" / "a.png")
    (root / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "data.yaml").write_text(f"{config}names: [cat]\n")


def cvat(root: Path, name: str = "a.png") -> None:
    (root / "images").mkdir(exist_ok=True)
    PIL.Image.new("RGB", (10, 10)).save(root / "images" / "a.png")
    box = '<box label="cat" occluded="0" xtl="1" ytl="1" xbr="5" ybr="5"></box>'
    (root / "annotations.xml").write_text(f'<annotations><image id="0" name="{name}">{box}</image></annotations>')


def imagefolder(root: Path, name: str = "images/a.png") -> None:
    (root / "images").mkdir(exist_ok=True)
    PIL.Image.new("RGB", (10, 10)).save(root / "images" / "a.png")
    row = {"file_name": name, "objects": {"bbox": [[1, 1, 4, 4]], "categories": ["cat"]}}
    (root / "metadata.jsonl").write_text(json.dumps(row))


def csv(root: Path, name: str = "a.png") -> None:
    (root / "images").mkdir(exist_ok=True)
    PIL.Image.new("RGB", (10, 10)).save(root / "images" / "a.png")
    (root / "table.csv").write_text(f"{name},1,1,5,5,cat\n")
    (root / "classes.csv").write_text("cat,0\n")


def link(at: Path, to: Path) -> None:
    if at.is_dir():
        for inner in at.iterdir():
            inner.unlink()
        at.rmdir()
    at.unlink(missing_ok=True)
    at.symlink_to(to)


def refused(root: Path, pattern: str, **options: object) -> None:
    with pytest.raises(AnnotationError, match=pattern) as caught:
        open_dataset(root, **options)  # type: ignore[arg-type]
    assert "outside" in str(caught.value)


NAMES = ["../outside/secret", "../../outside/secret", "x/../../outside/secret", "{outside}/secret"]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_voc_lists(root: Path, outside: Path, name: str) -> None:
    voc(root, name.format(outside=outside))
    refused(root, r"train\.txt: line 1: .* leads outside")
    data = open_dataset(root, on_error="collect")
    assert (len(data), [defect.kind for defect in data.defects]) == (0, ["path-escape"])


@pytest.mark.parametrize("name", NAMES)
def test_file_names_in_voc_files_are_not_followed(root: Path, outside: Path, name: str) -> None:
    voc(root)
    file_name = name.format(outside=outside) + ".png"
    (root / "Annotations" / "a.xml").write_text(f"<annotation><filename>{file_name}</filename>{Box}</annotation>")
    assert open_dataset(root)[0].path.name == "a.png"


@pytest.mark.parametrize("name", NAMES)
def test_file_names_in_coco_files(root: Path, outside: Path, name: str) -> None:
    coco(root, name.format(outside=outside) + ".png")
    refused(root, r"train\.json: images\[0\]: .* leads outside")
    data = open_dataset(root, on_error="collect")
    assert (len(data), [defect.kind for defect in data.defects]) == (0, ["path-escape"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("write", [cvat, imagefolder, csv])
def test_file_names_in_other_files(write: Callable[..., None], root: Path, outside: Path, name: str) -> None:
    write(root, name.format(outside=outside) + ".png")
    refused(root, r"(annotations\.xml: image 0|metadata\.jsonl: line 1|table\.csv: line 1).* leads outside")
    data = open_dataset(root, on_error="collect")
    assert (len(data), [defect.kind for defect in data.defects]) == (0, ["path-escape"])


@pytest.mark.parametrize("name", ["\0", "a\0.png", "\ud800.png", "x" * 5000, "/", ".", ".."])
def test_names_that_no_file_can_have(root: Path, name: str) -> None:
    coco(root, name)
    data = open_dataset(root, on_error="collect")
    assert len(data) == 0
    assert [defect.kind for defect in data.defects] in (["path-escape"], ["missing-image"])


def test_subfolders_and_detours_inside_the_root_are_fine(root: Path) -> None:
    coco(root, "sub/../sub/b.png")
    (root / "images" / "sub").mkdir()
    PIL.Image.new("RGB", (10, 10)).save(root / "images" / "sub" / "b.png")
    assert open_dataset(root)[0].path == root.resolve() / "images" / "sub" / "b.png"
    coco(root, str(root.resolve() / "images" / "a.png"))
    assert open_dataset(root)[0].path.name == "a.png"


@pytest.mark.parametrize("entry", ["../../outside/images", "x/../../outside/images", "{outside}/images", "/"])
@pytest.mark.parametrize("as_list", [False, True])
def test_places_in_data_yaml(root: Path, outside: Path, entry: str, as_list: bool) -> None:
    place = entry.format(outside=outside)
    yolo(root, f"val: {[place] if as_list else place}\n")
    refused(root, r"data\.yaml: val: .* leads outside")


@pytest.mark.parametrize("entry", ["../outside/images", "../outside/list.txt"])
def test_one_step_up_in_data_yaml_is_taken_for_the_root(root: Path, entry: str) -> None:
    """As Roboflow writes: what is not there in the root is no split, whatever lies outside."""
    yolo(root, f"val: {entry}\n")
    assert list_splits(root) == ("train",)
    assert [(defect.kind, defect.file) for defect in open_dataset(root).defects] == [("missing-split", "data.yaml")]


def test_a_place_outside_gives_way_to_the_folder_of_its_name(root: Path, outside: Path) -> None:
    """A data set moved from another machine keeps working; what it says is counted as not followed."""
    yolo(root, f"train: {outside}/images\n")
    data = open_dataset(root)
    assert [record.path.name for record in data] == ["a.png"]
    assert [(defect.kind, defect.file) for defect in data.defects] == [("path-escape", "data.yaml")]


@pytest.mark.parametrize("path", ["../outside", "{outside}", "..", "/", "elsewhere", "datasets/mine"])
def test_path_in_data_yaml_is_passed_over_outside(root: Path, outside: Path, path: str) -> None:
    yolo(root, f"path: {path.format(outside=outside)}\ntrain: images\n")
    data = open_dataset(root)
    assert [record.path for record in data] == [root.resolve() / "images" / "a.png"]


@pytest.mark.parametrize("name", [f"{name}.png" for name in NAMES] + ["../outside/images/secret.png"])
def test_names_in_yolo_lists(root: Path, outside: Path, name: str) -> None:
    yolo(root, "train: list.txt\n")
    (root / "list.txt").write_text("./images/a.png\n" + name.format(outside=outside) + "\n")
    refused(root, r"list\.txt: line 2: .* leads outside")
    data = open_dataset(root, on_error="collect")
    assert (len(data), [defect.kind for defect in data.defects]) == (1, ["path-escape"])


LINKS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "VOC image": (voc, "JPEGImages/a.png", "secret.png"),
    "VOC annotation": (voc, "Annotations/a.xml", "secret.xml"),
    "VOC list": (voc, "ImageSets/Main/train.txt", "list.txt"),
    "VOC images' folder": (voc, "JPEGImages", "images"),
    "VOC annotations' folder": (voc, "Annotations", "."),
    "VOC classes": (voc, "classes.txt", "list.txt"),
    "COCO image": (coco, "images/a.png", "secret.png"),
    "COCO annotation": (coco, "annotations/train.json", "secret.json"),
    "COCO images' folder": (coco, "images", "images"),
    "YOLO image": (yolo, "images/a.png", "secret.png"),
    "YOLO subfolder": (yolo, "images/more", "images"),
    "YOLO labels": (yolo, "labels/a.txt", "labels/secret.txt"),
    "YOLO images' folder": (yolo, "images", "images"),
    "YOLO labels' folder": (yolo, "labels", "labels"),
    "YOLO configuration": (yolo, "data.yaml", "list.txt"),
    "CVAT image": (cvat, "images/a.png", "secret.png"),
    "CVAT export": (cvat, "annotations.xml", "secret.xml"),
    "CVAT images' folder": (cvat, "images", "images"),
    "metadata's image": (imagefolder, "images/a.png", "secret.png"),
    "metadata": (imagefolder, "metadata.jsonl", "secret.json"),
    "image of a table": (csv, "images/a.png", "secret.png"),
    "table": (csv, "table.csv", "list.txt"),
    "classes of a table": (csv, "classes.csv", "list.txt"),
}


@pytest.mark.parametrize("case", LINKS)
def test_links_out_of_the_root(root: Path, outside: Path, case: str) -> None:
    write, at, to = LINKS[case]
    write(root)
    link(root / at, outside / to)
    refused(root, "outside")


@pytest.mark.parametrize("write", [voc, coco, yolo, cvat, imagefolder, csv])
def test_links_inside_the_root_and_to_the_root_are_fine(
    root: Path, tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(root)
    image = next(root.glob("*/a.png"))
    image.rename(image.with_name("stored.bin"))
    image.symlink_to("stored.bin")
    (tmp_path / "alias").symlink_to(root)
    assert open_dataset(tmp_path / "alias")[0].target.boxes.tolist()


def test_links_to_other_folders_are_not_searched_for_data(root: Path, outside: Path) -> None:
    (root / "shortcut").symlink_to(outside)
    (root / "inner").mkdir()
    voc(root / "inner")
    assert open_dataset(root)[0].path.is_relative_to(root.resolve() / "inner")
