"""Non-maximum suppression in many sets of boxes at once.

A set is an image in the RPN, and a class of an image in the RoI stage.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torchvision.ops import nms

WIDEST = 1 << 14
"""Most boxes of a set that our own kernel can hold."""
FEW = 1 << 14
"""Up to this many boxes in all sets go to torchvision's kernel directly.

Of more boxes, only those above the threshold do, because the kernel compares every box with every other, also across
sets. Picking them costs one more wait for the device."""
GROUP = 512
"""Boxes that a CPU compares at a time, unless a single set has more."""


@torch.library.custom_op("grcn::nms", mutates_args=())
def keep_best(boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
    """Which boxes non-maximum suppression keeps, set by set.

    This is a single operator because every runtime has one for it. Unlike in torchvision, the shape of the result is
    known in advance.

    Args:
        boxes: [N, P, 4], finite; scores: [N, P].
        iou: of two boxes with a higher IoU, the one with the lower score is dropped.
        threshold: only boxes with a higher score are kept.
        most: most boxes kept per set.

    Returns:
        [N, P] bool.
    """
    return at_once(boxes, scores, iou, threshold, most)


def at_once(boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
    """`keep_best` with torchvision's kernel.

    It waits for the device once (twice for more boxes than `FEW`), however many sets there are. Its time grows with the
    square of the number of all boxes.
    """
    count = scores.shape[1]
    kept = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    if not kept.numel():
        return kept
    flat_boxes, flat = boxes.reshape(-1, 4), scores.reshape(-1)
    picked = torch.arange(len(flat), device=flat.device) if len(flat) <= FEW else (flat > threshold).nonzero()[:, 0]
    if len(picked):
        kept.view(-1)[picked[_nms(flat_boxes[picked], flat[picked], picked // count, iou)]] = True
    # Boxes at or below the threshold come last, so they have dropped no box above it.
    return _at_most(most, kept & (scores > threshold), scores)


@keep_best.register_kernel("cuda")
def set_by_set(boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
    """The same with our own kernel, which does not wait for the device; without Triton or a compiler, `at_once`."""
    if not scores.numel() or scores.shape[1] > WIDEST or not _compiles():
        return at_once(boxes, scores, iou, threshold, most)
    from grcn.geometry.nms_kernel import greedy

    order = scores.sort(dim=1, descending=True, stable=True).indices
    counts = (scores > threshold).sum(dim=1)
    kept = greedy(boxes.gather(1, order[..., None].expand(-1, -1, 4)), counts, iou, most)
    return torch.zeros_like(kept).scatter(1, order, kept)


@cache
def _compiles() -> bool:
    """Whether there is Triton, and a C compiler, which Triton needs for the code around a kernel."""
    compilers = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return find_spec("triton") is not None and any(shutil.which(name) for name in compilers if name)


@keep_best.register_kernel("cpu")
def in_groups(boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
    """The same on a CPU, where comparing boxes across sets costs more than another call."""
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
    """The indices of the kept boxes, of boxes [M, 4] with scores [M]. Only boxes of the same set [M] compete."""
    # Move the sets apart, so that they do not overlap. In float64, this does not change any IoU.
    moved = boxes.double() + ((boxes.amax() - boxes.amin() + 1).double() * sets)[:, None]
    kept: Tensor = nms(moved, scores.double(), iou)
    return kept


def _at_most(most: int, kept: Tensor, scores: Tensor) -> Tensor:
    """The mask [N, P] with only the `most` best boxes of each set."""
    if most >= kept.shape[1]:
        return kept
    value, index = scores.masked_fill(~kept, -torch.inf).topk(most, dim=1)
    return torch.zeros_like(kept).scatter(1, index, value > -torch.inf)


@keep_best.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.bool)
