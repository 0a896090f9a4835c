"""The embedded data set: rendered beaches from above, deterministic by seed, written as a VOC folder.

Six classes in a small world where a glance at a part is not enough:

- `parasol` and `buoy` are the same round striped thing; the one stands on sand, the other floats on water.
- `towel` and `raft` are the same striped rectangle, told apart in the same way.
- `kayak` is one slim hull, on water or pulled up on the sand; `catamaran` is two such hulls, joined.

So the class needs the whole object and what surrounds it, while the box needs the edges: they are rough, shadows and
foam lie beside them, scraps of the same cloth lie about that belong to nothing, and leaves and other objects cover
parts. Colours are shared by all classes.

A box is the tight extent of the pixels in which its object is seen (VOC's rule), taken from the rendered mask, so it
is exact. Every object has at least `MIN_VISIBLE` of its area in sight; none is left without a box.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from grcn.errors import ConfigError, DataError
from grcn.scenes.render import SceneObject, render_scene

SPLITS = {"train": 0.6, "val": 0.15, "test": 0.25}
VERSION = 3  # of the pictures: raised whenever the same seed would give others


def generate(
    out: str | Path,
    *,
    images: int = 300,
    seed: int = 0,
    size: tuple[int, int] = (640, 480),
    object_size: tuple[float, float] | None = None,
    objects: tuple[int, int] = (4, 12),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the embedded set to the folder `out`: JPEGImages, Annotations, ImageSets/Main/{train,val,test}.txt.

    The same arguments give the same bytes (with the same numpy and Pillow); image i does not depend on `images`. The
    folder appears only when it is complete. One that is already there from the same arguments is left as it is, also
    one that another process finishes first.

    Args:
        out: the folder to make.
        images: number of images, at least 4; 60% train, 15% val, 25% test.
        seed: of everything that is drawn.
        size: width and height of the images, pixels.
        object_size: least and greatest longer side of an object before anything covers it, pixels. Default: 12 to 200
            at 640x480, in proportion at other sizes but not below 10.
        objects: least and greatest number of objects that a scene tries to place.
        progress: called with (images done, images in all).

    Returns:
        The folder.

    Raises:
        ConfigError: on arguments that cannot be carried out.
        DataError: where `out` exists and holds something else, or cannot be made.
    """
    width, height = size
    if object_size is None:
        scale = min(width / 640, height / 480)
        object_size = (max(10.0, 12 * scale), 200 * scale)
    if images < 4:
        raise ConfigError(f"images {images}: at least 4, so that every split has one")
    if min(size) < 64:
        raise ConfigError(f"size {width}x{height}: at least 64 pixels a side")
    if not 8 <= object_size[0] <= object_size[1] <= 0.8 * min(size):
        raise ConfigError(f"object_size {object_size}: needs 8 <= least <= greatest <= 80% of the shorter side")
    if not 1 <= objects[0] <= objects[1]:
        raise ConfigError(f"objects {objects}: needs 1 <= least <= greatest")

    out = Path(out)
    recipe = {
        "version": VERSION,
        "images": images,
        "seed": seed,
        "size": [width, height],
        "object_size": list(object_size),
        "objects": list(objects),
    }
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if _recipe_of(out) == recipe:
            return out
        raise DataError(f"{out}: exists and is not this set; remove it or name another folder")

    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as own:  # others may be rendering the same set
        partial = Path(own) / out.name
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (partial / folder).mkdir(parents=True)
        for index in range(images):
            picture, found = render_scene(np.random.default_rng([seed, index]), size, object_size, objects)
            name = f"{index:06d}"
            Image.fromarray(picture).save(partial / "JPEGImages" / f"{name}.jpg", quality=92)
            (partial / "Annotations" / f"{name}.xml").write_bytes(_voc_xml(f"{name}.jpg", size, found))
            if progress is not None:
                progress(index + 1, images)
        first = 0
        for split, last in zip(SPLITS, _split_ends(images), strict=True):
            names = "".join(f"{index:06d}\n" for index in range(first, last))
            (partial / "ImageSets" / "Main" / f"{split}.txt").write_text(names, encoding="utf-8")
            first = last
        # No suffix: a JSON file would make the folder look like COCO.
        (partial / "GENERATED").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        try:
            partial.rename(out)  # an empty folder gives way
        except OSError as error:
            if _recipe_of(out) != recipe:
                raise DataError(f"{out}: cannot be made: {error.strerror}; name another folder") from None
    return out


def _recipe_of(folder: Path) -> Any:
    try:
        return json.loads((folder / "GENERATED").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _split_ends(images: int) -> tuple[int, int, int]:
    train = max(1, round(images * SPLITS["train"]))
    val = max(1, round(images * SPLITS["val"]))
    return train, train + val, images


def _voc_xml(filename: str, size: tuple[int, int], found: list[SceneObject]) -> bytes:
    root = ElementTree.Element("annotation")

    def add(parent: ElementTree.Element, **values: object) -> None:
        for tag, value in values.items():
            ElementTree.SubElement(parent, tag).text = str(value)

    add(root, folder="JPEGImages", filename=filename)
    add(ElementTree.SubElement(root, "size"), width=size[0], height=size[1], depth=3)
    add(root, segmented=0)
    for item in found:
        x1, y1, x2, y2 = item.box
        node = ElementTree.SubElement(root, "object")
        add(node, name=item.name, pose="Unspecified", truncated=int(item.truncated))
        add(node, occluded=int(item.visible < 0.95), difficult=0)
        # VOC's corners count from 1 and include the last pixel.
        add(ElementTree.SubElement(node, "bndbox"), xmin=x1 + 1, ymin=y1 + 1, xmax=x2, ymax=y2)
    ElementTree.indent(root)
    xml: bytes = ElementTree.tostring(root, encoding="utf-8")
    return xml + b"\n"
