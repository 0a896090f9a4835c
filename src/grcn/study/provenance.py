"""Where a result comes from: the commit of the package, and the files of the data set."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grcn
from grcn.data.files import Root
from grcn.errors import DataError

OF_OTHERS = (".cache", ".db", ".ini", ".md")
"""Suffixes of files that other programs and people leave in the folder of a data set. Readers ignore such files."""


def fingerprint(path: str | Path) -> str:
    """Twelve characters that change with the name, the size or the content of a file, or of any file in a folder.

    Hidden files and files with a suffix in OF_OTHERS do not count. Links that lead out of the folder are not followed,
    because readers of data sets do not follow them either. All files are read completely.

    Raises:
        DataError: if a file cannot be read.
    """
    path, digest = Path(os.path.realpath(path)), hashlib.sha256()
    folder = path.parent if path.is_file() else path
    try:
        for file in [path] if path.is_file() else sorted(_files(path)):
            if file.is_dir():  # a link to another folder
                size, own = 0, os.fsencode(os.readlink(file))
            else:
                with open(file, "rb") as content:
                    own, size = hashlib.file_digest(content, "sha256").digest(), content.tell()
            digest.update(b"%s\0%d\0%s\0" % (os.fsencode(file.relative_to(folder)), size, own))
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()[:12]


def _files(folder: Path) -> Iterator[Path]:
    """Everything that counts in a folder: files, and links to folders."""
    root = Root(folder)
    for parent, folders, names in os.walk(root.path, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (link for name in folders if (link := Path(parent, name)).is_symlink())
        for name in names:
            file = Path(parent, name)
            counts = not name.startswith(".") and file.suffix.lower() not in OF_OTHERS
            if counts and root.holds(file) and file.is_file():
                yield file


def _raise(error: OSError) -> None:
    raise error


@cache  # the code of this process stays the same, even if its files change
def commit() -> str:
    """The commit that last changed the package, with `-dirty` if its files differ; the version if it is not a checkout.

    So commits that only add results or change documentation do not count.
    """
    package = Path(grcn.__file__).parent

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", *words]
        return subprocess.run(command, cwd=package, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", "--", "__init__.py"):  # installed within a checkout of another project
            raise FileNotFoundError
        name = git("log", "-1", "--format=%h", "--abbrev=12", "--", ".")
        return f"{name}-dirty" if git("status", "--porcelain", "--", ".") else name
    except (OSError, subprocess.CalledProcessError):
        return f"grcn {grcn.__version__}"
