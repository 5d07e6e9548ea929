"""Airway trees measured as anatomists measure casts: branches, bifurcations and ratios, beside published values.

A branch runs from one fork of the axes to the next; its direction is its chord, since measured axes turn smoothly at a
fork; its diameter is the mean over its length (a phantom's) or over the middle half of it (a measured centreline's).

Published values (Weibel 1963; Horsfield & Cumming 1968; Raabe et al. 1976; Kitaoka et al. 1999) are of casts of adult
human lungs and the rules fitted to them.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from airwaylib.errors import InputError
from airwaylib.trees.parse import AirwayTree, strahler_orders

WEIBEL_LUNG_ML = 4800.0
"""Lung volume of Weibel's model A, an adult at about three quarters of maximal inflation; lengths go with its root."""

WEIBEL = pd.DataFrame(
    {
        "generation": range(17),
        "branches": [2**generation for generation in range(17)],
        "diameter_mm": [18, 12.2, 8.3, 5.6, 4.5, 3.5, 2.8, 2.3, 1.86, 1.54, 1.3, 1.09, 0.95, 0.82, 0.74, 0.66, 0.6],
        "length_mm": [120, 47.6, 19, 7.6, 12.7, 10.7, 9, 7.6, 6.4, 5.4, 4.6, 3.9, 3.3, 2.7, 2.3, 2, 1.65],
    }
)
"""Weibel, Morphometry of the Human Lung, 1963, model A: the conducting airways; trachea is generation 0."""

PUBLISHED = {
    "length_over_diameter": (2.5, 3.3, "Raabe et al. 1976, LF-53, human cast"),
    "angle_deg": (35.0, 45.0, "Raabe et al. 1976, LF-53, human cast"),
    "murray_exponent": (2.8, 3.0, "Kitaoka et al. 1999 (2.8); Murray 1926 (3)"),
    "branching_ratio": (2.51, 2.81, "Horsfield & Cumming 1968, Strahler orders"),
    "length_ratio": (1.33, 1.46, "Horsfield & Cumming 1968, Strahler orders"),
    "diameter_ratio": (1.35, 1.45, "Horsfield & Cumming 1968, Strahler orders"),
}
"""Least and largest of a scale-free property, and the source."""


def scaled_weibel(lung_ml: float) -> pd.DataFrame:
    """Weibel's model A (generation, branches, diameter_mm, length_mm, length_over_diameter) for a lung of `lung_ml`.

    Examples
    --------
    >>> scaled_weibel(600)["diameter_mm"][0]  # an eighth of the volume
    9.0
    """
    table, scale = WEIBEL.copy(), (lung_ml / WEIBEL_LUNG_ML) ** (1 / 3)
    table[["diameter_mm", "length_mm"]] *= scale
    above = table["diameter_mm"].shift()
    ratio = {"length_over_diameter": table["length_mm"] / table["diameter_mm"]}
    return table.assign(**ratio, child_over_parent=table["diameter_mm"] / above)


# ----------------------------------------------------------------------------------------------------------- trees


def branch_table(parent: np.ndarray, start: np.ndarray, end: np.ndarray, length: np.ndarray, diameter: np.ndarray):
    """Tabulate branches, parents before children, with what follows from their places.

    parent: (N,) rows, -1 for the trachea; start, end: (N, 3) mm; length, diameter: (N,) mm. Returns branch, parent,
    generation, strahler, length_mm, diameter_mm, length_over_diameter, angle_deg (to the parent's direction),
    child_over_parent (diameters); the last two are NaN for the trachea.
    """
    parent, chord = np.asarray(parent, int), np.subtract(end, start)
    generation = np.zeros(len(parent), int)
    for row, above in enumerate(parent):
        if above >= row:
            raise InputError(f"branch {row} comes before its parent {above}: parents are needed first")
        generation[row] = 0 if above < 0 else generation[above] + 1
    rooted = parent >= 0
    norm = np.maximum(np.linalg.norm(chord, axis=1), 1e-9)
    cosine = (chord * chord[parent]).sum(1) / (norm * norm[parent])
    return pd.DataFrame(
        {
            "branch": np.arange(len(parent)),
            "parent": parent,
            "generation": generation,
            "strahler": strahler_orders((parent + 1).tolist()),
            "length_mm": length,
            "diameter_mm": diameter,
            "length_over_diameter": np.divide(length, diameter),
            "angle_deg": np.where(rooted, np.degrees(np.arccos(np.clip(cosine, -1, 1))), np.nan),
            "child_over_parent": np.where(rooted, diameter / np.asarray(diameter)[parent], np.nan),
        }
    )


def phantom_branches(tree: pd.DataFrame) -> pd.DataFrame:
    """Branches (`branch_table`) of a phantom's `tree`; an axis with a middle point is the parabola through the three.

    Examples
    --------
    >>> ends = {"start_x": [0.0], "start_y": [0.0], "start_z": [30.0], "end_x": [0.0], "end_y": [0.0], "end_z": [0.0]}
    >>> tree = pd.DataFrame({"branch": [0], "parent": [-1], **ends, "radius_start": [5.5], "radius_end": [4.5]})
    >>> phantom_branches(tree)[["length_mm", "diameter_mm", "length_over_diameter"]].values.tolist()
    [[30.0, 10.0, 3.0]]
    """
    start, end = (tree[[f"{name}_{axis}" for axis in "xyz"]].to_numpy(float) for name in ("start", "end"))
    middle = (start + end) / 2
    if "middle_x" in tree:
        middle = tree[[f"middle_{axis}" for axis in "xyz"]].to_numpy(float)
    t = np.linspace(0, 1, 33)[:, None, None]
    axis = start * (1 - t) * (1 - 2 * t) + middle * 4 * t * (1 - t) + end * t * (2 * t - 1)
    length = np.linalg.norm(np.diff(axis, axis=0), axis=2).sum(0)
    row = pd.Series(np.arange(len(tree)), tree["branch"].to_numpy())
    parent = row.reindex(tree["parent"]).fillna(-1).to_numpy(int)
    return branch_table(parent, start, end, length, (tree["radius_start"] + tree["radius_end"]).to_numpy(float))


class Centreline(NamedTuple):
    """Axes of an airway tree: `points` (N, 3) and `radius` (N,) in mm, `edges` (M, 2) rows of neighbouring points."""

    points: np.ndarray
    radius: np.ndarray
    edges: np.ndarray


def centreline_branches(line: Centreline) -> pd.DataFrame:
    """Cut a centreline where it forks: its branches (`branch_table`) from the widest free end, taken for the top.

    Raises `InputError`: it is not one tree: in several parts, or with a ring.
    """
    near: list[list[int]] = [[] for _ in line.points]
    for one, other in line.edges.tolist():
        near[one].append(other)
        near[other].append(one)
    if len(line.edges) != len(line.points) - 1:
        raise InputError(f"centreline of {len(line.points)} points and {len(line.edges)} edges: a tree has one fewer")
    ends = [point for point, around in enumerate(near) if len(around) == 1]
    top = max(ends, key=lambda point: line.radius[point])
    ways, parent, stack, seen = [], [], [(top, near[top][0], -1)], {top}
    while stack:
        before, point, above = stack.pop()
        way = [before, point]
        while len(near[point]) == 2:
            point = next(p for p in near[point] if p != way[-2])
            way.append(point)
        seen.update(way)
        stack += [(point, after, len(ways)) for after in near[point] if after != way[-2]]
        ways.append(np.array(way))
        parent.append(above)
    if len(seen) < len(line.points):
        raise InputError(f"centreline in several parts: {len(line.points) - len(seen)} points hang on no other")
    measured = np.array([measure_way(line.points[way], line.radius[way]) for way in ways])
    start, end = (line.points[[way[which] for way in ways]] for which in (0, -1))
    return branch_table(np.array(parent), start, end, *measured.T)


def parsed_branches(tree: AirwayTree) -> pd.DataFrame:
    """Tabulate the merged branches (`branch_table`) of a mask's parsed tree."""
    table = tree.branches
    start, end = (table[[f"{name}_{axis}" for axis in "xyz"]].to_numpy() for name in ("start", "end"))
    return branch_table(
        table["parent"] - 1, start, end, table["length_mm"].to_numpy(), 2 * table["radius_mm"].to_numpy()
    )


def measure_way(points: np.ndarray, radius: np.ndarray) -> tuple[float, float]:
    """Length of a way (n, 3) and mean diameter over the middle half of it, weighted by length; mm."""
    step = np.linalg.norm(np.diff(points, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(step)])
    middle = np.linspace(along[-1] / 4, along[-1] * 3 / 4, 51)
    return float(along[-1]), 2 * float(np.interp(middle, along, radius).mean())


# ------------------------------------------------------------------------------------------------------- morphometry


def by_generation(branches: pd.DataFrame, by: str = "generation") -> pd.DataFrame:
    """Branches, and mean and standard deviation of each property, by generation (or `by` another column).

    Returns `by`, branches and of each property PROPERTY and PROPERTY_sd (NaN of a single branch).
    """
    properties = ["length_mm", "diameter_mm", "length_over_diameter", "angle_deg", "child_over_parent"]
    groups = branches.groupby(by)
    spread = groups[properties].std().add_suffix("_sd")
    table = pd.concat([groups.size().rename("branches"), groups[properties].mean(), spread], axis=1)
    return table.reset_index()


def murray_exponent(parent: float, one: float, other: float) -> float:
    """Solve parent^x = one^x + other^x for three diameters or radii; infinite if a child is as wide as the parent.

    Examples
    --------
    >>> round(murray_exponent(2 ** (1 / 3), 1, 1), 6)
    3.0
    """
    wider, thinner = max(one, other) / parent, min(one, other) / parent
    if wider >= 1:
        return np.inf
    most = np.log(2) / -np.log(wider)  # with two children as wide as the wider
    return float(brentq(lambda x: wider**x + thinner**x - 1, 0, most * (1 + 1e-9)))


def murray_exponents(branches: pd.DataFrame) -> np.ndarray:
    """Exponent of each fork in two, in the order of the parents."""
    forks = branches[branches["parent"] >= 0].groupby("parent")["diameter_mm"].agg(list)
    width = branches.set_index("branch")["diameter_mm"]
    return np.array([murray_exponent(width[parent], *two) for parent, two in forks.items() if len(two) == 2])


def quartiles(values: np.ndarray) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of what is not NaN; infinite values count as large."""
    values = np.sort(np.asarray(values, float)[~np.isnan(values)])
    if not len(values):
        return np.nan, np.nan, np.nan
    return tuple(float(q) for q in np.quantile(values, [0.25, 0.5, 0.75], method="closest_observation"))


def order_ratios(branches: pd.DataFrame) -> dict[str, float]:
    """Horton's ratios over Strahler orders: how many times fewer, longer and wider branches are an order higher.

    The antilogarithm of the slope of log(branches, mean length, mean diameter) over the order, by least squares, the
    trachea's order left out. A tree cut off at a diameter has its orders cut off, too: the ratios stay comparable.
    """
    table = by_generation(branches, "strahler").iloc[:-1]
    if len(table) < 2:
        return {"branching_ratio": np.nan, "length_ratio": np.nan, "diameter_ratio": np.nan}
    names = {"branching_ratio": "branches", "length_ratio": "length_mm", "diameter_ratio": "diameter_mm"}
    slope = {name: np.polyfit(table["strahler"], np.log(table[of]), 1)[0] for name, of in names.items()}
    return {name: float(np.exp(abs(value))) for name, value in slope.items()}


def summary(branches: pd.DataFrame) -> dict[str, float]:
    """A tree in scale-free numbers (medians over branches or forks) and its trachea and main bronchi in mm."""
    bronchi = branches[branches["generation"] > 0]
    main = branches.loc[branches["generation"] == 1, "diameter_mm"]
    low, median, high = quartiles(murray_exponents(branches))
    return {
        "branches": len(branches),
        "generations": int(branches["generation"].max()),
        "trachea_diameter_mm": float(branches["diameter_mm"].iloc[0]),
        "main_bronchus_diameter_mm": float(main.mean()),
        "length_over_diameter": float(bronchi["length_over_diameter"].median()),
        "angle_deg": float(bronchi["angle_deg"].median()),
        "child_over_parent": float(bronchi["child_over_parent"].median()),
        "murray_exponent": median,
        "murray_exponent_q1": low,
        "murray_exponent_q3": high,
        **order_ratios(branches),
    }


# ---------------------------------------------------------------------------------------------------------- VTU files


def read_centreline(path: str | Path) -> Centreline:
    """Read lines of two points each and their point data `radius` from a VTK XML unstructured grid (.vtu).

    Raises `InputError`: not such a file; cells that are not lines; no radius.
    """
    from meshio import vtu

    try:
        mesh = vtu.read(path)
    except Exception as error:  # of any type: meshio raises what it meets in a damaged file
        raise InputError(f"{path}: not a VTK XML file of an unstructured grid ({error})") from error
    if "radius" not in mesh.point_data:
        raise InputError(f"{path}: no point data radius; the radii of the centreline are needed")
    if [cells.type for cells in mesh.cells] != ["line"]:
        raise InputError(f"{path}: every cell must be a line of two points")
    radius, edges = mesh.point_data["radius"].astype(float), mesh.cells[0].data.astype(int)
    return Centreline(mesh.points.astype(float), radius, edges)
