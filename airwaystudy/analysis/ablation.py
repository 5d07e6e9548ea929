"""Ablations: variants summed up over seeds and cases, and compared one factor at a time.

A *variant* is a set of settings; its runs differ by nothing but the seed. The unit is a case within a seed. An interval
`low`..`high` is Student's 95 % interval over the seeds, each seed being its mean over the cases: it covers the noise of
training. Of shares it is taken on the logit scale, where it stays within 0 to 100 %. `low_cases`..`high_cases` is a
bootstrap over the cases, each case being its mean over the seeds.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from airwaylib.errors import InputError
from airwaylib.losses.table import LOSSES, defaults
from airwaylib.metrics.intervals import bootstrap_interval, mean_interval, share_interval
from airwaylib.metrics.scores import pool_groups
from airwaystudy import home
from airwaystudy.plan.runs import FACTORS, StudyRuns
from airwaystudy.training.config import TrainConfig

CONVENTION = "paper"
METRICS = ("td", "bd", "dsc", "precision", "fpr", "leakage", "td_truth", "bd_truth")  # percent
BEYOND = ("leakage",)  # may be more than 100 %

# A factor's levels from the plainest to the paper's; an effect goes from the earlier to the later. Numbers rise.
ORDER = {
    "network": ("unet", "vnet", "attention_unet", "dynunet", "wingsnet"),
    "supervision": ("final", "deep", "decoder", "both"),
    "loss": ("dice", "dice_bce", "tversky", "root_tversky", "general_union"),
    "sampling": ("uniform", "small_airway", "centreline", "hard_skeleton"),
}
# Settings that leave what is learnt as it is, or are compared otherwise (`data` by its checksum).
BOOKKEEPING = {"study", "run", "seed", "data"} | {"device", "workers", "memory", "deterministic"}
BOOKKEEPING |= {"probe_every", "snapshots"}
# Settings that may change with a factor: a network's own width, the run that hard-skeleton sampling draws from.
COMPANIONS = {"network": {"width"}, "sampling": {"missed_by"}}


@dataclass(frozen=True)
class Variant:
    """A variant with finished runs: settings, training steps by seed, checksums of the data, parameters to learn."""

    name: str
    config: TrainConfig
    steps: dict[int, int]
    data: frozenset[str]
    parameters: int

    @property
    def steps_named(self) -> str:
        """Training steps of a run: one number, or lowest and highest over the seeds."""
        low, high = min(self.steps.values()), max(self.steps.values())
        return f"{low}" if low == high else f"{low} to {high}"


def training_steps(config: TrainConfig, epochs: int) -> int:
    """Count the optimiser's steps in so many epochs, those of an earlier stage (`start`) not counted."""
    crops = config.crops_per_case * len(config.train_cases)
    return epochs * math.ceil(math.ceil(crops / config.devices) / config.batch_size)


def settings(config: TrainConfig) -> dict[str, Any]:
    """Collect all settings that decide what is learnt; of runs they build on, only whether there is one."""
    found = config.model_dump(exclude=BOOKKEEPING)
    return found | {name: found[name] is not None for name in ("start", "missed_by")}


def variants(runs: StudyRuns) -> dict[str, Variant]:
    """Group a study's finished runs into variants, by name, in the order of their factors' levels.

    Raises
    ------
    InputError
        Runs of one variant differ by more than the seed; the message names the setting.
    """
    found, done = {}, runs.table[runs.table["status"] == "done"]
    for name, rows in done.groupby("variant", sort=False):
        configs = [runs.configs[run] for run in rows["run"]]
        for run, config in zip(rows["run"], configs, strict=True):
            if other := differing(configs[0], config):
                raise InputError(f"{rows['run'].iloc[0]} and {run} differ in {', '.join(other)}, not in the seed alone")
        epochs = [home.read_json(home.run_folder(runs.study, run) / "summary.json")["epoch"] for run in rows["run"]]
        steps = {c.seed: training_steps(c, n) for c, n in zip(configs, epochs, strict=True)}
        found[name] = Variant(name, configs[0], steps, frozenset(rows["data"]), int(rows["parameters"].iloc[0]))
    return dict(sorted(found.items(), key=lambda item: [rank(f, level(item[1].config, f)) for f in FACTORS]))


def differing(one: TrainConfig, other: TrainConfig) -> list[str]:
    """Name the settings in which two configurations differ."""
    first, second = settings(one), settings(other)
    return [name for name in first if first[name] != second[name]]


def level(config: TrainConfig, factor: str) -> Any:
    """Look up a factor's value: where it is left open the loss's default, None if the loss has no such parameter."""
    value = getattr(config, factor)
    known = defaults(LOSSES[config.loss]) if config.loss in LOSSES else {}  # an own loss's are its own
    return known.get(factor) if value is None else value


def shown(value: Any) -> str:
    """Write a level as text."""
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def rank(factor: str, value: Any) -> tuple:
    """Give a level its place among those of its factor, to sort by."""
    order = ORDER.get(factor, ())
    if isinstance(value, str):
        return (0, order.index(value), "") if value in order else (1, 0, value)
    return (0, -math.inf if value is None else value, "")


# ------------------------------------------------------------------------------------------------------- variants


def by_seed(runs: StudyRuns, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Average each variant and seed over the cases: variant, seed, cases and one column a metric (percent)."""
    present = [metric for metric in metrics if metric in runs.scores]
    groups = runs.scores.groupby(["variant", "seed"], sort=False)
    means = groups[present].mean().reset_index()
    means.insert(2, "cases", groups["case"].nunique().to_numpy())
    order = list(variants(runs))
    return means.sort_values(
        "variant", key=lambda names: names.map(order.index), kind="stable", ignore_index=True
    ).assign(convention=CONVENTION)


def ablation_table(runs: StudyRuns, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Sum up each variant: factors, parameters, steps, seeds, cases; METRIC_mean, _sd, _low and _high (percent).

    mean: over seeds of the mean over cases, with its interval over the seeds; sd: over the cases, each of which is its
    mean over the seeds. A factor that is left to the loss shows the loss's default.
    """
    rows = []
    for name, variant in variants(runs).items():
        scores = runs.scores[runs.scores["variant"] == name]
        row = {"variant": name} | {factor: shown(level(variant.config, factor)) for factor in FACTORS}
        row |= {"parameters": variant.parameters, "steps": variant.steps_named}
        row |= {"seeds": scores["seed"].nunique(), "cases": scores["case"].nunique()}
        for metric in (metric for metric in metrics if metric in scores):
            seeds, cases = (scores.groupby(unit)[metric].mean().to_numpy(float) for unit in ("seed", "case"))
            low, high = (mean_interval if metric in BEYOND else share_interval)(seeds)
            spread = np.std(cases, ddof=1) if len(cases) > 1 else np.nan
            row |= {f"{metric}_mean": seeds.mean(), f"{metric}_sd": spread}
            row |= {f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return pd.DataFrame(rows).assign(convention=CONVENTION)


def by_bin(runs: StudyRuns, group: str) -> pd.DataFrame:
    """Score TD and BD of each variant by bins of `group`, "diameter_mm" or "generation", the cases of a seed pooled.

    A row a variant and bin: variant, the bin, branches (of the reference, over the cases), seeds, and of td and bd
    (percent) the mean over seeds, its interval (low, high) within 0 to 100, and the lowest and highest seed (min, max).
    """
    names = [f"{metric}_{part}" for metric in ("td", "bd") for part in ("mean", "low", "high", "min", "max")]
    table = runs.by_diameter if group == "diameter_mm" else runs.by_generation
    if table.empty:
        return pd.DataFrame(columns=["variant", group, "branches", "seeds", *names, "convention"])
    runs_of = table.groupby(["variant", "seed"], sort=False)
    pooled = pd.concat(pool_groups(part, group).assign(variant=v, seed=s) for (v, s), part in runs_of)
    rows = []
    for name in variants(runs):
        for bin_, part in pooled[pooled["variant"] == name].groupby(group):
            row = {"variant": name, group: bin_, "branches": part["branches"].max(), "seeds": len(part)}
            for metric in ("td", "bd"):
                values = part[metric].to_numpy(float)
                numbers = [values.mean(), *share_interval(values), values.min(), values.max()]
                row |= dict(zip((n for n in names if n.startswith(metric)), numbers, strict=True))
            rows.append(row)
    return pd.DataFrame(rows).assign(convention=CONVENTION)


# -------------------------------------------------------------------------------------------------------- effects


def pairs(found: Iterable[Variant]) -> list[tuple[str, Variant, Variant]]:
    """Find every two variants that differ in exactly one factor, as (factor, from, to), by factor and then by level."""
    chosen = []
    for one, other in itertools.combinations(found, 2):
        factors = [factor for factor in FACTORS if differs(factor, one.config, other.config)]
        if len(factors) != 1 or level(one.config, factors[0]) == level(other.config, factors[0]):
            continue
        ends = sorted((one, other), key=lambda variant: rank(factors[0], level(variant.config, factors[0])))
        chosen.append((factors[0], *ends))
    return sorted(
        chosen, key=lambda pair: (FACTORS.index(pair[0]), *(rank(pair[0], level(v.config, pair[0])) for v in pair[1:]))
    )


def differs(name: str, one: TrainConfig, other: TrainConfig) -> bool:
    """Tell whether a setting differs. A parameter that one of two losses does not have belongs to the loss."""
    if name in ("alpha", "root") and one.loss != other.loss and None in (level(one, name), level(other, name)):
        return False
    return settings(one)[name] != settings(other)[name]


def other_settings(factor: str | Collection[str], one: TrainConfig, other: TrainConfig) -> list[str]:
    """List what differs besides the factor, as "width: 4 and 8"; settings that go with a factor are left out."""
    factors = {factor} if isinstance(factor, str) else set(factor)
    allowed = factors.union(*(COMPANIONS.get(name, ()) for name in factors))
    first, second = settings(one), settings(other)
    names = [name for name in first if name not in allowed and differs(name, one, other)]
    return [f"{name}: {first[name]} and {second[name]}" for name in names]


def obstacles(factor: str | Collection[str], one: Variant, other: Variant) -> list[str]:
    """List why a difference between two variants would not be the factor's; empty if they may be compared.

    factor: one setting, or those that belong to one factor.
    """
    why = []
    if set(one.steps.values()) != set(other.steps.values()):
        why.append(f"steps: {one.steps_named} and {other.steps_named}")
    if one.config.train_cases == other.config.train_cases and one.data != other.data:
        why.append("trained on other stores of cases with the same names")
    why += other_settings(factor, one.config, other.config)
    if not set(one.steps) & set(other.steps):
        why.append("no seed in common")
    return why


def effects(runs: StudyRuns, metrics: Sequence[str] = METRICS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure what one change of one factor does, and list the changes that were not compared.

    Returns
    -------
    DataFrame, DataFrame
        A row a pair and metric: factor, from, to (levels), held (the other factors, if they vary in the study),
        from_variant, to_variant, steps, metric, difference to - from (percentage points, mean over seeds and cases),
        low, high (Student's, over seeds), low_cases, high_cases (bootstrap, over cases), seeds, cases, cohen_dz (mean
        over standard deviation of the differences of all (seed, case) pairs, which are not independent: it describes,
        it tests nothing), convention. Then the pairs that were refused, with the reason.
    """
    found = variants(runs)
    varying = [f for f in FACTORS if len({shown(level(variant.config, f)) for variant in found.values()}) > 1]
    rows, refused = [], []
    for factor, one, other in pairs(found.values()):
        about = {"factor": factor, "from": shown(level(one.config, factor)), "to": shown(level(other.config, factor))}
        kept = [f"{name} {shown(level(one.config, name))}" for name in varying if is_held(name, factor, one.config)]
        about |= {"held": ", ".join(kept), "from_variant": one.name, "to_variant": other.name}
        if why := obstacles(factor, one, other):
            refused.append(about | {"reason": "; ".join(why)})
            continue
        tables = [runs.scores[runs.scores["variant"] == v.name].set_index(["seed", "case"]) for v in (one, other)]
        for metric in (metric for metric in metrics if metric in runs.scores):
            numbers = difference(tables[1][metric] - tables[0][metric])
            rows += [about | {"steps": one.steps_named, "metric": metric} | numbers] if numbers else []
    columns = ["factor", "from", "to", "held", "from_variant", "to_variant"]
    numbers = ["difference", "low", "high", "low_cases", "high_cases", "seeds", "cases", "cohen_dz"]
    table = pd.DataFrame(rows, columns=[*columns, "steps", "metric", *numbers])
    return table.assign(convention=CONVENTION), pd.DataFrame(refused, columns=[*columns, "reason"])


def is_held(name: str, factor: str, config: TrainConfig) -> bool:
    """Tell whether the factor `name` stays as `factor` changes: a loss brings its own defaults along."""
    left_to_the_loss = getattr(config, name) is None
    return name != factor and level(config, name) is not None and not (factor == "loss" and left_to_the_loss)


def difference(gaps: pd.Series) -> dict[str, float]:
    """Sum up differences by (seed, case) in a few numbers; NaN is left out; empty if nothing is left."""
    gaps = gaps.dropna().astype(float)
    if gaps.empty:
        return {}
    seeds, cases = (gaps.groupby(level=unit).mean().to_numpy() for unit in ("seed", "case"))
    (low, high), (low_cases, high_cases) = mean_interval(seeds), bootstrap_interval(cases)
    spread = gaps.std() if len(gaps) > 1 else 0.0
    found = {"difference": seeds.mean(), "low": low, "high": high, "low_cases": low_cases, "high_cases": high_cases}
    # Rounding alone makes equal differences look spread by 1e-15.
    size = gaps.mean() / spread if spread > 1e-9 else np.nan
    return found | {"seeds": len(seeds), "cases": len(cases), "cohen_dz": size}


def against_first(table: pd.DataFrame) -> pd.DataFrame:
    """Select the effects that start at a factor's first level under what is held; the others follow from these."""
    keys = ["factor", "held", "metric"]
    reached = set(table[[*keys, "to_variant"]].itertuples(index=False, name=None))
    starts = [row not in reached for row in table[[*keys, "from_variant"]].itertuples(index=False, name=None)]
    return table[np.array(starts, bool)]  # an empty list would choose columns
