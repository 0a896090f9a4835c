"""Small videos for tests, by PyAV alone."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def encode(path: Path, frames: Sequence[np.ndarray], fps: Fraction = Fraction(25, 2), sound: bool = False) -> None:
    """Writes RGB frames as MPEG-4 (.mp4) or MJPEG (.avi), behind a track of silence with `sound`."""
    with av.open(str(path), "w") as container:
        if sound:
            track = container.add_stream("aac", rate=8000)
        codec, pixels = {".mp4": ("mpeg4", "yuv420p"), ".avi": ("mjpeg", "yuvj420p")}[path.suffix]
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono")
            silence.sample_rate = 8000
            container.mux([*track.encode(silence), *track.encode()])
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def decode(path: Path) -> list[np.ndarray]:
    """The RGB frames as they are stored."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
