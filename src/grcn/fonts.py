"""Fonts that have the letters of names: Pillow's own, matplotlib's where it is installed, those of the system.

None comes with the package: one with the letters of Chinese, Japanese and Korean alone has 16 MB, and the systems of
those who use such names have one.
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
"""Fonts of the system that are looked into; a search of so many takes a second or two."""
ALWAYS = "…0123456789. abcdefghijklmnopqrstuvwxyz"
"""What is drawn beside names."""


@dataclass(frozen=True)
class Fonts:
    """Fonts for some names.

    Args:
        letters: what each has of the names' letters, by its path; an empty path is Pillow's own font.
        lacking: letters that none of them has.
    """

    letters: tuple[tuple[str, frozenset[str]], ...]
    lacking: frozenset[str]

    @property
    def paths(self) -> list[str]:
        """Of the fonts that are files."""
        return [path for path, _ in self.letters if path]

    def path(self, text: str) -> str:
        """Of the font that has most letters of a text, the first where several have."""
        wanted = _letters([text])
        return max(self.letters, key=lambda font: len(font[1] & wanted))[0]

    def can_draw(self, text: str) -> bool:
        """Whether one of them has every letter of a text."""
        wanted = _letters([text])
        return any(wanted <= letters for _, letters in self.letters)


@lru_cache(maxsize=16)
def drawable(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names as they can be drawn: those of which no font has the letters by their number, as `class 3`."""
    fonts = fonts_for(names)
    return tuple(clean(name) if fonts.can_draw(name) else f"class {number}" for number, name in enumerate(names))


def note(names: tuple[str, ...]) -> str | None:
    """What to tell where pictures call classes by their number; None where they do not."""
    if changed := [clean(name) for name, drawn in zip(names, drawable(names), strict=True) if clean(name) != drawn]:
        listed = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
        return (
            f"no font on this system has the letters of {listed}: pictures have the class's number instead; install "
            "one, such as Noto Sans CJK for Chinese, Japanese and Korean"
        )
    return None


def clean(name: str) -> str:
    """A name in one line, its letters composed with their accents, as fonts have them."""
    return " ".join(unicodedata.normalize("NFC", name).split())


@lru_cache(maxsize=16)
def fonts_for(names: tuple[str, ...]) -> Fonts:
    """The fonts that together have the most of the names' letters, as few as come to it in the order of `_files`."""
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
    """A font; an empty path is Pillow's own.

    Raises:
        OSError: if the file is none, or has no letters of this size.
    """
    return ImageFont.truetype(path, size) if path else cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def _letters(texts: Iterable[str]) -> frozenset[str]:
    """What of the texts leaves something to see: no spaces, no control characters."""
    letters = frozenset().union(*map(clean, texts))
    unseen = ("Zs", "Zl", "Zp", "Cc", "Cf", "Cs")
    return frozenset(letter for letter in letters if unicodedata.category(letter) not in unseen)


def _missing(path: str, letters: frozenset[str]) -> frozenset[str]:
    """The letters in whose place a font draws what it draws for those that it lacks."""
    try:
        font = ImageFont.truetype(path, 24, layout_engine=ImageFont.Layout.BASIC) if path else load("", 24)
        nothing = _drawn(font, "\uffff")  # no letter, for good
        return frozenset(letter for letter in letters if _drawn(font, letter) in (nothing, (0, 0, b"")))
    except (OSError, ValueError):  # broken, or of pictures in one size alone
        return letters


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple[int, int, bytes]:
    mask = font.getmask(letter)
    return *mask.size, bytes(mask)


def _files() -> Iterator[str]:
    """Pillow's font, matplotlib's, then the system's: upright ones of regular weight first."""
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
    """Where the system keeps its fonts."""
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", home)
        return [os.path.join(os.environ.get("WINDIR", r"C:\Windows"), "Fonts"), rf"{local}\Microsoft\Windows\Fonts"]
    if sys.platform == "darwin":
        return ["/System/Library/Fonts", "/Library/Fonts", f"{home}/Library/Fonts"]
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
    return [*(os.path.join(folder, "fonts") for folder in (*shared.split(":"), own)), f"{home}/.fonts"]
