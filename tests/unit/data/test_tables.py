"""CSV: tables of TensorFlow's guides, Roboflow, keras-retinanet, Open Images and Google AutoML, as these have them."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grcn.data.check import check_dataset
from grcn.data.dataset import Dataset, list_splits, open_dataset
from grcn.errors import AnnotationError, GrcnError, ImageError

WIDTH, HEIGHT = 200, 100


def photo(path: Path, grey: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (WIDTH, HEIGHT), (grey,) * 3).save(path)


def photos(root: Path, *names: str) -> None:
    for grey, name in enumerate(names):
        photo(root / name, grey)


def put(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def found(data: Dataset) -> dict[str, list[tuple[str, list[float]]]]:
    """Classes and boxes by image, to a thousandth of a pixel."""
    return {
        str(record.image_id): [
            (data.class_names[label], [round(v, 3) for v in box])
            for label, box in zip(record.target.labels, record.target.boxes.tolist(), strict=True)
        ]
        for record in data
    }


TENSORFLOW = """filename,width,height,class,xmin,ymin,xmax,ymax
a.jpg,200,100,"cat, grey",10,20,30,60
b.jpg,200,100,dog,0,0,200,99.5
a.jpg,200,100,dog,100,20,130,60
"""
BOXES = {"a": [("cat, grey", [10, 20, 30, 60]), ("dog", [100, 20, 130, 60])], "b": [("dog", [0, 0, 200, 99.5])]}


def test_tensorflow(tmp_path: Path) -> None:
    """As the widespread xml_to_csv.py writes it: a table of each split, the photos in images/SPLIT."""
    photos(tmp_path / "images" / "train", "a.jpg", "b.jpg")
    photo(tmp_path / "images" / "test" / "a.jpg", 7)
    put(tmp_path / "data" / "train_labels.csv", TENSORFLOW)
    put(tmp_path / "data" / "test_labels.csv", TENSORFLOW.splitlines()[0] + "\na.jpg,200,100,dog,1,2,3,4\n")
    assert list_splits(tmp_path) == ("train", "test")
    data = open_dataset(tmp_path)
    assert (data.format, data.class_names, data.defects, found(data)) == ("csv", ("cat, grey", "dog"), (), BOXES)
    test = open_dataset(tmp_path, split="test")
    assert (test.class_names, found(test)) == (data.class_names, {"a": [("dog", [1, 2, 3, 4])]})
    assert check_dataset(tmp_path).defects == ()


def test_roboflow(tmp_path: Path) -> None:
    """A table beside the photos of each split, whose rows it names without a folder."""
    for split in ("train", "valid", "test"):
        photos(tmp_path / split, "a_jpg.rf.1.jpg", "b_jpg.rf.2.jpg")
        text = TENSORFLOW.replace("a.jpg", "a_jpg.rf.1.jpg").replace("b.jpg", "b_jpg.rf.2.jpg")
        put(tmp_path / split / "_annotations.csv", text)
    put(tmp_path / "README.dataset.txt", "Roboflow")
    assert list_splits(tmp_path) == ("train", "valid", "test")
    assert list(found(open_dataset(tmp_path, split="val")).values()) == list(BOXES.values())
    assert {defect.kind for defect in check_dataset(tmp_path).defects} == {"split-overlap"}, "the photos are the same"


@pytest.mark.parametrize("classes", [None, "bird,2\ncow,0\ncat,1\n", "class_name,id\nbird,2\ncow,0\ncat,1\n"])
def test_retinanet(classes: str | None, tmp_path: Path) -> None:
    """The example of keras-retinanet's documentation, on smaller photos; paths are of another machine."""
    photos(tmp_path, *(f"imgs/img_00{i}.jpg" for i in range(1, 5)))
    rows = (
        "/data/imgs/img_001.jpg,83,34,98,45,cow",
        "/data/imgs/img_002.jpg,21,31,27,39,cat",
        "/data/imgs/img_002.jpg,22,5,89,84,bird",
        "/data/imgs/img_003.jpg,,,,,",
        "/data/imgs/img_004.jpg,nan,nan,nan,nan,nan",
    )
    put(tmp_path / "annotations.csv", "\n".join(rows))
    if classes:
        put(tmp_path / "classes.csv", classes)
    data = open_dataset(tmp_path)
    assert data.class_names == (("cow", "cat", "bird") if classes else ("bird", "cat", "cow"))
    assert (data.split, data.defects) == ("train", ())
    assert found(data) == {
        "img_001": [("cow", [83, 34, 98, 45])],
        "img_002": [("cat", [21, 31, 27, 39]), ("bird", [22, 5, 89, 84])],
        "img_003": [],
        "img_004": [],
    }
    assert check_dataset(tmp_path).defects == (), "the list of classes is used"


AUTOML = """TRAIN,gs://folder/image1.png,car,0.1,0.1,,,0.3,0.3,,
TRAIN,gs://folder/image1.png,bike,.7,.6,,,.8,.9,,
UNASSIGNED,gs://folder/im2.png,car,0.1,0.1,0.2,0.1,0.2,0.3,0.1,0.3
TEST,gs://folder/im3.png,,,,,,,,,
VALIDATION,gs://folder/im4.png,"Baked, goods",0.5,0.25,,,1.0,0.75,,
"""
VERTEX = """test,gs://bucket/filename1.png,Tomato,0.3,0.1,,,0.7,0.2,,
training,gs://bucket/filename2.png,Tomato,0.8,0.2,,,1.0,0.4,,
gs://bucket/filename3.png
gs://bucket/filename4.png,Baked goods,0.7,0.7,0.8,0.7,0.8,0.8,0.7,0.8
validation,gs://bucket/filename5.png,Salad,0.0,0.0,,,1.0,0.1,,
"""


def test_automl(tmp_path: Path) -> None:
    """The sample rows of its documentation; what is in no set is for training."""
    photos(tmp_path, "image1.png", "im2.png", "im3.png", "sub/im4.png")
    put(tmp_path / "import.csv", AUTOML.replace("folder/im4", "folder/sub/im4"))
    assert list_splits(tmp_path) == ("train", "val", "test")
    train, val, test = (open_dataset(tmp_path, split=split) for split in ("train", "val", "test"))
    assert found(train) == {
        "image1": [("car", [20, 10, 60, 30]), ("bike", [140, 60, 160, 90])],
        "im2": [("car", [20, 10, 40, 30])],
    }
    assert (found(val), found(test)) == ({"im4": [("Baked, goods", [100, 25, 200, 75])]}, {"im3": []})
    assert {data.class_names for data in (train, val, test)} == {("Baked, goods", "bike", "car")}
    assert {defect.kind for defect in check_dataset(tmp_path).defects} == {"unknown-class", "no-objects"}


def test_vertex(tmp_path: Path) -> None:
    """Vertex AI's: sets in small letters, or none, and rows cut short."""
    photos(tmp_path / "images", *(f"filename{i}.png" for i in range(1, 6)))
    put(tmp_path / "data.csv", VERTEX)
    train = open_dataset(tmp_path)
    assert (train.defects, found(train)) == (
        (),
        {
            "filename2": [("Tomato", [160, 20, 200, 40])],
            "filename3": [],
            "filename4": [("Baked goods", [140, 70, 160, 80])],
        },
    )
    assert list(found(open_dataset(tmp_path, split="val"))) == ["filename5"]


def test_automl_without_sets(tmp_path: Path) -> None:
    photos(tmp_path, "a.png")
    put(tmp_path / "test.csv", "gs://b/a.png,cat,0.1,0.1,,,0.3,0.3,,\n")
    assert list_splits(tmp_path) == ("test",)
    put(tmp_path / "test.csv", "set,path,label,x_min,y_min,,,x_max,y_max,,\nTRAIN,a.png,cat,0.1,0.1,,,0.3,0.3,,\n")
    assert (list_splits(tmp_path), found(open_dataset(tmp_path))) == (("train",), {"a": [("cat", [20, 10, 60, 30])]})


def test_turned_boxes_of_automl(tmp_path: Path) -> None:
    photos(tmp_path, "a.png")
    put(tmp_path / "a.csv", "TRAIN,a.png,cat,0.5,0.1,0.6,0.5,0.5,0.9,0.4,0.5\nTRAIN,a.png,cat,.3,.3,,,.1,.1,,\n")
    data = open_dataset(tmp_path)
    assert found(data) == {"a": [("cat", [80, 10, 120, 90]), ("cat", [20, 10, 60, 30])]}, "any two opposite vertices"
    assert [(defect.kind, defect.object_index) for defect in data.defects] == [("box-turned", 1)]


OPEN_IMAGES = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
000026e7ee790996,xclick,/m/07j7r,1,0.05,0.15,0.2,0.4,0,1,1,0,0
000026e7ee790996,xclick,/m/07j7r,1,0.45,0.575,0.25,0.45,1,1,0,0,0
000062a39995e348,activemil,/m/015p6,1,0.2,0.85,0.15,1,0,0,-1,0,0
"""  # noqa: E501 - its header
EXPECTED = {
    "000026e7ee790996": [("Tree", [10, 20, 30, 40]), ("Tree", [90, 25, 115, 45])],
    "000062a39995e348": [("Bird", [40, 15, 170, 100])],
}
DESCRIPTIONS = "/m/011k07,Tortoise\n/m/07j7r,Tree\n/m/015p6,Bird\n"


def own_download(root: Path, ids: tuple[str, ...]) -> None:
    photos(root / "validation", *(f"{name}.jpg" for name in ids))
    put(root / "validation-annotations-bbox.csv", OPEN_IMAGES)
    put(root / "oidv7-class-descriptions-boxable.csv", f"LabelName,DisplayName\n{DESCRIPTIONS}")


def by_cvat(root: Path, ids: tuple[str, ...]) -> None:
    photos(root / "images" / "validation", *(f"{name}.jpg" for name in ids))
    put(root / "annotations" / "validation-annotations-bbox.csv", OPEN_IMAGES)
    put(root / "annotations" / "class-descriptions.csv", DESCRIPTIONS)
    put(root / "annotations" / "bbox_labels_600_hierarchy.json", '{"LabelName": "/m/0bl9f", "Subcategory": []}')


def by_fiftyone(root: Path, ids: tuple[str, ...]) -> None:
    photos(root / "validation" / "data", *(f"{name}.jpg" for name in ids))
    put(root / "validation" / "labels" / "detections.csv", OPEN_IMAGES)
    put(root / "validation" / "metadata" / "classes.csv", DESCRIPTIONS)


@pytest.mark.parametrize("make", [own_download, by_cvat, by_fiftyone])
def test_open_images(make: Callable[[Path, tuple[str, ...]], None], tmp_path: Path) -> None:
    make(tmp_path, tuple(EXPECTED))
    data = open_dataset(tmp_path, split="val")
    assert (data.class_names, data.defects, found(data)) == (("Bird", "Tree"), (), EXPECTED)
    assert [record.target.crowd.tolist() for record in data] == [[True, False], [False]]
    defects = [defect.file for defect in check_dataset(tmp_path).defects if "hierarchy" not in defect.file]
    assert defects == [], "descriptions are used"


def test_open_images_of_which_few_are_there(tmp_path: Path) -> None:
    """Each photo that is not there is counted once, whatever its boxes."""
    own_download(tmp_path, ("000062a39995e348", "unlabelled"))
    (tmp_path / "oidv7-class-descriptions-boxable.csv").unlink()
    data = open_dataset(tmp_path, split="val")
    assert (data.class_names, [record.image_id for record in data]) == (("/m/015p6", "/m/07j7r"), ["000062a39995e348"])
    assert [(defect.kind, defect.object_index, defect.exit_code) for defect in data.defects] == [
        ("missing-image", 2, ImageError.exit_code),
        ("missing-annotation", None, AnnotationError.exit_code),
    ]
    assert "no image '000026e7ee790996'" in data.defects[0].message
    assert data.defects[1].file == "validation/unlabelled.jpg"


def test_ids_of_other_kinds_of_photos(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "000026e7ee790996.PNG")
    put(tmp_path / "images" / "000062a39995e348.jxl", "x")
    put(tmp_path / "train.csv", OPEN_IMAGES)
    data = open_dataset(tmp_path)
    assert [record.path.name for record in data] == ["000026e7ee790996.PNG"]
    assert [defect.kind for defect in data.defects] == ["unread-kind"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_a_spreadsheet_saves(delimiter: str, end: str, encoding: str, tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg", "b.jpg")
    rows = list(csv.reader(TENSORFLOW.splitlines()))
    hint = f"sep={delimiter}{end}" if delimiter == ";" else ""
    if delimiter != ",":
        rows = [[cell.replace(".5", ",5") for cell in row] for row in rows]
    lines = (delimiter.join(f'"{c}"' if "," in c and delimiter == "," else c for c in row) for row in [*rows, [""] * 8])
    put(tmp_path / "table.csv", hint + end.join(lines) + end + end, encoding)
    data = open_dataset(tmp_path)
    assert (data.defects, found(data)) == ((), BOXES)


@pytest.mark.parametrize(
    "header",
    [
        "Class , X_Min,y-max,yMin,XMAX,File Name,note",
        "class_name,x1,y2,y1,x2,image,width",
        "category,xmin,ymax,ymin,xmax,image_path,split",
    ],
)
def test_other_headers(header: str, tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg")
    put(tmp_path / "table.csv", f"{header}\ndog,10,60,20,30,a.jpg,\n")
    assert found(open_dataset(tmp_path)) == {"a": [("dog", [10, 20, 30, 60])]}


def test_flags_and_splits_in_columns(tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    header = "filename,class,xmin,ymin,xmax,ymax,difficult,iscrowd,split"
    rows = ("a.jpg,dog,1,2,3,4,1,0,train", "b.jpg,dog,1,2,3,4,False,TRUE,valid", "c.jpg,dog,1,2,3,4,,,fold2")
    put(tmp_path / "table.csv", "\n".join((header, *rows)))
    assert list_splits(tmp_path) == ("train", "val", "fold2")
    flags = [open_dataset(tmp_path, split=split)[0].target for split in ("train", "val", "fold2")]
    assert [target.difficult.tolist() for target in flags] == [[True], [False], [False]]
    assert [target.crowd.tolist() for target in flags] == [[False], [True], [False]]


def test_folders_of_images_are_splits(tmp_path: Path) -> None:
    """One table of photos in train and test must not have the test photos learned."""
    photos(tmp_path, "train/a.jpg", "test/b.jpg", "c.jpg")
    rows = ["train\\a.jpg,1,2,3,4,dog", "test\\b.jpg,1,2,3,4,dog"]
    put(tmp_path / "all.csv", "\n".join(rows))
    assert list_splits(tmp_path) == ("train", "test")
    assert list(found(open_dataset(tmp_path, split="test"))) == ["b"]
    put(tmp_path / "all.csv", "\n".join([*rows, "c.jpg,1,2,3,4,dog"]))
    assert list_splits(tmp_path) == ("train",), "not all photos lie in such folders"


def test_names_in_other_spellings(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "Ä.PNG")
    put(tmp_path / "a.csv", "C:\\x\\a\u0308.png,1,2,3,4,dog\n")
    assert [len(record.target) for record in open_dataset(tmp_path)] == [1]


def test_several_tables_and_what_no_split_uses(tmp_path: Path) -> None:
    for grey, name in enumerate(("fold1.jpg", "fold2.jpg")):
        photo(tmp_path / name, grey)
        put(tmp_path / f"{name[:5]}.csv", f"{name},1,2,3,4,dog\n")
    photo(tmp_path / "new.jpg", 9)
    put(tmp_path / "old" / "a.csv", "a.jpg,1,2,3,4,dog\n")
    put(tmp_path / "results.csv", "epoch,loss\n1,2\n")
    assert list_splits(tmp_path) == ("fold1", "fold2")
    assert [(defect.kind, defect.file) for defect in check_dataset(tmp_path).defects] == [
        ("in-no-split", "new.jpg"),
        ("in-no-split", "old/a.csv"),
        ("unused-file", "results.csv"),
    ]


@pytest.mark.parametrize("deep", [False, True])
def test_another_format_goes_before_a_table(deep: bool, tmp_path: Path) -> None:
    """A table often lies beside a data set as its second form, also above it; `--format csv` reads it."""
    root = tmp_path / "set" if deep else tmp_path
    photo(root / "images" / "a.jpg")
    put(root / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    put(root / "classes.txt", "dog\n")
    put(tmp_path / "train.csv", "images/a.jpg,1,2,3,4,dog\n" if not deep else "set/images/a.jpg,1,2,3,4,dog\n")
    assert open_dataset(tmp_path).format == "yolo"
    assert [(d.kind, d.file) for d in check_dataset(tmp_path).defects] == [("unused-file", "train.csv")]
    assert found(open_dataset(tmp_path, format="csv")) == {"a": [("dog", [1, 2, 3, 4])]}


TF = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
FAULTS: dict[str, tuple[str, str]] = {
    "no number": (f"{TF}a.jpg,200,100,dog,1,2,far,4", "line 2: 'far' is not a number"),
    "no corner": (f"{TF}a.jpg,200,100,dog,1,2,3", "line 2: a corner is missing"),
    "no class": (f"{TF}a.jpg,200,100,,1,2,3,4", "line 2: no class"),
    "no image": (f"{TF},200,100,dog,1,2,3,4", "line 2: no image name"),
    "an unquoted comma": (
        f"{TF}a.jpg,200,100,dog, grey,1,2,3,4",
        "line 2: 9 cells, expected 8; put names that hold a ','",
    ),
    "two sizes": (
        f"{TF}a.jpg,200,100,dog,1,2,3,4\na.jpg,20,10,dog,1,2,3,5",
        "line 3: the size of the image is not that in line 2",
    ),
    "an unknown class": (f"{TF}a.jpg,200,100,unicorn,1,2,3,4", "line 2: class 'unicorn' is not one of the classes"),
    "a flag": ("image,label,x1,y1,x2,y2,difficult\na.jpg,dog,1,2,3,4,rather", "line 2: 'rather' is neither yes nor no"),
    "pixels": (
        "TRAIN,a.jpg,dog,10,20,,,30,40,,",
        "line 1: 10 is not a fraction of the image side .*; are these pixels?",
    ),
    "one vertex": ("TRAIN,a.jpg,dog,.1,.2,,,,,,", "line 1: 1 vertices, expected 2 or 4"),
    "half a vertex": ("TRAIN,a.jpg,dog,.1,.2,,,.3,,,", "line 1: a corner is missing"),
    "a set": (
        "TRAIN,a.jpg,dog,.1,.2,,,.3,.4,,\nTRIAN,a.jpg,dog,.1,.2,,,.3,.4,,",
        "line 2: 'TRIAN' is not one of TRAIN,",
    ),
    "an escape": ("../../secret.jpg,1,2,3,4,dog", "line 1: .* leads outside"),
    "one photo by two names": ("a.jpg,1,2,3,4,dog\nA.JPG,1,2,3,5,dog", r"line 2: a\.jpg is also the image of line 1"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_name_the_line(case: str, tmp_path: Path) -> None:
    text, message = FAULTS[case]
    photos(tmp_path / "root", "a.jpg", "b.jpg")
    photo(tmp_path / "a.jpg")
    put(tmp_path / "root" / "classes.txt", "dog\n")
    put(tmp_path / "root" / "table.csv", text)
    with pytest.raises(AnnotationError, match=rf"table\.csv: {message}") as caught:
        open_dataset(tmp_path / "root")
    assert "\n" not in str(caught.value)
    data = open_dataset(tmp_path / "root", on_error="collect")
    assert any(defect.message.endswith("left out") and defect.object_index for defect in data.defects)


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "a field without end": (f'{TF}"{"x" * 200_000}', r"table\.csv: line \d: field larger than field limit"),
    "another encoding": (
        f"{TF}ä.jpg,200,100,dog,1,2,3,4".encode("cp1252"),
        r"table\.csv: not UTF-8 text at byte .*; save it",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_cannot_be_read(case: str, tmp_path: Path) -> None:
    text, message = BROKEN[case]
    photo(tmp_path / "a.jpg")
    (tmp_path / "table.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AnnotationError, match=message):
        open_dataset(tmp_path)


LISTS = {
    "a number twice": ({"classes.csv": "dog,0\ncat,0\n"}, r"classes\.csv: two classes have the same number"),
    "a name twice": ({"classes.csv": "dog,0\ndog,1\n"}, r"classes\.csv: class 'dog' is named twice"),
    "two lists": (
        {"classes.csv": "dog,0\n", "class_list.csv": "cat,0\n"},
        r"class_list\.csv and .*classes\.csv each list",
    ),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_of_classes(case: str, tmp_path: Path) -> None:
    files, message = LISTS[case]
    photo(tmp_path / "a.jpg")
    put(tmp_path / "a.csv", "a.jpg,1,2,3,4,dog\n")
    for name, text in files.items():
        put(tmp_path / name, text)
    with pytest.raises(AnnotationError, match=message):
        open_dataset(tmp_path)


def test_other_files_of_two_columns_are_no_lists_of_classes(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    put(tmp_path / "a.csv", "a.jpg,1,2,3,4,dog\n")
    put(tmp_path / "counts.csv", "a.jpg,1\n")
    put(tmp_path / "labels.csv", "a.jpg,dog\n")
    assert open_dataset(tmp_path).class_names == ("dog",)


cell = st.sampled_from(
    ["a.jpg", "TRAIN", "", "0.1", "1e30", "nan", "-1", "dog", '"', ",", "gs://a.jpg", "\n", "\0", "é"]
)


@given(
    st.lists(st.lists(cell, max_size=12).map(",".join), max_size=5).map("\n".join).map(str.encode)
    | st.binary(max_size=60)
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_rows_only_our_errors(tmp_path: Path, data: bytes) -> None:
    photo(tmp_path / "a.jpg")
    for start in (TF.encode(), b"a.jpg,1,2,3,4,dog\n", b"TRAIN,a.jpg,dog,.1,.2,,,.3,.4,,\n", b""):
        (tmp_path / "table.csv").write_bytes(start + data)
        for on_error in ("raise", "collect"):
            try:
                opened: Any = open_dataset(tmp_path, on_error=on_error)  # type: ignore[arg-type]
            except GrcnError as error:
                assert str(tmp_path) in str(error)  # noqa: PT017
            else:
                assert len(opened) + len(opened.defects) > 0 or start == TF.encode(), "but for a header alone"
                assert all(np.isfinite(record.target.boxes).all() for record in opened)
