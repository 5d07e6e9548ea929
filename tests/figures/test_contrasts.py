"""Figures of what decides a study show the numbers of their tables."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from airwaystudy.figures import contrasts


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def numbers(line):
    return np.round(line.get_xdata(), 6).tolist(), np.round(line.get_ydata(), 6).tolist()


def test_arms_are_seeds_mean_and_interval_thin_beside_wide():
    rows = [(name, seed, 50 + 10 * i + seed, 90 + seed) for i, name in enumerate("ab") for seed in (0, 1)]
    outcomes = pd.DataFrame(rows, columns=["variant", "seed", "td_thin_80", "td_wide_80"])
    means = {("a", "td_thin_80"): 50.5, ("b", "td_thin_80"): 60.5, ("a", "td_wide_80"): 90.5, ("b", "td_wide_80"): 90.5}
    arms = [{"variant": v, "outcome": o, "mean": m, "low": m - 1, "high": m + 1} for (v, o), m in means.items()]
    figure = contrasts.plot_arms(outcomes, pd.DataFrame(arms), ["a", "b", "absent"], "synthetic")
    thin, wide = figure.axes
    assert [ax.get_title() for ax in (thin, wide)] == list(contrasts.PANELS.values())
    assert [label.get_text() for label in thin.get_yticklabels()] == ["a", "b"]
    drawn = [numbers(line) for line in thin.lines]
    assert drawn == [([50, 51], [-0.18, 0.18]), ([49.5, 51.5], [0, 0]), ([50.5], [0]),
                     ([60, 61], [0.82, 1.18]), ([59.5, 61.5], [1, 1]), ([60.5], [1])]  # fmt: skip
    assert [text.get_text() for text in wide.texts] == ["90.5", "90.5"]


def test_contrasts_show_interval_margin_and_verdict():
    about = ["name", "arm", "base", "primary", "difference", "low", "high", "margin", "verdict"]
    rows = [
        ("loss", "union", "dice", True, 1.2, 0.3, 2.1, 1.0, "supported"),
        ("gain", "union", "x4", False, 0.1, np.nan, np.nan, 1.0, "open"),
    ]
    (ax,) = contrasts.plot_contrasts(pd.DataFrame(rows, columns=about), "synthetic").axes
    assert [numbers(line) for line in ax.lines[1:]] == [([0.3, 2.1], [0, 0]), ([1.2], [0]), ([0.1], [1])]
    assert [text.get_text() for text in ax.texts] == ["supported", "open"]
    assert ax.patches[0].get_x() == -1 and ax.patches[0].get_width() == 2


def test_a_replication_tells_inside_from_outside():
    about = ["name", "difference", "reference", "low_predicted", "high_predicted", "inside"]
    rows = [("a", 1.0, 0.8, 0.0, 1.6, True), ("b", 3.0, 0.8, 0.0, 1.6, False), ("c", np.nan, 0.8, 0.0, 1.6, None)]
    figure = contrasts.plot_replication(pd.DataFrame(rows, columns=about), "synthetic")
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert [line.get_marker() for line in ax.lines if line.get_marker() in ("o", "X")] == ["o", "X"]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["expected of another seed", "this machine, inside", "this machine, outside", "reference"]
