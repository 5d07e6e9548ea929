"""Score an airway mask against a reference mask, under a named convention (see `reference`).

TD (tree length detected) is the share of the reference skeleton's voxels inside the prediction. BD (branches detected)
is the share of reference branches with at least 80 % of their skeleton inside. The trachea is included.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from airwaylib.errors import InputError
from airwaylib.images.masks import largest_component
from airwaylib.metrics.exact09 import exact09_columns
from airwaylib.metrics.reference import Reference, Spacing, convention_by_name, parse_reference
from airwaylib.trees.segments import cut_out, label_points, parser_order, skeleton_pairs
from airwaylib.trees.skeleton import coordinates, thin_voxels

DETECTED = 0.8  # share of a branch's skeleton voxels that must be inside the prediction
DIAMETERS = (0, 2, 4, 6, 8, 20)  # mm; bins of Zheng et al. 2021, figure 9; the last one is open


def evaluate(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Spacing = (1.0, 1.0, 1.0),
    convention: str = "paper",
    branches: np.ndarray | None = None,
) -> dict[str, float]:
    """Score an airway mask against a reference mask.

    Raises `InputError`: masks that are not 3-D or hold other values, different shapes, an empty reference, an unknown
    convention.

    Parameters
    ----------
    prediction, reference : array (z, y, x)
        Airway masks on one grid: boolean, or 0 and 1 of any type.
    spacing : tuple
        x, y, z in mm.
    convention : str
        "paper", "atm22", "atm26", "aiib23" or "exact09"; see `reference`.
    branches : array, optional
        Given labels of the reference's branches (z, y, x; 0 outside). By default the reference is parsed.

    Returns
    -------
    dict
        In percent: `td`, `bd`, `dsc`, `precision`, `tpr`, `fpr` (of the background's voxels), `iou`, `leakage` (false
        voxels by label voxels), `amr` (missed by label voxels), `cldice`. Then `betti0_error`, `branches`,
        `branches_detected`, `length_mm` (of the tree) and `length_detected_mm`. Under "exact09" also the columns that
        `exact09.COLUMNS` lists. An empty prediction scores 0 (`amr` 100, `betti0_error` 1). `betti0_error` is 0 where
        the convention takes the largest component.

    Examples
    --------
    >>> reference = np.zeros((9, 9, 20), bool); reference[3:6, 3:6] = True
    >>> half = reference.copy(); half[:, :, 10:] = False
    >>> scores = evaluate(half, reference, spacing=(0.7, 0.7, 1.0), convention="atm22")
    >>> scores["precision"], scores["tpr"], round(scores["dsc"], 1)
    (100.0, 50.0, 66.7)
    """
    return evaluate_branches(prediction, reference, spacing, convention, branches).scores


class Scores(NamedTuple):
    """Scores of a mask, the share it holds of each branch (`Reference.score`), and its part that TD and BD take."""

    scores: dict[str, float]
    branches: pd.DataFrame
    part: np.ndarray


def evaluate_branches(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Spacing = (1.0, 1.0, 1.0),
    convention: str = "paper",
    branches: np.ndarray | None = None,
) -> Scores:
    """Score a mask as `evaluate` does, and each branch of the reference."""
    rules = convention_by_name(convention)
    prediction, reference = as_mask(prediction, "prediction"), as_mask(reference, "reference")
    check_one_grid(prediction=prediction, reference=reference)
    parsed = parse_reference(reference, spacing, convention)
    if branches is not None:
        check_one_grid(reference=reference, branches=branches)
        parsed = parsed.with_branches(branches)
    part = largest_component(prediction, rules.component) if rules.component else prediction
    whole = part if rules.cut_overlap else prediction
    tree, scored = tree_scores(part, parsed)
    scores = {
        **tree,
        **overlap(whole, parsed.voxels),
        **shape_scores(whole, reference, parsed.index),
        "branches": len(scored),
        "branches_detected": int((scored["share"] >= DETECTED).sum()),
        "length_mm": float(scored["length_mm"].sum()),
        "length_detected_mm": float((scored["length_mm"] * scored["share"]).sum()),
    }
    if convention == "exact09":
        scores |= exact09_columns(whole, reference, spacing, parsed)
    return Scores(scores, scored, part)


def tree_scores(mask: np.ndarray, reference: Reference) -> tuple[dict[str, float], pd.DataFrame]:
    """`td` and `bd` of a mask (z, y, x; boolean), percent, and its share of each branch (`Reference.score`)."""
    scored = reference.score(mask)
    td, bd = mask[tuple(reference.index.T)].mean(), (scored["share"] >= DETECTED).mean()
    return {"td": 100 * float(td), "bd": 100 * float(bd)}, scored


def as_mask(array: np.ndarray, name: str) -> np.ndarray:
    """Return a 3-D array of booleans, or of 0 and 1, as booleans; `InputError` names any other."""
    array = np.asarray(array)
    if array.ndim != 3:
        raise InputError(f"{name} of shape {array.shape}: three axes (z, y, x) are needed")
    if array.dtype == bool:
        return array
    mask = array == 1
    if not (mask | (array == 0)).all():
        raise InputError(f"{name} of type {array.dtype}: it must be a mask of booleans, or of 0 and 1")
    return mask


def check_one_grid(**arrays: np.ndarray) -> None:
    """Raise `InputError` unless the two arrays have one shape."""
    (first, one), (second, other) = ((name, np.shape(array)) for name, array in arrays.items())
    if one != other:
        raise InputError(f"{first} {one} and {second} {other} are not on one grid")


def overlap(prediction: np.ndarray, voxels: np.ndarray) -> dict[str, float]:
    """Scores of voxels in percent; `voxels` (M, 3; z, y, x) are the reference's."""
    predicted, labelled = int(np.count_nonzero(prediction)), len(voxels)
    hit = int(np.count_nonzero(prediction[tuple(voxels.T)]))
    false, missed = predicted - hit, labelled - hit
    return {
        "dsc": 200 * hit / (predicted + labelled),
        "precision": 100 * hit / predicted if predicted else 0.0,
        "tpr": 100 * hit / labelled,
        "fpr": 100 * false / max(prediction.size - labelled, 1),
        "iou": 100 * hit / (hit + false + missed),
        "leakage": 100 * false / labelled,
        "amr": 100 * missed / labelled,
    }


def shape_scores(prediction: np.ndarray, reference: np.ndarray, skeleton: np.ndarray) -> dict[str, float]:
    """`cldice` in percent and `betti0_error` = |26-connected components - 1|; `skeleton` (N, 3) is the reference's."""
    if not prediction.any():
        return {"cldice": 0.0, "betti0_error": 1}
    box, low = cut_out(prediction)
    own = thin_voxels(coordinates(parser_order(box)))[:, ::-1] + low
    components = label_points(len(own), skeleton_pairs(own)).max() + 1  # thinning keeps the number of components
    right, found = reference[tuple(own.T)].mean(), prediction[tuple(skeleton.T)].mean()
    cldice = 200 * right * found / (right + found) if right + found else 0.0
    return {"cldice": float(cldice), "betti0_error": int(components) - 1}


def by_generation(scored: pd.DataFrame) -> pd.DataFrame:
    """Sum `Reference.score` up by generation; see `by_group`."""
    return by_group(scored, scored["generation"].rename("generation"))


def by_diameter(scored: pd.DataFrame, edges: Sequence[float] = DIAMETERS) -> pd.DataFrame:
    """Sum `Reference.score` up by diameter, in bins 0-2, 2-4, ... mm (lower edge included); see `by_group`."""
    return by_group(scored, diameter_bins(scored["diameter_mm"], edges))


def diameter_bins(diameters: pd.Series, edges: Sequence[float] = DIAMETERS) -> pd.Series:
    """Put diameters (mm) into bins 0-2, 2-4, ...: lower edge included, the last one open."""
    names = [f"{low:g}-{high:g}" for low, high in itertools.pairwise(edges)]
    return pd.cut(diameters, [*edges[:-1], np.inf], right=False, labels=names).rename("diameter_mm")


def overlap_by_diameter(
    prediction: np.ndarray, label: np.ndarray, spacing: Spacing, reference: Reference
) -> pd.DataFrame:
    """Count agreeing voxels by airway diameter; a voxel has the diameter of the nearest branch.

    Parameters
    ----------
    prediction, label : array
        Boolean (z, y, x). Give the part of the prediction that the convention takes.
    spacing : tuple
        x, y, z in mm; distances to the branches' axes are in mm.
    reference : Reference
        Branches and the points of their axes: a phantom's own (`true_reference`), or parsed.

    Returns
    -------
    DataFrame
        One row a bin of `DIAMETERS`: diameter_mm, hit, false, missed (voxels), dsc, precision (percent; NaN without
        voxels).

    Examples
    --------
    >>> label = np.zeros((9, 9, 40), bool); label[3:6, 3:6] = True
    >>> half = label.copy(); half[:, :, 20:] = False
    >>> table = overlap_by_diameter(half, label, (1, 1, 1), parse_reference(label))
    >>> table.loc[table["hit"] > 0, ["diameter_mm", "hit", "missed", "dsc"]].round(1).to_dict("records")
    [{'diameter_mm': '2-4', 'hit': 180, 'missed': 180, 'dsc': 66.7}]
    """
    voxels, step, own = np.argwhere(prediction | label), np.array(spacing[::-1], float), reference.branch > 0
    diameter = pd.Series(np.nan, range(len(voxels)))  # without a branch, no voxel has one
    if own.any():
        nearest = cKDTree(reference.index[own] * step).query(voxels * step, workers=-1)[1]
        table = reference.table.set_index("branch")["diameter_mm"]
        diameter = table.reindex(reference.branch[own][nearest]).reset_index(drop=True)
    predicted, labelled = prediction[tuple(voxels.T)], label[tuple(voxels.T)]
    counts = pd.DataFrame(
        {"hit": predicted & labelled, "false": predicted & ~labelled, "missed": labelled & ~predicted}
    )
    return with_overlap(counts.groupby(diameter_bins(diameter), observed=False).sum().astype(int).reset_index())


def with_overlap(counts: pd.DataFrame) -> pd.DataFrame:
    """Add `dsc` and `precision` (percent; NaN without voxels) to counts of voxels (hit, false, missed)."""
    hit, false, missed = (counts[name] for name in ("hit", "false", "missed"))
    return counts.assign(
        dsc=200 * hit / (2 * hit + false + missed).replace(0, np.nan),
        precision=100 * hit / (hit + false).replace(0, np.nan),
    )


def by_group(scored: pd.DataFrame, group: pd.Series) -> pd.DataFrame:
    """Count branches and points, and those detected, in each group; with bd and td (percent) and length_mm."""
    counts = pd.DataFrame(
        {
            "branches": 1,
            "branches_detected": (scored["share"] >= DETECTED).astype(int),
            "points": scored["points"],
            "points_detected": (scored["share"] * scored["points"]).round().astype(int),
            "length_mm": scored["length_mm"],
        }
    )
    return pool_groups(counts.assign(**{group.name: group}), group.name)


def pool_groups(tables: pd.DataFrame, group: str) -> pd.DataFrame:
    """Sum tables of `by_group`, stacked over several cases, over the column `group`."""
    counts = ["branches", "branches_detected", "points", "points_detected", "length_mm"]
    sums = tables.groupby(group, observed=True)[counts].sum()
    sums.insert(4, "bd", 100 * sums["branches_detected"] / sums["branches"])
    sums.insert(5, "td", 100 * sums["points_detected"] / sums["points"])
    return sums.reset_index()
