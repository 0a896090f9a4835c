"""The embedded data set: rendered beaches from above. A seed determines the pictures. They are written as a VOC folder.

There are six classes, and a glance at a part of an object is not enough to tell them apart:

- `parasol` and `buoy` are the same round striped shape. A parasol stands on sand, a buoy floats on water.
- `towel` and `raft` are the same striped rectangle, and differ in the same way.
- `kayak` is one slim hull, on water or on the sand. `catamaran` is two such hulls, joined.

So classification needs the whole object and its surroundings, while localization needs the edges. The edges are rough,
shadows and foam lie beside them, scraps of the same cloth lie around that belong to no object, and leaves and other
objects cover parts. All classes have the same colours.

A box is the tight extent of the visible pixels of its object (VOC's rule). It is exact, because it is taken from the
rendered mask. At least `MIN_VISIBLE` of the area of every object is visible, and every object has a box.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from grcn.errors import ConfigError, DataError
from grcn.locks import locked
from grcn.scenes.render import SceneObject, render_scene

SPLITS = {"train": 0.6, "val": 0.15, "test": 0.25}
VERSION = 3  # of the pictures; raised whenever the same seed gives other pictures


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

    The same arguments give the same bytes (with the same numpy and Pillow). Image i does not depend on `images`. The
    folder appears only when it is complete. If it already exists from the same arguments, it is left as it is. If
    another process is making it, this one waits.

    Args:
        out: the folder to create.
        images: number of images, at least 4; 60% train, 15% val, 25% test.
        seed: determines everything that is drawn.
        size: width and height of the images, in pixels.
        object_size: least and greatest longer side of an object before anything covers it, in pixels. Default: 12 to
            200 at 640x480, in proportion at other sizes, but at least 10.
        objects: least and greatest number of objects that a scene tries to place.
        progress: called with the number of images done and of all images.

    Returns:
        The folder.

    Raises:
        ConfigError: on arguments that cannot be carried out.
        DataError: if `out` exists and holds something else, or cannot be created.
    """
    recipe = _recipe(images, seed, size, object_size, objects)
    out = Path(out)
    if _is_there(out, recipe):
        return out
    lock = out.parent / f".{out.name}.lock"
    with locked(lock, str(out)) as alone:
        if _is_there(out, recipe):  # another process has rendered it meanwhile
            return out
        if alone:
            for left in out.parent.glob(f"{escape(_partial_name(out))}*"):  # left by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
        with TemporaryDirectory(prefix=_partial_name(out), dir=out.parent) as own:
            partial = Path(own) / out.name
            try:
                _render(partial, recipe, progress)
                partial.rename(out)  # this replaces an empty folder
            except OSError as error:
                if _recipe_of(out) != recipe:
                    reason = error.strerror or error
                    raise DataError(f"{out}: cannot be created: {reason}; choose another folder") from None
    return out


def _recipe(
    images: int,
    seed: int,
    size: tuple[int, int],
    object_size: tuple[float, float] | None,
    objects: tuple[int, int],
) -> dict[str, Any]:
    """The arguments that determine the set, as plain values for JSON.

    Raises:
        ConfigError: on arguments that cannot be carried out.
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
    return {
        "version": VERSION,
        "images": images,
        "seed": seed,
        "size": [width, height],
        "object_size": list(object_size),
        "objects": list(objects),
    }


def _is_there(out: Path, recipe: dict[str, Any]) -> bool:
    """Whether the set exists already.

    Raises:
        DataError: if something else is in its place.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if _recipe_of(out) != recipe:
        raise DataError(f"{out}: exists and is not this set; remove it or choose another folder")
    return True


def _partial_name(out: Path) -> str:
    return f".{out.name}.partial-"


def _render(folder: Path, recipe: dict[str, Any], progress: Callable[[int, int], None] | None) -> None:
    """Writes the set into a new folder."""
    images, (width, height) = recipe["images"], recipe["size"]
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for index in range(images):
        random = np.random.default_rng([recipe["seed"], index])
        picture, found = render_scene(random, (width, height), tuple(recipe["object_size"]), tuple(recipe["objects"]))
        name = f"{index:06d}"
        Image.fromarray(picture).save(folder / "JPEGImages" / f"{name}.jpg", quality=92)
        (folder / "Annotations" / f"{name}.xml").write_bytes(_voc_xml(f"{name}.jpg", (width, height), found))
        if progress is not None:
            progress(index + 1, images)
    first = 0
    for split, last in zip(SPLITS, _split_ends(images), strict=True):
        names = "".join(f"{index:06d}\n" for index in range(first, last))
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(names, encoding="utf-8")
        first = last
    # No suffix: a JSON file would make the folder look like COCO.
    (folder / "GENERATED").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")


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
