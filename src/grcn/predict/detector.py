"""The trained detector that users work with: pictures in, `Detections` out, with boxes in pixels of the pictures.

A network computes them: a torch module (`grcn.predict.torch_backend`) or an exported file (`grcn.predict.runtimes`).
An exported file runs without torch, so this module does not import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_args, overload

import numpy as np
from PIL import Image

from grcn.config import DetectorConfig, Optimization, Score, Tiles
from grcn.data.image import read_image
from grcn.errors import CheckpointError, ConfigError, ImageError
from grcn.predict.hub import download_weights, push
from grcn.predict.locate import locate
from grcn.predict.runtimes import Exported, open_exported
from grcn.predict.stream import Network, stream
from grcn.predict.tiles import stream_tiles
from grcn.thresholds import Thresholds, calibrate, check_score, no_thresholds, unscaled
from grcn.types import Array, Detections, duplicate

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from grcn.model.detector import RCNN
    from grcn.predict.stream import Pixels

    Picture: TypeAlias = str | Path | bytes | Image.Image | NDArray[np.uint8] | torch.Tensor

S = TypeVar("S")
T = TypeVar("T")


class Detector:
    """A detector and its class names, ready to predict.

    Args:
        model: the network: a torch module, or a network that `Detector.load` opened.
        class_names: the C names, in the order of the class ids.
        preset: name of the configuration that the network was built from, for the record.
        thresholds: the thresholds and the temperature stored in the file, if any.
        calibrated: return scores that are probabilities of being right, using the temperature of `thresholds`.

    Attributes:
        thresholds: thresholds for the scores that this detector returns; None if it has none.

    Raises:
        ConfigError: if the number of names is not C, if two names are equal, or on `calibrated` without thresholds.
    """

    def __init__(
        self,
        model: RCNN | Network,
        class_names: Sequence[str],
        preset: str = "",
        *,
        thresholds: Thresholds | None = None,
        calibrated: bool = False,
    ) -> None:
        if isinstance(model, Network):
            self.network: Network = model
        else:
            from grcn.predict.torch_backend import TorchBackend

            self.network = TorchBackend(model)
        if len(class_names) != self.network.num_classes:
            raise ConfigError(f"{len(class_names)} class names for a model of {self.network.num_classes} classes")
        if twice := duplicate(class_names):
            raise ConfigError(f"class '{twice}' is named twice; results could not tell one from the other")
        self.class_names = tuple(class_names)
        self.preset = preset
        self.temperature: float | None = None
        if calibrated:
            if thresholds is None:
                raise no_thresholds(None)
            self.temperature, thresholds = thresholds.temperature, thresholds.calibrated()
        self.thresholds = thresholds
        self.source: Path | None = None  # the weights file that it was loaded from

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "auto",
        class_names: Sequence[str] | None = None,
        optimize: Optimization = "fold",
        calibrated: bool = False,
    ) -> Detector:
        """Loads a detector from a run folder, a weights file, an exported file, the Hugging Face Hub or a preset.

        Args:
            source: one of these:

                - a run folder (`best.safetensors` is loaded, or `last.safetensors` if there is no best);
                - a `.safetensors` file written by grcn;
                - a file or folder written by `grcn export` (a `.onnx` file, an OpenVINO folder);
                - `hf://user/name` or `hf://user/name@revision` (see `from_pretrained`);
                - a state dict of torchvision's Faster R-CNN with a pyramid (.pth);
                - the name of a preset. `faster_rcnn_r50_fpn` and its `_v2` come with torchvision's COCO weights. All
                  other presets, and these two with `class_names`, have a backbone with ImageNet weights, and the rest
                  is untrained.
            device: as torch names it; `auto` is the first CUDA device, or the CPU if there is none. Exported files run
                on the CPU; an `.onnx` file also runs on `cuda` (this needs onnxruntime-gpu).
            class_names: names for the detector of a preset or for torchvision's file; detectors trained by grcn have
                their own.
            optimize: how the network is made faster (`grcn.predict.optimize.optimized`). `fold` leaves the detections
                the same, `bf16` changes them slightly, `none` keeps the network as trained. Exported files are always
                folded; OpenVINO also computes in bfloat16.
            calibrated: return scores that are probabilities of being right, using the temperature in the file. By
                default the scores are those of the network.

        Raises:
            CheckpointError: if the file does not exist, or is not a detector of grcn.
            ConfigError: on a preset without class names, class names for weights that have their own, an unknown device
                or optimization, a runtime that is not installed, or `calibrated` with a file without a temperature.
        """
        if optimize not in get_args(Optimization):
            raise ConfigError(f"optimize '{optimize}': use one of {', '.join(get_args(Optimization))}")
        located = locate(source)
        if not located.is_exported:
            from grcn.predict.torch_backend import load

            loaded = load(located, device=device, class_names=class_names, optimize=optimize)
            thresholds = _thresholds(loaded.extra, loaded.class_names, source, needed=calibrated)
            detector = cls(
                loaded.model, loaded.class_names, loaded.preset, thresholds=thresholds, calibrated=calibrated
            )
            detector.source = loaded.file
            return detector
        if class_names is not None:
            raise ConfigError(f"{source}: has its own class names; leave class_names out")
        exported = open_exported(located, optimize, str(device))
        header = exported.header
        thresholds = _thresholds(header.extra, header.class_names, source, needed=calibrated)
        return cls(exported, header.class_names, header.preset, thresholds=thresholds, calibrated=calibrated)

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
        calibrated: bool = False,
    ) -> Detector:
        """Loads a detector from the Hugging Face Hub. Only the weights file is downloaded, into the Hub's cache.

        Args:
            repo_id, revision, token, cache_dir, local_files_only: as `grcn.predict.hub.download_weights`.
            device, optimize, calibrated: as `load`.

        Raises:
            CheckpointError: if it cannot be downloaded, or is not a detector of grcn.
            ConfigError: without the extra `hub`, on an invalid name of a repository, and as `load`.
        """
        file = download_weights(
            repo_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls.load(file, device=device, optimize=optimize, calibrated=calibrated)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the weights file that this detector was loaded from, with a model card, to the Hugging Face Hub.

        Args:
            repo_id: `user/name`, created if it does not exist.
            options: token, private, license, half, metrics, message: as `grcn.predict.hub.push`.

        Returns:
            The repository's address.

        Raises:
            CheckpointError: if the Hub refuses, or the detector was not loaded from a file.
            ConfigError: without the extra `hub`, or on an invalid name of a repository.
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
            ConfigError: if the detector is an exported one.
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
        """The device that it runs on: a torch device, or the name of the runtime."""
        return self.network.device

    @overload
    def predict(
        self, images: Picture, *, score: Score | None = ..., batch_size: int = ..., tiles: Tiles | int | None = ...
    ) -> Detections: ...
    @overload
    def predict(
        self,
        images: list[Any] | tuple[Any, ...],
        *,
        score: Score | None = ...,
        batch_size: int = ...,
        tiles: Tiles | int | None = ...,
    ) -> list[Detections]: ...
    def predict(
        self,
        images: Picture | list[Any] | tuple[Any, ...],
        *,
        score: Score | None = None,
        batch_size: int = 1,
        tiles: Tiles | int | None = None,
    ) -> Detections | list[Detections]:
        """Finds the objects in one picture, or in each picture of a list.

        Args:
            images: a path, the bytes of a file, a PIL image, a uint8 RGB array [H, W, 3], a tensor [3, H, W] (uint8,
                or float in 0..1), or a list of these, of any sizes. Files are decoded upright, as in training.
            score: the lowest score of a detection. With 0, the model returns as many as it keeps per image
                (`roi.detections_per_image`). `best` and `precise` use the stored threshold of each class. None is the
                model's own threshold (`roi.score_threshold`).
            batch_size: number of pictures, or of tiles of a picture, that go through the network together.
            tiles: detect tile by tile, for pictures much larger than the network's input: a `grcn.config.Tiles`, or the
                side of a tile in pixels. This can give more detections than the model keeps per image.

        Returns:
            Detections sorted by descending score, with boxes in pixels of the picture, clipped to it; for a list of
            pictures, a list of detections.

        Raises:
            ImageError: on a file that cannot be decoded, or a value that is not a picture.
            ConfigError: on a score below the threshold built into an exported detector; on `best` or `precise` if the
                file has no thresholds; on tiles of another size than a detector exported for one size takes.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: needs at least 1")
        single = not isinstance(images, (list, tuple))
        pictures = list(images) if isinstance(images, (list, tuple)) else [images]
        named = [(picture, "image" if single else f"images[{i}]") for i, picture in enumerate(pictures)]
        results = self.stream(
            named, score=score, batch_size=batch_size, workers=0, tiles=tiles, read=lambda source: to_pixels(*source)
        )
        found: list[Detections] = []
        for _, result in results:
            if isinstance(result, ImageError):
                raise result
            found.append(result)
        return found[0] if single else found

    @overload
    def stream(
        self,
        sources: Iterable[S],
        *,
        score: Score | None = ...,
        batch_size: int = ...,
        workers: int = ...,
        tiles: Tiles | int | None = ...,
        read: Callable[[S], Pixels] | None = ...,
    ) -> Iterator[tuple[S, Detections | ImageError]]: ...
    @overload
    def stream(
        self,
        sources: Iterable[S],
        *,
        score: Score | None = ...,
        batch_size: int = ...,
        workers: int = ...,
        tiles: Tiles | int | None = ...,
        read: Callable[[S], Pixels] | None = ...,
        finish: Callable[[S, Any, Detections], T],
    ) -> Iterator[tuple[S, T | ImageError]]: ...
    def stream(
        self,
        sources: Iterable[Any],
        *,
        score: Score | None = None,
        batch_size: int = 1,
        workers: int = 2,
        tiles: Tiles | int | None = None,
        read: Callable[[Any], Pixels] | None = None,
        finish: Callable[[Any, Any, Detections], Any] | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Finds the objects in many pictures, in order. While the network runs, threads read the next pictures.

        ```python
        for path, found in detector.stream(sorted(folder.glob("*.jpg"))):
            print(path, found if isinstance(found, ImageError) else found.names)
        ```
        A picture that cannot be read does not stop the others. Memory is bounded, however many pictures there are.

        Args:
            sources: pictures as `predict` takes them, or anything that `read` takes. An iterator is consumed as needed.
            score: as in `predict`.
            batch_size: number of pictures, all of one size after resizing, that go through the network together.
            workers: threads that run `read` and `finish`. With `tiles` they cut the tiles instead, and only one picture
                is in memory at a time.
            tiles: as in `predict`.
            read: turns a source into a picture, uint8 [H, W, 3] RGB; may raise ImageError. Default: as in `predict`.
            finish: turns source, pixels and detections into the result, for instance a drawn picture. Runs in a thread;
                may raise ImageError. Default: the result is the detections.

        Yields:
            Each source with its detections, or the result of `finish`; or with an ImageError if there are none.

        Raises:
            ConfigError: as `predict`.
        """
        if batch_size < 1 or workers < 0:
            raise ConfigError(f"batch_size {batch_size} and workers {workers}: need at least 1 and 0")
        least = self.least(score)

        def finished(source: Any, pixels: Pixels, found: Detections) -> Any:
            found = found if self.temperature is None else calibrate(found, self.temperature)
            found = found if least is None else found.above(least)
            return found if finish is None else finish(source, pixels, found)

        if isinstance(tiles, int):
            tiles = Tiles(tiles)
        work = stream if tiles is None else partial(stream_tiles, tiles=tiles)
        return work(
            self.network,
            sources,
            self.class_names,
            read=read or to_pixels,
            finish=finished,
            score=self.lowered(score),
            batch_size=batch_size,
            workers=workers,
        )

    def least(self, score: Score | None) -> float | Array | None:
        """The lowest score that `predict` keeps for `score`: one number, or [C] if each class has its own.

        Raises:
            ConfigError: if `score` needs thresholds and there are none, or if it is not a valid score.
        """
        if not isinstance(score, str):
            return score
        check_score(score)
        if self.thresholds is None:
            if isinstance(self.network, Exported):
                raise no_thresholds(self.network.path, exported=True)
            raise no_thresholds(self.source)
        return self.thresholds.of(score)

    def lowered(self, score: Score | None) -> float | None:
        """The threshold to give to the network for `score`; None if the network's own threshold is low enough."""
        least = self.least(score)
        if least is None:
            return None
        lowest = float(np.min(least))
        if self.temperature is not None:
            lowest = unscaled(lowest, self.temperature)
        if lowest >= self.config.roi.score_threshold:
            return None
        return float(np.nextafter(np.float32(lowest), np.float32(-1)))  # networks keep what is above it


def _thresholds(
    extra: Mapping[str, Any], class_names: Sequence[str], source: str | Path, *, needed: bool
) -> Thresholds | None:
    """The thresholds in the header of a file; an error if they are `needed` and missing."""
    thresholds = Thresholds.from_extra(extra, class_names, source)
    if needed and thresholds is None:
        raise no_thresholds(source, exported=locate(source).is_exported)
    return thresholds


def to_pixels(picture: Any, name: str = "picture") -> Pixels:
    """Converts a picture of any accepted kind to uint8 [H, W, 3] RGB, or, on a GPU, to a tensor uint8 [3, H, W] there.

    Raises:
        ImageError: on anything else; it names the picture, what was found and what is accepted.
    """
    if isinstance(picture, (str, Path)):
        return read_image(picture)
    if isinstance(picture, (Image.Image, bytes)):
        return read_image(picture, name=name)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ImageError(f"{name}: array {picture.dtype} {list(picture.shape)}; needs uint8 [H, W, 3], RGB")
        return picture
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if torch is not None and isinstance(picture, torch.Tensor):
        return _from_tensor(picture, name)
    raise ImageError(f"{name}: {type(picture).__name__} is not a picture; needs a path, PIL image, array or tensor")


def _from_tensor(picture: torch.Tensor, name: str) -> Pixels:
    if picture.ndim != 3 or picture.shape[0] != 3 or not picture.numel():
        raise ImageError(f"{name}: tensor {list(picture.shape)}; needs [3, H, W] (several images: a list)")
    values = picture.detach()
    if picture.is_floating_point():
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # false for NaN, too
            raise ImageError(f"{name}: float tensor with values {low:g}..{high:g}; needs 0..1")
        values = (values.float() * 255).round().byte()
    elif str(picture.dtype) != "torch.uint8":
        raise ImageError(f"{name}: tensor of {picture.dtype}; needs uint8, or float in 0..1")
    if values.device.type != "cpu":
        return values
    pixels: NDArray[np.uint8] = values.permute(1, 2, 0).numpy()
    return pixels
