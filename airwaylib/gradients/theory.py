"""Predict gradient erosion of a tube from a loss's gradient ratio: the critical radius, in closed form and simulated.

R is the loss's gradient ratio: |dL/dp| at a foreground voxel over |dL/dp| at a background voxel (`losses.ratio`).

A layer of back-propagation mixes a voxel's gradient with its neighbours'. Model it by one positive kernel a layer, a
box 3 voxels wide, and let the gradient be +R on the foreground and -1 on the background. A voxel is *eroded* where the
mixture is not positive. After n layers the kernel is near a Gaussian of variance n v per axis. A tube of radius rho
around its centre holds a share 1 - exp(-rho^2 / 2 n v) of it; hence the critical radius. The tube is the same all along
its axis, so its cross-section is all there is to compute. Radii are in voxels of the layer's grid.

Derived here, not in Zheng et al. 2021 (IEEE TMI 40(9):2452-2462), whose account of erosion and dilation is qualitative.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import uniform_filter

from airwaylib.errors import InputError

BOX_VARIANCE = 2 / 3  # voxels^2 per axis, of a box 3 voxels wide: (1 + 0 + 1) / 3
RESOLUTION = 1e-3  # voxels, of the simulated critical radius


def critical_radius(layers: ArrayLike, ratio: ArrayLike, variance: float = BOX_VARIANCE) -> np.ndarray:
    """Compute the radius that a tube must exceed to keep its axis for n layers: sqrt(2 n v ln(1 + 1 / R)), in voxels.

    n `layers` of a kernel with `variance` v, voxels^2 per axis, and the ratio R > 0; arrays broadcast.

    Examples
    --------
    >>> critical_radius([2, 18], ratio=6).round(2)
    array([0.64, 1.92])
    """
    layers, ratio, variance = _positive("layers", layers), _positive("ratio", ratio), _positive("variance", variance)
    return np.sqrt(2 * layers * variance * np.log1p(1 / ratio))


def eroded(radius: float, layers: int, ratio: float) -> bool:
    """Tell whether a tube's axis has lost the foreground's sign after `layers` box filters; radius in voxels, R > 0.

    The cross-section is a disc around a voxel's centre; a voxel that it covers in part has R share - (1 - share).

    Examples
    --------
    >>> eroded(1.19, layers=1, ratio=1), eroded(1.20, layers=1, ratio=1)  # half of 3 x 3 voxels: pi 1.197^2 = 4.5
    (True, False)
    """
    # Strategy: nothing farther than `layers` from the axis can reach it, so a crop of that reach is enough.
    gradient = _gradient(disc(radius, _whole("layers", layers)), ratio)
    return bool(_filtered(gradient, layers)[layers, layers] <= 0)


def simulated_critical_radius(layers: int, ratio: float) -> float:
    """Find by simulation the smallest radius (voxels, to 0.001) whose axis keeps the foreground's sign.

    Examples
    --------
    >>> simulated_critical_radius(1, ratio=1)  # sqrt(4.5 / pi)
    1.197
    """
    low, high = 0.0, 2.0 * float(critical_radius(layers, ratio))
    while eroded(high, layers, ratio):
        high *= 2
    while high - low > RESOLUTION / 4:  # coverage grows with the radius, and so does the axis
        middle = (low + high) / 2
        low, high = (middle, high) if eroded(middle, layers, ratio) else (low, middle)
    return round(high, 3)


def erosion_by_layer(radius: float, ratio: float, layers: int) -> np.ndarray:
    """Compute the share of a tube's cross-section whose sign is lost after 1, 2, ..., `layers` box filters.

    Radius in voxels, R > 0. Returns an array (layers,) in [0, 1]; a voxel covered in part counts by that part.

    Examples
    --------
    >>> erosion_by_layer(2, ratio=1, layers=6).round(2)
    array([0.29, 0.29, 0.6 , 1.  , 1.  , 1.  ])
    """
    tube = disc(radius, math.ceil(_positive("radius", radius)) + _whole("layers", layers))
    gradient, lost = _gradient(tube, ratio), []
    for _ in range(layers):
        gradient = _filtered(gradient, 1)
        lost.append(tube[gradient <= 0].sum() / tube.sum())
    return np.array(lost)


def tube_profile(radius: float, ratio: float, layers: int, reach: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gradient along a line through a tube's axis after `layers` box filters.

    Radius in voxels, R > 0; 0 layers give the initial gradient. The line extends `reach` voxels from the axis, by
    default as far as the tube makes a difference.

    Returns
    -------
    position, value : arrays (2 reach + 1,)
        Voxels from the axis; gradient in units of the background's size: R deep within a wide tube, -1 far outside.

    Examples
    --------
    >>> position, value = tube_profile(0.5, ratio=8, layers=1)  # 9 pi / 4 in one of 9 voxels, minus 1
    >>> position, value.round(3)
    (array([-2, -1,  0,  1,  2]), array([-1.   , -0.215, -0.215, -0.215, -1.   ]))
    """
    needed = math.ceil(_positive("radius", radius)) + _whole("layers", layers, least=0)
    reach = needed if reach is None else _whole("reach", reach)
    width = max(needed, reach)
    value = _filtered(_gradient(disc(radius, width), ratio), layers)[width]
    return np.arange(-reach, reach + 1), value[width - reach : width + reach + 1]


def disc(radius: float, reach: int) -> np.ndarray:
    """Compute each voxel's share, (2 reach + 1, 2 reach + 1), within a disc of `radius` voxels around the middle one.

    Examples
    --------
    >>> disc(0.5, 1).round(3).tolist()  # pi / 4
    [[0.0, 0.0, 0.0], [0.0, 0.785, 0.0], [0.0, 0.0, 0.0]]
    """
    # Strategy: the overlap of a disc and the rectangle from its centre to (x, y) is known exactly: a rectangle while
    # the arc is above y, then the area below the arc. A voxel is the difference of four of these.
    edge, r = np.arange(-reach - 0.5, reach + 1), _positive("radius", radius)
    x, y = np.meshgrid(*(np.minimum(np.abs(edge), r),) * 2, indexing="ij")
    turn = np.minimum(np.sqrt(r**2 - y**2), x)
    below = [(end * np.sqrt(r**2 - end**2) + r**2 * np.arcsin(end / r)) / 2 for end in (turn, x)]
    area = (turn * y + below[1] - below[0]) * np.sign(edge)[:, None] * np.sign(edge)
    return np.diff(np.diff(area, axis=0), axis=1).clip(0, 1)


def _gradient(tube: np.ndarray, ratio: float) -> np.ndarray:
    return (_positive("ratio", ratio) + 1) * tube - 1


def _filtered(gradient: np.ndarray, layers: int) -> np.ndarray:
    for _ in range(layers):
        gradient = uniform_filter(gradient, 3, mode="nearest")
    return gradient


def _positive(name: str, value: ArrayLike) -> np.ndarray:
    value = np.asarray(value, float)
    if not ((value > 0) & np.isfinite(value)).all():
        raise InputError(f"{name}: {value.tolist()} must be above 0 and finite")
    return value


def _whole(name: str, value: int, least: int = 1) -> int:
    if not (isinstance(value, int | np.integer) and value >= least):
        raise InputError(f"{name}: {value!r} must be a whole number from {least} on")
    return int(value)
