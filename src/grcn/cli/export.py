"""`grcn export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grcn.cli.common import add_split_options
from grcn.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def export(argv: Sequence[str]) -> int:
    from grcn.cli.parser import Parser

    parser = Parser(
        "export",
        "RUN --format onnx|openvino|torch [options]",
        "Writes a detector as one graph for ONNX Runtime, OpenVINO or torch. The graph takes uint8 images of any size "
        "and gives boxes, scores and classes. It runs without grcn. `grcn predict` and `grcn evaluate` also take .onnx "
        "files and OpenVINO folders as RUN.",
        "grcn export runs/photos --format onnx\ngrcn export runs/photos --format openvino --int8 --data photos",
    )
    what = parser.add_argument_group("detector")
    what.add_argument("run", type=str, metavar="RUN", help="run folder, .safetensors file, hf://user/name or a preset")
    file = parser.add_argument_group("exported file")
    file.add_argument("--format", choices=("onnx", "openvino", "torch"), required=True, help="format of the file")
    file.add_argument(
        "--out",
        type=str,
        metavar="PATH",
        help="file to write, for openvino a folder; default: beside the weights, for hf://... the current folder",
    )
    file.add_argument("--half", action="store_true", help="store the weights in 16 bits: half the size")
    file.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="take only images of this size; default: any size",
    )
    int8 = parser.add_argument_group("quantization")
    int8.add_argument(
        "--int8", action="store_true", help="quantize to 8 bits: faster, a quarter of the size; needs --data"
    )
    int8.add_argument(
        "--data", type=str, metavar="DIR", help="folder of the data set for the calibration; default: none"
    )
    add_split_options(int8, "train", "--data_format")
    int8.add_argument("--images", type=int, default=100, help="number of images for the calibration")
    options = parser.read(argv)
    if options.int8 != (options.data is not None):
        raise ConfigError("export: --int8 needs --data DIR, and --data is used only with --int8")
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
    # A downloaded detector lies in a cache, where an exported file does not belong.
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
    """`options.images` images of the data set, evenly spaced."""
    from grcn.data.dataset import open_dataset, resolve_split

    split = resolve_split(options.data, options.split, "train", options.data_format)
    records = open_dataset(options.data, split=split, format=options.data_format).records
    count = min(options.images, len(records))
    return [records[i * len(records) // count].pixels() for i in range(count)]
