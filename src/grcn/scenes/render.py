"""Renders the pictures of the embedded data set: beaches from above, with numpy alone (see `grcn.scenes.generate`).

Everything is painted at the resolution of the picture. Outlines are signed distances. So edges are smooth, and the mask
of an object, from which its box is taken, is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# _GROUND_OF says where each class may be; _Sprite.distance (outline) and _Sprite.color say how it looks.
CLASS_NAMES = ("parasol", "buoy", "towel", "raft", "kayak", "catamaran")
MIN_VISIBLE = 0.55  # share of an object that other things and the border must leave visible

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

_COLORS = np.array(
    [
        [0.86, 0.13, 0.15],
        [0.97, 0.45, 0.05],
        [0.98, 0.80, 0.10],
        [0.10, 0.30, 0.80],
        [0.55, 0.12, 0.60],
        [0.92, 0.20, 0.50],
        [0.08, 0.10, 0.25],
    ],
    dtype=np.float32,
)
_CREAM = np.array([0.97, 0.95, 0.90], dtype=np.float32)
_GROUND_OF = {
    "parasol": "sand",
    "buoy": "water",
    "towel": "sand",
    "raft": "water",
    "kayak": "any",
    "catamaran": "water",
}
_SCENES = ("sand", "water", "shore")


@dataclass(frozen=True)
class SceneObject:
    """One object of a rendered scene.

    Args:
        name: its class.
        box: x1, y1, x2, y2 of its visible pixels, half-open.
        visible: share of its pixels that is visible, 0..1.
        truncated: whether the border of the image cuts it.
    """

    name: str
    box: tuple[int, int, int, int]
    visible: float
    truncated: bool


# ----------------------------------------------------------------------------------------------------- the scene


def render_scene(
    rng: np.random.Generator, size: tuple[int, int], object_size: tuple[float, float], objects: tuple[int, int]
) -> tuple[NDArray[np.uint8], list[SceneObject]]:
    """One picture [H, W, 3] uint8 and the objects in it. The arguments are those of `generate`."""
    width, height = size
    kind = _SCENES[rng.choice(3, p=(0.25, 0.30, 0.45))]
    canvas, wet = _ground(rng, width, height, kind)
    scene = _Scene(canvas, wet, sun=float(rng.uniform(0, 2 * math.pi)))
    unit = max(width, height) / 640  # clutter keeps its size in the world, so it grows with the image
    _litter(rng, scene, unit, object_size)

    wanted = [name for name in CLASS_NAMES if kind in ("shore", _GROUND_OF[name]) or _GROUND_OF[name] == "any"]
    count = int(rng.integers(objects[0], objects[1] + 1))
    lengths = np.exp(rng.uniform(math.log(object_size[0]), math.log(object_size[1]), count)).tolist()
    budget = 0.55 * width * height
    for length in sorted(lengths, reverse=True):  # large ones first, so that small ones are not buried
        name = wanted[rng.integers(len(wanted))]
        if name in ("kayak", "catamaran"):  # slim: at the least length, a hull would be thinner than its edge
            length = min(max(1.5 * length, 2 * object_size[0]), object_size[1])
        budget -= 0.5 * length**2
        if budget < 0 and scene.names:
            break
        for _ in range(25):
            if scene.place(name, _Sprite.draw(rng, name, length), rng):
                break
    for _ in range(rng.integers(0, 4)):
        _frond(rng, scene, float(rng.uniform(30, 90)) * unit)
    return _develop(rng, scene.canvas), scene.found()


class _Scene:
    """The picture so far, and which object is visible in each pixel.

    Args:
        canvas: [H, W, 3] float32, 0..1, painted in place.
        wet: [H, W] float32, above 0 where there is water.
        sun: direction in which shadows fall, radians.
    """

    def __init__(self, canvas: Floats, wet: Floats, sun: float) -> None:
        self.canvas, self.wet, self.sun = canvas, wet, sun
        self.owner = np.full(wet.shape, -1, dtype=np.int16)  # index of the object on top, or -1
        self.names: list[str] = []
        self.whole: list[int] = []  # pixels of each object, visible or not
        self.seen: list[int] = []
        self.cut: list[bool] = []

    def place(self, name: str, sprite: _Sprite, rng: np.random.Generator) -> bool:
        """Puts the object at a random spot. False if the ground is wrong, or too little of any object stays visible."""
        height, width = self.wet.shape
        margin = 0.035 * sprite.reach  # the border may cut the object a little beyond its middle
        x = float(rng.uniform(-margin, width + margin))
        y = float(rng.uniform(-margin, height + margin))
        patch = self.patch(x, y, 1.6 * sprite.reach)
        if patch is None:
            return False
        rows, columns, u, v = *patch[:2], *sprite.local(*patch[2:])
        distance = sprite.distance(u, v)
        mask = distance < 0
        inside = int(mask.sum())
        if inside < MIN_VISIBLE * sprite.area:
            return False
        share = float((self.wet[rows, columns][mask] > 0).mean())
        ground = _GROUND_OF[name]
        if (ground == "water" and share < 0.98) or (ground == "sand" and share > 0.02) or 0.1 < share < 0.9:
            return False
        lying_on = float((self.owner[rows, columns][mask] >= 0).mean())
        if lying_on > 0.4 or not self._may_cover(rows, columns, mask):
            return False
        self._cover(rows, columns, mask, owner=len(self.names))
        self.names.append(name)
        cut = self._touches_border(rows, columns, mask)
        self.whole.append(max(sprite.area, inside) if cut else inside)
        self.seen.append(inside)
        self.cut.append(cut)
        self._paint_object(sprite, rows, columns, patch[2:], (u, v), distance, afloat=share > 0.5)
        return True

    def occlude(self, corner: tuple[slice, slice], alpha: Floats, color: Floats) -> None:
        """Paints something that is not an object over the picture, unless it would hide too much of an object."""
        mask = alpha > 0.5
        if self._may_cover(*corner, mask):
            self._cover(*corner, mask, owner=-1)
            _blend(self.canvas[corner], color, alpha)

    def found(self) -> list[SceneObject]:
        """The objects, with boxes around their visible pixels."""
        result = []
        for index, name in enumerate(self.names):
            mask = self.owner == index
            xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            box = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
            result.append(SceneObject(name, box, self.seen[index] / self.whole[index], self.cut[index]))
        return result

    def patch(self, x: float, y: float, reach: float) -> tuple[slice, slice, Floats, Floats] | None:
        """Rows and columns of the canvas around (x, y), and each pixel's offset from there; None if there are none."""
        height, width = self.wet.shape
        top, bottom = max(0, int(y - reach)), min(height, int(y + reach) + 1)
        left, right = max(0, int(x - reach)), min(width, int(x + reach) + 1)
        if top >= bottom or left >= right:
            return None
        dx = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - x)
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - y)
        return slice(top, bottom), slice(left, right), dx, dy

    def _may_cover(self, rows: slice, columns: slice, mask: Bools) -> bool:
        hidden = self._hidden(rows, columns, mask)
        return all(
            seen - lost >= MIN_VISIBLE * whole for seen, lost, whole in zip(self.seen, hidden, self.whole, strict=True)
        )

    def _cover(self, rows: slice, columns: slice, mask: Bools, owner: int) -> None:
        for index, lost in enumerate(self._hidden(rows, columns, mask)):
            self.seen[index] -= lost
        self.owner[rows, columns][mask] = owner

    def _hidden(self, rows: slice, columns: slice, mask: Bools) -> list[int]:
        """How many visible pixels of each object lie under the mask."""
        owners = self.owner[rows, columns][mask]
        counts: list[int] = np.bincount(owners[owners >= 0], minlength=len(self.names)).tolist()
        return counts

    def _touches_border(self, rows: slice, columns: slice, mask: Bools) -> bool:
        height, width = self.wet.shape
        return bool(
            (rows.start == 0 and mask[0].any())
            or (rows.stop == height and mask[-1].any())
            or (columns.start == 0 and mask[:, 0].any())
            or (columns.stop == width and mask[:, -1].any())
        )

    def _paint_object(
        self,
        sprite: _Sprite,
        rows: slice,
        columns: slice,
        offsets: tuple[Floats, Floats],
        local: tuple[Floats, Floats],
        distance: Floats,
        afloat: bool,
    ) -> None:
        canvas = self.canvas[rows, columns]
        lift = sprite.lift * sprite.scale * (0.5 if afloat else 1.0)
        dx, dy = offsets[0] - lift * math.cos(self.sun), offsets[1] - lift * math.sin(self.sun)
        shadow = _coverage(sprite.distance(*sprite.local(dx, dy)), sprite.scale, soft=1 + 0.04 * sprite.scale)
        _blend(canvas, canvas * 0.45, 0.75 * shadow)
        if afloat:  # foam around the object: light, ragged, and not part of it
            ragged = sprite.grain(local[0], local[1], 7.0)
            foam = np.exp(-np.square((distance - 0.03 - 0.05 * ragged) / 0.045)).astype(np.float32)
            _blend(canvas, np.broadcast_to(_CREAM, canvas.shape), 0.65 * foam)
        alpha = _coverage(distance, sprite.scale)
        _blend(canvas, sprite.color(*local, distance, self.sun), alpha)


def _coverage(distance: Floats, scale: float, soft: float = 1.0) -> Floats:
    """The share of a pixel inside an outline, from its signed distance in object units; above 0.5 exactly inside."""
    covered: Floats = np.clip(0.5 - distance * np.float32(scale / soft), 0, 1)
    return covered


def _blend(canvas: Floats, color: Floats, alpha: Floats) -> None:
    canvas += (color - canvas) * alpha[..., None]


# --------------------------------------------------------------------------------------------------- the objects


@dataclass(frozen=True)
class _Sprite:
    """One object before it is placed: outline and colours in its own coordinates, u along it, v across.

    Args:
        name: its class.
        angle: rotation, radians.
        scale: pixels per unit.
        main, other: its two colours, [3].
        slim: its width in relation to its length.
        phase, waves: phases of its stripes, its rough edge and its grain, radians.
        lift: its height above the ground in units, which is how far its shadow falls.
        area: number of its pixels.
    """

    name: str
    angle: float
    scale: float
    main: Floats
    other: Floats
    slim: float
    phase: float
    waves: Floats
    lift: float
    area: int = 0

    @staticmethod
    def draw(rng: np.random.Generator, name: str, length: float) -> _Sprite:
        """A random object of a class. The longer side of its box is `length` pixels."""
        first, second = rng.choice(len(_COLORS), 2, replace=False)
        main = np.clip(_COLORS[first] * rng.uniform(0.85, 1.1) + rng.normal(0, 0.03, 3), 0, 1)
        other = _CREAM if rng.random() < 0.7 else _COLORS[second]
        slim = {"towel": (0.45, 0.65), "raft": (0.45, 0.65), "kayak": (0.2, 0.27), "catamaran": (0.13, 0.17)}
        unit = _Sprite(
            name=name,
            angle=float(rng.uniform(0, 2 * math.pi)),
            scale=1.0,
            main=main.astype(np.float32),
            other=other,
            slim=float(rng.uniform(*slim.get(name, (1, 1)))),
            phase=float(rng.uniform(0, 2 * math.pi)),
            waves=rng.uniform(0, 2 * math.pi, 6).astype(np.float32),
            lift=float(rng.uniform(0.10, 0.22)),
        )
        # Its extent depends on the angle and on the rough edge, so it is measured before the scale is set.
        step = 2.6 / 128
        axis = np.arange(-1.3, 1.3, step, dtype=np.float32)
        mask = unit.distance(*unit.local(axis[None, :], axis[:, None])) < 0
        extent = step * max(int(np.count_nonzero(mask.any(axis=side))) + 0.5 for side in (0, 1))
        scale = length / extent
        return replace(unit, scale=scale, area=round(mask.sum() * (step * scale) ** 2))

    @property
    def reach(self) -> float:
        """Pixels from the middle to the farthest point."""
        return 1.1 * self.scale

    def local(self, dx: Floats, dy: Floats) -> tuple[Floats, Floats]:
        """The object coordinates of points, given by their offset from its middle in pixels."""
        c, s = np.float32(math.cos(self.angle) / self.scale), np.float32(math.sin(self.angle) / self.scale)
        return dx * c + dy * s, dy * c - dx * s

    def grain(self, u: Floats, v: Floats, frequency: float) -> Floats:
        """A cheap irregular wave in about -1..1."""
        a, b, c, d, e, f = self.waves
        wave = np.sin(frequency * u + a + 2 * np.sin(frequency * 0.6 * v + b))
        wave += np.sin(frequency * v + c + 2 * np.sin(frequency * 0.7 * u + d))
        wave += np.sin(1.9 * frequency * (u + v) + e) * np.sin(2.3 * frequency * (u - v) + f)
        irregular: Floats = wave / 2.2
        return irregular

    def distance(self, u: Floats, v: Floats) -> Floats:
        """The approximate signed distance to the outline, in units; below 0 inside."""
        rough = 0.02 * self.grain(u, v, 9.0)
        if self.name in ("parasol", "buoy"):
            return np.hypot(u, v) - 0.97 - 0.03 * np.cos(8 * (np.arctan2(v, u) + self.phase)) + rough
        if self.name in ("towel", "raft"):
            fringe = 0.025 * np.sin(34 * v)
            a, b = np.abs(u) - 0.92 + fringe, np.abs(v) - self.slim + 0.08
            corner = np.hypot(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0)
            return corner - 0.08 + rough
        if self.name == "kayak":
            return self._hull(u, v) + 0.4 * rough
        hulls = np.minimum(self._hull(u, v - 0.36), self._hull(u, v + 0.36))
        beams = np.maximum(np.abs(np.abs(u - 0.05) - 0.34) - 0.05, np.abs(v) - 0.36)
        joined: Floats = np.minimum(hulls, beams) + 0.4 * rough
        return joined

    def _hull(self, u: Floats, v: Floats) -> Floats:
        half_width = self.slim * np.power(np.clip(1 - np.square(u), 0, 1), 0.75)
        outside: Floats = np.maximum(np.abs(v) - half_width, np.abs(u) - 1)
        return outside

    def color(self, u: Floats, v: Floats, distance: Floats, sun: float) -> Floats:
        """The colour of each point, [..., 3]."""
        sharp = 0.35 * self.scale
        if self.name in ("parasol", "buoy"):
            theta, radius = np.arctan2(v, u), np.hypot(u, v)
            band = np.sin(4 * (theta + self.phase)) * radius
            light = 1 + 0.16 * np.cos(theta + self.angle - sun) * np.minimum(radius * 3, 1)
            top = np.clip((0.15 - radius) * self.scale, 0, 1)
        elif self.name in ("towel", "raft"):
            band = np.sin(15 * u + self.phase) + 0.15
            light = 1 + 0.04 * self.grain(u, v, 5.0)
            top = np.zeros_like(band)
        else:
            across = np.abs(v) if self.name == "kayak" else np.abs(np.abs(v) - 0.36)
            band = np.abs(u) - 0.62 + 0.0 * v
            light = np.maximum(1.08 - 0.30 * np.square(across / self.slim), 0.7)
            seats = np.hypot((np.abs(u) - 0.22) / 1.6, across) - 0.45 * self.slim
            top = np.clip(0.5 - seats * self.scale, 0, 1)
        mix = np.clip(0.5 + band * sharp, 0, 1)[..., None]
        rgb = self.main + (self.other - self.main) * mix
        if self.name == "catamaran":  # bare wood between the hulls
            between = np.clip((0.36 - self.slim - np.abs(v)) * self.scale + 0.5, 0, 1)[..., None]
            rgb = rgb + (np.array([0.62, 0.45, 0.28], dtype=np.float32) - rgb) * between
            top = top * (1 - between[..., 0])
        rim = 1 - 0.30 * np.clip(1 + distance * min(self.scale / 1.5, 22), 0, 1)  # a darker hem along the outline
        rgb = rgb * (light * rim * (1 + 0.05 * self.grain(u, v, 23.0)))[..., None]
        painted: Floats = (rgb + (np.float32(0.12) - rgb) * top[..., None]).astype(np.float32)
        return painted


# ------------------------------------------------------------------------------------------ grounds and clutter


def _noise(rng: np.random.Generator, width: int, height: int, cell: float, octaves: int = 1) -> Floats:
    """Smooth noise [H, W] with a spread of about 1; `cell` is the distance of its grid points in pixels."""
    total = np.zeros((height, width), dtype=np.float32)
    strength = 1.0
    for _ in range(octaves):
        shape = (int(height / cell) + 4, int(width / cell) + 4)
        grid = Image.fromarray(rng.standard_normal(shape).astype(np.float32))
        region = (1.0, 1.0, 1.0 + width / cell, 1.0 + height / cell)
        smooth = grid.resize((width, height), Image.Resampling.BICUBIC, box=region)
        total += np.float32(strength) * np.asarray(smooth)
        cell, strength = max(cell / 2, 1.0), strength * 0.5
    return total


def _ground(rng: np.random.Generator, width: int, height: int, kind: str) -> tuple[Floats, Floats]:
    """The empty beach [H, W, 3], and how far each pixel is in the water [H, W], as a share of the image's diagonal."""
    diagonal = math.hypot(width, height)
    unit = max(width, height) / 640
    xs = (np.arange(width, dtype=np.float32)[None, :] + 0.5 - width / 2) / diagonal
    ys = (np.arange(height, dtype=np.float32)[:, None] + 0.5 - height / 2) / diagonal
    slope = rng.uniform(0, 2 * math.pi)
    middle = {"sand": -0.75, "water": 0.75, "shore": rng.uniform(-0.12, 0.12)}[kind]  # 0.75: no shore in sight
    wet = xs * np.float32(math.cos(slope)) + ys * np.float32(math.sin(slope)) + np.float32(middle)
    wet += np.float32(0.035) * _noise(rng, width, height, 130 * unit, 3)

    fine = rng.standard_normal((height, width), dtype=np.float32)
    broad = _noise(rng, width, height, 90 * unit, 3)
    swell = _noise(rng, width, height, 26 * unit, 2)
    if kind == "sand":
        return _sand(rng, xs, ys, wet, fine, broad), wet
    if kind == "water":
        return _water(rng, wet, fine, broad, swell), wet
    canvas = _sand(rng, xs, ys, wet, fine, broad)
    _blend(canvas, _water(rng, wet, fine, broad, swell), np.clip(0.5 + wet * (diagonal / 3), 0, 1))
    patchy = np.clip(0.6 + 0.5 * broad + 0.3 * fine, 0, 1)
    bare = np.ones_like(wet)
    for offset, strength in ((0.0, 0.9), (0.045, 0.5), (0.10, 0.3)):
        front = (wet - offset - 0.006 * swell) / 0.006
        bare *= 1 - strength * np.exp(-np.square(front)) * patchy
    _blend(canvas, _CREAM, 1 - bare)
    return canvas, wet


def _sand(rng: np.random.Generator, xs: Floats, ys: Floats, wet: Floats, fine: Floats, broad: Floats) -> Floats:
    color = np.array([0.84, 0.73, 0.54]) + rng.normal(0, 0.03, 3)
    ripples = np.sin((xs * 90 + ys * 40) * rng.uniform(0.7, 1.3) + 3 * broad)
    tone = 1 + 0.05 * broad + 0.025 * ripples + 0.045 * fine
    damp = 1 - 0.28 * np.clip(1 + wet / 0.05, 0, 1)
    sand: Floats = color.astype(np.float32) * (tone * damp)[..., None]
    return sand


def _water(rng: np.random.Generator, wet: Floats, fine: Floats, broad: Floats, swell: Floats) -> Floats:
    deep = (np.array([0.04, 0.33, 0.46]) + rng.normal(0, 0.03, 3)).astype(np.float32)
    shallow = (np.array([0.42, 0.72, 0.66]) + rng.normal(0, 0.03, 3)).astype(np.float32)
    near = np.exp(-np.maximum(wet, 0) / 0.12)
    lines = np.square(np.clip(1 - 1.6 * np.abs(swell + 0.5 * broad), 0, 1))  # the net of light on the bottom
    water = deep + (shallow - deep) * near[..., None]
    water *= (1 + 0.07 * broad + 0.05 * swell + 0.02 * fine)[..., None]
    water += (0.10 * lines)[..., None]
    return water


def _litter(rng: np.random.Generator, scene: _Scene, unit: float, object_size: tuple[float, float]) -> None:
    """Paints clutter that is not an object: stones, weed, driftwood and scraps of cloth."""
    height, width = scene.wet.shape
    for _ in range(rng.integers(12, 32)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        afloat = scene.wet[int(y), int(x)] > 0
        what = rng.random()
        if what < 0.45:  # a stone; under water only a dark spot
            _blot(rng, scene, x, y, rng.uniform(2, 9) * unit, rng.uniform(0.6, 1), np.full(3, rng.uniform(0.25, 0.6)))
        elif what < 0.85:
            green = np.array([0.16, 0.24, 0.10]) * rng.uniform(0.7, 1.5)
            _blot(rng, scene, x, y, rng.uniform(5, 20) * unit, rng.uniform(0.2, 1), green, ragged=0.5, dense=0.7)
        elif not afloat:
            brown = np.array([0.40, 0.29, 0.19]) * rng.uniform(0.8, 1.3)
            _blot(rng, scene, x, y, rng.uniform(12, 38) * unit, rng.uniform(0.06, 0.12), brown, ragged=0.1)
    for _ in range(rng.integers(1, 4)):
        length = math.exp(rng.uniform(math.log(object_size[0]), math.log(object_size[1])))
        _scrap(rng, scene, 0.35 * length + 3)


def _blot(
    rng: np.random.Generator,
    scene: _Scene,
    x: float,
    y: float,
    radius: float,
    flat: float,
    color: NDArray[Any],
    ragged: float = 0.2,
    dense: float = 0.9,
) -> None:
    patch = scene.patch(x, y, 1.7 * radius + 2)
    if patch is None:
        return
    rows, columns, dx, dy = patch
    angle, phases = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi, 2)
    u = (dx * math.cos(angle) + dy * math.sin(angle)) / radius
    v = (dy * math.cos(angle) - dx * math.sin(angle)) / (radius * flat)
    theta = np.arctan2(v, u)
    edge = 1 + ragged * (0.6 * np.sin(3 * theta + phases[0]) + 0.5 * np.sin(7 * theta + phases[1]))
    alpha = np.clip(0.5 + (edge - np.hypot(u, v)) * radius * flat, 0, 1) * dense
    light = 1 - 0.25 * (u * math.cos(scene.sun - angle) + v * math.sin(scene.sun - angle))
    shade = np.clip(light, 0.6, 1.4).astype(np.float32)[..., None] * color.astype(np.float32)
    _blend(scene.canvas[rows, columns], shade, alpha.astype(np.float32))


def _scrap(rng: np.random.Generator, scene: _Scene, radius: float) -> None:
    """Paints a piece with the colours and stripes of an object but without its outline, so it is not an object."""
    height, width = scene.wet.shape
    name = CLASS_NAMES[rng.integers(len(CLASS_NAMES))]
    sprite = _Sprite.draw(rng, name, 4 * radius)  # cut from a larger object
    patch = scene.patch(float(rng.uniform(0, width)), float(rng.uniform(0, height)), 1.5 * radius + 2)
    if patch is None:
        return
    rows, columns, dx, dy = patch
    u, v = sprite.local(dx + radius * rng.uniform(-0.5, 0.5), dy + radius * rng.uniform(-0.5, 0.5))
    theta, phases = np.arctan2(dy, dx), rng.uniform(0, 2 * math.pi, 3)
    edge = 0.8 + 0.25 * np.sin(2 * theta + phases[0]) + 0.2 * np.sin(5 * theta + phases[1])
    edge = edge + 0.12 * np.sin(11 * theta + phases[2])
    alpha = 0.85 * np.clip(0.5 + 2.5 * (edge - np.hypot(dx, dy) / radius), 0, 1)
    color = sprite.color(u, v, np.full_like(u, -1.0), scene.sun)
    _blend(scene.canvas[rows, columns], 0.25 * scene.canvas[rows, columns] + 0.75 * color, alpha.astype(np.float32))


def _frond(rng: np.random.Generator, scene: _Scene, length: float) -> None:
    """Paints a fan of leaves, which may cover objects."""
    height, width = scene.wet.shape
    x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
    patch = scene.patch(x, y, length)
    if patch is None:
        return
    rows, columns, dx, dy = patch
    radius: Floats = np.hypot(dx / length, dy / length)
    first, spread, count = rng.uniform(0, 2 * math.pi), rng.uniform(1.2, 2.6), int(rng.integers(4, 8))
    bend = rng.uniform(-0.5, 0.5)
    theta: Floats = np.arctan2(dy, dx) + bend * radius
    alpha: Floats = np.zeros_like(radius)
    vein: Floats = np.zeros_like(radius)
    for leaf in range(count):
        direction = first + spread * leaf / count
        turn = np.mod(theta - direction + math.pi, 2 * math.pi) - math.pi
        off = np.abs(turn).astype(np.float32) * radius  # across the leaf, in lengths
        half_width: Floats = 0.055 * np.sin(3.14 * np.clip(radius, 0, 1)) ** 0.7
        alpha = np.maximum(alpha, np.clip(0.5 + (half_width - off) * length, 0, 1))
        vein = np.maximum(vein, np.clip(1 - off * length / 1.2, 0, 1))
    alpha *= np.clip(0.5 + (0.98 - radius) * length, 0, 1)
    green = np.array([0.13, 0.36, 0.10]) * rng.uniform(0.8, 1.3)
    color = (green * (0.8 + 0.5 * radius + 0.5 * vein)[..., None]).astype(np.float32)
    scene.occlude((rows, columns), alpha, color)


def _develop(rng: np.random.Generator, canvas: Floats) -> NDArray[np.uint8]:
    """Turns light into a photograph, with cloud shadow, exposure, colour cast and sensor noise."""
    height, width, _ = canvas.shape
    cloud = _noise(rng, width, height, max(width, height) / 2.5)
    exposure = rng.uniform(0.85, 1.1) * (1 + rng.normal(0, 0.025, 3)).astype(np.float32)
    photo = canvas * (255 * exposure).astype(np.float32)
    photo *= (1 - 0.12 * np.clip(cloud, 0, 1.5))[..., None]
    photo += (3 * rng.standard_normal((height, width), dtype=np.float32) + 0.5)[..., None]
    return np.clip(photo, 0, 255, out=photo).astype(np.uint8)
