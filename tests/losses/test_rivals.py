"""Rivals and ablations by hand: literal probabilities, limits, gradients, a second program."""

import math

import pytest
import torch
from loss_checks import PROBABILITY, TARGET, WEIGHT, agree, close, gradient, random_volume
from torch.nn.functional import binary_cross_entropy_with_logits

from airwaylib.losses.general_union import dice_loss, tversky_loss
from airwaylib.losses.rivals import (
    dice_bce_loss,
    focal_loss,
    focal_tversky_loss,
    general_union_without_root_loss,
    weighted_bce_loss,
    weighted_dice_loss,
)


class TestByHand:
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

    def test_focal_tversky(self):
        # T = (1.5 + 1) / (.3 * 1.9 + .7 * 2 + 1) = 2.5 / 2.97, to the power of 3/4
        index = 2.5 / 2.97
        close(focal_tversky_loss(PROBABILITY, TARGET, epsilon=0), (1 - index) ** 0.75)
        # .75 (1 - T)^-.25 times Tversky's slopes, -(1 - .3 T) / 2.97 on foreground and .3 T / 2.97 on background
        power = 0.75 * (1 - index) ** -0.25 / 2.97
        on, off = -power * (1 - 0.3 * index), power * 0.3 * index
        close(gradient(focal_tversky_loss, PROBABILITY, TARGET, epsilon=0), [on, on, off, off])

    def test_weighted_dice(self):
        # One voxel of foreground, three of background: c_1 = 1, c_0 = 1/9.
        # Overlap .9 + (.4 + .7 + .9) / 9 = 10.1 / 9; total (1.9 + 1) + (2.1 + 3) / 9 = 31.2 / 9
        target = torch.tensor([1, 0, 0, 0])
        index = 20.2 / 31.2
        close(weighted_dice_loss(PROBABILITY, target), 1 - index)
        # A step up adds 1 to the foreground's overlap or takes 1/9 off the background's; the total grows by 1 - 1/9.
        on = -(2 - index * 8 / 9) / (31.2 / 9)
        off = (2 / 9 + index * 8 / 9) / (31.2 / 9)
        close(gradient(weighted_dice_loss, PROBABILITY, target), [on, off, off, off])

    def test_weighted_bce(self):
        p, g = torch.tensor([0.5, 0.25, 0.25, 0.5], dtype=torch.float64), torch.tensor([1, 0, 0, 0])
        foreground, background = math.log(2), (2 * math.log(4 / 3) + math.log(2))  # -log .5; -log .75 twice, -log .5
        # 4 voxels, 1 of foreground: c_1 = 4 / 2, c_0 = 4 / 6
        close(weighted_bce_loss(p, g), (2 * foreground + background * 2 / 3) / 4, rtol=1e-6)
        close(weighted_bce_loss(p, g, positive_weight=3), (3 * foreground + background) / 4, rtol=1e-6)
        # -c_1 / p / N on foreground, c_0 / (1 - p) / N on background
        slopes = [-2 / 0.5 / 4, 2 / 3 / 0.75 / 4, 2 / 3 / 0.75 / 4, 2 / 3 / 0.5 / 4]
        close(gradient(weighted_bce_loss, p, g), slopes, rtol=1e-6)

    def test_dice_bce(self):
        # Dice 1 - 4 / 4.9; cross-entropy -(log .9 + log .6 + log .7 + log .9) / 4
        cross_entropy = -math.log(0.9 * 0.6 * 0.7 * 0.9) / 4
        close(dice_bce_loss(PROBABILITY, TARGET, epsilon=0), (1 - 4 / 4.9) / 2 + cross_entropy / 2)
        close(dice_bce_loss(PROBABILITY, TARGET, share=0.2, epsilon=0), 0.8 * (1 - 4 / 4.9) + 0.2 * cross_entropy)
        # Dice -(2 - D) / 4.9 and D / 4.9; cross-entropy -1 / p / 4 and 1 / (1 - p) / 4
        dice = [-(2 - 4 / 4.9) / 4.9] * 2 + [4 / 4.9**2] * 2
        entropy = [-1 / 3.6, -1 / 2.4, 1 / 2.8, 1 / 3.6]
        slopes = [0.8 * a + 0.2 * b for a, b in zip(dice, entropy, strict=True)]
        close(gradient(dice_bce_loss, PROBABILITY, TARGET, share=0.2, epsilon=0), slopes)

    def test_focal(self):
        p, g = torch.tensor([0.5, 0.25], dtype=torch.float64), torch.tensor([1, 0])
        # .25 * .5^2 * -log .5 on foreground; .75 * .25^2 * -log .75 on background; mean of the two
        expected = (0.25 * 0.25 * math.log(2) + 0.75 * 0.0625 * math.log(4 / 3)) / 2
        close(focal_loss(p, g), expected, rtol=1e-6)
        # d/dp of (1-p)^2 log p = (1-p)^2 / p - 2 (1-p) log p: .5 + log 2 at p = .5; background with 1 - p for p
        slopes = [-0.25 * (0.5 + math.log(2)) / 2, 0.75 * (0.0625 / 0.75 + 0.5 * math.log(4 / 3)) / 2]
        close(gradient(focal_loss, p, g), slopes, rtol=1e-6)


class TestLimits:
    def test_general_union_without_root_and_weight_is_tversky(self):
        for weight in (None, torch.ones(4)):
            close(
                general_union_without_root_loss(PROBABILITY, TARGET, weight, alpha=0.3, smooth=2),
                tversky_loss(PROBABILITY, TARGET, alpha=0.3, smooth=2),
            )

    def test_focal_tversky_of_gamma_1_is_tversky(self):
        parameters = {"alpha": 0.1, "smooth": 2}
        power = {"gamma": 1, "epsilon": 0}
        close(
            focal_tversky_loss(PROBABILITY, TARGET, **parameters, **power),
            tversky_loss(PROBABILITY, TARGET, **parameters),
        )
        close(
            gradient(focal_tversky_loss, PROBABILITY, TARGET, **parameters, **power),
            gradient(tversky_loss, PROBABILITY, TARGET, **parameters),
        )

    @pytest.mark.parametrize("gamma", [0.5, 0.75, 3])
    def test_focal_tversky_of_a_perfect_prediction_is_finite(self, gamma):
        # With alpha .1 the Tversky loss of 3, 6, 7 ... float32 voxels is -1.2e-7.
        for voxels, dtype in ((3, torch.float32), (6, torch.float32), (50, torch.float32), (50, torch.float64)):
            g = torch.ones(voxels, dtype=dtype)
            close(focal_tversky_loss(g, g, alpha=0.1, gamma=gamma), 1e-7**gamma, atol=1e-3)
            assert gradient(focal_tversky_loss, g, g, alpha=0.1, gamma=gamma).isfinite().all()

    def test_weighted_dice_of_equal_classes_is_the_mean_error(self):
        # (.1 + .4 + .3 + .1) / 4
        close(weighted_dice_loss(PROBABILITY, TARGET), 0.225)

    def test_weighted_dice_of_one_class_alone_is_the_mean_error(self):
        # mean p = 1.9 / 4: the absent class is given the weight of the other
        for everywhere, expected in ((0, 1.9 / 4), (1, 2.1 / 4)):
            target = torch.full((4,), everywhere)
            close(weighted_dice_loss(PROBABILITY, target), expected)
            close(gradient(weighted_dice_loss, PROBABILITY, target), [0.25 - 0.5 * everywhere] * 4)

    def test_dice_bce_ends_at_either_loss(self):
        close(dice_bce_loss(PROBABILITY, TARGET, share=0), dice_loss(PROBABILITY, TARGET))
        close(dice_bce_loss(PROBABILITY, TARGET, share=1), weighted_bce_loss(PROBABILITY, TARGET, positive_weight=1))

    def test_focal_of_gamma_0_and_equal_classes_is_half_the_cross_entropy(self):
        close(
            focal_loss(PROBABILITY, TARGET, gamma=0, alpha_balance=0.5),
            weighted_bce_loss(PROBABILITY, TARGET, positive_weight=1) / 2,
        )


class TestSecondProgram:
    """Random volumes against MONAI (batch=True: one ratio a batch) and torch, where the definitions coincide."""

    def setup_method(self):
        self.p, self.g, _ = random_volume(2, 1, 6, 7, 8)
        self.logits = self.p.logit()

    def test_weighted_dice(self):
        from monai.losses import GeneralizedDiceLoss

        other = GeneralizedDiceLoss(smooth_nr=0, smooth_dr=0, batch=True)
        agree(
            weighted_dice_loss,
            lambda p, g: other(torch.cat([1 - p, p], 1), torch.cat([1 - g, g], 1)),
            self.p,
            self.g,
            rtol=1e-6,  # its class weights are float32
        )

    def test_dice_bce(self):
        from monai.losses import DiceCELoss

        other = DiceCELoss(sigmoid=True, smooth_nr=1, smooth_dr=1, batch=True)
        close(dice_bce_loss(self.p, self.g), other(self.logits, self.g) / 2, rtol=1e-5)

    def test_focal(self):
        from monai.losses import FocalLoss

        for gamma, balance in ((2, 0.25), (0.5, 0.75)):
            ours = focal_loss(self.p, self.g, gamma=gamma, alpha_balance=balance)
            close(ours, FocalLoss(gamma=gamma, alpha=balance)(self.logits, self.g), rtol=1e-5)

    def test_weighted_bce(self):
        ours = weighted_bce_loss(self.p, self.g, positive_weight=5)
        close(ours, binary_cross_entropy_with_logits(self.logits, self.g, pos_weight=torch.tensor(5)), rtol=1e-5)
