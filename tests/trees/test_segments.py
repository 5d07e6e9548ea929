"""The parser's steps against scipy's dense ones; merging on contact graphs by hand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from airwaylib.trees.segments import (
    count_contacts,
    cut_out,
    face_pairs,
    label_points,
    label_segments,
    merge_segments,
    nearest_row,
    parser_order,
    root_branches,
    skeleton_pairs,
    walk_generations,
)
from airwaylib.trees.skeleton import coordinates

masks = arrays(bool, st.tuples(*[st.integers(1, 6)] * 3))
unhurried = settings(max_examples=60, deadline=None)


# ---------------------------------------------------------------------------------------------------------------- boxes


def test_a_box_is_cut_out_with_its_corner():
    mask = np.zeros((9, 20, 30), bool)
    mask[2, 5, 11] = mask[2, 8, 10] = mask[4, 5, 13] = True
    box, low = cut_out(mask)
    assert (box.shape, low.tolist()) == ((3, 4, 4), [2, 5, 10])
    assert np.argwhere(box).tolist() == [[0, 0, 1], [0, 3, 0], [2, 0, 3]]
    assert np.argwhere(parser_order(box)).tolist() == [[0, 3, 0], [1, 0, 0], [3, 0, 2]]


@unhurried
@given(masks.filter(np.any), st.integers(0, 2))
def test_a_box_holds_all_voxels_and_its_margin_none(mask, margin):
    box, low = cut_out(mask, margin)
    voxels = np.argwhere(box)
    assert np.array_equal(voxels + low, np.argwhere(mask))
    assert voxels.min(0).tolist() == [margin] * 3
    assert (voxels.max(0) + 1 + margin).tolist() == list(box.shape)


@unhurried
@given(masks)
def test_coordinates_are_those_of_argwhere(mask):
    assert np.array_equal(coordinates(mask), np.argwhere(mask))


# ----------------------------------------------------------------------------------------------------------- components


@unhurried
@given(masks.filter(np.any))
def test_voxels_joined_by_faces_are_scipys_components(mask):
    box = np.pad(mask, 1)
    flat = np.flatnonzero(box)
    label = label_points(len(flat), face_pairs(flat, box.shape))
    assert np.array_equal(label + 1, ndimage.label(box)[0].ravel()[flat])  # both in raster order


def test_each_pair_of_faces_is_found_once():
    cube = np.pad(np.ones((2, 2, 2), bool), 1)
    pairs = face_pairs(np.flatnonzero(cube), cube.shape)
    assert sorted(pairs.tolist()) == sorted([[a, a + s] for s in (1, 2, 4) for a in range(8) if not a & s])


@unhurried
@given(masks.filter(np.any))
def test_skeleton_voxels_hang_together_by_corners_too(mask):
    points = np.argwhere(mask)
    label = label_points(len(points), skeleton_pairs(points))
    assert np.array_equal(label + 1, ndimage.label(mask, np.ones((3, 3, 3)))[0][mask])


# ------------------------------------------------------------------------------------------------------------- segments


def test_a_fork_is_three_segments_and_short_ones_are_dropped():
    fork = np.zeros((30, 30, 3), bool)
    fork[5:16, 15, 1] = True
    for step in range(1, 8):
        fork[15 + step, [15 - step, 15 + step], 1] = True
    points = np.argwhere(fork)
    segment = label_segments(points)
    dropped = points[segment < 0]
    assert dropped.tolist() == [[15, 15, 1]]  # the one voxel with three neighbours
    assert np.bincount(segment[segment >= 0]).tolist() == [10, 7, 7]
    fork[20:, 20:] = False  # leaves four voxels of one arm
    points = np.argwhere(fork)
    segment = label_segments(points)
    assert np.bincount(segment[segment >= 0]).tolist() == [10, 7]
    assert (segment[(points[:, 1] > 15)] == -1).all()


def test_what_is_too_small_for_a_segment_is_one():
    assert label_segments(np.array([[1, 1, z] for z in range(4)])).tolist() == [0, 0, 0, 0]
    assert label_segments(np.array([[1, 1, 1]])).tolist() == [0]


@unhurried
@given(st.integers(0, 2**32), st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 40), st.integers(1, 12))
def test_the_nearest_segment_is_scipys_with_its_ties(seed, shape, count, segments):
    # In a small box, many a voxel has several skeleton voxels at the same distance.
    rng = np.random.default_rng(seed)
    points = np.unique(rng.integers(0, shape, (count, 3)), axis=0)
    segment = rng.integers(-1, segments, len(points))
    segment[rng.integers(len(points))] = 0  # one at least
    labels = np.full(shape, -1)
    labels[tuple(points.T)] = segment
    nearest = ndimage.distance_transform_edt(labels < 0, return_distances=False, return_indices=True)
    voxels = np.argwhere(np.ones(shape, bool))
    rows = nearest_row(voxels, points, segment)
    assert np.array_equal(segment[rows], labels[tuple(nearest)].ravel())


def test_contacts_are_counted_by_faces():
    label = np.zeros((4, 5, 6), int)
    label[1:3, 1:3, 1:3] = 1  # 2 x 2 x 2, value 0 is outside
    label[1:3, 1:3, 3] = 2  # on four faces
    label[1, 3, 3:5] = 3  # on one face of the second, on edges of the first
    voxels = np.argwhere(label)
    contacts = count_contacts(label.shape, voxels, label[label > 0] - 1)
    assert contacts == {(0, 1): 4, (1, 2): 1}


# -------------------------------------------------------------------------------------------------------------- merging


def graph(*pairs):
    return dict.fromkeys(pairs, 1)


def merged(*pairs):
    """Owner of each segment; 0 is larger than all others together, so it stays the trachea."""
    volume = np.ones(max(map(max, pairs)) + 1)
    volume[0] = 100
    return merge_segments(graph(*pairs), volume).tolist()


def test_generations_are_counted_from_the_largest():
    volume = np.array([3, 4, 20, 5, 1])
    parents, generation = walk_generations(graph((0, 1), (0, 2), (2, 3), (1, 3), (1, 4)), np.arange(5), volume)
    assert generation == {2: 0, 0: 1, 3: 1, 1: 2, 4: 3}
    assert parents == {2: [], 0: [2], 3: [2], 1: [0, 3], 4: [1]}


def test_the_largest_is_that_of_what_has_merged():
    volume, owner = np.array([10, 6, 6, 3]), np.array([0, 1, 1, 3])
    assert walk_generations(graph((0, 1), (1, 2), (0, 3)), owner, volume)[1] == {1: 0, 0: 1, 3: 2}


def test_a_fork_stays_a_fork():
    assert merged((0, 1), (0, 2), (1, 2)) == [0, 1, 2]  # siblings may touch


def test_a_chain_becomes_one_branch():
    assert merged((0, 1), (1, 2), (2, 3)) == [0, 0, 0, 0]


def test_an_only_child_joins_its_parent():
    assert merged((0, 1), (0, 2), (1, 3)) == [0, 1, 2, 1]


def test_parents_that_share_a_child_become_one():
    # 1 and 2 share 3 and have a child each, 5 and 6; the trachea has 4 besides.
    assert merged((0, 1), (0, 2), (0, 4), (1, 3), (2, 3), (1, 5), (2, 6)) == [0, 1, 1, 3, 4, 5, 6]


def test_a_loop_without_more_becomes_the_trachea():
    assert merged((0, 1), (0, 2), (1, 3), (2, 3)) == [0, 0, 0, 0]


def test_an_only_child_joins_the_name_its_parent_had():
    # Both parents of 3 become 1; then 3, the only child of 2, takes the name 2, which is free: it stays a branch of
    # its own, as in the reference parser. With 3 the only child of 1, it is taken in by 1, and so is 5 after it.
    assert merged((0, 1), (0, 2), (0, 4), (1, 3), (2, 3), (1, 5)) == [0, 1, 1, 2, 4, 5]
    assert merged((0, 1), (0, 2), (0, 4), (1, 3), (2, 3), (2, 5)) == [0, 1, 1, 1, 4, 1]


def test_what_has_merged_may_outgrow_the_trachea():
    # 1 and 2 share 3; together they are larger than 0, so 4 is now the only child of 0.
    contacts = graph((0, 1), (0, 2), (0, 4), (1, 3), (2, 3), (1, 5), (2, 6))
    assert merge_segments(contacts, np.array([9, 6, 6, 1, 1, 1, 1])).tolist() == [0, 1, 1, 3, 0, 5, 6]


def test_of_several_parents_the_most_touched_is_kept():
    contacts = graph((0, 1), (0, 2), (1, 3), (2, 3)) | {(2, 3): 5, (1, 3): 4}
    volume = np.array([9, 3, 2, 1])
    parent, generation = root_branches(contacts, np.arange(4), volume)
    assert parent == {0: -1, 1: 0, 2: 0, 3: 2}
    assert generation == {0: 0, 1: 1, 2: 1, 3: 2}


def test_faces_of_merged_segments_are_added_up():
    contacts = {(0, 1): 1, (0, 2): 1, (0, 4): 1, (1, 3): 2, (3, 4): 2, (2, 3): 1}
    parent, _ = root_branches(contacts, np.array([0, 1, 1, 3, 4]), np.array([9, 3, 2, 1, 1]))
    assert parent == {0: -1, 1: 0, 4: 0, 3: 1}  # 2 + 1 faces to the two that are one, 2 to the other
