"""The region proposal network: where an object may be (Ren et al. 2015, section 3.1).

Shape letters: B images, C channels, A anchors of an image, P proposals of an image, K samples of an image, G objects
of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from grcn.config import RPNConfig
from grcn.geometry import boxes as box_ops
from grcn.geometry.anchors import cell_anchors, grid_anchors
from grcn.geometry.matching import BACKGROUND, match
from grcn.geometry.nms import keep_best
from grcn.geometry.sampling import sample
from grcn.model.losses import rpn_losses

Generators = Sequence[torch.Generator] | None  # one an image, for what training samples in it


class Objects(NamedTuple):
    """What there is to learn: boxes [B, G, 4]; real [B, G] bool, False for filling; labels [B, G] int64, class ids."""

    boxes: Tensor
    real: Tensor
    labels: Tensor


class Proposals(NamedTuple):
    """Boxes [B, P, 4], best first; valid [B, P] bool, False for the filling at the end, boxes of zeros."""

    boxes: Tensor
    valid: Tensor


class RPN(nn.Module):
    """A 3x3 convolution, then objectness and box deltas of each anchor.

    Args:
        channels: width of the map it looks at; stride: that map's.
    """

    cells: Tensor

    def __init__(self, config: RPNConfig, channels: int, stride: int) -> None:
        super().__init__()
        self.config, self.stride = config, stride
        width = config.channels or channels
        count = len(config.anchor_sizes) * len(config.anchor_ratios)
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.objectness = nn.Conv2d(width, count, 1)
        self.deltas = nn.Conv2d(width, 4 * count, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.register_buffer("cells", cell_anchors(config.anchor_sizes, config.anchor_ratios), persistent=False)

    def forward(
        self,
        features: Tensor,
        images: Tensor,
        objects: Objects | None = None,
        generators: Generators = None,
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals, detached, and the losses where there are objects to learn from, else none.

        Args:
            features: [B, C, H, W].
            images: [B, 4], each image, without padding, as a box.
            objects: None outside training.
            generators: of what is sampled in each image (`geometry.sampling.sample`).
        """
        logits, deltas, anchors = self.answer(features)
        proposals = self._propose(box_ops.precise(logits.detach()), box_ops.precise(deltas.detach()), anchors, images)
        losses = {} if objects is None else self._losses(logits, deltas, anchors, objects, generators)
        return proposals, losses

    def answer(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Objectness logits [B, A] and deltas [B, A, 4] of each anchor of a map [B, C, H, W], and anchors [A, 4]."""
        hidden = torch.relu(self.conv(features))
        logits = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.deltas(hidden).permute(0, 2, 3, 1).reshape(logits.shape[0], -1, 4)
        return logits, deltas, grid_anchors(self.cells, (features.shape[2], features.shape[3]), self.stride)

    def _propose(self, logits: Tensor, deltas: Tensor, anchors: Tensor, images: Tensor) -> Proposals:
        c = self.config
        before, after = (c.pre_nms_train, c.post_nms_train) if self.training else (c.pre_nms_test, c.post_nms_test)
        # So many that the map of a small image has enough, too; what is added comes last and counts for nothing.
        logits = torch.cat((logits, logits.new_full((logits.shape[0], before), -torch.inf)), dim=1)
        scores, index = logits.topk(before, dim=1)
        index = index.clamp(max=anchors.shape[0] - 1)
        boxes = box_ops.decode(deltas.gather(1, index[..., None].expand(-1, -1, 4)), anchors[index])
        boxes = box_ops.clip(boxes, images[:, None])
        scores = scores.masked_fill(~box_ops.has_area(boxes, c.min_size), -torch.inf)
        kept = keep_best(boxes, scores, c.nms, LOWEST, after)
        # Those kept, in their order.
        place = torch.arange(before, 0, -1, device=kept.device, dtype=boxes.dtype)
        rank, index = (kept * place).topk(min(before, after), dim=1)
        valid = rank > 0
        return Proposals(boxes.gather(1, index[..., None].expand(-1, -1, 4)) * valid[..., None], valid)

    def _losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        objects: Objects,
        generators: Generators,
    ) -> dict[str, Tensor]:
        c = self.config
        with torch.no_grad():
            real, thresholds = objects.real, {"foreground": c.foreground_iou, "background": c.background_iou}
            matched = match(objects.boxes, real, anchors, **thresholds, keep_best=True)  # [B, A]
            labels = (matched >= 0).long() - (matched < BACKGROUND).long()  # 1 object, 0 background, -1 ignored
            samples = sample(labels, c.batch_per_image, c.positive_fraction, generators)
            wanted = _targets(objects.boxes, matched.gather(1, samples.indices), anchors[samples.indices])
        index = samples.indices
        return rpn_losses(
            logits.gather(1, index),
            deltas.gather(1, index[..., None].expand(-1, -1, 4)),
            samples.positive,
            wanted,
            samples.real,
        )


LOWEST = -1e30
"""Below every objectness; what counts for nothing is lower still."""


def _targets(objects: Tensor, matched: Tensor, references: Tensor) -> Tensor:
    """Deltas from each reference [B, K, 4] to the object it is matched with [B, K]; zeros where there is none."""
    if objects.shape[1] == 0:
        return torch.zeros_like(references)
    own = objects.gather(1, matched.clamp(min=0)[..., None].expand(-1, -1, 4))
    # Unmatched samples get their own reference as object, whose deltas are zero and finite.
    return box_ops.encode(torch.where((matched >= 0)[..., None], own, references), references)
