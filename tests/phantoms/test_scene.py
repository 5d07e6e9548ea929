"""Brushes: what they lay over the image has the volume, place and brightness of the form they were given."""

from dataclasses import replace

import numpy as np
import pytest

from airwaystudy.phantoms.drawing import Grid, coverage, draw_tubes
from airwaystudy.phantoms.scene import AIR, Scene, balls, join
from airwaystudy.phantoms.thorax import Thorax

GRID = Grid((50, 56, 60), (1.0, 1.0, 1.0))
CENTRE = np.array([31.3, 27.4, 24.8])  # x, y, z in mm


def scene(grid=GRID, mm=0.5):
    """A thorax that is not warped, `mm` to a standard one, with its origin at CENTRE."""
    thorax = Thorax.random(grid, 1.0, 5.0, np.random.default_rng(0))
    still = replace(thorax, waves=0 * thorax.waves, scale=np.full(3, mm, np.float32), origin=np.float32(CENTRE))
    return Scene(grid, still, np.random.default_rng(0))


def share(scene, hu):
    """Of each voxel that was painted in `hu`."""
    return (scene.image.astype(float) - AIR) / (hu - AIR)


def test_an_empty_scene_is_air():
    fresh = scene()
    assert fresh.image.shape == GRID.shape
    assert fresh.image.dtype == np.float32
    assert (fresh.image == -1000).all()
    assert fresh.mm == 0.5


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 1.25)])
def test_the_lattice_covers_the_grid_with_a_node_every_3_standard_mm(spacing):
    one = scene(Grid(GRID.shape, spacing))
    u, v, w = one.lattice
    for axis, (values, size) in enumerate(zip((w, v, u), one.grid.extent[::-1], strict=True)):
        at = np.moveaxis(values, axis, 0)[:, 0, 0] * 0.5 + CENTRE[::-1][axis]  # mm
        assert at[0] == pytest.approx(0, abs=1e-5)
        assert np.diff(at) == pytest.approx(np.full(len(at) - 1, 1.5), abs=1e-5)
        assert at[-1] >= size - 1e-4


@pytest.mark.parametrize("mm", [0.5, 1.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 1.25)])
def test_a_painted_ball_has_its_volume_and_its_place(spacing, mm):
    one = scene(Grid((48, 80, 90), spacing), mm)
    u, v, w = one.lattice
    one.paint(40, 18 / mm - np.sqrt(u**2 + v**2 + w**2))
    painted = share(one, 40)
    # Between nodes h apart a distance is too small by h^2 / 12 times its Laplacian, 2 / r, on average.
    radius = 18 - (3 * mm) ** 2 / 12 * 2 / 18
    assert painted.sum() * np.prod(spacing) == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.005)
    assert painted.max() == pytest.approx(1)
    x, y, z = one.grid.axes()
    middle = [(painted * axis).sum() / painted.sum() for axis in (x, y, z)]
    assert middle == pytest.approx(CENTRE, abs=0.05)
    assert np.sqrt((x - CENTRE[0]) ** 2 + (y - CENTRE[1]) ** 2 + (z - CENTRE[2]) ** 2)[painted > 0].max() < 19


def test_paint_covers_what_lies_under_it_by_its_share():
    one = scene()
    u = one.lattice[0]
    one.paint(100, 20 + 0 * u)
    assert (one.image == 100).all()
    one.paint(-50, u)  # the half beyond x = 31.3
    assert one.image[20, 20, 30:34] == pytest.approx([100, 100 - 150 * 0.2, -50, -50], abs=1e-3)  # 31: 0.5 - 0.3
    assert np.array_equal(one.image[20, 20], one.image[44, 33])


@pytest.mark.parametrize("half", [0.3, 0.5, 0.9])
def test_a_sheet_thinner_than_the_lattice_keeps_its_thickness(half):
    """For `form` is applied after interpolation: between nodes 1.5 mm apart a sheet of 0.3 mm would be lost."""
    one = scene()
    thick = np.float32(half)
    one.paint(0, one.lattice[0], lambda depth: thick - np.abs(depth))
    columns = share(one, 0).sum(2)
    assert columns == pytest.approx(np.full(columns.shape, one.mm * 2 * half), abs=0.35)
    # The partial volume of a sheet thinner than a voxel depends on where it lies: over many places it is its own.
    slanted = scene()
    u, v, w = slanted.lattice
    slanted.paint(0, (u + 0.37 * v + 0.21 * w) / np.float32(1.0863), lambda depth: thick - np.abs(depth))
    found = share(slanted, 0)[10:40, 10:40].sum(2).mean()
    assert found > one.mm * 2 * half * 1.08 - 0.05
    assert (share(slanted, 0)[10:40, 10:40].max(2) > 0.1).all()  # without a hole


def test_paint_reaches_every_slab():
    deep = scene(Grid((100, 20, 20), (1.0, 1.0, 0.5)))
    deep.paint(0, np.minimum(deep.lattice[2] + 30, 40 - deep.lattice[2]))  # from 24.8 - 15 to 24.8 + 20 mm
    painted = share(deep, 0)[:, 10, 10]
    assert painted.sum() * 0.5 == pytest.approx(35, abs=0.02)
    assert np.flatnonzero(painted)[[0, -1]] * 0.5 == pytest.approx([9.8, 44.8], abs=1)


def test_paint_of_nothing_changes_nothing():
    one = scene()
    one.paint(0, -30 + 0 * one.lattice[0])
    assert (one.image == AIR).all()


# ---------------------------------------------------------------------------------------------------------------- tubes

START = np.array([[20.2, 21.0, 14.4], [30.0, 25.0, 20.0], [-20.0, 3.0, 5.0]])
END = np.array([[31.5, 26.0, 22.0], [30.0, 25.0, 20.0], [12.0, 3.0, 70.0]])
RADII = np.array([[3.0, 2.0], [5.0, 5.0], [0.7, 0.4]])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.6, 0.6, 1.25)])
@pytest.mark.parametrize("pick", [[0], [0, 1], [0, 1, 2]])
def test_tubes_painted_in_their_box_are_those_of_the_whole_grid(pick, spacing):
    one = scene(Grid(GRID.shape, spacing))
    one.tubes(60, (START[pick], END[pick], RADII[pick]))
    whole = coverage(draw_tubes(one.grid, START[pick], END[pick], RADII[pick]), one.grid.resolution)
    assert 300 < whole.sum() < 0.5 * whole.size
    assert share(one, 60) == pytest.approx(whole, abs=1e-4)


def test_tubes_outside_the_image_or_none_at_all_change_nothing():
    one = scene()
    one.tubes(60, (START - 200, END - 200, RADII))
    one.tubes(60, (START + 200, END + 200, RADII))
    one.tubes(60, (START[:0], END[:0], RADII[:0]))
    assert (one.image == AIR).all()


def test_a_chain_runs_through_points_in_standard_mm():
    start, end, radii = scene().chain([(0, 0, 0), (10, 0, 0), (10, 20, -4)], 3.0)
    assert start == pytest.approx(CENTRE + np.array([(0, 0, 0), (5, 0, 0)]), abs=1e-5)
    assert end == pytest.approx(CENTRE + np.array([(5, 0, 0), (5, 10, -2)]), abs=1e-5)
    assert radii.tolist() == [[1.5, 1.5], [1.5, 1.5]]
    assert scene().chain([(0, 0, 0), (1, 0, 0), (2, 0, 0)], [2, 4, 6])[2].tolist() == [[1, 2], [2, 3]]


def test_a_chain_follows_the_warp():
    warped = Scene(GRID, Thorax.random(GRID, 0.2, 5.0, np.random.default_rng(1)), np.random.default_rng(0))
    points = np.array([[0.0, 0, 100], [30, 10, 120], [50, -20, 150]])
    start, end, _ = warped.chain(points, 1.0)
    assert np.stack(warped.thorax.standard(*start.T), 1) == pytest.approx(points[:-1], abs=0.2)
    assert np.stack(warped.thorax.standard(*end.T), 1) == pytest.approx(points[1:], abs=0.2)


def test_joined_tubes_and_balls():
    start, end, radii = join((START, END, RADII), balls(np.array([[1.0, 2, 3]]), np.array([4.0])))
    assert start[-1].tolist() == end[-1].tolist() == [1, 2, 3]
    assert radii.tolist() == [*RADII.tolist(), [4, 4]]
    assert np.array_equal(start[:3], START) and np.array_equal(end[:3], END)
