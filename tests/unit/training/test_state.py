"""What changes in a run: its update, the scaler of fp16, and what a resumed run loads."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from grcn.model.detector import build_detector
from grcn.training.state import State


@pytest.fixture
def make(tiny, tmp_path):
    def state(**changes) -> State:
        torch.manual_seed(0)
        config = tiny.tiny_config("data", tmp_path, **changes)
        return State(build_detector(tiny.tiny_model(), 2, None), config, torch.device("cpu"))

    return state


def step(state: State, factor: float) -> float:
    """A step whose gradients are all `factor`; the scale of the losses after it."""
    loss = factor * sum(p.sum() for p in state.model.parameters() if p.requires_grad)
    state.scaler.scale(loss).backward()
    state.scaler.unscale_(state.optimizer)
    state.update()
    return state.scaler.get_scale()


def weights(state: State) -> list[torch.Tensor]:
    return [p.detach().clone() for p in state.model.parameters()]


def test_gradients_that_overflow_in_fp16_are_skipped_and_the_scaler_is_resumed(make):
    state = make(precision="fp16")
    initial = weights(state)
    assert step(state, 1e-3) == 65536.0
    moved = weights(state)
    assert not all(torch.equal(a, b) for a, b in zip(initial, moved, strict=True))
    assert step(state, 1e37) == 32768.0
    assert all(torch.equal(a, b) for a, b in zip(moved, weights(state), strict=True))
    assert all(p.grad is None for p in state.model.parameters())
    assert state.iteration == 2
    again = make(precision="fp16")
    again.load_state_dict(deepcopy(state.state_dict()))
    assert (again.iteration, again.scaler.get_scale()) == (2, 32768.0)
    assert step(again, 1e-3) == step(state, 1e-3)
    assert all(torch.equal(a, b) for a, b in zip(weights(again), weights(state), strict=True))


def test_in_other_precisions_there_is_no_scaler(make):
    state = make()
    step(state, 1e-3)
    assert state.state_dict()["scaler"] == {}


def test_the_average_is_what_is_kept_where_there_is_one(make, tiny):
    state = make()
    assert state.best_model is state.average.module
    state = make(optim=replace(tiny.tiny_config("data", "out").optim, ema=0.0))
    assert state.best_model is state.model
