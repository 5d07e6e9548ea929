"""The claims ledger: verdicts from made-up tables, faults in one line, the committed ledgers anew."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from synthetic_tables import write_scores

from airwaylib.errors import InputError
from airwaystudy import home as study
from airwaystudy.claims import ledger
from airwaystudy.claims.ledger import (
    COLUMNS,
    evaluate,
    read_claims,
    write_ledger,
)
from airwaystudy.plan.presets import PATH as PRESETS

ROOT = Path(__file__).resolve().parents[2]
EFFECT = {"kind": "effect", "metric": "td", "variant": "union", "base": "dice", "expect": "greater"}
GIVEN = {"id": "a_claim", "statement": "It is so.", "source": "[D]", "measure": EFFECT}


def read_ledger(path):
    """A claims.csv as `evaluate` returned it, numbers to four decimals."""
    return pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in ("ours", "low", "high")})


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "HOME", tmp_path)
    return tmp_path


def write_claims(home, *claims):
    path = home / "claims.yaml"
    path.write_text(yaml.safe_dump(list(claims)))
    return path


def score(variant, seed, case):
    """union finds 10 points more than dice, give or take a little by seed."""
    return {"td": 80 + (10 + 0.1 * seed if variant == "union" else 0), "bd": 50.0}


# --------------------------------------------------------------------------------------------------------- evaluating


def test_a_claim_by_a_paired_difference(home):
    write_scores(home / "results/made_up", ["dice", "union"], score)
    (row,) = evaluate("made_up", write_claims(home, GIVEN | {"paper": "90"})).to_dict("records")
    assert list(row) == list(COLUMNS)
    assert row["ours"] == pytest.approx(10.1) and row["low"] < 10.1 < row["high"] and row["n"] == 3
    assert (row["verdict"], row["section"], row["paper"], row["data"]) == ("supported", "paper", "90", "synthetic")
    assert (row["table"], row["note"]) == ("tables/scores_by_case.csv", "")


def test_missing_variants_and_tables_are_not_run_and_never_an_error(home):
    (home / "results/made_up").mkdir(parents=True)
    table = evaluate("made_up", ROOT / "claims.yaml")
    assert (table["table"] == "").all() and table["claim"].is_unique
    closed = table["measure"].str.contains("perfect prediction")
    unrun = table[~closed]
    assert set(unrun["verdict"]) == {"not run"} and unrun["note"].str.len().min() > 5 and unrun["ours"].isna().all()
    assert set(table.loc[closed, "verdict"]) == {"equivalent"}  # closed forms need no run
    assert set(table.loc[closed, "section"]) == {"theory"}  # and are no evidence


@pytest.mark.parametrize(("cases", "says"), [(["mini_0008", "chest_0001"], "open"), (["patient_1", "p2"], "supported")])
def test_phantoms_do_not_decide_what_only_real_data_can(home, cases, says):
    write_scores(home / "results/made_up", ["dice", "union"], score, cases=cases)
    (row,) = evaluate("made_up", write_claims(home, GIVEN | {"real": True})).to_dict("records")
    assert row["verdict"] == says
    assert (row["note"] == "only real data can decide it") == (says == "open")


def test_a_claim_nobody_here_can_decide(home):
    (home / "results/made_up").mkdir(parents=True)
    claims = write_claims(home, GIVEN | {"measure": None, "needs": "a hidden test"})
    (row,) = evaluate("made_up", claims).to_dict("records")
    assert (row["verdict"], row["note"], row["n"]) == ("not run", "needs a hidden test", 0)


@pytest.mark.parametrize("name", ["no_such", "..", ".", "a/b"])
def test_an_unknown_study(home, name):
    (home / "results/a/b").mkdir(parents=True)
    with pytest.raises(InputError, match="no such study"):
        evaluate(name)


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("claims", "fault"),
    [
        ([GIVEN | {"statment": "x"}], "claims.yaml, a_claim: no parameter 'statment'; did you mean statement?"),
        (
            [GIVEN | {"measure": EFFECT | {"metrc": "td"}}],
            "a_claim, measure: no parameter 'metrc'; did you mean metric?",
        ),
        (
            [GIVEN | {"measure": {"kind": "guess"}}],
            "a_claim, measure: kind 'guess' is unknown; choose one of effect",
        ),
        ([GIVEN | {"measure": "td"}], "a_claim, measure: kind None is unknown"),
        ([GIVEN | {"measure": [EFFECT, EFFECT]}], "a_claim: measure: 2 measures; one decides a claim"),
        ([GIVEN | {"measures": [EFFECT]}], "a_claim: no parameter 'measures'; did you mean measure?"),
        ([GIVEN | {"source": "a friend"}], "source = 'a friend'"),
        ([GIVEN | {"measure": {}}], "give measure, or needs"),
        ([GIVEN | {"needs": "more"}], "give measure, or needs"),
        ([GIVEN | {"section": "theorem"}], "section = 'theorem'"),
        ([GIVEN, GIVEN], "claims that come twice: a_claim"),
        ([{"statement": "x"}], "claims.yaml, claim 1: id is missing"),
    ],
)
def test_faults_of_the_file_are_one_line(home, claims, fault):
    with pytest.raises(InputError) as error:
        read_claims(write_claims(home, *claims))
    assert fault in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "a: 1", "- text", "\xff"])
def test_files_that_hold_no_claims(home, text):
    (home / "claims.yaml").write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=r"claims\.yaml: (must be a list|no readable YAML)"):
        read_claims(home / "claims.yaml")


def test_our_claims_name_variants_of_the_presets():
    presets = yaml.safe_load(PRESETS.read_text())
    known = {variant for preset in presets.values() for variant in preset["variants"]}
    measures = [claim.measure for claim in read_claims() if claim.measure and claim.measure.kind == "effect"]
    named = {name for measure in measures for name in (measure.variant, measure.base)}
    assert {"both_dice", "both_general_union"} <= named <= known
    planned = {contrast["name"] for preset in presets.values() for contrast in preset.get("contrasts", [])}
    decided = {c.measure.name for c in read_claims() if c.measure and c.measure.kind == "contrast"}
    assert decided == planned  # every contrast decides a claim


def test_all_kinds_of_sources_and_the_five_claims_are_there():
    claims = read_claims()
    assert sum("abstract" in claim.source for claim in claims) >= 5
    assert {claim.source[:3] for claim in claims} == {"[A]", "[B]", "[D]"}


# ------------------------------------------------------------------------------------------------------------- writing


def test_the_file_comes_back(home):
    write_scores(
        home / "results/made_up", ["final_dice", "both_general_union", "both_dice"], lambda v, s, c: score(v, s, c)
    )
    table = write_ledger("made_up", ROOT / "claims.yaml")
    path = home / "results/made_up/tables/claims.csv"
    again = read_ledger(path)
    assert list(again) == list(COLUMNS)
    pd.testing.assert_frame_equal(again, table, check_dtype=False, atol=1e-4)


# ----------------------------------------------------------------------------------------------- the committed ledgers


COMMITTED = sorted(path.parents[1].name for path in ROOT.glob("results/reference/*/tables/claims.csv"))


@pytest.mark.parametrize("name", COMMITTED or [pytest.param("", marks=pytest.mark.skip("no ledger is committed"))])
def test_committed_ledger_follows_from_the_committed_tables_alone(name, home):
    """Without runs/: the tables are copied, and what they say must be what claims.csv says."""
    for part in ("tables", "gradients"):
        for path in (ROOT / "results/reference" / name / part).glob("*.csv"):
            (home / "results" / name / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, home / "results" / name / part)
    committed = read_ledger(home / "results" / name / "tables/claims.csv")
    anew = evaluate(name, ROOT / "claims.yaml")
    numbers = ["ours", "low", "high"]
    words = [column for column in COLUMNS if column not in numbers]
    pd.testing.assert_frame_equal(anew[words], committed[words], check_dtype=False)
    np.testing.assert_allclose(anew[numbers].astype(float), committed[numbers].astype(float), atol=2e-4)


def test_evaluating_writes_nothing(home):
    write_scores(home / "results/made_up", ["dice", "union"], score)
    before = sorted(home.rglob("*"))
    ledger.evaluate("made_up", ROOT / "claims.yaml")
    assert sorted(home.rglob("*")) == before
