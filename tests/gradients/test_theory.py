"""Gradient ratios and erosion by hand: literal ratios, autograd as second opinion, discs and boxes with known areas."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from airwaylib.errors import InputError
from airwaylib.gradients.theory import (
    critical_radius,
    disc,
    eroded,
    erosion_by_layer,
    simulated_critical_radius,
    tube_profile,
)
from airwaylib.losses.general_union import dice_loss
from airwaylib.losses.ratio import CLOSED_FORMS, gradient_ratio, measured_ratio
from airwaylib.losses.table import LOSSES, loss_by_name

RATIOS, LAYERS = (1, 2, 6, 9), (2, 6, 12, 18)
close = np.testing.assert_allclose


class TestRatioByHand:
    @pytest.mark.parametrize(
        ("name", "p_f", "p_b", "index", "parameters", "expected"),
        [
            ("dice", 0.3, 0.2, 0.8, {}, 1.5),  # 2 / .8 - 1
            ("dice", 1, 0, 1, {}, 1),
            ("tversky", 0.3, 0.2, 0.5, {"alpha": 0.1}, 19),  # 1 / .05 - 1
            ("tversky", 1, 0, 1, {"alpha": 0.1}, 9),  # beta / alpha
            ("tversky", 1, 0, 1, {}, 19),  # alpha .05 by default
            ("root_tversky", 1, 0, 1, {"epsilon": 0}, 6),  # .7 / .1 - 1
            ("root_tversky", 1, 0, 1, {"alpha": 0.2, "epsilon": 0}, 2.5),  # .7 / .2 - 1
            ("root_tversky", 0.25, 0, 0.5, {"root": 0.5, "epsilon": 0}, 19),  # .5 * .25^-.5 = 1; 1 / .05 - 1
            ("root_tversky", 0.24, 0, 0.5, {"root": 0.5, "epsilon": 0.01}, 19),
            ("root_tversky", 1, 0, 1, {"alpha": 0.9, "epsilon": 0}, 0.7 / 0.9 - 1),  # the wrong way: below 0
            ("weighted_bce", 0.5, 0.25, math.nan, {"positive_weight": 3, "epsilon": 0}, 4.5),  # 3 * .75 / .5
            ("weighted_bce", 0.4, 0.15, 0, {"positive_weight": 1, "epsilon": 0.1}, 1.9),  # .95 / .5
            ("focal", 0.5, 0.5, math.nan, {}, 1 / 3),  # .25 / .75, the same steepness
            # steepness .25 / .5 - 2 * .5 log .5 = 1.193147 over .0625 / .75 - 2 * .25 log .75 = .227174
            ("focal", 0.5, 0.25, math.nan, {"epsilon": 0}, 1.1931472 / 0.2271744 / 3),
        ],
    )
    def test_of_a_loss(self, name, p_f, p_b, index, parameters, expected):
        close(gradient_ratio(name, p_f, p_b, index, weight=0.5, **parameters), expected, rtol=2e-6)

    def test_of_general_union(self):
        # at the end of learning .7 / .1 - 1 = 6 on the centreline and 6 / 9 farthest out
        close(gradient_ratio("general_union", 1, 0, 1, [1, 1 / 9], epsilon=0), [6, 2 / 3])
        close(gradient_ratio("general_union", 0.25, 0, 0.5, 0.5, root=0.5, epsilon=0), 19 / 2)
        close(gradient_ratio("general_union_without_weights", 1, 0, 1, [1, 1 / 9], epsilon=0), [6, 6])
        close(gradient_ratio("general_union_without_root", [0.1, 1], 0, 1, [1, 1 / 9], alpha=0.1), [9, 1])

    def test_has_the_losses_own_defaults(self, monkeypatch):
        def other(probability, target, weight=None, *, alpha=0.25, smooth=1.0):
            raise AssertionError

        monkeypatch.setitem(LOSSES, "tversky", other)
        close(gradient_ratio("tversky", 1, 0, 1), 3)

    def test_broadcasts(self):
        for name in CLOSED_FORMS:
            parameters = {"positive_weight": 1} if name == "weighted_bce" else {}
            ratio = gradient_ratio(name, np.full((3, 1), 0.5), np.full(2, 0.5), np.full((4, 1, 1), 0.5), **parameters)
            assert ratio.shape == (4, 3, 2), name
            assert gradient_ratio(name, 0.5, 0.5, 0.5, **parameters).shape == (), name

    def test_is_infinite_where_the_background_has_no_gradient(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert gradient_ratio("dice", 1, 0, [0, 1]).tolist() == [math.inf, 1]
            assert gradient_ratio("tversky", 1, 0, 1, alpha=0) == math.inf

    def test_refuses_what_it_does_not_know(self):
        with pytest.raises(InputError, match=r"'dicee' has no closed-form .* weighted_bce, .* general_union$"):
            gradient_ratio("dicee", 1, 0, 1)
        with pytest.raises(InputError, match=r"'dice' has no parameter alpha; it has smooth$"):
            gradient_ratio("dice", 1, 0, 1, alpha=0.1)
        with pytest.raises(InputError, match=r"positive_weight: None, .* give c_1 / c_0"):
            gradient_ratio("weighted_bce", 1, 0, 1)

    def test_is_known_for_losses_that_exist(self):
        assert set(CLOSED_FORMS) <= set(LOSSES)


# Strategy: the slope of each voxel by autograd, every foreground voxel against every background voxel.
@pytest.mark.parametrize("name", CLOSED_FORMS)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0.02, 0.6), root=st.floats(0.3, 1), extra=st.floats(0, 2))
def test_closed_forms_are_autograds(name, seed, alpha, root, extra):
    offered = {"alpha": alpha, "root": root, "smooth": extra, "epsilon": 1e-3 * extra, "gamma": extra}
    offered |= {"alpha_balance": alpha, "positive_weight": 1 + 9 * extra}
    known = loss_parameters(name)
    parameters = {key: value for key, value in offered.items() if key in known}
    generator = torch.Generator().manual_seed(seed)
    p, w = (torch.rand(7, generator=generator, dtype=torch.float64) * 0.9 + 0.05 for _ in range(2))
    g = torch.tensor([1, 1, 1, 0, 0, 0, 0])
    w = torch.where(g.bool(), w, 1)
    loss = loss_by_name(name, **parameters)
    value = loss(p.requires_grad_(), g, w)
    (slope,) = torch.autograd.grad(value, p)
    expected = -slope[:3, None] / slope[None, 3:]
    p = p.detach()
    ratio = gradient_ratio(name, p[:3, None], p[None, 3:], 1 - value.item(), w[:3, None], **parameters)
    close(ratio, expected, rtol=1e-7, atol=1e-9)
    of_means = slope[:3].abs().mean() / slope[3:].abs().mean()
    close(measured_ratio(loss, p, g, w), of_means)


def loss_parameters(name):
    """Told by the refusal of a parameter that no loss has."""
    with pytest.raises(InputError) as refusal:
        loss_by_name(name, unheard=1)
    return str(refusal.value).split("it has ")[1].split(", ")


class TestMeasuredRatio:
    P, G = torch.tensor([0.5, 0.25, 0.5, 0.75], dtype=torch.float64), torch.tensor([1, 1, 0, 0])

    def test_is_one_of_means(self):
        # cross-entropy: slopes 1 / .5 and 1 / .25 on foreground, 1 / .5 and 1 / .25 on background, times 5
        loss = loss_by_name("weighted_bce", positive_weight=5, epsilon=0)
        close(measured_ratio(loss, self.P, self.G), 5)
        # the second background voxel at .5: (2 + 4) / (2 + 2) = 1.5
        close(measured_ratio(loss, torch.tensor([0.5, 0.25, 0.5, 0.5], dtype=torch.float64), self.G), 7.5)
        # foreground is a third of the voxels: a ratio of sums would be half of it
        close(measured_ratio(loss, torch.full((6,), 0.5, dtype=torch.float64), torch.tensor([1, 1, 0, 0, 0, 0])), 5)

    def test_takes_the_weight(self):
        loss = loss_by_name("general_union", epsilon=1e-12)
        p, weight = torch.tensor([1.0, 1, 0, 0], dtype=torch.float64), torch.tensor([1, 1 / 9, 1, 1])
        close(measured_ratio(loss, p, self.G, weight), (6 + 6 / 9) / 2, rtol=1e-6)
        close(measured_ratio(loss, p, self.G), 6, rtol=1e-6)

    def test_leaves_the_probability_alone(self):
        p = self.P.clone().requires_grad_()
        assert isinstance(measured_ratio(dice_loss, p, self.G), float)
        assert p.grad is None and not self.P.requires_grad

    @pytest.mark.parametrize(
        ("loss", "target", "message"),
        [
            (dice_loss, [0, 0, 0, 0], "target: has no foreground"),
            (dice_loss, [1, 1, 1, 1], "target: has no background"),
            (lambda p, g, w: (p - g).abs().sum(), [[1, 1, 0, 0]], r"target: shape \(1, 4\) must be \(4,\)"),
            (lambda p, g, w: (p * g).sum(), [1, 1, 0, 0], "ignores the background"),
            (lambda p, g, w: (p - 0.25).abs().sqrt().sum(), [1, 0, 0, 0], "not finite at 1 voxels"),
        ],
    )
    def test_refuses_what_has_no_ratio(self, loss, target, message):
        with pytest.raises(InputError, match=message):
            measured_ratio(loss, self.P, torch.tensor(target))


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
