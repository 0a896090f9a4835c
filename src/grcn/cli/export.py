"""`grcn export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grcn.cli.common import add_format_option
from grcn.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def export(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "export",
        "RUN --format onnx|openvino|torch [options]",
        "Writes a detector as one graph, from uint8 images of any size to boxes, scores and classes, with all that is "
        "needed to run it without torch. `grcn predict` and `grcn evaluate` take .onnx files and OpenVINO folders as "
        "they take runs.",
        "grcn export runs/photos --format onnx\n"
        "grcn export runs/photos --format openvino --int8 --data photos --out photos-int8",
    )
    parser.add_argument("run", type=str, metavar="RUN", help="run folder, weights file, hf://user/name, preset")
    parser.add_argument("--format", choices=("onnx", "openvino", "torch"), required=True, help="of the file")
    parser.add_argument(
        "--out", type=str, help="file, or folder for openvino; default: beside the weights; of an address, here"
    )
    parser.add_argument("--half", action="store_true", help="store weights in 16 bits: half the size")
    parser.add_argument("--int8", action="store_true", help="quantize: faster, a quarter of the size; needs --data")
    parser.add_argument("--data", type=str, metavar="DIR", help="data set whose images --int8 is calibrated on")
    parser.add_argument("--split", type=str, default="auto", help="auto: the train split by its usual name")
    add_format_option(parser, "--data_format")
    parser.add_argument("--images", type=int, default=100, help="images of it that are used")
    parser.add_argument("--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="take images of this size alone")
    options = parser.read(argv)
    if options.int8 != (options.data is not None):
        raise ConfigError("export: --int8 and --data DIR go together")
    if options.size and min(options.size) < 1:
        raise ConfigError(f"size {options.size}: needs positive numbers of pixels")
    if options.images < 1:
        raise ConfigError(f"images {options.images}: needs at least 1")

    from grcn.export.export import export
    from grcn.files import check_file, check_folder
    from grcn.predict.locate import locate
    from grcn.predict.torch_backend import load_trained

    located = locate(options.run)
    detector = load_trained(located)
    # What was fetched lies in a cache, which is no place for it.
    beside = Path() if located.fetched or detector.file is None else detector.file.parent
    out = Path(options.out or beside / _export_name(options))
    check_folder(out) if options.format == "openvino" else check_file(out)
    images = _calibration_images(options) if options.int8 else []
    size = tuple(options.size) if options.size else None
    export(detector, out, options.format, size=size, half=options.half, calibration=images)
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

    split = resolve_split(options.data, options.split, "train", options.data_format)
    records = open_dataset(options.data, split=split, format=options.data_format).records
    count = min(options.images, len(records))
    return [records[i * len(records) // count].pixels() for i in range(count)]
