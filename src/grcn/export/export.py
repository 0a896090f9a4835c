"""`grcn export`: exports a trained detector to a file that other runtimes run."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from grcn.errors import CheckpointError, ConfigError
from grcn.export.graph import Graph
from grcn.files import atomic_file
from grcn.model.detector import RCNN
from grcn.model.heads import ConvFCHead, FCHead
from grcn.predict.checkpoint import LoadedDetector
from grcn.predict.header import KEY, Header
from grcn.predict.locate import OPENVINO_FILE
from grcn.predict.optimize import optimized
from grcn.predict.runtimes import INPUT, OUTPUTS

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

Format = Literal["onnx", "openvino", "torch"]
OPSET = 18
"""The oldest ONNX opset that torch's exporter writes, so that older runtimes can read it."""

_EXPORTERS = ("torch", "onnx", "onnxscript", "onnx_ir", "openvino", "nncf")
"""Packages whose warnings say nothing to the user."""

TORCH = "2.14"
"""The oldest torch that is known to trace a detector for images of any size; 2.10 cannot."""


def export(
    detector: LoadedDetector,
    out: str | Path,
    format: Format,
    *,
    size: tuple[int, int] | None = None,
    half: bool = False,
    calibration: Sequence[NDArray[np.uint8]] = (),
) -> Path:
    """Writes a detector as one graph, from uint8 images [B, H, W, 3] to boxes in their pixels, scores and class ids.

    Args:
        detector: from `grcn.predict.checkpoint.load_detector`.
        out: the file, or the folder for `openvino`; an earlier export there is replaced.
        format: `onnx`, `openvino`, or `torch`, which is a `.pt2` file of `torch.export`. To read that, import
            `grcn.geometry.nms` first.
        size: height and width of the only images that the graph accepts, one at a time. None: it accepts images of any
            size, and any number of images of one size at a time.
        half: store weights in 16 bits; the graph still computes in 32.
        calibration: some hundred images [H, W, 3] for quantization. Convolutions and large matrix products are then in
            int8. Only for `openvino`.

    Returns:
        The file or folder.

    Raises:
        ConfigError: if a package is missing, the format has no int8, or the network's graph depends on the size.
        CheckpointError: if the file cannot be written.
    """
    out = Path(out)
    _check_request(format, half, int8=bool(calibration))
    model = optimized(detector.model.cpu(), "fold")
    for head in model.modules():
        if isinstance(head, FCHead | ConvFCHead):
            head.as_matrix()
    normalisation = {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
    precision = "int8" if calibration else "f16 weights" if half else "f32"
    about = {"grcn": version("grcn"), "precision": precision, "normalisation": normalisation, **detector.extra}
    header = Header(model.config, detector.class_names, detector.preset, about)
    if half and format != "openvino":  # OpenVINO does this itself when it saves
        _store_in_half(model)
    program = _trace(model, size)
    if format == "torch":
        with atomic_file(out) as file, _quiet():
            torch.export.save(program, file, extra_files={KEY: header.to_json()})
        return out
    onnx_model = _to_onnx(program)
    if format == "onnx":
        _save_onnx(onnx_model, header, out)
        return out
    openvino = _import("openvino", format)
    model_ov = openvino.Core().read_model(onnx_model.SerializeToString())
    if calibration:
        model_ov = _quantized(model_ov, calibration)
    model_ov.set_rt_info(header.to_json(), [KEY])
    _save_openvino(openvino, model_ov, out, half)
    return out


def _check_request(format: Format, half: bool, *, int8: bool) -> None:
    if int8 and format != "openvino":
        raise ConfigError(f"int8 with format '{format}': use format openvino")
    if int8 and half:
        raise ConfigError("int8 and half: choose one")
    if torch.__version__ < TORCH:
        raise ConfigError(
            f"export needs torch {TORCH} or newer, to trace images of any size; here: {torch.__version__}"
        )


def _save_onnx(model: Any, header: Header, out: Path) -> None:
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, header.to_json()
    _import("onnx", "onnx").checker.check_model(model, full_check=True)
    with atomic_file(out) as file:
        file.write(model.SerializeToString())


def _import(name: str, format: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(f"format '{format}' needs {name}; pip install 'grcn[export]'") from None


class _Widened(nn.Module):
    """Converts a weight that is stored in 16 bits to 32 bits."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored.float()


def _store_in_half(model: RCNN) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parametrize.register_parametrization(layer, "weight", _Widened(), unsafe=True)
            stored = layer.parametrizations["weight"].original  # type: ignore[index,union-attr]
            stored.data = stored.data.half()


def _trace(model: RCNN, size: tuple[int, int] | None) -> torch.export.ExportedProgram:
    graph = Graph(model).eval().requires_grad_(False)
    if size is not None:
        return torch.export.export(graph, (torch.zeros(1, *size, 3, dtype=torch.uint8),))
    # Height and width are arbitrary, because dynamic_shapes makes sure that no size is built in.
    dims = {i: torch.export.Dim(name, min=1) for i, name in enumerate(("batch", "height", "width"))}
    try:
        with _quiet(), redirect_stderr(cast(IO[str], _OtherThreads(sys.stderr))):
            return torch.export.export(graph, (torch.zeros(2, 333, 517, 3, dtype=torch.uint8),), dynamic_shapes=(dims,))
    except Exception as error:  # torch raises many kinds, for instance if windows are cut by the size of a map
        raise ConfigError(
            f"backbone '{model.config.backbone}': its graph depends on the size of the photo ({type(error).__name__}); "
            "export it for one size: --size HEIGHT WIDTH"
        ) from None


def _to_onnx(program: torch.export.ExportedProgram) -> onnx.ModelProto:
    _import("onnx", "onnx")
    _import("onnxscript", "onnx")
    with _quiet():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            custom_translation_table={torch.ops.grcn.nms.default: _nms},
            verbose=False,
        )
    assert exported is not None
    model: onnx.ModelProto = exported.model_proto
    return model


def _nms(boxes: Any, scores: Any, iou: float, threshold: float, most: int) -> Any:
    """`grcn.geometry.nms.keep_best` in ONNX, whose operator lists the boxes that it keeps."""
    op: Any = _import("onnxscript", "onnx").opset18
    most_kept, overlap, least = (
        op.Constant(value_int=most),
        op.Constant(value_float=iou),
        op.Constant(value_float=threshold),
    )
    found = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, [1]), most_kept, overlap, least)  # [M, 3]
    where = op.Gather(found, [0, 2], axis=1)
    nothing = op.Less(scores, op.Constant(value_float=-np.inf))
    return op.ScatterND(nothing, where, op.GreaterOrEqual(op.Squeeze(op.Slice(found, [0], [1], [1]), [1]), 0))


def _quantized(model: Any, calibration: Sequence[NDArray[np.uint8]]) -> Any:
    """An OpenVINO model with its slow layers in int8. The ranges are those that occur on `calibration`."""
    nncf = _import("nncf", "openvino")
    taken = _layers_worth_it(model)
    left = [op.get_friendly_name() for op in model.get_ops() if op.get_friendly_name() not in taken]
    nncf.set_log_level(logging.ERROR)
    with _quiet():
        return nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in calibration]),
            subset_size=len(calibration),
            preset=nncf.QuantizationPreset.MIXED,  # activations need not be symmetric about zero
            ignored_scope=nncf.IgnoredScope(names=left, validate=False),
        )


def _layers_worth_it(model: Any) -> set[str]:
    """The names of the operations to quantize: convolutions, residual sums, fc6 and fc7.

    The last layers are left out, because their outputs are coordinates and scores, and they take little time. So is
    everything before the first convolution and everything that works on boxes.
    """
    taken = set()
    for op in model.get_ops():
        kind, name = op.get_type_name(), op.get_friendly_name()
        if kind == "Convolution":
            out = _after(_after(op) if _after(op).get_type_name() == "Add" else op)
            if out.get_type_name() != "Transpose":  # follows only the outputs of the RPN
                taken.add(name)
        elif kind == "MatMul" and op.input_value(1).get_node().get_type_name() == "Constant":
            if np.prod(op.input(1).get_shape()) >= 2**20:
                taken.add(name)
        elif kind == "Add":
            sources = [op.input_value(i).get_node() for i in range(2)]
            sources = [s.input_value(0).get_node() if s.get_type_name() == "Add" else s for s in sources]
            if any(s.get_type_name() == "Convolution" for s in sources):
                taken.add(name)
        elif kind in ("Relu", "MaxPool"):
            taken.add(name)
    return taken


def _after(op: Any) -> Any:
    """The first of the operations that read the output of `op`."""
    return next(iter(op.output(0).get_target_inputs())).get_node()


def _save_openvino(openvino: Any, model: Any, out: Path, half: bool) -> None:
    """Writes the two files into a folder beside `out`, then moves both to `out`."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}.partial-", dir=out.parent) as partial:
            openvino.save_model(model, Path(partial, OPENVINO_FILE), compress_to_fp16=half)
            out.mkdir(exist_ok=True)
            for file in sorted(Path(partial).iterdir()):  # the weights first
                file.replace(out / file.name)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{out}: cannot be written: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the exporters, in their loggers and by `warnings`."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in _EXPORTERS}
    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=rf"(grcn|{'|'.join(_EXPORTERS)})\b")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


class _OtherThreads:
    """A stream without what this thread writes: torch prints the whole graph that it could not trace."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
