"""The commands of `grcn`: each parses its words, does its job with the package's functions, and returns the exit code.

A command imports what it needs when it runs, after its words are read: `--help` and wrong words are answered at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grcn.errors import CheckpointError, ConfigError, DataError, ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from grcn.app.options import Parser
    from grcn.config import TrainConfig
    from grcn.data.dataset import Dataset
    from grcn.inference import Detector
    from grcn.types import Detections


def train(words: Sequence[str]) -> int:
    config = read_train_config(words)
    from grcn.training import train

    out = train(config)
    print(f"{out}: done; next: grcn evaluate {out} --data {config.data}")
    return 0


def read_train_config(words: Sequence[str]) -> TrainConfig:
    """The configuration of a `grcn train` command line; `--model.*` default to the chosen preset's values.

    Raises:
        ConfigError: on whatever is wrong with it.
    """
    from grcn.app.options import Parser
    from grcn.config import TrainConfig, from_dict, to_dict
    from grcn.presets import preset

    parser = Parser(
        "train",
        "--data DIR [--preset NAME] [--config FILE] [--KEY VALUE ...]",
        "Trains a detector on a folder of labelled images: PASCAL VOC, COCO, YOLO or Label Studio. The run folder gets "
        "weights, metrics, logs and the configuration, which --config takes again. `grcn models` lists the presets.",
        "grcn train --data photos --preset grcn_r18 --minutes 30 --out runs/photos\n"
        "grcn train --config run.yaml --model.cls_stride 16 --optim.lr 0.01\n"
        "grcn train --config runs/photos/config.yaml --resume true",
    )
    parser.add_class_arguments(TrainConfig)
    # Read twice: the preset, from the command line or the file, sets the defaults of the rest.
    chosen = parser.read([word for word in words if not word.startswith("--print_config")]).preset
    parser.set_defaults({"model": to_dict(preset(chosen))})
    values = parser.read(words).as_dict()
    del values["config"]
    return from_dict(TrainConfig, values)


def evaluate(words: Sequence[str]) -> int:
    from grcn.app.options import Parser

    parser = Parser(
        "evaluate",
        "(RUN | --predictions FILE) --data DIR [options]",
        "Scores a detector, or anyone's COCO results file, by the COCO and VOC rules. For results of `grcn predict`, "
        "which leaves out what it is less sure of than --score, predict with --score 0: AP counts on all of it.",
        "grcn evaluate runs/photos --data photos --split test --iou 0.5 0.7 --out report\n"
        "grcn evaluate --predictions results.json --data photos",
    )
    parser.add_argument("run", nargs="?", type=str, metavar="RUN", help="run folder, .safetensors or exported file")
    parser.add_argument("--predictions", type=str, metavar="FILE", help="COCO results to score instead of a run")
    _add_data_options(parser, split="test")
    parser.add_argument("--iou", nargs="+", type=float, default=[0.5, 0.7], metavar="IOU", help="of the VOC figures")
    parser.add_argument("--out", type=str, help="folder for metrics.json, results.json and pictures of the curves")
    parser.add_argument("--save", choices=("fiftyone",), help="also write objects and detections for FiftyOne to --out")
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of a table")
    _add_device_options(parser)
    options = parser.read(words)
    if options.save and options.out is None:
        raise ConfigError(f"evaluate: --save {options.save} needs --out DIR")
    if (options.run is None) == (options.predictions is None):
        raise ConfigError("evaluate: needs either RUN or --predictions FILE")

    from grcn.app.evaluate import coco_results, save_fiftyone
    from grcn.evaluation import evaluate, print_metrics, write_report

    dataset, detections = _detections(options.run or options.predictions, options, is_run=options.run is not None)
    targets = [record.target for record in dataset.records]
    metrics = evaluate(detections, targets, dataset.class_names, iou=options.iou)
    metrics = {"data": dataset.root.name, "split": dataset.split, **metrics}
    if options.json:
        _print_json(metrics)
    else:
        from rich.console import Console

        print_metrics(metrics, Console())
    if options.out is not None:
        out = Path(options.out)
        write_report(out, metrics, detections, targets, dataset.class_names)
        _write_json(out / "results.json", coco_results(detections, dataset))
        if options.save:
            save_fiftyone(out / "fiftyone", detections, dataset)
        _say(f"{out}: metrics.json, results.json, curves and confusion matrix")
    return 0


def gap(words: Sequence[str]) -> int:
    from grcn.app.options import Parser

    parser = Parser(
        "gap",
        "SOURCE... --data DIR [options]",
        "What classification and localization each cost a detector: AP with either task mended by an oracle, error "
        "shares as TIDE's, how tight its boxes are. SOURCE is a run folder, a .safetensors file, or COCO results "
        "(.json). Several are put side by side, with intervals for their differences to the first.",
        "grcn gap runs/c4 runs/grcn --data photos --out report\ngrcn gap results.json --data photos",
    )
    parser.add_argument("sources", nargs="+", type=str, metavar="SOURCE", help="run folder, .safetensors or .json file")
    _add_data_options(parser, split="test")
    parser.add_argument("--iou", type=float, default=0.5, help="of the error shares: 0.5, 0.55, ... 0.95")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap draws for the intervals; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--out", type=str, help="folder for gap.html and gap.json")
    parser.add_argument("--json", action="store_true", help="print gap.json instead of a table")
    _add_device_options(parser)
    options = parser.read(words)

    from grcn.evaluation.coco import IOU

    if options.iou not in IOU:
        raise ConfigError(f"iou {options.iou:g}: use one of COCO's ten, 0.5, 0.55, ... 0.95")
    if options.resamples < 0 or options.seed < 0:
        raise ConfigError(f"resamples {options.resamples} and seed {options.seed}: need 0 or more")

    from grcn.app.gap import label, page_and_json, print_gaps
    from grcn.evaluation.gap import bootstrap, measure_gap

    names, gaps, counts = label(options.sources), [], []
    class_names: tuple[str, ...] | None = None  # the first source's; the others must have the same
    for source in options.sources:
        is_run = not source.lower().endswith(".json")
        dataset, detections = _detections(source, options, is_run=is_run, class_names=class_names)
        class_names = dataset.class_names
        targets = [record.target for record in dataset.records]
        gaps.append(measure_gap(targets, detections, class_names, iou=options.iou))
        counts.append(sum(map(len, detections)))
    intervals = None
    if options.resamples:
        with _progress("drawing images for the intervals") as progress:
            intervals = bootstrap(gaps, resamples=options.resamples, seed=options.seed, progress=progress)
    title = f"{dataset.root.name}, {dataset.split}"
    page, content = page_and_json(names, gaps, intervals, counts, title)
    if options.json:
        _print_json(content)
    else:
        print_gaps(names, gaps, intervals)
    if options.out is not None:
        from grcn.files import atomic_file

        out = Path(options.out)
        for name, text in (("gap.html", page), ("gap.json", json.dumps(content, indent=2) + "\n")):
            with atomic_file(out / name) as file:
                file.write(text.encode())
        _say(f"{out}: gap.html, gap.json")
    return 0


def predict(words: Sequence[str]) -> int:
    from grcn.app.options import Parser

    parser = Parser(
        "predict",
        "RUN SOURCE... --out DIR [options]",
        "Finds objects in images, folders of images, glob patterns, videos, or an image from standard input (-). DIR "
        "gets the drawn pictures (drawn/), results.json (COCO) with images.json (what its ids mean), and frames/ with "
        "the detections in each frame of a video.",
        "grcn predict runs/photos holiday clip.mp4 'more/**/*.jpg' --out found --score 0.5 --save voc",
    )
    parser.add_argument("run", type=str, metavar="RUN", help="run folder, .safetensors or exported file")
    parser.add_argument("sources", nargs="+", type=str, metavar="SOURCE", help="image, folder, glob, video or -")
    parser.add_argument("--out", type=str, required=True, help="folder of results")
    parser.add_argument("--score", type=float, default=0.3, help="leave out detections below this")
    parser.add_argument(
        "--save",
        nargs="+",
        choices=("voc", "yolo", "labelstudio", "fiftyone"),
        default=[],
        help="also write labels to correct and train on",
    )
    _add_device_options(parser, batches=False)
    options = parser.read(words)
    if not 0 <= options.score <= 1:
        raise ConfigError(f"score {options.score}: needs 0..1")

    from grcn.app.sources import find_sources

    out = Path(options.out)
    sources, left_out = find_sources(options.sources, out)
    if left_out:
        names = ", ".join(map(str, left_out[:3])) + (", ..." if len(left_out) > 3 else "")
        _say(f"{len(left_out)} files are neither image nor video and are left out: {names}")
    detector = _load_detector(options.run, options)
    from grcn.app.predict import predict

    with _progress(f"detecting in {len(sources)} sources") as progress:
        summary = predict(
            detector,
            sources,
            out,
            score=options.score,
            save=options.save,
            on_broken=lambda error: _say(f"error: {error}"),
            progress=progress,
        )
    counts = ", ".join(f"{count} {name}" for name, count in summary.found.most_common()) or "nothing"
    frames = f" and {summary.frames} video frames" if summary.frames else ""
    print(f"{out}: {counts} in {summary.images} images{frames}")
    if summary.broken:
        raise ImageError(f"{len(summary.broken)} of {len(sources)} sources could not be read; the others are done")
    return 0


def export(words: Sequence[str]) -> int:
    from grcn.app.options import Parser

    parser = Parser(
        "export",
        "RUN --format onnx|openvino|torch [options]",
        "Writes a detector as one graph, from uint8 images of any size to boxes, scores and classes, with all that is "
        "needed to run it without torch. `grcn predict` and `grcn evaluate` take .onnx files and OpenVINO folders as "
        "they take runs.",
        "grcn export runs/photos --format onnx\n"
        "grcn export runs/photos --format openvino --int8 --data photos --out photos-int8",
    )
    parser.add_argument("run", type=str, metavar="RUN", help="run folder or .safetensors file")
    parser.add_argument("--format", choices=("onnx", "openvino", "torch"), required=True, help="of the file")
    parser.add_argument("--out", type=str, help="file, or folder for openvino; default: beside the weights")
    parser.add_argument("--half", action="store_true", help="store weights in 16 bits: half the size")
    parser.add_argument("--int8", action="store_true", help="quantize: faster, a quarter of the size; needs --data")
    parser.add_argument("--data", type=str, metavar="DIR", help="data set whose images --int8 is calibrated on")
    parser.add_argument("--split", type=str, default="auto", help="auto: the train split by its usual name")
    _add_format_option(parser, "--data_format")
    parser.add_argument("--images", type=int, default=100, help="images of it that are used")
    parser.add_argument("--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="take images of this size alone")
    parser.add_argument("--dynamic", action="store_true", help="take images of any size: so it is without --size, too")
    options = parser.read(words)
    if options.int8 != (options.data is not None):
        raise ConfigError("export: --int8 and --data DIR go together")
    if options.dynamic and options.size:
        raise ConfigError("export: --dynamic and --size: choose one")
    if options.size and min(options.size) < 1:
        raise ConfigError(f"size {options.size}: needs positive numbers of pixels")
    if options.images < 1:
        raise ConfigError(f"images {options.images}: needs at least 1")

    from grcn.deploy.export import export
    from grcn.model.weights import find_weights, load_detector

    weights = find_weights(Path(options.run))
    out = Path(options.out or weights.with_name(_export_name(options)))
    images = _calibration_images(options) if options.int8 else []
    size = tuple(options.size) if options.size else None
    export(load_detector(weights), out, options.format, size=size, half=options.half, calibration=images)
    files = [out] if out.is_file() else list(out.iterdir())
    print(f"{out}: {sum(file.stat().st_size for file in files) / 1e6:.0f} MB")
    if options.format != "torch":
        print(f"next: grcn predict {out} photos --out found")
    return 0


def _export_name(options: Any) -> str:
    kind = "-int8" if options.int8 else "-half" if options.half else ""
    return {"onnx": f"model{kind}.onnx", "openvino": f"openvino{kind}", "torch": f"model{kind}.pt2"}[options.format]


def _calibration_images(options: Any) -> list[NDArray[np.uint8]]:
    """So many images of the data set, evenly spaced over it."""
    from grcn.data.dataset import open_dataset, resolve_split
    from grcn.data.image import read_image

    split = resolve_split(options.data, options.split, "train", options.data_format)
    records = open_dataset(options.data, split=split, format=options.data_format).records
    count = min(options.images, len(records))
    return [read_image(records[i * len(records) // count].path) for i in range(count)]


def check(words: Sequence[str]) -> int:
    from grcn.app.options import Parser

    parser = Parser(
        "check",
        "DIR [options]",
        "Looks through a data set before anything trains: images, classes, boxes, splits, defects, and what the "
        "objects' sizes mean for a detector. The exit code is that of the worst defect.",
        "grcn check photos",
    )
    parser.add_argument("data", type=str, metavar="DIR", help="folder of the data set")
    parser.add_argument("--split", nargs="+", type=str, metavar="NAME", help="splits to look at; default: all")
    _add_format_option(parser)
    parser.add_argument("--preset", type=str, default="grcn_r50", help="the detector to measure the sizes for")
    parser.add_argument("--short_side", type=int, help="input size to measure for; default: the preset's")
    parser.add_argument("--long_side", type=int, help="cap on the longer side; default: the preset's")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.read(words)

    from grcn.data.check import check_dataset, render
    from grcn.presets import preset

    config = preset(options.preset)
    with _progress(f"reading {options.data}") as progress:
        report = check_dataset(
            options.data,
            format=options.format,
            splits=options.split,
            config=config,
            short_side=options.short_side,
            long_side=options.long_side,
            progress=progress,
        )
    if options.json:
        _print_json(report.to_dict())
    else:
        render(report)
    return report.exit_code


def models(words: Sequence[str]) -> int:
    from grcn.app.options import Parser

    parser = Parser(
        "models",
        "[NAME] [options]",
        "Lists the presets with their parameters, multiply-adds and strides; with NAME, one stage by stage: which map "
        "each task sees.",
        "grcn models\ngrcn models grcn_r50",
    )
    parser.add_argument("name", nargs="?", type=str, metavar="NAME", help="a preset")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.read(words)

    from grcn.app.models import print_model, print_models
    from grcn.model.summary import summarize
    from grcn.presets import PRESETS

    summaries = {name: summarize(name) for name in ([options.name] if options.name else PRESETS)}
    if options.json:
        _print_json({name: summary.to_dict() for name, summary in summaries.items()})
    elif options.name:
        print_model(options.name, summaries[options.name])
    else:
        print_models(summaries)
    return 0


def data_generate(words: Sequence[str]) -> int:
    from grcn.app.options import Parser

    parser = Parser(
        "data generate",
        "OUT [options]",
        "Writes the embedded data set, rendered scenes with six classes, as a VOC folder; the same arguments give the "
        "same files.",
        "grcn data generate beach --images 400 --seed 0",
    )
    parser.add_argument("out", type=str, metavar="OUT", help="folder to make")
    parser.add_argument("--images", type=int, default=300, help="60% train, 15% val, 25% test")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--size", nargs=2, type=int, default=[640, 480], metavar=("WIDTH", "HEIGHT"), help="in pixels")
    options = parser.read(words)
    from grcn.data.generate import generate

    with _progress(f"rendering {options.out}") as progress:
        out = generate(
            options.out, images=options.images, seed=options.seed, size=tuple(options.size), progress=progress
        )
    print(f"{out}: {options.images} images; next: grcn check {out}")
    return 0


def data_download(words: Sequence[str]) -> int:
    from grcn.app.options import Parser

    parser = Parser(
        "data download",
        "NAME --out DIR [options]",
        "Fetches a public data set (voc2007, voc2012, coco2017) from its official address. Interrupted, the same "
        "command continues.",
        "grcn data download voc2007 --out voc2007",
    )
    parser.add_argument("name", type=str, metavar="NAME", help="voc2007, voc2012 or coco2017")
    parser.add_argument("--out", type=str, required=True, help="folder to make")
    parser.add_argument("--base_url", type=str, help="a mirror that holds the archives under their own names")
    parser.add_argument("--keep_archives", action="store_true", help="keep the archives after unpacking")
    options = parser.read(words)
    from grcn.data.download import download

    with _progress("") as progress:
        out = download(
            options.name,
            options.out,
            base_url=options.base_url,
            keep_archives=options.keep_archives,
            progress=lambda what, done, total: progress(done, total, what),
        )
    print(f"{out}: done; next: grcn check {out}")
    return 0


def study_run(words: Sequence[str]) -> int:
    from grcn.app.options import Parser

    parser = Parser(
        "study run",
        "FILE [options]",
        "Trains and scores every detector, data set and seed of a study; what is done is skipped, so the same command "
        "continues. FILE is a study's YAML file or the name of one that comes with the package.",
        "grcn study run context --data embedded --out studies\ngrcn study run mine.yaml --root datasets --engine ray",
    )
    _add_study_options(parser)
    parser.add_argument("--cells", nargs="+", type=str, metavar="NAME", help="detectors of the study; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="seeds of the study; default: all")
    parser.add_argument("--root", type=str, default=".", help="folder below which the study's data sets lie")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: trials in parallel")
    parser.add_argument("--address", type=str, default="", help="of a Ray cluster; default: one on this machine")
    parser.add_argument("--cpus", type=float, default=1.0, help="cores of a trial on Ray")
    parser.add_argument("--gpus", type=float, default=0.0, help="devices of a trial on Ray")
    parser.add_argument("--keep_runs", action="store_true", help="keep the run folders, with weights")
    options = parser.read(words)
    from grcn.study import read_study, run_study
    from grcn.study.run import Resources

    study = read_study(options.file).only(options.data, options.cells, options.seeds)
    run_study(
        study,
        options.out,
        root=options.root,
        engine=options.engine,
        resources=Resources(options.address, options.cpus, options.gpus),
        keep_runs=options.keep_runs,
        say=lambda line: print(line, flush=True),
    )
    print(f"{options.out}: done; next: grcn study table {options.file} --out {options.out}")
    return 0


def study_table(words: Sequence[str]) -> int:
    from grcn.app.options import Parser

    parser = Parser(
        "study table",
        "FILE [options]",
        "Writes a study's tables (Markdown, CSV) and plots from the results that are there: mean and spread over "
        "seeds, differences to the baseline with intervals from paired seeds.",
        "grcn study table context --out studies",
    )
    _add_study_options(parser)
    options = parser.read(words)
    from grcn.study import read_study, write_tables

    for path in write_tables(read_study(options.file).only(options.data), options.out):
        print(path)
    return 0


def _add_study_options(parser: Parser) -> None:
    parser.add_argument("file", type=str, metavar="FILE", help="YAML file, or the name of a study of the package")
    parser.add_argument("--data", nargs="+", type=str, metavar="NAME", help="data sets of the study; default: all")
    parser.add_argument("--out", type=str, default="studies", help="folder of results, which studies may share")


def demo(words: Sequence[str]) -> int:
    from grcn.app.options import Parser

    parser = Parser(
        "demo",
        "[RUN [OTHER]] [options]",
        "Without RUN: the main job from start to end on the embedded data set: renders it, trains a small G-RCN and a "
        "Faster R-CNN (C4) for the same time, measures both and draws what the better one finds. With RUN: a page on "
        "this machine to try that detector in a browser, on photos or the webcam; with OTHER two side by side.",
        "grcn demo\ngrcn demo demo/runs/grcn_r18 demo/runs/faster_rcnn_r18_c4",
    )
    parser.add_argument(
        "run", nargs="?", type=str, metavar="RUN", help="run folder, .safetensors or exported file to try"
    )
    parser.add_argument("other", nargs="?", type=str, metavar="OTHER", help="another, beside it")
    parser.add_argument("--out", type=str, default="demo", help="without RUN: folder for data, runs and pictures")
    parser.add_argument("--minutes", type=float, default=4.0, help="without RUN: training time of each detector")
    parser.add_argument("--port", type=int, help="of the page; default: the first free one from 7860")
    _add_device_options(parser, batches=False)
    options = parser.read(words)
    if not options.minutes > 0:
        raise ConfigError(f"minutes {options.minutes}: needs more than 0")
    if options.port is not None and not 1 <= options.port <= 65535:
        raise ConfigError(f"port {options.port}: needs 1..65535")
    if options.run is not None:
        return _demo_page(options)
    from grcn.app.demo import demo

    demo(Path(options.out), minutes=options.minutes, progress=_progress)
    return 0


def _demo_page(options: Any) -> int:
    sources = [source for source in (options.run, options.other) if source is not None]
    for source in sources:
        if not (Path(source).exists() or source.startswith("hf://")):
            raise CheckpointError(f"{source}: no such run folder or file; `grcn demo` without RUN trains two to try")
    from grcn.app.gap import label
    from grcn.app.page import open_page

    names = label(sources)
    open_page(
        {name: _load_detector(source, options) for name, source in zip(names, sources, strict=True)}, options.port
    )
    return 0


def serve(words: Sequence[str]) -> int:
    from grcn.app.options import Parser
    from grcn.config import ServeLimits

    parser = Parser(
        "serve",
        "RUN [options]",
        "Answers over HTTP: POST a photo to /predict and get its objects as JSON; GET /healthz tells what answers, "
        "/openapi.json describes it all. SIGTERM or Ctrl-C: takes no more, answers what it has taken, ends.",
        "grcn serve runs/photos --port 8000\ncurl -F image=@holiday.jpg -F score=0.5 http://127.0.0.1:8000/predict",
    )
    parser.add_argument("run", type=str, metavar="RUN", help="run folder or file of a detector, as for predict")
    parser.add_argument(
        "--host", type=str, default="127.0.0.1", help="address to listen on; default: this machine only"
    )
    parser.add_argument("--port", type=int, default=8000, help="0: a free one")
    parser.add_class_arguments(ServeLimits)
    _add_device_options(parser, batches=False)
    options = parser.read(words)
    limits = ServeLimits(**{field.name: options[field.name] for field in fields(ServeLimits)})
    try:
        from grcn.app.serve import serve
    except ModuleNotFoundError as error:
        raise ConfigError(f"serve needs {error.name}: pip install 'grcn[serve]'") from None

    serve(_load_detector(options.run, options), options.host, options.port, limits, _say)
    return 0


def push(words: Sequence[str]) -> int:
    from grcn.app.options import Parser

    parser = Parser(
        "push",
        "RUN REPO [options]",
        "Uploads a detector to the Hugging Face Hub: weights, a model card filled from the run, and its configuration "
        "without paths. `hf://REPO` then stands for it wherever a run is asked for. Log in with `hf auth login`.",
        "grcn push runs/photos user/photos --private --license apache-2.0 --metrics report/metrics.json\n"
        "grcn predict hf://user/photos holiday --out found",
    )
    parser.add_argument("run", type=str, metavar="RUN", help="run folder or .safetensors file")
    parser.add_argument("repo", type=str, metavar="REPO", help="user/name, made where absent")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--license", type=str, help="for the model card, such as apache-2.0; default: none is named")
    parser.add_argument("--half", action="store_true", help="weights in float16: half the size, slightly other boxes")
    parser.add_argument(
        "--metrics", type=str, metavar="FILE", help="metrics.json of `grcn evaluate`, for the model card"
    )
    parser.add_argument("--message", type=str, default="Detector of grcn", help="of the commit")
    options = parser.read(words)
    metrics = _read_metrics(Path(options.metrics)) if options.metrics else None

    from grcn.inference import Detector

    detector = Detector.load(options.run, device="cpu", optimize="none")
    address = detector.push_to_hub(
        options.repo,
        private=options.private,
        license=options.license,
        half=options.half,
        metrics=metrics,
        message=options.message,
    )
    print(f"{address}: done; next: grcn predict hf://{options.repo} photos --out found")
    return 0


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(metrics, dict) or not {"data", "split", "AP"} <= metrics.keys():
        raise DataError(f"{path}: not the metrics.json that `grcn evaluate --out` writes")
    return metrics


def _add_data_options(parser: Parser, split: str) -> None:
    parser.add_argument("--data", type=str, required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument("--split", type=str, default="auto", help=f"auto: the {split} split by its usual name")
    _add_format_option(parser)


def _add_format_option(parser: Parser, name: str = "--format") -> None:
    formats = ("auto", "voc", "coco", "yolo", "labelstudio")
    parser.add_argument(name, choices=formats, default="auto", help="of the annotations")


def _add_device_options(parser: Parser, batches: bool = True) -> None:
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--optimize",
        choices=("fold", "bf16", "none"),
        default="fold",
        help="fold: batch norm inside the convolutions, the same detections in less time; bf16: weights in bfloat16 as "
        "well, slightly other detections; none: the network as trained",
    )
    if batches:
        parser.add_argument("--batch_size", type=int, default=1, help="images at a time")


def _load_detector(source: str, options: Any) -> Detector:
    from grcn.inference import Detector
    from grcn.runtime import tune_cpu

    tune_cpu()
    detector = Detector.load(source, device=options.device, optimize=options.optimize)
    _say(f"{source}: {detector.preset or 'detector'} on {detector.device}, optimize {options.optimize}")
    return detector


def _detections(
    source: str, options: Any, *, is_run: bool, class_names: Sequence[str] | None = None
) -> tuple[Dataset, list[Detections]]:
    """The data set that the options name, and what a run or a results file found in it.

    Args:
        source: run folder or weights, or a COCO results file.
        options: with `data`, `split`, `format` and, for a run, those of its device.
        is_run: which of them `source` is.
        class_names: that the data set must be opened with; None: the source's own.
    """
    from grcn.app.evaluate import KEY, load_own_results, read_key
    from grcn.data.dataset import open_dataset, resolve_split
    from grcn.evaluation import evaluate_detector, load_results

    split = resolve_split(options.data, options.split, "test", options.format)

    def open_with(own: Sequence[str] | None) -> Dataset:
        dataset = open_dataset(options.data, split=split, format=options.format, class_names=class_names or own)
        _tell_defects(dataset)
        return dataset

    if is_run:
        detector = _load_detector(source, options)
        dataset = open_with(detector.class_names)
        with _progress(f"{source}: detecting in {options.data}, {split}") as progress:
            return dataset, evaluate_detector(detector, dataset, batch_size=options.batch_size, progress=progress)
    path = Path(source)
    if not path.with_name(KEY).exists():
        dataset = open_with(None)
        return dataset, load_results(path, dataset)
    key = read_key(path.with_name(KEY))
    dataset = open_with(key.class_names)
    if dataset.class_names != key.class_names:
        raise DataError(f"{path}: its classes {list(key.class_names)} are not {list(dataset.class_names)}, the others'")
    detections, missing = load_own_results(path, key, dataset)
    if missing:
        _say(f"{path}: {missing} of {len(key.images)} images are not in '{split}' and are left out")
    return dataset, detections


def _tell_defects(dataset: Dataset) -> None:
    if dataset.defects:
        _say(f"{dataset.root}: {len(dataset.defects)} defects in '{dataset.split}'; `grcn check` lists them")


def _say(message: str) -> None:
    print(f"grcn: {message}", file=sys.stderr)


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _progress(what: str) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error, where that is a terminal; told of (done, total) and, optionally, of what."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int, now: str = what) -> None:
            bar.update(task, completed=done, total=total, description=now)

        yield tell


@dataclass(frozen=True)
class Command:
    """A subcommand: what it does in a line, and the function that takes its words and returns the exit code."""

    summary: str
    run: Callable[[Sequence[str]], int]


COMMANDS = {
    "train": Command("train a detector on a folder of labelled images", train),
    "evaluate": Command("AP50, AP70, AP and more of a detector or of a results file", evaluate),
    "gap": Command("what classification and localization each cost a detector", gap),
    "predict": Command("find objects in images and videos; draw them, write them down", predict),
    "export": Command("write a detector as one file for ONNX Runtime, OpenVINO or torch.export", export),
    "check": Command("look through a data set before training on it", check),
    "models": Command("list the detectors, or show which map each task of one sees", models),
    "data generate": Command("write the embedded data set", data_generate),
    "data download": Command("fetch voc2007, voc2012 or coco2017", data_download),
    "study run": Command("train and score the detectors of a comparison, over data sets and seeds", study_run),
    "study table": Command("the tables and plots of a study", study_table),
    "serve": Command("answer over HTTP: photos in, objects out", serve),
    "push": Command("upload a detector to the Hugging Face Hub", push),
    "demo": Command("the whole job on the embedded data set, in ten minutes; of a run: a page to try it", demo),
}
