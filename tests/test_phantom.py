"""Tubes in closed form, and what every phantom must hold."""

from functools import cache

import cc3d
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import KDTree

from airwaylib.errors import InputError
from airwaylib.growth import TREE_COLUMNS
from airwaylib.phantom import (
    SIZES,
    beside,
    correlated_noise,
    coverage,
    draw_centreline,
    draw_tubes,
    ensure_phantom,
    lung_texture,
    make_phantom,
    wall_thickness,
    write_phantom,
)
from airwaylib.volume import read_mask, read_volume

SEEDS = (0, 1, 10)  # 10 has the most branches of the first twenty


@cache
def mini(seed):
    return make_phantom(seed, "mini")


def components(mask, connectivity=6):
    return int(cc3d.connected_components(mask, connectivity=connectivity).max())


def tube(start, end, radii, shape=(40, 40, 40), spacing=1.0):
    return draw_tubes(shape, spacing, np.array([start], float), np.array([end], float), np.array([radii], float))


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


def test_distance_is_in_mm_and_at_most_a_voxel():
    distance = tube((5.0, 5.0, 2.0), (5.0, 5.0, 18.0), (2.0, 2.0), spacing=0.5)  # the axis: x = y = voxel 10
    assert [distance[20, 10, 10 + k] for k in (0, 2, 4, 5, 6)] == pytest.approx([-2, -1, 0, 0.5, 0.5])
    assert distance.max() == 0.5
    assert distance[39, 39, 39] == 0.5


def test_axes_are_x_y_z():
    distance = tube((5, 20, 30), (25, 20, 30), (2, 2))
    assert distance[30, 20, 15] == -2
    assert distance[30, 22, 15] == 0
    assert distance[15, 20, 30] == 1


def test_a_tube_tapers_evenly():
    distance = tube((20, 20, 0), (20, 20, 40), (6, 2), shape=(48, 41, 41))
    for z, radius in [(0, 6), (10, 5), (20, 4), (30, 3), (40, 2)]:
        assert distance[z, 20, 20] == pytest.approx(-radius, abs=1e-6)
        assert distance[z, 20, 20 + radius] == pytest.approx(0, abs=1e-6)
    assert distance[42, 20, 20] == pytest.approx(0, abs=1e-6)


def test_tubes_are_united():
    ends = np.array([[5.0, 10, 10], [20, 10, 10]]), np.array([[20.0, 10, 10], [20, 30, 10]])
    radii = np.array([[2.0, 2.0], [3.0, 3.0]])
    both = draw_tubes((20, 40, 40), 1.0, *ends, radii)
    each = [tube(a, b, r, shape=(20, 40, 40)) for a, b, r in zip(*ends, radii, strict=True)]
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
    st.sampled_from([0.5, 0.7, 1.0]),
)
def test_distance_is_that_to_the_nearest_point_of_the_axis(ends, radius, spacing):
    start, end = np.array(ends[:3]), np.array(ends[3:])
    shape = (20, 22, 24)
    axis = start + np.linspace(0, 1, 1001)[:, None] * (end - start)  # a point every 0.02 mm or less
    voxels = np.indices(shape)[::-1].reshape(3, -1).T * spacing
    expected = np.minimum(KDTree(axis).query(voxels)[0] - radius, spacing).reshape(shape)
    assert np.abs(tube(start, end, (radius, radius), shape, spacing) - expected).max() < 0.012


AXIS = (8.3, 9.1, 7.7), (27.4, 25.8, 31.9)  # oblique and off the grid
LENGTH = float(np.linalg.norm(np.subtract(*AXIS)))


@pytest.mark.parametrize("spacing", [1.0, 0.5])
def test_volume_of_a_tube_drawn_as_a_mask(spacing):
    radius, shape = 4.0, (int(40 / spacing),) * 3
    mask = tube(*AXIS, (radius, radius), shape, spacing) <= 0
    assert mask.sum() * spacing**3 == pytest.approx(np.pi * radius**2 * LENGTH + 4 / 3 * np.pi * radius**3, rel=0.01)


@pytest.mark.parametrize(("radius", "error"), [(2.0, 0.03), (3.0, 0.015), (4.0, 0.01)])
def test_partial_volumes_add_up_to_a_cylinder(radius, error):
    """Two cylinders that differ in length alone: their round ends cancel."""
    whole, part = np.array(AXIS[1]), np.array(AXIS[0]) + 0.3 * np.subtract(AXIS[1], AXIS[0])
    sums = [coverage(tube(AXIS[0], end, (radius, radius)), 1.0).sum(dtype=float) for end in (whole, part)]
    assert sums[0] - sums[1] == pytest.approx(np.pi * radius**2 * 0.7 * LENGTH, rel=error)


@pytest.mark.parametrize("radius", [1.0, 1.5, 3.0])
def test_partial_volumes_of_a_thin_tube(radius):
    """The weight falls from 1 to 0 over one voxel s across the surface: a section's sum is pi (r^2 + s^2 / 12)."""
    part = np.array(AXIS[0]) + 0.3 * np.subtract(AXIS[1], AXIS[0])
    sums = [coverage(tube(AXIS[0], end, (radius, radius)), 1.0).sum(dtype=float) for end in (AXIS[1], part)]
    assert sums[0] - sums[1] == pytest.approx(np.pi * (radius**2 + 1 / 12) * 0.7 * LENGTH, rel=0.01)


@pytest.mark.parametrize("spacing", [1.0, 0.5])
def test_coverage_of_a_plane_across_an_axis_is_exact(spacing):
    voxel = np.arange(20) * spacing
    share = coverage(voxel - 10.3 * spacing, spacing)  # 0.8 of the voxel at 10, which reaches from 9.5 to 10.5
    assert share == pytest.approx([*[1] * 10, 0.8, *[0] * 9])


def test_a_centreline_is_the_voxels_that_the_axis_meets():
    start, end = np.array([[2.3, 5.2, 7.4], [8.1, 5.2, 7.4]]), np.array([[8.1, 5.2, 7.4], [8.1, 11.7, 7.4]])
    expected = np.zeros((12, 14, 16), bool)
    expected[7, 5, 2:9] = True  # from 2.3 to 8.1 along x: voxels 2 to 8
    expected[7, 5:13, 8] = True  # from 5.2 to 11.7 along y: voxels 5 to 12
    assert np.array_equal(draw_centreline(expected.shape, 1.0, start, end), expected)
    assert np.array_equal(draw_centreline(expected.shape, 0.5, start / 2, end / 2), expected)


def test_a_centreline_is_cut_at_the_border():
    mask = draw_centreline((4, 4, 4), 1.0, np.array([[-5.0, 2, 1]]), np.array([[9.0, 2, 1]]))
    assert np.argwhere(mask).tolist() == [[1, 2, x] for x in range(4)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(4, 20), min_size=6, max_size=6), st.floats(0.87, 1.5))
def test_a_tube_over_half_a_voxel_diagonal_is_one_piece_and_holds_its_axis(ends, radius):
    start, end = ends[:3], ends[3:]
    mask = tube(start, end, (radius, radius), shape=(25, 25, 25)) <= 0
    assert components(mask) == 1
    assert not (draw_centreline(mask.shape, 1.0, np.array([start]), np.array([end])) & ~mask).any()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_no_drawn_airway_is_thinner_than_a_voxel_diagonal(size):
    assert 2 * 0.94 * size.smallest_airway > np.sqrt(3) * size.spacing  # 0.94: its thinner end


# ---------------------------------------------------------------------------------------------------------------- noise


def test_noise_has_unit_variance_and_the_correlation_of_its_gaussian():
    noise = correlated_noise((64, 64, 64), 1.0, np.random.default_rng(0))
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(1, abs=1e-3)
    assert noise.mean() == pytest.approx(0, abs=0.05)
    for neighbours in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1], noise[..., 1:] * noise[..., :-1]):
        assert neighbours.mean() == pytest.approx(np.exp(-1 / 4), abs=0.02)


def test_lung_texture_is_linear_between_nodes_four_voxels_apart():
    texture = lung_texture((17, 14, 20), np.random.default_rng(5))
    nodes = 22 * correlated_noise((6, 5, 6), 1.0, np.random.default_rng(5))
    assert texture.shape == (17, 14, 20)
    assert texture.dtype == np.float32
    assert texture[::4, ::4, ::4] == pytest.approx(nodes[:5, :4, :5], abs=1e-4)
    assert texture[:, 2, 3] == pytest.approx(
        0.5 * (0.25 * texture[:, 0, 0] + 0.75 * texture[:, 0, 4] + 0.25 * texture[:, 4, 0] + 0.75 * texture[:, 4, 4]),
        abs=1e-4,
    )
    assert texture[6, 4, 8] == pytest.approx((texture[4, 4, 8] + texture[8, 4, 8]) / 2, abs=1e-4)


# ----------------------------------------------------------------------------------------------------------------- case


def points(tree, end):
    return tree[[f"{end}_{axis}" for axis in "xyz"]].to_numpy()


def radius(tree):
    return tree[["radius_start", "radius_end"]].mean(axis=1).to_numpy()


def check_tree(tree, size):
    """Hold everything a phantom's tree promises."""
    parent = tree["parent"].to_numpy()
    child = tree[parent >= 0]
    above = tree.loc[child["parent"]]
    assert tree["branch"].tolist() == list(range(len(tree)))
    assert parent[0] == -1
    assert (parent[1:] >= 0).all()
    assert (parent < tree["branch"]).all()
    assert tree.loc[0, "generation"] == 0
    assert (child["generation"].to_numpy() == above["generation"].to_numpy() + 1).all()
    assert set(child["parent"].value_counts()) == {2}
    assert np.array_equal(points(child, "start"), points(above, "end"))
    cubes = pd.Series(radius(tree) ** 3)
    children = cubes.groupby(parent).sum().drop(-1)
    assert children.to_numpy() == pytest.approx(cubes[children.index].to_numpy(), rel=1e-9)
    assert radius(tree).min() >= size.smallest_airway
    assert radius(tree)[0] == pytest.approx(size.trachea_radius, rel=0.06)
    assert (tree["radius_start"] > tree["radius_end"]).all()


def check_truth(case):
    """Hold what the masks promise of each other and of the tree."""
    airway, centreline, lung = case.airway.array, case.centreline.array, case.lung.array
    assert {mask.dtype for mask in (airway, centreline, lung)} == {np.dtype(bool)}
    assert components(airway) == 1
    assert components(centreline, 26) == 1
    assert not (centreline & ~airway).any()
    assert components(lung, 26) == 2
    ends = np.rint(case.ct.point_to_index(points(case.tree[case.tree["generation"] >= 2], "end"))).astype(int)
    assert lung[tuple(ends.T)].all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tree_holds_together(seed):
    check_tree(mini(seed).tree, SIZES["mini"])


def test_arteries_run_wall_to_wall_with_the_airways():
    tree = mini(0).tree
    start, end, radii = beside(tree, np.random.default_rng(0))
    away = end - points(tree, "end")
    airway = tree["radius_end"].to_numpy()
    assert radii[:, 1] == pytest.approx(1.05 * airway)
    assert np.linalg.norm(away, axis=1) == pytest.approx(airway + wall_thickness(airway) + radii[:, 1])
    run = points(tree, "end") - points(tree, "start")
    assert (away * run).sum(1) == pytest.approx(np.zeros(len(tree)), abs=1e-9)  # across the airway
    assert start[1:] == pytest.approx(end[tree["parent"][1:]])  # one tree, too


@pytest.mark.parametrize("seed", SEEDS)
def test_the_masks_are_true(seed):
    check_truth(mini(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_branches_keep_off_the_grid(seed):
    tree = mini(seed).tree
    run = points(tree, "end") - points(tree, "start")
    along = np.abs(run).max(1) / np.linalg.norm(run, axis=1)
    assert (along > 0.999).mean() < 0.05  # 0.6 % would lie that near an axis of the grid by chance
    off = np.abs(points(tree, "end") - np.rint(points(tree, "end")))
    assert (off < 0.01).mean() < 0.05  # 2 % by chance


@pytest.mark.parametrize("seed", SEEDS)
def test_the_trachea_comes_in_at_the_top_and_one_bronchus_goes_to_each_lung(seed):
    case = mini(seed)
    assert case.airway.array[-1].any()
    bronchi = points(case.tree[case.tree["generation"] == 1], "end")[:, 0] - points(case.tree[:1], "end")[0, 0]
    assert sorted(np.sign(bronchi)) == [-1, 1]
    sides = cc3d.connected_components(case.lung.array, connectivity=26)
    volumes = np.bincount(sides.ravel())[1:]
    assert volumes.min() > 0.75 * volumes.max()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_mask_of_the_trachea_is_as_wide_as_its_radius_says(seed):
    """In its upper half, over 20 sections and within 2 mm: airways to the upper lobes may pass beside it."""
    case = mini(seed)
    trachea = case.tree.iloc[0]
    top, carina = (points(case.tree[:1], end)[0] for end in ("start", "end"))
    mask = section = 0
    for z in range(105, 125):
        along = (z - top[2]) / (carina[2] - top[2])
        x, y = (top + along * (carina - top))[:2]
        width = trachea["radius_start"] + along * (trachea["radius_end"] - trachea["radius_start"])
        rows, columns = np.ogrid[:128, :128]
        mask += (case.airway.array[z] & (np.hypot(columns - x, rows - y) < width + 2)).sum()
        section += np.pi * width**2
    assert mask == pytest.approx(section, rel=0.03)


@pytest.mark.parametrize("seed", SEEDS)
def test_tissues_have_their_hu(seed):
    case = mini(seed)
    ct, airway, lung = case.ct.array, case.airway.array, case.lung.array
    assert ct.dtype == np.int16
    assert ct.min() >= -1024
    assert ct[ndimage.binary_erosion(airway, iterations=2)].mean() == pytest.approx(-1000, abs=8)
    parenchyma = ndimage.binary_erosion(lung, iterations=3) & ~ndimage.binary_dilation(airway, iterations=3)
    assert np.median(ct[parenchyma]) == pytest.approx(-855, abs=25)
    shell = ndimage.binary_dilation(airway) & ~airway
    assert ct[shell].mean() > -800  # the wall shows, though partial volume thins it
    assert ct[:, 0, 0].mean() == pytest.approx(-1000, abs=15)  # outside the body


def test_small_airways_are_fainter_than_the_trachea():
    """Partial volume and the scanner's blur lift the HU in the middle of a thin lumen."""
    case = mini(0)
    middle = (points(case.tree, "start") + points(case.tree, "end")) / 2
    hu = case.ct.array[tuple(np.rint(case.ct.point_to_index(middle)).astype(int).T)]
    thin = radius(case.tree) < 1.3
    assert hu[thin].mean() > hu[:3].mean() + 20


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_case(tmp_path):
    first, other = (write_phantom(mini(seed), tmp_path / "first") for seed in (0, 1))
    again = write_phantom(make_phantom(0), tmp_path / "again")
    assert (first.name, again.name, other.name) == ("mini_0000", "mini_0000", "mini_0001")
    names = ["airway.nii.gz", "centreline.nii.gz", "ct.nii.gz", "lung.nii.gz", "tree.csv"]
    assert sorted(path.name for path in first.iterdir()) == names
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes()
        assert (first / name).read_bytes() != (other / name).read_bytes()


def test_what_is_written_reads_back(tmp_path):
    case = mini(0)
    folder = write_phantom(case, tmp_path / "new" / "folder")
    ct = read_volume(folder / "ct.nii.gz")
    assert ct.same_grid(case.ct)
    assert np.array_equal(ct.array, case.ct.array)
    for name in ("airway", "lung", "centreline"):
        assert np.array_equal(read_mask(folder / f"{name}.nii.gz", ct).array, getattr(case, name).array)
    tree = pd.read_csv(folder / "tree.csv")
    assert list(tree.columns) == TREE_COLUMNS
    assert tree.to_numpy() == pytest.approx(case.tree.to_numpy(), abs=5.1e-5)
    child = tree[1:]
    assert np.array_equal(points(child, "start"), points(tree.loc[child["parent"]], "end"))


def test_a_case_that_stands_is_kept(tmp_path):
    folder = tmp_path / "mini_0004"
    folder.mkdir()
    (folder / "mine.txt").write_text("kept")
    assert ensure_phantom(4, "mini", tmp_path) == folder
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    made = ensure_phantom(0, "mini", tmp_path)
    assert made == tmp_path / "mini_0000"
    assert (made / "ct.nii.gz").exists()


@pytest.mark.parametrize(
    ("seed", "size", "message"),
    [(0, "maxi", "size 'maxi' is unknown: choose one of mini, chest"), (-1, "mini", "seed -1 is negative")],
)
def test_bad_input_is_refused(seed, size, message):
    with pytest.raises(InputError) as caught:
        make_phantom(seed, size)
    assert message in str(caught.value)


@pytest.mark.slow
def test_a_whole_chest():
    case = make_phantom(0, "chest")
    assert case.ct.array.shape == (400, 512, 512)
    assert case.ct.spacing == (0.7, 0.7, 0.7)
    check_tree(case.tree, SIZES["chest"])
    check_truth(case)
    assert case.lung.array.sum() * 0.7**3 / 1e6 == pytest.approx(6, abs=1.5)  # litres, as after a full breath
    assert case.tree["generation"].max() >= 8
