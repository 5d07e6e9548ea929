"""Sample the axes of a table of branches: points and radii along each, and straight pieces between them."""

import numpy as np
import pandas as pd

POINTS = [f"{place}_{axis}" for place in ("start", "middle", "end") for axis in "xyz"]
TREE_COLUMNS = ["branch", "parent", "generation", *POINTS, "radius_start", "radius_end"]  # mm, LPS; parent -1: the root


def axes(tree: pd.DataFrame, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points on the axes of a tree's branches, at most about `step` mm apart, both ends included.

    Returns the row of each point's branch (N,), the points (N, 3; x, y, z in mm), and the radius there in mm (N,).
    """
    start, middle, end = (
        tree[[f"{place}_{axis}" for axis in "xyz"]].to_numpy() for place in ("start", "middle", "end")
    )
    length = np.linalg.norm(middle - start, axis=1) + np.linalg.norm(end - middle, axis=1)
    count = np.ceil(length / step).astype(int) + 1
    row = np.repeat(np.arange(len(tree)), np.maximum(count, 2))
    t = np.concatenate([np.linspace(0, 1, max(n, 2)) for n in count])[:, None] if len(tree) else np.zeros((0, 1))
    points = (1 - t) * (1 - 2 * t) * start[row] + 4 * t * (1 - t) * middle[row] + t * (2 * t - 1) * end[row]
    first, last = (tree[name].to_numpy()[row] for name in ("radius_start", "radius_end"))
    return row, points, first + t[:, 0] * (last - first)


def tubes(tree: pd.DataFrame, step: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Straight pieces of at most about `step` mm that make up a tree: start (N, 3), end (N, 3), radii (N, 2) in mm."""
    row, points, radius = axes(tree, step)
    joined = row[1:] == row[:-1]
    return points[:-1][joined], points[1:][joined], np.stack([radius[:-1], radius[1:]], 1)[joined]
