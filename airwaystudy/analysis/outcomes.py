"""Outcomes of each case from its threshold curve: how much of the tree is found at a given precision.

Each case has a threshold of its own, so that arms are compared at equal precision case by case.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.plan.protocol import OUTCOMES, PRIMARY
from airwaystudy.plan.runs import StudyRuns

__all__ = ["OUTCOMES", "PRIMARY", "outcomes", "study_outcomes"]

CURVE = ("case", "logit", "td", "bd", "td_thin", "td_wide", "precision", "td_whole", "td_thin_whole")
CURVE += ("precision_whole", "dsc")
PRECISION = 80.0  # percent, at which arms are compared
AREA = np.arange(70.0, 96.0)  # percent; TD is averaged over these precisions


class Point(NamedTuple):
    """A threshold of a case, and whether the precision asked for is reached there."""

    logit: float
    reached: bool


def outcomes(curve: pd.DataFrame) -> pd.DataFrame:
    """Reduce a run's threshold curve to one row a case: case, those of `OUTCOMES` (percent), reached, beyond.

    Of the thresholds at which a case's precision is at least 80 %, the one with the longest detected tree counts.
    There td_80, td_thin_80, td_wide_80 and bd_80 are read; td_90 and td_area take other precisions. Outcomes with
    `whole` in their name do the same without the component rule. Between two thresholds, scores and precision are
    linear in the logit. An empty mask has no precision and is passed over.

    A case that never reaches the precision counts where its precision is highest, and `reached` is False for 80 %. A
    case in which nothing is found at any threshold has TD 0. No case is dropped. `beyond` tells a case that is at least
    that precise at every threshold: its tree at 80 % lies beyond the scale, and what counts is less than that.

    Parameters
    ----------
    curve : DataFrame
        `CURVE`, a row a case and threshold: true branches in percent, thresholds as logits.

    Raises
    ------
    InputError
        A column is missing, a case has no threshold at logit 0 or one comes twice, or a score is not finite.
    """
    if lacking := [name for name in CURVE if name not in curve]:
        raise InputError(f"threshold curve: no column {', '.join(lacking)}; make the run's trade_off.csv again")
    rows = [{"case": case, **of_case(case, rows)} for case, rows in curve.groupby("case", sort=False)]
    return pd.DataFrame(rows, columns=["case", *OUTCOMES, "reached", "beyond"])


def of_case(case: str, rows: pd.DataFrame) -> dict[str, float]:
    """One case's outcomes by name, `reached` and `beyond`."""
    rows = rows.sort_values("logit")
    curve = {name: rows[name].to_numpy(float) for name in CURVE if name != "case"}
    if (np.diff(curve["logit"]) == 0).any():
        raise InputError(f"threshold curve of {case}: a threshold comes twice")
    if not all(np.isfinite(curve[name]).all() for name in ("logit", "td", "bd", "td_whole")):
        raise InputError(f"threshold curve of {case}: a logit, td, bd or td_whole is no number")
    half = np.flatnonzero(np.isclose(curve["logit"], 0))
    if not len(half):
        raise InputError(f"threshold curve of {case}: no threshold at logit 0")
    paper, whole = best_point(curve, PRECISION), best_point(curve, PRECISION, "_whole")
    return {
        "td_80": score(curve, "td", paper),
        "td_80_whole": score(curve, "td_whole", whole),
        "td_thin_80": score(curve, "td_thin", paper),
        "bd_80": score(curve, "bd", paper),
        "td_area": float(np.trapezoid([score(curve, "td", best_point(curve, p)) for p in AREA], AREA) / np.ptp(AREA)),
        "td_90": score(curve, "td", best_point(curve, 90)),
        **{name: float(curve[name][half[0]]) for name in ("td", "bd", "precision")},
        "td_wide_80": score(curve, "td_wide", paper),
        "td_thin_80_whole": score(curve, "td_thin_whole", whole),
        "reached": paper.reached,
        "beyond": bool(np.nanmin(curve["precision"], initial=100) >= PRECISION),
    }


def best_point(curve: dict[str, np.ndarray], wanted: float, convention: str = "") -> Point:
    """Find the threshold of the longest tree at a precision of at least `wanted`, or of the highest precision.

    curve: one case's columns by rising threshold. convention: "" (`paper`) or "_whole". Of equal ones the lowest
    threshold counts. Logit NaN if every mask is empty.

    Strategy: the curve is linear between thresholds, so that the best point is a threshold or one where the precision
    crosses `wanted`. Those are tried.
    """
    found = np.isfinite(curve[f"precision{convention}"])
    if not found.any():
        return Point(np.nan, False)
    logit, td, precision = (curve[name][found] for name in ("logit", f"td{convention}", f"precision{convention}"))
    if precision.max() < wanted:
        best = np.lexsort((-td, -precision))[0]  # stable: of equal ones the first
        return Point(float(logit[best]), False)
    gap = precision - wanted
    at = np.flatnonzero(gap[:-1] * gap[1:] < 0)
    crossings = logit[at] + (logit[at + 1] - logit[at]) * gap[at] / (gap[at] - gap[at + 1])
    candidates = np.sort(np.r_[logit[gap >= 0], crossings])
    return Point(float(candidates[np.argmax(np.interp(candidates, logit, td))]), True)


def score(curve: dict[str, np.ndarray], name: str, point: Point) -> float:
    """Read a score at a point of a case's curve; 0 if no mask holds anything."""
    return 0.0 if np.isnan(point.logit) else float(np.interp(point.logit, curve["logit"], curve[name]))


def study_outcomes(runs: StudyRuns) -> pd.DataFrame:
    """Collect the outcomes of all finished runs of a study: run, variant, seed, case, `OUTCOMES`, reached, beyond.

    Raises
    ------
    InputError
        A run has no threshold curve, or one without some of its test cases; the message names both.
    """
    tables = []
    done = runs.table[runs.table["status"] == "done"]
    for about in done[["run", "variant", "seed"]].to_dict("records"):
        path = home.run_folder(runs.study, about["run"]) / "trade_off.csv"
        if not path.is_file():
            raise InputError(f"{path}: no threshold curve of this run")
        found = outcomes(pd.read_csv(path))
        if lacking := sorted(set(runs.configs[about["run"]].test_cases) - set(found["case"])):
            raise InputError(f"{path}: no curve of {', '.join(lacking)}")
        tables.append(found.assign(**about)[[*about, *found.columns]])
    return pd.concat(tables, ignore_index=True)
