"""`grcn demo`: the whole job on sample data, or a page to try a detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grcn.cli.common import add_calibration_option, add_device_options, load_detector, progress_bar
from grcn.errors import ConfigError


def demo(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "demo",
        "[RUN [OTHER]] [options]",
        "Without RUN, does the whole job on a small rendered data set: trains a small G-RCN, measures it and draws "
        "what it finds. With RUN, opens a page on this machine to try that detector in a browser, on photos or the "
        "webcam. With OTHER, the page shows both detectors side by side.",
        "grcn demo\ngrcn demo demo/run",
    )
    page = parser.add_argument_group("page to try a detector (with RUN)")
    page.add_argument("run", nargs="?", type=str, metavar="RUN", help="run folder, .safetensors file or exported file")
    page.add_argument("other", nargs="?", type=str, metavar="OTHER", help="second detector to compare with")
    page.add_argument("--port", type=int, help="port of the page; default: the first free one from 7860 on")
    add_calibration_option(page)
    job = parser.add_argument_group("the whole job (without RUN)")
    job.add_argument("--out", type=str, default="demo", metavar="DIR", help="folder for data, runs and pictures")
    job.add_argument("--iterations", type=int, default=500, help="training iterations")
    add_device_options(parser, batches=False)
    options = parser.read(argv)
    if options.iterations < 1:
        raise ConfigError(f"iterations {options.iterations}: needs 1 or more")
    if options.port is not None and not 1 <= options.port <= 65535:
        raise ConfigError(f"port {options.port}: needs 1 to 65535")
    if options.run is not None:
        return _demo_page(options)
    from grcn.demo import demo
    from grcn.files import check_folder
    from grcn.runtime import tune_cpu

    check_folder(options.out)
    tune_cpu()
    demo(Path(options.out), iterations=options.iterations, progress=progress_bar)
    return 0


def _demo_page(options: Any) -> int:
    from grcn.page.app import open_page
    from grcn.reports.gap import label

    sources = [source for source in (options.run, options.other) if source is not None]
    names = label(sources)
    open_page({name: load_detector(source, options) for name, source in zip(names, sources, strict=True)}, options.port)
    return 0
