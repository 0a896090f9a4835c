"""Downloads public data sets from their official addresses, verifies them, and extracts them safely.

Sizes and MD5 sums are those that public loaders agree on (torchvision for VOC; several for COCO, whose site has none).
They reveal a damaged or exchanged file: exchanging it would need a second preimage, which MD5 still resists. An
interrupted download resumes. An archive is extracted only if it is complete and verified, and no entry is written
before all entries of the archive are checked.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import http.client
import json
import os
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from grcn.errors import ConfigError, DataError
from grcn.locks import locked

MAX_FILES = 200_000  # in one archive; COCO's train images are 118,287
MAX_GROWTH = 10  # unpacked bytes per byte of archive; COCO's annotations grow about fourfold
CHUNK = 2**20
STATE = ".grcn-download"  # folder in the data set that holds partial archives and marks of what is done

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Archive:
    """One file to fetch and unpack.

    Args:
        url: its official address.
        size: bytes.
        md5: of the whole file, hexadecimal.
        strip: leading folder of the entries that is removed.
        keep: folders or files (after `strip`) that are unpacked; all others are left out.
    """

    url: str
    size: int
    md5: str
    strip: str = ""
    keep: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
_COCO = "http://images.cocodataset.org"
_VOC_PARTS = ("Annotations", "ImageSets/Main", "JPEGImages")

ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "voc2007": (
        Archive(
            f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
            460_032_000,
            "c52e279531787c972589f7e41ab4ae64",
            "VOCdevkit/VOC2007",
            _VOC_PARTS,
        ),
        Archive(
            f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar",
            451_020_800,
            "b6e924de25625d8de591ea690078ad9f",
            "VOCdevkit/VOC2007",
            _VOC_PARTS,
        ),
    ),
    "voc2012": (  # its test annotations are not public
        Archive(
            f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
            1_999_639_040,
            "6cd6e144f989b92b3379bac3b3de84fd",
            "VOCdevkit/VOC2012",
            _VOC_PARTS,
        ),
    ),
    "coco2017": (
        Archive(
            f"{_COCO}/annotations/annotations_trainval2017.zip",
            252_907_541,
            "f4bbac642086de4f52a3fdda2de5fa2c",
            keep=("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
        ),
        Archive(f"{_COCO}/zips/val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80"),
        Archive(f"{_COCO}/zips/train2017.zip", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    ),
}


def download(
    name: str,
    out: str | Path,
    *,
    base_url: str | None = None,
    keep_archives: bool = False,
    progress: Progress | None = None,
    attempts: int = 5,
    pause: float = 2.0,
    timeout: float = 30.0,
) -> Path:
    """Downloads a public data set to the folder `out`, in its own format (VOC XML or COCO JSON).

    If it is interrupted, the same call continues: a partial archive is resumed if the server still has the same file,
    and archives that are unpacked are not downloaded again. If another process is using the folder, this one waits.

    Args:
        name: `voc2007`, `voc2012` or `coco2017`.
        out: the folder to create.
        base_url: a mirror that has the archives under their usual names, to use in place of the official address.
        keep_archives: keep the archives in `out/.grcn-download` after unpacking.
        progress: called often, with a description and the number of bytes done and of all bytes.
        attempts: number of consecutive tries without a single byte before it gives up.
        pause: seconds before the second try; doubled for each further try.
        timeout: seconds to wait for data from the server.

    Returns:
        The folder, ready for `open_dataset`.

    Raises:
        ConfigError: on an unknown name or address.
        DataError: if the server cannot be reached or has another file, the disk is full, an archive is damaged or
            has entries that lead outside `out`, or `out` holds something else.
    """
    _check_arguments(name, base_url, attempts)
    out = Path(out)
    state = out / STATE
    with _disk(out):
        if out.exists() and not state.is_dir() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out}: exists and was not made by a download; choose another folder")
        state.mkdir(parents=True, exist_ok=True)
        with locked(state / "lock", str(out)):
            for archive in ARCHIVES[name]:
                done = state / f"{archive.name}.done"
                if done.is_file() and done.read_text(encoding="utf-8") == archive.md5:
                    continue
                file = state / archive.name
                if not file.is_file():
                    url = archive.url if base_url is None else f"{base_url.rstrip('/')}/{archive.name}"
                    _fetch(archive, url, file, progress, attempts, pause, timeout)
                extract(archive, file, out, progress)
                done.write_text(archive.md5, encoding="utf-8")
                if not keep_archives:
                    file.unlink()
    return out


def _check_arguments(name: str, base_url: str | None, attempts: int) -> None:
    if name not in ARCHIVES:
        near = difflib.get_close_matches(name, ARCHIVES, n=1)
        raise ConfigError(f"unknown data set '{name}'; " + (f"did you mean '{near[0]}'?" if near else _known()))
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise ConfigError(f"base_url '{base_url}': needs http:// or https://")
    if attempts < 1:
        raise ConfigError(f"attempts {attempts}: needs 1 or more")


def _known() -> str:
    return "known are " + ", ".join(ARCHIVES)


@contextmanager
def _disk(out: Path) -> Iterator[None]:
    """Converts errors of the file system to errors of one line that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"{out}: no space left on the disk; free some, then try again to continue") from None
        raise DataError(f"{error.filename or out}: {error.strerror or error}") from None


def _need_space(folder: Path, size: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{folder}: {what} needs {_gigabytes(size)}, but only {_gigabytes(free)} are free; free some space or "
            "choose another folder"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


# ------------------------------------------------------------------------------------------------------ fetching


def _fetch(
    archive: Archive,
    url: str,
    file: Path,
    progress: Progress | None,
    attempts: int,
    pause: float,
    timeout: float,
) -> None:
    """Downloads and verifies the archive `file`; while incomplete it is `file.part`, which a later call continues."""
    part = file.with_name(f"{file.name}.part")
    failures = 0
    while (have := _size(part)) != archive.size:
        if have > archive.size:
            part.unlink()
            continue
        _need_space(part.parent, archive.size - have, archive.name)
        try:
            _request(archive, url, part, progress, timeout)
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in (408, 425, 429) and error.code < 500:
                raise DataError(f"{url}: HTTP {error.code} {error.reason}; check the address") from None
            reason = f"HTTP {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        got = _size(part)
        failures = 0 if got > have else failures + 1
        if failures >= attempts:
            raise DataError(
                f"{url}: {reason} (attempts: {attempts}); {got} of {archive.size} bytes are kept, try again to continue"
            )
        if got < archive.size:
            time.sleep(min(pause * 2 ** max(failures - 1, 0), 60.0))
    found = _md5(part, archive, progress)
    if found != archive.md5:
        part.unlink()
        _marks(part).unlink(missing_ok=True)
        raise DataError(
            f"{url}: MD5 {found}, expected {archive.md5}: the download was damaged or the file has changed; it "
            "was deleted, try again"
        )
    part.replace(file)
    _marks(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _marks(part: Path) -> Path:
    """The file that remembers which version on the server a partial archive belongs to."""
    return part.with_name(f"{part.name}.json")


def _request(archive: Archive, url: str, part: Path, progress: Progress | None, timeout: float) -> None:
    """Requests the missing bytes and appends them; starts again from 0 if the server cannot continue."""
    have = _size(part)
    headers = {"User-Agent": "grcn", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        try:
            version = json.loads(_marks(part).read_text(encoding="utf-8"))["version"]
        except (OSError, ValueError, KeyError, TypeError):
            version = None
        if isinstance(version, str):  # the server sends the rest only if the file is still that one (RFC 9110, 13.1.5)
            headers["If-Range"] = version
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
        total = _total(response, have, archive.size)
        if total is None:  # a range other than the one that was asked for
            part.unlink()
            return
        if total != archive.size:
            raise DataError(
                f"{url}: the file has {total} bytes on the server, expected {archive.size}; it is a different file"
            )
        continues = response.status == 206
        etag = response.headers.get("ETag", "")
        version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        _marks(part).write_text(json.dumps({"version": version}), encoding="utf-8")
        done = have if continues else 0
        with part.open("ab" if continues else "wb") as sink:
            while done < archive.size and (chunk := response.read(min(CHUNK, archive.size - done))):
                sink.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(archive.name, done, archive.size)


def _total(response: http.client.HTTPResponse, have: int, expected: int) -> int | None:
    """The size of the whole file on the server, in bytes; None if the range that it sends does not start at `have`."""
    if response.status != 206:
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else expected  # sent in chunks, so the size is known only at the end
    first, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    return int(total) if first.startswith(f"{have}-") and total.isdecimal() else None


def _md5(path: Path, archive: Archive, progress: Progress | None) -> str:
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(f"verify {archive.name}", done, archive.size)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------- extraction


@dataclass(frozen=True)
class _Entry:
    """A regular file in an archive: its path, its size in bytes, and a function that opens it."""

    path: PurePosixPath
    size: int
    open: Callable[[], IO[bytes]]


def extract(archive: Archive, file: Path, out: Path, progress: Progress | None = None) -> None:
    """Unpacks a tar or zip archive into `out`; writes regular files only, and nothing if any entry is not acceptable.

    Owners, modes and times in the archive are ignored.

    Raises:
        DataError: naming the entry, on absolute paths, `..`, links, devices, more files or bytes than an archive of
            this size can reasonably hold, or a damaged archive.
    """
    try:
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as packed:
                _unpack(archive, file, out, list(_zip_entries(packed, file)), progress)
        else:
            with tarfile.open(file, "r:") as tar:
                _unpack(archive, file, out, list(_tar_entries(tar, file)), progress)
    # zipfile raises NotImplementedError on compression it does not know, RuntimeError on encrypted entries.
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{file}: damaged archive: {error}; delete it and try again") from None


def _tar_entries(tar: tarfile.TarFile, file: Path) -> Iterator[_Entry]:
    for member in tar:
        path = _checked(member.name, file)
        if member.isfile():
            yield _Entry(path, member.size, lambda m=member: _opened(tar, m))  # type: ignore[misc]
        elif not member.isdir():
            raise DataError(f"{file}: entry '{member.name}' is a link or device: refused")


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    if stream is None:
        raise tarfile.ReadError(f"entry '{member.name}' has no content")
    return stream


def _zip_entries(packed: zipfile.ZipFile, file: Path) -> Iterator[_Entry]:
    for info in packed.infolist():
        path = _checked(info.filename, file)
        kind = (info.external_attr >> 16) & 0o170000  # the Unix file type, 0 where the archive gives none
        if kind not in (0, 0o100000, 0o040000):
            raise DataError(f"{file}: entry '{info.filename}' is a link or device: refused")
        if not info.is_dir():
            yield _Entry(path, info.file_size, lambda i=info: packed.open(i))  # type: ignore[misc]


def _checked(name: str, file: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.parts[:1] == (STATE,):
        raise DataError(f"{file}: entry {name!r} would overwrite the records of the download: refused")
    # Backslashes and colons are separators and drives on Windows; no data set has them in names.
    if path.is_absolute() or ".." in path.parts or any(c in name for c in "\\:\0"):
        raise DataError(f"{file}: entry {name!r} leads outside the folder: refused")
    return path


def _unpack(archive: Archive, file: Path, out: Path, entries: list[_Entry], progress: Progress | None) -> None:
    limit = MAX_GROWTH * max(archive.size, CHUNK)
    if len(entries) > MAX_FILES:
        raise DataError(f"{file}: {len(entries)} files, more than {MAX_FILES}: refused")
    if sum(entry.size for entry in entries) > limit:
        raise DataError(f"{file}: unpacks to more than {_gigabytes(limit)}: refused")
    wanted = [(path, entry) for entry in entries if (path := _place(archive, entry.path)) is not None]
    total, done = sum(entry.size for _, entry in wanted), 0
    _need_space(out, total, f"unpacking {archive.name}")
    root = out.resolve()
    folders: set[Path] = set()
    for path, entry in wanted:
        target = root / path
        if target.parent not in folders:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.parent.resolve() != target.parent:
                raise DataError(f"{target.parent}: leads through a symbolic link: refused")
            folders.add(target.parent)
        # Write under another name first: a file under its own name is then complete, and no link is followed.
        partial = target.with_name(f"{target.name}.part")
        partial.unlink(missing_ok=True)
        try:
            with entry.open() as source, partial.open("xb") as sink:
                shutil.copyfileobj(source, sink, CHUNK)
            if partial.stat().st_size != entry.size:
                raise DataError(f"{file}: entry '{entry.path}' is cut short; delete the archive and try again")
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        done += entry.size
        if progress is not None:
            progress(f"unpack {archive.name}", done, total)


def _place(archive: Archive, path: PurePosixPath) -> Path | None:
    """The path of an entry in the folder of the data set; None if it is left out."""
    if archive.strip:
        if not path.is_relative_to(archive.strip):
            return None
        path = path.relative_to(archive.strip)
    if archive.keep and not any(path.is_relative_to(keep) for keep in archive.keep):
        return None
    return Path(path) if path.parts else None
