"""Scores of an airway mask against a reference mask, under a named convention (see `reference`).

TD (tree length detected) is the share of the reference skeleton's voxels inside the prediction; BD (branches detected)
the share of reference branches with at least 80 % of theirs inside. The trachea is included.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cc3d
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from airwaylib.errors import InputError
from airwaylib.metrics.exact09 import exact09_columns
from airwaylib.metrics.reference import Reference, Spacing, convention_by_name, parse_reference
from airwaylib.trees.segments import cut_out, label_points, skeleton_pairs
from airwaylib.trees.skeleton import coordinates, thin_voxels

DETECTED = 0.8  # share of a branch's skeleton voxels that must be inside the prediction
DIAMETERS = (0, 2, 4, 6, 8, 20)  # mm; the bins of Zheng et al. 2021, figure 9; the last takes wider ones, too


def evaluate(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Spacing = (1.0, 1.0, 1.0),
    convention: str = "paper",
    branches: np.ndarray | None = None,
) -> dict[str, float]:
    """Score a mask against a reference mask.

    Parameters
    ----------
    prediction, reference : array
        Airway, boolean (D, H, W), on one grid.
    spacing : tuple
        x, y, z in mm.
    convention : str
        "paper", "atm22", "atm26", "aiib23" or "exact09"; see `reference`.
    branches : array, optional
        Labels of the reference's branches (D, H, W; 0 outside), where they are given; else the reference is parsed.

    Returns
    -------
    dict
        In percent: `td`, `bd`, `dsc`, `precision`, `tpr`, `fpr` (of the background's voxels), `iou`, `leakage` (false
        voxels by label voxels), `amr` (missed by label voxels), `cldice`; then `betti0_error`, `branches`,
        `branches_detected`, `length_mm` (of the tree) and `length_detected_mm`. Under "exact09" also the columns that
        `exact09.COLUMNS` lists. An empty prediction scores 0 (`amr` 100, `betti0_error` 1). Of a largest component,
        `betti0_error` is 0: it says something where a convention takes the mask as given.

    Raises
    ------
    InputError
        Masks that are not boolean and 3-D, of different shapes, an empty reference, an unknown convention.

    Examples
    --------
    >>> reference = np.zeros((9, 9, 20), bool); reference[3:6, 3:6] = True
    >>> half = reference.copy(); half[:, :, 10:] = False
    >>> scores = evaluate(half, reference)
    >>> scores["precision"], scores["tpr"], round(scores["dsc"], 1)
    (100.0, 50.0, 66.7)
    """
    return evaluate_branches(prediction, reference, spacing, convention, branches).scores


class Scores(NamedTuple):
    """Scores of a mask, how much of each branch it holds (`Reference.score`), and its part that TD and BD take."""

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
    """Score a mask as `evaluate` does, branch by branch, too."""
    rules = convention_by_name(convention)
    check_masks(prediction=prediction, reference=reference)
    parsed = parse_reference(reference, spacing, convention)
    if branches is not None:
        check_masks(reference=reference, branches=branches != 0)
        parsed = parsed.with_branches(branches)
    part = largest_component(prediction, rules.component) if rules.component else prediction
    whole = part if rules.cut_overlap else prediction
    scored = parsed.score(part)
    detected = scored["share"] >= DETECTED
    scores = {
        "td": 100 * float(part[tuple(parsed.index.T)].mean()),
        "bd": 100 * float(detected.mean()),
        **overlap(whole, parsed.voxels),
        **shape_scores(whole, reference, parsed.index),
        "branches": len(scored),
        "branches_detected": int(detected.sum()),
        "length_mm": float(scored["length_mm"].sum()),
        "length_detected_mm": float((scored["length_mm"] * scored["share"]).sum()),
    }
    if convention == "exact09":
        scores |= exact09_columns(whole, reference, spacing, parsed)
    return Scores(scores, scored, part)


def check_masks(**masks: np.ndarray) -> None:
    """Raise `InputError` unless the masks are boolean, 3-D and of one shape."""
    for name, mask in masks.items():
        if np.ndim(mask) != 3 or np.asarray(mask).dtype != bool:
            kind = f"shape {np.shape(mask)} and type {np.asarray(mask).dtype}"
            raise InputError(f"{name} of {kind}: it must be boolean (z, y, x)")
    (first, one), (second, other) = masks.items()
    if one.shape != other.shape:
        raise InputError(f"{first} {one.shape} and {second} {other.shape} are not on one grid")


def largest_component(mask: np.ndarray, connectivity: int = 6) -> np.ndarray:
    """The largest component of a boolean mask (D, H, W), 6- or 26-connected; an empty mask stays empty."""
    if not mask.any():
        return mask
    box, voxels, low = cut_out(mask, margin=1)  # without it, cc3d fails on single rows (26-connected)
    found = cc3d.connected_components(box, connectivity=connectivity, binary_image=True)[tuple(voxels.T)]
    voxels = voxels[found == np.bincount(found).argmax()] + low
    largest = np.zeros_like(mask)
    largest[tuple(voxels.T[::-1])] = True
    return largest


def overlap(prediction: np.ndarray, voxels: np.ndarray) -> dict[str, float]:
    """Scores of voxels in percent; `voxels` (M, 3) are the reference's."""
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
    box, _, low = cut_out(prediction)
    own = (thin_voxels(coordinates(box)) + low)[:, ::-1]
    components = label_points(len(own), skeleton_pairs(own)).max() + 1  # thinning keeps the number of components
    right, found = reference[tuple(own.T)].mean(), prediction[tuple(skeleton.T)].mean()
    cldice = 200 * right * found / (right + found) if right + found else 0.0
    return {"cldice": float(cldice), "betti0_error": int(components) - 1}


def by_generation(scored: pd.DataFrame) -> pd.DataFrame:
    """TD and BD of `Reference.score` by generation; see `by_group`."""
    return by_group(scored, scored["generation"].rename("generation"))


def by_diameter(scored: pd.DataFrame, edges: Sequence[float] = DIAMETERS) -> pd.DataFrame:
    """TD and BD of `Reference.score` by the branches' diameter, in bins 0-2, 2-4, ... mm (lower edge included)."""
    return by_group(scored, diameter_bins(scored["diameter_mm"], edges))


def diameter_bins(diameters: pd.Series, edges: Sequence[float] = DIAMETERS) -> pd.Series:
    """The bin of each diameter (mm), categories 0-2, 2-4, ...: lower edge included, the last one open."""
    names = [f"{low:g}-{high:g}" for low, high in itertools.pairwise(edges)]
    return pd.cut(diameters, [*edges[:-1], np.inf], right=False, labels=names).rename("diameter_mm")


def overlap_by_diameter(
    prediction: np.ndarray, label: np.ndarray, spacing: Spacing, reference: Reference
) -> pd.DataFrame:
    """How well voxels agree around branches of each diameter; a voxel's diameter is that of the nearest branch's.

    Parameters
    ----------
    prediction, label : array
        Boolean (D, H, W); of a prediction, the part that the convention takes.
    spacing : tuple
        x, y, z in mm; distances to the branches' axes are in mm.
    reference : Reference
        The branches, and the points of their axes; a phantom's own (`true_reference`), or parsed.

    Returns
    -------
    DataFrame
        A row a bin of `DIAMETERS`: diameter_mm, hit, false, missed (voxels), dsc, precision (percent; NaN where there
        are no voxels).

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
    """Counts of voxels (hit, false, missed) with their `dsc` and `precision`, percent; NaN where there are none."""
    hit, false, missed = (counts[name] for name in ("hit", "false", "missed"))
    return counts.assign(
        dsc=200 * hit / (2 * hit + false + missed).replace(0, np.nan),
        precision=100 * hit / (hit + false).replace(0, np.nan),
    )


def by_group(scored: pd.DataFrame, group: pd.Series) -> pd.DataFrame:
    """One row a group of branches: how many, how many detected, the same of points, bd and td (percent), length_mm."""
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
    """Tables of `by_group`, of several cases one below the other, summed up over the column `group`."""
    counts = ["branches", "branches_detected", "points", "points_detected", "length_mm"]
    sums = tables.groupby(group, observed=True)[counts].sum()
    sums.insert(4, "bd", 100 * sums["branches_detected"] / sums["branches"])
    sums.insert(5, "td", 100 * sums["points_detected"] / sums["points"])
    return sums.reset_index()
