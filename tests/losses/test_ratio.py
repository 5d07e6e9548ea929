"""Gradient ratios by hand: literal ratios, autograd as second opinion, at the probability and at the logit."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from airwaylib.errors import InputError
from airwaylib.losses.general_union import dice_loss
from airwaylib.losses.ratio import gradient_ratio, measured_ratio, missed_voxel_exponent
from airwaylib.losses.registry import LOSSES, defaults, loss
from airwaylib.losses.table import loss_by_name

close = np.testing.assert_allclose
CLOSED_FORMS = [name for name, function in LOSSES.items() if function.ratio]


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
        ],
    )
    def test_of_a_loss(self, name, p_f, p_b, index, parameters, expected):
        close(gradient_ratio(name, p_f, p_b, index, weight=0.5, **parameters), expected, rtol=2e-6)

    def test_of_general_union(self):
        # at the end of learning .7 / .1 - 1 = 6 on the centreline and 6 / 9 farthest out
        close(gradient_ratio("general_union", 1, 0, 1, [1, 1 / 9], epsilon=0), [6, 2 / 3])
        close(gradient_ratio("general_union", 0.25, 0, 0.5, 0.5, root=0.5, epsilon=0), 19 / 2)
        close(gradient_ratio("root_tversky", 1, 0, 1, [1, 1 / 9], epsilon=0), [6, 6])
        close(gradient_ratio("general_union_without_root", [0.1, 1], 0, 1, [1, 1 / 9], alpha=0.1), [9, 1])

    def test_has_the_losses_own_defaults(self, monkeypatch):
        monkeypatch.setitem(LOSSES, "tversky", LOSSES["tversky"])  # restored at the end, in its place

        @loss("tversky", formula="", source="", ratio=lambda v: 1 / (v.alpha * v.index) - 1)
        def other(probability, target, weight=None, *, alpha=0.25, smooth=1.0):
            raise AssertionError

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
        with pytest.raises(InputError, match=r"'dicee' has no closed-form .*: general_union, .* weighted_bce$"):
            gradient_ratio("dicee", 1, 0, 1)
        with pytest.raises(InputError, match=r"'dice_bce' has no closed-form"):
            gradient_ratio("dice_bce", 1, 0, 1)
        with pytest.raises(InputError, match=r"at: 'logits' is unknown; choose probability or logit"):
            gradient_ratio("dice", 1, 0, 1, at="logits")
        with pytest.raises(InputError, match=r"'dice' has no parameter alpha; it has smooth$"):
            gradient_ratio("dice", 1, 0, 1, alpha=0.1)
        with pytest.raises(InputError, match=r"positive_weight: None, .* give c_1 / c_0"):
            gradient_ratio("weighted_bce", 1, 0, 1)

    def test_at_the_logit(self):
        # R = 2 / .5 - 1 = 3; p (1 - p) is .25 on the airway and .09 on background
        close(gradient_ratio("dice", 0.5, 0.1, 0.5, at="logit"), 3 * 0.25 / 0.09)
        close(gradient_ratio("general_union", 0.5, 0.1, 0.5, 0.5, root=1, epsilon=0, at="logit"), 9.5 * 0.25 / 0.09)
        # cross-entropy: 1 / p_f over 1 / (1 - p_b) at the probability, so 1 - p_f over p_b at the logit
        close(gradient_ratio("weighted_bce", 0.2, 0.4, 0, positive_weight=1, epsilon=0, at="logit"), 0.8 / 0.4)

    def test_at_the_logit_of_a_missed_voxel(self):
        """As p_f falls to a hundredth, Dice's gradient falls alike, Root Tversky's as its root, cross-entropy's not."""
        ends, fixed = np.array([1e-4, 1e-6]), {"epsilon": 0, "at": "logit"}
        near, far = gradient_ratio("dice", ends, 0.1, 0.5, at="logit")
        close(near / far, 100, rtol=1e-3)
        near, far = gradient_ratio("root_tversky", ends, 0.1, 0.5, **fixed)
        close(near / far, 100**0.7, rtol=1e-2)
        near, far = gradient_ratio("weighted_bce", ends, 0.1, 0.5, positive_weight=1, **fixed)
        close(near / far, 1, rtol=1e-3)


# Strategy: the slope of each voxel by autograd, every foreground voxel against every background voxel.
@pytest.mark.parametrize("name", CLOSED_FORMS)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0.02, 0.6), root=st.floats(0.3, 1), extra=st.floats(0, 2))
def test_closed_forms_are_autograds(name, seed, alpha, root, extra):
    offered = {"alpha": alpha, "root": root, "smooth": extra, "epsilon": 1e-3 * extra}
    offered |= {"positive_weight": 1 + 9 * extra}
    known = defaults(LOSSES[name])
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
    # At the logit z, by autograd through the sigmoid.
    z = p.logit().requires_grad_()
    (slope,) = torch.autograd.grad(loss(z.sigmoid(), g, w), z)
    voxels = p[:3, None], p[None, 3:], 1 - value.item(), w[:3, None]
    close(gradient_ratio(name, *voxels, at="logit", **parameters), -slope[:3, None] / slope[None, 3:], rtol=1e-6)
    close(measured_ratio(loss, p, g, w, at="logit"), slope[:3].abs().mean() / slope[3:].abs().mean(), rtol=1e-6)


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
            (lambda p, g, w: (p * g).sum(), [1, 1, 0, 0], "its gradient is 0 on the whole background"),
            (lambda p, g, w: (p - 0.25).abs().sqrt().sum(), [1, 0, 0, 0], "not finite at 1 voxels"),
        ],
    )
    def test_refuses_what_has_no_ratio(self, loss, target, message):
        with pytest.raises(InputError, match=message):
            measured_ratio(loss, self.P, torch.tensor(target))

    def test_at_the_logit(self):
        # Dice: TP .75, index (1.5 + 1) / (2 + 2 + 1) = .5, so 3 at the probability; p (1 - p): means of
        # .25 and .1875 on either side, 3 again
        close(measured_ratio(dice_loss, self.P, self.G, at="logit"), 3)
        sure = torch.tensor([0.5, 0.5, 0, 1], dtype=torch.float64)
        with pytest.raises(InputError, match="at the logit its gradient is 0 on the whole background"):
            measured_ratio(dice_loss, sure, self.G, at="logit")


@pytest.mark.parametrize(
    ("name", "parameters", "exponent"),
    [
        ("dice", {}, 1),
        ("tversky", {}, 1),
        ("general_union", {"epsilon": 0}, 0.7),
        ("general_union", {}, 0.7),
        ("general_union", {"root": 0.5, "epsilon": 0}, 0.5),
        ("weighted_bce", {"positive_weight": 1.0}, 0),
    ],
)
def test_gradient_at_the_logit_of_a_missed_voxel_dies_as_a_power_of_p(name, parameters, exponent):
    assert missed_voxel_exponent(loss_by_name(name, **parameters)) == pytest.approx(exponent, abs=0.03)


def test_below_its_epsilon_general_union_dies_as_dice_does():
    ends = {"low": 1e-6, "high": 1e-5}  # epsilon is 1e-4
    assert missed_voxel_exponent(loss_by_name("general_union"), **ends) == pytest.approx(1, abs=0.03)
    assert missed_voxel_exponent(loss_by_name("general_union", epsilon=0), **ends) == pytest.approx(0.7, abs=0.01)
