"""What the exhibits' figures show, read back from their artists."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from airwaystudy.figures.ablations import PARTS, plot_class_ratios, plot_scores_by_diameter, plot_trade_off, plot_trees
from airwaystudy.figures.style import variant_styles

STYLES = variant_styles(["final_dice", "both_dice", "both_general_union"])


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_by_diameter_has_a_panel_a_score_and_bars_over_the_seeds():
    rows = []
    for variant, td in (("final_dice", 40.0), ("both_general_union", 80.0)):
        for bin_, branches in (("0-2", 9), ("2-4", 50)):
            row = {"variant": variant, "diameter_mm": bin_, "branches": branches, "seeds": 3}
            for name, value in (("td", td), ("bd", td / 2), ("dsc", td + 1)):
                row |= {f"{name}_mean": value, f"{name}_min": value - 4, f"{name}_max": value + 2}
            rows.append(row)
    figure = plot_scores_by_diameter(pd.DataFrame(rows), STYLES, "phantoms (synthetic)")
    dsc, bd, td = figure.axes
    assert [ax.get_ylabel() for ax in figure.axes] == ["DSC (%)", "branches detected (%)", "tree length detected (%)"]
    assert [tick.get_text() for tick in td.get_xticklabels()] == ["0–2\n(9)", "2–4\n(50)"]
    heights = {ax: [list(bars[0].get_ydata()) for bars in ax.containers] for ax in figure.axes}
    assert heights == {dsc: [[41, 41], [81, 81]], bd: [[20, 20], [40, 40]], td: [[40, 40], [80, 80]]}
    segments = td.containers[0][2][0].get_segments()
    assert [tuple(segment[:, 1]) for segment in segments] == [(36, 42), (36, 42)]
    assert td.containers[0][0].get_xdata()[0] < 0 < td.containers[1][0].get_xdata()[0]  # side by side
    assert legend_of(figure) == ["final dice (3 seeds)", "both general union (3 seeds)"]


def test_class_ratios_are_means_with_bands_and_a_panel_a_layer():
    rows = [
        {"variant": "final_dice", "seed": seed, "step": step, "layer": layer, "layer_ratio": 2.0 + seed, "ratio": 10.0}
        for seed in (0, 1)
        for step in (0, 50)
        for layer in ("ec1", "dc6")
    ]
    figure = plot_class_ratios(pd.DataFrame(rows), STYLES, "training")
    assert [ax.get_title() for ax in figure.axes] == ["at the output (the loss's)", "at layer dc6", "at layer ec1"]
    loss, _, first = figure.axes
    assert list(loss.lines[1].get_ydata()) == [10, 10] and list(first.lines[1].get_ydata()) == [2.5, 2.5]
    assert list(first.lines[1].get_xdata()) == [0, 50]
    band = first.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (2, 3)
    assert legend_of(figure) == ["final dice (2 seeds)"]
    assert all(ax.get_yscale() == "log" for ax in figure.axes)


def test_trade_off_has_a_thin_line_a_seed_and_a_thick_mean():
    rows = [
        {
            "variant": "both_dice",
            "seed": seed,
            "case": case,
            "probability": p,
            "td": 90 - 40 * p,
            "precision": 50 + 40 * p + 2 * seed,
        }
        for seed in (0, 1)
        for case in "ab"
        for p in (0.1, 0.5, 0.9)
    ]
    figure = plot_trade_off(pd.DataFrame(rows), STYLES, "phantoms (synthetic)")
    (ax,) = figure.axes
    first, second, mean, marked, _ = ax.lines
    assert list(mean.get_xdata()) == pytest.approx([55, 71, 87]) and list(mean.get_ydata()) == pytest.approx(
        [86, 70, 54]
    )
    assert list(second.get_xdata() - first.get_xdata()) == pytest.approx([2, 2, 2])
    assert first.get_linewidth() < mean.get_linewidth()
    assert (list(marked.get_xdata()), list(marked.get_ydata())) == ([71], [70])  # the threshold 0.5
    assert [text.get_text() for text in ax.texts] == ["0.1", "0.9"]
    assert "both dice (2 seeds)" in legend_of(figure)


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
    assert legend_of(figure) == list(PARTS)
