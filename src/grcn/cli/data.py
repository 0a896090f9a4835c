"""`grcn check`, `grcn data generate` and `grcn data download`."""

from __future__ import annotations

from collections.abc import Sequence

from grcn.cli.common import add_format_option, print_json, progress_bar


def check(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "check",
        "DIR [options]",
        "Looks through a data set before anything trains: images, classes, boxes, splits, defects, and what the "
        "objects' sizes mean for a detector. The exit code is that of the worst defect.",
        "grcn check photos",
    )
    parser.add_argument("data", type=str, metavar="DIR", help="folder of the data set")
    parser.add_argument("--split", nargs="+", type=str, metavar="NAME", help="splits to look at; default: all")
    add_format_option(parser)
    from grcn.presets import CPU_PRESET, preset

    parser.add_argument("--preset", type=str, default=CPU_PRESET, help="the detector to measure the sizes for")
    parser.add_argument("--short_side", type=int, help="input size to measure for; default: the preset's")
    parser.add_argument("--long_side", type=int, help="cap on the longer side; default: the preset's")
    parser.add_argument("--all", action="store_true", help="list all defects, not five of a kind")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
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
        "Writes the embedded data set, rendered scenes with six classes, as a VOC folder; the same arguments give the "
        "same files.",
        "grcn data generate beach --images 400 --seed 0",
    )
    parser.add_argument("out", type=str, metavar="OUT", help="folder to make")
    parser.add_argument("--images", type=int, default=300, help="60% train, 15% val, 25% test")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--size", nargs=2, type=int, default=[640, 480], metavar=("WIDTH", "HEIGHT"), help="in pixels")
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
        "Fetches a public data set (voc2007, voc2012, coco2017) from its official address. Interrupted, the same "
        "command continues.",
        "grcn data download voc2007 --out voc2007",
    )
    parser.add_argument("name", type=str, metavar="NAME", help="voc2007, voc2012 or coco2017")
    parser.add_argument("--out", type=str, required=True, help="folder to make")
    parser.add_argument("--base_url", type=str, help="a mirror that holds the archives under their own names")
    parser.add_argument("--keep_archives", action="store_true", help="keep the archives after unpacking")
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
