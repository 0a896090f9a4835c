"""State files: atomic, restricted, and only for the run they belong to."""

import os
import pickle
from dataclasses import replace

import pytest
import torch

from grcn.config import AugmentConfig, from_dict, to_dict
from grcn.data.dataset import open_dataset
from grcn.errors import CheckpointError
from grcn.training.checkpoint import KEY, check_same, fingerprint, identity, load_state, save_state

STATE = {KEY: {"config": {}}, "state_dict": {"weight": torch.arange(1000.0)}, "global_step": 3}


class Hostile:
    """Runs a command when unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_state_comes_back_as_it_was(tmp_path):
    save_state(tmp_path / "a" / "last.ckpt", STATE)
    for mapped in (False, True):
        state = load_state(tmp_path / "a" / "last.ckpt", mapped=mapped)
        assert torch.equal(state["state_dict"]["weight"], STATE["state_dict"]["weight"])
        assert state["global_step"] == 3
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("how", ["pickle", "torch", "legacy"])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_hostile_state_is_refused_and_nothing_is_executed(tmp_path, how, mapped):
    path, trace = tmp_path / "last.ckpt", tmp_path / "executed"
    state = {**STATE, "callbacks": Hostile(f"touch {trace}")}
    if how == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointError, match=r"last\.ckpt: refused") as caught:
        load_state(path, mapped=mapped)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_torn_missing_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    with pytest.raises(CheckpointError, match="no such file"):
        load_state(path)
    torch.save(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="refused"):
        load_state(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="not a training state of grcn"):
        load_state(path)


def test_the_state_of_the_former_loop_is_read_as_this_ones(tmp_path):
    """As lightning's Trainer had it; the average's count of steps is that of the run, from 1."""
    weights = {"model.w": torch.ones(2), "ema.model.w": torch.zeros(2)}
    former = {
        KEY: {"config": {}},
        "global_step": 3,
        "state_dict": weights,
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "loops": {},
        "callbacks": {"Journal": {"sums": {}, "count": 0}, "Validation": {"last_iteration": 2}},
    }
    torch.save(former, tmp_path / "last.ckpt")
    state = load_state(tmp_path / "last.ckpt")
    assert set(state["state_dict"]) == {"model.w", "ema.module.w", "ema.n_averaged"}
    assert int(state["state_dict"]["ema.n_averaged"]) == 4
    assert state["optimizer"] == {"state": {}, "param_groups": []}
    assert state["validation"] == {"last_iteration": 2}
    assert state["figures"] == {"sums": {}, "count": 0}
    assert state["scaler"] == {}
    del former["callbacks"]
    torch.save(former, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="not a training state of grcn"):
        load_state(tmp_path / "last.ckpt")


def test_every_difference_is_listed(tiny, beach, tmp_path):
    data = open_dataset(beach, split="train")
    config = tiny.tiny_config(beach, tmp_path)
    saved = identity(config, data)
    other_data = replace(data, records=data.records[:-1], class_names=(*data.class_names[:-1], "whale"))
    other = replace(
        config,
        preset="grcn_r50",
        batch_size=4,
        model=replace(config.model, cls_stride=8, loc_stride=8),
        optim=replace(config.optim, lr=0.5),
        augment=AugmentConfig(scale_jitter=(0.8, 1.2)),
    )
    with pytest.raises(CheckpointError) as caught:
        check_same("last.ckpt", saved, identity(other, other_data))
    for part in (
        "preset faster_rcnn_r18_c5 -> grcn_r50",
        "batch_size 2 -> 4",
        "model.cls_stride 16 -> 8",
        "optim.lr 0.02 -> 0.5",
        "augment.scale_jitter 1.0, 1.0 -> 0.8, 1.2",
        "classes ",
        "whale",
        f"data.images {len(data)} -> {len(data) - 1}",
        "data.digest",
    ):
        assert part in str(caught.value)
    assert "workers" not in str(caught.value)


def test_what_changes_no_weight_may_differ(tiny, beach, tmp_path):
    data = open_dataset(beach, split="train")
    config = tiny.tiny_config(beach, tmp_path)
    moved = replace(
        config, data="elsewhere", out="there", workers=4, devices=2, val_every=1, save_every=1, patience=3, resume=True
    )
    check_same("last.ckpt", identity(config, data), identity(moved, data))


def test_an_identity_is_plain_values_that_survive_a_state_file(tiny, beach, tmp_path):
    data = open_dataset(beach, split="train")
    config = tiny.tiny_config(beach, tmp_path)
    saved = identity(config, data)
    torch.save({**STATE, KEY: saved}, tmp_path / "x.ckpt")
    assert load_state(tmp_path / "x.ckpt")[KEY] == saved
    assert from_dict(type(config), saved["config"]) == config
    assert saved["config"] == to_dict(config)


def test_the_fingerprint_sees_boxes_and_labels_not_paths(beach, tmp_path):
    data = open_dataset(beach, split="train")
    before = fingerprint(data)
    record = next(r for r in data.records if len(r.target))
    moved = replace(data, records=tuple(replace(r, path=tmp_path / r.path.name) for r in data.records))
    assert fingerprint(moved) == before
    for change in ({"boxes": record.target.boxes + 1}, {"labels": (record.target.labels + 1) % 6}):
        changed = replace(record, target=replace(record.target, **change))
        records = tuple(changed if r is record else r for r in data.records)
        assert fingerprint(replace(data, records=records)) != before
