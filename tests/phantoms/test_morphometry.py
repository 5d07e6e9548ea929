"""Trees with closed-form answers: symmetric ones of known ratio, angle and exponent; centrelines; tiny VTU files."""

from pathlib import Path

import meshio
import numpy as np
import pandas as pd
import pytest

from airwaylib.errors import InputError
from airwaylib.trees.parse import parse_tree
from airwaystudy.phantoms.morphometry import (
    PUBLISHED,
    WEIBEL,
    Centreline,
    branch_table,
    by_generation,
    centreline_branches,
    murray_exponent,
    murray_exponents,
    order_ratios,
    parsed_branches,
    phantom_branches,
    quartiles,
    read_centreline,
    scaled_weibel,
    summary,
)

ANGLE, L_OVER_D, GENERATIONS = 40.0, 3.0, 5


def symmetric_tree(ratio=0.5 ** (1 / 3), angle=ANGLE):
    """A phantom's table of a symmetric plane tree: a child is `ratio` times its parent and turned by `angle`."""
    rows = [[0, -1, np.array([0.0, 0, 0]), 0.0, 20.0]]
    for parent in range(2 ** (GENERATIONS - 1) - 1):
        _, _, start, turn, diameter = rows[parent]
        end = start + L_OVER_D * diameter * np.array([np.sin(turn), 0, -np.cos(turn)])
        rows += [
            [len(rows) + i, parent, end, turn + s * np.deg2rad(angle), ratio * diameter] for i, s in ((0, -1), (1, 1))
        ]
    table = []
    for branch, parent, start, turn, diameter in rows:
        end = start + L_OVER_D * diameter * np.array([np.sin(turn), 0, -np.cos(turn)])
        table.append([branch, parent, *start, *end, 0.55 * diameter, 0.45 * diameter])
    places = [f"{end}_{axis}" for end in ("start", "end") for axis in "xyz"]
    return pd.DataFrame(table, columns=["branch", "parent", *places, "radius_start", "radius_end"])


# ---------------------------------------------------------------------------------------------------------- branches


def test_symmetric_tree_has_the_numbers_it_was_made_of():
    branches = phantom_branches(symmetric_tree())
    assert branches["generation"].value_counts().sort_index().tolist() == [1, 2, 4, 8, 16]
    assert branches["length_over_diameter"].to_numpy() == pytest.approx(L_OVER_D)
    assert np.isnan(branches["angle_deg"][0]) and np.isnan(branches["child_over_parent"][0])
    assert branches["angle_deg"][1:].to_numpy() == pytest.approx(ANGLE)
    assert branches["child_over_parent"][1:].to_numpy() == pytest.approx(0.5 ** (1 / 3))
    assert murray_exponents(branches) == pytest.approx(np.full(15, 3.0))
    ratios = order_ratios(branches)
    assert ratios["branching_ratio"] == pytest.approx(2)
    assert ratios["length_ratio"] == pytest.approx(2 ** (1 / 3))
    assert ratios["diameter_ratio"] == pytest.approx(2 ** (1 / 3))


def test_numbers_of_branches_need_not_be_rows():
    tree = symmetric_tree()
    tree["branch"] += 100
    tree.loc[1:, "parent"] += 100
    pd.testing.assert_frame_equal(phantom_branches(tree), phantom_branches(symmetric_tree()))


def test_a_middle_bends_the_axis_but_not_the_direction():
    tree = symmetric_tree()
    for axis in "xyz":
        tree[f"middle_{axis}"] = (tree[f"start_{axis}"] + tree[f"end_{axis}"]) / 2
    straight = phantom_branches(tree)
    assert straight["length_mm"].to_numpy() == pytest.approx(phantom_branches(symmetric_tree())["length_mm"].to_numpy())
    sag = 6.0
    tree["middle_y"] += sag  # square to the plane of the tree
    bent = phantom_branches(tree)
    chord = 60.0
    u = 4 * sag / chord  # arc of a parabola of chord c and sag s: c/2 (sqrt(1 + u^2) + asinh(u) / u), u = 4 s / c
    assert bent["length_mm"][0] == pytest.approx(chord / 2 * (np.hypot(1, u) + np.arcsinh(u) / u), rel=1e-3)
    assert bent["angle_deg"][1:].to_numpy() == pytest.approx(ANGLE)


def test_parents_come_first():
    with pytest.raises(InputError, match="branch 0 comes before its parent 1"):
        branch_table([1, -1], np.zeros((2, 3)), np.ones((2, 3)), np.ones(2), np.ones(2))


# ------------------------------------------------------------------------------------------------------ morphometry


def test_by_generation_gives_mean_and_spread():
    branches = phantom_branches(symmetric_tree())
    branches.loc[1, "length_mm"], branches.loc[2, "length_mm"] = 40.0, 46.0
    table = by_generation(branches).set_index("generation")
    assert table.loc[1, "branches"] == 2
    assert table.loc[1, "length_mm"] == pytest.approx(43)
    assert table.loc[1, "length_mm_sd"] == pytest.approx(np.sqrt(18))
    assert np.isnan(table.loc[0, "length_mm_sd"]) and np.isnan(table.loc[0, "angle_deg"])


@pytest.mark.parametrize("exponent", [1.0, 2.0, 2.8, 3.0, 7.0])
@pytest.mark.parametrize("share", [0.5, 0.2, 0.01])
def test_murray_exponent_is_the_one_a_fork_was_made_with(exponent, share):
    one, other = (4 * part ** (1 / exponent) for part in (share, 1 - share))
    assert murray_exponent(4, one, other) == pytest.approx(exponent)
    assert murray_exponent(4, other, one) == pytest.approx(exponent)


def test_child_as_wide_as_its_parent_has_no_exponent_and_counts_as_large():
    assert murray_exponent(4, 4, 1) == np.inf
    assert quartiles(np.array([1.0, 2, 3, np.inf, np.nan]))[1] in (2, 3)
    assert quartiles(np.array([1.0, np.inf, np.inf]))[1] == np.inf
    assert all(np.isnan(quartiles(np.array([np.nan]))))


def test_forks_in_three_have_no_exponent():
    parent = [-1, 0, 0, 0]
    branches = branch_table(parent, np.zeros((4, 3)), np.eye(4, 3) + 1, np.ones(4), np.array([2.0, 1, 1, 1]))
    assert len(murray_exponents(branches)) == 0


def test_order_ratios_of_two_orders_are_unknown():
    branches = phantom_branches(symmetric_tree()).iloc[:3]
    branches["strahler"] = [2, 1, 1]
    assert np.isnan(order_ratios(branches)["branching_ratio"])


def test_summary_leaves_the_trachea_out_of_ratios():
    fork = phantom_branches(symmetric_tree().iloc[:3])
    fork["length_over_diameter"] = [1000.0, 3, 5]
    assert summary(fork)["length_over_diameter"] == pytest.approx(4)
    numbers = summary(phantom_branches(symmetric_tree()))
    assert numbers["trachea_diameter_mm"] == pytest.approx(20)
    assert numbers["main_bronchus_diameter_mm"] == pytest.approx(20 * 0.5 ** (1 / 3))
    assert (numbers["branches"], numbers["generations"]) == (31, 4)
    assert numbers["murray_exponent"] == pytest.approx(3)


def test_published_values_agree_with_each_other():
    """Weibel's bronchi from the 4th generation on have the lengths over diameters of the published range, nearly."""
    assert WEIBEL["branches"].tolist() == [2**generation for generation in range(17)]
    assert WEIBEL["diameter_mm"].is_monotonic_decreasing
    low, high, _ = PUBLISHED["length_over_diameter"]
    assert scaled_weibel(4800)["length_over_diameter"][4:].between(low, high + 0.3).all()
    assert all(low <= high and source for low, high, source in PUBLISHED.values())


def test_weibel_scales_with_the_cube_root_of_the_volume():
    assert scaled_weibel(4800)["length_mm"].tolist() == WEIBEL["length_mm"].tolist()
    small = scaled_weibel(4800 / 27)
    assert small["diameter_mm"][0] == pytest.approx(6)
    assert small["length_over_diameter"][0] == pytest.approx(120 / 18)
    assert small["child_over_parent"][1] == pytest.approx(12.2 / 18)


# ------------------------------------------------------------------------------------------- centrelines and masks


def test_a_parsed_mask_has_the_branches_of_its_tubes():
    z, y, x = np.mgrid[:70, :13, :70]
    trunk = (np.hypot(x - 35, y - 6) <= 5) & (z >= 30)
    bar = (np.hypot(z - 30, y - 6) <= 3) & (np.abs(x - 35) < 32)
    branches = parsed_branches(parse_tree(trunk | bar, (2.0, 2.0, 2.0)))
    assert branches["parent"].tolist() == [-1, 0, 0]
    assert branches["diameter_mm"].tolist() == pytest.approx([20, 12, 12], abs=2)
    assert branches["angle_deg"][1:].tolist() == pytest.approx([90, 90], abs=8)
    assert branches["length_mm"].tolist() == pytest.approx([80 - 10, 64, 64], abs=10)  # thinning takes from free ends


def y_line():
    """A trunk of four points, 30 mm, that forks into arms of 14.14 and 20 mm; the rows of the points are shuffled."""
    points = np.array([[0, 0, 30], [0, 0, 20], [0, 0, 10], [0, 0, 0], [-10, 0, -10], [0, 10, 0], [0, 20, 0]], float)
    radius = np.array([5.0, 5, 5, 5, 2, 3, 3])
    edges = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [3, 5], [5, 6]])
    order = np.array([4, 2, 6, 0, 5, 1, 3])
    return Centreline(points[order], radius[order], np.argsort(order)[edges])


def test_centreline_is_cut_where_it_forks():
    branches = centreline_branches(y_line())
    assert branches["parent"].tolist() == [-1, 0, 0]
    assert branches["length_mm"][0] == pytest.approx(30)
    assert sorted(branches["length_mm"][1:]) == pytest.approx([np.sqrt(200), 20])
    arms = branches.iloc[1:].sort_values("length_mm")
    assert arms["angle_deg"].tolist() == pytest.approx([45, 90])
    # Over the middle half the first arm narrows from 5 - 3/4 to 5 - 9/4 mm, the other from 5 - 2/2 to 3 and on evenly.
    assert branches["diameter_mm"][0] == pytest.approx(10)
    assert arms["diameter_mm"].iloc[0] == pytest.approx(7)
    assert arms["diameter_mm"].iloc[1] == pytest.approx(2 * 3.25, abs=0.02)


def test_double_the_scale_double_the_lengths():
    one, line = centreline_branches(y_line()), y_line()
    two = centreline_branches(Centreline(2 * line.points, 2 * line.radius, line.edges))
    assert two["length_mm"].to_numpy() == pytest.approx(2 * one["length_mm"].to_numpy())
    assert two["length_over_diameter"].to_numpy() == pytest.approx(one["length_over_diameter"].to_numpy())


def test_rings_and_parts_are_refused():
    line = y_line()
    with pytest.raises(InputError, match="7 points and 7 edges"):
        centreline_branches(line._replace(edges=np.append(line.edges, [[0, 2]], axis=0)))
    ring = np.array([[7, 8], [8, 9], [9, 7]])
    points = np.append(line.points, np.eye(3), axis=0)
    with pytest.raises(InputError, match="3 points hang on no other"):
        centreline_branches(Centreline(points, np.append(line.radius, [1, 1, 1]), np.append(line.edges, ring, axis=0)))


# -------------------------------------------------------------------------------------------------------- VTU files

POINTS = np.array([[0, 0, 9], [0, 0, 0], [-3, 0, -3.5], [3, 0, -3]])
RADII, LINES = np.array([2, 1.5, 1, 1.25]), np.array([[0, 1], [1, 2], [1, 3]])


def write_vtu(path, cells=(("line", LINES),), radius="radius", **options):
    """A fork as a VTK XML file."""
    meshio.vtu.write(path, meshio.Mesh(POINTS, list(cells), {radius: RADII}), **options)
    return path


@pytest.mark.parametrize("options", [{"binary": False}, {"compression": None}, {"compression": "zlib"}], ids=str)
def test_vtu_files_of_every_form_are_read(options, tmp_path):
    line = read_centreline(write_vtu(tmp_path / "tree.vtu", **options))
    assert line.points.tolist() == POINTS.tolist()
    assert line.radius.tolist() == RADII.tolist()
    assert line.edges.tolist() == LINES.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": "width"}, "no point data radius"),
        ({"cells": [("triangle", np.array([[0, 1, 2]]))]}, "a line of two points"),
    ],
)
def test_other_vtu_files_are_errors(change, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_centreline(write_vtu(tmp_path / "tree.vtu", **change))


def test_what_is_no_xml_is_an_error(tmp_path):
    (tmp_path / "tree.vtu").write_text("# vtk DataFile Version 3.0")
    with pytest.raises(InputError, match="not a VTK XML file"):
        read_centreline(tmp_path / "tree.vtu")


def test_real_centreline_is_a_tree_of_bifurcations():
    path = Path(__file__).parents[3] / "shared/data/centreline/TestSubject002MajorAirways.vtu"
    if not path.exists():
        pytest.skip("no real centreline here")
    branches = centreline_branches(read_centreline(path))
    assert len(branches) == 165  # 83 tips, 82 forks
    assert branches["length_mm"].sum() == pytest.approx(1849.3, abs=0.1)  # of all the file's lines
    assert branches["diameter_mm"][0] == pytest.approx(13.4, abs=0.1)
