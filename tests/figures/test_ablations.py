"""The ablations' plots show the numbers they are given, each variant by a style of its own, on axes with units."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer

from airwaystudy.figures.ablations import layout, plot_effects, plot_td_against_precision, plot_td_by_diameter
from airwaystudy.figures.style import save_figure, variant_styles


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def effect(factor, start, end, metric, difference, low, high, held="", cases=(np.nan, np.nan)):
    row = {"factor": factor, "from": start, "to": end, "held": held, "metric": metric, "difference": difference}
    row |= {"from_variant": f"{start}{held}", "to_variant": f"{end}{held}", "low": low, "high": high}
    return row | {"low_cases": cases[0], "high_cases": cases[1]}


def two_factors():
    return pd.DataFrame(
        [
            effect("supervision", "final", "both", "td", 4.0, 1.0, 7.0, "loss dice", (3.0, 5.0)),
            effect("supervision", "final", "both", "precision", -1.0, -3.0, 1.0, "loss dice"),
            effect("loss", "dice", "general_union", "td", 9.0, np.nan, np.nan),
        ]
    )


def dots(ax):
    """Drawn differences of a panel: (x, filled)."""
    found = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    return [(line.get_xdata()[0], line.get_markerfacecolor() != "white") for line in found]


def test_forest_has_a_panel_a_metric_and_a_row_a_pair():
    figure = plot_effects(two_factors(), "made up")
    left, right = figure.axes
    assert [ax.get_xlabel().split("\n") for ax in figure.axes] == [
        ["tree length detected", "(percentage points)"],
        ["precision", "(percentage points)"],
    ]
    assert dots(left) == [(4.0, True), (9.0, False)]  # without an interval, nothing is clear of 0
    assert dots(right) == [(-1.0, False)]
    ends = [list(line.get_xdata()) for line in left.lines]
    assert [1.0, 7.0] in ends and [3.0, 5.0] in ends
    labels = {tick.get_text(): place for place, tick in zip(left.get_yticks(), left.get_yticklabels(), strict=True)}
    order = sorted(labels, key=labels.get)
    assert order == ["supervision", "final → both", "loss", "dice → general union"]
    bold = {tick.get_text() for tick in left.get_yticklabels() if tick.get_fontweight() == "bold"}
    assert bold == {"supervision", "loss"}
    low, high = left.get_ylim()
    assert low > high  # the first row is on top


def test_forest_of_nothing_says_so():
    figure = plot_effects(two_factors().iloc[:0], "made up")
    assert figure.axes[0].get_title() == "no two variants differ in one factor alone"


def by_diameter(count):
    rows = [
        {"variant": f"v{i}", "diameter_mm": name, "branches": 10 * (j + 1), "seeds": 3}
        | {"td_mean": 50.0 + i, "td_min": 40.0 + i, "td_max": 55.0 + i}
        for i in range(count)
        for j, name in enumerate(("0-2", "2-4"))
    ]
    return pd.DataFrame(rows)


def error_bars(ax):
    return {box.get_label(): box for box in ax.containers if isinstance(box, ErrorbarContainer)}


def test_detection_by_diameter_goes_from_the_lowest_to_the_highest_seed():
    figure = plot_td_by_diameter(by_diameter(2), "made up")
    (ax,) = figure.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0-2\n(10)", "2-4\n(20)"]
    bars = error_bars(ax)
    assert list(bars) == ["v0 (3 seeds)", "v1 (3 seeds)"]
    line, _, (stems,) = bars["v1 (3 seeds)"]
    assert list(line.get_ydata()) == [51, 51]
    assert [sorted(segment[:, 1]) for segment in stems.get_segments()] == [[41, 56]] * 2
    assert "%" in ax.get_ylabel() and "mm" in ax.get_xlabel()


@pytest.mark.parametrize(("count", "shares"), [(6, [6]), (7, [4, 3]), (13, [5, 4, 4])])
def test_many_variants_share_out_among_panels(count, shares):
    figure = plot_td_by_diameter(by_diameter(count), "made up")
    assert [len(error_bars(ax)) for ax in figure.axes] == shares
    (legend,) = figure.legends
    assert len(legend.get_texts()) == count


def test_no_bins_make_an_empty_plot():
    assert len(plot_td_by_diameter(by_diameter(2).iloc[:0], "made up").axes) == 1


def summary(seeds=2, low=50.0):
    return pd.DataFrame(
        [
            {"variant": "final_dice", "seeds": seeds, "td_mean": 60.0, "td_low": low, "td_high": 120.0 - low}
            | {"precision_mean": 90.0, "precision_low": 89.0, "precision_high": 91.0}
        ]
    )


SEEDS = pd.DataFrame({"variant": "final_dice", "seed": [0, 1], "td": [58.0, 62.0], "precision": [89.5, 90.5]})


def test_scatter_shows_means_with_the_range_of_the_seeds_and_each_of_them():
    (ax,) = plot_td_against_precision(summary(), SEEDS, "made up").axes
    line, _, (across, up) = error_bars(ax)["final dice (2 seeds)"]
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (90, 60)
    assert across.get_segments()[0].tolist() == [[89.5, 60], [90.5, 60]]
    assert up.get_segments()[0].tolist() == [[90, 58], [90, 62]]
    (dots,) = [line for line in ax.lines if len(line.get_xdata()) == 2]
    assert dots.get_xydata().tolist() == [[89.5, 58], [90.5, 62]]
    low, high = ax.get_ylim()
    assert 50 < low < 58 and 62 < high < 70


def test_rows_say_what_they_hold_unless_all_rows_of_the_factor_do():
    row = {"factor": "loss", "from": "dice", "to": "tversky", "from_variant": "a", "to_variant": "b"}
    helds = ["network wingsnet, supervision final", "network wingsnet, supervision both"]
    rows = pd.DataFrame([row | {"held": held, "to_variant": held} for held in helds])
    labels = [label for _, label in layout(rows)[0].values()]
    assert labels == ["dice → tversky  (supervision final)", "dice → tversky  (supervision both)"]


def test_a_long_legend_stands_beside_the_axes():
    table = pd.concat([summary().assign(variant=f"v{i}") for i in range(12)], ignore_index=True)
    figure = plot_td_against_precision(table, pd.concat([SEEDS.assign(variant=f"v{i}") for i in range(12)]), "made up")
    figure.draw_without_rendering()
    (legend,), (ax,) = figure.legends, figure.axes
    assert len(legend.get_texts()) == 13
    assert legend.get_window_extent().x0 > ax.get_window_extent().x1


def test_styles_of_many_variants_differ():
    styles = variant_styles([f"v{i}" for i in range(24)]).values()
    assert len({(style["color"], style["marker"]) for style in styles}) == 24


def test_a_rebuild_gives_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        save_figure(plot_effects(two_factors(), "made up"), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
