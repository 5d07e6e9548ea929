"""General Union loss (Zheng et al. 2021), its weight map, its form for other training loops, and what it reduces to.

With w = 1 everywhere it is Root Tversky; with root 1 as well, Tversky; with alpha 1/2 as well, Dice. `losses` has the
contract that all losses keep, and the symbols of the formulas.
"""

import math
from numbers import Real

import torch
from torch import Tensor, nn

from airwaylib.errors import InputError
from airwaylib.losses.registry import loss

# Rounding and linear interpolation can carry d / dmax this far out of [0, 1]; millimetres or voxels go much farther.
RELATIVE_DISTANCE_TOLERANCE = 1e-3
ZHENG = "Zheng et al. 2021, IEEE TMI 40(9):2452-2462"


def general_union_weight(relative_distance: Tensor, target: Tensor, alpha: float = 0.1) -> Tensor:
    """Compute each voxel's weight: 1 on background and centreline, alpha / (1 - alpha) farthest from the centreline.

    w = 1 on background; on foreground w = 1 - m (d / dmax)^0.5 with m = (1 - 2 alpha) / (1 - alpha).

    Raises `InputError`: shapes differ, alpha is out of range, or a foreground distance is not in [0, 1].

    Parameters
    ----------
    relative_distance : Tensor
        (B, 1, D, H, W) or any shape: d / dmax in [0, 1], see `losses.distance.relative_distance`. Background values do
        not matter.
    target : Tensor
        Same shape, 1 on the airway and 0 elsewhere.
    alpha : float
        The loss's alpha, in [0, 0.5]. The weight changes with it, so store d / dmax rather than w.

    Returns
    -------
    Tensor
        Same shape, float32 (float64 if `relative_distance` is).

    Examples
    --------
    >>> general_union_weight(torch.tensor([0.0, 0.25, 1.0, 0.5]), torch.tensor([1, 1, 1, 0]), alpha=0.2)
    tensor([1.0000, 0.6250, 0.2500, 1.0000])
    """
    check_numbers(0, 0.5, alpha=alpha)
    distance, foreground = operands(relative_distance, target)
    distance = torch.where(foreground.bool(), distance, 0)
    low, high = (extreme.item() for extreme in torch.aminmax(distance)) if distance.numel() else (0, 0)
    if not -RELATIVE_DISTANCE_TOLERANCE <= low <= high <= 1 + RELATIVE_DISTANCE_TOLERANCE:
        raise InputError(f"relative_distance: foreground has {low:g} to {high:g}, must be d / dmax of the case, 0 to 1")
    return 1 - (1 - 2 * alpha) / (1 - alpha) * distance.clamp(0, 1).sqrt()


@loss(
    "general_union",
    formula="1 - (sum w (p + epsilon)^root g + smooth) / (sum w (alpha p + (1 - alpha) g) + smooth)",
    ratio=lambda v: v.weight * (v.root * (v.p_f + v.epsilon) ** (v.root - 1) / (v.alpha * v.index) - 1),
    source=ZHENG,
    weighted=True,
)
def general_union_loss(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    alpha: float = 0.1,
    root: float = 0.7,
    smooth: float = 1.0,
    epsilon: float = 1e-4,
) -> Tensor:
    """Compute the General Union loss: Tversky with a root on the overlap and a weight on every voxel.

    Parameters
    ----------
    probability, target, weight : Tensor
        See `losses`. Without a weight this is Root Tversky.
    alpha, root : float
        In [0, 1]. alpha is the prediction's share against the target's 1 - alpha: 0.1 in stage 1, 0.2 in stage 2.
        A smaller root is steeper where p is small; root 1 with epsilon 0 is Tversky.
    smooth : float
        Added above and below, in voxels. With 0, an empty target with p = 0 everywhere is 0 / 0.
    epsilon : float
        Keeps the slope finite at p = 0, where 0 gives nan; a perfect prediction's loss is as low as -root * epsilon.

    Examples
    --------
    >>> general_union_loss(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]), torch.tensor([1.0, 0.25, 1.0]))
    tensor(0.0584)
    """
    check_numbers(0, 1, alpha=alpha, root=root)
    check_numbers(0, math.inf, smooth=smooth, epsilon=epsilon)
    p, g = operands(probability, target)
    w = 1 if weight is None else weight_map(weight, p)
    overlap = (w * g * (p + epsilon) ** root).sum()
    union = alpha * (w * p).sum() + (1 - alpha) * (w * g).sum()
    return 1 - (overlap + smooth) / (union + smooth)


class GeneralUnionLoss(nn.Module):
    """General Union loss for MONAI's and nnU-Net's training loops: `loss(input, target)`, or with a weight map.

    Raises `InputError`: both sigmoid and softmax; softmax of other than two channels; a parameter out of range; shapes
    that differ.

    Parameters
    ----------
    sigmoid : bool
        `input` holds logits of one channel. By default it holds probabilities, as MONAI's losses take them.
    softmax : bool
        `input` holds logits of two channels, background and airway.
    alpha, root, smooth, epsilon : float
        As of `general_union_loss`.

    Examples
    --------
    >>> loss = GeneralUnionLoss(sigmoid=True)
    >>> logits, label = torch.zeros(2, 1, 8, 8, 8), torch.ones(2, 1, 8, 8, 8)
    >>> loss(logits, label, general_union_weight(torch.zeros_like(logits), label)).round(decimals=3)
    tensor(0.3520)
    """

    def __init__(
        self,
        sigmoid: bool = False,
        softmax: bool = False,
        alpha: float = 0.1,
        root: float = 0.7,
        smooth: float = 1.0,
        epsilon: float = 1e-4,
    ):
        super().__init__()
        if sigmoid and softmax:
            raise InputError("sigmoid and softmax: choose one, by the channels that the network gives")
        check_numbers(0, 1, alpha=alpha, root=root)
        check_numbers(0, math.inf, smooth=smooth, epsilon=epsilon)
        self.sigmoid, self.softmax = sigmoid, softmax
        self.parameters_of_loss = {"alpha": alpha, "root": root, "smooth": smooth, "epsilon": epsilon}

    def forward(self, input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute the loss, one ratio over the whole batch.

        input: (B, 1, D, H, W), or (B, 2, D, H, W) under softmax; target (B, 1, D, H, W), 1 on the airway and 0
        elsewhere; weight: `general_union_weight`'s map, broadcast to the target. None: 1 everywhere, Root Tversky.
        """
        if self.softmax:
            if input.ndim < 2 or input.shape[1] != 2:
                raise InputError(f"input: shape {tuple(input.shape)} must have two channels, background and airway")
            input = input.float().softmax(1)[:, 1:]
        elif self.sigmoid:
            input = input.float().sigmoid()  # in half precision its slope would be 0 from a logit of about 8 on
        return general_union_loss(input, target, weight, **self.parameters_of_loss)


@loss(
    "general_union_without_root",
    formula="1 - (sum w p g + smooth) / (sum w (alpha p + (1 - alpha) g) + smooth)",
    ratio=lambda v: v.weight * (1 / (v.alpha * v.index) - 1),
    source=f"ablation (ours) of {ZHENG}",
    weighted=True,
)
def general_union_without_root_loss(
    probability: Tensor, target: Tensor, weight: Tensor | None = None, *, alpha: float = 0.1, smooth: float = 1.0
) -> Tensor:
    """Compute the General Union loss of root 1 and epsilon 0, an ablation: Tversky with a weight on each voxel.

    Examples
    --------
    >>> p, g, w = torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]), torch.tensor([1.0, 0.25, 1.0])
    >>> general_union_without_root_loss(p, g, w)
    tensor(0.0710)
    """
    return general_union_loss(probability, target, weight, alpha=alpha, root=1, smooth=smooth, epsilon=0)


@loss(
    "root_tversky",
    formula="1 - (sum (p + epsilon)^root g + smooth) / (sum (alpha p + (1 - alpha) g) + smooth)",
    ratio=lambda v: v.root * (v.p_f + v.epsilon) ** (v.root - 1) / (v.alpha * v.index) - 1,
    source=ZHENG,
)
def root_tversky_loss(
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    alpha: float = 0.1,
    root: float = 0.7,
    smooth: float = 1.0,
    epsilon: float = 1e-4,
) -> Tensor:
    """Compute the Root Tversky loss: `general_union_loss` with w = 1 everywhere; `weight` is ignored.

    R ends at root / alpha - 1 on every airway voxel, 6 by default, and so dilates the walls of large airways.

    Examples
    --------
    >>> root_tversky_loss(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]))
    tensor(0.1281)
    """
    return general_union_loss(probability, target, alpha=alpha, root=root, smooth=smooth, epsilon=epsilon)


@loss(
    "tversky",
    formula="1 - (sum p g + smooth) / (sum (alpha p + (1 - alpha) g) + smooth)",
    ratio=lambda v: 1 / (v.alpha * v.index) - 1,
    source="Salehi et al. 2017, MLMI, LNCS 10541:379-387",
)
def tversky_loss(
    probability: Tensor, target: Tensor, weight: Tensor | None = None, *, alpha: float = 0.05, smooth: float = 1.0
) -> Tensor:
    """Compute the Tversky loss: alpha weighs false positives, 1 - alpha false negatives; `weight` is ignored.

    alpha = 0.05 is the baseline of Zheng et al.; 0.5 is `dice_loss` with twice the smooth.

    Examples
    --------
    >>> tversky_loss(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]))
    tensor(0.1667)
    """
    return general_union_loss(probability, target, alpha=alpha, root=1, smooth=smooth, epsilon=0)


@loss(
    "dice",
    formula="1 - (2 sum p g + smooth) / (sum p + sum g + smooth)",
    ratio=lambda v: 2 / v.index - 1,
    source="Milletari et al. 2016, 3DV, 565-571 (without their squares)",
)
def dice_loss(probability: Tensor, target: Tensor, weight: Tensor | None = None, *, smooth: float = 1.0) -> Tensor:
    """Compute the Dice loss; `weight` is ignored. R falls to 1 as learning proceeds.

    Examples
    --------
    >>> dice_loss(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]))
    tensor(0.2000)
    """
    check_numbers(0, math.inf, smooth=smooth)
    p, g = operands(probability, target)
    return 1 - (2 * (p * g).sum() + smooth) / (p.sum() + g.sum() + smooth)


def operands(probability: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both tensors in the precision of the sums; InputError unless their shapes are equal."""
    if probability.shape != target.shape:
        # (B, D, H, W) against (B, 1, D, H, W) would broadcast to (B, B, D, H, W) without a word.
        raise InputError(
            f"target: shape {tuple(target.shape)} must be {tuple(probability.shape)}, that of the volume it labels"
        )
    # The cast is all that autocast needs as long as no loss uses a dot product (lowered again) or binary_cross_entropy
    # (refused on CUDA): elementwise operations and sums of float32 tensors stay as they are.
    precision = torch.promote_types(probability.dtype, torch.float32)
    return probability.to(precision), target.to(precision)


def weight_map(weight: Tensor, p: Tensor) -> Tensor:
    """Return `weight` in p's precision and, without a copy, p's shape; InputError if it does not broadcast to that."""
    weight = weight.to(p.dtype)
    try:
        return weight.expand_as(p)
    except RuntimeError as error:
        raise InputError(f"weight: shape {tuple(weight.shape)} must broadcast to {tuple(p.shape)}") from error


def check_numbers(low: float, high: float, /, **numbers: float) -> None:
    """Raise InputError unless every one of `numbers` is a number in [low, high]."""
    for name, number in numbers.items():
        if not (isinstance(number, Real) and low <= number <= high):
            raise InputError(f"{name}: {number!r} must be a number from {low:g} to {high:g}")
