"""Score the shipped weights on held-out phantoms: TD, BD and precision, whole and by airway diameter, with intervals.

    python benchmarks/held_out.py [--config airwaylib/inference/weights/wingsnet-phantom.yaml] [--weights CHECKPOINT]

The cases are the test cases of the run's configuration (synthetic CT; made where missing). Writes the masks to
results/<study>/predictions/, scores.csv and scores_by_diameter.csv to results/<study>/tables/. Convention `paper`;
branches and diameters are the phantoms' own, and a predicted voxel's diameter is that of the true branch whose axis is
nearest. Intervals: bootstrap, 95 %, of the mean over the cases.
"""

import argparse
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from airwaylib.images.volume import read_ct, read_mask, write_volume
from airwaylib.inference import DEFAULT_WEIGHTS
from airwaylib.inference.segment import segment
from airwaylib.metrics.cases import score_case, true_tree
from airwaylib.metrics.intervals import bootstrap_interval, summarise
from airwaylib.metrics.reference import true_reference
from airwaylib.metrics.scores import largest_component, overlap_by_diameter
from airwaylib.networks.checkpoints import load_checkpoint
from airwaystudy import home
from airwaystudy.cli import read_settings
from airwaystudy.phantoms.case import ensure_named
from airwaystudy.training.config import Recipe

SCORES = ["td", "bd", "precision", "dsc", "td_truth", "bd_truth"]


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
    parser.add_argument("--config", type=Path, default=home.HOME / "airwaylib/inference/weights/wingsnet-phantom.yaml")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    args = parser.parse_args()
    config = Recipe(**read_settings(args.config)).runs()[-1]
    network, info = load_checkpoint(args.weights)
    results, scores, bins = home.results(config.study), [], []
    for case in tqdm(config.test_cases, unit="case"):
        folder = ensure_named(case, home.path(config.data) / "raw")
        ct = read_ct(folder / "ct.nii.gz")
        label, tree = read_mask(folder / "airway.nii.gz", ct), true_tree(folder / "airway.nii.gz")
        prediction = segment(ct, network, info, progress=False)
        write_volume(prediction, results / "predictions" / f"{case}.nii.gz")
        whole, groups = score_case(prediction, label, truth=tree)
        scores.append({"case": case, **{name: whole[name] for name in SCORES}})
        own = true_reference(tree, label.array.shape, label.spacing)
        voxels = overlap_by_diameter(largest_component(prediction.array), label.array, label.spacing, own)
        precision = voxels.set_index("diameter_mm")["precision"].to_dict()
        bins.append(groups["by_diameter"].assign(case=case, precision=lambda t, p=precision: t["diameter_mm"].map(p)))
    scores = pd.DataFrame(scores)
    home.write_csv(results / "tables" / "scores.csv", scores)
    table = with_intervals(pd.concat(bins))
    home.write_csv(results / "tables" / "scores_by_diameter.csv", table)
    print(scores.round(1).to_string(index=False))
    print(summarise(scores.assign(run=args.weights.stem)).round(1).T.to_string(header=False))
    print(table.round(1).to_string(index=False))


if __name__ == "__main__":
    main()
