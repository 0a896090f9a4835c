"""The region proposal network: where an object may be (Ren et al. 2015, section 3.1).

Shape letters: B images, C channels, A anchors of an image, K samples of an image, G objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import nms, remove_small_boxes

from grcn.config import RPNConfig
from grcn.geometry import boxes as box_ops
from grcn.geometry.anchors import cell_anchors, grid_anchors
from grcn.geometry.matching import BACKGROUND, match
from grcn.geometry.sampling import sample
from grcn.model.losses import rpn_losses

Sizes = list[tuple[int, int]]  # (height, width) of each image of a batch, without padding
Generators = Sequence[torch.Generator] | None  # one an image, for what training samples in it


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
        sizes: Sizes,
        objects: tuple[Tensor, Tensor] | None,
        generators: Generators = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals of each image, best first, and the losses where there are objects to learn from.

        Args:
            features: [B, C, H, W].
            objects: boxes [B, G, 4] and the mask of real ones [B, G]; None outside training.
            generators: of what is sampled in each image (`geometry.sampling.sample`).

        Returns:
            [P_i, 4] boxes per image, detached; losses (empty outside training).
        """
        logits, deltas, anchors = self.answer(features)
        proposals = self._propose(box_ops.precise(logits.detach()), box_ops.precise(deltas.detach()), anchors, sizes)
        losses = {} if objects is None else self._losses(logits, deltas, anchors, *objects, generators)
        return proposals, losses

    def answer(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Objectness logits [B, A] and deltas [B, A, 4] of each anchor of a map [B, C, H, W], and anchors [A, 4]."""
        hidden = torch.relu(self.conv(features))
        logits = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.deltas(hidden).permute(0, 2, 3, 1).reshape(logits.shape[0], -1, 4)
        return logits, deltas, grid_anchors(self.cells, (features.shape[2], features.shape[3]), self.stride)

    def _propose(self, logits: Tensor, deltas: Tensor, anchors: Tensor, sizes: Sizes) -> list[Tensor]:
        c = self.config
        before, after = (c.pre_nms_train, c.post_nms_train) if self.training else (c.pre_nms_test, c.post_nms_test)
        scores, index = logits.topk(min(before, logits.shape[1]), dim=1)  # [B, before]
        boxes = box_ops.decode(deltas.gather(1, index[..., None].expand(-1, -1, 4)), anchors[index])
        proposals = []
        for image_boxes, image_scores, size in zip(boxes, scores, sizes, strict=True):
            clipped = box_ops.clip(image_boxes, size)
            kept = remove_small_boxes(clipped, c.min_size)
            clipped, image_scores = clipped[kept], image_scores[kept]
            proposals.append(clipped[nms(clipped, image_scores, c.nms)[:after]])
        return proposals

    def _losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        objects: Tensor,
        real: Tensor,
        generators: Generators,
    ) -> dict[str, Tensor]:
        c = self.config
        with torch.no_grad():
            matched = match(
                objects, real, anchors, foreground=c.foreground_iou, background=c.background_iou, keep_best=True
            )  # [B, A]
            labels = (matched >= 0).long() - (matched < BACKGROUND).long()  # 1 object, 0 background, -1 ignored
            samples = sample(labels, c.batch_per_image, c.positive_fraction, generators)
            wanted = _targets(objects, matched.gather(1, samples.indices), anchors[samples.indices])
        index = samples.indices
        return rpn_losses(
            logits.gather(1, index),
            deltas.gather(1, index[..., None].expand(-1, -1, 4)),
            samples.positive,
            wanted,
            samples.real,
        )


def _targets(objects: Tensor, matched: Tensor, references: Tensor) -> Tensor:
    """Deltas from each reference [B, K, 4] to the object it is matched with [B, K]; zeros where there is none."""
    if objects.shape[1] == 0:
        return torch.zeros_like(references)
    own = objects.gather(1, matched.clamp(min=0)[..., None].expand(-1, -1, 4))
    # Unmatched samples get their own reference as object, whose deltas are zero and finite.
    return box_ops.encode(torch.where((matched >= 0)[..., None], own, references), references)
