"""What needs no torch works without it: a process in which importing any extra's module fails."""

import json
from pathlib import Path

import numpy as np
import pytest

from bare import bare
from grcn import Detections
from grcn.data.dataset import open_dataset
from grcn.scenes.generate import generate


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


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["train", "--data", "PHOTOS"], "train"),
        (["models"], "train"),
        (["predict", "grcn_r18", "PHOTOS/JPEGImages", "--out", "found"], "train"),
        (["serve", "grcn_r18"], "serve"),
        (["demo", "grcn_r18"], "train"),
        (["push", "grcn_r18", "user/name"], "hub"),
    ],
)
def test_a_command_that_lacks_a_part_names_the_extra_in_one_line(photos: Path, words: list[str], extra: str) -> None:
    done = bare(*(word.replace("PHOTOS", str(photos)) for word in words))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(f": pip install 'grcn[{extra}]'\n")
