"""`grcn study run` and `grcn study table`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grcn.cli.parser import Group, Parser


def run(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "study run",
        "FILE [options]",
        "Trains and scores every detector of a study on every data set with every seed. It skips what is done, so "
        "the same command continues after an interruption. FILE is a YAML file or the name of a study that comes with "
        "the package.",
        "grcn study run context --data embedded --out studies\ngrcn study run mine.yaml --root datasets --engine ray",
    )
    what, output = _add_options(parser)
    what.add_argument("--cells", nargs="+", type=str, metavar="NAME", help="detectors to train; default: all")
    what.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="seeds to train with; default: all")
    what.add_argument("--root", type=str, default=".", metavar="DIR", help="folder that holds the study's data sets")
    output.add_argument("--keep_runs", action="store_true", help="keep the run folders and their weights")
    machines = parser.add_argument_group("machines")
    machines.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="local trains one by one; ray trains in parallel"
    )
    machines.add_argument(
        "--address", type=str, default="", help="address of a Ray cluster; default: a cluster on this machine"
    )
    machines.add_argument("--cpus", type=float, default=1.0, help="CPU cores per training on Ray")
    machines.add_argument("--gpus", type=float, default=0.0, help="GPUs per training on Ray")
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
        "Writes tables (Markdown, CSV) and plots from the results of a study: means and spreads over seeds, and "
        "differences to the baseline with confidence intervals from paired seeds. If the study states questions, "
        "prints yes, no or open for each.",
        "grcn study table context --out studies",
    )
    _add_options(parser)
    options = parser.read(argv)
    from grcn.files import check_folder
    from grcn.study import read_study, verdicts, write_tables

    check_folder(options.out)
    study = read_study(options.file).only(options.data)
    for path in write_tables(study, options.out):
        print(path)
    for line in verdicts(study, options.out):
        print(textwrap.fill(line, 80, subsequent_indent="  ", break_on_hyphens=False))
    return 0


def _add_options(parser: Parser) -> tuple[Group, Group]:
    """Adds what both commands take; returns the groups of the study and of the output."""
    what = parser.add_argument_group("study")
    what.add_argument("file", type=str, metavar="FILE", help="YAML file, or the name of a study in the package")
    what.add_argument("--data", nargs="+", type=str, metavar="NAME", help="data sets to use; default: all")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=str, default="studies", metavar="DIR", help="folder of results; studies may share it"
    )
    return what, output
