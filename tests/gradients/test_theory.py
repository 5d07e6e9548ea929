"""Erosion by hand: the critical radius, discs and boxes with known areas."""

import math

import numpy as np
import pytest

from airwaylib.errors import InputError
from airwaylib.gradients.theory import (
    critical_radius,
    disc,
    eroded,
    erosion_by_layer,
    simulated_critical_radius,
    tube_profile,
)

RATIOS, LAYERS = (1, 2, 6, 9), (2, 6, 12, 18)
close = np.testing.assert_allclose


class TestLaw:
    def test_by_hand(self):
        # 2 * 2 * 2/3 * log 2 = 1.848392; 2 * 18 * 2/3 * log(7/6) = 3.699616
        close(critical_radius([2, 18], [1, 6]), [1.359556, 1.923438], rtol=1e-6)
        close(critical_radius(1, 1, variance=1), math.sqrt(2 * math.log(2)))
        close(critical_radius(8, 3), 2 * critical_radius(2, 3))

    def test_broadcasts(self):
        assert critical_radius(np.arange(1, 4)[:, None], [1, 2]).shape == (3, 2)

    @pytest.mark.parametrize("ratio", [0, -1, math.inf, math.nan])
    def test_refuses_a_ratio_that_is_none(self, ratio):
        for refuses in (lambda: critical_radius(2, ratio), lambda: eroded(1, 2, ratio)):
            with pytest.raises(InputError, match=r"ratio: .* must be above 0"):
                refuses()

    @pytest.mark.parametrize("layers", [0, 1.5])
    def test_refuses_layers_that_are_none(self, layers):
        for refuses in (
            lambda: eroded(1, layers, 1),
            lambda: simulated_critical_radius(layers, 1),
            lambda: erosion_by_layer(1, 1, layers),
        ):
            with pytest.raises(InputError, match=r"layers: .* must be"):
                refuses()

    def test_refuses_a_radius_that_is_none(self):
        for radius in (0, -1, math.nan):
            for refuses in (lambda r: erosion_by_layer(r, 1, 1), lambda r: tube_profile(r, 1, 1), lambda r: disc(r, 1)):
                with pytest.raises(InputError, match=r"radius: .* must be above 0"):
                    refuses(radius)


class TestSimulation:
    def test_of_one_layer_keeps_the_sign_where_ratio_times_share_exceeds_the_rest(self):
        for radius in np.arange(0.25, 2.3, 0.13):
            share = disc(radius, 1).mean()
            for ratio in (0.5, 1, 2, 6, 9, 30):
                assert eroded(radius, 1, ratio) == (ratio * share <= 1 - share)

    @pytest.mark.parametrize("radius", [0.3, 0.5, 1.0, 1.7, 4.0])
    def test_a_disc_has_its_area(self, radius):
        whole = disc(radius, math.ceil(radius))
        close(whole.sum(), math.pi * radius**2)
        close(whole, whole.T, atol=1e-12)
        assert whole.min() >= 0 and whole.max() <= 1

    def test_a_disc_around_a_voxel(self):
        # radius sqrt(.5) reaches the voxel's corners; what is left of pi / 2 - 1 is four caps
        cap = (math.pi / 2 - 1) / 4
        close(disc(math.sqrt(0.5), 1), [[0, cap, 0], [cap, 1, cap], [0, cap, 0]], atol=1e-12)

    def test_of_one_layer_by_hand(self):
        # the disc lies within 3 x 3 voxels: R F > 1 - F for F = pi rho^2 / 9 from rho = sqrt(9 / pi / (1 + R)) on
        for ratio in (1, 2, 6, 9):
            expected = math.sqrt(9 / math.pi / (1 + ratio))
            close(simulated_critical_radius(1, ratio), expected, atol=1e-3)
            assert eroded(expected - 0.01, 1, ratio) and not eroded(expected + 0.01, 1, ratio)

    def test_of_two_and_three_layers_by_hand(self):
        # two layers weigh the middle 3/9 * 3/9, three 7/27 * 7/27; a disc of radius .5 fills pi / 4 of it
        close(simulated_critical_radius(2, 36 / math.pi - 1), 0.5, atol=1e-3)
        close(simulated_critical_radius(3, 4 * (27 / 7) ** 2 / math.pi - 1), 0.5, atol=1e-3)

    @pytest.mark.parametrize("layers", LAYERS)
    @pytest.mark.parametrize("ratio", RATIOS)
    def test_is_the_law(self, ratio, layers):
        simulated = simulated_critical_radius(layers, ratio)
        # Half a voxel would do; seen are 0.01 (R = 9, n = 2) to 0.13 (R = 1, n = 2), always above the law:
        # n boxes have a flatter top than the Gaussian, and a voxel covered in part adds a box of its own, 1/12.
        assert 0 < simulated - critical_radius(layers, ratio) < 0.15
        assert eroded(simulated - 0.05, layers, ratio) and not eroded(simulated + 0.05, layers, ratio)


class TestErosion:
    def test_of_a_voxel_by_hand(self):
        # A disc of radius .5 is pi / 4 of one voxel, which keeps 1/9, 1/9 and 49/729 of itself: it survives ratios
        # above 36 / pi - 1 = 10.5 twice, and above 729 / 49 * 4 / pi - 1 = 17.9 three times.
        assert erosion_by_layer(0.5, 10, 3).tolist() == [1, 1, 1]
        assert erosion_by_layer(0.5, 12, 3).tolist() == [0, 0, 1]
        assert erosion_by_layer(0.5, 18, 3).tolist() == [0, 0, 0]

    def test_counts_a_voxel_by_its_part_of_the_tube(self):
        # radius sqrt(.5), R = 5: one layer gives the middle 3x3 the same pi / 2 / 9, times 6, minus 1 > 0 -- in the
        # middle; a side's box misses the opposite cap: (pi / 2 - cap) / 9 * 6 - 1 < 0, so that the four caps are lost.
        caps = math.pi / 2 - 1
        close(erosion_by_layer(math.sqrt(0.5), 5, 1), [caps / (math.pi / 2)])

    @pytest.mark.parametrize("radius", [0.8, 1.4, 2.5, 3.3])
    def test_is_whole_where_the_axis_is_lost(self, radius):
        erosion = erosion_by_layer(radius, 1, 18)
        assert [value == 1 for value in erosion] == [eroded(radius, layers, 1) for layers in range(1, 19)]
        assert ((erosion >= 0) & (erosion <= 1)).all()

    def test_is_less_of_wider_tubes_and_larger_ratios(self):
        def area(radius, ratio):
            return erosion_by_layer(radius, ratio, 12)[-1]

        assert area(2, 1) == 1 > area(4, 1) > area(8, 1) > 0
        assert area(4, 1) > area(4, 2) > area(4, 6)


class TestProfile:
    def test_by_hand(self):
        # before any layer (R + 1) share - 1; after one, the mean of 3 x 3 voxels: 9 pi / 4 / 9 - 1
        position, value = tube_profile(0.5, 8, 0)
        assert position.tolist() == [-1, 0, 1]
        close(value, [-1, 9 * math.pi / 4 - 1, -1])
        position, value = tube_profile(0.5, 8, 1)
        assert position.tolist() == [-2, -1, 0, 1, 2]
        close(value, [-1, math.pi / 4 - 1, math.pi / 4 - 1, math.pi / 4 - 1, -1])

    def test_of_a_wide_tube(self):
        position, value = tube_profile(10, 6, 3)
        close(value[abs(position) <= 5], 6)
        close(value, value[::-1])
        assert (np.diff(value[position >= 0]) <= 1e-12).all()

    def test_reaches_as_far_as_it_is_told(self):
        _, whole = tube_profile(1.5, 2, 4)
        position, value = tube_profile(1.5, 2, 4, reach=2)
        assert position.tolist() == [-2, -1, 0, 1, 2]
        close(value, whole[4:9])
        position, value = tube_profile(1.5, 2, 4, reach=9)
        assert len(value) == 19
        close(value[3:16], whole, atol=1e-12)
        close(value[:3], -1)
