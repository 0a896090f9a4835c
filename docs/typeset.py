"""A hook of mkdocs: figures in tables and short code are marked, so that site.css keeps each in one line."""

from __future__ import annotations

import re
from typing import Any

# `0.93`, `56.2 ± 1.9`, `+0.8 (-9.1 to +10.8)`, `4 of 4`: short, and begins with a digit or its sign.
_FIGURES = re.compile(r"<td(?=[^>]*>[-+(~]?\d[^<]{0,23}</td>)")
_CODE = re.compile(r"<code>(?=[^<]{1,24}</code>)")


def on_page_content(html: str, **_: Any) -> str:
    """The page with the classes that site.css knows."""
    return _CODE.sub('<code class="short">', _FIGURES.sub('<td class="figure"', html))
