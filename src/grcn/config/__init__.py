"""The configuration: frozen dataclasses with plain values only (no torch), so that they can be written as YAML.

`DetectorConfig` describes every detector of the package; `grcn.presets` names the useful ones.
"""

from grcn.config.detector import (
    Context,
    DetectorConfig,
    Head,
    InputConfig,
    Norm,
    Optimization,
    RoIConfig,
    RPNConfig,
    Separation,
    Stride,
    branch_strides,
    rpn_stride,
    trunk_stride,
)
from grcn.config.fields import (
    FREE_TEXT,
    Bounds,
    NotNegative,
    Text,
    check_fields,
    differences,
    from_dict,
    from_saved,
    merged,
    non_defaults,
    to_dict,
)
from grcn.config.prediction import Tiles
from grcn.config.serving import Score, ScoreChoice, ServeLimits
from grcn.config.training import AugmentConfig, OptimConfig, ReadFormat, ScheduleConfig, TrainConfig, WrittenFormat

__all__ = [
    "FREE_TEXT",
    "AugmentConfig",
    "Bounds",
    "Context",
    "DetectorConfig",
    "Head",
    "InputConfig",
    "Norm",
    "NotNegative",
    "OptimConfig",
    "Optimization",
    "RPNConfig",
    "ReadFormat",
    "RoIConfig",
    "ScheduleConfig",
    "Score",
    "ScoreChoice",
    "Separation",
    "ServeLimits",
    "Stride",
    "Text",
    "Tiles",
    "TrainConfig",
    "WrittenFormat",
    "branch_strides",
    "check_fields",
    "differences",
    "from_dict",
    "from_saved",
    "merged",
    "non_defaults",
    "rpn_stride",
    "to_dict",
    "trunk_stride",
]
