"""The region proposal network: proposes boxes that may hold an object.

Source: Ren et al. 2015, section 3.1; on a pyramid, Lin et al. 2017, section 4.1.

Shape letters: B images, L maps, C channels, A anchors of an image, P proposals of an image, K samples of an image, G
objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from grcn.config import RPNConfig
from grcn.geometry import boxes as box_ops
from grcn.geometry.anchors import cell_anchors, pyramid_anchors
from grcn.geometry.matching import BACKGROUND, match
from grcn.geometry.nms import keep_best
from grcn.geometry.sampling import sample
from grcn.model.losses import rpn_losses

Generators = Sequence[torch.Generator] | None  # one per image, for the samples of training


class Objects(NamedTuple):
    """The training targets: boxes [B, G, 4]; valid [B, G] bool, False for filling; labels [B, G] int64, class ids."""

    boxes: Tensor
    valid: Tensor
    labels: Tensor


class Proposals(NamedTuple):
    """Boxes [B, P, 4], best first; valid [B, P] bool, False for the filling at the end, whose boxes are zero."""

    boxes: Tensor
    valid: Tensor


class RawPredictions(NamedTuple):
    """The outputs of the RPN for a map: logits [B, A] and deltas [B, A, 4] of its anchors [A, 4]."""

    logits: Tensor
    deltas: Tensor
    anchors: Tensor


class RPN(nn.Module):
    """3x3 convolutions, then objectness and box deltas of each anchor; the same layers on every map.

    Args:
        channels: channels of its maps; strides: strides of its maps. One map has anchors of all sizes; of several
            maps, each has its own size.
    """

    cells: Tensor  # [L, anchors of a cell, 4]

    def __init__(self, config: RPNConfig, channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.config, self.stride = config, strides[0]
        sizes = [config.anchor_sizes] if len(strides) == 1 else [[size] for size in config.anchor_sizes]
        cells = torch.stack([cell_anchors(own, config.anchor_ratios) for own in sizes])
        width, count = config.channels or channels, cells.shape[1]
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        if config.convs == 2:
            self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.objectness = nn.Conv2d(width, count, 1)
        self.deltas = nn.Conv2d(width, 4 * count, 1)
        for layer in self.children():
            nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.register_buffer("cells", cells, persistent=False)

    def forward(
        self,
        maps: Sequence[Tensor],
        images: Tensor,
        objects: Objects | None = None,
        generators: Generators = None,
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals, detached, and in training the losses, otherwise no losses.

        Args:
            maps: [B, C, H, W] each, finest first.
            images: [B, 4], each image, without padding, as a box.
            objects: the training targets; None outside training.
            generators: one for the samples of each image (`geometry.sampling.sample`).
        """
        raw = self.predict_raw(maps)
        proposals = self._propose(raw, images)
        losses = {} if objects is None else self._losses(raw, objects, generators)
        return proposals, losses

    def predict_raw(self, maps: Sequence[Tensor]) -> list[RawPredictions]:
        """The outputs for each anchor, map by map."""
        height, width = maps[0].shape[2:]
        shapes = [(features.shape[2], features.shape[3]) for features in maps]
        anchors = pyramid_anchors(self.cells.unbind(), shapes, (height * self.stride, width * self.stride))
        return [self._predict_map(features, own) for features, own in zip(maps, anchors, strict=True)]

    def _predict_map(self, features: Tensor, anchors: Tensor) -> RawPredictions:
        hidden = torch.relu(self.conv(features))
        if self.config.convs == 2:
            hidden = torch.relu(self.conv2(hidden))
        logits = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.deltas(hidden).permute(0, 2, 3, 1).reshape(logits.shape[0], -1, 4)
        return RawPredictions(logits, deltas, anchors)

    @torch.no_grad()
    def _propose(self, raw: Sequence[RawPredictions], images: Tensor) -> Proposals:
        c, levels = self.config, len(raw)
        before, after = (c.pre_nms_train, c.post_nms_train) if self.training else (c.pre_nms_test, c.post_nms_test)
        candidates = [self._candidates(one, images, before) for one in raw]
        boxes, scores = (torch.stack(each, dim=1) for each in zip(*candidates, strict=True))  # [B, L, P, 4], [B, L, P]
        # Boxes of different maps do not compete in NMS, only for their places at the end.
        kept = keep_best(boxes.flatten(0, 1), scores.flatten(0, 1), c.nms, LOWEST, after)
        boxes, scores, kept = boxes.flatten(1, 2), scores.flatten(1, 2), kept.view(-1, levels * before)
        best, index = scores.masked_fill(~kept, -torch.inf).topk(min(levels * before, after), dim=1)
        valid = best > LOWEST
        return Proposals(boxes.gather(1, index[..., None].expand(-1, -1, 4)) * valid[..., None], valid)

    def _candidates(self, one: RawPredictions, images: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` best boxes of a map, [B, P, 4], and their logits, [B, P]: minus infinity for filling."""
        logits, deltas, anchors = box_ops.to_float32(one.logits), box_ops.to_float32(one.deltas), one.anchors
        # Add filling, so that the map of a small image also has enough. It comes last and does not count.
        logits = torch.cat((logits, logits.new_full((logits.shape[0], count), -torch.inf)), dim=1)
        scores, index = logits.topk(count, dim=1)
        index = index.clamp(max=anchors.shape[0] - 1)
        boxes = box_ops.decode(deltas.gather(1, index[..., None].expand(-1, -1, 4)), anchors[index])
        boxes = box_ops.clip(boxes, images[:, None])
        return boxes, scores.masked_fill(~box_ops.has_area(boxes, self.config.min_size), -torch.inf)

    def _losses(self, raw: Sequence[RawPredictions], objects: Objects, generators: Generators) -> dict[str, Tensor]:
        c = self.config
        logits, deltas, anchors = (
            torch.cat(each, dim=dim) for each, dim in zip(zip(*raw, strict=True), (1, 1, 0), strict=True)
        )
        with torch.no_grad():
            valid, thresholds = objects.valid, {"foreground": c.foreground_iou, "background": c.background_iou}
            matched = match(objects.boxes, valid, anchors, **thresholds, keep_best=True)  # [B, A]
            labels = (matched >= 0).long() - (matched < BACKGROUND).long()  # 1 object, 0 background, -1 ignored
            samples = sample(labels, c.batch_per_image, c.positive_fraction, generators)
            target_deltas = _targets(objects.boxes, matched.gather(1, samples.indices), anchors[samples.indices])
        index = samples.indices
        return rpn_losses(
            logits.gather(1, index),
            deltas.gather(1, index[..., None].expand(-1, -1, 4)),
            samples.positive,
            target_deltas,
            samples.valid,
        )


LOWEST = -1e30
"""Lower than any objectness. Entries that do not count are lower still."""


def _targets(objects: Tensor, matched: Tensor, references: Tensor) -> Tensor:
    """Deltas from each reference [B, K, 4] to its matched object [B, K]; zeros if there is none."""
    if objects.shape[1] == 0:
        return torch.zeros_like(references)
    own = objects.gather(1, matched.clamp(min=0)[..., None].expand(-1, -1, 4))
    # Unmatched samples get their own reference as object, whose deltas are zero and finite.
    return box_ops.encode(torch.where((matched >= 0)[..., None], own, references), references)
