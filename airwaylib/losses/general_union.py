"""General Union loss and its family (Zheng et al. 2021, IEEE TMI 40(9):2452-2462), and the contract of every loss.

    loss(probability, target, weight=None, **parameters) -> scalar tensor

- `probability`: (B, 1, D, H, W) or any shape, in [0, 1], after the sigmoid. Under automatic mixed precision take the
  sigmoid of the float32 logits: a float16 probability is 1 from a logit of about 8 on, where the sigmoid's slope is 0.
- `target`: same shape, 1 on the airway and 0 elsewhere, any dtype.
- `weight`: a map of `general_union_weight` that broadcasts to that shape, or None for 1 everywhere. **Only
  `general_union_loss` uses it**, and its ablation without the root. All others ignore it by definition, so that one
  training loop can pass every loss the same three tensors and compare the losses as they are published.

Sums run over the whole batch tensor: one ratio a batch. They are float32 (float64 if `probability` is), also under
autocast and for half-precision inputs. Values are not inspected, since that would halt the device at every step:
logits in place of probabilities, or a 0/255 target, go unnoticed here.

The gradient ratio R of each loss is |dL/dp| at a foreground voxel (probability p_f) over |dL/dp| at a background
voxel (p_b). It is what the paper is about: where R is small, background erodes the gradient of thin airways.

`rival_losses` and `shape_losses` hold the other losses, `loss_table` lists them all.
"""

import math
from numbers import Real

import torch
from torch import Tensor

from airwaylib.errors import InputError

# Rounding and linear interpolation can carry d / dmax this far out of [0, 1]; millimetres or voxels go much farther.
RELATIVE_DISTANCE_TOLERANCE = 1e-3


def general_union_weight(relative_distance: Tensor, target: Tensor, alpha: float = 0.1) -> Tensor:
    """Weight of each voxel in the General Union loss: 1 on background and centreline, alpha / (1 - alpha) farthest out.

    w = 1 on background; on foreground w = 1 - m (d / dmax)^0.5 with m = (1 - 2 alpha) / (1 - alpha).

    Parameters
    ----------
    relative_distance : Tensor
        (B, 1, D, H, W) or any shape: d / dmax in [0, 1]. d is the voxel's distance to the airway *centreline*, dmax its
        maximum over the whole *case*, not over the patch. Background values do not matter.
    target : Tensor
        Same shape, 1 on the airway and 0 elsewhere.
    alpha : float
        The loss's alpha, in [0, 0.5]. The weight changes with it, so store d / dmax rather than w.

    Returns
    -------
    Tensor
        Same shape, float32 (float64 if `relative_distance` is).

    Raises
    ------
    InputError
        Shapes differ, alpha is out of range, or a foreground distance is not in [0, 1].

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
    """General Union loss (Zheng et al. 2021): Tversky with a root on the overlap and a weight on every voxel.

    1 - ( sum w (p + epsilon)^root g + smooth ) / ( sum w (alpha p + (1 - alpha) g) + smooth )

    R = w ( root (p_f + epsilon)^(root - 1) / (alpha GU) - 1 ), GU = 1 - loss. Without a weight it is Root Tversky.

    Parameters
    ----------
    probability, target, weight : Tensor
        See the module.
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
    """Root Tversky loss (Zheng et al. 2021): `general_union_loss` with w = 1 everywhere; `weight` is ignored.

    R = root (p_f + epsilon)^(root - 1) / (alpha RT) - 1, RT = 1 - loss: it ends at root / alpha - 1 on every airway
    voxel, 6 by default, and so dilates the walls of large airways.

    Examples
    --------
    >>> root_tversky_loss(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]))
    tensor(0.1281)
    """
    return general_union_loss(probability, target, alpha=alpha, root=root, smooth=smooth, epsilon=epsilon)


def tversky_loss(
    probability: Tensor, target: Tensor, weight: Tensor | None = None, *, alpha: float = 0.05, smooth: float = 1.0
) -> Tensor:
    """Tversky loss (Salehi et al. 2017) with alpha on false positives, 1 - alpha on false negatives; `weight` ignored.

    1 - (TP + smooth) / (TP + alpha FP + (1 - alpha) FN + smooth);  R = 1 / (alpha T) - 1, T = 1 - loss.
    alpha = 0.05 is the baseline of Zheng et al.; 0.5 is `dice_loss` with twice the smooth.

    Examples
    --------
    >>> tversky_loss(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]))
    tensor(0.1667)
    """
    return general_union_loss(probability, target, alpha=alpha, root=1, smooth=smooth, epsilon=0)


def dice_loss(probability: Tensor, target: Tensor, weight: Tensor | None = None, *, smooth: float = 1.0) -> Tensor:
    """Dice loss (Milletari et al. 2016, without their squares); `weight` is ignored.

    1 - (2 sum p g + smooth) / (sum p + sum g + smooth);  R = 2 / DSC - 1, DSC = 1 - loss: it falls to 1.

    Examples
    --------
    >>> dice_loss(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]))
    tensor(0.2000)
    """
    check_numbers(0, math.inf, smooth=smooth)
    p, g = operands(probability, target)
    return 1 - (2 * (p * g).sum() + smooth) / (p.sum() + g.sum() + smooth)


def operands(probability: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors in the precision of the sums; InputError unless their shapes are equal."""
    if probability.shape != target.shape:
        # (B, D, H, W) against (B, 1, D, H, W) would broadcast to (B, B, D, H, W) without a word.
        raise InputError(
            f"target: shape {tuple(target.shape)} must be {tuple(probability.shape)}, that of the volume it labels"
        )
    # The cast is all that autocast needs as long as no loss uses a dot product (lowered again) or binary_cross_entropy
    # (refused on CUDA): elementwise operations and sums of float32 tensors stay as they are.
    precision = torch.promote_types(probability.dtype, torch.float32)
    return probability.to(precision), target.to(precision)


def probability_of_truth(p: Tensor, g: Tensor, epsilon: float) -> Tensor:
    """Probability of each voxel's true class, squeezed into the open interval (0, 1)."""
    return (torch.where(g.bool(), p, 1 - p) + epsilon) / (1 + 2 * epsilon)


def weight_map(weight: Tensor, p: Tensor) -> Tensor:
    """`weight` in p's precision and, without a copy, p's shape; InputError if it does not broadcast to that."""
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
