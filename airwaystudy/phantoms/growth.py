"""Space-filling trees of airways and vessels grown inside a thorax.

The large branches to the five lobes are laid out by hand, with the variation of patients. Beyond, the tree grows as in
Tawhai, Pullan & Hunter, Ann. Biomed. Eng. 28:793, 2000: the volume of a lobe is halved again and again by a plane
through its centroid, and a branch grows towards the centroid of each half. Radii follow Murray's law (PNAS 12:207,
1926), with an exponent of one's own, from the volume of lung that a branch serves.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from airwaylib.trees.axes import TREE_COLUMNS
from airwaystudy.phantoms.thorax import Thorax

MOST_BEND = np.deg2rad(65)  # of a branch from its parent's direction
LEAF = 25  # points of a lung; a branch that served fewer is not grown

# The large branches: name, parent, end in standard mm from the carina (u left, v back, w up), lobes served by number.
AIRWAYS = (
    ("right main", "trachea", (-21, 2, -22), (0, 1, 2)),
    ("left main", "trachea", (38, 9, -29), (3, 4)),
    ("right upper", "right main", (-40, 4, -14), (0,)),
    ("intermediate", "right main", (-27, 7, -48), (1, 2)),
    ("right middle", "intermediate", (-40, -15, -64), (1,)),
    ("right lower", "intermediate", (-34, 17, -67), (2,)),
    ("left upper", "left main", (54, -4, -27), (3,)),
    ("left lower", "left main", (46, 17, -46), (4,)),
)
VEINS = (  # from the left atrium; the root is a stub inside it
    ("right veins", "atrium", (-26, 2, -42), (0, 1, 2)),
    ("left veins", "atrium", (30, 4, -40), (3, 4)),
    ("right superior", "right veins", (-36, -10, -36), (0, 1)),
    ("right inferior", "right veins", (-38, 12, -62), (2,)),
    ("right upper", "right superior", (-46, -10, -22), (0,)),
    ("right middle", "right superior", (-44, -20, -52), (1,)),
    ("left superior", "left veins", (48, -12, -30), (3,)),
    ("left inferior", "left veins", (44, 16, -58), (4,)),
)


@dataclass(frozen=True)
class Branch:
    """An airway or vessel; mm. Its axis is the parabola through start, middle and end."""

    parent: int
    generation: int
    start: np.ndarray  # x, y, z
    middle: np.ndarray
    end: np.ndarray
    points: int  # of the lung, that it serves

    @property
    def heading(self) -> np.ndarray:
        """Direction at its end, a unit vector."""
        return unit(3 * self.end - 4 * self.middle + self.start)


class Tree:
    """Branches grown so far in a thorax, parents before children."""

    def __init__(self, thorax: Thorax, rng: np.random.Generator):
        self.thorax, self.rng = thorax, rng
        self.branches: list[Branch] = []

    def add(self, parent: int, start: np.ndarray, end: np.ndarray, points: int) -> int:
        """Append a branch, which leaves in part along its parent's direction; returns its number."""
        generation, middle, length = 0, (start + end) / 2, np.linalg.norm(end - start)
        if parent >= 0:
            generation = self.branches[parent].generation + 1
            chord = unit(end - start)
            onward = self.branches[parent].heading + self.rng.normal(0, 0.25, 3)
            middle += 0.09 * length * (onward - (onward @ chord) * chord)
        self.branches.append(Branch(parent, generation, start, middle, end, points))
        return len(self.branches) - 1

    def grow(self, stem: int, points: np.ndarray) -> None:
        """Fill `points` (N, 3; mm) with pairs of branches from the end of `stem`."""
        stack = [(stem, points)]
        while stack:
            parent, served = stack.pop()
            start, direction = self.branches[parent].end, self.branches[parent].heading
            halves = halve(served, direction, self.rng)
            if min(map(len, halves)) < LEAF:
                continue
            for half in halves:
                reach = half.mean(0) - start
                heading = bend(direction, unit(unit(reach) + 0.55 * direction))
                length = np.linalg.norm(reach) * self.rng.uniform(0.42, 0.62)
                if not self.thorax.holds(start + length * heading):
                    heading = unit(reach)
                while not self.thorax.holds(start + length * heading) and length > 1:
                    length *= 0.8
                stack.append((self.add(parent, start, start + length * heading, len(half)), half))

    def table(self, root_radius: float, exponent: float = 3.0) -> pd.DataFrame:
        """Tabulate the branches, one row each (TREE_COLUMNS), with radii by Murray's law: r^exponent adds up.

        root_radius in mm, at the middle of the root.
        """
        most, rows = self.branches[0].points, []
        for number, branch in enumerate(self.branches):
            radius = root_radius * (branch.points / most) ** (1 / exponent)
            place = *branch.start, *branch.middle, *branch.end
            rows.append([number, branch.parent, branch.generation, *place, 1.06 * radius, 0.94 * radius])
        return pd.DataFrame(rows, columns=TREE_COLUMNS)


def prune(tree: pd.DataFrame, smallest: float) -> pd.DataFrame:
    """Leave out the pairs with a branch under radius `smallest` (mm; at its middle) and all beyond; renumbered."""
    radius = (tree["radius_start"] + tree["radius_end"]) / 2
    thinnest = radius.groupby(tree["parent"]).transform("min")  # of a branch and its sibling
    number = {-1: -1}
    for branch, parent, least in zip(tree["branch"], tree["parent"], thinnest, strict=True):
        if parent in number and least >= smallest:
            number[branch] = len(number) - 1
    kept = tree[tree["branch"].isin(number)].reset_index(drop=True)
    return kept.assign(branch=kept["branch"].map(number), parent=kept["parent"].map(number))


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
    """Split `points` (N, 3) by a plane that holds `direction` and cuts their widest spread near their centroid.

    The two parts differ by up to a half or so: airways do not divide evenly.
    """
    centred = points - points.mean(0)
    flat = centred - np.outer(centred @ direction, direction)
    normal = np.linalg.eigh(flat.T @ flat)[1][:, -1] + rng.normal(0, 0.15, 3)
    along = centred @ unit(normal - (normal @ direction) * direction)
    side = along > rng.normal(0, 0.22) * along.std()
    return points[side], points[~side]


def grow_tree(
    thorax: Thorax,
    root: np.ndarray,
    plan: tuple,
    lobes: list[np.ndarray],
    rng: np.random.Generator,
) -> Tree:
    """Grow a root, the large branches of `plan`, and pairs of branches that fill the points of each of the `lobes`.

    root: its start and end (2, 3) in standard mm. plan: AIRWAYS or VEINS. lobes: (N, 3) in mm each, see `Thorax.fill`.
    """
    tree = Tree(thorax, rng)
    start, end = thorax.place(root)
    number = {plan[0][1]: tree.add(-1, start, end, sum(map(len, lobes)))}
    for name, parent, offset, served in plan:
        reach = np.array(offset) * rng.normal(1, 0.1, 3) + rng.normal(0, 1.5, 3)
        target = thorax.place((thorax.carina + reach)[None])[0]
        points = np.concatenate([lobes[lobe] for lobe in served])
        number[name] = tree.add(number[parent], tree.branches[number[parent]].end, target, len(points))
        if len(served) == 1:
            tree.grow(number[name], points)
    return tree
