"""The shape of a thorax: where its parts lie, and that positions go both ways."""

from functools import cache

import cc3d
import numpy as np
import pytest

from airwaystudy.phantoms.drawing import Grid
from airwaystudy.phantoms.thorax import CAGE, HEIGHT, LOBES, Thorax, ellipsoid

SEEDS = range(8)
GRID = Grid((75, 100, 100), (4.0, 4.0, 4.0))  # 400 x 400 x 300 mm


@cache
def thorax(seed):
    """A thorax, each of another size."""
    return Thorax.random(GRID, 0.86 + 0.035 * seed, 7.0 + 0.3 * seed, np.random.default_rng(seed))


@cache
def lungs(seed):
    """Voxels of the lungs: mask, number of the lobe."""
    place = thorax(seed).standard(*GRID.axes())
    return thorax(seed).lung_depth(*place) > 0, thorax(seed).lobe(*place)


def depth(seed, *point, of="lung"):
    return float(getattr(thorax(seed), f"{of}_depth")(*map(np.float32, point)))


# ------------------------------------------------------------------------------------------------------------ positions


@pytest.mark.parametrize("seed", SEEDS)
def test_place_is_the_inverse_of_standard(seed):
    points = np.random.default_rng(seed).uniform([-CAGE, -85, 0], [CAGE, 85, HEIGHT], (500, 3))
    found = np.stack(thorax(seed).standard(*thorax(seed).place(points).T), 1)
    assert np.abs((found - points) * thorax(seed).scale).max() < 0.2  # mm


def test_the_warp_moves_points_by_millimetres_and_no_two_cases_alike():
    points = np.random.default_rng(0).uniform([-CAGE, -85, 0], [CAGE, 85, HEIGHT], (200, 3))
    shifts = [thorax(seed).place(points) - thorax(seed).origin - points * thorax(seed).scale for seed in (0, 1)]
    for shift in shifts:
        assert 1 < np.abs(shift).max() < 20
    assert np.abs(shifts[0] - shifts[1]).max() > 1


def test_standard_coordinates_run_to_the_left_the_back_and_up():
    """x and y grow that way in an LPS image, and slices from the feet up; the warp cannot turn that round."""
    place = np.stack(np.broadcast_arrays(*thorax(0).standard(*GRID.axes())))
    for axis, of_array in zip(place, (3, 2, 1), strict=True):
        assert (np.diff(axis, axis=of_array - 1) > 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lungs_nearly_fill_the_height_of_the_image_and_stay_in_it(seed):
    apex, base = thorax(seed).place(np.array([[0, 0, HEIGHT], [0, 0, 0]]))[:, 2]
    assert apex - base == pytest.approx(0.9 * 300, abs=25)
    mask = lungs(seed)[0]
    occupied = [np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    assert all(found[0] > 0 and found[-1] < size - 1 for found, size in zip(occupied, mask.shape, strict=True))


def test_a_thorax_is_drawn_from_its_seed_and_for_its_size():
    one, again = (Thorax.random(GRID, 1.1, 8.0, np.random.default_rng(5)) for _ in range(2))
    assert all((getattr(one, name) == getattr(again, name)).all() for name in one.__dataclass_fields__)
    assert one.scale[:2].tolist() == pytest.approx([1.1, 1.1])


# ------------------------------------------------------------------------------------------------------------- surfaces


def test_depth_in_a_ball_and_an_ellipsoid():
    assert ellipsoid(3.0, 4.0, 0.0, (0, 0, 0), (8, 8, 8)) == pytest.approx(3)
    assert ellipsoid(12.0, 0.0, 0.0, (2, 0, 0), (8, 8, 8)) == pytest.approx(-2)
    along = [ellipsoid(*point, (0, 0, 0), (20, 10, 5)) for point in [(0, 0, 0), (20, 0, 0), (0, 10, 0), (0, 0, 5)]]
    assert along == pytest.approx([5, 0, 0, 0])


@pytest.mark.parametrize("seed", SEEDS)
def test_lung_and_no_lung_at_points_one_knows(seed):
    case = thorax(seed)
    right, left = case.domes
    for point in [(-80, 0, 120), (85, 0, 140), (-50, 0, 235), (50, 0, 235), (-80, 40, right + 5), (90, 40, left + 12)]:
        assert depth(seed, *point) > 2, point
    spine = (0, case.depth_v - 28, 100)
    below = (-62, -8, right - 5), (62, -8, left - 5)
    for point in [case.heart[:3], spine, (0, -8, 200), (-60, 0, 265), (60, 0, 265), *below, case.carina]:
        assert depth(seed, *point) < -2, point
    for point in [(150, 0, 120), (-150, 0, 120), (0, 120, 120), (70, -120, 120)]:
        assert depth(seed, *point) < -2, point  # outside the cage


@pytest.mark.parametrize("seed", SEEDS)
def test_the_heart_lies_in_the_left_half_above_the_diaphragm_and_the_carina_above_it(seed):
    case = thorax(seed)
    assert depth(seed, *case.heart[:3], of="heart") == pytest.approx(min(case.heart[3:]))
    assert case.heart[0] > 10
    assert case.heart[2] < case.carina[2]
    assert case.domes[0] > case.domes[1]  # the liver is on the right
    assert depth(seed, -62, -8, case.domes[0] - 3, of="dome") == pytest.approx(3, abs=0.1)
    assert depth(seed, 62, -8, case.domes[1] + 3, of="dome") == pytest.approx(-3, abs=0.1)


@pytest.mark.parametrize("seed", SEEDS)
def test_lungs_lie_in_the_cage_and_the_cage_in_the_body(seed):
    case, place = thorax(seed), thorax(seed).standard(*GRID.axes())
    lung, cage, body = (getattr(case, f"{name}_depth")(*place) for name in ("lung", "cage", "body"))
    assert (cage[lung > 0] > 0).all()
    within = np.broadcast_to((place[2] > 20) & (place[2] < 200), cage.shape) & (cage > 0)
    assert within.sum() > 10_000
    wall = case.fat + case.muscle
    assert body[within].min() > 0.7 * wall  # at the sides, to first order, (depth_v + wall) / (CAGE + wall)
    assert case.body_depth(0, case.depth_v, 100) == pytest.approx(wall, abs=0.01)
    assert case.body_depth(0, -case.depth_v, 20) == pytest.approx(wall, abs=0.01)
    assert body[:, 0].max() < 0  # in front of the chest is air


@pytest.mark.parametrize("seed", SEEDS)
def test_there_are_two_lungs_of_like_size(seed):
    """Beside them there may be a crumb in front of the heart."""
    parts = cc3d.connected_components(lungs(seed)[0], connectivity=26)
    volumes = np.sort(np.bincount(parts.ravel())[1:])[::-1]
    assert volumes[2:].sum() < 0.001 * volumes.sum()
    assert volumes[1] > 0.7 * volumes[0]
    litres = volumes.sum() * 4**3 / 1e6
    assert 2.5 < litres < 9
    x = [np.argwhere(parts == number)[:, 2].mean() for number in np.argsort(np.bincount(parts.ravel())[1:])[-2:] + 1]
    assert np.abs(np.diff(x)).item() * 4 > 100  # mm: one on each side


def test_breasts_stand_out_in_front():
    case = next(thorax(seed) for seed in SEEDS if thorax(seed).breasts)
    nipple = -(case.depth_v + case.fat + case.muscle) + 6 - case.breasts
    for u in (-68, 68):
        assert case.body_depth(u, nipple, 100) > 0
    assert case.body_depth(0, nipple, 100) < 0


# ---------------------------------------------------------------------------------------------------------------- lobes


@pytest.mark.parametrize("seed", SEEDS)
def test_every_lobe_has_its_place_and_a_plausible_share(seed):
    """Shares in patients: roughly a fifth each, the right middle lobe a tenth (8 % in Pu et al. 2009 and others)."""
    mask, lobe = lungs(seed)
    place = np.stack(np.broadcast_arrays(*thorax(seed).standard(*GRID.axes())))
    share = np.bincount(lobe[mask], minlength=5) / mask.sum()
    for name, found, (low, high) in zip(
        LOBES, share, [(0.14, 0.28), (0.06, 0.16), (0.12, 0.34), (0.18, 0.38), (0.12, 0.34)], strict=True
    ):
        assert low < found < high, name
    centre = {name: place[:, mask & (lobe == number)].mean(1) for number, name in enumerate(LOBES)}
    for name, (u, _, _) in centre.items():
        assert (u < -40) if name.startswith("right") else (u > 40)
    for side in ("right", "left"):
        upper, lower = centre[f"{side} upper"], centre[f"{side} lower"]
        assert upper[2] > lower[2] + 40  # higher
        assert upper[1] < lower[1] - 20  # further to the front
    middle = centre["right middle"]
    assert middle[2] < centre["right upper"][2] - 40
    assert middle[1] < centre["right lower"][1] - 40


def test_lobes_at_points_one_knows():
    points = {"right upper": (-60, 0, 230), "right middle": (-60, -60, 90), "right lower": (-70, 50, 80)}
    points |= {"left upper": (60, -30, 180), "left lower": (80, 50, 70)}
    for seed in SEEDS:
        numbers = thorax(seed).lobe(*np.array(list(points.values())).T)
        assert [LOBES[number] for number in numbers] == list(points)


def test_fissures_are_where_lobes_meet():
    case, height = thorax(3), np.arange(20.0, 240, 0.1)
    for u, v in [(-70.0, 20.0), (-60.0, -40.0), (75.0, 0.0)]:
        lobe = case.lobe(u, v, height)
        (change,) = np.flatnonzero((lobe == (2 if u < 0 else 4))[1:] != (lobe == (2 if u < 0 else 4))[:-1])
        assert abs(case.oblique(u, v, height[change])) < 0.1
    upper = case.lobe(-60.0, -40.0, height) == 0
    assert abs(case.horizontal(-60.0, -40.0, height[upper.argmax()])) < 0.1


@pytest.mark.parametrize("seed", [0, 5])
def test_the_lungs_are_filled_evenly_with_points_of_their_lobes(seed):
    case, points = thorax(seed), thorax(seed).fill(4000, np.random.default_rng(seed))
    assert sum(map(len, points)) == 4000
    mask, lobe = lungs(seed)
    share = np.bincount(lobe[mask], minlength=5) / mask.sum()
    assert np.array([len(part) for part in points]) / 4000 == pytest.approx(share, abs=0.03)
    for number, part in enumerate(points):
        place = np.stack(case.standard(*part.T))
        assert case.lung_depth(*place).min() > 1.5  # 2 mm, but for the placing
        assert (case.lobe(*place) == number).mean() > 0.99
        assert all(case.holds(point) for point in part[::20])


def test_a_lung_holds_what_lies_a_millimetre_under_the_pleura():
    case = thorax(0)
    line = case.place(np.array([[u, 0.0, 120.0] for u in np.arange(-135, -60, 0.5)]))
    deep = np.array([case.lung_depth(*case.standard(*point)) for point in line])
    assert [case.holds(point) for point in line] == (deep > 1).tolist()
    assert deep.min() < 0 < 1 < deep.max()
