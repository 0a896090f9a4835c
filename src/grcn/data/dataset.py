"""Opening a data set: its format and its splits are recognized from the folder, and one split is read.

```python
data = open_dataset("bccd", split="train")
data.class_names, len(data), data[0].path, data[0].target.boxes
for defect in data.defects:
    print(defect.file, defect.message)
```

What is wrong in a data set either raises or is counted:

- Raises: what cannot be parsed or breaks its format's rules, so that its meaning is unclear (AnnotationError), and
  images that are no images by their header (ImageError). `on_error="collect"` counts these too, leaves out the file or
  the object, and goes on; only what leaves nothing to read still raises (no such folder, no format, a broken JSON).
- Is counted, always: boxes that the policy of `grcn.data.boxes` drops or clips, images that are missing, have no
  annotation file or are of a kind that is not read, names listed twice, sizes that differ from the image's.

Files that no split uses are counted by `grcn check`, which knows all splits.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from grcn.data.files import Root, check_names, split_kind, subfolders
from grcn.data.formats import coco, labelstudio, voc, yolo
from grcn.data.formats.coco import CocoLayout, find_coco, read_coco
from grcn.data.formats.labelstudio import LabelStudioLayout, find_labelstudio, read_labelstudio
from grcn.data.formats.voc import VocLayout, find_voc, read_voc
from grcn.data.formats.yolo import YoloLayout, find_yolo, read_yolo
from grcn.data.records import AnnotatedImage, Dataset, Defect, Findings, Format, ImageRecord, OnError
from grcn.errors import DataError

__all__ = [
    "AnnotatedImage",
    "Dataset",
    "Defect",
    "Format",
    "ImageRecord",
    "OnError",
    "list_splits",
    "open_dataset",
    "resolve_split",
]

Layout = VocLayout | CocoLayout | YoloLayout | LabelStudioLayout

_FINDERS = {"voc": find_voc, "coco": find_coco, "yolo": find_yolo, "labelstudio": find_labelstudio}
_LOOKED_FOR = {
    "voc": voc.LOOKED_FOR,
    "coco": coco.LOOKED_FOR,
    "yolo": yolo.LOOKED_FOR,
    "labelstudio": labelstudio.LOOKED_FOR,
}
_DEPTH, _WIDTH = 4, 100  # levels, and folders of each, in which a data set is looked for: x/VOCdevkit/VOC2007
_ROLES = {"train": ("train", "trainval"), "val": ("val",), "test": ("test",)}
_FALLBACKS = {"train": (), "val": ("test",), "test": ("val",)}


def open_dataset(
    root: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    class_names: Sequence[str] | None = None,
    on_error: OnError = "raise",
) -> Dataset:
    """Reads one split of a data set; decodes no pixels.

    Args:
        root: its folder, or one that holds nothing but it.
        split: its name in the folder (`list_splits`), or `train`, `val` or `test` for the one of that role
            (`valid`, `val2017`, ...).
        format: `voc`, `coco`, `yolo` or `labelstudio`; `auto`: recognized from the folder.
        class_names: the classes and their order, as a model has them: labels are matched to them by name. Default:
            the data set's own, by its format's rule (COCO: by category id; YOLO: as listed; VOC and Label Studio:
            `classes.txt`, else by name), the same for every split.
        on_error: `raise`, or `collect` to count what would raise.

    Raises:
        DataError: if there is no data set, several, no such split, or nothing in it.
        AnnotationError: naming file and object.
        ImageError: naming the file.
    """
    if on_error not in ("raise", "collect"):
        raise DataError(f"on_error: '{on_error}' is neither 'raise' nor 'collect'")
    if class_names is not None:
        check_names(tuple(class_names), "class_names")
    layout = _find(root, format)
    name = _named(layout, split)
    findings = Findings(layout.root.path, on_error)
    category_ids: tuple[int, ...] | None = None
    kind: Format
    if isinstance(layout, CocoLayout):
        kind = "coco"
        names, category_ids, records = read_coco(layout, name, class_names, findings)
    elif isinstance(layout, VocLayout):
        kind = "voc"
        names, records = read_voc(layout, name, class_names, findings)
    elif isinstance(layout, LabelStudioLayout):
        kind = "labelstudio"
        names, records = read_labelstudio(layout, name, class_names, findings)
    else:
        kind = "yolo"
        names, records = read_yolo(layout, name, class_names, findings)
    if on_error == "raise":
        _check_use(layout.root.path, name, names, records, findings)
    category_ids = category_ids or tuple(range(1, len(names) + 1))
    defects, files = tuple(findings.defects), frozenset(findings.files)
    return Dataset(layout.root.path, kind, name, names, category_ids, tuple(records), defects, files)


def _check_use(root: Path, split: str, names: tuple[str, ...], records: list[ImageRecord], findings: Findings) -> None:
    if not records:
        said = [f"{defect.file}: {defect.message}" for defect in findings.defects]
        first = f"; first of {len(said)} defects: {said[0]}" if said else ""
        raise DataError(f"{root}: no image in split '{split}' can be used{first}")
    if not names:
        raise DataError(f"{root}: no object of any class is annotated; name the classes in classes.txt, one a line")


def list_splits(root: str | Path, format: str = "auto") -> tuple[str, ...]:
    """The names of a data set's splits: training first, then validation, test and others.

    Raises:
        DataError: if there is no data set, or several.
    """
    order = ["train", "trainval", "val", "test", None]
    return tuple(sorted(_find(root, format).splits, key=lambda name: (order.index(split_kind(name)), name)))


def resolve_split(root: str | Path, wanted: str, kind: Literal["train", "val", "test"], format: str = "auto") -> str:
    """The split to use for a purpose.

    Args:
        root: the data set's folder.
        wanted: a split's name, or `auto` for the one that usually serves the purpose: `train`, `training`, `trainval`;
            `val`, `valid`, `validation`; `test`, `testing`; with a year or without. Where there is none for `val`
            or `test`, the other of the two; a data set's only split serves for `train`, unless it is named for
            another purpose.
        kind: the purpose.
        format: as `open_dataset`.

    Raises:
        DataError: if there is no such split, listing those that there are.
    """
    layout = _find(root, format)
    if wanted != "auto":
        return _named(layout, wanted)
    for role in (kind, *_FALLBACKS[kind]):
        if found := _by_role(layout.splits, role):
            return found
    raise DataError(f"{layout.root.path}: no split for '{kind}'; choose among {_listed(layout)}")


def _named(layout: Layout, split: str) -> str:
    if split in layout.splits:
        return split
    role = split_kind(split) if split.isalpha() else None
    if role in _ROLES and (found := _by_role(layout.splits, role)):
        return found
    near = difflib.get_close_matches(split, layout.splits, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise DataError(f"{layout.root.path}: no split '{split}' among {_listed(layout)}{hint}")


def _by_role(splits: Iterable[str], role: str) -> str | None:
    """The one split of a role; None where there is none.

    Raises:
        DataError: if several would do equally.
    """
    splits = list(splits)
    for kind in _ROLES[role]:
        found = [name for name in splits if split_kind(name) == kind]
        if kind in found:
            return kind
        if len(found) > 1:
            raise DataError(f"several splits for '{role}': {', '.join(sorted(found))}; name one of them")
        if found:
            return found[0]
    return splits[0] if role == "train" and len(splits) == 1 and split_kind(splits[0]) is None else None


def _listed(layout: Layout) -> str:
    return ", ".join(f"'{name}'" for name in sorted(layout.splits))


def _find(root: str | Path, format: str) -> Layout:
    """The layout of the data set in a folder, or in the only folder in it that has one."""
    if format != "auto" and format not in _FINDERS:
        raise DataError(f"format: '{format}' is none of auto, {', '.join(_FINDERS)}")
    if not os.path.isdir(root):
        what = "is a file; pass the folder that holds it" if os.path.exists(root) else "no such folder"
        raise DataError(f"{root}: {what}")
    level = [Root(root)]
    for _ in range(_DEPTH):
        found = [layout for folder in level if (layout := _find_here(folder, format))]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(str(layout.root.path) for layout in found)
            raise DataError(f"{root}: holds several data sets; pass one of {names}")
        level = [Root(inner) for folder in level for inner in subfolders(folder.path) if folder.holds(inner)]
        level = level[:_WIDTH]
    wanted = _LOOKED_FOR if format == "auto" else {format: _LOOKED_FOR[format]}
    looked = "; ".join(f"{name}: {what}" for name, what in wanted.items())
    raise DataError(f"{root}: no data set found. Looked for {looked}")


def _find_here(root: Root, format: str) -> Layout | None:
    finders = _FINDERS if format == "auto" else {format: _FINDERS[format]}
    found = {name: layout for name, finder in finders.items() if (layout := finder(root))}
    if len(found) > 1:
        raise DataError(f"{root.path}: looks like {' and '.join(found)}; choose with format {' or '.join(found)}")
    return next(iter(found.values()), None)
