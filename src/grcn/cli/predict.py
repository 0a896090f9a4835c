"""`grcn predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from grcn.cli.common import (
    add_device_options,
    add_score_options,
    keeping,
    load_detector,
    progress_bar,
    say,
    say_letters,
)
from grcn.errors import ImageError

if TYPE_CHECKING:
    from grcn.predict.sources import Source


def predict(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser
    from grcn.config import WrittenFormat

    parser = Parser(
        "predict",
        "RUN SOURCE... --out DIR [options]",
        "Finds objects in images, folders of images, glob patterns, videos, or an image from standard input (-). DIR "
        "gets the drawn pictures (drawn/), results.json (COCO) with images.json (what its ids mean), and frames/ with "
        "the detections in each frame of a video. What is found stands at once in results.jsonl, and stays there "
        "whatever happens.",
        "grcn predict runs/photos holiday clip.mp4 'more/**/*.jpg' --out found --score 0.5 --save voc",
    )
    parser.add_argument(
        "run", type=str, metavar="RUN", help="run folder, .safetensors or exported file, hf://user/name, preset"
    )
    parser.add_argument("sources", nargs="+", type=str, metavar="SOURCE", help="image, folder, glob, video or -")
    parser.add_argument("--out", type=str, required=True, help="folder of results")
    add_score_options(parser, 0.3)
    parser.add_argument(
        "--save",
        nargs="+",
        choices=get_args(WrittenFormat),
        default=[],
        help="also write labels to correct and train on",
    )
    add_device_options(parser)
    options = parser.read(argv)

    from grcn.files import check_folder
    from grcn.thresholds import check_score

    check_score(options.score)

    out = Path(options.out)
    check_folder(out)
    sources = _find_sources(options.sources, out)
    detector = load_detector(options.run, options)
    detector.least(options.score)  # an error where it has none
    if detector.thresholds and (options.score == "best" or options.score == "precise"):
        say(f"score {options.score}: {detector.thresholds.in_words(options.score)}")
    say_letters(detector.class_names)
    from grcn.predict.job import predict_sources

    stopped = f"stopped; what was found is in {out / 'results.jsonl'}, and in frames/ for videos"
    with keeping(stopped), progress_bar(f"detecting in {len(sources)} sources") as progress:
        summary = predict_sources(
            detector,
            sources,
            out,
            score=options.score,
            save=options.save,
            batch_size=options.batch_size,
            workers=options.workers,
            on_broken=lambda error: say(f"error: {error}"),
            progress=progress,
        )
    counts = ", ".join(f"{count} {name}" for name, count in summary.found.most_common()) or "nothing"
    frames = f" and {summary.frames} video frames" if summary.frames else ""
    print(f"{out}: {counts} in {summary.images} images{frames}")
    if summary.broken:
        raise ImageError(f"{len(summary.broken)} of {len(sources)} sources could not be done; the others are")
    return 0


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
