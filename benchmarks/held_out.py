"""Score the shipped weights on held-out phantoms: TD, BD and precision, whole and by airway diameter, with intervals.

    python benchmarks/held_out.py [--config data/weights/wingsnet-phantom.yaml] [--weights CHECKPOINT]

The cases are the test cases of the run's configuration (synthetic CT; made where missing). Writes the masks to
results/<study>/predictions/, scores.csv and scores_by_diameter.csv to results/<study>/tables/. Convention `paper`;
branches and diameters are the phantoms' own, and a predicted voxel's diameter is that of the true branch whose axis is
nearest. Intervals: bootstrap, 95 %, of the mean over the cases.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import KDTree
from tqdm import tqdm

from airwaylib import study
from airwaylib.cli import read_settings
from airwaylib.evaluation import score_case, true_tree
from airwaylib.inference import segment
from airwaylib.metrics import DIAMETERS, largest_component
from airwaylib.networks import load_checkpoint
from airwaylib.phantom import ensure_named
from airwaylib.reference import true_reference
from airwaylib.stages import Recipe
from airwaylib.statistics import bootstrap_interval, summarise
from airwaylib.volume import Volume, read_ct, read_mask, write_volume

SCORES = ["td", "bd", "precision", "dsc", "td_truth", "bd_truth"]


def precision_by_diameter(prediction: Volume, label: np.ndarray, tree: pd.DataFrame) -> dict[str, float]:
    """Precision (percent) of the predicted voxels nearest to the true branches of each diameter bin."""
    reference = true_reference(tree, label.shape, prediction.spacing)
    step = np.array(prediction.spacing[::-1])
    voxels = np.argwhere(largest_component(prediction.array))
    nearest = KDTree(reference.index * step).query(voxels * step, workers=-1)[1]
    diameter = reference.table.set_index("branch")["diameter_mm"][reference.branch[nearest]]
    names = [f"{low:g}-{high:g}" for low, high in itertools.pairwise(DIAMETERS)]
    bins = pd.cut(diameter.to_numpy(), [*DIAMETERS[:-1], np.inf], right=False, labels=names)
    return (100 * pd.Series(label[tuple(voxels.T)]).groupby(bins, observed=True).mean()).to_dict()


def with_intervals(cases: pd.DataFrame) -> pd.DataFrame:
    """Mean and interval over the cases of each bin: diameter_mm, branches (all), then td, td_low, td_high, ..."""
    rows = []
    for name, group in cases.groupby("diameter_mm", sort=False):
        row = {"diameter_mm": name, "cases": len(group), "branches": group["branches"].sum()}
        for score in ("td", "bd", "precision"):
            values = group[score].dropna().to_numpy()
            row[score] = values.mean()
            row[f"{score}_low"], row[f"{score}_high"] = bootstrap_interval(values)
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=study.HOME / "data/weights/wingsnet-phantom.yaml")
    parser.add_argument("--weights", type=Path, default=study.DEFAULT_WEIGHTS)
    args = parser.parse_args()
    config = Recipe(**read_settings(args.config)).runs()[-1]
    network, info = load_checkpoint(args.weights)
    results, scores, bins = study.results(config.study), [], []
    for case in tqdm(config.test_cases, unit="case"):
        folder = ensure_named(case, study.path(config.data) / "raw")
        ct = read_ct(folder / "ct.nii.gz")
        label, tree = read_mask(folder / "airway.nii.gz", ct), true_tree(folder / "airway.nii.gz")
        prediction = segment(ct, network, info, progress=False)
        write_volume(prediction, results / "predictions" / f"{case}.nii.gz")
        whole, groups = score_case(prediction, label, truth=tree)
        scores.append({"case": case, **{name: whole[name] for name in SCORES}})
        precision = precision_by_diameter(prediction, label.array, tree)
        bins.append(groups["by_diameter"].assign(case=case, precision=lambda t, p=precision: t["diameter_mm"].map(p)))
    scores = pd.DataFrame(scores)
    study.write_csv(results / "tables" / "scores.csv", scores)
    table = with_intervals(pd.concat(bins))
    study.write_csv(results / "tables" / "scores_by_diameter.csv", table)
    print(scores.round(1).to_string(index=False))
    print(summarise(scores.assign(run=args.weights.stem)).round(1).T.to_string(header=False))
    print(table.round(1).to_string(index=False))


if __name__ == "__main__":
    main()
