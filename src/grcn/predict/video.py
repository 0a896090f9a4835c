"""Reads videos and live streams, and writes videos, frame by frame with PyAV."""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from grcn.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

logging.getLogger("libav").addHandler(logging.NullHandler())  # of FFmpeg, on broken files; our own error names the file

# FFmpeg's names for the formats of `sources.VIDEO_SUFFIXES`, without playlists, which may name any file or address.
_FORMATS = "mov,mp4,m4a,avi,matroska,webm,mpeg,mpegvideo,mpegts,asf"
_SECONDS = 10.0  # for a live source to open, and for each of its packets


@dataclass(frozen=True)
class _Kind:
    """How FFmpeg opens a kind of live source: formats and protocols that it may use, and options."""

    formats: str
    protocols: str = ""
    options: dict[str, str] = field(default_factory=dict)


_RTSP = _Kind("rtsp,rtp,mpegts", "rtsp,rtsps,rtp,srtp,udp,tcp,tls", {"rtsp_flags": "prefer_tcp"})
_HTTP = _Kind(f"{_FORMATS},mpjpeg,mjpeg,flv", "http,https,httpproxy,tcp,tls")
_LIVE = {"rtsp": _RTSP, "rtsps": _RTSP, "http": _HTTP, "https": _HTTP}
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


@dataclass(frozen=True)
class Video:
    """A video that is being read.

    Args:
        fps: frames per second; 25 if the file does not say.
        height: height of the frames in pixels.
        width: width of the frames in pixels.
        frames: each frame as [H, W, 3] uint8 RGB, upright. Frames that cannot be decoded are skipped, as players do.
        numbers: the numbers of the frames, from 0; take each after its frame. A live source skips numbers.
    """

    fps: float
    height: int
    width: int
    frames: Iterator[NDArray[np.uint8]]
    numbers: Iterator[int] = field(default_factory=count)


@contextmanager
def read_video(path: Path) -> Iterator[Video]:
    """Opens a video. Its frames can be read inside the `with` block.

    Raises:
        ImageError: if it cannot be opened or holds no frame; `frames` raises it if the video cannot be read to its end.
    """
    import av

    with ExitStack() as opened:
        try:
            # Not by its name, which FFmpeg may read as an address.
            file = opened.enter_context(open(path, "rb"))
            container = opened.enter_context(av.open(file, container_options={"format_whitelist": _FORMATS}))
            stream = container.streams.video[0]
        except (av.FFmpegError, OSError, IndexError) as error:
            raise ImageError(f"{path}: cannot be opened as a video") from error
        stream.thread_type = "AUTO"
        yield _video(str(path), stream, map(_pixels, _frames(str(path), container, stream)))


@contextmanager
def read_live(address: str, name: str, stop: threading.Event) -> Iterator[Video]:
    """Opens a live source. Only its newest frame is kept; older frames are dropped, not queued.

    A source that has an end, such as a video file over HTTP, drops no frames.

    Args:
        address: rtsp://..., http://... or camera:NAME, where NAME is a number, a path or a name that the system knows.
        name: the name of the source in errors.
        stop: ends the frames when it is set.

    Raises:
        ImageError: if it cannot be opened or gives no frame, and at the end of the `with` block if it broke off.
    """
    import av

    with ExitStack() as opened:
        try:
            container = opened.enter_context(_opened_live(address))
            stream = container.streams.video[0]
        except (av.FFmpegError, OSError, ValueError, IndexError) as error:
            raise ImageError(f"{name}: cannot be opened: {_reason(error, address)}") from None
        decoded = _frames(name, container, stream)
        newest = _Newest(decoded, stop, queued=bool(container.duration))
        opened.callback(newest.close)
        yield _video(name, stream, map(_pixels, newest), newest)
        if newest.error is not None:
            raise newest.error


def _opened_live(address: str) -> Any:
    import av

    scheme, _, rest = address.partition(":")
    if scheme != "camera":
        kind = _LIVE[scheme]
        limits = {"format_whitelist": kind.formats, "protocol_whitelist": kind.protocols}
        # Not as `options`, which PyAV before 17.1 copies into streams that RTSP does not have yet, and crashes.
        return av.open(address, container_options=limits | kind.options, timeout=_SECONDS)
    driver = _CAMERAS.get(sys.platform)
    if driver is None:
        raise OSError(f"cameras on {sys.platform} are not supported")
    device = {"v4l2": f"/dev/video{rest}" if rest.isdecimal() else rest, "dshow": f"video={rest}"}.get(driver, rest)
    return av.open(device, format=driver, timeout=_SECONDS)


def _reason(error: Exception, address: str) -> str:
    """The message of FFmpeg without the address, which may contain a password."""
    text = getattr(error, "strerror", None) or ("no video in it" if isinstance(error, IndexError) else str(error))
    return " ".join(text.replace(address, "").split())[:200]


class _Newest:
    """The newest frame of a live source. A thread reads all frames.

    Args:
        frames: the frames from the decoder.
        stop: ends reading when it is set.
        queued: keep each frame until it is taken, so that none is dropped.
    """

    def __init__(self, frames: Iterator[Any], stop: threading.Event, queued: bool) -> None:
        self.error: ImageError | None = None
        self._frames, self._stop, self._queued = frames, stop, queued
        self._frame: Any = None
        self._read = self._number = -1
        self._ended = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="grcn-live", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for frame in self._frames:
                with self._changed:
                    self._changed.wait_for(lambda: not self._queued or self._frame is None or self._closed)
                    if self._closed:
                        break
                    self._frame = frame
                    self._read += 1
                    self._changed.notify_all()
        except ImageError as error:
            self.error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def __iter__(self) -> Iterator[Any]:
        while True:
            with self._changed:
                while self._frame is None and not self._ended and not self._stop.is_set():
                    self._changed.wait(0.1)  # signals are seen in between
                if self._frame is None or self._stop.is_set():
                    return
                frame, self._frame, self._number = self._frame, None, self._read
                self._changed.notify_all()
            yield frame

    def numbers(self) -> Iterator[int]:
        while True:
            yield self._number

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()


def _video(name: str, stream: Any, frames: Iterator[NDArray[np.uint8]], newest: _Newest | None = None) -> Video:
    first = next(frames, None)
    if first is None:
        raise (newest and newest.error) or ImageError(f"{name}: no frame of this video can be decoded")
    height, width = first.shape[:2]
    fps = float(stream.average_rate or 0)
    numbers = count() if newest is None else newest.numbers()
    return Video(fps if 0 < fps < 1000 else 25.0, height, width, chain([first], frames), numbers)


def _frames(name: str, container: Any, stream: Any) -> Iterator[Any]:
    import av

    try:
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.InvalidDataError:
                continue
    except (av.FFmpegError, OSError) as error:
        raise ImageError(f"{name}: cannot be read to its end") from error


def _pixels(frame: Any) -> NDArray[np.uint8]:
    turns, rest = divmod(frame.rotation, 90)  # anticlockwise; phones rotate their pictures
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), 0 if rest else turns))


@contextmanager
def write_video(file: BinaryIO, fps: float, height: int, width: int) -> Iterator[Callable[..., None]]:
    """Begins an MPEG-4 video in an empty file, and yields a function that adds a frame.

    The function takes the frame, [height, width, 3] uint8 RGB, and its number. Numbers ascend; if some are skipped, the
    frame before them is shown for longer. The video is complete at the end of the `with` block.

    Raises:
        OSError, av.FFmpegError: if it cannot be written.
    """
    import av

    container = av.open(file, "w", format="mp4")
    try:
        # MPEG-4 counts time in at most 65,535 parts of a second; this keeps 30000/1001.
        rate = Fraction(fps).limit_denominator(max(1, math.floor(65535 / fps)))
        stream: Any = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = min(int(2 * fps * width * height), 2**31 - 1)  # two bits a pixel, as OpenCV writes

        def write(frame: NDArray[np.uint8], number: int | None = None) -> None:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if number is not None:
                picture.pts, picture.time_base = number, 1 / rate
            container.mux(stream.encode(picture))

        yield write
        container.mux(stream.encode())  # what the encoder still holds
    except BaseException:
        with suppress(Exception):  # the first error counts
            container.close()
        raise
    container.close()
