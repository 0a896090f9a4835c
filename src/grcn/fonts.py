"""Finds fonts that have the letters of class names: Pillow's own font, matplotlib's if installed, and the system's.

The package brings no font. A font for Chinese, Japanese and Korean alone takes 16 MB, and people who use such names
have one on their system.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from PIL import ImageFont

SUFFIXES = (".ttf", ".otf", ".ttc")
MAX_FONTS = 2000
"""Most system fonts that are examined, which takes a second or two."""
ALWAYS = "…0123456789. abcdefghijklmnopqrstuvwxyz"
"""Characters that are drawn beside names."""


@dataclass(frozen=True)
class Fonts:
    """Fonts for some names.

    Args:
        letters: the path of each font, and which of the names' letters it has; an empty path is Pillow's own font.
        lacking: letters that none of the fonts has.
    """

    letters: tuple[tuple[str, frozenset[str]], ...]
    lacking: frozenset[str]

    @property
    def paths(self) -> list[str]:
        """The paths of the fonts that are files."""
        return [path for path, _ in self.letters if path]

    def path(self, text: str) -> str:
        """The path of the font that has the most letters of a text; on a tie, the first."""
        wanted = _letters([text])
        return max(self.letters, key=lambda font: len(font[1] & wanted))[0]

    def can_draw(self, text: str) -> bool:
        """Whether one of the fonts has every letter of a text."""
        wanted = _letters([text])
        return any(wanted <= letters for _, letters in self.letters)


@lru_cache(maxsize=16)
def drawable(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names as they can be drawn. If no font has all letters of a name, its number is used instead: `class 3`."""
    fonts = fonts_for(names)
    return tuple(clean(name) if fonts.can_draw(name) else f"class {number}" for number, name in enumerate(names))


def note(names: tuple[str, ...]) -> str | None:
    """A hint for the user if pictures show class numbers instead of names; None if they show all names."""
    if changed := [clean(name) for name, drawn in zip(names, drawable(names), strict=True) if clean(name) != drawn]:
        listed = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
        return (
            f"no font on this system has the letters of {listed}: pictures show the class number instead; install a "
            "font that has them, such as Noto Sans CJK for Chinese, Japanese and Korean"
        )
    return None


def clean(name: str) -> str:
    """A name in one line, with letters and accents composed into one character, as fonts have them."""
    return " ".join(unicodedata.normalize("NFC", name).split())


@lru_cache(maxsize=16)
def fonts_for(names: tuple[str, ...]) -> Fonts:
    """The fonts that together have the most letters of the names. Each adds letters to those before it in `_files`."""
    wanted = _letters([*names, ALWAYS])
    found: list[tuple[str, frozenset[str]]] = []
    lacking = wanted
    for path in _files():
        has = wanted - _missing(path, wanted)
        if has & lacking:
            found.append((path, has))
            lacking -= has
        if not lacking:
            break
    return Fonts(tuple(found), lacking)


@lru_cache(maxsize=64)
def load(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Loads a font; an empty path is Pillow's own.

    Raises:
        OSError: if the file is not a font, or has no letters of this size.
    """
    return ImageFont.truetype(path, size) if path else cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def _letters(texts: Iterable[str]) -> frozenset[str]:
    """The visible characters of the texts, without spaces and control characters."""
    letters = frozenset().union(*map(clean, texts))
    unseen = ("Zs", "Zl", "Zp", "Cc", "Cf", "Cs")
    return frozenset(letter for letter in letters if unicodedata.category(letter) not in unseen)


def _missing(path: str, letters: frozenset[str]) -> frozenset[str]:
    """The letters that a font lacks: it draws them like a character that does not exist."""
    try:
        font = ImageFont.truetype(path, 24, layout_engine=ImageFont.Layout.BASIC) if path else load("", 24)
        nothing = _drawn(font, "\uffff")  # will never be a character
        return frozenset(letter for letter in letters if _drawn(font, letter) in (nothing, (0, 0, b"")))
    except (OSError, ValueError):  # broken, or made of pictures in a single size
        return letters


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple[int, int, bytes]:
    mask = font.getmask(letter)
    return *mask.size, bytes(mask)


def _files() -> Iterator[str]:
    """The paths of Pillow's font, matplotlib's, and the system's. Of the last, upright regular fonts come first."""
    yield ""
    if (package := find_spec("matplotlib")) and package.origin:
        yield str(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
    found = [
        os.path.join(folder, name)
        for top in _folders()
        for folder, _, names in os.walk(top)
        for name in names
        if name.lower().endswith(SUFFIXES)
    ]
    odd = ("bold", "italic", "oblique", "mono", "serif", "light", "thin", "black", "condensed")
    yield from sorted(found, key=lambda path: (any(word in os.path.basename(path).lower() for word in odd), path))[
        :MAX_FONTS
    ]


def _folders() -> list[str]:
    """The folders in which the system keeps its fonts."""
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", home)
        return [os.path.join(os.environ.get("WINDIR", r"C:\Windows"), "Fonts"), rf"{local}\Microsoft\Windows\Fonts"]
    if sys.platform == "darwin":
        return ["/System/Library/Fonts", "/Library/Fonts", f"{home}/Library/Fonts"]
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
    return [*(os.path.join(folder, "fonts") for folder in (*shared.split(":"), own)), f"{home}/.fonts"]
