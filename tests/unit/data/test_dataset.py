"""Formats and splits recognized from folders."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from grcn.data.dataset import list_splits, open_dataset, resolve_split
from grcn.errors import AnnotationError, DataError

BOX = (10.0, 20.0, 30.0, 60.0)
XML = (
    "<annotation><object><name>{}</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>60</ymax></bndbox>"
    "</object></annotation>"
)
ROW = "0 0.2 0.5 0.2 0.5\n"


def put(root: Path, *paths: str, text: str = "") -> None:
    """Writes files: images 100 x 80, XML of one cat, YOLO rows of class 0, or the given text."""
    for name in paths:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg", ".bmp"):
            PIL.Image.new("RGB", (100, 80)).save(path)
        else:
            path.write_text(
                text or {".xml": XML.format("cat"), ".txt": ROW, ".json": coco("a.png")}[path.suffix.lower()]
            )


def coco(*names: str) -> str:
    images = [{"id": i, "file_name": name, "width": 100, "height": 80} for i, name in enumerate(names)]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "bbox": [10, 20, 20, 40]} for i in range(len(names))]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    return json.dumps(content)


def summary(root: Path, split: str = "train", **options: str) -> tuple[str, str, list[str]]:
    """Format, split and images of a folder, each image holding the one box; nothing is wrong with it."""
    data = open_dataset(root, split=split, **options)  # type: ignore[arg-type]
    assert data.defects == ()
    for record in data:
        assert np.allclose(record.target.boxes, [BOX], atol=1e-4)
        assert record.target.labels.tolist() == [0]
        assert (record.height, record.width) == (80, 100)
    assert data.class_names == ("cat",)
    return data.format, data.split, [record.path.relative_to(root.resolve()).as_posix() for record in data]


class TestVoc:
    def test_as_voc_has_it(self, tmp_path: Path) -> None:
        put(tmp_path, "JPEGImages/b.jpg", "JPEGImages/a.png", "Annotations/a.xml", "Annotations/b.xml")
        put(tmp_path, "ImageSets/Main/train.txt", text="b\n")
        put(tmp_path, "ImageSets/Main/val.txt", text="a.png\n")
        put(tmp_path, "ImageSets/Layout/test.txt", text="a\n")
        assert list_splits(tmp_path) == ("train", "val")
        assert summary(tmp_path) == ("voc", "train", ["JPEGImages/b.jpg"])
        assert summary(tmp_path, "val") == ("voc", "val", ["JPEGImages/a.png"])

    @pytest.mark.parametrize("place", ["", "Segmentation", "Layout", "Main/Fold"])
    def test_lists_elsewhere_count_where_main_has_none(self, tmp_path: Path, place: str) -> None:
        put(tmp_path, "ImageSets/Main/notes.md", text="x")
        put(tmp_path, "JPEGImages/b.jpg", "JPEGImages/a.png", "Annotations/a.xml", "Annotations/b.xml")
        put(tmp_path, f"ImageSets/{place}/train.txt", text="b\n")
        put(tmp_path, f"ImageSets/{place}/test.txt", text="a\n")
        if place == "Main/Fold":  # which fold is meant, nobody knows: all is one split, and `check` names the lists
            assert list_splits(tmp_path) == ("train",)
        else:
            assert list_splits(tmp_path) == ("train", "test")
            assert summary(tmp_path) == ("voc", "train", ["JPEGImages/b.jpg"])

    def test_lists_of_single_classes_are_no_splits(self, tmp_path: Path) -> None:
        put(tmp_path, "JPEGImages/a.png", "Annotations/a.xml")
        put(tmp_path, "ImageSets/Main/train.txt", "ImageSets/Main/fold_1.txt", text="a\n")
        put(tmp_path, "ImageSets/Main/cat_train.txt", text="\na  1\nb -1\n")
        put(tmp_path, "ImageSets/Main/dog_train.txt", text="a -1\n")
        put(tmp_path, "ImageSets/Main/hard_train.txt", text="a\n")
        assert list_splits(tmp_path) == ("train", "fold_1", "hard_train")

    @pytest.mark.parametrize("above", ["VOC2007", "VOCdevkit/VOC2007", "VOCtrainval/VOCdevkit/VOC2007"])
    def test_above_the_folder_itself(self, tmp_path: Path, above: str) -> None:
        put(tmp_path / above, "JPEGImages/a.png", "Annotations/a.xml")
        put(tmp_path, "readme/notes.xyz", text="x")
        assert summary(tmp_path) == ("voc", "train", [f"{above}/JPEGImages/a.png"])
        assert open_dataset(tmp_path).root == tmp_path.resolve(), "the folder passed stays the border"

    def test_two_years_are_ambiguous(self, tmp_path: Path) -> None:
        for year in ("2007", "2012"):
            put(tmp_path / f"VOC{year}", "JPEGImages/a.png", "Annotations/a.xml")
        with pytest.raises(DataError, match=r"several data sets; name a split such as 'VOC2012/train', or pass one of"):
            open_dataset(tmp_path)

    def test_flat(self, tmp_path: Path) -> None:
        put(tmp_path, "a.png", "a.xml", "b.JPG", "b.xml")
        put(tmp_path, "annotations/notes.csv", text="x")
        assert summary(tmp_path) == ("voc", "train", ["a.png", "b.JPG"])

    @pytest.mark.parametrize("images", ["images", "JPEGImages", "Images"])
    def test_without_lists(self, tmp_path: Path, images: str) -> None:
        put(tmp_path, f"{images}/a.png", "annotations/a.xml")
        assert summary(tmp_path) == ("voc", "train", [f"{images}/a.png"])

    def test_folders_of_splits(self, tmp_path: Path) -> None:
        put(tmp_path, "train/a.png", "train/a.xml", "valid/b.png", "valid/b.xml", "extra/c.png", "extra/c.xml")
        put(tmp_path, "test/JPEGImages/d.png", "test/Annotations/d.xml")
        assert list_splits(tmp_path) == ("train", "valid", "test")
        assert summary(tmp_path) == ("voc", "train", ["train/a.png"])
        assert summary(tmp_path, "val") == ("voc", "valid", ["valid/b.png"])
        assert summary(tmp_path, "test") == ("voc", "test", ["test/JPEGImages/d.png"])

    def test_folders_of_splits_below_annotations(self, tmp_path: Path) -> None:
        put(tmp_path, "Annotations/train/a.xml", "JPEGImages/train/a.png", "Annotations/val/a.xml")
        put(tmp_path, "JPEGImages/val/a.png")
        assert summary(tmp_path) == ("voc", "train", ["JPEGImages/train/a.png"])
        assert summary(tmp_path, "val") == ("voc", "val", ["JPEGImages/val/a.png"])

    def test_ids_with_folders_and_dots(self, tmp_path: Path) -> None:
        put(tmp_path, "JPEGImages/s/a.1.png", "Annotations/s/a.1.xml", "JPEGImages/b.png", "Annotations/b.xml")
        put(tmp_path, "ImageSets/Main/train.txt", text="s/a.1\n")
        assert summary(tmp_path) == ("voc", "train", ["JPEGImages/s/a.1.png"])
        assert open_dataset(tmp_path)[0].image_id == "s/a.1"

    @pytest.mark.parametrize(
        ("xml", "images"),
        [
            ("Annotations/{}.xml", "JPEGImages/{}.png"),
            ("annotations/deep/{}.XML", "images/deep/{}.png"),
            ("Annotations/{}.xml", "Annotations/{}.png"),
            ("JPEGImages/{}.xml", "JPEGImages/{}.png"),
            ("images/x/y/{}.Xml", "images/x/y/{}.png"),
        ],
    )
    @pytest.mark.parametrize("folders", [("cam1", "cam2"), ("cam", "cam"), ("train", "test"), ("", "cam")])
    @pytest.mark.parametrize("whole", [True, False])
    def test_lists_hold_wherever_the_xml_files_lie(
        self, tmp_path: Path, xml: str, images: str, folders: tuple[str, str], whole: bool
    ) -> None:
        """Lists name an ID with its folder, or the file alone where that is clear."""
        names = {number: f"{folders[number % 2]}/{number}".lstrip("/") for number in range(4)}
        for name in names.values():
            put(tmp_path, images.format(name))
            put(tmp_path, xml.format(name), text=XML.format("cat"))
        above = xml.format("x").removesuffix("x" + Path(xml).suffix).partition("/")[2] if whole else ""
        listed = {number: above + name if whole else str(number) for number, name in names.items()}
        put(tmp_path, "ImageSets/Main/train.txt", text=f"{listed[0]}\n{listed[3]}\n")
        put(tmp_path, "ImageSets/Main/test.txt", text=f"{listed[1]}.png\n{listed[2]}\n")
        assert list_splits(tmp_path) == ("train", "test")
        assert summary(tmp_path) == ("voc", "train", [images.format(names[number]) for number in (0, 3)])
        assert summary(tmp_path, "test") == ("voc", "test", [images.format(names[number]) for number in (1, 2)])
        assert [record.image_id for record in open_dataset(tmp_path)] == [
            above + names[0],
            above + names[3],
        ] or not whole

    def test_lists_hold_in_a_flat_folder(self, tmp_path: Path) -> None:
        put(tmp_path, "a.png", "a.xml", "b.png", "b.xml")
        put(tmp_path, "ImageSets/Main/train.txt", text="a\n")
        assert list_splits(tmp_path) == ("train",)
        assert summary(tmp_path) == ("voc", "train", ["a.png"])

    def test_ids_that_two_folders_have(self, tmp_path: Path) -> None:
        put(tmp_path, "JPEGImages/1/a.png", "JPEGImages/2/a.png", "Annotations/1/a.xml", "Annotations/2/a.xml")
        put(tmp_path, "ImageSets/Main/train.txt", text="2/a\na\n./2/a.png\n")
        data = open_dataset(tmp_path)
        assert [record.path.parent.name for record in data] == ["2"]
        assert [(defect.kind, defect.object_index) for defect in data.defects] == [
            ("missing-annotation", 2),
            ("duplicate", 3),
        ]
        assert "'a' may be 1/a or 2/a: image left out; name its folder" in data.defects[0].message

    def test_xml_in_subfolders_with_images_in_one(self, tmp_path: Path) -> None:
        put(tmp_path, "JPEGImages/a.png", "JPEGImages/b.png", "Annotations/cam/a.xml", "Annotations/cam/deep/b.xml")
        put(tmp_path, "ImageSets/Main/train.txt", text="a\ncam/deep/b\n")
        assert summary(tmp_path) == ("voc", "train", ["JPEGImages/a.png", "JPEGImages/b.png"])

    def test_xml_beside_subfolders(self, tmp_path: Path) -> None:
        put(tmp_path, "Annotations/b.xml", "Annotations/cam/a.xml", "Annotations/cam/deep/c.xml")
        put(tmp_path, "JPEGImages/b.png", "JPEGImages/cam/a.png", "JPEGImages/cam/deep/c.png")
        images = ["JPEGImages/b.png", "JPEGImages/cam/a.png", "JPEGImages/cam/deep/c.png"]
        assert summary(tmp_path) == ("voc", "train", images)
        put(tmp_path, "Annotations/val/d.xml", "JPEGImages/val/d.png")
        assert list_splits(tmp_path) == ("val", "cam")
        assert summary(tmp_path, "cam") == ("voc", "cam", images[1:])

    def test_another_xmls_image_is_not_taken(self, tmp_path: Path) -> None:
        """JPEGImages/a.png is that of a.xml, and not that of cam/a.xml, whose own is missing."""
        put(tmp_path, "Annotations/a.xml", "Annotations/cam/a.xml", "JPEGImages/a.png")
        data = open_dataset(tmp_path)
        assert [record.image_id for record in data] == ["a"]
        assert [(defect.kind, defect.file) for defect in data.defects] == [("missing-image", "Annotations/cam/a.xml")]

    def test_xml_named_after_the_whole_file(self, tmp_path: Path) -> None:
        put(tmp_path, "a.png", "a.png.xml")
        assert summary(tmp_path) == ("voc", "train", ["a.png"])

    def test_the_xml_decides_between_suffixes(self, tmp_path: Path) -> None:
        put(tmp_path, "a.bmp", "a.png", "b.bmp", "b.png", "b.xml")
        put(
            tmp_path, "a.xml", text=XML.format("cat").replace("<object>", r"<filename>C:\x\a.png</filename><object>", 1)
        )
        assert summary(tmp_path)[2] == ["a.png", "b.bmp"]

    def test_images_without_xml_are_counted(self, tmp_path: Path) -> None:
        put(tmp_path, "a.png", "a.xml", "lonely.png")
        defects = open_dataset(tmp_path).defects
        assert [(defect.kind, defect.file) for defect in defects] == [("missing-annotation", "lonely.png")]

    def test_one_order_of_classes_for_all_splits(self, tmp_path: Path) -> None:
        for name in ("zebra", "ant", "moth"):
            put(tmp_path, f"Annotations/{name}.xml", text=XML.format(name))
            put(tmp_path, f"JPEGImages/{name}.png")
        put(tmp_path, "ImageSets/Main/train.txt", text="zebra\n")
        put(tmp_path, "ImageSets/Main/val.txt", text="ant\n")
        put(tmp_path, "Annotations/broken.xml", text="<")
        for split, label in (("train", 2), ("val", 0)):
            data = open_dataset(tmp_path, split=split)
            assert data.class_names == ("ant", "moth", "zebra"), "over all files, broken ones of no split aside"
            assert data.category_ids == (1, 2, 3)
            assert data[0].target.labels.tolist() == [label]
        put(tmp_path, "classes.txt", text="zebra\nmoth\n\nant\n")
        assert open_dataset(tmp_path).class_names == ("zebra", "moth", "ant")
        assert open_dataset(tmp_path, class_names=("moth", "zebra"))[0].target.labels.tolist() == [1]


class TestCoco:
    def test_as_coco_has_it(self, tmp_path: Path) -> None:
        put(tmp_path, "annotations/instances_train2017.json", "annotations/instances_val2017.json")
        put(tmp_path, "annotations/captions_train2017.json", "annotations/person_keypoints_val2017.json", text="[")
        put(tmp_path, "train2017/a.png", "val2017/a.png")
        assert list_splits(tmp_path) == ("train2017", "val2017")
        assert summary(tmp_path) == ("coco", "train2017", ["train2017/a.png"])
        assert summary(tmp_path, "val") == ("coco", "val2017", ["val2017/a.png"])
        assert summary(tmp_path, "val2017") == ("coco", "val2017", ["val2017/a.png"])

    def test_images_come_by_rising_id(self, tmp_path: Path) -> None:
        put(tmp_path, "images/a.png", "images/b.png", "images/c.png")
        content = json.loads(coco("a.png", "b.png", "c.png"))
        content["images"] = [content["images"][i] for i in (2, 0, 1)]
        put(tmp_path, "annotations/train.json", text=json.dumps(content))
        assert summary(tmp_path)[2] == ["images/a.png", "images/b.png", "images/c.png"]
        assert [record.image_id for record in open_dataset(tmp_path)] == [0, 1, 2]

    @pytest.mark.parametrize(
        ("image", "name"),
        [
            ("images/a.png", "a.png"),
            ("images/train/a.png", "a.png"),
            ("images/train2017/a.png", "a.png"),
            ("train/a.png", "a.png"),
            ("images/x/a.png", "x/a.png"),
            ("a.png", "a.png"),
            ("JPEGImages/a.png", "a.png"),
            ("images/train/a.png", "images/train/a.png"),
        ],
    )
    def test_where_images_may_lie(self, tmp_path: Path, image: str, name: str) -> None:
        put(tmp_path, "annotations/train.json", text=coco(name))
        put(tmp_path, image)
        assert summary(tmp_path) == ("coco", "train", [image])

    def test_roboflow(self, tmp_path: Path) -> None:
        for split in ("train", "valid"):
            put(tmp_path, f"{split}/_annotations.coco.json", f"{split}/a.png")
        assert list_splits(tmp_path) == ("train", "valid")
        assert summary(tmp_path, "val") == ("coco", "valid", ["valid/a.png"])
        put(tmp_path, "valid/more.json")
        with pytest.raises(AnnotationError, match=r"valid: several annotation files \(_annotations\.coco\.json, more"):
            open_dataset(tmp_path)

    def test_a_single_file_in_the_root(self, tmp_path: Path) -> None:
        put(tmp_path, "labels.json", "images/a.png")
        put(tmp_path, "package.json", text='{"name": "x"}')
        put(tmp_path, "results.json", text='[{"image_id": 1}]')
        assert list_splits(tmp_path) == ("labels",)
        assert summary(tmp_path) == ("coco", "labels", ["images/a.png"]), "the only split serves for training"
        with pytest.raises(DataError, match="no split 'val' among 'labels'"):
            open_dataset(tmp_path, split="val")

    def test_a_broken_file_is_named_not_overlooked(self, tmp_path: Path) -> None:
        put(tmp_path, "annotations/train.json", text="{")
        with pytest.raises(AnnotationError, match=r"annotations/train\.json: not JSON"):
            open_dataset(tmp_path)


class TestYolo:
    @pytest.mark.parametrize(
        ("image", "label"),
        [
            ("images/train/a.png", "labels/train/a.txt"),
            ("images/train/a.png", "labels/train/a.TXT"),
            ("Images/train/a.png", "labels/train/a.txt"),
            ("IMAGES/train/a.png", "LABELS/Train/a.Txt"),
            ("train/Images/x/a.png", "train/LABELS/X/a.txt"),
            ("train/images/a.png", "train/labels/a.txt"),
            ("images/a.png", "labels/a.txt"),
            ("images/a.png", "Labels/a.TXT"),
            ("train/a.png", "train/a.txt"),
            ("train/a.png", "train/a.TXT"),
            ("a.png", "a.txt"),
        ],
    )
    def test_by_folders(self, tmp_path: Path, image: str, label: str) -> None:
        put(tmp_path, image, label)
        put(tmp_path, "classes.txt", text="cat\n")
        assert summary(tmp_path) == ("yolo", "train", [image])

    @pytest.mark.parametrize("names", ["[cat]", "{0: cat}", "\n  0: cat\n", "\n- cat\n"])
    def test_by_data_yaml(self, tmp_path: Path, names: str) -> None:
        put(tmp_path, "pics/images/t/a.png", "pics/labels/t/a.txt", "pics/images/v/b.png", "pics/labels/v/b.txt")
        text = f"path: ../datasets/pics\ntrain: pics/images/t\nval: [pics/images/v]\ntest:\nnc: 1\nnames: {names}"
        put(tmp_path, "coco8.yaml", text=text)
        put(tmp_path, "hyper.yaml", text="lr: 0.1\nnames: []\n")
        assert list_splits(tmp_path) == ("train", "val")
        assert summary(tmp_path) == ("yolo", "train", ["pics/images/t/a.png"])
        assert summary(tmp_path, "val") == ("yolo", "val", ["pics/images/v/b.png"])

    def test_path_in_data_yaml_where_it_is_inside(self, tmp_path: Path) -> None:
        put(tmp_path, "inner/images/a.png", "inner/labels/a.txt")
        put(tmp_path, "data.yaml", text="path: inner\ntrain: images\nnames: [cat]\n")
        assert summary(tmp_path) == ("yolo", "train", ["inner/images/a.png"])

    def test_roboflow(self, tmp_path: Path) -> None:
        put(tmp_path, "train/images/a.png", "train/labels/a.txt", "valid/images/b.png", "valid/labels/b.txt")
        put(tmp_path, "data.yaml", text="train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n")
        assert list_splits(tmp_path) == ("train", "val")
        assert summary(tmp_path) == ("yolo", "train", ["train/images/a.png"])
        assert summary(tmp_path, "val") == ("yolo", "val", ["valid/images/b.png"])

    def test_lists(self, tmp_path: Path) -> None:
        put(tmp_path, "images/a.png", "labels/a.txt", "images/b.png", "labels/b.txt")
        put(tmp_path, "train.txt", text="./images/a.png\n\n")
        put(tmp_path, "val.txt", text=f"images/b.png\n{tmp_path.resolve()}/images/a.png\nimages/b.png\nimages/c.png\n")
        put(tmp_path, "classes.txt", text="cat\n")
        assert summary(tmp_path) == ("yolo", "train", ["images/a.png"])
        data = open_dataset(tmp_path, split="val")
        assert [record.image_id for record in data] == ["b", "a"]
        assert [(d.kind, d.object_index) for d in data.defects] == [("duplicate", 3), ("missing-image", 4)]

    def test_subfolders_and_ids(self, tmp_path: Path) -> None:
        put(tmp_path, "images/x/a.png", "labels/x/a.txt", "images/y/a.png", "labels/y/a.txt", "images/y/b.png")
        put(tmp_path, "labels/y/b.txt")
        put(tmp_path, "data.yaml", text="train: images\nnames: [cat]\n")
        data = open_dataset(tmp_path)
        assert [record.image_id for record in data] == ["images/x/a", "images/y/a", "b"]

    def test_images_beside_subfolders(self, tmp_path: Path) -> None:
        put(tmp_path, "images/b.png", "images/cam/a.png", "labels/b.txt", "labels/cam/a.txt")
        put(tmp_path, "classes.txt", "labels/classes.txt", text="cat\n")
        assert summary(tmp_path) == ("yolo", "train", ["images/b.png", "images/cam/a.png"])
        put(tmp_path, "images/val/c.png", "labels/val/c.txt")
        assert list_splits(tmp_path) == ("val", "cam")

    def test_links_between_folders_of_the_root(self, tmp_path: Path) -> None:
        put(tmp_path, "images/a.png", "labels/a.txt", "store/b.png", "labels/more/b.txt")
        (tmp_path / "images" / "more").symlink_to("../store")
        (tmp_path / "store" / "back").symlink_to("../images")
        put(tmp_path, "data.yaml", text="train: images\nnames: [cat]\n")
        assert summary(tmp_path) == ("yolo", "train", ["images/a.png", "images/more/b.png"])

    def test_classes_of_a_model_are_matched_by_name(self, tmp_path: Path) -> None:
        put(tmp_path, "a.png", "a.txt")
        put(tmp_path, "classes.txt", text="cat\ndog\n")
        assert open_dataset(tmp_path, class_names=["dog", "cat"])[0].target.labels.tolist() == [1]
        with pytest.raises(AnnotationError, match=r"a\.txt: line 1: class 'cat' is not one of the classes \(dog\)"):
            open_dataset(tmp_path, class_names=["dog"])


class TestRecognition:
    @pytest.mark.parametrize("name", ["nowhere", "file"])
    def test_no_folder(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(DataError, match=r"no such folder|is a file; pass the folder"):
            open_dataset(tmp_path / name)

    def test_nothing_there(self, tmp_path: Path) -> None:
        put(tmp_path, "a.png")
        with pytest.raises(
            DataError, match=r"no data set found. Looked for voc: .*; coco: .*; yolo: .*; labelstudio: "
        ):
            open_dataset(tmp_path)
        put(tmp_path, "a.xml")
        with pytest.raises(DataError, match=r"no data set found. Looked for coco: [^;]*$"):
            open_dataset(tmp_path, format="coco")

    def test_two_formats(self, tmp_path: Path) -> None:
        put(tmp_path, "a.png", "a.xml", "a.txt")
        put(tmp_path, "classes.txt", text="cat\n")
        with pytest.raises(DataError, match="looks like voc and yolo; choose with format voc or yolo"):
            open_dataset(tmp_path)
        assert summary(tmp_path, format="voc")[0] == "voc"
        assert summary(tmp_path, format="yolo")[0] == "yolo"
        assert list_splits(tmp_path, "yolo") == ("train",)

    def test_wrong_arguments(self, tmp_path: Path) -> None:
        put(tmp_path, "a.png", "a.xml")
        with pytest.raises(DataError, match="'pascal' is not one of auto, voc, coco, yolo, labelstudio"):
            open_dataset(tmp_path, format="pascal")
        with pytest.raises(DataError, match="'ignore' is neither"):
            open_dataset(tmp_path, on_error="ignore")  # type: ignore[arg-type]
        with pytest.raises(DataError, match="class_names: class 'cat' is named twice"):
            open_dataset(tmp_path, class_names=["cat", "cat"])
        with pytest.raises(DataError, match="no split 'trian' among 'train'; did you mean 'train'"):
            open_dataset(tmp_path, split="trian")


class TestSplits:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        put(tmp_path, "JPEGImages/a.png", "Annotations/a.xml")
        return tmp_path

    @pytest.mark.parametrize(
        ("names", "train", "val", "test"),
        [
            (["train", "val", "test", "trainval"], "train", "val", "test"),
            (["trainval", "test"], "trainval", "held-out", "test"),
            (["train2017", "val2017"], "train2017", "val2017", "val2017"),
            (["Training", "Validation"], "Training", "Validation", "Validation"),
            (["train", "train_extra", "valid"], "train", "valid", "valid"),
            (["everything"], "everything", "held-out", "held-out"),
            (["train"], "train", "held-out", "held-out"),
            (["test"], None, None, "test"),
            (["fold1", "fold2"], None, None, None),
        ],
    )
    def test_the_usual_names(
        self, root: Path, names: list[str], train: str | None, val: str | None, test: str | None
    ) -> None:
        for name in names:
            put(root, f"ImageSets/Main/{name}.txt", text="a\n")
        for kind, expected in (("train", train), ("val", val), ("test", test)):
            if expected:
                assert resolve_split(root, "auto", kind) == expected  # type: ignore[arg-type]
            else:
                with pytest.raises(DataError, match=f"no split for '{kind}'; choose among '{min(names)}'"):
                    resolve_split(root, "auto", kind)  # type: ignore[arg-type]

    def test_an_explicit_choice(self, root: Path) -> None:
        for name in ("train2014", "train2017", "fold1", "val"):
            put(root, f"ImageSets/Main/{name}.txt", text="a\n")
        assert list_splits(root) == ("train2014", "train2017", "val", "fold1")
        assert resolve_split(root, "fold1", "train") == "fold1"
        assert resolve_split(root, "train2014", "train") == "train2014"
        with pytest.raises(DataError, match="several splits for 'train': train2014, train2017; name one"):
            resolve_split(root, "auto", "train")
        with pytest.raises(DataError, match="no split 'test' among"):
            open_dataset(root, split="test"), "validation data is not taken for test data unasked"
        with pytest.raises(DataError, match=r"no split 'train2015' among .*did you mean 'train201"):
            resolve_split(root, "train2015", "train")


class TestRealData:
    @pytest.mark.parametrize(
        ("name", "format", "sizes", "classes"),
        [
            ("bccd", "voc", {"train": (205, 2804), "val": (87, 1137), "test": (72, 945)}, ("Platelets", "RBC", "WBC")),
            (
                "deeppcb",
                "coco",
                {"trainval": (1000, 6873), "test": (500, 3140)},
                ("open", "short", "mousebite", "spur", "copper", "pin-hole"),
            ),
        ],
    )
    def test_counts(
        self,
        shared_data: Path,
        name: str,
        format: str,
        sizes: dict[str, tuple[int, int]],
        classes: tuple[str, ...],
    ) -> None:
        for split, (images, boxes) in sizes.items():
            data = open_dataset(shared_data / name, split=split)
            assert (data.format, data.split, data.class_names) == (format, split, classes)
            assert (len(data), sum(len(record.target) for record in data)) == (images, boxes)
            assert all(record.path.is_file() for record in data)
            assert data[0] is next(iter(data))
