"""Trees with known answers: tubes at any angle, lines, rings and blobs; the official parser's numbers; real tubes."""

import warnings
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from airwaylib.errors import InputError
from airwaylib.images.volume import read_mask
from airwaylib.metrics.reference import true_reference
from airwaylib.trees.parse import parse_tree, polyline_length
from airwaystudy.phantoms.case import make_phantom
from airwaystudy.phantoms.drawing import Grid, draw_tubes

DATA = Path(__file__).parents[3] / "shared" / "data"
POINTS = [f"{end}_{axis}" for end in ("start", "end") for axis in "xyz"]
PARENTS = [0, 1, 1, 2, 2, 3, 3]
RADII = np.array([4, 3.2, 3.2, 2.5, 2.5, 2.5, 2.5])
LENGTHS = np.array([50, 50, 50, 32, 32, 32, 32])
ANGLES = [np.nan, 35, 45, 40, 40, 40, 40]


def turned(heading, axis, degrees):
    return Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis)).apply(heading)


def three_generations(seed):
    """A trunk that forks, and each arm again, out of that plane; all of it turned at random: mask, starts, ends."""
    start, end = [np.zeros(3)], [np.array([0, 0, -50.0])]
    across = np.array([0, 1.0, 0])
    for parent, angle in zip(PARENTS[1:], [35, -45, 40, -40, 40, -40], strict=True):
        stem = (end[parent - 1] - start[parent - 1]) / LENGTHS[parent - 1]
        heading = turned(stem, across if parent == 1 else np.cross(stem, across), angle)
        start.append(end[parent - 1])
        end.append(start[-1] + LENGTHS[len(end)] * heading)
    rotation = Rotation.random(rng=np.random.default_rng(seed))
    start, end = rotation.apply(start), rotation.apply(end)
    low = np.minimum(start, end).min(0) - 8.3
    shape = np.ceil(np.maximum(start, end).max(0) - low + 8).astype(int)[::-1]
    grid = Grid(tuple(shape), (1.0, 1.0, 1.0))
    return draw_tubes(grid, start - low, end - low, np.stack([RADII] * 2, 1)) <= 0, start - low, end - low


def matched(branches, end):
    """The table's rows in the order of the drawn branches, by their ends."""
    row = cKDTree(branches[["end_x", "end_y", "end_z"]]).query(end)[1]
    assert sorted(row) == list(range(len(branches)))
    return branches.iloc[row].reset_index(drop=True)


def thin_tree(arms, width=1):
    """A trunk, two arms at its end and two twigs at the end of each, all along the axes."""
    mask = np.zeros((40, 34, 34), bool)
    left, right, front, back, up, down = arms
    mask[16:38, 16, 16] = True
    mask[16, 16, 16 - left : 17 + right] = True
    mask[16, 16 - front : 17 + back, 16 - left] = True
    mask[16 - down : 17 + up, 16, 16 + right] = True
    return ndimage.binary_dilation(mask, np.ones((width,) * 3))


# ---------------------------------------------------------------------------------------------------------- drawn trees


@pytest.mark.parametrize("seed", range(6))
def test_a_tree_of_tubes_is_measured_at_any_angle(seed):
    # Not at every angle: in 120 such trees Lee's thinning took one tip off wholly, and a third of another.
    mask, start, end = three_generations(seed)
    branches = parse_tree(mask).branches
    assert len(branches) == 7
    found = matched(branches, end)
    assert [dict(zip(found["branch"], range(1, 8), strict=True)).get(p, 0) for p in found["parent"]] == PARENTS
    assert found["generation"].tolist() == [0, 1, 1, 2, 2, 2, 2]
    assert found["strahler"].tolist() == [3, 2, 2, 1, 1, 1, 1]
    length, radius = found["length_mm"], found["radius_mm"]
    # Between two forks; where an end is free, thinning may take off up to twice the radius or leave the round cap.
    assert length[1:3].to_numpy() == pytest.approx(LENGTHS[1:3], rel=0.05)
    assert (length - LENGTHS > -2 * RADII).all() and (length - LENGTHS < RADII).all()
    assert radius.to_numpy() == pytest.approx(RADII, abs=0.35)
    assert (found["radius_min_mm"] <= radius).all() and (radius <= found["radius_max_mm"]).all()
    assert found["angle_deg"].to_numpy() == pytest.approx(ANGLES, abs=8, nan_ok=True)
    assert found["tortuosity"].between(1, 1.03).all()
    assert np.linalg.norm(found[POINTS[:3]].to_numpy() - start, axis=1)[1:].max() < 2.5  # the forks
    assert len(parse_tree(mask, merge=False).branches) == 7  # nothing to merge


def test_lengths_and_radii_scale_with_the_spacing():
    mask = three_generations(1)[0]
    plain, wide = parse_tree(mask).branches, parse_tree(mask, (2, 2, 2)).branches
    mm = [column for column in plain if column in POINTS or column.endswith("_mm")]
    assert wide[mm].to_numpy() == pytest.approx(2 * plain[mm].to_numpy())
    pd.testing.assert_frame_equal(wide.drop(columns=mm), plain.drop(columns=mm))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_spacing_is_per_axis_x_y_z(axis):
    tube = np.zeros((40, 40, 40), bool)
    across = np.moveaxis(tube, 2 - axis, 0)  # spacing is x, y, z, the mask's axes z, y, x
    across[5:35, 18:21, 18:21] = True
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 3.0
    branch = parse_tree(tube, spacing).branches.iloc[0]
    assert branch["length_mm"] == pytest.approx(3 * (parse_tree(tube).branches["length_mm"].iloc[0]))
    # The section is 3 x 3 mm; a side's voxels are 0 and 1 mm off its middle, of which it is 1.5 mm away.
    middle = (1.5 + 2 * np.hypot(1.5, 1)) / 3
    assert branch["radius_min_mm"] == pytest.approx(middle)


def test_points_are_in_the_patients_space():
    mask, spacing = three_generations(1)[0], (0.6, 0.7, 0.8)
    matrix = Rotation.from_euler("xyz", [10, 20, -30], degrees=True).as_matrix()
    tree = parse_tree(mask, spacing, (-100, 20, 5), matrix.ravel())
    expected = tree.index[:, ::-1] * spacing @ matrix.T + [-100, 20, 5]
    assert tree.centreline[["x", "y", "z"]].to_numpy() == pytest.approx(expected)
    # The pose moves points, and leaves what is measured alone.
    plain = parse_tree(mask, spacing)
    pd.testing.assert_frame_equal(tree.branches.drop(columns=POINTS), plain.branches.drop(columns=POINTS))
    path = tree.path(4)
    assert tree.branches.loc[3, POINTS].tolist() == pytest.approx([*expected[path[0]], *expected[path[-1]]])


def test_every_airway_voxel_has_a_branch():
    mask = three_generations(1)[0]
    tree = parse_tree(mask)
    assert (tree.labels.dtype, tree.labels.shape) == (np.int32, mask.shape)
    assert np.array_equal(tree.labels > 0, mask)
    assert np.bincount(tree.labels[mask])[1:].tolist() == tree.branches["voxels"].tolist()
    assert np.array_equal(tree.branch_at(np.argwhere(mask)), tree.labels[mask])
    assert tree.branch_at(np.argwhere(~mask)).max() == 0
    assert np.array_equal(tree.labels[tuple(tree.index.T)], tree.centreline["branch"])
    ones = tree.labels == 4
    assert ndimage.label(ones, np.ones((3, 3, 3)))[1] == 1


def test_a_branch_as_a_path_of_the_centreline():
    tree = parse_tree(three_generations(1)[0])
    for row in tree.branches.itertuples():
        path = tree.path(row.branch)
        of = tree.centreline["branch"].to_numpy()[path]
        # At a fork, the parent's last voxels may be nearer to a sibling: from that one's the axis comes, then.
        siblings = tree.branches.query(f"parent == {row.parent} and branch != {row.branch}")["branch"]
        assert set(of[1:]) == {row.branch}
        assert of[0] in {row.parent or 1, *siblings}
        assert tree.centreline["previous"].to_numpy()[path[1:]].tolist() == path[:-1].tolist()
        place = tree.centreline[["x", "y", "z"]].to_numpy()[path]
        assert row.length_mm == pytest.approx(polyline_length(place))
        assert [*place[0], *place[-1]] == list(row[4:10])


def test_twigs_are_the_skeleton_cut_at_its_forks():
    tree = parse_tree(three_generations(1)[0])
    previous = tree.centreline["previous"].to_numpy()
    steps = [(after, before) for twig in tree.twigs for before, after in pairwise(twig)]
    assert sorted(steps) == [(row, above) for row, above in enumerate(previous) if above >= 0]  # each step once
    children = np.bincount(previous[previous >= 0], minlength=len(previous))
    assert all((children[twig[1:-1]] == 1).all() for twig in tree.twigs)
    assert all(previous[twig[0]] < 0 or children[twig[0]] > 1 for twig in tree.twigs)
    assert all(children[twig[-1]] != 1 for twig in tree.twigs)


def test_a_side_branch_does_not_raise_the_order():
    branches = parse_tree(thin_tree((12, 14, 12, 12, 0, 0), width=3)).branches  # one arm forks, the other does not
    assert branches["parent"].tolist() == [0, 1, 1, 3, 3]
    assert branches["strahler"].tolist() == [2, 1, 2, 1, 1]  # two of one order raise it: at the arm, not above


def test_a_tree_in_one_line():
    tree = parse_tree(three_generations(1)[0])
    assert repr(tree) == f"AirwayTree(branches: 7, generations: 0-2, length: {tree.length_mm / 10:.1f} cm)"


def is_rooted(tree):
    """Whether branches are numbered from 1 and each but the first has one parent before it: one tree, no cycle."""
    branch, parent = tree.branches["branch"].to_numpy(), tree.branches["parent"].to_numpy()
    later = (parent[1:] >= 1) & (parent[1:] < branch[1:])
    return branch.tolist() == list(range(1, len(branch) + 1)) and parent[0] == 0 and later.all()


# ------------------------------------------------------------------------------------------------------ lines and rings


def test_a_line_is_as_long_as_its_steps():
    line = np.zeros((5, 6, 40), bool)
    line[2, 3, 4:34] = True
    tree = parse_tree(line, (0.5, 1, 1))
    assert tree.length_mm == pytest.approx(29 * 0.5)
    branch = tree.branches.iloc[0]
    assert (branch["length_mm"], branch["tortuosity"], branch["voxels"]) == pytest.approx((29 * 0.5, 1, 30))
    assert sorted(tree.centreline["distance_mm"]) == pytest.approx(np.arange(30) / 2)


def test_a_diagonal_and_its_staircase_are_measured_alike():
    steps = np.arange(61)
    slope = np.stack([steps, np.rint(steps / 3), np.rint(steps / 5)], 1)
    assert polyline_length(slope) == pytest.approx(np.linalg.norm(slope[-1]), rel=0.01)  # 6 % more unsmoothed
    assert polyline_length(steps[:, None] * [1, 1, 1]) == pytest.approx(60 * 3**0.5)
    assert [polyline_length(slope[:n]) for n in (1, 2)] == [0, 1]


@settings(max_examples=6, deadline=None)
@given(st.tuples(*[st.integers(9, 14)] * 6))
def test_a_flipped_tree_has_the_same_branches(arms):
    for width in (1, 3):
        mask = thin_tree(arms, width)
        # Of lines a voxel wide only the segments stay: which of them the fork's voxel belongs to is a tie, on which it
        # depends who touches whom, and so what merges.
        plain = parse_tree(mask, merge=width == 3)
        assert len(plain.branches) == 7
        for axes in product([slice(None), slice(None, None, -1)], repeat=3):
            tree = parse_tree(mask[axes], merge=width == 3)
            assert len(tree.branches) == 7
            assert tree.length_mm == pytest.approx(plain.length_mm)


def test_a_ring_is_cut_open():
    ring = np.zeros((9, 30, 30), bool)
    ring[3:6, 3:27, 3:27] = True
    ring[:, 6:24, 6:24] = False
    for merge in (True, False):
        tree = parse_tree(ring, merge=merge)
        assert is_rooted(tree)
        assert len(tree.index) == 4 * 20  # thinning keeps the ring: a square of 22 voxels a side without its corners
        assert tree.length_mm == pytest.approx(80, abs=3)  # a step of the ring is left out, and corners are cut
        assert (tree.centreline["previous"] == -1).sum() == 1


@pytest.mark.parametrize("width", [2, 3, 4])
def test_a_warning_tells_of_branches_that_thinning_has_lost(width):
    mask = np.zeros((60, 80, 80), bool)
    mask[30:, 38:41, 38:41] = True
    mask[30 - width : 30, 38 : 38 + width, 10:70] = True
    if width % 2:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(parse_tree(mask).branches) == 3
    else:
        with pytest.warns(UserWarning, match=r"\d\d % of the mask lie far from its centreline"):
            assert len(parse_tree(mask).branches) == 1


def test_branches_that_meet_again_are_cut_open():
    mask = thin_tree((12, 12, 12, 12, 12, 12), width=3)
    mask[15:18, 3:6, 3:31] = True  # from a twig's end
    mask[15:18, 3:16, 28:31] = True  # to the other arm's
    for merge in (True, False):
        tree = parse_tree(mask, merge=merge)
        assert is_rooted(tree)
        assert np.array_equal(tree.labels > 0, mask)


# ------------------------------------------------------------------------------------------------------------- any mask


def blob(name):
    mask = np.zeros((12, 13, 14), bool)
    if name == "ball":
        z, y, x = np.ogrid[:12, :13, :14]
        return (z - 6) ** 2 + (y - 6) ** 2 + (x - 6) ** 2 <= 25
    box = {"voxel": (1, 1, 1), "two voxels": (1, 1, 2), "plate": (1, 9, 10), "thick plate": (2, 9, 10)}[name]
    mask[tuple(slice(2, 2 + n) for n in box)] = True
    return mask


@pytest.mark.parametrize("name", ["voxel", "two voxels", "plate", "thick plate", "ball"])
def test_a_mask_that_is_no_tree_is_one_all_the_same(name):
    tree = parse_tree(blob(name), (0.5, 0.6, 0.7))
    assert is_rooted(tree)
    assert np.array_equal(tree.labels > 0, blob(name))
    assert np.isfinite(tree.branches.drop(columns="angle_deg")).all(axis=None)
    assert np.isfinite(tree.length_mm)


def test_a_single_voxel_is_a_branch_without_length():
    row = parse_tree(blob("voxel")).branches.iloc[0]
    assert row[["branch", "parent", "generation", "voxels", "strahler"]].tolist() == [1, 0, 0, 1, 1]
    assert row[["length_mm", "radius_mm", "tortuosity"]].tolist() == [0, 0.5, 1]


def test_the_largest_component_counts_with_its_holes_filled():
    mask = np.zeros((30, 30, 60), bool)
    mask[3:8, 3:8, 3:57] = True
    mask[5, 5, 30] = False
    mask[20:24, 20:24, 3:50] = True
    tree = parse_tree(mask)
    assert tree.labels[5, 5, 30] == 1
    assert (len(tree.branches), tree.branches["voxels"].iloc[0]) == (1, 5 * 5 * 54)
    assert not tree.labels[15:].any()


@st.composite
def masks(draw):
    shape = draw(st.tuples(*[st.integers(1, 16)] * 3))
    noise = np.random.default_rng(draw(st.integers(0, 2**32))).random(shape)
    smooth = ndimage.gaussian_filter(noise, draw(st.sampled_from([0, 0.7, 1.2])))
    return smooth >= np.quantile(smooth, draw(st.sampled_from([0.2, 0.5, 0.7, 0.9])))


@settings(max_examples=80, deadline=None)
@given(masks(), st.booleans())
def test_whatever_the_mask_its_tree_is_rooted_and_acyclic(mask, merge):
    before = mask.copy()
    tree = parse_tree(mask, (0.5, 0.7, 1.1), merge=merge)
    assert np.array_equal(mask, before)
    branches, previous = tree.branches, tree.centreline["previous"].to_numpy()
    assert is_rooted(tree)
    assert branches["branch"].tolist() == list(range(1, len(branches) + 1))
    assert (branches["parent"] < branches["branch"]).all()
    above = branches["generation"].to_numpy()[branches["parent"][1:] - 1]
    assert (branches["generation"][1:] == above + 1).all()
    assert branches["voxels"].sum() == (tree.labels > 0).sum() >= np.bincount(ndimage.label(mask)[0][mask]).max()
    distance, below = tree.centreline["distance_mm"].to_numpy(), previous >= 0
    assert (~below).sum() == 1 and (distance[previous[below]] < distance[below]).all()  # every way leads to the top
    assert np.isfinite(branches.drop(columns="angle_deg")).all(axis=None) and (branches["tortuosity"] > 1 - 1e-9).all()
    assert (branches["radius_mm"] > 0).all()


@settings(max_examples=40, deadline=None)
@given(masks(), st.lists(st.integers(0, 4), min_size=6, max_size=6))
def test_a_margin_shifts_a_tree_and_no_more(mask, margin):
    shift = margin[::2]
    tree, shifted = parse_tree(mask), parse_tree(np.pad(mask, np.reshape(margin, (3, 2))))
    pd.testing.assert_frame_equal(tree.branches.drop(columns=POINTS), shifted.branches.drop(columns=POINTS))
    assert np.array_equal(shifted.index, tree.index + shift)
    moved = shifted.branches[POINTS] - [*shift[::-1], *shift[::-1]]
    assert moved.to_numpy() == pytest.approx(tree.branches[POINTS].to_numpy())


CUBE = np.ones((3, 3, 3), bool)


@pytest.mark.parametrize(
    ("mask", "spacing", "message"),
    [
        (np.zeros((3, 4, 5), bool), (1, 1, 1), "the mask is empty"),
        (np.ones((4, 5), bool), (1, 1, 1), "mask of shape (4, 5): three axes (z, y, x) are needed"),
        (CUBE, (1, 0, 1), "spacing (1, 0, 1) mm: it must be above 0"),
        (CUBE, (1, 1, -1), "above 0"),
        (CUBE, (1, 1), "above 0 along x, y and z"),
        (CUBE, (1, float("nan"), 1), "above 0"),
        (CUBE, (1, float("inf"), 1), "above 0"),
    ],
)
def test_what_is_no_mask_or_spacing_is_refused(mask, spacing, message):
    with pytest.raises(InputError) as caught:
        parse_tree(mask, spacing)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- real masks


@pytest.mark.parametrize("case", [224, 305])
def test_branches_are_those_of_the_official_parser(case):
    folder = DATA / "atm22-teams"
    if not folder.exists():
        pytest.skip(f"{folder} is absent: real masks of the ATM'22 teams")
    official = pd.read_csv(folder / "official_metrics.csv").set_index("case").loc[case].iloc[0]
    volume = read_mask(folder / f"deeptree_damo_{case}.nii.gz")
    tree, segments = (parse_tree(volume.array, volume.spacing, merge=merge) for merge in (True, False))
    assert len(tree.branches) == official["reference_branches"]
    assert len(segments.branches) == official["first_pass_segments"]
    assert len(tree.index) == official["reference_skeleton_voxels"]


def test_tubes_of_a_phantom_have_their_diameters():
    folder = DATA / "tubes"
    if not folder.exists():
        pytest.skip(f"{folder} is absent: CT of the COPDGene tube phantom")
    table = pd.read_csv(folder / "COPDGene_Phantom_Measurements.csv")
    volume = read_mask(folder / "phantom_lumen_iso_05.nii.gz")
    label = ndimage.label(volume.array, np.ones((3, 3, 3)))[0]  # in raster order: that of the table
    boxes = ndimage.find_objects(label)
    assert len(boxes) == len(table) == 8
    tubes = [label[box] == number for number, box in enumerate(boxes, 1)]
    trees = [parse_tree(tube, volume.spacing) for tube in tubes]
    assert [len(tree.branches) for tree in trees] == [1] * 8
    ours = np.array([2 * tree.branches["radius_mm"].iloc[0] for tree in trees])
    # The mask's tubes are thinner than the real ones: their voxels, spread over the table's length, make a section 0.5
    # to 0.8 mm less across. A diameter measured on the mask can only be that of the mask; against the table it shows
    # what it is worth once the mean difference, the segmentation's, is taken off.
    volumes = np.array([tube.sum() for tube in tubes]) * np.prod(volume.spacing)
    section = np.sqrt(4 * volumes / (np.pi * table["length"]))
    assert (table["diam_in"] - section).between(0.4, 0.9).all()
    assert ours == pytest.approx(section, abs=0.35)
    difference = ours - table["diam_in"]
    assert np.abs(difference - difference.mean()).max() < 0.3


@pytest.mark.slow
def test_the_tree_of_a_chest_phantom():
    phantom = make_phantom(0, "chest")
    mask, spacing = phantom.airway.array, phantom.airway.spacing
    truth = true_reference(phantom.tree, mask.shape, spacing)
    tree, segments = parse_tree(mask, spacing), parse_tree(mask, spacing, merge=False)
    near = cKDTree(tree.index).query(truth.index)[0] <= 1.8
    share = np.bincount(truth.branch, near)[1:] / np.bincount(truth.branch)[1:]
    assert near.mean() > 0.97
    assert (share >= 0.8).mean() > 0.93
    # Thick slices: Lee's thinning shortens tips by up to two radii, and widened airways (bronchiectasis) may touch.
    # Without the trachea, whose axis goes on above the scan.
    beyond = tree.length_mm - tree.branches["length_mm"].iloc[0]
    assert 0.86 < beyond / truth.table["length_mm"][1:].sum() < 1
    # The parser drops segments of under five voxels, here 3.5 to 6 mm, and merges what they parted.
    assert 0.4 * len(truth.table) < len(tree.branches) < len(segments.branches) < len(truth.table)


def test_the_top_is_above_the_tree_although_a_spur_parts_the_trachea():
    """The upper part is then a branch of its own; axes still run from the trachea's upper end to its lower one."""
    mask = np.zeros((80, 21, 41), bool)
    mask[20:80, 8:13, 18:23] = True  # the trachea, head at the end of z
    mask[64:67, 9:12, 23:40] = True  # a spur
    mask[17:20, 9:12, 2:39] = True  # the bronchi: a bar below
    tree = parse_tree(mask)
    trachea = tree.branches.iloc[0]
    assert trachea["start_z"] > trachea["end_z"]
    assert trachea["start_z"] > 55
    bronchi = tree.branches[(tree.branches["end_z"] < 25) & (tree.branches["branch"] > 1)]
    assert (bronchi["angle_deg"] < 100).all()


def test_a_real_trachea_runs_downwards():
    folder = DATA / "atm22-teams"
    if not folder.exists():
        pytest.skip(f"{folder} is absent: real masks of the ATM'22 teams")
    mask = read_mask(folder / "timi_224.nii.gz")  # the parser takes its lower half for the trachea
    trachea = parse_tree(mask.array, mask.spacing, mask.origin).branches.iloc[0]
    assert trachea["start_z"] > trachea["end_z"] + 20  # mm; the head is where z is high
