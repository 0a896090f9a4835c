"""Reads the parts of annotations: text in any Unicode encoding, JSON, XML, CSV, numbers, flags and ids."""

from __future__ import annotations

import csv
import io
import json
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from grcn.errors import AnnotationError

MAX_TEXT = 2**26  # bytes of a list, label or XML file; the largest real ones have a hundredth of that

Id = int | float | str

_QUOTE = reprlib.Repr()
_QUOTE.maxlevel = 2  # YAML's aliases multiply at deeper levels


def read_bytes(path: Path, limit: int = MAX_TEXT) -> bytes:
    """A file's bytes.

    Raises:
        AnnotationError: if it cannot be read or is larger than `limit`.
    """
    try:
        if not path.is_file():
            raise AnnotationError(f"{path}: not a file")
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > limit:
        raise AnnotationError(f"{path}: larger than {limit} bytes")
    return data


def read_start(path: Path, size: int) -> bytes:
    """The first bytes of a file; empty if it cannot be read."""
    try:
        if path.is_file():  # opening a pipe would wait forever
            with open(path, "rb") as file:
                return file.read(size)
    except OSError:
        pass
    return b""


def sniff(path: Path, size: int) -> str:
    """The beginning of a text file in any encoding, without leading white space; empty if it cannot be read."""
    start = read_start(path, size)
    return start.decode(json.detect_encoding(start), "ignore").lstrip()


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """Reads a text file in UTF-8, UTF-16 or UTF-32, as told by its byte-order mark or its first characters.

    Raises:
        AnnotationError: if it cannot be read or is none of these.
    """
    data = read_bytes(path, limit)
    try:
        return data.decode(json.detect_encoding(data))
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{path}: not {error.encoding.upper()} text at byte {error.start}; save it as UTF-8"
        ) from None


def read_lines(path: Path) -> list[str]:
    """A text file's lines, stripped; empty ones are kept, so that index + 1 is the line's number.

    Raises:
        AnnotationError: as `read_text`.
    """
    return [line.strip() for line in read_text(path).split("\n")]


def read_json(path: Path, kind: type, expected: str, limit: int) -> Any:
    """A JSON file's content.

    Args:
        kind: the type that it must have, dict or list; expected: the name of that type in errors.

    Raises:
        AnnotationError: if it cannot be read or is something else.
    """
    try:
        content = json.loads(read_bytes(path, limit))
    # ValueError: broken JSON, text that is not Unicode, or integers of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, kind):
        raise AnnotationError(f"{path}: a JSON {type(content).__name__}, expected {expected}")
    return content


def read_xml(path: Path, root: str, limit: int = MAX_TEXT) -> Element:
    """An XML file's root element.

    Args:
        root: its name.

    Raises:
        AnnotationError: if it cannot be read, is not XML with that root, or declares entities or a DTD.
    """
    try:
        element: Element = defusedxml.ElementTree.fromstring(read_bytes(path, limit))
    except DefusedXmlException as error:
        what = "declares entities, which are not expanded" if "Entit" in type(error).__name__ else "refers to a DTD"
        raise AnnotationError(f"{path}: {what}; remove the declaration") from None
    # expat reports its own errors as ParseError and unknown encodings as ValueError or LookupError.
    except (ParseError, ValueError, LookupError) as error:
        raise AnnotationError(f"{path}: not well-formed XML: {error}") from None
    if element.tag != root:
        raise AnnotationError(f"{path}: root element <{element.tag}>, expected <{root}>")
    return element


def read_csv(path: Path, limit: int, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, as stripped cells, each with its line number from 1.

    Raises:
        AnnotationError: as in `read_text`, or if the file breaks the rules of CSV.
    """
    if path.is_file() and path.stat().st_size > limit:
        raise AnnotationError(f"{path}: larger than {limit} bytes; keep only the rows of photos that you have")
    reader = csv.reader(io.StringIO(read_text(path, limit), newline=""), delimiter=delimiter)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells) and not (reader.line_num == 1 and is_csv_hint(cells[0])):
                yield reader.line_num, cells
    except csv.Error as error:
        raise AnnotationError(f"{path}: line {reader.line_num}: {error}") from None


def is_csv_hint(line: str) -> bool:
    """Whether the first line of a CSV file names the separator, as Excel writes it, instead of being a row."""
    return line.strip().lower().startswith("sep=")


def number(text: object) -> float:
    """A number from an annotation, NaN and infinity included.

    Raises:
        ValueError: for anything else.

    >>> number(" 12.50"), number("1e3")
    (12.5, 1000.0)
    """
    if type(text) is float:  # true for nearly all of the millions of numbers in a COCO file
        return text
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ValueError("not a number")
    if isinstance(text, str) and ("_" in text or not text.isascii()):
        raise ValueError("not a number")  # float() would accept 1_000 and the digits of any script
    try:
        return float(text)
    except OverflowError:
        return float("inf")


def flag(value: object) -> bool | None:
    """Reads yes or no from an annotation: a number, a JSON boolean or a word; None if it is unspecified.

    Raises:
        ValueError: for anything else.

    >>> flag("1"), flag(False), flag("True"), flag("Unspecified"), flag(None)
    (True, False, True, None, None)
    """
    if value is None or isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if isinstance(value, str) and word in ("", "unspecified", "unknown", "none", "null"):
        return None
    return word in ("true", "yes") if word in ("true", "yes", "false", "no") else number(value) != 0


def as_id(value: Any) -> int | str | None:
    """An id as COCO files have them, integers or text; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def by_id(ids: Iterable[tuple[Id, int]]) -> dict[Id, int]:
    """Places by id. An id that is text also counts as a number, and the reverse, unless two places then share it.

    >>> by_id([("7", 0), (8, 1)])
    {7: 0, '8': 1, '7': 0, 8: 1}
    """
    own = list(ids)
    others = [(other, place) for key, place in own if (other := _other(key)) is not None]
    return {**unshared(others), **unshared(own)}


def _other(key: Id) -> Id | None:
    if isinstance(key, str):
        return int(key) if key.isdecimal() and key.isascii() and len(key) < 20 else None
    return str(key) if isinstance(key, int) else None


def unshared(ids: Iterable[tuple[Id, int]]) -> dict[Id, int]:
    """Places by id, without ids that several places share."""
    places: dict[Id, set[int]] = {}
    for key, place in ids:
        places.setdefault(key, set()).add(place)
    return {key: one.pop() for key, one in places.items() if len(one) == 1}


def listed(names: Sequence[str], most: int, hint: str = "") -> str:
    """The first `most` names, separated by commas, and the number of the others.

    >>> listed(["a", "b", "c"], 2, "--json lists all"), listed(["a", "b"], 2)
    ('a, b and 1 more (--json lists all)', 'a, b')
    """
    return f"{', '.join(names[:most])} {and_more(len(names) - most, hint)}".rstrip()


def and_more(count: int, hint: str = "") -> str:
    """The end of a list that is cut short: `and 3 more`, with a hint in brackets; empty if nothing is left out."""
    return f"and {count} more" + (f" ({hint})" if hint else "") if count > 0 else ""


def shown(value: object) -> str:
    """A value from an annotation, shortened for an error message.

    >>> shown([1, 2, 3]), shown("a" * 100)
    ('[1, 2, 3]', "'aaaaaaaaaaaa...aaaaaaaaaaaaa'")
    """
    text = _QUOTE.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
