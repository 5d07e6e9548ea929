"""Collect precision against tree length detected over the threshold of the airway probability.

A mask at one threshold is one point of a curve. Compare runs by their curves, not by single points.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.plan.runs import StudyRuns, runs_of

PRECISIONS = (60, 70, 80, 90)  # percent, at which runs are compared
FINE = 1001  # points of a curve, between its first and its last threshold


def trade_offs(runs: StudyRuns, variants: Iterable[str]) -> pd.DataFrame:
    """Collect the threshold curves of all finished runs of the variants, as `held_out.threshold_curve` made them.

    Returns
    -------
    DataFrame
        variant, seed, case and the curve's columns (percent, convention `paper`).

    Raises
    ------
    InputError
        A run without curves: one that was scored before they were kept.
    """
    tables = []
    for run in [run for variant in variants for run in runs_of(runs, variant)]:
        row = runs.table.set_index("run").loc[run]
        path = home.run_folder(runs.study, run) / "trade_off.csv"
        if not path.is_file():
            raise InputError(f"{path}: not there; delete scores.csv beside it and run the study again to make it")
        table = pd.read_csv(path)
        tables.append(table.assign(variant=row["variant"], seed=row["seed"])[["variant", "seed", *table]])
    return pd.concat(tables, ignore_index=True)


def td_at_precision(curves: pd.DataFrame, precisions: Sequence[float] = PRECISIONS) -> pd.DataFrame:
    """Find the longest tree that each run reaches at a given precision or better (percent), by moving the threshold.

    curves: from `trade_offs`. A run's scores are means over its cases, interpolated linearly between thresholds.
    Returns variant, seed, precision (the given one) and td; NaN where no threshold reaches it.
    """
    rows = []
    means = curves.groupby(["variant", "seed", "logit"], sort=False)[["precision", "td"]].mean()
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
