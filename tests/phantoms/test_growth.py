"""Trees by hand and trees grown in a thorax: how they hold together, fill the lobes and narrow."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import KDTree

from airwaylib.trees.axes import POINTS, TREE_COLUMNS, axes, tubes
from airwaystudy.phantoms.drawing import Grid
from airwaystudy.phantoms.growth import AIRWAYS, LEAF, VEINS, Tree, bend, grow_tree, halve, prune
from airwaystudy.phantoms.thorax import LOBES, Thorax

DOWN = np.array([0.0, 0, -1])
GRID = Grid((75, 100, 100), (4.0, 4.0, 4.0))
SEEDS = (0, 1, 2)
PLANS = {"airways": AIRWAYS, "veins": VEINS}


def placed(table, place):
    return table[[f"{place}_{axis}" for axis in "xyz"]].to_numpy()


def radius(table):
    return table[["radius_start", "radius_end"]].mean(axis=1).to_numpy()


@cache
def thorax(seed):
    return Thorax.random(GRID, 1.0, 8.0, np.random.default_rng(seed))


@cache
def lobes(seed):
    return thorax(seed).fill(12_000, np.random.default_rng(seed))


@cache
def grown(seed, plan="airways"):
    carina = thorax(seed).carina
    root = np.stack([carina + np.array([0, -14, 100]), carina])
    return grow_tree(thorax(seed), root, PLANS[plan], lobes(seed), np.random.default_rng(seed))


# -------------------------------------------------------------------------------------------------------- trees by hand


def hand_made_tree():
    """A trachea that serves 16 points: (a 8: (aa 7: (aaa 4, aab 3), ab 1), b 8: (ba 4, bb 4))."""
    tree = Tree(None, np.random.default_rng(0))
    number, end = {}, {"": np.zeros(3)}
    served = {"t": 16, "ta": 8, "tb": 8, "taa": 7, "tab": 1, "taaa": 4, "taab": 3, "tba": 4, "tbb": 4}
    for k, (name, points) in enumerate(served.items()):
        end[name] = end[name[:-1]] + [k % 2, k, 10 + k]
        number[name] = tree.add(number.get(name[:-1], -1), end[name[:-1]], end[name], points)
    return tree


@pytest.mark.parametrize("exponent", [2.3, 3.0])
def test_a_tree_as_a_table(exponent):
    table = hand_made_tree().table(2.0, exponent)
    assert list(table.columns) == TREE_COLUMNS == ["branch", "parent", "generation", *POINTS, *table.columns[-2:]]
    assert table["branch"].tolist() == list(range(9))
    assert table["parent"].tolist() == [-1, 0, 0, 1, 1, 3, 3, 2, 2]
    assert table["generation"].tolist() == [0, 1, 1, 2, 2, 3, 3, 2, 2]
    assert table.loc[1, "start_x":"start_z"].tolist() == [0, 0, 10]
    assert table.loc[1, "end_x":"end_z"].tolist() == [1, 1, 21]
    # Murray: 2 mm (n / 16)^(1 / exponent) in the middle; 6 % more at the start, 6 % less at the end.
    radii = 2 * (np.array([16, 8, 8, 7, 1, 4, 3, 4, 4]) / 16) ** (1 / exponent)
    assert table["radius_start"].to_numpy() == pytest.approx(1.06 * radii)
    assert table["radius_end"].to_numpy() == pytest.approx(0.94 * radii)
    assert {str(dtype) for dtype in table.dtypes} == {"int64", "float64"}


def test_a_branch_bends_away_from_its_chord_along_its_parent():
    """The root is straight; a branch bulges by 9 % of its length where its parent ran straight across."""
    bulges = []
    for seed in range(200):
        tree = Tree(None, np.random.default_rng(seed))
        stem = tree.add(-1, np.array([0.0, 0, 10]), np.zeros(3), 2)
        tree.add(stem, np.zeros(3), np.array([20.0, 0, 0]), 1)
        assert tree.branches[0].middle.tolist() == [0, 0, 5]
        assert tree.branches[0].heading == pytest.approx(DOWN)
        bulges.append(tree.branches[1].middle - [10, 0, 0])
    assert np.abs(np.array(bulges)[:, 0]).max() < 1e-9  # square to the chord
    assert np.mean(bulges, 0) == pytest.approx([0, 0, -1.8], abs=0.15)
    assert np.std(bulges, 0)[1:] == pytest.approx([0.45, 0.45], abs=0.08)


def test_a_heading_is_the_direction_of_the_parabola_at_its_end():
    tree = Tree(None, np.random.default_rng(3))
    stem = tree.add(-1, np.array([0.0, 0, 10]), np.zeros(3), 2)
    tree.add(stem, np.zeros(3), np.array([20.0, 5, -3]), 1)
    _, points, _ = axes(tree.table(1.0)[1:], 0.01)
    last = points[-1] - points[-2]
    assert tree.branches[1].heading == pytest.approx(last / np.linalg.norm(last), abs=1e-3)


def test_a_pair_with_one_thin_branch_goes_with_all_it_bears():
    # 3 points are 1.14 mm, 1 is 0.79: of the pair 7 and 1 neither stays, nor what the 7 bears, 4 and 3.
    whole = hand_made_tree().table(2.0)
    table = prune(whole, 1.1)
    assert table["branch"].tolist() == [0, 1, 2, 3, 4]
    assert table["parent"].tolist() == [-1, 0, 0, 2, 2]
    assert table["generation"].tolist() == [0, 1, 1, 2, 2]
    assert table.index.tolist() == list(range(5))
    assert radius(table) == pytest.approx(2 * np.array([1, 1 / 2, 1 / 2, 1 / 4, 1 / 4]) ** (1 / 3))
    assert placed(table, "end").tolist() == placed(whole, "end")[[0, 1, 2, 7, 8]].tolist()
    assert whole["branch"].tolist() == list(range(9))  # as it was
    pd.testing.assert_frame_equal(prune(whole, 0.1), whole)
    assert len(prune(whole, 1.9)) == 1


def test_a_thick_branch_behind_a_thin_one_goes_too():
    """As disease leaves them: a widened airway beyond one that is not."""
    table = hand_made_tree().table(2.0)
    table.loc[[5, 6], ["radius_start", "radius_end"]] = 1.9
    assert prune(table, 1.1)["branch"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(8))
def test_points_are_halved_across_their_widest_spread(seed):
    points = np.array([[x, y, 7] for x in (2.0, 8) for y in (5, 6, 7)])
    halves = halve(points, DOWN, np.random.default_rng(seed))
    assert sorted(sorted(half[:, 0]) for half in halves) == [[2, 2, 2], [8, 8, 8]]


@pytest.mark.parametrize("seed", range(8))
def test_the_plane_that_halves_points_holds_the_branch(seed):
    """Along the branch points may spread as they will, it is across it that they are split."""
    points = np.array([[x, y, z] for x in (-3.0, 3) for y in (-1, 0, 1) for z in (-50, 50)])
    halves = halve(points, DOWN, np.random.default_rng(seed))
    assert sorted(set(half[:, 0]) for half in halves) in ([{-3}, {3}], [{3}, {-3}])


def test_halves_are_no_halves_to_the_point():
    points = np.random.default_rng(0).normal(size=(4000, 3)) * (9, 3, 3)
    shares = [len(halve(points, DOWN, np.random.default_rng(seed))[0]) / 4000 for seed in range(200)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.std(shares) == pytest.approx(0.087, abs=0.02)  # 0.22 sigma of a normal density, 0.4 at its middle


def test_a_heading_bends_no_further_than_65_degrees():
    angle = np.deg2rad(65)
    assert bend(DOWN, np.array([1.0, 0, 0])) == pytest.approx([np.sin(angle), 0, -np.cos(angle)])
    ahead = np.array([0.6, 0, -0.8])  # 37 degrees
    assert bend(DOWN, ahead) is ahead


class HalfSpace:
    """A lung that fills x > 0."""

    def holds(self, point):
        return point[0] > 1


def test_branches_are_shortened_to_end_in_the_lung():
    rng, shortened = np.random.default_rng(0), 0
    points = np.concatenate([rng.normal((x, 0, -12), 0.1, (LEAF, 3)) for x in (-9.0, 19)])
    for seed in range(20):
        tree = Tree(HalfSpace(), np.random.default_rng(seed))
        tree.grow(tree.add(-1, np.array([5.0, 0, 10]), np.array([5.0, 0, 0]), len(points)), points)
        table = tree.table(4.0)
        assert table["generation"].tolist() == [0, 1, 1]
        left = table["end_x"][1:].min()
        assert left > 1
        # Its centroid lies 14 mm to the right, 12 down: 18.4 mm away, of which a branch spans 0.42 to 0.62.
        reach = table.loc[table["end_x"].idxmax(), ["end_x", "end_y", "end_z"]].to_numpy(float) - (5, 0, 0)
        assert 0.41 * 18.4 < np.linalg.norm(reach) < 0.63 * 18.4
        assert reach[0] > 4.0 > 0 > reach[2]  # 0.53 of its length: it keeps in part to its parent's direction
        shortened += left > 5 - 0.42 * 18.4 * np.sin(np.deg2rad(35))
    assert shortened > 10


def test_a_branch_of_few_points_is_not_divided():
    points = np.random.default_rng(0).normal((8, 0, -10), 1, (2 * LEAF - 1, 3))
    tree = Tree(HalfSpace(), np.random.default_rng(0))
    tree.grow(tree.add(-1, np.array([5.0, 0, 10]), np.array([5.0, 0, 0]), len(points)), points)
    assert len(tree.branches) == 1


# ----------------------------------------------------------------------------------------------------------------- axes

BENT = pd.DataFrame([[0, -1, 0, 0, 0, 0, 4, 2, 0, 8, 0, 0, 2.0, 1.0], [1, 0, 1, 8, 0, 0, 8, 0, 3, 8, 0, 6, 1.0, 0.4]])
BENT.columns = TREE_COLUMNS  # a parabola 2 mm high over 8 mm; a straight branch of 6 mm


def test_axes_are_parabolas_through_start_middle_and_end():
    row, points, radii = axes(BENT, 1.5)
    # 2 sqrt(20) = 8.9 mm of chords: 6 steps; 6 mm: 4.
    assert row.tolist() == [0] * 7 + [1] * 5
    x = np.arange(7) * 8 / 6
    assert points[:7] == pytest.approx(np.stack([x, 2 - 2 * ((x - 4) / 4) ** 2, 0 * x], 1))
    assert points[7:] == pytest.approx(np.array([[8, 0, z] for z in (0, 1.5, 3, 4.5, 6)]))
    assert points[[0, 3, 6, 7, 9, 11]].tolist() == [[0, 0, 0], [4, 2, 0], [8, 0, 0], [8, 0, 0], [8, 0, 3], [8, 0, 6]]
    assert radii == pytest.approx([*np.linspace(2, 1, 7), *np.linspace(1, 0.4, 5)])


@pytest.mark.parametrize("step", [0.2, 1.0, 3.0, 50.0])
def test_axes_are_as_dense_as_asked(step):
    table = grown(0).table(8.0)
    row, points, _ = axes(table, step)
    assert (np.diff(row) >= 0).all() and set(row) == set(range(len(table)))
    apart = np.linalg.norm(np.diff(points, axis=0), axis=1)[np.diff(row) == 0]
    assert apart.max() < 1.15 * step
    first, last = np.flatnonzero(np.diff(row, prepend=-1)), np.flatnonzero(np.diff(row, append=len(table)))
    assert (last > first).all()
    assert np.array_equal(points[first], placed(table, "start"))
    assert points[last] == pytest.approx(placed(table, "end"), abs=1e-12)


def test_no_branches_have_no_axes_nor_tubes():
    row, points, radii = axes(BENT[:0], 1.0)
    assert (row.shape, points.shape, radii.shape) == ((0,), (0, 3), (0,))
    start, end, radii = tubes(BENT[:0])
    assert (start.shape, end.shape, radii.shape) == ((0, 3), (0, 3), (0, 2))


def test_tubes_join_up_along_each_branch_and_not_from_branch_to_branch():
    start, end, radii = tubes(BENT, 1.5)
    assert len(start) == 6 + 4
    assert np.array_equal(start[1:6], end[:5]) and np.array_equal(start[7:], end[6:9])
    assert np.array_equal(radii[1:6, 0], radii[:5, 1])
    assert (start[0].tolist(), end[5].tolist(), start[6].tolist()) == ([0, 0, 0], [8, 0, 0], [8, 0, 0])
    assert (radii[0, 0], radii[5, 1], radii[6, 0]) == (2, 1, 1)
    assert radii[9, 1] == pytest.approx(0.4)


# --------------------------------------------------------------------------------------------------------- grown trees


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_grown_tree_holds_together(seed, plan):
    table = grown(seed, plan).table(8.0)
    child, parent = table[1:], table["parent"].to_numpy()
    above = table.loc[child["parent"]]
    assert len(table) > 300
    assert table["branch"].tolist() == list(range(len(table)))
    assert parent[0] == -1 and (parent[1:] >= 0).all()
    assert (parent < table["branch"]).all()
    assert table["generation"][0] == 0
    assert (child["generation"].to_numpy() == above["generation"].to_numpy() + 1).all()
    assert set(child["parent"].value_counts()) == {2}
    assert np.array_equal(placed(child, "start"), placed(above, "end"))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("exponent", [2.3, 2.7, 3.0])
def test_radii_follow_murrays_law(exponent, plan):
    table = grown(0, plan).table(8.0, exponent)
    power = pd.Series(radius(table) ** exponent)
    children = power.groupby(table["parent"]).sum().drop(-1)
    assert children.to_numpy() == pytest.approx(power[children.index].to_numpy(), rel=1e-9)
    assert radius(table)[0] == pytest.approx(8)
    assert (table["radius_start"] / table["radius_end"]).to_numpy() == pytest.approx(np.full(len(table), 1.06 / 0.94))


@pytest.mark.parametrize("smallest", [0.9, 1.5, 3.0])
def test_a_pruned_tree_holds_together_and_keeps_the_law(smallest):
    whole = grown(1).table(8.0, 2.6)
    table = prune(whole, smallest)
    assert 5 < len(table) < len(whole)
    child = table[1:]
    assert table["branch"].tolist() == list(range(len(table)))
    assert set(child["parent"].value_counts()) == {2}
    assert np.array_equal(placed(child, "start"), placed(table.loc[child["parent"]], "end"))
    assert radius(table).min() >= smallest
    kept = whole[whole[POINTS].apply(tuple, axis=1).isin(table[POINTS].apply(tuple, axis=1))]
    left = whole[~whole["branch"].isin(kept["branch"])]
    on = left[left["parent"].isin(kept["branch"])]
    thinnest = pd.Series(radius(on)).groupby(on["parent"].to_numpy()).min()
    assert (thinnest < smallest).all()  # no pair is left out without need


def bronchi(tree, points):
    """The rows of the large branch that serves all of a lobe's `points` alone, and of all beyond."""
    within = set()
    for number, branch in enumerate(tree.branches):
        if branch.parent in within or (branch.points == len(points) and branch.generation <= 3):
            within.add(number)
    return tree.table(8.0).loc[sorted(within)]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("seed", SEEDS)
def test_each_lobe_is_served_by_its_own_bronchus(seed, plan):
    tree, case = grown(seed, plan), thorax(seed)
    for number, points in enumerate(lobes(seed)):
        branches = bronchi(tree, points)
        tips = branches[~branches["branch"].isin(branches["parent"])]
        place = case.standard(*placed(tips, "end").T)
        assert len(tips) > 15
        assert (case.lobe(*place) == number).mean() > 0.8, LOBES[number]
        far = KDTree(placed(branches, "end")).query(points)[0]
        assert np.quantile(far, 0.9) < 30  # mm: but for the gutters in front of heart and diaphragm
        assert branches["generation"].max() >= 6


@pytest.mark.parametrize("seed", SEEDS)
def test_grown_branches_end_in_the_lung(seed):
    """All but stubs of under 1 mm, of which there are few."""
    tree, case = grown(seed), thorax(seed)
    beyond = [branch for branch in tree.branches if branch.generation > 3]  # of the plan
    length = np.array([np.linalg.norm(branch.end - branch.start) for branch in beyond])
    held = np.array([case.holds(branch.end) for branch in beyond])
    assert len(beyond) > 200
    assert held[length > 1.0].all()
    assert held.mean() > 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_large_airways_lie_where_they_do_in_patients(seed):
    """Carina, main bronchi to either side and down; the right one shorter and wider."""
    table = grown(seed).table(8.0, 2.6)
    first = table[table["parent"] == 0]
    right, left = (table.loc[number] for number in first["end_x"].sort_values().index)
    assert right["end_x"] < table["end_x"][0] < left["end_x"]
    assert max(right["end_z"], left["end_z"]) < table["end_z"][0] - 8
    carina = placed(table, "end")[0]
    runs = [np.linalg.norm(placed(table, "end")[int(side["branch"])] - carina) for side in (right, left)]
    assert runs[0] < runs[1]
    assert right["radius_start"] > left["radius_start"]


def test_a_thousand_points_and_more_make_more_generations():
    few = [lobe[::6] for lobe in lobes(0)]
    carina = thorax(0).carina
    tree = grow_tree(
        thorax(0), np.stack([carina + np.array([0, 0, 90]), carina]), AIRWAYS, few, np.random.default_rng(0)
    )
    depth = [max(branch.generation for branch in one.branches) for one in (tree, grown(0))]
    assert depth[0] + 1 < depth[1]
    assert depth[1] >= 10


def test_the_same_seed_grows_the_same_tree():
    carina = thorax(0).carina
    root = np.stack([carina + np.array([0, -14, 100]), carina])
    again, other = (grow_tree(thorax(0), root, AIRWAYS, lobes(0), np.random.default_rng(seed)) for seed in (0, 1))
    pd.testing.assert_frame_equal(again.table(8.0), grown(0).table(8.0))
    assert len(other.branches) != len(again.branches) or not other.table(8.0).equals(again.table(8.0))
