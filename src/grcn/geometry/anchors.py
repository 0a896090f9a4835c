"""Anchors: the boxes that the RPN starts from (Ren et al. 2015, section 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """The anchors of one cell, centred at 0 and rounded to whole pixels, as is usual.

    Args:
        sizes: square roots of the areas, pixels; ratios: height / width.

    Returns:
        [len(ratios) * len(sizes), 4], ratio by ratio.
    """
    # Always on the CPU, because a detector that is built on the meta device needs the values.
    root = torch.tensor(ratios, dtype=torch.float32, device="cpu").sqrt()  # size / root wide, size * root high
    side = torch.tensor(sizes, dtype=torch.float32, device="cpu")
    widths = ((1 / root)[:, None] * side).flatten()
    heights = (root[:, None] * side).flatten()
    return (torch.stack((-widths, -heights, widths, heights), dim=1) / 2).round()


def grid_anchors(cells: Tensor, map_size: tuple[int, int], stride: int | tuple[int, int]) -> Tensor:
    """All anchors of a map.

    Args:
        cells: [K, 4] from `cell_anchors`; map_size: (height, width) in cells; stride: input pixels per cell, along both
            axes or along y and x.

    Returns:
        [height * width * K, 4] in input pixels, row by row, with K anchors per cell, centred at (x, y) * stride.
    """
    height, width = map_size
    down, right = (stride, stride) if isinstance(stride, int) else stride
    y = torch.arange(height, device=cells.device, dtype=cells.dtype) * down
    x = torch.arange(width, device=cells.device, dtype=cells.dtype) * right
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).reshape(-1, 2)  # [H * W, 2] as x, y
    return (centres.repeat(1, 2)[:, None] + cells).reshape(-1, 4)


def pyramid_anchors(
    cells: Sequence[Tensor], map_sizes: Sequence[tuple[int, int]], image_size: tuple[int, int]
) -> list[Tensor]:
    """All anchors of each map of a pyramid.

    The distance between neighbouring cells is image size // map size, as in torchvision. It equals the stride of the
    map, except for the last map if that has half of an odd number of cells, rounded up.

    Args:
        cells: [K, 4] for each map; map_sizes: (height, width) of each map; image_size: that of the padded batch.

    Returns:
        [height * width * K, 4] for each map, as from `grid_anchors`.
    """
    return [
        grid_anchors(own, size, (image_size[0] // size[0], image_size[1] // size[1]))
        for own, size in zip(cells, map_sizes, strict=True)
    ]
