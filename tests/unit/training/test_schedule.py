"""The learning rate as a function of the iteration."""

import pytest

from grcn.config import OptimConfig, ScheduleConfig
from grcn.training.schedule import base_lr, lr_factor


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        (0, 0.001),
        (50, 0.001 + 0.999 / 2),
        (99, 0.001 + 0.999 * 0.99),
        (100, 1.0),
        (5999, 1.0),
        (6000, 0.1),
        (8999, 0.1),
        (9000, 0.01),
        (9999, 0.01),
    ],
)
def test_step_schedule(iteration, expected):
    config = ScheduleConfig(kind="step", warmup=100, milestones=(0.6, 0.9), gamma=0.1)
    assert lr_factor(iteration, 10_000, config) == pytest.approx(expected)


def test_cosine_falls_to_zero():
    config = ScheduleConfig(kind="cosine", warmup=0)
    assert lr_factor(0, 100, config) == 1
    assert lr_factor(50, 100, config) == pytest.approx(0.5)
    assert lr_factor(99, 100, config) == pytest.approx(0, abs=1e-3)
    values = [lr_factor(i, 100, config) for i in range(100)]
    assert values == sorted(values, reverse=True)


def test_constant_stays():
    config = ScheduleConfig(kind="constant", warmup=10)
    assert [lr_factor(i, 1000, config) for i in (10, 500, 999)] == [1, 1, 1]


def test_warm_up_takes_at_most_a_tenth_of_a_short_run():
    config = ScheduleConfig(kind="constant", warmup=500)
    assert lr_factor(29, 300, config) < 1
    assert lr_factor(30, 300, config) == 1
    assert lr_factor(0, 5, config) == 1  # too short for any


@pytest.mark.parametrize(("batch", "accumulate", "expected"), [(16, 1, 0.02), (8, 1, 0.01), (8, 4, 0.04)])
def test_the_learning_rate_is_scaled_to_the_images_of_a_step(tiny, batch, accumulate, expected):
    optim = OptimConfig(lr=0.02, accumulate=accumulate)
    config = tiny.tiny_config("data", "out", batch_size=batch, optim=optim)
    assert base_lr(config) == pytest.approx(expected)
