"""Evaluate the kinds of measure of claims.yaml, each from a study's tables alone.

A measure gives a value with Student's 95 % interval of its mean over the seeds, and is held against what the claim
expects: above `value` (greater), below it (less), or no further from it than `tolerance` (equal). The claim is
supported if the whole interval is as expected, contradicted if none of it is, and open otherwise. It is equivalent if
the whole interval lies within `tolerance` of `value`, or within `margin` of it without being as expected. A closed
form or a simulation depends on no training and has no interval: the number itself decides. A contrast was judged by
its own analysis, whose verdict stands.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, model_validator

from airwaylib.metrics.intervals import mean_interval
from airwaystudy.plan.runs import FACTORS

VERDICTS = ("supported", "contradicted", "equivalent", "open", "not run")
SCORES, RUNS, CONTRASTS = "tables/scores_by_case.csv", "tables/runs.csv", "tables/contrasts.csv"
REDUCE = {"mean": np.mean, "largest": lambda values: np.max(np.abs(values)), "share": None}


class MissingError(Exception):
    """A measure lacks a run, table, column or row; the message names it."""


class Finding(NamedTuple):
    """A measure's result. `seeds`: how many values the interval is of; 0 for a number that depends on no training."""

    measure: str
    expected: str
    ours: float
    low: float
    high: float
    seeds: int
    verdict: str
    table: str
    note: str = ""


class Tables:
    """The tables of results/<study>/, each read once."""

    def __init__(self, folder: Path):
        self.folder, self.read = folder, {}

    def __call__(self, name: str, columns: list[str]) -> pd.DataFrame:
        """Table `name`, such as "tables/effects.csv"; raises `MissingError` without it, or without one of `columns`."""
        if name not in self.read:
            if not (self.folder / name).is_file():
                raise MissingError(f"no {name}")
            self.read[name] = read_table(self.folder / name)
        for column in columns:
            if column not in self.read[name]:
                raise MissingError(f"{name} has no column {column}")
        return self.read[name]

    @cached_property
    def cases(self) -> set[str]:
        """Names of the cases that any of the tables is about."""
        found = set()
        for path in sorted([*self.folder.glob("tables/*.csv"), *self.folder.glob("gradients/*.csv")]):
            table = self(path.relative_to(self.folder).as_posix(), [])
            found |= set(table["case"].dropna().astype(str)) if "case" in table else set()
        return found


class Measure(BaseModel, extra="forbid", frozen=True):
    """Fields of every kind: a value, and on which side of it the claim expects the measure."""

    expect: Literal["greater", "less", "equal"] = Field(description="than value; equal: within tolerance")
    value: float = Field(0.0, description="what the measure is held against")
    tolerance: float | None = Field(None, ge=0, description="largest distance from it that counts as equal")
    margin: float | None = Field(None, gt=0, description="distance from it that is too small to matter; null: none")
    measure: str = Field("", description="the measure in words; empty: made of its other fields")

    @model_validator(mode="after")
    def tolerance_belongs_to_equal(self) -> "Measure":
        """Refuse equal without a tolerance, a tolerance without equal, and equal with a margin."""
        if (self.expect == "equal") != (self.tolerance is not None):
            raise ValueError("expect: equal and tolerance need each other")
        if self.expect == "equal" and self.margin is not None:
            raise ValueError("margin: tolerance is the margin of expect: equal")
        return self

    @property
    def expected(self) -> str:
        """The expectation as a sign and a number."""
        return (
            {"greater": ">", "less": "<", "equal": "="}[self.expect]
            + f" {self.value:g}"
            + (f" ± {self.tolerance:g}" if self.tolerance is not None else "")
        )

    def judge(self, low: float, high: float) -> str:
        """Judge an interval, of `VERDICTS`; one that is nan is open."""
        near = self.tolerance if self.expect == "equal" else self.margin
        bottom, top = {
            "greater": (np.nextafter(self.value, np.inf), np.inf),
            "less": (-np.inf, np.nextafter(self.value, -np.inf)),
            "equal": (self.value - (near or 0), self.value + (near or 0)),
        }[self.expect]
        if self.expect != "equal" and bottom <= low and high <= top:
            return "supported"
        if near is not None and self.value - near <= low and high <= self.value + near:
            return "equivalent"
        return "contradicted" if high < bottom or low > top else "open"

    def over_seeds(self, values: pd.Series, table: str) -> Finding:
        """The finding of a value a seed."""
        values = values.dropna().to_numpy(float)
        if not len(values):
            raise MissingError(f"{table}: no number")
        low, high = mean_interval(values)
        verdict = self.judge(low, high)
        return Finding(self.text, self.expected, values.mean(), low, high, len(values), verdict, table)

    def exact(self, value: float, table: str) -> Finding:
        """The finding of a number that no training stands behind."""
        return Finding(self.text, self.expected, value, np.nan, np.nan, 0, self.judge(value, value), table)


class Effect(Measure):
    """A metric of `variant` less that of `base`, paired by seed and case: for each seed the mean over the cases.

    The two must differ in one factor, or in `factors`, by runs.csv; else the measure is not run.
    """

    kind: Literal["effect"]
    metric: str = Field(description="column of scores_by_case.csv")
    variant: str = Field(description="what is set against base")
    base: str = Field(description="the variant it is paired with")
    having: dict[str, str] = Field({}, description="factors that both were trained with, such as a sampling")
    factors: list[Literal[FACTORS]] = Field([], description="factors that may differ; empty: one, whichever it is")

    @property
    def text(self) -> str:
        """The measure in words."""
        both = "".join(f", {level}" for level in self.having.values())
        return self.measure or f"{self.metric}: {self.variant} minus {self.base}{both} (points)"

    def finding(self, tables: Tables) -> Finding:
        """The finding over the seeds that both have."""
        wide = by_variant(tables, self.metric, [self.variant, self.base]).dropna()
        for factor, wanted in self.having.items():
            runs = tables(RUNS, ["variant", factor])
            if others := sorted(set(runs[runs["variant"].isin([self.variant, self.base])][factor]) - {wanted}):
                raise MissingError(f"{self.variant} and {self.base} with {factor} {wanted}; here {', '.join(others)}")
        self.require_one_factor(tables)
        difference = (wide[self.variant] - wide[self.base]).groupby("seed").mean()
        if difference.empty:
            raise MissingError(f"{self.variant} and {self.base} share no seed and case")
        return self.over_seeds(difference, SCORES)

    def require_one_factor(self, tables: Tables) -> None:
        """Raise MissingError, which names the factors, if others than allowed differ between the variants, or none."""
        runs = tables(RUNS, ["variant"])
        known = [factor for factor in FACTORS if factor in runs]
        levels = runs[known].astype(object).fillna("default").astype(str)
        one, other = (levels[runs["variant"] == name] for name in (self.variant, self.base))
        if one.empty or other.empty:
            raise MissingError(f"{RUNS} has no run of {self.variant if one.empty else self.base}")
        found = [factor for factor in known if set(one[factor]) != set(other[factor])]
        if "loss" in found:  # what one variant leaves to its loss, or its loss does not have, belongs to the loss
            left = [name for name in ("alpha", "root") if name in found and "default" in {*one[name], *other[name]}]
            found = [factor for factor in found if factor not in left]
        if not found:
            raise MissingError(f"{self.variant} and {self.base} differ in no factor")
        if not set(found) <= set(self.factors) if self.factors else len(found) > 1:
            allowed = f"{' and '.join(self.factors)} alone" if self.factors else "one factor"
            raise MissingError(f"{self.variant} and {self.base} differ in {' and '.join(found)}, not in {allowed}")


class Spread(Measure):
    """Compare the spread of the variants' means (largest less smallest) in one metric with another's, by seed."""

    kind: Literal["spread"]
    metric: str = Field(description="column of scores_by_case.csv that is expected to spread")
    less: str = Field(description="the metric whose spread is taken off")
    within: float | None = Field(None, gt=0, description="points of `less` below the best variant's mean; null: all")

    @property
    def text(self) -> str:
        """The measure in words."""
        which = "" if self.within is None else f" within {self.within:g} points of {self.less}"
        return self.measure or f"range over the variants{which}, of {self.metric} minus that of {self.less} (points)"

    def finding(self, tables: Tables) -> Finding:
        """The finding over the seeds."""
        ranges, level = [], by_variant(tables, self.less, []).groupby("seed").mean().mean()
        close = level.index[level >= level.max() - (np.inf if self.within is None else self.within)]
        for metric in (self.metric, self.less):
            means = by_variant(tables, metric, list(close)).groupby("seed").mean().dropna()
            if means.shape[1] < 2 or means.empty:
                raise MissingError("fewer than two such variants with a seed in common")
            ranges.append(means.max(axis=1) - means.min(axis=1))
        return self.over_seeds(ranges[0] - ranges[1], SCORES)


class Number(Measure):
    """A number of a table: a column's rows where other columns are as given, in one number, or in one a seed."""

    kind: Literal["number"]
    table: str = Field(description="CSV file under results/<study>/")
    column: str = Field(description="the column with the numbers")
    where: dict[str, Any] = Field({}, description="column: value, or a list of values")
    against: str = Field("", description="a column that is taken off, row by row")
    reduce: Literal["mean", "largest", "share"] = Field(
        "mean", description="of the rows; largest: in size; share: percent of the sum over the rows that where leaves"
    )
    over: str = Field("", description="column with a value for each training, such as seed; empty: no training")

    @property
    def text(self) -> str:
        """The measure in words."""
        return self.measure or f"{self.reduce} of {self.column}" + (f" minus {self.against}" if self.against else "")

    def finding(self, tables: Tables) -> Finding:
        """The finding over the trainings, or exact."""
        rows = tables(self.table, [self.column, *self.where, *filter(None, (self.against, self.over))])
        values = self.reduced(rows)
        if self.over:
            return self.over_seeds(values, self.table)
        if not np.isfinite(values.iloc[0]):
            raise MissingError(f"{self.table}: no number")
        return self.exact(float(values.iloc[0]), self.table)

    def reduced(self, rows: pd.DataFrame) -> pd.Series:
        """The selected rows in one number for each value of `over`, or in one."""
        chosen = select(rows, self.where)
        if chosen.empty:
            raise MissingError(f"{self.table}: no row with " + ", ".join(f"{k} {v}" for k, v in self.where.items()))
        groups = chosen[self.over] if self.over else pd.Series(0, chosen.index)
        if self.reduce == "share":
            every = rows[self.over] if self.over else pd.Series(0, rows.index)
            return 100 * chosen[self.column].groupby(groups).sum() / rows[self.column].groupby(every).sum()
        values = chosen[self.column] - (chosen[self.against] if self.against else 0)
        return values.dropna().groupby(groups).agg(REDUCE[self.reduce]).reindex(groups.unique())


class ClosedForm(Measure):
    """The closed form of a loss's gradient ratio at the probability, for an airway voxel, with all voxels right.

    There is none at the logit: with every p at 0 or 1, p (1 - p) is 0 everywhere.
    """

    kind: Literal["closed_form"]
    loss: str = Field(description="loss by name")
    weight: float = Field(1.0, description="of the voxel: 1 on the centreline, alpha / (1 - alpha) farthest from it")
    parameters: dict[str, float] = Field({}, description="the loss's own, where they differ from its defaults")

    @property
    def settings(self) -> str:
        """Weight and parameters in words."""
        return ", ".join(f"{name} {value:.3g}" for name, value in {"weight": self.weight, **self.parameters}.items())

    @property
    def text(self) -> str:
        """The measure in words."""
        return self.measure or f"gradient ratio of {self.loss} at the probability, perfect prediction, {self.settings}"

    def finding(self, tables: Tables) -> Finding:
        """The exact finding: with every voxel right, p is 1 on the airway, 0 off it and the index 1."""
        from airwaylib.losses.ratio import gradient_ratio  # imports torch: not for those who only read tables

        value = float(gradient_ratio(self.loss, 1, 0, 1, self.weight, **self.parameters))
        return self.exact(value, "")


class Contrast(BaseModel, extra="forbid", frozen=True):
    """A contrast of tables/contrasts.csv: its analysis has judged it, and its verdict and interval are taken over."""

    kind: Literal["contrast"]
    name: str = Field(min_length=1, description="of the contrast")
    outcome: str = Field(min_length=1, description="what it is measured in")
    measure: str = Field("", description="the measure in words; empty: made of its other fields")
    expected: str = Field("> 0", description="what the claim expects, in words; the analysis decides")

    @property
    def text(self) -> str:
        """The measure in words."""
        return self.measure or f"{self.outcome}: {self.name}"

    def finding(self, tables: Tables) -> Finding:
        """The contrast's one row."""
        rows = tables(CONTRASTS, ["name", "outcome", "difference", "low", "high", "seeds", "verdict"])
        rows = select(rows, {"name": self.name, "outcome": self.outcome})
        if len(rows) != 1:
            raise MissingError(f"{CONTRASTS}: {len(rows)} rows of name {self.name}, outcome {self.outcome}")
        row = rows.iloc[0]
        if row["verdict"] not in VERDICTS:
            raise MissingError(f"{CONTRASTS}: {self.name}: verdict {row['verdict']!r} is none of {', '.join(VERDICTS)}")
        note = "" if pd.isna(row.get("note")) else str(row["note"])
        numbers = (float(row[name]) for name in ("difference", "low", "high"))
        seeds = 0 if pd.isna(row["seeds"]) else int(row["seeds"])
        return Finding(self.text, self.expected, *numbers, seeds, row["verdict"], CONTRASTS, note)


KINDS = {"effect": Effect, "spread": Spread, "number": Number, "closed_form": ClosedForm, "contrast": Contrast}


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file; without rows and columns if it is empty, as a table of nothing is written."""
    try:
        return pd.read_csv(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()


def by_variant(tables: Tables, metric: str, variants: list[str]) -> pd.DataFrame:
    """A metric by seed and case, a column a variant: of those named, which must be there, or of all."""
    scores = tables(SCORES, ["variant", "seed", "case", metric])
    missing = [variant for variant in variants if variant not in set(scores["variant"])]
    if missing:
        raise MissingError(f"no run of {' nor of '.join(missing)}")
    scores = scores[scores["variant"].isin(variants)] if variants else scores
    return scores.pivot_table(index=["seed", "case"], columns="variant", values=metric)


def select(rows: pd.DataFrame, where: dict[str, Any]) -> pd.DataFrame:
    """Select the rows whose columns have the values of `where`."""
    for column, value in where.items():
        rows = rows[rows[column].isin(value if isinstance(value, list) else [value])]
    return rows
