"""Fault matrix, VOC XML: parsed, or an AnnotationError with file and object."""

from pathlib import Path

import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grcn.data.dataset import open_dataset
from grcn.errors import AnnotationError, DataError, GrcnError, ImageError

BOX = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>60</ymax></bndbox>"
OBJECT = f"<object><name>cat</name>{BOX}</object>"
PARSED = [[10.0, 20.0, 30.0, 60.0]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A VOC folder of one image; its annotation is the test's."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    PIL.Image.new("RGB", (100, 80)).save(tmp_path / "JPEGImages" / "a.png")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    return tmp_path


def annotate(root: Path, text: str | bytes, name: str = "a") -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (root / "Annotations" / f"{name}.xml").write_bytes(data)


def boxes(root: Path) -> list[list[float]]:
    data = open_dataset(root)
    assert data.defects == ()
    return data[0].target.boxes.tolist()


def wrap(objects: str, head: str = "") -> str:
    return f"{head}<annotation><size><width>100</width><height>80</height></size>{objects}</annotation>"


@pytest.mark.parametrize(
    "text",
    [
        wrap(OBJECT),
        wrap(OBJECT).replace("11<", "11.0<").replace("30<", " 3.0e1\n<"),
        f"<annotation>{OBJECT}</annotation>",
        f"<annotation><size/>{OBJECT}</annotation>",
        f"<annotation><size><width>0</width><height>0</height><depth>3</depth></size>{OBJECT}</annotation>",
        f"<annotation><size><width>?</width><height>80</height></size>{OBJECT}</annotation>",
        wrap(OBJECT.replace("<name>", "<pose/><part><name>head</name></part><name>\n ")),
        wrap(f"<!-- {OBJECT} --><?tool data?>{OBJECT}"),
        wrap(OBJECT, '<?xml version="1.0"?><!DOCTYPE annotation>'),
    ],
)
def test_floats_missing_tags_and_clutter(root: Path, text: str) -> None:
    annotate(root, text)
    assert boxes(root) == PARSED


def test_floats_are_kept(root: Path) -> None:
    annotate(root, wrap(OBJECT.replace("11<", "11.25<").replace("60<", "59.75<")))
    assert boxes(root) == [[10.25, 20.0, 30.0, 59.75]]


@pytest.mark.parametrize("declared", ["utf-16", "utf-8", "latin-1", "us-ascii", "cp1252", "iso-8859-15", "koi8-r"])
def test_odd_encodings(root: Path, declared: str) -> None:
    name = {"koi8-r": "кот", "us-ascii": "cat"}.get(declared, "chât")
    text = f'<?xml version="1.0" encoding="{declared}"?>' + wrap(OBJECT.replace("cat", name))
    annotate(root, text.encode(declared))
    assert boxes(root) == PARSED
    assert open_dataset(root).class_names == (name,)


def test_byte_order_mark(root: Path) -> None:
    annotate(root, wrap(OBJECT).encode("utf-8-sig"))
    assert boxes(root) == PARSED


def test_character_references_and_standard_entities(root: Path) -> None:
    annotate(root, wrap(OBJECT.replace("cat", "cat &amp; d&#111;g")))
    assert boxes(root) == PARSED
    assert open_dataset(root).class_names == ("cat & dog",)


@pytest.mark.parametrize("text", [wrap(""), "<annotation/>"])
def test_no_objects(root: Path, text: str) -> None:
    annotate(root, text)
    annotate(root, wrap(OBJECT), "other")
    data = open_dataset(root)
    assert data.class_names == ("cat",), "from the XML file that is in no split"
    assert data[0].target.boxes.shape == (0, 4)
    assert data.defects == ()


def test_difficult(root: Path) -> None:
    flags = ["", "<difficult>0</difficult>", "<difficult>1</difficult>", "<difficult> 1 </difficult>"]
    annotate(root, wrap("".join(OBJECT.replace("cat</name>", f"{i}</name>{flag}") for i, flag in enumerate(flags))))
    assert open_dataset(root)[0].target.difficult.tolist() == [False, False, True, True]


LAUGHS = (
    '<!DOCTYPE lolz [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghij", "bcdefghijk", strict=True))
    + "]>"
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not well-formed"),
        ("not XML", "not well-formed"),
        (wrap(OBJECT)[:-20], "not well-formed"),
        (wrap(OBJECT.replace("</name>", "")), "not well-formed"),
        (wrap(OBJECT.replace("cat", "&cat;")), "not well-formed"),
        (wrap(OBJECT.replace("cat", "&k;"), LAUGHS), "entities"),
        (wrap(OBJECT.replace("cat", "&x;"), OUTSIDE), "entities"),
        (wrap(OBJECT, '<?xml version="1.0" encoding="utf-16"?>'), "not well-formed"),
        (wrap(OBJECT, '<?xml version="1.0" encoding="none-such"?>'), "not well-formed"),
        (wrap(OBJECT.replace("cat", "ch\xe2t")).encode("latin-1"), "not well-formed"),
        (wrap(OBJECT.replace("cat", "猫"), '<?xml version="1.0" encoding="gbk"?>').encode("gbk"), "not well-formed"),
        ("<labels><image/></labels>", "root element <labels>"),
    ],
)
def test_broken_files(root: Path, text: str | bytes, reason: str) -> None:
    annotate(root, text)
    with pytest.raises(AnnotationError, match=rf"Annotations/a\.xml: .*{reason}") as caught:
        open_dataset(root)
    assert "\n" not in str(caught.value)
    data = open_dataset(root, on_error="collect")
    assert len(data) == 0
    assert [(d.kind, d.file, d.object_index) for d in data.defects] == [
        ("broken-annotation", "Annotations/a.xml", None)
    ]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (OBJECT.replace("<name>cat</name>", ""), "object 1: no <name>"),
        (OBJECT.replace("cat", "  "), "object 1: no <name>"),
        (OBJECT.replace(BOX, ""), r"object 1 \('cat'\): no <bndbox>"),
        (OBJECT.replace("<xmax>30</xmax>", ""), r"object 1 \('cat'\): no <xmax>"),
        (OBJECT.replace("30<", "thirty<"), r"object 1 \('cat'\): <xmax> is 'thirty', not a number"),
        (OBJECT.replace("30<", "3_0<"), "<xmax> is '3_0', not a number"),
        (OBJECT.replace("30<", "٣٠<"), "<xmax> is '٣٠', not a number"),
        (OBJECT.replace("30<", "<"), "<xmax> is '', not a number"),
        (OBJECT.replace("30<", "<b>30</b><"), "<xmax> is '', not a number"),
        (OBJECT.replace("</name>", "</name><difficult>maybe</difficult>"), "<difficult> is 'maybe'"),
    ],
)
def test_broken_objects(root: Path, broken: str, reason: str) -> None:
    annotate(root, wrap(OBJECT + broken + OBJECT.replace("cat", "dog")))
    with pytest.raises(AnnotationError, match=rf"Annotations/a\.xml: .*{reason}"):
        open_dataset(root)
    data = open_dataset(root, on_error="collect")
    assert data[0].target.boxes.tolist() == PARSED * 2, "the others are kept"
    assert [(d.kind, d.file, d.object_index) for d in data.defects] == [("bad-object", "Annotations/a.xml", 1)]


def test_one_image_of_two_files(root: Path) -> None:
    """Which of them is right is not clear."""
    annotate(root, wrap(OBJECT))
    annotate(root, wrap(OBJECT), "a.png")
    (root / "ImageSets" / "Main" / "train.txt").unlink()
    with pytest.raises(AnnotationError, match=r"Annotations/a\.xml: its image, a\.png, is also that of .*a\.png\.xml"):
        open_dataset(root)
    data = open_dataset(root, on_error="collect")
    assert [record.image_id for record in data] == ["a.png"]
    assert [(d.kind, d.file) for d in data.defects] == [("duplicate", "Annotations/a.xml")]


@pytest.mark.parametrize("name", ["b.CR2", "b.dng", "cam/b.jxl"])
def test_photos_of_kinds_that_are_not_read(root: Path, name: str) -> None:
    image_id = name.rpartition(".")[0]
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / name).parent.mkdir(exist_ok=True)
    (root / "JPEGImages" / name).write_bytes(b"x")
    annotate(root, wrap(OBJECT), image_id)
    annotate(root, wrap(OBJECT))
    (root / "ImageSets" / "Main" / "train.txt").write_text(f"{image_id}\na\n")
    data = open_dataset(root)
    assert [record.image_id for record in data] == ["a"]
    assert [(d.kind, d.file, d.exit_code) for d in data.defects] == [
        ("unread-kind", f"JPEGImages/{name}", ImageError.exit_code)
    ]


def test_unknown_class(root: Path) -> None:
    annotate(root, wrap(OBJECT + OBJECT.replace("cat", "dog")))
    with pytest.raises(AnnotationError, match=r"a\.xml: object 1: class 'dog' is not one of the classes \(bird, cat\)"):
        open_dataset(root, class_names=["bird", "cat"])
    (root / "classes.txt").write_text("cat\nbird\n")
    with pytest.raises(AnnotationError, match="class 'dog' is not one of"):
        open_dataset(root)
    data = open_dataset(root, on_error="collect")
    assert data[0].target.labels.tolist() == [0]
    assert [d.kind for d in data.defects] == ["unknown-class"]


def test_a_file_too_large_to_be_an_annotation(root: Path) -> None:
    with open(root / "Annotations" / "a.xml", "wb") as file:
        file.truncate(2**28)
    with pytest.raises(AnnotationError, match=r"a\.xml: larger than"):
        open_dataset(root)


def test_wrong_size_and_wrong_names(root: Path) -> None:
    """The image's own size and the XML file's own name hold."""
    annotate(root, wrap(OBJECT).replace(">100<", ">640<").replace("<size>", "<filename>b.jpg</filename><size>"))
    data = open_dataset(root)
    assert (data[0].image_id, data[0].width, data[0].path.name) == ("a", 100, "a.png")
    assert [d.kind for d in data.defects] == ["size-mismatch"]
    assert "annotated as 640 x 80, but is 100 x 80" in data.defects[0].message


def test_missing_images_and_annotations_are_counted(root: Path) -> None:
    annotate(root, wrap(OBJECT))
    annotate(root, wrap(OBJECT), "imageless")
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nimageless\n\nghost\na\n")
    data = open_dataset(root)
    assert [record.image_id for record in data] == ["a"]
    assert sorted((d.kind, d.file, d.object_index, d.exit_code) for d in data.defects) == [
        ("duplicate", "ImageSets/Main/train.txt", 5, AnnotationError.exit_code),
        ("missing-annotation", "ImageSets/Main/train.txt", 4, AnnotationError.exit_code),
        ("missing-image", "Annotations/imageless.xml", None, ImageError.exit_code),
    ]


def test_images_without_a_header(root: Path) -> None:
    annotate(root, wrap(OBJECT))
    (root / "JPEGImages" / "a.png").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"JPEGImages/a\.png: "):
        open_dataset(root)
    defect = open_dataset(root, on_error="collect").defects[0]
    assert (defect.kind, defect.file, defect.exit_code) == ("broken-image", "JPEGImages/a.png", ImageError.exit_code)


def test_nothing_usable_says_why(root: Path) -> None:
    annotate(root, wrap(""), "in_no_split")
    with pytest.raises(DataError, match=r"no image in split 'train' can be used; first of 1 defects: .*'a' has no"):
        open_dataset(root)
    annotate(root, wrap(""))
    with pytest.raises(DataError, match=r"no object of any class is annotated; name the classes in classes\.txt"):
        open_dataset(root)


def test_lists_that_are_no_text(root: Path) -> None:
    annotate(root, wrap(OBJECT))
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(AnnotationError, match=r"train\.txt: not UTF-8 text at byte 2"):
        open_dataset(root)


PIECES = st.sampled_from(
    [
        OBJECT,
        BOX,
        "<object>",
        "</object>",
        "<name>",
        "cat",
        "</name>",
        "nan",
        "1e999",
        "<xmin>",
        "</xmin>",
        "&lt;",
        "&x;",
    ]
)


@given(
    st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join).map(wrap).map(str.encode) | st.binary(max_size=60)
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_bytes_only_our_errors(root: Path, data: bytes) -> None:
    annotate(root, data)
    try:
        open_dataset(root)
    except GrcnError as error:
        assert str(root) in str(error)  # noqa: PT017
    collected = open_dataset(root, on_error="collect")
    assert len(collected) + len(collected.defects) > 0


def test_deep_nesting(root: Path) -> None:
    annotate(root, wrap("<a>" * 200_000 + "</a>" * 200_000 + OBJECT))
    assert boxes(root) == PARSED
