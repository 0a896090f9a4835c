"""Opens a data set: recognizes its format and its splits from the folder, and reads one split.

```python
data = open_dataset("bccd", split="train")
data.class_names, len(data), data[0].path, data[0].target.boxes
for defect in data.defects:
    print(defect.file, defect.message)
```

A fault in a data set either raises an error or is counted:

- These raise: annotations that cannot be parsed or break the rules of their format, so that their meaning is unclear
  (AnnotationError), and files whose header shows that they are not images (ImageError). `on_error="collect"` counts
  these as well, leaves out the file or the object, and goes on. It still raises if nothing is left to read (no such
  folder, no format, a broken JSON file).
- These are always counted: boxes that the policy of `grcn.data.boxes` drops or clips, images that are missing, have no
  annotation file or are of a kind that is not read, names listed twice, and sizes that differ from those of the image.

Files that no split uses are counted by `grcn check`, which knows all splits.
"""

from __future__ import annotations

import difflib
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from grcn.data import cache
from grcn.data.files import Root, check_names, split_kind
from grcn.data.formats import FORMATS, Format, Layout
from grcn.data.holdout import HELD_OUT, hold_out
from grcn.data.records import AnnotatedImage, Dataset, Defect, Findings, ImageRecord, OnError
from grcn.errors import DataError

__all__ = [
    "AnnotatedImage",
    "DataFolder",
    "Dataset",
    "Defect",
    "ImageRecord",
    "OnError",
    "list_splits",
    "open_dataset",
    "resolve_split",
]

_DEPTH, _WIDTH = 4, 100  # a data set is looked for in so many levels, such as x/VOCdevkit/VOC2007, and folders of each
_ROLES = {"train": ("train", "trainval"), "val": ("val",), "test": ("test",)}
_FALLBACKS = {"train": (), "val": (), "test": ("val",)}


class DataFolder:
    """A folder with a data set. It is searched once, and its splits can be read afterwards.

    Nothing outside the folder is opened. The data set may lie in a subfolder; lists, class names and links above that
    subfolder still count.

    Args:
        root: the folder.
        format: a key of `grcn.data.formats.FORMATS`; `auto` recognizes the format from the folder.

    Raises:
        DataError: if there is no such folder, or no data set in it.
        AnnotationError: if a file that describes the whole data set is broken.
    """

    def __init__(self, root: str | Path, format: str = "auto") -> None:
        if format != "auto" and format not in FORMATS:
            raise DataError(f"format: '{format}' is not one of auto, {', '.join(FORMATS)}")
        if not os.path.isdir(root):
            what = "is a file; pass the folder that holds it" if os.path.exists(root) else "no such folder"
            if os.path.isfile(root) and zipfile.is_zipfile(root):
                what = "is an archive; unpack it and pass the folder"
            raise DataError(f"{root}: {what}")
        self.root = Root(root)
        self._found = _find(self.root, format)
        if not self._found:
            wanted = FORMATS if format == "auto" else {format: FORMATS[format]}
            looked = "; ".join(f"{name}: {row.looked_for}" for name, row in wanted.items())
            packed = [name for name in self.root.listing(self.root.path).files if name.lower().endswith(".zip")]
            hint = f"{packed[0]} is an archive; unpack it first. " if packed else ""
            raise DataError(f"{root}: no data set found. {hint}Looked for {looked}")

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits: training first, then validation, test and others.

        Raises:
            DataError: if the folder holds several data sets.
        """
        order = ["train", "trainval", "val", "test", None]
        return tuple(sorted(self._only().splits, key=lambda name: (order.index(split_kind(name)), name)))

    def resolve(self, wanted: str, kind: Literal["train", "val", "test"]) -> str:
        """The split to use for a purpose, as in `resolve_split`."""
        if wanted == HELD_OUT and HELD_OUT not in self._only().splits:
            return HELD_OUT
        if wanted != "auto":
            return self._named(wanted)[2]
        splits = self._only().splits
        for role in (kind, *_FALLBACKS[kind]):
            if found := _by_role(splits, role):
                return found
        if kind != "train" and _by_role(splits, "train"):
            return HELD_OUT
        raise DataError(f"{self.root.path}: no split for '{kind}'; choose among {_listed(splits)}")

    def open(
        self, split: str = "train", *, class_names: Sequence[str] | None = None, on_error: OnError = "raise"
    ) -> Dataset:
        """Reads one split, as in `open_dataset`."""
        if on_error not in ("raise", "collect"):
            raise DataError(f"on_error: '{on_error}' is neither 'raise' nor 'collect'")
        if class_names is not None:
            check_names(tuple(class_names), "class_names")
        if split == HELD_OUT and HELD_OUT not in self._only().splits:
            data = self.open(self.resolve("auto", "train"), class_names=class_names, on_error=on_error)
            held = hold_out(data)[1]
            if held is None:
                raise DataError(f"{self.root.path}: {len(data)} photos in '{data.split}': too few to hold some out")
            return held
        format, layout, name = self._named(split)
        file = self._state and cache.cache_file(
            self._state, (name, format, class_names and tuple(class_names), on_error)
        )
        if file and (remembered := cache.load(file, self.root.path)):
            return remembered
        findings = Findings(self.root.path, on_error)
        opened = layout.open(name.removeprefix(self._prefix(layout)), class_names, findings)
        if on_error == "raise":
            _check_use(self.root.path, name, opened.class_names, opened.records, findings)
        dataset = Dataset(
            self.root.path,
            format,
            name,
            opened.class_names,
            opened.category_ids or tuple(range(1, len(opened.class_names) + 1)),
            tuple(opened.records),
            tuple(findings.defects),
            frozenset(findings.files),
        )
        if file:
            cache.save(file, dataset)
        return dataset

    @cached_property
    def _state(self) -> bytes | None:
        return cache.state(self.root.path)

    def _only(self) -> Layout:
        if len(self._found) > 1:
            folders = ", ".join(str(layout.folder) for _, layout in self._found)
            layout = self._found[-1][1]
            example = f"{self._prefix(layout)}{min(layout.splits)}"
            raise DataError(
                f"{self.root.path}: holds several data sets; name a split such as '{example}', or pass one of {folders}"
            )
        return self._found[0][1]

    def _prefix(self, layout: Layout) -> str:
        """The prefix for the names of a layout's splits: its folder, if there are several layouts."""
        return f"{layout.folder.relative_to(self.root.path).as_posix()}/" if len(self._found) > 1 else ""

    def _named(self, split: str) -> tuple[str, Layout, str]:
        """Format, layout and full name of a split that is given by its name or its role."""
        for format, layout in self._found:
            prefix = self._prefix(layout)
            own = split.removeprefix(prefix) if split.startswith(prefix) else ""
            role = split_kind(own) if own.isalpha() else None
            if found := own if own in layout.splits else role in _ROLES and _by_role(layout.splits, role):
                return format, layout, prefix + found
        names = [self._prefix(layout) + name for _, layout in self._found for name in layout.splits]
        if "/" not in split:
            self._only()  # with several data sets, a name without its folder
        near = difflib.get_close_matches(split, names, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise DataError(f"{self.root.path}: no split '{split}' among {_listed(names)}{hint}")


def open_dataset(
    root: str | Path,
    *,
    split: str = "train",
    format: str = "auto",
    class_names: Sequence[str] | None = None,
    on_error: OnError = "raise",
) -> Dataset:
    """Reads one split of a data set, without decoding pixels.

    Args:
        root: the folder of the data set, or a folder that holds it.
        split: the name of the split in the folder (`list_splits`), or `train`, `val` or `test` for the split with that
            role (`valid`, `val2017`, ...). If the folder holds several data sets, it begins with the path of one:
            `fold0/train`.
        format: a key of `grcn.data.formats.FORMATS`, such as `voc`; `auto` recognizes the format from the folder.
        class_names: the classes of a model, in its order; labels are matched to them by name. Default: the classes of
            the data set, in the order of its format (COCO: by category id; YOLO: as listed; CVAT: as its labels;
            others: as in `classes.txt`, or by name), which is the same for every split.
        on_error: `raise`, or `collect` to count faults that would raise an error.

    Raises:
        DataError: if there is no data set, several, no such split, or nothing in it.
        AnnotationError: if an annotation is broken; it names the file and the object.
        ImageError: if a file is not an image; it names the file.
    """
    return DataFolder(root, format).open(split, class_names=class_names, on_error=on_error)


def list_splits(root: str | Path, format: str = "auto") -> tuple[str, ...]:
    """The names of a data set's splits: training first, then validation, test and others.

    Raises:
        DataError: if there is no data set, or several.
    """
    return DataFolder(root, format).splits


def resolve_split(root: str | Path, wanted: str, kind: Literal["train", "val", "test"], format: str = "auto") -> str:
    """The split to use for a purpose.

    Args:
        root: the data set's folder.
        wanted: the name of a split, or `auto` for the one with a usual name: `train`, `training`, `trainval`; `val`,
            `valid`, `validation`; `test`, `testing`; each with or without a year. If there is none for `test`, the one
            for `val` is used; if there is none for `val`, `held-out`, a part of the training split
            (`grcn.data.holdout`). The only split of a data set is used for `train`, unless its name is of another
            purpose.
        kind: the purpose.
        format: as in `open_dataset`.

    Raises:
        DataError: if there is no such split; it lists the splits.
    """
    return DataFolder(root, format).resolve(wanted, kind)


def _check_use(root: Path, split: str, names: tuple[str, ...], records: list[ImageRecord], findings: Findings) -> None:
    if not records:
        said = [f"{defect.file}: {defect.message}" for defect in findings.defects]
        first = f"; first of {len(said)} defects: {said[0]}" if said else ""
        raise DataError(f"{root}: no image in split '{split}' can be used{first}")
    if not names:
        raise DataError(f"{root}: no object of any class is annotated; name the classes in classes.txt, one per line")


def _by_role(splits: Iterable[str], role: str) -> str | None:
    """The split with a role; None if there is none.

    Raises:
        DataError: if several splits fit equally well.
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


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _find(root: Root, format: str) -> list[tuple[str, Layout]]:
    """The layouts of a folder. Formats of low priority count only if there are no others."""
    rows = FORMATS if format == "auto" else {format: FORMATS[format]}
    first, aside = ({name: row for name, row in rows.items() if row.aside == late} for late in (False, True))
    return _search(root, first) or _search(root, aside)


def _search(root: Root, rows: Mapping[str, Format]) -> list[tuple[str, Layout]]:
    """The layouts at the root, or at the first level below it that has any; of links to one folder, one."""
    level, seen = [root.path] if rows else [], set()
    for _ in range(_DEPTH):
        found = [layout for folder in level if (layout := _recognize(root, folder, rows))]
        if found:
            return found
        seen |= {os.path.realpath(folder) for folder in level}
        below: dict[str, Path] = {}
        for inner in (inner for folder in level for inner in root.subfolders(folder) if root.holds(inner)):
            below.setdefault(os.path.realpath(inner), inner)
        level = [inner for real, inner in below.items() if real not in seen][:_WIDTH]
    return []


def _recognize(root: Root, folder: Path, rows: Mapping[str, Format]) -> tuple[str, Layout] | None:
    found = {name: layout for name, row in rows.items() if (layout := row.recognize(root, folder))}
    if len(found) > 1:
        raise DataError(f"{folder}: looks like {' and '.join(found)}; choose with format {' or '.join(found)}")
    return next(iter(found.items()), None)
