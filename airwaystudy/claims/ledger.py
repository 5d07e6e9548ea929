"""Judge each statement of the paper, and of this study's theory, by the study's tables: the claims ledger.

claims.yaml lists the statements and the one measure that decides each; this module evaluates them. A claim is
supported, contradicted, equivalent or open, as its measure is (see `measures`). It is "not run" if runs or tables are
missing, or if it has no measure yet and says what it needs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, Field, model_validator

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.claims.measures import KINDS, MissingError, Tables
from airwaystudy.phantoms.names import is_synthetic

PATH = home.HOME / "claims.yaml"  # beside study.yaml: claims are no results
COLUMNS = ("claim", "section", "statement", "source", "paper", "measure", "expected", "ours", "low", "high", "n")
COLUMNS += ("verdict", "data", "table", "note")


class Claim(BaseModel, extra="forbid", frozen=True):
    """One statement and the one measure that decides it."""

    id: str = Field(pattern=r"^[a-z0-9_]+$", description="short name")
    section: Literal["paper", "theory"] = Field(
        "paper", description="theory: of this study's formulas, so no evidence for the paper"
    )
    statement: str = Field(min_length=1, description="what is claimed, in our words")
    source: str = Field(
        pattern=r"^\[[A-D]\]", description="[A] authors, [B] secondary, [C] our choice, [D] derived here"
    )
    paper: str = Field("", description="the published value, if there is one")
    real: bool = Field(False, description="only real data can decide it: a measure on phantoms stays open")
    needs: str = Field("", description="what it takes to decide it, where no measure can")
    measure: Any = Field(None, description="what decides it, see claims.measures")

    @model_validator(mode="after")
    def measure_or_needs(self) -> "Claim":
        """Refuse several measures, and a claim of which nothing says how it would be decided."""
        if isinstance(self.measure, list):
            raise ValueError(f"measure: {len(self.measure)} measures; one decides a claim, the others have no vote")
        if bool(self.measure) == bool(self.needs):
            raise ValueError("give measure, or needs: what it would take to decide the claim")
        return self


def read_claims(path: str | Path = PATH) -> list[Claim]:
    """Read the claims of a claims.yaml, each with its measure as the model of its kind.

    Raises
    ------
    InputError
        One line: no readable file, an unknown key, a value that does not fit, an id that comes twice.
    """
    path = Path(path)
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: no readable YAML ({' '.join(str(error).split())})") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: must be a list of claims, each with id, statement, source and measure")
    claims = []
    for number, entry in enumerate(entries, 1):
        where = f"{path.name}, {entry.get('id', f'claim {number}')}"
        claim = home.validated(Claim, entry, where)
        if claim.measure:
            claim = claim.model_copy(update={"measure": read_measure(claim.measure, f"{where}, measure")})
        claims.append(claim)
    names = [claim.id for claim in claims]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path.name}: claims that come twice: {', '.join(twice)}")
    return claims


def read_measure(given: Any, where: str) -> BaseModel:
    """A measure as its kind's model; `InputError` names what is wrong with it."""
    kind = given.get("kind") if isinstance(given, Mapping) else None
    if kind not in KINDS:
        raise InputError(f"{where}: kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    return home.validated(KINDS[kind], given, where)


def evaluate(name: str, claims: str | Path = PATH) -> pd.DataFrame:
    """Judge every claim from the tables of results/<name>/ alone.

    Parameters
    ----------
    name :
        Of the study.
    claims :
        The YAML file with the statements.

    Returns
    -------
    DataFrame
        `COLUMNS`, a row a claim: claim (its id), section (paper or theory), statement, source, paper (the published
        value), measure, expected (such as "> 0"), ours, low and high (95 % interval; nan for exact numbers), n (seeds;
        0 for an exact number), verdict (of `measures.VERDICTS`), data (synthetic, real, mixed or none), table (where
        the number is from) and note (what is missing).

    Raises
    ------
    InputError
        No such study, or a fault in `claims`.
    """
    folder = home.results(name)
    if name.startswith(".") or Path(name).name != name or not folder.is_dir():
        raise InputError(f"{folder}: no such study; run airwaylib reproduce, or name a folder of results/")
    tables = Tables(folder)
    table = pd.DataFrame([row_of(claim, tables) for claim in read_claims(claims)], columns=COLUMNS)
    words = [name for name in COLUMNS if name not in ("ours", "low", "high", "n")]
    return table.assign(**table[words].astype(object).fillna(""))


def row_of(claim: Claim, tables: Tables) -> dict[str, Any]:
    """Make a claim's row of the ledger; of phantoms, none decides what only real data can."""
    about = {"claim": claim.id} | claim.model_dump(include={"section", "statement", "source", "paper"})
    if not claim.measure:
        return about | {"measure": "", "verdict": "not run", "n": 0, "note": f"needs {claim.needs}"}
    try:
        finding = claim.measure.finding(tables)
    except MissingError as missing:
        return about | {"measure": claim.measure.text, "verdict": "not run", "n": 0, "note": str(missing)}
    data = kind_of_data(tables.cases)
    row = about | finding._asdict() | {"n": finding.seeds, "data": data if finding.table else "none"}
    if claim.real and data != "real":
        row |= {"verdict": "open", "note": "only real data can decide it"}
    return row


def kind_of_data(cases: set[str]) -> str:
    """synthetic, real, mixed, or none: what the cases of a study are, by their names."""
    kinds = {"synthetic" if is_synthetic(case) else "real" for case in cases}
    return "mixed" if len(kinds) > 1 else next(iter(kinds), "none")


def write_ledger(name: str, claims: str | Path = PATH) -> pd.DataFrame:
    """Evaluate the claims and write results/<name>/tables/claims.csv; returns the table."""
    table = evaluate(name, claims)
    home.write_csv(home.results(name) / "tables" / "claims.csv", table)
    return table


def number_in_words(row: Mapping[str, Any]) -> str:
    """A measure's value with its interval and the number of seeds.

    Examples
    --------
    >>> number_in_words({"ours": 1.234, "low": 0.5, "high": 2.0, "n": 3})
    '1.23 (0.50 to 2.00; 3 seeds)'
    """
    ours, low, high = (round(float(row[name]), 4) for name in ("ours", "low", "high"))
    if np.isnan(ours):
        return ""
    if np.isnan(low):
        return f"{ours:.2f} (one seed)" if row["n"] else f"{ours:.2f}"
    return f"{ours:.2f} ({low:.2f} to {high:.2f}; {row['n']} seeds)"
