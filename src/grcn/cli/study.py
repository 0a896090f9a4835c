"""`grcn study run` and `grcn study table`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grcn.cli.parser import Parser


def run(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "study run",
        "FILE [options]",
        "Trains and scores every detector, data set and seed of a study; what is done is skipped, so the same command "
        "continues. FILE is a study's YAML file or the name of one that comes with the package.",
        "grcn study run context --data embedded --out studies\ngrcn study run mine.yaml --root datasets --engine ray",
    )
    _add_options(parser)
    parser.add_argument("--cells", nargs="+", type=str, metavar="NAME", help="detectors of the study; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="seeds of the study; default: all")
    parser.add_argument("--root", type=str, default=".", help="folder below which the study's data sets lie")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: trials in parallel")
    parser.add_argument("--address", type=str, default="", help="of a Ray cluster; default: one on this machine")
    parser.add_argument("--cpus", type=float, default=1.0, help="cores of a trial on Ray")
    parser.add_argument("--gpus", type=float, default=0.0, help="devices of a trial on Ray")
    parser.add_argument("--keep_runs", action="store_true", help="keep the run folders, with weights")
    options = parser.read(argv)
    from grcn.files import check_folder
    from grcn.runtime import tune_cpu
    from grcn.study import read_study, run_study
    from grcn.study.run import Resources

    check_folder(options.out)
    tune_cpu()
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


def table(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "study table",
        "FILE [options]",
        "Writes a study's tables (Markdown, CSV) and plots from the results that are there: mean and spread over "
        "seeds, differences to the baseline with intervals from paired seeds. Of a study that says how it is judged, "
        "prints for each question yes, no or open.",
        "grcn study table context --out studies",
    )
    _add_options(parser)
    options = parser.read(argv)
    from grcn.files import check_folder
    from grcn.study import read_study, verdicts, write_tables

    check_folder(options.out)
    study = read_study(options.file).only(options.data)
    for line in (*write_tables(study, options.out), *verdicts(study, options.out)):
        print(line)
    return 0


def _add_options(parser: Parser) -> None:
    parser.add_argument("file", type=str, metavar="FILE", help="YAML file, or the name of a study of the package")
    parser.add_argument("--data", nargs="+", type=str, metavar="NAME", help="data sets of the study; default: all")
    parser.add_argument("--out", type=str, default="studies", help="folder of results, which studies may share")
