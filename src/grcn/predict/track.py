"""Tracking of objects from frame to frame with ByteTrack, from the `trackers` package."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from grcn.types import Detections

_NEAR = 0.2  # lowest IoU of a detection with the expected box of its track, as in ByteTrack's paper


class Tracker:
    """Gives an object in a video the same number in each frame. Use a new tracker for each video.

    Args:
        fps: frames per second.
        score: lowest score of a detection that begins a track.
    """

    def __init__(self, fps: float, score: float) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that OpenCV is missing, and deprecations in other packages
            from trackers import ByteTrackTracker
        self._fps = fps
        self._tracker = ByteTrackTracker(
            frame_rate=fps,
            track_activation_threshold=score,
            high_conf_det_threshold=score,
            minimum_iou_threshold=_NEAR,
        )

    def update(self, number: int, found: Detections) -> Detections:
        """Adds `track_ids` to the detections of the next frame; an object has one from its second frame on.

        Args:
            number: the number of the frame; numbers may be skipped.
            found: the detections in it.
        """
        given = found.to_supervision()
        given.data["place"] = np.arange(len(found))
        tracked = self._tracker.update(given, timestamp=number / self._fps)
        tracks = np.full(len(found), -1)
        if len(tracked):
            tracks[tracked.data["place"]] = tracked.tracker_id
        return replace(found, track_ids=tracks)
