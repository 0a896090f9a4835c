"""The header of a detector's file, as JSON under the key `grcn`: the same in weights and in exported files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grcn.config import DetectorConfig, from_saved, to_dict
from grcn.errors import CheckpointError, first_line
from grcn.types import duplicate

KEY, FORMAT = "grcn", "grcn-1"


@dataclass(frozen=True)
class Header:
    """What a detector needs besides the weights of its network.

    Args:
        config: the configuration, with input size and thresholds; class_names: the names by class id.
        preset: the name of the configuration that it was made from; extra: JSON values, such as metrics.
    """

    config: DetectorConfig
    class_names: tuple[str, ...]
    preset: str
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        content = {
            "format": FORMAT,
            "preset": self.preset,
            "class_names": list(self.class_names),
            "config": to_dict(self.config),
            "extra": self.extra,
        }
        return json.dumps(content)


def read_header(path: str | Path, metadata: Mapping[str, str]) -> Header:
    """Reads the header from the metadata of a file.

    Raises:
        CheckpointError: if there is no header, or it is not that of a detector; it names `path`.
    """
    try:
        header = json.loads(metadata[KEY])
        version, names, preset, extra = (header[key] for key in ("format", "class_names", "preset", "extra"))
        plain = header["config"]
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not a grcn detector: its header lacks {first_line(error)}, or it is damaged there"
        ) from None
    if version != FORMAT:
        raise CheckpointError(f"{path}: format {version!r}, this version reads {FORMAT!r}")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in [*names, preset]):
        raise CheckpointError(
            f"{path}: not a grcn detector: the preset or the class names in its header are missing or not text"
        )
    if twice := duplicate(names):
        raise CheckpointError(
            f"{path}: class '{twice}' is named twice in its header; train again on classes with different names"
        )
    if not isinstance(extra, dict):
        raise CheckpointError(f"{path}: not a grcn detector: 'extra' in its header is not an object of keys and values")
    config = from_saved(DetectorConfig, plain, path)
    if config.norm == "auto":
        raise CheckpointError(f"{path}: norm 'auto' in its header; a saved detector has one of the others")
    return Header(config, tuple(names), preset, extra)
