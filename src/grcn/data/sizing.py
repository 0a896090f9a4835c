"""Measures how a detector suits the object sizes of a data set, and chooses input size, strides and anchors for them.

A stride is meaningful only relative to the size of objects in input pixels. So everything here is measured after the
images are resized to the input of the detector, in cells of a stride (square root of the area / stride).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grcn.config import DetectorConfig, InputConfig, Stride
from grcn.config import rpn_stride as rpn_stride_of
from grcn.data.records import Dataset
from grcn.errors import DataError
from grcn.presets import stage_strides

STRIDES: tuple[Stride, ...] = (8, 16, 32)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
IOUS = (0.5, 0.7)

# Our own rules of thumb, per axis. An object of 2 cells has its edges in different cells of the localization map.
# Classification needs a cell inside the object. An object of about 1.5 cells has one, wherever the grid falls.
LOC_CELLS = 2.0
CLS_CELLS = 1.5
# The features of a RoI are 7x7. If the RoI spans fewer cells of a map, a finer map shows it better.
LEVEL_CELLS = 7.0
MAX_ENLARGE = 2.0  # enlarging adds no information; beyond this it only costs time
MIN_CLASS = 10  # boxes; the median of a class with fewer says little
ROOM = 1.5  # detections per object of the fullest image, because some are false
MIN_STEP = 1.15  # anchors closer to each other than this factor overlap above IoU 0.75

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Objects:
    """All objects of some data sets at the input size of a detector, without crowd boxes.

    Args:
        boxes: [N, 4] float64 xyxy in input pixels.
        image_sizes: [N, 2] height and width of each object's image in input pixels.
        labels: [N] index into class_names.
        class_names: names.
    """

    boxes: Floats
    image_sizes: Floats
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def sides(self) -> Floats:
        """[N, 2] width and height."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def sizes(self) -> Floats:
        """[N] square roots of the areas."""
        roots: Floats = np.sqrt(self.sides.prod(axis=1))
        return roots

    def smallest_class(self, quantile: float = 0.5) -> tuple[str, float]:
        """The class with the smallest median object, and that median. Rare classes count only if all are rare.

        Classes matter because AP is a mean over classes: a class of small objects weighs as much as a class of large
        ones, even if it has few boxes.

        Args:
            quantile: quantile of the sizes in a class to use in place of the median.
        """
        groups = [self.sizes[self.labels == label] for label in range(len(self.class_names))]
        least = min(MIN_CLASS, max(len(group) for group in groups))
        medians = {
            name: float(np.quantile(g, quantile))
            for name, g in zip(self.class_names, groups, strict=True)
            if len(g) >= least
        }
        name = min(medians, key=lambda key: medians[key])
        return name, medians[name]


@dataclass(frozen=True)
class Sizing:
    """How a detector's input size, strides and anchors suit a data set.

    Args:
        short_side, long_side: sides of the input, in pixels.
        cls_stride, loc_stride, rpn_stride: input pixels per cell. On a pyramid, the first two are of the map that the
            median object of the smallest class is pooled from, and the third is of the finest map.
        anchor_sizes, anchor_ratios: anchors of the RPN.
        smallest_class: the class with the smallest median object.
        smallest_median: that median, as square root of the area in input pixels.
        cells: for each stride, the sizes of the objects in cells, at QUANTILES.
        reach: for each IoU in IOUS, the share of objects whose best anchor reaches it, 0..1.
        detections_per_image: the largest number of detections that the detector returns.
        most_objects: the largest number of objects in one image.
    """

    short_side: int
    long_side: int
    cls_stride: int
    loc_stride: int
    rpn_stride: int
    anchor_sizes: tuple[float, ...]
    anchor_ratios: tuple[float, ...]
    smallest_class: str
    smallest_median: float
    cells: dict[int, tuple[float, ...]]
    reach: dict[float, float]
    detections_per_image: int
    most_objects: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; keys are strings."""
        quantiles = [f"p{round(100 * q)}" for q in QUANTILES]
        return {
            "input": {"short_side": self.short_side, "long_side": self.long_side},
            "strides": {"cls": self.cls_stride, "loc": self.loc_stride, "rpn": self.rpn_stride},
            "anchors": {"sizes": list(self.anchor_sizes), "ratios": list(self.anchor_ratios)},
            "smallest_class": {"name": self.smallest_class, "median": round(self.smallest_median, 1)},
            "cells": {
                str(stride): {name: round(value, 2) for name, value in zip(quantiles, values, strict=True)}
                for stride, values in self.cells.items()
            },
            "anchor_reach": {str(iou): round(share, 4) for iou, share in self.reach.items()},
            "detections_per_image": self.detections_per_image,
            "most_objects": self.most_objects,
        }


def objects_at(datasets: Sequence[Dataset], short: float, long: float) -> Objects:
    """The objects of the data sets at an input size: shorter side `short` pixels, longer side at most `long`."""
    names = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.class_names))
    boxes, sizes, labels = [np.zeros((0, 4))], [np.zeros((0, 2))], [np.zeros(0, np.int64)]
    for dataset in datasets:
        ids = np.array([names.index(name) for name in dataset.class_names], dtype=np.int64)
        for record in dataset.records:
            keep = ~record.target.crowd
            if not keep.any():
                continue
            height, width = record.height, record.width
            scale = min(short / min(height, width), long / max(height, width))
            boxes.append(record.target.boxes[keep].astype(np.float64) * scale)
            sizes.append(np.tile([height * scale, width * scale], (int(keep.sum()), 1)))
            labels.append(ids[record.target.labels[keep]])
    return Objects(np.concatenate(boxes), np.concatenate(sizes), np.concatenate(labels), names)


def best_iou(objects: Objects, sizes: Sequence[float], ratios: Sequence[float], stride: int) -> Floats:
    """[N] the greatest IoU of each object with any anchor of the grid.

    Anchors are placed as in torchvision's AnchorGenerator and `grcn.geometry.anchors`: sides are rounded to whole
    pixels around the centre, and centres are at multiples of the stride from 0, one for each cell of the map. For an
    anchor of given sides, IoU grows as its centre approaches that of the object along either axis, so the nearest
    centre is the best.
    """
    centres = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
    cells = np.ceil(objects.image_sizes[:, ::-1] / stride)  # [N, 2] along x, y
    nearest = np.clip(np.rint(centres / stride), 0, cells - 1) * stride
    root = np.sqrt(np.asarray(ratios, dtype=np.float64))
    wide = (np.asarray(sizes, dtype=np.float64)[None, :] / root[:, None]).ravel()
    high = (np.asarray(sizes, dtype=np.float64)[None, :] * root[:, None]).ravel()
    areas = objects.sides.prod(axis=1)
    best = np.zeros(len(objects))
    for half_width, half_height in zip(np.rint(wide / 2), np.rint(high / 2), strict=True):
        half = np.array([half_width, half_height])
        low, top = np.maximum(objects.boxes[:, :2], nearest - half), np.minimum(objects.boxes[:, 2:], nearest + half)
        common = np.maximum(top - low, 0).prod(axis=1)
        best = np.maximum(best, common / (areas + 4 * half_width * half_height - common))
    return best


def rpn_stride(config: DetectorConfig) -> int:
    """Input pixels per cell of the map that the RPN uses."""
    return rpn_stride_of(config, stage_strides(config.backbone))


def _strides(config: DetectorConfig, small: float) -> tuple[int, int]:
    """Input pixels per cell of the maps that classification and localization use for an object of size `small`."""
    if config.neck == "none":
        return config.cls_stride, config.loc_stride
    cls, loc = (
        next((s for s in reversed(config.level_strides) if small / s >= cells), config.neck_stride)
        for cells in (config.cls_cells, config.loc_cells)
    )
    return cls, loc


def best_anchor(objects: Objects, config: DetectorConfig) -> Floats:
    """[N] the greatest IoU of each object with any anchor of the detector; on a pyramid, each map has its own."""
    rpn, stride = config.rpn, rpn_stride(config)
    if config.neck == "none":
        return best_iou(objects, rpn.anchor_sizes, rpn.anchor_ratios, stride)
    maps = enumerate(rpn.anchor_sizes)
    best: Floats = np.max([best_iou(objects, [size], rpn.anchor_ratios, stride << i) for i, size in maps], axis=0)
    return best


def measure(datasets: Sequence[Dataset], config: DetectorConfig) -> Sizing:
    """Measures how `config` suits the data sets.

    Raises:
        DataError: if they have no objects.
    """
    objects = objects_at(datasets, config.input.short_side, config.input.long_side)
    _need_objects(objects, datasets)
    name, median = objects.smallest_class()
    best = best_anchor(objects, config)
    cls_stride, loc_stride = _strides(config, median)
    return Sizing(
        short_side=config.input.short_side,
        long_side=config.input.long_side,
        cls_stride=cls_stride,
        loc_stride=loc_stride,
        rpn_stride=rpn_stride(config),
        anchor_sizes=config.rpn.anchor_sizes,
        anchor_ratios=config.rpn.anchor_ratios,
        smallest_class=name,
        smallest_median=median,
        cells={s: tuple(np.quantile(objects.sizes / s, QUANTILES).tolist()) for s in STRIDES},
        reach={iou: float((best >= iou).mean()) for iou in IOUS},
        detections_per_image=config.roi.detections_per_image,
        most_objects=_most_objects(datasets),
    )


def _most_objects(datasets: Sequence[Dataset]) -> int:
    return max(int((~record.target.crowd).sum()) for dataset in datasets for record in dataset.records)


def fit_config(dataset: Dataset | Sequence[Dataset], config: DetectorConfig) -> DetectorConfig:
    """`config` with the input size, strides and anchors that suit a data set (`grcn train --fit data`).

    - Input: the median short side of the images, enlarged (at most MAX_ENLARGE times) until the median object of the
      smallest class spans LOC_CELLS cells of stride 16. It is never larger than `config.input`.
    - Strides: the coarsest strides at which the median object of the smallest class spans LOC_CELLS cells of the
      localization map and CLS_CELLS cells of the classification map. They are never coarser than those of `config`. If
      both tasks share a map, localization decides. A pyramid has all strides; it loses the map of conv2 if nine tenths
      of the objects of every class span LEVEL_CELLS cells of the next map.
    - Anchors: as many sizes and ratios as `config` has, at the centres of weighted k-means on log sqrt(area) and on
      log(height / width). A class is weighted by one over the square root of its count. (Clustering boxes for anchors
      is from Redmon and Farhadi, "YOLO9000", 2017, section 2. Here sizes and ratios are clustered separately, since
      the anchors of Faster R-CNN are their product.) Centres closer than MIN_STEP are merged. On a pyramid each map
      has one size: a centre that spans at least LOC_CELLS of its cells, as close to 8 cells as possible, or 8 cells.
      If these anchors do not overlap the objects better, the anchors of `config` stay.
    - Detections: if an image has more objects than `config` returns detections, ROOM times as many, rounded up to
      hundreds, and at least twice as many proposals.

    Args:
        dataset: the training split, or several splits.
        config: the configuration of the preset; everything else in it stays.

    Raises:
        DataError: if there are no objects.
    """
    datasets = [dataset] if isinstance(dataset, Dataset) else list(dataset)
    config = replace(config, input=_fit_input(datasets, config.input))
    objects = objects_at(datasets, config.input.short_side, config.input.long_side)
    config = _fit_limits(_fit_maps(config, objects), _most_objects(datasets))

    counts = np.bincount(objects.labels)
    weights = 1 / np.sqrt(counts[objects.labels])
    rpn = config.rpn
    if config.neck == "none":
        sizes = np.exp(_centres(np.log(objects.sizes), weights, len(rpn.anchor_sizes)))
        anchor_sizes = _rounded(np.maximum(sizes, 2), 0)
    else:
        anchor_sizes = _level_sizes(objects, weights, config)
    ratios = np.exp(_centres(np.log(objects.sides[:, 1] / objects.sides[:, 0]), weights, len(rpn.anchor_ratios)))
    # Anchors with a side below 2 px are avoided, because they could lose their area when they are rounded.
    extreme = (anchor_sizes[0] / 2) ** 2
    fitted = replace(rpn, anchor_sizes=anchor_sizes, anchor_ratios=_rounded(np.clip(ratios, 1 / extreme, extreme), 2))
    overlap = [np.average(best_anchor(objects, replace(config, rpn=r)), weights=weights) for r in (rpn, fitted)]
    return replace(config, rpn=fitted) if overlap[1] > overlap[0] else config


def _rounded(values: Floats, digits: int) -> tuple[float, ...]:
    """Values rounded for display: to whole numbers, or to `digits` significant digits; each value once."""
    return tuple(dict.fromkeys(float(f"{v:.{digits}g}") if digits else float(round(v)) for v in values))


def _need_objects(objects: Objects, datasets: Sequence[Dataset]) -> None:
    if not len(objects):
        where = ", ".join(f"{d.root} ({d.split})" for d in datasets)
        raise DataError(f"{where}: no objects, so no sizes to fit a detector to; annotate some or leave out --fit")


def _fit_input(datasets: Sequence[Dataset], caps: InputConfig) -> InputConfig:
    sides = [min(record.height, record.width) for dataset in datasets for record in dataset.records]
    own = round(float(np.median(sides))) if sides else caps.short_side
    objects = objects_at(datasets, own, math.inf)
    _need_objects(objects, datasets)
    enlarge = min(max(LOC_CELLS * 16 / objects.smallest_class()[1], 1.0), MAX_ENLARGE)
    return InputConfig(max(32, min(caps.short_side, round(own * enlarge))), caps.long_side)


def _fit_limits(config: DetectorConfig, most: int) -> DetectorConfig:
    """`config` with enough detections and proposals per image for `most` objects."""
    if most <= config.roi.detections_per_image:
        return config
    count = 100 * math.ceil(ROOM * most / 100)
    rpn = config.rpn
    proposals = max(rpn.post_nms_test, 2 * count)
    rpn = replace(rpn, post_nms_test=proposals, pre_nms_test=max(rpn.pre_nms_test, proposals))
    return replace(config, rpn=rpn, roi=replace(config.roi, detections_per_image=count))


def _fit_maps(config: DetectorConfig, objects: Objects) -> DetectorConfig:
    """`config` with the strides, or the maps of a pyramid, that suit the objects of the smallest class."""
    if config.neck != "none":
        if config.neck_stride == 8 or objects.smallest_class(QUANTILES[0])[1] / 8 < LEVEL_CELLS:
            return config
        return replace(config, neck_stride=8, rpn=replace(config.rpn, anchor_sizes=config.rpn.anchor_sizes[1:]))

    small = objects.smallest_class()[1]

    def coarsest(own: Stride, cells: float) -> Stride:
        return next((s for s in reversed(STRIDES) if s <= own and small / s >= cells), STRIDES[0])

    loc = coarsest(config.loc_stride, LOC_CELLS)
    if config.separation in ("none", "roi", "conv5"):
        return replace(config, cls_stride=loc, loc_stride=loc)
    return replace(config, cls_stride=coarsest(config.cls_stride, CLS_CELLS), loc_stride=loc)


def _level_sizes(objects: Objects, weights: Floats, config: DetectorConfig) -> tuple[float, ...]:
    """An anchor size for each map of a pyramid: cluster centres for as many maps as possible, 8 cells for the rest."""
    strides = config.neck_stride * 2 ** np.arange(len(config.rpn.anchor_sizes))
    usual = 8.0 * strides
    for count in range(len(usual), 0, -1):
        centres = np.exp(_centres(np.log(objects.sizes), weights, count))
        ways = [np.array(levels) for levels in combinations(range(len(usual)), len(centres))]
        ways = [levels for levels in ways if ((levels == 0) | (centres >= LOC_CELLS * strides[levels])).all()]
        if ways:  # a single centre always has one
            levels = min(ways, key=lambda levels: float(np.abs(np.log(centres / usual[levels])).sum()))
            usual[levels] = centres.round().clip(min=2)
            break
    return tuple(usual.tolist())


def _centres(values: Floats, weights: Floats, count: int) -> Floats:
    """At most `count` cluster centres [K], ascending: weighted k-means in one dimension, started at weighted quantiles.

    If centres are closer than MIN_STEP (values are logarithms), fewer centres are used.
    """
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    centres: Floats = values[:1]
    mass = np.cumsum(weights) / weights.sum()
    for k in range(count, 0, -1):
        centres = values[np.searchsorted(mass, (np.arange(k) + 0.5) / k).clip(max=len(values) - 1)]
        for _ in range(100):
            nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
            total = np.bincount(nearest, weights, minlength=k)
            moved = np.where(
                total > 0, np.bincount(nearest, weights * values, minlength=k) / total.clip(1e-12), centres
            )
            if np.allclose(moved, centres, atol=1e-6):
                break
            centres = moved
        if k == 1 or np.diff(centres).min() >= np.log(MIN_STEP):
            break
    return centres
