"""Non-maximum suppression for a GPU, in Triton, with one program per set of boxes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _greedy(boxes, counts, kept, iou, most, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Keeps the first remaining box of a set and drops those that overlap it, until none remains or enough are kept."""
    own = tl.program_id(0).to(tl.int64) * width
    place = tl.arange(0, block)
    left = place < tl.load(counts + tl.program_id(0))
    corner = boxes + 4 * (own + place)
    x1, y1 = tl.load(corner, mask=left, other=0.0), tl.load(corner + 1, mask=left, other=0.0)
    x2, y2 = tl.load(corner + 2, mask=left, other=0.0), tl.load(corner + 3, mask=left, other=0.0)
    area = (x2 - x1) * (y2 - y1)
    first = tl.min(tl.where(left, place, block), axis=0)
    taken = 0
    while (first < block) & (taken < most):
        tl.store(kept + own + first, 1)
        taken += 1
        best = boxes + 4 * (own + first)
        bx1, by1, bx2, by2 = tl.load(best), tl.load(best + 1), tl.load(best + 2), tl.load(best + 3)
        wide = tl.maximum(tl.minimum(x2, bx2) - tl.maximum(x1, bx1), 0.0)
        high = tl.maximum(tl.minimum(y2, by2) - tl.maximum(y1, by1), 0.0)
        both = wide * high
        union = area + (bx2 - bx1) * (by2 - by1) - both
        left = left & (place > first) & ~(both > iou * union)
        first = tl.min(tl.where(left, place, block), axis=0)


def greedy(boxes: Tensor, counts: Tensor, iou: float, most: int) -> Tensor:
    """Which boxes are kept.

    Args:
        boxes: [N, P, 4] float32 or float64, the best of each set first.
        counts: [N] int64, number of boxes in each set; the others are ignored.
        iou: of two boxes with a higher IoU, the later one is dropped.
        most: most boxes kept per set.

    Returns:
        [N, P] bool.
    """
    sets, width = boxes.shape[:2]
    kept = torch.zeros((sets, width), dtype=torch.uint8, device=boxes.device)
    block = triton.next_power_of_2(width)
    warps = min(max(block // 256, 1), 16)
    # Without fused operations, IoUs are rounded as in torchvision.
    _greedy[(sets,)](
        boxes.contiguous(), counts, kept, iou, most, width, block=block, num_warps=warps, enable_fp_fusion=False
    )
    return kept.bool()
