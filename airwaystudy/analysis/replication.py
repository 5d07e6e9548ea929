"""Replication: a study's new seeds laid beside a committed reference of the same protocol.

The same seed on another CPU scatters as much as another seed. So a machine replicates a contrast if its own difference
lies in the reference's prediction interval for so many new seeds, not if it is the same number. Seeds that the
reference has are not independent of it and are left out, and so are runs with other settings.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.analysis.ablation import differing, settings
from airwaystudy.analysis.contrasts import differences
from airwaystudy.plan.presets import Preset
from airwaystudy.training.config import TrainConfig

CONTRAST_COLUMNS = ["name", "arm", "base", "outcome", "difference", "reference", "low_predicted", "high_predicted"]
CONTRAST_COLUMNS += ["inside", "seeds", "cases", "verdict"]
ARM_COLUMNS = [
    "variant",
    "outcome",
    "here",
    "reference",
    "low_predicted",
    "high_predicted",
    "inside",
    "sd_seed",
    "seeds",
]


class Replication(NamedTuple):
    """What a machine's new seeds say beside a reference.

    contrasts: `CONTRAST_COLUMNS`, a row a contrast in the primary outcome: this machine's difference, the reference's,
    the interval expected of so many new seeds, whether the first lies inside, and the reference's verdict. arms:
    `ARM_COLUMNS`, a row an arm and outcome, alike, in percent. notes: what was left out and why, a line each.
    """

    contrasts: pd.DataFrame
    arms: pd.DataFrame
    notes: list[str]

    @property
    def in_words(self) -> str:
        """The count, such as "replicates 9 of 10 contrasts"; contrasts without runs here do not count."""
        inside = self.contrasts["inside"].dropna()
        return f"replicates {int(inside.sum())} of {len(inside)} contrasts" if len(inside) else "nothing to replicate"


def replication(here: str | Path, reference: str | Path, preset: Preset) -> Replication:
    """Lay a study's finished seeds beside a reference.

    Parameters
    ----------
    here, reference : path
        results/STUDY and results/reference/STUDY: tables/outcomes.csv and runs/RUN/config.json of both, and the
        reference's tables/contrasts.csv and arms.csv, see `contrasts.write_tables`.
    preset : Preset
        The study's contrasts, primary outcome and protocol version.

    Raises
    ------
    InputError
        The preset has no primary outcome; a table is missing; the reference is of another protocol version.
    """
    here, reference = Path(here), Path(reference)
    if preset.primary is None:
        raise InputError(f"preset {preset.study}: no primary outcome, so there is nothing to replicate; set primary")
    known = {name: read(reference, name) for name in ("outcomes", "arms", "contrasts")}
    versions = sorted(set(known["contrasts"]["protocol"]))
    if versions != [preset.protocol]:
        found = ", ".join(map(str, versions))
        raise InputError(f"{reference}: of protocol version {found}, not {preset.protocol}; make the reference again")
    scores, notes = comparable(read(here, "outcomes"), known["outcomes"], here, reference)
    contrasts = contrasts_beside(scores, known["contrasts"], preset, notes)
    return Replication(contrasts, arms_beside(scores, known["arms"]), notes)


def read(folder: Path, name: str) -> pd.DataFrame:
    """A table of a study; InputError if there is none."""
    path = folder / "tables" / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such table; make it with airwaylib reproduce {folder.name}")
    return pd.read_csv(path)


def comparable(
    scores: pd.DataFrame, known: pd.DataFrame, here: Path, reference: Path
) -> tuple[pd.DataFrame, list[str]]:
    """Select the outcomes of runs that may be laid beside the reference, and note those that may not, a line each."""
    notes, left = [], set()
    if shared := sorted(set(scores["seed"]) & set(known["seed"])):
        left |= set(scores.loc[scores["seed"].isin(shared), "run"])
        notes.append(f"seed {', '.join(map(str, shared))}: in the reference as well, not independent of it; left out")
    examples = known.drop_duplicates("variant").set_index("variant")["run"]
    for run, rows in scores.groupby("run", sort=False):
        variant = rows["variant"].iloc[0]
        if run in left:
            continue
        if variant not in examples:
            why = f"the reference has no {variant}"
        else:
            cases = sorted(set(known["case"]) - set(rows["case"]))
            why = f"no outcome of {', '.join(cases)}" if cases else ""
            why = why or other_settings(here / "runs" / run, reference / "runs" / examples[variant])
        if why:
            left.add(run)
            notes.append(f"{run}: {why}; left out")
    return scores[~scores["run"].isin(left)], notes


def other_settings(run: Path, known: Path) -> str:
    """Name the settings, bookkeeping apart, in which a run differs from the reference's; empty if in none."""
    configs = []
    for folder in (run, known):
        path = folder / "config.json"
        if not path.is_file():
            return f"its settings cannot be compared without {path}"
        configs.append(home.validated(TrainConfig, home.read_json(path), str(path)))
    ours, theirs = map(settings, configs)
    return "; ".join(f"{name} is {ours[name]}, in the reference {theirs[name]}" for name in differing(*configs))


def contrasts_beside(scores: pd.DataFrame, known: pd.DataFrame, preset: Preset, notes: list[str]) -> pd.DataFrame:
    """Lay each contrast's difference here beside the reference's; what cannot be is noted in `notes`."""
    known, rows = known[known["outcome"] == preset.primary].set_index("name"), []
    for contrast in preset.contrasts:
        row = {"name": contrast.title, "arm": contrast.arm, "base": contrast.base, "outcome": preset.primary}
        if contrast.title not in known.index or np.isnan(known.at[contrast.title, "difference"]):
            notes.append(f"contrast {contrast.title}: not run in the reference")
            continue
        theirs = known.loc[contrast.title]
        if (theirs["arm"], theirs["base"]) != (contrast.arm, contrast.base):
            notes.append(f"contrast {contrast.title}: {theirs['arm']} - {theirs['base']} in the reference; left out")
            continue
        row |= {"reference": theirs["difference"], "verdict": theirs["verdict"]}
        arms = scores[scores["variant"].isin([contrast.arm, contrast.base])]
        both = set.intersection(*(set(arms.loc[arms["variant"] == n, "seed"]) for n in (contrast.arm, contrast.base)))
        if both:
            table = differences(arms[arms["seed"].isin(both)], contrast.arm, contrast.base, preset.primary)
            reach = scatter(theirs["high_predicted"] - theirs["difference"], len(both), theirs["seeds"])
            low, high = theirs["difference"] - reach, theirs["difference"] + reach
            ours = table.to_numpy().mean()
            row |= {"difference": ours, "low_predicted": low, "high_predicted": high, "inside": low <= ours <= high}
            row |= {"seeds": len(both), "cases": table.shape[1]}
        else:
            notes.append(f"contrast {contrast.title}: no seed with both arms here")
        rows.append(row)
    return pd.DataFrame(rows, columns=CONTRAST_COLUMNS).astype({"inside": object})


def scatter(reach: float, seeds: int, of_reference: int) -> float:
    """Narrow a reference's reach for one more seed to that for the mean of so many: sqrt(1/k + 1/S), not 1 + 1/S."""
    return reach * math.sqrt((1 / seeds + 1 / of_reference) / (1 + 1 / of_reference))


def arms_beside(scores: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Lay each arm's mean here beside the reference's, in every outcome.

    The expected scatter of so many new seeds is the reference's for one, narrowed by `scatter` on the logit scale.
    """
    rows = []
    for theirs in known.to_dict("records"):
        arm = scores.loc[scores["variant"] == theirs["variant"]].dropna(subset=[theirs["outcome"]])
        row = {name: theirs[name] for name in ("variant", "outcome", "sd_seed")} | {"reference": theirs["mean"]}
        if len(arm):
            seeds = arm.groupby("seed")[theirs["outcome"]].mean()
            ends = narrowed(theirs, len(seeds))
            row |= {"here": seeds.mean(), "seeds": len(seeds), "low_predicted": ends[0], "high_predicted": ends[1]}
            row |= {"inside": ends[0] <= seeds.mean() <= ends[1]} if np.isfinite(ends).all() else {}
            rows.append(row)
    return pd.DataFrame(rows, columns=ARM_COLUMNS).astype({"inside": object})


def narrowed(theirs: dict[str, float], seeds: int) -> np.ndarray:
    """The interval that the mean of so many new seeds of an arm is expected in, within 0 to 100 %."""
    mean, low, high = (theirs[name] / 100 for name in ("mean", "low_predicted", "high_predicted"))
    if low == high:
        return 100 * np.array([low, high])
    reach = scatter(logit(high) - logit(mean), seeds, theirs["seeds"])
    return 100 * expit(logit(mean) + np.array([-reach, reach]))


def write_replication(study: str, preset: Preset, reference: str | None = None) -> Replication:
    """Lay results/STUDY beside results/reference/REFERENCE and write tables/replication.csv and replication_arms.csv.

    reference: None, the study's own name.
    """
    found = replication(home.results(study), home.HOME / "results/reference" / (reference or study), preset)
    tables = home.results(study) / "tables"
    home.write_csv(tables / "replication.csv", found.contrasts)
    home.write_csv(tables / "replication_arms.csv", found.arms)
    return found
