"""Masks of finished runs: the held-out cases they belong to, their scores by diameter, and their parts in 3-D.

Masks are compared as convention `paper` takes them: the largest 6-connected component.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.images.volume import Volume, read_mask
from airwaylib.metrics.cases import true_tree
from airwaylib.metrics.intervals import share_interval
from airwaylib.metrics.reference import Reference, parse_reference, true_reference
from airwaylib.metrics.scores import largest_component, overlap_by_diameter, with_overlap
from airwaystudy import home
from airwaystudy.analysis import ablation
from airwaystudy.data.cases import find_case, read_case
from airwaystudy.plan.runs import StudyRuns, runs_of
from airwaystudy.training.config import TrainConfig

ASTRAY = 1  # voxels; a false voxel farther from the reference is a leak, as in `exact09`


def variants_in_order(runs: StudyRuns, named: Iterable[str] = ()) -> list[str]:
    """List the variants that have a finished run, from the plainest to the paper's (`ablation.variants`).

    Raises
    ------
    InputError
        One that is `named` has none; the message lists those that have.
    """
    found = list(ablation.variants(runs))
    for name in named:
        if name not in found:
            raise InputError(f"{runs.study}: no finished run of variant {name!r}; there are {', '.join(found)}")
    return found


class ScoredCase(NamedTuple):
    """A held-out case: CT and label on one grid, the branches it is scored by, and whether it is a phantom."""

    name: str
    ct: Volume
    label: Volume
    branches: Reference
    synthetic: bool


def read_test_case(config: TrainConfig, name: str) -> ScoredCase:
    """Read a case of the run's data; a phantom's branches are its own, others are parsed from the label."""
    files = find_case(home.path(config.data), name)
    ct, label, _ = read_case(files)
    tree = true_tree(files.airway)
    if tree is None:
        return ScoredCase(name, ct, label, parse_reference(label.array, label.spacing), False)
    return ScoredCase(name, ct, label, true_reference(tree, label.array.shape, label.spacing), True)


def prediction_of(config: TrainConfig, case: str) -> Volume:
    """Read the run's mask of a test case, as 02_train left it."""
    return read_mask(config.folder / "predictions" / f"{case}.nii.gz", may_be_empty=True)


def each_prediction(runs: StudyRuns, variants: Iterable[str]) -> Iterator[tuple[ScoredCase, dict, Volume]]:
    """Yield every test case with every mask of it: case, names of run, variant, seed and case, mask; each read once."""
    names = [(variant, run) for variant in variants for run in runs_of(runs, variant)]
    for name in runs.configs[names[0][1]].test_cases if names else []:
        case = read_test_case(runs.configs[names[0][1]], name)
        for variant, run in names:
            about = {"run": run, "variant": variant, "seed": runs.configs[run].seed, "case": name}
            yield case, about, prediction_of(runs.configs[run], name)


def scores_by_diameter(runs: StudyRuns, variants: Iterable[str]) -> pd.DataFrame:
    """Score TD, BD and DSC of each variant by airway diameter, in the bins of Zheng et al. 2021, figure 9.

    `ablation.by_bin` with the same columns of the DSC (percent), whose voxels are summed over the cases of a seed; a
    voxel's diameter is that of the nearest branch of the reference.
    """
    tables = [
        overlap_by_diameter(largest_component(mask.array), case.label.array, case.label.spacing, case.branches).assign(
            **about
        )
        for case, about, mask in each_prediction(runs, variants)
    ]
    by = ["variant", "diameter_mm", "seed"]
    voxels = pd.concat(tables).groupby(by, sort=False, observed=True)[["hit", "false", "missed"]].sum()
    rows = []
    for (variant, bin_), part in with_overlap(voxels.reset_index()).groupby(by[:2], sort=False, observed=True):
        values = part["dsc"].to_numpy()
        numbers = [values.mean(), *share_interval(values), values.min(), values.max()]
        names = (f"dsc_{name}" for name in ("mean", "low", "high", "min", "max"))
        rows.append({"variant": variant, "diameter_mm": bin_} | dict(zip(names, numbers, strict=True)))
    found = ablation.by_bin(runs, "diameter_mm")
    found = found[found["variant"].isin(voxels.index.unique("variant"))]
    table = found.merge(pd.DataFrame(rows), "left", on=["variant", "diameter_mm"])
    return table.assign(convention=table.pop("convention"))


def parts_of(prediction: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """Split voxels into `detected`, `missed`, `rim` (false, up to `ASTRAY` voxels off it) and `leaked` (farther).

    prediction, label: boolean (D, H, W); the prediction's largest component counts.
    """
    part = largest_component(prediction)
    near = ndimage.binary_dilation(label, np.ones((2 * ASTRAY + 1,) * 3, bool))
    return {
        "detected": part & label,
        "missed": label & ~part,
        "rim": part & near & ~label,
        "leaked": part & ~near,
    }
