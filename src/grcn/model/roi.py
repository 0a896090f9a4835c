"""The RoI stage: what each proposal shows, and where exactly it ends (Girshick 2015; He et al. 2017 for RoIAlign).

Each task reads its own map. How much of the way from map to answer the tasks share is the configuration's
`separation`: one head for both, a head each, or a head and map-level layers each.

Shape letters: B images, P proposals of an image, K samples of an image, G objects of an image, R RoIs of the batch, as
many of each image, C classes, F features, D detections of an image.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from grcn.config import DetectorConfig
from grcn.geometry import boxes as box_ops
from grcn.geometry.matching import BACKGROUND, match
from grcn.geometry.nms import keep_best
from grcn.geometry.sampling import sample
from grcn.model.losses import FILLING
from grcn.model.pooling import roi_align, roi_pool
from grcn.model.rpn import Generators, Objects, Proposals
from grcn.model.separation import Maps, run
from grcn.runtime import convolves_whole_rois

Task = Literal["cls", "loc"]
TASKS: tuple[Task, Task] = ("cls", "loc")


class ConvHead(nn.Module):
    """Protocol C4: conv5 on each RoI's 14x14 features, then the average over its 7x7 cells."""

    def __init__(self, conv5: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv5, self.channels = conv5, channels
        self.checkpoint = False  # as `Separation.checkpoint`

    def forward(self, features: Tensor) -> Tensor:
        return run([self.conv5], features, self.checkpoint).mean(dim=(2, 3))


_FEW = 16
"""RoIs below which fc6 is a matrix product, which then is a matter of reading its weight once."""


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
        if torch.compiler.is_exporting():  # after `as_matrix`
            hidden = F.linear(_by_cell(features), self.fc6.weight, self.fc6.bias)
        # In float32 on a CPU with AVX-512 oneDNN's convolutions take less time than MKL's matrix products, which torch
        # makes of a linear layer there: half on one machine, nine tenths on another (benchmarks/ablation.py). For a few
        # RoIs, such as the whole image, and elsewhere the products are as fast or faster.
        elif (
            features.device.type != "cpu"
            or features.dtype != torch.float32
            or len(features) < _FEW
            or not convolves_whole_rois()
        ):
            hidden = F.linear(_by_cell(features), _by_cell(self.fc6.weight), self.fc6.bias)
        elif torch.is_grad_enabled():
            hidden = _WholeRoI.apply(features, self.fc6.weight, self.fc6.bias)
        else:
            hidden = self.fc6(features).flatten(1)
        hidden = F.dropout(torch.relu(hidden), self.dropout, self.training)
        return F.dropout(torch.relu(self.fc7(hidden)), self.dropout, self.training)

    def as_matrix(self) -> None:
        """Holds fc6 as the matrix that an exported graph computes, which other runtimes find quickest; for it alone."""
        self.fc6.weight.data = _by_cell(self.fc6.weight.data).contiguous()


class _WholeRoI(torch.autograd.Function):
    """A convolution over whole RoIs, with its weight's gradient as one more convolution: torch's own copies features
    and weight to another layout and back, which costs as much as the sums."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Features [R, C, S, S], weight [F, C, S, S] and bias [F] to [R, F]."""
        ctx.save_for_backward(features, weight)
        return F.conv2d(features, weight, bias).flatten(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, weight = ctx.saved_tensors
        rois, channels, size, _ = features.shape
        to_features: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
            features.shape, weight, gradient[:, :, None, None]
        )
        # Each RoI is a channel and each of its numbers a pixel; the gradient says how much of each RoI to sum.
        pixels = _by_cell(features).reshape(1, rois, size * size, channels)
        sums = F.conv2d(pixels, gradient.t()[:, :, None, None])  # [1, F, S * S, C]
        to_weight = sums.view(-1, size, size, channels).permute(0, 3, 1, 2)
        return to_features, to_weight, gradient.sum(dim=0)


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

    def forward(self, features: Tensor, whole: Tensor, stride: int) -> Tensor:
        """Map [B, C, H, W] to [B, F]; cells that lie wholly in an image's padding get no attention.

        Args:
            whole: [B, 5], each image as a RoI.
        """
        y, x = (torch.arange(n, device=features.device) * stride for n in features.shape[2:])
        inside = (y < whole[:, 4:])[:, :, None] & (x < whole[:, 3:4])[:, None]  # [B, H, W]
        weights = self.attention(features)[:, 0].masked_fill(~inside, -torch.inf).flatten(1).softmax(dim=1)
        pooled = torch.einsum("bcn,bn->bc", features.flatten(2), weights.to(features.dtype))
        return torch.relu(self.transform(pooled))


class Assigned(NamedTuple):
    """What is trained on: boxes [B, K, 4]; labels [B, K], 0 for background, class id + 1, or `FILLING`; wanted deltas
    [B, K, 4]."""

    boxes: Tensor
    labels: Tensor
    wanted: Tensor


class Found(NamedTuple):
    """Detections by falling score: boxes [B, D, 4], scores [B, D], labels [B, D] (class ids), valid [B, D] bool; the
    others, at the end, have boxes and scores of zero and the label -1."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor


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

    def forward(self, maps: Maps, boxes: Tensor, images: Tensor) -> Predictions:
        """Class logits and box deltas of every RoI, image by image.

        Args:
            boxes: [B, P, 4].
            images: [B, 4], each image, without padding, as a box.
        """
        rois, whole = _rois(boxes), _rois(images[:, None])
        reduced = {key: layer(getattr(maps, _task_of(key))) for key, layer in self.reduce.items()}
        keys = {task: task if task in self.heads else "shared" for task in TASKS}
        vectors = self._vectors(reduced, rois, set(keys.values()))  # [R, F] each
        readers = {keys[task] for task in TASKS if self.contexts[task] == "global"}
        # By themselves: in one batch with the RoIs, whose number is round, they cost as much again as all of those.
        contexts = self._vectors(reduced, whole, readers)  # [B, F] each
        answers = {}
        for task, layer in zip(TASKS, (self.scores, self.deltas), strict=True):
            features = vectors[keys[task]]
            if self.contexts[task] != "none":
                if self.contexts[task] == "global":
                    context = contexts[keys[task]]
                else:
                    context = self.attention[task](getattr(maps, task), whole, self.strides[task])
                context = context.index_select(0, rois[:, 0].long())
                features = torch.cat((features, context.to(features.dtype)), dim=1)
            answers[task] = layer(features)
        return Predictions(answers["cls"], answers["loc"].reshape(-1, self.num_classes, 4))

    def _vectors(self, reduced: dict[str, Tensor], rois: Tensor, keys: set[str]) -> dict[str, Tensor]:
        """The vector of each RoI, [R, F], from each of the heads `keys`."""
        pooled: dict[str, Tensor] = {}
        vectors: dict[str, Tensor] = {}
        for key in sorted(keys):
            source = key if key in reduced else "shared"
            if source not in pooled:
                pooled[source] = self._pool(reduced[source], rois, self.strides[_task_of(source)])
            vectors[key] = self.heads[key](pooled[source])
        return vectors

    def _pool(self, features: Tensor, rois: Tensor, stride: int) -> Tensor:
        size, roi = self.config.roi_size, self.config.roi
        if roi.pooling == "pool":
            return roi_pool(features, rois, size, 1 / stride)
        return roi_align(features, rois, size, 1 / stride, roi.sampling_ratio, aligned=roi.aligned)

    @torch.no_grad()
    def assign(self, proposals: Proposals, objects: Objects, generators: Generators = None) -> Assigned:
        """Training samples: the objects join the proposals, then a share of positives is drawn.

        Args:
            generators: of what is sampled in each image (`geometry.sampling.sample`).
        """
        roi, number = self.config.roi, objects.boxes.shape[1]
        # An image's objects come behind its own proposals, wherever those of others end: its samples are its own.
        end = proposals.valid.sum(dim=1, keepdim=True)  # [B, 1]
        place = end + torch.arange(number, device=end.device)
        candidates = F.pad(proposals.boxes, (0, 0, 0, number))  # [B, P + G, 4]
        candidates = candidates.scatter(1, place[..., None].expand(-1, -1, 4), objects.boxes)
        end = end + objects.real.sum(dim=1, keepdim=True)
        present = torch.arange(candidates.shape[1], device=end.device) < end
        threshold = roi.foreground_iou
        matched = match(
            objects.boxes, objects.real, candidates, foreground=threshold, background=threshold, keep_best=False
        )
        labels, own = torch.zeros_like(matched), candidates
        if number:
            index = matched.clamp(min=0)
            labels = torch.where(matched == BACKGROUND, 0, objects.labels.gather(1, index) + 1)
            own = objects.boxes.gather(1, index[..., None].expand(-1, -1, 4))
        samples = sample(labels.masked_fill(~present, -1), roi.batch_per_image, roi.positive_fraction, generators)
        samples = samples.packed(min(roi.batch_per_image, candidates.shape[1]))
        corners = samples.indices[..., None].expand(-1, -1, 4)
        boxes = candidates.gather(1, corners)
        # Background is matched with itself, whose deltas are zero; filling with a unit box, so that all is finite.
        references = torch.where(samples.real[..., None], boxes, box_ops.constant((0, 0, 1, 1), boxes))
        own = torch.where(samples.positive[..., None], own.gather(1, corners), references)
        wanted = box_ops.encode(own, references, roi.box_weights)
        return Assigned(boxes, labels.gather(1, samples.indices).masked_fill(~samples.real, FILLING), wanted)

    def detect(
        self, predictions: Predictions, proposals: Proposals, images: Tensor, score: float | None = None
    ) -> Found:
        """Detections of each image: per class, boxes above the score threshold after NMS, the best of all classes.

        Args:
            images: as in `forward`.
            score: the threshold; None: the configuration's.
        """
        c, (count, most) = self.config.roi, proposals.valid.shape
        threshold = c.score_threshold if score is None else score
        scores = box_ops.precise(predictions.logits).softmax(dim=1)[:, 1:].reshape(count, most, -1).transpose(1, 2)
        boxes = box_ops.decode(box_ops.precise(predictions.deltas), proposals.boxes.reshape(-1, 1, 4), c.box_weights)
        boxes = boxes.reshape(count, most, -1, 4).transpose(1, 2)  # [B, C, P, 4]
        boxes = box_ops.clip(boxes, images[:, None, None])
        counts = (scores > threshold) & proposals.valid[:, None] & box_ops.has_area(boxes, 1e-2)
        scores = scores.masked_fill(~counts, -1.0)
        sets = boxes.detach().reshape(-1, most, 4), scores.detach().reshape(-1, most)
        kept = keep_best(*sets, c.nms, threshold, c.detections_per_image)
        scores = scores.masked_fill(~kept.view_as(scores), -1.0).reshape(count, -1)  # [B, C * P]
        scores, index = scores.topk(min(c.detections_per_image, self.num_classes * most), dim=1)
        boxes = boxes.reshape(count, -1, 4).gather(1, index[..., None].expand(-1, -1, 4))
        valid = scores > threshold
        return Found(boxes * valid[..., None], scores * valid, (index // most).masked_fill(~valid, -1), valid)


def pooled_keys(config: DetectorConfig) -> tuple[str, ...]:
    """Whose RoI features are pooled: one map's for both tasks, or each task's."""
    return ("shared",) if config.separation in ("none", "roi") else TASKS


def head_keys(config: DetectorConfig) -> tuple[str, ...]:
    """Whose heads there are: one for both tasks, or one each."""
    return ("shared",) if config.separation == "none" else TASKS


def _task_of(key: str) -> Task:
    """Whose map it is that features are pooled from under this key."""
    return "loc" if key == "loc" else "cls"


def _rois(boxes: Tensor) -> Tensor:
    """Boxes [B, P, 4] to [B * P, 5]: index of the image, then the box."""
    images, each = boxes.shape[:2]
    index = torch.arange(images, device=boxes.device, dtype=boxes.dtype).repeat_interleave(each)
    return torch.cat((index[:, None], boxes.reshape(-1, 4)), dim=1)
