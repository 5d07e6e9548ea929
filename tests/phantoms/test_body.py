"""What surrounds the airways: tissues where they belong, as bright as they are."""

from functools import cache

import numpy as np
import pytest

from airwaystudy.phantoms.body import correlated_noise, draw_body, rib_line
from airwaystudy.phantoms.drawing import Grid
from airwaystudy.phantoms.scene import Scene
from airwaystudy.phantoms.thorax import CAGE, Thorax

SEEDS = (0, 1, 2)
GRID = Grid((100, 140, 140), (3.0, 3.0, 3.0))  # 420 x 420 x 300 mm


@cache
def body(seed, contrast=0.0):
    """The scene with everything but the trees drawn, the lung mask, and standard coordinates u, v, w of the voxels."""
    thorax = Thorax.random(GRID, 0.95, 8.0, np.random.default_rng(seed))
    scene = Scene(GRID, thorax, np.random.default_rng(seed))
    lung = draw_body(scene, contrast)
    return scene, lung, np.broadcast_arrays(*thorax.standard(*GRID.axes()))


def hu(seed, *point, contrast=0.0):
    """Median of 3 x 3 x 3 voxels about a point in standard mm."""
    scene, _, _ = body(seed, contrast)
    x, y, z = np.rint(scene.thorax.place(np.array([point]))[0] / 3).astype(int)
    return float(np.median(scene.image[max(z - 1, 0) : z + 2, y - 1 : y + 2, x - 1 : x + 2]))


def depth(seed, of):
    scene, _, place = body(seed)
    return getattr(scene.thorax, f"{of}_depth")(*place)


@pytest.mark.parametrize("seed", SEEDS)
def test_organs_have_their_hu(seed):
    """Four standard deviations about the mean that the drawing names."""
    thorax = body(seed)[0].thorax
    back = thorax.depth_v - 46  # of the aorta
    assert 18 < hu(seed, *thorax.heart[:3]) < 66
    assert 18 < hu(seed, 25, back, 80) < 66  # aorta
    assert 0 < hu(seed, -70, -5, 15) < 120  # liver
    assert 10 < hu(seed, 92, 42, 8) < 90  # spleen
    for point in [(-80, 0, 120), (85, 0, 140)]:
        assert -1000 < hu(seed, *point) < -720  # lung


@pytest.mark.parametrize("seed", SEEDS)
def test_fat_lies_under_the_skin_and_muscle_under_it(seed):
    scene, _, (u, _, w) = body(seed)
    thorax, deep = scene.thorax, depth(seed, "body")
    side = (np.abs(u) > CAGE) & (w > 60) & (w < 200)
    fat, muscle = (side & (deep > low) & (deep < high) for low, high in ((4, thorax.fat - 2), (thorax.fat + 2, 99)))
    assert fat.sum() > 500
    assert -132 < np.median(scene.image[fat]) < -68
    assert 18 < np.median(scene.image[muscle & (depth(seed, "cage") < -14)]) < 82


@pytest.mark.parametrize("seed", SEEDS)
def test_around_the_body_is_air_and_below_it_a_table(seed):
    scene, _, (u, v, _) = body(seed)
    outside = depth(seed, "body") < -4
    assert (scene.image[outside & (v < 0)] == -1000).all()
    behind = scene.image[outside & (np.abs(u) < 60)]
    assert 0.1 < ((behind > -945) & (behind < -845)).sum() / (outside & (np.abs(u) < 60) & (v > 60)).sum() < 0.9  # foam
    assert behind.max() > -700  # its shell


@pytest.mark.parametrize("seed", SEEDS)
def test_bones_are_bright_shells_around_marrow(seed):
    scene, _, (u, _, w) = body(seed)
    thorax = scene.thorax
    spine = [hu(seed, 0, thorax.depth_v - 28, z) for z in range(40, 200, 5)]
    assert 10 < np.median(spine) < 330  # marrow, 170 HU in the mean; discs between the vertebrae
    cage = depth(seed, "cage")
    side = (np.abs(u) > 90) & (w > 60) & (w < 200)
    wall = side & (cage < -2) & (cage > -12)
    assert 0.05 < (scene.image[wall] > 200).mean() < 0.5  # ribs, and muscle between them
    assert not (scene.image[side & (cage > 6)] > 200).any()  # none deeper


def test_ribs_run_around_the_cage_downwards_to_the_front():
    rng = np.random.default_rng(0)
    for side in (-1, 1):
        ribs = [rib_line(90.0, number, side, rng) for number in range(11)]
        for rib, cartilage in ribs:
            assert (side * rib[:, 0] > 0).all()
            assert rib[0, 1] > 0 > rib[-1, 1]  # back, front
            assert rib[0, 2] > rib[-1, 2] + 15
            assert np.array_equal(cartilage[0], rib[-1])
            assert cartilage[-1, 1] == -97  # the sternum
        heights = np.array([rib[:, 2] for rib, _ in ribs])
        assert (np.diff(heights[:, 0]) < -10).all()  # one under the other
        assert np.abs(ribs[7][0][:, 0]).max() == pytest.approx(CAGE + 7, abs=0.5)


def test_contrast_brightens_blood_alone():
    """By 300 HU times 0.5 to 1 in the heart, 0.7 to 1 in the aorta."""
    for seed in SEEDS:
        thorax = body(seed)[0].thorax
        aorta = 25, thorax.depth_v - 46, 80
        assert 150 - 24 <= hu(seed, *thorax.heart[:3], contrast=300.0) - 42 <= 300 + 24
        assert 210 - 24 <= hu(seed, *aorta, contrast=300.0) - 42 <= 300 + 24
        assert hu(seed, -70, -5, 15, contrast=300.0) == pytest.approx(hu(seed, -70, -5, 15), abs=1)  # liver
        assert (body(seed)[1] == body(seed, 300.0)[1]).all()  # lungs


def test_there_is_gas_in_the_stomach_of_some():
    """Below the diaphragm, in front, on the left; with a probability of 0.7."""
    found = []
    for seed in (0, 1, 2, 7):
        scene, _, (u, v, _) = body(seed)
        gas = (depth(seed, "dome") > 5) & (depth(seed, "cage") > 5) & (scene.image < -900)
        found.append(bool(gas.any()))
        assert (u[gas] > -10).all()
        assert (v[gas] < 0).all()
        assert not gas.any() or 5 < gas.sum() * 27 / 1000 < 300  # ml
    assert found == [True, True, True, False]


def test_there_is_gas_in_the_oesophagus_of_some():
    found = 0
    for seed in SEEDS:
        scene, lung, (u, v, w) = body(seed)
        behind = (np.abs(u - 6) < 22) & (v > scene.thorax.carina[1] + 4) & (w > 160) & (w < 230)
        found += (scene.image[behind & ~lung & (depth(seed, "lung") < -3)] < -300).sum()
    assert found > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lung_mask_is_where_the_lungs_are_deep(seed):
    """But for what interpolation makes of the edge: the mask is made on a lattice of 3 standard mm."""
    _, lung, (_, _, w) = body(seed)
    deep = depth(seed, "lung")
    assert lung.dtype == bool
    assert ((deep > 0) != lung).sum() < 0.005 * lung.sum()
    aside = np.abs(w - 190) > 4  # there the aorta's bed ends at once
    assert lung[aside & (deep > 2)].all()
    assert not lung[aside & (deep < -2)].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_lungs_are_denser_at_the_back_with_texture_and_fissures(seed):
    scene, lung, (u, v, w) = body(seed)
    image, deep = scene.image, depth(seed, "lung") > 8
    assert -920 < np.median(image[lung]) < -780
    front, back = (np.median(image[deep & part]) for part in (v < -30, v > 40))
    assert 2 < back - front < 80
    thorax, inside = scene.thorax, deep & (np.abs(v) < 40)
    fissure = inside & (np.abs(thorax.oblique(u, v, w)) < 0.3)
    beside = inside & (np.abs(thorax.oblique(u, v, w)) > 5) & (np.abs(thorax.oblique(u, v, w)) < 9)
    assert np.median(image[fissure]) > np.median(image[beside]) + 6
    spread = image[beside].std()
    assert 5 < spread < 45


def test_the_horizontal_fissure_is_in_the_right_lung_alone():
    """3 mm voxels show a thin sheet by a few HU: means over the whole sheet."""
    rises = {-1: [], 1: []}
    for seed in SEEDS:
        scene, _, (u, v, w) = body(seed)
        thorax, deep = scene.thorax, depth(seed, "lung") > 8
        away = thorax.horizontal(u, v, w)
        for side, found in rises.items():
            part = deep & (side * u > 0) & (thorax.oblique(u, v, w) > 8)
            below, on, above = (scene.image[part & (np.abs(away - at) < 0.7)].mean() for at in (-5, 0, 5))
            found.append(on - (below + above) / 2)
    assert min(rises[-1]) > 4
    assert max(rises[1]) < 2


def test_bones_keep_out_of_the_lungs():
    for seed in SEEDS:
        assert not (body(seed)[0].image[depth(seed, "lung") > 2] > 0).any()


def test_noise_has_unit_variance_and_the_correlation_of_its_gaussian():
    noise = correlated_noise((64, 64, 64), 1.0, np.random.default_rng(0))
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(1, abs=1e-3)
    assert noise.mean() == pytest.approx(0, abs=0.05)
    for neighbours in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1], noise[..., 1:] * noise[..., :-1]):
        assert neighbours.mean() == pytest.approx(np.exp(-1 / 4), abs=0.02)
