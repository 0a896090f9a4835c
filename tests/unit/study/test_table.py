import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from grcn.study.table import paired_difference

SCORES = st.floats(0, 1)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=6))
def test_the_interval_is_that_of_the_paired_t_test(pairs):
    values, baseline = np.array(pairs).T
    assume(np.ptp(values - baseline) > 1e-6)  # scipy has no interval for differences that are all alike
    ours = paired_difference(values, baseline)
    theirs = ttest_rel(values, baseline).confidence_interval(0.95)
    assert ours.seeds == len(pairs)
    assert ours.mean == pytest.approx((values - baseline).mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_with_one_seed_there_is_no_interval_and_with_none_no_mean():
    one = paired_difference([0.5], [0.25])
    assert (one.mean, one.seeds) == (0.25, 1)
    assert np.isnan([one.low, one.high]).all()
    assert np.isnan(paired_difference([], []).mean)
