"""Operations that a CPU computes faster in another form than torch's: RoIAlign as sums, fc6 as a convolution.

RoIAlign (He et al. 2017, section 3) is linear in the map, and each of its samples is bilinear. So each cell of a RoI's
features is a weighted sum of cells of the map, with weights that depend only on the RoI. `embedding_bag` computes such
sums: it reads whole cells (all channels at once, if the map is channels-last) and uses all threads, forward and
backward. torchvision's CPU kernel goes channel by channel on one thread (docs/performance.md has the times).

fc6 reads a whole RoI, so it is also a convolution. In float32 on a CPU with AVX-512, oneDNN's convolutions take less
time than MKL's matrix products, which torch uses for a linear layer: half the time on one machine, nine tenths on
another (benchmarks/ablation.py). For a few RoIs, such as the whole image, and elsewhere, matrix products are as fast or
faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from grcn.runtime import convolves_whole_rois


def roi_align(features: Tensor, rois: Tensor, size: int, scale: float, sampling_ratio: int, *, aligned: bool) -> Tensor:
    """The features of each RoI, equal to torchvision.ops.roi_align up to rounding.

    Args:
        features: map [B, C, H, W].
        rois: [R, 5] float32, index of the image, then the box in input pixels.
        size: S, cells per side; scale: cells of the map per input pixel.
        sampling_ratio: samples per cell and axis; 0: as many as there are cells of the map in the cell.
        aligned: apply the half-pixel correction.

    Returns:
        [R, C, S, S] of the type of the map, summed in at least float32; channels-last on the CPU.
    """
    levels = rois.new_zeros(rois.shape[0], dtype=torch.int64)  # an exported graph leaves the number open
    return pyramid_roi_align([features], rois, levels, size, [scale], sampling_ratio, aligned=aligned)


def pyramid_roi_align(
    pyramid: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    size: int,
    scales: Sequence[float],
    sampling_ratio: int,
    *,
    aligned: bool,
) -> Tensor:
    """The features of each RoI, each from its own map of a pyramid, without waiting for a GPU.

    Graphs for other runtimes select the RoIs of each level instead, which takes them a quarter of the time.

    Args:
        pyramid: maps [B, C, H_i, W_i]; scales: one for each map. The other arguments are as in `roi_align`.
        levels: [R] int64, the map that a RoI is pooled from (`grcn.geometry.levels.roi_levels`).

    Returns:
        [R, C, S, S], as from `roi_align`.
    """
    maps = [_as_precise(features, rois) for features in pyramid]
    kind = pyramid[0].dtype
    if torch.compiler.is_compiling() or maps[0].device.type != "cpu" or sampling_ratio == 0 or not len(rois):
        is_eager_cpu = maps[0].device.type == "cpu" and not torch.compiler.is_compiling()
        picks = torch.compiler.is_exporting() or is_eager_cpu
        split = [rois] if len(maps) == 1 else (_picked if picks else _elsewhere)(rois, levels, len(maps))
        parts: Iterator[Tensor] = (
            torchvision.ops.roi_align(each, own.to(each.dtype), size, scale, sampling_ratio, aligned)
            for each, own, scale in zip(maps, split, scales, strict=True)
        )
        if len(maps) > 1 and picks:
            return torch.cat(list(parts))[_places(levels, len(maps))].to(kind)
        return reduce(torch.add, parts).to(kind)  # one at a time: each is as large as the answer
    channels = maps[0].shape[1]
    # [all cells of all maps, C]; of one map that is channels-last, a view
    rows = [each.permute(0, 2, 3, 1).reshape(-1, channels) for each in maps]
    cells = rows[0] if len(rows) == 1 else torch.cat(rows)
    index, weight = _samples(rois, levels, [each.shape for each in maps], size, scales, sampling_ratio, aligned)
    sums: Tensor = _WeightedSums.apply(cells, index, weight.to(cells.dtype))  # [R * S * S, C]
    return sums.to(kind).view(-1, size, size, channels).permute(0, 3, 1, 2)


def _picked(rois: Tensor, levels: Tensor, count: int) -> list[Tensor]:
    """The RoIs of each level, [R_i, 5]."""
    return [rois[(levels == level).nonzero()[:, 0]] for level in range(count)]


def _places(levels: Tensor, count: int) -> Tensor:
    """The position of each RoI, [R], after a stable sort by level."""
    places, before = torch.zeros_like(levels), levels.new_zeros(1)
    for level in range(count):
        here = (levels == level).long()
        places = torch.where(here > 0, before + here.cumsum(dim=0) - 1, places)
        before = before + here.sum()
    return places


def _elsewhere(rois: Tensor, levels: Tensor, count: int) -> list[Tensor]:
    """The RoIs of each level, [R, 5]. RoIs of other levels are moved outside the map, so that their features are zero.

    The sum over levels is then the features of each RoI. Selecting RoIs instead would wait for the GPU to count them.
    """
    nowhere = torch.cat((rois[:, :1], rois.new_full((len(rois), 4), -1e6)), dim=1)
    return [torch.where((levels == level)[:, None], rois, nowhere) for level in range(count)]


class _WeightedSums(torch.autograd.Function):
    """Sums of weighted rows, with gradients to the rows; both use `embedding_bag`.

    torch's own gradient of `embedding_bag` is made for large tables of which a batch reads few rows. Here it takes
    twice the time, and so does torch's forward pass if a gradient is needed.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        """Rows [N, C], index and weight [M, T] to sums [M, C]."""
        ctx.save_for_backward(index, weight)
        ctx.count = len(rows)
        return F.embedding_bag(index, rows, per_sample_weights=weight, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Sums, for each row, the gradients of all sums that it is in, in a fixed order: equal for any threads."""
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
    """RoIPool (Girshick 2015, section 2.1) by torchvision; arguments and result as in `roi_align`."""
    maps = _as_precise(features, rois)
    pooled: Tensor = torchvision.ops.roi_pool(maps, rois.to(maps.dtype), size, scale)
    return pooled.to(features.dtype)


def _as_precise(features: Tensor, rois: Tensor) -> Tensor:
    """The map in a type in which boxes are exact enough: in bfloat16, a box at 500 is off by up to 2 pixels."""
    return features.to(torch.promote_types(features.dtype, rois.dtype))


@torch.no_grad()
def _samples(
    rois: Tensor,
    levels: Tensor,
    shapes: Sequence[tuple[int, ...]],
    size: int,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """The cells that each cell of a RoI sums: their indices and weights, [R * S * S, (2 * sampling_ratio)^2].

    Args:
        shapes: [B, C, H, W] of each map; their cells are counted map by map, then image by image.
    """
    counts = [batch * height * width for batch, _, height, width in shapes]
    starts = [sum(counts[:level]) for level in range(len(counts))]
    start_of, height, width = torch.tensor([(n, h, w) for n, (*_, h, w) in zip(starts, shapes, strict=True)])[levels].T
    corners = rois[:, 1:] * rois.new_tensor(scales)[levels, None] - (0.5 if aligned else 0.0)
    corner, sides = corners[:, :2], corners[:, 2:] - corners[:, :2]  # [R, 2] as x, y
    if not aligned:
        sides = sides.clamp(min=1)
    x, x_weight = _axis(corner[:, 0], sides[:, 0] / size, size, sampling_ratio, width)
    y, y_weight = _axis(corner[:, 1], sides[:, 1] / size, size, sampling_ratio, height)
    first = start_of + rois[:, 0].long() * (height * width)
    rows = first[:, None, None] + y * width[:, None, None]  # [R, S, 2 * ratio]
    index = rows[:, :, None, :, None] + x[:, None, :, None, :]  # [R, S, S, 2 * ratio, 2 * ratio]
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    cells = len(rois) * size * size
    return index.reshape(cells, -1), weight.reshape(cells, -1)


def _axis(start: Tensor, step: Tensor, size: int, ratio: int, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis: the two cells beside each sample and their weights, [R, S, 2 * ratio] each.

    A sample more than one cell outside the map counts as zero; a closer one takes the value at the border.

    Args:
        start, step: [R] the start of the RoI and the size of its cells, in cells of the map.
        cells: [R] number of cells of the map along this axis.
    """
    offset = (torch.arange(size * ratio, dtype=start.dtype, device=start.device) + 0.5) / ratio  # in cells of the RoI
    at = start[:, None] + offset * step[:, None]  # [R, S * ratio]
    inside = (at >= -1) & (at <= cells[:, None])
    last = (cells[:, None] - 1).to(at.dtype)
    at = at.clamp(min=0).minimum(last)
    low = at.floor()
    high = (low + 1).minimum(last)
    weight = torch.stack((1 - (at - low), at - low), dim=-1) * (inside / ratio)[..., None]
    index = torch.stack((low, high), dim=-1).long()
    return index.view(len(start), size, -1), weight.view(len(start), size, -1)


_FEW = 16
"""With fewer RoIs than this, fc6 is a matrix product, since its time is then that of reading the weight once."""


def whole_rois(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiplies the numbers of each RoI by a matrix: features [R, C, S, S], weight [F, C, S, S], bias [F] to [R, F].

    In an exported graph the weight is already that matrix, [F, S * S * C], cell by cell (`by_cell`).
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
    """A convolution over whole RoIs, whose weight gradient is also a convolution.

    torch's own gradient copies features and weight to another layout and back, which takes as long as the sums."""

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
