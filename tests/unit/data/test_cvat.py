"""CVAT: exports "CVAT for images 1.1" of tasks and projects, as CVAT writes them, unpacked."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from grcn.data.check import check_dataset
from grcn.data.dataset import list_splits, open_dataset
from grcn.errors import AnnotationError, DataError, ImageError

WIDTH, HEIGHT = 640, 480

# A task's export in the form of CVAT 2, shortened to what a reader could stumble over.
TASK = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>7</id>
      <name>street</name>
      <size>3</size>
      <mode>annotation</mode>
      <overlap>0</overlap>
      <bugtracker></bugtracker>
      <created>2026-01-02 10:00:00.000000+00:00</created>
      <labels>
        <label>
          <name>van</name>
          <color>#fa3253</color>
          <type>any</type>
          <attributes>
            <attribute>
              <name>difficult</name>
              <mutable>False</mutable>
              <input_type>checkbox</input_type>
              <default_value>false</default_value>
              <values>false</values>
            </attribute>
          </attributes>
        </label>
        <label>
          <name>être &amp; co</name>
          <color>#34d1b7</color>
          <type>rectangle</type>
          <attributes>
          </attributes>
        </label>
        <label>
          <name>lane</name>
          <color>#34d1b8</color>
          <type>polygon</type>
          <attributes>
          </attributes>
        </label>
        <label>
          <name>body</name>
          <color>#34d1b9</color>
          <type>skeleton</type>
          <attributes>
          </attributes>
          <svg>&lt;circle r="1.5"&gt;</svg>
        </label>
        <label>
          <name>1</name>
          <color>#34d1b0</color>
          <type>points</type>
          <attributes>
          </attributes>
          <parent>body</parent>
        </label>
      </labels>
      <subset>Train</subset>
      <segments>
        <segment>
          <id>7</id>
          <start>0</start>
          <stop>2</stop>
          <url>http://localhost:8080/api/jobs/7</url>
        </segment>
      </segments>
      <owner>
        <username>admin</username>
        <email></email>
      </owner>
      <assignee></assignee>
    </task>
    <dumped>2026-01-02 11:00:00.000000+00:00</dumped>
  </meta>
  <image id="0" name="a b.png" width="640" height="480">
    <box label="être &amp; co" source="manual" occluded="1" xtl="10.25" ytl="20.00" xbr="110.25" ybr="60.50" z_order="0">
    </box>
    <box label="van" source="manual" occluded="0" xtl="200.00" ytl="100.00" xbr="300.00" ybr="140.00" z_order="1">
      <attribute name="difficult">true</attribute>
      <attribute name="color">red</attribute>
    </box>
    <box label="van" source="file" occluded="0" xtl="0.00" ytl="0.00" xbr="640.00" ybr="99.00" z_order="2" group_id="3">
      <attribute name="difficult">false</attribute>
      <attribute name="is_crowd">true</attribute>
    </box>
  </image>
  <image id="1" name="cam/ä.png" width="640" height="480">
  </image>
  <image id="2" name="c.png" width="640" height="480">
    <polygon label="lane" source="manual" occluded="0" points="1.00,2.00;30.00,4.00;5.00,60.00" z_order="0">
    </polygon>
    <box label="van" source="manual" occluded="0" xtl="200.00" ytl="100.00" xbr="300.00" ybr="140.00" rotation="90.00" z_order="0">
    </box>
    <box label="van" source="manual" occluded="0" xtl="200.00" ytl="100.00" xbr="300.00" ybr="200.00" rotation="315.00" z_order="0">
    </box>
    <mask label="lane" source="manual" occluded="0" rle="3, 4, 2" left="1" top="1" width="3" height="3" z_order="0">
    </mask>
    <skeleton label="body" source="manual" z_order="0">
      <points label="1" source="manual" outside="0" occluded="0" points="34.00,22.00">
      </points>
    </skeleton>
    <tag label="van" source="manual">
    </tag>
  </image>
</annotations>
"""  # noqa: E501 - as CVAT writes it


def image(path: Path, grey: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (WIDTH, HEIGHT), (grey,) * 3).save(path)


def task(root: Path, text: str = TASK, name: str = "annotations.xml", encoding: str = "utf-8") -> None:
    for grey, file in enumerate(("a b.png", "cam/ä.png", "c.png")):
        image(root / "images" / file, grey)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(text.encode(encoding))


def entry(name: str, *shapes: str, more: str = "") -> str:
    return f'<image id="0" name="{name}" {more} width="640" height="480">{"".join(shapes)}</image>'


def box(label: str = "van", corners: tuple[Any, ...] = (10, 20, 30, 60), more: str = "", inner: str = "") -> str:
    pairs = " ".join(f'{key}="{value}"' for key, value in zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True))
    return f'<box label="{label}" source="manual" occluded="0" {pairs} {more} z_order="0">{inner}</box>'


def export(path: Path, *images: str, meta: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{meta}{"".join(images)}</annotations>')


@pytest.mark.parametrize("name", ["annotations.xml", "annotations/annotations.xml", "Task_7.XML"])
def test_a_task(name: str, tmp_path: Path) -> None:
    task(tmp_path, name=name)
    data = open_dataset(tmp_path)
    assert (data.format, list_splits(tmp_path), data.class_names) == ("cvat", ("train",), ("van", "être & co"))
    first, second, third = data
    assert [record.image_id for record in data] == ["a b", "ä", "c"]
    assert first.target.boxes.tolist() == [[10.25, 20, 110.25, 60.5], [200, 100, 300, 140], [0, 0, 640, 99]]
    assert first.target.labels.tolist() == [1, 0, 0]
    assert first.target.difficult.tolist() == [False, True, False]
    assert first.target.crowd.tolist() == [False, False, True]
    assert len(second.target) == 0
    # 100 x 40 about (250, 120) by 90 degrees; 100 x 100 about (250, 150) by 45.
    half = 50 * math.sqrt(2)
    turned = [[230, 70, 270, 170], [250 - half, 150 - half, 250 + half, 150 + half]]
    assert np.allclose(third.target.boxes, turned, atol=1e-3)
    kinds = [(defect.kind, defect.object_index) for defect in data.defects]
    assert kinds == [("other-annotation", 2), *[("box-turned", 2)] * 2, *[("other-annotation", 2)] * 3]
    assert data.defects[0].message == "image 2 ('c.png'), shape 0: 'polygon' is not a box: skipped"
    report = check_dataset(tmp_path)
    assert {defect.kind for defect in report.defects} == {"other-annotation", "box-turned"}, "every file is used"


def test_a_project(tmp_path: Path) -> None:
    """Its subsets are splits, each with its folder of images; a task of none is for training."""
    for grey, name in enumerate(("Train/a.png", "Test/a.png", "default/b.png", "Validation/x/c.png")):
        image(tmp_path / "images" / name, grey)
    subsets = ("Train", "Test", "default", "Validation")
    names = ("a.png", "a.png", "b.png", "x/c.png")
    labels = ("dog", "ant", "ant", "dog")
    images = [
        entry(name, box(label), more=f'subset="{subset}" task_id="{i}"')
        for i, (subset, name, label) in enumerate(zip(subsets, names, labels, strict=True))
    ]
    meta = "<meta><project><labels><label><name>dog</name></label></labels></project></meta>"
    export(tmp_path / "annotations.xml", *images, meta=meta)
    assert list_splits(tmp_path) == ("Train", "Validation", "Test")
    opened = {split: open_dataset(tmp_path, split=split) for split in ("train", "val", "test")}
    folder = tmp_path.resolve() / "images"
    assert {split: [str(record.path.relative_to(folder)) for record in data] for split, data in opened.items()} == {
        "train": ["Train/a.png", "default/b.png"],
        "val": ["Validation/x/c.png"],
        "test": ["Test/a.png"],
    }
    assert {data.class_names for data in opened.values()} == {("dog", "ant")}
    assert check_dataset(tmp_path).defects == ()


@pytest.mark.parametrize("subset", ["", 'subset="default"'])
def test_a_task_without_subsets(subset: str, tmp_path: Path) -> None:
    """One split, unless all of its images lie in folders named for splits."""
    names = ("train/a.png", "test/b.png")
    for grey, name in enumerate((*names, "c.png")):
        image(tmp_path / "images" / name, grey)
    export(tmp_path / "annotations.xml", *(entry(name, box(), more=subset) for name in names))
    assert list_splits(tmp_path) == ("train", "test")
    assert [record.image_id for record in open_dataset(tmp_path, split="test")] == ["b"]
    export(tmp_path / "annotations.xml", *(entry(name, box(), more=subset) for name in (*names, "c.png")))
    assert list_splits(tmp_path) == ("train",)


@pytest.mark.parametrize("layout", ["files", "folders"])
def test_exports_are_splits(layout: str, tmp_path: Path) -> None:
    for grey, (split, label) in enumerate((("train", "ant"), ("val", "cat"))):
        folder = tmp_path / split if layout == "folders" else tmp_path
        image(folder / "images" / f"{split}.png", grey)
        export(folder / f"{split}.xml", entry(f"{split}.png", box(label)))
    assert list_splits(tmp_path) == ("train", "val")
    for split, label in (("train", 0), ("val", 1)):
        data = open_dataset(tmp_path, split=split)
        assert (data.class_names, data[0].target.labels.tolist(), data.defects) == (("ant", "cat"), [label], ())
    assert {defect.kind for defect in check_dataset(tmp_path).defects} == {"unknown-class"}, (
        "a cat is in no train split"
    )


def test_class_list_and_files_that_are_not_used(tmp_path: Path) -> None:
    task(tmp_path)
    image(tmp_path / "images" / "new.png")
    image(tmp_path / "elsewhere" / "x.png")
    export(tmp_path / "old" / "annotations.xml", entry("a b.png", box()))
    (tmp_path / "classes.txt").write_text("être & co\nvan\n", encoding="utf-8")
    report = check_dataset(tmp_path)
    assert [item.name for item in report.classes] == ["être & co", "van"]
    found = [(defect.kind, defect.file) for defect in report.defects if defect.file != "annotations.xml"]
    assert found == [
        ("missing-annotation", "images/new.png"),
        ("in-no-split", "elsewhere/x.png"),
        ("in-no-split", "old/annotations.xml"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    task(tmp_path, TASK.replace('encoding="utf-8"', f'encoding="{encoding.removesuffix("-sig")}"'), encoding=encoding)
    assert [len(record.target) for record in open_dataset(tmp_path)] == [3, 0, 2]


def test_names_of_another_machine(tmp_path: Path) -> None:
    image(tmp_path / "images" / "Ä.PNG")
    export(tmp_path / "annotations.xml", entry("C:\\share\\a\u0308.png", box()))
    assert [len(record.target) for record in open_dataset(tmp_path)] == [1]


def test_an_image_with_an_orientation(tmp_path: Path) -> None:
    """CVAT gives the upright size; an old one gave the stored one."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise to stand upright
    for name, size in (("upright", (HEIGHT, WIDTH)), ("lying", (WIDTH, HEIGHT))):
        (tmp_path / "images").mkdir(exist_ok=True)
        PIL.Image.new("RGB", size).save(tmp_path / "images" / f"{name}.jpg", exif=exif)
    export(
        tmp_path / "annotations.xml",
        *(entry(f"{name}.jpg", box(corners=(0, 0, 64, 48))) for name in ("upright", "lying")),
    )
    data = open_dataset(tmp_path)
    assert [record.target.boxes.tolist() for record in data] == [[[0, 0, 64, 48]], [[HEIGHT - 48, 0, HEIGHT, 64]]]
    assert [defect.kind for defect in data.defects] == ["exif-turned"]


def test_frames_of_a_video(tmp_path: Path) -> None:
    """A video exported "for images": CVAT names its frames without the suffix of their files."""
    for grey, name in enumerate(("frame_000000.PNG", "cam/frame_000001.PNG")):
        image(tmp_path / "images" / name, grey)
    export(tmp_path / "annotations.xml", *(entry(name, box()) for name in ("frame_000000", "cam/frame_000001", "gone")))
    data = open_dataset(tmp_path)
    assert [record.image_id for record in data] == ["frame_000000", "frame_000001"]
    assert [(defect.kind, defect.object_index) for defect in data.defects] == [("missing-image", 2)]


def test_a_flag_that_says_neither_yes_nor_no(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    export(tmp_path / "annotations.xml", entry("a.png", box(inner='<attribute name="difficult">rather</attribute>')))
    data = open_dataset(tmp_path)
    assert data[0].target.difficult.tolist() == [False]
    assert [(defect.kind, defect.exit_code) for defect in data.defects] == [("difficult-open", 0)]


FAULTS: dict[str, tuple[str, str]] = {
    "no label": (box(""), r"image 1 \('c\.png'\), shape 0: no 'label'"),
    "no corner": ('<box label="van" xtl="1" ytl="2" xbr="3"/>', r"shape 0: no 'ybr'"),
    "no number": (box(corners=(1, 2, "far", 4)), r"shape 0: 'xbr' is 'far', not a number"),
    "no angle": (box(more='rotation="left"'), r"shape 0: 'rotation' is 'left', not a number"),
    "an unknown class": (box("unicorn"), r"shape 0: class 'unicorn' is not one of the classes \(van\)"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_name_image_and_shape(case: str, tmp_path: Path) -> None:
    shape, message = FAULTS[case]
    for grey, name in enumerate(("a.png", "c.png")):
        image(tmp_path / "images" / name, grey)
    (tmp_path / "classes.txt").write_text("van\n")
    export(tmp_path / "annotations.xml", entry("a.png", box()), entry("c.png", shape, box()))
    with pytest.raises(AnnotationError, match=rf"annotations\.xml: .*{message}") as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)
    data = open_dataset(tmp_path, on_error="collect")
    assert [len(record.target) for record in data] == [1, 1]
    assert [defect.object_index for defect in data.defects] == [1]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (entry("") + entry("a.png"), r"image 0: no 'name'"),
        (entry("a.png") + entry("A.png"), r"image 1 \('A\.png'\): a\.png is also the image of image 0 \('a\.png'\)"),
        (entry("../../secret.png") + entry("a.png"), r"image 0 .*leads outside"),
        ("<track/>", r"holds the tracks of a video; export it from CVAT as 'CVAT for images 1\.1'"),
        ("<image>", r"not well-formed XML"),
    ],
)
def test_faults_of_images(images: str, message: str, tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    export(tmp_path / "annotations.xml", images)
    with pytest.raises(AnnotationError, match=rf"annotations\.xml: {message}"):
        open_dataset(tmp_path)


def test_missing_images(tmp_path: Path) -> None:
    """An export without images, and one photo added."""
    task(tmp_path)
    for name in ("cam/ä.png", "c.png"):
        (tmp_path / "images" / name).unlink()
    data = open_dataset(tmp_path)
    missing = [defect for defect in data.defects if defect.kind == "missing-image"]
    assert (len(data), [(defect.object_index, defect.exit_code) for defect in missing]) == (
        1,
        [(i, ImageError.exit_code) for i in (1, 2)],
    )
    (tmp_path / "images" / "a b.png").unlink()
    with pytest.raises(DataError, match=r"no image in split 'train' can be used; first of .* defects"):
        open_dataset(tmp_path)


def test_archives_are_to_be_unpacked(tmp_path: Path) -> None:
    task(tmp_path / "export")
    archive = shutil.make_archive(str(tmp_path / "packed" / "task 7"), "zip", tmp_path / "export")
    with pytest.raises(DataError, match=r"task 7\.zip: is an archive; unpack it and pass the folder"):
        open_dataset(archive)
    with pytest.raises(DataError, match=r"no data set found\. task 7\.zip is an archive; unpack it first\. Looked for"):
        open_dataset(tmp_path / "packed")
    shutil.unpack_archive(archive, tmp_path / "packed")
    assert len(open_dataset(tmp_path / "packed")) == 3


def test_voc_beside_an_export(tmp_path: Path) -> None:
    """VOC's XML files are VOC's as before, wherever an export of CVAT's lies as well."""
    bndbox = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    voc = f"<annotation><object><name>cat</name>{bndbox}</object></annotation>"
    image(tmp_path / "JPEGImages" / "a.png")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(voc)
    assert open_dataset(tmp_path).format == "voc"
    export(tmp_path / "annotations.xml", entry("a.png", box()))
    with pytest.raises(DataError, match="looks like voc and cvat; choose with format voc or cvat"):
        open_dataset(tmp_path)
    assert [open_dataset(tmp_path, format=name).class_names for name in ("voc", "cvat")] == [("cat",), ("van",)]
