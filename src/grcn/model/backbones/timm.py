"""Any network of timm that tells where its stages end: `timm:NAME`."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from grcn.config import Norm
from grcn.errors import ConfigError
from grcn.model.backbones.base import Backbone
from grcn.model.backbones.norm import fix_padding, freeze_norms

PREFIX = "timm:"
_PUBLISHED = {
    "tf_efficientnet_lite0": "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/"
    "tf_efficientnet_lite0-0aa007d2.pth",
}
"""Where timm's ImageNet weights lie under an address that ends with their hash."""


class Timm(Backbone):
    """A network of timm, cut where its `feature_info` says that a stage ends.

    A stage of a reduced stride is that stage of the network built with timm's `output_stride`, which dilates what
    comes after. A network that cannot be built so serves at its own strides alone.

    Args:
        name: timm's, without PREFIX.
        norm: `frozen_bn` or `bn` where the network has batch norm, else `none`; `auto`: of these, `frozen_bn` if
            `pretrained`, else `bn`.

    Raises:
        ConfigError: where timm is not installed or has no such network, or the network has no five stages or not that
            norm.
    """

    def __init__(self, name: str, norm: Norm = "auto", *, pretrained: bool = False) -> None:
        try:
            import timm
        except ImportError:
            raise ConfigError(f"backbone '{PREFIX}{name}': timm is not installed; pip install 'grcn[timm]'") from None
        if name not in timm.list_models():
            raise ConfigError(f"backbone '{PREFIX}{name}': not a name in timm.list_models()")
        self.name = PREFIX + name
        self._model_name = name
        network = self._build(None)
        ends = _ends(network)
        if [end["reduction"] for end in ends] not in ([2, 4, 8, 16, 32], [4, 8, 16, 32]):
            raise ConfigError(
                f"backbone '{self.name}': its feature maps have strides {[end['reduction'] for end in ends]}; a "
                "detector needs 4, 8, 16 and 32"
            )
        has_batch_norm = any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
        if norm == "auto":
            norm = ("frozen_bn" if pretrained else "bn") if has_batch_norm else "none"
        if norm not in (("frozen_bn", "bn") if has_batch_norm else ("none",)):
            use = "'frozen_bn' or 'bn'" if has_batch_norm else "'none'"
            raise ConfigError(f"norm '{norm}' with backbone '{self.name}': use {use}")
        self.norm = norm
        if norm == "frozen_bn":
            freeze_norms(network)
        conv1 = [(3, 1)] if len(ends) == 4 else []
        channels, strides = zip(*conv1, *((end["num_chs"], end["reduction"]) for end in ends), strict=True)
        self.channels, self.strides = channels, strides
        about = timm.get_pretrained_cfg(name)
        if about is not None:
            self.mean, self.std = about.mean, about.std
        self.network, self.url = network, _PUBLISHED.get(name)
        parts = [part for part, _ in _parts(network)]
        self.behind = tuple(f"{part}." for part in parts[parts.index(ends[-1]["module"]) + 1 :])
        self._reduced: dict[int, nn.Module] = {}

    def stage(self, number: int, before: int, after: int, *, dilation: bool = True) -> nn.Sequential:
        own, own_before = self.strides[number - 1], (1, *self.strides)[number - 1]
        if before != min(own_before, after):
            raise ConfigError(
                f"backbone '{self.name}': conv{number} from stride {before} to {after}: timm reduces all later stages "
                f"to one stride; separate earlier, or let both tasks have stride {before}"
            )
        if after < own and not dilation:
            raise ConfigError(f"backbone '{self.name}': dilation false: timm dilates what it reduces; leave it true")
        return deepcopy(self._stages(None if after == own else after)[number - 1])

    def _build(self, stride: int | None) -> nn.Module:
        """The network, of random weights; `stride`: the largest that it reaches."""
        import timm

        options: dict[str, Any] = {} if stride is None else {"output_stride": stride}
        kind = timm.model_entrypoint(self._model_name)
        try:
            network: nn.Module = kind(pretrained=False, num_classes=0, **options)
        except TypeError:
            raise ConfigError(
                f"backbone '{self.name}': timm builds it at its own strides alone, so none can be reduced to {stride}"
            ) from None
        # Networks with windows check the size of their training, and lay out their masks for it.
        sizes = {"strict_img_size": False, "dynamic_mask": True}
        known = inspect.signature(type(network).__init__).parameters
        if sizes.keys() <= known.keys():
            network = kind(pretrained=False, num_classes=0, **options, **sizes)
        fix_padding(network, (timm.layers.Conv2dSame,))
        return network

    def _stages(self, stride: int | None) -> list[nn.Sequential]:
        """conv1..conv5 of the network whose largest stride is `stride`; None: its own."""
        network = self.network
        assert network is not None
        if stride is not None:
            if stride not in self._reduced:
                reduced = self._build(stride)
                if self.norm == "frozen_bn":
                    freeze_norms(reduced)
                self._reduced[stride] = reduced
            # The weights may have been loaded since.
            self._reduced[stride].load_state_dict(network.state_dict(), assign=True)
            network = self._reduced[stride]
        stages = _cut(network)
        return [nn.Sequential()] * (5 - len(stages)) + stages


def _ends(network: nn.Module) -> list[dict[str, Any]]:
    """The last map of each stride, as timm describes it, finest first."""
    info: Any = network.feature_info
    last = {end["reduction"]: end for end in (info if isinstance(info, list) else info.info)}
    return [last[stride] for stride in sorted(last)]


def _parts(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of `network` in order of use, by name; containers inside which a stage ends are opened."""
    opened = {end["module"].rpartition(".")[0] for end in _ends(network)}
    return [
        (f"{name}.{inner}", part) if inner else (name, part)
        for name, child in network.named_children()
        for inner, part in (child.named_children() if name in opened else [("", child)])
    ]


def _cut(network: nn.Module) -> list[nn.Sequential]:
    """The stages of `network`, which share its parameters; what comes after the last is left out."""
    parts = _parts(network)
    names = [name for name, _ in parts]
    stages, first = [], 0
    for end in _ends(network):
        last = names.index(end["module"]) + 1
        stages.append(nn.Sequential(OrderedDict((n.replace(".", "_"), part) for n, part in parts[first:last])))
        first = last
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        for i, stage in enumerate(stages):
            if i:
                stage.insert(0, _ChannelsLast())
            stage.append(_ChannelsFirst())
    return stages


class _ChannelsLast(nn.Module):
    """[B, C, H, W] to [B, H, W, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class _ChannelsFirst(nn.Module):
    """[B, H, W, C] to [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)
