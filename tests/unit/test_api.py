"""The public names: what `import grcn` offers, loaded when first used."""

import subprocess
import sys

import pytest

import grcn


def test_every_public_name_is_there() -> None:
    assert set(grcn.__all__) <= set(dir(grcn))
    for name in grcn.__all__:
        assert getattr(grcn, name) is not None
        assert getattr(grcn, name) is getattr(grcn, name)
    assert len(grcn.__all__) <= 12


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'grcn' has no attribute 'Detektor'"):
        _ = grcn.Detektor


def test_importing_costs_nothing() -> None:
    program = (
        "import sys, grcn; grcn.preset; grcn.TrainConfig; assert 'numpy' not in sys.modules;"
        "grcn.Detections; grcn.open_dataset; assert 'torch' not in sys.modules; print(grcn.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{grcn.__version__}\n", "")


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert grcn.__version__ == version("grcn")
