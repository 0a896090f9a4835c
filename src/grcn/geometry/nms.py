"""Non-maximum suppression in many sets of boxes at once: images in the RPN, classes of images in the RoI stage."""

from __future__ import annotations

import os
import shutil
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torchvision.ops import nms

WIDEST = 1 << 14
"""Boxes of a set that the kernel of ours can hold."""
FEW = 1 << 14
"""Boxes of all sets that torchvision's kernel compares as they are. Of more, those above the threshold are picked out
first, which is one more wait for the device: every box is compared with every other, also of other sets."""
GROUP = 512
"""Boxes that a CPU compares at a time, unless one set has more."""


@torch.library.custom_op("grcn::nms", mutates_args=())
def keep_best(boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
    """Which boxes non-maximum suppression keeps, set by set.

    One operator, since every runtime has it as one, and since its answer, unlike torchvision's, has a shape that is
    known beforehand.

    Args:
        boxes: [N, P, 4], finite; scores: [N, P].
        iou: above which the lower-scored box is dropped; threshold: only scores above it count.
        most: boxes kept of a set.

    Returns:
        [N, P] bool.
    """
    return at_once(boxes, scores, iou, threshold, most)


def at_once(boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
    """`keep_best` by torchvision's kernel, with one wait for the device (two for more boxes than `FEW`), however many
    sets there are; its time grows with the square of all boxes."""
    count = scores.shape[1]
    kept = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    if not kept.numel():
        return kept
    flat_boxes, flat = boxes.reshape(-1, 4), scores.reshape(-1)
    picked = torch.arange(len(flat), device=flat.device) if len(flat) <= FEW else (flat > threshold).nonzero()[:, 0]
    if len(picked):
        kept.view(-1)[picked[_nms(flat_boxes[picked], flat[picked], picked // count, iou)]] = True
    # What is not above the threshold comes after all that is, and has dropped none of that.
    return _at_most(most, kept & (scores > threshold), scores)


@keep_best.register_kernel("cuda")
def set_by_set(boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
    """The same by a kernel of ours, without a wait; where Triton or a compiler is missing, `at_once`."""
    if not scores.numel() or scores.shape[1] > WIDEST or not _compiles():
        return at_once(boxes, scores, iou, threshold, most)
    from grcn.geometry.nms_kernel import greedy

    order = scores.sort(dim=1, descending=True, stable=True).indices
    counts = (scores > threshold).sum(dim=1)
    kept = greedy(boxes.gather(1, order[..., None].expand(-1, -1, 4)), counts, iou, most)
    return torch.zeros_like(kept).scatter(1, order, kept)


@cache
def _compiles() -> bool:
    """Whether Triton is there, and a compiler of C, which it needs for the code around a kernel."""
    compilers = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return find_spec("triton") is not None and any(shutil.which(name) for name in compilers if name)


@keep_best.register_kernel("cpu")
def in_groups(boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
    """The same on a CPU, where comparing a box with those of all other sets costs more than another call."""
    above = (scores > threshold).contiguous()
    kept = torch.zeros_like(above)
    picked = above.view(-1).nonzero()[:, 0]
    own_boxes, own_scores, sets = boxes.reshape(-1, 4)[picked], scores.reshape(-1)[picked], picked // scores.shape[1]
    first, best = 0, []
    ends: list[int] = above.sum(dim=1).cumsum(dim=0).tolist()
    for end in ends:
        if end - first >= GROUP or (end == len(picked) and end > first):
            group = slice(first, end)
            best.append(first + _nms(own_boxes[group], own_scores[group], sets[group], iou))
            first = end
    if best:
        kept.view(-1)[picked[torch.cat(best)]] = True
    return _at_most(most, kept, scores) if kept.sum(dim=1).gt(most).any() else kept


def _nms(boxes: Tensor, scores: Tensor, sets: Tensor, iou: float) -> Tensor:
    """Indices of what is kept of boxes [M, 4] with scores [M], of which only those of the same set [M] compete."""
    # Moved apart, in float64, where that rounds no overlap.
    moved = boxes.double() + ((boxes.amax() - boxes.amin() + 1).double() * sets)[:, None]
    kept: Tensor = nms(moved, scores.double(), iou)
    return kept


def _at_most(most: int, kept: Tensor, scores: Tensor) -> Tensor:
    """The mask [N, P] without all but the `most` best of each set."""
    if most >= kept.shape[1]:
        return kept
    value, index = scores.masked_fill(~kept, -torch.inf).topk(most, dim=1)
    return torch.zeros_like(kept).scatter(1, index, value > -torch.inf)


@keep_best.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.bool)
