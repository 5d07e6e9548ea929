"""Boxes, components and holes by hand, and against scipy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.images.masks import bounding_box, fill_holes, largest_component

masks = arrays(bool, st.tuples(*[st.integers(1, 6)] * 3))
unhurried = settings(max_examples=60, deadline=None)


def line(start=0, stop=30):
    mask = np.zeros((9, 20, 30), bool)
    mask[4, 4, start:stop] = True
    return mask


# ---------------------------------------------------------------------------------------------------------------- boxes


def test_a_box_has_a_margin_and_is_cut_at_the_border():
    mask = np.zeros((9, 20, 30), bool)
    mask[2, 5, 11] = mask[2, 8, 10] = mask[4, 5, 13] = True
    assert bounding_box(mask) == (slice(2, 5), slice(5, 9), slice(10, 14))
    assert bounding_box(mask, margin=5) == (slice(0, 9), slice(0, 14), slice(5, 19))


@unhurried
@given(masks.filter(np.any))
def test_a_box_is_scipys(mask):
    assert bounding_box(mask) == ndimage.find_objects(mask.astype(int))[0]


def test_an_empty_mask_has_no_box():
    with pytest.raises(InputError) as caught:
        bounding_box(np.zeros((3, 4, 5), bool))
    assert str(caught.value) == "the mask is empty: there is no airway in it"


# ----------------------------------------------------------------------------------------------------------- components


@unhurried
@given(masks, st.sampled_from([6, 26]))
def test_the_largest_component_is_scipys_and_of_equal_ones_the_first(mask, connectivity):
    before = mask.copy()
    label, number = ndimage.label(mask, ndimage.generate_binary_structure(3, 1 if connectivity == 6 else 3))
    expected = label == 1 + np.bincount(label[mask], minlength=number + 1)[1:].argmax() if number else mask
    assert np.array_equal(largest_component(mask, connectivity), expected)
    assert np.array_equal(mask, before)


@pytest.mark.parametrize("step", [(0, 1, 1), (1, 1, 1)], ids=["by an edge", "by a corner"])
def test_pieces_that_touch_diagonally_are_separate(step):
    piece, other = line(0, 8), np.zeros((9, 20, 30), bool)
    z, y, x = 4 + step[0], 4 + step[1], 7 + step[2]
    other[z, y, x : x + 5] = True
    assert np.array_equal(largest_component(piece | other), piece)
    assert np.array_equal(largest_component(piece | other, 26), piece | other)


def test_a_face_joins_pieces():
    mask = line(0, 8)
    mask[4, 5, 7:12] = True
    assert np.array_equal(largest_component(mask), mask)


# ---------------------------------------------------------------------------------------------------------------- holes


@unhurried
@given(st.integers(0, 2**32), st.sampled_from([0, 0.7, 1.0]), st.sampled_from([0.25, 0.4, 0.6]))
def test_holes_are_filled_as_by_scipy(seed, smooth, background):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((9, 10, 11)), smooth)
    box = np.pad(noise > np.quantile(noise, background), 1)
    assert np.array_equal(fill_holes(box), ndimage.binary_fill_holes(box))


def test_shells_within_shells_are_filled():
    box = np.zeros((15, 15, 15), bool)
    box[1:14, 1:14, 1:14] = True
    box[3:12, 3:12, 3:12] = False
    box[5:10, 5:10, 5:10] = True
    box[6:9, 6:9, 6:9] = False
    box = fill_holes(box)
    assert box.sum() == 13**3
    box[1, 7, 7] = box[2, 7, 7] = False  # a pit is no hole
    assert fill_holes(box).sum() == 13**3 - 2
