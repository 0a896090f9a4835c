"""Chooses the anchors and proposals that enter a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Samples(NamedTuple):
    """The sampled boxes of each image.

    Args:
        indices: [B, K] int64, indices into the boxes of the image.
        valid: [B, K] bool, False where the image had fewer boxes to sample.
        positive: [B, K] bool.
    """

    indices: Tensor
    valid: Tensor
    positive: Tensor

    def packed(self, count: int) -> Samples:
        """The first `count` (at most K) samples of each image, valid ones first. Missing ones repeat the valid ones.

        Repeated samples are not valid, but they look like the others, because batch norm counts them as well.
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
    """Draws `count` boxes per image at random, at most a fraction of them positive (Girshick 2015, section 2.3).

    Negatives fill the rest. The whole batch is drawn at once, without waiting for the device.

    Args:
        labels: [B, N] int: positive above 0, background at 0, ignored below 0.
        generators: one per image, on the device of the labels, so that the draw for an image does not depend on the
            other images. None: torch's own generator.

    Returns:
        Samples with K <= positive_fraction * count + count, of which only the valid ones count.
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
