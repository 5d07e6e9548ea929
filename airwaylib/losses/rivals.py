"""Losses that the study compares General Union with: cross-entropy, and Dice together with it.

Any other loss is named `module:function`, see `losses.table`.
"""

import math

import torch
from torch import Tensor

from airwaylib.losses.general_union import check_numbers, dice_loss, operands
from airwaylib.losses.registry import loss


@loss(
    "dice_bce",
    formula="(1 - share) dice + share mean (-log q)",
    source="Isensee et al. 2021, Nature Methods 18:203-211",
)
def dice_bce_loss(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    share: float = 0.5,
    smooth: float = 1.0,
    epsilon: float = 1e-7,
) -> Tensor:
    """Compute Dice and plain binary cross-entropy together, as in nnU-Net; `weight` is ignored.

    nnU-Net adds the two, which is twice the default. R depends on sums over the batch: with D = 1 - `dice_loss`,
    S = sum p + sum g + smooth, N voxels and B = share / ((1 - share) N) it is

    R = ( (2 - D) / S + B / p_f ) / ( D / S + B / (1 - p_b) )

    Parameters
    ----------
    share : float
        Of the cross-entropy, in [0, 1].
    smooth, epsilon : float
        Of `dice_loss` and of `weighted_bce_loss`.

    Examples
    --------
    >>> dice_bce_loss(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]))
    tensor(0.3310)
    """
    check_numbers(0, 1, share=share)
    cross_entropy = weighted_bce_loss(probability, target, positive_weight=1, epsilon=epsilon)
    return (1 - share) * dice_loss(probability, target, smooth=smooth) + share * cross_entropy


@loss(
    "weighted_bce",
    formula="mean c_g (-log q), c_1 = positive_weight, c_0 = 1; None: c = N / (2 N_class)",
    ratio=lambda v: v.positive_weight * (1 - v.p_b + v.epsilon) / (v.p_f + v.epsilon),
    source="textbook; the inverse frequencies are our choice",
)
def weighted_bce_loss(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    positive_weight: float | None = None,
    epsilon: float = 1e-7,
) -> Tensor:
    """Compute class-weighted binary cross-entropy, mean over voxels; `weight` (the General Union map) is ignored.

    Parameters
    ----------
    positive_weight : float, optional
        c_1, with c_0 = 1; 1 is plain cross-entropy. By default each class weighs by its inverse frequency in this
        batch, so foreground and background count half each (our choice: the paper's is unknown).
    epsilon : float
        q becomes (q + epsilon) / (1 + 2 epsilon), so that value and slope are finite, and not 0, at p = 0 and p = 1.

    Examples
    --------
    >>> weighted_bce_loss(torch.tensor([0.5, 0.5, 1.0]), torch.tensor([1, 0, 1]))
    tensor(0.5199)
    """
    check_numbers(0, math.inf, epsilon=epsilon)
    p, g = operands(probability, target)
    if positive_weight is None:
        positives = g.sum()
        foreground_weight = p.numel() / (2 * positives.clamp(min=1))
        background_weight = p.numel() / (2 * (p.numel() - positives).clamp(min=1))
    else:
        check_numbers(0, math.inf, positive_weight=positive_weight)
        foreground_weight, background_weight = positive_weight, 1
    class_weight = background_weight + (foreground_weight - background_weight) * g
    return -(class_weight * probability_of_truth(p, g, epsilon).log()).mean()


def probability_of_truth(p: Tensor, g: Tensor, epsilon: float) -> Tensor:
    """Return the probability of each voxel's true class, squeezed into the open interval (0, 1)."""
    return (torch.where(g.bool(), p, 1 - p) + epsilon) / (1 + 2 * epsilon)
