"""Videos as cameras, phones and strangers make them, and those that grcn writes."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from grcn.errors import ImageError
from grcn.predict.sources import VIDEO_SUFFIXES
from grcn.predict.video import read_video, write_video
from videos import decode, encode


def halves(level: int = 250, height: int = 48, width: int = 64) -> np.ndarray:
    """Black on the left, `level` on the right."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, width // 2 :] = level
    return image


def test_frames_come_in_order_with_their_rate(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", [halves(level) for level in (250, 150, 50)], fps=Fraction(30000, 1001))
    with read_video(tmp_path / "a.mp4") as video:
        assert (video.fps, video.height, video.width) == (pytest.approx(29.97003, abs=1e-5), 48, 64)
        frames = list(video.frames)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    for frame, level in zip(frames, (250, 150, 50), strict=True):
        assert abs(int(frame[24, 48, 0]) - level) < 12
        assert frame[24, 16].max() < 12


def test_a_video_that_begins_with_its_sound(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", [halves()] * 3, sound=True)
    with read_video(tmp_path / "a.mp4") as video:
        assert len(list(video.frames)) == 3


@pytest.mark.parametrize(
    ("matrix", "dark"),  # as phones write them: a b u c d v x y w, in 16.16 but u, v and w
    [
        ((0, 1, 0, -1, 0, 0, 0, 0, 1), "top"),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), "right"),
        ((0, -1, 0, 1, 0, 0, 0, 0, 1), "bottom"),
    ],
)
def test_turned_videos_are_upright(tmp_path: Path, matrix: tuple[int, ...], dark: str) -> None:
    encode(tmp_path / "a.mp4", [halves()])
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.index(b"tkhd") + 44
    assert data[at : at + 4] == (1 << 16).to_bytes(4), "the track's matrix, which turns nothing yet"
    data[at : at + 36] = struct.pack(">9i", *(n << (30 if i % 3 == 2 else 16) for i, n in enumerate(matrix)))
    (tmp_path / "a.mp4").write_bytes(data)
    with read_video(tmp_path / "a.mp4") as video:
        (frame,) = video.frames
    assert frame.shape[:2] == (video.height, video.width) == ((48, 64) if dark == "right" else (64, 48))
    rows, columns = np.indices(frame.shape[:2])
    side = {"top": rows < 30, "bottom": rows >= 34, "right": columns >= 34}[dark]
    rest = {"top": rows >= 34, "bottom": rows < 30, "right": columns < 30}[dark]
    assert frame[side].max() < 60
    assert frame[rest].min() > 190


def test_what_cannot_be_decoded_in_between_is_left_out(tmp_path: Path) -> None:
    encode(tmp_path / "a.avi", [halves()] * 4)
    data = bytearray((tmp_path / "a.avi").read_bytes())
    chunks = [at for at in range(len(data)) if data[at : at + 4] == b"00dc"][:4]
    data[chunks[1] + 8 : chunks[2]] = bytes(chunks[2] - chunks[1] - 8)
    (tmp_path / "a.avi").write_bytes(data)
    with read_video(tmp_path / "a.avi") as video:
        assert len(list(video.frames)) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 1000,
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile real.mp4\n",
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_what_is_no_video_is_refused_playlists_of_other_files_too(tmp_path: Path, content: bytes, suffix: str) -> None:
    encode(tmp_path / "real.mp4", [halves()])
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"a{suffix}: cannot be opened as a video"), read_video(path):
        pass
    with pytest.raises(ImageError, match=r"absent.mp4: cannot be opened"), read_video(tmp_path / "absent.mp4"):
        pass


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_every_suffix_can_be_read(tmp_path: Path, suffix: str) -> None:
    codec = {".webm": "libvpx", ".wmv": "wmv2", ".mpg": "mpeg2video", ".mpeg": "mpeg2video"}.get(suffix, "mpeg4")
    with av.open(str(tmp_path / f"a{suffix}"), "w", format="mp4" if suffix == ".m4v" else None) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        rng = np.random.default_rng(0)  # noise makes a file long enough to be told from others by what is in it
        for _ in range(20):
            noise = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    with read_video(tmp_path / f"a{suffix}") as video:
        assert (video.height, video.width) == (48, 64)
        assert len(list(video.frames)) == 20


def test_a_name_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open("http:a.mp4", "wb") as file, write_video(file, 25, 48, 64) as write:
        write(halves())
    with read_video(Path("http:a.mp4")) as video:
        assert len(list(video.frames)) == 1


# 29.97 frames a second, and the mean rate of a phone's uneven one; odd sizes.
@pytest.mark.parametrize("fps", [12.5, 30000 / 1001, 3580000 / 119457, 0.3, 999.9])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (35, 21)])
def test_written_videos_hold_their_frames(tmp_path: Path, fps: float, height: int, width: int) -> None:
    path = tmp_path / "a.mp4"
    with open(path, "wb") as file, write_video(file, fps, height, width) as write:
        for level in (250, 150, 50):
            write(halves(level, height, width))
    frames = decode(path)
    assert [frame.shape for frame in frames] == [(height, width, 3)] * 3
    for frame, level in zip(frames, (250, 150, 50), strict=True):
        assert abs(int(frame[height // 2, -width // 4, 0]) - level) < 12
    with read_video(path) as video:
        assert video.fps == pytest.approx(fps, rel=1e-3)


def test_a_video_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - closed below
    with pytest.raises((OSError, av.FFmpegError)), full, write_video(full, 25, 480, 640) as write:  # noqa: PT012
        for _ in range(3):
            write(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8))
