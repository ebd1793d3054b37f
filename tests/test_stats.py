"The statistics beside SciPy's and statsmodels'."
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from reasoning_distill.core import InputError
from reasoning_distill.stats import bootstrap, holm, mcnemar, seed_interval, student_t, wilson

CHANCES = st.floats(0, 1, allow_nan=False)


@given(st.integers(0, 2000), st.integers(1, 2000))
def test_wilson(right, n):
    right = min(right, n)
    assert wilson(right, n) == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-6)


@pytest.mark.parametrize("freedom", [1, 2, 4, 9, 100])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_student(freedom, level):
    assert student_t(freedom, level) == pytest.approx(scipy_stats.t.ppf((1 + level)/2, freedom), rel=1e-6)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_interval_over_seeds(values):
    mean, low, high = seed_interval(values)
    spread = scipy_stats.sem(values)
    if spread > 1e-9:
        assert (low, high) == pytest.approx(scipy_stats.t.interval(0.95, len(values) - 1, np.mean(values), spread), rel=1e-5, abs=1e-5)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar(ours, theirs):
    assert mcnemar(ours, theirs) == pytest.approx(their_mcnemar([[0, ours], [theirs, 0]], exact=True).pvalue, abs=1e-12)


@given(st.lists(CHANCES, max_size=30))
def test_holm(p):
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1] if p else [])


def test_holm_refuses_what_is_no_chance():
    with pytest.raises(InputError, match=r"p-values \[1.5\] are out of range"): holm([0.1, 1.5])


def test_bootstrap_over_problems_is_scipys():
    values = np.random.default_rng(0).random((1, 400)) < 0.3
    theirs = scipy_stats.bootstrap((values[0],), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert bootstrap(values, rounds=4000)[1:] == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_bootstrap_holds_the_truth_about_as_often_as_it_says():
    "Eight seeds whose accuracies spread by five points, 200 problems: the true mean is in at least nine intervals of ten."
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        of_seed = np.clip(rng.normal(0.5, 0.05, (8, 1)), 0, 1)
        _, low, high = bootstrap(rng.random((8, 200)) < of_seed, rounds=400)
        held += low <= 0.5 <= high
    assert 0.88*200 <= held <= 0.99*200


@pytest.mark.parametrize("values", [[], [[]], [1.0, 2.0]])
def test_bootstrap_refuses_what_is_no_table(values):
    with pytest.raises(InputError, match="expected a row a seed"): bootstrap(values)
