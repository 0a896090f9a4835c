"""The lowest score of a detection that is shown, and the limits of the HTTP service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from grcn.config.fields import Bounds, Count, Positive, check_fields

ScoreChoice = Literal["best", "precise"]
Score = float | ScoreChoice
"""The lowest score of a detection that is shown. A number holds for all classes. `best` and `precise` stand for the
thresholds that `grcn.thresholds` chose for each class: those of the best F1, or of a wanted precision."""


@dataclass(frozen=True)
class ServeLimits:
    """The limits of one `grcn serve`.

    Besides the network, the service needs at most about `max_requests * max_bytes` bytes for files and
    `3 * max_batch * max_pixels` bytes for decoded photos.

    Args:
        max_batch: photos that are decoded and predicted together.
        max_requests: requests at a time, whether arriving, waiting or in prediction; further ones get status 503.
        max_connections: open connections at a time; requests on further ones get status 503.
        max_bytes: largest body of a request, in bytes; a larger one gets status 413.
        max_pixels: largest photo, in pixels; a larger one gets status 422.
        timeout: seconds from the head of a request to the end of its answer; a request that takes longer gets status
            408 while its body is being read, otherwise 504.
    """

    max_batch: Count = 8
    max_requests: Count = 32
    max_connections: Count = 256
    max_bytes: Annotated[int, Bounds(ge=1, le=2**40)] = 20_000_000
    max_pixels: Annotated[int, Bounds(ge=1, le=2**40)] = 2**26  # that of grcn.data.image
    timeout: Positive = 30.0

    def __post_init__(self) -> None:
        check_fields(self)
