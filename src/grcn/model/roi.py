"""The RoI stage: what each proposal shows, and where exactly it ends (Girshick 2015; He et al. 2017 for RoIAlign).

Each task reads its own map. How much of the way from map to answer the tasks share is the configuration's
`separation`: one head for both, a head each, or a head and map-level layers each.

Shape letters: B images, P proposals of an image, K samples of an image, R RoIs of the batch, C classes, F features.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, remove_small_boxes

from grcn.config import DetectorConfig
from grcn.geometry import boxes as box_ops
from grcn.geometry.matching import BACKGROUND, match
from grcn.geometry.sampling import sample
from grcn.model.losses import roi_losses
from grcn.model.pooling import roi_align, roi_pool
from grcn.model.rpn import Sizes
from grcn.model.separation import Maps

Task = Literal["cls", "loc"]
TASKS: tuple[Task, Task] = ("cls", "loc")


class ConvHead(nn.Module):
    """Protocol C4: conv5 on each RoI's 14x14 features, then the average over its 7x7 cells."""

    def __init__(self, conv5: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv5, self.channels = conv5, channels

    def forward(self, features: Tensor) -> Tensor:
        vectors: Tensor = self.conv5(features).mean(dim=(2, 3))
        return vectors


class FCHead(nn.Module):
    """Two fully connected layers; dropout as in VGG16's fc6 and fc7.

    fc6 is held as what it also is, a convolution over the whole RoI: so its weight lies in memory as RoI features do.

    Args:
        inputs: channels of the RoI features; size: their cells per side; channels: of both layers.
    """

    def __init__(self, inputs: int, size: int, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc6, self.fc7 = nn.Conv2d(inputs, channels, size), nn.Linear(channels, channels)
        self.dropout, self.channels = dropout, channels
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        # In float32 on a CPU oneDNN's convolution takes half the time of MKL's matrix product, which is what torch
        # makes of a linear layer there; for gradients, in bfloat16 and on a GPU the product is as fast or faster.
        if torch.is_grad_enabled() or features.is_cuda or features.dtype != torch.float32:
            hidden = F.linear(_by_cell(features), _by_cell(self.fc6.weight), self.fc6.bias)
        else:
            hidden = self.fc6(features).flatten(1)
        hidden = F.dropout(torch.relu(hidden), self.dropout, self.training)
        return F.dropout(torch.relu(self.fc7(hidden)), self.dropout, self.training)


def _by_cell(maps: Tensor) -> Tensor:
    """[N, C, S, S] to [N, S * S * C], without a copy where the memory is channels-last."""
    return maps.permute(0, 2, 3, 1).flatten(1)


class AverageHead(nn.Module):
    """The average over a RoI's cells, which forgets where in the RoI anything was; kept for the study."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


class AttentionContext(nn.Module):
    """An attention-pooled vector of the whole map (the context modelling of GCNet, Cao et al. 2019).

    It is a module beyond the paper's "no extra module"; for comparison with global context.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.attention, self.transform = nn.Conv2d(inputs, 1, 1), nn.Linear(inputs, channels)

    def forward(self, features: Tensor, sizes: Sizes, stride: int) -> Tensor:
        """Map [B, C, H, W] to [B, F]; cells that lie wholly in an image's padding get no attention."""
        height, width = features.shape[2:]
        y, x = (torch.arange(n, device=features.device) * stride for n in (height, width))
        inside = torch.stack([(y < h)[:, None] & (x < w) for h, w in sizes])  # [B, H, W]
        weights = self.attention(features)[:, 0].masked_fill(~inside, -torch.inf).flatten(1).softmax(dim=1)
        pooled = torch.einsum("bcn,bn->bc", features.flatten(2), weights.to(features.dtype))
        return torch.relu(self.transform(pooled))


class Predictions(NamedTuple):
    """logits [R, 1 + C], background first; deltas [R, C, 4]."""

    logits: Tensor
    deltas: Tensor


class RoIStage(nn.Module):
    """From maps and proposals to class scores and boxes.

    Args:
        channels, strides: of the cls and loc maps.
        heads: from RoI features to a vector of `channels` each; one called `shared`, or `cls` and `loc`.
    """

    def __init__(
        self,
        config: DetectorConfig,
        num_classes: int,
        channels: tuple[int, int],
        strides: tuple[int, int],
        heads: dict[str, nn.Module],
    ) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.strides = dict(zip(TASKS, strides, strict=True))
        width = config.roi.reduce_channels
        self.reduce = nn.ModuleDict(
            {
                key: nn.Conv2d(channels[0], width, 1) if config.head == "light_fc2" else nn.Identity()
                for key in pooled_keys(config)
            }
        )
        for layer in self.reduce.values():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.heads = nn.ModuleDict(heads)
        features: int = next(iter(heads.values())).channels  # type: ignore[assignment]
        self.contexts: dict[Task, str] = {"cls": config.cls_context, "loc": config.loc_context}
        self.attention = nn.ModuleDict(
            {
                task: AttentionContext(inputs, features)
                for task, inputs in zip(TASKS, channels, strict=True)
                if self.contexts[task] == "attention"
            }
        )
        inputs = {task: features * (1 if self.contexts[task] == "none" else 2) for task in TASKS}
        self.scores = nn.Linear(inputs["cls"], num_classes + 1)
        self.deltas = nn.Linear(inputs["loc"], 4 * num_classes)
        for layer, std in ((self.scores, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(
        self, maps: Maps, proposals: list[Tensor], sizes: Sizes, targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections of each image outside training, losses in training; the other is empty.

        Args:
            proposals: [P_i, 4] per image; targets: boxes and labels per image, None outside training.
        """
        if targets is None:
            return self.detect(self.predict(maps, proposals, sizes), proposals, sizes), {}
        proposals, labels, wanted = self.assign(proposals, targets)
        return [], roi_losses(*self.predict(maps, proposals, sizes), labels, wanted)

    def predict(self, maps: Maps, proposals: list[Tensor], sizes: Sizes) -> Predictions:
        """Class logits and box deltas of every proposal, image by image."""
        count = sum(len(p) for p in proposals)
        vectors = self._vectors(maps, proposals, sizes)
        answers = {}
        for task, layer in (("cls", self.scores), ("loc", self.deltas)):
            features = vectors[task if task in self.heads else "shared"]  # [R, F], or [R + B, F] with the whole images
            if self.contexts[task] != "none":  # type: ignore[index]
                if self.contexts[task] == "global":  # type: ignore[index]
                    context = features[count:]
                else:
                    context = self.attention[task](getattr(maps, task), sizes, self.strides[task])  # type: ignore[index]
                context = context.repeat_interleave(_counts(proposals, context.device), dim=0, output_size=count)
                features = torch.cat((features[:count], context.to(features.dtype)), dim=1)
            answers[task] = layer(features[:count])
        return Predictions(answers["cls"], answers["loc"].reshape(count, self.num_classes, 4))

    def _vectors(self, maps: Maps, proposals: list[Tensor], sizes: Sizes) -> dict[str, Tensor]:
        """The vector of each RoI, [R, F], from each head; with those of the B whole images after them where a task
        reads global context from that head."""
        global_heads = {t if t in self.heads else "shared" for t in TASKS if self.contexts[t] == "global"}
        count = sum(len(p) for p in proposals)
        rois = _rois(proposals)
        if global_heads:
            whole = [rois.new_tensor([[0, 0, w, h]]) for h, w in sizes]
            rois_and_images = torch.cat((rois, _rois(whole)))
        pooled: dict[str, Tensor] = {}
        vectors: dict[str, Tensor] = {}
        for key, head in self.heads.items():
            source = key if key in self.reduce else "shared"
            if source not in pooled:
                task: Task = "loc" if source == "loc" else "cls"
                wide = key in global_heads or (source == "shared" and global_heads)
                pooled[source] = self._pool(
                    self.reduce[source](getattr(maps, task)), rois_and_images if wide else rois, self.strides[task]
                )
            features = pooled[source]
            vectors[key] = head(features if key in global_heads else features[:count])
        return vectors

    def _pool(self, features: Tensor, rois: Tensor, stride: int) -> Tensor:
        size, roi = self.config.roi_size, self.config.roi
        if roi.pooling == "pool":
            return roi_pool(features, rois, size, 1 / stride)
        return roi_align(features, rois, size, 1 / stride, roi.sampling_ratio, aligned=roi.aligned)

    @torch.no_grad()
    def assign(self, proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Training samples: the objects join the proposals, then a share of positives is drawn.

        Returns:
            sampled boxes [K_i, 4] per image; labels [R], 0 for background, else class id + 1; wanted deltas [R, 4].
        """
        roi = self.config.roi
        objects, real = box_ops.pad([t["boxes"] for t in targets])  # [B, G, 4], [B, G]
        names = nn.utils.rnn.pad_sequence([t["labels"] for t in targets], batch_first=True)  # [B, G]
        candidates, present = box_ops.pad(
            [torch.cat((p, t["boxes"])) for p, t in zip(proposals, targets, strict=True)]
        )  # [B, P, 4]
        matched = match(
            objects, real, candidates, foreground=roi.foreground_iou, background=roi.foreground_iou, keep_best=False
        )
        labels = torch.zeros_like(matched)
        if objects.shape[1]:
            labels = torch.where(matched == BACKGROUND, 0, names.gather(1, matched.clamp(min=0)) + 1)
        samples = sample(labels.masked_fill(~present, -1), roi.batch_per_image, roi.positive_fraction)
        boxes = candidates.gather(1, samples.indices[..., None].expand(-1, -1, 4))  # [B, K, 4]
        wanted = torch.zeros_like(boxes)
        if objects.shape[1]:
            index = matched.gather(1, samples.indices)
            own = objects.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, 4))
            # Background is matched with itself, whose deltas are zero; padding with a unit box, so that all is finite.
            boxes_or_unit = torch.where(samples.real[..., None], boxes, boxes.new_tensor([0, 0, 1, 1]))
            own = torch.where(samples.positive[..., None], own, boxes_or_unit)
            wanted = box_ops.encode(own, boxes_or_unit, roi.box_weights)
        sampled = [b[r] for b, r in zip(boxes, samples.real, strict=True)]
        return sampled, labels.gather(1, samples.indices)[samples.real], wanted[samples.real]

    def detect(self, predictions: Predictions, proposals: list[Tensor], sizes: Sizes) -> list[dict[str, Tensor]]:
        """Detections of each image: per class, boxes above the score threshold after NMS, the best of all classes.

        Returns:
            per image boxes [N, 4], scores [N], labels [N] (class ids), by falling score.
        """
        roi = self.config.roi
        counts = [len(p) for p in proposals]
        scores = box_ops.precise(predictions.logits).softmax(dim=1)[:, 1:]  # [R, C]
        boxes = box_ops.decode(box_ops.precise(predictions.deltas), torch.cat(proposals)[:, None], roi.box_weights)
        detections = []
        for image_boxes, image_scores, size in zip(
            torch.split(boxes, counts), torch.split(scores, counts), sizes, strict=True
        ):
            row, label = torch.nonzero(image_scores > roi.score_threshold, as_tuple=True)
            clipped, score = box_ops.clip(image_boxes[row, label], size), image_scores[row, label]
            kept = remove_small_boxes(clipped, 1e-2)
            clipped, score, label = clipped[kept], score[kept], label[kept]
            kept = batched_nms(clipped, score, label, roi.nms)[: roi.detections_per_image]
            detections.append({"boxes": clipped[kept], "scores": score[kept], "labels": label[kept]})
        return detections


def pooled_keys(config: DetectorConfig) -> tuple[str, ...]:
    """Whose RoI features are pooled: one map's for both tasks, or each task's."""
    return ("shared",) if config.separation in ("none", "roi") else TASKS


def head_keys(config: DetectorConfig) -> tuple[str, ...]:
    """Whose heads there are: one for both tasks, or one each."""
    return ("shared",) if config.separation == "none" else TASKS


def _rois(boxes: list[Tensor]) -> Tensor:
    """Boxes per image to [R, 5]: index of the image, then the box."""
    joined = torch.cat(boxes)
    images = torch.arange(len(boxes), device=joined.device)
    index = images.repeat_interleave(_counts(boxes, joined.device), output_size=len(joined))
    return torch.cat((index[:, None].to(joined.dtype), joined), dim=1)


def _counts(boxes: list[Tensor], device: torch.device) -> Tensor:
    return torch.tensor([len(b) for b in boxes], device=device)
