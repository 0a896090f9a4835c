"""Sources of `grcn predict`: everything is found once, named uniquely, and results are never taken for sources."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grcn.errors import DataError
from grcn.predict.sources import Source, _name, find_sources


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in (
        "a/x.jpg",
        "a/y.PNG",
        "a/notes.txt",
        "a/.hidden/z.jpg",
        "b/x.jpg",
        "b/deep/x.png",
        "b/clip.mp4",
        "[1].jpg",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*arguments: str, out: str = "out") -> list[tuple[str, str]]:
    return [(str(source), source.name) for source in find_sources(arguments, Path(out))[0]]


def test_folders_are_searched_with_their_subfolders(tree: Path) -> None:
    assert found("a") == [("a/x.jpg", "x"), ("a/y.PNG", "y")]
    assert found("b") == [("b/clip.mp4", "clip"), ("b/deep/x.png", "x"), ("b/x.jpg", "x-2")]
    assert [str(path) for path in find_sources(["a"], Path("out"))[1]] == ["a/notes.txt"]


def test_files_globs_and_standard_input(tree: Path) -> None:
    assert found("a/x.jpg", "-") == [("a/x.jpg", "x"), ("-", "stdin")]
    assert found("*/x.*") == [("a/x.jpg", "x"), ("b/x.jpg", "x-2")]
    assert found("b/**/*.png") == [("b/deep/x.png", "x")]
    assert found("[1].jpg") == [("[1].jpg", "[1]")], "a file's own name comes before a pattern"
    assert found("a/notes.txt") == [("a/notes.txt", "notes")], "what is named by itself is tried, whatever its suffix"


def test_a_file_named_twice_is_one_source(tree: Path) -> None:
    (tree / "link.jpg").symlink_to(tree / "a" / "x.jpg")
    assert found("a/x.jpg", "a", "./a/../a/x.jpg", "link.jpg", "-", "-") == [
        ("a/x.jpg", "x"),
        ("a/y.PNG", "y"),
        ("-", "stdin"),
    ]


def test_videos_are_told_by_suffix(tree: Path) -> None:
    assert [source.is_video for source in find_sources(["b"], Path("out"))[0]] == [True, False, False]
    assert not Source(None, "stdin").is_video


def test_results_are_no_sources(tree: Path) -> None:
    for folder in ("drawn", "voc/JPEGImages"):
        (tree / "a" / folder).mkdir(parents=True)
        (tree / "a" / folder / "x.jpg").write_bytes(b"")
    assert found("a", out="a") == [("a/x.jpg", "x"), ("a/y.PNG", "y")]
    with pytest.raises(DataError, match=r"a/drawn/x\.jpg: would be overwritten by the results"):
        found("a/drawn/x.jpg", out="a")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("absent.jpg", r"absent\.jpg: no such file or folder"),
        ("*.tiff", r"\*\.tiff: no file matches"),
        ("a/.hidden/*.png", "no file matches"),
        ("empty", r"empty: no image or video in this folder \(1 other files\)$"),
        (
            "raw",
            r"raw: no image or video in this folder \(1 other files\); b.CR2: a photo of a kind that is not read",
        ),
    ],
)
def test_what_stands_for_nothing_is_said(tree: Path, argument: str, message: str) -> None:
    (tree / "empty").mkdir()
    (tree / "empty" / "readme.md").write_bytes(b"")
    (tree / "raw").mkdir()
    (tree / "raw" / "b.CR2").write_bytes(b"")
    with pytest.raises(DataError, match=message):
        found("a/x.jpg", argument)


@pytest.mark.parametrize("as_arguments", [True, False])
def test_thousands_are_found_in_linear_time(tree: Path, monkeypatch: pytest.MonkeyPatch, as_arguments: bool) -> None:
    """Each file's path is resolved a few times, however many there are; a count, since time depends on the machine."""
    count = 300
    for i in range(count):
        (tree / "many" / str(i)).mkdir(parents=True)
        (tree / "many" / str(i) / "x.jpg").write_bytes(b"")
    calls = 0
    resolve = Path.resolve

    def counted(self: Path) -> Path:
        nonlocal calls
        calls += 1
        return resolve(self)

    monkeypatch.setattr(Path, "resolve", counted)
    names = found(*(f"many/{i}/x.jpg" for i in range(count)) if as_arguments else ["many"])
    assert len({name for _, name in names}) == count
    assert calls <= 3 * count


@given(st.lists(st.sampled_from(["a", "A", "a-2", "A-2", "a-3", "b c", "b_c", "ß", "SS", "-"]), max_size=12))
def test_names_are_unique_in_any_letter_case(stems: list[str]) -> None:
    names = [
        source.name for source in _name([None if s == "-" else Path(f"{i}", f"{s}.jpg") for i, s in enumerate(stems)])
    ]
    assert len({name.casefold() for name in names}) == len(stems)
    assert all(" " not in name and "/" not in name for name in names)


def test_a_stem_of_thousands_is_numbered_in_linear_time() -> None:
    """20,000 take 0.1 s; looking for a free number from 1 each time, a minute."""
    started = time.process_time()
    names = [source.name for source in _name([Path(f"{i}", "x.jpg") for i in range(20_000)])]
    assert names[::19_999] == ["x", "x-20000"]
    assert time.process_time() - started < 10
