"""What a CPU computes in another way than torch does by itself: RoIAlign as sums, fc6 as a convolution.

RoIAlign (He et al. 2017, section 3) is linear in the map and each of its samples is bilinear, so a cell of a RoI's
features is a weighted sum of the map's cells, with weights that depend on the RoI alone: `embedding_bag`, which reads
whole cells (all channels at once, where the map is channels-last) and runs on all threads, forward and backward.
torchvision's CPU kernel goes channel by channel on one thread (docs/performance.md has the times).

fc6 reads a whole RoI, so it is a convolution too. In float32 on a CPU with AVX-512 oneDNN's convolutions take less time
than MKL's matrix products, which torch makes of a linear layer there: half on one machine, nine tenths on another
(benchmarks/ablation.py). For a few RoIs, such as the whole image, and elsewhere the products are as fast or faster.
"""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from grcn.runtime import convolves_whole_rois


def roi_align(features: Tensor, rois: Tensor, size: int, scale: float, sampling_ratio: int, *, aligned: bool) -> Tensor:
    """The features of each RoI: torchvision.ops.roi_align, to rounding.

    Args:
        features: map [B, C, H, W].
        rois: [R, 5] float32, index of the image, then the box in input pixels.
        size: S, cells per side; scale: cells of the map per input pixel.
        sampling_ratio: samples per cell and axis; 0: as many as the cell has cells of the map.
        aligned: with the half-pixel correction.

    Returns:
        [R, C, S, S] of the map's type, summed in float32 at least; channels-last on the CPU.
    """
    maps = _as_precise(features, rois)
    if torch.compiler.is_compiling() or maps.device.type != "cpu" or sampling_ratio == 0 or not len(rois):
        pooled: Tensor = torchvision.ops.roi_align(maps, rois.to(maps.dtype), size, scale, sampling_ratio, aligned)
        return pooled.to(features.dtype)
    channels, height, width = maps.shape[1:]
    cells = maps.permute(0, 2, 3, 1).reshape(-1, channels)  # [B * H * W, C], a view where channels-last
    index, weight = _samples(rois, height, width, size, scale, sampling_ratio, aligned)
    sums: Tensor = _WeightedSums.apply(cells, index, weight.to(cells.dtype))  # [R * S * S, C]
    return sums.to(features.dtype).view(-1, size, size, channels).permute(0, 3, 1, 2)


class _WeightedSums(torch.autograd.Function):
    """Sums of weighted rows, and gradients to the rows: `embedding_bag` both ways.

    Its own gradient is for tables of which a batch reads little: it costs twice the time, and so does its forward pass
    where a gradient is wanted.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        """Rows [N, C], index and weight [M, T] to sums [M, C]."""
        ctx.save_for_backward(index, weight)
        ctx.count = len(rows)
        return F.embedding_bag(index, rows, per_sample_weights=weight, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Each row's gradient sums those of all sums that it is in, in their order: the same over any threads."""
        index, weight = ctx.saved_tensors
        row, order = index.flatten().sort(stable=True)
        starts = torch.searchsorted(row, torch.arange(ctx.count, device=row.device))
        sums = F.embedding_bag(
            order.div(index.shape[1], rounding_mode="floor"),
            gradient.contiguous(),
            starts,
            per_sample_weights=weight.flatten()[order],
            mode="sum",
        )
        return sums, None, None


def roi_pool(features: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    """RoIPool (Girshick 2015, section 2.1), torchvision's; arguments and answer as `roi_align`'s."""
    maps = _as_precise(features, rois)
    pooled: Tensor = torchvision.ops.roi_pool(maps, rois.to(maps.dtype), size, scale)
    return pooled.to(features.dtype)


def _as_precise(features: Tensor, rois: Tensor) -> Tensor:
    """The map in a type in which boxes keep their precision: in bfloat16 one would be off by up to 2 pixels at 500."""
    return features.to(torch.promote_types(features.dtype, rois.dtype))


@torch.no_grad()
def _samples(
    rois: Tensor, height: int, width: int, size: int, scale: float, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    """The map's cells that each cell of a RoI sums: their indices and weights, [R * S * S, (2 * sampling_ratio)^2]."""
    corners = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    start, sides = corners[:, :2], corners[:, 2:] - corners[:, :2]  # [R, 2] as x, y
    if not aligned:
        sides = sides.clamp(min=1)
    x, x_weight = _axis(start[:, 0], sides[:, 0] / size, size, sampling_ratio, width)
    y, y_weight = _axis(start[:, 1], sides[:, 1] / size, size, sampling_ratio, height)
    first = rois[:, 0].long() * (height * width)
    rows = first[:, None, None] + y * width  # [R, S, 2 * ratio]
    index = rows[:, :, None, :, None] + x[:, None, :, None, :]  # [R, S, S, 2 * ratio, 2 * ratio]
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    cells = len(rois) * size * size
    return index.reshape(cells, -1), weight.reshape(cells, -1)


def _axis(start: Tensor, step: Tensor, size: int, ratio: int, cells: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the two cells beside each sample and their weights, [R, S, 2 * ratio] each.

    A sample more than one cell outside the map counts as zero, one nearer takes the value at the border.

    Args:
        start, step: [R] where the RoI begins and the size of its cells, in cells of the map.
        cells: of the map along this axis.
    """
    offset = (torch.arange(size * ratio, dtype=start.dtype, device=start.device) + 0.5) / ratio  # in cells of the RoI
    at = start[:, None] + offset * step[:, None]  # [R, S * ratio]
    inside = (at >= -1) & (at <= cells)
    at = at.clamp(0, cells - 1)
    low = at.floor()
    high = (low + 1).clamp(max=cells - 1)
    weight = torch.stack((1 - (at - low), at - low), dim=-1) * (inside / ratio)[..., None]
    index = torch.stack((low, high), dim=-1).long()
    return index.view(len(start), size, -1), weight.view(len(start), size, -1)


_FEW = 16
"""RoIs below which fc6 is a matrix product, which then is a matter of reading its weight once."""


def whole_rois(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each RoI's numbers times a matrix: features [R, C, S, S], weight [F, C, S, S] and bias [F] to [R, F].

    In an exported graph the weight is that matrix already, [F, S * S * C], by cell (`by_cell`).
    """
    if torch.compiler.is_exporting():
        return F.linear(by_cell(features), weight, bias)
    if (
        torch.compiler.is_compiling()
        or features.device.type != "cpu"
        or features.dtype != torch.float32
        or len(features) < _FEW
        or not convolves_whole_rois()
    ):
        return F.linear(by_cell(features), by_cell(weight), bias)
    if torch.is_grad_enabled():
        return _WholeRoI.apply(features, weight, bias)  # type: ignore[no-any-return]
    return F.conv2d(features, weight, bias).flatten(1)


class _WholeRoI(torch.autograd.Function):
    """A convolution over whole RoIs, with its weight's gradient as one more convolution: torch's own copies features
    and weight to another layout and back, which costs as much as the sums."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Features [R, C, S, S], weight [F, C, S, S] and bias [F] to [R, F]."""
        ctx.save_for_backward(features, weight)
        return F.conv2d(features, weight, bias).flatten(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, weight = ctx.saved_tensors
        rois, channels, size, _ = features.shape
        to_features: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
            features.shape, weight, gradient[:, :, None, None]
        )
        # Each RoI is a channel and each of its numbers a pixel; the gradient says how much of each RoI to sum.
        pixels = by_cell(features).reshape(1, rois, size * size, channels)
        sums = F.conv2d(pixels, gradient.t()[:, :, None, None])  # [1, F, S * S, C]
        to_weight = sums.view(-1, size, size, channels).permute(0, 3, 1, 2)
        return to_features, to_weight, gradient.sum(dim=0)


def by_cell(maps: Tensor) -> Tensor:
    """[N, C, S, S] to [N, S * S * C], without a copy where the memory is channels-last."""
    return maps.permute(0, 2, 3, 1).flatten(1)
