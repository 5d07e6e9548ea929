"""Find the lungs of a chest CT by HU alone: a mask of the air inside the body.

Made for cropping, not for diagnosis: lung that holds no air (consolidation, effusion, tumour) is not in the mask. The
method and its constants are our own choice; Zheng et al. 2021 crop to a lung mask's box, made in a way unknown to us.
"""

import cc3d
import numpy as np
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.images.volume import Volume

COARSE = 2.0  # mm; about the grid on which lungs are looked for
AIR = -400  # HU below which a voxel is air or lung
GAS = -975  # HU; pure gas (outside, bowel, padding) has its median below, lung above, also with severe emphysema
LEAST_PART = 50  # ml; lesser pockets of air are no part of a lung
LEAST_SURROUNDED = 0.5  # of a part's voxels have body on all four sides; seen: 0.73 to 1 for lungs, 0.06 outside
LEAST_LUNG = 100  # ml in all
LEAST_PIECE = 0.05  # of the largest piece of tissue; lesser ones are no part of the body


def lung_mask(ct: Volume) -> np.ndarray:
    """Air inside the body: the lungs and the airways connected with them, up to the trachea.

    Raises `InputError`: no lung of at least `LEAST_LUNG` ml.

    Parameters
    ----------
    ct : Volume
        Chest CT in HU, axial slices first `(z, y, x)`; whole, cropped to the lungs, or a slab of slices.

    Returns
    -------
    numpy.ndarray
        bool `(z, y, x)`, on the CT's grid. Vessels are holes in it, and so are airways too thin for the coarse grid.

    Examples
    --------
    >>> body = np.full((60, 80, 80), 40)
    >>> body[10:50, 10:70, 10:70] = -850
    >>> int(lung_mask(Volume(body)).sum())  # 40 x 60 x 60 voxels of 1 mm: 144 ml
    144000
    """
    # Strategy: on a coarse grid, keep the air that has body around it in its axial slice, split it into connected
    # parts, and drop parts that are small, outside or pure gas. "Around" is judged slice by slice, since the trachea
    # may leave through the top and a slab cuts the lungs; three sides of four do, since the field of view may cut the
    # chest wall off on one. Air between head and arms has three sides too, but hardly a voxel with all four.
    step = [max(1, round(COARSE / side)) for side in ct.spacing[::-1]]
    hu = ct.array[tuple(slice(None, None, s) for s in step)]
    sides = sides_with_body(hu)
    inside = (hu < AIR) & (sides >= 3)
    parts = cc3d.connected_components(inside, connectivity=6)
    voxels = np.bincount(parts.ravel())
    surrounded = np.bincount(parts.ravel(), sides.ravel() == 4) / voxels
    millilitres = voxels * np.prod(step) * np.prod(ct.spacing) / 1000
    likely = (millilitres >= LEAST_PART) & (surrounded >= LEAST_SURROUNDED)
    likely = [part for part in np.flatnonzero(likely) if part > 0]
    # Partial volume makes the rim of a gas bubble look like lung, so only the core of a part is judged.
    core = np.where(ndimage.binary_erosion(inside, border_value=1), parts, 0)
    lungs = [part for part, median in zip(likely, ndimage.median(hu, core, likely), strict=True) if GAS < median < AIR]
    if sum(millilitres[lungs]) < LEAST_LUNG:
        raise InputError(
            f"no lung found in the CT of {ct.array.shape} voxels: air inside the body ({GAS} to {AIR} HU, at least "
            f"{LEAST_LUNG} ml) was looked for and {sum(millilitres[lungs]):.0f} ml found; a chest CT in HU is needed"
        )
    # One coarse voxel more, cut back to the air of the CT's own grid, makes the border exact; walls are thicker.
    reach = ndimage.binary_dilation(np.isin(parts, lungs), np.ones((3, 3, 3)))
    return enlarge(reach, step, ct.array.shape) & (ct.array < AIR)


def sides_with_body(hu: np.ndarray) -> np.ndarray:
    """On how many of four sides in its axial slice (front, back, left, right) a voxel sees the body; uint8 `(z, y, x)`.

    The body itself counts too: 4 inside it.
    """
    tissue = hu >= AIR
    pieces = cc3d.connected_components(tissue, connectivity=6)
    voxels = np.bincount(pieces.ravel(), tissue.ravel(), minlength=2)
    # A tight crop cuts the body into several large pieces; the table's shell is a small one.
    body = np.isin(pieces, np.flatnonzero(voxels > LEAST_PIECE * voxels.max())) & tissue
    # Where a tight crop cuts a lung, the lung lies between two pieces of body along the border: close it with a wall.
    walled = np.pad(body, ((0, 0), (1, 1), (1, 1)))
    for line, wall in (
        (body[:, 0], walled[:, 0, 1:-1]),
        (body[:, -1], walled[:, -1, 1:-1]),
        (body[:, :, 0], walled[:, 1:-1, 0]),
        (body[:, :, -1], walled[:, 1:-1, -1]),
    ):
        wall[:] = seen_before(line, 1) & seen_after(line, 1)
    sides = sum(seen(walled, axis).astype(np.uint8) for axis in (1, 2) for seen in (seen_before, seen_after))
    return sides[:, 1:-1, 1:-1]


def seen_before(mask: np.ndarray, axis: int) -> np.ndarray:
    """Tell whether `mask` is true at a voxel or anywhere before it along `axis`."""
    return np.maximum.accumulate(mask, axis)


def seen_after(mask: np.ndarray, axis: int) -> np.ndarray:
    """Tell whether `mask` is true at a voxel or anywhere after it along `axis`."""
    return np.flip(np.maximum.accumulate(np.flip(mask, axis), axis), axis)


def enlarge(coarse: np.ndarray, step: list[int], shape: tuple[int, ...]) -> np.ndarray:
    """`coarse`, every `step`-th voxel of a grid of `shape`, brought back to that grid by the nearest neighbour."""
    for axis, (s, size) in enumerate(zip(step, shape, strict=True)):
        nearest = np.minimum((np.arange(size) + s // 2) // s, coarse.shape[axis] - 1)
        coarse = coarse.take(nearest, axis)
    return coarse
