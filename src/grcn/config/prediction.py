"""How `grcn predict` looks at a photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from grcn.config.fields import Bounds, Side, check_fields


@dataclass(frozen=True)
class Tiles:
    """How a photo is cut into tiles that are detected one by one, and merged (`grcn.predict.tiles`).

    Args:
        size: side of a tile, in the photo's pixels. Objects should look as large in it as in training: where the photos
            there were no larger than the network's input, and show objects of as many pixels, their shorter side.
            None: the shorter side that the network sees; of a file exported for one size, that size.
        overlap: the share of a tile that the next one shows, too. What is no larger lies whole in one of them.
    """

    size: Side | None = None
    overlap: Annotated[float, Bounds(ge=0.05, le=0.5)] = 0.2

    def __post_init__(self) -> None:
        check_fields(self)
