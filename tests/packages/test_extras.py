"""Each extra installed alone is enough for the commands that need it."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import install


def test_each_extra_has_a_trial() -> None:
    declared = tomllib.loads((install.ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(install.TRIALS) == {"core", *declared} - {"docs", "dev"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    install.prepare(folder)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "environment"
    shutil.rmtree(tmp_path / "environment", ignore_errors=True)  # up to 7 GB, which pytest would keep


@pytest.mark.slow
@pytest.mark.parametrize("extra", install.TRIALS)
def test_an_extra_alone(extra: str, prepared: Path, environment: Path, tmp_path: Path) -> None:
    uv = shutil.which(os.environ.get("UV", "uv"))
    if uv is None:
        pytest.skip("no uv on PATH; UV names another place")
    work = shutil.copytree(prepared, tmp_path / "work")
    figures = install.install(extra, environment, uv)
    figures["trial_seconds"] = install.try_out(extra, environment, work)
    print(f"{extra}: " + ", ".join(f"{key} {value:.1f}" for key, value in figures.items()))
    assert figures["wheels"] < 60 or extra != "core", "a core without torch is small"
