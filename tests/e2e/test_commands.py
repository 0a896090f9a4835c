"""The commands one after another, as a user types them: data, check, train, evaluate, predict, evaluate predictions."""

import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import heic
from grcn import Detector, __version__, evaluation
from grcn import demo as demo_module
from grcn.cli.commands import COMMANDS
from grcn.cli.main import main
from grcn.config import InputConfig, TrainConfig
from grcn.data.dataset import open_dataset
from grcn.data.image import AVIF, HEIC, read_image
from grcn.presets import PRESETS
from grcn.thresholds import scaled

TRAIN = """
preset: grcn_r18
weights: random
iterations: 4
batch_size: 2
workers: 0
model:
  input: {short_side: 96, long_side: 128}
  rpn: {anchor_sizes: [12, 24, 48], post_nms_train: 100, post_nms_test: 50}
  roi: {fc_channels: 16, batch_per_image: 32, score_threshold: 0.0}
loggers: [csv]
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set `beach` and a trained `run`, made by the commands."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "run.yaml").write_text(TRAIN)
    assert main(["data", "generate", str(folder / "beach"), "--images", "10", "--size", "128", "96"]) == 0
    words = ["--config", str(folder / "run.yaml"), "--data", str(folder / "beach"), "--out", str(folder / "run")]
    assert main(["train", *words, "--iterations", "3", "--optim.lr=0.001"]) == 0
    return folder


@pytest.fixture(autouse=True)
def inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def read(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def output(words: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    capsys.readouterr()
    assert main(words.split()) == code
    return capsys.readouterr().out


def test_without_a_split_for_it_a_run_is_measured_on_what_is_held_out_and_results_are_not(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree("beach", tmp_path / "alone")
    for name in ("val", "test"):
        (data / f"ImageSets/Main/{name}.txt").unlink()
    assert main(["evaluate", "run", "--data", str(data), "--json"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["split"] == "held-out"
    assert "no split for 'test': using the photos that training holds out" in found.err
    (tmp_path / "results.json").write_text("[]")
    words = ["evaluate", "--predictions", str(tmp_path / "results.json"), "--data", str(data)]
    assert main(words) == 3
    assert "no split for 'test'; name one with --split: 'train' or 'held-out'" in capsys.readouterr().err


def test_the_run_folder_says_how_it_was_made(work: Path) -> None:
    text = Path("run/config.yaml").read_text()
    assert "iterations: 3" in text
    assert "lr: 0.001" in text
    assert Path("run/classes.txt").read_text().split() == list(open_dataset("beach").class_names)
    assert Path("run/best.safetensors").is_file()


def test_a_finished_run_is_not_overwritten(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("run/last.safetensors").read_bytes()
    assert main(["train", "--config", "run.yaml", "--data", "beach", "--out", "run"]) == 2
    assert "run: holds a run already" in capsys.readouterr().err
    assert Path("run/last.safetensors").read_bytes() == before


def test_check_reports_the_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(output("check beach --json", capsys))
    assert (report["format"], report["images"], report["exit_code"], report["defects"]) == ("voc", 10, 0, [])
    text = output("check beach --preset grcn_r18 --short_side 96", capsys)
    assert "10 images" in text
    assert "kayak" in text


def test_check_exits_with_the_worst_defect(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(work / "beach", bad)
    next((bad / "JPEGImages").iterdir()).write_bytes(b"no image")
    report = json.loads(output(f"check {bad} --json", capsys, code=4))
    assert report["exit_code"] == 4
    assert main(["check", str(tmp_path / "absent")]) == 3


def test_evaluate_and_predict_agree(capsys: pytest.CaptureFixture[str]) -> None:
    """A run, and the results of predict on the split's own images, get the same figures."""
    metrics = json.loads(output("evaluate run --data beach --json --out report --iou 0.5 0.6 --save fiftyone", capsys))
    assert read("report/metrics.json") == metrics
    assert (metrics["data"], metrics["split"]) == ("beach", "test")
    assert {"AP50", "AP60"} <= set(metrics["voc_area"])
    assert Path("report/precision_recall.png").is_file()
    assert metrics["images"] == len(open_dataset("beach", split="test"))
    assert metrics["detections"] > 10
    samples = read("report/fiftyone/samples.json")["samples"]
    assert sum(len(sample["predictions"]["detections"]) for sample in samples) == metrics["detections"]
    assert sum(len(sample["ground_truth"]["detections"]) for sample in samples) == metrics["objects"]

    assert main(["predict", "run", "beach/JPEGImages", "--out", "found", "--score", "0.05"]) == 0
    assert len(list(Path("found/drawn").iterdir())) == 10
    capsys.readouterr()
    assert main(["evaluate", "--predictions", "found/results.json", "--data", "beach", "--json"]) == 0
    out, err = capsys.readouterr()
    again = json.loads(out)
    for key in ("AP", "AP50", "AP75", "detections", "images"):
        assert again[key] == pytest.approx(metrics[key], abs=1e-6)
    assert f"{10 - metrics['images']} of 10 images are not in 'test' and are left out" in err

    # The report's own results need no key: their ids are the data set's.
    from_report = json.loads(output("evaluate --predictions report/results.json --data beach --json", capsys))
    assert from_report["AP"] == pytest.approx(metrics["AP"], abs=1e-6)
    table = output("evaluate run --data beach", capsys)
    assert "kayak" in table


def test_scores_and_errors_of_an_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    """Of anyone's results: those of the objects themselves, surer than as many that are nothing."""
    dataset = open_dataset("beach", split="train")
    results = []
    for record in dataset.records:
        for box, label in zip(record.target.boxes.tolist(), record.target.labels.tolist(), strict=True):
            bbox = [*box[:2], box[2] - box[0], box[3] - box[1]]
            about = {"image_id": record.image_id, "category_id": label + 1}
            results += [{**about, "bbox": bbox, "score": 0.75}, {**about, "bbox": [500, 0, 9, 9], "score": 0.25}]
    Path("objects.json").write_text(json.dumps(results))
    words = "evaluate --predictions objects.json --data beach --split train --out scores"
    metrics = json.loads(output(f"{words} --json", capsys))
    assert read("scores/metrics.json") == metrics
    objects = metrics["objects"]
    right = {"score": 0.75, "precision": 1, "recall": 1, "F1": 1}
    assert metrics["thresholds"]["all"] == {"objects": objects, "best": right, "precise": right}
    errors = {"right": objects, "loose": 0, "false": 0, "missed": 0}
    at = {"scores": "each class's score of best F1 on this split", "iou": 0.5}
    assert metrics["errors"] == at | errors
    assert metrics["confusion"]["missed"] == metrics["confusion"]["false"] == {}
    assert metrics["calibration"]["error"] == pytest.approx(0.25)
    assert metrics["calibration"]["error_scaled"] < 0.01
    assert metrics["worst"] == []
    assert {"reliability.png", "confusion_matrix.png"} < {path.name for path in Path("scores").iterdir()}

    lower = json.loads(output(f"{words} --json --score 0.2 --precision 0.5 --worst 2", capsys))
    assert lower["errors"] == {"scores": "score ≥ 0.2", "iou": 0.5} | errors | {"false": objects}
    assert lower["thresholds"]["all"]["precise"]["score"] == 0.25
    assert len(lower["worst"]) == len(list(Path("scores/worst").iterdir())) == 2
    printed = output(words, capsys)
    assert max(map(len, printed.splitlines())) <= 80
    assert f"{objects} right, 0 loose, 0 false, 0 missed" in " ".join(printed.split())


def test_thresholds_are_saved_and_used(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At so low an IoU even a detector that has hardly learned has some right."""
    Path("sure/run").mkdir(parents=True)
    shutil.copy("run/last.safetensors", "sure/run")  # for which nothing was chosen
    assert main(["predict", "sure/run", "beach/JPEGImages", "--out", "sure/found", "--score", "best"]) == 2
    assert "sure/run/last.safetensors: no thresholds or temperature in its header" in capsys.readouterr().err
    assert not Path("sure/found").exists()
    words = "evaluate sure/run --data beach --split train --iou 0.1 --save thresholds"
    metrics = json.loads(output(f"{words} --precision 0.01 --json", capsys))
    detector = Detector.load("sure/run")
    thresholds = detector.thresholds
    assert thresholds is not None
    assert (thresholds.data, thresholds.split, thresholds.iou, thresholds.precision) == ("beach", "train", 0.1, 0.01)
    assert thresholds.temperature == metrics["calibration"]["temperature"]
    for name, best in zip(thresholds.class_names, thresholds.best, strict=True):
        row = metrics["thresholds"]["per_class"][name]["best"]
        assert best == (row and row["score"])
    again = json.loads(output(f"{words} --json", capsys))
    of_file = again["thresholds"]["of_file"]
    for name, row in metrics["thresholds"]["per_class"].items():
        if row["best"]:
            assert of_file["per_class"][name]["best"] == pytest.approx(row["best"]), "on the split that chose them"
    assert again["errors"]["scores"] == "each class's score of best F1 on beach, train"
    assert again["calibration"]["of_file"]["error_scaled"] == pytest.approx(metrics["calibration"]["error_scaled"])

    capsys.readouterr()
    for choice in ("best", "precise"):
        assert main(f"predict sure/run beach/JPEGImages --out sure/{choice} --score {choice}".split()) == 0
        thresholds = Detector.load("sure/run").thresholds
        assert f"grcn: score {choice}: {thresholds.in_words(choice)}" in capsys.readouterr().err
        every = detector.predict(sorted(Path("beach/JPEGImages").iterdir()))
        assert len(read(f"sure/{choice}/results.json")) == sum(len(f.above(thresholds.of(choice))) for f in every)
    assert main(["predict", "sure/run", "beach/JPEGImages", "--out", "sure/odds", "--score", "0", "--calibrated"]) == 0
    scores = [result["score"] for result in read("sure/odds/results.json")]
    own = np.concatenate([found.scores for found in every])
    np.testing.assert_allclose(scores, scaled(own, thresholds.temperature), rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run --save thresholds", "--save thresholds needs --split; choose thresholds on the validation split"),
        ("--predictions x.json --split val --save thresholds", "--save thresholds needs RUN"),
        ("faster_rcnn_r50_fpn --split val --save thresholds", "is not a weights file of grcn (preset)"),
        ("run --save fiftyone", "--save fiftyone needs --out"),
        ("run --precision 0", "precision 0.0: needs a number above 0 and at most 1"),
        ("run --precision bf16", "precision: expected float, found bf16"),
        ("run --score 1.5", "score 1.5: needs a number from 0 to 1"),
        ("run --score bset", "score: expected float or one of 'best', 'precise', found bset"),
        ("--predictions x.json --score .nan", "score nan: needs a number"),
        ("run --worst -1", "worst -1: needs 0 or more"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--data", "beach", *words.split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_weights_that_change_meanwhile_get_no_thresholds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("run", "changing")
    weights = Path("changing/best.safetensors")
    measure = evaluation.evaluate

    def trained_meanwhile(*words: Any, **options: Any) -> dict[str, Any]:
        shutil.copy("run/last.safetensors", weights)
        return measure(*words, **options)

    monkeypatch.setattr(evaluation, "evaluate", trained_meanwhile)
    words = "evaluate changing --data beach --split train --iou 0.1 --save thresholds"
    assert main(words.split()) == 6
    assert f"{weights}: has changed since it was evaluated" in capsys.readouterr().err
    assert weights.read_bytes() == Path("run/last.safetensors").read_bytes()
    assert not Path("changing/.lock").exists()


def test_where_nothing_is_right_there_are_no_thresholds(capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("run/best.safetensors").read_bytes()
    assert main(["evaluate", "run", "--data", "beach", "--split", "val", "--iou", "1", "--save", "thresholds"]) == 3
    assert "is right, so no thresholds can be chosen" in capsys.readouterr().err
    assert Path("run/best.safetensors").read_bytes() == before


def test_gap_of_a_run_and_of_its_results(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run, its results with the data set's ids, and those of predict with a key of their own: all the same."""
    assert main(["evaluate", "run", "--data", "beach", "--out", "gap/report"]) == 0
    assert main(["predict", "run", "beach/JPEGImages", "--out", "gap/found", "--score", "0.05"]) == 0
    sources = "run gap/report/results.json gap/found/results.json"
    content = json.loads(output(f"gap {sources} --data beach --out gap/out --resamples 5 --json", capsys))
    assert read("gap/out/gap.json") == content
    first, *others = content["detectors"]
    assert [first["name"], *(d["name"] for d in others)] == ["run", *sources.split()[1:]]
    metrics = read("gap/report/metrics.json")
    for key in ("AP", "AP50", "AP70", "AP75"):
        assert first[key]["none"] == pytest.approx(metrics[key], abs=1e-6)
    for other in others:
        assert other["loses"]["AP"] == pytest.approx(first["loses"]["AP"], abs=1e-6)
        assert other["difference_to_first"]["AP"] == pytest.approx([0, 0], abs=1e-6)
    page = Path("gap/out/gap.html").read_text()
    assert page.count("<svg") == page.count("</svg>") == 5
    assert "http://www.w3.org/2000/svg" in page
    # Nothing from elsewhere; the one link says that there is no icon to ask for.
    assert re.findall(r"<(?:script|link|img)\b[^>]*>", page) == ['<link rel="icon" href="data:,">']
    table = output("gap run --data beach --resamples 0", capsys)
    assert "missed" in table
    assert "2.5%" not in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gap run --data beach --iou 0.52", "iou 0.52: use one of COCO's ten"),
        ("gap run --data beach --resamples -1", "resamples -1 and seed 0: need 0 or more"),
        ("gap run other/results.json --data beach", "its classes are ['dog'], those of the first source"),
    ],
)
def test_gap_says_what_is_wrong(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other").mkdir(exist_ok=True)
    Path("other/results.json").write_text("[]")
    Path("other/images.json").write_text('{"images": [], "categories": [{"id": 1, "name": "dog"}]}')
    assert main(words.split()) in (2, 3)
    assert message in capsys.readouterr().err


def test_predict_names_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy("beach/JPEGImages/000000.jpg", folder)
    for name in ("a.txt", "b.pdf", "c.md", "d.csv", "e.CR2", "f.jxl"):
        (folder / name).write_text("no picture")
    (folder / "broken.png").write_bytes(b"no picture")
    assert main(["predict", "run", str(folder), "--out", str(tmp_path / "out"), "--score", "1"]) == 4
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'out'}: nothing in 1 image; the pictures are in {tmp_path / 'out' / 'drawn'}\n"
    left_out, photos, loaded, broken, end = err.splitlines()
    assert loaded == "grcn: run: grcn_r18 on cpu, optimize fold"
    assert left_out.startswith("grcn: 4 files are left out (neither image nor video): ")
    assert left_out.endswith("c.md, ...")
    assert photos == (
        "grcn: 2 files are left out (a photo of a kind that is not read: convert it to JPEG or PNG): "
        f"{folder / 'e.CR2'}, {folder / 'f.jxl'}"
    )
    assert broken.startswith(f"grcn: error: {folder / 'broken.png'}: ")
    assert end == "grcn: error: 1 of 2 sources failed; the others are done"


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        pytest.param(
            "a.avif", "a.avif", marks=pytest.mark.skipif(not AVIF, reason="this Pillow was built without AVIF")
        ),
        pytest.param("a.HEIC", "a.png", marks=pytest.mark.skipif(not HEIC, reason="needs pillow-heif")),
    ],
)
def test_photos_of_phones_are_found_and_saved(
    tmp_path: Path, name: str, saved: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = tmp_path / "photos" / name, tmp_path / "out"
    photo.parent.mkdir()
    if name == "a.HEIC":
        photo.write_bytes(heic.HEIC)
    else:
        with Image.open("beach/JPEGImages/000000.jpg") as image:
            image.save(photo)
    assert main(["predict", "run", str(photo.parent), "--out", str(out), "--score", "0", "--save", "yolo"]) == 0
    assert [path.name for path in (out / "yolo" / "images" / "train").iterdir()] == [saved]
    capsys.readouterr()
    assert json.loads(output(f"check {out / 'yolo'} --json", capsys))["images"] == 1


def test_predicting_in_bfloat16_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = "beach/JPEGImages/000000.jpg"
    assert main(["predict", "run", picture, "--out", str(tmp_path), "--score", "0", "--optimize", "bf16"]) == 0
    assert capsys.readouterr().err == "grcn: run: grcn_r18 on cpu, optimize bf16\n"
    assert read(tmp_path / "results.json")
    assert main(["predict", "run", picture, "--out", str(tmp_path), "--optimize", "fastest"]) == 2


def test_defects_are_pointed_out(tmp_path: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(work / "beach", bad)
    name = (bad / "ImageSets" / "Main" / "test.txt").read_text().split()[0]
    label = bad / "Annotations" / f"{name}.xml"
    label.write_text(label.read_text().replace("<xmax>", "<xmax>9", 1))
    assert main(["evaluate", "run", "--data", str(bad), "--json"]) == 0
    assert "1 defects in 'test'; `grcn check` lists them" in capsys.readouterr().err


def test_download_is_told_what_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The words reach `download`, which has tests of its own against a local server."""
    asked = {}

    def download(name: str, out: str, **options: Any) -> Path:
        options.pop("progress")("voc2007.tar", 1, 2)
        asked.update(options, name=name, out=out)
        return Path(out)

    monkeypatch.setattr("grcn.data.download.download", download)
    words = "data download voc2007 --out voc --base_url http://localhost:1 --keep_archives"
    assert output(words, capsys) == "voc: done; next: grcn check voc\n"
    assert asked == {"name": "voc2007", "out": "voc", "base_url": "http://localhost:1", "keep_archives": True}


def test_predicted_labels_train_again(capsys: pytest.CaptureFixture[str]) -> None:
    words = "predict run beach/JPEGImages/000000.jpg beach/JPEGImages/000001.jpg --out labels --score 0 --save voc yolo"
    assert main(words.split()) == 0
    for kind in ("voc", "yolo"):
        assert json.loads(output(f"check labels/{kind} --json", capsys))["images"] == 2
        train = f"train --config run.yaml --data labels/{kind} --out again-{kind} --iterations 1 --weights run"
        assert main(train.split()) == 0
        assert Path(f"again-{kind}/classes.txt").read_text() == Path("run/classes.txt").read_text()


def test_a_run_of_another_data_sets_classes_is_evaluated_on_them(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    (other / "labels").mkdir()
    Image.new("RGB", (64, 48)).save(other / "images" / "a.png")
    (other / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (other / "data.yaml").write_text("names: [submarine]\ntrain: images\nval: images\n")
    assert main(["evaluate", "run", "--data", str(other), "--split", "train"]) == 5


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    listed = output("models", capsys)
    assert all(name in listed for name in PRESETS)
    assert "4-64" in listed
    assert "…" not in listed
    assert max(map(len, listed.splitlines())) <= 80
    one = output("models grcn_r18", capsys)
    assert "classification sees a map of stride 16\n" in one
    assert "localization sees a map of stride 16\n" in one
    facts = json.loads(output("models grcn_r18 --json", capsys))["grcn_r18"]
    assert facts["strides"] == [[16], [16], [16]]
    assert facts["macs"] == sum(stage["macs"] for stage in facts["stages"])


def test_models_are_listed_without_timm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert main(["models"]) == 0
    found = capsys.readouterr()
    assert "grcn_r18_fpn" in found.out
    assert "lite0" not in found.out
    assert found.err.count("\n") == 1
    assert all(name in found.err for name in PRESETS if "lite0" in name)
    assert found.err.endswith("timm is not installed; pip install 'grcn[train]'\n")
    assert main(["models", "grcn_lite0"]) == 2
    assert main(["models", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(PRESETS) - 5


def test_a_real_process_with_broken_sources(work: Path) -> None:
    """Standard input, and files that cannot be read: a line for each, nothing from the decoders, the rest done."""
    Path("broken.mp4").write_bytes(bytes(1000))
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff")
    picture = io.BytesIO()
    Image.fromarray(read_image("beach/JPEGImages/000000.jpg")).save(picture, "PNG")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "grcn",
            *["predict", "run", "-", "broken.mp4", "broken.jpg", "--out", "piped", "--score", "0"],
        ],
        input=picture.getvalue(),
        capture_output=True,
        timeout=120,
    )
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 4, lines
    assert lines[0] == "grcn: run: grcn_r18 on cpu, optimize fold"
    assert [line.split(":")[:3] for line in lines[1:3]] == [
        ["grcn", " error", " broken.mp4"],
        ["grcn", " error", " broken.jpg"],
    ]
    assert lines[3:] == ["grcn: error: 2 of 3 sources failed; the others are done"]
    assert read("piped/images.json")["images"][0]["file_name"] == "-"
    assert Path("piped/drawn/stdin.jpg").is_file()


def test_help_loads_nothing_heavy() -> None:
    program = """
import sys
from grcn.cli.main import main
heavy = {"torch", "numpy", "PIL", "supervision", "lightning_fabric", "matplotlib", "rich"}
assert main(["--help"]) == 0
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert "jsonargparse" not in sys.modules
for words in sys.argv[1:]:
    assert main([*words.split(), "--help"]) == 0
    assert not (heavy - {"rich"}) & set(sys.modules), (words, heavy & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program, *COMMANDS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("example:") == len(COMMANDS) + 1


@pytest.mark.parametrize("words", ["", "--help", "-h", "data", "data --help", *(f"{name} --help" for name in COMMANDS)])
def test_every_help_has_an_example(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(words, capsys)
    assert "usage: grcn" in text
    assert "example:\n  grcn " in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert output("--version", capsys) == f"grcn {__version__}\n"


def test_output_into_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m grcn --help | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 141)
    assert done.stderr == ""


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo_module, "IMAGES", 8)
    monkeypatch.setattr(demo_module, "SIZE", (96, 72))
    monkeypatch.setattr(demo_module, "OBJECT_SIZE", (16.0, 50.0))
    monkeypatch.setattr(demo_module, "PICTURES", 1)
    full_size = demo_module.demo_config

    def small_config(*arguments: Any) -> TrainConfig:
        config = full_size(*arguments)
        rpn = replace(config.model.rpn, post_nms_train=20, post_nms_test=10)
        roi = replace(config.model.roi, batch_per_image=16)
        model = replace(config.model, input=InputConfig(64, 96), rpn=rpn, roi=roi)
        return replace(config, batch_size=2, workers=0, model=model)

    monkeypatch.setattr(demo_module, "demo_config", small_config)
    words = f"demo --out {tmp_path / 'demo'} --iterations 2"
    text = output(words, capsys)
    assert "grcn_r18" in text
    assert (tmp_path / "demo" / "report" / "metrics.json").is_file()
    assert "AP50" in text
    assert "grcn train --data photos" in text
    assert len(list((tmp_path / "demo" / "found" / "drawn").iterdir())) == 1
    assert output(words, capsys), "a finished demo can be shown again"
