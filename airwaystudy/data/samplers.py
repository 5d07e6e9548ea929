"""Draw the place of a training crop: the paper's two samplers (Zheng et al., IEEE TMI 2021) and others.

A sampler maps (store, side of the cube in voxels, random generator) to the cube's corner z, y, x, which may lie outside
the grid where an axis is shorter than the cube. `SAMPLING` names how an epoch's crops share the samplers.
"""

from collections.abc import Callable

import numpy as np

from airwaystudy.data.store import Store

MOST_LARGE = 200 / 150**3  # large-airway voxels admitted in a small-airway crop, as a share of the drawn box
TRIES = 32  # draws before the small-airway sampler takes the best it has seen

Sampler = Callable[[Store, int, np.random.Generator], np.ndarray]


def uniform_corner(store: Store, side: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform sampling: a cube anywhere in the case."""
    return random_corner(store.shape, side, rng)


def random_corner(shape: tuple[int, ...], side: int, rng: np.random.Generator) -> np.ndarray:
    """Corner of a cube of `side` voxels drawn evenly inside `shape`; centred along an axis shorter than it."""
    room = np.array(shape) - side
    return np.where(room > 0, rng.integers(0, np.maximum(room, 0) + 1), room // 2)


def count_inside(points: np.ndarray, low: np.ndarray, side: int) -> int:
    """Count the `points` (N, 3) that lie in the cube of `side` voxels at corner `low`."""
    return int(((points >= low) & (points < low + side)).all(1).sum())


def small_airway_corner(store: Store, side: int, rng: np.random.Generator) -> np.ndarray:
    """Small-airway sampling: with probability 1/2 redraw until the cube holds small airway and little large airway.

    The limit is the paper's 200 voxels in 150^3, in proportion. In a case where no cube satisfies it, the drawn cube
    with small airway and the fewest large-airway voxels is taken (ours: the paper does not say).
    """
    corner = random_corner(store.shape, side, rng)
    if rng.random() < 0.5 or not len(store.small_points):
        return corner
    best, fewest = corner, np.inf
    for _ in range(TRIES):
        if count_inside(store.small_points, corner, side):
            large = count_inside(store.large_points, corner, side)
            if large < fewest:
                best, fewest = corner, large
            if large <= MOST_LARGE * side**3:
                break
        corner = random_corner(store.shape, side, rng)
    return best


def corner_around(points: np.ndarray, shape: tuple[int, ...], side: int, rng: np.random.Generator) -> np.ndarray:
    """Corner of a cube inside `shape` that holds one of `points` (N, 3); points and places are drawn evenly."""
    point = points[rng.integers(len(points))]
    room = np.array(shape) - side
    corner = np.clip(point - rng.integers(0, side, 3), 0, np.maximum(room, 0))
    return np.where(room > 0, corner, room // 2)


def centreline_corner(store: Store, side: int, rng: np.random.Generator) -> np.ndarray:
    """Centreline sampling: a cube that holds a random centreline voxel."""
    return corner_around(store.centreline_points, store.shape, side, rng)


def hard_skeleton_corner(store: Store, side: int, rng: np.random.Generator) -> np.ndarray:
    """Hard-skeleton sampling: a cube that holds a random centreline voxel that an earlier run missed.

    Of a case without any, a cube anywhere, as in the authors' program.
    """
    if not len(store.missed_points):
        return uniform_corner(store, side, rng)
    return corner_around(store.missed_points, store.shape, side, rng)


def large_airway_corner(store: Store, side: int, rng: np.random.Generator) -> np.ndarray:
    """Large-airway sampling (ours): a cube that holds a random voxel of the large airways, or else of any airway.

    The paper's crops of 128 voxels hold them anyway; in smaller ones the other two samplers hardly ever show a trachea.
    """
    points = store.large_points if len(store.large_points) else store.centreline_points
    return corner_around(points, store.shape, side, rng)


SAMPLING: dict[str, tuple[Sampler, ...]] = {
    "uniform": (uniform_corner,),
    "small_airway": (small_airway_corner,),
    "centreline": (small_airway_corner, centreline_corner),  # ours, for a first run, which no misses are known for
    "hard_skeleton": (small_airway_corner, hard_skeleton_corner),  # the paper's
}
"""Samplers that share an epoch's crops equally, by the name of a run's setting `sampling`."""
