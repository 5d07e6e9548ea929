"""Judge each statement of the paper, and of this study's theory, by the study's tables: the claims ledger.

claims.yaml lists the statements and the measures that decide each; this module evaluates them. A claim holds if all its
measures support it, and partly if some do and none contradicts it; it is mixed if some support and some contradict it,
fails if some contradict it and none supports it, and is open if none says anything. What cannot be measured because
runs or tables are missing is "not run", and a claim of which nothing can be is too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, Field, model_validator

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.claims.measures import KINDS, Finding, MissingError, Tables
from airwaystudy.phantoms.names import is_synthetic

PATH = home.HOME / "claims.yaml"  # beside study.yaml: claims are no results
VERDICTS = ("holds", "holds partly", "mixed", "open", "fails", "not run")
COLUMNS = (
    "claim",
    "statement",
    "source",
    "paper",
    "measure",
    "expected",
    "ours",
    "low",
    "high",
    "n",
    "says",
    "verdict",
)
COLUMNS += ("data", "table", "note")


class Claim(BaseModel, extra="forbid", frozen=True):
    """One statement and what decides it."""

    id: str = Field(pattern=r"^[a-z0-9_]+$", description="short name")
    statement: str = Field(min_length=1, description="what is claimed, in our words")
    source: str = Field(
        pattern=r"^\[[A-D]\]", description="[A] authors, [B] secondary, [C] our choice, [D] derived here"
    )
    paper: str = Field("", description="the published value, if there is one")
    real: bool = Field(False, description="only real data can decide it: measures on phantoms stay open")
    needs: str = Field("", description="what it takes to decide it, where no measure can")
    measures: list[Any] = Field([], description="what decides it, see claim_measures")

    @model_validator(mode="after")
    def measures_or_needs(self) -> "Claim":
        """Refuse a claim of which nothing says how it would be decided."""
        if bool(self.measures) == bool(self.needs):
            raise ValueError("give measures, or needs: what it would take to decide the claim")
        return self


def read_claims(path: str | Path = PATH) -> list[Claim]:
    """The claims of a claims.yaml, their measures as `claim_measures` have them.

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
        raise InputError(f"{path}: must be a list of claims, each with id, statement, source and measures")
    claims = []
    for number, entry in enumerate(entries, 1):
        where = f"{path.name}, {entry.get('id', f'claim {number}')}"
        claim = home.validated(Claim, entry, where)
        measures = [read_measure(given, f"{where}, measure {n}") for n, given in enumerate(claim.measures, 1)]
        claims.append(claim.model_copy(update={"measures": measures}))
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
    """Every claim's measures and verdict, from the tables of results/<name>/ alone.

    Parameters
    ----------
    name :
        Of the study.
    claims :
        The YAML file with the statements.

    Returns
    -------
    DataFrame
        `COLUMNS`, a row a measure: claim (its id), statement, source, paper (the published value), measure, expected
        (such as "> 0"), ours, low and high (Student's 95 % interval over seeds; nan for exact numbers), n (seeds; 0 for
        an exact number), says (supports, contradicts, open, not run), verdict (of `VERDICTS`), data (synthetic, real,
        mixed or none), table (where the number is from) and note (what is missing).

    Raises
    ------
    InputError
        No such study, or a fault in `claims`.
    """
    folder = home.results(name)
    if name.startswith(".") or Path(name).name != name or not folder.is_dir():
        raise InputError(f"{folder}: no such study; run airwaylib reproduce, or name a folder of results/")
    tables, rows = Tables(folder), []
    for claim in read_claims(claims):
        found = [row for measure in claim.measures for row in rows_of(claim, measure, tables)]
        if not found:
            found = [{"measure": "", "says": "not run", "n": 0, "note": f"needs {claim.needs}"}]
        about = {"claim": claim.id, "statement": claim.statement, "source": claim.source, "paper": claim.paper}
        outcome = verdict([row["says"] for row in found])
        rows += [about | row | {"verdict": outcome} for row in found]
    table = pd.DataFrame(rows, columns=COLUMNS)
    words = [name for name in COLUMNS if name not in ("ours", "low", "high", "n")]
    return table.assign(**table[words].astype(object).fillna(""))


def rows_of(claim: Claim, measure: Any, tables: Tables) -> list[dict[str, Any]]:
    """A measure's rows of the ledger, or one that says what is missing."""
    try:
        findings = list(measure.findings(tables))
    except MissingError as missing:
        return [{"measure": measure.text, "says": "not run", "n": 0, "note": str(missing)}]
    return [row_of(claim, finding, kind_of_data(tables.cases)) for finding in findings]


def row_of(claim: Claim, finding: Finding, data: str) -> dict[str, Any]:
    """One finding as a row; of phantoms, none decides what only real data can."""
    row = finding._asdict() | {"n": finding.seeds, "data": data if finding.table else "none", "note": ""}
    if claim.real and data != "real":
        row |= {"says": "open", "note": "only real data can decide it"}
    return row


def kind_of_data(cases: set[str]) -> str:
    """synthetic, real, mixed, or none: what the cases of a study are, by their names."""
    kinds = {"synthetic" if is_synthetic(case) else "real" for case in cases}
    return "mixed" if len(kinds) > 1 else next(iter(kinds), "none")


def verdict(says: list[str]) -> str:
    """A claim's verdict from what its measures say.

    Examples
    --------
    >>> [verdict(["supports", other]) for other in ("supports", "open", "not run", "contradicts")]
    ['holds', 'holds partly', 'holds partly', 'mixed']
    >>> verdict(["contradicts", "open"]), verdict(["open", "not run"]), verdict(["not run"])
    ('fails', 'open', 'not run')
    """
    if all(word == "not run" for word in says):
        return "not run"
    if all(word == "supports" for word in says):
        return "holds"
    if "supports" in says:
        return "mixed" if "contradicts" in says else "holds partly"
    return "fails" if "contradicts" in says else "open"


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
