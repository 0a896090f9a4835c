"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets (bccd, deeppcb), or a skip that says how to get them."""
    path = Path(os.environ.get("GRCN_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "bccd").is_dir():
        pytest.skip(f"no data sets at {path}; set GRCN_DATA to the folder that holds bccd and deeppcb")
    return path
