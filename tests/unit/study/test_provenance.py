import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import grcn
from grcn.errors import DataError
from grcn.study.provenance import commit, fingerprint


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name, content in {
        "images/a.jpg": "aa",
        "images/b.jpg": "b",
        "labels/a.txt": "0 1",
        "classes.txt": "cat",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "images/a.jpg").write_text("ab"),
        lambda f: (f / "labels/a.txt").write_text("1 1"),
        lambda f: (f / "images/a.jpg").write_text("aaa"),
        lambda f: (f / "images/a.jpg").rename(f / "images/c.jpg"),
        lambda f: (f / "images/a.jpg").rename(f / "a.jpg"),
        lambda f: (f / "images/b.jpg").unlink(),
        lambda f: (f / "images/c.JPG").write_bytes(b""),
        lambda f: (f / "images/without suffix").write_bytes(b""),
        lambda f: (f / "more").symlink_to("images"),
        lambda f: (f / "images/c.jpg").symlink_to("a.jpg"),
        lambda f: os.replace(shutil.copy(f / "images/b.jpg", f / "x"), f / "images/a.jpg"),
    ],
)
def test_a_name_a_size_or_a_content_changes_it(photos: Path, change: Callable[[Path], object]) -> None:
    before = fingerprint(photos)
    assert fingerprint(photos) == before
    change(photos)
    assert fingerprint(photos) != before


def test_where_the_folder_lies_and_what_others_leave_in_it_changes_nothing(photos: Path, tmp_path: Path) -> None:
    before = fingerprint(photos)
    (photos / ".git").mkdir()
    (photos / ".git/HEAD").write_text("x")
    for name in (".DS_Store", "Thumbs.db", "labels/a.cache", "README.md", "desktop.ini"):
        (photos / name).write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret.txt").write_text("x")
    (photos / "secret.txt").symlink_to(tmp_path / "elsewhere/secret.txt")
    (photos / "gone.txt").symlink_to("nowhere")
    os.mkfifo(photos / "pipe.txt")  # to open it would wait for ever
    assert fingerprint(photos) == before
    assert fingerprint(photos.rename(tmp_path / "moved")) == before
    (tmp_path / "link").symlink_to("moved")
    assert fingerprint(tmp_path / "link") == before


def test_a_link_to_another_folder_counts_by_where_it_leads(photos: Path) -> None:
    (photos / "v1").mkdir()
    (photos / "v2").mkdir()
    (photos / "current").symlink_to("v1")
    before = fingerprint(photos)
    (photos / "current").unlink()
    (photos / "current").symlink_to("v2")
    assert fingerprint(photos) != before


def test_of_one_file(photos: Path) -> None:
    before = fingerprint(photos / "classes.txt")
    (photos / "classes.txt").write_text("dog")
    assert fingerprint(photos / "classes.txt") != before


def test_what_cannot_be_read_is_said(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(photos / "classes.txt"))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=r"classes\.txt: cannot be read: Permission denied"):
        fingerprint(photos)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of some project with a package in it that stands for grcn, in no commit yet."""
    package = tmp_path / "src" / "grcn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    (tmp_path / "README.md").write_text("x")
    git(tmp_path, "add", "README.md")
    save(tmp_path)
    monkeypatch.setattr(grcn, "__file__", str(package / "__init__.py"))
    return tmp_path


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b")
    return subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def save(checkout: Path) -> str:
    """Commits what is added; returns the commit's name."""
    git(checkout, "commit", "-qm", "x")
    return git(checkout, "rev-parse", "--short=12", "HEAD").strip()


def test_the_commit_is_the_last_one_of_the_package(checkout: Path) -> None:
    now = commit.__wrapped__
    assert now() == f"grcn {grcn.__version__}", "in a checkout of something else"
    git(checkout, "add", "src")
    first = save(checkout)
    assert now() == first
    (checkout / "README.md").write_text("y")
    assert now() == first
    git(checkout, "add", "README.md")
    assert save(checkout) != first
    assert now() == first, "documentation is no code"
    (checkout / "src/grcn/new.py").write_text("")
    assert now() == f"{first}-dirty"
    git(checkout, "add", "src")
    assert now() == f"{first}-dirty"
    assert now() != save(checkout) == now() != first


def test_without_git_it_is_the_version(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert commit.__wrapped__() == f"grcn {grcn.__version__}"


def test_without_a_checkout_it_is_the_version(checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")
    assert commit.__wrapped__() == f"grcn {grcn.__version__}"
