"""Collect the runs of a study from their folders: those asked for, those there, and whether they may be compared.

A run's name is its variant and its seed: `both_dice_0`. Runs of one variant differ by nothing but the seed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.training.config import TrainConfig

# What variants are told apart by.
FACTORS = ("network", "supervision", "loss", "sampling", "alpha", "root", "encoder_weight", "airway_gain")
GROUPS = ("by_diameter", "by_generation")
STATUSES = ("done", "incomplete", "failed", "not run")


@dataclass(frozen=True)
class StudyRuns:
    """Runs of a study.

    `table`: a row a run that was asked for: run, variant, seed, the factors, status (of `STATUSES`), reason (of a
    failure), parameters, training_seconds, commit, data (checksum of the training stores). `scores`: of the runs that
    are done, a row a run and test case: run, variant, seed, case, metrics (percent, convention `paper`), and
    `by_diameter`, `by_generation` alike. `notes`: what a reader must know, in words.
    """

    study: str
    table: pd.DataFrame
    scores: pd.DataFrame
    by_diameter: pd.DataFrame
    by_generation: pd.DataFrame
    configs: dict[str, TrainConfig]
    notes: list[str] = field(default_factory=list)

    @property
    def variants(self) -> list[str]:
        """Variants with a run that is done, in the order they were asked for."""
        done = self.table[self.table["status"] == "done"]
        return list(dict.fromkeys(done["variant"]))


def collect(name: str, wanted: Iterable[str] | None = None) -> StudyRuns:
    """The runs of results/<name>/runs: those `wanted`, in this order, or all that are there.

    Raises `InputError`: none is done; or runs that are done differ in their test cases or in the data they were trained
    on, which no table may mix.
    """
    folder = home.results(name) / "runs"
    names = list(wanted) if wanted is not None else sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
    rows, configs, tables = [], {}, {"scores": [], "by_diameter": [], "by_generation": []}
    for run in names:
        row, config, found = read_run_folder(name, run)
        rows.append(row)
        if row["status"] == "done":
            configs[run] = config
            for kind, table in found.items():
                about = {key: row[key] for key in ("run", "variant", "seed")}
                tables[kind].append(table.assign(**about)[[*about, *table.columns]])
    table = pd.DataFrame(rows)
    done = table[table["status"] == "done"] if rows else table
    if done.empty:
        raise InputError(f"{folder}: no finished run{' of those asked for' if wanted is not None else ''}; train first")
    refuse_mixtures(folder, done, configs)
    whole = {kind: pd.concat(parts, ignore_index=True) if parts else pd.DataFrame() for kind, parts in tables.items()}
    return StudyRuns(name, table, configs=configs, notes=notes_on(table), **whole)


def read_run_folder(name: str, run: str) -> tuple[dict[str, Any], TrainConfig | None, dict[str, pd.DataFrame]]:
    """A run's row of the table, its configuration, and its scores if it is done."""
    folder = home.run_folder(name, run)
    row = {"run": run, "variant": run, "seed": None, "status": "not run", "reason": ""}
    if (folder / "failed.txt").is_file() and not (folder / "scores.csv").is_file():
        row |= {"status": "failed", "reason": (folder / "failed.txt").read_text().strip()}
    if not (folder / "config.json").is_file():
        return row, None, {}
    config = home.validated(TrainConfig, home.read_json(folder / "config.json"), str(folder / "config.json"))
    row |= {"variant": run.removesuffix(f"_{config.seed}"), "seed": config.seed}
    row |= {factor: getattr(config, factor) for factor in FACTORS}
    if not ((folder / "scores.csv").is_file() and (folder / "summary.json").is_file()):
        return row, config, {}
    summary, origin = home.read_json(folder / "summary.json"), home.read_json(folder / "provenance.json")
    row |= {key: summary[key] for key in ("parameters", "training_seconds")}
    row |= {"commit": origin["commit"], "data": origin["data"], "device": origin["device"]}
    found = {"scores": pd.read_csv(folder / "scores.csv")}
    for group in GROUPS:
        path = folder / f"scores_{group}.csv"
        found |= {group: pd.read_csv(path)} if path.is_file() else {}
    lacking = sorted(set(config.test_cases) - set(found["scores"]["case"]))
    if lacking:
        return row | {"status": "incomplete", "reason": f"no scores of {', '.join(lacking)}"}, config, {}
    return row | {"status": "done", "reason": ""}, config, found


def refuse_mixtures(folder: Any, done: pd.DataFrame, configs: dict[str, TrainConfig]) -> None:
    """Raise `InputError` where runs were tested on different cases, or trained on different stores of the same ones."""
    first = done["run"].iloc[0]
    for run in done["run"]:
        if sorted(configs[run].test_cases) != sorted(configs[first].test_cases):
            raise InputError(f"{folder}: {first} and {run} have other test cases; their scores cannot be compared")
        if configs[run].train_cases == configs[first].train_cases and (
            done.set_index("run").at[run, "data"] != done.set_index("run").at[first, "data"]
        ):
            raise InputError(
                f"{folder}: {first} and {run} were trained on other stores of cases with the same names; delete one "
                "and train it again"
            )


def notes_on(table: pd.DataFrame) -> list[str]:
    """List what a reader of the tables must know: missing runs, and runs of another version of the code."""
    notes = []
    for status in ("failed", "incomplete", "not run"):
        for row in table[table["status"] == status].to_dict("records"):
            notes.append(f"{row['run']}: {status}" + (f" ({row['reason']})" if row["reason"] else ""))
    here = home.git("rev-parse", "HEAD")
    if here and "commit" in table:
        for commit, runs in table[table["status"] == "done"].groupby("commit", sort=False)["run"]:
            if commit != here:
                notes.append(f"code of commit {str(commit)[:9]}, not of {here[:9]}: {', '.join(runs)}")
    return notes


def runs_of(runs: StudyRuns, variant: str) -> list[str]:
    """Names of a variant's finished runs, by seed."""
    done = runs.table[(runs.table["status"] == "done") & (runs.table["variant"] == variant)]
    return list(done.sort_values("seed")["run"])
