"""What needs no torch works without it: a process in which importing any extra's module fails."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grcn import Detections
from grcn.cli.main import main
from grcn.data.dataset import open_dataset
from grcn.errors import EXTRAS
from grcn.export.export import export
from grcn.predict.checkpoint import LoadedDetector
from grcn.scenes.generate import generate
from lively import NAMES, exports, lively, scene, small

BARE = f"""
import sys
for module in {sorted(module for modules in EXTRAS.values() for module in modules)!r}:
    if module not in sys.argv[1].split(","):
        sys.modules[module] = None  # importing it raises ModuleNotFoundError
from grcn import Detections
from grcn.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def bare(*words: object, but: str = "") -> subprocess.CompletedProcess[str]:
    """`grcn` with these words, without any extra but the modules named."""
    return subprocess.run(
        [sys.executable, "-c", BARE, but, *map(str, words)], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("light") / "photos", images=12, size=(120, 90))


def test_checking_and_measuring_need_no_extra(photos: Path, tmp_path: Path) -> None:
    data = open_dataset(photos, split="test")
    results = []
    for record in data.records:
        target = record.target
        scores = np.linspace(0.5, 0.9, len(target))
        perfect = Detections(target.boxes, scores, target.labels, data.class_names)
        results += perfect.to_coco(record.image_id, data.category_ids)
    found = tmp_path / "results.json"
    found.write_text(json.dumps(results))
    for words in (
        ("check", photos),
        ("evaluate", "--predictions", found, "--data", photos, "--out", tmp_path / "report"),
        ("gap", found, "--data", photos, "--resamples", 5, "--out", tmp_path / "gap"),
    ):
        done = bare(*words)
        assert done.returncode == 0, (words, done.stderr)
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["AP"] == pytest.approx(1)
    assert (tmp_path / "gap" / "gap.html").exists()


@exports
def test_an_exported_detector_needs_its_runtime_alone(tmp_path: Path) -> None:
    model = lively(small("faster_rcnn_r18_c5"))
    file, picture, out = tmp_path / "m.onnx", tmp_path / "p.png", tmp_path / "found"
    export(LoadedDetector(model, NAMES, "faster_rcnn_r18_c5", {}), file, "onnx")
    Image.fromarray(scene(96, 128)).save(picture)
    done = bare("predict", file, picture, "--out", out, but="onnxruntime,onnx")
    assert done.returncode == 0, done.stderr
    assert main(["predict", str(file), str(picture), "--out", str(tmp_path / "here")]) == 0
    assert (out / "results.json").read_bytes() == (tmp_path / "here" / "results.json").read_bytes()
    assert len(json.loads((out / "results.json").read_text()))
    done = bare("predict", file, picture, "--out", out)
    assert (done.returncode, done.stderr) == (
        2,
        "grcn: error: needs onnxruntime, which is not installed: pip install 'grcn[onnx]'\n",
    )


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["train", "--data", "PHOTOS"], "train"),
        (["models"], "train"),
        (["predict", "grcn_r18", "PHOTOS/JPEGImages", "--out", "found"], "train"),
        (["serve", "grcn_r18"], "serve"),
        (["demo", "grcn_r18"], "train"),
        (["push", "grcn_r18", "user/name"], "train"),
    ],
)
def test_a_command_that_lacks_a_part_names_the_extra_in_one_line(photos: Path, words: list[str], extra: str) -> None:
    done = bare(*(word.replace("PHOTOS", str(photos)) for word in words))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(f": pip install 'grcn[{extra}]'\n")
