"""The colours of all drawings, plots and pages."""

from __future__ import annotations

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart by every kind of colour vision. Their yellow is left out: paper swallows it."""
