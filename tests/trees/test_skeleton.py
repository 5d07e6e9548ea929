"""Centrelines: as scikit-image's, voxel for voxel, but no component is lost."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.morphology import skeletonize

from airwaylib.images.volume import read_mask
from airwaylib.trees.segments import cut_out
from airwaylib.trees.skeleton import longest_path, thin

ATM22 = Path(__file__).parents[3] / "shared" / "data" / "atm22-teams"
ALL = np.ones((3, 3, 3), bool)  # 26-connected


def scikit_image(mask):
    # In a margin: an array of a single plane is 2-D to scikit-image, which then peels four of the six sides only.
    return skeletonize(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]


def empty(shape=(9, 20, 30)):
    return np.zeros(shape, bool)


@st.composite
def blobs(draw, largest=14):
    """A mask of smoothed noise: from crumbs to thick, crumpled bodies; one axis in a few is a single voxel long."""
    shape = draw(st.tuples(*[st.integers(1, largest)] * 3))
    noise = np.random.default_rng(draw(st.integers(0, 2**32))).random(shape)
    smooth = ndimage.gaussian_filter(noise, draw(st.sampled_from([0, 0.6, 1.0, 1.5])), mode="reflect")
    return smooth > np.quantile(smooth, draw(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9, 0.97])))


@settings(max_examples=150, deadline=None)
@given(blobs())
def test_random_masks_thin_as_with_scikit_image(mask):
    ours, theirs = thin(mask), scikit_image(mask)
    component, number = ndimage.label(mask, ALL)
    # A component that theirs lacks keeps a centreline in ours; everywhere else the two are equal.
    kept = np.zeros(number + 1, bool)
    kept[component[theirs]] = True
    assert np.array_equal(ours & kept[component], theirs)
    assert set(component[ours]) == set(range(1, number + 1))
    assert not (ours & ~mask).any()


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(*[st.integers(1, 7)] * 3)))
def test_noise_keeps_its_components_and_the_input_is_left_alone(mask):
    before = mask.copy()
    skeleton = thin(mask)
    assert (skeleton.dtype, skeleton.shape) == (bool, mask.shape)
    assert np.array_equal(mask, before)
    assert ndimage.label(skeleton, ALL)[1] == ndimage.label(mask, ALL)[1]
    assert not (skeleton & ~mask).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("width", [3, 5])
def test_a_tube_of_odd_width_thins_to_its_axis(width, axis):
    tube = empty((9, 9, 30))
    half = width // 2
    tube[4 - half : 5 + half, 4 - half : 5 + half, 3:27] = True
    where = np.argwhere(thin(np.moveaxis(tube, 2, axis)))
    assert (np.delete(where, axis, 1) == 4).all()
    along = where[:, axis]
    assert along.tolist() == list(range(along[0], along[-1] + 1))
    # The ends are taken off as far as the sides, and no further.
    assert 3 <= along[0] <= 3 + half
    assert 26 - half <= along[-1] <= 26


def test_a_line_stays():
    line = empty()
    line[4, 5, 3:27] = True
    assert np.array_equal(thin(line), line)


def test_an_l_loses_its_corner_only():
    bent = empty()
    bent[4, 5, 5:15] = True
    bent[4, 6:15, 5] = True
    expected = bent.copy()
    expected[4, 5, 5] = False  # its two neighbours touch by an edge without it
    assert np.array_equal(thin(bent), expected)


def test_a_thin_y_stays():
    fork = empty((5, 30, 30))
    fork[2, 5:16, 15] = True
    for step in range(1, 8):
        fork[2, 15 + step, [15 - step, 15 + step]] = True
    assert np.array_equal(thin(fork), fork)


def test_a_ring_stays_a_ring():
    ring = empty((7, 24, 24))
    ring[2:5, 3:21, 3:21] = True
    ring[:, 6:18, 6:18] = False  # 3 voxels wide and high
    expected = empty(ring.shape)
    expected[3, 4:20, 4:20] = True
    expected[3, 5:19, 5:19] = False
    expected[3, [4, 4, 19, 19], [4, 19, 4, 19]] = False  # corners go, as an L's
    assert np.array_equal(thin(ring), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_tube_of_even_width_keeps_a_centreline(axis):
    tube = empty((6, 6, 54))
    tube[2:4, 2:4, 2:52] = True
    tube = np.moveaxis(tube, 2, axis)
    assert not scikit_image(tube).any()  # all of it is wiped out there
    skeleton = thin(tube)
    assert not (skeleton & ~tube).any()
    along = np.argwhere(skeleton)[:, axis]
    assert sorted(along) == list(range(2, 52))  # one voxel each step of the way
    assert ndimage.label(skeleton, ALL)[1] == 1


def test_only_the_component_that_is_lost_is_mended():
    pair = empty((9, 20, 54))
    pair[2:4, 2:4, 2:52] = True  # even
    pair[4:7, 12:15, 2:52] = True  # odd
    skeleton = thin(pair)
    assert np.array_equal(skeleton[:, 8:], scikit_image(pair)[:, 8:])
    assert skeleton[:, :8].sum() == 50


def test_crumbs_keep_a_voxel_each():
    crumbs = empty()
    crumbs[1, 1, 1] = crumbs[7, 18, 28] = crumbs[0, 19, 0] = True  # single voxels, one in the array's corner
    crumbs[4:6, 4:6, 4:6] = True
    skeleton = thin(crumbs)
    assert skeleton[1, 1, 1] and skeleton[7, 18, 28] and skeleton[0, 19, 0]
    assert ndimage.label(skeleton, ALL)[1] == 4


def test_an_empty_mask_stays_empty():
    skeleton = thin(empty())
    assert (skeleton.shape, skeleton.dtype, skeleton.any()) == ((9, 20, 30), bool, False)


def test_a_mask_that_fills_its_array_thins_as_in_a_wider_one():
    block = np.ones((5, 5, 20), bool)  # outside of the array is background
    assert np.array_equal(thin(block), thin(np.pad(block, 3))[3:-3, 3:-3, 3:-3])


def test_the_longest_path_runs_from_end_to_end_in_the_middle():
    tube = empty((7, 9, 30))
    tube[1:6, 2:7, 3:27] = True
    where = np.argwhere(longest_path(tube))
    where = where[where[:, 2].argsort()]
    assert where[:, 2].tolist() == list(range(3, 27))
    assert (where[2:-2, :2] == [3, 4]).all()  # the ends are corners: those are farthest apart


def test_a_real_tree_thins_as_with_scikit_image():
    if not ATM22.exists():
        pytest.skip(f"{ATM22} is absent: real masks of the ATM'22 teams")
    mask = cut_out(read_mask(ATM22 / "deeptree_damo_305.nii.gz").array)[0]  # axes x, y, z: their order matters
    official = pd.read_csv(ATM22 / "official_metrics.csv").query("case == 305")["reference_skeleton_voxels"]
    skeleton = thin(mask)
    assert np.array_equal(skeleton, scikit_image(mask))
    assert skeleton.sum() > 0.99 * official.iloc[0]  # the official count is of the largest component
