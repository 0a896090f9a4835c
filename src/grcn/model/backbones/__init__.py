"""The networks that detectors are built on. Each is an object (`Backbone`)."""

import difflib

from grcn.config import Norm
from grcn.errors import ConfigError
from grcn.model.backbones import resnet, timm
from grcn.model.backbones.base import Backbone
from grcn.model.backbones.resnet import ResNet
from grcn.model.backbones.timm import Timm
from grcn.model.backbones.vgg import VGG16

__all__ = ["VGG16", "Backbone", "ResNet", "Timm", "is_named", "make_backbone"]

_TORCHVISION = ("vgg16", *resnet.NAMES)


def is_named(name: str) -> bool:
    """Whether a name has the form of a torchvision or timm network; otherwise it names a network of the user's own."""
    return name in _TORCHVISION or name.startswith(timm.PREFIX)


def make_backbone(name: str, norm: Norm = "auto", *, pretrained: bool = False) -> Backbone:
    """The backbone of that name, with random weights.

    Args:
        name: torchvision's name of a ResNet, ResNeXt or Wide ResNet; `vgg16`; or `timm:NAME`.
        norm: `auto`: frozen batch norm if pretrained weights will be loaded, otherwise trainable batch norm. A network
            without norm layers stays without, and so does pretrained VGG16, as published.
        pretrained: whether pretrained weights will be loaded.

    Raises:
        ConfigError: on a name or a norm that does not exist.
    """
    if name == "vgg16":
        return VGG16(norm, pretrained=pretrained)
    if name in resnet.NAMES:
        return ResNet(name, norm, pretrained=pretrained)
    if name.startswith(timm.PREFIX):
        return Timm(name.removeprefix(timm.PREFIX), norm, pretrained=pretrained)
    near = difflib.get_close_matches(name, _TORCHVISION, n=1)
    own = "pass a network of your own as `backbone`"
    hint = (
        f"did you mean '{near[0]}'? Otherwise {own}"
        if near
        else f"{own}, or use {', '.join(_TORCHVISION)} or {timm.PREFIX}NAME"
    )
    raise ConfigError(f"backbone {name!r}: unknown; {hint}")  # !r: it may hold a line break
