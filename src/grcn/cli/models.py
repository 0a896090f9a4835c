"""`grcn models`."""

from __future__ import annotations

from collections.abc import Sequence

from grcn.cli.common import print_json, say
from grcn.errors import ConfigError


def models(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "models",
        "[NAME] [options]",
        "Lists the presets with their parameters, multiply-adds and strides. With NAME, shows one preset stage by "
        "stage, with the feature map that each task sees.",
        "grcn models\ngrcn models grcn_r50",
    )
    what = parser.add_argument_group("what to show")
    what.add_argument("name", nargs="?", type=str, metavar="NAME", help="preset to show; default: a list of all")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.read(argv)

    from grcn.model.summary import DetectorSummary, summarize
    from grcn.presets import PRESETS
    from grcn.reports.models import print_model, print_models

    summaries: dict[str, DetectorSummary] = {}
    left_out: dict[str, list[str]] = {}
    for name in [options.name] if options.name else PRESETS:
        try:
            summaries[name] = summarize(name)
        except ConfigError as error:  # a package that its backbone comes from is not installed
            if options.name:
                raise
            left_out.setdefault(str(error), []).append(name)
    for reason, names in left_out.items():
        say(f"{', '.join(names)}: left out: {reason}")
    if options.json:
        print_json({name: summary.to_dict() for name, summary in summaries.items()})
    elif options.name:
        print_model(options.name, summaries[options.name])
    else:
        print_models(summaries)
    return 0
