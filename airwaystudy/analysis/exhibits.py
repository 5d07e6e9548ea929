"""The numbers behind the study's figures and tables, from the files of its runs (`runs.collect`).

A run is a variant with a seed. Masks are compared as convention `paper` takes them: the largest 6-connected component.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.gradients import theory
from airwaylib.images.volume import Volume, read_mask
from airwaylib.metrics.cases import Evaluation, score_case, true_tree
from airwaylib.metrics.exact09 import COLUMNS
from airwaylib.metrics.intervals import mean_interval
from airwaylib.metrics.reference import Reference, parse_reference, true_reference
from airwaylib.metrics.scores import largest_component, overlap_by_diameter, with_overlap
from airwaystudy import home
from airwaystudy.analysis import ablation
from airwaystudy.data.cases import find_case, read_case
from airwaystudy.plan.runs import FACTORS, StudyRuns, runs_of
from airwaystudy.training.config import TrainConfig

METRICS = ("td", "bd", "precision", "dsc", "tpr", "td_truth", "bd_truth")
RADII = (1, 1.5, 2, 3, 4)  # voxels, of the tubes whose erosion is shown
ASTRAY = 1  # voxels; a false voxel farther from the reference is a leak, as in `exact09`


def variants_in_order(runs: StudyRuns, named: Iterable[str] = ()) -> list[str]:
    """The variants that have a finished run, from the plainest to the paper's (`ablation.variants`).

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


# ---------------------------------------------------------------------------------------------- scores of the variants


def summarise_variants(runs: StudyRuns) -> pd.DataFrame:
    """A row a variant: variant, seeds, cases; METRIC_mean, _sd, _low, _high of `METRICS`, as in the ablation table."""
    return ablation.ablation_table(runs, METRICS).drop(columns=[*FACTORS, "parameters", "steps"])


def compare_variants(scores: pd.DataFrame, baseline: str, others: Iterable[str]) -> pd.DataFrame:
    """Each variant less the baseline, paired by seed and case; seeds that only one of them has are left out.

    Returns one row a variant and metric: one_is, other_is, metric, one, other (means of the pairs), and what
    `ablation.difference` gives: difference, its intervals over the seeds and over the cases, seeds, cases, cohen_dz.
    """
    metrics, rows = [name for name in METRICS if name in scores], []
    by = scores.set_index(["variant", "seed", "case"])[metrics]
    for variant in others:
        for metric in metrics:
            sides = [by.loc[name, metric].rename(side) for name, side in ((baseline, "one"), (variant, "other"))]
            pairs = pd.concat(sides, axis=1).dropna()
            if not pairs.empty:
                about = {"one_is": baseline, "other_is": variant, "metric": metric, **pairs.mean()}
                rows.append(about | ablation.difference(pairs["other"] - pairs["one"]))
    numbers = ["difference", "low", "high", "low_cases", "high_cases", "seeds", "cases", "cohen_dz"]
    return pd.DataFrame(rows, columns=["one_is", "other_is", "metric", "one", "other", *numbers])


def tube_tables(
    ratio: float = 2.0, layers: int = 18, shown: Sequence[int] = (1, 2, 6, 12, 18), radii: Sequence[float] = RADII
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `gradient_figures.plot_tube_erosion` draws: profiles across a tube of radius 2, and erosion by radius."""
    places, values = zip(*(theory.tube_profile(2, ratio, count, reach=10) for count in shown), strict=True)
    profiles = pd.DataFrame({"layers": np.repeat(shown, [len(place) for place in places])})
    profiles = profiles.assign(position=np.concatenate(places), value=np.concatenate(values))
    eroded = [theory.erosion_by_layer(radius, ratio, layers) for radius in radii]
    erosion = pd.DataFrame({"radius": np.repeat(radii, layers), "layers": np.tile(np.arange(layers) + 1, len(radii))})
    return profiles, erosion.assign(eroded=np.concatenate(eroded))


def class_ratios(runs: StudyRuns, variants: Iterable[str]) -> pd.DataFrame:
    """probes.csv of all runs that were probed: variant, seed, epoch, step, layer, layer_ratio, ratio, ..."""
    tables = []
    for variant in variants:
        for run in runs_of(runs, variant):
            path = home.run_folder(runs.study, run) / "probes.csv"
            if path.is_file():
                about = {"variant": variant, "seed": runs.configs[run].seed}
                tables.append(pd.read_csv(path).assign(**about))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


# --------------------------------------------------------------------------------------------------- masks of the runs


class ScoredCase(NamedTuple):
    """A held-out case: CT and label on one grid, the branches it is scored by, and whether it is a phantom."""

    name: str
    ct: Volume
    label: Volume
    branches: Reference
    synthetic: bool


def read_test_case(config: TrainConfig, name: str) -> ScoredCase:
    """A case of the run's data; a phantom's branches are its own, others are parsed from the label."""
    files = find_case(home.path(config.data), name)
    ct, label, _ = read_case(files)
    tree = true_tree(files.airway)
    if tree is None:
        return ScoredCase(name, ct, label, parse_reference(label.array, label.spacing), False)
    return ScoredCase(name, ct, label, true_reference(tree, label.array.shape, label.spacing), True)


def prediction_of(config: TrainConfig, case: str) -> Volume:
    """The run's mask of a test case, as 02_train left it."""
    return read_mask(config.folder / "predictions" / f"{case}.nii.gz", may_be_empty=True)


def each_prediction(runs: StudyRuns, variants: Iterable[str]) -> Iterator[tuple[ScoredCase, dict, Volume]]:
    """Every test case with every mask of it: the case, run, variant and seed, and the mask. A case is read once."""
    names = [(variant, run) for variant in variants for run in runs_of(runs, variant)]
    for name in runs.configs[names[0][1]].test_cases if names else []:
        case = read_test_case(runs.configs[names[0][1]], name)
        for variant, run in names:
            about = {"run": run, "variant": variant, "seed": runs.configs[run].seed, "case": name}
            yield case, about, prediction_of(runs.configs[run], name)


def scores_by_diameter(runs: StudyRuns, variants: Iterable[str]) -> pd.DataFrame:
    """TD, BD and DSC of each variant by airway diameter, in the bins of Zheng et al. 2021, figure 9.

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
        numbers = [values.mean(), *mean_interval(values), values.min(), values.max()]
        names = (f"dsc_{name}" for name in ("mean", "low", "high", "min", "max"))
        rows.append({"variant": variant, "diameter_mm": bin_} | dict(zip(names, numbers, strict=True)))
    found = ablation.by_bin(runs, "diameter_mm")
    found = found[found["variant"].isin(voxels.index.unique("variant"))]
    table = found.merge(pd.DataFrame(rows), "left", on=["variant", "diameter_mm"])
    return table.assign(convention=table.pop("convention"))


def exact09_cases(runs: StudyRuns, variant: str) -> pd.DataFrame:
    """EXACT'09's columns of a variant, convention `exact09`: variant, seed, case, and those of `exact09.COLUMNS`."""
    rows = []
    for case, about, mask in each_prediction(runs, [variant]):
        scores, _ = score_case(mask, case.label, "exact09")
        rows.append(
            {name: about[name] for name in ("variant", "seed", "case")} | {name: scores[name] for name in COLUMNS}
        )
    return pd.DataFrame(rows)


def exact09_latex(cases: pd.DataFrame) -> str:
    """EXACT'09's table of `exact09_cases` in LaTeX: each case the mean of its seeds, then mean, sd and quartiles."""
    means = cases.groupby("case", sort=False)[list(COLUMNS)].mean().reset_index()
    return Evaluation("exact09", means).as_latex()


def parts_of(prediction: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """Voxels `detected`, `missed`, `rim` (false, at most `ASTRAY` voxels off the label) and `leaked` (false, farther).

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


def counts_of(parts: Mapping[str, Mapping[str, np.ndarray]], case: str) -> pd.DataFrame:
    """Voxels of each part of each name's `parts_of`: variant, case, detected, missed, rim, leaked."""
    counts = {name: {part: int(mask.sum()) for part, mask in masks.items()} for name, masks in parts.items()}
    return pd.DataFrame([{"variant": name, "case": case, **row} for name, row in counts.items()])
