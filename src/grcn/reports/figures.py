"""Code that all figures share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from grcn.fonts import fonts_for


@contextmanager
def figure_fonts(names: Sequence[str]) -> Iterator[None]:
    """Lets figures write names with fonts that have their letters, if there are any.

    A figure has to be made and saved within this context.
    """
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
