"""Rivals of the General Union loss that take voxels one by one, and its ablations, under the contract of `losses`.

`weight` is used by `general_union_without_root_loss` alone. In the formulas p is the probability, g the target, q the
probability given to a voxel's true class, N the number of voxels and D = 1 - `dice_loss`.
"""

import math
from numbers import Integral

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import avg_pool3d, pad

from airwaylib.errors import InputError
from airwaylib.losses.general_union import (
    check_numbers,
    dice_loss,
    general_union_loss,
    operands,
    probability_of_truth,
    tversky_loss,
)
from airwaylib.trees.skeleton import thin


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


SIDE = 7  # of the neighbourhood of the local imbalance


def cl_dice_loss(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    share: float = 0.5,
    iterations: int = 3,
    smooth: float = 1.0,
) -> Tensor:
    """Dice and soft clDice, of centrelines (Shit et al. 2021, by MONAI); `weight` is ignored.

    (1 - share) `dice_loss` + share clDice loss, the latter a mean over the samples: 1 - 2 P T / (P + T), with
    P = (sum skeleton(p) g + smooth) / (sum skeleton(p) + smooth) and T the same with p and g swapped. R has no closed
    form: the soft skeleton makes a voxel's gradient depend on the voxels around it.

    Parameters
    ----------
    share : float
        Of clDice, in [0, 1]; the authors go up to 0.5.
    iterations : int
        Erosions of the soft skeleton. It finds that of airways of a radius up to about as many voxels; thicker ones are
        left to Dice.
    smooth : float
        Of both ratios and of Dice, in voxels.

    Examples
    --------
    >>> line = torch.zeros(1, 1, 3, 3, 4); line[0, 0, 1, 1] = 1
    >>> cl_dice_loss(line / 2, line)
    tensor(0.2679)
    """
    from monai.losses import SoftclDiceLoss

    check_numbers(0, 1, share=share)
    check_numbers(0, math.inf, smooth=smooth)
    check_whole(iterations=iterations)
    p, g = volumes(probability, target)
    centreline = SoftclDiceLoss(iter_=int(iterations), smooth_nr=smooth, smooth_dr=smooth)(p, g)
    return (1 - share) * dice_loss(p, g, smooth=smooth) + share * centreline


def boundary_loss(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    share: float = 0.01,
    smooth: float = 1.0,
) -> Tensor:
    """Dice and the boundary loss (Kervadec et al. 2019, by MONAI); `weight` is ignored.

    (1 - share) `dice_loss` + share mean p d, d the signed distance to the airway's surface: 1, 2, ... outside, 0 on the
    outermost voxels inside, -1, -2, ... further in, and 0 everywhere where a sample is all of one class. mean p d is in
    voxels and may be negative. With B = share / ((1 - share) N), N voxels:

    R = ( (2 - D) / S - B d_f ) / ( D / S + B d_b )

    Parameters
    ----------
    share : float
        Of the boundary term, in [0, 1]. The authors start at 0.01 and add 0.01 an epoch; here it stays. With 1, the
        boundary term alone, nothing calls for thin airways: d is 0 on them. The authors' other term is the generalised
        Dice loss.
    smooth : float
        Of Dice, in voxels.

    Examples
    --------
    >>> line = torch.zeros(1, 1, 3, 3, 4); line[0, 0, 1, 1] = 1
    >>> boundary_loss(line / 2 + 0.25, line)
    tensor(0.5596)
    """
    from monai.losses import BoundaryLoss

    check_numbers(0, 1, share=share)
    p, g = volumes(probability, target)
    return (1 - share) * dice_loss(p, g, smooth=smooth) + share * BoundaryLoss()(p, g)


def skeleton_recall_loss(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    dice: float = 1.0,
    radius: int = 2,
    smooth: float = 1.0,
) -> Tensor:
    """Soft recall of the target's skeleton, and Dice (Kirchhoff et al. 2024); `weight` is ignored.

    1 - (sum p t + smooth) / (sum t + smooth) + dice `dice_loss`, t = 1 on the skeleton (`thinning.thin`) and the airway
    voxels within `radius` of it. With t_f = 1 or 0 at the foreground voxel:

    R = ( dice (2 - D) / S + t_f / (sum t + smooth) ) / ( dice D / S )

    Parameters
    ----------
    dice : float
        Of the Dice loss, 0 or more; the authors add a cross-entropy as well. **With 0 the loss ignores the
        background**: 1 everywhere is perfect to it.
    radius : int
        Steps from voxel to face-adjacent voxel, the authors' two dilations; 0 is the skeleton itself.
    smooth : float
        Of the recall and of Dice, in voxels.

    Examples
    --------
    >>> line = torch.zeros(1, 1, 3, 3, 4); line[0, 0, 1, 1] = 1
    >>> skeleton_recall_loss(line / 2, line)
    tensor(0.6857)
    """
    check_numbers(0, math.inf, dice=dice, smooth=smooth)
    check_whole(radius=radius)
    p, g = volumes(probability, target)
    tube = tubed_skeleton(g, radius)
    recall = ((p * tube).sum() + smooth) / (tube.sum() + smooth)
    return 1 - recall + dice * dice_loss(p, g, smooth=smooth)


def local_imbalance_loss(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    alpha: float = 0.05,
    root: float = 0.7,
    exponent: float = 2.5,
    smooth: float = 1.0,
    epsilon: float = 1e-4,
) -> Tensor:
    """General Union loss of the `local_imbalance_weight` (Zheng et al. 2021, MICCAI); `weight` is ignored.

    R = w ( root (p_f + epsilon)^(root - 1) / (alpha I) - 1 ), I = 1 - loss. With exponent 0 it is
    `losses.root_tversky_loss`. Form and defaults are the authors' released program's (the paper was not at hand);
    its training draws the exponent of each crop from 2 to 3, which is left out here.

    Examples
    --------
    >>> line = torch.zeros(1, 1, 3, 3, 4); line[0, 0, 1, 1] = 1
    >>> local_imbalance_loss(line / 2, line)
    tensor(0.2865)
    """
    p, g = volumes(probability, target)
    w = local_imbalance_weight(g, alpha, exponent)
    return general_union_loss(p, g, w, alpha=alpha, root=root, smooth=smooth, epsilon=epsilon)


def local_imbalance_weight(target: Tensor, alpha: float = 0.05, exponent: float = 2.5) -> Tensor:
    """Weight by local class imbalance: 1 on background; on foreground the larger, the less airway there is around it.

    w = alpha + (1 - alpha) (-log10 f)^exponent on foreground, f the share of foreground in the voxel's 7 x 7 x 7
    neighbourhood: alpha within large airways, 1 where a tenth is airway, 9.8 for a lone voxel.

    Parameters
    ----------
    target : Tensor
        (B, 1, D, H, W), 1 on the airway and 0 elsewhere. Neighbours beyond the crop's border do not count (the authors
        mirror the case there).
    alpha : float
        Smallest weight, in [0, 1]: 0.05 in the authors' program, as is the loss's alpha. That the two are one is our
        reading: with root 1, R then ends at 1 - alpha within large airways.
    exponent : float
        0 or more.

    Returns
    -------
    Tensor
        Same shape, float32 (float64 if `target` is).

    Raises
    ------
    InputError
        `target` is no such volume, alpha or the exponent is out of range.

    Examples
    --------
    >>> line = torch.zeros(1, 1, 7, 7, 7); line[0, 0, 3, 3] = 1
    >>> local_imbalance_weight(line)[0, 0, 3, 3:5]  # 7 of 343, and background
    tensor([[3.5783, 3.5783, 3.5783, 3.5783, 3.5783, 3.5783, 3.5783],
            [1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000]])
    """
    check_numbers(0, 1, alpha=alpha)
    check_numbers(0, math.inf, exponent=exponent)
    g, _ = volumes(target, target)
    share = neighbourhood_mean(g) / neighbourhood_mean(torch.ones_like(g[:1]))
    return torch.where(g.bool(), alpha + (1 - alpha) * (-share.log10()) ** exponent, 1)


def neighbourhood_mean(volume: Tensor) -> Tensor:
    """Mean of each voxel's 7 x 7 x 7 neighbourhood, 0 beyond the border, of a volume (B, 1, D, H, W)."""
    volume = pad(volume, [SIDE // 2] * 6)
    for axis in range(3):  # along each axis in turn: 21 additions a voxel in place of 343
        volume = avg_pool3d(volume, [SIDE if axis == other else 1 for other in range(3)], stride=1)
    return volume


def tubed_skeleton(g: Tensor, radius: int) -> Tensor:
    """Each sample's skeleton and the foreground within `radius` steps of it, 1 in a tensor like g (B, 1, D, H, W)."""
    tubes = torch.zeros(g.shape)
    for tube, mask in zip(tubes[:, 0], g[:, 0].bool().cpu().numpy(), strict=True):
        steps = ndimage.distance_transform_cdt(~thin(mask), "taxicab")
        tube[:] = torch.from_numpy(mask & (steps <= radius))
    return tubes.to(g)


def volumes(probability: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """`losses.operands`; InputError unless they are volumes (B, 1, D, H, W)."""
    p, g = operands(probability, target)
    if p.ndim != 5 or p.shape[1] != 1:
        raise InputError(f"volume: shape {tuple(p.shape)} must be (B, 1, D, H, W): this loss looks around each voxel")
    return p, g


def check_whole(**numbers: int) -> None:
    """Raise InputError unless every one of `numbers` is a whole number, 0 or more."""
    for name, number in numbers.items():
        if not (isinstance(number, Integral) and number >= 0):
            raise InputError(f"{name}: {number!r} must be a whole number, 0 or more")
