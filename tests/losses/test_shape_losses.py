"""Losses that look around a voxel: lines, tubes and slabs with answers by hand, MONAI called by hand, refusals."""

import math

import numpy as np
import pytest
import torch
from loss_checks import agree, close, gradient, line, random_volume
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.losses.general_union import dice_loss, root_tversky_loss
from airwaylib.losses.rivals import (
    boundary_loss,
    cl_dice_loss,
    local_imbalance_loss,
    local_imbalance_weight,
    skeleton_recall_loss,
    tubed_skeleton,
)


def tube(side, length, margin=1):
    """A straight tube of `side` x `side` x `length` voxels in a volume with a margin around it, float64."""
    mask = torch.zeros(1, 1, side + 2 * margin, side + 2 * margin, length + 2 * margin, dtype=torch.float64)
    mask[..., margin:-margin, margin:-margin, margin:-margin] = 1
    return mask


class TestClDice:
    def test_of_a_line_by_hand(self):
        # A line of 4 voxels is its own skeleton, and so is the line of probability a half.
        # P = (2 + 1) / (2 + 1) = 1, T = (2 + 1) / (4 + 1) = .6, MONAI's 1e-4 below; Dice 5 / 7
        g = line()
        close(cl_dice_loss(g / 2, g), (1 - 5 / 7) / 2 + (1 - 1.2 / 1.6001) / 2)
        close(cl_dice_loss(g / 2, g, share=0.2), 0.8 * (1 - 5 / 7) + 0.2 * (1 - 1.2 / 1.6001))
        # On the line dT/dp = 1 / 5 and dP/dp = 0: d/dT of 2 P T / (P + T + e) = 2 P (P + e) / (P + T + e)^2
        slope = gradient(cl_dice_loss, g / 2, g, share=1)[g.bool()]
        close(slope, [-2 * 1.0001 / 1.6001**2 / 5] * 4)

    def test_a_gap_costs_more_than_a_voxel_off_the_wall(self):
        g = tube(3, 12)
        gap, dent = g.clone(), g.clone()
        gap[0, 0, 1:4, 1:4, 6] = 0  # 9 voxels across
        dent[0, 0, 1, 1, 2:11] = 0  # 9 voxels along
        close(dice_loss(gap, g), dice_loss(dent, g))
        assert cl_dice_loss(gap, g) > cl_dice_loss(dent, g) + 0.01

    @pytest.mark.parametrize(("share", "iterations", "smooth"), [(0.5, 3, 1), (0.3, 1, 2), (1, 0, 1)])
    def test_is_monai(self, share, iterations, smooth):
        from monai.losses import DiceLoss, SoftclDiceLoss

        dice = DiceLoss(smooth_nr=smooth, smooth_dr=smooth, batch=True)
        centreline = SoftclDiceLoss(iter_=iterations, smooth_nr=smooth, smooth_dr=smooth)
        agree(
            cl_dice_loss,
            lambda p, g: (1 - share) * dice(p, g) + share * centreline(p, g),
            *random_volume(2, 1, 6, 7, 8)[:2],
            share=share,
            iterations=iterations,
            smooth=smooth,
        )

    @pytest.mark.parametrize("iterations", [2.5, 3.0, -1, None])
    def test_refuses_a_part_of_an_iteration(self, iterations):
        with pytest.raises(InputError, match=f"^iterations: {iterations} must be a whole number, 0 or more$"):
            cl_dice_loss(line(), line(), iterations=iterations)


class TestBoundary:
    def test_of_a_row_by_hand(self):
        # Signed distances of five airway voxels in a row of seven: 1, 0, -1, -2, -1, 0, 1
        g = torch.tensor([0, 1, 1, 1, 1, 1, 0], dtype=torch.float64).reshape(1, 1, 1, 1, 7)
        p = torch.tensor([0.2, 0.9, 0.8, 0.7, 0.6, 0.5, 0.1], dtype=torch.float64).reshape(g.shape)
        # mean p d = (.2 - .8 - 1.4 - .6 + .1) / 7;  Dice (2 * 3.5 + 1) / (3.8 + 5 + 1)
        term, dice = -2.5 / 7, 1 - 8 / 9.8
        close(boundary_loss(p, g), 0.99 * dice + 0.01 * term)
        close(boundary_loss(p, g, share=0.4), 0.6 * dice + 0.4 * term)
        distance = torch.tensor([1, 0, -1, -2, -1, 0, 1], dtype=torch.float64)
        close(gradient(boundary_loss, p, g, share=1).flatten(), distance / 7)

    def test_alone_it_does_not_call_for_a_thin_airway(self):
        g = line()
        assert (gradient(boundary_loss, g / 2, g, share=1)[g.bool()] == 0).all()
        assert (gradient(boundary_loss, g / 2, g)[g.bool()] < 0).all()

    @pytest.mark.parametrize("share", [0.01, 0.5])
    def test_is_monai(self, share):
        from monai.losses import BoundaryLoss, DiceLoss

        dice = DiceLoss(smooth_nr=1, smooth_dr=1, batch=True)
        agree(
            boundary_loss,
            lambda p, g: (1 - share) * dice(p, g) + share * BoundaryLoss()(p, g),
            *random_volume(2, 1, 6, 7, 8)[:2],
            share=share,
        )


class TestSkeletonRecall:
    def test_of_a_tube_by_hand(self):
        # The skeleton of a tube of 3 x 3 x 10 is 8 voxels of its axis.
        g = tube(3, 10)
        axis = torch.zeros_like(g)
        axis[0, 0, 2, 2, 2:10] = 1
        assert torch.equal(tubed_skeleton(g, 0), axis)
        p = 1 - 0.75 * axis
        # recall (8 * .25 + 1) / (8 + 1);  Dice: p sums to 5 * 5 * 12 - 6 = 294, 84 of it on the airway's 90 voxels
        recall, dice = 3 / 9, 169 / 385
        close(skeleton_recall_loss(p, g, dice=0, radius=0), 1 - recall)
        close(skeleton_recall_loss(p, g, radius=0), 1 - recall + 1 - dice)
        close(skeleton_recall_loss(p, g, dice=0.5, radius=0), 1 - recall + (1 - dice) / 2)
        close(gradient(skeleton_recall_loss, p, g, dice=0, radius=0), -axis / 9)

    @pytest.mark.parametrize(("radius", "voxels"), [(0, 8), (1, 5 * 8 + 2), (2, 9 * 8 + 2 * 5), (9, 90)])
    def test_the_tube_around_the_skeleton_keeps_to_the_airway(self, radius, voxels):
        # Around 8 voxels of axis a plus sign of 5 and a voxel at either end; then all 9, and a plus sign at either end
        g = tube(3, 10)
        found = tubed_skeleton(g, radius)
        assert found.sum() == voxels
        assert (found <= g).all()
        t = found / (voxels + 1)
        close(gradient(skeleton_recall_loss, g / 2, g, dice=0, radius=radius), -t)

    def test_without_dice_it_ignores_the_background(self):
        g = tube(3, 10)
        everything = torch.ones_like(g)
        assert skeleton_recall_loss(everything, g, dice=0) == 0
        assert (gradient(skeleton_recall_loss, everything, g, dice=0)[g == 0] == 0).all()
        assert skeleton_recall_loss(everything, g) > 0.5

    def test_a_tube_of_even_width_has_a_skeleton(self):
        g = tube(2, 10)
        assert tubed_skeleton(g, 0).sum() >= 8
        assert skeleton_recall_loss(torch.zeros_like(g), g, dice=0) > 0.5

    def test_each_sample_has_its_own_skeleton(self):
        samples = [tube(3, 10), line(6, (5, 5, 12)), torch.zeros(1, 1, 5, 5, 12, dtype=torch.float64)]
        together = tubed_skeleton(torch.cat(samples), 1)
        assert torch.equal(together, torch.cat([tubed_skeleton(sample, 1) for sample in samples]))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_on_many_tubes(self, dtype):
        # 256 tubes of 3 x 3 x 128, each its own skeleton's tube but for the ends: sums far beyond float16's 65 504
        g = torch.zeros(1, 1, 128, 128, 128, dtype=torch.bool)
        for row in range(3):
            for column in range(3):
                g[..., 2 + row :: 8, 2 + column :: 8, :] = True
        p = torch.where(g, 0.75, 0).to(dtype)
        # recall .75 + .25 / (voxels + 1); Dice (1.5 n + 1) / (1.75 n + 1) of n = 294 912 voxels
        value = skeleton_recall_loss(p, g)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(0.25 + 1 / 7, abs=1e-5)

    @pytest.mark.parametrize("radius", [0.5, -1])
    def test_refuses_a_part_of_a_step(self, radius):
        with pytest.raises(InputError, match=f"^radius: {radius} must be a whole number, 0 or more$"):
            skeleton_recall_loss(line(), line(), radius=radius)


class TestLocalImbalance:
    def test_weight_by_hand(self):
        # A line through 7^3 voxels: of whatever part of them is the neighbourhood, one voxel in 49 is on it.
        g = line(7, (7, 7, 7))
        weight = local_imbalance_weight(g)
        assert (weight[g == 0] == 1).all()
        close(weight[g == 1], [0.05 + 0.95 * math.log10(49) ** 2.5] * 7)
        close(local_imbalance_weight(g, 0.2, 1)[g == 1], [0.2 + 0.8 * math.log10(49)] * 7)
        g[0, 0, 3, 3, 1:] = 0  # one voxel, at the border: 4 * 7 * 7 of its neighbours are inside
        close(local_imbalance_weight(g)[g == 1], [0.05 + 0.95 * math.log10(196) ** 2.5])

    def test_weight_of_a_slab_by_hand(self):
        # Airway below a plane: of 7 layers around its first three 4, 5 and 6 are airway, around deeper ones all.
        g = torch.zeros(1, 1, 3, 3, 20, dtype=torch.float64)
        g[..., 10:] = 1
        expected = [0.05 + 0.95 * (-math.log10(layers / 7)) ** 2.5 for layers in (4, 5, 6)] + [0.05] * 7
        close(local_imbalance_weight(g)[0, 0, 1, 1], [1.0] * 10 + expected)

    def test_weight_is_scipys_box(self):
        _, g, _ = random_volume(2, 1, 9, 5, 12)
        for sample, weight in zip(g[:, 0].numpy(), local_imbalance_weight(g)[:, 0].numpy(), strict=True):
            inside = ndimage.uniform_filter(np.ones_like(sample), 7, mode="constant")
            share = ndimage.uniform_filter(sample, 7, mode="constant") / inside
            expected = np.where(sample > 0, 0.05 + 0.95 * np.abs(np.log10(np.maximum(share, 1e-9))) ** 2.5, 1)
            np.testing.assert_allclose(weight, expected, rtol=1e-9)

    def test_thin_airways_weigh_more(self):
        axes = [local_imbalance_weight(tube(side, 20, 5))[..., 5 + side // 2, 5 + side // 2, 15] for side in (1, 3, 9)]
        assert axes[0] > axes[1] > axes[2] == 0.05

    def test_of_exponent_0_is_root_tversky(self):
        p, g, w = random_volume(2, 1, 4, 5, 6)
        parameters = {"alpha": 0.2, "root": 0.5, "smooth": 2, "epsilon": 1e-3}
        close(local_imbalance_loss(p, g, w, exponent=0, **parameters), root_tversky_loss(p, g, **parameters))

    def test_of_a_line_by_hand(self):
        # Weight c on its 7 voxels, of which p = .25 has the root .5: overlap 7 c .5, union 7 c (.1 * .25 + .9)
        g = line(7, (7, 7, 7))
        c = 0.1 + 0.9 * math.log10(49) ** 2.5
        value = local_imbalance_loss(g / 4, g, alpha=0.1, root=0.5, epsilon=0)
        close(value, 1 - (7 * c * 0.5 + 1) / (7 * c * 0.925 + 1))

    def test_refuses_a_weight_out_of_range(self):
        for wrong in ({"alpha": 2}, {"exponent": -1}):
            with pytest.raises(InputError, match="must be a number from 0 to"):
                local_imbalance_weight(line(), **wrong)


@pytest.mark.parametrize("loss", [cl_dice_loss, boundary_loss, skeleton_recall_loss, local_imbalance_loss])
@pytest.mark.parametrize("shape", [(4, 4, 4), (1, 4, 4, 4), (1, 2, 4, 4, 4)])
def test_refuses_what_is_no_volume(loss, shape):
    with pytest.raises(InputError, match=r"^volume: shape \(.*\) must be \(B, 1, D, H, W\): this loss looks around"):
        loss(torch.rand(shape), torch.ones(shape))
