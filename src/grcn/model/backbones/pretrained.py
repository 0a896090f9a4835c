"""Loads the weights that a backbone starts from, published ones or a file. Nothing here unpickles more than tensors."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from grcn.errors import CheckpointError, ConfigError, first_line
from grcn.locks import locked
from grcn.model.backbones.base import Backbone


def load_backbone(backbone: Backbone, weights: str | Path, *, fc: bool = False) -> None:
    """Fills the parameters that the stages of `backbone` copy, in place.

    Args:
        weights: `imagenet`, or a file with the state dict of its network; layers after the stages are not needed.
        fc: fill its fully connected layers as well.

    Raises:
        CheckpointError: if the weights cannot be downloaded or read, or do not fit; it names what is missing.
        ConfigError: if none are published.
    """
    network = backbone.network
    if network is None:
        raise ConfigError(f"backbone '{backbone.name}' takes no file of weights; start with --weights random")
    if str(weights) == "coco":
        raise ConfigError(
            "weights 'coco' are those of a whole detector: load it by its preset's name, or start a training from it"
        )
    if str(weights) == "imagenet":
        if backbone.norm == "group":
            raise ConfigError("norm 'group' with weights 'imagenet': those were trained with batch norm; use 'bn'")
        if backbone.url is None:
            raise ConfigError(
                f"backbone '{backbone.name}': no address of its ImageNet weights is known here; download them "
                "and give them as --weights FILE, or start without them with --weights random"
            )
        state = download_state_dict(backbone.url)
    else:
        state = read_state_dict(weights)
    own = network.state_dict(keep_vars=True)
    layers = {id(p) for layer in backbone.fc for p in layer.parameters()} if fc else set()

    def is_needed(key: str) -> bool:
        behind = key.startswith(backbone.behind) and not (key in own and id(own[key]) in layers)
        return not behind and not key.endswith("num_batches_tracked")

    needed, state = ({k: v for k, v in tensors.items() if is_needed(k)} for tensors in (own, state))
    missing = [k for k in needed if k not in state]
    unfit = [k for k, v in state.items() if k not in needed or not fits(v, needed[k])]
    if missing or unfit:
        listed = ", ".join([f"-{k}" for k in missing[:3]] + [f"+{k}" for k in unfit[:3]])
        raise CheckpointError(
            f"{weights}: not the weights of {backbone.name} with norm '{backbone.norm}': "
            f"{len(missing)} missing (-), {len(unfit)} that do not fit (+): {listed}"
        )
    network.load_state_dict(state, strict=False)


def fits(value: Tensor, wanted: Tensor) -> bool:
    """Whether `value` can be copied into `wanted` as it is: same shape, plain (neither sparse nor meta), same kind."""
    plain = value.layout == torch.strided and not value.is_meta
    return plain and value.shape == wanted.shape and value.is_floating_point() == wanted.is_floating_point()


def download_state_dict(url: str) -> dict[str, Tensor]:
    """A published state dict, from torch's cache (TORCH_HOME) or downloaded there and checked by its hash.

    If another process downloads the same file, this one waits.

    Raises:
        CheckpointError: if it cannot be downloaded, or does not have the hash in its name.
    """
    file = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    try:
        with nullcontext() if file.exists() else locked(file.with_name(f".{file.name}.lock"), str(file)):
            return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except Exception as error:  # urllib, hashing and unpickling each raise their own
        raise CheckpointError(
            f"{url}: {first_line(error)}; download it elsewhere and give it as --weights FILE, or "
            "start without it with --weights random"
        ) from None


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or in one that torch.save wrote (tensors only).

    Raises:
        CheckpointError: if the file is missing, broken or holds anything but tensors.
    """
    try:
        if str(path).endswith(".safetensors"):
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or first_line(error)}") from None
    except Exception as error:  # both readers raise a dozen kinds on hostile input; torch's even say how to execute it
        raise CheckpointError(
            f"{path}: damaged, or holds more than tensors ({type(error).__name__}); nothing in it was executed"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{path}: holds no state dict (names and tensors)")
    return state
