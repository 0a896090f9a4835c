"""Any network of timm that says where its stages end: `timm:NAME`."""

from __future__ import annotations

import inspect
from collections import OrderedDict, defaultdict
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from grcn.config import Norm
from grcn.errors import ConfigError, first_line
from grcn.model.backbones.base import Backbone
from grcn.model.backbones.layers import fix_padding
from grcn.model.backbones.norm import freeze_norms, norm_pairs

PREFIX = "timm:"
PUBLISHED = {
    "tf_efficientnet_lite0": "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/"
    "tf_efficientnet_lite0-0aa007d2.pth",
}
"""Addresses of timm's ImageNet weights that end with their hash."""


class Timm(Backbone):
    """A network of timm, cut where its `feature_info` says that a stage ends.

    A stage with a reduced stride comes from the network that timm builds with `output_stride`, which dilates the later
    layers. A network that timm cannot build in this way only has its own strides.

    Args:
        name: timm's name, without PREFIX.
        norm: `frozen_bn` or `bn` if the network has batch norm, otherwise `none`. `auto`: of the first two, `frozen_bn`
            if `pretrained`, otherwise `bn`.

    Raises:
        ConfigError: if timm is not installed or has no such network; or if the network does not have the strides 4, 8,
            16 and 32, is not a chain of modules, takes photos of only one size, or does not have this norm.
    """

    def __init__(self, name: str, norm: Norm = "auto", *, pretrained: bool = False) -> None:
        try:
            import timm
        except ImportError:
            raise ConfigError(f"backbone {PREFIX + name!r}: timm is not installed; pip install 'grcn[train]'") from None
        if name not in timm.list_models():
            raise ConfigError(f"backbone {PREFIX + name!r}: not a name in timm.list_models()")
        self.name = PREFIX + name
        self._model_name = name
        network = self._build(None)
        info: Any = getattr(network, "feature_info", [])
        # The last map of each stride, finest first.
        last = {end["reduction"]: end for end in (info if isinstance(info, list) else info.info)}
        reached = [stride for stride in (2, 4, 8, 16, 32) if stride in last]
        if reached[-4:] != [4, 8, 16, 32]:
            raise ConfigError(
                f"backbone '{self.name}': its maps have strides {sorted(last)}; a detector needs 4, 8, 16 and 32"
            )
        ends = [last[stride] for stride in reached]
        self._ends = [end["module"] for end in ends]
        conv1 = [(3, 1)] if len(ends) == 4 else []
        channels, strides = zip(*conv1, *((end["num_chs"], end["reduction"]) for end in ends), strict=True)
        self.channels, self.strides = channels, strides
        self._check(network, strides[-1])
        has_batch_norm = any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
        if norm == "auto":
            norm = ("frozen_bn" if pretrained else "bn") if has_batch_norm else "none"
        if norm not in (("frozen_bn", "bn") if has_batch_norm else ("none",)):
            use = "'frozen_bn' or 'bn'" if has_batch_norm else "'none'"
            raise ConfigError(f"norm '{norm}' with backbone '{self.name}': use {use}")
        self.norm = norm
        if norm == "frozen_bn":
            freeze_norms(network)
        about = timm.get_pretrained_cfg(name)
        if about is not None:
            (r, g, b), (dr, dg, db) = about.mean, about.std
            self.mean, self.std = (r, g, b), (dr, dg, db)
        self.network, self.url = network, PUBLISHED.get(name)
        parts = [part for part, _ in _parts(network, self._ends)]
        self.behind = tuple(f"{part}." for part in parts[parts.index(self._ends[-1]) + 1 :])
        self._reduced: dict[int, nn.Module] = {}

    def stage(self, number: int, before: int, after: int, *, dilation: bool = True) -> nn.Sequential:
        own, own_before = self.strides[number - 1], (1, *self.strides)[number - 1]
        if before != min(own_before, after):
            raise ConfigError(
                f"backbone '{self.name}': conv{number} from stride {before} to {after}: timm reduces all later stages "
                f"to one stride; separate earlier, or let both tasks have stride {before}"
            )
        if after < own and not dilation:
            raise ConfigError(
                f"backbone '{self.name}': dilation false: timm always dilates where it reduces a stride; leave "
                "dilation true"
            )
        return deepcopy(self._stages(None if after == own else after)[number - 1])

    def _build(self, stride: int | None) -> nn.Module:
        """The network with random weights; `stride`: the largest stride that it should reach, None: its own."""
        import timm
        from timm.layers.conv2d_same import Conv2dSame

        kind = timm.model_entrypoint(self._model_name)
        options: dict[str, Any] = {}
        if stride is None:
            network: nn.Module = kind(pretrained=False, num_classes=0)
        else:
            options = {"output_stride": stride}
            refusals = (TypeError, AssertionError, NotImplementedError)  # by networks that lack the option
            try:
                network = kind(pretrained=False, num_classes=0, **options)
            except refusals:
                try:
                    # MobileNetV3 accepts a stride only in this way.
                    network = kind(pretrained=False, features_only=True, **options)
                except refusals:
                    raise self._unreduced(stride) from None
        if "strict_img_size" in inspect.signature(type(network).__init__).parameters:  # of networks with windows
            network = kind(pretrained=False, num_classes=0, **options, strict_img_size=False)
        fix_padding(network, Conv2dSame)
        return network

    def _unreduced(self, stride: int) -> ConfigError:
        return ConfigError(
            f"backbone '{self.name}': timm cannot change its strides, so none can be reduced to {stride}"
        )

    def _check(self, network: nn.Module, largest: int) -> None:
        """Raises ConfigError if `network`, when it runs, is not the chain that `_cut` and `norm_pairs` assume.

        Args:
            largest: the stride that it should reach.
        """
        names = [name for name, _ in _parts(network, self._ends)]
        if outside := [end for end in self._ends if end not in names]:
            raise ConfigError(f"backbone '{self.name}': it cannot be cut after {', '.join(map(repr, outside))}")
        # The input and the output of each module.
        calls: dict[nn.Module, list[tuple[Any, Any]]] = defaultdict(list)
        hooks = [
            module.register_forward_hook(lambda module, inputs, output: calls[module].append((inputs[:1], output)))
            for module in network.modules()
        ]
        image = torch.zeros(1, 3, 64, 96)
        network.eval()
        try:
            with torch.no_grad():
                getattr(network, "forward_features", network)(image)
        except Exception as error:  # any error that a network raises on a size that it does not accept
            raise ConfigError(
                f"backbone '{self.name}': it does not take photos of any size: {first_line(error)}"
            ) from None
        finally:
            network.train()
            for hook in hooks:
                hook.remove()
        stages = _cut(network, self._ends)
        seen: Any = image
        for number, stage in enumerate(stages, start=6 - len(stages)):
            for name, part in stage.named_children():
                if isinstance(part, _ChannelsLast | _ChannelsFirst):
                    continue
                if len(calls[part]) != 1 or calls[part][0][0][0] is not seen:
                    raise ConfigError(f"backbone '{self.name}': '{name}' does not take what the module before it gives")
                seen = calls[part][0][1]
            stride = min(self.strides[number - 1], largest)
            given = seen.permute(0, 3, 1, 2) if _is_channels_last(network) else seen
            whole = given.shape == (1, self.channels[number - 1], 64 // stride, 96 // stride)
            if not whole and largest < self.strides[-1]:  # some networks accept the option and ignore it
                raise self._unreduced(largest)
            if not whole:
                raise ConfigError(
                    f"backbone '{self.name}': a photo of 64x96 pixels becomes a map of {tuple(given.shape[2:])}, where "
                    f"stride {stride} needs whole cells"
                )
        for parent, conv, norm in norm_pairs(nn.ModuleList(stages)):
            given, taken = (calls[getattr(parent, name)] for name in (conv, norm))
            if [id(output) for _, output in given] != [id(inputs[0]) for inputs, _ in taken]:
                raise ConfigError(
                    f"backbone '{self.name}': '{norm}' in {type(parent).__name__} normalises more than '{conv}' gives"
                )

    def _stages(self, stride: int | None) -> list[nn.Sequential]:
        """conv1..conv5 of the network whose largest stride is `stride`; None: its own."""
        network = self.network
        assert network is not None
        if stride is not None:
            if stride not in self._reduced:
                reduced = self._build(stride)
                self._check(reduced, stride)
                if self.norm == "frozen_bn":
                    freeze_norms(reduced)
                self._reduced[stride] = reduced
            reduced = self._reduced[stride]
            names = reduced.state_dict().keys()
            # Every time, because the weights of the network may have been loaded since.
            reduced.load_state_dict({k: v for k, v in network.state_dict().items() if k in names}, assign=True)
            network = reduced
        stages = _cut(network, self._ends)
        return [nn.Sequential()] * (5 - len(stages)) + stages


def _parts(network: nn.Module, ends: list[str]) -> list[tuple[str, nn.Module]]:
    """The modules of `network` in the order of use, by name. Containers in which a stage ends are opened."""
    opened = {end.rpartition(".")[0] for end in ends}
    return [
        (f"{name}.{inner}", part) if inner else (name, part)
        for name, child in network.named_children()
        for inner, part in (child.named_children() if name in opened else [("", child)])
    ]


def _cut(network: nn.Module, ends: list[str]) -> list[nn.Sequential]:
    """The stages of `network`, each up to one of `ends`. They share the parameters of the network."""
    parts = _parts(network, ends)
    names = [name for name, _ in parts]
    stages, first = [], 0
    for end in ends:
        last = names.index(end) + 1
        stage = OrderedDict((name.replace(".", "_"), part) for name, part in parts[first:last])
        if _is_channels_last(network):
            before = OrderedDict(to_channels_last=_ChannelsLast()) if first else OrderedDict()
            stage = before | stage | OrderedDict(to_channels_first=_ChannelsFirst())
        stages.append(nn.Sequential(stage))
        first = last
    return stages


def _is_channels_last(network: nn.Module) -> bool:
    """Whether the maps of the network are [B, H, W, C]."""
    return getattr(network, "output_fmt", "NCHW") == "NHWC"


class _ChannelsLast(nn.Module):
    """[B, C, H, W] to [B, H, W, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class _ChannelsFirst(nn.Module):
    """[B, H, W, C] to [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)
