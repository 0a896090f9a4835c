"""The trained detector as a user holds it: pictures in, `Detections` out, boxes in the pictures' own pixels.

What computes them is a network: torch's (`grcn.predict.torch_backend`) or an exported file's
(`grcn.predict.runtimes`). The latter needs no torch, so nothing here imports it.
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
        model: the network: a torch module, or one that `Detector.load` opened.
        class_names: the C names, by class id.
        preset: the name of the configuration it was made from, for the record.
        thresholds: what its file says of its scores.
        calibrated: hand out scores that are probabilities of being right, by the temperature of `thresholds`.

    Attributes:
        thresholds: of the scores as they are handed out; None where it has none.

    Raises:
        ConfigError: if there are not C names, or two are the same; on `calibrated` without thresholds.
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
        """A detector from a run folder, a weights file, an exported file, the Hugging Face Hub or the name of a
        preset.

        Args:
            source: a run folder (its `best.safetensors`, else `last.safetensors`), a `.safetensors` file written by
                grcn, what `grcn export` made (a `.onnx` file, an OpenVINO folder), `hf://user/name` or
                `hf://user/name@revision` (`from_pretrained`), a state dict of torchvision's Faster R-CNN with a pyramid
                (.pth), or a preset's name. `faster_rcnn_r50_fpn` and its `_v2` come with torchvision's COCO weights;
                with class names, and elsewhere, the backbone has its ImageNet weights and the rest is untrained.
            device: as torch names it; `auto`: the first CUDA device where there is one, else the CPU. What was
                exported runs on the CPU, an `.onnx` file with `cuda` on a GPU (needs onnxruntime-gpu).
            class_names: of a preset's detector, or of torchvision's file; what grcn trained has its own.
            optimize: how the network is made faster (`grcn.predict.optimize.optimized`): `fold`, which leaves the
                detections the same; `bf16`, which changes them a little; `none`: as it was trained. What was exported
                is folded; OpenVINO computes it in bfloat16 on request.
            calibrated: hand out scores that are probabilities of being right, by the temperature in the file; default:
                the network's own.

        Raises:
            CheckpointError: if there is no such file, or it is no detector of grcn.
            ConfigError: on a preset without class names, class names beside trained weights, an unknown device or
                optimization, a runtime that is not installed, or `calibrated` with a file that has no temperature.
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
        """A detector from the Hugging Face Hub: its weights file alone is fetched, and kept in the Hub's cache.

        Args:
            repo_id, revision, token, cache_dir, local_files_only: as `grcn.predict.hub.download_weights`.
            device, optimize, calibrated: as `load`.

        Raises:
            CheckpointError: if it cannot be fetched, or is no detector of grcn.
            ConfigError: without the extra `hub`, on a name that no repository can have, and as `load`.
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
        """What it runs on: torch's device, or the runtime's name."""
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
        """The objects in one picture, or in each of a list.

        Args:
            images: a path, the bytes of a file, a PIL image, a uint8 RGB array [H, W, 3], a tensor [3, H, W] (uint8,
                or float in 0..1), or a list of these, of any sizes. Files are decoded upright, as in training.
            score: only detections of at least this score, 0 for as many as the model keeps of an image
                (`roi.detections_per_image`); `best`, `precise`: those of its thresholds, which each class has its own;
                None: its own threshold (`roi.score_threshold`).
            batch_size: pictures of a list, or tiles of a picture, that pass through the network together.
            tiles: look at each picture tile by tile, for those much larger than what the network sees:
                `grcn.config.Tiles`, or the side of a tile in pixels. There may be more detections than the model keeps
                of an image.

        Returns:
            Detections with boxes in the picture's own pixels, clipped to it, by falling score; a list for a list.

        Raises:
            ImageError: on a file that cannot be decoded, or a value that is no picture.
            ConfigError: on a score below its own threshold, which an exported detector has built in; on `best` and
                `precise` where its file has no thresholds; on tiles of another size than the one that it is exported
                for.
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
        """The objects in many pictures, in order: while the network looks at some, threads read the next ones.

        ```python
        for path, found in detector.stream(sorted(folder.glob("*.jpg"))):
            print(path, found if isinstance(found, ImageError) else found.names)
        ```
        A picture that cannot be read costs itself alone. Memory stays bounded however many there are.

        Args:
            sources: pictures as `predict` takes them, or whatever `read` takes; an iterator is read as it is needed.
            score: as `predict`.
            batch_size: pictures of one size, after resizing, that pass through the network together.
            workers: threads that read and finish; with `tiles`, that cut them: then one picture is in memory at a time.
            tiles: as `predict`.
            read: makes a picture, uint8 [H, W, 3] RGB, of a source; may raise ImageError. Default: as `predict`.
            finish: makes of source, pixels and detections what is handed out, such as a drawn picture, in a thread; may
                raise ImageError. Default: the detections.

        Yields:
            Each source with its detections, or what `finish` makes of them; with an ImageError where there are none.

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
        """The lowest score that is kept where `predict` is asked for `score`; [C] where each class has its own.

        Raises:
            ConfigError: if it has no thresholds, or `score` is none.
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
        """What the network is to keep all above of for `score`, where that is below its own threshold; None: its own
        threshold does."""
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
    """The thresholds in a file's header; where they are needed, there must be some."""
    thresholds = Thresholds.from_extra(extra, class_names, source)
    if needed and thresholds is None:
        raise no_thresholds(source, exported=locate(source).is_exported)
    return thresholds


def to_pixels(picture: Any, name: str = "picture") -> Pixels:
    """A picture of any accepted kind as uint8 [H, W, 3], which is what training sees; a tensor on a GPU stays there, as
    uint8 [3, H, W].

    Raises:
        ImageError: naming the picture, what was found, and what is accepted.
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
