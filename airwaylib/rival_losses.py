"""Rivals of the General Union loss that take voxels one by one, and its ablations, under the contract of `losses`.

`weight` is used by `general_union_without_root_loss` alone. In the formulas p is the probability, g the target, q the
probability given to a voxel's true class, N the number of voxels and D = 1 - `dice_loss`.
"""

import math

import torch
from torch import Tensor

from airwaylib.losses import (
    check_numbers,
    dice_loss,
    general_union_loss,
    operands,
    probability_of_truth,
    tversky_loss,
)


def general_union_without_root_loss(
    probability: Tensor, target: Tensor, weight: Tensor | None = None, *, alpha: float = 0.1, smooth: float = 1.0
) -> Tensor:
    """General Union loss (Zheng et al. 2021) of root 1 and epsilon 0, an ablation: Tversky with a weight on each voxel.

    1 - ( sum w p g + smooth ) / ( sum w (alpha p + (1 - alpha) g) + smooth )

    R = w ( 1 / (alpha I) - 1 ), I = 1 - loss. `weight` is used: without it this is `losses.tversky_loss`. The other
    ablation, the root without the weight, is `losses.root_tversky_loss`.

    Examples
    --------
    >>> p, g, w = torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]), torch.tensor([1.0, 0.25, 1.0])
    >>> general_union_without_root_loss(p, g, w)
    tensor(0.0710)
    """
    return general_union_loss(probability, target, weight, alpha=alpha, root=1, smooth=smooth, epsilon=0)


def focal_tversky_loss(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    alpha: float = 0.3,
    gamma: float = 0.75,
    smooth: float = 1.0,
    epsilon: float = 1e-7,
) -> Tensor:
    """Focal Tversky loss (Abraham and Khan 2019): a power of the Tversky loss; `weight` is ignored.

    (1 - T + epsilon)^gamma, T = 1 - `losses.tversky_loss`;  R = 1 / (alpha T) - 1 as Tversky's, whatever gamma is: the
    power scales the gradient of all voxels alike.

    Parameters
    ----------
    alpha : float
        Share of the false positives, 1 - alpha that of the false negatives. The authors' 0.7 on the latter is 0.3 here.
    gamma : float
        The authors' exponent is 1 / gamma with gamma = 4/3, so 0.75 here; 1 is Tversky.
    epsilon : float
        Keeps the slope finite at T = 1 where gamma < 1; a perfect prediction's loss is epsilon^gamma.

    Examples
    --------
    >>> focal_tversky_loss(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]))
    tensor(0.2608)
    """
    check_numbers(0, math.inf, gamma=gamma, epsilon=epsilon)
    # Rounding can carry the Tversky loss below 0, where a power is nan.
    return (tversky_loss(probability, target, alpha=alpha, smooth=smooth).clamp(min=0) + epsilon) ** gamma


def weighted_dice_loss(probability: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Class-weighted Dice, the generalised Dice loss of Sudre et al. 2017; `weight` is ignored.

    1 - 2 sum_k c_k sum p_k g_k / sum_k c_k sum (p_k + g_k), k both classes: p_1 = p, p_0 = 1 - p, g_k alike, and
    c_k = 1 / (sum g_k)^2. An absent class weighs as the other one, not infinitely, as MONAI has it: a batch without
    airway has the loss mean p.

    R = ( (2 - I) c_1 + I c_0 ) / ( (2 - I) c_0 + I c_1 ), I = 1 - loss: where foreground is rare, 2 / I - 1 as Dice's.

    Examples
    --------
    >>> weighted_dice_loss(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]))
    tensor(0.4167)
    """
    p, g = operands(probability, target)
    overlap = total = 0
    for p_class, g_class in ((p, g), (1 - p, 1 - g)):
        volume = g_class.sum()
        class_weight = torch.where(volume > 0, volume, p.numel()) ** -2
        overlap = overlap + class_weight * (p_class * g_class).sum()
        total = total + class_weight * (p_class.sum() + volume)
    return 1 - 2 * overlap / total


def weighted_bce_loss(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    positive_weight: float | None = None,
    epsilon: float = 1e-7,
) -> Tensor:
    """Class-weighted binary cross-entropy, mean over voxels; `weight` (the General Union map) is ignored.

    mean c_g (-log q);  R = c_1 / c_0 (1 - p_b) / p_f.  q is the probability given to the voxel's true class.

    Parameters
    ----------
    positive_weight : float, optional
        c_1, with c_0 = 1; 1 is plain cross-entropy. By default each class weighs by its inverse frequency in this
        batch, c = N / (2 N_class), so foreground and background count half each (our choice: the paper's is unknown).
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


def dice_bce_loss(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    share: float = 0.5,
    smooth: float = 1.0,
    epsilon: float = 1e-7,
) -> Tensor:
    """Dice and plain binary cross-entropy together, as in nnU-Net (Isensee et al. 2021); `weight` is ignored.

    (1 - share) `dice_loss` + share `weighted_bce_loss` with class weights 1. nnU-Net adds the two, which is twice the
    default. With S = sum p + sum g + smooth and B = share / ((1 - share) N):

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


def focal_loss(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    gamma: float = 2.0,
    alpha_balance: float = 0.25,
    epsilon: float = 1e-7,
) -> Tensor:
    """Focal loss (Lin et al. 2017), mean over voxels; `weight` is ignored.

    mean a (1 - q)^gamma (-log q), a = alpha_balance on foreground and 1 - alpha_balance on background, q and epsilon
    as in `weighted_bce_loss`.  gamma 0 and alpha_balance 0.5 is half the plain cross-entropy; the defaults are Lin's.

    R = a_1 / a_0 h(p_f) / h(1 - p_b), h(q) = (1 - q)^gamma / q - gamma (1 - q)^(gamma - 1) log q.

    Examples
    --------
    >>> focal_loss(torch.tensor([0.5, 0.5, 1.0]), torch.tensor([1, 0, 1]))
    tensor(0.0578)
    """
    check_numbers(0, 1, alpha_balance=alpha_balance)
    check_numbers(0, math.inf, gamma=gamma, epsilon=epsilon)
    p, g = operands(probability, target)
    balance = (1 - alpha_balance) + (2 * alpha_balance - 1) * g
    q = probability_of_truth(p, g, epsilon)
    return -(balance * (1 - q) ** gamma * q.log()).mean()
