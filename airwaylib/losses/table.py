"""Every loss by name: what it is, its gradient ratio in closed form, its parameters, and who published it.

All keep the contract of `losses`. Symbols of the table: p probability, g target (1 airway, 0 background), w weight, q
the probability given to a voxel's true class, N voxels, S = sum p + sum g + smooth; p_f at a foreground voxel, p_b at a
background voxel; D = 1 - Dice loss, T = 1 - Tversky loss, I = 1 - the loss itself. Sums run over the batch.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from airwaylib.errors import InputError
from airwaylib.losses import general_union, rivals

ZHENG = "Zheng et al. 2021, IEEE TMI 40(9):2452-2462"
NO_CLOSED_FORM = "measured"


class Entry(NamedTuple):
    """One loss."""

    loss: Callable[..., Tensor]
    formula: str
    ratio: str
    source: str


ENTRIES = {
    "general_union": Entry(
        general_union.general_union_loss,
        "1 - (sum w (p + epsilon)^root g + smooth) / (sum w (alpha p + (1 - alpha) g) + smooth)",
        "w (root (p_f + epsilon)^(root - 1) / (alpha I) - 1)",
        ZHENG,
    ),
    "general_union_without_weights": Entry(
        general_union.root_tversky_loss,
        "general_union with w = 1: root_tversky by the name of an ablation",
        "root (p_f + epsilon)^(root - 1) / (alpha I) - 1",
        f"ablation (ours) of {ZHENG}",
    ),
    "general_union_without_root": Entry(
        rivals.general_union_without_root_loss,
        "general_union with root = 1, epsilon = 0",
        "w (1 / (alpha I) - 1)",
        f"ablation (ours) of {ZHENG}",
    ),
    "root_tversky": Entry(
        general_union.root_tversky_loss,
        "1 - (sum (p + epsilon)^root g + smooth) / (sum (alpha p + (1 - alpha) g) + smooth)",
        "root (p_f + epsilon)^(root - 1) / (alpha I) - 1",
        ZHENG,
    ),
    "tversky": Entry(
        general_union.tversky_loss,
        "1 - (sum p g + smooth) / (sum (alpha p + (1 - alpha) g) + smooth)",
        "1 / (alpha I) - 1",
        "Salehi et al. 2017, MLMI, LNCS 10541:379-387",
    ),
    "focal_tversky": Entry(
        rivals.focal_tversky_loss,
        "(1 - T + epsilon)^gamma",
        "1 / (alpha T) - 1",
        "Abraham and Khan 2019, ISBI, 683-687",
    ),
    "dice": Entry(
        general_union.dice_loss,
        "1 - (2 sum p g + smooth) / S",
        "2 / I - 1",
        "Milletari et al. 2016, 3DV, 565-571 (without their squares)",
    ),
    "weighted_dice": Entry(
        rivals.weighted_dice_loss,
        "1 - 2 sum_k c_k sum p_k g_k / sum_k c_k sum (p_k + g_k), both classes k, c_k = 1 / (sum g_k)^2",
        "((2 - I) c_1 + I c_0) / ((2 - I) c_0 + I c_1)",
        "Sudre et al. 2017, DLMIA, LNCS 10553:240-248",
    ),
    "dice_bce": Entry(
        rivals.dice_bce_loss,
        "(1 - share) dice + share mean (-log q)",
        "((2 - D) / S + B / p_f) / (D / S + B / (1 - p_b)), B = share / ((1 - share) N)",
        "Isensee et al. 2021, Nature Methods 18:203-211",
    ),
    "weighted_bce": Entry(
        rivals.weighted_bce_loss,
        "mean c_g (-log q), c_1 = positive_weight, c_0 = 1; None: c = N / (2 N_class)",
        "c_1 / c_0 (1 - p_b) / p_f",
        "textbook; the inverse frequencies are our choice",
    ),
    "focal": Entry(
        rivals.focal_loss,
        "mean a_g (1 - q)^gamma (-log q), a_1 = alpha_balance, a_0 = 1 - a_1",
        "a_1 / a_0 h(p_f) / h(1 - p_b), h(q) = (1 - q)^gamma / q - gamma (1 - q)^(gamma - 1) log q",
        "Lin et al. 2017, ICCV, 2980-2988",
    ),
    "cl_dice": Entry(
        rivals.cl_dice_loss,
        "(1 - share) dice + share clDice loss, by soft skeletons of p and g",
        NO_CLOSED_FORM,
        "Shit et al. 2021, CVPR, 16560-16569; MONAI's SoftclDiceLoss",
    ),
    "boundary": Entry(
        rivals.boundary_loss,
        "(1 - share) dice + share mean p d, d the signed distance to the surface, voxels, negative inside",
        "((2 - D) / S - B d_f) / (D / S + B d_b), B = share / ((1 - share) N)",
        "Kervadec et al. 2019, MIDL, PMLR 102:285-296; MONAI's BoundaryLoss",
    ),
    "skeleton_recall": Entry(
        rivals.skeleton_recall_loss,
        "1 - (sum p t + smooth) / (sum t + smooth) + dice dice_loss, t = 1 on the target's skeleton and near it",
        "(dice (2 - D) / S + t_f / (sum t + smooth)) / (dice D / S)",
        "Kirchhoff et al. 2024, ECCV, arXiv:2404.03010",
    ),
    "local_imbalance": Entry(
        rivals.local_imbalance_loss,
        "general_union with w = alpha + (1 - alpha) (-log10 f)^exponent on airway, f its share of 7^3 voxels",
        "w (root (p_f + epsilon)^(root - 1) / (alpha I) - 1)",
        "Zheng et al. 2021, MICCAI, LNCS 12901:410-419, as their program has it",
    ),
}

LOSSES = {name: entry.loss for name, entry in ENTRIES.items()}
WEIGHTED = {"general_union", "general_union_without_root"}  # those that use `weight`


def loss_by_name(name: str, **parameters: float) -> Callable[..., Tensor]:
    """Return the loss `name` of `LOSSES` with its parameters set: a function (probability, target, weight) -> scalar.

    Raises
    ------
    InputError
        The name or a parameter is unknown, or a parameter's value is out of range: told here, not at the first step.

    Examples
    --------
    >>> loss_by_name("tversky", alpha=0.5)(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]))
    tensor(0.1667)
    """
    if name not in LOSSES:
        raise InputError(f"loss {name!r} is unknown; known are {', '.join(LOSSES)}")
    known = defaults(LOSSES[name])
    if unknown := sorted(set(parameters) - set(known)):
        raise InputError(f"loss {name!r} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    loss = functools.partial(LOSSES[name], **parameters)
    loss(torch.full((1, 1, 3, 3, 3), 0.5), torch.ones(1, 1, 3, 3, 3))  # a small volume, to have the values checked
    return loss


def defaults(loss: Callable[..., Tensor]) -> dict[str, Any]:
    """A loss's parameters with their defaults, in order."""
    parameters = inspect.signature(loss).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}


def loss_table() -> pd.DataFrame:
    """One row a loss: `name`, `formula`, `ratio`, `parameters` (with defaults), `source`; all text, symbols as above.

    `ratio` is R = |dL/dp| at a foreground voxel over |dL/dp| at a background voxel, epsilon neglected beside p in
    cross-entropies; "measured" where it has no closed form.

    Examples
    --------
    >>> loss_table().set_index("name").loc["tversky", ["ratio", "parameters"]].tolist()
    ['1 / (alpha I) - 1', 'alpha=0.05, smooth=1.0']
    """
    rows = [
        (name, formula, ratio, ", ".join(f"{key}={value}" for key, value in defaults(loss).items()), source)
        for name, (loss, formula, ratio, source) in ENTRIES.items()
    ]
    return pd.DataFrame(rows, columns=["name", "formula", "ratio", "parameters", "source"])
