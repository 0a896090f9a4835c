"""Live sources: the newest frame is looked at, others are dropped, a stop leaves whole files; and tracks."""

import json
import signal
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg

import grcn.cli.predict
from grcn import Detections
from grcn.cli.main import main
from grcn.errors import DataError, ImageError
from grcn.predict.draw import draw_detections
from grcn.predict.job import predict_sources
from grcn.predict.sources import find_sources
from grcn.predict.video import read_live
from networks import looking
from videos import decode, encode


def frame_of(number: int) -> np.ndarray:
    """Grey; its number is the light square's place, 4 pixels to the right each."""
    frame = np.full((48, 160, 3), 90, np.uint8)
    frame[10:30, 4 * (number % 34) : 4 * (number % 34) + 20] = 255
    return frame


def look(image: np.ndarray):
    columns = np.flatnonzero((image > 200).all(axis=2).any(axis=0))
    if not len(columns):
        return [], [], np.zeros(0, np.int64)
    return [[columns[0], 10, columns[-1] + 1, 30]], [0.9], np.array([0])


def slowly(image: np.ndarray):
    time.sleep(0.06)
    return look(image)


class _Camera(BaseHTTPRequestHandler):
    """A camera as many are: JPEGs one after the other, 100 a second, without end; under /file a video."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.startswith("/file"):
            content = self.server.content
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(self.server.frames):
            data = simplejpeg.encode_jpeg(frame_of(number), quality=95)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + data + b"\r\n")
            except OSError:
                return
            self.server.sent = number + 1
            time.sleep(0.01)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def camera(frames: int = 10**6, content: bytes = b"") -> Iterator[tuple[ThreadingHTTPServer, str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Camera)
    server.frames, server.content, server.sent, server.asked = frames, content, 0, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_ctrl_c_ends_a_live_source_with_whole_files(tmp_path: Path, monkeypatch, capsys) -> None:
    """By the command. A detector slower than the camera sees each time its newest frame."""
    monkeypatch.setattr(grcn.cli.predict, "load_detector", lambda *_: looking(slowly, ("light",), "finder"))
    before = signal.getsignal(signal.SIGINT)
    with camera() as (server, address):
        threading.Timer(1.5, signal.raise_signal, [signal.SIGINT]).start()
        address = address.replace("//", "//user:secret@")
        assert main(["predict", "run", f"{address}/cam?a=1", "--out", str(tmp_path)]) == 0
    assert signal.getsignal(signal.SIGINT) is before
    name = f"127-0-0-1-{server.server_port}-cam"
    done = json.loads((tmp_path / "frames" / f"{name}.json").read_text())
    looked_at = [found["image_id"] for frame in done["frames"] for found in frame]
    assert looked_at == sorted(set(looked_at))
    assert 5 <= len(looked_at) <= 30
    assert done["dropped"] == looked_at[-1] + 1 - len(looked_at) > len(looked_at)
    assert done["video"] == f"http://127.0.0.1:{server.server_port}/cam?a=1"
    # The box says which frame it is: the newest, not one that waited.
    for number, frame in zip(looked_at, done["frames"], strict=True):
        assert frame[0]["bbox"][0] == pytest.approx(4 * (number % 34), abs=2)
    assert server.sent - looked_at[-1] < 60
    assert len(decode(tmp_path / "drawn" / f"{name}.mp4")) == len(looked_at)
    assert "secret" not in "".join(capsys.readouterr()) + "".join(
        path.read_text() for path in tmp_path.rglob("*.json*")
    )


def test_a_stream_that_breaks_off_keeps_its_files_and_a_fetched_video_loses_no_frame(tmp_path: Path) -> None:
    encode(tmp_path / "a.avi", [frame_of(i) for i in range(25)])
    with camera(frames=3, content=(tmp_path / "a.avi").read_bytes()) as (_, address):
        for path, frames, broken in (("/cam", (1, 3), 1), ("/file.avi", (25, 25), 0)):
            out = tmp_path / f"out{broken}"
            sources, _ = find_sources([address + path], out)
            summary = predict_sources(looking(slowly, ("light",), ""), sources, out)
            assert frames[0] <= summary.frames <= frames[1]
            assert len(summary.broken) == broken
            assert len(decode(next((out / "drawn").iterdir()))) == summary.frames
            done = json.loads(next((out / "frames").glob("*.json")).read_text())
            assert len(done["frames"]) == summary.frames
    assert done["dropped"] == 0


def test_what_cannot_be_opened_is_named_without_its_password(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"http://me:secret@127.0.0.1:{port}/x", f"rtsp://me:secret@127.0.0.1:{port}/x", "camera:77"):
        (source,), _ = find_sources([address], tmp_path)
        assert source.is_live
        assert source.is_video
        with (
            pytest.raises(ImageError, match="cannot be opened") as caught,
            read_live(source.address, str(source), threading.Event()),
        ):
            pass
        assert "secret" not in str(caught.value)
    with camera(content=b"no video") as (_, address):
        (source,), _ = find_sources([f"{address}/file"], tmp_path)
        with pytest.raises(ImageError, match="cannot be opened"), read_live(source.address, "x", threading.Event()):
            pass


def test_a_playlist_opens_nothing_else(tmp_path: Path) -> None:
    """HLS names other addresses, perhaps of this network, and files."""
    with camera(content=b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/inner.ts\n#EXT-X-ENDLIST\n") as (server, address):
        (source,), _ = find_sources([f"{address}/file.m3u8"], tmp_path)
        with pytest.raises(ImageError, match="cannot be opened"), read_live(source.address, "x", threading.Event()):
            pass
        assert set(server.asked) == {"/file.m3u8"}


@pytest.mark.parametrize(
    ("argument", "name", "address"),
    [
        ("RTSP://cam.local:554/stream1", "cam-local-554-stream1", "rtsp://cam.local:554/stream1"),
        ("camera:0", "camera-0", "camera:0"),
        ("/dev/null", "camera-dev-null", "camera:/dev/null"),
    ],
)
def test_names_of_live_sources(argument: str, name: str, address: str, tmp_path: Path) -> None:
    ((source,), _) = find_sources([argument], tmp_path)
    assert (source.name, source.address) == (name, address)
    with pytest.raises(DataError, match="give it as the only source"):
        find_sources([argument, str(tmp_path)], tmp_path / "out")


def test_tracks_stay_with_detections() -> None:
    found = Detections([[0, 0, 9, 9], [5, 5, 8, 8], [1, 1, 4, 4]], [0.2, 0.9, 0.5], [0, 0, 0], ("a",), [7, -1, 3])
    assert found.track_ids.tolist() == [-1, 3, 7]
    assert found.above(0.4).track_ids.tolist() == [-1, 3]
    assert [line["track_id"] for line in found.to_coco(1)] == [None, 3, 7]
    assert "track_id" not in Detections([[0, 0, 9, 9]], [0.2], [0], ("a",)).to_coco(1)[0]
    again = Detections.from_supervision(found.to_supervision(), ("a",))
    assert again.track_ids.tolist() == [-1, 3, 7]
    with pytest.raises(DataError, match="track_ids"):
        Detections([[0, 0, 9, 9]], [0.2], [0], ("a",), [1, 2])


def test_a_number_is_drawn() -> None:
    grey = np.full((600, 600, 3), 128, np.uint8)
    one, other, none = (Detections([[100, 100, 400, 400]], [0.9], [0], ("a",), [i]) for i in (1, 2, -1))
    plain = draw_detections(grey, Detections([[100, 100, 400, 400]], [0.9], [0], ("a",)))
    assert (draw_detections(grey, none) == plain).all()
    assert not (draw_detections(grey, one) == plain).all()
    assert not (draw_detections(grey, one) == draw_detections(grey, other)).all()


def test_without_the_extra_tracking_is_refused_at_once(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trackers", None)
    monkeypatch.setattr(grcn.cli.predict, "load_detector", lambda *_: looking(look, ("light",), "finder"))
    encode(tmp_path / "a.avi", [frame_of(0)])
    assert main(["predict", "run", str(tmp_path / "a.avi"), "--out", str(tmp_path / "out"), "--track"]) == 2
    assert "pip install 'grcn[track]'" in capsys.readouterr().err


def test_objects_keep_their_numbers(tmp_path: Path) -> None:
    pytest.importorskip("trackers")

    def two(image: np.ndarray):
        rows = [(0, 20), (40, 60)]
        seen = [(r, np.flatnonzero((image[r[0] : r[1]] > 200).all(axis=2).any(axis=0))) for r in rows]
        boxes = [[c[0], r[0], c[-1] + 1, r[1]] for r, c in seen if len(c)]
        return boxes, [0.5, 0.8][: len(boxes)], np.zeros(len(boxes), np.int64)

    frames = []
    for i in range(12):
        frame = np.full((64, 160, 3), 90, np.uint8)
        frame[:20, 5 * i : 5 * i + 20] = 255  # to the right
        frame[40:60, 120 - 5 * i : 140 - 5 * i] = 255  # to the left
        frames.append(frame)
    encode(tmp_path / "a.avi", frames)
    sources, _ = find_sources([str(tmp_path / "a.avi")], tmp_path / "out")
    detector = looking(two, ("light",), "")
    for workers in (0, 3):
        predict_sources(detector, sources, tmp_path / "out", track=True, workers=workers, score=0.3)
        frames = json.loads((tmp_path / "out/frames/a.json").read_text())["frames"]
        ids = {(track["bbox"][1] < 30, track["track_id"]) for frame in frames[1:] for track in frame}
        assert len(ids) == 2
        assert None not in {number for _, number in ids}
        assert [track["track_id"] for track in frames[0]] == [None, None]
    predict_sources(detector, sources, tmp_path / "out", score=0.3)
    assert "track_id" not in (tmp_path / "out/frames/a.json").read_text()


class _RtspCamera(socketserver.StreamRequestHandler):
    """As little of RTSP as a reader needs: an MPEG transport stream in RTP, in the connection itself."""

    def handle(self) -> None:
        while request := self.rfile.readline():
            method = request.split()[0].decode()
            head = {}
            while line := self.rfile.readline().strip():
                key, _, value = line.decode().partition(":")
                head[key.lower()] = value.strip()
            answer, body = f"RTSP/1.0 200 OK\r\nCSeq: {head['cseq']}\r\n", b""
            if method == "DESCRIBE":
                body = (
                    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track1\r\n"
                )
                answer += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                answer += "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            elif method == "PLAY":
                answer += "Session: 1\r\n"
            self.wfile.write(answer.encode() + b"\r\n" + body)
            if method == "PLAY":
                self.stream()
                return

    def stream(self) -> None:
        packets = [self.server.content[at : at + 7 * 188] for at in range(0, len(self.server.content), 7 * 188)]
        for i, packet in enumerate(packets):
            rtp = struct.pack(">BBHII", 0x80, 33, i, 900 * i, 1) + packet
            self.wfile.write(struct.pack(">cBH", b"$", 0, len(rtp)) + rtp)
            time.sleep(0.002)


def test_rtsp_is_read(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.ts"), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 48, "yuv420p"
        for i in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_of(i), format="rgb24")))
        container.mux(stream.encode())
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _RtspCamera) as server:
        server.content = (tmp_path / "a.ts").read_bytes() * 3
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sources, _ = find_sources([f"rtsp://127.0.0.1:{server.server_address[1]}/live"], tmp_path / "out")
        summary = predict_sources(looking(slowly, ("light",), ""), sources, tmp_path / "out")
        server.shutdown()
    assert summary.frames >= 1
    assert summary.found == {"light": summary.frames}
