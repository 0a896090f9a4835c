"""CSV: one row per box, with the columns of several tools. They are recognized by the header or the first row.

| tool | columns | corners |
|---|---|---|
| TensorFlow's guides, Roboflow | `filename,width,height,class,xmin,ymin,xmax,ymax` | pixels |
| keras-retinanet | no header: path, x1, y1, x2, y2, class; no object: `path,,,,,` | pixels |
| Open Images | `ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,...` | fractions of sides |
| Google AutoML, Vertex AI | no header: set, address, label, x, y, x, y, x, y, x, y; or no set | fractions of sides |

The columns of a header may have any order and spelling (`x_min`, `XMin`, `x1`). An image, a class and four corners are
required. `width` and `height` of the image, `difficult`, `iscrowd` or `IsGroupOf` (a crowd) and `split` are used if
they are there; other columns are ignored. Corners are half-open, because the tools that train on these files read them
so. Columns are separated by commas, semicolons (then numbers may have decimal commas) or tabs.

A row with neither class nor corners is an image without objects. A box of AutoML has two opposite vertices, with the
other cells empty, or four vertices. A rotated box becomes the upright box around it, and is counted.

Layouts that are read: tables in the folder, in `annotations`, `labels` or the like, or in folders that are named for
splits. The first of these that is there gives the splits:

- the rows (AutoML's sets; rows in no set are `train`)
- the name of the file (`train_labels.csv`, `validation-annotations-bbox.csv`)
- the folders of the images, if all images are in folders that are named for splits

Otherwise everything is `train`. Images are in `images`, in a folder of the split, or beside the table. They are found
by the ends of their names, which may lack the suffix.

Classes come from `classes.txt` or from keras-retinanet's list (rows of `name,id`); otherwise they are sorted by name
over all tables. Open Images' `class-descriptions*.csv` (with FiftyOne: `metadata/classes.csv`) has the names of its
labels.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from grcn.data.boxes import LARGEST
from grcn.data.files import (
    ImageFinder,
    Root,
    check_names,
    image_folders,
    named_split,
    read_class_list,
    split_kind,
)
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
from grcn.data.image import SUFFIXES, UNREAD_SUFFIXES
from grcn.data.records import Findings
from grcn.data.text import flag, is_csv_hint, number, read_csv, shown, sniff
from grcn.errors import AnnotationError

MAX_CSV = 2**27  # bytes; a box takes about 100

_SNIFF = 2**16  # bytes within which the first row must end
_DELIMITERS = ",;\t"
_TABLES = ("annotations", "annotation", "labels", "label", "csv", "data")  # folders in which tables may lie
_NAMING = ("metadata", "annotations", "labels")  # folders that may have the names of Open Images' labels
_LISTING = re.compile(r"class|label|categor|mapping|names")  # occurs in the name of a file that lists classes
_LABEL_ID = re.compile(r"/[a-z]/\w+$")  # a label in Open Images
_SETS = ("train", "training", "validation", "validate", "test", "unassigned", "")

# Names of columns, reduced to lower-case letters and digits.
_IMAGE = ("filename", "imageid", "imagename", "imagepath", "filepath", "image", "path", "file", "img", "frame")
_LABEL = ("class", "classname", "label", "labelname", "category", "categoryname")
_CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))
_SIZE = (("height", "width"), ("imageheight", "imagewidth"), ("imgheight", "imgwidth"))
_CROWD = ("iscrowd", "isgroupof")
_SPLIT = ("split", "set", "subset", "mluse")


class _Columns(NamedTuple):
    """The columns of a table, by their index in a row.

    Args:
        cells: number of cells in a row.
        corners: xyxy, or x and y of four vertices.
        fractions: whether corners are fractions of the image's sides.
        size: height and width.
        header: whether the first row is a header.
        open_images: whether another file may give the names of the labels.
    """

    cells: int
    image: int
    label: int
    corners: tuple[int, ...]
    fractions: bool = False
    size: tuple[int, ...] | None = None
    difficult: int | None = None
    crowd: int | None = None
    split: int | None = None
    header: bool = True
    open_images: bool = False


_RETINANET = _Columns(6, 0, 5, (1, 2, 3, 4), header=False)
_AUTOML = _Columns(11, 1, 2, tuple(range(3, 11)), fractions=True, split=0, header=False)


@dataclass(frozen=True)
class _Table:
    """A file with boxes, how its rows are read, and their common split; None: the rows or image folders say it."""

    path: Path
    delimiter: str
    columns: _Columns
    split: str | None = None


class _Row(NamedTuple):
    """One row: its line, the names of its split and its image, the image's size, and the object if there is one."""

    line: int
    split: str
    image: str
    size: tuple[float, float] | None
    object: Object | None


@dataclass(frozen=True)
class TableLayout:
    """A folder with tables: the root, the folder in it, and each split's tables and folders of images."""

    root: Root
    folder: Path
    splits: dict[str, tuple[tuple[_Table, ...], tuple[Path, ...]]]

    def open(self, split: str, class_names: Sequence[str] | None, findings: Findings) -> Opened:
        """Reads one split. Images are in the order in which the tables first name them."""
        tables, folders = self.splits[split]
        findings.files.update(table.path for table in tables)
        called = self._called(findings)
        entries = [entry for table in tables for entry in _entries(table, split, called, findings)]
        names = tuple(class_names) if class_names is not None else self._names(called, findings)
        find = finding(ImageFinder(self.root, folders), findings)
        annotated, mentioned = read_entries(entries, find, self.folder, findings)
        if len(self.splits) == 1:
            note_unmentioned(self.root, annotated, mentioned, "row", findings)
        return Opened(names, findings.records(annotated, names))

    def _names(self, called: Mapping[str, str], findings: Findings) -> tuple[str, ...]:
        """The classes, the same for every split."""
        own = read_class_list(self.root, self._places())
        if own is None:
            lists = [path for path in self._pairs(self._places()) if _LISTING.search(path.stem.lower())]
            own = _listed_names(lists, findings)
        if own is None:
            # Faults in the rows of other splits are reported when those are opened.
            unsaid = Findings(self.root.path, "collect")
            own = label_names(entry for table in self._all() for entry in _entries(table, None, called, unsaid))
        return own

    def _called(self, findings: Findings) -> dict[str, str]:
        """The names of Open Images' labels; empty if no file gives them."""
        if not any(table.columns.open_images for table in self._all()):
            return {}
        outer = self._places()
        inner = [place for folder in outer for name in _NAMING if (place := self.root.folder(folder, name))]
        called: dict[str, str] = {}
        for path in self._pairs(dict.fromkeys([*outer, *inner])):
            own = {
                cells[0]: cells[1]
                for _, cells in read_csv(path, MAX_CSV)
                if len(cells) == 2 and _LABEL_ID.match(cells[0])
            }
            if own:
                findings.files.add(path)
            called = own | called
        return called

    def _all(self) -> dict[_Table, None]:
        return dict.fromkeys(table for tables, _ in self.splits.values() for table in tables)

    def _places(self) -> list[Path]:
        """The folders of the tables and the parents of these folders."""
        return list(dict.fromkeys(place for table in self._all() for place in self.root.upwards(table.path.parent)))

    def _pairs(self, places: Iterable[Path]) -> list[Path]:
        """The files with two columns in the folders."""
        files = [path for place in places for path in self.root.files(place, ".csv")]
        return [path for path in files if len(_first(path, ",")) == 2]


def recognize(root: Root, folder: Path) -> TableLayout | None:
    """The layout of a folder, or None if it holds no table. Reads a whole table if only its rows say the splits."""
    tables = _tables(root, folder)
    splits: dict[str, tuple[dict[_Table, None], dict[Path, None]]] = {}

    def add(split: str, table: _Table, places: Sequence[Path]) -> None:
        some, folders = splits.setdefault(split, ({}, {}))
        some[table] = None
        folders |= dict.fromkeys((*places, table.path.parent))

    for table in tables:
        own = None
        if table.columns.split is not None or named_split(table.path.stem) is None:
            own = _splits(table, list(_read(table, Findings(root.path, "collect"))))
        if own is None:
            alone = "train" if len(tables) == 1 else table.path.stem
            table = replace(table, split=named_split(table.path.stem) or alone)
        for split in dict.fromkeys(own or [table.split or "train"]):
            add(split, table, image_folders(root, folder, split))
    for inner in [] if tables else root.subfolders(folder):
        if split_kind(inner.name):
            near = (*image_folders(root, inner, inner.name), *image_folders(root, folder, inner.name))
            for table in _tables(root, root.guarded(inner)):
                add(inner.name, replace(table, split=inner.name), near)
    found = {name: (tuple(some), tuple(folders)) for name, (some, folders) in splits.items()}
    return TableLayout(root, folder, found) if found else None


def is_annotation(path: Path) -> bool:
    """Whether a file is a table of boxes, judged by its first row."""
    return path.suffix.lower() == ".csv" and _table(path) is not None


def _tables(root: Root, folder: Path) -> list[_Table]:
    """The tables in a folder or, if it has none, in the first of its subfolders for tables that has any."""
    inner = (place for name in _TABLES if (place := root.folder(folder, name)))
    for place in (folder, *inner):
        if found := [table for path in root.files(place, ".csv") if (table := _table(path))]:
            return found
    return []


def _table(path: Path) -> _Table | None:
    """How a file is read, judged by its first row; None if it is not a table of boxes."""
    for delimiter in _DELIMITERS:
        if columns := _columns(_first(path, delimiter)):
            return _Table(path, delimiter, columns)
    return None


def _first(path: Path, delimiter: str) -> list[str]:
    """The cells of a file's first row, of which only the beginning is read; empty if that is not a row."""
    lines = [line for line in sniff(path, _SNIFF).splitlines()[:3] if line.strip() and not is_csv_hint(line)]
    try:
        return [cell.strip() for cell in next(csv.reader(lines[:1], delimiter=delimiter))]
    except (csv.Error, StopIteration):
        return []


def _columns(cells: list[str]) -> _Columns | None:
    """The columns of a table, judged by its first row; None if it is not a table of boxes."""
    if columns := _named_columns(cells):
        return columns
    is_retinanet = len(cells) == _RETINANET.cells and _is_image(cells[0])
    if is_retinanet and (not any(cells[1:]) or all(_is_number(cell) for cell in cells[1:5])):
        return _RETINANET
    row = _automl(cells)
    address = row[1] if len(row) > 1 else ""
    return _AUTOML if _is_image(address) and (len(row) == _AUTOML.cells or "://" in address) else None


def _named_columns(cells: list[str]) -> _Columns | None:
    at = {re.sub(r"[\W_]+", "", cell).lower(): i for i, cell in reversed(list(enumerate(cells)))}

    def one(names: Sequence[str]) -> int | None:
        return next((at[name] for name in names if name in at), None)

    def some(groups: Sequence[tuple[str, ...]]) -> tuple[int, ...] | None:
        return next((tuple(at[name] for name in names) for names in groups if all(name in at for name in names)), None)

    image, label, corners, split = one(_IMAGE), one(_LABEL), some(_CORNERS), one(_SPLIT)
    if image is None or label is None or corners is None:
        return None
    if len(cells) == _AUTOML.cells and (split, image, label) == (0, 1, 2):
        return _AUTOML._replace(header=True)
    open_images = at.get("imageid") == image and at.get("labelname") == label
    size, difficult, crowd = some(_SIZE), at.get("difficult"), one(_CROWD)
    return _Columns(len(cells), image, label, corners, open_images, size, difficult, crowd, split, True, open_images)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES | UNREAD_SUFFIXES


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(number(text.replace(",", ".")))
    except ValueError:
        return False


def _automl(cells: list[str]) -> list[str]:
    """A row of AutoML with its first cell, the set, which may be missing in Vertex AI."""
    return cells if cells[:1] and cells[0].lower() in _SETS else ["", *cells]


def _read(table: _Table, findings: Findings) -> Iterator[_Row]:
    """The rows of a table. Rows that are wrong go to the findings."""
    rows = read_csv(table.path, MAX_CSV, table.delimiter)
    if table.columns.header:
        next(rows, None)
    for line, cells in rows:
        try:
            row, turned = _row(line, cells, table)
        except ValueError as error:
            findings.fault("bad-object", table.path, f"line {line}: {error}", line)
            continue
        if turned and row.object:
            message = f"line {line} ('{row.object.label}'): rotated: the upright box around it is used"
            findings.note("box-turned", table.path, message, line)
        yield row


def _splits(table: _Table, rows: Sequence[_Row]) -> list[str] | None:
    """The split of each row of a table; None if neither the rows nor the folders of the images say it."""
    if table.split is not None:
        return [table.split] * len(rows)
    if any(row.split for row in rows):
        return [row.split or "train" for row in rows]
    return divided([row.image for row in rows])


def _entries(table: _Table, split: str | None, called: Mapping[str, str], findings: Findings) -> list[Entry]:
    """The entries of a table for the images of a split; None: for all images."""
    entries: dict[str, Entry] = {}
    rows = list(_read(table, findings))
    for row, own in zip(rows, _splits(table, rows) or [], strict=True):
        if split not in (None, own):
            continue
        entry = entries.get(row.image)
        if entry is None:
            where, fractions = f"line {row.line}", table.columns.fractions
            entry = Entry(row.image, table.path, row.line, where, row.size, fractions=fractions)
            entries[row.image] = entry
        elif row.size != entry.size:
            message = f"line {row.line}: the size of the image is not that in {entry.where}"
            findings.fault("bad-object", table.path, message, row.line)
            continue
        if row.object and entry.objects is not None:
            entry.objects.append(row.object._replace(label=called.get(row.object.label, row.object.label)))
    return list(entries.values())


def _row(line: int, cells: list[str], table: _Table) -> tuple[_Row, bool]:
    """One row, and whether its box is rotated.

    Raises:
        ValueError: if the row is wrong; the message says how.
    """
    columns = table.columns
    if columns.split == 0 and columns.cells == _AUTOML.cells and cells[0].lower() not in _SETS:
        if not _is_image(cells[0]):
            raise ValueError(f"{shown(cells[0])} is not one of TRAIN, VALIDATION, TEST and UNASSIGNED")
        cells = ["", *cells]
    if any(cells[columns.cells :]):
        raise ValueError(
            f"{len(cells)} cells, expected {columns.cells}; put names that hold a '{table.delimiter}' in quotes"
        )
    cells = cells + [""] * (columns.cells - len(cells))
    image, label = cells[columns.image], cells[columns.label]
    if not image:
        raise ValueError("no image name")
    split = cells[columns.split].lower() if columns.split is not None else ""
    split = "" if split == "unassigned" else split_kind(split) or split
    size = _size(cells, columns)
    corners = [cells[i] for i in columns.corners]
    if all(cell.lower() in ("", "nan") for cell in (label, *corners)):  # pandas writes either
        return _Row(line, split, image, size, None), False
    if not label:
        raise ValueError("no class")
    xyxy, turned = _corners(corners, table)
    flags = [_flag(cells[i]) if i is not None else False for i in (columns.difficult, columns.crowd)]
    return _Row(line, split, image, size, Object(label, xyxy, line, f"line {line}", *flags)), turned


def _corners(cells: list[str], table: _Table) -> tuple[Corners, bool]:
    """A box, and whether it is rotated."""
    is_vertices = len(cells) == 8
    given = (
        [cells[i : i + 2] for i in range(0, 8, 2) if any(cells[i : i + 2])] if is_vertices else [cells[:2], cells[2:]]
    )
    if len(given) not in (2, 4):
        raise ValueError(f"{len(given)} vertices, expected 2 or 4")
    points = [(_number(x, table), _number(y, table)) for x, y in given]
    (x1, y1), (x2, y2) = points[0], points[-1]
    turned = False
    if is_vertices:
        xs, ys = zip(*points, strict=True)
        known = not any(math.isnan(v) for v in (*xs, *ys))  # min and max may skip NaN
        x1, y1, x2, y2 = (min(xs), min(ys), max(xs), max(ys)) if known else (math.nan,) * 4
        turned = max(len({round(v, 6) for v in vs}) for vs in (xs, ys)) > 2
    if table.columns.fractions:
        stray = next((v for v in (x1, y1, x2, y2) if not -1 <= v <= 2 and abs(v) <= LARGEST), None)
        if stray is not None:
            raise ValueError(f"{stray:g} is not a fraction of the image side (0 to 1); are these pixels?")
    return (x1, y1, x2, y2), turned


def _number(cell: str, table: _Table) -> float:
    if not cell:
        raise ValueError("a corner is missing")
    try:
        return number(cell if table.delimiter == "," else cell.replace(",", "."))
    except ValueError:
        raise ValueError(f"{shown(cell)} is not a number") from None


def _size(cells: list[str], columns: _Columns) -> tuple[float, float] | None:
    """Height and width as given; None if they are missing, zero or not numbers, as the image's header has them."""
    try:
        height, width = (number(cells[i]) for i in columns.size or ())
    except ValueError:
        return None
    return (height, width) if 0 < height < math.inf and 0 < width < math.inf else None


def _flag(cell: str) -> bool:
    try:
        return cell != "-1" and bool(flag(cell))  # -1 is Open Images' word for unknown
    except ValueError:
        raise ValueError(f"{shown(cell)} is neither yes nor no") from None


def _listed_names(paths: Sequence[Path], findings: Findings) -> tuple[str, ...] | None:
    """The classes in keras-retinanet's list (rows of `name,id`), by id; None if no file is such a list.

    Raises:
        AnnotationError: if several files are, or if an id or a name occurs twice.
    """
    lists = {}
    for path in paths:
        rows = [cells for _, cells in read_csv(path, MAX_CSV)]
        rows = rows[len(rows) > 1 and not rows[0][-1].isdecimal() :]  # a header
        if all(len(row) == 2 and row[1].isascii() and row[1].isdecimal() and len(row[1]) < 10 for row in rows):
            lists[path] = {int(key): name for name, key in rows}
            if len(lists[path]) < len(rows):
                raise AnnotationError(f"{path}: two classes have the same number")
    if len(lists) > 1:
        raise AnnotationError(f"{' and '.join(map(str, lists))} each list classes; keep one")
    for path, listed in lists.items():
        findings.files.add(path)
        names = tuple(listed[key] for key in sorted(listed))
        check_names(names, str(path))
        return names
    return None


FORMAT = Format(
    recognize,
    is_annotation,
    looked_for="*.csv with the columns image, class, xmin, ymin, xmax, ymax, or those of AutoML or keras-retinanet",
    aside=True,
)
