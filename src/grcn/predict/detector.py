"""The trained detector as a user holds it: pictures in, `Detections` out, boxes in the pictures' own pixels.

What computes them is a network: torch's (`grcn.predict.torch_backend`) or an exported file's
(`grcn.predict.runtimes`). The latter needs no torch, so nothing here imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, get_args, overload, runtime_checkable

import numpy as np
from PIL import Image

from grcn.config import DetectorConfig, Optimization
from grcn.data.image import read_image
from grcn.errors import CheckpointError, ConfigError, ImageError
from grcn.predict.hub import download, local, push
from grcn.predict.runtimes import open_exported
from grcn.types import Detections, duplicate

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from grcn.model.detector import RCNN

    Picture: TypeAlias = str | Path | Image.Image | NDArray[np.uint8] | torch.Tensor


@runtime_checkable
class Network(Protocol):
    """What a detector needs of what computes it."""

    @property
    def num_classes(self) -> int: ...
    @property
    def config(self) -> DetectorConfig: ...
    @property
    def device(self) -> Any:
        """What it runs on, as torch or the runtime calls it."""

    def detect(
        self, images: list[NDArray[np.uint8]], class_names: tuple[str, ...], score: float | None = None
    ) -> list[Detections]:
        """The objects in images [H, W, 3] of any sizes, above `score`; None: above the model's own threshold."""


class Detector:
    """A detector and its class names, ready to predict.

    Args:
        model: the network: a torch module, or one that `Detector.load` opened.
        class_names: the C names, by class id.
        preset: the name of the configuration it was made from, for the record.

    Raises:
        ConfigError: where there are not C names, or two are the same.
    """

    def __init__(self, model: RCNN | Network, class_names: Sequence[str], preset: str = "") -> None:
        if not isinstance(model, Network):
            from grcn.predict.torch_backend import Eager

            model = Eager(model)
        if len(class_names) != model.num_classes:
            raise ConfigError(f"{len(class_names)} class names for a model of {model.num_classes} classes")
        if twice := duplicate(class_names):
            raise ConfigError(f"class '{twice}' is named twice; results could not tell one from the other")
        self.network = model
        self.class_names = tuple(class_names)
        self.preset = preset
        self.source: Path | None = None  # the weights file that it was loaded from

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "auto",
        class_names: Sequence[str] | None = None,
        optimize: Optimization = "fold",
    ) -> Detector:
        """A detector from a run folder, a weights file, an exported file, the Hugging Face Hub or the name of a
        preset.

        Args:
            source: a run folder (its `best.safetensors`, else `last.safetensors`), a `.safetensors` file written by
                grcn, what `grcn export` made (a `.onnx` file, an OpenVINO folder), `hf://user/name` or
                `hf://user/name@revision` (`from_pretrained`), a state dict of torchvision's Faster R-CNN with a pyramid
                (.pth), or a preset's name. `faster_rcnn_r50_fpn` and its `_v2` come with torchvision's COCO weights;
                with class names, and elsewhere, the backbone has its ImageNet weights and the rest is untrained.
            device: as torch names it; `auto`: the first CUDA device where there is one, else the CPU. What was
                exported runs on the CPU.
            class_names: of a preset's detector, or of torchvision's file; what grcn trained has its own.
            optimize: how the network is made faster (`grcn.predict.optimize.optimized`): `fold`, which leaves the
                detections the same; `bf16`, which changes them a little; `none`: as it was trained. What was exported
                is folded; OpenVINO computes it in bfloat16 on request.

        Raises:
            CheckpointError: where there is no such file, or it is no detector of grcn.
            ConfigError: on a preset without class names, class names beside trained weights, an unknown device or
                optimization, or a runtime that is not installed.
        """
        if optimize not in get_args(Optimization):
            raise ConfigError(f"optimize '{optimize}': use one of {', '.join(get_args(Optimization))}")
        source = local(source)
        exported = open_exported(source, optimize)
        if exported is None:
            from grcn.predict.torch_backend import load

            loaded = load(source, device=device, class_names=class_names, optimize=optimize)
            detector = cls(loaded.model, loaded.class_names, loaded.preset)
            detector.source = loaded.file
            return detector
        if class_names is not None:
            raise ConfigError(f"{source}: has its own class names; leave class_names out")
        if str(device) not in ("auto", "cpu"):
            raise ConfigError(f"device '{device}': {source} is exported and runs on the cpu; load the run itself")
        return cls(exported, exported.header.class_names, exported.header.preset)

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        device: str | torch.device = "auto",
        optimize: Optimization = "fold",
    ) -> Detector:
        """A detector from the Hugging Face Hub: its weights file alone is fetched, and kept in the Hub's cache.

        Args:
            repo_id, revision, token, cache_dir, local_files_only: as `grcn.predict.hub.download`.
            device, optimize: as `load`.

        Raises:
            CheckpointError: where it cannot be fetched, or is no detector of grcn.
            ConfigError: without the extra `hub`, on a name that no repository can have, and as `load`.
        """
        file = download(repo_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        return cls.load(file, device=device, optimize=optimize)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the weights file that this detector was loaded from, with a model card, to the Hugging Face Hub.

        Args:
            repo_id: `user/name`, made where absent.
            options: token, private, license, half, metrics, message: as `grcn.predict.hub.push`.

        Returns:
            The repository's address.

        Raises:
            CheckpointError: where the Hub refuses, or the detector was not loaded from a file.
            ConfigError: without the extra `hub`, or on a name that no repository can have.
        """
        if self.source is None:
            raise CheckpointError(
                "not loaded from a file: write it with grcn.predict.checkpoint.save_detector and load that"
            )
        return push(self.source, repo_id, **options)

    @property
    def model(self) -> RCNN:
        """The torch module.

        Raises:
            ConfigError: where the detector is an exported one.
        """
        model: RCNN | None = getattr(self.network, "model", None)
        if model is None:
            raise ConfigError("an exported detector has no torch module; load the run that it was made from")
        return model

    @property
    def config(self) -> DetectorConfig:
        return self.network.config

    @property
    def device(self) -> Any:
        """What it runs on: torch's device, or the runtime's name."""
        return self.network.device

    @overload
    def predict(self, images: Picture, *, score: float | None = ..., batch_size: int = ...) -> Detections: ...
    @overload
    def predict(
        self, images: list[Any] | tuple[Any, ...], *, score: float | None = ..., batch_size: int = ...
    ) -> list[Detections]: ...
    def predict(
        self, images: Picture | list[Any] | tuple[Any, ...], *, score: float | None = None, batch_size: int = 1
    ) -> Detections | list[Detections]:
        """The objects in one picture, or in each of a list.

        Args:
            images: a path, a PIL image, a uint8 RGB array [H, W, 3], a tensor [3, H, W] (uint8, or float in 0..1), or
                a list of these, of any sizes. Files are decoded upright, as in training.
            score: only detections of at least this score, 0 for as many as the model keeps of an image
                (`roi.detections_per_image`); None: its own threshold (`roi.score_threshold`).
            batch_size: pictures of a list that pass through the network together.

        Returns:
            Detections with boxes in the picture's own pixels, clipped to it, by falling score; a list for a list.

        Raises:
            ImageError: on a file that cannot be decoded, or a value that is no picture.
            ConfigError: on a score below its own threshold, which an exported detector has built in.
        """
        lower = None
        if score is not None and score < self.config.roi.score_threshold:
            lower = float(np.nextafter(np.float32(score), np.float32(-1)))  # networks keep what is above it
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: needs at least 1")
        single = not isinstance(images, (list, tuple))
        pictures = images if isinstance(images, (list, tuple)) else [images]
        found: list[Detections] = []
        for start in range(0, len(pictures), batch_size):
            batch = [
                _to_array(picture, "image" if single else f"images[{start + i}]")
                for i, picture in enumerate(pictures[start : start + batch_size])
            ]
            found.extend(self.network.detect(batch, self.class_names, lower))
        if score is not None:
            found = [detections.above(score) for detections in found]
        return found[0] if single else found


def _to_array(picture: Any, name: str) -> NDArray[np.uint8]:
    """A picture of any accepted kind as uint8 [H, W, 3], which is what training sees.

    Raises:
        ImageError: naming the picture, what was found, and what is accepted.
    """
    if isinstance(picture, (str, Path)):
        return read_image(picture)
    if isinstance(picture, Image.Image):
        return read_image(picture, name=name)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ImageError(f"{name}: array {picture.dtype} {list(picture.shape)}; needs uint8 [H, W, 3], RGB")
        return picture
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if torch is not None and isinstance(picture, torch.Tensor):
        return _from_tensor(picture, name)
    raise ImageError(f"{name}: {type(picture).__name__} is no picture; needs a path, PIL image, array or tensor")


def _from_tensor(picture: torch.Tensor, name: str) -> NDArray[np.uint8]:
    if picture.ndim != 3 or picture.shape[0] != 3 or not picture.numel():
        raise ImageError(f"{name}: tensor {list(picture.shape)}; needs [3, H, W] (several images: a list)")
    values = picture.detach().permute(1, 2, 0).cpu()
    if not picture.is_floating_point():
        if str(picture.dtype) != "torch.uint8":
            raise ImageError(f"{name}: tensor of {picture.dtype}; needs uint8, or float in 0..1")
        pixels: NDArray[np.uint8] = values.numpy()
        return pixels
    floats: NDArray[np.float32] = values.float().numpy()
    low, high = float(floats.min()), float(floats.max())
    if not (low >= 0 and high <= 1):  # false for NaN, too
        raise ImageError(f"{name}: float tensor with values {low:g}..{high:g}; needs 0..1")
    return np.rint(floats * 255).astype(np.uint8)
