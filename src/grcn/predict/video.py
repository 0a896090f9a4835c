"""Videos read and written a frame at a time, by PyAV."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from grcn.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

logging.getLogger("libav").addHandler(logging.NullHandler())  # FFmpeg's remarks on broken files; ours names the file

# FFmpeg's names of what `sources.VIDEO_SUFFIXES` stand for. A playlist, which may name any file or address, is none.
_FORMATS = "mov,mp4,m4a,avi,matroska,webm,mpeg,mpegvideo,mpegts,asf"


@dataclass(frozen=True)
class Video:
    """A video that is being read.

    Args:
        fps: frames a second; 25 where the file does not say.
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        frames: each [H, W, 3] uint8 RGB, upright. Those that cannot be decoded are left out, as players do.
    """

    fps: float
    height: int
    width: int
    frames: Iterator[NDArray[np.uint8]]


@contextmanager
def read_video(path: Path) -> Iterator[Video]:
    """Opens a video; its frames can be read until the block is left.

    Raises:
        ImageError: where it cannot be opened or holds no frame, and, from `frames`, where it cannot be read to its end.
    """
    import av

    with ExitStack() as opened:
        try:
            # Not by name, which FFmpeg may take for an address.
            file = opened.enter_context(open(path, "rb"))
            container = opened.enter_context(av.open(file, container_options={"format_whitelist": _FORMATS}))
            stream = container.streams.video[0]
        except (av.FFmpegError, OSError, IndexError) as error:
            raise ImageError(f"{path}: cannot be opened as a video") from error
        stream.thread_type = "AUTO"
        frames = _frames(path, container, stream)
        first = next(frames, None)
        if first is None:
            raise ImageError(f"{path}: no frame of this video can be decoded")
        height, width = first.shape[:2]
        fps = float(stream.average_rate or 0)
        yield Video(fps if 0 < fps < 1000 else 25.0, height, width, chain([first], frames))


def _frames(path: Path, container: Any, stream: Any) -> Iterator[NDArray[np.uint8]]:
    import av

    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                continue
            for frame in frames:
                turns, rest = divmod(frame.rotation, 90)  # anticlockwise; phones turn their pictures
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), 0 if rest else turns))
    except (av.FFmpegError, OSError) as error:
        raise ImageError(f"{path}: cannot be read to its end") from error


@contextmanager
def write_video(file: BinaryIO, fps: float, height: int, width: int) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Begins an MPEG-4 video in an empty file; gives the function that adds a frame: [height, width, 3] uint8 RGB.

    The video is whole once the block is left.

    Raises:
        OSError, av.FFmpegError: where it cannot be written.
    """
    import av

    container = av.open(file, "w", format="mp4")
    try:
        # MPEG-4 counts time in at most 65,535 parts of a second; this keeps 30000/1001.
        rate = Fraction(fps).limit_denominator(max(1, math.floor(65535 / fps)))
        stream: Any = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = min(int(2 * fps * width * height), 2**31 - 1)  # two bits a pixel, as OpenCV writes

        def write(frame: NDArray[np.uint8]) -> None:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

        yield write
        container.mux(stream.encode())  # what the encoder still holds
    except BaseException:
        with suppress(Exception):  # the first error counts
            container.close()
        raise
    container.close()
