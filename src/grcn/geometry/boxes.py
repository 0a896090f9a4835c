"""Box coding, areas, overlaps, clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Keeps exp() of the size deltas finite in an untrained network: a box grows at most 62.5 times (as in Detectron).
MAX_LOG_RATIO = math.log(1000.0 / 16)


def to_float32(values: Tensor) -> Tensor:
    """Converts to float32, in which boxes, scores and losses are computed; float64 stays as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def area(boxes: Tensor) -> Tensor:
    """Areas in square pixels: boxes [..., 4] -> [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of `a` with every box of `b`.

    Args:
        a: [..., N, 4]; b: [..., M, 4]; leading dimensions broadcast.

    Returns:
        [..., N, M] in 0..1; 0 where both boxes are empty.
    """
    # Axis by axis, because planes of [N, M] are faster and take less memory than corners of [N, M, 2].
    a_left, a_top, a_right, a_bottom = a[..., :, None, :].unbind(-1)
    b_left, b_top, b_right, b_bottom = (side.contiguous() for side in b[..., None, :, :].unbind(-1))
    intersection = (torch.minimum(a_right, b_right) - torch.maximum(a_left, b_left)).clamp(min=0)
    intersection = intersection * (torch.minimum(a_bottom, b_bottom) - torch.maximum(a_top, b_top)).clamp(min=0)
    union = area(a)[..., :, None] + area(b)[..., None, :] - intersection
    return torch.where(union > 0, intersection / union, 0.0)


def image_rois(sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Images of `sizes` (height, width) as boxes [B, 4], with the type and device of `like`."""
    return constant([(0, 0, width, height) for height, width in sizes], like)


def clip(boxes: Tensor, image: Tensor) -> Tensor:
    """Clips boxes [..., 4] to an image, given as a box [..., 4] that begins at 0; shapes broadcast."""
    return boxes.clamp(min=0).minimum(torch.cat((image[..., 2:], image[..., 2:]), dim=-1))


def has_area(boxes: Tensor, side: float) -> Tensor:
    """Which boxes [..., 4] are at least `side` wide and high: [...] bool."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= side).all(dim=-1)


def encode(boxes: Tensor, references: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The deltas that turn `references` into `boxes` (Girshick et al. 2014, appendix C).

    Args:
        boxes, references: [..., 4], with positive sides.
        weights: factors on dx, dy, dw, dh.

    Returns:
        [..., 4]: the shift of the centre in units of the reference's sides, and the log ratios of the sides.
    """
    sides, reference_sides = boxes[..., 2:] - boxes[..., :2], references[..., 2:] - references[..., :2]
    centres, reference_centres = boxes[..., :2] + 0.5 * sides, references[..., :2] + 0.5 * reference_sides
    shifts = (centres - reference_centres) / reference_sides
    deltas = torch.cat((shifts, torch.log(sides / reference_sides)), dim=-1)
    return deltas * constant(weights, deltas)


def decode(deltas: Tensor, references: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The inverse of `encode`; log ratios are capped at `MAX_LOG_RATIO`. Shapes broadcast: [..., 4] -> [..., 4]."""
    deltas = deltas / constant(weights, deltas)
    reference_sides = references[..., 2:] - references[..., :2]
    centres = references[..., :2] + 0.5 * reference_sides + deltas[..., :2] * reference_sides
    half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_RATIO)) * reference_sides
    return torch.cat((centres - half, centres + half), dim=-1)


def constant(values: Sequence[Any], like: Tensor) -> Tensor:
    """Numbers as a tensor with the type and device of `like`, without waiting for the device."""
    return torch.tensor(values, dtype=like.dtype, device="cpu").to(like.device, non_blocking=True)


def pad(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stacks box lists of different lengths.

    Args:
        boxes: [N_i, 4] for each image.

    Returns:
        [B, max N_i, 4], filled with zeros, and the mask of valid boxes, [B, max N_i] bool.
    """
    padded = torch.nn.utils.rnn.pad_sequence(list(boxes), batch_first=True)
    counts = torch.tensor([len(b) for b in boxes]).to(padded.device, non_blocking=True)
    return padded, torch.arange(padded.shape[1], device=padded.device) < counts[:, None]
