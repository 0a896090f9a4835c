"""Hugging Face image folders, in the forms that the documentation of `datasets` gives and that its users save."""

import ast
import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grcn.data.check import check_dataset
from grcn.data.dataset import Dataset, list_splits, open_dataset
from grcn.errors import AnnotationError, ConfigError, GrcnError, ImageError

# The example of the documentation, "Create an image dataset, Object detection".
ROWS: list[dict[str, Any]] = [
    {"file_name": "0001.png", "objects": {"bbox": [[302.0, 109.0, 73.0, 52.0]], "categories": [0]}},
    {"file_name": "0002.png", "objects": {"bbox": [[810.0, 100.0, 57.0, 28.0]], "categories": [1]}},
    {
        "file_name": "0003.png",
        "objects": {"bbox": [[160.0, 31.0, 248.0, 616.0], [741.0, 68.0, 202.0, 401.0]], "categories": [2, 2]},
    },
]
BOXES = [
    [("0", [302, 109, 375, 161])],
    [("1", [810, 100, 867, 128])],
    [("2", [160, 31, 408, 647]), ("2", [741, 68, 943, 469])],
]
NAMES = ("cat", "dog, grey", "Äffchen")
CARD = """---
license: apache-2.0
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': indoors
          '1': outdoors
  - name: objects
    sequence:
    - name: bbox
      sequence: float32
      length: 4
    - name: categories
      dtype:
        class_label:
          names:
            '0': cat
            '2': Äffchen
            '1': dog, grey
---
# Animals
"""


def photo(path: Path, grey: int = 90, size: tuple[int, int] = (1000, 700)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, (grey,) * 3).save(path, compress_level=1)


def photos(folder: Path, *names: str) -> None:
    for grey, name in enumerate(names or [row["file_name"] for row in ROWS]):
        photo(folder / name, grey)


def jsonl(path: Path, rows: list[Any], encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode(encoding))


def table(path: Path, rows: list[dict[str, Any]], text: Any = str) -> None:
    """As `pandas.DataFrame(rows).to_csv(path, index=False)` has it where `text` is str."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: value if isinstance(value, str) else text(value) for key, value in row.items()} for row in rows
    )
    path.write_text(out.getvalue(), encoding="utf-8")


def parquet(path: Path, rows: list[dict[str, Any]], features: Any = None) -> None:
    content = pyarrow.Table.from_pylist(rows)
    if features is not None:  # as `Dataset.to_parquet` writes it
        content = content.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(content, path)


def found(data: Dataset) -> list[list[tuple[str, list[float]]]]:
    return [
        [(data.class_names[i], box) for i, box in zip(r.target.labels, r.target.boxes.tolist(), strict=True)]
        for r in data
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv as JSON", "csv by pandas", "parquet"])
def test_the_example_of_the_documentation(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    photos(folder)
    if kind == "jsonl":
        jsonl(folder / "metadata.jsonl", ROWS)
    elif kind == "parquet":
        parquet(folder / "metadata.parquet", ROWS)
    else:
        table(folder / "metadata.csv", ROWS, json.dumps if "JSON" in kind else str)
    data = open_dataset(tmp_path)
    assert (data.format, data.split, data.class_names, found(data)) == ("imagefolder", "train", ("0", "1", "2"), BOXES)
    assert [(defect.kind, defect.exit_code) for defect in data.defects] == [("classes-by-number", 0)]
    (tmp_path / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    assert [[name for name, _ in some] for some in found(open_dataset(tmp_path))] == [
        [NAMES[0]],
        [NAMES[1]],
        [NAMES[2]] * 2,
    ]
    assert check_dataset(tmp_path).defects == ()


def test_names_of_the_card_and_of_parquet(tmp_path: Path) -> None:
    photos(tmp_path / "train")
    jsonl(tmp_path / "train" / "metadata.jsonl", ROWS)
    (tmp_path / "README.md").write_text(CARD, encoding="utf-8")
    data = open_dataset(tmp_path)
    assert (data.class_names, data.defects) == (NAMES, ())
    assert found(data)[1] == [(NAMES[1], [810, 100, 867, 128])]
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert open_dataset(tmp_path).class_names == ("0", "1", "2"), "a card that cannot be read is text"

    (tmp_path / "train" / "metadata.jsonl").unlink()
    label = {"feature": {"names": list(NAMES), "_type": "ClassLabel"}, "_type": "Sequence"}
    other = {"names": ["indoors"], "_type": "ClassLabel"}
    parquet(tmp_path / "train" / "metadata.parquet", ROWS, {"objects": {"categories": label}, "place": other})
    data = open_dataset(tmp_path)
    assert (data.class_names, data.defects) == (NAMES, ())


def test_splits_and_folders_below_them(tmp_path: Path) -> None:
    """Metadata in train/, validation/ and test/, and in a folder of one of them; paths from the metadata's folder."""
    rows = {
        "train/cam0": "images/a.png",
        "train/cam1": "images/a.png",
        "validation": "b.png",
        "test": "deep\\er\\c.png",
    }
    for grey, (folder, name) in enumerate(rows.items()):
        photo(tmp_path / folder / name.replace("\\", "/"), grey)
        objects = {"bbox": [[1, 2, 3, 4]], "categories": ["dog" if folder == "test" else "cat"]}
        jsonl(tmp_path / folder / "metadata.jsonl", [{"file_name": name, "objects": objects}])
    assert list_splits(tmp_path) == ("train", "validation", "test")
    data = open_dataset(tmp_path)
    assert ([record.image_id for record in data], data.class_names) == (
        ["train/cam0/images/a", "train/cam1/images/a"],
        ("cat", "dog"),
    )
    assert found(open_dataset(tmp_path, split="test")) == [[("dog", [1, 2, 4, 6])]]
    assert {defect.kind for defect in check_dataset(tmp_path).defects} == {"unknown-class"}


def test_metadata_above_the_folders_of_splits(tmp_path: Path) -> None:
    photos(tmp_path, "train/a.png", "test/b.png", "c.png")
    rows = [{"file_name": name, "objects": {"bbox": [], "category": []}} for name in ("train/a.png", "test/b.png")]
    rows[0]["objects"] = {"bbox": [[1, 2, 3, 4]], "category": ["cat"]}
    jsonl(tmp_path / "metadata.jsonl", rows)
    assert list_splits(tmp_path) == ("train", "test")
    assert [record.image_id for record in open_dataset(tmp_path, split="test")] == ["b"]
    jsonl(tmp_path / "metadata.jsonl", [*rows, rows[0] | {"file_name": "c.png"}])
    assert list_splits(tmp_path) == ("train",)


FORMS: dict[str, dict[str, Any]] = {
    "names": {"objects": {"bbox": [[1, 2, 3, 4]], "categories": ["cat"]}},
    "category": {"objects": {"id": [7], "area": [12], "bbox": [[1, 2, 3, 4]], "category": ["cat"]}},
    "names before ids": {"objects": {"bbox": [[1, 2, 3, 4]], "category_id": [3], "category": ["cat"]}},
    "a list of objects": {"objects": [{"bbox": [1, 2, 3, 4], "label": "cat"}]},
    "columns of the row": {"bbox": [[1, 2, 3, 4]], "labels": ["cat"]},
    "another name of the image's column": {
        "image_file_name": "a.png",
        "objects": {"bbox": [[1, 2, 3, 4]], "category": ["cat"]},
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_forms_of_objects(kind: str, form: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    row = FORMS[form] if "image_file_name" in FORMS[form] else {"file_name": "a.png", **FORMS[form]}
    {"jsonl": jsonl, "csv": table, "parquet": parquet}[kind](tmp_path / f"metadata.{kind}", [row])
    data = open_dataset(tmp_path)
    assert (found(data), data.defects) == ([[("cat", [1, 2, 4, 6])]], ())


def test_flags_areas_and_sizes(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise to stand upright
    PIL.Image.new("RGB", (100, 80)).save(tmp_path / "a.jpg", exif=exif)
    lists = {"bbox": [[0, 0, 50, 40], [1, 2, 3, 4]], "category": ["cat", "cat"], "iscrowd": [0, True]}
    row = {
        "file_name": "a.jpg",
        "width": 100,
        "height": 80,
        "objects": lists | {"area": [7.5, None], "difficult": [1, 0]},
    }
    jsonl(tmp_path / "metadata.jsonl", [row])
    data = open_dataset(tmp_path)
    target = data[0].target
    assert (target.crowd.tolist(), target.difficult.tolist()) == ([False, True], [True, False])
    assert target.areas.tolist() == [7.5, 12]
    assert target.boxes.tolist() == [[40, 0, 80, 50], [74, 1, 78, 4]], "drawn on the photo as it is stored"
    assert [defect.kind for defect in data.defects] == ["exif-turned"]


def test_images_without_objects_and_those_that_are_not_annotated(tmp_path: Path) -> None:
    photos(tmp_path, "none.png", "null.png", "absent.png", "unmentioned.png", "some.png")
    some = {"bbox": [[1, 2, 3, 4]], "categories": ["cat"]}
    rows = [
        {"file_name": "some.png", "objects": some},
        {"file_name": "none.png", "objects": {"bbox": [], "categories": []}},
    ]
    rows += [
        {"file_name": "null.png", "objects": None},
        {"file_name": "absent.png"},
        {"file_name": "gone.png", "objects": some},
    ]
    jsonl(tmp_path / "metadata.jsonl", rows)
    data = open_dataset(tmp_path)
    assert [(record.image_id, len(record.target)) for record in data] == [("some", 1), ("none", 0)]
    assert [(defect.kind, defect.object_index, defect.exit_code) for defect in data.defects] == [
        ("missing-image", 5, ImageError.exit_code),
        ("missing-annotation", 3, AnnotationError.exit_code),
        ("missing-annotation", 4, AnnotationError.exit_code),
        ("missing-annotation", None, AnnotationError.exit_code),
    ]
    assert data.defects[-1].file == "unmentioned.png"


def test_what_no_split_uses(tmp_path: Path) -> None:
    photos(tmp_path / "train")
    jsonl(tmp_path / "train" / "metadata.jsonl", [row | {"objects": {"bbox": [], "categories": []}} for row in ROWS])
    photo(tmp_path / "train" / "new.png", 50)
    photo(tmp_path / "extra" / "x.png", 51)
    jsonl(tmp_path / "extra" / "metadata.jsonl", ROWS)
    jsonl(tmp_path / "captions.jsonl", [{"file_name": "a.png", "text": "objects"}])
    (tmp_path / "README.md").write_text(CARD, encoding="utf-8")
    kinds = [(defect.kind, defect.file) for defect in check_dataset(tmp_path).defects]
    assert kinds == [
        ("missing-annotation", "train/new.png"),
        ("no-objects", "train"),
        ("unused-file", "captions.jsonl"),
        ("in-no-split", "extra/metadata.jsonl"),
        ("in-no-split", "extra/x.png"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_and_spellings(encoding: str, tmp_path: Path) -> None:
    photo(tmp_path / "Train" / "Ä.PNG")
    objects = {"bbox": [[1, 2, 3, 4]], "categories": ["Äffchen"]}
    jsonl(tmp_path / "Train" / "METADATA.JSONL", [{"file_name": "./a\u0308.png", "objects": objects}], encoding)
    assert found(open_dataset(tmp_path)) == [[("Äffchen", [1, 2, 4, 6])]]


def test_another_format_goes_before(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    jsonl(tmp_path / "metadata.jsonl", [{"file_name": "images/a.png", "objects": {"bbox": [], "categories": []}}])
    assert open_dataset(tmp_path).format == "yolo"


def test_captions_are_no_data_set(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for name, text in (
        ("jsonl", '{"file_name": "a.png", "text": "bbox objects"}'),
        ("csv", "file_name,text\na.png,objects"),
    ):
        (tmp_path / f"metadata.{name}").write_text(text)
    with pytest.raises(GrcnError, match=r"no data set found\. Looked for .*metadata\.jsonl"):
        open_dataset(tmp_path)


def row(objects: Any, **changes: Any) -> dict[str, Any]:
    return {"file_name": "a.png", "objects": objects} | changes


GOOD = {"bbox": [[1, 2, 3, 4]], "categories": ["cat"]}
FAULTS: dict[str, tuple[Any, str]] = {
    "no object": (7, "line 2: not an object of names and values"),
    "no name": (row(GOOD, file_name=None), "line 2: no text 'file_name'"),
    "lengths": (row(GOOD | {"categories": ["cat", "cat"]}), "line 2: 1 boxes, but 2 of 'categories'"),
    "no list": (row(GOOD | {"bbox": 7}), "line 2: 'bbox' is 7, not a list of boxes"),
    "no objects": (row(7), "line 2: 'objects' is 7, neither an object of lists nor"),
    "a text": (row("{'bbox': __import__('os')}"), "line 2: .* is neither JSON nor Python's lists and objects"),
    "three numbers": (
        row(GOOD | {"bbox": [[1, 2, 3]]}),
        r"line 2, object 0: 'bbox' is \[1, 2, 3\], not x, y, width, height",
    ),
    "no number": (row(GOOD | {"bbox": [[1, 2, 3, "far"]]}), "line 2, object 0: 'far' is not a number"),
    "no class": (row({"bbox": [[1, 2, 3, 4]]}), "line 2, object 0: no class: needs one of categories, category"),
    "no name of a class": (row(GOOD | {"categories": [" "]}), "line 2, object 0: class ' ' is neither a name nor"),
    "a negative number": (row(GOOD | {"categories": [-1]}), "line 2, object 0: class -1 is neither a name nor"),
    "an unknown class": (
        row(GOOD | {"categories": ["unicorn"]}),
        "line 2, object 0: class 'unicorn' is not one of the classes",
    ),
    "a number too high": (
        row(GOOD | {"categories": [1]}),
        r"line 2, object 0: class '1' is not one of the classes \(cat\)",
    ),
    "a flag": (row(GOOD | {"iscrowd": ["rather"]}), "line 2, object 0: 'rather' is neither yes nor no"),
    "the same photo": (row(GOOD, file_name="b.png"), r"line 2: b\.png is also the image of line 1"),
    "an escape": (row(GOOD, file_name="../../secret.png"), "line 2: .* leads outside"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_name_row_and_object(case: str, tmp_path: Path) -> None:
    entry, message = FAULTS[case]
    photos(tmp_path, "a.png", "b.png")
    (tmp_path / "classes.txt").write_text("cat\n")
    jsonl(tmp_path / "metadata.jsonl", [row(GOOD, file_name="b.png"), entry])
    with pytest.raises(AnnotationError, match=rf"metadata\.jsonl: {message}") as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)
    data = open_dataset(tmp_path, on_error="collect")
    assert any(defect.object_index == 2 and defect.message.endswith("left out") for defect in data.defects)
    assert found(data)[0] == [("cat", [1, 2, 4, 6])]


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "no JSON": ("jsonl", b'{"file_name": "a.png", "objects": {}}\n{"file_name"', "line 2: not JSON"),
    "deep JSON": ("jsonl", b'{"file_name": "a.png", "objects": ' + b"[" * 10**5, "line 1: not JSON"),
    "cells": ("csv", b"file_name,objects\na.png,{},7\n", "line 2: 3 cells, expected 2"),
    "a long cell": ("csv", b'file_name,objects\na.png,"' + b"[" * 2 * 10**5, r"line \d: field larger"),
    "deep Python": ("csv", b'file_name,objects\na.png,"' + b"[" * 10**5 + b'"\n', "line 2: .* neither JSON nor"),
    "signs": ("csv", b'file_name,objects\na.png,"' + b"-" * 10**5 + b'1"\n', "line 2: .* neither JSON nor"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_are_broken(case: str, tmp_path: Path) -> None:
    kind, content, message = BROKEN[case]
    photo(tmp_path / "a.png")
    (tmp_path / f"metadata.{kind}").write_bytes(content)
    with pytest.raises(AnnotationError, match=rf"metadata\.{kind}: {message}"):
        open_dataset(tmp_path)


def test_too_many_classes_by_number(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    jsonl(tmp_path / "metadata.jsonl", [row({"bbox": [[1, 2, 3, 4]], "categories": [2**30]})])
    with pytest.raises(AnnotationError, match=r"class 1073741824 has no name; list the class names in classes\.txt"):
        open_dataset(tmp_path)


def test_several_files_of_metadata(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a.png")
    jsonl(tmp_path / "train" / "metadata.jsonl", [row(GOOD)])
    table(tmp_path / "train" / "metadata.csv", [row(GOOD)])
    with pytest.raises(AnnotationError, match=r"train: holds metadata\.jsonl and metadata\.csv; keep one"):
        open_dataset(tmp_path)


def test_parquet_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "train" / "a.png")
    parquet(tmp_path / "train" / "metadata.parquet", [row(GOOD)])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ConfigError, match=r"metadata\.parquet: needs pyarrow, .* pip install 'grcn\[parquet\]'$"):
            open_dataset(tmp_path)
        (defect,) = (d for d in check_dataset(tmp_path).defects if d.kind == "unreadable-split")
        assert "grcn[parquet]" in defect.message
    assert len(open_dataset(tmp_path)) == 1


def test_parquet_with_the_photos_in_it(tmp_path: Path) -> None:
    """As `Dataset.push_to_hub` writes it: refused in one line, and the script of the documentation unpacks it."""
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (100, 80)).save(buffer, "PNG")
    objects = {"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [1]}
    rows = [{"image": {"bytes": buffer.getvalue(), "path": "a.png"}, "objects": objects}] * 2
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", rows)
    assert list_splits(tmp_path) == ("train", "test")
    with pytest.raises(
        AnnotationError, match=r"train-00000-of-00001\.parquet: holds the photos itself; write them to files"
    ):
        open_dataset(tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "mend-data.md").read_text(encoding="utf-8")
    script = next(block.partition("```")[0] for block in page.split("```python")[1:] if "parquet" in block)
    script = script.replace('"photos-on-the-hub"', repr(str(tmp_path))).replace('"photos"', repr(str(tmp_path / "out")))
    exec(compile(ast.parse(script), "mend-data.md", "exec"), {})
    data = open_dataset(tmp_path / "out", split="test")
    assert (len(data), found(data)[0]) == (2, [("1", [1, 2, 4, 6])])
    assert check_dataset(tmp_path / "out").splits[0].images == 2


@pytest.mark.parametrize("spoil", ["cut off", "no magic", "zeros", "more rows than are read"])
def test_broken_parquet(spoil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "train" / "a.png")
    path = tmp_path / "train" / "metadata.parquet"
    parquet(path, [row(GOOD)])
    data = path.read_bytes()
    if spoil == "more rows than are read":
        monkeypatch.setattr("grcn.data.formats.imagefolder.MAX_ROWS", 0)
    else:
        path.write_bytes(
            {"cut off": data[:4] + data[-700:], "no magic": data[:-4], "zeros": bytes(60) + data[60:]}[spoil]
        )
    with pytest.raises(GrcnError) as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


value = st.recursive(
    st.sampled_from([None, 0, 1.5, float("nan"), -1, "cat", "a.png", True]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["bbox", "categories", "area"]), inner),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(st.sampled_from(["file_name", "objects", "width"]), value), max_size=3),
    st.binary(max_size=9),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_rows_only_our_errors(tmp_path: Path, rows: list[Any], end: bytes) -> None:
    photo(tmp_path / "a.png", size=(20, 20))
    jsonl(tmp_path / "metadata.jsonl", [row(GOOD), *rows])
    with open(tmp_path / "metadata.jsonl", "ab") as file:
        file.write(end)
    for on_error in ("raise", "collect"):
        try:
            data = open_dataset(tmp_path, on_error=on_error)  # type: ignore[arg-type]
        except GrcnError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017
        else:
            assert len(data) + len(data.defects) > 0
