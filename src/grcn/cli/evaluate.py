"""`grcn evaluate` and `grcn gap`: a detector, or anyone's results, against annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grcn.cli.common import (
    add_data_options,
    add_device_options,
    print_json,
    progress_bar,
    read_detections,
    say,
    say_letters,
)
from grcn.errors import ConfigError


def evaluate(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "evaluate",
        "(RUN | --predictions FILE) --data DIR [options]",
        "Scores a detector, or anyone's COCO results file, by the COCO and VOC rules. AP counts on "
        "all that is found: a detector's own threshold is 0.05, so give `grcn predict` --score 0.05, not its 0.3.",
        "grcn evaluate runs/photos --data photos --split test --iou 0.5 0.7 --out report\n"
        "grcn evaluate --predictions results.json --data photos",
    )
    parser.add_argument("run", nargs="?", type=str, metavar="RUN", help="run folder, .safetensors or exported file")
    parser.add_argument("--predictions", type=str, metavar="FILE", help="COCO results to score instead of a run")
    add_data_options(parser, split="test")
    parser.add_argument("--iou", nargs="+", type=float, default=[0.5, 0.7], metavar="IOU", help="of the VOC figures")
    parser.add_argument("--out", type=str, help="folder for metrics.json, results.json and pictures of the curves")
    parser.add_argument("--save", choices=("fiftyone",), help="also write objects and detections for FiftyOne to --out")
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of a table")
    add_device_options(parser)
    options = parser.read(argv)
    if options.save and options.out is None:
        raise ConfigError(f"evaluate: --save {options.save} needs --out DIR")
    if (options.run is None) == (options.predictions is None):
        raise ConfigError("evaluate: needs either RUN or --predictions FILE")

    from grcn.evaluation import evaluate
    from grcn.files import check_folder, write_json
    from grcn.predict.results import coco_results, save_fiftyone
    from grcn.reports.metrics import print_metrics, write_report

    if options.out is not None:
        check_folder(options.out)
    dataset, detections = read_detections(options.run or options.predictions, options, is_run=options.run is not None)
    if options.out is not None:  # first of all, since nothing else took so long
        write_json(Path(options.out, "results.json"), coco_results(detections, dataset))
    targets = [record.target for record in dataset.records]
    metrics = evaluate(detections, targets, dataset.class_names, iou=options.iou)
    metrics = {"data": dataset.root.name, "split": dataset.split, **metrics}
    if options.json:
        print_json(metrics)
    else:
        from rich.console import Console

        print_metrics(metrics, Console())
    if options.out is not None:
        out = Path(options.out)
        say_letters(dataset.class_names)
        write_report(out, metrics, detections, targets, dataset.class_names)
        if options.save:
            save_fiftyone(out / "fiftyone", detections, dataset)
        say(f"{out}: metrics.json, results.json, curves and confusion matrix")
    return 0


def gap(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "gap",
        "SOURCE... --data DIR [options]",
        "What classification and localization each cost a detector: AP with either task mended by an oracle, error "
        "shares as TIDE's, how tight its boxes are. SOURCE is a run folder, a .safetensors file, or COCO results "
        "(.json, predict's .jsonl). Several are put side by side, with intervals for their differences to the first.",
        "grcn gap runs/c4 runs/grcn --data photos --out report\ngrcn gap results.json --data photos",
    )
    parser.add_argument("sources", nargs="+", type=str, metavar="SOURCE", help="run folder, .safetensors or .json file")
    add_data_options(parser, split="test")
    parser.add_argument("--iou", type=float, default=0.5, help="of the error shares: 0.5, 0.55, ... 0.95")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap draws for the intervals; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--out", type=str, help="folder for gap.html and gap.json")
    parser.add_argument("--json", action="store_true", help="print gap.json instead of a table")
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
        dataset, detections = read_detections(source, options, is_run=is_run, class_names=class_names)
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
