"""Draw a chest: the image, the thorax's place in it, and the brushes that lay tissues over it."""

from collections.abc import Callable

import numpy as np

from airwaystudy.phantoms.drawing import Grid, blend, coverage, draw_tubes, refine
from airwaystudy.phantoms.thorax import Axes, Thorax

AIR = -1000  # HU
Tubes = tuple[np.ndarray, np.ndarray, np.ndarray]  # start (N, 3), end (N, 3), radii (N, 2) in mm


class Scene:
    """An image (float32 HU, air at first) of a thorax on a grid.

    Surfaces are given by their depth on a coarse `lattice` (standard coordinates u, v, w of its points, z, y, x): they
    should be smooth on the scale of 3 standard mm.
    """

    def __init__(self, grid: Grid, thorax: Thorax, rng: np.random.Generator):
        self.grid, self.thorax, self.rng = grid, thorax, rng
        self.mm = float(thorax.scale[0])  # to a standard one
        self.step = 3 * self.mm
        self.image = np.full(grid.shape, AIR, np.float32)
        sides = (np.arange(0, length + self.step, self.step, dtype=np.float32) for length in grid.extent[::-1])
        z, y, x = np.ix_(*sides)
        shape = z.size, y.size, x.size
        self.lattice: Axes = tuple(np.broadcast_to(a, shape).astype(np.float32) for a in thorax.standard(x, y, z))

    def paint(
        self, hu: float, depth: np.ndarray, form: Callable[[np.ndarray], np.ndarray] = lambda depth: depth
    ) -> None:
        """Lay `hu` over the image where `form(depth)` is positive; depth on the lattice, in standard mm.

        `form` is applied after interpolation: thin sheets keep their edges.
        """
        rows = np.flatnonzero(depth.max((1, 2)) > -2 * self.step)
        for slab in self.grid.slabs():
            ends = np.array([slab.start - 1, slab.stop]) * self.grid.spacing[2] / self.step
            if ((rows >= ends[0] - 1) & (rows <= ends[1] + 1)).any():
                inside = form(refine(depth, self.grid, self.step, slab)) * np.float32(self.mm)
                blend(self.image[slab], hu, coverage(-inside, self.grid.resolution))

    def tubes(self, hu: float, tubes: Tubes, within: np.ndarray | None = None) -> None:
        """Lay tubes of `hu` over the image, or over the part of it in the mask `within`."""
        start, end, radii = tubes
        if not len(start):
            return
        reach = radii.max() + 2 * max(self.grid.spacing)
        box = self.grid.box(np.minimum(start, end).min(0) - reach, np.maximum(start, end).max(0) + reach)
        part = self.image[box]
        if part.size:
            corner = np.array([side.start for side in box[::-1]]) * self.grid.spacing
            grid = Grid(part.shape, self.grid.spacing)
            distance = draw_tubes(grid, start - corner, end - corner, radii)
            for slab in grid.slabs():
                share = coverage(distance[slab], grid.resolution)
                blend(part[slab], hu, share if within is None else share * within[box][slab])

    def chain(self, points: np.ndarray, radii: float | np.ndarray) -> Tubes:
        """A tube through `points` (N, 3) of `radii` (one or N), both in standard mm."""
        placed = self.thorax.place(np.asarray(points, float))
        radii = np.broadcast_to(radii, len(placed)) * self.mm
        return placed[:-1], placed[1:], np.stack([radii[:-1], radii[1:]], 1)


def join(*tubes: Tubes) -> Tubes:
    """Several sets of tubes as one."""
    return tuple(np.concatenate(part) for part in zip(*tubes, strict=True))


def balls(centres: np.ndarray, radius: np.ndarray) -> Tubes:
    """Balls (N, 3), (N,) as tubes without length."""
    return centres, centres, np.stack([radius, radius], 1)
