"""How long a run is."""

import pytest

from grcn.training.length import Timing, from_epochs


@pytest.mark.parametrize(
    ("epochs", "images", "per_step", "expected"), [(1, 205, 8, 26), (24, 205, 8, 615), (0.5, 10, 2, 3), (2, 3, 16, 1)]
)
def test_epochs(epochs, images, per_step, expected):
    assert from_epochs(epochs, images, per_step) == expected


def test_minutes_leave_time_for_the_last_validation():
    assert Timing(step=2.0, validation=40.0).iterations(600, val_every=0) == 280


def test_minutes_leave_time_for_every_validation():
    iterations = Timing(step=2.0, validation=40.0).iterations(600, val_every=50)
    assert iterations == 200
    assert iterations * 2 + iterations // 50 * 40 + 40 <= 600


def test_there_is_at_least_one_iteration():
    assert Timing(step=100.0, validation=500.0).iterations(60, val_every=0) == 1
