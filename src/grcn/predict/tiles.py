"""Detection in photos much larger than the network's input: tile by tile and once in the whole photo, then merged.

Tiles overlap, so that an object no larger than the overlap lies completely in one of them. A box that ends at a border
of its tile inside the photo is called cut, since it may show only a part of an object. A cut box is dropped if a whole
box explains it. Cut boxes that no whole box explains are joined if two tiles show the same object. Larger objects are
also searched in the whole photo at reduced size. docs/adr/0026-tiles-tracks-streams.md has the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from grcn.config import Tiles
from grcn.errors import ConfigError, ImageError
from grcn.predict.runtimes import Exported
from grcn.predict.stream import Network, stream
from grcn.types import Detections

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from grcn.predict.stream import Pixels

    Floats = NDArray[np.float64]

S = TypeVar("S")
T = TypeVar("T")
View = tuple[int, int, int, int]  # x1, y1, x2, y2 in the photo's pixels

_SAME = 0.5
"""IoU from which boxes of two views show one object, and the share of a part that lies in its whole."""
_AS_SURE = 0.5
"""A box can explain another one, or be joined with it, if it has at least this share of the other one's score."""
_BORDER = 1 / 8
"""A box that ends within this share of the overlap from a border counts as cut, because boxes are not exact."""
_OFF = 3
"""Pixels of the reduced photo by which a box in it may be off."""
_ROWS = 256
"""Rows of the reduced photo that are made at a time."""


def stream_tiles(
    network: Network,
    sources: Iterable[S],
    class_names: tuple[str, ...],
    tiles: Tiles,
    *,
    read: Callable[[S], Pixels],
    finish: Callable[[S, Any, Detections], T],
    score: float | None = None,
    batch_size: int = 1,
    workers: int = 2,
) -> Iterator[tuple[S, T | ImageError]]:
    """Like `grcn.predict.stream.stream`, with one photo in memory at a time. Batches are of tiles, and the workers
    prepare tiles.

    Raises:
        ConfigError: if the tiles have another size than the only one that an exported network takes.
    """
    for source in sources:
        result: T | ImageError
        try:
            pixels = read(source)
            found = detect_tiles(
                network, pixels, class_names, tiles, score=score, batch_size=batch_size, workers=workers
            )
            result = finish(source, pixels, found)
            del pixels
        except ImageError as error:
            result = error
        yield source, result
        del source, result  # they may be large


def detect_tiles(
    network: Network,
    pixels: Pixels,
    class_names: tuple[str, ...],
    tiles: Tiles,
    *,
    score: float | None = None,
    batch_size: int = 1,
    workers: int = 2,
) -> Detections:
    """Finds the objects in one photo, uint8 [H, W, 3] or a tensor [3, H, W].

    There may be more detections than one pass of the network gives. A photo that is no larger than a tile is detected
    as without tiles.
    """
    photo = pixels if isinstance(pixels, np.ndarray) else pixels.permute(1, 2, 0).cpu().numpy()
    height, width = photo.shape[:2]
    fixed = _fixed_size(network)
    side = _tile_size(network, tiles, fixed)
    views = _views(height, width, side, tiles.overlap)
    whole = (0, 0, width, height)
    factor = 1
    if views != [whole]:
        factor = _factor(network, height, width, fixed)
        views.append(whole)

    def read(view: View) -> NDArray[np.uint8]:
        x1, y1, x2, y2 = view
        seen = _smaller(photo, factor) if view == whole else photo[y1:y2, x1:x2]
        return seen if fixed is None else _padded(seen, fixed)

    work = stream(
        network,
        views,
        class_names,
        read=read,
        finish=lambda view, _, found: found,
        score=score,
        batch_size=batch_size,
        workers=workers,
    )
    rows, class_ids = [], []
    for view, found in work:
        if isinstance(found, ImageError):
            raise found
        boxes = found.boxes.astype(np.float64) * (factor if view == whole else 1) + np.tile(view[:2], 2)
        boxes = np.clip(boxes, np.tile(view[:2], 2), np.tile(view[2:], 2))  # there are no objects in the padding
        rows.append(np.hstack([boxes, found.scores[:, None], np.tile(np.array(view, np.float64), (len(found), 1))]))
        class_ids.append(found.class_ids)
    every, of_class = np.concatenate(rows), np.concatenate(class_ids)
    if len(views) > 1:
        of_whole, nms = (every[:, 5:] == whole).all(axis=1), network.config.roi.nms
        seams = _Seams((height, width), (side[0] * tiles.overlap, side[1] * tiles.overlap), factor)
        merged = [
            (c, _merge(every[(of_class == c) & ~of_whole], every[(of_class == c) & of_whole], seams, nms))
            for c in np.unique(of_class)
        ]
        every = np.concatenate([np.empty((0, 9)), *(kept for _, kept in merged)])
        of_class = np.concatenate([np.empty(0, np.int64), *(np.full(len(kept), c) for c, kept in merged)])
    return Detections(every[:, :4], every[:, 4], of_class, class_names)


def _fixed_size(network: Network) -> tuple[int, int] | None:
    """The only height and width that a network takes; None if it takes any size."""
    if isinstance(network, Exported) and network.shape[1] and network.shape[2]:
        return network.shape[1], network.shape[2]
    return None


def _tile_size(network: Network, tiles: Tiles, fixed: tuple[int, int] | None) -> tuple[int, int]:
    if fixed is None:
        size = tiles.size or network.config.input.short_side
        return size, size
    if tiles.size is not None and fixed != (tiles.size, tiles.size):
        raise ConfigError(f"tiles of {tiles.size}: the file takes only {fixed[1]}x{fixed[0]}; leave out the size")
    return fixed


def _views(height: int, width: int, side: tuple[int, int], overlap: float) -> list[View]:
    """The tiles, row by row and evenly spaced. Neighbours overlap by at least `overlap` of a tile's side."""

    def starts(length: int, side: int) -> list[int]:
        if length <= side:
            return [0]
        shared = math.ceil(side * overlap)
        count = math.ceil((length - shared) / (side - shared))
        return [round(i * (length - side) / (count - 1)) for i in range(count)]

    rows, columns = starts(height, side[0]), starts(width, side[1])
    return [(x, y, min(x + side[1], width), min(y + side[0], height)) for y in rows for x in columns]


def _factor(network: Network, height: int, width: int, fixed: tuple[int, int] | None) -> int:
    """The whole number by which the photo is reduced for the pass over the whole photo.

    The result is no smaller than what the network would resize it to; for a network that takes only one size, it fits
    into that size."""
    if fixed is not None:
        return math.ceil(max(height / fixed[0], width / fixed[1]))
    size = network.config.input
    return max(1, math.floor(max(min(height, width) / size.short_side, max(height, width) / size.long_side)))


def _smaller(photo: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Reduces a photo: each pixel is the mean of `factor` x `factor`. Needs little more memory than the result."""
    rows = range(0, photo.shape[0], _ROWS * factor)
    parts = [np.asarray(Image.fromarray(photo[y : y + _ROWS * factor]).reduce(factor)) for y in rows]
    return np.concatenate(parts)


def _padded(seen: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Pads a picture with black at the bottom and the right, up to a size."""
    (height, width), (rows, columns) = seen.shape[:2], size
    return np.pad(seen, ((0, rows - height), (0, columns - width), (0, 0)))


# Below, a box is a row of nine numbers: x1, y1, x2, y2, score, and the view that shows it, in pixels of the photo. All
# rows of a call have the same class.


@dataclass(frozen=True)
class _Seams:
    """The geometry of merging: where tiles cut objects, and how exact boxes are.

    Args:
        size: the photo's height and width.
        overlap: of tiles, down and across, in pixels.
        factor: the factor by which the whole photo was reduced.
    """

    size: tuple[int, int]
    overlap: tuple[float, float]
    factor: int

    @property
    def border(self) -> tuple[float, float]:
        """How far from a border, in pixels down and across, a box may end whose object is cut by it."""
        return _BORDER * self.overlap[0], _BORDER * self.overlap[1]

    def cut(self, rows: Floats) -> NDArray[np.bool_]:
        """Which boxes end at a border of their view that is not a border of the photo."""
        (height, width), (down, across) = self.size, self.border
        x1, y1, x2, y2, _, left, top, right, bottom = rows.T
        return np.asarray(
            ((left > 0) & (x1 <= left + across))
            | ((top > 0) & (y1 <= top + down))
            | ((right < width) & (x2 >= right - across))
            | ((bottom < height) & (y2 >= bottom - down))
        )

    def fit(self, rows: Floats) -> NDArray[np.bool_]:
        """Which boxes are small enough that some tile shows them completely and off its borders, wherever they are."""
        down, across = (n - 2 * border for n, border in zip(self.overlap, self.border, strict=True))
        return (rows[:, 2] - rows[:, 0] <= across) & (rows[:, 3] - rows[:, 1] <= down)


def _merge(fine: Floats, coarse: Floats, seams: _Seams, nms: float) -> Floats:
    """Merges the boxes of tiles and of the whole photo, so that each object is left once.

    Args:
        fine: found in tiles.
        coarse: found in the whole photo.
        nms: IoU above which boxes show one object.
    """
    slack = max(seams.border)
    cut = seams.cut(fine)
    whole = _suppressed(fine[~cut], nms)
    parts = _unexplained(fine[cut], whole, slack)
    joined = _joined(parts)
    cut = seams.cut(joined)
    whole = _suppressed(np.concatenate([whole, joined[~cut]]), nms)
    parts = _unexplained(joined[cut], whole, slack)
    coarse, slack = coarse[~seams.fit(coarse)], _OFF * seams.factor  # tiles show the others larger
    coarse = _unseen(coarse, whole, slack)
    parts = _unexplained(parts, coarse, slack)
    return _suppressed(np.concatenate([whole, coarse, parts]), nms)


def _unexplained(parts: Floats, whole: Floats, slack: float) -> Floats:
    """The parts that belong to no whole box.

    A part belongs to a whole box with a high enough score if that box contains it, within `slack` pixels, or if both
    are the same where the view of the part shows them.
    """
    left = np.ones(len(parts), dtype=bool)
    grown = whole[:, :4] + (-slack, -slack, slack, slack)
    for view in np.unique(parts[:, 5:], axis=0):
        at = np.flatnonzero((parts[:, 5:] == view).all(axis=1))
        near = np.flatnonzero(_shared(view[None], grown)[0])
        own = parts[at]
        same = _iou(own, _clipped(whole[near], view)) >= _SAME  # [own, near]
        inside = _shared(own, grown[near]) >= _SAME * _areas(own)[:, None]
        sure = whole[near, 4] >= _AS_SURE * own[:, 4:5]
        left[at] = ~((same | inside) & sure).any(axis=1)
    return parts[left]


def _joined(parts: Floats) -> Floats:
    """Joins parts of one object: those of two views that agree where both views overlap, with similar scores.

    The joined part has the highest score of its parts, and its view spans all their views."""
    group = np.arange(len(parts))
    views, of_view = np.unique(parts[:, 5:], axis=0, return_inverse=True)
    for a, b in zip(*np.nonzero(np.triu(_shared(views, views) > 0, 1)), strict=True):
        ours, theirs = np.flatnonzero(of_view == a), np.flatnonzero(of_view == b)
        both = np.concatenate([np.maximum(views[a], views[b])[:2], np.minimum(views[a], views[b])[2:]])
        same = _iou(_clipped(parts[ours], both), _clipped(parts[theirs], both)) >= _SAME
        scores = parts[ours, 4][:, None], parts[theirs, 4]
        same &= np.minimum(*scores) >= _AS_SURE * np.maximum(*scores)
        for i, j in zip(*np.nonzero(same), strict=True):
            group[group == group[theirs[j]]] = group[ours[i]]
    members = [parts[group == number] for number in np.unique(group)]
    low, high = (np.array([end(rows, axis=0) for rows in members]).reshape(-1, 9) for end in (np.min, np.max))
    return np.hstack([low[:, :2], high[:, 2:5], low[:, 5:7], high[:, 7:]])


def _unseen(coarse: Floats, fine: Floats, slack: float) -> Floats:
    """The coarse boxes that match no fine box within `slack` pixels; fine boxes are more exact."""
    same = np.abs(coarse[:, None, :4] - fine[:, :4]).max(axis=2) <= slack  # [coarse, fine]
    seen = (same & (fine[:, 4] >= _AS_SURE * coarse[:, 4:5])).any(axis=1)
    return coarse[~seen]  # type: ignore[no-any-return]


def _suppressed(rows: Floats, nms: float) -> Floats:
    """`rows` from left to right, without those that overlap one of higher score with an IoU above `nms`."""
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    left, widths = rows[:, 0], rows[:, 2] - rows[:, 0]
    kept = np.ones(len(rows), dtype=bool)
    # A box whose IoU with another is above `nms` is less than 1 / `nms` times as wide, so it begins within this reach.
    reach = widths / max(nms, 0.01)
    first, last = np.searchsorted(left, left - reach), np.searchsorted(left, rows[:, 2])
    for i in np.argsort(-rows[:, 4], kind="stable"):
        if kept[i]:
            near = slice(first[i], last[i])
            kept[near] &= _iou(rows[i : i + 1], rows[near])[0] <= nms
            kept[i] = True
    return rows[kept]


def _clipped(boxes: Floats, view: Floats) -> Floats:
    """[N, 4] boxes, clipped to a view; they have no area if they lie outside of it."""
    low = np.clip(boxes[:, :2], view[:2], view[2:])
    return np.hstack([low, np.clip(boxes[:, 2:4], view[:2], view[2:])])


def _areas(boxes: Floats) -> Floats:
    areas: Floats = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def _shared(a: Floats, b: Floats) -> Floats:
    """The area that each of N boxes shares with each of M: [N, M]."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:4], b[:, 2:4])
    shared: Floats = np.clip(high - low, 0, None).prod(axis=2)
    return shared


def _iou(a: Floats, b: Floats) -> Floats:
    shared = _shared(a, b)
    iou: Floats = shared / np.maximum(_areas(a)[:, None] + _areas(b) - shared, 1e-9)
    return iou
