"""A space-filling airway tree grown inside a schematic thorax.

The tree grows as in Tawhai, Pullan & Hunter, Ann. Biomed. Eng. 28:793, 2000: the volume of a lung is halved again and
again by a plane through its centroid, and a branch grows towards the centroid of each half. Radii follow Murray's law
(PNAS 12:207, 1926) from the subtended volume. The thorax and its numbers are our own choice and schematic.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

TREE_COLUMNS = ["branch", "parent", "generation", "start_x", "start_y", "start_z", "end_x", "end_y", "end_z"]
TREE_COLUMNS += ["radius_start", "radius_end"]  # mm, LPS; parent -1 for the trachea
MOST_BEND = np.deg2rad(65)  # of a branch from its parent's direction


# --------------------------------------------------------------------------------------------------------------- thorax


@dataclass(frozen=True)
class Thorax:
    """A schematic thorax in mm: elliptic body, two lungs over a domed diaphragm, mediastinum between; one a case."""

    extent: np.ndarray  # x, y, z
    centre: np.ndarray  # x, y of the body's axis
    body: np.ndarray  # semi-axes x, y
    mediastinum: float  # half width
    heart: float  # how far the heart bulges into the left lung
    dome: float  # height of the diaphragm
    carina: np.ndarray  # x, y, z

    @classmethod
    def random(cls, extent: np.ndarray, rng: np.random.Generator) -> "Thorax":
        """Draw a thorax that fills `extent` (x, y, z in mm)."""
        centre = extent[:2] * (0.5 + rng.uniform(-0.01, 0.01, 2))
        body = extent[:2] * np.array([0.465, 0.36]) * rng.uniform(0.97, 1.03, 2)
        carina = np.array([*centre, extent[2] * rng.uniform(0.60, 0.66)])
        carina += extent * np.array([rng.uniform(-0.01, 0.01), rng.uniform(0.02, 0.05), 0])
        mediastinum, heart, dome = body[0] * rng.uniform([0.13, 0.20, 0.25], [0.17, 0.32, 0.40])
        values = (extent, centre, body, mediastinum, heart, dome, carina)
        return cls(*map(np.float32, values))  # float64 would double the memory of all images made from them

    def body_depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Depth under the skin in mm (negative outside), to first order."""
        elliptic = np.hypot((x - self.centre[0]) / self.body[0], (y - self.centre[1]) / self.body[1])
        return (1 - elliptic) * self.body.min()

    def lung_depth(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Depth inside the nearer lung in mm (negative outside), to first order; broadcasts x, y, z in mm."""
        u, v = x - self.centre[0], y - self.centre[1]
        height = z / self.extent[2]
        # The cage narrows to the apex at 97 % of the height; below the middle it is a cylinder.
        narrowing = np.sqrt(np.clip(1 - (np.clip(height - 0.45, 0, None) / 0.52) ** 2, 0, 1)) + 1e-3
        cage = 0.84 * self.body
        wall = (narrowing - np.hypot(u / cage[0], v / cage[1])) * cage.min()
        bulge = np.exp(-(((height - 0.30) / 0.18) ** 2)) * np.exp(-((v / self.body[1] + 0.35) ** 2) / 0.18)
        side = np.abs(u) - self.mediastinum - np.where(u > 0, self.heart, 0.3 * self.heart) * bulge
        lobe = np.abs(u) - 0.52 * self.body[0]
        dome = self.dome * np.exp(-(lobe**2 + (v + 0.1 * self.body[1]) ** 2) / cage.min() ** 2)
        return np.minimum(np.minimum(wall, side), z - 0.06 * self.extent[2] - dome)


# ----------------------------------------------------------------------------------------------------------------- tree


@dataclass(frozen=True)
class Branch:
    """A straight airway or vessel; mm."""

    parent: int
    generation: int
    start: np.ndarray  # x, y, z
    end: np.ndarray
    radius: float  # at its middle


class Tree:
    """Branches grown so far in a thorax, parents before children, to serve `points` points of its lungs."""

    def __init__(self, thorax: Thorax, root_radius: float, points: int):
        self.thorax, self.root_radius, self.points = thorax, root_radius, points
        self.branches: list[Branch] = []

    def murray(self, points: int) -> float:
        """Radius in mm of a branch that serves `points` points, by Murray's law: flow goes with the radius cubed."""
        return self.root_radius * (points / self.points) ** (1 / 3)

    def add(self, parent: int, start: np.ndarray, end: np.ndarray, points: int) -> int:
        """Append a branch; returns its number."""
        generation = 0 if parent < 0 else self.branches[parent].generation + 1
        self.branches.append(Branch(parent, generation, start, end, self.murray(points)))
        return len(self.branches) - 1

    def grow(self, stem: int, points: np.ndarray, smallest: float, rng: np.random.Generator) -> None:
        """Fill `points` (N, 3; mm) with pairs of branches from the end of `stem`, none under radius `smallest`."""
        stack = [(stem, points)]
        while stack:
            parent, served = stack.pop()
            start, direction = self.branches[parent].end, unit(self.branches[parent].end - self.branches[parent].start)
            halves = halve(served, direction, rng)
            if min(self.murray(len(half)) for half in halves) < smallest:
                continue
            for half in halves:
                reach = half.mean(0) - start
                heading = bend(direction, unit(reach))
                length = max(np.linalg.norm(reach) * rng.uniform(0.46, 0.58), 3 * self.murray(len(half)))
                while self.thorax.lung_depth(*(start + length * heading)) <= 1 and length > 1:
                    length *= 0.8
                stack.append((self.add(parent, start, start + length * heading, len(half)), half))

    def table(self, smallest: float = 0.0) -> pd.DataFrame:
        """Tabulate the branches, one row each (TREE_COLUMNS), without pairs that reach below radius `smallest`."""
        thinnest = np.full(len(self.branches) + 1, np.inf)  # child of each branch; the last entry is of parent -1
        for branch in self.branches:
            thinnest[branch.parent] = min(thinnest[branch.parent], branch.radius)
        number, rows = {-1: -1}, []
        for old, branch in enumerate(self.branches):
            if branch.parent in number and thinnest[branch.parent] >= smallest:
                number[old] = len(rows)
                radii = 1.06 * branch.radius, 0.94 * branch.radius
                rows.append([len(rows), number[branch.parent], branch.generation, *branch.start, *branch.end, *radii])
        return pd.DataFrame(rows, columns=TREE_COLUMNS)


def unit(vector: np.ndarray) -> np.ndarray:
    """Scale `vector` to length 1."""
    return vector / max(np.linalg.norm(vector), 1e-9)


def bend(direction: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """Turn `heading` back to within MOST_BEND of `direction` (unit vectors)."""
    along = float(direction @ heading)
    if along >= np.cos(MOST_BEND):
        return heading
    across = unit(heading - along * direction)
    return np.cos(MOST_BEND) * direction + np.sin(MOST_BEND) * across


def halve(points: np.ndarray, direction: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split `points` (N, 3) by the plane through their centroid that holds `direction` and cuts their widest spread."""
    centred = points - points.mean(0)
    flat = centred - np.outer(centred @ direction, direction)
    normal = np.linalg.eigh(flat.T @ flat)[1][:, -1] + rng.normal(0, 0.15, 3)
    side = centred @ unit(normal - (normal @ direction) * direction) > 0
    return points[side], points[~side]


def grow_tree(
    thorax: Thorax,
    hila: np.ndarray,
    points: list[np.ndarray],
    trachea_radius: float,
    smallest: float,
    rng: np.random.Generator,
) -> Tree:
    """Grow a trachea, a stem to each lung's hilum (2, 3; mm), and pairs of branches that fill each lung's `points`.

    `trachea_radius` in mm is varied by 6 %; no pair has a branch under radius `smallest` in mm.
    """
    tree = Tree(thorax, trachea_radius * rng.uniform(0.94, 1.06), sum(map(len, points)))
    top = thorax.carina * [1, 1, 0] + [*(thorax.extent[:2] * rng.uniform(-0.02, 0.02, 2)), thorax.extent[2]]
    trachea = tree.add(-1, top, thorax.carina, tree.points)
    for hilum, served in zip(hila, points, strict=True):
        stem = tree.add(trachea, thorax.carina, hilum, len(served))
        tree.grow(stem, served, smallest, rng)
    return tree


def grow_points(thorax: Thorax, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Spread `count` points over both lungs, 2 mm or more under the pleura: [right (n, 3), left (m, 3)] in mm."""
    points = rng.uniform(0, thorax.extent, (12 * count, 3))
    points = points[thorax.lung_depth(*points.T) > 2][:count]
    left = points[:, 0] > thorax.centre[0]
    return [points[~left], points[left]]
