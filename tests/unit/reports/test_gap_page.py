"""The page of `grcn gap`: what it shows is what was measured, and names are text, whatever they hold."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from grcn.evaluation.gap import Gap, bootstrap, measure_gap
from grcn.reports.gap import print_gaps
from grcn.reports.gap_page import gap_page
from grcn.types import Detections, Target

CLASSES = ("cat", '<b>dog</b> & "co"')


class Rows(HTMLParser):
    """The texts of the cells of each row, and the kinds of elements outside of pictures."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.elements: set[str] = set()
        self._in_picture = self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self._in_picture |= tag == "svg"
        if not self._in_picture:
            self.elements.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_picture &= tag != "svg"
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {' '.join(data.split())}".strip()


def measured(shift: float) -> Gap:
    """Of four images with an object of each class, whose boxes are moved by `shift` of their side."""
    boxes = np.array([[10, 10, 60, 60], [100, 100, 150, 150]])
    targets = [Target(boxes, [0, 1]) for _ in range(4)]
    detections = [Detections(boxes + 50 * shift, [0.9, 0.8], [0, 1], CLASSES) for _ in range(4)]
    return measure_gap(targets, detections, CLASSES)


def test_the_tables_fit_eighty_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    gaps = [measured(shift) for shift in (0.0, 0.1, 0.2, 0.3)]
    names = ["c4", "[b]", "another-run-of-the-same-detector-with-seed-2", "runs/photos-of-2026 with words"]
    print_gaps(names, gaps, bootstrap(gaps, resamples=3))
    text = capsys.readouterr().out
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert "".join(lines).count(names[2]) == 0, "folded"
    assert [line.split()[1:] for line in lines if line.startswith("c4")] == [["100.0"] * 4 + ["0.0"] * 3, ["0.0"] * 6]
    assert len([line for line in lines if line.startswith("[b] ")]) == 2
    assert len([line for line in lines if line.startswith("  number ")]) == 4


def test_names_are_text_and_figures_are_those_measured() -> None:
    gaps = [measured(0.0), measured(0.2)]
    names = ["<script>alert(1)</script>", "b"]
    page = gap_page(names, gaps, bootstrap(gaps, resamples=3), data="photos <i>, test", detections=[8, 8])
    read = Rows(page)
    assert not read.elements & {"script", "b", "i"}
    whole, none = "100.0 100.0 to 100.0", "0.0 0.0 to 0.0"
    assert [names[0], *[whole] * 4, ""] in read.rows
    assert ["localization mended", *[whole] * 4, "100.0"] in read.rows, "what the second loses"
    assert ["classification mended", *[none] * 4, "0.0"] in read.rows
    change = "-100.0 -100.0 to -100.0"
    assert ["b", *[change] * 4, "+100.0 100.0 to 100.0", "+0.0 0.0 to 0.0"] in read.rows
    assert ["b", "0", "8", "0", "0", "0", "0"] in read.rows
    assert ["share", "0%", "100%", "0%", "0%", "0%", "0%"] in read.rows
    assert [f"{names[0]}: {CLASSES[1]}", *["100.0"] * 4, "4", "100.0", "–"] in read.rows
    assert ["b: medium", "0.0", "100.0", "0.0", "100.0", "0", "–", "–"] in read.rows


def test_one_without_intervals() -> None:
    read = Rows(gap_page(["a"], [measured(0.2)], None, data="photos, test", detections=[8]))
    assert ["a", "0.0", "0.0", "0.0", "0.0", ""] in read.rows
    assert "span" not in read.elements, "no ranges"
