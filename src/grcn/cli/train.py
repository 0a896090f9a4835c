"""`grcn train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grcn.config import TrainConfig


def train(argv: Sequence[str]) -> int:
    config = read_train_config(argv)
    from grcn.runtime import tune_cpu
    from grcn.training import train

    tune_cpu()
    out = train(config)
    print(f"{out}: done; next: grcn evaluate {out} --data {config.data}")
    return 0


def read_train_config(argv: Sequence[str]) -> TrainConfig:
    """The configuration of a `grcn train` command line; defaults of `--model.*` are those of the chosen preset.

    Raises:
        ConfigError: on any error in the command line or its file.
    """
    from grcn.cli.parser import Parser
    from grcn.config import AugmentConfig, DetectorConfig, OptimConfig, ScheduleConfig, TrainConfig, to_dict
    from grcn.presets import preset, train_config

    parser = Parser(
        "train",
        "--data DIR [--preset NAME] [--config FILE] [--KEY VALUE ...]",
        "Trains a detector on a folder of labelled images, in any format that `grcn check` reads. The run folder gets "
        "the weights, metrics, logs and the configuration, which --config reads again. Without other options, `grcn` "
        "chooses the detector and the settings for your data and your machine. `grcn models` lists the presets.",
        "grcn train --data photos --preset grcn_r18 --minutes 30 --out runs/photos\n"
        "grcn train --config run.yaml --batch_size 4 --optim.lr 0.01\n"
        "grcn train --config runs/photos/config.yaml --resume true",
    )
    names = {field.name for field in fields(TrainConfig)}
    for title, group in _GROUPS.items():
        parser.add_argument_group(title).add_class_arguments(TrainConfig, as_group=False, skip=names.difference(group))
    parser.add_part(AugmentConfig, "augment", {"augment": "augmentation of the training images"})
    parser.add_part(OptimConfig, "optim", {"optim": "optimizer"})
    parser.add_part(ScheduleConfig, "schedule", {"schedule": "learning rate over the run"})
    parser.add_part(DetectorConfig, "model", _MODEL_GROUPS, default="the preset's")
    # Read twice: the preset, from the command line or the file, sets the defaults of the rest.
    words = [argument for argument in argv if not argument.startswith("--print_config")]
    given = parser.read(words, defaults=False)
    chosen, whole = given.get("preset", "auto"), "model" in given
    if len(words) < len(argv):  # the printed file is complete, and fits in the same way when it is read again
        whole = True
        parser.set_defaults({"fit": "data"} if "model" not in given else {})
    if chosen == "auto" and whole:
        from grcn.training.recipe import choose_preset, read_trained

        trained = read_trained(given.get("weights", "auto"))
        chosen = trained.preset if trained else choose_preset(given.get("accelerator", "auto"))
        base = trained.config if trained else preset(chosen)
        parser.set_defaults({"preset": chosen, "model": to_dict(base)})
    elif chosen != "auto":
        parser.set_defaults({"model": to_dict(preset(chosen))})
    values = parser.read(argv).as_dict()
    if not whole:
        values["model"] = None
    files = values.pop("config") or []
    if values["resume"] and files and not any(argument.split("=")[0] == "--out" for argument in argv):
        # A run continues in the folder where it is now, although its file names the folder where it began.
        folder = Path(str(files[-1])).parent
        if Path(str(files[-1])).name == "config.yaml" and (folder / "classes.txt").is_file():
            values["out"] = str(folder)
    return train_config(values)


_GROUPS = {
    "data": ("data", "format", "train_split", "val_split", "use_difficult", "skip_broken"),
    "detector": ("preset", "weights", "fit"),
    "length of the run (give one)": ("epochs", "iterations", "minutes"),
    "training": ("batch_size", "seed", "precision", "val_every", "patience", "checkpoint_activations"),
    "machine": ("accelerator", "devices", "nodes", "workers"),
    "output": ("out", "resume", "save_every", "loggers"),
}
"""The headings of `--help`, with the fields of `TrainConfig` under each."""

_MODEL_GROUPS = {
    "model": "architecture of the detector",
    "model.rpn": "region proposal network",
    "model.roi": "classification and localization of the proposals",
    "model.input": "size of the images at the detector's input",
}
