"""Slices, outlines and curves of gradient maps, on tiny literal shapes."""

import matplotlib

matplotlib.use("Agg")

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
from synthetic_maps import EPOCHS, STRIDES, open_study

from airwaystudy.figures import gradient_slices as views
from airwaystudy.phantoms import names


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return open_study(tmp_path_factory.mktemp("maps"), size=32)


@pytest.mark.parametrize(
    ("cells", "voxels", "stride"),
    [(64, 64, 1), (32, 64, 2), (16, 64, 4), (8, 64, 8), (7, 50, 8), (25, 50, 2), (56, 50, 1), (28, 50, 2), (1, 5, 8)],
)
def test_stride_is_the_power_of_two_that_covers_the_crop(cells, voxels, stride):
    assert views.stride(cells, voxels) == stride


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slice_shows_each_voxel_as_the_cell_around_it(axis):
    share = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    share[1, 2, 3] = np.nan
    whole = share.repeat(4, 0).repeat(4, 1).repeat(4, 2)[:7, :10, :13]  # a crop that does not fill its last cells
    for index in range(whole.shape[axis]):
        np.testing.assert_array_equal(views.share_slice(share, whole.shape, axis, index), np.take(whole, index, axis))


def test_axes_may_have_strides_of_their_own():
    share = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    seen = views.share_slice(share, (2, 2, 4), 0, 1)
    np.testing.assert_array_equal(seen, [[0, 0, 1, 1], [2, 2, 3, 3]])


def test_outline_of_one_pixel_is_its_four_edges():
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    x, y = (line.reshape(-1, 3) for line in views.outline(mask))
    edges = {tuple(np.r_[ends[0][:2], ends[1][:2]]) for ends in zip(x, y, strict=True)}
    assert edges == {(1.5, 2.5, 0.5, 0.5), (1.5, 2.5, 1.5, 1.5), (1.5, 1.5, 0.5, 1.5), (2.5, 2.5, 0.5, 1.5)}
    assert np.isnan(x[:, 2]).all() and np.isnan(y[:, 2]).all()


def test_outline_has_no_edge_between_two_pixels_and_goes_around_the_border():
    x, _ = views.outline(np.ones((1, 2), bool))
    assert len(x) == 3 * 6
    assert len(views.outline(np.zeros((2, 2), bool))[0]) == 0


def test_best_slice_has_most_airway():
    label = np.zeros((5, 6, 7), bool)
    label[3, 1, 2:5] = True
    label[2, 1, 4] = True
    assert [views.best_slice(label, axis) for axis in range(3)] == [3, 1, 4]
    assert views.best_slice(np.zeros((5, 6, 7), bool), 1) == 3


def test_pixels_are_as_wide_and_high_as_their_axes(maps):
    assert [views.step_mm(maps[0], axis) for axis in range(3)] == [(1, 1), (1, 1.5), (1, 1.5)]
    assert [views.head_up(axis) for axis in range(3)] == [False, True, True]


def test_labels_tell_runs_apart(maps):
    first, second = maps
    assert views.run_labels(maps) == ["general_union, both, seed 0", "dice, final, seed 0"]
    twin = dataclasses.replace(second, loss=first.loss, supervision=first.supervision)
    assert views.run_labels([first, twin]) == [
        "general_union, both, seed 0 (both_general_union_0)",
        "general_union, both, seed 0 (final_dice_0)",
    ]
    assert views.one_seed([first, second, dataclasses.replace(first, seed=1)]) == [first, second]


def test_phantoms_are_known_by_their_names():
    assert [names.is_synthetic(case) for case in ("mini_0008", "chest_9005", "LIDC-IDRI-0001")] == [True, True, False]


def test_curve_is_in_forward_order_and_nan_where_nothing_is_known(maps):
    found = views.curve(maps[0], EPOCHS[-1])
    assert list(found.index) == list(STRIDES)
    table = maps[0].measures
    shuffled = dataclasses.replace(maps[0], measures=table[table["layer"] != "ec5"].sample(frac=1, random_state=0))
    known = views.curve(shuffled, EPOCHS[-1])
    assert np.isnan(known["ec5"])
    assert known.drop("ec5").equals(found.drop("ec5"))
    assert views.curve(maps[0], 99).isna().all()


def test_a_few_keeps_both_ends():
    assert views.a_few([0, 1, 2, 3, 4, 5], 3) == [0, 2, 5]
    assert views.a_few(["a", "b"], 5) == ["a", "b"]
    assert views.a_few(["a"], 3) == ["a"]


def test_still_goes_from_the_last_layer_to_the_first(maps):
    figure = views.plot_descent(maps, axis=1, count=3)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert [title.split(":")[0] for title in titles[:4]] == ["synthetic CT, epoch 5", "dc6", "ec11", "ec1"]
    assert len(titles) == 2 * 4
    drawn = figure.axes[1].images[0]
    index = views.best_slice(maps[0].label, 1)
    np.testing.assert_allclose(
        drawn.get_array().filled(np.nan), np.take(maps[0].share(5, "dc6"), index, 1), rtol=0, atol=0
    )
    assert (drawn.get_clim(), drawn.origin) == ((0, 1), "lower")
    grey = plt.matplotlib.colors.to_rgba(views.NO_SHARE)
    np.testing.assert_allclose(drawn.cmap(np.nan), grey)
    plt.close(figure)
