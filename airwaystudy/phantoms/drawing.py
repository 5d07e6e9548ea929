"""Tissues drawn into an image by their signed distances: tapered tubes, and surfaces given by a function.

A distance is in mm, negative inside. The share of a voxel that a tissue fills follows from it, so that thin walls and
small lumens come out as bright as partial volume makes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, int, int]  # z, y, x
SLAB = 32  # slices drawn at a time, so that intermediate results stay small


@dataclass(frozen=True)
class Grid:
    """Voxels of an image: shape (z, y, x) and spacing (x, y, z) in mm; the first voxel's centre is at 0."""

    shape: Shape
    spacing: tuple[float, float, float]

    @property
    def extent(self) -> np.ndarray:
        """Size in mm (x, y, z)."""
        return np.array(self.shape[::-1]) * self.spacing

    @property
    def resolution(self) -> float:
        """Side in mm of the cube as large as a voxel: partial volume is reckoned over it."""
        return float(np.prod(self.spacing) ** (1 / 3))

    def axes(self, box: tuple[slice, slice, slice] = (slice(None),) * 3) -> list[np.ndarray]:
        """Coordinates x, y, z in mm of the voxels in `box` (z, y, x): float32, shaped to broadcast to (z, y, x)."""
        ranges = [np.arange(size, dtype=np.float32)[part] for size, part in zip(self.shape, box, strict=True)]
        z, y, x = np.ix_(*ranges)
        return [axis * np.float32(step) for axis, step in zip((x, y, z), self.spacing, strict=True)]

    def box(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, slice]:
        """Slices (z, y, x) of the voxels between the points `low` and `high` (x, y, z in mm), within the grid."""
        first = np.clip(np.floor(np.divide(low, self.spacing)), 0, self.shape[::-1]).astype(int)
        last = np.clip(np.ceil(np.divide(high, self.spacing)) + 1, 0, self.shape[::-1]).astype(int)
        return tuple(slice(a, b) for a, b in zip(first[::-1], last[::-1], strict=True))

    def slabs(self) -> Iterator[slice]:
        """Ranges of slices that make up the grid."""
        for low in range(0, self.shape[0], SLAB):
            yield slice(low, min(low + SLAB, self.shape[0]))


def coverage(distance: np.ndarray, resolution: float) -> np.ndarray:
    """Share of a voxel that lies inside a surface, by the signed `distance` (mm) of its centre and its side (mm)."""
    return np.clip(0.5 - distance / np.float32(resolution), 0, 1)


def blend(image: np.ndarray, hu: float | np.ndarray, share: np.ndarray) -> None:
    """Lay a tissue of `hu` over `image` in place, `share` of each voxel."""
    share *= hu - image
    image += share


def draw_tubes(grid: Grid, start: np.ndarray, end: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Signed distance in mm (float32 (z, y, x), at most one voxel) to the union of tapered round-ended tubes.

    start, end: (N, 3) x, y, z in mm; radii: (N, 2) mm at start and end. Exact for an even tube; beside one that tapers
    with slope t, too large by a factor of sqrt(1 + t^2). A tube without length is a ball.
    """
    # Strategy: distance to a tube = distance to its axis - radius there, in a box of the voxels within one voxel of it.
    most = np.float32(max(grid.spacing))
    distance = np.full(grid.shape, most, np.float32)
    reach = radii.max(1, keepdims=True) + most
    low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
    seen = ((high >= 0) & (low <= grid.extent)).all(1)
    for a, b, (r0, r1), lo, hi in zip(*(values[seen] for values in (start, end, radii, low, high)), strict=True):
        box = grid.box(lo, hi)
        x, y, z = (axis - np.float32(origin) for axis, origin in zip(grid.axes(box), a, strict=True))
        ab = (b - a).astype(np.float32)
        along = np.clip((x * ab[0] + y * ab[1] + z * ab[2]) / max(float(ab @ ab), 1e-6), 0, 1)
        squared = (x - along * ab[0]) ** 2 + (y - along * ab[1]) ** 2 + (z - along * ab[2]) ** 2
        np.minimum(distance[box], np.sqrt(squared) - np.float32(r0) - along * np.float32(r1 - r0), out=distance[box])
    return distance


def refine(coarse: np.ndarray, grid: Grid, step: float, slab: slice) -> np.ndarray:
    """Interpolate values on a lattice of `step` mm to slices of the grid, linearly; float32 (slices, y, x)."""
    # Strategy: one axis after the other, slices first, so that only the last is done at full size.
    for axis, (size, spacing) in enumerate(zip(grid.shape, grid.spacing[::-1], strict=True)):
        at = np.arange(size)[slab if axis == 0 else slice(None)] * (spacing / step)
        node = np.minimum(at.astype(int), coarse.shape[axis] - 2)
        share = (at - node).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        low = coarse.take(node, axis)
        high = coarse.take(node + 1, axis)
        high -= low
        high *= share
        high += low
        coarse = high
    return coarse


def draw_axes(grid: Grid, points: list[np.ndarray]) -> np.ndarray:
    """Mark the voxels that each polyline passes through, 6-connected; points (N, 3) x, y, z in mm; boolean."""
    mask = np.zeros(grid.shape, bool)
    for line in points:
        steps = np.ceil(np.abs(np.diff(line, axis=0) / grid.spacing).max(1) * 4).astype(int) + 1
        pieces = [a + np.linspace(0, 1, n)[:, None] * (b - a) for a, b, n in zip(line, line[1:], steps, strict=False)]
        index = np.rint(np.concatenate(pieces) / grid.spacing).astype(int)
        # Where two voxels in a row differ along several axes, pass them one axis after the other.
        by_x, by_xy = index.copy(), index.copy()
        by_x[:-1, 0], by_xy[:-1, :2] = index[1:, 0], index[1:, :2]
        index = np.concatenate([index, by_x, by_xy])
        index = index[((index >= 0) & (index < grid.shape[::-1])).all(1)]
        mask[index[:, 2], index[:, 1], index[:, 0]] = True
    return mask
