"""The trained detector as a user holds it: pictures in, `Detections` out, boxes in the pictures' own pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from grcn.config import DetectorConfig
from grcn.data.image import read_image
from grcn.data.transforms import resize, scale_boxes
from grcn.errors import CheckpointError, ConfigError, ImageError
from grcn.hub import PREFIX, download, parse_address, push
from grcn.model.detector import RCNN, build_detector
from grcn.model.optimize import Optimization, optimized
from grcn.model.weights import load_detector
from grcn.presets import PRESETS
from grcn.types import Detections

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture: TypeAlias = str | Path | Image.Image | NDArray[np.uint8] | Tensor


class Detector:
    """A detector and its class names, ready to predict.

    Args:
        model: the network; `predict` leaves its mode and gradients as they are.
        class_names: the C names, by class id.
        preset: the name of the configuration it was made from, for the record.
    """

    def __init__(self, model: RCNN, class_names: Sequence[str], preset: str = "") -> None:
        if len(class_names) != model.num_classes:
            raise ConfigError(f"{len(class_names)} class names for a model of {model.num_classes} classes")
        self.model = model
        self.class_names = tuple(class_names)
        self.preset = preset
        self.source: Path | None = None  # the file that it was loaded from

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "auto",
        class_names: Sequence[str] | None = None,
        optimize: Optimization = "fold",
    ) -> Detector:
        """A detector from a run folder, a weights file, the Hugging Face Hub or the name of a preset.

        Args:
            source: a run folder (its `best.safetensors`, else `last.safetensors`), a `.safetensors` file written by
                grcn, `hf://user/name` or `hf://user/name@revision` (`from_pretrained`), or a preset's name: then the
                backbone has its ImageNet weights and the rest is untrained.
            device: as torch names it; `auto`: the first CUDA device where there is one, else the CPU.
            class_names: of a preset's detector; a trained one has its own.
            optimize: how the network is made faster (`grcn.model.optimize.optimized`): `fold`, which leaves the
                detections the same; `bf16`, which changes them a little; `none`: as it was trained.

        Raises:
            CheckpointError: where there is no such file, or it is no detector of grcn.
            ConfigError: on a preset without class names, class names beside trained weights, or an unknown device
                or optimization.
        """
        target = _device(device)
        if optimize not in get_args(Optimization):
            raise ConfigError(f"optimize '{optimize}': use one of {', '.join(get_args(Optimization))}")
        if str(source) in PRESETS and not Path(source).exists():
            if not class_names:
                raise ConfigError(f"preset '{source}' is untrained and has no classes yet; give class_names")
            model = build_detector(str(source), len(class_names))
            return cls(optimized(model, optimize).to(target), class_names, str(source))
        if class_names is not None:
            raise ConfigError(f"{source}: has its own class names; leave class_names out")
        if isinstance(source, str) and source.startswith(PREFIX):
            source = download(*parse_address(source))
        file = _weights_file(Path(source))
        loaded = load_detector(file)
        detector = cls(optimized(loaded.model, optimize).to(target), loaded.class_names, loaded.preset)
        detector.source = file
        return detector

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
            repo_id, revision, token, cache_dir, local_files_only: as `grcn.hub.download`.
            device, optimize: as `load`.

        Raises:
            CheckpointError: where it cannot be fetched, or is no detector of grcn.
            ConfigError: without the extra `hub`, on a name that no repository can have, and as `load`.
        """
        file = download(repo_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        return cls.load(file, device=device, optimize=optimize)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the file that this detector was loaded from, with a model card, to the Hugging Face Hub.

        Args:
            repo_id: `user/name`, made where absent.
            options: token, private, license, half, metrics, message: as `grcn.hub.push`.

        Returns:
            The repository's address.

        Raises:
            CheckpointError: where the Hub refuses, or the detector was not loaded from a file.
            ConfigError: without the extra `hub`, or on a name that no repository can have.
        """
        if self.source is None:
            raise CheckpointError(
                "not loaded from a file: write it with grcn.model.weights.save_detector and load that"
            )
        return push(self.source, repo_id, **options)

    @property
    def config(self) -> DetectorConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

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
            score: only detections of at least this score; None: the model's own threshold, below which it keeps none.
            batch_size: pictures of a list that pass through the network together.

        Returns:
            Detections with boxes in the picture's own pixels, clipped to it, by falling score; a list for a list.

        Raises:
            ImageError: on a file that cannot be decoded, or a value that is no picture.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: needs at least 1")
        single = not isinstance(images, (list, tuple))
        pictures = images if isinstance(images, (list, tuple)) else [images]
        found: list[Detections] = []
        for start in range(0, len(pictures), batch_size):
            batch = [
                _to_tensor(picture, "image" if single else f"images[{start + i}]")
                for i, picture in enumerate(pictures[start : start + batch_size])
            ]
            found.extend(self._predict_batch(batch))
        if score is not None:
            found = [detections.above(score) for detections in found]
        return found[0] if single else found

    def _predict_batch(self, images: list[Tensor]) -> list[Detections]:
        """Detections in uint8 images [3, H, W] of any sizes."""
        size = self.config.input
        resized = [resize(image, size.short_side, size.long_side) for image in images]
        with _evaluating(self.model):
            outputs = self.model([image.to(self.device) for image in resized])
        return [
            to_detections(output, _size(small), _size(image), self.class_names)
            for output, image, small in zip(outputs, images, resized, strict=True)
        ]


def to_detections(
    output: dict[str, Tensor], seen: tuple[int, int], own: tuple[int, int], class_names: tuple[str, ...]
) -> Detections:
    """What the model found in one image, as `Detections` in the image's own pixels, inside the image.

    Args:
        output: `boxes`, `scores` and `labels` in the pixels of the image as the model saw it.
        seen: height and width of that; own: of the image itself.
    """
    height, width = own
    boxes = scale_boxes(output["boxes"].float().cpu(), seen, own).clamp(min=0)  # [N, 4]
    boxes = boxes.minimum(boxes.new_tensor([width, height] * 2))
    return Detections(
        boxes.numpy(), output["scores"].float().cpu().numpy(), output["labels"].cpu().numpy(), class_names
    )


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _device(name: str | torch.device) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA raises AssertionError
        raise ConfigError(f"device '{name}': {str(error).splitlines()[0]}") from None
    return device


def _weights_file(source: Path) -> Path:
    """The weights file that `source`, a file or a run folder, stands for."""
    if not source.is_dir():
        if not source.exists():
            raise CheckpointError(f"{source}: no such run folder, weights file or preset (`grcn models` lists presets)")
        return source
    for name in ("best.safetensors", "last.safetensors"):
        if (source / name).is_file():
            return source / name
    raise CheckpointError(f"{source}: no best.safetensors or last.safetensors; is it the folder of a run?")


def _to_tensor(picture: Any, name: str) -> Tensor:
    """A picture of any accepted kind as uint8 [3, H, W], which is what training sees.

    Raises:
        ImageError: naming the picture, what was found, and what is accepted.
    """
    if isinstance(picture, (str, Path)):
        return _from_array(read_image(picture))
    if isinstance(picture, Image.Image):
        return _from_array(read_image(picture, name=name))
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ImageError(f"{name}: array {picture.dtype} {list(picture.shape)}; needs uint8 [H, W, 3], RGB")
        return _from_array(picture)
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or picture.shape[0] != 3 or not picture.numel():
            raise ImageError(f"{name}: tensor {list(picture.shape)}; needs [3, H, W] (several images: a list)")
        if picture.dtype == torch.uint8:
            return picture.detach().cpu()
        if not picture.is_floating_point():
            raise ImageError(f"{name}: tensor of {picture.dtype}; needs uint8, or float in 0..1")
        low, high = (float(v) for v in torch.aminmax(picture.detach()))
        if not (low >= 0 and high <= 1):  # false for NaN, too
            raise ImageError(f"{name}: float tensor with values {low:g}..{high:g}; needs 0..1")
        return (picture.detach().float().cpu() * 255).round().to(torch.uint8)
    raise ImageError(f"{name}: {type(picture).__name__} is no picture; needs a path, PIL image, array or tensor")


def _from_array(array: NDArray[np.uint8]) -> Tensor:
    # [H, W, 3] in memory, as the loader's images: resizing is fastest on it. A copy only where torch needs one.
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).permute(2, 0, 1)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each module's own mode is restored, also after an error.

    no_grad, not inference_mode: a map that the model keeps (anchors) must stay usable in a later training step.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
