"""G-RCN and Faster R-CNN object detectors for PyTorch.

The public names below are loaded when they are first used, so that `import grcn` and `grcn --help` are fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grcn.config import DetectorConfig, TrainConfig
    from grcn.data.dataset import open_dataset
    from grcn.errors import GrcnError
    from grcn.evaluation import evaluate
    from grcn.model.detector import build_detector
    from grcn.predict.detector import Detector
    from grcn.presets import PRESETS, preset
    from grcn.training import train
    from grcn.types import Detections, Target

__version__ = "0.1.0"

_HOMES = {
    "Detections": "grcn.types",
    "Detector": "grcn.predict.detector",
    "DetectorConfig": "grcn.config",
    "GrcnError": "grcn.errors",
    "PRESETS": "grcn.presets",
    "Target": "grcn.types",
    "TrainConfig": "grcn.config",
    "build_detector": "grcn.model.detector",
    "evaluate": "grcn.evaluation",
    "open_dataset": "grcn.data.dataset",
    "preset": "grcn.presets",
    "train": "grcn.training",
}

__all__ = [
    "PRESETS",
    "Detections",
    "Detector",
    "DetectorConfig",
    "GrcnError",
    "Target",
    "TrainConfig",
    "build_detector",
    "evaluate",
    "open_dataset",
    "preset",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'grcn' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
