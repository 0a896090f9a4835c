"""The RoI stage: classifies proposals and corrects their boxes (Girshick 2015; He et al. 2017 for RoIAlign).

Each task reads its own map. The configuration's `separation` says what the tasks share on the way from the map to the
result: one head for both, a head for each, or a head and layers on the map for each.

Shape letters: B images, P proposals of an image, K samples of an image, G objects of an image, R RoIs of the batch (the
same number for each image), C classes, F features, D detections of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grcn.config import DetectorConfig
from grcn.geometry import boxes as box_ops
from grcn.geometry.levels import roi_levels
from grcn.geometry.matching import BACKGROUND, match
from grcn.geometry.nms import keep_best
from grcn.geometry.sampling import sample
from grcn.model.losses import FILLING
from grcn.model.neck import Pyramid
from grcn.model.ops import pyramid_roi_align, roi_align, roi_pool
from grcn.model.rpn import Generators, Objects, Proposals
from grcn.model.separation import Maps

Task = Literal["cls", "loc"]
TASKS: tuple[Task, Task] = ("cls", "loc")


class AttentionContext(nn.Module):
    """An attention-pooled vector of the whole map (the context modelling of GCNet, Cao et al. 2019).

    The paper uses "no extra module". This one is for comparison with global context.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.attention, self.transform = nn.Conv2d(inputs, 1, 1), nn.Linear(inputs, channels)

    def forward(self, features: Tensor, image_rois: Tensor, stride: int) -> Tensor:
        """Map [B, C, H, W] to [B, F]. Cells that lie completely in the padding of an image get no attention.

        Args:
            image_rois: [B, 5], each image as a RoI.
        """
        y, x = (torch.arange(n, device=features.device) * stride for n in features.shape[2:])
        inside = (y < image_rois[:, 4:])[:, :, None] & (x < image_rois[:, 3:4])[:, None]  # [B, H, W]
        weights = self.attention(features)[:, 0].masked_fill(~inside, -torch.inf).flatten(1).softmax(dim=1)
        pooled = torch.einsum("bcn,bn->bc", features.flatten(2), weights.to(features.dtype))
        return torch.relu(self.transform(pooled))


@dataclass(frozen=True, eq=False)
class TaskPath:
    """The path from the maps to a task's vector for each RoI. Both tasks can share a path, or only its first layer.

    Args:
        task: the task whose maps it starts from; strides: strides of these maps.
        cells: on a pyramid, a RoI uses the coarsest map on which its side spans at least this many cells.
        reduce: layer on the maps, before pooling; head: layers on each RoI.
    """

    task: Task
    strides: Sequence[int]
    cells: float
    reduce: nn.Module
    head: nn.Module


class Assigned(NamedTuple):
    """Training samples: boxes [B, K, 4]; labels [B, K], 0 for background, class id + 1, or `FILLING`; target_deltas
    [B, K, 4]."""

    boxes: Tensor
    labels: Tensor
    target_deltas: Tensor


class Found(NamedTuple):
    """Detections by descending score: boxes [B, D, 4], scores [B, D], labels [B, D] (class ids), valid [B, D] bool.

    Entries that are not valid come last, with boxes and scores of zero and label -1."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor


class Predictions(NamedTuple):
    """logits [R, 1 + C], background first, followed by unnamed logits if any; deltas [R, C, 4]."""

    logits: Tensor
    deltas: Tensor


class RoIStage(nn.Module):
    """Computes class scores and boxes from maps and proposals.

    Args:
        channels, strides: channels and strides of the maps of classification and localization.
        heads: heads that turn RoI features into vectors of `channels`: one named `shared`, or `cls` and `loc`.
    """

    def __init__(
        self,
        config: DetectorConfig,
        num_classes: int,
        channels: tuple[int, int],
        strides: tuple[Sequence[int], Sequence[int]],
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
        cls = self._path("cls")
        self.paths = {"cls": cls, "loc": cls if "shared" in heads else self._path("loc")}
        features: int = cls.head.channels  # type: ignore[assignment]
        self.contexts: dict[Task, str] = {"cls": config.cls_context, "loc": config.loc_context}
        self.attention = nn.ModuleDict(
            {
                task: AttentionContext(inputs, features)
                for task, inputs in zip(TASKS, channels, strict=True)
                if self.contexts[task] == "attention"
            }
        )
        inputs = {task: features * (1 if self.contexts[task] == "none" else 2) for task in TASKS}
        self.scores = nn.Linear(inputs["cls"], 1 + num_classes + config.roi.unnamed_logits)
        self.deltas = nn.Linear(inputs["loc"], 4 * num_classes)
        for layer, std in ((self.scores, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def _path(self, task: Task) -> TaskPath:
        own = task in self.reduce  # a shared layer may read the map of either task, because it is the same map
        source: Task = task if own else "cls"
        head = self.heads[task if task in self.heads else "shared"]
        cells = self.config.cls_cells if task == "cls" else self.config.loc_cells
        return TaskPath(source, self.strides[source], cells, self.reduce[task if own else "shared"], head)

    def forward(self, maps: Maps, boxes: Tensor, images: Tensor) -> Predictions:
        """Class logits and box deltas of every RoI, image by image.

        Args:
            boxes: [B, P, 4].
            images: [B, 4], each image, without padding, as a box.
        """
        answers = self._answers(maps, boxes, images, TASKS)
        return Predictions(answers["cls"], answers["loc"].reshape(-1, self.num_classes, 4))

    def _answers(self, maps: Maps, boxes: Tensor, images: Tensor, tasks: Sequence[Task]) -> dict[Task, Tensor]:
        """The outputs of the last layers of some tasks for every RoI: [R, 1 + C], [R, 4 * C]."""
        rois, image_rois = _rois(boxes), _rois(images[:, None])
        paths = {self.paths[task]: None for task in tasks}
        reduced: dict[nn.Module, Pyramid] = {}
        for path in paths:
            if path.reduce not in reduced:
                reduced[path.reduce] = [path.reduce(features) for features in getattr(maps, path.task)]
        vectors = self._vectors(reduced, rois, paths)  # [R, F] each
        readers = [self.paths[task] for task in tasks if self.contexts[task] == "global"]
        # Separately: added to the RoIs, whose number is round, they would double the cost of the whole batch.
        contexts = self._vectors(reduced, image_rois, readers)  # [B, F] each
        answers = {}
        for task in tasks:
            features = vectors[self.paths[task]]
            if self.contexts[task] != "none":
                if self.contexts[task] == "global":
                    context = contexts[self.paths[task]]
                else:
                    context = self.attention[task](getattr(maps, task)[0], image_rois, self.strides[task][0])
                context = context.index_select(0, rois[:, 0].long())
                features = torch.cat((features, context.to(features.dtype)), dim=1)
            answers[task] = (self.scores if task == "cls" else self.deltas)(features)
        return answers

    def _vectors(
        self, reduced: dict[nn.Module, Pyramid], rois: Tensor, paths: Iterable[TaskPath]
    ) -> dict[TaskPath, Tensor]:
        """The vector of each RoI, [R, F], for each path; `reduced` holds the maps after their first layers."""
        pooled: dict[tuple[nn.Module, float], Tensor] = {}
        vectors: dict[TaskPath, Tensor] = {}
        for path in paths:
            where = path.reduce, path.cells
            if where not in pooled:
                pooled[where] = self._pool(reduced[path.reduce], rois, path)
            if path not in vectors:
                vectors[path] = path.head(pooled[where])
        return vectors

    def _pool(self, maps: Pyramid, rois: Tensor, path: TaskPath) -> Tensor:
        size, roi, scales = self.config.roi_size, self.config.roi, [1 / stride for stride in path.strides]
        if roi.pooling == "pool":
            return roi_pool(maps[0], rois, size, scales[0])
        if len(maps) == 1:
            return roi_align(maps[0], rois, size, scales[0], roi.sampling_ratio, aligned=roi.aligned)
        levels = roi_levels(rois[:, 1:], path.cells, path.strides[0], len(maps))
        return pyramid_roi_align(maps, rois, levels, size, scales, roi.sampling_ratio, aligned=roi.aligned)

    @torch.no_grad()
    def assign(self, proposals: Proposals, objects: Objects, generators: Generators = None) -> Assigned:
        """Training samples: objects are added to the proposals, then samples with a share of positives are drawn.

        Args:
            generators: one for the samples of each image (`geometry.sampling.sample`).
        """
        roi, number = self.config.roi, objects.boxes.shape[1]
        # The objects of an image follow directly after its proposals, so that its samples do not depend on others.
        end = proposals.valid.sum(dim=1, keepdim=True)  # [B, 1]
        place = end + torch.arange(number, device=end.device)
        candidates = F.pad(proposals.boxes, (0, 0, 0, number))  # [B, P + G, 4]
        candidates = candidates.scatter(1, place[..., None].expand(-1, -1, 4), objects.boxes)
        end = end + objects.valid.sum(dim=1, keepdim=True)
        present = torch.arange(candidates.shape[1], device=end.device) < end
        threshold = roi.foreground_iou
        matched = match(
            objects.boxes, objects.valid, candidates, foreground=threshold, background=threshold, keep_best=False
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
        # Background is matched with itself, so its deltas are zero. Filling gets a unit box, so that all is finite.
        references = torch.where(samples.valid[..., None], boxes, box_ops.constant((0, 0, 1, 1), boxes))
        own = torch.where(samples.positive[..., None], own.gather(1, corners), references)
        target_deltas = box_ops.encode(own, references, roi.box_weights)
        return Assigned(boxes, labels.gather(1, samples.indices).masked_fill(~samples.valid, FILLING), target_deltas)

    def detect(
        self, predictions: Predictions, proposals: Proposals, images: Tensor, score: float | None = None
    ) -> Found:
        """The detections of each image: boxes above the score threshold, NMS per class, then the best of all classes.

        Args:
            images: as in `forward`.
            score: the threshold; None: that of the configuration.
        """
        c, (count, most) = self.config.roi, proposals.valid.shape
        threshold = c.score_threshold if score is None else score
        scores = box_ops.to_float32(predictions.logits).softmax(dim=1)[:, 1 : 1 + self.num_classes]
        scores = scores.reshape(count, most, -1).transpose(1, 2)
        boxes = box_ops.decode(box_ops.to_float32(predictions.deltas), proposals.boxes.reshape(-1, 1, 4), c.box_weights)
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

    def refine(self, maps: Maps, found: Found, images: Tensor) -> Found:
        """Runs localization again on the boxes of `found`, as if they were proposals, `roi.refine` times.

        Scores and the selection of boxes do not change. This is the iteration of Gidaris and Komodakis 2015, "Object
        Detection via a Multi-Region and Semantic Segmentation-Aware CNN Model", section 5, without their voting. It
        uses the same head each time, unlike Cascade R-CNN (Cai and Vasconcelos 2018).

        Args:
            images: as in `forward`.
        """
        boxes, own = found.boxes, found.labels.clamp(min=0)[..., None, None].expand(-1, -1, 1, 4)
        for _ in range(self.config.roi.refine):
            deltas = self._answers(maps, boxes, images, ("loc",))["loc"]
            deltas = deltas.reshape(*boxes.shape[:2], self.num_classes, 4).gather(2, own).squeeze(2)
            moved = box_ops.decode(box_ops.to_float32(deltas), boxes, self.config.roi.box_weights)
            moved = box_ops.clip(moved, images[:, None])
            keeps = found.valid & box_ops.has_area(moved, 1e-2)
            boxes = torch.where(keeps[..., None], moved, boxes)
        return found._replace(boxes=boxes)


def pooled_keys(config: DetectorConfig) -> tuple[str, ...]:
    """The keys of the pooled RoI features: one for both tasks, or one for each."""
    return ("shared",) if config.separation in ("none", "roi") else TASKS


def head_keys(config: DetectorConfig) -> tuple[str, ...]:
    """The keys of the heads: one for both tasks, or one for each."""
    return ("shared",) if config.separation == "none" else TASKS


def _rois(boxes: Tensor) -> Tensor:
    """Boxes [B, P, 4] to [B * P, 5]: index of the image, then the box."""
    images, each = boxes.shape[:2]
    index = torch.arange(images, device=boxes.device, dtype=boxes.dtype).repeat_interleave(each)
    return torch.cat((index[:, None], boxes.reshape(-1, 4)), dim=1)
