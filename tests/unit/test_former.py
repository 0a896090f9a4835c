"""What grcn 0.1.0 wrote, kept in tests/former as it was, is read; what cannot be read is said in one line.

The files there are never written anew. A field that is added has a default that does what was done before.
"""

from __future__ import annotations

import json
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from grcn.cli.train import read_train_config
from grcn.config import DetectorConfig, TrainConfig, differences, from_dict, from_saved, non_defaults, to_dict
from grcn.errors import CheckpointError, ConfigError
from grcn.model.detector import build_detector
from grcn.predict.checkpoint import load_detector
from grcn.training import train
from grcn.training.checkpoint import KEY, check_same, load_state

FORMER = Path(__file__).parents[1] / "former"
HEADER: dict[str, Any] = json.loads((FORMER / "header.json").read_text())
CONFIG: dict[str, Any] = yaml.safe_load((FORMER / "config.yaml").read_text())


def weights_file(path: Path, header: dict[str, Any]) -> Path:
    model = build_detector(from_dict(DetectorConfig, HEADER["config"]), len(HEADER["class_names"]), None)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={"grcn": json.dumps(header)})
    return path


def test_weights_load(tmp_path: Path) -> None:
    loaded = load_detector(weights_file(tmp_path / "best.safetensors", HEADER))
    assert not differences(HEADER["config"], to_dict(loaded.model.config))
    assert (list(loaded.class_names), loaded.preset) == (HEADER["class_names"], HEADER["preset"])


def test_weights_with_a_key_that_is_no_more_are_refused(tmp_path: Path) -> None:
    header = {**HEADER, "config": {**HEADER["config"], "sharing": 1}}
    with pytest.raises(CheckpointError) as caught:
        load_detector(weights_file(tmp_path / "best.safetensors", header))
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/best.safetensors: unknown key 'sharing'")
    assert said.endswith("if another version of grcn wrote it, use that version")
    assert "\n" not in said


def test_a_runs_configuration_is_taken_by_the_command(tmp_path: Path) -> None:
    config = read_train_config(["--config", str(FORMER / "config.yaml")])
    assert not differences(CONFIG, to_dict(config))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "sharing": 1}))
    with pytest.raises(ConfigError, match="unknown key 'sharing'; `grcn train --help` lists the options"):
        read_train_config(["--config", str(tmp_path / "config.yaml")])


def state_of(run: Path, config: dict[str, Any]) -> None:
    """The state in a run folder with another configuration as whose it is."""
    path = run / "checkpoints" / "last.ckpt"
    state = load_state(path)
    state[KEY] = {**state[KEY], "config": config}
    torch.save(state, path)


def test_a_run_resumes(beach: Path, tmp_path: Path) -> None:
    """Also one that was saved before some fields were there, whose defaults do what was done then."""
    config = replace(from_dict(TrainConfig, CONFIG), data=str(beach), out=str(tmp_path / "run"))
    train(config, progress=False)
    again = replace(config, resume=True)
    model = {key: value for key, value in CONFIG["model"].items() if key not in ("dilation", "loc_context")}
    fewer = {key: value for key, value in CONFIG.items() if key not in ("skip_broken", "use_difficult", "augment")}
    for former in (CONFIG, {**fewer, "model": model}):
        state_of(tmp_path / "run", former)
        train(again, progress=False)
    state_of(tmp_path / "run", {**fewer, "model": model, "seed": 1})
    with pytest.raises(CheckpointError, match=r"cannot be resumed as this run: seed 1 -> 0\. Resume"):
        train(again, progress=False)
    with pytest.raises(CheckpointError, match="use_difficult True -> False"):
        train(replace(again, use_difficult=False, seed=1), progress=False)
    state_of(tmp_path / "run", {**CONFIG, "sharing": 1})
    with pytest.raises(CheckpointError, match=r"last\.ckpt: unknown key 'sharing'.*; if another version of grcn wrote"):
        train(again, progress=False)


def test_a_state_without_a_configuration_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"last\.ckpt: TrainConfig: expected keys and values, found None"):
        check_same("last.ckpt", {}, {"config": CONFIG})


def test_a_field_that_is_added_with_a_default_changes_nothing() -> None:
    model = from_dict(DetectorConfig, CONFIG["model"])
    config = replace(from_dict(TrainConfig, CONFIG), model=model)
    later = make_dataclass("Later", [("sharing", int, 0)], bases=(DetectorConfig,), frozen=True)
    run = make_dataclass("LaterRun", [("order", str, "usual")], bases=(TrainConfig,), frozen=True)

    def grown(**added: Any) -> Any:
        values = {each.name: getattr(model, each.name) for each in fields(DetectorConfig)}
        rest = {each.name: getattr(config, each.name) for each in fields(TrainConfig) if each.name != "model"}
        return run(**rest, model=later(**values, **added))

    assert non_defaults(grown()) == non_defaults(config)
    assert non_defaults(grown(sharing=1))["model"] == {**non_defaults(model), "sharing": 1}
    assert non_defaults(DetectorConfig()) == {}
    assert non_defaults(TrainConfig("x")) == {"data": "x"}
    assert from_saved(TrainConfig, {"data": "x", **non_defaults(config)}, "x") == config


@pytest.mark.parametrize(
    ("preset", "reduce", "heads"),
    [
        ("grcn_r18", ["shared"], ["cls", "loc"]),
        ("faster_rcnn_r18_c5", ["shared"], ["shared"]),
        ("faster_rcnn_r18_c4", [], ["shared"]),
    ],
)
def test_parameters_have_the_names_they_had(preset: str, reduce: list[str], heads: list[str]) -> None:
    """A file of weights knows them by name."""
    with torch.device("meta"):
        names = build_detector(preset, 3, None).state_dict().keys()
    layers = {".".join(name.split(".")[:4]) for name in names if name.startswith(("roi.", "rpn."))}
    last = {"conv5"} if preset.endswith("c4") else {"fc6", "fc7"}
    parts = ("weight", "bias")
    assert {name for name in layers if not name.startswith("roi.heads")} == {
        *(f"rpn.{layer}.{part}" for layer in ("conv", "objectness", "deltas") for part in parts),
        *(f"roi.{layer}.{part}" for layer in ("scores", "deltas") for part in parts),
        *(f"roi.reduce.{key}.{part}" for key in reduce for part in parts),
    }
    assert {name for name in layers if name.startswith("roi.heads")} == {
        f"roi.heads.{key}.{layer}" for key in heads for layer in last
    }
