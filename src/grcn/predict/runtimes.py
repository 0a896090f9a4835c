"""Runs exported detectors with ONNX Runtime and OpenVINO, without torch.

The files may come from strangers. A graph can need much time and memory, but it executes only arithmetic. Anything
wrong with it is a CheckpointError. torch's own `.pt2` is refused: torch reads it with `sympy.sympify`, which evaluates
text in the file as Python, and may fall back to unpickling.
"""

from __future__ import annotations

import io
import threading
from abc import ABC, abstractmethod
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grcn.config import DetectorConfig, Optimization
from grcn.errors import CheckpointError, ConfigError, DataError, ImageError, first_line, missing_part
from grcn.predict.header import KEY, Header, read_header
from grcn.predict.locate import Located
from grcn.predict.stream import Prepared
from grcn.types import Detections

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from grcn.predict.stream import Pixels

_CUDA = "CUDAExecutionProvider"
INPUT, OUTPUTS = "images", ("boxes", "scores", "class_ids")

Shape = tuple[int | None, ...]  # None: any


class Exported(ABC):
    """A detector in an exported file.

    Args:
        path: the file; header: its header.
        shape: the shape [B, H, W, 3] of the images that it takes; None for a dimension of any size.
    """

    device: str

    def __init__(self, path: Path, header: Header, shape: Shape) -> None:
        if len(shape) != 4 or shape[3] != 3:
            raise CheckpointError(f"{path}: takes an input of shape {list(shape)}, not images [B, H, W, 3]")
        self.path, self.header, self.shape = path, header, shape

    @property
    def config(self) -> DetectorConfig:
        return self.header.config

    @property
    def num_classes(self) -> int:
        return len(self.header.class_names)

    def prepare(self, image: Pixels) -> Prepared:
        """A photo, uint8 [H, W, 3]; the graph resizes it.

        Raises:
            ImageError: on an image of another size, if the file takes only one size.
        """
        pixels = np.ascontiguousarray(image if isinstance(image, np.ndarray) else image.permute(1, 2, 0).cpu().numpy())
        height, width = pixels.shape[:2]
        if any(fixed not in (None, n) for fixed, n in zip(self.shape[1:3], (height, width), strict=True)):
            raise ImageError(
                f"image of {width}x{height}: {self.path} takes only {self.shape[2]}x{self.shape[1]}; "
                "export without --size"
            )
        return Prepared(pixels, (height, width))

    def detect(
        self, images: list[Prepared], class_names: tuple[str, ...], score: float | None = None
    ) -> list[Detections]:
        """Finds the objects in photos of one size, in one batch, or one by one if the file takes one photo at a time.

        Raises:
            ConfigError: on a `score`, since the threshold of the model is built into the graph.
            CheckpointError: if the graph cannot be computed, or its outputs are not detections.
        """
        if score is not None:
            own = self.config.roi.score_threshold
            raise ConfigError(
                f"{self.path}: its lowest score is {own:g}, set at the export; ask for that or more, or use its run"
            )
        pixels = [image.input for image in images]
        batches = [np.stack(pixels)] if self.shape[0] is None else [image[None] for image in pixels]
        return [found for batch in batches for found in self._detect(batch, class_names)]

    def _detect(self, images: NDArray[np.uint8], class_names: tuple[str, ...]) -> list[Detections]:
        try:
            rows = zip(*self._run(images), strict=True)
            return [
                Detections(boxes[real], scores[real], class_ids[real], class_names)
                for boxes, scores, class_ids in rows
                for real in [class_ids >= 0]
            ]
        except DataError as error:
            raise CheckpointError(f"{self.path}: its outputs are not detections: {error}") from None
        except Exception as error:  # the runtimes raise their own kinds, and RuntimeError
            raise CheckpointError(f"{self.path}: cannot be computed: {first_line(error)}") from None

    @abstractmethod
    def _run(self, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Boxes [B, D, 4], scores [B, D] and class ids [B, D]; see `grcn.export.graph`."""


class OnnxRuntime(Exported):
    """An `.onnx` file.

    Args:
        gpu: the number of the CUDA device that computes it; None: the CPU does.
    """

    def __init__(self, path: Path, gpu: int | None = None) -> None:
        import onnxruntime

        self.device = "cpu (ONNX Runtime)" if gpu is None else f"cuda:{gpu} (ONNX Runtime)"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors, which are raised anyway
        providers: list[Any] = ["CPUExecutionProvider"]
        if gpu is not None:
            _load_cuda(onnxruntime)
            providers.insert(0, (_CUDA, {"device_id": gpu}))
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
            metadata = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:
            raise CheckpointError(f"{path}: not a readable ONNX model: {first_line(error)}") from None
        if gpu is not None and _CUDA not in self._session.get_providers():  # it would run on the CPU instead
            raise ConfigError(
                f"device 'cuda:{gpu}': ONNX Runtime cannot use it: no such GPU, or its CUDA or cuDNN is not installed; "
                "see onnxruntime.ai for the versions, or use the cpu"
            )
        _check_names(path, [i.name for i in inputs], [o.name for o in outputs])
        shape = tuple(n if isinstance(n, int) else None for n in inputs[0].shape)
        super().__init__(path, read_header(path, metadata), shape)

    def _run(self, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = self._session.run(OUTPUTS, {INPUT: images})
        return outputs


class OpenVino(Exported):
    """An OpenVINO model, `.xml` with its `.bin` beside it.

    Args:
        bf16: compute in bfloat16.
    """

    def __init__(self, path: Path, bf16: bool) -> None:
        import openvino

        self.device = f"cpu (OpenVINO, {'bf16' if bf16 else 'f32'})"
        hints = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32", "PERFORMANCE_HINT": "LATENCY"}
        try:
            core = openvino.Core()
            model = core.read_model(path)
            metadata = {KEY: str(model.get_rt_info([KEY]).value)} if model.has_rt_info([KEY]) else {}
            inputs, outputs = ([port.get_any_name() for port in ports] for ports in (model.inputs, model.outputs))
            shape = tuple(n.get_length() if n.is_static else None for n in model.inputs[0].partial_shape)
            self._request = core.compile_model(model, "CPU", hints).create_infer_request()
        except Exception as error:
            raise CheckpointError(f"{path}: not a readable OpenVINO model: {first_line(error)}") from None
        _check_names(path, inputs, outputs)
        self._lock = threading.Lock()  # a request is one computation at a time
        super().__init__(path, read_header(path, metadata), shape)

    def _run(self, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        with self._lock:
            self._request.infer([images])
            return [self._request.get_tensor(name).data.copy() for name in OUTPUTS]


def open_exported(source: Located, optimize: Optimization = "fold", device: str = "auto") -> Exported:
    """Opens the detector in an exported file.

    Args:
        optimize: with `bf16`, OpenVINO computes in bfloat16.
        device: with `cuda` or `cuda:1`, ONNX Runtime computes on a GPU; `auto` and `cpu` are the CPU.

    Raises:
        CheckpointError: on a file that is broken or not a detector.
        ConfigError: if the runtime is not installed, or cannot do what `optimize` and `device` ask for.
    """
    gpu = _gpu(source, device)
    is_bf16 = optimize == "bf16"
    if source.kind == "onnx" and is_bf16:
        raise ConfigError(
            f"optimize 'bf16' with {source}: ONNX Runtime has no bfloat16 on a CPU; export to openvino for it"
        )
    try:
        return OnnxRuntime(source.path, gpu) if source.kind == "onnx" else OpenVino(source.path, bf16=is_bf16)
    except ModuleNotFoundError as error:
        raise missing_part(error) or error from None


def _gpu(source: Located, device: str) -> int | None:
    """The number of the requested CUDA device; None: the CPU."""
    if device in ("auto", "cpu"):
        return None
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number.isdecimal() or device == "cuda"):
        raise ConfigError(f"device '{device}': {source} is exported: use cpu, cuda or cuda:1")
    if source.kind != "onnx":
        raise ConfigError(
            f"device '{device}': {source} runs only on the cpu; for a GPU export to onnx, or load the run"
        )
    return int(number or 0)


def _load_cuda(onnxruntime: Any) -> None:
    """Loads the CUDA libraries that ONNX Runtime needs, if they are installed as Python packages.

    Raises:
        ConfigError: if the installed ONNX Runtime is one for CPUs.
    """
    available = onnxruntime.get_available_providers()
    if _CUDA not in available:
        raise ConfigError(
            f"device 'cuda': the ONNX Runtime that is installed has no CUDA ({', '.join(available)}): "
            "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    onnxruntime.set_default_logger_severity(4)  # our own error says in one line what is missing
    with redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()


def _check_names(path: Path, inputs: list[str], outputs: list[str]) -> None:
    if inputs != [INPUT] or not set(OUTPUTS) <= set(outputs):
        raise CheckpointError(
            f"{path}: not a grcn detector: from {inputs[:4]} to {outputs[:4]}, not from ['{INPUT}'] to {list(OUTPUTS)}"
        )
