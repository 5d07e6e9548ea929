"""Parse the reference that masks are scored against, by the convention of a paper or challenge.

Challenges differ in the prediction, skeleton and branches they take, which moves the scores by points:

| convention | prediction | skeleton | branches |
|---|---|---|---|
| `paper` (Zheng et al. 2021) | largest component, 6-connected | of the label as given | merged |
| `atm22` | the mask as given | of the parsed component | merged |
| `atm26` | largest component, 26-connected, for TD and BD; else as given | of the parsed component | given, or merged |
| `aiib23` | largest component, 6-connected | of the label as given | not merged |
| `exact09` (Lo et al. 2012) | largest component, 6-connected (our choice) | of the parsed component | merged |

Where thinning would wipe out a component of the label, it keeps a centreline here (see `trees.skeleton`).
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from airwaylib.errors import InputError
from airwaylib.trees.axes import axes
from airwaylib.trees.parse import AirwayTree, parse_cut
from airwaylib.trees.segments import cut_out, parser_order
from airwaylib.trees.skeleton import coordinates, thin_voxels

Spacing = tuple[float, float, float]  # x, y, z in mm


@dataclass(frozen=True)
class Convention:
    """Rules by which a challenge scores."""

    component: int | None  # connectivity of the prediction's largest component that TD and BD take; None: as given
    cut_overlap: bool  # whether DSC and the other scores of voxels take that component, too
    given_skeleton: bool  # skeleton of the label as given; else of the largest component with holes filled
    merge: bool  # whether branches are merged
    given_branches: bool = False  # whether labels of the branches may be given


CONVENTIONS = {
    "paper": Convention(6, True, True, True),
    "atm22": Convention(None, False, False, True),
    "atm26": Convention(26, False, False, True, given_branches=True),
    "aiib23": Convention(6, True, True, False),
    "exact09": Convention(6, True, False, True),
}
PARSES_KEPT = 16


def convention_by_name(name: str) -> Convention:
    """The convention called `name`; raises `InputError` that lists the known ones."""
    if name not in CONVENTIONS:
        raise InputError(f"convention {name!r} is unknown: choose one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


@dataclass(frozen=True, eq=False)
class Reference:
    """Points of a reference tree's axes, and the branches they belong to.

    index : array (N, 3)
        z, y, x of the points' voxels.
    branch : array (N,)
        Their branches; 0 for none, such as the points of other components.
    table : DataFrame
        One row a branch: `branch`, `generation`, `diameter_mm`, `length_mm`.
    voxels : array (M, 3)
        z, y, x of the reference mask, as given; none for a tree without a mask.
    tree : AirwayTree, optional
        The parse behind it; its points are in mm from the mask's first voxel.
    """

    index: np.ndarray
    branch: np.ndarray
    table: pd.DataFrame
    voxels: np.ndarray
    tree: AirwayTree | None = None

    def with_branches(self, labels: np.ndarray) -> "Reference":
        """The same points with given branch labels (D, H, W; 0 outside): lengths in proportion, no generations.

        Raises `InputError`: labels that are no whole numbers from 0 on, or none of them on a point.
        """
        given = labels[tuple(self.index.T)]
        branch = given.astype(int)
        if (branch != given).any() or (branch < 0).any():
            raise InputError("given branches: labels must be whole numbers, 0 outside and 1, 2, ... for the branches")
        if not branch.any():
            raise InputError("given branches: no label lies on the reference's skeleton; are they of this case?")
        number, points = np.unique(branch[branch > 0], return_counts=True)
        length = self.table["length_mm"].sum() * points / len(branch)
        table = pd.DataFrame({"branch": number, "generation": -1, "diameter_mm": np.nan, "length_mm": length})
        return replace(self, branch=branch, table=table)

    def score(self, prediction: np.ndarray) -> pd.DataFrame:
        """Add to the table each branch's `points` and the `share` (0..1) of them inside a mask (z, y, x; boolean).

        A branch without a point is left out.
        """
        last = int(self.branch.max(initial=0)) + 1
        points = np.bincount(self.branch, minlength=last)
        inside = np.bincount(self.branch, prediction[tuple(self.index.T)], minlength=last)
        scored = self.table[self.table["branch"].isin(np.flatnonzero(points))].reset_index(drop=True)
        scored["points"] = points[scored["branch"]]
        scored["share"] = inside[scored["branch"]] / scored["points"]
        return scored


_parses: OrderedDict[tuple, Reference] = OrderedDict()


def parse_reference(mask: np.ndarray, spacing: Spacing = (1.0, 1.0, 1.0), convention: str = "paper") -> Reference:
    """Parse a reference mask (z, y, x; boolean; spacing x, y, z in mm); the last 16 parses are kept, by content.

    Raises `InputError`: the mask is empty, or the convention unknown, or the spacing not above 0.
    """
    rules = convention_by_name(convention)
    try:
        cut = cut_out(mask, margin=1)
    except InputError:
        raise InputError("the reference mask is empty: there is no airway to score against") from None
    digest = hashlib.blake2b(np.packbits(cut.box)).digest()
    key = (digest, cut.box.shape, cut.low.tobytes(), mask.shape, tuple(spacing), rules.given_skeleton, rules.merge)
    if key not in _parses:
        tree = parse_cut(cut, mask.shape, spacing, merge=rules.merge)
        table = tree.branches[["branch", "generation", "length_mm"]].copy()
        table.insert(2, "diameter_mm", 2 * tree.branches["radius_mm"])
        index, branch = tree.index, tree.centreline["branch"].to_numpy()
        voxels = coordinates(cut.box) + cut.low
        if rules.given_skeleton and len(voxels) != len(tree.airway_index):  # else they are one and the same mask
            index = thin_voxels(coordinates(parser_order(cut.box)))[:, ::-1] + cut.low
            branch = tree.branch_at(index)
        _parses[key] = Reference(index, branch, table, voxels, tree)
    _parses.move_to_end(key)
    while len(_parses) > PARSES_KEPT:
        _parses.popitem(last=False)
    return _parses[key]


def true_reference(tree: pd.DataFrame, shape: tuple[int, int, int], spacing: Spacing) -> Reference:
    """Turn a phantom's own tree (its `tree.csv`) into a reference: its axes, sampled every half voxel.

    shape: of the phantom's grid (z, y, x), whose origin is 0; spacing in mm (x, y, z).
    """
    row, points, _ = axes(tree, min(spacing) / 2)
    index = np.rint(points / spacing).astype(int)[:, ::-1]
    inside = ((index >= 0) & (index < shape)).all(1)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1) * (row[1:] == row[:-1])
    table = tree[["branch", "generation"]].assign(branch=tree["branch"] + 1)
    table["diameter_mm"] = tree["radius_start"] + tree["radius_end"]
    table["length_mm"] = np.bincount(row[1:], steps, minlength=len(tree))
    return Reference(index[inside], row[inside] + 1, table, np.zeros((0, 3), int))
