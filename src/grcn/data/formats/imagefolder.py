"""Hugging Face image folders: photos, and a metadata file with a row for each.

```text
photos/train/0001.png
photos/train/metadata.jsonl     {"file_name": "0001.png", "objects": {"bbox": [[302, 109, 73, 52]], "categories": [0]}}
```

The metadata file is `metadata.jsonl`, `metadata.csv` (its `objects` are JSON, or Python as pandas writes it) or
`metadata.parquet` (needs the extra `parquet`). There may be one in folders that are named for splits and below them, or
a single one in the folder itself. In the latter case everything is `train`, unless all images are in folders that are
named for several splits. `file_name` is relative to the folder of the metadata. The name of this column may also end
with `_file_name`.

`objects` is an object of lists or a list of objects. It has `bbox` as in COCO (x, y, width, height in pixels) and one
of `categories`, `category`, `labels`, `label`, `category_id`, as names or as numbers. It may have `area`, `iscrowd` and
`difficult`. The row may also have these keys itself, without `objects`. A row with no boxes is an image without
objects. A row whose `objects` are missing or null is not annotated: it is left out and counted.

Classes come from `classes.txt`, or from the card of the data set (`class_label` in `README.md`), or from the Parquet
file. Otherwise they are the names that occur, sorted. If there are only numbers, these become the names, with a remark.

Parquet files that hold the photos themselves are recognized and refused, because photos are only read from their own
files.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from grcn.data.files import ImageFinder, Root, check_names, image_folders, read_class_list, split_kind
from grcn.data.formats.entries import (
    Corners,
    Entry,
    Object,
    divided,
    finding,
    label_names,
    note_unmentioned,
    read_entries,
)
from grcn.data.formats.protocol import Format, Opened
from grcn.data.records import Findings
from grcn.data.text import flag, number, read_bytes, read_csv, read_text, shown, sniff
from grcn.errors import AnnotationError, ConfigError, first_line, missing_part

MAX_BYTES = 2**28  # of a metadata file; a box takes about 50
MAX_ROWS = 2**20  # of a Parquet file
MAX_VALUES = 2**25  # in a Parquet file

_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_LABELS = ("categories", "category", "labels", "label", "category_id")
_CROWD = ("iscrowd", "is_crowd")
_LISTS = ("bbox", *_LABELS, *_CROWD, "area", "difficult")
_SNIFF = 2**18  # bytes within which the names of the columns must occur
_MAX_FOOTER = 2**24  # bytes
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_CARD = re.compile(r"---\r?\n(.*?\n)---", re.DOTALL)
_MAX_CARD = 2**20

Row = dict[str, Any]


@dataclass(frozen=True)
class ImageFolderLayout:
    """An image folder: the root, the folder in it, and the metadata files of each split.

    Args:
        divided: whether there is a single file, whose images are in folders that are named for their splits.
    """

    root: Root
    folder: Path
    splits: dict[str, tuple[Path, ...]]
    divided: bool = False

    def open(self, split: str, class_names: Sequence[str] | None, findings: Findings) -> Opened:
        """Reads one split. Records are in the order of the rows."""
        files = self.splits[split]
        findings.files.update(files)
        entries = [entry for path in files for entry in self._entries(path, split, findings)]
        own = self._own_names()
        if own is None and class_names is None:
            own = self._names_by_labels(findings)
        known = own if own is not None else tuple(class_names or ())
        for entry in entries:
            if entry.objects:
                entry.objects = [item._replace(label=_called(item.label, known)) for item in entry.objects]
        find = {
            path: finding(
                ImageFinder(self.root, (path.parent, *image_folders(self.root, path.parent, split))), findings
            )
            for path in files
        }
        annotated, mentioned = read_entries(entries, lambda entry: find[entry.file](entry), self.folder, findings)
        if len(self.splits) == 1:
            note_unmentioned(self.root, annotated, mentioned, "row", findings)
        names = tuple(class_names) if class_names is not None else known
        return Opened(names, findings.records(annotated, names))

    def _entries(self, path: Path, split: str | None, findings: Findings) -> list[Entry]:
        """The entries of a file for the images of a split; None: for all images."""
        entries = list(_read(path, findings))
        splits = divided([entry.name for entry in entries]) if self.divided and split is not None else None
        return [entry for i, entry in enumerate(entries) if splits is None or splits[i] == split]

    def _own_names(self) -> tuple[str, ...] | None:
        """The classes in the order of their numbers; None if no file gives them."""
        places = self.root.upwards(self.folder)
        own = read_class_list(self.root, places)
        if own is not None:
            return own
        cards = [place / name for place in places if (name := self.root.listing(place).names.find("README.md"))]
        for card in cards:
            if names := _labels_in(_card(self.root.guarded(card)), str(card)):
                return names
        parquet = [path for files in self.splits.values() for path in files if path.suffix.lower() == ".parquet"]
        return next((names for path in parquet if (names := _labels_in(_parquet(path)[1], str(path)))), None)

    def _names_by_labels(self, findings: Findings) -> tuple[str, ...]:
        """The classes that occur in any split."""
        # Faults in the rows of other splits are reported when those are opened.
        unsaid = Findings(self.root.path, "collect")
        files = dict.fromkeys(path for some in self.splits.values() for path in some)
        names = label_names(entry for path in files for entry in self._entries(path, None, unsaid))
        if names and all(map(_is_number, names)):
            return findings.classes_by_number(max(map(int, names)), self.folder)
        return names


def recognize(root: Root, folder: Path) -> ImageFolderLayout | None:
    """The layout of a folder, or None if it has none. Reads metadata that may cover several splits."""
    splits: dict[str, tuple[Path, ...]] = {}
    for inner in root.subfolders(folder):
        if split_kind(inner.name):
            splits[inner.name] = tuple(root.walk(inner, lambda place: _metadata(root, place), guard=root.guarded))
    splits = {name: files for name, files in splits.items() if files}
    if not splits and (files := _metadata(root, folder)):
        named = divided([entry.name for entry in _read(files[0], Findings(root.path, "collect"))])
        return ImageFolderLayout(root, folder, dict.fromkeys(named or ["train"], (files[0],)), named is not None)
    for path in [] if splits else root.files(folder, ".parquet"):
        if is_annotation(path):
            name = _SHARD.sub("", path.stem)
            splits[name] = (*splits.get(name, ()), path)
    return ImageFolderLayout(root, folder, splits) if splits else None


def is_annotation(path: Path) -> bool:
    """Whether a file is metadata with boxes, judged by its name and the names of its columns."""
    suffix, is_metadata = path.suffix.lower(), path.name.lower() in _METADATA
    if suffix == ".parquet":
        footer = _footer(path)
        return b"bbox" in footer and (b"file_name" in footer if is_metadata else b"bytes" in footer)
    start = sniff(path, _SNIFF) if is_metadata else ""
    columns = (
        start.partition("\n")[0].replace('"', "").split(",") if suffix == ".csv" else re.findall(r'"(\w+)"\s*:', start)
    )
    return any(_is_image_column(name.strip()) for name in columns) and not {"objects", "bbox"}.isdisjoint(columns)


def _metadata(root: Root, folder: Path) -> list[Path]:
    """The metadata file in a folder, if there is one.

    Raises:
        AnnotationError: if there are several.
    """
    listed = root.listing(folder).names
    found = [root.guarded(folder / name) for wanted in _METADATA if (name := listed.find(wanted))]
    found = [path for path in found if is_annotation(path)]
    if len(found) > 1:
        raise AnnotationError(f"{folder}: holds {' and '.join(path.name for path in found)}; keep one of them")
    return found


def _footer(path: Path) -> bytes:
    """The description of a Parquet file at its end; empty if the file is not Parquet, or the description too long."""
    try:
        if path.is_file():
            with open(path, "rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - 8, 0))
                tail = file.read(8)
                length = int.from_bytes(tail[:4], "little")
                if tail[4:] == b"PAR1" and length <= min(end - 8, _MAX_FOOTER):
                    file.seek(end - 8 - length)
                    return file.read(length)
    except OSError:
        pass
    return b""


def _read(path: Path, findings: Findings) -> Iterator[Entry]:
    """The entries in the rows of a file. Rows that are wrong go to the findings.

    Raises:
        AnnotationError: if the file cannot be read, or holds the photos itself.
        ConfigError: on a Parquet file if pyarrow is not installed.
    """
    if path.name.lower() not in _METADATA:
        raise AnnotationError(
            f"{path}: holds the photos itself; write them to files with metadata.jsonl beside them (the page 'Mend "
            "a data set' has a script for this)"
        )
    word = "row" if path.suffix.lower() == ".parquet" else "line"
    for place, row in _rows(path):
        where = f"{word} {place}"
        try:
            if isinstance(row, ValueError):
                raise row
            entry = Entry(_image_name(row), path, place, where, _size(row))
            entry.objects = _objects(row, entry, findings)
        except ValueError as error:
            findings.fault("bad-row", path, f"{where}: {error}", place)
            continue
        yield entry


def _rows(path: Path) -> Iterator[tuple[int, Row | ValueError]]:
    """The rows of a file with their places. For a row that is wrong, an error says how."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from enumerate(_parquet(path)[0])
    elif suffix == ".csv":
        rows = read_csv(path, MAX_BYTES)
        _, header = next(rows, (0, []))
        for line, cells in rows:
            if len(cells) != len(header):
                yield line, ValueError(f"{len(cells)} cells, expected {len(header)}")
            else:
                yield line, dict(zip(header, cells, strict=True))
    else:
        for line, text in enumerate(read_text(path, MAX_BYTES).split("\n"), 1):
            if text.strip():
                yield line, _json(text)


def _json(text: str) -> Row | ValueError:
    try:
        row = json.loads(text)
    # ValueError: broken JSON, or integers of thousands of digits.
    except (ValueError, RecursionError) as error:
        return ValueError(f"not JSON: {error}")
    return row if isinstance(row, dict) else ValueError("not an object of names and values")


def _parquet(path: Path) -> tuple[list[Row], Any]:
    """The rows of a Parquet file with the columns that are used, and the description of the columns by `datasets`.

    Raises:
        ConfigError: if pyarrow is not installed.
        AnnotationError: if the file cannot be read or is too large.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: {missing_part(error) or error}") from None
    try:
        with parquet.ParquetFile(pyarrow.BufferReader(read_bytes(path, MAX_BYTES))) as file:
            about = file.metadata
            groups = [about.row_group(i) for i in range(about.num_row_groups)]
            chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
            if about.num_rows > MAX_ROWS or sum(chunk.num_values for chunk in chunks) > MAX_VALUES:
                raise AnnotationError(f"{path}: {about.num_rows} rows are more than the limit; split the file")
            said = json.loads((about.metadata or {}).get(b"huggingface", b"null"))
            wanted = {"objects", "width", "height", *_LISTS}
            names = [name for name in file.schema_arrow.names if name in wanted or _is_image_column(name)]
            rows = [row for batch in file.iter_batches(1024, columns=names) for row in batch.to_pylist()]
    except (pyarrow.ArrowException, OSError, ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: cannot be read as Parquet: {first_line(error)}") from None
    return rows, said


def _is_image_column(name: str) -> bool:
    return name == "file_name" or name.endswith("_file_name")


def _image_name(row: Row) -> str:
    names = ["file_name"] if "file_name" in row else [key for key in row if _is_image_column(key)]
    name = row[names[0]] if len(names) == 1 else None
    if not isinstance(name, str) or not name.strip():
        raise ValueError("no text 'file_name'")
    return name


def _size(row: Row) -> tuple[float, float] | None:
    """Height and width as given; None if they are missing or not numbers, as the image's header has them anyway."""
    try:
        height, width = number(row.get("height")), number(row.get("width"))
    except ValueError:
        return None
    return (height, width) if 0 < height < math.inf and 0 < width < math.inf else None


def _objects(row: Row, entry: Entry, findings: Findings) -> list[Object] | None:
    """The objects of a row; None if the row is not annotated.

    Raises:
        ValueError: if it is not clear which box has which class.
    """
    said = row.get("objects", row if "bbox" in row else None)
    said = _parsed(said)
    if said is None:
        return None
    if isinstance(said, dict):
        boxes = _parsed(said.get("bbox"))
        if boxes is None:
            return None
        if not isinstance(boxes, list):
            raise ValueError(f"'bbox' is {shown(boxes)}, not a list of boxes")
        own = {key: said[key] for key in _LISTS if said.get(key) is not None}  # not a list: about the whole image
        lists = {key: _parsed(value) for key, value in own.items() if isinstance(value, list) or str(value)[:1] == "["}
        used = {key: values for key, values in lists.items() if isinstance(values, list)} | {"bbox": boxes}
        for key, values in used.items():
            if len(values) != len(boxes):
                raise ValueError(f"{len(boxes)} boxes, but {len(values)} of '{key}'")
        said = [dict(zip(used, values, strict=True)) for values in zip(*used.values(), strict=True)]
    if not isinstance(said, list):
        raise ValueError(f"'objects' is {shown(said)}, neither an object of lists nor a list of objects")
    objects = []
    for index, item in enumerate(said):
        where = f"{entry.where}, object {index}"
        try:
            objects.append(_object(item, entry.place, where))
        except ValueError as error:
            findings.fault("bad-object", entry.file, f"{where}: {error}", entry.place)
    return objects


def _parsed(text: Any) -> Any:
    """The value of a text cell with JSON or Python values; None if it is empty. Other values stay as they are."""
    if not isinstance(text, str):
        return text
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(f"{shown(text)} is neither JSON nor Python's lists and objects") from None


def _object(item: Any, place: int, where: str) -> Object:
    if not isinstance(item, dict):
        raise ValueError("not an object of names and values")
    bbox = item.get("bbox")
    if not isinstance(bbox, (list, tuple)) or len(bbox) != 4:
        raise ValueError(f"'bbox' is {shown(bbox)}, not x, y, width, height")
    x, y, width, height = (_number(value) for value in bbox)
    corners: Corners = (x, y, x + width, y + height)
    key = next((key for key in _LABELS if item.get(key) is not None), None)
    if key is None:
        raise ValueError(f"no class: needs one of {', '.join(_LABELS)}")
    crowd = any(_flag(item.get(key)) for key in _CROWD)
    area = math.nan if item.get("area") is None else _number(item["area"])
    return Object(_label(item[key]), corners, place, where, _flag(item.get("difficult")), crowd, area)


def _number(value: Any) -> float:
    try:
        return number(value)
    except ValueError:
        raise ValueError(f"{shown(value)} is not a number") from None


def _flag(value: Any) -> bool:
    try:
        return bool(flag(value))
    except ValueError:
        raise ValueError(f"{shown(value)} is neither yes nor no") from None


def _label(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**31:
        raise ValueError(f"class {shown(value)} is neither a name nor a number from 0")
    return str(number)


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdecimal() and len(label) < 11


def _called(label: str, names: Sequence[str]) -> str:
    """The name of a class that is given by its name or its number."""
    if label not in names and _is_number(label) and int(label) < len(names):
        return names[int(label)]
    return label


def _card(path: Path) -> Any:
    """The metadata at the head of a data set's card; None if there is none that can be read."""
    head = _CARD.match(sniff(path, _MAX_CARD))
    try:
        return yaml.safe_load(head[1]) if head else None
    # PyYAML lets errors of its conversions through: bad dates, keys that cannot be hashed, and the like.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None  # the card is not written for us, so a fault in it does not matter


def _labels_in(content: Any, where: str) -> tuple[str, ...] | None:
    """The class names in a description of the columns; None if it gives none or several lists.

    Below the column, a card has `class_label: {names: {'0': cat}}`, a Parquet file `{names: [cat], _type: ClassLabel}`.
    """
    found: dict[bool, dict[tuple[str, ...], None]] = {True: {}, False: {}}  # True: below `objects`
    seen: set[int] = set()

    def walk(node: Any, within: frozenset[str]) -> None:
        if not isinstance(node, (dict, list)) or id(node) in seen:  # aliases in YAML may multiply or form circles
            return
        seen.add(id(node))
        if isinstance(node, dict):
            within |= {str(node.get("name"))}
            label = node if node.get("_type") == "ClassLabel" else node.get("class_label")
            names = label.get("names") if isinstance(label, dict) and not within.isdisjoint(_LABELS) else None
            listed = [names[key] for key in sorted(names, key=_as_int)] if isinstance(names, dict) else names
            if isinstance(listed, list) and listed and all(isinstance(name, (str, int, float)) for name in listed):
                found["objects" in within][tuple(str(name).strip() for name in listed)] = None
        for key, inner in node.items() if isinstance(node, dict) else enumerate(node):
            walk(inner, within | {str(key)})

    try:
        walk(content, frozenset())
    except RecursionError:
        return None
    named = found[True] or found[False]
    if len(named) != 1:
        return None
    names = next(iter(named))
    check_names(names, where)
    return names


def _as_int(key: Any) -> int:
    return int(key) if isinstance(key, int) or (isinstance(key, str) and _is_number(key)) else -1


FORMAT = Format(
    recognize,
    is_annotation,
    looked_for="Hugging Face's metadata.jsonl, metadata.csv or metadata.parquet, with file_name and objects",
    aside=True,
)
