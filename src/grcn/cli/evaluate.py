"""`grcn evaluate` and `grcn gap`: compare a detector, or results of any tool, with annotations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from grcn.cli.common import (
    add_data_options,
    add_device_options,
    print_json,
    progress_bar,
    read_detections,
    say,
    say_letters,
)
from grcn.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from grcn.cli.parser import Options
    from grcn.config import ScoreChoice
    from grcn.data.dataset import Dataset
    from grcn.evaluation.errors import PhotoErrors
    from grcn.thresholds import Thresholds
    from grcn.types import Array, Detections


def evaluate(argv: Sequence[str]) -> int:
    options = _read_options(argv)
    _check_evaluate(options)

    from grcn.evaluation import evaluate
    from grcn.files import check_folder, write_json
    from grcn.predict.results import coco_results, save_fiftyone
    from grcn.reports.metrics import print_metrics, write_report
    from grcn.reports.worst import write_worst

    if options.out is not None:
        check_folder(options.out)
    weights = _Weights(options.run) if "thresholds" in options.save else None
    is_run = options.run is not None
    dataset, detections, given = read_detections(options.run or options.predictions, options, is_run=is_run)
    if options.out is not None:  # first, because nothing else took as long
        write_json(Path(options.out, "results.json"), coco_results(detections, dataset))
    targets, names, iou = [record.target for record in dataset.records], dataset.class_names, options.iou[0]
    metrics = evaluate(detections, targets, names, iou=options.iou)
    metrics = {"data": dataset.root.name, "split": dataset.split, **metrics}
    scored = _measure_scores(dataset, detections, given, options)
    metrics |= scored.sections
    if options.out is not None:
        metrics["worst"] = write_worst(Path(options.out), dataset, scored.photos, options.worst, say)
    if options.json:
        print_json(metrics)
    else:
        from rich.console import Console

        print_metrics(metrics, Console())
    if options.out is not None:
        out = Path(options.out)
        say_letters(names)
        write_report(
            out, metrics, detections, targets, names, score=scored.least, iou=iou, scores_in_words=scored.in_words
        )
        if "fiftyone" in options.save:
            save_fiftyone(out / "fiftyone", detections, dataset)
        say(f"{out}: metrics.json, results.json, pictures of curves, confusions, reliability and the worst photos")
    if weights is not None:
        weights.save(scored.chosen, dataset)
    return 0


def _read_options(argv: Sequence[str]) -> Options:
    from grcn.cli.parser import Parser
    from grcn.config import Score

    parser = Parser(
        "evaluate",
        "(RUN | --predictions FILE) --data DIR [options]",
        "Scores a detector, or COCO results from any tool, against labels by the COCO and VOC rules. Also chooses "
        "score thresholds and measures how reliable the scores are. A detector is scored on its detections from score "
        "0.05 on, so write results with `grcn predict --score 0.05` to compare.",
        "grcn evaluate runs/photos --data photos --split test --out report\n"
        "grcn evaluate runs/photos --data photos --split val --save thresholds\n"
        "grcn evaluate --predictions results.json --data photos",
    )
    look = parser.add_argument_group("what to score (RUN or --predictions)")
    look.add_argument("run", nargs="?", type=str, metavar="RUN", help="run folder, .safetensors file or exported file")
    look.add_argument("--predictions", type=str, metavar="FILE", help="COCO results file; default: RUN is scored")
    add_data_options(parser, split="test")
    measures = parser.add_argument_group("measures")
    measures.add_argument(
        "--iou",
        nargs="+",
        type=float,
        default=[0.5, 0.7],
        metavar="IOU",
        help="IoU thresholds of the VOC metrics; the first one is also used for thresholds, calibration and errors",
    )
    measures.add_argument("--precision", type=float, default=0.9, help="precision that the `precise` thresholds reach")
    measures.add_argument(
        "--score",
        type=Score,
        default="best",
        metavar="SCORE",
        help="count and draw errors from this score on: a number, or best (highest F1) or precise for the threshold of "
        "each class, as stored in RUN, otherwise as chosen on this split",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=str, metavar="DIR", help="folder for metrics.json, results.json and pictures; default: none"
    )
    output.add_argument("--worst", type=int, default=12, help="number of photos with the most errors to draw in --out")
    output.add_argument(
        "--save",
        nargs="+",
        choices=("fiftyone", "thresholds"),
        default=[],
        help="fiftyone: also write a FiftyOne data set to --out; thresholds: store the chosen thresholds in the "
        "weights file of RUN, for `grcn predict --score best`; default: none",
    )
    output.add_argument("--json", action="store_true", help="print metrics.json instead of tables")
    add_device_options(parser)
    return parser.read(argv)


def _check_evaluate(options: Any) -> None:
    """Raises ConfigError on options that cannot be combined."""
    from grcn.thresholds import check_precision, check_score

    if "fiftyone" in options.save and options.out is None:
        raise ConfigError("evaluate: --save fiftyone needs --out DIR")
    if (options.run is None) == (options.predictions is None):
        raise ConfigError("evaluate: needs either RUN or --predictions FILE")
    if "thresholds" in options.save and options.run is None:
        raise ConfigError(
            "evaluate: --save thresholds needs RUN; for a results file, --out writes the thresholds to metrics.json"
        )
    if "thresholds" in options.save and options.split == "auto":
        raise ConfigError(
            "evaluate: --save thresholds needs --split; choose thresholds on the validation split (--split val), so "
            "that later results on the test split are not too good"
        )
    if options.worst < 0:
        raise ConfigError(f"worst {options.worst}: needs 0 or more")
    check_precision(options.precision)
    if options.run is not None or isinstance(options.score, str):
        check_score(options.score)
    elif not math.isfinite(options.score):
        raise ConfigError(f"score {options.score}: needs a number")


class _Scored(NamedTuple):
    """Results on scores: sections of metrics.json, the chosen thresholds, the scores from which errors are counted, and
    the errors of each photo."""

    sections: dict[str, Any]
    chosen: Thresholds | None
    least: float | Array
    in_words: str
    photos: list[PhotoErrors]


def _measure_scores(
    dataset: Dataset, detections: Sequence[Detections], given: Thresholds | None, options: Any
) -> _Scored:
    from grcn.evaluation.calibration import measure_calibration
    from grcn.evaluation.confusion import confusion_json, confusion_matrix
    from grcn.evaluation.errors import count_errors, find_photo_errors
    from grcn.evaluation.thresholds import choose_thresholds, lowest_scores, measure_thresholds
    from grcn.evaluation.voc import match_voc

    targets, names, iou = [record.target for record in dataset.records], dataset.class_names, options.iou[0]
    matches = match_voc(targets, detections, len(names), iou=[iou])
    section = measure_thresholds(matches, names, precision=options.precision, given=given)
    least, in_words = options.score, f"score ≥ {options.score}"
    if isinstance(options.score, str):
        choice: ScoreChoice = options.score  # type: ignore[assignment]  # checked
        own = lowest_scores(section, choice)
        least = given.of(choice) if given else 0.5 if own is None else own
        what = "best F1" if choice == "best" else f"precision {(given or options).precision:g}"
        where = f"{given.data}, {given.split}" if given else "this split"
        in_words = f"each class's score of {what} on {where}"
    matrix = confusion_matrix(targets, detections, len(names), score=least, iou=iou)
    photos = [find_photo_errors(t, d.above(least), iou=iou) for t, d in zip(targets, detections, strict=True)]
    at = {"scores": in_words, "iou": iou}
    sections = {
        "thresholds": section,
        "calibration": measure_calibration(matches, names, given),
        "errors": {**at, **count_errors(photos)},
        "confusion": {**at, **confusion_json(matrix, names)},
    }
    chosen = choose_thresholds(matches, names, data=dataset.root.name, split=dataset.split, precision=options.precision)
    return _Scored(sections, chosen, least, in_words, photos)


class _Weights:
    """The weights file of a run, to store thresholds in its header.

    Args:
        run: the run, as on the command line.

    Raises:
        ConfigError: if it is not a weights file on this machine, outside the download cache.
    """

    def __init__(self, run: str) -> None:
        from grcn.files import check_file
        from grcn.predict.locate import locate

        located = locate(run)
        if located.kind != "weights" or located.fetched:
            kind = "a download in a cache" if located.fetched else f"not a weights file of grcn ({located.kind})"
            raise ConfigError(f"evaluate: --save thresholds writes into a .safetensors file of a run; {run} is {kind}")
        check_file(located.path)
        self.run, self.path, self.state = run, located.path, located.path.stat()

    def save(self, chosen: Thresholds | None, dataset: Dataset) -> None:
        """Writes the thresholds, unless a training has replaced the weights meanwhile."""
        from grcn.locks import MOMENT, locked
        from grcn.predict.checkpoint import add_to_header
        from grcn.thresholds import KEY

        if chosen is None:
            raise DataError(
                f"{self.path}: none of its detections in {dataset.root} ({dataset.split}) is right, so no "
                "thresholds can be chosen"
            )
        with locked(self.path.parent / ".lock", str(self.path.parent), patience=MOMENT, remedy="wait until it ends"):
            now = self.path.stat()
            if (now.st_mtime_ns, now.st_size) != (self.state.st_mtime_ns, self.state.st_size):
                raise CheckpointError(f"{self.path}: has changed since it was evaluated; evaluate it again")
            add_to_header(self.path, {KEY: chosen.to_json()})
        say(f"{self.path}: its header has the thresholds and the temperature; `grcn predict --score best` uses them")


def gap(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "gap",
        "SOURCE... --data DIR [options]",
        "Measures what wrong classes and what loose boxes each cost a detector: the AP if either were corrected, the "
        "shares of errors (as in TIDE), and how tight the boxes are. A SOURCE is a run folder, a .safetensors file or "
        "COCO results (.json, or the .jsonl of `grcn predict`). With several sources, the report has the differences "
        "to the first one, with confidence intervals.",
        "grcn gap runs/c4 runs/grcn --data photos --out report\ngrcn gap results.json --data photos",
    )
    look = parser.add_argument_group("what to compare")
    look.add_argument("sources", nargs="+", type=str, metavar="SOURCE", help="run folder, .safetensors or .json file")
    add_data_options(parser, split="test")
    measures = parser.add_argument_group("measures")
    measures.add_argument(
        "--iou",
        type=float,
        default=0.5,
        help="lowest IoU at which a box is right, for the error shares: 0.5, 0.55 ... 0.95",
    )
    measures.add_argument(
        "--resamples", type=int, default=1000, help="bootstrap samples for the confidence intervals; 0: no intervals"
    )
    measures.add_argument("--seed", type=int, default=0, help="random seed for the bootstrap")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=str, metavar="DIR", help="folder for gap.html and gap.json; default: none")
    output.add_argument("--json", action="store_true", help="print gap.json instead of a table")
    add_device_options(parser)
    options = parser.read(argv)

    from grcn.evaluation.coco import IOU

    if options.iou not in IOU:
        raise ConfigError(f"iou {options.iou:g}: use one of COCO's ten, 0.5, 0.55, ... 0.95")
    if options.resamples < 0 or options.seed < 0:
        raise ConfigError(f"resamples {options.resamples} and seed {options.seed}: need 0 or more")

    from grcn.evaluation.gap import bootstrap, measure_gap
    from grcn.files import atomic_file, check_folder, write_json
    from grcn.reports.gap import label, page_and_json, print_gaps

    if options.out is not None:
        check_folder(options.out)
    names, gaps, counts = label(options.sources), [], []
    class_names: tuple[str, ...] | None = None  # the first source's; the others must have the same
    for source in options.sources:
        is_run = not source.lower().endswith((".json", ".jsonl"))
        dataset, detections, _ = read_detections(source, options, is_run=is_run, class_names=class_names)
        class_names = dataset.class_names
        targets = [record.target for record in dataset.records]
        gaps.append(measure_gap(targets, detections, class_names, iou=options.iou))
        counts.append(sum(map(len, detections)))
    intervals = None
    if options.resamples:
        with progress_bar("drawing images for the intervals") as progress:
            intervals = bootstrap(gaps, resamples=options.resamples, seed=options.seed, progress=progress)
    title = f"{dataset.root.name}, {dataset.split}"
    page, content = page_and_json(names, gaps, intervals, counts, title)
    if options.json:
        print_json(content)
    else:
        print_gaps(names, gaps, intervals)
    if options.out is not None:
        out = Path(options.out)
        with atomic_file(out / "gap.html") as file:
            file.write(page.encode("utf-8", "backslashreplace"))
        write_json(out / "gap.json", content, indent=2)
        say(f"{out}: gap.html, gap.json")
    return 0
