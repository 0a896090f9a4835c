"""Downloads against a server on this machine that cuts connections, lies, and serves hostile archives."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grcn.data import download as module
from grcn.data.download import ARCHIVES, STATE, Archive, download, extract
from grcn.errors import ConfigError, DataError

FILES = {
    "VOCdevkit/VOC2007/Annotations/000001.xml": b"<annotation/>",
    "VOCdevkit/VOC2007/JPEGImages/000001.jpg": np.random.default_rng(0).bytes(300_000),
    "VOCdevkit/VOC2007/ImageSets/Main/train.txt": b"000001\n",
    "VOCdevkit/VOC2007/ImageSets/Segmentation/train.txt": b"000001\n",
    "VOCdevkit/VOC2007/SegmentationClass/000001.png": b"not wanted",
}


def tar_of(files: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if change is not None:
                change(info)
            tar.addfile(info, io.BytesIO(content) if info.isfile() else None)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            packed.writestr(info, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `content` under any path; the fields say how it misbehaves."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: dict[str, bytes] = {}
        self.etag = '"v1"'
        self.cut_after: list[int] = []  # per request: bytes of the body after which the connection drops
        self.ranges = True
        self.codes: list[int] = []  # per request: an error to answer with, 0: none
        self.shift = 0  # answers ranges from a wrong start
        self.chunked = False
        self.seen: list[tuple[str, str | None, int]] = []  # path, Range, status

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:  # the name that http.server asks for
        server, name = self.server, self.path.rsplit("/", 1)[-1]
        code = server.codes.pop(0) if server.codes else 0
        wanted = self.headers.get("Range")
        if code or name not in server.content:
            server.seen.append((self.path, wanted, code or 404))
            self.send_error(code or 404)
            return
        body, status, first = server.content[name], 200, 0
        valid = self.headers.get("If-Range") in (None, server.etag)
        if server.ranges and valid and (match := re.fullmatch(r"bytes=(\d+)-", wanted or "")):
            status, first = 206, int(match[1]) + server.shift
        server.seen.append((self.path, wanted, status))
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        if not server.chunked:
            self.send_header("Content-Length", str(len(body) - first))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        part = body[first:]
        cut = server.cut_after.pop(0) if server.cut_after else len(part)
        self.wfile.write(part[:cut])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def offer(monkeypatch: pytest.MonkeyPatch, server: Server, content: bytes, **changes: Any) -> Archive:
    """Puts `content` on the server as the only archive of voc2007."""
    fields: dict[str, Any] = {
        "url": f"{server.url}/voc/VOC.tar",
        "size": len(content),
        "md5": hashlib.md5(content).hexdigest(),
        "strip": "VOCdevkit/VOC2007",
        "keep": ("Annotations", "ImageSets/Main", "JPEGImages"),
    }
    archive = Archive(**{**fields, **changes})
    monkeypatch.setitem(ARCHIVES, "voc2007", (archive,))
    server.content[archive.name] = content
    return archive


def get(out: Path, **arguments: Any) -> Path:
    return download("voc2007", out, pause=0.0, timeout=5.0, **arguments)


def unpacked(out: Path) -> dict[str, bytes]:
    """Every file outside the state folder."""
    files = (path for path in out.rglob("*") if path.is_file())
    return {n: p.read_bytes() for p in files if not (n := p.relative_to(out).as_posix()).startswith(STATE)}


WANTED = {
    name.removeprefix("VOCdevkit/VOC2007/"): content for name, content in FILES.items() if "Segmentation" not in name
}


def test_fetches_verifies_and_unpacks_what_is_wanted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = offer(monkeypatch, server, tar_of(FILES))
    calls: list[tuple[str, int, int]] = []
    out = get(tmp_path / "voc", progress=lambda *call: calls.append(call))
    assert unpacked(out) == WANTED
    assert [path for path in out.rglob("*") if path.name.startswith("VOC.tar")] == [out / STATE / "VOC.tar.done"]
    stages = {what: (done, total) for what, done, total in calls}
    assert stages["VOC.tar"] == stages["verify VOC.tar"] == (archive.size, archive.size)
    assert stages["unpack VOC.tar"][0] == stages["unpack VOC.tar"][1] == sum(map(len, WANTED.values()))
    get(out)
    assert len(server.seen) == 1  # the second call asks for nothing


FETCH = """
import sys, time
from pathlib import Path
from grcn.data.download import ARCHIVES, Archive, download

url, size, md5, begun, go = sys.argv[1:]
ARCHIVES["voc2007"] = (Archive(url, int(size), md5, "VOCdevkit/VOC2007", ("Annotations", "JPEGImages")),)

def progress(*_):
    Path(begun).mkdir(exist_ok=True)
    while not Path(go).exists():
        time.sleep(0.01)

download("voc2007", "voc", progress=progress)
"""


def test_a_download_is_waited_for_and_not_made_twice(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = offer(monkeypatch, server, tar_of(FILES))

    def start(name: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", FETCH, archive.url, str(archive.size), archive.md5, name, "go"]
        return subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)

    with start("first") as first:
        while not (tmp_path / "first").exists():
            assert first.poll() is None, first.communicate()
            time.sleep(0.01)
        with start("second") as second:
            line = second.stderr.readline()
            (tmp_path / "go").mkdir()
            assert (first.wait(60), second.wait(60)) == (0, 0)
    assert line.startswith(f"grcn: voc: process {first.pid} on ")
    assert line.endswith(" is using it; waiting until it ends\n")
    assert not (tmp_path / "second").exists(), "it has fetched and unpacked nothing"
    assert [status for _, _, status in server.seen] == [200]
    assert set(unpacked(tmp_path / "voc")) == {name for name in WANTED if "ImageSets" not in name}


def test_keeps_the_archive_when_told_to_and_takes_a_mirror(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tar_of(FILES)
    offer(monkeypatch, server, content, url="http://host.invalid/VOC.tar")
    out = get(tmp_path / "voc", base_url=f"{server.url}/mirror/", keep_archives=True)
    assert server.seen == [("/mirror/VOC.tar", None, 200)]
    assert (out / STATE / "VOC.tar").read_bytes() == content


def test_zip(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, server, zip_of(FILES), url=f"{server.url}/VOC.zip")
    assert unpacked(get(tmp_path / "voc")) == WANTED


def test_continues_where_the_connection_was_cut(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, server, tar_of(FILES))
    server.cut_after = [100_000, 50_000]
    assert unpacked(get(tmp_path / "voc")) == WANTED
    assert server.seen == [
        ("/voc/VOC.tar", None, 200),
        ("/voc/VOC.tar", "bytes=100000-", 206),
        ("/voc/VOC.tar", "bytes=150000-", 206),
    ]


def test_a_later_call_continues_after_giving_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, server, tar_of(FILES))
    server.cut_after = [120_000, 0, 0]
    with pytest.raises(DataError, match=r"cut \(attempts: 2\); 120000 of \d+ bytes are kept, try again"):
        get(tmp_path / "voc", attempts=2)
    assert unpacked(get(tmp_path / "voc")) == WANTED
    assert server.seen[-1] == ("/voc/VOC.tar", "bytes=120000-", 206)


def test_starts_again_when_the_file_on_the_server_changed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tar_of(FILES)
    offer(monkeypatch, server, content)
    server.content["VOC.tar"] = bytes(len(content))
    server.cut_after = [100_000, 0]
    with pytest.raises(DataError, match="try again"):
        get(tmp_path / "voc", attempts=1)
    server.content["VOC.tar"], server.etag = content, '"v2"'
    assert unpacked(get(tmp_path / "voc")) == WANTED
    assert server.seen[-1] == ("/voc/VOC.tar", "bytes=100000-", 200)


@pytest.mark.parametrize("fault", ["ranges", "shift", "etag"])
def test_servers_that_do_ranges_badly(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Without ranges, with wrong ones, or without a version to hold on to, the file still comes whole."""
    offer(monkeypatch, server, tar_of(FILES))
    server.cut_after = [100_000]
    setattr(server, fault, {"ranges": False, "shift": 7, "etag": ""}[fault])
    assert unpacked(get(tmp_path / "voc")) == WANTED


def test_a_server_that_gives_no_length(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, server, tar_of(FILES))
    server.chunked = True
    assert unpacked(get(tmp_path / "voc")) == WANTED


def test_a_part_longer_than_the_archive_is_dropped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tar_of(FILES)
    offer(monkeypatch, server, content)
    (tmp_path / "voc" / STATE).mkdir(parents=True)
    (tmp_path / "voc" / STATE / "VOC.tar.part").write_bytes(content + b"more")
    assert unpacked(get(tmp_path / "voc")) == WANTED


def test_wrong_bytes_are_deleted_and_not_unpacked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tar_of(FILES)
    archive = offer(monkeypatch, server, content)
    server.content["VOC.tar"] = content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    with pytest.raises(DataError, match=f"expected {archive.md5}.*deleted, try again"):
        get(tmp_path / "voc")
    assert unpacked(tmp_path / "voc") == {}
    assert list((tmp_path / "voc" / STATE).iterdir()) == []
    server.content["VOC.tar"] = content
    assert unpacked(get(tmp_path / "voc")) == WANTED


def test_a_file_of_another_size_is_refused_before_it_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tar_of(FILES)
    offer(monkeypatch, server, content, size=len(content) + 10)
    with pytest.raises(
        DataError, match=rf"the file has {len(content)} bytes on the server, expected {len(content) + 10}"
    ):
        get(tmp_path / "voc")
    assert not (tmp_path / "voc" / STATE / "VOC.tar.part").exists()


def test_errors_of_the_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, server, tar_of(FILES))
    server.codes = [503, 429]
    assert unpacked(get(tmp_path / "a")) == WANTED  # those pass
    server.codes = [404]
    with pytest.raises(DataError, match="HTTP 404"):
        get(tmp_path / "b")
    server.codes = [500] * 3
    with pytest.raises(DataError, match=r"HTTP 500 .* \(attempts: 3\)"):
        get(tmp_path / "b", attempts=3)
    assert server.codes == []


def test_no_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, server, tar_of(FILES), url="http://127.0.0.1:9/VOC.tar")  # port 9: discard, nobody listens
    with pytest.raises(DataError, match=r"127.0.0.1:9.*refused \(attempts: 2\); 0 of"):
        get(tmp_path / "voc", attempts=2)


def test_no_space(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is fetched; a disk that fills up on the way is one line as well."""
    offer(monkeypatch, server, tar_of(FILES), size=10**18)
    with pytest.raises(DataError, match=r"needs 1000000000.00 GB, .* are free"):
        get(tmp_path / "a")
    assert server.seen == []
    if os.path.exists("/dev/full"):
        offer(monkeypatch, server, tar_of(FILES))
        (tmp_path / "b" / STATE).mkdir(parents=True)
        (tmp_path / "b" / STATE / "VOC.tar.part").symlink_to("/dev/full")
        with pytest.raises(DataError, match="no space left"):
            get(tmp_path / "b")


ESCAPES = {
    "parent": "../escape.txt",
    "deep parent": "VOCdevkit/VOC2007/JPEGImages/../../../../escape.txt",
    "absolute": "/tmp/grcn-escape.txt",
    "drive": "C:/escape.txt",
    "backslash": "..\\escape.txt",
    "own state": f"{STATE}/VOC.tar.done",
}


@pytest.mark.parametrize("name", ESCAPES.values(), ids=ESCAPES.keys())
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_entries_that_lead_outside(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[..., bytes], name: str
) -> None:
    suffix = "tar" if pack is tar_of else "zip"
    offer(monkeypatch, server, pack({**FILES, name: b"evil"}), url=f"{server.url}/VOC.{suffix}", strip="", keep=())
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"entry .*: refused"):
        get(tmp_path / "voc")
    assert unpacked(tmp_path / "voc") == {}  # not even the good entries before it
    assert {path.name for path in set(tmp_path.rglob("*")) - before} == {"voc", STATE, f"VOC.{suffix}"}
    assert not Path("/tmp/grcn-escape.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    def change(info: tarfile.TarInfo) -> None:
        if info.name == "link":
            info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    file = tmp_path / "a.tar"
    file.write_bytes(tar_of({"good.txt": b"x", "link": b""}, change))
    with pytest.raises(DataError, match="'link' is a link or device: refused"):
        extract(Archive("a.tar", 10**6, ""), file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_in_a_zip(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(zip_of({"link": b"/etc/passwd"}, stat.S_IFLNK | 0o777))
    with pytest.raises(DataError, match="'link' is a link or device: refused"):
        extract(Archive("a.zip", 10**6, ""), file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_already_in_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (outside / "mine.txt").write_text("keep me")
    (out / "folder").symlink_to(outside)
    (out / "file.txt").symlink_to(outside / "mine.txt")
    file = tmp_path / "a.tar"
    file.write_bytes(tar_of({"file.txt": b"new"}))
    extract(Archive("a.tar", 10**6, ""), file, out)
    assert (out / "file.txt").read_bytes() == b"new"
    file.write_bytes(tar_of({"folder/mine.txt": b"new"}))
    with pytest.raises(DataError, match="symbolic link: refused"):
        extract(Archive("a.tar", 10**6, ""), file, out)
    assert (outside / "mine.txt").read_text() == "keep me"


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "bomb.zip"
    file.write_bytes(zip_of({"zeros.bin": bytes(30 * 2**20)}))
    assert file.stat().st_size < 10**5
    with pytest.raises(DataError, match=r"unpacks to more than 0\.01 GB: refused"):
        extract(Archive("bomb.zip", file.stat().st_size, ""), file, tmp_path / "out")
    monkeypatch.setattr(module, "MAX_FILES", 10)
    file.write_bytes(zip_of({f"{i}.txt": b"" for i in range(11)}))
    with pytest.raises(DataError, match="11 files, more than 10: refused"):
        extract(Archive("bomb.zip", 10**6, ""), file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "cut": lambda good: good[:150_000],
    "noise": lambda good: np.random.default_rng(1).bytes(5000),
    "flipped": lambda good: good[:150_000] + bytes(byte ^ 255 for byte in good[150_000:150_040]) + good[150_040:],
}


# A tar has no checksum of its content, so a flipped byte there is for the MD5 of the whole to find.
@pytest.mark.parametrize(
    ("suffix", "damage"), [(s, d) for s in ("tar", "zip") for d in DAMAGES if (s, d) != ("tar", "flipped")]
)
def test_damaged_archives(tmp_path: Path, suffix: str, damage: str) -> None:
    file, out = tmp_path / f"a.{suffix}", tmp_path / "out"
    out.mkdir()
    file.write_bytes(DAMAGES[damage](tar_of(FILES) if suffix == "tar" else zip_of(FILES)))
    with pytest.raises(DataError, match=re.escape(str(file))):
        extract(Archive(file.name, 10**6, ""), file, out)
    assert all(FILES[name] == content for name, content in unpacked(out).items())  # what is there is whole


def test_an_entry_named_like_the_stripped_folder_is_left_out(tmp_path: Path) -> None:
    file, out = tmp_path / "a.tar", tmp_path / "out"
    out.mkdir()
    file.write_bytes(tar_of({"root": b"evil"}))
    extract(Archive("a.tar", 10**6, "", strip="root"), file, out)
    assert {path.name for path in tmp_path.rglob("*")} == {"a.tar", "out"}


def test_someone_elses_folder_is_left_alone(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, server, tar_of(FILES))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.txt").write_text("keep me")
    (tmp_path / "file").write_text("keep me")
    for name in ("mine", "file"):
        with pytest.raises(DataError, match="was not made by a download"):
            get(tmp_path / name)
    assert server.seen == []
    with pytest.raises(DataError, match="file"):
        get(tmp_path / "file" / "below")


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown data set 'voc2017'; did you mean 'voc20"):
        download("voc2017", tmp_path / "a")
    with pytest.raises(ConfigError, match="known are voc2007, voc2012, coco2017"):
        download("zzz", tmp_path / "a")
    with pytest.raises(ConfigError, match="needs http"):
        download("voc2007", tmp_path / "a", base_url="file:///etc")
    with pytest.raises(ConfigError, match="attempts"):
        download("voc2007", tmp_path / "a", attempts=0)
    assert list(tmp_path.iterdir()) == []


def test_the_official_list_is_well_formed() -> None:
    for archives in ARCHIVES.values():
        for archive in archives:
            assert re.fullmatch(r"[0-9a-f]{32}", archive.md5)
            assert archive.url.startswith(("http://host.robots.ox.ac.uk/pascal/VOC/", "http://images.cocodataset.org/"))
            assert archive.name.endswith((".tar", ".zip"))
            assert archive.size > 10**8
    names = [archive.name for archives in ARCHIVES.values() for archive in archives]
    assert len(set(names)) == len(names) == 6
