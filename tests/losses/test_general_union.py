"""The General Union family by hand: literal probabilities, limits, gradients, the weight, a second program."""

import math

import pytest
import torch
from loss_checks import PROBABILITY, TARGET, WEIGHT, agree, close, gradient, random_volume

from airwaylib.errors import InputError
from airwaylib.losses.general_union import (
    GeneralUnionLoss,
    dice_loss,
    general_union_loss,
    general_union_weight,
    general_union_without_root_loss,
    root_tversky_loss,
    tversky_loss,
)


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

    def test_general_union_without_root(self):
        # Overlap .9 + .5 * .6 = 1.2;  weighted p .9 + .3 + .3 + .1 = 1.6;  weighted g 1.5
        # Union .1 * 1.6 + .9 * 1.5 = 1.51
        index = 2.2 / 2.51
        close(general_union_without_root_loss(PROBABILITY, TARGET, WEIGHT), 1 - index)
        # d(index)/dp = w (g - .1 index) / 2.51
        slopes = [-(1 - 0.1 * index), -0.5 * (1 - 0.1 * index), 0.1 * index, 0.1 * index]
        close(
            gradient(general_union_without_root_loss, PROBABILITY, TARGET, WEIGHT), [slope / 2.51 for slope in slopes]
        )

    def test_general_union_defaults_are_stage_1(self):
        # One foreground voxel p = .5, one background voxel p = .5: alpha .1, root .7, smooth 1, epsilon 1e-4
        p, g = torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([1, 0])
        close(general_union_loss(p, g), 1 - (0.5001**0.7 + 1) / (0.1 * 1.0 + 0.9 * 1 + 1))
        close(root_tversky_loss(p, g), general_union_loss(p, g))


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

    def test_general_union_without_root_and_weight_is_tversky(self):
        for weight in (None, torch.ones(4)):
            close(
                general_union_without_root_loss(PROBABILITY, TARGET, weight, alpha=0.3, smooth=2),
                tversky_loss(PROBABILITY, TARGET, alpha=0.3, smooth=2),
            )

    def test_tversky_of_alpha_half_is_dice_of_twice_the_smooth(self):
        # (TP + s) / (.5 (sum p + sum g) + s) = (2 TP + 2 s) / (sum p + sum g + 2 s)
        close(tversky_loss(PROBABILITY, TARGET, alpha=0.5), dice_loss(PROBABILITY, TARGET, smooth=2))
        close(
            gradient(tversky_loss, PROBABILITY, TARGET, alpha=0.5), gradient(dice_loss, PROBABILITY, TARGET, smooth=2)
        )


class TestWeight:
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


@pytest.mark.parametrize(
    ("loss", "parameters", "end"),
    [
        (dice_loss, {}, 1),
        (tversky_loss, {"alpha": 0.1}, 9),
        (root_tversky_loss, {"alpha": 0.1}, 6),
        (root_tversky_loss, {"alpha": 0.2}, 2.5),
    ],
)
def test_ratio_at_the_end_of_learning(loss, parameters, end):
    g = torch.tensor([1, 1, 1, 0, 0, 0])
    slope = gradient(loss, g.double(), g, **parameters)
    close(-slope[0] / slope[-1], end, rtol=1e-3)


class TestSecondProgram:
    """Random volumes against MONAI (batch=True: one ratio a batch) where the definitions coincide."""

    @pytest.mark.parametrize("smooth", [1, 3])
    def test_dice(self, smooth):
        from monai.losses import DiceLoss

        p, g, _ = random_volume(2, 1, 6, 7, 8)
        agree(dice_loss, DiceLoss(smooth_nr=smooth, smooth_dr=smooth, batch=True), p, g, smooth=smooth)

    @pytest.mark.parametrize("alpha", [0.05, 0.3])
    def test_tversky(self, alpha):
        from monai.losses import TverskyLoss

        p, g, _ = random_volume(2, 1, 6, 7, 8)
        other = TverskyLoss(alpha=alpha, beta=1 - alpha, smooth_nr=1, smooth_dr=1, batch=True)
        agree(tversky_loss, other, p, g, alpha=alpha)


def test_refuses_a_weight_that_does_not_fit():
    p, g = torch.rand(2, 1, 3), torch.ones(2, 1, 3)
    for shape in ((4,), (2, 2, 3), (5, 2, 1, 3)):
        with pytest.raises(InputError, match=r"weight: shape .* must broadcast to \(2, 1, 3\)"):
            general_union_loss(p, g, torch.ones(shape))


def test_refuses_a_weight_with_alpha_above_half():
    with pytest.raises(InputError, match=r"alpha: 0.6 must be a number from 0 to 0.5"):
        general_union_weight(torch.zeros(1), torch.ones(1), 0.6)


class TestModule:
    """`GeneralUnionLoss` in other people's training loops."""

    P, G, W = (tensor.float() for tensor in random_volume(2, 1, 4, 5, 6))

    def test_takes_probabilities_or_logits_of_one_channel_or_two(self):
        expected = general_union_loss(self.P, self.G, self.W, alpha=0.2, root=0.5)
        parameters = {"alpha": 0.2, "root": 0.5}
        logits = self.P.logit()
        two = torch.cat([torch.zeros_like(logits), logits], 1)  # softmax of (0, x) is the sigmoid of x
        close(GeneralUnionLoss(**parameters)(self.P, self.G, self.W), expected)
        close(GeneralUnionLoss(sigmoid=True, **parameters)(logits, self.G, self.W), expected, rtol=1e-6)
        close(GeneralUnionLoss(softmax=True, **parameters)(two, self.G, self.W), expected, rtol=1e-6)

    def test_without_a_weight_is_root_tversky(self):
        close(GeneralUnionLoss()(self.P, self.G), root_tversky_loss(self.P, self.G))

    def test_of_half_precision_logits_keeps_the_slope_of_a_sure_voxel(self):
        logits = torch.full((1, 1, 2, 2, 2), 9.0, dtype=torch.float16, requires_grad=True)  # its float16 sigmoid is 1
        GeneralUnionLoss(sigmoid=True)(logits, torch.zeros_like(logits)).backward()
        assert (logits.grad > 0).all()

    def test_trains_a_network_of_monai_under_deep_supervision_as_nnunet_sums_it(self):
        from monai.networks.nets import UNet

        torch.manual_seed(0)
        network = UNet(3, in_channels=1, out_channels=1, channels=(4, 8), strides=(2,))
        label = torch.zeros(2, 1, 16, 16, 16)
        label[..., 4:8, 4:8] = 1
        loss, image = GeneralUnionLoss(sigmoid=True), label + 0.1 * torch.rand(label.shape)
        optimizer, values = torch.optim.Adam(network.parameters(), 1e-2), []
        for _ in range(8):
            output = network(image)
            outputs, labels = [output, output[..., ::2, ::2, ::2]], [label, label[..., ::2, ::2, ::2]]
            value = sum(part * loss(*pair) for part, *pair in zip((1, 0.5), outputs, labels, strict=True))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
        assert values[-1] < values[0]
        assert len(list(loss.parameters())) == 0 and loss.state_dict() == {}

    def test_refuses_what_it_cannot_mean(self):
        with pytest.raises(InputError, match="sigmoid and softmax: choose one"):
            GeneralUnionLoss(sigmoid=True, softmax=True)
        with pytest.raises(InputError, match=r"root: 7 must be a number from 0 to 1"):
            GeneralUnionLoss(root=7)
        with pytest.raises(InputError, match=r"input: shape \(2, 1, 4, 5, 6\) must have two channels"):
            GeneralUnionLoss(softmax=True)(self.P, self.G)
        with pytest.raises(InputError, match=r"target: shape \(2, 4, 5, 6\) must be \(2, 1, 4, 5, 6\)"):
            GeneralUnionLoss()(self.P, self.G[:, 0])
