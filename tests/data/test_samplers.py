"""The samplers' rules: where a training crop may lie."""

import numpy as np
import pytest
from synthetic_stores import NOWHERE, block, synthetic

from airwaystudy.data.samplers import (
    MOST_LARGE,
    SAMPLING,
    centreline_corner,
    count_inside,
    hard_skeleton_corner,
    large_airway_corner,
    random_corner,
    small_airway_corner,
    uniform_corner,
)


def test_random_corners_cover_every_place_evenly():
    rng = np.random.default_rng(0)
    corners = np.array([random_corner((10, 7, 5), 5, rng) for _ in range(6000)])
    assert corners.min(0).tolist() == [0, 0, 0] and corners.max(0).tolist() == [5, 2, 0]
    assert np.bincount(corners[:, 0]) == pytest.approx(np.full(6, 1000), abs=130)  # 4.5 standard deviations
    assert np.bincount(corners[:, 1]) == pytest.approx(np.full(3, 2000), abs=165)


def test_an_axis_shorter_than_the_cube_is_centred():
    assert random_corner((4, 5, 9), 9, np.random.default_rng(0)).tolist() == [-3, -2, 0]


def test_points_are_counted_from_the_corner_on_and_the_far_side_is_out():
    points = np.array([[2, 2, 2], [6, 6, 6], [7, 6, 6], [2, 1, 2], [4, 4, 4]])
    assert count_inside(points, np.array([2, 2, 2]), 5) == 3
    assert count_inside(NOWHERE, np.array([2, 2, 2]), 5) == 0


def test_centreline_cubes_hold_a_centreline_voxel_and_lie_inside():
    points = np.array([[0, 0, 0], [29, 30, 31], [15, 3, 20]])
    store, rng = synthetic((30, 31, 32), centreline=points), np.random.default_rng(0)
    held = np.zeros(3)
    for _ in range(300):
        corner = centreline_corner(store, 12, rng)
        assert (corner >= 0).all() and (corner + 12 <= [30, 31, 32]).all()
        inside = ((points >= corner) & (points < corner + 12)).all(1)
        assert inside.any()
        held += inside
    assert (held > 60).all()  # each of them in turn


def test_centreline_cubes_are_placed_evenly_about_a_voxel_in_the_middle():
    store, rng = synthetic((40, 40, 40), centreline=[[20, 20, 20]]), np.random.default_rng(0)
    corners = np.array([centreline_corner(store, 8, rng) for _ in range(4000)])
    assert corners.min(0).tolist() == [13, 13, 13] and corners.max(0).tolist() == [20, 20, 20]
    assert np.bincount(corners[:, 1])[13:] == pytest.approx(np.full(8, 500), abs=100)


def test_centreline_cubes_of_a_small_case_are_centred():
    store = synthetic((8, 30, 30), centreline=[[0, 15, 15]])
    corners = np.array([centreline_corner(store, 10, np.random.default_rng(seed)) for seed in range(20)])
    assert (corners[:, 0] == -1).all() and (corners[:, 1:] >= 6).all() and (corners[:, 1:] <= 15).all()


def test_large_airway_cubes_hold_a_large_airway_voxel():
    rng = np.random.default_rng(0)
    store = synthetic((40, 40, 40), centreline=block((2, 2, 2), (4, 4, 4)), large=block((30, 30, 30), (34, 34, 34)))
    corners = np.array([large_airway_corner(store, 8, rng) for _ in range(200)])
    assert all(count_inside(store.large_points, corner, 8) for corner in corners)
    assert len(np.unique(corners, axis=0)) > 100


def test_large_airway_cubes_of_a_case_without_large_airways_hold_its_centreline():
    rng = np.random.default_rng(0)
    store = synthetic((40, 40, 40), centreline=block((2, 2, 2), (4, 4, 4)))
    assert all(count_inside(store.centreline_points, large_airway_corner(store, 8, rng), 8) for _ in range(20))


def redrawn(store, side, count):
    """Corners of small-airway sampling: those it left as first drawn, and those it was free to draw again."""
    kept, again = [], []
    for seed in range(count):
        corner = small_airway_corner(store, side, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        first = random_corner(store.shape, side, rng)
        if rng.random() < 0.5:
            assert corner.tolist() == first.tolist()
            kept.append(corner)
        else:
            again.append(corner)
    return kept, again


def test_small_airway_cubes_hold_small_and_hardly_any_large_airway():
    # Large airway gets rarer along x, and small airway ends at x = 55: cubes from about x = 40 to 54 qualify.
    everywhere = block((0, 0, 0), (60, 60, 100))
    large = everywhere[np.random.default_rng(0).random(len(everywhere)) < 4e-4 * (1 - everywhere[:, 2] / 70)]
    small, side = block((20, 20, 30), (40, 40, 55)), 38
    store = synthetic((60, 60, 100), small=small, large=large)
    kept, again = redrawn(store, side, 120)
    assert 40 < len(again) < 80  # with probability 1/2
    limit = 200 * side**3 / 150**3  # 3.25 voxels
    assert limit == pytest.approx(MOST_LARGE * side**3)
    counts = [[(count_inside(small, c, side), count_inside(large, c, side)) for c in part] for part in (kept, again)]
    assert all(few > 0 and many <= limit for few, many in counts[1])
    assert any(many > 0 for _, many in counts[1])
    assert np.mean([few > 0 and many <= limit for few, many in counts[0]]) < 0.5  # so the rule was needed
    assert np.mean([few > 0 for few, _ in counts[0]]) < 1


def test_where_no_cube_is_admissible_the_one_with_least_large_airway_is_taken():
    # Small airway is everywhere, and so is large airway, the less the farther along x.
    everywhere = block((0, 0, 0), (20, 20, 40))
    large = everywhere[np.random.default_rng(0).random(len(everywhere)) < 0.3 * (1 - everywhere[:, 2] / 45)]
    store, side = synthetic((20, 20, 40), small=everywhere, large=large), 14
    kept, again = redrawn(store, side, 120)
    counts = [[count_inside(large, corner, side) for corner in corners] for corners in (kept, again)]
    assert min(counts[1]) > MOST_LARGE * side**3
    assert np.mean(counts[1]) < 0.6 * np.mean(counts[0])  # at the far end 0.48 times the mean


def test_a_case_without_small_airways_still_gives_cubes():
    store = synthetic((20, 20, 20), large=block((0, 0, 0), (20, 20, 20)))
    assert [small_airway_corner(store, 20, np.random.default_rng(seed)).tolist() for seed in (0, 1)] == [[0, 0, 0]] * 2


def test_uniform_cubes_lie_anywhere_in_the_case():
    corners = [uniform_corner(synthetic((10, 9, 8)), 6, np.random.default_rng(seed)).tolist() for seed in range(900)]
    assert len({tuple(corner) for corner in corners}) == 5 * 4 * 3


def test_hard_skeleton_cubes_hold_a_missed_voxel():
    rng = np.random.default_rng(0)
    store = synthetic((40, 40, 40), centreline=block((2, 2, 2), (4, 4, 4)), missed=[[35, 35, 35], [35, 5, 35]])
    corners = np.array([hard_skeleton_corner(store, 8, rng) for _ in range(200)])
    held = [[count_inside(store.missed_points[n : n + 1], corner, 8) for n in (0, 1)] for corner in corners]
    assert (np.sum(held, 1) == 1).all() and min(np.sum(held, 0)) > 60


def test_hard_skeleton_cubes_of_a_case_without_misses_lie_anywhere():
    store = synthetic((10, 9, 8), centreline=[[0, 0, 0]])
    corners = [hard_skeleton_corner(store, 6, np.random.default_rng(seed)).tolist() for seed in range(900)]
    assert len({tuple(corner) for corner in corners}) == 5 * 4 * 3


def test_the_papers_crops_are_half_small_airway_half_hard_skeleton():
    assert SAMPLING["hard_skeleton"] == (small_airway_corner, hard_skeleton_corner)
    assert SAMPLING["small_airway"] == (small_airway_corner,) and SAMPLING["uniform"] == (uniform_corner,)
    assert SAMPLING["centreline"] == (small_airway_corner, centreline_corner)
