"""The findings rest on records: the tables are what `grcn study table` makes of them, and the page quotes these."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import statistics
from pathlib import Path

import pictures
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from grcn.reports.scores import print_scores
from grcn.study import read_study, write_tables
from grcn.study.plan import shipped
from grcn.study.run import read_result

RESULTS = Path(__file__).parents[2] / "docs" / "results"
INTERVAL = re.compile(r"[+-]\d+\.\d \([+-]\d+\.\d to [+-]\d+\.\d\)")
TABLES = sorted(RESULTS.glob("studies/*/table.md"))


@pytest.mark.parametrize("table", TABLES, ids=[table.parent.name for table in TABLES])
def test_tables_are_made_of_the_records(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the plots: drawing them takes most of the time."""
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    shutil.copytree(RESULTS / "studies" / "results", tmp_path / "results")
    name = table.parent.name
    write_tables(read_study(name), tmp_path)
    for file in ("table.md", "trials.csv"):
        made = (tmp_path / name / file).read_text(encoding="utf-8")
        assert table.with_name(file).read_text(encoding="utf-8") == made


def test_every_record_is_of_one_trial_of_a_shipped_study() -> None:
    """Records of former versions, too; a study that changes, or a field that is added, must not orphan them."""
    trials = {(t.data, t.digest): t for name in shipped() for t in read_study(name).trials}
    records = sorted((RESULTS / "studies" / "results").glob("*/*.json"))
    assert len(records) >= 69
    for record in records:
        assert read_result(RESULTS / "studies", trials[record.parent.name, record.stem]), record


def seeds_of_rows(table: Path) -> dict[str, int]:
    """Each row with a cell's figures, and with its course along training, to how many seeds it is the mean of."""
    rows: dict[str, int] = {}
    for section in table.read_text(encoding="utf-8").split("\n## "):
        seeds = {}
        for row in section.splitlines():
            if row.startswith("| `"):
                _, cell, count, *_ = row.split("|")
                seeds[f" of{cell}"] = rows[row] = int(count)
            elif row.startswith("| of `"):
                rows[row] = seeds[row.split("|")[1]]
    return rows


def gains(table: Path) -> dict[tuple[str, str], str]:
    """What a table's questions compare, to the gain with its interval."""
    rows = re.findall(r"\(`([^`]+)` over `([^`]+)`\) \| ([^|]+) \| ([^|]+) \|", table.read_text(encoding="utf-8"))
    return {(cell, base): f"{gain} ({interval})" for cell, base, gain, interval in rows}


@pytest.mark.parametrize("page", ["findings.md", "findings-random.md"])
def test_a_page_quotes_rows_and_intervals_of_three_seeds_or_more(page: str) -> None:
    known = {row: seeds for table in TABLES for row, seeds in seeds_of_rows(table).items()}
    lines = (RESULTS / page).read_text(encoding="utf-8").splitlines()
    quoted = [row for row in lines if row.startswith(("| `", "| of `"))]
    assert quoted
    for row in quoted:
        assert known[row] >= 3, row
    intervals = {i for row, seeds in known.items() if seeds >= 3 for i in INTERVAL.findall(row)}
    intervals |= {gain for table in TABLES for gain in gains(table).values()}
    for interval in INTERVAL.findall(" ".join(lines)):
        assert interval in intervals


def test_the_verdicts_on_the_page_are_those_of_the_tables() -> None:
    verdict = re.compile(r"^\|.*\*\*(yes|no|open)\*\*.*\|$", re.MULTILINE)
    known = {found.group() for table in TABLES for found in verdict.finditer(table.read_text(encoding="utf-8"))}
    quoted = [found.group() for found in verdict.finditer((RESULTS / "findings.md").read_text(encoding="utf-8"))]
    assert len(quoted) >= 10
    assert set(quoted) <= known


def test_the_gains_over_c4_and_c5_are_those_of_the_table() -> None:
    known = gains(RESULTS / "studies" / "claim" / "table.md")
    row = re.compile(r"^\| .*\(cell `([^`]+)`\) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
    found = row.findall((RESULTS / "findings.md").read_text(encoding="utf-8"))
    assert len(found) >= 5
    for cell, over_c4, over_c5 in found:
        assert over_c4 == known[cell, "c4"]
        assert over_c5 == known.get((cell, "c5"), "–")
    table = (RESULTS / "studies" / "claim" / "table.md").read_text(encoding="utf-8")
    on_e = [float(gain) for gain in re.findall(r"over `c4`\) \|[^|]*\|[^|]*\| ([+-][\d.]+) \|", table)]
    assert len(on_e) >= 5
    page = " ".join((RESULTS / "findings.md").read_text(encoding="utf-8").split())
    assert f"C4 is ahead of all of them, by {-max(on_e):.1f} to {-min(on_e):.1f} AP" in page


def test_what_is_said_of_scores_is_in_the_records() -> None:
    """The block of the terminal is what a record prints, and the table has the figures of both."""
    page = (RESULTS.parent / "how-to" / "scores.md").read_text(encoding="utf-8")
    table = (RESULTS / "README.md").read_text(encoding="utf-8")
    for name in ("vehicles", "bccd"):
        metrics = json.loads((RESULTS / "scores" / f"{name}.json").read_text(encoding="utf-8"))
        calibration, given = metrics["calibration"], metrics["thresholds"]["of_file"]["all"]
        of_file = calibration["of_file"]
        best, precise = (f"{given[key]['precision']:.3f}, {given[key]['recall']:.3f}" for key in ("best", "precise"))
        scaled = f"{of_file['error_scaled']:.3f} ({of_file['temperature']:.2f})"
        row = [f"{metrics['AP50']:.3f}", f"{calibration['error']:.3f}", scaled, best, precise]
        assert f"| {name}, {metrics['images']} photos | {' | '.join(row)} |" in table
        for value in (calibration["error"], of_file["error_scaled"]):
            assert f"{value:.3f}" in page
        if name == "vehicles":
            out = io.StringIO()
            print_scores(metrics, Console(file=out, width=80, color_system=None))
            assert "\n".join(line.rstrip() for line in out.getvalue().splitlines()) in page


def test_the_page_says_how_far_the_same_trial_is_from_itself() -> None:
    pairs = json.loads((RESULTS / "studies" / "repeats.json").read_text(encoding="utf-8"))
    deviation = {
        data: 100
        * math.sqrt(statistics.fmean((a - b) ** 2 / 2 for a, b in (p["AP"] for p in pairs if p["data"] == data)))
        for data in ("E", "V")
    }
    text = " ".join((RESULTS / "findings.md").read_text(encoding="utf-8").split())
    assert f"a standard deviation of {deviation['E']:.1f} on E and {deviation['V']:.1f} on V" in text


README = (RESULTS.parents[1] / "README.md").read_text(encoding="utf-8")
DEVIATION = re.compile(r"\d+\.\d ± \d+\.\d")


def test_the_readmes_results_are_rows_of_the_tables() -> None:
    """AP70 and AP; the plot is made of the same rows."""
    shown = {line.split("|")[1].strip(): DEVIATION.findall(line) for line in README.splitlines() if "±" in line}
    assert set(shown) >= {name for _, name, *_ in pictures.RESULTS}
    for _, name, study, data, cell in pictures.RESULTS:
        section = (RESULTS / "studies" / study / "table.md").read_text(encoding="utf-8").split(f"\n## {data}\n")[1]
        row = next(line for line in section.splitlines() if line.startswith(f"| `{cell}` |"))
        assert shown[name] == DEVIATION.findall(row)[1:3]
        assert len(pictures.trials(study, data, cell)) >= 3


@pytest.mark.parametrize(
    "page", [README, (RESULTS / "findings.md").read_text(encoding="utf-8")], ids=["README", "findings"]
)
def test_gains_with_their_intervals_are_those_of_the_tables(page: str) -> None:
    tables = "".join(table.read_text(encoding="utf-8") for table in TABLES)
    gain = re.compile(r"([+-]\d+\.\d)(?: AP)? \((95|97)%: ([+-]\d+\.\d to [+-]\d+\.\d)\)")
    quoted = gain.findall(" ".join(page.split()))
    assert len(quoted) == len(re.findall(r"9\d%: ", page)) >= 2
    for value, level, interval in quoted:
        assert f"| {value} | {interval} |" in tables
        assert f"{level}% interval" in tables


def test_the_readmes_plot_has_the_means_of_the_table() -> None:
    """By the lengths of the bars in the committed file, each beside the first."""
    bars = re.findall(
        r'<path d="M (\S+) \S+ ?\nL (\S+) [^"]*" clip-path="\S+" style="fill: #\w+"/>',
        (RESULTS.parent / "images" / "results.svg").read_text(encoding="utf-8"),
    )
    lengths = [float(right) - float(left) for left, right in bars]
    means = [statistics.fmean(pictures.trials(*cell)) for _, _, *cell in pictures.RESULTS]
    assert [length / lengths[0] for length in lengths] == pytest.approx([mean / means[0] for mean in means], rel=1e-3)
