"""`grcn predict`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from grcn.cli.common import (
    add_calibration_option,
    add_device_options,
    ended,
    keeping,
    load_detector,
    progress_bar,
    say,
    say_letters,
)
from grcn.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from grcn.cli.parser import Options
    from grcn.config import Tiles
    from grcn.predict.sources import Source


def predict(argv: Sequence[str]) -> int:
    options = _read_options(argv)
    tiles = _tiles(options)
    from grcn.files import check_folder
    from grcn.predict.job import predict_sources

    out = Path(options.out)
    check_folder(out)
    sources = _find_sources(options.sources, out)
    detector = load_detector(options.run, options)
    detector.least(options.score)  # raises an error if it has no thresholds
    if detector.thresholds and (options.score == "best" or options.score == "precise"):
        say(f"score {options.score}: {detector.thresholds.in_words(options.score)}")
    say_letters(detector.class_names)
    stopped = f"stopped; what was found is in {out / 'results.jsonl'}, and in frames/ for videos"
    ending = ended() if sources[0].is_live else nullcontext()
    with keeping(stopped), ending as stop, progress_bar(f"detecting in {len(sources)} sources") as progress:
        summary = predict_sources(
            detector,
            sources,
            out,
            score=options.score,
            save=options.save,
            batch_size=options.batch_size,
            workers=options.workers,
            tiles=tiles,
            max_pixels=options.max_pixels,
            track=options.track,
            stop=stop,
            on_broken=lambda error: say(f"error: {error}"),
            progress=progress,
        )
    counts = ", ".join(f"{count} {name}" for name, count in summary.found.most_common()) or "nothing"
    frames = f" and {summary.frames} video frames" if summary.frames else ""
    images = f"{summary.images} image{'' if summary.images == 1 else 's'}"
    drawn = f"; the pictures are in {out / 'drawn'}" if summary.images or summary.frames else ""
    print(f"{out}: {counts} in {images}{frames}{drawn}")
    if summary.broken:
        others = "; the others are done" if len(summary.broken) < len(sources) else ""
        raise ImageError(f"{len(summary.broken)} of {len(sources)} sources failed{others}")
    return 0


def _read_options(argv: Sequence[str]) -> Options:
    from grcn.cli.parser import Parser
    from grcn.config import Score, WrittenFormat

    parser = Parser(
        "predict",
        "RUN SOURCE... --out DIR [options]",
        "Finds objects in photos and videos. A SOURCE is an image, a folder, a glob pattern, a video, or - for an "
        "image from standard input. It can also be one live stream (rtsp://..., http://..., camera:0), which Ctrl-C "
        "ends. The output folder gets the drawn pictures (drawn/), all detections in COCO format (results.json, with "
        "images.json for the ids) and those of each video frame (frames/). Detections are written to results.jsonl at "
        "once, so an interruption loses nothing.",
        "grcn predict runs/photos holiday clip.mp4 --out found --score 0.5\n"
        "grcn predict runs/photos aerial.jpg --out found --tiles 640\n"
        "grcn predict runs/photos camera:0 --out found --track",
    )
    look = parser.add_argument_group("what to look at")
    look.add_argument(
        "run",
        type=str,
        metavar="RUN",
        help="detector: run folder, .safetensors file, exported file, hf://user/name or a preset",
    )
    look.add_argument(
        "sources", nargs="+", type=str, metavar="SOURCE", help="image, folder, glob pattern, video, - or stream"
    )
    look.add_argument(
        "--tiles",
        nargs="?",
        const="auto",
        metavar="SIZE",
        help="cut each photo into tiles of SIZE pixels, for small objects in large photos; without SIZE: tiles as "
        "large as the detector's input; default: whole photos",
    )
    look.add_argument(
        "--overlap", type=float, default=0.2, help="with --tiles: fraction of a tile that the next tile shows again"
    )
    look.add_argument("--track", action="store_true", help="number the objects in videos from frame to frame")
    look.add_argument(
        "--max_pixels", "--max-pixels", type=int, default=2**26, help="refuse photos with more pixels than this"
    )
    scores = parser.add_argument_group("scores")
    scores.add_argument(
        "--score",
        type=Score,
        default=0.3,
        metavar="SCORE",
        help="drop detections that score lower: a number, or best (highest F1) or precise (a wanted precision) for the "
        "threshold of each class that `grcn evaluate --save thresholds` stored",
    )
    add_calibration_option(scores)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=str, required=True, metavar="DIR", help="folder of results")
    output.add_argument(
        "--save",
        nargs="+",
        choices=get_args(WrittenFormat),
        default=[],
        help="also write labels in these formats, to correct and train on; default: none",
    )
    add_device_options(parser)
    options = parser.read(argv)

    from grcn.data.image import READABLE_PIXELS
    from grcn.thresholds import check_score

    if not 1 <= options.max_pixels <= READABLE_PIXELS:
        raise ConfigError(f"max_pixels {options.max_pixels}: needs 1 to {READABLE_PIXELS:,}")
    check_score(options.score)
    return options


def _tiles(options: Any) -> Tiles | None:
    if options.tiles is None:
        return None
    from grcn.config import Tiles

    if options.tiles != "auto" and not options.tiles.isdecimal():
        raise ConfigError(
            f"tiles '{options.tiles}': needs a number of pixels, or no value; put --tiles after RUN and SOURCE"
        )
    return Tiles(None if options.tiles == "auto" else int(options.tiles), options.overlap)


def _find_sources(arguments: Sequence[str], out: Path) -> list[Source]:
    from grcn.data.image import UNREAD_SUFFIXES, unread
    from grcn.predict.sources import find_sources

    sources, left_out = find_sources(arguments, out)
    reasons: dict[str, list[str]] = {}
    for file in left_out:
        is_photo = file.suffix.lower() in UNREAD_SUFFIXES
        reasons.setdefault(unread(file.suffix) if is_photo else "neither image nor video", []).append(str(file))
    for reason, files in reasons.items():
        names = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
        say(f"{len(files)} files are left out ({reason}): {names}")
    return sources
