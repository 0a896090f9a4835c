"""Everything that the pages tell a reader to type is tried: commands against their parsers, Python by running it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType

import pictures
import pytest
from PIL import Image

import documentation as docs
import hours
from grcn.cli.main import main
from grcn.data.dataset import list_splits, open_dataset
from grcn.scenes.generate import generate
from grcn.thresholds import KEY, Thresholds

IDS = [str(page.relative_to(docs.ROOT)) for page in docs.PAGES]
pages = pytest.mark.parametrize("page", docs.PAGES, ids=IDS)

CONFIG = "data: photos\npreset: grcn_r18\n"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, beach: Path, tiny: ModuleType) -> Path:
    """A folder as the pages assume the reader's: labelled `photos`, a trained `runs/photos`, `holiday` pictures."""
    import torch

    from grcn import build_detector
    from grcn.predict.checkpoint import save_detector

    folder = tmp_path_factory.mktemp("reader")
    (folder / "photos").symlink_to(beach)
    (folder / "configs").symlink_to(docs.ROOT / "configs")
    (folder / "holiday").mkdir()
    Image.new("RGB", (96, 72), "steelblue").save(folder / "holiday" / "one.jpg")
    names = open_dataset(beach).class_names
    torch.manual_seed(0)
    model = build_detector(tiny.tiny_model(), len(names), weights=None)
    for name in ("photos", "c4", "grcn"):
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "config.yaml").write_text(CONFIG)
        half = (0.5,) * len(names)
        chosen = Thresholds(names, half, half, 0.5, 0.9, 1.0, 0.5, "photos", "val")
        extra = {KEY: chosen.to_json()}
        save_detector(
            folder / "runs" / name / "best.safetensors", model, class_names=names, preset="grcn_r18", extra=extra
        )
    (folder / "run.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(autouse=True)
def inside(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader)


@pages
def test_what_a_page_says_is_so(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert docs.command_problems(text) == []
    assert docs.inline_problems(text) == []
    assert docs.link_problems(text, page) == []
    assert docs.quotation_problems(text) == []
    assert docs.yaml_problems(text, tmp_path) == []


@pytest.mark.parametrize(
    "page",
    [page for page in docs.PAGES if docs.python_blocks(page.read_text(encoding="utf-8"))],
    ids=lambda page: str(page.relative_to(docs.ROOT)),
)
def test_a_pages_python_runs(page: Path) -> None:
    docs.run_python(page.read_text(encoding="utf-8"), str(page))


@pages
def test_no_word_stands_twice(page: Path) -> None:
    assert docs.repeated_words(page.read_text(encoding="utf-8")) == []


def test_a_word_that_stands_twice_is_found() -> None:
    text = "It is the\nthe `set`.\n\n```\nset set\n```\n\n| 3 | 3 |\n\nHe had that. That\n- is is a list\n"
    assert docs.repeated_words(text) == ["the the", "is is"]


def test_the_first_tutorial_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands, in their order, smaller: few pictures, two steps from random weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holiday").mkdir()
    Image.new("RGB", (128, 96), "steelblue").save("holiday/one.jpg")
    smaller = {
        "data": "--images 12 --size 128 96",
        "train": "--minutes 0 --iterations 2 --weights random --batch_size 2 --workers 0 --model.roi.fc_channels 16 "
        "--loggers [csv]",
        "gap": "--resamples 10",
    }
    done = []
    for _, words in docs.commands((docs.ROOT / "docs/tutorials/own-data.md").read_text(encoding="utf-8")):
        ours = docs.grcn_words(words)
        if ours is None or words[0] == "pip":
            continue
        extra = smaller.get(ours[0], "").split() if "--resume" not in ours else []
        assert main([*ours, *extra]) == 0, ours
        done.append(ours[0])
    assert done == ["--help", "data", "check", "train", "train", "evaluate", "gap", "predict"]
    assert Path("found/drawn/one.jpg").is_file()
    assert Path("runs/photos/gap/gap.html").is_file()


@pytest.mark.slow
def test_the_first_tutorials_table_is_what_check_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (docs.ROOT / "docs/tutorials/own-data.md").read_text(encoding="utf-8")
    (table,) = (block.text for block in docs.blocks(text) if block.text.startswith("│ input"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["data", "generate", "photos", "--images", "200"]) == 0
    capsys.readouterr()
    assert main(["check", "photos", "--preset", "grcn_r18"]) == 0
    assert table in capsys.readouterr().out


def test_the_folder_of_both_voc_years_is_made(tmp_path: Path) -> None:
    """The shell lines of docs/tutorials/the-paper.md that join two VOC folders, as they stand there."""
    text = (docs.ROOT / "docs/tutorials/the-paper.md").read_text(encoding="utf-8")
    (joins,) = (block.text for block in docs.blocks(text) if block.text.startswith("mkdir -p voc0712"))
    lines = [line for line in joins.splitlines() if not line.startswith("grcn ")]
    for year, splits in (("2007", ("trainval", "test")), ("2012", ("trainval",))):
        root = generate(tmp_path / f"voc{year}", images=8, seed=int(year), size=(64, 64), objects=(1, 2))
        for place in sorted([*root.glob("*/*.jpg"), *root.glob("*/*.xml")]):
            place.rename(place.with_name(f"{year}_{place.name}"))
        lists = root / "ImageSets" / "Main"
        for old in lists.iterdir():
            old.unlink()
        for n, split in enumerate(splits):
            (lists / f"{split}.txt").write_text("".join(f"{year}_{i:06d}\n" for i in range(4 * n, 4 * n + 4)))
    subprocess.run(["bash", "-euc", "\n".join(lines)], cwd=tmp_path, check=True, timeout=60)
    assert list_splits(tmp_path / "voc0712") == ("trainval", "test")
    both, test = (open_dataset(tmp_path / "voc0712", split=split) for split in ("trainval", "test"))
    assert [record.path.name[:4] for record in both] == ["2007"] * 4 + ["2012"] * 4
    assert [record.path.name[:4] for record in test] == ["2007"] * 4
    assert (both.defects, test.defects) == ((), ())


@pytest.mark.slow
def test_the_table_of_hours_is_the_scripts() -> None:
    text = (docs.ROOT / "docs/tutorials/the-paper.md").read_text(encoding="utf-8")
    assert hours.table(hours.PAPER, 30) in text
    for line in hours.peers().splitlines():
        assert line.split()[-3] in text  # the TFLOP/s that the page quotes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```bash\ngrcn train --data photos --batchsize 2\n```", "unknown option '--batchsize'"),
        ("```\ngrcn train --data photos --model.cls_stride 12\n```", "cls_stride"),
        ("    grcn train --data photos --preset grcn_r19\n", "unknown preset 'grcn_r19'"),
        ("```bash\ngrcn train --data photos \\\n    --optim.lr fast\n```", "optim.lr"),
        ("```bash\ngrcn train --preset grcn_r18\n```", "data"),
        ("```bash\ntorchrun --nnodes 2 -m grcn train --data photos --node 2\n```", "unknown option '--node'"),
        ("```bash\ngrcn predict runs/photos a.jpg --out found --sure 0.5 > log.txt\n```", "unknown option '--sure'"),
        ("```bash\ncd x && grcn evaluate runs/photos --data photos --iou half\n```", "iou"),
        ("```bash\ngrcn predict runs/photos\n```", "arguments are required: sources, out"),
        ("```bash\ngrcn forecast runs/photos\n```", "unknown command 'forecast'"),
        ("```bash\ngrcn study run contexts\n```", "contexts"),
        ("```bash\ngrcn study table context --data atlantis\n```", "atlantis"),
        ("```bash\nmake coffee\n```", "no target ['coffee']"),
        ("```bash\npip install 'grcn[studies]'\n```", "no extra ['studies']"),
        ("```bash\npython benchmarks/nothing.py\n```", "no file benchmarks/nothing.py"),
        ("```bash\npython benchmarks/presets.py --fast\n```", "has no ['--fast']"),
    ],
)
def test_a_wrong_command_is_found(text: str, problem: str) -> None:
    assert docs.command_problems("Right: `grcn train`.\n\n```bash\ngrcn check photos\n```\n") == []
    found = docs.command_problems(f"So:\n\n{text}\n")
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Use `grcn forecast`.", "no command 'forecast'"),
        ("Use `grcn data fetch x`.", "no command 'data fetch'"),
        ("With `--batchsize 2` it\nfits.", "no command has --batchsize"),
        ("| `grcn evaluate --tiles 3` | large photos |", "unknown option '--tiles'"),
        ("Say `grcn train --fit photos`.", "fit"),
        ("Say `grcn predict --optimize bf17 --score best`.", "optimize"),
        ("Say `grcn check|predict --tiles`.", "unknown option '--tiles'"),
        ("Say `grcn study table claims --out x`.", "claims"),
        ("See `src/grcn/model/separate.py`.", "no such file"),
        ("Or `make coffee`.", "no target"),
        ("Install `pip install 'grcn[studies]'`.", "no extra"),
        ("It is `grcn.data.loader.trainer`.", "no such name"),
        ("Read `grcn.model.layers`.", "no such name"),
        ("See `training/loops.py`.", "no such file"),
        ("Read `ResNet.stages`.", "ResNet has no stages"),
    ],
)
def test_a_wrong_mention_is_found(text: str, problem: str) -> None:
    assert (
        docs.inline_problems(
            "`grcn train --batch_size 2`, `grcn export --size`, `grcn study run NAME_gpu`, `grcn predict --tiles`, "
            "`grcn train --print_config`, `src/grcn/model/separation.py`, `make test`, `ResNet.stage`"
        )
        == []
    )
    found = docs.inline_problems(text)
    assert len(found) == 1
    assert problem in found[0]


def test_a_wrong_link_quotation_or_file_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.touch()
    assert docs.link_problems('[a](page.md#there) [b](https://arxiv.org) ![c](c.png) <img src="d.png">', page) == [
        "link to c.png: no such file",
        "link to d.png: no such file",
    ]
    assert docs.link_problems("[a](../../docs/index.md)", docs.ROOT / "docs/how-to/label.md") == []
    assert docs.link_problems("[a](../README.md)", docs.ROOT / "docs/index.md") == [
        "link to ../README.md: not in docs/, so not on the site; write its path as code"
    ]
    quoted = '```python title="src/grcn/presets.py"\n    return DetectorConfig(backbone=backbone, head="{}")\n```'
    assert docs.quotation_problems(quoted.format("conv5")) == []
    assert docs.quotation_problems(quoted.format("conv6")) == ["line 2: not in src/grcn/presets.py"]
    assert docs.yaml_problems("```yaml\npreset: grcn_r18\niterations: 5\n```", tmp_path) == []
    assert "iteration" in docs.yaml_problems("```yaml\npreset: grcn_r18\niteration: 5\n```", tmp_path)[0]
    study = "question: q\nbaseline: a\nseeds: [0]\ndata: {photos: {path: photos}}\ncells: {a: {}, b: {modl: {}}}"
    assert "modl" in docs.yaml_problems(f"```yaml\n{study}\n```", tmp_path)[0]


@pytest.mark.parametrize("marked", ["", "<!-- not run: needs a download -->\n\n"])
def test_python_that_does_not_run_is_found(marked: str) -> None:
    block = "Text.\n\n" + marked + "```python\nimport grcn\nfrom grcn import Detector\n\n{}\n```\n"
    with pytest.raises(AttributeError, match="no attribute 'Detektor'"):
        docs.run_python(block.format("grcn.Detektor"), "page")
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        docs.run_python(block.format("Detector.lode('x')"), "page")
    with pytest.raises(ImportError):
        docs.run_python(block.format("from grcn import detect"), "page")
    with pytest.raises(SyntaxError):
        docs.run_python(block.format("Detector("), "page")
    if marked:
        docs.run_python(block.format("import absent\nfound = Detector.load('absent').predict('x')"), "page")
        with pytest.raises(ModuleNotFoundError):
            docs.run_python(block.format("import grcn.absent"), "page")


def test_the_pictures_are_made(tmp_path: Path) -> None:
    pictures.branches(tmp_path / "branches.svg")
    pictures.cells(tmp_path / "cells.png")
    pictures.maps("runs/photos", "holiday/one.jpg", tmp_path / "maps.png")
    Path("demo").mkdir()
    Path("demo/run").symlink_to(Path("runs/photos").resolve())
    Path("demo/data").symlink_to(Path("photos").resolve())
    pictures.detections(Path("demo"), tmp_path / "detections.jpg", (0, 1))
    assert "</svg>" in (tmp_path / "branches.svg").read_text(encoding="utf-8")
    for name in ("cells.png", "maps.png"):
        with Image.open(tmp_path / name) as picture, Image.open(docs.ROOT / "docs/images" / name) as committed:
            assert picture.size == pytest.approx(committed.size, abs=2)  # fonts differ by a pixel between versions
    with Image.open(tmp_path / "detections.jpg") as picture:
        assert picture.width == 2 * 512 + 16  # two pictures, enlarged to where labels are readable
    for picture in (docs.ROOT / "docs/images").glob("*.[jps]*g"):
        assert picture.stat().st_size < 400_000, picture
