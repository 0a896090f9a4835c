"""`grcn check`: reports the content and the defects of a data set, and what its object sizes mean for a detector."""

from __future__ import annotations

import hashlib
import itertools
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grcn.config import DetectorConfig, InputConfig
from grcn.data.dataset import DataFolder
from grcn.data.records import Dataset, Defect, ImageRecord
from grcn.data.sizing import IOUS, QUANTILES, Sizing, fit_config, measure
from grcn.data.text import and_more
from grcn.data.unused import unused_files
from grcn.errors import DataError, GrcnError, ImageError
from grcn.presets import PRESETS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SMALL, MEDIUM = 32**2, 96**2  # COCO's limits of area, pixels of the original image
MOST_CLASSES = 100  # in a table, unless all are wanted
_SHOWN = tuple(QUANTILES.index(q) for q in (0.1, 0.5, 0.9))


@dataclass(frozen=True)
class SplitCount:
    """One split: its images, those without objects, and its boxes."""

    name: str
    images: int
    empty: int
    boxes: int
    difficult: int
    crowd: int


@dataclass(frozen=True)
class ClassCount:
    """One class in all splits, each image counted once: its boxes, and how many are small, medium and large (COCO)."""

    name: str
    boxes: int
    small: int
    medium: int
    large: int


@dataclass(frozen=True)
class CheckReport:
    """The result of `check_dataset`.

    Args:
        root, format: folder and format of the data set.
        images: number of distinct image files in the splits.
        splits, classes: counts.
        defects: all defects, each with its file. They include overlap between splits and, if no splits were named,
            files that no split uses. Defects with exit code 0 are remarks.
        sizing: how the given detector suits the training split; None if that has no objects.
        suggested: the same for the detector after `grcn.data.sizing.fit_config`.
    """

    root: Path
    format: str
    images: int
    splits: tuple[SplitCount, ...]
    classes: tuple[ClassCount, ...]
    defects: tuple[Defect, ...]
    sizing: Sizing | None
    suggested: Sizing | None

    @property
    def exit_code(self) -> int:
        """The exit code of the worst defect (the highest), or 0."""
        return max((defect.exit_code for defect in self.defects), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "root": str(self.root),
            "format": self.format,
            "images": self.images,
            "splits": [asdict(split) for split in self.splits],
            "classes": [asdict(item) for item in self.classes],
            "defects": [asdict(defect) for defect in self.defects],
            "sizing": self.sizing and self.sizing.to_dict(),
            "suggested": self.suggested and self.suggested.to_dict(),
            "exit_code": self.exit_code,
        }


def check_dataset(
    root: str | Path,
    *,
    format: str = "auto",
    splits: Sequence[str] | None = None,
    config: DetectorConfig | None = None,
    short_side: int | None = None,
    long_side: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Reads a whole data set, decodes every image, and reports its content and defects.

    Args:
        root: the folder of the data set, or a folder that holds only this data set.
        format: the annotation format.
        splits: the splits to check. Default: all.
        config: the detector for which sizes are measured. Default: the preset grcn_r50.
        short_side, long_side: an input size to use in place of the config's; it also limits the suggested one.
        progress: called with the number of images decoded and of all images.

    Raises:
        DataError: if the folder or a named split cannot be found or the format is not recognized. Anything else is a
            defect in the report.
    """
    folder = DataFolder(root, format)
    root = folder.root.path
    named = splits if splits is not None else folder.splits
    names = dict.fromkeys(folder.resolve(name, "train") for name in named)
    config = config or PRESETS["grcn_r50"]
    size = InputConfig(short_side or config.input.short_side, long_side or config.input.long_side)
    config = replace(config, input=size)

    datasets, defects = _open_splits(folder, names)
    distinct = {record.path: (dataset, record) for dataset in datasets for record in dataset.records}
    digests = _decode(root, [record for _, record in distinct.values()], defects, progress)
    defects += _without_photos(datasets, digests) + _below_pixel(root, datasets)
    training = _training(folder, datasets)
    defects += _overlaps(root, datasets, digests) + _unknown_classes(training, datasets)
    defects += _without_objects(datasets)
    if splits is None and len(datasets) == len(names):  # the files of a split that cannot be read are unknown
        defects += unused_files(datasets, [root / defect.file for defect in defects])

    has_objects = any((~record.target.crowd).any() for dataset in training for record in dataset.records)
    suggested = fit_config(training, config) if has_objects else config
    defects += _dense(datasets, config, suggested)
    return CheckReport(
        root=root,
        format=datasets[0].format if datasets else format,
        images=len(distinct),
        splits=tuple(_count_split(dataset) for dataset in datasets),
        classes=_count_classes(datasets, list(distinct.values())),
        defects=tuple(dict.fromkeys(defects)),  # splits that share files share their defects
        sizing=measure(training, config) if has_objects else None,
        suggested=measure(training, suggested) if has_objects else None,
    )


def _open_splits(folder: DataFolder, names: Iterable[str]) -> tuple[list[Dataset], list[Defect]]:
    """The splits that can be read, and the defects of all splits."""
    datasets: list[Dataset] = []
    unreadable: list[Defect] = []
    for name in names:
        try:
            datasets.append(folder.open(name, on_error="collect"))
        except GrcnError as error:
            unreadable.append(Defect("unreadable-split", name, str(error), exit_code=error.exit_code))
    return datasets, unreadable + [defect for dataset in datasets for defect in dataset.defects]


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _decode(
    root: Path, records: Sequence[ImageRecord], defects: list[Defect], progress: Callable[[int, int], None] | None
) -> dict[Path, bytes]:
    """A digest of each image's pixels; images that cannot be decoded become defects."""
    digests = {}
    for done, record in enumerate(records, 1):
        try:
            pixels = record.pixels()
        except ImageError as error:
            message = str(error).removeprefix(f"{record.path}: ")
            defects.append(
                Defect("broken-image", _relative(root, record.path), message, exit_code=ImageError.exit_code)
            )
        else:
            digests[record.path] = hashlib.blake2b(pixels.data, digest_size=16, key=str(pixels.shape).encode()).digest()
        if progress is not None:
            progress(done, len(records))
    return digests


def _without_photos(datasets: Sequence[Dataset], digests: dict[Path, bytes]) -> list[Defect]:
    """Splits without a single readable photo."""
    message = "none of its photos can be read, so it cannot be used for training or evaluation"
    return [
        Defect("no-photos", dataset.split, message, exit_code=DataError.exit_code)
        for dataset in datasets
        if not any(record.path in digests for record in dataset.records)
    ]


def _below_pixel(root: Path, datasets: Sequence[Dataset]) -> list[Defect]:
    """Splits in which no box is larger than a pixel: most likely fractions, although the format has pixels."""
    found = []
    for dataset in datasets:
        boxed = [record for record in dataset.records if len(record.target)]
        if boxed and all((r.target.boxes[:, 2:] - r.target.boxes[:, :2] <= 1).all() for r in boxed):
            message = f"all boxes of split '{dataset.split}' are below one pixel; are they fractions of the image size?"
            found.append(Defect("boxes-below-pixel", _relative(root, boxed[0].path), message))
    return found


def _dense(datasets: Sequence[Dataset], config: DetectorConfig, suggested: DetectorConfig) -> list[Defect]:
    """Splits with images that hold more objects than the detector can return; these are remarks."""
    found = []
    most, raised = config.roi.detections_per_image, suggested.roi.detections_per_image
    for dataset in datasets:
        counts = np.array([int((~record.target.crowd).sum()) for record in dataset.records])
        if (counts > most).any():
            message = f"{(counts > most).sum()} images hold more than {most} objects, up to {counts.max()}, but the"
            message += f" detector gives at most {most} detections per image"
            message += (
                f"; --fit data raises this to {raised}" if raised > most else "; raise model.roi.detections_per_image"
            )
            found.append(Defect("dense-images", dataset.split, message, exit_code=0))
    return found


def _overlaps(root: Path, datasets: Sequence[Dataset], digests: dict[Path, bytes]) -> list[Defect]:
    """Photos that are in two splits, by file or by pixels, and photos that are twice in one split."""
    found = []
    firsts: list[dict[bytes | Path, Path]] = []
    for dataset in datasets:
        first: dict[bytes | Path, Path] = {}
        for record in dataset.records:
            same = first.setdefault(digests.get(record.path, record.path), record.path)
            if same != record.path:
                linked = os.path.samefile(same, record.path)  # one file under two names, maybe with two annotations
                what, exit_code = ("a link to", DataError.exit_code) if linked else ("has the same pixels as", 0)
                message = f"{what} {_relative(root, same)} in the same split, so it counts twice"
                found.append(Defect("photo-twice", _relative(root, record.path), message, exit_code=exit_code))
        firsts.append(first)
    for (one, first), (other, _) in itertools.combinations(zip(datasets, firsts, strict=True), 2):
        if _contains(one, other) or _contains(other, one):
            continue
        for record in other.records:
            twin = first.get(digests.get(record.path, record.path))
            if twin is not None:
                what = "the same file" if twin == record.path else f"the same pixels as {_relative(root, twin)}"
                message = f"in split '{other.split}' and also in '{one.split}' ({what}): results on them look too good"
                found.append(
                    Defect("split-overlap", _relative(root, record.path), message, exit_code=DataError.exit_code)
                )
    return found


def _contains(whole: Dataset, part: Dataset) -> bool:
    """Whether `whole` is a split made of others, like trainval."""
    return part.split in whole.split and {r.path for r in part.records} <= {r.path for r in whole.records}


def _unknown_classes(training: Sequence[Dataset], datasets: Sequence[Dataset]) -> list[Defect]:
    """Classes with objects in a split, but with none in the training split."""
    known = set(_class_counts(training))
    return [
        Defect(
            "unknown-class",
            dataset.split,
            f"{count} objects of class '{name}', but split '{training[0].split}' has none: this class cannot be "
            "learned",
            exit_code=DataError.exit_code,
        )
        for dataset in datasets
        if known
        for name, count in _class_counts([dataset]).items()
        if name not in known
    ]


def _without_objects(datasets: Sequence[Dataset]) -> list[Defect]:
    """Splits in which nothing can be learned or scored; crowd regions are neither."""
    return [
        Defect("no-objects", dataset.split, "no objects to learn from or to score", exit_code=DataError.exit_code)
        for dataset in datasets
        if dataset.records and not any((~record.target.crowd).any() for record in dataset.records)
    ]


def _class_counts(datasets: Sequence[Dataset]) -> Counter[str]:
    return Counter(d.class_names[label] for d in datasets for record in d.records for label in record.target.labels)


def _training(folder: DataFolder, datasets: Sequence[Dataset]) -> list[Dataset]:
    """The training split, found by its usual name; if there is none, the first split checked."""
    try:
        name = folder.resolve("auto", "train")
    except GrcnError:
        name = ""
    return [dataset for dataset in datasets if dataset.split == name] or list(datasets[:1])


def _count_split(dataset: Dataset) -> SplitCount:
    targets = [record.target for record in dataset.records]
    return SplitCount(
        name=dataset.split,
        images=len(targets),
        empty=sum(not len(target) for target in targets),
        boxes=sum(len(target) for target in targets),
        difficult=sum(int(target.difficult.sum()) for target in targets),
        crowd=sum(int(target.crowd.sum()) for target in targets),
    )


def _count_classes(
    datasets: Sequence[Dataset], distinct: Sequence[tuple[Dataset, ImageRecord]]
) -> tuple[ClassCount, ...]:
    names = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.class_names))
    counts = np.zeros((len(names), 3), dtype=np.int64)
    for dataset, record in distinct:
        sizes = np.digitize(record.target.areas, (SMALL, MEDIUM))
        for label, size in zip(record.target.labels, sizes, strict=True):
            counts[names.index(dataset.class_names[label]), size] += 1
    return tuple(ClassCount(name, sum(row), *row) for name, row in zip(names, counts.tolist(), strict=True))


# ------------------------------------------------------------------------------------------------------ printing


def render(report: CheckReport, console: Console | None = None, *, limit: int | None = 5) -> None:
    """Prints a report as tables.

    Args:
        console: where to print. Default: standard output.
        limit: how many defects of each kind are listed; the others are counted. The classes are limited to
            MOST_CLASSES. None: list all defects and classes.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style=style), soft_wrap=True)  # Text: names are not markup

    say(f"{report.root}: {report.format}, {report.images} images, {len(report.classes)} classes", "bold")
    table = Table()
    table.add_column("split", overflow="fold")
    for head in ("images", "without objects", "boxes", "difficult", "crowd"):
        table.add_column(head, justify="right", no_wrap=True)
    for split in report.splits:
        counts = (split.images, split.empty, split.boxes, split.difficult, split.crowd)
        table.add_row(Text(split.name), *map(str, counts))
    console.print(table)

    table = Table()
    table.add_column("class", overflow="fold")
    for head in ("boxes", "small\nto 32 px", "medium\nto 96 px", "large\n"):
        table.add_column(head, justify="right", no_wrap=True)
    most = None if limit is None else MOST_CLASSES
    for item in report.classes[:most]:
        table.add_row(Text(item.name), *map(str, (item.boxes, item.small, item.medium, item.large)))
    console.print(table)
    if most and (more := and_more(len(report.classes) - most, "--all lists all")):
        say(more)

    if report.sizing is not None and report.suggested is not None:
        console.print(_sizing_table(report.sizing, report.suggested))
        say(_advice(report.root, report.sizing, report.suggested))

    say("Defects" if report.exit_code else "No defects found.", "bold")
    kinds: dict[str, list[Defect]] = {}
    for defect in report.defects:
        kinds.setdefault(defect.kind, []).append(defect)
    for kind, defects in kinds.items():
        say(f"{kind}: {len(defects)}")
        for defect in defects[:limit]:
            say(f"  {defect.file}: {defect.message}")
        if limit is not None and (more := and_more(len(defects) - limit, "--all lists all")):
            say(f"  {more}")


def _advice(root: Path, preset: Sizing, suggested: Sizing) -> str:
    """How to train with the suggested sizes, or without them if their anchors reach less than half of the objects.

    Some loss is normal if small photos are no longer enlarged: objects have fewer pixels, and the stride is the same.
    """
    command = f"grcn train --data {shlex.quote(str(root))}"
    now, then = preset.reach[IOUS[0]], suggested.reach[IOUS[0]]
    if then > 0 and then >= now / 2:
        return f"{command} uses the suggested sizes; --fit none keeps the configured ones"
    return (
        f"The suggested sizes do not help here: their anchors reach IoU {IOUS[0]:g} for {then:.1%} of the objects, "
        f"those of the preset for {now:.1%}. To train without them: {command} --fit none"
    )


def _sizing_table(now: Sizing, then: Sizing) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for head in ("training split", "preset", "suggested"):
        table.add_column(head, overflow="fold")

    def row(name: str, value: Callable[[Sizing], str]) -> None:
        table.add_row(name, *(Text(value(sizing)) for sizing in (now, then)))

    row("input, short side", lambda s: f"{s.short_side} px (long to {s.long_side})")
    row("smallest class, median", lambda s: f"{s.smallest_class}, {s.smallest_median:.0f} px")
    row("stride: cls, loc, RPN", lambda s: f"{s.cls_stride}, {s.loc_stride}, {s.rpn_stride}")
    row("anchor sizes", lambda s: ", ".join(f"{size:g}" for size in s.anchor_sizes))
    row("anchor height / width", lambda s: ", ".join(f"{ratio:g}" for ratio in s.anchor_ratios))
    for stride in now.cells:
        row(
            f"cells of stride {stride}",
            lambda s, k=stride: " / ".join(f"{s.cells[k][i]:.1f}" for i in _SHOWN),  # type: ignore[misc]
        )
    for iou in now.reach:
        row(f"anchors reach IoU {iou:g}", lambda s, k=iou: f"{s.reach[k]:.1%} of objects")  # type: ignore[misc]
    if now.most_objects > now.detections_per_image:
        row("detections, at most", lambda s: f"{s.detections_per_image} of {s.most_objects} objects")
    table.caption = "cells: root of the objects' areas / stride, at quantiles 10 / 50 / 90%"
    return table
