"""Resizes images for the detector, and augments them for training.

Images stay uint8 [3, H, W] here; the model scales and normalizes them on its device. All random numbers come from one
generator seeded by (seed, epoch, index), and each call draws all of them. So a random choice does not depend on the
worker that loads the image, on whether a run was resumed, or on which other augmentations are on.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from grcn.config import AugmentConfig, InputConfig

MIN_VISIBLE = 0.5
"""Share of a box's area that a crop must keep; otherwise the box is dropped."""

_CROP_TRIES = 10
_CROP_SIDE = (0.5, 1.0)  # of the image's side

# Luma (ITU-R BT.601, as torchvision's grayscale) and the two chroma axes of YIQ, in which hue is an angle.
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)
_MAX_HUE = 0.1  # of the colour circle, at strength 1


def output_size(height: int, width: int, short: float, long: float) -> tuple[int, int]:
    """The (height, width) after resizing the shorter side to `short` pixels, or the longer side to `long` at most.

    >>> output_size(480, 640, 600, 1000)
    (600, 800)
    >>> output_size(100, 400, 600, 1000)
    (250, 1000)
    """
    small, large = sorted((height, width))
    side, target = (small, short) if short * large <= long * small else (large, long)
    # One division of whole numbers, so that halves are exact on every machine (an exported detector does the same).
    height, width = (max(1, math.floor((2 * n * target + side) / (2 * side))) for n in (height, width))
    return height, width


def resize(image: Tensor, short: float, long: float) -> Tensor:
    """`image` uint8 [3, H, W] at its `output_size`: bilinear, antialiased.

    The same function serves training and prediction. Boxes scale by new / old size per axis (`scale_boxes`).
    """
    height, width = image.shape[-2:]
    return resize_to(image, output_size(height, width, short, long))


def resize_to(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`image` uint8 [3, H, W] at (height, width) `size`: bilinear, antialiased."""
    resized: Tensor = F.resize(image, list(size), antialias=True)
    return resized


def scale_boxes(boxes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Boxes [N, 4] xyxy of an image of (height, width) `old` as boxes of the same image at `new`."""
    x, y = new[1] / old[1], new[0] / old[0]
    return boxes * boxes.new_tensor([x, y, x, y])


def augment(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    config: AugmentConfig,
    size: InputConfig,
    *,
    seed: int,
    epoch: int,
    index: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Makes one training sample from one photo: crop, resize with jitter, flips, colours.

    Args:
        image: uint8 [3, H, W] as stored.
        boxes: [N, 4] float32, xyxy pixels of `image`.
        labels: [N] int64.
        seed, epoch, index: seed of the run, number of the pass over the data set, and number of the image. They
            determine every random choice.

    Returns:
        The image uint8 [3, H', W'], its boxes in the new pixels, and their labels. A crop drops boxes of which less
        than MIN_VISIBLE is left; a crop that would drop all boxes is not made.
    """
    rng = np.random.default_rng((seed, epoch, index))
    crop_chance, flip_chance, vertical_chance, jitter = rng.random(4).tolist()
    colors = rng.uniform(-1, 1, 4).tolist()
    windows = rng.random((_CROP_TRIES, 4)).tolist()
    zoom, *zoom_places = rng.random(3).tolist()

    if crop_chance < config.crop:
        image, boxes, labels = _crop(image, boxes, labels, windows)
    low, high = config.scale_jitter
    factor = low + (high - low) * jitter
    low, high = config.large_scale_jitter
    zoom = low + (high - low) * zoom
    old = (image.shape[1], image.shape[2])
    seen = output_size(*old, size.short_side * factor, size.long_side * factor)
    image = resize(image, size.short_side * factor * zoom, size.long_side * factor * zoom)
    boxes = scale_boxes(boxes, old, (image.shape[1], image.shape[2]))
    if zoom > 1:
        image, boxes, labels = _crop_to(image, boxes, labels, seen, zoom_places)
    height, width = image.shape[-2:]
    if flip_chance < config.flip:
        image = F.horizontal_flip(image)
        boxes = torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), dim=1)
    if vertical_chance < config.vertical_flip:
        image = F.vertical_flip(image)
        boxes = torch.stack((boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]), dim=1)
    if config.color > 0:
        brightness, contrast, saturation, hue = (config.color * value for value in colors)
        image = color(image, 1 + 0.5 * brightness, 1 + 0.5 * contrast, 1 + 0.5 * saturation, _MAX_HUE * hue)
    return image, boxes, labels


def _crop(image: Tensor, boxes: Tensor, labels: Tensor, windows: list[list[float]]) -> tuple[Tensor, Tensor, Tensor]:
    """Crops to the first of `windows` (four numbers in 0..1 each) that keeps an object, if the image has any."""
    height, width = image.shape[-2:]
    low, high = _CROP_SIDE
    for side_x, side_y, place_x, place_y in windows:
        crop_width = max(1, round(width * (low + (high - low) * side_x)))
        crop_height = max(1, round(height * (low + (high - low) * side_y)))
        left, top = round((width - crop_width) * place_x), round((height - crop_height) * place_y)
        clipped, keep = crop_boxes(boxes, top, left, crop_height, crop_width)
        if keep.any() or not len(boxes):
            return F.crop(image, top, left, crop_height, crop_width), clipped, labels[keep]
    return image, boxes, labels


def _crop_to(
    image: Tensor, boxes: Tensor, labels: Tensor, size: tuple[int, int], places: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """A window of (height, width) `size` of the image, at `places` 0..1 along y and x, with the objects in it."""
    height, width = (min(side, whole) for side, whole in zip(size, image.shape[-2:], strict=True))
    top, left = (
        round((whole - side) * place)
        for whole, side, place in zip(image.shape[-2:], (height, width), places, strict=True)
    )
    clipped, keep = crop_boxes(boxes, top, left, height, width)
    return F.crop(image, top, left, height, width), clipped, labels[keep]


def crop_boxes(boxes: Tensor, top: int, left: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The boxes [K, 4] that are visible in a window of an image, in pixels of the window, and the mask [N] of them.

    Boxes with less than MIN_VISIBLE of their area in the window are left out.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    limits = boxes.new_tensor([width, height, width, height])
    clipped = (boxes - boxes.new_tensor([left, top, left, top])).clamp(min=0).minimum(limits)
    visible = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    keep = (visible > 0) & (visible >= MIN_VISIBLE * areas)
    return clipped[keep], keep


def color(image: Tensor, brightness: float, contrast: float, saturation: float, hue: float) -> Tensor:
    """Changes the colours of `image` uint8 [3, H, W]; with 1, 1, 1, 0 it stays as it is.

    All four changes are linear in RGB, so they are one 3x3 matrix and an offset. This takes a tenth of the time of
    torchvision's four functions. Their hue, through HSV, takes several times as long as decoding the image.

    Args:
        brightness, contrast, saturation: factors as in torchvision: on all values, on the distance from the mean grey,
            on the distance from the grey of each pixel.
        hue: rotation of the chroma, as a share of the circle.
    """
    angle = 2 * math.pi * hue
    turn = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    turn[1:] *= saturation
    matrix = brightness * contrast * (_YIQ_TO_RGB @ turn @ _RGB_TO_YIQ)  # [3, 3]
    # Summed as integers: a float mean would depend on the number of threads, so on the number of workers.
    mean = image.sum(dim=(1, 2), dtype=torch.int64).numpy() / (image.shape[1] * image.shape[2])  # [3]
    offset = (1 - contrast) * brightness * float(_RGB_TO_YIQ[0] @ mean)
    channels = image.float()
    mixed = [
        (channels[0] * float(r)).add_(channels[1], alpha=float(g)).add_(channels[2], alpha=float(b)).add_(offset)
        for r, g, b in matrix
    ]
    return torch.stack(mixed).round_().clamp_(0, 255).to(torch.uint8)
