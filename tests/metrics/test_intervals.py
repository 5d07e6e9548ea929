"""Cases in a few numbers, by hand; the intervals against theory."""

import numpy as np
import pandas as pd
import pytest

from airwaylib.metrics.intervals import bootstrap_interval, mean_interval, share_interval, summarise


def scores():
    return pd.DataFrame(
        {
            "run": ["gul", "dice", "gul", "gul"],
            "case": ["a", "a", "b", "c"],
            "td": [90.0, 70.0, 94.0, 98.0],
            "dsc": [80.0, 85.0, 80.0, 80.0],
        }
    )


def test_runs_are_summed_up_in_their_order():
    gul, dice = summarise(scores()).to_dict("records")
    assert (gul["run"], gul["cases"], gul["td_mean"], gul["td_sd"], gul["td_median"]) == ("gul", 3, 94, 4, 94)
    assert 90 <= gul["td_low"] < 94 < gul["td_high"] <= 98
    assert (gul["dsc_mean"], gul["dsc_sd"], gul["dsc_low"], gul["dsc_high"]) == (80, 0, 80, 80)
    assert (dice["run"], dice["cases"], dice["td_mean"], dice["dsc_mean"]) == ("dice", 1, 70, 85)
    assert np.isnan([dice["td_sd"], dice["td_low"], dice["td_high"]]).all()  # one case has no spread


def test_cases_without_a_score_are_left_out():
    table = scores()
    table.loc[0, "td"] = np.nan
    assert summarise(table)["td_mean"].tolist() == [96, 70]


def test_interval_of_many_cases_is_the_normal_one():
    values = np.random.default_rng(0).normal(90, 5, 400)
    low, high = bootstrap_interval(values)
    error = values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.1)
    assert bootstrap_interval(values) == (low, high)  # seeded
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_interval_of_a_mean_over_few_seeds_is_students():
    # 90, 92, 94: mean 92, standard error 2 / sqrt(3), t(0.975, 2) = 4.303
    assert mean_interval(np.array([90.0, 92, 94])) == pytest.approx((92 - 4.9683, 92 + 4.9683), abs=1e-3)
    assert mean_interval(np.array([1.0, 1.0])) == (1, 1)
    assert np.isnan(mean_interval(np.array([1.0]))).all()
    assert np.isnan(mean_interval(np.array([1.0, np.nan, 2.0]))).all()


def test_interval_of_a_share_by_hand():
    """Mean 0.97, spread 0.0264575, error 0.0152753; the slope of the logit there is 1 / (0.97 * 0.03)."""
    reach = 4.302653 * 0.0152753 / (0.97 * 0.03)
    odds = 0.97 / 0.03 * np.exp([-reach, reach])
    assert share_interval(np.array([94.0, 99.0, 98.0])) == pytest.approx(tuple(100 * odds / (1 + odds)), abs=1e-3)
    low, high = share_interval(np.array([94.0, 99.0, 98.0]), one_more=True)  # sqrt(1 + 1/3) / sqrt(1/3): twice as far
    odds = 0.97 / 0.03 * np.exp([-2 * reach, 2 * reach])
    assert (low, high) == pytest.approx(tuple(100 * odds / (1 + odds)), abs=1e-3)


def test_interval_of_a_share_never_leaves_0_to_100():
    for values in ([100.0, 100.0, 90.0], [0.0, 1.0, 0.0], [2.0, 95.0, 96.0]):
        low, high = share_interval(np.array(values))
        assert 0 < low < np.mean(values) < high < 100
    assert mean_interval(np.array([100.0, 100.0, 90.0]))[1] > 100  # Student's does
    assert share_interval(np.full(3, 100.0)) == (100, 100) and share_interval(np.zeros(2)) == (0, 0)


def test_interval_of_shares_near_the_middle_is_students():
    values = 50 + np.array([-0.2, 0.1, 0.3, -0.2])
    assert share_interval(values) == pytest.approx(mean_interval(values), abs=1e-4)


def test_one_share_has_no_interval():
    for values in ([90.0], [90.0, np.nan]):
        assert np.isnan(share_interval(np.array(values))).all()
