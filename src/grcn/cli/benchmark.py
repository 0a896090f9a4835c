"""`grcn benchmark`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grcn.cli.common import DEVICES, progress_bar, say
from grcn.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from grcn.cli.parser import Options


def benchmark(argv: Sequence[str]) -> int:
    options = _read_options(argv)
    from grcn.benchmark import benchmark, machine, table
    from grcn.files import check_file, write_json

    if options.out:
        check_file(options.out)
    photos = _photos(options)
    with progress_bar("measuring") as progress:
        measured = benchmark(
            options.runs,
            photos,
            device=options.device,
            batch_sizes=options.batch_size,
            rounds=options.rounds,
            progress=progress,
        )
    sizes = sorted({f"{photo.shape[1]}x{photo.shape[0]}" for photo in photos})
    about = {**machine(), "photos": len(photos), "sizes": sizes, "rounds": options.rounds}
    print(table(measured))
    threads = ", ".join(dict.fromkeys(f"{own.label.split(',')[0]} {own.threads} threads" for own in measured))
    shown = ", ".join(sizes[:3]) + (", ..." if len(sizes) > 3 else "")
    print()
    for told in (
        f"{len(photos)} decoded photos of {shown}; medians of {options.rounds} rounds in turn; {threads}",
        f"{about['processor']}, {about['cores']} cores",
    ):
        print(textwrap.fill(told, 80))
    if options.out:
        rows = [{**asdict(own), "p50": own.percentile(50), "p95": own.percentile(95)} for own in measured]
        write_json(Path(options.out), {**about, "candidates": rows}, indent=1)
        say(f"written to {options.out}")
    return 0


def _read_options(argv: Sequence[str]) -> Options:
    from grcn.cli.parser import Parser

    parser = Parser(
        "benchmark",
        "RUN... [options]",
        "Measures how fast detectors are on this machine: milliseconds per photo, photos per second for each batch "
        "size, and memory. A run is timed in torch: as trained, with batch norm merged, and in bfloat16. An exported "
        "file is timed in its own runtime. Each variant has its own process, and they take turns.",
        "grcn benchmark runs/photos runs/photos/model.onnx --photos photos/test",
    )
    look = parser.add_argument_group("what to time")
    look.add_argument(
        "runs",
        nargs="+",
        type=str,
        metavar="RUN",
        help="run folder, .safetensors file, exported file or hf://user/name",
    )
    look.add_argument(
        "--photos",
        nargs="+",
        type=str,
        metavar="PATH",
        help="photos or folders of photos; default: rendered photos of 800x600",
    )
    look.add_argument("--count", type=int, default=8, help="number of photos to use, evenly spaced over them")
    how = parser.add_argument_group("how to time")
    how.add_argument("--batch_size", nargs="+", type=int, default=[1, 4, 8], help="batch sizes, up to four")
    how.add_argument("--rounds", type=int, default=5, help="times that each variant is timed at each batch size")
    how.add_argument("--device", type=str, default="auto", help=DEVICES)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=str,
        metavar="FILE",
        help="also write everything as JSON, with versions and machine; default: none",
    )
    options = parser.read(argv)
    for name in ("count", "rounds"):
        if options[name] < 1:
            raise ConfigError(f"{name} {options[name]}: needs 1 or more")
    if not 1 <= len(options.batch_size) <= 4 or not all(1 <= batch <= 1024 for batch in options.batch_size):
        raise ConfigError(f"batch_size {options.batch_size}: needs 1 to 4 numbers of 1 to 1,024")
    return options


def _photos(options: Any) -> list[NDArray[np.uint8]]:
    import numpy as np

    if options.photos is None:
        from grcn.scenes.render import render_scene

        return [
            render_scene(np.random.default_rng(i), (800, 600), (20.0, 250.0), (8, 12))[0] for i in range(options.count)
        ]
    from grcn.data.image import read_image
    from grcn.predict.sources import find_sources

    sources, _ = find_sources(options.photos, Path())
    paths = [source.path for source in sources if source.path is not None and not source.is_video]
    if not paths:
        raise DataError(f"{' '.join(options.photos)}: there are no photos to time")
    count = min(options.count, len(paths))
    return [read_image(paths[i * len(paths) // count]) for i in range(count)]
