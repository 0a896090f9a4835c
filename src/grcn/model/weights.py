"""Weights on disk: pretrained backbones in, detectors out and in. The only I/O of the model package.

A detector is one safetensors file; preset, configuration, class names and metrics travel in its header as JSON.
Nothing here unpickles: state dicts of others are read with torch's restricted loader (`weights_only`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from grcn.config import DetectorConfig
from grcn.errors import CheckpointError, ConfigError, first_line
from grcn.files import atomic_file
from grcn.header import KEY, Header, read_header
from grcn.model.backbone import build_classifier

if TYPE_CHECKING:
    from grcn.model.detector import RCNN


def load_backbone(network: nn.Module, config: DetectorConfig, weights: str | Path) -> None:
    """Fills torchvision's classification `network` in place.

    Args:
        weights: `imagenet`, or a file with the state dict of that network; its final classifier is not needed.

    Raises:
        CheckpointError: where the weights cannot be fetched or read, or do not fit, naming what is missing.
    """
    if str(weights) == "imagenet":
        if config.norm == "group":
            raise ConfigError("norm 'group' with weights 'imagenet': those were trained with batch norm; use 'bn'")
        state = download_state_dict(imagenet_url(config))
    else:
        state = read_state_dict(weights)
    needed = {k: v for k, v in network.state_dict().items() if not _is_answer(k, config)}
    state = {k: v for k, v in state.items() if not _is_answer(k, config) and not k.endswith("num_batches_tracked")}
    missing = [k for k in needed if k not in state and not k.endswith("num_batches_tracked")]
    unfit = [k for k, v in state.items() if k not in needed or not _fits(v, needed[k])]
    if missing or unfit:
        listed = ", ".join([f"-{k}" for k in missing[:3]] + [f"+{k}" for k in unfit[:3]])
        raise CheckpointError(
            f"{weights}: not the weights of {config.backbone} with norm '{config.norm}': "
            f"{len(missing)} missing (-), {len(unfit)} that do not fit (+): {listed}"
        )
    network.load_state_dict(state, strict=False)


def _fits(value: Tensor, wanted: Tensor) -> bool:
    """Whether `value` can be copied into `wanted` as it is: same shape, plain (neither sparse nor meta), same kind."""
    plain = value.layout == torch.strided and not value.is_meta
    return plain and value.shape == wanted.shape and value.is_floating_point() == wanted.is_floating_point()


def _is_answer(key: str, config: DetectorConfig) -> bool:
    """Whether a weight belongs to layers after the features, which only the head vgg_fc takes (fc6 and fc7)."""
    if config.head == "vgg_fc" and config.fc_channels == 4096:
        return key.startswith("classifier.6.")
    return key.startswith(("fc.", "classifier."))


def imagenet_url(config: DetectorConfig) -> str:
    """Address of torchvision's first published ImageNet weights of a backbone."""
    name = config.backbone + ("_bn" if config.backbone == "vgg16" and config.norm != "none" else "")
    url: str = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    return url


def download_state_dict(url: str) -> dict[str, Tensor]:
    """A published state dict, from torch's cache (TORCH_HOME) or downloaded there and checked by its hash.

    Raises:
        CheckpointError: where it cannot be fetched, or its content is not what its name promises.
    """
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except Exception as error:  # urllib, hashing and unpickling each raise their own
        raise CheckpointError(
            f"{url}: {first_line(error)}; fetch it by hand and pass weights=FILE, or start from weights=random"
        ) from None


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or in one that torch.save wrote (tensors only).

    Raises:
        CheckpointError: where the file is missing, broken or holds anything but tensors.
    """
    try:
        if str(path).endswith(".safetensors"):
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or first_line(error)}") from None
    except Exception as error:  # the two readers raise a dozen kinds on hostile input; torch's say how to execute it
        raise CheckpointError(
            f"{path}: broken, or no file of tensors alone ({type(error).__name__}); nothing in it was executed"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{path}: holds no state dict (names and tensors)")
    return state


def save_detector(
    path: str | Path, model: RCNN, *, class_names: tuple[str, ...], preset: str, extra: dict[str, Any]
) -> None:
    """Writes a detector as one safetensors file: whole or not at all.

    Args:
        class_names: by class id; preset: the name it was built from; extra: JSON values such as metrics.

    Raises:
        CheckpointError: where the file cannot be written; an earlier one of that name stays as it was.
    """
    header = Header(model.config, class_names, preset, extra)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_file(path) as file:
        file.write(safetensors.torch.save(tensors, {KEY: header.to_json()}))


def find_weights(source: Path) -> Path:
    """The weights file that `source`, a file or a run folder, stands for.

    Raises:
        CheckpointError: where there is none.
    """
    if not source.is_dir():
        if not source.exists():
            raise CheckpointError(f"{source}: no such run folder, weights file or preset (`grcn models` lists presets)")
        return source
    for name in ("best.safetensors", "last.safetensors"):
        if (source / name).is_file():
            return source / name
    raise CheckpointError(f"{source}: no best.safetensors or last.safetensors; is it the folder of a run?")


@dataclass(frozen=True)
class LoadedDetector:
    """A detector read from a file: the module, in evaluation mode, and what its header says."""

    model: RCNN
    class_names: tuple[str, ...]
    preset: str
    extra: dict[str, Any]
    file: Path | None = None


def load_detector(path: str | Path) -> LoadedDetector:
    """Reads what `save_detector` wrote.

    The header is checked against the tensors in the file before anything of their size is made.

    Raises:
        CheckpointError: where the file is missing, broken, or not a detector of this package.
    """
    # The spine imports this module for its pretrained weights; here the way leads back.
    from grcn.model.detector import RCNN

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
    except Exception as error:  # safetensors raises its own kind, OSError and more
        raise CheckpointError(f"{path}: cannot be read as safetensors: {first_line(error)}") from None
    header = read_header(path, metadata)
    config, class_names = header.config, header.class_names
    try:
        with torch.device("meta"):
            model = RCNN(config, len(class_names), build_classifier(config.backbone, config.norm))
    except Exception as error:  # such as sizes beyond what torch can count
        raise CheckpointError(f"{path}: its configuration cannot be built: {first_line(error)}") from None
    wanted = model.state_dict()
    unlike = wanted.keys() ^ tensors.keys() | {k for k in wanted.keys() & tensors if not _fits(tensors[k], wanted[k])}
    if unlike:
        listed = ", ".join(sorted(unlike)[:4])
        raise CheckpointError(f"{path}: {len(unlike)} tensors do not fit its configuration: {listed}")
    # Copies, of the type and layout that the model wants: what safetensors gives is the file itself, mapped, which
    # someone may write into while the detector is used.
    own = {name: torch.empty_like(like, device="cpu").copy_(tensors[name]) for name, like in wanted.items()}
    model.load_state_dict(own, assign=True)
    return LoadedDetector(model.eval(), class_names, header.preset, header.extra, Path(path))
