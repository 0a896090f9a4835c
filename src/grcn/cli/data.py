"""`grcn check`, `grcn data generate` and `grcn data download`."""

from __future__ import annotations

from collections.abc import Sequence

from grcn.cli.common import add_format_option, print_json, progress_bar


def check(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "check",
        "DIR [options]",
        "Looks through a data set before you train on it. Reports images, classes, boxes, splits and defects, and how "
        "large the objects look to a detector. The exit code is that of the worst defect.",
        "grcn check photos",
    )
    data = parser.add_argument_group("data set")
    data.add_argument("data", type=str, metavar="DIR", help="folder of the data set")
    data.add_argument("--split", nargs="+", type=str, metavar="NAME", help="splits to check; default: all")
    add_format_option(data)
    from grcn.presets import CPU_PRESET, preset

    detector = parser.add_argument_group("detector")
    detector.add_argument("--preset", type=str, default=CPU_PRESET, help="detector whose view of the data is reported")
    detector.add_argument(
        "--short_side", type=int, help="pixels of the shorter side at its input; default: the preset's"
    )
    detector.add_argument("--long_side", type=int, help="largest longer side at its input; default: the preset's")
    output = parser.add_argument_group("output")
    output.add_argument("--all", action="store_true", help="list all defects, not only five of each kind")
    output.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.read(argv)

    from grcn.data.check import check_dataset, render

    config = preset(options.preset)
    with progress_bar(f"reading {options.data}") as progress:
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
        print_json(report.to_dict())
    else:
        render(report, limit=None if options.all else 5)
    return report.exit_code


def generate(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "data generate",
        "OUT [options]",
        "Writes a small data set of rendered scenes with six classes, as a VOC folder. The same arguments always give "
        "the same files.",
        "grcn data generate beach --images 400 --seed 0",
    )
    output = parser.add_argument_group("output")
    output.add_argument("out", type=str, metavar="OUT", help="folder to create")
    scenes = parser.add_argument_group("scenes")
    scenes.add_argument(
        "--images", type=int, default=300, help="number of images: 60% for training, 15% validation, 25% test"
    )
    scenes.add_argument("--seed", type=int, default=0, help="random seed of the scenes")
    scenes.add_argument(
        "--size", nargs=2, type=int, default=[640, 480], metavar=("WIDTH", "HEIGHT"), help="image size in pixels"
    )
    options = parser.read(argv)
    from grcn.files import check_folder
    from grcn.scenes.generate import generate

    check_folder(options.out)
    with progress_bar(f"rendering {options.out}") as progress:
        out = generate(
            options.out, images=options.images, seed=options.seed, size=tuple(options.size), progress=progress
        )
    print(f"{out}: {options.images} images; next: grcn check {out}")
    return 0


def download(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "data download",
        "NAME --out DIR [options]",
        "Downloads a public data set from its official address. If it is interrupted, the same command continues.",
        "grcn data download voc2007 --out voc2007",
    )
    source = parser.add_argument_group("data set")
    source.add_argument("name", type=str, metavar="NAME", help="voc2007, voc2012 or coco2017")
    source.add_argument(
        "--base_url",
        type=str,
        metavar="URL",
        help="mirror that has the archives under their usual names; default: the official address",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=str, required=True, metavar="DIR", help="folder to create")
    output.add_argument("--keep_archives", action="store_true", help="keep the archives after unpacking")
    options = parser.read(argv)
    from grcn.data.download import download
    from grcn.files import check_folder

    check_folder(options.out)
    with progress_bar("") as progress:
        out = download(
            options.name,
            options.out,
            base_url=options.base_url,
            keep_archives=options.keep_archives,
            progress=lambda what, done, total: progress(done, total, what),
        )
    print(f"{out}: done; next: grcn check {out}")
    return 0
