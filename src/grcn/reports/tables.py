"""Tables for the terminal, narrow enough for 80 columns, with room for long names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

MOST_ROWS = 100
"""Most rows of a table by class; the other classes are counted."""
HINT = "--json lists all"


def table(names: str, figures: Sequence[str], title: str) -> Table:
    """A table with names on the left and figures on the right. A name that is too long is folded, figures never are.

    Args:
        names: heading of the names.
        figures: headings of the figures.
        title: the line above.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, padding=0, title=Text(title), title_justify="left", show_edge=False)
    made.add_column(names, overflow="fold")
    for heading in figures:
        made.add_column(heading, justify="right", no_wrap=True)
    return made
