"""Names in figures: written with fonts that have their letters, as they are, and told where there is no such font."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grcn import fonts
from grcn.cli.main import main
from grcn.evaluation.gap import measure_gap
from grcn.reports.gap_page import gap_page
from grcn.types import Detections, Target

NAMES = ("細胞", "a$x_1$b", "5 $ and 6 $")


@pytest.fixture
def few_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system with Pillow's own font alone, which has no Chinese letters."""
    caches = (fonts.fonts_for, fonts.drawable)
    monkeypatch.setattr(fonts, "_files", lambda: iter([""]))
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("few_fonts")
def test_the_gap_page_has_names_as_they_are() -> None:
    """Without a warning that a font lacks letters: the page is drawn by a browser, which has others."""
    boxes = np.array([[10.0, 10, 40, 40]], dtype=np.float32)
    target = Target(boxes, np.zeros(1, dtype=np.int64))
    found = Detections(boxes, np.array([0.9]), np.zeros(1, dtype=np.int64), ("a",))
    gap = measure_gap([target], [found], ("a",))
    page = gap_page(NAMES, [gap] * len(NAMES), None, data="photos", detections=[1] * len(NAMES))
    pictures = page.split("<svg")[1:]
    assert len(pictures) == 5
    for picture in pictures:
        assert all(f">{name}" in picture for name in NAMES)


@pytest.mark.usefixtures("few_fonts")
def test_evaluation_says_which_names_its_pictures_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (64, 48)).save(photos / "a.png")
    labels = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}],
        "categories": [{"id": 1, "name": NAMES[0]}],
    }
    (photos / "test.json").write_text(json.dumps(labels))
    (tmp_path / "results.json").write_text(
        json.dumps([{"image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "score": 0.9}])
    )
    words = ["evaluate", "--predictions", str(tmp_path / "results.json"), "--data", str(photos)]
    assert main(words) == 0
    assert "no font" not in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "report")]) == 0
    assert f"no font on this system has the letters of {NAMES[0]}" in capsys.readouterr().err
