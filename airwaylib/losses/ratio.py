"""Compare the gradient that a loss gives an airway voxel with that of a background voxel: closed forms and measured.

R = |dL/dp| at a foreground voxel over |dL/dp| at a background voxel. Back-propagation carries on the gradient at the
logit, dL/dp times p (1 - p). There the ratio is R times p_f (1 - p_f) / (p_b (1 - p_b)). They differ most on a missed
voxel: as p_f goes to 0, Dice's gradient at the logit dies as p_f, General Union's as p_f^root until p_f nears its
epsilon, cross-entropy's not at all. The closed forms of R stand at the losses.
"""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from airwaylib.errors import InputError
from airwaylib.losses.table import LOSSES, defaults

PLACES = ("probability", "logit")  # where the gradient is taken


def gradient_ratio(
    name: str,
    foreground_probability: ArrayLike,
    background_probability: ArrayLike,
    index: ArrayLike,
    weight: ArrayLike = 1.0,
    at: str = "probability",
    **parameters: float,
) -> np.ndarray:
    """Compute the class-wise gradient ratio of a loss in closed form.

    Parameters
    ----------
    name : str
        Of a loss in `LOSSES` that has a closed form.
    foreground_probability, background_probability : array or float
        p_f and p_b in [0, 1], of the two voxels; any shapes that broadcast with each other and with the next two.
    index : array or float
        1 - loss, of the whole batch. Cross-entropies have no index and ignore it.
    weight : array or float
        w of the foreground voxel, see `general_union_weight`; losses that ignore weights ignore it here.
    at : str
        "probability", or "logit": the gradient that the network's last layer gets.
    **parameters : float
        The loss's own, with its defaults. weighted_bce needs `positive_weight`, c_1 / c_0.

    Returns
    -------
    array of the broadcast shape, float64
        R. Negative where the loss pushes a foreground voxel *down*, as with root < alpha at index 1; inf where the
        background has no gradient, nan where neither voxel has one.

    Raises
    ------
    InputError
        The loss is unknown, has no such parameter, or no ratio that these operands alone tell.

    Examples
    --------
    >>> gradient_ratio("general_union", 1, 0, index=1, weight=[1, 1 / 9], epsilon=0).round(3)
    array([6.   , 0.667])
    >>> gradient_ratio("dice", [0.5], 0.1, index=0.5, at="logit").round(3)  # 3 times .25 / .09
    array([8.333])
    """
    if (form := getattr(LOSSES.get(name), "ratio", None)) is None:
        known = ", ".join(each for each, function in LOSSES.items() if function.ratio)
        raise InputError(f"loss {name!r} has no closed-form gradient ratio here; those with one: {known}")
    check_place(at)
    own = defaults(LOSSES[name])
    if unknown := sorted(set(parameters) - set(own)):
        raise InputError(f"loss {name!r} has no parameter {', '.join(unknown)}; it has {', '.join(own)}")
    own |= parameters
    if own.get("positive_weight", 1) is None:
        raise InputError("positive_weight: None, the inverse frequency, is not known here; give c_1 / c_0")
    operands = (foreground_probability, background_probability, index, weight)
    p_f, p_b, index, weight = np.broadcast_arrays(*(np.asarray(operand, float) for operand in operands))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = form(SimpleNamespace(p_f=p_f, p_b=p_b, index=index, weight=weight, **own))
        return np.asarray(ratio if at == "probability" else ratio * (p_f * (1 - p_f)) / (p_b * (1 - p_b)))


def measured_ratio(
    loss: Callable[..., Tensor],
    probability: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    at: str = "probability",
) -> float:
    """Measure the class-wise gradient ratio of a loss: mean gradient on foreground over mean gradient on background.

    `loss` takes the three tensors, (B, 1, D, H, W) or any shape, and returns a scalar; see `losses`. `at` is
    "probability" or "logit": means of |dL/dp|, or of |dL/dp| p (1 - p).

    Raises
    ------
    InputError
        Shapes differ, the target lacks a class, the loss ignores the background, or a gradient is not finite.

    Examples
    --------
    >>> from airwaylib.losses.general_union import dice_loss  # its index is .8 here, and 2 / .8 - 1 = 1.5
    >>> round(measured_ratio(dice_loss, torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 0, 1])), 3)
    1.5
    """
    check_place(at)
    if probability.shape != target.shape:
        raise InputError(f"target: shape {tuple(target.shape)} must be {tuple(probability.shape)}, the probability's")
    foreground = target.bool()
    if not foreground.any() or foreground.all():
        raise InputError(f"target: has no {'back' if foreground.any() else 'fore'}ground, so there is no ratio")
    p = probability.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(p, target, weight), p)
    if not slope.isfinite().all():
        raise InputError(f"loss: its gradient is not finite at {int((~slope.isfinite()).sum())} voxels")
    if at == "logit":
        p = p.detach().double()
        slope = slope * p * (1 - p)
    on, off = (slope[mask].double().abs().mean().item() for mask in (foreground, ~foreground))
    if off == 0:
        raise InputError(f"loss: at the {at} its gradient is 0 on the whole background, so there is no ratio")
    return on / off


def missed_voxel_gradients(
    loss: Callable[..., Tensor], probabilities: ArrayLike, found: float = 0.9, background: float = 0.1
) -> np.ndarray:
    """Measure |dL/dlogit| by autograd on one airway voxel with each of these probabilities, all others fixed.

    Eight more airway voxels are at `found`, 64 voxels of background at `background`.
    """
    target, slopes = torch.tensor([1] * 9 + [0] * 64), []
    for probability in np.atleast_1d(probabilities):
        p = torch.tensor([probability] + [found] * 8 + [background] * 64, dtype=torch.float64)
        logit = torch.logit(p).requires_grad_()
        (slope,) = torch.autograd.grad(loss(torch.sigmoid(logit), target, None), logit)
        slopes.append(abs(slope[0].item()))
    return np.array(slopes)


def missed_voxel_exponent(loss: Callable[..., Tensor], low: float = 1e-3, high: float = 1e-2) -> float:
    """Fit the power of p with which a missed airway voxel's gradient at the logit dies as p falls from high to low.

    Examples
    --------
    >>> from airwaylib.losses.general_union import dice_loss, general_union_loss
    >>> round(missed_voxel_exponent(dice_loss), 2), round(missed_voxel_exponent(general_union_loss), 2)
    (1.0, 0.7)
    """
    p = np.geomspace(low, high, 9)
    return float(np.polyfit(np.log(p), np.log(missed_voxel_gradients(loss, p)), 1)[0])


def check_place(at: str) -> None:
    """Raise InputError unless `at` is one of `PLACES`."""
    if at not in PLACES:
        raise InputError(f"at: {at!r} is unknown; choose {' or '.join(PLACES)}")
