"""What figures have in common."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from grcn.fonts import fonts_for


@contextmanager
def figure_fonts(names: Sequence[str]) -> Iterator[None]:
    """Figures that are made and saved meanwhile write names with fonts that have their letters, where there are any."""
    import matplotlib
    from matplotlib.font_manager import FontProperties, fontManager

    families = list(matplotlib.rcParams["font.family"])
    for path in fonts_for(tuple(names)).paths:
        if path not in {font.fname for font in fontManager.ttflist}:
            fontManager.addfont(path)
        families.append(FontProperties(fname=path).get_name())
    with matplotlib.rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        yield
