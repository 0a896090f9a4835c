"""Blood-cell photos and their objects, read without the package."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import torch
from torch import Tensor

CLASSES = ("RBC", "WBC", "Platelets")


class Sample(NamedTuple):
    """A photo [3, H, W] in 0..1 and its objects: boxes [N, 4], labels [N]."""

    image: Tensor
    target: dict[str, Tensor]


def photo(data: Path, number: int, crop: tuple[int, int, int, int] = (0, 0, 640, 480)) -> Sample:
    """A blood-cell photo, cut to `crop` (x1, y1, x2, y2), with the objects that lie wholly inside."""
    x1, y1, x2, y2 = crop
    name = f"BloodImage_{number:05d}"
    with PIL.Image.open(data / "bccd" / "JPEGImages" / f"{name}.jpg") as file:
        pixels = np.asarray(file.convert("RGB"))[y1:y2, x1:x2]
    boxes, labels = [], []
    for item in ElementTree.parse(data / "bccd" / "Annotations" / f"{name}.xml").iter("object"):
        left, top, right, bottom = (float(item.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax"))
        if x1 < left < right <= x2 and y1 < top < bottom <= y2:
            boxes.append([left - 1 - x1, top - 1 - y1, right - x1, bottom - y1])
            labels.append(CLASSES.index(item.findtext("name", "")))
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
    return Sample(image, {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels)})
