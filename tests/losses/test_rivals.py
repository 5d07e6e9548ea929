"""Rivals by hand: literal probabilities, limits, gradients, a second program."""

import math

import torch
from loss_checks import PROBABILITY, TARGET, close, gradient, random_volume
from torch.nn.functional import binary_cross_entropy_with_logits

from airwaylib.losses.general_union import dice_loss
from airwaylib.losses.rivals import dice_bce_loss, weighted_bce_loss


class TestByHand:
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


class TestLimits:
    def test_dice_bce_ends_at_either_loss(self):
        close(dice_bce_loss(PROBABILITY, TARGET, share=0), dice_loss(PROBABILITY, TARGET))
        close(dice_bce_loss(PROBABILITY, TARGET, share=1), weighted_bce_loss(PROBABILITY, TARGET, positive_weight=1))


class TestSecondProgram:
    """Random volumes against MONAI (batch=True: one ratio a batch) and torch, where the definitions coincide."""

    def setup_method(self):
        self.p, self.g, _ = random_volume(2, 1, 6, 7, 8)
        self.logits = self.p.logit()

    def test_dice_bce(self):
        from monai.losses import DiceCELoss

        other = DiceCELoss(sigmoid=True, smooth_nr=1, smooth_dr=1, batch=True)
        close(dice_bce_loss(self.p, self.g), other(self.logits, self.g) / 2, rtol=1e-5)

    def test_weighted_bce(self):
        ours = weighted_bce_loss(self.p, self.g, positive_weight=5)
        close(ours, binary_cross_entropy_with_logits(self.logits, self.g, pos_weight=torch.tensor(5)), rtol=1e-5)


def test_ratio_of_dice_bce_is_the_docstrings():
    # Foreground voxel .9, background voxel .3: D = 4 / 4.9, S = 4.9, N = 4, B = .25 / 4 with share .2
    slope = gradient(dice_bce_loss, PROBABILITY, TARGET, share=0.2, epsilon=0)
    dice, b = 4 / 4.9, 0.25 / 4
    close(-slope[0] / slope[2], ((2 - dice) / 4.9 + b / 0.9) / (dice / 4.9 + b / 0.7))
