"""Which anchors and proposals enter a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Samples(NamedTuple):
    """Indices [B, K] int64 into an image's boxes; valid [B, K] bool, False where there were fewer; positive [B, K]."""

    indices: Tensor
    valid: Tensor
    positive: Tensor

    def packed(self, count: int) -> Samples:
        """`count` of each image (or K): the valid ones in their order, then the same in turn, as filling.

        Filling that is like the rest, since what looks at it may count with it (batch norm).
        """
        place = torch.arange(min(count, self.valid.shape[1]), device=self.valid.device)
        number = self.valid.sum(dim=1, keepdim=True)
        order = self.valid.byte().argsort(dim=1, descending=True, stable=True)
        order = order.gather(1, place % number.clamp(min=1))
        valid = place < number
        return Samples(self.indices.gather(1, order), valid, self.positive.gather(1, order) & valid)


def sample(
    labels: Tensor, count: int, positive_fraction: float, generators: Sequence[torch.Generator] | None = None
) -> Samples:
    """Draws `count` boxes an image at random, at most a fraction of them positive (Girshick 2015, section 2.3).

    Negatives fill what positives leave. The whole batch is drawn at once, without waiting for the device.

    Args:
        labels: [B, N] int: positive above 0, background at 0, ignored below 0.
        generators: one an image, on the labels' device: what is drawn in an image then does not depend on the others;
            None: torch's own generator.

    Returns:
        Samples with K <= positive_fraction * count + count; exactly the `real` ones count.
    """
    if generators is None:
        keys = torch.rand(labels.shape, device=labels.device)
    else:
        keys = torch.stack([torch.rand(labels.shape[1], generator=g, device=labels.device) for g in generators])
    most_positive = int(count * positive_fraction)
    positive_key, positive_index = keys.masked_fill(labels <= 0, -1.0).topk(min(most_positive, labels.shape[1]))
    positive_real = positive_key >= 0
    negative_key, negative_index = keys.masked_fill(labels != 0, -1.0).topk(min(count, labels.shape[1]))
    left = count - positive_real.sum(dim=1, keepdim=True)
    negative_real = (negative_key >= 0) & (torch.arange(negative_key.shape[1], device=labels.device) < left)
    valid = torch.cat((positive_real, negative_real), dim=1)
    positive = torch.cat((positive_real, torch.zeros_like(negative_real)), dim=1)
    return Samples(torch.cat((positive_index, negative_index), dim=1), valid, positive)
