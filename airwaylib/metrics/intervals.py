"""Many cases in a few numbers: mean, spread and bootstrap interval; two methods compared case by case."""

import numpy as np
import pandas as pd

from airwaylib.errors import InputError

RESAMPLES = 9999
SEED = 0  # of the bootstrap: the same scores, the same interval
KEYS = ("run", "case")


def bootstrap_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over cases; (NaN, NaN) for less than two values, or one that is NaN.

    Examples
    --------
    >>> low, high = bootstrap_interval(np.array([90.0, 92.0, 94.0]))
    >>> 90 <= low < 92 < high <= 94
    True
    """
    values = np.asarray(values, float)
    if len(values) < 2 or not np.isfinite(values).all():
        return np.nan, np.nan
    from scipy.stats import bootstrap  # only now: it takes most of a second to import

    found = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="percentile", rng=SEED
    ).confidence_interval
    return float(found.low), float(found.high)


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean over a few seeds, which a bootstrap of three values would make too narrow.

    (NaN, NaN) for less than two values, or one that is NaN.

    Examples
    --------
    >>> [round(float(end), 2) for end in mean_interval(np.array([90.0, 92.0, 94.0]))]
    [87.03, 96.97]
    """
    values = np.asarray(values, float)
    if len(values) < 2 or not np.isfinite(values).all():
        return np.nan, np.nan
    from scipy.stats import t

    reach = t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - reach), float(values.mean() + reach)


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores over the cases of each run, in the runs' order.

    scores: columns run, case and one a metric. Returns run, cases, and of each metric METRIC_mean, METRIC_sd,
    METRIC_median, METRIC_low and METRIC_high: the bootstrap 95 % interval of the mean. NaN cases are left out; of a
    single case, spread and interval are NaN.

    Examples
    --------
    >>> scores = pd.DataFrame({"run": ["a", "a"], "case": ["x", "y"], "td": [90.0, 94.0]})
    >>> summarise(scores).round(2).to_dict("records")
    [{'run': 'a', 'cases': 2, 'td_mean': 92.0, 'td_sd': 2.83, 'td_median': 92.0, 'td_low': 90.0, 'td_high': 94.0}]
    """
    rows = []
    for run, group in scores.groupby("run", sort=False):
        row = {"run": run, "cases": len(group)}
        for metric in (column for column in scores.columns if column not in KEYS):
            values = group[metric].dropna().to_numpy(float)
            low, high = bootstrap_interval(values)
            middle = (np.mean(values), np.median(values)) if len(values) else (np.nan, np.nan)
            spread = np.std(values, ddof=1) if len(values) > 1 else np.nan
            row |= {f"{metric}_mean": middle[0], f"{metric}_sd": spread, f"{metric}_median": middle[1]}
            row |= {f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def compare(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Two methods case by case: one row a metric with the mean difference `other` - `one` over the cases.

    one, other: columns case and one a metric, of the same cases in any order. Returns metric, cases, one, other
    (means), difference, low and high (paired bootstrap 95 % interval), wilcoxon_p (two-sided signed-rank test; 1 where
    no case differs).

    Raises
    ------
    InputError
        The cases differ; the message names them. A case that comes twice.

    Examples
    --------
    >>> dice = pd.DataFrame({"case": ["x", "y"], "td": [70.0, 74.0]})
    >>> union = pd.DataFrame({"case": ["y", "x"], "td": [90.0, 84.0]})
    >>> compare(dice, union)[["metric", "difference", "low", "high"]].to_dict("records")
    [{'metric': 'td', 'difference': 15.0, 'low': 14.0, 'high': 16.0}]
    """
    from scipy.stats import wilcoxon

    if "case" not in one or "case" not in other:
        raise InputError("scores to compare need a column case")
    one, other = (table.set_index("case").select_dtypes("number") for table in (one, other))
    for table in (one, other):
        if table.index.has_duplicates:
            twice = table.index[table.index.duplicated()].unique()
            raise InputError(f"cases that come twice: {', '.join(map(str, twice))}")
    unmatched = one.index.symmetric_difference(other.index)
    if len(unmatched):
        raise InputError(f"cases that only one of the two methods has: {', '.join(map(str, unmatched))}")
    rows = []
    for metric in (column for column in one.columns if column in other and column not in KEYS):
        pairs = pd.DataFrame({"one": one[metric], "other": other[metric]}).astype(float).dropna()
        if pairs.empty:
            continue
        difference = (pairs["other"] - pairs["one"]).to_numpy()
        low, high = bootstrap_interval(difference)
        p = float(wilcoxon(difference).pvalue) if difference.any() else 1.0
        means = pairs.mean()
        rows.append([metric, len(pairs), means["one"], means["other"], difference.mean(), low, high, p])
    columns = ["metric", "cases", "one", "other", "difference", "low", "high", "wilcoxon_p"]
    return pd.DataFrame(rows, columns=columns)
