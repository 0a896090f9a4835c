"""Makes pictures of README and of docs/explanations/two-tasks.md, beside this file.

python docs/images/pictures.py [--detections DEMO] [--maps RUN PHOTO]

Always `branches.svg` (where each detector's parts stand), `cells.png` (an object in cells of three strides) and
`results.svg` (the table of README). With --detections also `detections.jpg`, test pictures with what the detector of
`make demo` finds; with --maps `maps.png`, what the two branches of a trained G-RCN make of a photo.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image

from grcn import Detector
from grcn.data.dataset import open_dataset
from grcn.data.transforms import resize
from grcn.palette import PALETTE
from grcn.predict import draw
from grcn.scenes.render import render_scene

HERE = Path(__file__).parent
STUDIES = HERE.parent / "results" / "studies"


def tint(color: str) -> tuple[float, float, float]:
    """A colour mixed with white, so that black letters on it are read."""
    red, green, blue = (0.4 * part + 0.6 for part in to_rgb(color))
    return red, green, blue


# What is shared, classification's, localization's and the RPN's.
SHARED, CLS, LOC, RPN = "#DDDDDD", tint(PALETTE[0]), tint(PALETTE[4]), tint(PALETTE[2])

# Rows of README's table: their line and name in the plot, and study, data set and cell of their trials.
RESULTS = (
    (0.0, "vehicles, C4", "claim_2", "V", "c4"),
    (1.0, "vehicles, C5", "claim_2", "V", "c5"),
    (2.0, "vehicles, G-RCN", "claim_1", "V", "roi"),
    (3.5, "aquarium, one map", "pyramid_aquarium", "aquarium640", "grcn_lite0"),
    (4.5, "aquarium, pyramid", "pyramid_aquarium", "aquarium640", "grcn_lite0_fpn"),
)
DRAWN = (3, 8)  # which test pictures of `make demo` are shown
LETTERS = 28  # size of letters in pictures, in pixels: read on a phone, too

# Of each row: its title, and its parts as (left, line, width, text, colour) with line 0 in the middle, 1 above it.
ROWS = (
    (
        "Faster R-CNN, C4: one map, conv5 anew for each RoI",
        (
            (0.0, 0, 3.0, "conv1 to conv4\nstride 16", SHARED),
            (3.6, -1, 1.3, "RPN", RPN),
            (3.6, 0.3, 1.7, "RoIs\n14x14", SHARED),
            (5.8, 0.3, 2.3, "conv5 per RoI,\naverage", SHARED),
            (8.7, 0.8, 1.7, "class", CLS),
            (8.7, -0.2, 1.7, "box", LOC),
        ),
    ),
    (
        "Faster R-CNN, C5: conv5 once; one map, one head",
        (
            (0.0, 0, 3.0, "conv1 to conv4\nstride 16", SHARED),
            (3.6, 0, 1.7, "conv5\nstride 16", SHARED),
            (5.8, -1, 1.3, "RPN", RPN),
            (5.8, 0.3, 2.3, "RoIs 7x7,\ntwo fc layers", SHARED),
            (8.7, 0.8, 1.7, "class", CLS),
            (8.7, -0.2, 1.7, "box", LOC),
        ),
    ),
    (
        "G-RCN: each task its own conv5, stride and head",
        (
            (0.0, 0, 3.0, "conv1 to conv4\nstride 16", SHARED),
            (3.6, 0, 1.3, "RPN", RPN),
            (3.6, 1, 1.7, "conv5\nstride 32", CLS),
            (3.6, -1, 1.7, "conv5\nstride 16", LOC),
            (5.8, 1, 2.3, "RoIs 7x7, and\nthe whole image", CLS),
            (5.8, -1, 2.3, "RoIs 7x7", LOC),
            (8.7, 1, 1.7, "class", CLS),
            (8.7, -1, 1.7, "box", LOC),
        ),
    ),
)
ARROWS = (
    ((3.0, 0, 3.6, -1), (3.0, 0, 3.6, 0.3), (5.3, 0.3, 5.8, 0.3), (8.1, 0.3, 8.7, 0.8), (8.1, 0.3, 8.7, -0.2)),
    ((3.0, 0, 3.6, 0), (5.3, 0, 5.8, -1), (5.3, 0, 5.8, 0.3), (8.1, 0.3, 8.7, 0.8), (8.1, 0.3, 8.7, -0.2)),
    (
        (3.0, 0, 3.6, 1),
        (3.0, 0, 3.6, 0),
        (3.0, 0, 3.6, -1),
        (5.3, 1, 5.8, 1),
        (5.3, -1, 5.8, -1),
        (8.1, 1, 8.7, 1),
        (8.1, -1, 8.7, -1),
    ),
)


def branches(out: Path) -> None:
    """Three detectors as boxes and arrows."""
    figure, axes = plt.subplots(3, 1, figsize=(6.0, 6.2))
    for axis, (title, parts), arrows in zip(axes, ROWS, ARROWS, strict=True):
        axis.set(xlim=(-0.1, 10.6), ylim=(-1.6, 1.6))
        axis.set_title(title, loc="left", fontsize=11)
        axis.axis("off")
        for left, line, width, text, colour in parts:
            shape = FancyBboxPatch(
                (left, line - 0.36),
                width,
                0.72,
                "round,pad=0,rounding_size=0.08",
                facecolor=colour,
                edgecolor="#555555",
            )
            axis.add_patch(shape)
            axis.text(left + width / 2, line, text, ha="center", va="center", fontsize=9)
        for x, y, to_x, to_y in arrows:
            axis.annotate("", (to_x, to_y), (x, y), arrowprops={"arrowstyle": "->", "color": "#555555"})
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def cells(out: Path) -> None:
    """One object of the embedded set, seen in cells of strides 32, 16 and 8."""
    picture, found = render_scene(np.random.default_rng([0, 6]), (640, 480), (60.0, 130.0), (4, 8))
    x1, y1, x2, y2 = next(o.box for o in found if o.name == "buoy" and o.visible == 1)
    left, top = ((x1 + x2) // 2 - 96) // 32 * 32, ((y1 + y2) // 2 - 64) // 32 * 32
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.9))
    for axis, stride in zip(axes, (32, 16, 8), strict=True):
        axis.imshow(picture[top : top + 160, left : left + 224], extent=(left, left + 224, top + 160, top))
        for x in range(left, left + 225, stride):
            axis.axvline(x, color="white", linewidth=0.6, alpha=0.8)
        for y in range(top, top + 161, stride):
            axis.axhline(y, color="white", linewidth=0.6, alpha=0.8)
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=PALETTE[1], linewidth=2))
        size = ((x2 - x1) * (y2 - y1)) ** 0.5
        axis.set_title(f"stride {stride}: {size / stride:.1f} cells across", fontsize=10)
        axis.set(xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(out, dpi=90, bbox_inches="tight")
    plt.close(figure)
    _shrink(out)


def trials(study: str, data: str, cell: str) -> list[float]:
    """The AP of each seed, in points of 100."""
    with open(STUDIES / study / "trials.csv", newline="") as file:
        return [100 * float(row["AP"]) for row in csv.DictReader(file) if (row["data"], row["cell"]) == (data, cell)]


def results(out: Path) -> None:
    """The AP of README's table: mean and standard deviation as a bar, each seed as a dot."""
    figure, axis = plt.subplots(figsize=(4.4, 2.6))
    for line, name, *cell in RESULTS:
        seeds = trials(*cell)
        mean, color = statistics.fmean(seeds), PALETTE[1 if name.endswith(("C4", "C5")) else 0]
        axis.barh(line, mean, 0.8, color=tint(color))
        axis.errorbar(mean, line, xerr=statistics.stdev(seeds), color=color, capsize=4, linewidth=2)
        axis.plot(seeds, [line] * len(seeds), "o", color="black", markersize=3)
    axis.set_yticks([line for line, *_ in RESULTS], [name for _, name, *_ in RESULTS], fontsize=10)
    axis.tick_params(left=False)
    axis.set(xlabel="AP: mean, deviation, seeds", ylim=(5, -0.5))
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout(pad=0.3)
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def detections(demo: Path, out: Path, numbers: tuple[int, int] = DRAWN) -> None:
    """Test pictures of the folder that `make demo` makes, with what its detector finds at a score of 0.5 and above."""
    detector = Detector.load(demo / "run", device="cpu")
    test = open_dataset(demo / "data", split="test")
    drawn = [_drawn(Image.open(path), detector) for path in (test.records[number].path for number in numbers)]
    gap = np.full((drawn[0].shape[0], 16, 3), 255, np.uint8)
    Image.fromarray(np.hstack([drawn[0], gap, drawn[1]])).save(out, quality=88, progressive=True)


def maps(run: str, photo: str, out: Path) -> None:
    """A photo with its detections, and where the trunk's map and both branches' maps are strong."""
    detector = Detector.load(run, device="cpu")
    picture = Image.open(photo).convert("RGB")
    size = detector.config.input
    image = resize(torch.from_numpy(np.array(picture)).permute(2, 0, 1), size.short_side, size.long_side)
    with torch.no_grad():
        batch, _ = detector.model.eval().batch([image])
        found = detector.model.separation(batch)
    height, width = image.shape[1:]
    figure, axes = plt.subplots(2, 2, figsize=(10, 7.8))
    _show(axes[0, 0], _drawn(picture, detector), "what it finds, score 0.5 and above")
    strides = detector.model.separation.strides
    names = ("shared trunk, conv4", "classification, conv5", "localization, conv5")
    for axis, name, (stride,), (tensor,) in zip(axes.flat[1:], names, strides, found, strict=True):
        energy = tensor[0].float().square().mean(dim=0).sqrt().numpy()  # [H, W], over channels
        energy = energy[: -(-height // stride), : -(-width // stride)]  # without the padding
        inside = energy[: height // stride, : width // stride]  # cells that see no padding themselves
        low, high = np.quantile(inside, (0.02, 0.98))
        axis.imshow(np.asarray(picture.convert("L").resize((width, height))), cmap="gray", extent=(0, width, height, 0))
        axis.imshow(
            np.clip((energy - low) / (high - low), 0, 1),
            cmap="magma",
            alpha=0.7,
            extent=(0, energy.shape[1] * stride, energy.shape[0] * stride, 0),
            interpolation="nearest",
        )
        axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        axis.set_title(f"{name}: stride {stride}", fontsize=10)
    figure.tight_layout()
    figure.savefig(out, dpi=90, bbox_inches="tight")
    plt.close(figure)
    _shrink(out)


def _drawn(picture: Image.Image, detector: Detector) -> np.ndarray:
    """The picture with what is found at a score of 0.5 and above, in large letters."""
    least, draw.LEAST_LETTERS = draw.LEAST_LETTERS, LETTERS
    try:
        return draw.draw_detections(np.asarray(picture), detector.predict(picture, score=0.5))
    finally:
        draw.LEAST_LETTERS = least


def _show(axis: Axes, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture)
    axis.set_title(title, fontsize=10)
    axis.set(xticks=[], yticks=[])


def _shrink(path: Path) -> None:
    """Writes the picture again with 256 colours, a quarter of the bytes."""
    colors = Image.open(path).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE)
    Image.open(path).convert("RGB").quantize(palette=colors, dither=Image.Dither.FLOYDSTEINBERG).save(
        path, optimize=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detections", type=Path, metavar="DEMO", help="the folder that `make demo` made")
    parser.add_argument("--maps", nargs=2, metavar=("RUN", "PHOTO"), help="a trained detector and a photo")
    options = parser.parse_args()
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "grcn"  # the same ids, and so the same file, every time
    branches(HERE / "branches.svg")
    cells(HERE / "cells.png")
    results(HERE / "results.svg")
    if options.detections:
        detections(options.detections, HERE / "detections.jpg")
    if options.maps:
        maps(*options.maps, HERE / "maps.png")


if __name__ == "__main__":
    main()
