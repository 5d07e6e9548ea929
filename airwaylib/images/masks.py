"""Boxes, components and holes of boolean masks `(z, y, x)`; components are labelled by cc3d."""

import cc3d
import numpy as np

from airwaylib.errors import InputError

Box = tuple[slice, slice, slice]


def bounding_box(mask: np.ndarray, margin: int = 0) -> Box:
    """Bounding box (z, y, x) of a mask's True voxels and `margin` voxels around it, cut at the border.

    Raises `InputError`: the mask is empty.
    """
    planes = np.flatnonzero(mask.any((1, 2)))
    if not len(planes):
        raise InputError("the mask is empty: there is no airway in it")
    seen = mask[planes[0] : planes[-1] + 1].any(0)
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    return tuple(
        slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + 1 + margin, size))
        for found, size in zip((planes, rows, columns), mask.shape, strict=True)
    )


def largest_component(mask: np.ndarray, connectivity: int = 6) -> np.ndarray:
    """Keep the largest component of a mask, 6- or 26-connected; of equal ones the first in raster order.

    An empty mask stays empty.
    """
    largest = np.zeros_like(mask)
    if mask.any():
        box = bounding_box(mask)
        part = np.pad(mask[box], 1)  # without a margin, cc3d fails on single rows (26-connected)
        label = cc3d.connected_components(part, connectivity=connectivity, binary_image=True)
        # Counting here takes half as long as cc3d.largest_k, which measures every component first.
        largest[box] = (label == np.bincount(label[part]).argmax())[1:-1, 1:-1, 1:-1]
    return largest


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill the background that no 6-connected way leads out of; the mask's border voxels must be False."""
    background = cc3d.connected_components(~mask, connectivity=6, binary_image=True)
    return background != background[0, 0, 0]  # the corner is outside
