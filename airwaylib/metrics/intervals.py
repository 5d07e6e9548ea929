"""Sum scores up over cases or seeds: mean, spread and interval."""

import numpy as np
import pandas as pd

RESAMPLES = 9999
SEED = 0  # of the bootstrap: the same scores, the same interval
KEYS = ("run", "case")


def bootstrap_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over cases; (NaN, NaN) for fewer than two values, or one that is NaN.

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
    """Student's interval of the mean over a few seeds; a bootstrap of three values would be too narrow.

    (NaN, NaN) for fewer than two values, or one that is NaN.

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


def share_interval(values: np.ndarray, level: float = 0.95, one_more: bool = False) -> tuple[float, float]:
    """Student's interval of a mean share (percent) over a few seeds, on the logit scale: it never leaves 0 to 100.

    With m the mean as a fraction and s its standard error, the ends are those of logit(m) ± t s / (m (1 - m)), taken
    back to percent: near the middle `mean_interval`, near the ends lopsided. A seed at 0 or 100 % does no harm. Where
    all are 0 or all 100 there is no spread to go by, and the interval is the mean.

    one_more: the interval that one more seed falls in (prediction) instead of the mean's. (NaN, NaN) for fewer than two
    values, or one that is NaN.

    Examples
    --------
    >>> [round(float(end), 2) for end in share_interval(np.array([94.0, 99.0, 98.0]))]
    [77.16, 99.68]
    """
    values = np.asarray(values, float) / 100
    if len(values) < 2 or not np.isfinite(values).all():
        return np.nan, np.nan
    from scipy.special import expit, logit
    from scipy.stats import t

    mean, spread = values.mean(), values.std(ddof=1)
    if mean * (1 - mean) == 0:
        return 100 * float(mean), 100 * float(mean)
    error = spread * np.sqrt(1 / len(values) + one_more)
    reach = t.ppf((1 + level) / 2, len(values) - 1) * error / (mean * (1 - mean))
    low, high = 100 * expit(logit(mean) + np.array([-reach, reach]))
    return float(low), float(high)


def describe(values: pd.Series) -> dict[str, float]:
    """Mean, sd, median, and low and high of the bootstrap 95 % interval of the mean; NaN values are left out.

    Spread and interval of a single value are NaN.

    Examples
    --------
    >>> {name: round(value, 2) for name, value in describe(pd.Series([90.0, 94.0])).items()}
    {'mean': 92.0, 'sd': 2.83, 'median': 92.0, 'low': 90.0, 'high': 94.0}
    """
    values = values.dropna().to_numpy(float)
    low, high = bootstrap_interval(values)
    mean, median = (np.mean(values), np.median(values)) if len(values) else (np.nan, np.nan)
    sd = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return {"mean": float(mean), "sd": float(sd), "median": float(median), "low": low, "high": high}


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Sum scores up over the cases of each run, in the runs' order.

    scores: columns run, case and one a metric. Returns run, cases, and METRIC_mean, METRIC_sd, ... of each metric, see
    `describe`.

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
            row |= {f"{metric}_{name}": value for name, value in describe(group[metric]).items()}
        rows.append(row)
    return pd.DataFrame(rows)
