"""The ablations' plots show the numbers they are given, each variant by a style of its own, on axes with units."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from airwaystudy.figures.ablations import (
    PARTS,
    layout,
    plot_class_ratios,
    plot_effects,
    plot_scores_by_diameter,
    plot_td_against_precision,
    plot_td_by_diameter,
    plot_trade_off,
    plot_trees,
)
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


def dots(ax, marker="o"):
    """Differences drawn in a panel."""
    (line,) = [line for line in ax.lines if line.get_marker() == marker and len(line.get_xdata())]
    return [x for x in line.get_xdata() if np.isfinite(x)]


def bars(ax):
    """Ends of the intervals drawn in a panel."""
    return [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "None"]


def test_forest_has_a_panel_a_metric_and_a_row_a_pair():
    figure = plot_effects(two_factors(), "made up")
    left, right = figure.axes
    assert [ax.get_xlabel().split("\n") for ax in figure.axes] == [
        ["tree length detected", "(percentage points)"],
        ["precision", "(percentage points)"],
    ]
    assert dots(left) == dots(left, "|") == [4.0, 9.0] and dots(right) == [-1.0]
    assert [1.0, 7.0] in bars(left) and [3.0, 5.0] in bars(left) and [-3.0, 1.0] in bars(right)
    assert not any(9.0 in ends for ends in bars(left))  # one seed has no interval
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


def points(ax):
    """Heights of each variant's markers, in the order they are drawn."""
    return [list(line.get_ydata()) for line in ax.lines if line.get_marker() != "None" and len(line.get_xdata())]


def ends(ax):
    """Lowest and highest point of each bar."""
    heights = [line.get_ydata() for line in ax.lines if line.get_marker() == "None"]
    return [(np.nanmin(values), np.nanmax(values)) for values in heights]


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_detection_by_diameter_goes_from_the_lowest_to_the_highest_seed():
    figure = plot_td_by_diameter(by_diameter(2), "made up")
    (ax,) = figure.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0-2\n(10)", "2-4\n(20)"]
    assert labels(figure) == ["v0 (3 seeds)", "v1 (3 seeds)"]
    assert points(ax) == [[50, 50], [51, 51]]
    assert ends(ax) == [(40, 55), (40, 55), (41, 56), (41, 56)]
    assert "%" in ax.get_ylabel() and "mm" in ax.get_xlabel()


@pytest.mark.parametrize(("count", "shares"), [(6, [6]), (7, [4, 3]), (13, [5, 4, 4])])
def test_many_variants_share_out_among_panels(count, shares):
    figure = plot_td_by_diameter(by_diameter(count), "made up")
    assert [len(points(ax)) for ax in figure.axes] == shares
    assert len(labels(figure)) == count


def test_scores_by_diameter_have_a_panel_a_score():
    table = by_diameter(2)
    for name, more in (("bd", -10), ("dsc", 1)):
        table = table.assign(**{f"{name}_{part}": table[f"td_{part}"] + more for part in ("mean", "min", "max")})
    figure = plot_scores_by_diameter(table, "phantoms (synthetic)")
    assert [ax.get_ylabel() for ax in figure.axes] == ["DSC (%)", "branches detected (%)", "tree length detected (%)"]
    assert all(ax.yaxis.label.get_visible() for ax in figure.axes)
    assert [points(ax)[1] for ax in figure.axes] == [[52, 52], [41, 41], [51, 51]]
    assert ends(figure.axes[1])[0] == (30, 45)
    places = [
        line.get_xdata()[0]
        for line in figure.axes[0].lines
        if line.get_marker() in ("o", "s") and len(line.get_xdata())
    ]
    first, second = places
    assert first < 0 < second  # side by side
    assert labels(figure) == ["v0 (3 seeds)", "v1 (3 seeds)"]


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
    figure = plot_td_against_precision(summary(), SEEDS, "made up")
    (ax,) = figure.axes
    ((line, _, (across, up)),) = ax.containers
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (90, 60)
    assert across.get_segments()[0].tolist() == [[89.5, 60], [90.5, 60]]
    assert up.get_segments()[0].tolist() == [[90, 58], [90, 62]]
    assert ax.collections[0].get_offsets().tolist() == [[89.5, 58], [90.5, 62]]
    assert labels(figure) == ["one seed", "final dice (2 seeds)"]
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


STYLES = variant_styles(["final_dice", "both_dice", "both_general_union"])


def test_class_ratios_are_means_with_bands_and_a_panel_a_layer():
    rows = [
        {"variant": "final_dice", "seed": seed, "step": step, "layer": layer, "layer_ratio": 2.0 + seed, "ratio": 10.0}
        for seed in (0, 1)
        for step in (0, 50)
        for layer in ("ec1", "dc6")
    ]
    figure = plot_class_ratios(pd.DataFrame(rows), STYLES, "training")
    assert [ax.get_title() for ax in figure.axes] == ["at the probability (the loss's)", "at layer dc6", "at layer ec1"]
    loss, _, first = figure.axes
    assert list(loss.lines[1].get_ydata()) == [10, 10] and list(first.lines[1].get_ydata()) == [2.5, 2.5]
    assert list(first.lines[1].get_xdata()) == [0, 50]
    band = first.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (2, 3)
    assert labels(figure) == ["final dice (2 seeds)"]
    assert all(ax.get_yscale() == "log" for ax in figure.axes)


def test_trade_off_has_a_thin_line_a_seed_and_a_thick_mean():
    rows = [
        {
            "variant": "both_dice",
            "seed": seed,
            "case": case,
            "logit": logit,
            "td": 70 - 16 * logit,
            "precision": 70 + 16 * logit + 2 * seed,
        }
        for seed in (0, 1)
        for case in "ab"
        for logit in (-1, 0, 1)
    ]
    figure = plot_trade_off(pd.DataFrame(rows), STYLES, "phantoms (synthetic)")
    (ax,) = figure.axes
    first, second, mean, marked, _ = ax.lines
    assert list(mean.get_xdata()) == pytest.approx([55, 71, 87]) and list(mean.get_ydata()) == pytest.approx(
        [86, 70, 54]
    )
    assert list(second.get_xdata() - first.get_xdata()) == pytest.approx([2, 2, 2])
    assert first.get_linewidth() < mean.get_linewidth()
    assert (list(marked.get_xdata()), list(marked.get_ydata())) == ([71], [70])  # a probability of ½
    assert [text.get_text() for text in ax.texts] == ["-1", "1"]
    assert "both dice (2 seeds)" in labels(figure)


def test_trees_show_what_is_detected_missed_and_leaked_from_two_sides():
    empty = np.zeros((10, 12, 14), bool)
    masks = {name: empty.copy() for name in (*PARTS, "rim")}
    masks["detected"][2:5, 2:5, 2:5] = masks["missed"][6:9, 2:5, 2:5] = masks["rim"][2:5, 8:11, 2:5] = True
    figure = plot_trees({"final_dice": masks}, (1.0, 1.0, 2.0), "mini_0001 (synthetic CT)")
    front, side = figure.axes
    assert (front.get_xlim(), front.get_ylim()) == ((0, 14), (0, 20)) and side.get_xlim() == (0, 12)
    assert "27 detected, 27 missed, 0 leaked voxels" in front.get_title()
    hues = {tuple((colour[:3] / colour[:3].max()).round(1)) for colour in front.collections[0].get_facecolors()}
    wanted = {
        tuple((np.array(to_rgb(PARTS[part])) / max(to_rgb(PARTS[part]))).round(1)) for part in ("detected", "missed")
    }
    assert hues == wanted  # no rim
    assert labels(figure) == list(PARTS)
