"""Compute the seven columns of EXACT'09 (Lo et al., IEEE TMI 31:2093, 2012), whose experts judged branches by eye.

Here a voxel is wrong if it lies outside the reference. No column counts the trachea. The last three leave out voxels
that belong to, or lie nearest to, trachea and main bronchi (generations 0 and 1 of the parse). Our own choice, where
the paper leaves it to the experts: a branch is detected with 1 mm of its axis; a leak is a 26-connected group of wrong
voxels that goes more than one voxel astray; volume and rate count all wrong voxels, also those of a rim of one voxel.
"""

import cc3d
import numpy as np
from scipy.spatial import cKDTree

from airwaylib.metrics.reference import Reference, Spacing
from airwaylib.trees.segments import cut_out
from airwaylib.trees.skeleton import coordinates

LEAST_MM = 1.0  # of a branch's axis inside the prediction
COLUMNS = {
    "exact09_branch_count": "Branch count",  # of the branches detected
    "exact09_branches_detected": "Branch detected (%)",
    "exact09_tree_length_cm": "Tree length (cm)",
    "exact09_tree_length_detected": "Tree length detected (%)",
    "exact09_leakage_count": "Leakage count",
    "exact09_leakage_volume_mm3": "Leakage volume (mm3)",
    "exact09_false_positive_rate": "False positive rate (%)",
}


def exact09_columns(
    prediction: np.ndarray, reference: np.ndarray, spacing: Spacing, parsed: Reference
) -> dict[str, float]:
    """Compute the columns (see COLUMNS; percent, cm, mm3) of the part of a prediction that the convention takes.

    prediction, reference: boolean (z, y, x); spacing: x, y, z in mm; parsed: `parse_reference` of the reference.
    """
    tree, voxel = parsed.tree, float(np.prod(spacing))
    scored = parsed.score(prediction).query("generation > 0")
    inside = scored["length_mm"] * scored["share"]
    detected = inside >= np.minimum(LEAST_MM, 0.99 * scored["length_mm"])
    columns = {
        "exact09_branch_count": int(detected.sum()),
        "exact09_branches_detected": 100 * float(detected.mean()) if len(scored) else 0.0,
        "exact09_tree_length_cm": float(inside[detected].sum()) / 10,
        "exact09_tree_length_detected": 100 * float(inside[detected].sum() / max(scored["length_mm"].sum(), 1e-9)),
        "exact09_leakage_count": 0,
        "exact09_leakage_volume_mm3": 0.0,
        "exact09_false_positive_rate": 0.0,
    }
    if not prediction.any():
        return columns
    box, low = cut_out(prediction, margin=1)  # without a margin, cc3d fails on single rows (26-connected)
    voxels = coordinates(box)
    index = voxels + low
    wrong = ~reference[tuple(index.T)]
    generation = np.concatenate([[-1], tree.branches["generation"]])
    near = cKDTree(tree.airway_index).query(index[wrong])[1]
    peripheral = generation[tree.branch_at(index)] >= 2
    peripheral[wrong] = generation[tree.airway_branch[near]] >= 2
    false = wrong & peripheral
    box[tuple(voxels[~false].T)] = False
    leak = cc3d.connected_components(box, connectivity=26, binary_image=True)[tuple(voxels[false].T)]
    astray = cKDTree(parsed.voxels).query(index[false], p=np.inf)[0] > 1
    columns["exact09_leakage_count"] = len(np.unique(leak[astray]))
    columns["exact09_leakage_volume_mm3"] = voxel * int(false.sum())
    columns["exact09_false_positive_rate"] = 100 * float(false.sum() / max(peripheral.sum(), 1))
    return columns
