"""What scores are worth, shown: the reliability diagram has the measured numbers, the tables 80 columns, and photos of
errors their kinds in their colours."""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from rich.console import Console

from grcn.data.dataset import open_dataset
from grcn.evaluation.calibration import measure_calibration
from grcn.evaluation.confusion import confusion_json, confusion_matrix
from grcn.evaluation.errors import count_errors, find_photo_errors
from grcn.evaluation.thresholds import choose_thresholds, measure_thresholds
from grcn.evaluation.voc import match_voc
from grcn.predict import draw
from grcn.reports.scores import print_scores, reliability_figure
from grcn.reports.worst import FALSE, LOOSE, MISSED, RIGHT, draw_errors, write_worst
from grcn.types import Detections, Target

NAMES = ("cat", "[b]dog[/b]", "a class with quite a long name", "owl")


def scene(images: int = 30) -> tuple[list[Target], list[Detections]]:
    """Surer detections are more often right; there is no owl."""
    rng = np.random.default_rng(0)
    targets, detections = [], []
    for _ in range(images):
        corner = rng.uniform(0, 400, (8, 2))
        boxes = np.concatenate([corner, corner + 30], axis=1)
        labels, scores = rng.integers(0, 3, 8), rng.uniform(0.05, 1, 8)
        found = np.where((rng.random(8) < scores)[:, None], boxes + 1, boxes + 300)
        targets.append(Target(boxes, labels))
        detections.append(Detections(found, scores, labels, NAMES))
    return targets, detections


def sections(*, of_file: bool, precision: float = 0.9) -> dict[str, Any]:
    targets, detections = scene()
    matches = match_voc(targets, detections, len(NAMES), iou=[0.5])
    given = choose_thresholds(matches, NAMES, data="zoo", split="val", precision=0.8) if of_file else None
    photos = [find_photo_errors(*pair) for pair in zip(targets, detections, strict=True)]
    return {
        "thresholds": measure_thresholds(matches, NAMES, precision=precision, given=given),
        "calibration": measure_calibration(matches, NAMES, given),
        "errors": {"scores": "score ≥ 0.5", **count_errors(photos)},
        "confusion": confusion_json(confusion_matrix(targets, detections, len(NAMES)), NAMES),
    }


@pytest.mark.parametrize("of_file", [False, True])
def test_the_diagram_has_the_measured_numbers(of_file: bool) -> None:
    calibration = sections(of_file=of_file)["calibration"]
    figure = reliability_figure(calibration)
    above, below = figure.axes
    for line, key in zip(above.lines[1:], ("reliability", "reliability_scaled"), strict=True):
        bins = [row for row in calibration[key] if row["detections"]]
        x, y = (np.asarray(values).tolist() for values in line.get_data())
        assert (x, y) == ([row["score"] for row in bins], [row["right"] for row in bins])
    assert [patch.get_data().values.tolist() for patch in below.patches] == [
        [row["detections"] for row in calibration[key]] for key in ("reliability", "reliability_scaled")
    ]
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert f"error {calibration['error']:.3f}" in said[1]
    assert ("of zoo, val" if of_file else "of this split") in said[2]
    boxes = [legend.get_window_extent(), *(panel.get_tightbbox() for panel in figure.axes)]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


@pytest.mark.parametrize("of_file", [False, True])
def test_the_tables_hold_the_figures_in_eighty_columns(of_file: bool) -> None:
    metrics = sections(of_file=of_file)
    out = io.StringIO()
    print_scores(metrics, Console(file=out, width=80, color_system=None))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    rows = {line.split()[0]: f"{line} " for line in text.splitlines() if line.strip()}
    shown = metrics["thresholds"]["of_file"] if of_file else metrics["thresholds"]
    for name in NAMES[:2]:
        row = shown["per_class"][name]
        for value in (*row["best"].values(), *(row["precise"][key] for key in ("score", "precision", "recall"))):
            assert f" {value:.3f} " in rows[name]
    assert "owl" not in rows
    words = " ".join(text.split())
    assert ("score thresholds chosen on zoo, val" if of_file else "score thresholds chosen on this split") in words
    assert f"calibration error of 240 scores: {metrics['calibration']['error']:.3f}" in words
    assert ("with the stored temperature" in words) == of_file
    assert "at score ≥ 0.5: " in words
    assert "found as another class: none" in words


def test_what_there_is_not_is_said() -> None:
    metrics = sections(of_file=False, precision=1.0)
    metrics["calibration"] = None
    metrics["confusion"]["found_as"] = {"cat": {"cat": 9, "owl": 1}, "owl": {str(i): i for i in range(2, 8)}}
    out = io.StringIO()
    print_scores(metrics, Console(file=out, width=80, color_system=None))
    words = " ".join(out.getvalue().split())
    assert "calibration error: none, since there are no scores from 0 to 1" in words
    most = "owl as 7 7, owl as 6 6, owl as 5 5, owl as 4 4, owl as 3 3 and 2 more (--json lists all)"
    assert f"found as another class: {most}" in words


def color(name: str) -> list[int]:
    return list(bytes.fromhex(name[1:]))


def has(picture: np.ndarray, x: int, y: int, name: str) -> bool:
    return bool(np.abs(picture[y, x].astype(int) - color(name)).max() <= 2)


TARGET = Target([[50, 100, 150, 200], [250, 100, 350, 200], [450, 100, 550, 200]], [0, 1, 0])
FOUND = Detections([[52, 102, 150, 200], [290, 100, 350, 150], [50, 300, 150, 400]], [0.9, 0.8, 0.7], [0, 1, 1], NAMES)


def test_each_kind_of_error_has_its_colour_and_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((480, 640, 3), 128, dtype=np.uint8)
    texts: list[str] = []
    label = draw._draw_label
    monkeypatch.setattr(draw, "_draw_label", lambda one, color: texts.append(one.text) or label(one, color))
    drawn = draw_errors(image, TARGET, find_photo_errors(TARGET, FOUND))
    assert sorted(texts) == ["false [b]dog[/b] 0.70", "loose [b]dog[/b] 0.80", "missed cat"]
    assert has(drawn, 100, 102, RIGHT)
    assert has(drawn, 320, 149, LOOSE), "the box that was found"
    assert has(drawn, 270, 200, LOOSE), "and where the object is"
    assert has(drawn, 500, 199, MISSED)
    assert has(drawn, 100, 399, FALSE)
    assert (image == 128).all()


def test_a_photo_without_errors_stays_but_for_thin_lines() -> None:
    image = np.full((480, 640, 3), 128, dtype=np.uint8)
    target = Target([[50, 100, 150, 200]], [0])
    drawn = draw_errors(image, target, find_photo_errors(target, Detections(target.boxes, [0.9], [0], NAMES)))
    changed = (drawn != 128).any(axis=2)
    assert 0 < changed.sum() <= 4 * 103


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photos of 128x96 with an object each; the third cannot be decoded, the fourth has a very long name."""
    root = tmp_path / "photos"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for name in ("a", "b", "c", "d" * 240, "e"):
        Image.new("RGB", (128, 96), "steelblue").save(root / "images" / f"{name}.png")
        (root / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (root / "data.yaml").write_text(f"names: {list(NAMES)}\ntest: images\n")
    return root


def test_the_worst_photos_are_written_and_former_ones_go(photos: Path, tmp_path: Path) -> None:
    dataset = open_dataset(photos, split="test")
    (photos / "images" / "c.png").write_bytes(b"no longer a photo")
    found = [Detections([[0, 0, 9, 9]] * n, [0.9] * n, [0] * n, NAMES) for n in (1, 0, 3, 2, 0)]
    found[4] = Detections(dataset.records[4].target.boxes, [0.9], [0], NAMES)
    errors = [find_photo_errors(r.target, f) for r, f in zip(dataset.records, found, strict=True)]
    told: list[str] = []
    out = tmp_path / "out"
    written = write_worst(out, dataset, errors, 9, told.append)
    assert [entry["image"] for entry in written] == ["d" * 240 + ".png", "a.png", "b.png"]
    assert written[1] == {"file": "worst/02-a.jpg", "image": "a.png", "right": 0, "loose": 0, "false": 1, "missed": 1}
    assert len(told) == 1, "the worst of all, in whose place the next is drawn"
    assert "c.png" in told[0]
    for entry in written:
        with Image.open(out / entry["file"]) as picture:
            assert picture.size == (512, 384)
    (out / "worst" / "mine.jpg").write_bytes(b"")
    assert len(write_worst(out, dataset, errors, 1, told.append)) == 1
    assert write_worst(out, dataset, errors, 0, told.append) == []
    write_worst(out, dataset, errors, 1, told.append)
    assert {path.name[:4] for path in (out / "worst").iterdir()} == {"01-d", "mine"}
