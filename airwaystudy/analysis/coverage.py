"""Planned variants joined with the runs that are there: done, failed, or never run."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from airwaylib.errors import InputError
from airwaylib.losses.table import LOSSES, defaults
from airwaystudy.analysis.ablation import BOOKKEEPING
from airwaystudy.plan.runs import FACTORS
from airwaystudy.training.config import TrainConfig

STATUSES = ["done", "failed", "incomplete"]
OF_THE_PLAN = {"variant", "seeds", "after", "preset"}  # what a planned variant has besides a run's settings


def coverage(
    table: pd.DataFrame, planned: Sequence[Mapping[str, Any]] = (), configs: Mapping[str, TrainConfig] | None = None
) -> pd.DataFrame:
    """Join planned variants, first and in their order, with the runs that are there.

    Parameters
    ----------
    table : DataFrame
        `runs.StudyRuns.table`.
    planned : sequence of mappings
        "variant", settings of a run that are not the default, "preset" (which plans it), "seeds" (a list; else all that
        any run has); see `plan`.
    configs : mapping, optional
        `runs.StudyRuns.configs`, so that planned settings besides the factors are compared, too.

    Returns
    -------
    DataFrame
        variant; planned (the preset, or yes; no; or "no plan"); the factors, of the runs or else as planned; done,
        failed, incomplete and missing (seeds); status: done (all seeds), partly done, failed, incomplete, not run,
        other settings; reason.

    Raises
    ------
    InputError
        A planned variant without a name, twice, or with a setting that no run has.

    Examples
    --------
    >>> table = pd.DataFrame({"run": ["final_dice_0"], "variant": ["final_dice"], "seed": [0], "status": ["done"]})
    >>> planned = [{"variant": "final_dice", "loss": "dice"}, {"variant": "both_dice", "supervision": "both"}]
    >>> coverage(table.assign(reason=""), planned)[["variant", "planned", "status"]].values.tolist()
    [['final_dice', 'yes', 'done'], ['both_dice', 'yes', 'not run']]
    """
    plans = checked(planned)
    # A run that left no settings behind is known by its name alone.
    named = table["run"].str.extract(r"^(?P<variant>.*?)(?:_(?P<seed>\d+))?$")
    unknown = table["seed"].isna()
    runs = table.assign(
        variant=table["variant"].mask(unknown, named["variant"]),
        seed=pd.to_numeric(table["seed"].mask(unknown, named["seed"])).astype("Int64"),
    )
    variants, seeds = list(dict.fromkeys([*plans, *runs["variant"]])), sorted(set(runs["seed"].dropna()))
    wanted = [(name, seed) for name in variants for seed in plans.get(name, {}).get("seeds") or seeds]
    wanted = pd.DataFrame(wanted, columns=["variant", "seed"]).astype({"seed": "Int64"})
    joined = wanted.merge(runs[runs["status"].isin(STATUSES)], "outer", on=["variant", "seed"])
    joined["status"] = joined["status"].fillna("missing")
    texts = joined.groupby(["variant", "status"])["seed"].agg(in_words).unstack(fill_value="")
    texts = texts.reindex(index=variants, columns=[*STATUSES, "missing"], fill_value="")
    rows = []
    for name in variants:
        here, plan, cells = runs[runs["variant"] == name], plans.get(name), texts.loc[name].to_dict()
        settings = here.dropna(subset="network").to_dict("records")[:1] if "network" in here else []
        factors = factors_of(settings[0]) if settings else planned_factors(plan)
        other = other_settings(plan, settings[0], configs or {}) if plan and settings else []
        planned = plan.get("preset", "yes") if plan else "no" if plans else "no plan"
        reason = "; ".join([*dict.fromkeys(filter(None, here["reason"])), *other])
        row = {"variant": name, "planned": planned, **with_defaults(factors), **cells}
        rows.append(row | {"status": "other settings" if other else status_of(cells), "reason": reason})
    return pd.DataFrame(rows)


def checked(planned: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Index the planned variants by name; refuse one without a name, twice, or with unknown settings (`InputError`)."""
    plans = {}
    for plan in planned:
        name = plan.get("variant")
        if not name or name in plans:
            raise InputError(f"planned variants: {name} comes twice" if name else f"planned variant {plan}: no variant")
        if unknown := sorted(set(plan) - OF_THE_PLAN - set(TrainConfig.model_fields)):
            raise InputError(f"planned variant {name}: no setting {', '.join(unknown)}; see config.TrainConfig")
        plans[name] = plan
    return plans


def in_words(seeds: pd.Series) -> str:
    """List seeds in order; a run whose name has no number counts as "?"."""
    return ", ".join("?" if pd.isna(seed) else str(seed) for seed in seeds.sort_values())


def status_of(seeds: Mapping[str, str]) -> str:
    """Sum up a variant in a word: done, partly done, failed, incomplete or not run."""
    if seeds["done"]:
        return "partly done" if any(seeds[name] for name in ("failed", "incomplete", "missing")) else "done"
    return next((status for status in STATUSES if seeds[status]), "not run")


def factors_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Read the factors off a run's row; None where it has none."""
    return {name: None if pd.isna(run.get(name)) else run[name] for name in FACTORS}


def planned_factors(plan: Mapping[str, Any] | None) -> dict[str, Any]:
    """Read the factors off a plan, with a run's defaults where it names none; all None without a plan."""
    return {name: plan.get(name, TrainConfig.model_fields[name].default) if plan else None for name in FACTORS}


def with_defaults(factors: dict[str, Any]) -> dict[str, Any]:
    """Fill in the loss's own value where a factor is left to the loss."""
    known = defaults(LOSSES[factors["loss"]]) if factors["loss"] in LOSSES else {}
    return {name: known.get(name) if value is None else value for name, value in factors.items()}


def other_settings(plan: Mapping[str, Any], run: Mapping[str, Any], configs: Mapping[str, TrainConfig]) -> list[str]:
    """List what a run has otherwise than planned: a factor, or another setting that the plan names."""
    known, wanted = factors_of(run), planned_factors(plan)
    pairs = {name: (known[name], wanted[name]) for name in FACTORS if name in run}
    if run["run"] in configs:
        named = set(plan) - OF_THE_PLAN - BOOKKEEPING - set(FACTORS) - {"missed_by", "start"}  # names of other runs
        pairs |= {name: (getattr(configs[run["run"]], name), plan[name]) for name in sorted(named)}
    return [f"{name} is {is_}, planned {wanted}" for name, (is_, wanted) in pairs.items() if is_ != wanted]
