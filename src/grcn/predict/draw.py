"""Detections drawn on pictures, readable on small and large ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from grcn.types import Detections, import_supervision

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Dark enough for white text on them, told apart also where red and green are not (by lightness).
PALETTE = ("#c2271f", "#1f5fb4", "#1b7f3a", "#8a3fb5", "#b85c00", "#0e7490", "#b0186b", "#5b6b12", "#6f4326", "#374151")
MIN_SIDE = 512
"""Pictures whose longer side is shorter are enlarged to it, so that labels leave something to see."""


def draw_detections(image: NDArray[np.uint8], detections: Detections) -> NDArray[np.uint8]:
    """A copy of the picture with each detection's box, class name and score.

    Args:
        image: [H, W, 3] uint8 RGB.
        detections: in the picture's pixels; the surest is drawn last, on top.

    Returns:
        [H', W', 3] uint8 RGB; larger than `image` where its longer side is below `MIN_SIDE`.
    """
    import matplotlib

    sv = import_supervision()

    height, width = image.shape[:2]
    scale = max(1.0, MIN_SIDE / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    scene = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC) if scale > 1 else Image.fromarray(image)
    if not len(detections):
        return np.array(scene)
    found = sv.Detections(xyxy=detections.boxes[::-1] * scale, class_id=detections.class_ids[::-1])
    labels = [f"{name} {score:.2f}" for name, score in zip(detections.names, detections.scores, strict=True)][::-1]
    side = max(size)
    thickness = max(2, round(side / 500))
    draw = ImageDraw.Draw(scene)  # without OpenCV, supervision takes six times as long
    for (x1, y1, x2, y2), class_id in zip(found.xyxy.astype(int).tolist(), found.class_id, strict=True):
        (left, right), (top, bottom) = sorted((x1, x2)), sorted((y1, y2))
        near, far = thickness // 2, (thickness - 1) // 2
        color = PALETTE[class_id % len(PALETTE)]
        draw.rectangle((left - near, top - near, right + far, bottom + far), outline=color, width=thickness)
    font_size = max(12, round(side / 55))
    scene = sv.RichLabelAnnotator(
        color=sv.ColorPalette.from_hex(list(PALETTE)),
        font_path=str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")),  # Latin, Greek and Cyrillic names
        font_size=font_size,
        text_padding=max(2, font_size // 5),
        smart_position=True,  # labels beside each other, and none outside the picture
    ).annotate(scene, found, labels)
    return np.array(scene)
