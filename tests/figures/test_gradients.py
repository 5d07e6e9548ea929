"""The gradients' plots show the numbers they are given, every seed of them, on axes with units."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer

from airwaystudy.figures.gradients import (
    group_styles,
    plot_critical_radius,
    plot_erosion_by_radius,
    plot_law,
    plot_missed,
    plot_missed_voxel,
    plot_origin,
    plot_ratios,
    plot_shares,
    plot_swaps,
    plot_tube_erosion,
)
from airwaystudy.figures.style import over_seeds, save_figure, series_styles


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def lines(ax, label):
    return [line for line in ax.lines if line.get_label() == label]


def line(ax, label):
    (found,) = lines(ax, label)
    return found


def legend_texts(figure):
    (legend,) = figure.legends
    return {text.get_text() for text in legend.get_texts()}


# ---------------------------------------------------------------------------------------------------------- style


def test_series_differ_without_colour():
    styles = series_styles("abcdefgh").values()
    assert len({style["marker"] for style in styles}) == len({style["color"] for style in styles}) == 8


def test_groups_have_the_losss_colour_and_the_supervisions_dashes():
    table = pd.DataFrame({"loss": ["dice", "dice", "union"], "supervision": ["final", "both", "final"]})
    styles = group_styles(table)
    assert list(styles) == [("dice", "final"), ("dice", "both"), ("union", "final")]
    final, both, union = styles.values()
    assert final["color"] == both["color"] != union["color"] and final["marker"] == both["marker"] != union["marker"]
    assert final["ls"] == union["ls"] != both["ls"]


def test_over_seeds_weighs_each_seed_once():
    # seed 0 has two rows, .2 and .4, so .3; seed 1 has .5; seed 2 has none
    rows = pd.DataFrame({"seed": [0, 0, 1, 2], "layer": "ec1", "erosion": [0.2, 0.4, 0.5, np.nan]})
    found = over_seeds(rows, ["layer"], "erosion")
    assert found.loc["ec1"].to_dict() == pytest.approx({"mean": 0.4, "low": 0.3, "high": 0.5})


# --------------------------------------------------------------------------------------------------------- theory


def test_tube_erosion_has_a_profile_a_layer_and_a_curve_a_radius():
    profiles = pd.DataFrame({"layers": [0, 0, 1, 1], "position": [-1, 0, -1, 0], "value": [-1.0, 6.0, 0.5, 2.0]})
    erosion = pd.DataFrame({"radius": [1.5, 1.5, 2, 2], "layers": [1, 2, 1, 2], "eroded": [0.3, 1.0, 0.1, 0.2]})
    left, right = plot_tube_erosion(profiles, erosion).axes
    assert line(left, "0 layers").get_xydata().tolist() == [[-1, -1], [0, 6]]
    assert line(left, "1 layer").get_xydata().tolist() == [[-1, 0.5], [0, 2]]
    assert line(right, "1.5").get_xydata().tolist() == [[1, 0.3], [2, 1]]
    assert line(right, "2").get_xydata().tolist() == [[1, 0.1], [2, 0.2]]
    assert "voxels" in left.get_xlabel() and "background" in left.get_ylabel()
    assert "layers" in right.get_xlabel() and "share" in right.get_ylabel()
    assert "voxels" in right.get_legend().get_title().get_text()


def test_critical_radius_shows_law_as_curves_and_simulation_as_markers():
    table = pd.DataFrame(
        {"ratio": [6, 6, 1], "layers": [18, 2, 2], "law": [1.9, 0.6, 1.4], "simulation": [2.0, np.nan, 1.5]}
    )
    (ax,) = plot_critical_radius(table).axes
    law = line(ax, "R = 6")
    assert law.get_xydata().tolist() == [[2, 0.6], [18, 1.9]]
    assert law.get_linestyle() != "None" and law.get_marker() == ""
    markers = [curve for curve in ax.lines if curve.get_linestyle() == "None" and len(curve.get_xdata())]
    assert [curve.get_color() for curve in markers] == [law.get_color(), line(ax, "R = 1").get_color()]
    assert markers[0].get_xydata().tolist()[1] == [18, 2.0] and np.isnan(markers[0].get_ydata()[0])
    assert "voxels" in ax.get_ylabel() and "layers" in ax.get_xlabel()
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"R = 6", "R = 1", "law", "simulation"}


def test_ratios_join_the_steps_of_each_seed_and_lose_none():
    closed = pd.DataFrame({"loss": "dice", "index": [1.0, 0.5], "ratio": [1.0, 3.0]})
    measured = pd.DataFrame(
        {
            "loss": ["dice", "dice", "dice", "focal", "focal"],
            "seed": [0, 0, 1, 0, 1],
            "step": [10, 0, 0, 0, 0],
            "index": [0.9, 0.2, 0.3, 0.4, 0.5],
            "ratio": [1.2, 9.0, 6.0, 0.5, 0.4],
        }
    )
    figure = plot_ratios(closed, measured)
    (ax,) = figure.axes
    assert ax.get_yscale() == "log"
    assert line(ax, "dice").get_xydata().tolist() == [[0.5, 3], [1, 1]]
    runs = [curve for curve in ax.lines if curve.get_marker() not in ("", "None")]
    assert [curve.get_xydata().tolist() for curve in runs] == [
        [[0.2, 9], [0.9, 1.2]],
        [[0.3, 6]],
        [[0.4, 0.5]],
        [[0.5, 0.4]],
    ]
    assert {curve.get_color() for curve in runs[:2]} == {line(ax, "dice").get_color()} != {runs[2].get_color()}
    assert legend_texts(figure) == {"dice", "focal"}  # a name comes once
    assert "dimensionless" in ax.get_xlabel() and "ratio" in ax.get_ylabel()
    assert ax.get_xlim() == (0, 1.02)
    # a curve may leave the figure on its way to 0 or infinity, no marker may
    wild = plot_ratios(closed.assign(ratio=[1e-9, np.inf]), measured.assign(ratio=[1e-4, 1, 1, 1, 1])).axes[0]
    assert 1e-5 < wild.get_ylim()[0] < 1e-4 and 1000 < wild.get_ylim()[1] < 2000
    low = plot_ratios(closed, measured.assign(index=measured["index"] - 0.9)).axes[0]  # a cross-entropy of 1.7
    assert low.get_xlim()[0] < -0.7


# ------------------------------------------------------------------------------------------------------- measured


@pytest.fixture
def measures():
    """Two groups, two seeds, two epochs, three layers that are not in the alphabet's order."""
    rows = []
    for g, (loss, supervision) in enumerate((("dice", "final"), ("general_union", "both"))):
        for seed in (0, 1):
            for epoch in (8, 0):
                for i, layer in enumerate(("ec2", "ec10", "dc1")):
                    values = {"erosion": 0.1 * i + 0.2 * seed + 0.3 * g, "dilation": 0.01 * epoch + 0.02 * seed}
                    row = {"run": f"{loss}_{seed}", "loss": loss, "supervision": supervision, "seed": seed}
                    rows.append(row | {"epoch": epoch, "layer": layer, **values, "share": 0.5, "ratio": 1.0})
    return pd.DataFrame(rows)


def test_shares_have_a_column_an_epoch_and_a_row_each_for_erosion_and_dilation(measures):
    figure = plot_shares(measures)
    assert len(figure.axes) == 4
    assert [ax.get_title() for ax in figure.axes] == ["epoch 0", "epoch 8", "", ""]
    assert [text.get_text() for text in figure.axes[2].get_xticklabels()] == ["ec2", "ec10", "dc1"]
    assert [figure.axes[i].get_ylabel() for i in (0, 2)] == ["airway eroded (share)", "background dilated (share)"]
    assert figure.axes[2].get_xlabel() == "layer, in forward order"
    assert legend_texts(figure) == {"dice, final (2 seeds)", "general union, both (2 seeds)"}


def test_shares_are_means_over_seeds_with_a_band_from_the_lowest_to_the_highest(measures):
    erosion, _, _, dilation = plot_shares(measures).axes
    curve = line(erosion, "dice, final (2 seeds)")
    assert curve.get_ydata() == pytest.approx([0.1, 0.2, 0.3])  # between seed 0 (0, .1, .2) and seed 1 (.2, .3, .4)
    assert line(erosion, "general union, both (2 seeds)").get_ydata() == pytest.approx([0.4, 0.5, 0.6])
    band = erosion.collections[0].get_paths()[0].vertices
    at = {x: band[band[:, 0] == x, 1] for x in (0, 1, 2)}
    assert [at[x].min() for x in at] == pytest.approx([0, 0.1, 0.2])
    assert [at[x].max() for x in at] == pytest.approx([0.2, 0.3, 0.4])
    assert line(dilation, "dice, final (2 seeds)").get_ydata() == pytest.approx([0.09] * 3)  # epoch 8: .08 and .10


def test_shares_have_no_marker_where_a_group_lacks_a_layer(measures):
    some = measures[(measures["loss"] != "dice") | (measures["layer"] != "ec10")]
    curve = line(plot_shares(some).axes[0], "dice, final (2 seeds)")
    assert curve.get_xydata().tolist() == pytest.approx(np.array([[0, 0.1], [1, 0.3]]))  # ec2, dc1; ec10 would be at 2


@pytest.fixture
def by_radius():
    return pd.DataFrame(
        {
            "loss": ["dice"] * 4 + ["union"] * 2,
            "supervision": "final",
            "seed": [0, 0, 1, 1, 0, 0],
            "low": [0.0, 1.0] * 3,
            "high": [1.0, np.inf] * 3,
            "erosion": [0.8, 0.2, 0.6, np.nan, 0.5, 0.1],
            "voxels": [1200, 40, 1200, 40, 1200, 41],
        }
    )


def test_erosion_by_radius_has_the_seeds_mean_and_range(by_radius):
    figure = plot_erosion_by_radius(by_radius)
    (ax,) = figure.axes
    dice, union = (box for box in ax.containers if isinstance(box, ErrorbarContainer))
    assert dice.get_label() == "dice, final (2 seeds)" and union.get_label() == "union, final (1 seed)"
    assert dice[0].get_ydata() == pytest.approx([0.7, 0.2])  # seed 1 has no airway of the second bin
    assert union[0].get_ydata() == pytest.approx([0.5, 0.1])
    segments = dice[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in segments] == [pytest.approx([0.6, 0.8]), pytest.approx([0.2, 0.2])]
    assert (dice[0].get_xdata() < union[0].get_xdata()).all()  # side by side


def test_erosion_by_radius_tells_bins_voxels_and_unit(by_radius):
    ax = plot_erosion_by_radius(by_radius).axes[0]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0–1\n(1 200)", "≥ 1\n(40–41)"]
    assert "in mm" in ax.get_xlabel() and "(share)" in ax.get_ylabel()
    assert "in voxels" in plot_erosion_by_radius(by_radius, unit="voxels").axes[0].get_xlabel()


@pytest.fixture
def branches():
    return pd.DataFrame(
        {
            "loss": ["dice"] * 4 + ["union"] * 3,
            "supervision": ["final"] * 4 + ["both"] * 3,
            "seed": [0, 0, 1, 1, 0, 0, 1],
            "branch": [1, 2, 1, 2, 1, 2, 1],
            "radius_mm": [0.6, 3.0, 0.6, 3.0, 0.6, 3.0, 0.6],
            "erosion": [0.9, 0.1, 0.8, np.nan, 0.4, 0.0, 0.5],
            "missed": [True, False, False, False, False, False, True],
        }
    )


def test_missed_shows_every_branch_of_every_seed(branches):
    figure = plot_missed(branches)
    dice, union = figure.axes
    assert line(dice, "branch missed").get_xydata().tolist() == [[0.6, 0.9]]
    found = line(dice, "branch found").get_xydata()
    assert found[:2].tolist() == [[3, 0.1], [0.6, 0.8]] and np.isnan(found[2, 1])
    assert line(union, "branch missed").get_xydata().tolist() == [[0.6, 0.5]]
    assert line(union, "branch found").get_xydata().tolist() == [[0.6, 0.4], [3, 0]]
    assert legend_texts(figure) == {"branch found", "branch missed"}


def test_missed_counts_and_tells_what_it_cannot_show(branches):
    dice, union = plot_missed(branches).axes
    assert dice.get_title() == "dice, final (2 seeds)\n1 of 4 missed, 1 without erosion"
    assert union.get_title() == "union, both (2 seeds)\n1 of 3 missed"
    assert dice.get_xscale() == "log" and "mm" in union.get_xlabel() and "share" in dice.get_ylabel()


def test_missed_wraps_many_panels_and_hides_empty_ones(branches):
    table = pd.concat([branches.assign(loss=f"loss {i}") for i in range(2)])  # twice two supervisions
    axes = plot_missed(table).axes
    assert [ax.get_visible() for ax in axes] == [True] * 4 + [False] * 2
    assert all(ax.get_xlabel() and ax.get_title() for ax in axes[:4])


def test_a_rebuild_leaves_the_file_unchanged(measures, tmp_path):
    for name in ("one", "two"):
        save_figure(plot_shares(measures), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


# ------------------------------------------------------------------------------------------------- origin and law


def test_origin_is_a_line_over_the_layers_for_runs_with_an_encoder_group():
    rows = [
        ("dice", "both", seed, layer, share + 0.1 * seed)
        for seed in (0, 1)
        for layer, share in (("ec1", 0.5), ("dc6", 0))
    ]
    rows += [("dice", "final", 0, "ec1", np.nan)]
    figure = plot_origin(pd.DataFrame(rows, columns=["loss", "supervision", "seed", "layer", "from_encoder"]))
    (ax,) = figure.axes
    (shown,) = ax.lines
    assert shown.get_ydata().tolist() == pytest.approx([0.55, 0.05])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["ec1", "dc6"]
    assert legend_texts(figure) == {"dice, both (2 seeds)"}


def test_origin_without_an_encoder_group_says_so():
    table = pd.DataFrame({"loss": ["dice"], "supervision": ["final"], "seed": [0], "layer": ["ec1"]})
    (ax,) = plot_origin(table).axes
    assert "no run with an encoder group" in [text.get_text() for text in ax.texts]


def test_law_has_a_marker_for_every_layer_and_counts_those_where_it_is_right():
    table = pd.DataFrame(
        {
            "loss": ["dice"] * 4,
            "seed": 0,
            "layer": ["ec1", "ec2", "ec3", "dc5"],
            "law": [2.0, 1.5, 4.0, 0.5],
            "erosion_thinnest": [0.7, 0.1, 0.3, 0.9],
            "lost": [True, True, True, False],
            "half_eroded": [True, False, False, True],
        }
    )
    (ax,) = plot_law(table).axes
    marks = line(ax, "dice (1 of 3 as the law says)")
    assert marks.get_xydata().tolist() == [[2.0, 0.7], [1.5, 0.1], [4.0, 0.3], [0.5, 0.9]]
    (shaded,) = ax.collections
    corners = shaded.get_paths()[0].vertices
    assert (corners.min(0).tolist(), corners.max(0).tolist()) == ([1, 0.5], [pytest.approx(4.2), 1])
    assert "voxels" in ax.get_xlabel() and "share" in ax.get_ylabel()


def test_swaps_have_a_panel_a_comparison_and_a_band_over_the_seeds():
    rows = [
        (comparison, loss, "both", seed, layer, value + 0.1 * seed)
        for comparison, losses in (("erosion", ("dice", "general_union")), ("group", ("dice",)))
        for loss in losses
        for seed in (0, 1)
        for layer, value in (("ec1", 0.2), ("dc5", -0.1))
    ]
    columns = ["comparison", "loss", "supervision", "seed", "layer", "difference"]
    figure = plot_swaps(pd.DataFrame(rows, columns=columns))
    first, second = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["erosion", "group"]
    assert line(first, "trained with dice, both (2 seeds)").get_ydata() == pytest.approx([0.25, -0.05])
    assert lines(second, "trained with general union, both (2 seeds)") == []
    assert [tick.get_text() for tick in second.get_xticklabels()] == ["ec1", "dc5"]
    assert "share" in first.get_ylabel()


def test_missed_voxel_has_a_curve_a_loss_relative_to_its_highest_p():
    table = pd.DataFrame({"loss": ["dice"] * 2 + ["bce"] * 2, "p": [0.5, 0.005] * 2, "gradient": [4.0, 0.04, 2.0, 2.0]})
    (ax,) = plot_missed_voxel(table).axes
    np.testing.assert_allclose(line(ax, "dice").get_xydata(), [[0.005, 0.01], [0.5, 1]])
    np.testing.assert_allclose(line(ax, "bce").get_ydata(), [1, 1])
    assert ax.get_xscale() == ax.get_yscale() == "log" and "p = 0.5" in ax.get_ylabel()
