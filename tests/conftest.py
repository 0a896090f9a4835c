"""Fixtures that every test may use."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

os.environ.setdefault("TRITON_INTERPRET", "1")  # a kernel for a GPU, on CPU tensors; read when Triton is imported
# A busy machine is slow at anything.
settings.register_profile("patient", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets (bccd, deeppcb), or a skip that says how to get them."""
    path = Path(os.environ.get("GRCN_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "bccd").is_dir():
        pytest.skip(f"no data sets at {path}; set GRCN_DATA to the folder that holds bccd and deeppcb")
    return path


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """The folder of published weights, or a skip that says how to get them."""
    path = Path(os.environ.get("GRCN_WEIGHTS", ROOT.parent / "shared" / "weights"))
    if not path.is_dir():
        pytest.skip(
            f"no weights at {path}; set GRCN_WEIGHTS to the folder that holds tf_efficientnet_lite0.safetensors"
        )
    return path


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tests/training_script.py: the tiny run that tests of training share."""
    spec = importlib.util.spec_from_file_location("training_script", ROOT / "tests" / "training_script.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def beach(tmp_path_factory) -> Path:
    """The embedded data set at its smallest: 16 rendered images of 96x72 in VOC's layout; do not change it."""
    from grcn.scenes.generate import generate

    return generate(tmp_path_factory.mktemp("data") / "beach", images=16, size=(96, 72), objects=(1, 3))
