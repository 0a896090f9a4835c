"""The values that fields of a configuration accept, and configurations as plain values.

The type of a field says which values it accepts: choices, `Bounds`, or free text. `check_fields` checks this for every
configuration, whether it comes from a file, the command line or Python.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from grcn.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Bounds:
    """The finite numbers that a field accepts: `ge` at least, `gt` above, `le` at most, `lt` below.

    For a list, they bound its length. Errors have the text of the bounds after "needs".
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, number: float) -> bool:
        return (
            -math.inf < number < math.inf
            and (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
        )

    def __repr__(self) -> str:
        low = f"{self.ge:,}" if self.ge is not None else f"above {self.gt:,}"
        if self.le is not None:
            return f"{low} to {self.le:,}"
        if self.lt is not None:
            return f"{low} to below {self.lt:,}"
        return f"{low} or more" if self.ge is not None else low


FREE_TEXT = "free text"
Text = Annotated[str, FREE_TEXT]
Share = Annotated[float, Bounds(ge=0, le=1)]
PositiveShare = Annotated[float, Bounds(gt=0, le=1)]
Positive = Annotated[float, Bounds(gt=0)]
NotNegative = Annotated[float, Bounds(ge=0)]
Factor = Annotated[float, Bounds(gt=0, le=10)]
Decay = Annotated[float, Bounds(ge=0, lt=1)]
Count = Annotated[int, Bounds(ge=1, le=1_000_000)]
Side = Annotated[int, Bounds(ge=32, le=1_000_000)]
Iterations = Annotated[int, Bounds(ge=0, le=1_000_000_000)]
Machines = Annotated[int, Bounds(ge=1, le=10_000)]

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dicts, lists and scalars, for YAML and JSON."""
    plain: dict[str, Any] = _plain(asdict(config))
    return plain


def non_defaults(config: Any, usual: Any = None) -> dict[str, Any]:
    """`to_dict` without the fields that are at their default, also in its parts.

    This identifies a configuration across versions: a field that is added later, with a default, does not change it.

    Args:
        usual: a configuration of the same class whose values count as defaults; None: the defaults of the class.
    """
    kept: dict[str, Any] = {}
    for each in fields(config):
        value = getattr(config, each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if usual is not None:
            default = getattr(usual, each.name)
        if value != default:
            part = default if type(default) is type(value) else None
            kept[each.name] = non_defaults(value, part) if is_dataclass(value) else _plain(value)
    return kept


def differences(saved: Any, now: Any, where: str = "") -> list[str]:
    """The differences between two configurations as plain values, such as `model.cls_stride 16 -> 8`.

    Only fields that both have are compared.
    """
    if isinstance(saved, dict) and isinstance(now, dict):
        inside = ((key, f"{where}.{key}".lstrip(".")) for key in saved if key in now)
        return [told for key, name in inside for told in differences(saved[key], now[key], name)]
    return [] if saved == now else [f"{where} {_short(saved)} -> {_short(now)}"]


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The keys and values of both. Those of `over` take precedence. Mappings inside are merged in the same way."""
    both = dict(under)
    for key, value in over.items():
        within = isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = merged(both[key], value) if within else value
    return both


def from_dict(kind: type[T], values: Any, where: str = "") -> T:
    """The inverse of `to_dict`. Missing fields get their defaults.

    Raises:
        ConfigError: on an unknown key (it names the nearest known one) or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where.rstrip('.') or kind.__name__}: expected keys and values, found {_shown(values)}")
    hints = _hints(kind)
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"; did you mean '{where}{near[0]}'?" if near else ""
            raise ConfigError(f"unknown key {f'{where}{key}'!r}{hint}")  # !r: it may hold a line break
    known = {key: _coerce(hints[key], value, f"{where}{key}") for key, value in values.items()}
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in known]:
        raise ConfigError(f"{where.rstrip('.') or kind.__name__}: '{missing[0]}' is missing")
    try:
        return kind(**known)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None


def check_fields(config: Any) -> None:
    """Checks each field of a configuration against its type; for `__post_init__`.

    Where a float is expected, a whole number becomes a float; where a tuple is expected, a list becomes a tuple.

    Raises:
        ConfigError: if a field does not accept its value; it names the field, the value and what the field accepts.
    """
    for name, hint in _hints(type(config)).items():
        object.__setattr__(config, name, _coerce(hint, getattr(config, name), name))


_hints: Callable[..., dict[str, Any]] = cache(partial(get_type_hints, include_extras=True))


def from_saved(kind: type[T], values: Any, path: str | Path) -> T:
    """`from_dict` for values that this or another version of grcn wrote.

    Raises:
        CheckpointError: if this version does not accept a key or its value; it names the file and the key.
    """
    try:
        return from_dict(kind, values)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}; if another version of grcn wrote it, use that version") from None


def _coerce(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, f"{where}.")  # type: ignore[arg-type]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = _coerce(arguments[0], value, where)
        for bounds in arguments[1:]:
            if isinstance(bounds, Bounds) and (len(value) if isinstance(value, tuple) else value) not in bounds:
                values = " values" if isinstance(value, tuple) else ""
                raise ConfigError(f"{where} {_shown(value)}: needs {bounds}{values}")
        return value
    if origin is Literal:
        if value in arguments and any(type(value) is type(a) and value == a for a in arguments):
            return value
        raise ConfigError(f"{where}: {_shown(value)} is not one of {', '.join(map(str, arguments))}")
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _coerce(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, found {_shown(value)}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise ConfigError(f"{where}: expected {len(kinds)} values, found {len(value)}")
        return tuple(_coerce(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: the number is too large") from None
    if type(value) is not hint:
        raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value in one line of limited length."""
    try:
        text = " ".join(repr(list(value) if isinstance(value, tuple) else value).split())
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a number too large to print"
    return text if len(text) <= 100 else f"{text[:97]}..."
