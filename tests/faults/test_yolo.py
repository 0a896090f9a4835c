"""Fault matrix, YOLO text: parsed, or an AnnotationError with file and line."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grcn.config import TrainConfig
from grcn.data.check import check_dataset
from grcn.data.dataset import open_dataset
from grcn.errors import AnnotationError, DataError, GrcnError, ImageError
from grcn.training.data import open_data

ROW = "0 0.2 0.5 0.2 0.5"
PARSED = [10.0, 20.0, 30.0, 60.0]
YAML = "train: images\nval: images\nnames: [cat, dog]\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    PIL.Image.new("RGB", (100, 80)).save(tmp_path / "images" / "a.png")
    (tmp_path / "data.yaml").write_text(YAML)
    return tmp_path


def annotate(root: Path, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (root / "labels" / "a.txt").write_bytes(data)


def boxes(root: Path) -> list[list[float]]:
    data = open_dataset(root)
    assert data.defects == ()
    return [[round(float(v), 3) for v in box] for box in data[0].target.boxes]


@pytest.mark.parametrize(
    "text",
    [
        ROW,
        f"\n  {ROW}  \r\n\r\n",
        "0\t2e-1 .5 +0.2 0.5",
        "0.0 0.2 0.5 0.2 0.5",
        ROW + " 0.87",
        "\ufeff" + ROW,
        "0 0.1 0.25 0.3 0.25 0.3 0.75 0.1 0.75",
        "0 0.1 0.5 0.3 0.25 0.2 0.75",
        "0 0.1 0.25 0.3 0.75 0.2 0.3 0.2 0.3 0.2 0.4",
    ],
)
def test_rows_scores_and_polygons(root: Path, text: str) -> None:
    annotate(root, text)
    assert boxes(root) == [PARSED]


def test_polygons_out_of_the_image_are_clipped(root: Path) -> None:
    annotate(root, "1 -0.1 -0.1 0.3 -0.1 0.3 0.75 -0.1 0.75")
    data = open_dataset(root)
    assert np.allclose(data[0].target.boxes, [[0, 0, 30, 60]])
    assert [(d.kind, d.file, d.object_index) for d in data.defects] == [("box-clipped", "labels/a.txt", 1)]


def test_keypoints_after_the_box(root: Path) -> None:
    (root / "data.yaml").write_text(YAML + "kpt_shape: [3, 2]\n")
    annotate(root, ROW + " 0.9 0.9 0.8 0.8 0.7 0.7")
    assert boxes(root) == [PARSED]


def test_rounding_is_not_counted(root: Path) -> None:
    annotate(root, "0 0.5 0.5 1.0000009 1.000001")
    assert boxes(root) == [[0, 0, 100, 80]]


def test_no_objects(root: Path) -> None:
    PIL.Image.new("RGB", (100, 80)).save(root / "images" / "b.png")
    annotate(root, "\n")
    data = open_dataset(root)
    assert [len(record.target) for record in data] == [0, 0], "an empty file and none at all"
    assert data.defects == ()


BAD = {
    "short": ("0 0.2 0.5 0.2", "4 numbers, expected class cx cy w h"),
    "one": ("0", "1 numbers, expected"),
    "words": ("cat 0.2 0.5 0.2 0.5", "'cat 0.2 0.5 0.2 0.5' does not consist of numbers"),
    "commas": ("0,0.2,0.5,0.2,0.5", "does not consist of numbers"),
    "underscore": ("0 0.2 0.5 0.2 0_5", "does not consist of numbers"),
    "class beyond the names": ("2 0.2 0.5 0.2 0.5", "class 2 is not one of 0 to 1"),
    "negative class": ("-1 0.2 0.5 0.2 0.5", "class -1 is not one of 0 to 1"),
    "fractional class": ("0.5 0.2 0.5 0.2 0.5", "class 0.5 is not one of 0 to 1"),
    "NaN class": ("nan 0.2 0.5 0.2 0.5", "class nan is not one of 0 to 1"),
    "infinite class": ("inf 0.2 0.5 0.2 0.5", "class inf is not one of 0 to 1"),
    "huge class": ("1" * 500 + " 0.2 0.5 0.2 0.5", "is not one of 0 to 1"),
    "uneven polygon": ("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7", "8 numbers are neither a box nor a polygon"),
    "pixels": ("0 20 40 20 40", "20 is not a fraction of the image side .*; are these pixels?"),
    "negative": ("0 0.2 -3 0.2 0.5", "-3 is not a fraction"),
    "pixels in a polygon": ("0 0.1 0.2 0.3 0.4 99 0.6", "99 is not a fraction"),
}


@pytest.mark.parametrize("case", BAD)
def test_broken_rows(root: Path, case: str) -> None:
    row, reason = BAD[case]
    annotate(root, f"{ROW}\n\n{row}\n1{ROW[1:]}\n")
    with pytest.raises(AnnotationError, match=rf"labels/a\.txt: line 3: .*{reason}".replace("?", r"\?")):
        open_dataset(root)
    data = open_dataset(root, on_error="collect")
    assert len(data[0].target) == 2, "the others are kept"
    assert [(d.kind, d.file, d.object_index) for d in data.defects] == [("bad-object", "labels/a.txt", 3)]


@pytest.mark.parametrize("beside", [False, True])
def test_a_label_file_that_two_images_share(root: Path, beside: bool) -> None:
    annotate(root, ROW)
    if beside:
        (root / "labels" / "a.txt").rename(root / "images" / "a.txt")
    for name in ("a.jpg", "a.BMP", "b.jpg"):
        PIL.Image.new("RGB", (100, 80)).save(root / "images" / name)
    data = open_dataset(root)
    assert [len(record.target) for record in data] == [1, 1, 1, 0]
    assert [(d.kind, d.file) for d in data.defects] == [
        ("label-shared", f"{'images' if beside else 'labels'}/a.txt")
    ] * 2
    assert "belongs to a.BMP and a.jpg: both get its boxes" in data.defects[0].message


def test_photos_of_kinds_that_are_not_read(root: Path) -> None:
    annotate(root, ROW)
    (root / "images" / "deep").mkdir()
    for name in ("b.jxl", "deep/c.CR2"):
        (root / "images" / name).write_bytes(b"x")
    data = open_dataset(root)
    assert [(d.kind, d.file, d.exit_code) for d in data.defects] == [
        ("unread-kind", "images/b.jxl", ImageError.exit_code),
        ("unread-kind", "images/deep/c.CR2", ImageError.exit_code),
    ]
    (root / "images" / "a.png").unlink()
    with pytest.raises(DataError, match=r"first of 2 defects: images/b\.jxl: a photo of a kind that is not read"):
        open_dataset(root)


def test_label_files_that_are_no_text(root: Path) -> None:
    annotate(root, b"0 0.2 \xff\xfe")
    with pytest.raises(AnnotationError, match=r"labels/a\.txt: not UTF-8 text at byte 6"):
        open_dataset(root)
    data = open_dataset(root, on_error="collect")
    assert [(len(data), d.kind, d.file) for d in data.defects] == [(0, "broken-annotation", "labels/a.txt")]


def test_a_label_that_is_a_folder(root: Path) -> None:
    (root / "labels" / "a.txt").mkdir()
    with pytest.raises(AnnotationError, match=r"labels/a\.txt: not a file"):
        open_dataset(root)


def test_labels_without_image_and_broken_images(root: Path) -> None:
    annotate(root, ROW)
    (root / "labels" / "ghost.txt").write_text(ROW)
    (root / "labels" / "classes.txt").write_text("cat\ndog\n")
    data = open_dataset(root)
    assert [(d.kind, d.file, d.exit_code) for d in data.defects] == [
        ("missing-image", "labels/ghost.txt", ImageError.exit_code)
    ]
    (root / "images" / "a.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"images/a\.png: empty file"):
        open_dataset(root)


def test_no_labels_anywhere(root: Path) -> None:
    with pytest.raises(DataError, match=r"images/a\.png: neither it nor any other image of split 'train'"):
        open_dataset(root)


CONFIGS = {
    "broken": ("names: [cat\n", "not YAML"),
    "tab": ("\tnames: 3", "not YAML"),
    "python object": ("names: !!python/object/apply:os.system ['true']\ntrain: images\n", "not YAML"),
    "list": ("- a\n- b\n", "expected keys and values"),
    "names missing a number": ("train: images\nnames: {0: cat, 2: dog}\n", "names: the keys are not 0 to 1"),
    "names by words": ("train: images\nnames: {a: cat}\n", "names: the keys are not 0 to 0"),
    "names a text": ("train: images\nnames: cat\n", "names: 'cat' is not a list of names"),
    "unquoted no": ("train: images\nnames: [yes, no]\n", "names: True is not a name; put it in quotes"),
    "null name": ("train: images\nnames: [cat, ]\nnames: [null]\n", "names: None is not a name"),
    "name twice": ("train: images\nnames: [cat, cat]\n", "class 'cat' is named twice"),
    "count": ("train: images\nnc: 3\nnames: [cat, dog]\n", "nc is 3, but there are 2 names"),
    "split a number": ("train: 7\nnames: [cat]\n", "train: 7 is neither a folder nor a list"),
    "split of numbers": ("train: [7]\nnames: [cat]\n", r"train: \[7\] is neither"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_broken_data_yaml(root: Path, case: str) -> None:
    annotate(root, ROW)
    text, reason = CONFIGS[case]
    (root / "data.yaml").write_text(text)
    with pytest.raises(AnnotationError, match=rf"data\.yaml: {reason}") as caught:
        open_dataset(root)
    assert "\n" not in str(caught.value)


def test_folders_of_data_yaml_that_are_nowhere(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: pictures\nnames: [cat]\n")
    with pytest.raises(AnnotationError, match=r"data\.yaml: none of the folders and lists that it names is in"):
        open_dataset(tmp_path)


def test_yaml_laughs_are_harmless(root: Path) -> None:
    lines = ["a0: &a0 [ha, ha]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    (root / "data.yaml").write_text("\n".join(lines) + "\ntrain: images\nnames: *a29\n")
    with pytest.raises(AnnotationError, match=r"data\.yaml: names: \[.{1,60} is not a name"):
        open_dataset(root)


def test_nothing_names_the_classes(root: Path) -> None:
    """They are called by their numbers, of all splits, and this is said once."""
    (root / "data.yaml").unlink()
    for split, rows in (
        ("train", f"{ROW}\n2 0.2 0.2 0.1 0.1\n"),
        ("val", "4 0.2 0.2 0.1 0.1\n77 far\n12345 0 0 1 1\n"),
    ):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir()
        PIL.Image.new("RGB", (10, 10), (len(rows),) * 3).save(root / "images" / split / "a.png")
        (root / "labels" / split / "a.txt").write_text(rows)
    (root / "images" / "a.png").unlink()
    data = open_dataset(root)
    assert (data.class_names, data[0].target.labels.tolist()) == (("0", "1", "2", "3", "4"), [0, 2])
    (said,) = data.defects
    assert (said.kind, said.file, said.exit_code) == ("classes-by-number", "classes.txt", 0)
    assert "no other file names the classes, so they are called 0 to 4; to name them, write that file" in said.message
    with pytest.raises(AnnotationError, match=r"a\.txt: line 2: '77 far' does not"):
        open_dataset(root, split="val")
    kinds = [defect.kind for defect in check_dataset(root).defects]
    assert (kinds.count("classes-by-number"), kinds.count("bad-object")) == (1, 2), "too high a number is no class"
    assert open_dataset(root, class_names=["cat", "dog", "eel"]).defects == (), "a model's names, by their numbers"
    (root / "classes.txt").write_text("cat\ncat\n")
    with pytest.raises(AnnotationError, match=r"classes\.txt: class 'cat' is named twice"):
        open_dataset(root)


def test_training_says_once_that_nothing_names_the_classes(root: Path) -> None:
    annotate(root, ROW)
    (root / "data.yaml").write_text("train: images\nval: images\n")
    heard: list[str] = []
    train, val = open_data(TrainConfig(data=str(root), val_split="val"), heard.append)
    assert (train.class_names, val and val.class_names) == (("0",), ("0",))
    assert ["no other file names the classes" in line for line in heard].count(True) == 1


@pytest.mark.parametrize("listed", [False, True])
def test_data_yaml_without_names(root: Path, listed: bool) -> None:
    annotate(root, ROW)
    (root / "data.yaml").write_text("train: images\nnc: 1\n")
    if listed:
        (root / "classes.txt").write_text("cat\n")
    data = open_dataset(root)
    assert data.class_names == (("cat",) if listed else ("0",))
    assert [defect.kind for defect in data.defects] == ([] if listed else ["classes-by-number"])


row = st.lists(st.floats(width=16).map(str) | st.sampled_from(["0", "1", "0.5", "x", "1e30", "nan"]), max_size=9)


@given(
    st.lists(row.map(" ".join) | st.text(max_size=8), max_size=6).map("\n".join).map(str.encode)
    | st.binary(max_size=40)
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_rows_only_our_errors(root: Path, data: bytes) -> None:
    annotate(root, data)
    try:
        open_dataset(root)
    except GrcnError as error:
        assert str(root) in str(error)  # noqa: PT017
    collected = open_dataset(root, on_error="collect")
    assert len(collected) + len(collected.defects) > 0


TOKENS = ["names", "train", "path", "images", "cat", "&a ", "*a", "!!int ", "!!timestamp ", "<<", "0b", "_", "..", "0"]
TOKENS += [*":: \n[]{}-?'/", "- "]


@given(st.lists(st.sampled_from(TOKENS), max_size=25).map("".join).map(str.encode) | st.binary(max_size=40))
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_yaml_only_our_errors(root: Path, data: bytes) -> None:
    annotate(root, ROW)
    (root / "data.yaml").write_bytes(data + b"\n" + YAML.encode())
    try:
        open_dataset(root)
    except GrcnError as error:
        assert str(root) in str(error)  # noqa: PT017
