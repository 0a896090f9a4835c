"""Freezes the norm layers of a network, and multiplies them into the convolutions before them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from grcn.model.backbones.layers import Conv2d


class FoldedConv2d(Conv2d):
    """A convolution together with the frozen norm after it, which only scales and shifts each channel.

    The passes of a norm over the map, forward and backward, cost as much as the 1x1 convolutions of a ResNet. The
    numbers of the norm stay in their place (`FoldedNorm`), so that weights have the same names as in the network.
    """

    norm: FrozenNorm

    def forward(self, input: Tensor) -> Tensor:
        norm = self.norm
        scale: Tensor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self.convolve(input, self.weight * scale[:, None, None, None], shift)


class FrozenNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """Batch norm that does not change in training, with the activation that timm's networks have in their norms."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps)
        self.act = activation(norm)
        self.load_state_dict(norm.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.act(super().forward(x))
        return output


class FoldedNorm(FrozenNorm):
    """The numbers of a norm that the convolution before it already applies. Only its activation is left to apply."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.act(x)
        return output


def activation(norm: nn.Module) -> nn.Module:
    """The activation inside a norm layer: timm's BatchNormAct2d is a BatchNorm2d with an activation."""
    inside = [part for name in ("drop", "act") if isinstance(part := getattr(norm, name, None), nn.Module)]
    inside = [part for part in inside if not isinstance(part, nn.Identity)]
    return inside[0] if len(inside) == 1 else nn.Sequential(*inside) if inside else nn.Identity()


def norm_pairs(network: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """Each convolution that a batch norm directly follows: the module that holds both, and their names in it."""
    kinds = nn.BatchNorm2d | FrozenBatchNorm2d
    return [
        (parent, first, second)
        for parent in network.modules()
        for (first, conv), (second, norm) in pairwise(parent.named_children())  # in the order of use
        if isinstance(conv, nn.Conv2d) and isinstance(norm, kinds)
    ]


def freeze_norms(network: nn.Module) -> None:
    """Replaces each batch norm by a frozen one, which the convolution before it applies if there is one."""
    for parent in list(network.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, FrozenNorm(norm))
    for parent, first, second in norm_pairs(network):
        conv, norm = getattr(parent, first), getattr(parent, second)
        conv.__class__, norm.__class__ = FoldedConv2d, FoldedNorm
        # Not registered as a submodule, because the norm has its place and its names in the parent.
        conv.__dict__["norm"] = norm


@torch.no_grad()
def fold_norms(network: nn.Module) -> None:
    """Multiplies each batch norm into the convolution before it, in place, for prediction only.

    Group norm stays, because it is not linear.
    """
    for parent, first, second in norm_pairs(network):
        conv, norm = getattr(parent, first), getattr(parent, second)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.__dict__.pop("norm", None)
        if isinstance(conv, FoldedConv2d):
            conv.__class__ = Conv2d  # type: ignore[assignment]
        setattr(parent, second, activation(norm))
