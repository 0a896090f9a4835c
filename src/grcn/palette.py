"""The colours of all drawings, plots and pages."""

from __future__ import annotations

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The colours of Okabe and Ito, which people with any kind of colour vision can tell apart.

Their yellow is left out because it is hard to see on white."""
