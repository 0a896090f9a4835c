import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from grcn.cli.main import main
from grcn.study.plan import Study, Trial, read_study
from grcn.study.run import result_path
from grcn.study.table import paired_difference, verdict_table, write_tables
from grcn.study.verdict import half_over_photos, pooled_gain

SCORES = st.floats(0, 1)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=6))
def test_the_interval_is_that_of_the_paired_t_test(pairs):
    values, baseline = np.array(pairs).T
    assume(np.ptp(values - baseline) > 1e-6)  # scipy has no interval for differences that are all alike
    ours = paired_difference(values, baseline)
    theirs = ttest_rel(values, baseline).confidence_interval(0.95)
    assert ours.seeds == len(pairs)
    assert ours.mean == pytest.approx((values - baseline).mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_with_one_seed_there_is_no_interval_and_with_none_no_mean():
    one = paired_difference([0.5], [0.25])
    assert (one.mean, one.seeds) == (0.25, 1)
    assert np.isnan([one.low, one.high]).all()
    assert np.isnan(paired_difference([], []).mean)


STUDY = """
question: Why?
baseline: a
seeds: [7, 3, 5, 4]
base: {preset: faster_rcnn_r18_c5, iterations: 10}
data: {E: {path: e}, V: {path: v}}
cells: {a: {}, b: {iterations: 20}, c: {iterations: 30}}
compare: {more: [b, a], even more: [c, a]}
looks: [2, 4]
margin: 1.0
"""


@pytest.fixture
def judged(tmp_path: Path) -> Study:
    (tmp_path / "mine.yaml").write_text(STUDY)
    return read_study(tmp_path / "mine.yaml")


def record(points: float, **more: Any) -> dict[str, Any]:
    """A result of so many points of AP; other metrics one, two and three points more."""
    metrics = {key: (points + k) / 100 for k, key in enumerate(("AP", "AP50", "AP70", "AP75"))}
    lost = dict.fromkeys(("localization", "classification", "both"), 0.1)
    return {
        "config": {},
        "metrics": metrics | dict.fromkeys(("APs", "APm", "APl")),
        "gap": {"loses": {"AP": lost}, "true_positives": {"rank_correlation": None}},
        "curve": [],
        "seconds": {"iteration": 1.0, "all": 2.0},
        **more,
    }


def table(study: Study, results: dict[Trial, dict[str, Any]], folder: Path) -> str:
    for trial, result in results.items():
        path = result_path(folder, trial)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
    return write_tables(study, folder)[0].read_text()


def row(study: Study, results: dict[Trial, dict[str, Any]], question: str) -> list[str]:
    assert study.decision is not None
    lines = verdict_table(study.decision, results)
    (found,) = (line for line in lines if line.startswith(f"| {question} ("))
    return [cell.strip() for cell in found.split("|")[1:-1]]


POINTS = {"a": (20.0, 21.0, 20.5, 20.2), "b": (24.0, 25.0, 24.0, 24.3), "c": (20.1, 21.1, 20.4, 20.3)}


def test_a_question_is_judged_when_every_set_has_its_seeds_and_by_these_alone(judged: Study) -> None:
    results: dict[Trial, dict[str, Any]] = {}

    def do(*seeds: int, sets: tuple[str, ...] = ("E", "V")) -> list[str]:
        for trial in judged.trials:
            if trial.seed in seeds and trial.data in sets:
                points = POINTS[trial.cell][judged.seeds.index(trial.seed)] + 10 * (trial.data == "V")
                results[trial] = record(points)
        return row(judged, results, "more")[1:]

    blank = ["–"] * 7
    assert row(judged, results, "more") == ["more (`b` over `a`)", *blank, "0 of 2", "open (0 of 2 seeds)"]
    assert do(7) == [*blank, "1 of 2", "open (1 of 2 seeds)"]
    do(3, sets=("E",))
    assert do(5) == [*blank, "1 of 2", "open (1 of 2 seeds)"], "V lacks a seed of the first two"
    at_two = do(3)
    gain = pooled_gain([(POINTS["b"][:2], POINTS["a"][:2])] * 2, 0.97)
    interval = f"{gain.low:+.1f} to {gain.high:+.1f}"
    assert at_two == ["+4.0", interval, *["+4.0"] * 5, "2 of 4", "**yes** (ahead on every set)"]
    assert do(4, sets=("V",)) == at_two, "the third seed is not read before the fourth is there"
    at_four = do(4)
    gain = pooled_gain([(POINTS["b"], POINTS["a"])] * 2, 0.97)
    assert at_four[:2] == ["+3.9", f"{gain.low:+.1f} to {gain.high:+.1f}"]
    assert at_four[-2:] == ["4 of 4", "**yes** (ahead on every set)"]
    assert row(judged, results, "even more")[-2:] == ["4 of 4", "**no** (no difference)"]
    one_set = {trial: result for trial, result in results.items() if trial.data == "E"}
    assert row(judged.only(["E"]), one_set, "more")[-1] == "open (0 of 2 seeds)", "one set is not judged for all"


def test_each_metric_and_set_has_a_column(judged: Study) -> None:
    """AP50 of cell b is 2 points more, and on V all is 3 points more."""
    results = {}
    for trial in judged.trials:
        spread, is_b = judged.seeds.index(trial.seed) / 10, trial.cell == "b"
        result = record(20 + spread + is_b * (1 + 3 * (trial.data == "V")))
        result["metrics"]["AP50"] += is_b * 0.02
        results[trial] = result
    assert judged.decision is not None
    assert verdict_table(judged.decision, results)[2] == (
        "| question | gain, AP | 97% interval | E | V | gain, AP50 | gain, AP70 | gain, AP75 | seeds | verdict |"
    )
    shown = row(judged, results, "more")
    assert (shown[1], shown[3:8]) == ("+2.5", ["+1.0", "+4.0", "+4.5", "+2.5", "+2.5"])
    results = {trial: {**result, "metrics": dict.fromkeys(result["metrics"])} for trial, result in results.items()}
    assert row(judged, results, "more")[1:3] == ["+0.0", "unknown"]


def test_the_interval_over_photos_is_of_the_judged_seeds_that_recorded_it(judged: Study) -> None:
    """Of four seeds the second and the third recorded it; the third lies beyond the look at two."""
    assert judged.decision is not None
    generator = np.random.default_rng(0)
    drawn = {t: generator.random(50).round(4).tolist() for t in judged.trials if t.seed in (3, 5) and t.cell != "c"}
    results = {t: record(20, **({"resampled_AP": drawn[t]} if t in drawn else {})) for t in judged.trials}

    def half(*seeds: int) -> str:
        of = {(t.data, t.cell): [d for u, d in drawn.items() if (u.data, u.cell) == (t.data, t.cell)] for t in drawn}
        sets = [tuple(np.array(of[data, cell][: len(seeds)]) for cell in "ba") for data in "EV"]
        return f"± {100 * half_over_photos(sets, 0.97):.1f}, {len(seeds)}"  # type: ignore[arg-type]

    assert "| gain, AP75 | 97% over photos, seeds | seeds | verdict |" in verdict_table(judged.decision, results)[2]
    assert row(judged, results, "more")[8] == half(3, 5)
    assert row(judged, results, "even more")[8] == "–"
    early = {t: result for t, result in results.items() if t.seed != 4}
    assert row(judged, early, "more")[8] == half(3)
    first = {t: result for t, result in results.items() if t.seed == 7}
    assert len(row(judged, first, "more")) == 10, "no column where nothing recorded it"


def test_a_table_holds_verdicts_cells_and_the_study_file(
    judged: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"name": "mine", "digest": judged.digest}
    results = {trial: record(20, study=own) for trial in judged.trials if trial.seed in (7, 3)}
    for trial in results:
        if trial.data == "E":
            results[trial]["objects"] = {"count": 9, "median": 102.4}
            if trial.cell == "b":
                results[trial]["objects"]["levels"] = {"cls": [0.004, 0.25, 0.746], "loc": [0.5, 0.5, 0.0]}
    text = table(judged, results, tmp_path)
    assert "| more (`b` over `a`) | +0.0 | unknown |" in text
    assert (
        "## E\n\nMedian object of the training split: 6.4 cells of stride 16.\n\n"
        "- `b`: % of the objects by map, finest first: classification 0 / 25 / 75, localization 50 / 50 / 0.\n\n| cell"
    ) in text
    assert "## V\n\n| cell" in text
    assert main(["study", "table", str(tmp_path / "mine.yaml"), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in printed if not line.startswith(str(tmp_path))) <= 80
    judged_lines = " ".join(" ".join(printed[-6:]).split())
    for question in ("more (`b` over `a`)", "even more (`c` over `a`)"):
        answer = f"{question}: open (no spread over seeds to judge by); gain, AP: +0.0"
        assert f"{answer}, 97% interval: unknown; seeds: 2 of 4" in judged_lines
    assert text.count(f"\n\nStudy file: mine {judged.digest}.\n") == 2


def test_a_table_says_of_which_study_file_its_results_are(judged: Study, tmp_path: Path) -> None:
    trials = judged.only(["E"], ["a", "b"], [7, 3]).trials
    of = [
        {"name": "mine", "digest": judged.digest},
        {"name": "yours", "digest": "4567"},
        {"name": "mine", "digest": "0123"},
        None,
    ]
    results = {t: record(20, **({"study": study} if study else {})) for t, study in zip(trials, of, strict=True)}
    assert (
        f"**Study file: mixed**, by cell and seed: mine {judged.digest} (`a` 7); yours 4567 (`b` 7); "
        f"mine 0123, which has changed since to {judged.digest} (`a` 3); before digests (`b` 3)."
    ) in table(judged, results, tmp_path)
