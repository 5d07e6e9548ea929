"""Trace precision against tree length detected over the threshold of the airway probability.

A mask at one threshold is one point of a curve. Compare runs by their curves, not by single points.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from airwaylib.images.volume import Volume
from airwaylib.inference.segment import airway_mask, checked_lung, probability_map
from airwaylib.metrics.reference import parse_reference
from airwaylib.metrics.scores import overlap, tree_scores
from airwaylib.networks.checkpoints import load_checkpoint
from airwaystudy import home
from airwaystudy.data.cases import find_case, read_case
from airwaystudy.plan.runs import StudyRuns, runs_of
from airwaystudy.training.config import TrainConfig

PROBABILITIES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.99, 0.999)  # networks are sure of most
PRECISIONS = (60, 70, 80, 90)  # percent, at which runs are compared
FINE = 1001  # points of a curve, between its first and its last threshold
COLUMNS = ["case", "probability", "td", "bd", "precision", "dsc"]


def trade_off(
    config: TrainConfig,
    probabilities: Sequence[float] = PROBABILITIES,
) -> pd.DataFrame:
    """Scores of a run's test cases at each threshold (percent, convention `paper`): `COLUMNS`.

    An empty mask has no precision (NaN). The table is kept in the run's trade_off.csv, and reused if that is newer than
    the checkpoint and has the same cases and thresholds.

    Raises
    ------
    InputError
        No checkpoint, or a case that cannot be read or segmented.
    """
    path = config.folder / "trade_off.csv"
    if (
        path.is_file()
        and config.checkpoint.is_file()
        and path.stat().st_mtime_ns > config.checkpoint.stat().st_mtime_ns
    ):
        kept = pd.read_csv(path)
        wanted = [(case, probability) for case in config.test_cases for probability in probabilities]
        if list(kept) == COLUMNS and list(zip(kept["case"], kept["probability"], strict=True)) == wanted:
            return kept
    network, info = load_checkpoint(config.checkpoint)
    rows = []
    for case in config.test_cases:
        ct, label, _ = read_case(find_case(home.path(config.data), case))
        lung = checked_lung(ct)
        probability = probability_map(ct, network, info, config.device, progress=False, lung=lung)
        rows += [{"case": case, **row} for row in curve(probability, lung, label, probabilities)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    home.write_csv(path, table)
    return table


def curve(probability: Volume, lung: np.ndarray, label: Volume, thresholds: Iterable[float]) -> list[dict[str, float]]:
    """Scores of the mask at each threshold: `COLUMNS` without the case."""
    rows = []
    reference = parse_reference(label.array, label.spacing)
    for threshold in thresholds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty mask at a high threshold is part of the curve
            mask = airway_mask(probability, lung, threshold).array
        found = overlap(mask, reference.voxels)
        precision = {"precision": found["precision"] if mask.any() else np.nan}
        rows.append({"probability": threshold, **tree_scores(mask, reference)[0], **precision, "dsc": found["dsc"]})
    return rows


def trade_offs(runs: StudyRuns, variants: Iterable[str], progress: Callable[[Any], Any] = iter) -> pd.DataFrame:
    """Collect `trade_off` of all finished runs of the variants: variant, seed, `COLUMNS`. progress: wraps the runs."""
    tables = []
    for run in progress([run for variant in variants for run in runs_of(runs, variant)]):
        row = runs.table.set_index("run").loc[run]
        tables.append(trade_off(runs.configs[run]).assign(variant=row["variant"], seed=row["seed"]))
    return pd.concat(tables, ignore_index=True)[["variant", "seed", *COLUMNS]]


def td_at_precision(curves: pd.DataFrame, precisions: Sequence[float] = PRECISIONS) -> pd.DataFrame:
    """Find the longest tree that each run reaches at a given precision or better (percent), by moving the threshold.

    curves: from `trade_offs`. A run's scores are means over its cases, interpolated linearly between thresholds.
    Returns variant, seed, precision (the given one) and td; NaN where no threshold reaches it.
    """
    rows = []
    means = curves.groupby(["variant", "seed", "probability"], sort=False)[["precision", "td"]].mean()
    for (variant, seed), run in means.groupby(level=["variant", "seed"], sort=False):
        run = run.droplevel(["variant", "seed"]).sort_index().dropna()
        if run.empty:  # nothing was found at any threshold
            rows += [(variant, seed, wanted, np.nan) for wanted in precisions]
            continue
        places = np.linspace(0, len(run) - 1, FINE)
        precision, td = (np.interp(places, np.arange(len(run)), run[name]) for name in ("precision", "td"))
        rows += [(variant, seed, wanted, np.max(td[precision >= wanted], initial=-np.inf)) for wanted in precisions]
    table = pd.DataFrame(rows, columns=["variant", "seed", "precision", "td"])
    return table.replace({"td": {-np.inf: np.nan}})
