import copy
import shutil
from dataclasses import fields, make_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from grcn.config import DetectorConfig, TrainConfig
from grcn.errors import ConfigError
from grcn.model.summary import summarize
from grcn.presets import PRESETS, detector_of
from grcn.study.plan import Decision, read_study, shipped

STUDY = """
question: Why?
baseline: a
seeds: [0, 5]
base: {preset: grcn_r18, iterations: 10, model: {separation: conv4, cls_context: global, input: {short_side: 100}}}
data:
  near: {path: near, config: {model: {input: {short_side: 200}}}}
  made: {generate: {images: 8}, test_split: val, config: {batch_size: 4}}
cells:
  a: {}
  b: {preset: faster_rcnn_r18_c5, model: {input: {long_side: 300}}}
  c: {model: {cls_context: none}, baseline: b}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY)
    return path


def test_every_cell_on_every_data_set_with_every_seed_seed_by_seed(file: Path) -> None:
    study = read_study(file)
    assert [(t.seed, t.data, t.cell) for t in study.trials] == [
        (seed, data, cell) for seed in (0, 5) for data in ("near", "made") for cell in "abc"
    ]
    assert study.baselines == {"a": "a", "b": "a", "c": "b"}
    assert (study.name, study.question, study.seeds) == ("mine", "Why?", (0, 5))
    assert study.sources["made"].test_split == "val"


def test_a_cell_goes_before_the_data_set_and_that_before_the_base(file: Path) -> None:
    trials = {(t.data, t.cell, t.seed): t.config for t in read_study(file).trials}
    near_b, made_c = trials["near", "b", 5], trials["made", "c", 0]
    assert (near_b.model.input.short_side, near_b.model.input.long_side) == (200, 300)
    assert (near_b.model.separation, near_b.model.cls_context) == ("conv4", "global")
    assert (made_c.model.separation, made_c.model.cls_context) == ("conv4", "none")
    assert (made_c.batch_size, made_c.iterations, made_c.seed, near_b.seed) == (4, 10, 0, 5)
    assert made_c.resume


CONFIRM = ("claim_4",)
"""The gates that confirm: fresh seeds, test splits."""
FORKS = (
    STUDY
    + """  d: {start: a, iterations: 5}
  e: {start: a, iterations: 5, preset: faster_rcnn_r18_c5}
"""
)


def test_a_cell_that_starts_from_another_starts_from_the_same_data_and_seed(file: Path, tmp_path: Path) -> None:
    plain = {(t.data, t.cell, t.seed): t.digest for t in read_study(file).trials}
    file.write_text(FORKS)
    trials = {(t.data, t.cell, t.seed): t for t in read_study(file).trials}
    for (data, cell, seed), trial in trials.items():
        assert trial.start is (trials[data, "a", seed] if cell in "de" else None)
        assert (trial.config.weights == "start:a") == (cell in "de")
        assert cell in "de" or plain[data, cell, seed] == trial.digest, "others are what they were"
    file.write_text(FORKS.replace("a: {}", "a: {batch_size: 2}"))
    changed = {(t.data, t.cell, t.seed): t.digest for t in read_study(file).trials}
    assert changed["near", "d", 0] != trials["near", "d", 0].digest, "it starts from other weights"
    assert changed["near", "c", 0] == trials["near", "c", 0].digest


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("{start: nowhere}", r"cells.d.start: 'nowhere': needs a cell that has no start itself \(a, b, c\)"),
        ("{start: e}", r"cells.d.start: 'e': needs"),
        ("{start: d}", r"cells.d.start: 'd': needs"),
        ("{start: [a]}", r"cells.d.start: \['a'\]: needs"),
        ("{start: a, weights: imagenet}", "cells.d: start and weights: choose one"),
    ],
)
def test_starts_that_cannot_be(file: Path, cell: str, message: str) -> None:
    file.write_text(FORKS.replace("{start: a, iterations: 5}", cell, 1))
    with pytest.raises(ConfigError, match=message):
        read_study(file)


def test_equal_trials_of_two_studies_share_a_digest(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(STUDY.replace("a: {}", "first: {workers: 1}").replace("baseline: a", "baseline: first"))
    one = {t.digest for t in read_study(file).trials}
    assert {t.digest for t in read_study(other).trials} == one, "neither the cell's name nor workers change the result"
    assert len(one) == len(read_study(file).trials)
    other.write_text(STUDY.replace("images: 8", "images: 9"))
    assert {t.digest for t in read_study(other).trials if t.data == "near"} < one
    assert not one & {t.digest for t in read_study(other).trials if t.data == "made"}
    other.write_text(STUDY.replace("iterations: 10", "iterations: 11"))
    assert not one & {t.digest for t in read_study(other).trials}


def test_a_field_at_its_default_is_no_part_of_the_digest(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that is spelled out nor one that a later version adds."""
    before = [t.digest for t in read_study(file).trials]
    other = tmp_path / "other.yaml"
    other.write_text(STUDY.replace("iterations: 10,", "iterations: 10, skip_broken: false, augment: {crop: 0},"))
    assert [t.digest for t in read_study(other).trials] == before
    other.write_text(STUDY.replace("images: 8", "images: 8, objects: [4, 12], seed: 0, object_size: null"))
    assert [t.digest for t in read_study(other).trials] == before
    later = make_dataclass("Later", [("order", str, "usual")], bases=(TrainConfig,), frozen=True)
    for module in ("grcn.study.plan", "grcn.presets"):
        monkeypatch.setattr(f"{module}.TrainConfig", later, raising=False)
    assert [t.digest for t in read_study(file).trials] == before
    other.write_text(STUDY.replace("iterations: 10,", "iterations: 10, order: reverse,"))
    assert not {t.digest for t in read_study(other).trials} & set(before)


def test_only_some_of_it(file: Path) -> None:
    study = read_study(file).only(["made"], ["a", "c"], [5])
    assert [(t.data, t.cell, t.seed) for t in study.trials] == [("made", "a", 5), ("made", "c", 5)]
    assert list(study.sources) == ["made"]
    assert read_study(file).only() == read_study(file)
    with pytest.raises(ConfigError, match="mine: cell 'x' is not one of a, b, c"):
        read_study(file).only(cells=["x"])
    with pytest.raises(ConfigError, match="mine: seed '3' is not one of 0, 5"):
        read_study(file).only(seeds=[3])


def test_extending_others(file: Path, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("base: {batch_size: 2}\ndata: {made: {test_split: test}}\nseeds: [1]")
    child = tmp_path / "child.yaml"
    child.write_text("extends: [mine.yaml, more.yaml]\nquestion: And?\ncells: {d: {iterations: 7}}")
    study = read_study(child)
    assert study.question == "And?"
    assert list(study.baselines) == ["a", "b", "c", "d"]
    assert study.seeds == (1,)
    assert study.sources["made"].test_split == "test"
    trials = {(t.data, t.cell): t.config for t in study.trials}
    assert trials["near", "d"].batch_size == 2
    assert trials["made", "d"].batch_size == 4, "a data set's goes before the base's"
    assert trials["made", "d"].iterations == 7


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("question", "qestion", "unknown key 'qestion'; a study has question"),
        ("baseline: a", "baseline: z", "baseline 'z' is not one of a, b, c"),
        ("baseline: a", "baseline: [a]", "baseline ['a'] is not one of a, b, c"),
        ("path: near,", "path: 3,", "data.near.path: needs text, found 3"),
        ("test_split: val", "test_split: 3", "data.made.test_split: needs text, found 3"),
        ("{images: 8}", "[8]", "data.made.generate: needs keys and values, found [8]"),
        ("{images: 8}", "{images: 2026-01-01}", "data.made.generate: needs numbers"),
        ("{images: 8}", "{images: 8, 3: 4}", "data.made.generate: needs numbers"),
        ("baseline: b}", "baseline: z}", "cells.c: baseline 'z' is not one of"),
        ("seeds: [0, 5]", "seeds: [0, -1]", "seeds"),
        ("seeds: [0, 5]", "seeds: [true]", "seeds"),
        ("seeds: [0, 5]", "seeds: []", "seeds"),
        ("iterations: 10", "iteration: 10", "near, a: unknown key 'iteration'; did you mean 'iterations'"),
        ("iterations: 10", "minutes: 10", "'minutes' cannot be set by a study; use iterations"),
        ("iterations: 10", "out: x", "'out' cannot be set by a study"),
        ("cls_context: global", "cls_stride: 12", "near, a: model.cls_stride: 12 is not one of 8, 16, 32"),
        ("preset: grcn_r18", "preset: grcn_r19", "unknown preset 'grcn_r19'; did you mean 'grcn_r18'"),
        ("path: near", "paht: near", "data.near: unknown key 'paht'"),
        ("path: near,", "path: near, generate: {},", "data.near: needs either path or generate"),
        ("path: near,", "", "data.near: needs either path or generate"),
        ("  a: {}", "  a/b: {}", "name 'a/b': use letters"),
        ("  a: {}", "  a: 3", "cells.a: expected keys and values, found 3"),
        (
            next(line for line in STUDY.splitlines() if line.startswith("base")),
            "base: 3",
            "base",
        ),
        (STUDY, "cells: {a: {}}\nbaseline: a", "data: needs at least one"),
        (STUDY, "[1]", "expected question, baseline"),
        (STUDY, "a: [", "not YAML"),
        (STUDY, "[" * 3000, "not YAML"),
        (STUDY, "extends: ../x.yaml", "extends: needs names of files in the same folder"),
        (STUDY, "extends: 3", "extends: needs names of files"),
        (STUDY, "extends: mine.yaml", "in a circle"),
        (STUDY, "extends: nobody.yaml", "no such file"),
        (STUDY, "#" * (1 << 20) + "#", "not a study"),
    ],
)
def test_what_is_wrong_is_said(file: Path, old: str, new: str, message: str) -> None:
    file.write_text(STUDY.replace(old, new))
    with pytest.raises(ConfigError) as error:
        read_study(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


DECISION = """
compare: {more: [b, a], and more: [c, b]}
looks: [2]
margin: 1
"""


def test_how_it_is_judged(file: Path) -> None:
    assert read_study(file).decision is None
    file.write_text(STUDY + DECISION)
    study = read_study(file)
    assert study.decision == Decision(
        {"more": ("b", "a"), "and more": ("c", "b")}, "AP", (2,), 1.0, ("near", "made"), (0, 5)
    )
    file.write_text(
        (STUDY + DECISION + "metric: AP75").replace("[2]", "[2, 3]").replace("seeds: [0, 5]", "seeds: [4, 0, 5]")
    )
    decision = read_study(file).decision
    assert decision is not None
    assert (decision.metric, decision.looks, decision.seeds) == ("AP75", (2, 3), (4, 0, 5))
    only = read_study(file).only(["near"]).decision
    assert only == decision, "what decides does not follow from what is looked at"


def test_no_more_seeds_than_the_file_plans(file: Path) -> None:
    file.write_text(STUDY + DECISION)
    with pytest.raises(ConfigError) as error:
        read_study(file).only(seeds=[0, 17])
    assert str(error.value) == "mine: seed '17' is not one of 0, 5; the study is judged only by the seeds in its file"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("looks: [2]", "", "looks: missing; a study that is judged has compare, metric, looks, margin"),
        ("margin: 1", "", "margin: missing"),
        (DECISION, "\nmetric: AP", "compare: missing"),
        (DECISION, "\nmargin: 1", "compare: missing"),
        ("looks: [2]", "looks: [3]", "seeds: 2 of them, but the last look is at 3"),
        ("seeds: [0, 5]", "seeds: [0, 5, 6]", "seeds: 3 of them, but the last look is at 2"),
        ("seeds: [0, 5]", "seeds: [5, 5]", "seeds: 1 of them, but"),
        ("looks: [2]", "looks: 2", "looks 2: needs one or two numbers of seeds from 2, ascending"),
        ("looks: [2]", "looks: []", "looks []: needs"),
        ("looks: [2]", "looks: [1, 2]", "looks [1, 2]: needs"),
        ("looks: [2]", "looks: [3, 2]", "looks [3, 2]: needs"),
        ("looks: [2]", "looks: [2, 3, 4]", "looks [2, 3, 4]: needs"),
        ("looks: [2]", "looks: [2.0]", "looks [2.0]: needs"),
        ("looks: [2]", "looks: [[2]]", "looks [[2]]: needs"),
        ("margin: 1", "margin: 0", "margin 0: needs points of 100, above 0"),
        ("margin: 1", "margin: .nan", "margin nan: needs"),
        ("margin: 1", "margin: true", "margin True: needs"),
        ("margin: 1", "margin: 1\nmetric: AP80", "metric: 'AP80' is not one of AP, AP50, AP70, AP75"),
        ("margin: 1", "margin: 1\nmetric: [AP]", "metric: ['AP'] is not one of"),
        ("compare: {more: [b, a], and more: [c, b]}", "compare: [b, a]", "compare: needs at least one question"),
        ("compare: {more: [b, a], and more: [c, b]}", "compare: {}", "compare: needs at least one question"),
        ("more: [b, a]", "more: [b, z]", "compare.more: cell 'z' is not one of a, b, c"),
        ("more: [b, a]", "more: [b, [a]]", "compare.more: cell ['a'] is not one of"),
        ("more: [b, a]", "more: [b, b]", "compare.more: needs two cells, [CELL, AGAINST]"),
        ("more: [b, a]", "more: b", "compare.more: needs two cells"),
        ("more: [b, a]", "3: [b, a]", "compare: question 3: needs a line of text"),
        ("more: [b, a]", "a|b: [b, a]", "compare: question 'a|b': needs a line of text"),
        ("more: [b, a]", '"a\\nb": [b, a]', "compare: question 'a\\nb': needs a line of text"),
        ("more: [b, a]", f"{'m' * 61}: [b, a]", "longer than 60"),
    ],
)
def test_what_is_wrong_with_a_decision_is_said(file: Path, old: str, new: str, message: str) -> None:
    assert old in STUDY + DECISION
    file.write_text((STUDY + DECISION).replace(old, new))
    with pytest.raises(ConfigError) as error:
        read_study(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_digest_of_a_study_is_of_all_that_its_files_say(file: Path, tmp_path: Path) -> None:
    file.write_text(STUDY + DECISION)
    before = read_study(file).digest
    file.write_text("# A remark.\n" + STUDY + DECISION.replace("margin: 1", "margin:   1"))
    assert read_study(file).digest == before
    assert read_study(file).only(["near"], seeds=[5]).digest == before
    child = tmp_path / "child.yaml"
    child.write_text("extends: mine.yaml")
    assert read_study(child).digest == before
    for old, new in (
        ("Why?", "Why not?"),
        ("margin: 1", "margin: 2"),
        ("[0, 5]", "[5, 0]"),
        ("images: 8", "images: 9"),
    ):
        file.write_text((STUDY + DECISION).replace(old, new))
        assert read_study(child).digest != before, new


def test_an_unknown_study_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file, nor a study of the package .*context.*sharing.*stride"):
        read_study("strides")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_study(tmp_path)


@pytest.mark.parametrize("name", shipped())
def test_shipped_studies_can_be_read(name: str) -> None:
    study = read_study(name)
    assert study.question.endswith("?")
    assert len(study.seeds) >= 3
    assert any(cell != baseline for cell, baseline in study.baselines.items())
    own = {
        "start_bccd": {"bccd480"},
        "start_aquarium": {"aquarium640"},
        "pyramid_bccd": {"bccd480"},
        "pyramid_aquarium": {"aquarium640"},
        "pyramid_deeppcb": {"deeppcb"},
        "augment": {"aquarium", "vehicles"},
    } | {key: {"A", "V"} for key in ("claim_5", "claim_5b", "claim_7", "neck_width")}
    assert set(study.sources) >= own.get(name, {"E", "V"} if name.startswith("claim") else {"bccd", "embedded"})
    # Cells of a study must differ: equal ones would be trained once and compared with themselves.
    assert len({(t.data, t.digest) for t in study.trials}) == len(study.trials)


def other_value(hint: Any, value: Any) -> Any:
    """A value of a field's type that it does not have."""
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    return not value if hint is bool else (value or 0) + 1


def test_a_preset_may_change_without_changing_a_shipped_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but its backbone and pyramid, which are in its name, and but for what none sets: sizes and thresholds."""
    before = {name: [t.digest for t in read_study(name).trials] for name in shipped()}

    def changed(config: DetectorConfig) -> DetectorConfig:
        config = copy.deepcopy(config)
        # What a preset is named for, and what only a pyramid has.
        named = ["backbone", "neck", "cls_cells", "loc_cells", "norm_eps"]
        named += [f"neck_{field}" for field in ("channels", "norm", "stride")]
        readings = [each for each in fields(config) if each.name not in (*named, "rpn", "roi", "input")]
        places = [(config, each.name) for each in readings] + [(config.rpn, "source"), (config.rpn, "channels")]
        for part, field in places:  # not replace: it would refuse what cannot be
            value = other_value(get_type_hints(type(part))[field], getattr(part, field))
            object.__setattr__(part, field, value)
        return config

    for name, config in list(PRESETS.items()):
        monkeypatch.setitem(PRESETS, name, changed(config))
    for name, digests in before.items():
        assert [t.digest for t in read_study(name).trials] == digests, name


def test_the_shipped_studies_share_what_they_have_in_common() -> None:
    digests = {
        (name, t.cell): t.digest
        for name in shipped()
        for t in read_study(name).trials
        if t.data in ("bccd", "V") and t.seed == 0
    }
    assert digests["sharing", "conv4"] == digests["stride", "cls16-loc16"] == digests["context", "none"]
    assert digests["sharing", "none"] == digests["method", "r18-c5"] == digests["protocol", "r18-c5-light_fc2"]


@pytest.mark.parametrize(("name", "count"), [("claim_1", 2), ("claim_4", 1), ("claim_5", 1)])
def test_what_is_said_to_cost_as_much_does(name: str, count: int) -> None:
    study = read_study(name)
    assert study.decision is not None
    pairs = [pair for question, pair in study.decision.compare.items() if "equal cost" in question]
    assert len(pairs) == count
    configs = {(t.data, t.cell): detector_of(t.config) for t in study.trials}

    def macs(data: str, cell: str) -> int:
        size = configs[data, cell].input
        return summarize(configs[data, cell], size=(size.short_side, size.long_side)).macs

    data = next(iter(study.sources))  # where photos are larger, a second conv5 grows more than wider layers
    for cell, control in pairs:
        own = macs(data, cell)
        assert own <= macs(data, control) <= 1.35 * own


def test_the_gates_share_trials_and_screen_on_validation(tmp_path: Path) -> None:
    gates = {name: read_study(name) for name in shipped() if name.startswith("claim_")}
    digests = {(n, t.cell): t.digest for n, s in gates.items() for t in s.trials if (t.data, t.seed) == ("E", 0)}
    assert digests["claim_0", "c5-rpn4"] == digests["claim_1", "none"] == digests["claim_2", "c5-rpn4"]
    assert digests["claim_0", "conv4"] == digests["claim_1", "conv4"] == digests["claim_3", "conv4"]
    assert digests["claim_0", "c5"] == digests["claim_2", "c5"]
    screened = {
        (trial.data, study.sources[trial.data].test_split, trial.config.val_split)
        for name, study in gates.items()
        for trial in study.trials
        if name not in CONFIRM
    }
    assert screened == {("E", "val", "val"), ("V", "val", "val"), ("A", "valid", "valid")}
    for base in ("_claim_base.yaml", "_rendered.yaml", "_vehicles.yaml", "_claim.yaml", "_claim_confirm.yaml"):
        shutil.copy(Path(str(resources.files("grcn.study"))) / "shipped" / base, tmp_path)
    (tmp_path / "confirm.yaml").write_text(
        "extends: _claim_confirm.yaml\nquestion: Does it hold?\nbaseline: a\nbase: {preset: faster_rcnn_lite0_c5}\n"
        "cells: {a: {}, b: {model: {separation: conv4}}}\ncompare: {it: [b, a]}"
    )
    confirm = read_study(tmp_path / "confirm.yaml")
    assert {source.test_split for source in confirm.sources.values()} == {"test"}
    assert list(confirm.sources) == ["E", "V", "B"]
    seen = {seed for name, study in gates.items() if name not in CONFIRM for seed in study.seeds}
    assert not seen & set(confirm.seeds)
    for name in CONFIRM:
        assert {source.test_split for source in gates[name].sources.values()} == {"test"}
        assert gates[name].seeds == confirm.seeds


def test_the_study_from_c5_starts_from_trials_of_method() -> None:
    runs = {(t.data, f"{t.cell}-{t.seed}-{t.digest}") for t in read_study("method").trials}
    for trial in read_study("from_c5").trials:
        data, run, file = Path(trial.config.weights).parts[-3:]
        assert data == trial.data
        assert (data, run) in runs
        assert file == "last.safetensors"


def test_the_documentation_lists_every_shipped_study() -> None:
    page = (Path(__file__).parents[3] / "docs" / "studies.md").read_text(encoding="utf-8")
    two_cores = {name for name in shipped() if name.endswith("_gpu")}
    assert {name for name in shipped() if f"`{name}`" not in page} <= two_cores
