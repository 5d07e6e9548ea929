"""What a study planned, and what became of it: done, failed, or never run."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from airwaylib.errors import InputError
from airwaylib.losses.table import LOSSES, defaults
from airwaystudy.analysis.ablation import BOOKKEEPING
from airwaystudy.plan.runs import FACTORS
from airwaystudy.training.config import TrainConfig

UNFINISHED = ("failed", "incomplete")
OF_THE_PLAN = {"variant", "seeds", "after", "preset"}  # what a planned variant has besides a run's settings


def coverage(
    table: pd.DataFrame, planned: Sequence[Mapping[str, Any]] = (), configs: Mapping[str, TrainConfig] | None = None
) -> pd.DataFrame:
    """Planned variants and those that are there, in this order, with what became of their runs.

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
    plans, rows = checked(planned), []
    runs = [row | {"variant": variant_of(row), "seed": seed_of(row)} for row in table.to_dict("records")]
    everywhere = {row["seed"] for row in runs} - {None}
    for name in dict.fromkeys([*plans, *(row["variant"] for row in runs)]):
        here = [row for row in runs if row["variant"] == name]
        planned = (plans[name].get("preset", "yes") if name in plans else "no") if plans else "no plan"
        factors = with_defaults(factors_of(plans.get(name), here))
        rows.append(
            {"variant": name, "planned": planned} | factors | outcome(plans.get(name), here, everywhere, configs or {})
        )
    return pd.DataFrame(rows)


def checked(planned: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The planned variants by name."""
    plans = {}
    for plan in planned:
        name = plan.get("variant")
        if not name or name in plans:
            raise InputError(f"planned variants: {name} comes twice" if name else f"planned variant {plan}: no variant")
        if unknown := sorted(set(plan) - OF_THE_PLAN - set(TrainConfig.model_fields)):
            raise InputError(f"planned variant {name}: no setting {', '.join(unknown)}; see config.TrainConfig")
        plans[name] = plan
    return plans


def variant_of(row: Mapping[str, Any]) -> str:
    """A run's variant; of a run that left no settings behind, its name tells."""
    return re.sub(r"_\d+$", "", row["run"]) if pd.isna(row["seed"]) else row["variant"]


def seed_of(row: Mapping[str, Any]) -> int | None:
    """A run's seed, from its name if it left no settings behind; None if that doesn't tell either."""
    named = re.search(r"_(\d+)$", row["run"])
    return int(row["seed"]) if not pd.isna(row["seed"]) else int(named[1]) if named else None


def factors_of(plan: Mapping[str, Any] | None, here: list[Mapping[str, Any]]) -> dict[str, Any]:
    """A variant's factors as its runs have them, else as planned; None where neither tells."""
    if (run := with_settings(here)) is not None:
        return {factor: None if pd.isna(run.get(factor)) else run[factor] for factor in FACTORS}
    return {factor: None if plan is None else planned_level(plan, factor) for factor in FACTORS}


def with_defaults(factors: dict[str, Any]) -> dict[str, Any]:
    """The factors, with the loss's own value where one is left to the loss."""
    known = defaults(LOSSES[factors["loss"]]) if factors.get("loss") in LOSSES else {}
    return {name: known.get(name) if value is None else value for name, value in factors.items()}


def with_settings(here: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The first of a variant's runs that left its settings behind."""
    return next((row for row in here if not pd.isna(row.get("network"))), None)


def planned_level(plan: Mapping[str, Any], factor: str) -> Any:
    """A factor as planned."""
    return plan.get(factor, TrainConfig.model_fields[factor].default)


def outcome(
    plan: Mapping[str, Any] | None,
    here: list[Mapping[str, Any]],
    everywhere: set[int],
    configs: Mapping[str, TrainConfig],
) -> dict[str, str]:
    """Seeds by what became of them, and that in a word."""
    seeds = {status: sorted({r["seed"] for r in here if r["status"] == status}) for status in ("done", *UNFINISHED)}
    missing = sorted(set((plan or {}).get("seeds") or everywhere) - set().union(*seeds.values()))
    other = other_settings(plan, here, configs)
    if other:
        status = "other settings"
    elif not seeds["done"]:
        status = next((status for status in UNFINISHED if seeds[status]), "not run")
    else:
        status = "partly done" if missing or any(seeds[status] for status in UNFINISHED) else "done"
    texts = {name: ", ".join(map(str, found)) for name, found in {**seeds, "missing": missing}.items()}
    reasons = dict.fromkeys(row["reason"] for row in here if row["reason"])
    return texts | {"status": status, "reason": "; ".join([*reasons, *other])}


def other_settings(
    plan: Mapping[str, Any] | None, here: list[Mapping[str, Any]], configs: Mapping[str, TrainConfig]
) -> list[str]:
    """What a variant's runs have otherwise than planned: a factor, or another setting that the plan names."""
    run = with_settings(here)
    if plan is None or run is None:
        return []
    known = factors_of(plan, here)
    pairs = {name: (known[name], planned_level(plan, name)) for name in FACTORS if name in run}
    if run["run"] in configs:
        named = set(plan) - OF_THE_PLAN - BOOKKEEPING - set(FACTORS) - {"missed_by", "start"}  # names of other runs
        pairs |= {name: (getattr(configs[run["run"]], name), plan[name]) for name in sorted(named)}
    return [f"{name} is {is_}, planned {wanted}" for name, (is_, wanted) in pairs.items() if is_ != wanted]
