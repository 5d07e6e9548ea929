"""Every finding does what it says, and nothing but that."""

from collections import Counter
from functools import cache

import cc3d
import numpy as np
import pandas as pd
import pytest
from scipy.spatial import KDTree

from airwaylib.trees.axes import axes
from airwaystudy.phantoms.case import choose_patient, draw_trees
from airwaystudy.phantoms.disease import (
    PROBABILITY,
    beyond,
    cloud,
    draw_findings,
    mucus_plugs,
    paint_lungs,
    paint_nodules,
    widen,
)
from airwaystudy.phantoms.drawing import Grid
from airwaystudy.phantoms.growth import AIRWAYS, grow_tree, prune
from airwaystudy.phantoms.names import SIZES
from airwaystudy.phantoms.scene import Scene
from airwaystudy.phantoms.thorax import Thorax

SEEDS = range(4)
GRID = Grid((140, 140, 160), (2.0, 2.0, 2.0))
LUNG, BODY = -850, 1000  # HU; a body as dense as no finding, so that what spills into it shows
OF_LUNGS = ("emphysema", "bullae", "cysts", "nodules", "mass", "consolidation", "ground glass", "dependent collapse")
IN_IMAGES = ("bronchiectasis", "mucus plugs", "narrow trachea", "calcified trachea")
OF_AIRWAYS = tuple(name for name in PROBABILITY if name not in OF_LUNGS)


@cache
def thorax(seed):
    return Thorax.random(GRID, 0.95, 8.0, np.random.default_rng(seed))


@cache
def depth(seed):
    """In the lungs, mm."""
    case = thorax(seed)
    return case.lung_depth(*case.standard(*GRID.axes())) * case.scale[0]


@cache
def lobes(seed):
    return thorax(seed).fill(9000, np.random.default_rng(seed))


def plain(seed, number=0):
    """Lungs of one HU in a body of another."""
    scene = Scene(GRID, thorax(seed), np.random.default_rng([seed, number]))
    scene.image[:] = np.where(depth(seed) > 0, LUNG, BODY)
    return scene


@cache
def change(seed, *findings):
    """What findings of the lungs change, HU."""
    scene, points = plain(seed), np.concatenate(lobes(seed))
    before = scene.image.copy()
    paint_lungs(scene, depth(seed) >= 0, points, findings)
    paint_nodules(scene, points, findings)
    return scene.image - before


@cache
def airways(seed):
    carina = thorax(seed).carina
    root = np.stack([carina + np.array([0, -14, 100]), carina])
    return grow_tree(thorax(seed), root, AIRWAYS, lobes(seed), np.random.default_rng(seed)).table(8.0, 2.6)


# ------------------------------------------------------------------------------------------------------------ frequency


def test_findings_are_drawn_by_their_probability():
    drawn = [draw_findings(np.random.default_rng(seed)) for seed in range(3000)]
    assert drawn[7] == draw_findings(np.random.default_rng(7))
    found = Counter(name for findings in drawn for name in findings)
    assert found.keys() == PROBABILITY.keys()
    assert {name: found[name] / 3000 for name in found} == pytest.approx(PROBABILITY, abs=0.04)
    assert () in drawn


def test_every_finding_is_of_the_lungs_or_of_the_airways_and_painted_or_drawn():
    """By what it changes, so that none is a mere name."""
    for name in OF_LUNGS:
        assert any((np.abs(change(seed, name)) > 5).sum() > 20 for seed in SEEDS), name
    healthy = drawn_airways(())
    for name in IN_IMAGES:
        assert (np.abs(drawn_airways((name,)) - healthy) > 5).sum() > 20, name
    walls = [wall(findings) for findings in (("thin walls",), (), ("thick walls",))]
    assert walls[1] / walls[0] == pytest.approx(1 / 0.65)
    assert walls[2] / walls[1] == pytest.approx(1.6)
    assert set(OF_AIRWAYS) == {*IN_IMAGES, "thin walls", "thick walls"}


@cache
def drawn_airways(findings):
    scene = plain(0)
    scene.image[depth(0) <= 0] = 40
    draw_trees(scene, patient(findings), lobes(0), 0.0)
    return scene.image


def patient(findings):
    """The same but for the findings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airwaystudy.phantoms.disease.draw_findings", lambda rng: findings)
        return choose_patient(SIZES["chest"], GRID, 0.95, np.random.default_rng(0))


def wall(findings):
    return patient(findings).wall


# ---------------------------------------------------------------------------------------------------------------- lungs


@pytest.mark.parametrize("seed", SEEDS)
def test_no_finding_changes_nothing(seed):
    assert not change(seed).any()
    assert not change(seed, *OF_AIRWAYS).any()


# Of lungs of -850 HU: what each finding does at its strongest, and how much of the lung it may take.
HU = {
    "emphysema": (-145, -1, 0.3),
    "bullae": (-150, -1, 0.3),
    "cysts": (-140, 850, 0.05),
    "nodules": (1, 1250, 0.05),
    "mass": (1, 920, 0.05),
    "consolidation": (1, 910, 0.3),
    "ground glass": (1, 350, 0.5),
    "dependent collapse": (1, 700, 0.6),
}


@pytest.mark.parametrize("name", OF_LUNGS)
def test_findings_make_lungs_darker_or_brighter_as_far_as_they_say(name):
    low, high, most = HU[name]
    for seed in SEEDS:
        inside = change(seed, name)[depth(seed) > 2]
        changed = inside[np.abs(inside) > 1]
        assert len(changed) < most * len(inside)
        assert low - 1 <= changed.min(initial=0 if low > 0 else -1)
        assert changed.max(initial=high) <= high + 1
        assert (changed > 0).all() if low > 0 else True


@pytest.mark.parametrize("name", OF_LUNGS)
def test_findings_of_the_lungs_keep_to_the_lungs(name):
    """But for a voxel's partial volume, and what the lattice of 3 mm makes of the pleura."""
    for seed in SEEDS:
        assert np.abs(change(seed, name)[depth(seed) < -2]).max() < 10


@pytest.mark.parametrize("seed", SEEDS)
def test_dependent_collapse_lies_along_the_back(seed):
    found, (_, v, _) = change(seed, "dependent collapse"), thorax(seed).standard(*GRID.axes())
    strong = (found > 100) & (depth(seed) > 3)
    assert strong.sum() > 100
    assert np.broadcast_to(v, strong.shape)[strong].min() > 30
    assert depth(seed)[strong].max() < 16 + 5


@pytest.mark.parametrize("seed", SEEDS)
def test_emphysema_is_many_small_holes(seed):
    holes = (change(seed, "emphysema") < -30) & (depth(seed) > 2)
    _, sizes = np.unique(cc3d.connected_components(holes, connectivity=6), return_counts=True)
    assert len(sizes) - 1 > 20
    assert np.median(sizes[1:]) * 8 < 4 / 3 * np.pi * 8**3  # mm^3
    assert (depth(seed) > 2).sum() > 8 * holes.sum()


def test_findings_add_up():
    both = change(0, "bullae", "mass")
    assert both[depth(0) > 2].min() < -50 and both[depth(0) > 2].max() > 500
    assert change(0, "bullae").max() < 1 and change(0, "mass")[depth(0) > 2].min() > -1


def test_cysts_have_walls_and_lie_together():
    for seed in SEEDS:
        found = change(seed, "cysts")
        (bright,), (dark,) = (np.stack(np.nonzero(part), 1)[None] for part in (found > 20, found < -20))
        assert len(bright) > 20 and len(dark) > 5
        assert np.quantile(KDTree(bright).query(dark)[0], 0.9) < 4  # voxels: a wall beside a hole
        assert np.linalg.norm(bright - np.median(bright, 0), axis=1).max() * 2 < 120  # mm


def test_a_cloud_lies_about_one_of_the_points():
    scene, points = plain(0), np.concatenate(lobes(0))[:1]
    found = cloud(scene, points, 1, (20.0, 20.0))
    assert found.shape == scene.lattice[0].shape
    inside = found > 0
    assert inside.sum() > 50
    seed = np.array(thorax(0).standard(*points[0]))
    away = np.linalg.norm(np.stack(scene.lattice, -1)[inside] - seed, axis=1)
    assert away.max() < 20 + 4 * 0.5 * 20 + 4  # five balls about it
    volume = inside.sum() * 27 / 1000
    assert 0.3 < volume < 5 * 4 / 3 * np.pi * 2.0**3


# -------------------------------------------------------------------------------------------------------------- airways


def test_what_lies_beyond_a_branch():
    tree = pd.DataFrame({"branch": range(9), "parent": [-1, 0, 0, 1, 1, 3, 3, 2, 2]})
    assert np.flatnonzero(beyond(tree, 1)).tolist() == [1, 3, 4, 5, 6]
    assert np.flatnonzero(beyond(tree, 3)).tolist() == [3, 5, 6]
    assert np.flatnonzero(beyond(tree, 8)).tolist() == [8]
    assert beyond(tree, 0).all()


@pytest.mark.parametrize("seed", range(12))
def test_bronchiectasis_widens_whole_subtrees_and_nothing_else(seed):
    tree = airways(0)
    before = tree.copy()
    wide = widen(tree, np.random.default_rng(seed))
    pd.testing.assert_frame_equal(tree, before)
    rest = [column for column in tree if not column.startswith("radius")]
    pd.testing.assert_frame_equal(wide[rest], tree[rest])
    start, end = (wide[name] / tree[name] for name in ("radius_start", "radius_end"))
    changed = (start != 1).to_numpy()
    assert (changed == (end != 1)).all()
    assert start[changed].between(1.3 * 0.85, 2.2 * 1.15).all()
    assert (end / start)[changed].between(0.95, 1.2).all()
    roots = tree[changed & ~np.isin(tree["parent"], tree["branch"][changed])]
    assert 1 <= len(roots) <= 3
    assert roots["generation"].between(4, 7).all()
    assert (np.any([beyond(tree, root) for root in roots["branch"]], axis=0) == changed).all()


def test_no_airway_of_a_small_tree_is_widened():
    tree = airways(0)[:1]
    pd.testing.assert_frame_equal(widen(tree, np.random.default_rng(0)), tree)


@pytest.mark.parametrize("seed", range(6))
def test_plugs_lie_in_small_airways(seed):
    tree = prune(airways(1), 0.5)
    start, end, radii = mucus_plugs(tree, np.random.default_rng(seed))
    assert 3 <= len(start) <= 25
    row, points, radius = axes(tree, 0.2)
    for share in (0, 0.5, 1):  # along the plugs
        away, near = KDTree(points).query(start + share * (end - start))
        assert (away < 0.6 * radius[near]).all()
        chosen = tree.loc[row[near]]
        assert (radii[:, 0] < 1.1 * 1.25 * chosen["radius_start"].to_numpy()).all()
    assert (radii[:, 0] == radii[:, 1]).all()
    assert radii.min() > 0.8 and radii.max() < 1.1 * 3 * 1.06 / 0.94


def test_plugs_fill_lumens_and_spare_the_trachea():
    """In the image; the other draws are the same, as plugs come last."""
    found = drawn_airways(("mucus plugs",)) - drawn_airways(())
    assert found.min() > -1  # brighter, nowhere darker
    x, y, z = (np.broadcast_to(axis, GRID.shape)[found > 20] for axis in GRID.axes())
    case = thorax(0)
    u, v, w = case.standard(x, y, z)
    assert not ((w > case.carina[2]) & (np.hypot(u - case.carina[0], v - case.carina[1]) < 10)).any()
