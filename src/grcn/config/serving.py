"""What is asked of a detector in use, and the limits of the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from grcn.config.fields import Bounds, Count, Positive, check_fields

ScoreChoice = Literal["best", "precise"]
Score = float | ScoreChoice
"""The lowest score that is shown: a number for all classes, or what a split has chosen for each class, for the best F1
or for a wanted precision (`grcn.thresholds`)."""


@dataclass(frozen=True)
class ServeLimits:
    """What one `grcn serve` takes on.

    Beside the network it holds at most about `max_requests * max_bytes` of files and `3 * max_batch * max_pixels` bytes
    of photos.

    Args:
        max_batch: photos decoded and predicted together.
        max_requests: photos in the service at a time: arriving, waiting and predicted; more get 503.
        max_connections: connections open at a time; requests on more get 503.
        max_bytes: of a request's body; a longer one gets 413.
        max_pixels: of a photo; a larger one gets 422.
        timeout: seconds from a request's head to the end of its answer; then 408 while its body is read, else 504.
    """

    max_batch: Count = 8
    max_requests: Count = 32
    max_connections: Count = 256
    max_bytes: Annotated[int, Bounds(ge=1, le=2**40)] = 20_000_000
    max_pixels: Annotated[int, Bounds(ge=1, le=2**40)] = 2**26  # that of grcn.data.image
    timeout: Positive = 30.0

    def __post_init__(self) -> None:
        check_fields(self)
