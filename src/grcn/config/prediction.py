"""How `grcn predict` cuts a photo into tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from grcn.config.fields import Bounds, Side, check_fields


@dataclass(frozen=True)
class Tiles:
    """How a photo is cut into tiles. Objects are detected tile by tile and merged (`grcn.predict.tiles`).

    Args:
        size: side of a tile, in pixels of the photo. Objects should look as large in a tile as in training. If the
            training photos were no larger than the network's input and their objects have as many pixels as those here,
            use the shorter side of the training photos. None: the shorter side of the network's input, or the only size
            that an exported file accepts.
        overlap: the share of a tile that the next tile shows again. An object that is no larger than the overlap lies
            completely in one of the tiles.
    """

    size: Side | None = None
    overlap: Annotated[float, Bounds(ge=0.05, le=0.5)] = 0.2

    def __post_init__(self) -> None:
        check_fields(self)
