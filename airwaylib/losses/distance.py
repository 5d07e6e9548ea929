"""Distance of airway voxels to the centreline, relative to its maximum: what `general_union_weight` is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import edt
import numpy as np
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.trees.skeleton import thin

if TYPE_CHECKING:
    from torch import Tensor

UNITS = ("mm", "voxels")  # of the distance to the centreline
NEAR = 2  # voxels outside the airway where the distance is kept, so that it can be interpolated


def relative_distance(
    label: np.ndarray | Tensor, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), unit: str = "mm"
) -> np.ndarray | Tensor:
    """Compute d / dmax of each airway voxel: its distance to the label's centreline over the largest one of the case.

    Raises `InputError`: another shape, values other than 0 and 1, an unknown unit, a spacing that is not above 0.

    Parameters
    ----------
    label : array or Tensor
        The **whole case's** airway, 1 or True on it and 0 elsewhere: (D, H, W), or (B, 1, D, H, W), a case a sample.
        Of a crop, both centreline and dmax would be wrong: compute this once a case, and crop it with the label.
    spacing : tuple
        x, y, z in mm.
    unit : str
        "mm" (default; right on anisotropic CT), or "voxels", as Zheng et al. 2021 measure: spacing is ignored.

    Returns
    -------
    array or Tensor, as `label`
        Same shape, float32, in [0, 1]: 0 on the centreline, 1 farthest from it. Kept up to two voxels outside the
        airway, so that it can be interpolated; 0 beyond, and all over a case without airway.

    Examples
    --------
    >>> tube = np.zeros((7, 7, 9), bool); tube[2:5, 2:5] = True
    >>> relative_distance(tube)[3, 1:6, 4].round(2)  # thinning takes a voxel off either end: dmax is the root of 3
    array([1.  , 0.58, 0.  , 0.58, 1.  ], dtype=float32)
    """
    check_unit(unit)
    if not (len(spacing) == 3 and all(side > 0 for side in spacing)):
        raise InputError(f"spacing: {spacing} must be three numbers above 0, x, y, z in mm")
    if hasattr(label, "detach"):
        import torch  # seconds, which preparing cases does without

        return torch.from_numpy(relative_distance(label.detach().cpu().numpy(), spacing, unit)).to(label.device)
    label = np.asarray(label)
    if not (label.ndim == 3 or (label.ndim == 5 and label.shape[1] == 1)):
        raise InputError(f"label: shape {label.shape} must be (D, H, W) or (B, 1, D, H, W)")
    if label.dtype != bool and not np.isin(label, (0, 1)).all():
        raise InputError("label: must hold 0 and 1 alone; choose the airway's value first, such as label == 255")
    spacing = spacing if unit == "mm" else (1.0, 1.0, 1.0)
    relative = np.zeros(label.shape, np.float32)
    cases = label.reshape(-1, *label.shape[-3:]).astype(bool)
    for out, case in zip(relative.reshape(cases.shape), cases, strict=True):
        if case.any():
            out[:] = distance_to_centreline(case, thin(case), spacing)[0]
    return relative


def distance_to_centreline(
    label: np.ndarray, centreline: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, float]:
    """Compute d / dmax (float32, D, H, W) near the airway, and dmax, of a label whose centreline is known.

    label and centreline (D, H, W) boolean, neither empty; spacing x, y, z, whose unit dmax has.
    """
    distance = edt.edt(~centreline, anisotropy=spacing[::-1])
    maximum = float(distance[label].max())
    near, (sides,) = np.zeros_like(label), ndimage.find_objects(label.astype(np.uint8))
    box = tuple(slice(max(side.start - NEAR, 0), side.stop + NEAR) for side in sides)
    near[box] = ndimage.binary_dilation(label[box], iterations=NEAR)
    return np.where(near, np.minimum(distance / max(maximum, 1e-6), 1), 0).astype(np.float32), maximum


def check_unit(unit: str) -> None:
    """Raise InputError unless `unit` is one of `UNITS`."""
    if unit not in UNITS:
        raise InputError(f"distance unit {unit!r} is unknown: choose {' or '.join(UNITS)}")
