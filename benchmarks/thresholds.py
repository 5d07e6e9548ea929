"""Scores by window and threshold on two phantoms that serve for nothing else, beside the paper's 128 and 0.5.

    python benchmarks/thresholds.py [CHECKPOINT] [--cases chest_0022 chest_0023] [--windows 128]

Scores in percent, convention `paper`, a case, window and threshold a row, then their means (synthetic CT, made where
missing). Writes results/chest/tables/thresholds.csv.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from airwaylib.images.lungs import bounding_box, lung_mask
from airwaylib.images.volume import read_ct, read_mask
from airwaylib.images.volume import window as window_hu
from airwaylib.inference import DEFAULT_WEIGHTS
from airwaylib.inference.segment import MARGIN, airway_component, predict_probability
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
    network, _ = load_checkpoint(args.checkpoint)
    rows = []
    for case in args.cases:
        folder = ensure_named(case, home.path("data/phantoms/raw"))
        ct = read_ct(folder / "ct.nii.gz")
        label = read_mask(folder / "airway.nii.gz", ct).array
        lung = lung_mask(ct)
        box = bounding_box(lung, MARGIN)
        image = window_hu(ct.crop(box).array)
        for window in args.windows:
            start = time.perf_counter()
            probability = predict_probability(network, image, lung[box], window, progress=False)
            seconds = time.perf_counter() - start
            for threshold in THRESHOLDS:
                mask = np.zeros(label.shape, bool)
                mask[box] = airway_component(probability >= threshold, lung[box], ct.spacing)
                scores = evaluate(mask, label)
                row = {"case": case, "window": window, "threshold": threshold, "seconds": seconds}
                rows.append(row | {name: scores[name] for name in SCORES})
            print(pd.DataFrame(rows[-len(THRESHOLDS) :]).round(1).to_string(index=False), flush=True)
    table = pd.DataFrame(rows)
    home.write_csv(home.results("chest") / "tables" / "thresholds.csv", table)
    mean = table.groupby(["window", "threshold"])[[*SCORES, "seconds"]].mean()
    print(mean.round(1).to_string())


if __name__ == "__main__":
    main()
