"""A step's seeds, and the check before its update."""

from types import SimpleNamespace

import pytest
import torch

from grcn.errors import DivergedError
from grcn.training.signals import Stop
from grcn.training.step import LOSSES, StepLosses, step_seed


def test_a_steps_seed_depends_on_all_three_and_is_one_that_torch_takes():
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)
    assert len({step_seed(*seeds) for seeds in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)]}) == 4
    for place in range(20):
        torch.Generator().manual_seed(step_seed(2**31, 10**9, place))


ONE = SimpleNamespace(world_size=1, global_rank=0)


def losses_of(*batches: float) -> StepLosses:
    """Of batches whose losses are all of this value."""
    step = StepLosses()
    for i, value in enumerate(batches):
        batch = SimpleNamespace(origins=[SimpleNamespace(file=f"{i}.jpg")])
        step.add(dict.fromkeys(LOSSES, torch.tensor(value)), batch)
    return step


def test_the_figures_of_a_step_are_means_over_its_batches():
    stop = Stop(asked=15)
    step = losses_of(1.0, 2.0).check(torch.tensor(5.0), ONE, stop, 0, scaled=False)
    assert step == {**dict.fromkeys(LOSSES, 1.5), "grad_norm": 5.0}
    assert stop.agreed == 15


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_images(scaled, value):
    with pytest.raises(DivergedError, match=r"iteration 3: loss_\w+ is (nan|inf).* on images 1\.jpg; nothing"):
        losses_of(1.0, value).check(torch.tensor(5.0), ONE, Stop(), 3, scaled=scaled)


def test_a_gradient_that_is_not_finite_is_left_to_the_scaler_where_there_is_one():
    norm = torch.tensor(float("inf"))
    with pytest.raises(DivergedError, match=r"gradient's norm is inf on images 0\.jpg, 1\.jpg"):
        losses_of(1.0, 2.0).check(norm, ONE, Stop(), 3, scaled=False)
    assert losses_of(1.0, 2.0).check(norm, ONE, Stop(), 3, scaled=True) == dict.fromkeys(LOSSES, 1.5)
