"""Names are drawn by fonts that have their letters, wherever these are, or by their number."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest

from grcn import fonts

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
HIEROGLYPH, PRIVATE, UNASSIGNED = "\U00013000", "\ue123", "\u0378"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The one folder in which the system keeps fonts; it is empty. What was found before is forgotten."""
    folder = tmp_path / "fonts"
    folder.mkdir()
    monkeypatch.setattr(fonts, "_folders", lambda: [str(folder)])
    fonts.fonts_for.cache_clear()
    fonts.drawable.cache_clear()
    yield folder
    fonts.fonts_for.cache_clear()
    fonts.drawable.cache_clear()


def test_plain_names_need_no_file() -> None:
    names = ("cat", "a 2nd dog")
    found = fonts.fonts_for(names)
    assert found.lacking == frozenset()
    assert [found.path(name) for name in names] == ["", ""], "Pillow's own font"
    assert fonts.drawable(names) == names
    assert fonts.note(names) is None


def test_other_letters_come_from_matplotlibs_font() -> None:
    names = ("cat", "собака", "γάτα")
    found = fonts.fonts_for(names)
    assert found.paths == [str(DEJAVU)]
    assert (found.path("cat"), found.path("собака")) == ("", str(DEJAVU))
    assert fonts.drawable(names) == names


def test_fonts_of_the_system_are_searched_where_there_is_no_matplotlib(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "find_spec", lambda name: None)
    assert fonts.drawable(("cat", "собака")) == ("cat", "class 1")
    (own_folders / "deep").mkdir()
    for name in ("A-Bold.ttf", "B.TTF", "notes.txt"):
        shutil.copy(DEJAVU, own_folders / "deep" / name)
    (own_folders / "0.ttf").write_bytes(b"no font")
    (own_folders / "1.otf").write_bytes(DEJAVU.read_bytes()[:1000])
    fonts.fonts_for.cache_clear()
    fonts.drawable.cache_clear()
    assert fonts.fonts_for(("собака",)).paths == [str(own_folders / "deep" / "B.TTF")], "whole, and upright first"
    assert fonts.drawable(("cat", "собака")) == ("cat", "собака")


def test_letters_that_no_font_has_are_told() -> None:
    names = ("cat", f"a{HIEROGLYPH}", f"b{PRIVATE}\n", f"c{UNASSIGNED}", HIEROGLYPH)
    assert fonts.fonts_for(names).lacking == {HIEROGLYPH, PRIVATE, UNASSIGNED}
    assert fonts.drawable(names) == ("cat", "class 1", "class 2", "class 3", "class 4")
    assert str(fonts.note(names)).startswith(
        f"no font on this system has the letters of {names[1]}, b{PRIVATE}, {names[3]}, ...: pictures show the class"
    )


def test_names_are_drawn_in_one_line_and_composed() -> None:
    assert fonts.clean("cafe\u0301\r\n  au\tlait ") == "café au lait"
    assert fonts.drawable(("cafe\u0301\n", "zero\u200bwidth")) == ("café", "zero\u200bwidth")
    assert fonts.note(("cafe\u0301\n", " \n")) is None


def test_a_search_has_an_end(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "find_spec", lambda name: None)
    monkeypatch.setattr(fonts, "MAX_FONTS", 3)
    for i in range(3):
        (own_folders / f"{i}.ttf").write_bytes(b"no font")
    shutil.copy(DEJAVU, own_folders / "9.ttf")
    assert fonts.fonts_for(("собака",)).paths == []
