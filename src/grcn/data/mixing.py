"""Training samples from several photos: mosaics, and objects pasted from one photo into another.

All are pure functions of photos, boxes and a generator. Images are uint8 [3, H, W], boxes [N, 4] float32 xyxy in pixels
of the image, labels [N] int64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from grcn.data.transforms import crop_boxes, resize_to, scale_boxes
from grcn.geometry.boxes import area

Objects = tuple[Tensor, Tensor, Tensor]
"""Image, boxes, labels."""

GREY = 114
"""The colour of a mosaic where no photo covers it, as in Ultralytics' YOLO: about the mean of photographs."""
_CENTRE = (0.35, 0.65)  # range of the point where the four photos meet, as a share of the mosaic's sides
_SHRINK = (0.5, 1.0)  # of each photo's sides

_PASTED = 3  # objects, at most
_PASTED_SCALE = (0.7, 1.4)
_TRIES = 10
_MOST_COVERED = 0.1  # of a pasted object, and of any that it meets


def mosaic(photos: Sequence[Objects], rng: np.random.Generator) -> Objects:
    """Combines four photos that meet in a point, each shrunk and cropped (Bochkovskiy et al. 2020, "YOLOv4").

    Args:
        photos: four photos; the result has the size of the first.
        rng: determines where they meet, how much each shrinks and which part of it is visible.
    """
    first = photos[0][0]
    height, width = first.shape[-2:]
    canvas = torch.full_like(first, GREY)
    y, x = (round(side * share) for side, share in zip((height, width), rng.uniform(*_CENTRE, 2), strict=True))
    corners = ((0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width))
    boxes, labels = [], []
    for (image, own_boxes, own_labels), (top, left, bottom, right) in zip(photos, corners, strict=True):
        shrink, at_y, at_x = rng.uniform(*_SHRINK), rng.random(), rng.random()
        old = (image.shape[1], image.shape[2])
        size = (max(1, round(old[0] * shrink)), max(1, round(old[1] * shrink)))
        image, own_boxes = resize_to(image, size), scale_boxes(own_boxes, old, size)
        rows, columns = min(size[0], bottom - top), min(size[1], right - left)
        skip_y, skip_x = round((size[0] - rows) * at_y), round((size[1] - columns) * at_x)
        canvas[:, top : top + rows, left : left + columns] = image[:, skip_y : skip_y + rows, skip_x : skip_x + columns]
        kept, keep = crop_boxes(own_boxes, skip_y, skip_x, rows, columns)
        boxes.append(kept + kept.new_tensor([left, top, left, top]))
        labels.append(own_labels[keep])
    return canvas, torch.cat(boxes), torch.cat(labels)


def paste_objects(photo: Objects, other: Objects, rng: np.random.Generator) -> Objects:
    """Pastes up to three objects of another photo into a photo, as rectangles, where they cover no other object.

    Sources: Ghiasi et al. 2021, "Simple Copy-Paste", with boxes instead of masks; Dwibedi et al. 2017, "Cut, Paste and
    Learn".

    Args:
        rng: determines the objects, their sizes and their places.
    """
    image, boxes, labels = photo
    source, own_boxes, own_labels = other
    height, width = image.shape[-2:]
    order = rng.permutation(len(own_boxes))[:_PASTED]
    scales = rng.uniform(*_PASTED_SCALE, _PASTED)
    places = rng.random((_PASTED, _TRIES, 2))
    image = image.clone()
    for k, index in enumerate(order):
        left, top, right, bottom = own_boxes[index].round().int().tolist()
        patch = source[:, max(0, top) : bottom, max(0, left) : right]
        size = (round(patch.shape[1] * scales[k]), round(patch.shape[2] * scales[k]))
        if min(patch.shape[-2:]) < 1 or min(size) < 2 or size[0] > height or size[1] > width:
            continue
        for at_y, at_x in places[k]:
            y, x = round((height - size[0]) * at_y), round((width - size[1]) * at_x)
            box = boxes.new_tensor([[x, y, x + size[1], y + size[0]]])
            if (_covered(box, boxes) <= _MOST_COVERED).all():
                image[:, y : y + size[0], x : x + size[1]] = resize_to(patch, size)
                boxes = torch.cat((boxes, box))
                labels = torch.cat((labels, own_labels[index : index + 1]))
                break
    return image, boxes, labels


def _covered(box: Tensor, boxes: Tensor) -> Tensor:
    """[N] the intersection of a box [1, 4] with each of `boxes`, as a share of the smaller one."""
    low, high = torch.maximum(box[:, :2], boxes[:, :2]), torch.minimum(box[:, 2:], boxes[:, 2:])
    common = (high - low).clamp(min=0).prod(dim=1)
    return common / torch.minimum(area(box), area(boxes))
