"""Losses by hand: literal probabilities, limits, closed-form gradients, extremes, half precision, a second program."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from airwaylib.errors import InputError
from airwaylib.losses import (
    LOSSES,
    dice_loss,
    focal_loss,
    general_union_loss,
    general_union_weight,
    loss_by_name,
    root_tversky_loss,
    tversky_loss,
    weighted_bce_loss,
)

# TP = .9 + .6 = 1.5;  FP = .3 + .1 = .4;  FN = .1 + .4 = .5;  sum p = 1.9;  sum g = 2
PROBABILITY = torch.tensor([0.9, 0.6, 0.3, 0.1], dtype=torch.float64)
TARGET = torch.tensor([1, 1, 0, 0], dtype=torch.uint8)
WEIGHT = torch.tensor([1.0, 0.5, 1.0, 1.0], dtype=torch.float64)

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
EPSILON_SLACK = 0.7e-4 + 1e-9  # a perfect prediction's General Union index is (1 + epsilon)^root, not 1


def gradient(loss, probability, *arguments, **parameters):
    probability = probability.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(probability, *arguments, **parameters), probability)
    return slope


def close(actual, expected, **tolerances):
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, **({"rtol": 1e-9, "atol": 1e-12} | tolerances))


class TestByHand:
    def test_dice(self):
        # index D = (2 TP + 1) / (sum p + sum g + 1) = 4 / 4.9
        close(dice_loss(PROBABILITY, TARGET), 1 - 4 / 4.9)
        # dD/dp = (2 - D) / 4.9 on foreground, -D / 4.9 on background; the loss is 1 - D
        on, off = -(2 - 4 / 4.9) / 4.9, (4 / 4.9) / 4.9
        close(gradient(dice_loss, PROBABILITY, TARGET), [on, on, off, off])

    def test_tversky(self):
        # default alpha .05: T = (1.5 + 1) / (1.5 + .05 * .4 + .95 * .5 + 1) = 2.5 / 2.995
        close(tversky_loss(PROBABILITY, TARGET), 1 - 2.5 / 2.995)
        # dT/dp = (1 - .05 T) / 2.995 on foreground, -.05 T / 2.995 on background
        on, off = -(1 - 0.05 * 2.5 / 2.995) / 2.995, 0.05 * 2.5 / 2.995**2
        close(gradient(tversky_loss, PROBABILITY, TARGET), [on, on, off, off])

    def test_general_union(self):
        # root .5 of perfect squares: .81 -> .9 and .36 -> .6.  Overlap 1 * .9 + .5 * .6 = 1.2.
        # Weighted p: .81 + .5 * .36 + .3 + .1 = 1.39; weighted g: 1.5.  Union .1 * 1.39 + .9 * 1.5 = 1.489.
        p = torch.tensor([0.81, 0.36, 0.3, 0.1], dtype=torch.float64)
        exact = {"alpha": 0.1, "root": 0.5, "smooth": 1, "epsilon": 0}
        index = 2.2 / 2.489
        close(general_union_loss(p, TARGET, WEIGHT, **exact), 1 - index)
        # d(index)/dp = w (g root p^(root-1) - alpha index) / 2.489, and .5 * .81^-.5 = .5 / .9
        slopes = [-(0.5 / 0.9 - 0.1 * index), -0.5 * (0.5 / 0.6 - 0.1 * index), 0.1 * index, 0.1 * index]
        close(gradient(general_union_loss, p, TARGET, WEIGHT, **exact), [slope / 2.489 for slope in slopes])

    def test_general_union_defaults_are_stage_1(self):
        # One foreground voxel p = .5, one background voxel p = .5: alpha .1, root .7, smooth 1, epsilon 1e-4
        p, g = torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([1, 0])
        close(general_union_loss(p, g), 1 - (0.5001**0.7 + 1) / (0.1 * 1.0 + 0.9 * 1 + 1))
        close(root_tversky_loss(p, g), general_union_loss(p, g))

    def test_weighted_bce(self):
        p, g = torch.tensor([0.5, 0.25, 0.25, 0.5], dtype=torch.float64), torch.tensor([1, 0, 0, 0])
        foreground, background = math.log(2), (2 * math.log(4 / 3) + math.log(2))  # -log .5; -log .75 twice, -log .5
        # 4 voxels, 1 of foreground: c_1 = 4 / 2, c_0 = 4 / 6
        close(weighted_bce_loss(p, g), (2 * foreground + background * 2 / 3) / 4, rtol=1e-6)
        close(weighted_bce_loss(p, g, positive_weight=3), (3 * foreground + background) / 4, rtol=1e-6)
        # -c_1 / p / N on foreground, c_0 / (1 - p) / N on background
        slopes = [-2 / 0.5 / 4, 2 / 3 / 0.75 / 4, 2 / 3 / 0.75 / 4, 2 / 3 / 0.5 / 4]
        close(gradient(weighted_bce_loss, p, g), slopes, rtol=1e-6)

    def test_focal(self):
        p, g = torch.tensor([0.5, 0.25], dtype=torch.float64), torch.tensor([1, 0])
        # .25 * .5^2 * -log .5 on foreground; .75 * .25^2 * -log .75 on background; mean of the two
        expected = (0.25 * 0.25 * math.log(2) + 0.75 * 0.0625 * math.log(4 / 3)) / 2
        close(focal_loss(p, g), expected, rtol=1e-6)
        # d/dp of (1-p)^2 log p = (1-p)^2 / p - 2 (1-p) log p: .5 + log 2 at p = .5; background with 1 - p for p
        slopes = [-0.25 * (0.5 + math.log(2)) / 2, 0.75 * (0.0625 / 0.75 + 0.5 * math.log(4 / 3)) / 2]
        close(gradient(focal_loss, p, g), slopes, rtol=1e-6)


class TestLimits:
    def test_general_union_of_weight_1_is_root_tversky(self):
        for parameters in ({}, {"alpha": 0.2, "root": 0.5, "smooth": 2, "epsilon": 1e-3}):
            uniform = PROBABILITY, TARGET, torch.ones(4)
            close(general_union_loss(*uniform, **parameters), root_tversky_loss(*uniform, **parameters))
            slope = gradient(root_tversky_loss, *uniform, **parameters)
            close(gradient(general_union_loss, *uniform, **parameters), slope)

    def test_root_tversky_of_root_1_is_tversky(self):
        parameters = {"alpha": 0.3, "smooth": 2}
        close(
            root_tversky_loss(PROBABILITY, TARGET, root=1, epsilon=0, **parameters),
            tversky_loss(PROBABILITY, TARGET, **parameters),
        )
        close(
            gradient(root_tversky_loss, PROBABILITY, TARGET, root=1, epsilon=0, **parameters),
            gradient(tversky_loss, PROBABILITY, TARGET, **parameters),
        )

    def test_tversky_of_alpha_half_is_dice_of_twice_the_smooth(self):
        # (TP + s) / (.5 (sum p + sum g) + s) = (2 TP + 2 s) / (sum p + sum g + 2 s)
        close(tversky_loss(PROBABILITY, TARGET, alpha=0.5), dice_loss(PROBABILITY, TARGET, smooth=2))
        close(
            gradient(tversky_loss, PROBABILITY, TARGET, alpha=0.5), gradient(dice_loss, PROBABILITY, TARGET, smooth=2)
        )

    def test_focal_of_gamma_0_and_equal_classes_is_half_the_cross_entropy(self):
        close(
            focal_loss(PROBABILITY, TARGET, gamma=0, alpha_balance=0.5),
            weighted_bce_loss(PROBABILITY, TARGET, positive_weight=1) / 2,
        )


class TestWeight:
    def test_only_general_union_uses_the_weight(self):
        users = [
            name for name, loss in LOSSES.items() if loss(PROBABILITY, TARGET, WEIGHT) != loss(PROBABILITY, TARGET)
        ]
        assert users == ["general_union"]

    def test_by_hand(self):
        # alpha .2: m = .6 / .8 = .75; sqrt .25 = .5 -> 1 - .375; farthest -> .25; background 1, whatever its distance
        distance, target = torch.tensor([0.0, 0.25, 1.0, 0.25, math.nan]), torch.tensor([1, 1, 1, 0, 0])
        close(general_union_weight(distance, target, 0.2), [1, 0.625, 0.25, 1, 1], rtol=1e-6)

    @pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2, 0.5])
    def test_smallest_weight_is_alpha_over_beta(self, alpha):
        distance = torch.linspace(0, 1, 11, dtype=torch.float64)
        weight = general_union_weight(distance, torch.ones(11), alpha)
        close(weight.min(), alpha / (1 - alpha))
        assert weight.argmin() == 10 or alpha == 0.5

    @pytest.mark.parametrize("alpha", [0.1, 0.2])
    def test_of_root_1_makes_the_ratio_1_at_the_farthest_voxel(self, alpha):
        # A perfect prediction has GU = 1: R = w (1 / alpha - 1) = (alpha / beta) (beta / alpha) at the farthest voxel.
        target, distance = torch.tensor([1, 1, 1, 0]), torch.tensor([0, 0.3, 1, 0.5], dtype=torch.float64)
        weight = general_union_weight(distance, target, alpha)
        slope = gradient(general_union_loss, target.double(), target, weight, alpha=alpha, root=1, epsilon=0)
        close(slope[2] / -slope[3], 1)
        close(slope[0] / -slope[3], (1 - alpha) / alpha)

    def test_of_stage_1_leaves_two_thirds_at_the_farthest_voxel(self):
        target, distance = torch.tensor([1, 1, 0]), torch.tensor([0, 1, 0], dtype=torch.float64)
        weight = general_union_weight(distance, target, 0.1)
        slope = gradient(general_union_loss, target.double(), target, weight, epsilon=1e-9)
        # .7 / .1 - 1 = 6 on the centreline, 6 / 9 farthest out
        close(slope[:2] / -slope[2], [6, 2 / 3], rtol=1e-7)

    def test_broadcasts_over_the_batch(self):
        p, g, w = torch.rand(2, 1, 3, 3, 3), torch.rand(2, 1, 3, 3, 3) > 0.5, torch.rand(1, 1, 3, 3, 3)
        whole = general_union_loss(p, g, w.repeat(2, 1, 1, 1, 1))
        assert general_union_loss(p, g, w) == general_union_loss(p, g, w[0, 0]) == whole

    @pytest.mark.parametrize("distance", [[0.5, 7.0], [-0.5, 0.5], [0.5, math.nan]])
    def test_refuses_a_distance_that_is_not_relative(self, distance):
        with pytest.raises(InputError, match=r"relative_distance: .* must be d / dmax of the case"):
            general_union_weight(torch.tensor(distance), torch.ones(2))

    def test_forgives_rounding(self):
        close(general_union_weight(torch.tensor([-1e-7, 1 + 1e-6]), torch.ones(2)), [1, 1 / 9], rtol=1e-6)

    def test_of_no_voxels_is_empty(self):
        assert general_union_weight(torch.zeros(0), torch.zeros(0)).shape == (0,)


class TestGradientRatio:
    """R = |dL/dp| at foreground over |dL/dp| at background: autograd against the closed forms, for every such pair."""

    P = torch.tensor([0.05, 0.4, 0.97, 0.02, 0.3, 0.9], dtype=torch.float64)
    G = torch.tensor([1, 1, 1, 0, 0, 0])
    W = torch.tensor([1, 0.7, 1 / 9, 1, 1, 1], dtype=torch.float64)
    P_F, P_B = P[:3, None], P[None, 3:]

    def ratios(self, loss, **parameters):
        slope = gradient(loss, self.P, self.G, self.W, **parameters)
        assert (slope[:3] < 0).all() and (slope[3:] > 0).all()
        return -slope[:3, None] / slope[None, 3:]

    def index(self, loss, **parameters):
        return 1 - loss(self.P, self.G, self.W, **parameters)

    def test_cross_entropy(self):
        expected = (1 - self.P_B) / self.P_F
        close(self.ratios(weighted_bce_loss, positive_weight=1, epsilon=0), expected)
        close(self.ratios(weighted_bce_loss, positive_weight=20, epsilon=0), 20 * expected)
        close(self.ratios(weighted_bce_loss, epsilon=0.1, positive_weight=1), (1.1 - self.P_B) / (self.P_F + 0.1))

    @pytest.mark.parametrize("smooth", [0, 1])
    def test_dice(self, smooth):
        expected = 2 / self.index(dice_loss, smooth=smooth) - 1
        close(self.ratios(dice_loss, smooth=smooth), expected.expand(3, 3))

    @pytest.mark.parametrize("smooth", [0, 1])
    def test_tversky(self, smooth):
        parameters = {"alpha": 0.1, "smooth": smooth}
        expected = 1 / (0.1 * self.index(tversky_loss, **parameters)) - 1
        close(self.ratios(tversky_loss, **parameters), expected.expand(3, 3))

    @pytest.mark.parametrize(("smooth", "epsilon"), [(0, 0), (1, 1e-4)])
    @pytest.mark.parametrize(("loss", "weight"), [(root_tversky_loss, 1), (general_union_loss, W[:3, None])])
    def test_root_tversky_and_general_union(self, loss, weight, smooth, epsilon):
        parameters = {"alpha": 0.2, "root": 0.7, "smooth": smooth, "epsilon": epsilon}
        expected = weight * (0.7 * (self.P_F + epsilon) ** -0.3 / (0.2 * self.index(loss, **parameters)) - 1)
        close(self.ratios(loss, **parameters), expected.expand(3, 3))

    def test_focal(self):
        def steepness(q):  # of (1 - q)^2 log q
            return (1 - q) ** 2 / q - 2 * (1 - q) * q.log()

        expected = 0.25 / 0.75 * steepness(self.P_F) / steepness(1 - self.P_B)
        close(self.ratios(focal_loss, epsilon=0), expected)

    @pytest.mark.parametrize(
        ("loss", "parameters", "end"),
        [
            (dice_loss, {}, 1),
            (tversky_loss, {"alpha": 0.1}, 9),
            (root_tversky_loss, {"alpha": 0.1}, 6),
            (root_tversky_loss, {"alpha": 0.2}, 2.5),
        ],
    )
    def test_at_the_end_of_learning(self, loss, parameters, end):
        slope = gradient(loss, self.G.double(), self.G, **parameters)
        close(-slope[0] / slope[-1], end, rtol=1e-3)


@every_loss
class TestEveryLoss:
    def test_gradcheck(self, loss):
        generator = torch.Generator().manual_seed(0)
        p = torch.rand(2, 1, 2, 2, 2, dtype=torch.float64, generator=generator) * 0.9 + 0.05
        g = torch.rand(p.shape, generator=generator) > 0.6
        w = torch.rand(p.shape, generator=generator)
        assert torch.autograd.gradcheck(lambda p: loss(p, g, w), p.requires_grad_())

    def test_returns_a_scalar_of_the_precision_of_the_sums(self, loss):
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
            value = loss(PROBABILITY.to(dtype), TARGET, WEIGHT)
            assert value.shape == ()
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)

    def test_takes_any_dtype_of_target(self, loss):
        values = {loss(PROBABILITY, TARGET.to(t)).item() for t in (torch.bool, torch.uint8, torch.int64, torch.float16)}
        assert values == {loss(PROBABILITY, TARGET.double()).item()}

    def test_is_one_ratio_a_batch(self, loss):
        g = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 1]])
        p = torch.tensor([[0.9, 0.8, 0.7, 0.2], [0.1, 0.2, 0.6, 0.1]])
        close(loss(p, g), loss(p.flatten(), g.flatten()), rtol=1e-6)

    @pytest.mark.parametrize("foreground", [0, 1, 2, 4])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_is_finite_at_0_and_1(self, loss, foreground, dtype):
        g = (torch.arange(4) < foreground).to(dtype)
        w = general_union_weight(g, g)
        mixed = torch.tensor([0, 1, 0, 1], dtype=dtype)
        for p in (mixed, g, 1 - g, torch.zeros_like(g), torch.ones_like(g)):
            assert loss(p, g, w).isfinite()
            assert gradient(loss, p.float(), g, w).isfinite().all()

    @pytest.mark.parametrize("everywhere", [0, 1])
    def test_of_an_empty_or_full_target(self, loss, everywhere):
        g = torch.full((64,), everywhere)
        right, wrong = (loss(torch.full((64,), p), g) for p in (everywhere, 1.0 - everywhere))
        close(right, 0, atol=1e-4)
        assert wrong > 0.5
        # a voxel that is half right is pulled towards its class
        assert ((gradient(loss, torch.full((64,), 0.5), g) > 0) == (everywhere == 0)).all()

    def test_a_missed_voxel_keeps_a_slope(self, loss):
        g = torch.tensor([1, 1, 0, 0])
        slope = gradient(loss, torch.tensor([0.0, 1.0, 0.0, 1.0]), g)
        assert slope[0] < 0 < slope[3]

    def test_refuses_shapes_that_differ(self, loss):
        with pytest.raises(InputError, match=r"target: shape \(2, 3\) must be \(2, 1, 3\)"):
            loss(torch.rand(2, 1, 3), torch.ones(2, 3))


# Strategy: the sums of 128^3 ones, 2 097 152, are beyond float16 (65 504) and beyond bfloat16's whole numbers (256),
# so each sum taken in half precision would show. .75 and .25 are exact in both.
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_half_precision_on_a_large_volume(dtype, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    g = torch.zeros(1, 1, 128, 128, 128, dtype=torch.uint8, device=device)
    g[..., :64] = 1  # n = 2^20 voxels of each class
    p = torch.where(g.bool(), 0.75, 0.25).to(dtype)
    w = torch.where(g.bool(), 0.5, 1.0).to(dtype)
    n = 2**20
    # TP = .75 n, FP = FN = .25 n.  General Union: overlap .5 * .7501^.7 n, union .1 * (.375 + .25) n + .9 * .5 n
    expected = {
        "general_union": 1 - (0.5 * 0.7501**0.7 * n + 1) / (0.5125 * n + 1),
        "root_tversky": 1 - (0.7501**0.7 * n + 1) / (1.0 * n + 1),
        "tversky": 0.25,
        "dice": 0.25,
        "weighted_bce": -math.log(0.75),
        "focal": -math.log(0.75) * 0.25**2 / 2,
    }
    for name, loss in LOSSES.items():
        with torch.autocast(device, dtype):
            value = loss(p, g, w)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name], rel=1e-5), name


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@every_loss
def test_autocast_changes_neither_value_nor_gradient(loss, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 1, 16, 16, 16, generator=generator).to(device)
    g, w = logits > 1, torch.rand(logits.shape, generator=generator).to(device)
    plain = loss(logits.sigmoid(), g, w), gradient(lambda x: loss(x.sigmoid(), g, w), logits)
    with torch.autocast(device, torch.bfloat16):
        assert (logits.flatten() @ logits.flatten()).dtype == torch.bfloat16  # autocast is on
        mixed = loss(logits.sigmoid(), g, w), gradient(lambda x: loss(x.sigmoid(), g, w), logits)
    torch.testing.assert_close(mixed, plain)


unhurried = settings(deadline=None)  # a busy machine is no failure
# Multiples of 1/64: no two of them are so close that the loss's difference drowns in rounding.
voxels = st.lists(st.tuples(st.integers(0, 64).map(lambda k: k / 64), st.booleans(), st.floats(0.125, 1)), min_size=1)


def tensors(voxels):
    p, g, w = zip(*voxels, strict=True)
    return torch.tensor(p, dtype=torch.float64), torch.tensor(g), torch.tensor(w, dtype=torch.float64)


class TestProperties:
    @unhurried
    @given(voxels)
    def test_range(self, voxels):
        for name, loss in LOSSES.items():
            value = loss(*tensors(voxels))
            if name in ("tversky", "dice"):
                assert -1e-12 <= value <= 1
            elif name in ("general_union", "root_tversky"):
                assert -EPSILON_SLACK <= value <= 1
            else:  # cross-entropies end where epsilon, 1e-7, ends the logarithm
                assert 0 <= value <= math.log(1e7) + 1e-6

    @unhurried
    @given(st.data())
    def test_the_order_of_voxels_does_not_matter(self, data):
        listed = data.draw(voxels)
        shuffled = data.draw(st.permutations(listed))
        for loss in LOSSES.values():
            close(loss(*tensors(listed)), loss(*tensors(shuffled)))

    @unhurried
    @given(voxels, st.data())
    def test_a_better_voxel_lowers_the_loss(self, listed, data):
        p, g, w = tensors(listed)
        voxel = data.draw(st.integers(0, len(listed) - 1))
        better = p.clone()
        better[voxel] += 1 / 64 if g[voxel] else -1 / 64
        better.clamp_(0, 1)
        for name, loss in LOSSES.items():
            before, after = loss(p, g, w), loss(better, g, w)
            assert after == before if torch.equal(better, p) else after < before, name


class TestSecondProgram:
    """Random volumes against MONAI (batch=True: one ratio a batch) and torch, where the definitions coincide."""

    def setup_method(self):
        generator = torch.Generator().manual_seed(2)
        self.logits = torch.randn(2, 1, 6, 7, 8, dtype=torch.float64, generator=generator)
        self.p = self.logits.sigmoid()
        self.g = (torch.rand(self.p.shape, generator=generator) > 0.8).double()

    def agree(self, loss, other, **parameters):
        close(loss(self.p, self.g, **parameters), other(self.p, self.g))
        close(gradient(loss, self.p, self.g, **parameters), gradient(other, self.p, self.g))

    @pytest.mark.parametrize("smooth", [1, 3])
    def test_dice(self, smooth):
        from monai.losses import DiceLoss

        self.agree(dice_loss, DiceLoss(smooth_nr=smooth, smooth_dr=smooth, batch=True), smooth=smooth)

    @pytest.mark.parametrize("alpha", [0.05, 0.3])
    def test_tversky(self, alpha):
        from monai.losses import TverskyLoss

        other = TverskyLoss(alpha=alpha, beta=1 - alpha, smooth_nr=1, smooth_dr=1, batch=True)
        self.agree(tversky_loss, other, alpha=alpha)

    def test_focal(self):
        from monai.losses import FocalLoss

        for gamma, balance in ((2, 0.25), (0.5, 0.75)):
            ours = focal_loss(self.p, self.g, gamma=gamma, alpha_balance=balance)
            close(ours, FocalLoss(gamma=gamma, alpha=balance)(self.logits, self.g), rtol=1e-5)

    def test_weighted_bce(self):
        ours = weighted_bce_loss(self.p, self.g, positive_weight=5)
        close(ours, binary_cross_entropy_with_logits(self.logits, self.g, pos_weight=torch.tensor(5)), rtol=1e-5)


class TestByName:
    def test_names(self):
        assert list(LOSSES) == ["general_union", "root_tversky", "tversky", "dice", "weighted_bce", "focal"]

    @every_loss
    def test_one_contract(self, loss):
        assert list(inspect.signature(loss).parameters)[:3] == ["probability", "target", "weight"]

    def test_sets_parameters(self):
        loss = loss_by_name("general_union", alpha=0.2, root=0.5)
        assert loss(PROBABILITY, TARGET, WEIGHT) == general_union_loss(PROBABILITY, TARGET, WEIGHT, alpha=0.2, root=0.5)

    def test_unknown_name(self):
        with pytest.raises(InputError, match=r"'dise' is unknown; known are general_union, .*, focal$"):
            loss_by_name("dise")

    @pytest.mark.parametrize("unknown", ["alpa", "weight"])
    def test_unknown_parameter(self, unknown):
        with pytest.raises(InputError, match=f"'tversky' has no parameter {unknown}; it has alpha, smooth$"):
            loss_by_name("tversky", **{unknown: 0.1})

    @pytest.mark.parametrize(
        ("name", "parameter", "value", "known"),
        [
            ("general_union", "alpha", 1.5, "0 to 1"),
            ("root_tversky", "root", -0.1, "0 to 1"),
            ("root_tversky", "epsilon", -1, "0 to inf"),
            ("tversky", "alpha", math.nan, "0 to 1"),
            ("dice", "smooth", "1", "0 to inf"),
            ("weighted_bce", "positive_weight", -1, "0 to inf"),
            ("weighted_bce", "epsilon", None, "0 to inf"),
            ("focal", "gamma", -1, "0 to inf"),
            ("focal", "alpha_balance", 25, "0 to 1"),
        ],
    )
    def test_refuses_a_value_at_once(self, name, parameter, value, known):
        with pytest.raises(InputError, match=f"^{parameter}: {value!r} must be a number from {known}$"):
            loss_by_name(name, **{parameter: value})


def test_refuses_a_weight_that_does_not_fit():
    p, g = torch.rand(2, 1, 3), torch.ones(2, 1, 3)
    for shape in ((4,), (2, 2, 3), (5, 2, 1, 3)):
        with pytest.raises(InputError, match=r"weight: shape .* must broadcast to \(2, 1, 3\)"):
            general_union_loss(p, g, torch.ones(shape))


def test_refuses_a_weight_with_alpha_above_half():
    with pytest.raises(InputError, match=r"alpha: 0.6 must be a number from 0 to 0.5"):
        general_union_weight(torch.zeros(1), torch.ones(1), 0.6)
