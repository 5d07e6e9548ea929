"""The runs of a study: what is done is collected, what is not is told, and what must not be mixed is refused."""

import pandas as pd
import pytest
from synthetic_study import write_runs

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.plan.runs import collect

VARIANTS = {"final_dice": {"supervision": "final", "loss": "dice"}, "both_general_union": {}}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Folder of the runs of study made_up: two variants by two seeds."""
    monkeypatch.setattr(home, "HOME", tmp_path)
    return write_runs(tmp_path, VARIANTS, seeds=[0, 1]) / "runs"


def test_all_runs_there_are_collected_with_their_factors(runs):
    found = collect("made_up")
    assert sorted(found.table["run"]) == sorted(f"{variant}_{seed}" for variant in VARIANTS for seed in (0, 1))
    table = found.table.set_index("run")
    assert (table["status"] == "done").all() and not found.notes
    assert table.loc["final_dice_1", ["variant", "seed", "supervision", "loss"]].tolist() == [
        "final_dice", 1, "final", "dice"
    ]  # fmt: skip
    cases = found.configs["final_dice_0"].test_cases
    assert len(found.scores) == 4 * len(cases)
    assert list(found.scores.columns[:4]) == ["run", "variant", "seed", "case"]
    assert set(found.by_diameter["run"]) == set(found.table["run"])


def test_wanted_runs_come_in_their_order_and_missing_ones_are_told(runs):
    found = collect("made_up", ["both_general_union_1", "final_dice_0", "both_dice_0"])
    assert found.table["status"].tolist() == ["done", "done", "not run"]
    assert found.variants == ["both_general_union", "final_dice"]
    assert found.notes == ["both_dice_0: not run"]


def test_a_failed_run_tells_why(runs):
    (runs / "final_dice_0/scores.csv").unlink()
    (runs / "final_dice_0/failed.txt").write_text("the loss is nan\n")
    found = collect("made_up")
    row = found.table.set_index("run").loc["final_dice_0"]
    assert (row["status"], row["reason"], row["supervision"]) == ("failed", "the loss is nan", "final")
    assert "final_dice_0: failed (the loss is nan)" in found.notes
    assert "final_dice_0" not in set(found.scores["run"])


def test_a_run_without_all_its_cases_is_left_out_and_told(runs):
    scores = pd.read_csv(runs / "final_dice_0/scores.csv")
    scores.iloc[1:].to_csv(runs / "final_dice_0/scores.csv", index=False)
    found = collect("made_up")
    (note,) = found.notes
    assert note == f"final_dice_0: incomplete (no scores of {scores['case'][0]})"
    assert "final_dice_0" not in set(found.scores["run"])


def change(path, **values):
    home.write_json(path, home.read_json(path) | values)


def test_runs_on_other_data_are_not_mixed(runs):
    change(runs / "final_dice_1/provenance.json", data="another checksum")
    with pytest.raises(InputError, match="trained on other stores of cases with the same names"):
        collect("made_up")


def test_runs_with_other_test_cases_are_not_mixed(runs):
    cases = pd.read_csv(runs / "final_dice_1/scores.csv")["case"].tolist()
    change(runs / "final_dice_1/config.json", test_cases=cases[1:])
    with pytest.raises(InputError, match="have other test cases"):
        collect("made_up")


def test_runs_of_another_version_of_the_code_are_told(runs, monkeypatch):
    monkeypatch.setattr(home, "git", lambda *_: "b" * 40)
    for run in runs.iterdir():
        change(run / "provenance.json", commit="b" * 40)
    change(runs / "final_dice_1/provenance.json", commit="a" * 40)
    assert collect("made_up").notes == ["code of commit aaaaaaaaa, not of bbbbbbbbb: final_dice_1"]


def test_nothing_done_is_an_error(runs):
    with pytest.raises(InputError, match="no finished run of those asked for; train first"):
        collect("made_up", ["both_dice_0"])
    with pytest.raises(InputError, match="no finished run; train first"):
        collect("nothing")


def test_a_misspelt_study_is_refused_with_those_there_are(runs):
    maps = runs.parents[1] / "mapped/gradients"
    for folder in (
        maps,
        runs.parents[1] / "reference/quick/tables",
    ):  # the committed tables are no study of this machine
        folder.mkdir(parents=True)
    assert home.known_studies() == ["made_up", "mapped"]
    home.require_study("made_up")
    with pytest.raises(
        InputError, match=r"results/madeup: no such study; there are made_up, mapped; did you mean made_up\?"
    ):
        home.require_study("madeup")
    with pytest.raises(InputError, match=r"no such study; there are made_up, mapped$"):
        home.require_study("quick")


def test_a_study_where_none_is_says_how_to_train_one(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "HOME", tmp_path)
    with pytest.raises(InputError, match="no such study, nor any other; train one first: airwaylib reproduce quick"):
        home.require_study("quick")
