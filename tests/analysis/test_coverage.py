"""Planned against done, on a literal table of runs and on a study's folders."""

import pandas as pd
import pytest
from synthetic_study import write_runs

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.analysis.coverage import coverage
from airwaystudy.plan.runs import collect


def runs(*rows):
    """A table of runs: (run, seed or None, status)."""
    names = [(run if seed is None else run.rsplit("_", 1)[0]) for run, seed, _ in rows]
    about = [
        {"run": run, "variant": name, "seed": seed, "status": status, "reason": "out of memory" * (status == "failed")}
        | ({} if seed is None else {"network": "wingsnet", "loss": "dice", "supervision": "both"})
        for name, (run, seed, status) in zip(names, rows, strict=True)
    ]
    return pd.DataFrame(about)


@pytest.mark.parametrize(
    ("rows", "status", "missing"),
    [
        ([("a_0", 0, "done"), ("a_1", 1, "done")], "done", ""),
        ([("a_0", 0, "done")], "partly done", "1"),
        ([("a_0", 0, "done"), ("a_1", None, "failed")], "partly done", ""),
        ([("a_0", None, "failed"), ("a_1", None, "failed")], "failed", ""),
        ([("a_0", 0, "incomplete")], "incomplete", "1"),
        ([("a_0", None, "not run")], "not run", "0, 1"),
        ([], "not run", "0, 1"),
    ],
)
def test_status(rows, status, missing):
    table = runs(*rows, ("other_0", 0, "done"), ("other_1", 1, "done"))
    row = coverage(table, [{"variant": "a", "loss": "dice"}]).set_index("variant").loc["a"]
    assert (row["planned"], row["status"], row["missing"]) == ("yes", status, missing)
    assert ("out of memory" in row["reason"]) == any(status == "failed" for _, _, status in rows)


def test_the_plan_comes_first_and_what_was_not_planned_after_it():
    table = coverage(runs(("b_0", 0, "done"), ("a_0", 0, "done")), [{"variant": "c", "loss": "tversky"}])
    assert table[["variant", "planned", "loss", "status"]].values.tolist() == [
        ["c", "yes", "tversky", "not run"],
        ["b", "no", "dice", "done"],
        ["a", "no", "dice", "done"],
    ]


def test_without_a_plan_there_is_what_is_there():
    table = coverage(runs(("a_0", 0, "done"), ("b_1", None, "failed")))
    assert table[["variant", "planned", "done", "failed", "missing", "status"]].values.tolist() == [
        ["a", "no plan", "0", "", "1", "partly done"],
        ["b", "no plan", "", "1", "0", "failed"],
    ]


def test_planned_seeds():
    row = coverage(
        runs(("a_0", 0, "done"), ("a_1", 1, "done")), [{"variant": "a", "loss": "dice", "seeds": [0, 1, 2]}]
    ).iloc[0]
    assert (row["done"], row["missing"], row["status"]) == ("0, 1", "2", "partly done")


def test_a_run_with_other_factors_than_planned_says_so():
    row = coverage(runs(("a_0", 0, "done")), [{"variant": "a", "loss": "tversky", "supervision": "both"}]).iloc[0]
    assert (row["status"], row["reason"]) == ("other settings", "loss is dice, planned tversky")


@pytest.mark.parametrize(
    ("alpha", "planned", "reason"),
    [
        (None, {}, ""),
        (None, {"alpha": 0.2}, "alpha is None, planned 0.2"),
        (0.2, {}, "alpha is 0.2, planned None"),
        (0.2, {"alpha": 0.2}, ""),
    ],
)
def test_what_a_plan_leaves_out_has_its_default(alpha, planned, reason):
    table = runs(("a_0", 0, "done"), ("b_0", 0, "done")).assign(alpha=[alpha, 0.1])
    row = coverage(table, [{"variant": "a", "loss": "dice", "after": "b", **planned}]).iloc[0]
    assert row["reason"] == reason


@pytest.mark.parametrize(
    ("planned", "message"),
    [
        ([{"loss": "dice"}], "no variant"),
        ([{"variant": "a"}, {"variant": "a"}], "a comes twice"),
        ([{"variant": "a", "los": "dice"}], "planned variant a: no setting los"),
    ],
)
def test_a_plan_with_faults_is_refused(planned, message):
    with pytest.raises(InputError, match=message):
        coverage(runs(("a_0", 0, "done")), planned)


def test_folders_of_a_study(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "HOME", tmp_path)
    results = write_runs(tmp_path, {"final_dice": {"supervision": "final", "loss": "dice"}}, seeds=[0, 1])
    failed = results / "runs/both_dice_0"
    failed.mkdir()
    (failed / "failed.txt").write_text("the loss is nan in step 3\n")
    planned = [
        {"variant": f"{s}_dice", "supervision": s, "loss": "dice", "width": 4, "study": "elsewhere", "snapshots": [1]}
        for s in ("final", "both", "deep")
    ]
    found = collect("made_up")
    table = coverage(found.table, planned, found.configs)
    assert table[["variant", "done", "failed", "missing", "status", "reason"]].values.tolist() == [
        ["final_dice", "0, 1", "", "", "done", ""],
        ["both_dice", "", "0", "1", "failed", "the loss is nan in step 3"],
        ["deep_dice", "", "", "0, 1", "not run", ""],
    ]
    wider = coverage(found.table, [planned[0] | {"width": 8}], found.configs).iloc[0]
    assert (wider["status"], wider["reason"]) == ("other settings", "width is 4, planned 8")


def test_the_preset_that_plans_a_variant_and_what_its_loss_brings_along():
    planned = [{"variant": "b", "root": 0.5}, {"variant": "c", "loss": "dice", "preset": "paper"}]
    table = coverage(runs(("a_0", 0, "done")), planned).set_index("variant")
    assert table["planned"].to_dict() == {"b": "yes", "c": "paper", "a": "no"}
    assert table.loc["b", ["alpha", "root"]].tolist() == [0.1, 0.5]  # General Union's, and as planned
    assert table.loc["c", ["alpha", "root"]].isna().all()  # Dice has neither
