"""Distance to the centreline by hand: a bar, its axis, an anisotropic grid; arrays and tensors."""

import numpy as np
import pytest
import torch

from airwaylib.errors import InputError
from airwaylib.losses.distance import distance_to_centreline, relative_distance


def rod():
    """A bar of 7 x 7 voxels along z and its axis, in a grid large enough for three voxels around."""
    label, axis = np.zeros((9, 15, 17), bool), np.zeros((9, 15, 17), bool)
    label[:, 4:11, 5:12] = True
    axis[:, 7, 8] = True
    return label, axis


def test_distance_in_mm_on_an_anisotropic_grid():
    label, axis = rod()
    distance, maximum = distance_to_centreline(label, axis, (1.0, 2.0, 5.0))  # x, y, z
    assert maximum == pytest.approx(45**0.5)  # the corner: 3 voxels of 2 mm and 3 of 1 mm
    expected = {
        (7, 8): 0,
        (7, 9): 1 / 45**0.5,
        (8, 8): 2 / 45**0.5,
        (10, 8): 6 / 45**0.5,
        (7, 11): 3 / 45**0.5,
        (4, 5): 1,
        (7, 12): 4 / 45**0.5,  # one and two voxels outside: kept to interpolate from
        (7, 13): 5 / 45**0.5,
        (11, 8): 1,  # 8 mm, beyond the maximum
        (7, 14): 0,  # three voxels outside
        (13, 8): 0,
    }
    for z in (0, 4, 8):
        for (y, x), value in expected.items():
            assert distance[z, y, x] == pytest.approx(value, abs=1e-6), (z, y, x)


def test_distance_in_voxels_is_that_of_a_grid_of_1_mm():
    label, axis = rod()
    distance, maximum = distance_to_centreline(label, axis, (1.0, 1.0, 1.0))
    assert maximum == pytest.approx(18**0.5)
    assert distance[3, 10, 8] == distance[3, 7, 11] == pytest.approx(3 / 18**0.5)


def test_distance_runs_along_z_too():
    label, axis = rod()
    axis[:4] = False  # a centreline that begins at slice 4
    distance, maximum = distance_to_centreline(label, axis, (1.0, 2.0, 5.0))
    assert maximum == pytest.approx((20**2 + 45) ** 0.5)  # the corner of slice 0, four slices of 5 mm below
    assert distance[2, 7, 8] == pytest.approx(10 / maximum, abs=1e-6)


def test_an_airway_of_one_voxels_width_has_no_distance():
    label = np.zeros((5, 9, 9), bool)
    label[:, 4, 4] = True
    distance, maximum = distance_to_centreline(label, label, (1.0, 1.0, 1.0))
    assert maximum == 0
    assert (distance[label] == 0).all() and distance.max() == 1


class TestOfALabel:
    """`relative_distance`, which finds the centreline itself: of a bar 3 voxels wide, its axis without the ends."""

    def test_by_hand(self):
        tube = np.zeros((9, 9, 11), np.uint8)
        tube[3:6, 3:6] = 1
        found = relative_distance(tube, (1.0, 2.0, 3.0))[:, :, 5]  # x, y, z
        assert found.dtype == np.float32
        corner, most = (
            13**0.5,
            14**0.5,
        )  # 3 mm along z, 2 mm along y; at the ends 1 mm along x: thinning shortens the axis
        assert found[3:6, 3:6] == pytest.approx(np.array([[corner, 3, corner], [2, 0, 2], [corner, 3, corner]]) / most)
        in_voxels = relative_distance(tube, (1.0, 2.0, 3.0), unit="voxels")[3:6, 3:6, 5]
        assert in_voxels[0] == pytest.approx(np.array([2**0.5, 1, 2**0.5]) / 3**0.5)

    def test_of_a_tensor_is_that_of_each_sample(self):
        one, other = np.zeros((2, 9, 9, 11), bool)
        one[3:6, 3:6], other[2:7, 2:7] = True, True
        batch = torch.from_numpy(np.stack([one, other, np.zeros_like(one)])[:, None].astype(np.float32))
        found = relative_distance(batch, (0.5, 0.5, 2.0))
        assert found.shape == batch.shape and found.dtype == torch.float32
        for number, label in enumerate((one, other)):
            assert np.array_equal(found[number, 0], relative_distance(label, (0.5, 0.5, 2.0)))
            assert found[number][batch[number] == 1].max() == 1
        assert (found[2] == 0).all()  # no airway, no distance

    @pytest.mark.parametrize(
        ("label", "options", "message"),
        [
            (np.ones((2, 3)), {}, r"label: shape \(2, 3\) must be \(D, H, W\) or \(B, 1, D, H, W\)"),
            (np.ones((1, 2, 4, 4, 4)), {}, r"label: shape \(1, 2, 4, 4, 4\)"),
            (np.full((4, 4, 4), 255), {}, "label: must hold 0 and 1 alone"),
            (np.ones((4, 4, 4)), {"unit": "inches"}, "distance unit 'inches' is unknown: choose mm or voxels"),
            (np.ones((4, 4, 4)), {"spacing": (1, 1, 0)}, r"spacing: \(1, 1, 0\) must be three numbers above 0"),
        ],
    )
    def test_refuses_what_is_no_label(self, label, options, message):
        with pytest.raises(InputError, match=message):
            relative_distance(label, **options)
