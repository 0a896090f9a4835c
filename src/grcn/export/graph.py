"""Prediction as a single graph of tensor operations: uint8 images in, detections in pixels of these images out.

The detector itself is that of `grcn.model`, whose shapes do not depend on the detections. This module adds the step
before it, which is resizing, for a batch of images of one size. `Detector.predict` resizes image by image in Python.

Shape letters: B images, H and W of an image as given, h and w as resized, D detections per image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grcn.config import InputConfig
from grcn.data.transforms import output_size
from grcn.model.detector import MULTIPLE, RCNN


class Graph(nn.Module):
    """Prediction of `model` as a graph.

    Args:
        model: the detector; batch norm is best folded (`grcn.predict.optimize`).
    """

    def __init__(self, model: RCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The detections in each image.

        Args:
            images: [B, H, W, 3] uint8, RGB.

        Returns:
            boxes [B, D, 4] xyxy in pixels of `images`, clipped to them; scores [B, D], descending; class ids [B, D]
            int64. If an image has fewer than D detections, the rest has class id -1 and score 0.
        """
        model, own = self.model, _as_tensor(images.shape[1:3])  # height, width
        small, seen = self._resize(images, own)
        maps = model.separation(self._normalise(small, seen))
        whole = torch.cat((seen.new_zeros(2), seen.flip(0))).float().expand(images.shape[0], 4)
        proposals, _ = model.rpn(maps.rpn, whole)
        found = model.roi.detect(model.roi(maps, proposals.boxes, whole), proposals, whole)
        found = model.roi.refine(maps, found, whole)
        to_own = (own.float() / seen).flip(0).repeat(2)
        boxes = (found.boxes * to_own).minimum(own.float().flip(0).repeat(2))
        return boxes, found.scores, found.labels

    def _resize(self, images: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """`images` at the size that the model sees, padded, and height and width without the padding.

        The padded images are [B, h', w', 3], where h' and w' are multiples of 32, with whole numbers 0..255.
        """
        old, size = images.shape[1:3], self.model.config.input
        if not all(isinstance(n, int) for n in old):
            seen = _output_size(own, size)
            cells = ((seen + MULTIPLE - 1) // MULTIPLE).tolist()
            for n in cells:
                torch._check(n >= 1)
                torch._check(n <= -(-size.long_side // MULTIPLE))
            return _resized(images, seen, cells), seen
        # If the size is known now, there is less to compute later.
        new = output_size(old[0], old[1], size.short_side, size.long_side)
        cells = [-(-n // MULTIPLE) for n in new]
        if new == tuple(old):
            below, right = (MULTIPLE * n - m for n, m in zip(cells, new, strict=True))
            return F.pad(images.float(), (0, 0, 0, right, 0, below)), own
        return _resized(images, _as_tensor(new), cells), _as_tensor(new)

    def _normalise(self, pixels: Tensor, seen: Tensor) -> Tensor:
        """Normalizes as `RCNN.batch` does, [B, 3, h', w'], with zeros in the padding."""
        y, x = (torch.arange(n, device=pixels.device) for n in pixels.shape[1:3])
        inside = (y < seen[0])[:, None] & (x < seen[1])
        return ((pixels.permute(0, 3, 1, 2) / 255 - self.model.mean) / self.model.std) * inside


def _as_tensor(shape: Sequence[int]) -> Tensor:
    return torch.stack([torch.scalar_tensor(n, dtype=torch.int64) for n in shape])


def _output_size(own: Tensor, config: InputConfig) -> Tensor:
    """`grcn.data.transforms.output_size` for height and width `own` [2] int64."""
    short, long, small, large = config.short_side, config.long_side, own.min(), own.max()
    by_short = short * large <= long * small
    side = torch.where(by_short, small, large)
    target = torch.where(by_short, short, long)
    return ((2 * own * target + side) // (2 * side)).clamp(min=1)


def _resized(images: Tensor, new: Tensor, cells: Sequence[int]) -> Tensor:
    """Antialiased bilinear resizing as torch does it on uint8: along x, rounded, then along y, rounded.

    Args:
        images: [B, H, W, 3] uint8; new: height and width of the result, int64 [2].
        cells: height and width with padding, in units of 32 pixels; the padding becomes zero.

    Returns:
        [B, h', w', 3] of whole numbers 0..255.
    """
    batch, height = images.shape[:2]
    columns = _resized_rows(images.permute(0, 2, 1, 3).flatten(2), new[1], cells[1])  # [B, w', H * 3]
    columns = columns.reshape(batch, -1, height, 3).permute(0, 2, 1, 3).flatten(2)  # [B, H, w' * 3]
    return _resized_rows(columns, new[0], cells[0]).reshape(batch, cells[0] * MULTIPLE, -1, 3) + 128.0


def _resized_rows(images: Tensor, new: Tensor, cells: int) -> Tensor:
    """Resizes along the second axis.

    A pixel of the result is a weighted sum of old pixels. The weights form a triangle around its centre, as wide as the
    coarser of the two grids. They are whole numbers, because distances are counted in units of 1 / (2 * new) pixels of
    the image. torch then rounds the weights, whose sum is 1, to as many binary digits as fit into 16 bits, and so does
    this function. One weight in a thousand may be rounded differently, by one in its last digit. With 128 subtracted
    from the pixels, all numbers are small enough to be exact in float32, unless the image becomes eight or more times
    smaller.

    Each 32 pixels of the result are a small matrix product with the window of the image that they depend on.

    Args:
        images: [B, N, M], uint8, or float with 128 subtracted.
        new: pixels of the result, int64.
        cells: pixels of the result with padding, in units of 32.

    Returns:
        [B, 32 * cells, M] float, with 128 subtracted.
    """
    old = images.shape[1]
    reach = 2 * new.clamp(min=old)  # half the width of the triangle, in units of 1 / (2 * new) pixels of the image
    length = ((2 * MULTIPLE * old + 2 * reach) // (2 * new) + 2).clamp(max=old)
    window: int = length.item()  # type: ignore[assignment]
    torch._check(window >= 1)
    torch._check(window <= old)
    first = torch.arange(cells)[:, None] * MULTIPLE  # [cells, 1]
    start = (((2 * first + 1) * old - reach) // (2 * new)).clamp(min=0).minimum(old - length)
    index = start + torch.arange(window)  # [cells, window] of the image
    x = (first + torch.arange(MULTIPLE))[..., None]  # [cells, 32, 1] of the result
    distance = ((2 * x + 1) * old - (2 * index[:, None] + 1) * new).abs()
    weights = ((reach - distance).clamp(min=0) * (x < new)).float()
    weights = weights / weights.sum(dim=2, keepdim=True).clamp(min=1)
    units = 2.0 ** torch.arange(23)
    digits = (weights.max() * units[1:] < 2**15 - 0.5).sum()
    unit = units.index_select(0, digits.reshape(1))
    weights = (weights * unit + 0.5).floor()
    # Added before rounding down: a half, and a correction of the 128 where the weights do not sum to 1.
    shift = 128 * (weights.sum(dim=2, keepdim=True) - unit) + unit / 2
    taken = images.index_select(1, index.flatten())
    taken = taken.float() - 128 if taken.dtype == torch.uint8 else taken
    taken = taken.reshape(images.shape[0], cells, window, -1)  # [B, cells, window, M]
    rows: Tensor = ((weights @ taken + shift) / unit).floor().clamp(max=127)
    return rows.flatten(1, 2)
