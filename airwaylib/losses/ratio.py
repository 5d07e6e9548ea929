"""Compare the gradient that a loss gives an airway voxel with that of a background voxel: closed forms and measured."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from airwaylib.errors import InputError
from airwaylib.losses.table import LOSSES, defaults


def _cross_entropy(v: SimpleNamespace) -> np.ndarray:
    if v.positive_weight is None:
        raise InputError("positive_weight: None, the inverse frequency, is not known here; give c_1 / c_0")
    return v.positive_weight * (1 - v.p_b + v.epsilon) / (v.p_f + v.epsilon)


def _focal(v: SimpleNamespace) -> np.ndarray:
    def steepness(p):
        q = (p + v.epsilon) / (1 + 2 * v.epsilon)
        return (1 - q) ** v.gamma / q - v.gamma * (1 - q) ** (v.gamma - 1) * np.log(q)

    return v.alpha_balance / (1 - v.alpha_balance) * steepness(v.p_f) / steepness(1 - v.p_b)


def _root_tversky(v: SimpleNamespace) -> np.ndarray:
    return v.root * (v.p_f + v.epsilon) ** (v.root - 1) / (v.alpha * v.index) - 1


CLOSED_FORMS: dict[str, Callable[[SimpleNamespace], np.ndarray]] = {
    "weighted_bce": _cross_entropy,
    "focal": _focal,
    "dice": lambda v: 2 / v.index - 1,
    "tversky": lambda v: 1 / (v.alpha * v.index) - 1,
    "root_tversky": _root_tversky,
    "general_union_without_weights": _root_tversky,
    "general_union_without_root": lambda v: v.weight * (1 / (v.alpha * v.index) - 1),
    "general_union": lambda v: v.weight * _root_tversky(v),
}


def gradient_ratio(
    name: str,
    foreground_probability: ArrayLike,
    background_probability: ArrayLike,
    index: ArrayLike,
    weight: ArrayLike = 1.0,
    **parameters: float,
) -> np.ndarray:
    """Class-wise gradient ratio R of a loss in closed form; the module lists the formulas.

    Parameters
    ----------
    name : str
        Of a loss in `CLOSED_FORMS`.
    foreground_probability, background_probability : array or float
        p_f and p_b in [0, 1], of the two voxels; any shapes that broadcast with each other and with the next two.
    index : array or float
        1 - loss, of the whole batch. Cross-entropies have no index and ignore it.
    weight : array or float
        w of the foreground voxel, see `losses.general_union_weight`; losses that ignore weights ignore it here.
    **parameters : float
        The loss's own, with its defaults. weighted_bce needs `positive_weight`, c_1 / c_0.

    Returns
    -------
    array of the broadcast shape, float64
        R. Negative where the loss pushes a foreground voxel *down*, as with root < alpha at index 1; inf where the
        background has no gradient.

    Raises
    ------
    InputError
        The loss is unknown, has no such parameter, or no ratio that these operands alone tell.

    Examples
    --------
    >>> gradient_ratio("general_union", 1, 0, index=1, weight=[1, 1 / 9], epsilon=0).round(3)
    array([6.   , 0.667])
    """
    if name not in CLOSED_FORMS:
        known = ", ".join(CLOSED_FORMS)
        raise InputError(f"loss {name!r} has no closed-form gradient ratio here; those with one: {known}")
    own = defaults(LOSSES[name])
    if unknown := sorted(set(parameters) - set(own)):
        raise InputError(f"loss {name!r} has no parameter {', '.join(unknown)}; it has {', '.join(own)}")
    operands = (foreground_probability, background_probability, index, weight)
    arrays = np.broadcast_arrays(*(np.asarray(operand, float) for operand in operands))
    voxels = dict(zip(("p_f", "p_b", "index", "weight"), arrays, strict=True))
    with np.errstate(divide="ignore"):
        return np.asarray(CLOSED_FORMS[name](SimpleNamespace(**voxels, **own | parameters)))


def measured_ratio(
    loss: Callable[..., Tensor], probability: Tensor, target: Tensor, weight: Tensor | None = None
) -> float:
    """Class-wise gradient ratio of a loss as it is: mean |dL/dp| on foreground over mean |dL/dp| on background.

    `loss` takes the three tensors, (B, 1, D, H, W) or any shape, and returns a scalar; see `losses`.

    Raises
    ------
    InputError
        Shapes differ, the target lacks a class, the loss ignores the background, or a gradient is not finite.

    Examples
    --------
    >>> from airwaylib.losses import dice_loss  # its index is .8 here, and 2 / .8 - 1 = 1.5
    >>> round(measured_ratio(dice_loss, torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 0, 1])), 3)
    1.5
    """
    if probability.shape != target.shape:
        raise InputError(f"target: shape {tuple(target.shape)} must be {tuple(probability.shape)}, the probability's")
    foreground = target.bool()
    if not foreground.any() or foreground.all():
        raise InputError(f"target: has no {'back' if foreground.any() else 'fore'}ground, so there is no ratio")
    p = probability.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(p, target, weight), p)
    if not slope.isfinite().all():
        raise InputError(f"loss: its gradient is not finite at {int((~slope.isfinite()).sum())} voxels")
    on, off = (slope[mask].double().abs().mean().item() for mask in (foreground, ~foreground))
    if off == 0:
        raise InputError("loss: it ignores the background, whose gradient is 0 everywhere, so there is no ratio")
    return on / off
