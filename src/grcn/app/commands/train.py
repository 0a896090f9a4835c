"""`grcn train`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grcn.config import TrainConfig


def train(words: Sequence[str]) -> int:
    config = read_train_config(words)
    from grcn.training import train

    out = train(config)
    print(f"{out}: done; next: grcn evaluate {out} --data {config.data}")
    return 0


def read_train_config(words: Sequence[str]) -> TrainConfig:
    """The configuration of a `grcn train` command line; `--model.*` default to the chosen preset's values.

    Raises:
        ConfigError: on whatever is wrong with it.
    """
    from grcn.app.options import Parser
    from grcn.config import TrainConfig, from_dict, to_dict
    from grcn.presets import preset

    parser = Parser(
        "train",
        "--data DIR [--preset NAME] [--config FILE] [--KEY VALUE ...]",
        "Trains a detector on a folder of labelled images: PASCAL VOC, COCO, YOLO or Label Studio. The run folder gets "
        "weights, metrics, logs and the configuration, which --config takes again. `grcn models` lists the presets.",
        "grcn train --data photos --preset grcn_r18 --minutes 30 --out runs/photos\n"
        "grcn train --config run.yaml --model.cls_stride 16 --optim.lr 0.01\n"
        "grcn train --config runs/photos/config.yaml --resume true",
    )
    parser.add_class_arguments(TrainConfig)
    # Read twice: the preset, from the command line or the file, sets the defaults of the rest.
    chosen = parser.read([word for word in words if not word.startswith("--print_config")]).preset
    parser.set_defaults({"model": to_dict(preset(chosen))})
    values = parser.read(words).as_dict()
    del values["config"]
    return from_dict(TrainConfig, values)
