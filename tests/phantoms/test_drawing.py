"""Tubes, surfaces and axes in closed form, on grids of any spacing."""

from itertools import pairwise

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

from airwaystudy.phantoms.drawing import SLAB, Grid, blend, coverage, draw_axes, draw_tubes, refine
from airwaystudy.phantoms.names import SIZES


def components(mask, connectivity=6):
    return int(cc3d.connected_components(mask, connectivity=connectivity).max())


def cubic(shape, spacing=1.0):
    return Grid(tuple(shape), (spacing,) * 3)


def tube(start, end, radii, grid=None):
    ends = np.array([start], float), np.array([end], float)
    return draw_tubes(grid or cubic((40, 40, 40)), *ends, np.array([radii], float))


def voxels(mask):
    """The voxels of a mask: x, y, z."""
    return {(int(x), int(y), int(z)) for z, y, x in np.argwhere(mask)}


# ----------------------------------------------------------------------------------------------------------------- grid

SMALL = Grid((10, 20, 30), (1.0, 0.5, 2.0))


def test_a_grid_in_mm():
    assert SMALL.extent.tolist() == [30, 10, 20]
    assert SMALL.resolution == pytest.approx(1)
    assert Grid((1, 1, 1), (0.5, 0.5, 2.0)).resolution == pytest.approx(0.5 ** (1 / 3))


def test_axes_broadcast_to_the_grid():
    x, y, z = SMALL.axes()
    assert [axis.shape for axis in (x, y, z)] == [(1, 1, 30), (1, 20, 1), (10, 1, 1)]
    assert {axis.dtype for axis in (x, y, z)} == {np.dtype(np.float32)}
    assert (x.ravel() == np.arange(30)).all()
    assert (y.ravel() == np.arange(20) * 0.5).all()
    assert (z.ravel() == np.arange(10) * 2).all()
    x, y, z = SMALL.axes((slice(1, 3), slice(4, 6), slice(7, 10)))
    assert [axis.ravel().tolist() for axis in (x, y, z)] == [[7, 8, 9], [2, 2.5], [2, 4]]


def test_a_box_holds_the_voxels_between_two_points():
    assert SMALL.box(np.array([2.3, 1.2, 4.5]), np.array([4.1, 2.0, 9.0])) == (slice(2, 6), slice(2, 5), slice(2, 6))
    assert SMALL.box(np.full(3, -9.0), np.full(3, 99.0)) == (slice(0, 10), slice(0, 20), slice(0, 30))
    assert np.empty(SMALL.shape)[SMALL.box(np.full(3, -9.0), np.full(3, -5.0))].size == 0
    assert np.empty(SMALL.shape)[SMALL.box(np.full(3, 50.0), np.full(3, 60.0))].size == 0


@pytest.mark.parametrize("size", [1, SLAB - 1, SLAB, SLAB + 1, 3 * SLAB, 77])
def test_slabs_make_up_the_grid(size):
    slabs = list(cubic((size, 2, 2)).slabs())
    assert [z for slab in slabs for z in range(slab.start, slab.stop)] == list(range(size))
    assert max(slab.stop - slab.start for slab in slabs) <= SLAB


# ------------------------------------------------------------------------------------------------------ share of voxels


@pytest.mark.parametrize("spacing", [1.0, 0.5])
def test_coverage_of_a_plane_across_an_axis_is_exact(spacing):
    voxel = np.arange(20) * spacing
    share = coverage(voxel - 10.3 * spacing, spacing)  # 0.8 of the voxel at 10, which reaches from 9.5 to 10.5
    assert share == pytest.approx([*[1] * 10, 0.8, *[0] * 9])


def test_a_tissue_is_blended_by_its_share():
    image = np.array([-1000, 0, 40, 200], np.float32)
    blend(image, 100.0, np.array([0.5, 0, 1, 0.25], np.float32))
    assert image.tolist() == [-450, 0, 100, 175]
    blend(image, np.array([0, 2, 50, 0]), np.full(4, 0.5, np.float32))
    assert image.tolist() == [-225, 1, 75, 87.5]


# ---------------------------------------------------------------------------------------------------------------- tubes


def test_distance_to_an_even_tube():
    distance = tube((10, 10, 5), (10, 10, 25), (4, 4))
    assert distance.dtype == np.float32
    found = [distance[z, y, x] for z, y, x in [(15, 10, 10), (15, 10, 13), (15, 14, 10), (15, 13, 13), (15, 7, 13)]]
    assert found == pytest.approx([-4, -1, 0, 18**0.5 - 4, 18**0.5 - 4], abs=1e-6)


def test_a_tube_ends_round():
    distance = tube((10, 10, 5), (10, 10, 25), (4, 4))
    # Beyond the end at z = 25: 3 and 4 along the axis; 2, 2 and 3 along z, y and x.
    found = [distance[28, 10, 10], distance[29, 10, 10], distance[27, 12, 13]]
    assert found == pytest.approx([-1, 0, 17**0.5 - 4], abs=1e-6)


def test_a_tube_without_length_is_a_ball():
    distance = tube((20, 18, 16), (20, 18, 16), (5, 5))
    found = [distance[16, 18, 20], distance[19, 18, 24], distance[16, 14, 20], distance[18, 20, 21]]
    assert found == pytest.approx([-5, 0, -1, -2], abs=1e-6)


def test_distance_is_in_mm_and_at_most_a_voxel():
    distance = tube((5.0, 5.0, 2.0), (5.0, 5.0, 18.0), (2.0, 2.0), cubic((40, 40, 40), 0.5))  # axis: x = y = voxel 10
    assert [distance[20, 10, 10 + k] for k in (0, 2, 4, 5, 6)] == pytest.approx([-2, -1, 0, 0.5, 0.5])
    assert distance.max() == 0.5
    assert distance[39, 39, 39] == 0.5


def test_axes_are_x_y_z():
    distance = tube((5, 20, 30), (25, 20, 30), (2, 2))
    assert distance[30, 20, 15] == -2
    assert distance[30, 22, 15] == 0
    assert distance[15, 20, 30] == 1


def test_distance_is_in_mm_whatever_the_spacing_along_each_axis():
    """A tube along x; y is 0.5 mm, z 2 mm a voxel."""
    distance = tube((4, 5, 10), (26, 5, 10), (3, 3), Grid((10, 20, 30), (1.0, 0.5, 2.0)))
    assert [distance[5, y, 15] for y in (10, 12, 16, 18)] == pytest.approx([-3, -2, 0, 1])
    assert [distance[z, 10, 15] for z in (3, 4, 5, 6, 7)] == pytest.approx([1, -1, -3, -1, 1])
    assert distance[6, 13, 15] == pytest.approx(2.5 - 3)  # 1.5 mm along y, 2 along z
    assert distance[5, 10, 28] == pytest.approx(-1)  # 2 mm beyond the end
    assert distance.max() == 2  # the largest side


def test_a_tube_tapers_evenly():
    distance = tube((20, 20, 0), (20, 20, 40), (6, 2), cubic((48, 41, 41)))
    for z, radius in [(0, 6), (10, 5), (20, 4), (30, 3), (40, 2)]:
        assert distance[z, 20, 20] == pytest.approx(-radius, abs=1e-6)
        assert distance[z, 20, 20 + radius] == pytest.approx(0, abs=1e-6)
    assert distance[42, 20, 20] == pytest.approx(0, abs=1e-6)


def test_tubes_are_united():
    ends = np.array([[5.0, 10, 10], [20, 10, 10]]), np.array([[20.0, 10, 10], [20, 30, 10]])
    radii, grid = np.array([[2.0, 2.0], [3.0, 3.0]]), cubic((20, 40, 40))
    both = draw_tubes(grid, *ends, radii)
    each = [tube(a, b, r, grid) for a, b, r in zip(*ends, radii, strict=True)]
    assert np.array_equal(both, np.minimum(*each))


def test_tubes_may_leave_the_grid():
    through = tube((-20, 10, 10), (60, 10, 10), (3, 3))
    assert (through[10, 10] == -3).all()
    outside = tube((-20, -20, -20), (-10, -10, -10), (3, 3))
    assert (outside == 1).all()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(4, 15), min_size=6, max_size=6),
    st.floats(0.3, 4),
    st.sampled_from([(0.5, 0.5, 0.5), (0.7, 0.7, 0.7), (1.0, 1.0, 1.0), (0.6, 0.6, 2.5), (1.2, 0.8, 0.5)]),
)
def test_distance_is_that_to_the_nearest_point_of_the_axis(ends, radius, spacing):
    start, end = np.array(ends[:3]), np.array(ends[3:])
    grid = Grid((20, 22, 24), spacing)
    axis = start + np.linspace(0, 1, 1001)[:, None] * (end - start)  # a point every 0.02 mm or less
    centres = np.indices(grid.shape)[::-1].reshape(3, -1).T * spacing
    expected = np.minimum(KDTree(axis).query(centres)[0] - radius, max(spacing)).reshape(grid.shape)
    assert np.abs(tube(start, end, (radius, radius), grid) - expected).max() < 0.012


AXIS = (8.3, 9.1, 7.7), (27.4, 25.8, 31.9)  # oblique and off the grid
LENGTH = float(np.linalg.norm(np.subtract(*AXIS)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.5, 0.5, 1.25)])
def test_volume_of_a_tube_drawn_as_a_mask(spacing):
    radius = 4.0
    mask = tube(*AXIS, (radius, radius), Grid(tuple(int(40 / step) for step in spacing[::-1]), spacing)) <= 0
    volume = np.pi * radius**2 * LENGTH + 4 / 3 * np.pi * radius**3
    assert mask.sum() * np.prod(spacing) == pytest.approx(volume, rel=0.01)


@pytest.mark.parametrize(("radius", "error"), [(2.0, 0.03), (3.0, 0.015), (4.0, 0.01)])
def test_partial_volumes_add_up_to_a_cylinder(radius, error):
    """Two cylinders that differ in length alone: their round ends cancel."""
    whole, part = np.array(AXIS[1]), np.array(AXIS[0]) + 0.3 * np.subtract(AXIS[1], AXIS[0])
    sums = [coverage(tube(AXIS[0], end, (radius, radius)), 1.0).sum(dtype=float) for end in (whole, part)]
    assert sums[0] - sums[1] == pytest.approx(np.pi * radius**2 * 0.7 * LENGTH, rel=error)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 1.25)])
@pytest.mark.parametrize("radius", [1.0, 1.5, 3.0])
def test_partial_volumes_of_a_thin_tube(radius, spacing):
    """The weight falls from 1 to 0 over a voxel's side s across the surface: a section's sum is pi (r^2 + s^2 / 12)."""
    grid = Grid(tuple(int(40 / step) for step in spacing[::-1]), spacing)
    part = np.array(AXIS[0]) + 0.3 * np.subtract(AXIS[1], AXIS[0])
    shares = [coverage(tube(AXIS[0], end, (radius, radius), grid), grid.resolution) for end in (AXIS[1], part)]
    volume = (shares[0].sum(dtype=float) - shares[1].sum(dtype=float)) * np.prod(spacing)
    assert volume == pytest.approx(np.pi * (radius**2 + grid.resolution**2 / 12) * 0.7 * LENGTH, rel=0.01)


# ------------------------------------------------------------------------------------------------- values on a lattice


def lattice(grid, step, function):
    """Values of `function` of x, y, z on nodes `step` mm apart that cover the grid."""
    z, y, x = (np.arange(0, length + step, step, dtype=np.float32) for length in grid.extent[::-1])
    return function(x, y[:, None], z[:, None, None])


def linear(x, y, z):
    return 2 * x - 3 * y + 0.5 * z + 7


@pytest.mark.parametrize("step", [0.9, 3.0, 4.4])
def test_a_linear_function_is_refined_exactly(step):
    grid = Grid((37, 20, 30), (0.7, 1.0, 1.25))
    coarse = lattice(grid, step, linear)
    for slab in (slice(0, 37), slice(5, 6), slice(30, 37)):
        fine = refine(coarse, grid, step, slab)
        x, y, z = grid.axes((slab, slice(None), slice(None)))
        assert fine.dtype == np.float32
        assert fine.shape == (slab.stop - slab.start, 20, 30)
        assert np.abs(fine - linear(x, y, z)).max() < 1e-4


def test_refined_values_are_those_of_the_nodes_and_linear_between_them():
    grid, rng = cubic((9, 13, 17)), np.random.default_rng(0)
    coarse = rng.normal(size=(4, 5, 6)).astype(np.float32)
    fine = refine(coarse, grid, 4.0, slice(0, 9))
    assert fine[::4, ::4, ::4] == pytest.approx(coarse[:3, :4, :5], abs=1e-6)
    assert fine[4, 8, 5] == pytest.approx(0.75 * coarse[1, 2, 1] + 0.25 * coarse[1, 2, 2], abs=1e-6)
    assert fine[6, 8, 4] == pytest.approx((coarse[1, 2, 1] + coarse[2, 2, 1]) / 2, abs=1e-6)
    assert fine[2, 2, 2] == pytest.approx(coarse[:2, :2, :2].mean(), abs=1e-6)


# ----------------------------------------------------------------------------------------------------------------- axes


def drawn(grid, *lines):
    return draw_axes(grid, [np.array(line, float) for line in lines])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.7, 0.5, 2.5)])
def test_an_axis_is_the_voxels_that_it_meets(spacing):
    line = np.array([[2.3, 5.2, 7.4], [8.1, 5.2, 7.4], [8.1, 11.7, 7.4]])  # in voxels
    expected = np.zeros((12, 14, 16), bool)
    expected[7, 5, 2:9] = True  # from 2.3 to 8.1 along x: voxels 2 to 8
    expected[7, 5:13, 8] = True  # from 5.2 to 11.7 along y: voxels 5 to 12
    assert np.array_equal(drawn(Grid(expected.shape, spacing), line * spacing), expected)


def test_diagonal_axes_pass_one_side_after_the_other():
    grid = cubic((5, 5, 5))
    assert voxels(drawn(grid, [(0, 0, 0), (1, 1, 1)])) == {(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)}
    assert voxels(drawn(grid, [(0, 2, 3), (2, 0, 3)])) == {(0, 2, 3), (1, 2, 3), (1, 1, 3), (2, 1, 3), (2, 0, 3)}


def test_every_line_is_drawn_and_lines_do_not_join():
    mask = drawn(cubic((5, 5, 9)), [(0, 0, 0), (2, 0, 0)], [(8, 4, 4), (8, 4, 3)])
    assert voxels(mask) == {(0, 0, 0), (1, 0, 0), (2, 0, 0), (8, 4, 4), (8, 4, 3)}


def test_an_axis_is_cut_at_the_border():
    assert voxels(drawn(cubic((4, 4, 4)), [(-5, 2, 1), (9, 2, 1)])) == {(x, 2, 1) for x in range(4)}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(0, 20)] * 3), min_size=2, max_size=6),
    st.sampled_from([(1.0, 1.0, 1.0), (0.6, 0.6, 2.5), (1.3, 0.5, 0.8)]),
)
def test_axes_are_one_6_connected_line_near_the_polyline(points, spacing):
    grid = Grid(tuple(int(20 / step) + 2 for step in spacing[::-1]), spacing)
    mask = drawn(grid, points)
    assert components(mask) == 1
    line = np.concatenate([np.linspace(a, b, 200) for a, b in pairwise(points)]) / spacing
    found = np.argwhere(mask)[:, ::-1]
    assert KDTree(found).query(np.array(points) / spacing, p=np.inf)[0].max() < 0.5 + 1e-6  # voxels; each point's own
    away = KDTree(line).query(found, p=np.inf)[0]
    assert away.max() < 1.1  # half of one but for the corners that keep it connected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(4, 20), min_size=6, max_size=6), st.floats(0.87, 1.5))
def test_a_tube_over_half_a_voxel_diagonal_is_one_piece_and_holds_its_axis(ends, radius):
    start, end = np.array(ends[:3]), np.array(ends[3:])
    mask = tube(start, end, (radius, radius), cubic((25, 25, 25))) <= 0
    assert components(mask) == 1
    along = start + np.linspace(0, 1, 200)[:, None] * (end - start)
    assert mask[tuple(np.rint(along).astype(int)[:, ::-1].T)].all()


def test_no_labelled_airway_of_the_small_phantoms_is_thinner_than_a_voxel_diagonal():
    size = SIZES["mini"]
    assert 2 * 0.94 * size.smallest_airway > np.sqrt(3) * size.spacing  # 0.94: its thinner end
