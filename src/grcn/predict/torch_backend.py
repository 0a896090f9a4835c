"""Runs the network of a detector with torch, with the same interface as an exported network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from grcn.config import DetectorConfig, Optimization
from grcn.data.transforms import resize, scale_boxes
from grcn.errors import CheckpointError, ConfigError
from grcn.model.detector import RCNN, build_detector
from grcn.predict.checkpoint import LoadedDetector, load_detector
from grcn.predict.locate import Located
from grcn.predict.optimize import optimized
from grcn.predict.published import PUBLISHED, load_published, read_torchvision
from grcn.predict.stream import Prepared
from grcn.presets import preset
from grcn.types import Detections

if TYPE_CHECKING:
    from grcn.predict.stream import Pixels


class TorchBackend:
    """Prediction by a torch module.

    Args:
        model: the network; `detect` leaves its mode and gradients as they are.
    """

    def __init__(self, model: RCNN) -> None:
        self.model = model

    @property
    def num_classes(self) -> int:
        return self.model.num_classes

    @property
    def config(self) -> DetectorConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def prepare(self, image: Pixels) -> Prepared:
        """Resizes a photo, uint8 [H, W, 3] or a tensor [3, H, W], as in training, on the device that it is on."""
        if not isinstance(image, Tensor):
            # [H, W, 3] in memory, on which resizing is fastest, as in the loader. It is copied only if torch needs it.
            image = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
        size = self.config.input
        return Prepared(resize(image, size.short_side, size.long_side), _size(image))

    def detect(
        self, images: list[Prepared], class_names: tuple[str, ...], score: float | None = None
    ) -> list[Detections]:
        """The objects in photos, above `score`; None: above the model's own threshold."""
        with _evaluating(self.model):
            outputs = self.model([image.input.to(self.device) for image in images], score=score)
        return [
            to_detections(output, _size(image.input), image.size, class_names)
            for output, image in zip(outputs, images, strict=True)
        ]


def load(
    source: Located, *, device: str | torch.device, class_names: Sequence[str] | None, optimize: Optimization
) -> LoadedDetector:
    """Loads a detector from weights or the name of a preset; arguments and errors as in `Detector.load`."""
    target = _device(device)
    if source.kind == "preset" and class_names:
        model = build_detector(str(source), len(class_names))
        loaded = LoadedDetector(model, tuple(class_names), str(source), {})
    else:
        loaded = load_trained(source)
        if class_names is not None and source.kind != "state_dict":
            raise ConfigError(f"{source}: has its own class names; leave class_names out")
        loaded = replace(loaded, class_names=tuple(class_names or loaded.class_names))
    return replace(loaded, model=optimized(loaded.model, optimize).to(target))


def load_trained(source: Located) -> LoadedDetector:
    """The trained detector as it was saved.

    Raises:
        CheckpointError: if it cannot be read or downloaded, or is an exported detector.
        ConfigError: on a preset without published COCO weights.
    """
    if source.is_exported:
        raise CheckpointError(f"{source}: is exported; give the run that it was made from")
    if source.kind == "preset":
        if str(source) not in PUBLISHED:
            raise ConfigError(
                f"preset '{source}' is untrained and has no classes yet; give class_names (COCO's weights are "
                f"published for {' and '.join(PUBLISHED)})"
            )
        return load_published(preset(str(source)))
    theirs = read_torchvision(source.path) if source.kind == "state_dict" else None
    return theirs or load_detector(source.path)


def to_detections(
    output: dict[str, Tensor], seen: tuple[int, int], own: tuple[int, int], class_names: tuple[str, ...]
) -> Detections:
    """Converts the model's output for one image to `Detections` in pixels of the image, clipped to the image.

    Args:
        output: `boxes`, `scores` and `labels`, in pixels of the resized image that the model saw.
        seen: height and width of the resized image; own: those of the image itself.
    """
    height, width = own
    boxes = scale_boxes(output["boxes"].float().cpu(), seen, own).clamp(min=0)  # [N, 4]
    boxes = boxes.minimum(boxes.new_tensor([width, height] * 2))
    return Detections(
        boxes.numpy(), output["scores"].float().cpu().numpy(), output["labels"].cpu().numpy(), class_names
    )


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


NO_MPS = "mps: some computations on boxes need float64, which Apple's GPUs do not have; use cpu"


def _device(name: str | torch.device) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "mps":
            raise ConfigError(NO_MPS)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA raises AssertionError
        raise ConfigError(f"device '{name}': {str(error).splitlines()[0]}") from None
    return device


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Sets evaluation mode without gradients, and restores the mode of each module at the end, even after an error.

    This uses no_grad, not inference_mode, since a tensor that the model keeps (anchors) must be usable in training.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
