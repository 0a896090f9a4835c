"""The tables and plots of a study: mean and spread over seeds, and differences to the baseline from paired seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grcn.config import DetectorConfig
from grcn.errors import DataError
from grcn.files import atomic_file
from grcn.palette import PALETTE
from grcn.presets import detector_of
from grcn.study.plan import METRICS, Decision, Study, Trial
from grcn.study.run import read_result
from grcn.study.verdict import LEVEL, MARGIN_LEVEL, Scores, half_over_photos, judge, pooled_gain
from grcn.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from grcn.model.summary import DetectorSummary

KEYS = ("AP50", "AP70", "AP")


@dataclass(frozen=True)
class Difference:
    """A cell's mean difference to the baseline, over the seeds that both have.

    Args:
        mean: mean of the differences.
        low: lower end of the 95% confidence interval (Student's t); NaN with fewer than two seeds.
        high: upper end.
        seeds: number of seeds.
    """

    mean: float
    low: float
    high: float
    seeds: int


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """The mean of `values - baseline`, pair by pair, and its 95% confidence interval.

    >>> paired_difference([0.5, 0.6, 0.7], [0.4, 0.5, 0.6])  # doctest: +ELLIPSIS
    Difference(mean=0.0999..., low=0.0999..., high=0.0999..., seeds=3)
    """
    from scipy.stats import t

    differences = np.subtract(values, baseline)
    n = len(differences)
    if n == 0:
        return Difference(np.nan, np.nan, np.nan, 0)
    mean = float(differences.mean())
    if n == 1:
        return Difference(mean, np.nan, np.nan, 1)
    half = float(t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    return Difference(mean, mean - half, mean + half, n)


def write_tables(study: Study, out: str | Path) -> list[Path]:
    """Writes `OUT/NAME/table.md`, `trials.csv` and, for each data set, `DATA.png`, from the results that are there.

    Args:
        study: the study.
        out: the folder with its results.

    Returns:
        The files that were written.

    Raises:
        DataError: if no trial has a result.
        CheckpointError: on a file that is not a result, or a folder that cannot be written.
    """
    from matplotlib.figure import Figure

    out = Path(out)
    results = _results(study, out)
    if not results:
        raise DataError(f"{out}: no results of {study.name} there; run `grcn study run {study.name}` first")
    folder = out / study.name
    files: dict[Path, bytes] = {
        folder / "table.md": _markdown(study, results).encode(),
        folder / "trials.csv": _csv(results).encode(),
    }
    for data in study.sources:
        if done := {trial.cell for trial in results if trial.data == data}:
            figure = Figure(figsize=(11, max(3.6, 0.5 * len(done) + 1.5)), layout="constrained")
            differences, curves = figure.subplots(1, 2)
            _draw_differences(differences, study, results, data)
            _draw_curves(curves, study, results, data)
            figure.suptitle(f"{study.name}: {data}", fontsize=11)
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=120)
            files[folder / f"{data}.png"] = picture.getvalue()
    for path, content in files.items():
        with atomic_file(path) as file:
            file.write(content)
    return list(files)


def verdicts(study: Study, out: str | Path) -> list[str]:
    """A line for each question of a study: the answer, the gain and its interval, from the results so far.

    The list is empty for a study that does not say how it is judged.

    Raises:
        CheckpointError: on a file that is not a result.
    """
    if study.decision is None:
        return []
    table = verdict_table(study.decision, _results(study, Path(out)))[2:-1]
    head, _, *rows = ([cell.strip() for cell in row.replace("**", "").strip("|").split("|")] for row in table)
    return [f"{row[0]}: {row[-1]}; {head[1]}: {row[1]}, {head[2]}: {row[2]}; seeds: {row[-2]}" for row in rows]


Results = dict[Trial, dict[str, Any]]


def _results(study: Study, out: Path) -> Results:
    return {trial: result for trial in study.trials if (result := read_result(out, trial)) is not None}


def _of(results: Results, data: str, cell: str) -> dict[int, dict[str, Any]]:
    """The results of a cell on a data set, by seed."""
    return {t.seed: r for t, r in results.items() if (t.data, t.cell) == (data, cell)}


def _difference(own: dict[int, dict[str, Any]], base: dict[int, dict[str, Any]], key: str) -> Difference:
    seeds = [seed for seed in own if seed in base]
    return paired_difference(*([r[seed]["metrics"][key] or 0.0 for seed in seeds] for r in (own, base)))


def _markdown(study: Study, results: Results) -> str:
    lines = [f"# {study.name}", "", study.question, ""]
    if study.decision is not None:
        lines += verdict_table(study.decision, results)
    split = " or ".join(sorted({source.test_split for source in study.sources.values()}))
    lines += [
        f"`grcn study table {study.name}`. Points of 100 on the {split} split, last weights: mean ± standard deviation "
        "over seeds. Δ: difference to the cell in `vs`, mean over the seeds that both have, with its 95% confidence "
        "interval (Student's t); what an interval without zero says, and no more, is that chance alone would not do "
        "it. Lost to: the AP that mending the task would gain (`grcn gap`). ρ: Spearman's rank correlation of score "
        "and IoU, times 100, of the detections that hit at IoU 0.5. GMAC: for an image of the largest size.",
        "",
    ]
    head = ["cell", "seeds", *KEYS, "vs", "Δ AP70", "Δ AP", "lost to loc.", "lost to cls.", "ρ"]
    head += ["params, M", "GMAC", "iterations", "s / it"]
    for data in study.sources:
        lines += [f"## {data}", "", *_objects(results, data), _row(head), _row(["---"] * len(head))]
        done = [cell for cell in study.baselines if _of(results, data, cell)]
        lines += [_row(_cells(study, results, data, cell)) for cell in done]
        if missing := [f"`{cell}`" for cell in study.baselines if cell not in done]:
            lines += ["", f"Not run: {', '.join(missing)}."]
        lines += _origins(study, {t: r for t, r in results.items() if t.data == data})
        lines += _curve_table({cell: _curve(results, data, cell) for cell in done})
        if done:
            lines += ["", f"![differences and curves]({data}.png)"]
        lines.append("")
    return "\n".join(lines)


def verdict_table(decision: Decision, results: Results) -> list[str]:
    """A Markdown table with a row for each question of the study.

    The study is judged at the last look for which both cells have all seeds on every set. Results beyond that look are
    not read.
    """
    looks = " and ".join(map(str, decision.looks))
    level = round(100 * LEVEL[len(decision.looks)])
    others = [key for key in METRICS if key != decision.metric]
    whole = {question: _whole(decision, results, pair) for question, pair in decision.compare.items()}
    last = {question: max((n for n in decision.looks if all(whole[question][:n])), default=0) for question in whole}
    over_photos = {
        question: _over_photos(decision, results, pair, decision.seeds[: last[question]])
        for question, pair in decision.compare.items()
    }
    knows_photos = any(over_photos.values())
    head = ["question", f"gain, {decision.metric}", f"{level}% interval", *decision.sets]
    head += [f"gain, {key}" for key in others]
    head += [f"{level}% over photos, seeds"] * knows_photos + ["seeds", "verdict"]
    lines = [
        f"Decided on {decision.metric} by what the file says beforehand: judged at {looks} seeds of every set, with an "
        f"interval of {level}%. Yes: ahead on every set, and the interval excludes zero. No: the interval lies below "
        f"zero, or the {round(100 * MARGIN_LEVEL)}% interval within {decision.margin:g} of it. The gain is the mean "
        "over sets of the differences of means over seeds, not paired, with Satterthwaite's degrees of freedom. The "
        "intervals further below decide nothing."
        + " Over photos: half the width of the interval if other photos of the same kind were scored, from the seeds "
        "that recorded it." * knows_photos,
        "",
        _row(head),
        _row(["---"] * len(head)),
    ]
    for question, pair in decision.compare.items():
        look = last[question]
        named = f"{question} (`{pair[0]}` over `{pair[1]}`)"
        if not look:
            blanks = ["–"] * (2 + len(decision.sets) + len(others) + knows_photos)
            count = f"{sum(whole[question][: decision.looks[0]])} of {decision.looks[0]}"
            lines.append(_row([named, *blanks, count, f"open ({count} seeds)"]))
            continue
        scores = {key: _scores(decision, results, pair, decision.seeds[:look], key) for key in METRICS}
        verdict = judge(scores[decision.metric], len(decision.looks), decision.margin / 100)
        gain = verdict.gain
        interval = "unknown" if np.isnan(gain.low) else f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
        beside = [pooled_gain(list(scores[key].values()), LEVEL[len(decision.looks)]).mean for key in others]
        shown = [f"{100 * gain.mean:+.1f}", interval, *(f"{100 * value:+.1f}" for value in (*gain.each, *beside))]
        if knows_photos:
            shown.append(over_photos[question] or "–")
        count = f"{look} of {len(decision.seeds)}"
        lines.append(_row([named, *shown, count, f"**{verdict.answer}** ({verdict.reason})"]))
    return [*lines, ""]


def _whole(decision: Decision, results: Results, pair: tuple[str, str]) -> list[bool]:
    """For each planned seed, in order, whether both cells have a result on every set."""
    done = {(trial.data, trial.cell, trial.seed) for trial in results}
    return [all((data, cell, seed) in done for data in decision.sets for cell in pair) for seed in decision.seeds]


def _over_photos(decision: Decision, results: Results, pair: tuple[str, str], judged: Sequence[int]) -> str:
    """Half the interval over photos, and how many of the `judged` seeds recorded AP on samples of the photos for both
    cells on every set. Empty if none did, or if another metric decides."""
    known = {(t.data, t.cell, t.seed): r["resampled_AP"] for t, r in results.items() if "resampled_AP" in r}
    seeds = [s for s in judged if all((data, cell, s) in known for data in decision.sets for cell in pair)]
    if not seeds or decision.metric != "AP":
        return ""

    def drawn(data: str, cell: str) -> Array:
        return np.array([known[data, cell, seed] for seed in seeds], dtype=np.float64)

    sets = [(drawn(data, pair[0]), drawn(data, pair[1])) for data in decision.sets]
    return f"± {100 * half_over_photos(sets, LEVEL[len(decision.looks)]):.1f}, {len(seeds)}"


def _scores(
    decision: Decision, results: Results, pair: tuple[str, str], seeds: Sequence[int], key: str
) -> dict[str, Scores]:
    of = {(trial.data, trial.cell, trial.seed): result["metrics"][key] or 0.0 for trial, result in results.items()}
    own, base = ({data: [of[data, cell, seed] for seed in seeds] for data in decision.sets} for cell in pair)
    return {data: (own[data], base[data]) for data in decision.sets}


def _objects(results: Results, data: str) -> list[str]:
    """Lines on the median object of a data set in cells, and on the maps of a pyramid from which objects are read.

    Empty if no result has these figures.
    """
    known = [(t.cell, r["objects"]) for t, r in results.items() if t.data == data and "objects" in r]
    told = {objects["median"] for _, objects in known} - {None}
    if not told:
        return []
    cells = " or ".join(f"{median / 16:.1f}" for median in sorted(told))
    lines = [f"Median object of the training split: {cells} cells of stride 16.", ""]
    for cell, levels in {cell: objects["levels"] for cell, objects in known if "levels" in objects}.items():
        cls, loc = (" / ".join(f"{100 * share:.0f}" for share in levels[task]) for task in ("cls", "loc"))
        lines += [f"- `{cell}`: % of the objects by map, finest first: classification {cls}, localization {loc}."]
    return [*lines, ""] if lines[-1] else lines


def _cells(study: Study, results: Results, data: str, cell: str) -> list[str]:
    own, versus = _of(results, data, cell), study.baselines[cell]
    config = next(t.config for t in results if (t.data, t.cell) == (data, cell))
    summary = _summary(detector_of(config))
    gaps = [result["gap"] for result in own.values()]
    lost = [[gap["loses"]["AP"][task] or 0.0 for gap in gaps] for task in ("localization", "classification")]
    correlations = [gap["true_positives"]["rank_correlation"] for gap in gaps]  # None: too few hits for one
    base = _of(results, data, versus)
    against = (
        ["", "", ""]
        if cell == versus
        else [f"`{versus}`", *(_interval(_difference(own, base, key)) for key in ("AP70", "AP"))]
    )
    return [
        f"`{cell}`",
        str(len(own)),
        *(_spread([r["metrics"][key] or 0.0 for r in own.values()]) for key in KEYS),
        *against,
        *(_spread(values) for values in lost),
        "–" if None in correlations else _spread(correlations),
        f"{summary.parameters / 1e6:.1f}",
        f"{summary.macs / 1e9:.1f}",
        str(config.iterations),
        f"{np.median([r['seconds']['iteration'] or np.nan for r in own.values()]):.2f}",
    ]


@cache
def _summary(model: DetectorConfig) -> DetectorSummary:
    """Of an image of the largest size; kept, because counting takes a second and studies share their cells."""
    from grcn.model.summary import summarize

    return summarize(model, size=(model.input.short_side, model.input.long_side))


def _curve(results: Results, data: str, cell: str) -> dict[int, tuple[float, float]]:
    """AP70 and AP of a cell by iteration, as the mean over its seeds: those of training, on the validation split."""
    points: dict[int, list[tuple[float, float]]] = {}
    for result in _of(results, data, cell).values():
        for iteration, _, ap70, ap in result["curve"]:
            points.setdefault(iteration, []).append((ap70, ap))
    return {iteration: tuple(np.mean(values, axis=0)) for iteration, values in points.items()}


def _curve_table(curves: dict[str, dict[int, tuple[float, float]]]) -> list[str]:
    iterations = sorted({iteration for curve in curves.values() for iteration in curve})
    if not iterations:
        return []
    lines = ["", "AP70 / AP along training, mean over seeds:", ""]
    lines += [_row(["iteration", *map(str, iterations)]), _row(["---"] * (len(iterations) + 1))]
    for cell, curve in curves.items():
        shown = [f"{100 * curve[i][0]:.1f} / {100 * curve[i][1]:.1f}" if i in curve else "" for i in iterations]
        lines.append(_row([f"of `{cell}`", *shown]))
    return lines


def _origins(study: Study, results: Results) -> list[str]:
    """Lines on the commit, files and study file behind the results of a data set; by cell and seed if they differ."""
    said = " ".join(_origin(what, of, results) for what, of in (("Commit", _commit), ("Photos and labels", _photos)))
    lines = ["", said] if results else []
    if any("study" in result for result in results.values()):
        lines += ["", _origin("Study file", partial(_study_file, study), results)]
    return lines


def _origin(what: str, of: Callable[[dict[str, Any]], str], results: Results) -> str:
    found: dict[str, dict[str, list[int]]] = {}
    for trial, result in results.items():
        found.setdefault(of(result), {}).setdefault(trial.cell, []).append(trial.seed)
    if len(found) == 1:
        return f"{what}: {next(iter(found))}."
    parts = [
        f"{name} ({', '.join(f'`{cell}` {_listed(seeds)}' for cell, seeds in cells.items())})"
        for name, cells in found.items()
    ]
    return f"**{what}: mixed**, by cell and seed: {'; '.join(parts)}."


def _commit(result: dict[str, Any]) -> str:
    return str(result.get("commit", "unknown"))


def _photos(result: dict[str, Any]) -> str:
    """The fingerprint of the data set's files."""
    return str(result.get("fingerprints", {}).get("data", "unknown"))


def _study_file(study: Study, result: dict[str, Any]) -> str:
    """The study that made a result, and the digest of its file at that time."""
    made_by = result.get("study")
    if made_by is None:
        return "before digests"
    changed = made_by["name"] == study.name and made_by["digest"] != study.digest
    return f"{made_by['name']} {made_by['digest']}" + (
        f", which has changed since to {study.digest}" if changed else ""
    )


def _listed(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _spread(values: Sequence[float]) -> str:
    mean = f"{100 * np.mean(values):.1f}"
    return f"{mean} ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def _interval(difference: Difference) -> str:
    if difference.seeds == 0:
        return "–"
    if difference.seeds == 1:
        return f"{100 * difference.mean:+.1f} (one seed)"
    return f"{100 * difference.mean:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"


def _csv(results: Results) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = ("AP", "AP50", "AP70", "AP75", "APs", "APm", "APl")
    tasks = ("localization", "classification", "both")
    head = ["data", "cell", "seed", *metrics, *(f"AP_lost_to_{task}" for task in tasks)]
    writer.writerow([*head, "iterations", "seconds_per_iteration", "seconds", "digest", "commit", "photos_and_labels"])
    for trial, result in results.items():
        writer.writerow(
            [trial.data, trial.cell, trial.seed, *(result["metrics"][key] for key in metrics)]
            + [result["gap"]["loses"]["AP"][task] for task in tasks]
            + [trial.config.iterations, result["seconds"]["iteration"], result["seconds"]["all"], trial.digest]
            + [_commit(result), _photos(result)]
        )
    return text.getvalue()


def _draw_differences(axes: Axes, study: Study, results: Results, data: str) -> None:
    """Draws each cell's difference to its baseline: the seeds as dots, the interval as a bar."""
    of = {cell: _of(results, data, cell) for cell in study.baselines}
    cells = [cell for cell, versus in study.baselines.items() if cell != versus and of[cell].keys() & of[versus]]
    for k, (key, color) in enumerate(zip(("AP70", "AP"), PALETTE, strict=False)):
        for row, cell in enumerate(cells):
            own, base = of[cell], of[study.baselines[cell]]
            difference = _difference(own, base, key)
            at = row + (k - 0.5) * 0.3
            ends = [100 * difference.low, 100 * difference.high]
            if difference.seeds > 1:
                axes.plot(ends, [at, at], color=color, linewidth=2, alpha=0.5)
            each = [100 * _difference({s: own[s]}, base, key).mean for s in own if s in base]
            axes.plot(each, [at] * len(each), ".", color=color, markersize=5)
            label = f"Δ {key}" if row == 0 else None
            axes.plot([100 * difference.mean], [at], "os"[k], color=color, markersize=7, label=label)
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(cells)), [f"{cell}\nvs {study.baselines[cell]}" for cell in cells], fontsize=8)
    axes.set_ylim(max(len(cells), 1) - 0.5, -0.5)
    axes.set_xlabel("difference, points")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _draw_curves(axes: Axes, study: Study, results: Results, data: str) -> None:
    """Draws AP over iterations."""
    for i, cell in enumerate(study.baselines):
        if curve := _curve(results, data, cell):
            style = {"color": PALETTE[i % len(PALETTE)], "linestyle": ("-", "--", ":")[i // len(PALETTE) % 3]}
            axes.plot(list(curve), [100 * ap for _, ap in curve.values()], marker=".", label=cell, **style)  # type: ignore[arg-type]
    axes.set(xlabel="iteration", ylabel="AP", ylim=(0, None))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
