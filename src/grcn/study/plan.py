"""Reads a study from its YAML file, and lists its trials: each cell on each data set with each seed.

```yaml
question: Is it the separation?           # a sentence, printed above the tables
baseline: shared                          # the cell that the others are compared with
seeds: [0, 1, 2]
base:                                     # fields of a training run, the same for all
  preset: grcn_r18
  iterations: 400
data:                                     # data sets by name, each with fields that go with it
  bccd: {path: bccd, config: {model: {input: {short_side: 360, long_side: 480}}}}
  embedded: {generate: {images: 400}, config: {batch_size: 8}}
cells:                                    # detectors by name: the fields in which they differ
  shared: {model: {separation: none}}
  parted: {}
```

Fields are those of `TrainConfig`. Those of a cell override those of a data set, which override those of the base. A
cell may be compared with another cell, `baseline: NAME`. It may start from the last weights of another cell, on the
same data with the same seed, `start: NAME`. With `extends: FILE`, or a list of files, all in the same folder, a study
takes over the content of these files and changes what it names itself.

A study that is meant to settle a question says in advance how it is judged. It runs with exactly the seeds that it
plans:

```yaml
seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
compare:                                  # a question: the cell, and the cell that it should beat
  own conv5: [parted, shared]
metric: AP                                # what decides: AP, AP50, AP70 or AP75
looks: [6, 12]                            # numbers of seeds at which it is judged, one or two
margin: 1.0                               # points; a smaller difference counts as none
```
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from grcn.config import TrainConfig, from_dict, merged, non_defaults
from grcn.errors import ConfigError, GrcnError
from grcn.presets import detector_of, train_config

MAX_BYTES = 1 << 20
MAX_DEPTH = 5
KEYS = ("question", "baseline", "seeds", "base", "data", "cells")
DECISION_KEYS = ("compare", "metric", "looks", "margin")
START = "start:"
"""Prefix of the cell's name in `weights` of a trial that starts from another."""
METRICS = ("AP", "AP50", "AP70", "AP75")
MAX_QUESTION = 60
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
LEFT_OPEN: dict[str, Any] = {
    "preset": "grcn_r50",
    "weights": "imagenet",
    "fit": "none",
    "precision": "fp32",
    "optim": {"name": "sgd", "weight_decay": 1e-4, "ema": 0.0},
    "schedule": {"kind": "step"},
}
"""Values that a study uses if its file leaves them open. A single run chooses them by the machine; a study must not."""
NOT_OF_THE_RESULT = ("data", "out", "preset", "format", "workers", "loggers", "save_every", "resume", "accelerator")
"""Fields that change where a run reads and writes, and what it is called, but not what it learns."""


@dataclass(frozen=True)
class DataSource:
    """A data set of a study.

    Args:
        path: its folder, below the root with which the study is run; empty: the embedded set.
        generate: arguments of `grcn.scenes.generate.generate`, for the embedded set.
        test_split: the split on which detectors are scored.
        config: fields of a training run for this data set.
    """

    path: str = ""
    generate: Mapping[str, Any] | None = None
    test_split: str = "test"
    config: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        """Changes with the arguments of `generate`."""
        return digest(dict(self.generate or {}))


@dataclass(frozen=True)
class Trial:
    """One training run of a study.

    Args:
        data: name of the data set.
        cell: name of the cell.
        seed: seed of the run.
        config: configuration of the run, without the folders of data and output.
        digest: a digest of the fields of `config` that change what is learned and are not at their default, of the
            split that is scored, of the arguments of rendered data, and of the trial that it starts from. Equal trials
            of several studies have the same digest. It does not cover photos and labels; the result records them.
        start: the trial whose last weights it starts from; None: it starts from `config.weights`.
    """

    data: str
    cell: str
    seed: int
    config: TrainConfig
    digest: str
    start: Trial | None = None

    @property
    def name(self) -> str:
        return f"{self.data} {self.cell} seed {self.seed}"


@dataclass(frozen=True)
class Decision:
    """How a study is judged. This is fixed before it runs.

    Args:
        compare: for each question the cell, and the cell that it should beat.
        metric: the metric that decides, one of METRICS.
        looks: one or two numbers of seeds at which the study is judged, ascending.
        margin: in points of 100; a difference that is surely smaller counts as none.
        sets: the data sets over which the study is judged, which are all of its data sets.
        seeds: the seeds in the order in which they count, as many as in the last look.
    """

    compare: dict[str, tuple[str, str]]
    metric: str
    looks: tuple[int, ...]
    margin: float
    sets: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Study:
    """A question put to several detectors.

    Args:
        name: name of the file, without suffix.
        question: a sentence.
        baselines: for each cell, in order, the cell that it is compared with; a baseline has itself.
        sources: data sets by name.
        seeds: seeds of each cell.
        trials: all trials, seed by seed, so that a study that is cut short has every cell. A trial that others start
            from comes before these.
        begins: data set and digest of the trials that others start from.
        digest: a digest of the content of the file and of the files that it extends.
        decision: how the study is judged; None: it is not.
    """

    name: str
    question: str
    baselines: dict[str, str]
    sources: dict[str, DataSource]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    begins: frozenset[tuple[str, str]]
    digest: str
    decision: Decision | None = None

    def only(
        self,
        data: Sequence[str] | None = None,
        cells: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Study:
        """The study with only some data sets, cells and seeds, and the trials that these start from. None means all.

        Raises:
            ConfigError: on a name or a seed that the study does not have.
        """
        for what, wanted, known in (
            ("data set", data, self.sources),
            ("cell", cells, self.baselines),
            ("seed", seeds, self.seeds),
        ):
            if unknown := [one for one in wanted or () if one not in known]:
                planned = what == "seed" and self.decision is not None
                raise ConfigError(
                    f"{self.name}: {what} '{unknown[0]}' is not one of {', '.join(map(str, known))}"
                    + ("; the study is judged only by the seeds in its file" if planned else "")
                )
        chosen = [
            trial
            for trial in self.trials
            if trial.data in (data or self.sources)
            and trial.cell in (cells or self.baselines)
            and trial.seed in (seeds or self.seeds)
        ]
        begun = [trial.start for trial in chosen]
        kept = tuple(trial for trial in self.trials if trial in chosen or trial in begun)
        return replace(
            self, sources={k: v for k, v in self.sources.items() if k in (data or self.sources)}, trials=kept
        )


def shipped() -> list[str]:
    """The names of the studies that come with the package. Files that begin with _ are only extended by others."""
    stems = (Path(str(file)).stem for file in (resources.files("grcn.study") / "shipped").iterdir())
    return sorted(stem for stem in stems if not stem.startswith("_"))


def read_study(file: str | Path) -> Study:
    """Reads a study and checks each of its trials.

    Args:
        file: a YAML file, or the name of a study that comes with the package.

    Raises:
        ConfigError: if anything in it is wrong; it names the file and the key.
    """
    path = Path(file)
    if not path.is_file() and str(file) in shipped():
        path = Path(str(resources.files("grcn.study") / "shipped" / f"{file}.yaml"))
    content = _load(path)
    where = f"{path.name}: "
    for key in content:
        if key not in KEYS + DECISION_KEYS:
            raise ConfigError(
                f"{where}unknown key '{key}'; a study has {', '.join(KEYS)} and extends, and one that is judged "
                f"{', '.join(DECISION_KEYS)}"
            )
    cells, sources = (_named(where, content, key) for key in ("cells", "data"))
    seeds, base = content.get("seeds", [0, 1, 2]), content.get("base") or {}
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)):
        raise ConfigError(f"{where}seeds {seeds!r}: needs a list of numbers from 0")
    if not isinstance(base, dict):
        raise ConfigError(f"{where}base: expected keys and values, found {base!r}")
    starts = {name: cell.pop("start", None) for name, cell in cells.items()}
    for name, start in starts.items():
        if start is None:
            continue
        if not isinstance(start, str) or starts.get(start, name) is not None:
            first = ", ".join(cell for cell, its in starts.items() if its is None)
            raise ConfigError(f"{where}cells.{name}.start: {start!r}: needs a cell that has no start itself ({first})")
        if "weights" in cells[name]:
            raise ConfigError(f"{where}cells.{name}: start and weights: choose one")
        cells[name] = {**cells[name], "weights": f"{START}{start}"}
    baselines = {name: cell.pop("baseline", content.get("baseline")) for name, cell in cells.items()}
    for name, baseline in baselines.items():
        if not isinstance(baseline, str) or baseline not in cells:
            raise ConfigError(f"{where}cells.{name}: baseline {baseline!r} is not one of {', '.join(cells)}")
    seeds = list(dict.fromkeys(seeds))
    decision = _decision(where, content, cells, tuple(sources), tuple(seeds))
    kept = {name: _source(where, name, values) for name, values in sources.items()}
    made: dict[tuple[int, str, str], Trial] = {}
    # Trials that others start from come before these.
    for seed in seeds:
        for name, source in kept.items():
            for cell in sorted(cells, key=lambda cell: starts[cell] is not None):
                layers = [base, source.config or {}, cells[cell]]
                start = made.get((seed, name, starts[cell] or ""))
                made[seed, name, cell] = _trial(f"{where}{name}, {cell}: ", name, cell, seed, source, layers, start)
    trials = tuple(made.values())
    begins = frozenset((trial.data, trial.start.digest) for trial in trials if trial.start)
    question = str(content.get("question", ""))
    state = digest({**content, "question": question, "seeds": seeds})
    return Study(path.stem, question, baselines, kept, tuple(seeds), trials, begins, state, decision)


def _decision(
    where: str, content: dict[str, Any], cells: Mapping[str, Any], sets: tuple[str, ...], seeds: tuple[int, ...]
) -> Decision | None:
    if not any(key in content for key in DECISION_KEYS):
        return None
    if missing := [key for key in ("compare", "looks", "margin") if key not in content]:
        raise ConfigError(f"{where}{missing[0]}: missing; a study that is judged has {', '.join(DECISION_KEYS)}")
    compare, looks, margin = content["compare"], content["looks"], content["margin"]
    metric = content.get("metric", METRICS[0])
    if not isinstance(compare, dict) or not compare:
        raise ConfigError(f"{where}compare: needs at least one question with two cells, [CELL, AGAINST]")
    for question, pair in compare.items():
        # The question becomes a cell of a Markdown table.
        if not isinstance(question, str) or not question.isprintable() or "|" in question or not question.strip():
            raise ConfigError(f"{where}compare: question {question!r}: needs a line of text without |")
        if len(question) > MAX_QUESTION:
            raise ConfigError(f"{where}compare: question '{question[:20]}...': longer than {MAX_QUESTION} letters")
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
            raise ConfigError(f"{where}compare.{question}: needs two cells, [CELL, AGAINST]; found {pair!r}")
        if unknown := [name for name in pair if not isinstance(name, str) or name not in cells]:
            raise ConfigError(f"{where}compare.{question}: cell {unknown[0]!r} is not one of {', '.join(cells)}")
    if metric not in METRICS:
        raise ConfigError(f"{where}metric: {metric!r} is not one of {', '.join(METRICS)}")
    # Two looks share the chance of a false yes (`grcn.study.verdict`); a spread needs two seeds.
    whole = isinstance(looks, list) and all(type(look) is int and look >= 2 for look in looks)
    if not whole or len(looks) not in (1, 2) or looks != sorted(set(looks)):
        raise ConfigError(f"{where}looks {looks!r}: needs one or two numbers of seeds from 2, ascending")
    if len(seeds) != looks[-1]:
        raise ConfigError(f"{where}seeds: {len(seeds)} of them, but the last look is at {looks[-1]}; list as many")
    if type(margin) not in (int, float) or not 0 < margin < math.inf:
        raise ConfigError(f"{where}margin {margin!r}: needs points of 100, above 0")
    pairs = {question: (cell, against) for question, (cell, against) in compare.items()}
    return Decision(pairs, metric, tuple(looks), float(margin), sets, seeds)


def _load(path: Path, depth: int = 0) -> dict[str, Any]:
    """The keys and values of a study, on top of those of the files that it extends."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes: not a study")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file, nor a study of the package ({', '.join(shipped())})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected question, baseline, seeds, base, data and cells")
    others = content.pop("extends", [])
    others = [others] if isinstance(others, str) else others
    if not isinstance(others, list) or any(not isinstance(o, str) or Path(o).name != o for o in others):
        raise ConfigError(f"{path}: extends: needs names of files in the same folder, found {others!r}")
    if others and depth == MAX_DEPTH:
        raise ConfigError(f"{path}: extends: more than {MAX_DEPTH} files deep, or in a circle")
    whole: dict[str, Any] = {}
    for layer in [*(_load(path.with_name(other), depth + 1) for other in others), content]:
        whole = merged(whole, layer)
    return whole


def _named(where: str, content: dict[str, Any], key: str) -> dict[str, Any]:
    """A mapping from names, which can be used as file names, to mappings."""
    values = content.get(key)
    if not isinstance(values, dict) or not values:
        raise ConfigError(f"{where}{key}: needs at least one, by name")
    for name, value in values.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"{where}{key}: name {name!r}: use letters, digits and _ . + - (in quotes if YAML takes it for "
                "something else)"
            )
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"{where}{key}.{name}: expected keys and values, found {value!r}")
    return {name: dict(value or {}) for name, value in values.items()}


def _source(where: str, name: str, values: dict[str, Any]) -> DataSource:
    known = ("path", "generate", "test_split", "config")
    if unknown := [key for key in values if key not in known]:
        raise ConfigError(f"{where}data.{name}: unknown key '{unknown[0]}'; a data set has {', '.join(known)}")
    for key, kind, wanted in (
        ("path", str, "text"),
        ("test_split", str, "text"),
        ("generate", dict, "keys and values"),
    ):
        if values.get(key) is not None and not isinstance(values[key], kind):
            raise ConfigError(f"{where}data.{name}.{key}: needs {wanted}, found {values[key]!r}")
    source = DataSource(**values)
    if bool(source.path) == (source.generate is not None):
        raise ConfigError(f"{where}data.{name}: needs either path or generate")
    try:
        digest(source.generate)
    except (TypeError, ValueError, RecursionError):  # a date, say, or keys of two kinds
        raise ConfigError(f"{where}data.{name}.generate: needs numbers and lists of them by name") from None
    return source


def _trial(
    where: str,
    data: str,
    cell: str,
    seed: int,
    source: DataSource,
    layers: list[Mapping[str, Any]],
    start: Trial | None,
) -> Trial:
    """The training run that the layers make. Later layers override earlier ones, and `model` starts from the preset."""
    fields = LEFT_OPEN
    for layer in layers:
        fields = merged(fields, layer)
    for name in ("data", "out", "seed", "resume", "minutes"):
        if name in fields:
            instead = "; use iterations" if name == "minutes" else ""
            raise ConfigError(f"{where}'{name}' cannot be set by a study{instead}")
    try:
        config = train_config({**fields, "data": "", "seed": seed, "resume": True})
        config = replace(config, model=detector_of(config))
    except GrcnError as error:
        raise ConfigError(f"{where}{error}") from None
    usual = from_dict(TrainConfig, {**LEFT_OPEN, "data": ""})
    learned = {k: v for k, v in non_defaults(config, usual).items() if k not in NOT_OF_THE_RESULT}
    scored = {k: v for k, v in non_defaults(source).items() if k == "test_split"}
    if source.generate is not None:
        scored["generate"] = _non_default_arguments(source.generate)
    started = {"start": start.digest} if start else {}
    return Trial(data, cell, seed, config, digest({"config": learned, **scored, **started}), start)


def _non_default_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `grcn.scenes.generate.generate` that are not at their default. Lists count as tuples."""
    from grcn.scenes.generate import generate

    defaults = {name: parameter.default for name, parameter in signature(generate).parameters.items()}
    return {
        name: value
        for name, value in given.items()
        if name not in defaults or (tuple(value) if isinstance(value, list) else value) != defaults[name]
    }


def digest(content: Any) -> str:
    """Twelve characters that identify JSON-ready content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
