"""Scores by window and threshold on two phantoms that serve for nothing else, beside the paper's 128 and 0.5.

    python benchmarks/thresholds.py [CHECKPOINT] [--cases chest_0022 chest_0023] [--windows 128]

Scores in percent, convention `paper`, a case, window and threshold a row, then their means (synthetic CT, made where
missing). Writes results/chest/tables/thresholds.csv.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

from airwaylib.images.lungs import lung_mask
from airwaylib.images.volume import read_ct, read_mask
from airwaylib.inference import DEFAULT_WEIGHTS
from airwaylib.inference.segment import airway_mask, probability_map
from airwaylib.metrics.scores import evaluate
from airwaylib.networks.checkpoints import load_checkpoint
from airwaystudy import home
from airwaystudy.phantoms.case import ensure_named

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SCORES = ("td", "bd", "precision", "dsc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=DEFAULT_WEIGHTS)
    parser.add_argument("--cases", nargs="+", default=["chest_0022", "chest_0023"])
    parser.add_argument("--windows", nargs="+", type=int, default=[128])
    args = parser.parse_args()
    network, info = load_checkpoint(args.checkpoint)
    rows = []
    for case in args.cases:
        folder = ensure_named(case, home.path("data/phantoms/raw"))
        ct = read_ct(folder / "ct.nii.gz")
        label = read_mask(folder / "airway.nii.gz", ct).array
        lung = lung_mask(ct)
        for window in args.windows:
            start = time.perf_counter()
            own = replace(info, window=window, spacing=None)
            probability = probability_map(ct, network, own, "cpu", progress=False, lung=lung)
            seconds = time.perf_counter() - start
            for threshold in THRESHOLDS:
                scores = evaluate(airway_mask(probability, lung, threshold).array, label)
                row = {"case": case, "window": window, "threshold": threshold, "seconds": seconds}
                rows.append(row | {name: scores[name] for name in SCORES})
            print(pd.DataFrame(rows[-len(THRESHOLDS) :]).round(1).to_string(index=False), flush=True)
    table = pd.DataFrame(rows)
    home.write_csv(home.results("chest") / "tables" / "thresholds.csv", table)
    mean = table.groupby(["window", "threshold"])[[*SCORES, "seconds"]].mean()
    print(mean.round(1).to_string())


if __name__ == "__main__":
    main()
