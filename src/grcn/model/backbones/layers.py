"""Layers that torch computes several times slower on a CPU than necessary. These give the same numbers in another way.

They do the same as `torch.nn.functional.conv2d` and `relu6`; docs/performance.md has the times.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Pair = tuple[int, int]


class Conv2d(nn.Conv2d):
    """A convolution that may be padded unevenly, and that has fast gradients if it is depthwise.

    Attributes:
        pad: padding of the map (left, right, above, below), in place of `padding` if the sides differ. TensorFlow calls
            this SAME.
    """

    pad: tuple[int, int, int, int] = (0, 0, 0, 0)

    def forward(self, input: Tensor) -> Tensor:
        return self.convolve(input, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Applies the convolution to `x` [B, C, H, W] with the given weight and bias in place of its own."""
        if self.padding_mode != "zeros":
            return self._conv_forward(x, weight, bias)  # type: ignore[no-any-return]
        padding = self.padding
        if any(self.pad):
            left, right, above, below = self.pad
            if self.dilation == (1, 1) and not torch.compiler.is_compiling():
                # Pad the kernel with a zero row above and a zero column beside it, instead of copying the map.
                weight, padding = F.pad(weight, (right - left, 0, below - above, 0)), (below, right)
            else:
                x = F.pad(x, self.pad)
        if self._is_depthwise and _learns_on_cpu(x, weight):
            if torch.is_autocast_enabled("cpu"):
                x, weight, *rest = (t.to(torch.get_autocast_dtype("cpu")) for t in (x, weight, bias) if t is not None)
                bias = rest[0] if rest else None
            return _Depthwise.apply(x, weight, bias, self.stride, padding, self.dilation)  # type: ignore[no-any-return]
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    @property
    def _is_depthwise(self) -> bool:
        return self.groups == self.in_channels == self.out_channels > 1 and not isinstance(self.padding, str)


class ReLU6(nn.ReLU6):
    """ReLU6 that keeps only its output if it works in place. torch's keeps a copy of its input for the gradient."""

    def forward(self, input: Tensor) -> Tensor:
        if self.inplace and _learns_on_cpu(input):
            return _ReLU6.apply(input)  # type: ignore[no-any-return]
        return super().forward(input)


def fix_padding(network: nn.Module, same: type[nn.Conv2d]) -> None:
    """Gives a fixed padding to convolutions that choose their padding by the size of the map (SAME), in place.

    The sizes of a detector's maps are multiples of their strides, so this padding is always the same.

    Args:
        same: the class of these convolutions.
    """
    for conv in network.modules():
        if isinstance(conv, same):
            # The n / stride cells of a map of size n, a multiple of the stride, need this much more than n.
            extra = [
                max((kernel - 1) * dilation + 1 - stride, 0)
                for kernel, dilation, stride in zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
            ]
            (above, below), (left, right) = ((total // 2, total - total // 2) for total in extra)
            conv.__class__, conv.padding = Conv2d, (0, 0)
            conv.pad = (left, right, above, below)  # type: ignore[assignment]


def quicken(network: nn.Module) -> None:
    """Replaces torch's own layers in `network` by the faster ones of this module, in place."""
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.groups == layer.in_channels > 1 and layer.padding_mode == "zeros":
            layer.__class__ = Conv2d
        elif type(layer) is nn.ReLU6:
            layer.__class__ = ReLU6


def _learns_on_cpu(*tensors: Tensor) -> bool:
    """Whether one of the tensors needs a gradient, on a CPU, while no graph is being captured."""
    return (
        torch.is_grad_enabled()
        and any(tensor.requires_grad for tensor in tensors)
        and tensors[0].device.type == "cpu"
        and not torch.compiler.is_compiling()
    )


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose gradients are computed as fast as its forward pass.

    oneDNN has fast gradients only for 3x3 kernels without dilation. For others, they take up to 20 times as long as the
    forward pass. But both gradients are convolutions themselves. The gradient of the input is a convolution of the
    output's gradient with the kernel rotated by 180 degrees. The gradient of the kernel is a convolution of the input
    with the output's gradient as kernel, with stride and dilation exchanged.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(x, weight, bias, stride, padding, dilation, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_x: Tensor | None = None
        grad_weight: Tensor | None = None
        grad_bias: Tensor | None = None
        channels, kernel = x.shape[1], weight.shape[2:]
        other_side = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        plain = len(x) == 0 or (max(kernel) <= 3 and max(dilation) == 1)
        # oneDNN's own gradient is faster for larger strides, but only in float32.
        if wants_x and not plain and min(other_side) >= 0 and (stride == (1, 1) or x.dtype != torch.float32):
            # As large as the map would be at a stride of 1.
            height, width = (n + p - o for n, p, o in zip(x.shape[2:], padding, other_side, strict=True))
            spread = _spread(grad, stride, height, width)
            grad_x = F.conv2d(spread, weight.flip(2, 3), None, 1, other_side, dilation, channels)
        if wants_weight and not plain:
            # Photo by photo, because all photos at once would need their maps rearranged.
            parts = [
                F.conv2d(own, _as_kernels(out), None, dilation, padding, stride, channels)[0, :, None]
                for own, out in zip(torch.split(x, 1), grad, strict=True)
            ]
            # Cells at the end of the map that the stride left over would make the kernel larger.
            grad_weight = torch.stack(parts).sum(dim=0)[..., : kernel[0], : kernel[1]]
        rest = [wants_x and grad_x is None, wants_weight and grad_weight is None, wants_bias]
        if any(rest):
            others = torch.ops.aten.convolution_backward(
                grad, x, weight, [channels], stride, padding, dilation, False, [0, 0], channels, rest
            )
            grad_x = others[0] if grad_x is None else grad_x
            grad_weight = others[1] if grad_weight is None else grad_weight
            grad_bias = others[2]
        return grad_x, grad_weight, grad_bias, None, None, None


def _spread(maps: Tensor, stride: Pair, height: int, width: int) -> Tensor:
    """Maps [B, C, H, W] with their cells `stride` apart, and zeros between them."""
    if stride == (1, 1):
        return maps
    wide = maps.new_zeros(maps.shape[0], height, width, maps.shape[1]).permute(0, 3, 1, 2)
    wide[..., :: stride[0], :: stride[1]] = maps
    return wide


def _as_kernels(maps: Tensor) -> Tensor:
    """Maps [C, H, W] as the kernels of a depthwise convolution, [C, 1, H, W]."""
    channels, height, width = maps.shape
    # torch transposes a matrix fast, but a channels-last tensor slowly.
    return maps.permute(1, 2, 0).reshape(-1, channels).t().contiguous().view(channels, 1, height, width)


class _ReLU6(torch.autograd.Function):
    """ReLU6 in place. Its gradient follows from the output, which the next convolution keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.clamp_(0, 6)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, y, 0, 6)  # type: ignore[no-any-return]
