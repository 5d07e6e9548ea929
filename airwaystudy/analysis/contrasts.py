"""Contrasts of two arms over seeds and cases: size, interval, tests and verdict; and each arm by itself.

A score is y = arm + seed + case + seed:arm + case:arm + residual, seeds and cases crossed and random. Two arms are
paired by seed and case, so that only their differences matter: d = mean + seed + case + residual. The interval of the
mean difference is about new seeds and new cases of the same kind.

A verdict is one of five. `supported`: p is below 0.05 and the sign as claimed. `contradicted`: p is below 0.05 and the
sign the other. `equivalent`: neither, and by two one-sided tests the difference is within the margin. `open`: none of
these. `not run`: an arm lacks runs, or the arms differ in more than one factor. Primary contrasts take p by Holm's
correction. A small effect may be significant and equivalent at once: it is supported or contradicted, with the note
`within the margin`.
"""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from airwaylib.errors import InputError
from airwaylib.metrics.intervals import share_interval
from airwaystudy import home
from airwaystudy.analysis.ablation import Variant, differs, obstacles, other_settings, variants
from airwaystudy.analysis.outcomes import OUTCOMES, study_outcomes
from airwaystudy.plan.presets import Preset
from airwaystudy.plan.protocol import MARGIN, Contrast
from airwaystudy.plan.runs import StudyRuns
from airwaystudy.training.config import TrainConfig

LEVEL = 0.05
VERDICTS = ("supported", "contradicted", "equivalent", "open", "not run")
MOST_FLIPS = 2**16  # sign flips are all tried up to 16 seeds; beyond, so many are drawn
ROUNDING = 1e-9  # points; a smaller standard error is rounding of equal differences

ABOUT = ["name", "arm", "base", "factor", "expect", "primary", "outcome"]
NUMBERS = ["difference", "low", "high", "df", "p", "p_holm", "p_equivalence", "low_90", "high_90", "p_sign_flip"]
NUMBERS += ["seeds", "cases", "sd_seed", "sd_case", "flagged", "low_predicted", "high_predicted"]
COLUMNS = [*ABOUT, *NUMBERS, "verdict", "note", "claim", "margin", "protocol"]
ARM_COLUMNS = ["variant", "outcome", "mean", "low", "high", "sd_seed", "low_predicted", "high_predicted"]
ARM_COLUMNS += ["seeds", "cases", "flagged"]


# ---------------------------------------------------------------------------------------------------- one contrast


class Crossed(NamedTuple):
    """Mean squares of differences by seed and case, and the mean's standard error and degrees of freedom."""

    difference: float
    error: float
    df: float
    ms_seed: float
    ms_case: float
    ms_residual: float


def crossed(differences: pd.DataFrame) -> Crossed:
    """Split the spread of differences (a row a seed, a column a case) into mean squares of seeds, cases and residual.

    With S seeds and C cases, the variance of the mean is (MS_seed + MS_case - MS_residual) / (S C), unbiased for a
    sample of seeds and cases. Satterthwaite's degrees of freedom are the square of that sum over the sum of
    MS^2 / df of each. A sum below MS_residual says that seeds and cases have no variance of their own; then
    MS_residual / (S C) with its (S - 1)(C - 1) degrees of freedom counts, the least that the residual leaves.

    Of one seed or one case there are no mean squares: error and df are NaN.
    """
    d = differences.to_numpy(float)
    s, c = d.shape
    mean, seeds, cases = d.mean(), d.mean(axis=1), d.mean(axis=0)
    if min(s, c) < 2:
        return Crossed(mean, *[np.nan] * 5)
    residual = d - seeds[:, None] - cases + mean
    df = np.array([s - 1, c - 1, (s - 1) * (c - 1)])
    squares = np.array([c * ((seeds - mean) ** 2).sum(), s * ((cases - mean) ** 2).sum(), (residual**2).sum()]) / df
    total, freedom = squares @ [1, 1, -1], df[2]
    if total > squares[2]:
        freedom = total**2 / (squares**2 / df).sum()
    return Crossed(mean, math.sqrt(max(total, squares[2]) / d.size), float(freedom), *squares)


def differences(scores: pd.DataFrame, arm: str, base: str, outcome: str) -> pd.DataFrame:
    """Subtract base from arm, paired by seed and case: a row a seed, a column a case.

    scores: columns variant, seed, case and `outcome`.

    Raises
    ------
    InputError
        A seed and case is missing in one of the arms, comes twice or has no number; the message names it.
    """
    arms = scores[scores["variant"].isin([arm, base])].set_index(["variant", "seed", "case"])[outcome]
    if (twice := arms.index.duplicated()).any():
        name, seed, case = arms.index[twice][0]
        raise InputError(f"{name}: seed {seed}, case {case} comes twice")
    every = pd.MultiIndex.from_product([[arm, base], *(arms.index.unique(unit) for unit in ("seed", "case"))])
    arms = arms.reindex(every)
    if (lacking := arms.isna()).any():
        name, seed, case = arms.index[lacking][0]
        raise InputError(f"{name}: no {outcome} of seed {seed}, case {case}")
    return (arms[arm] - arms[base]).unstack()


def sign_flip(seed_means: Sequence[float]) -> float:
    """Return the two-sided p of a sign-flip test: how often the mean is as far from 0 if every sign is by chance.

    Each seed is its mean over the cases. All 2^S flips are tried (of more than 16 seeds, 65536 of them). The test is
    about these test cases and assumes nothing about the shape of the scatter.

    Examples
    --------
    >>> sign_flip([1.0, 2.0, 3.0])  # of 8 flips, all plus and all minus
    0.25
    """
    from scipy.stats import permutation_test

    found = permutation_test((np.asarray(seed_means, float),), np.mean, permutation_type="samples", vectorized=True,
                             n_resamples=MOST_FLIPS, rng=0)  # fmt: skip
    return float(found.pvalue)


def one_more_seed(seed_means: Sequence[float]) -> tuple[float, float]:
    """Return the interval that holds 95 % of the means of one more seed on the same cases; NaN for one seed.

    It is mean ± t SD sqrt(1 + 1/S) with S - 1 degrees of freedom. SD, of the seeds' means over the cases, is
    sqrt(MS_seed / C). The cases are the same, so that their spread does not enter.
    """
    from scipy.stats import t

    means, s = np.asarray(seed_means, float), len(seed_means)
    if s < 2:
        return np.nan, np.nan
    reach = t.ppf(0.975, s - 1) * means.std(ddof=1) * math.sqrt(1 + 1 / s)
    return means.mean() - reach, means.mean() + reach


def statistics(table: pd.DataFrame, margin: float = MARGIN) -> dict[str, float]:
    """Sum up differences by seed and case: `NUMBERS`, but for p_holm and flagged.

    p and low..high (95 %) are Student's, by `crossed`. p_equivalence is the larger p of two one-sided tests against
    -margin and +margin; it is below 0.05 just where low_90..high_90 lies within them. sd_seed and sd_case are the
    standard deviations of the means by seed and by case. low_predicted..high_predicted: see `one_more_seed`. Of one
    seed or one case all tests are NaN.
    """
    from scipy.stats import t

    found = crossed(table)
    mean, df, error = found.difference, found.df, max(found.error, ROUNDING)  # NaN stays NaN: it comes first
    seeds, cases = table.mean(axis=1).to_numpy(), table.mean(axis=0).to_numpy()
    reach, reach_90 = (t.ppf(level, df) * error for level in (0.975, 0.95))
    sd_seed, sd_case = (np.std(values, ddof=1) if len(values) > 1 else np.nan for values in (seeds, cases))
    ahead = one_more_seed(seeds)
    return {
        "difference": mean, "low": mean - reach, "high": mean + reach, "df": df,
        "p": 2 * t.sf(abs(mean) / error, df),
        "p_equivalence": max(t.sf((mean + margin) / error, df), t.cdf((mean - margin) / error, df)),
        "low_90": mean - reach_90, "high_90": mean + reach_90,
        "p_sign_flip": sign_flip(seeds) if len(seeds) > 1 else np.nan,
        "seeds": len(seeds), "cases": len(cases), "sd_seed": sd_seed, "sd_case": sd_case,
        "low_predicted": ahead[0], "high_predicted": ahead[1],
    }  # fmt: skip


def verdict(difference: float, p: float, p_equivalence: float, expect: str = "greater") -> tuple[str, str]:
    """Return a contrast's verdict and its note, see the module's docstring.

    Examples
    --------
    >>> verdict(1.7, 0.01, 0.9), verdict(1.7, 0.01, 0.9, "less")
    (('supported', ''), ('contradicted', ''))
    >>> verdict(0.2, 0.5, 0.01), verdict(0.2, 0.5, 0.2), verdict(0.2, 0.01, 0.001)
    (('equivalent', ''), ('open', ''), ('supported', 'within the margin'))
    """
    equivalent = p_equivalence < LEVEL
    if p < LEVEL:
        as_claimed = difference > 0 if expect == "greater" else difference < 0
        return "supported" if as_claimed else "contradicted", "within the margin" if equivalent else ""
    return "equivalent" if equivalent else "open", ""


def holm(p: Sequence[float]) -> np.ndarray:
    """Correct p-values for their number by Holm's method; NaN, of a contrast that was not run, counts as 1."""
    from statsmodels.stats.multitest import multipletests  # takes a second to import

    p = np.asarray(p, float)
    corrected = multipletests(np.nan_to_num(p, nan=1.0), method="holm")[1] if len(p) else p
    return np.where(np.isnan(p), np.nan, corrected)


# ---------------------------------------------------------------------------------------------- contrasts of a study


def not_one_factor(runs: StudyRuns, contrast: Contrast, arm: Variant, base: Variant) -> str:
    """Say why two arms do not differ in the contrast's factor alone; empty if they do.

    The stages of training that they build on are compared as well, as far as their config.json is there.
    """
    why = obstacles(contrast.factor, arm, base)
    if not any(differs(name, arm.config, base.config) for name in contrast.factor):
        why.append(f"{arm.name} and {base.name} do not differ in {', '.join(contrast.factor)}")
    ours, theirs = (earlier_stages(runs, one.config) for one in (arm, base))
    if len(ours) != len(theirs):
        why.append(f"earlier stages: {len(ours)} and {len(theirs)}")
    for one, other in zip(ours, theirs, strict=False):
        why += [f"{text} in {one.run} and {other.run}" for text in other_settings(contrast.factor, one, other)]
    return "; ".join(why)


def earlier_stages(runs: StudyRuns, config: TrainConfig) -> list[TrainConfig]:
    """Follow `start` back to the first stage: the configurations of the runs that a run builds on, latest first."""
    found = []
    while (start := (found[-1] if found else config).start) is not None:
        path = home.run_folder(runs.study, Path(start).parent.name) / "config.json"
        if not path.is_file():  # a checkpoint of elsewhere
            break
        found.append(home.validated(TrainConfig, home.read_json(path), str(path)))
    return found


def require_one_factor(runs: StudyRuns, contrast: Contrast) -> None:
    """Raise InputError unless the arms of a contrast have finished runs and differ in its factor alone."""
    found = variants(runs)
    if missing := [name for name in (contrast.arm, contrast.base) if name not in found]:
        raise InputError(f"contrast {contrast.title}: no run of {' nor of '.join(missing)}")
    if why := not_one_factor(runs, contrast, found[contrast.arm], found[contrast.base]):
        raise InputError(f"contrast {contrast.title}: {why}")


def lacking_runs(contrast: Contrast, scores: pd.DataFrame, seeds: Collection[int] | None) -> str:
    """Name the arms and seeds without a finished run; empty if both arms have all `seeds` (None: the other arm's)."""
    arms = {name: set(scores.loc[scores["variant"] == name, "seed"]) for name in (contrast.arm, contrast.base)}
    wanted = set.union(*arms.values()) if seeds is None else set(seeds)
    told = []
    for name, there in arms.items():
        left = ", ".join(map(str, sorted(wanted - there)))
        told += [f"no run of {name}"] if not there else [f"no run of {name} with seed {left}"] if left else []
    return "; ".join(told)


def contrast_table(
    runs: StudyRuns, scores: pd.DataFrame, preset: Preset, seeds: Collection[int] | None = None
) -> pd.DataFrame:
    """Compute a preset's contrasts for every outcome: `COLUMNS`, a row a contrast and outcome.

    Only the rows of the preset's primary outcome have a verdict; the others are shown and have no vote. p_holm
    corrects the primary contrasts of that outcome for their planned number. A primary contrast that was not run
    counts in it with p = 1. flagged: cells (arm, seed, case) that never reach 80 % precision.

    Parameters
    ----------
    runs, scores : StudyRuns, DataFrame
        Finished runs, and their `outcomes.study_outcomes`.
    preset : Preset
        Contrasts, primary outcome and margin.
    seeds : collection of int, optional
        Seeds that an arm must have, others being left out. None: those of either arm.

    Raises
    ------
    InputError
        The preset has no primary outcome or no contrasts; or a case is missing in a run.
    """
    if preset.primary is None or not preset.contrasts:
        raise InputError(f"preset {preset.study}: no primary outcome or no contrasts; set both in study.yaml")
    scores = scores if seeds is None else scores[scores["seed"].isin(seeds)]
    found, rows = variants(runs), []
    for contrast in preset.contrasts:
        about = contrast.model_dump() | {"name": contrast.title, "factor": " ".join(contrast.factor)}
        about |= {"margin": preset.margin, "protocol": preset.protocol}
        fault = lacking_runs(contrast, scores, seeds)
        fault = fault or not_one_factor(runs, contrast, found[contrast.arm], found[contrast.base])
        for outcome in OUTCOMES:
            numbers = {"note": fault} if fault else of_outcome(contrast, scores, outcome, preset.margin)
            rows.append(about | {"outcome": outcome} | numbers)
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    corrected = table["primary"] & (table["outcome"] == preset.primary)
    table.loc[corrected, "p_holm"] = holm(table.loc[corrected, "p"])
    words = [judged(row, preset.primary) for row in table.to_dict("records")]
    return table.assign(verdict=[word for word, _ in words], note=[note for _, note in words])


def of_outcome(contrast: Contrast, scores: pd.DataFrame, outcome: str, margin: float) -> dict[str, Any]:
    """One contrast's numbers in one outcome, or a note on the cell that has none, such as an empty mask's precision."""
    arms = scores[scores["variant"].isin([contrast.arm, contrast.base])]
    differences(arms.assign(cell=0.0), contrast.arm, contrast.base, "cell")  # a missing case is refused
    flagged = int((~arms["reached"].astype(bool)).sum())
    try:
        table = differences(arms, contrast.arm, contrast.base, outcome)
    except InputError as error:
        return {"flagged": flagged, "note": str(error)}
    return statistics(table, margin) | {"flagged": flagged, "note": ""}


def judged(row: dict[str, Any], primary: str) -> tuple[str, str]:
    """A row's verdict and note; no verdict for an outcome that is not the primary one."""
    if row["outcome"] != primary:
        return "", row["note"]
    if np.isnan(row["difference"]):
        return "not run", row["note"]
    if np.isnan(row["p"]):
        return "open", "one seed or one case: no test"
    p = row["p_holm"] if row["primary"] else row["p"]
    word, note = verdict(row["difference"], p, row["p_equivalence"], row["expect"])
    could = 2 / 2 ** row["seeds"] < LEVEL  # the least p of sign flips
    if could and (row["p"] < LEVEL) != (row["p_sign_flip"] < LEVEL):
        note = "; ".join(filter(None, [note, f"sign flips disagree: p {row['p_sign_flip']:.3f}, not {row['p']:.3f}"]))
    return word, note


def arm_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Sum up each arm and outcome: `ARM_COLUMNS`, in percent. NaN, an empty mask's precision, is left out.

    Each seed is its mean over the cases; mean and sd_seed are over these. low..high is the 95 % interval of the mean,
    low_predicted..high_predicted that of one more seed on the same cases. Neither leaves 0 to 100 %, see
    `share_interval`. flagged: cells (seed, case) that never reach 80 % precision.
    """
    rows = []
    for name, arm in scores.groupby("variant", sort=False):
        for outcome in OUTCOMES:
            seeds = arm.groupby("seed")[outcome].mean().dropna().to_numpy(float)
            row = {"variant": name, "outcome": outcome, "mean": seeds.mean() if len(seeds) else np.nan}
            row["low"], row["high"] = share_interval(seeds)
            row["low_predicted"], row["high_predicted"] = share_interval(seeds, one_more=True)
            row |= {"sd_seed": np.std(seeds, ddof=1) if len(seeds) > 1 else np.nan, "seeds": len(seeds)}
            rows.append(row | {"cases": arm["case"].nunique(), "flagged": int((~arm["reached"].astype(bool)).sum())})
    return pd.DataFrame(rows, columns=ARM_COLUMNS)


def write_tables(
    runs: StudyRuns, preset: Preset, seeds: Collection[int] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Write a study's tables/outcomes.csv, arms.csv and contrasts.csv, and return them.

    seeds: see `contrast_table`.
    """
    scores = study_outcomes(runs)
    tables = {"outcomes": scores, "arms": arm_table(scores), "contrasts": contrast_table(runs, scores, preset, seeds)}
    for name, table in tables.items():
        home.write_csv(home.results(runs.study) / "tables" / f"{name}.csv", table, decimals=6)
    return tuple(tables.values())
