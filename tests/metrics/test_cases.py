"""Files against files: cases matched by name, faults that lose nothing, tables that say what they hold."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mini_phantoms import mini

from airwaylib.errors import InputError
from airwaylib.images.volume import Volume, write_volume
from airwaylib.metrics.cases import case_name, evaluate_files, find_cases, match_cases, score_case, true_tree
from airwaylib.metrics.scores import evaluate
from airwaylib.trees.files import write_tree
from airwaylib.trees.parse import parse_tree
from airwaystudy.phantoms.case import write_phantom


def tube(stop=38, shape=(9, 9, 40)):
    mask = np.zeros(shape, bool)
    mask[3:6, 3:6, 2:stop] = True
    return mask


def write(folder, **masks):
    folder.mkdir(exist_ok=True)
    for name, mask in masks.items():
        write_volume(Volume(mask, spacing=(0.5, 0.5, 1.0)), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def folders(tmp_path):
    """Predictions and references of two cases."""
    references = write(tmp_path / "references", a=tube(), b=tube(30))
    return write(tmp_path / "predictions", a=tube(20), b=tube(30)), references


# ---------------------------------------------------------------------------------------------------------------- cases


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a_airway.nii.gz", "a"])
def test_a_case_is_named_without_suffix(tmp_path, name):
    assert case_name(tmp_path / name) == "a"


def test_masks_lie_in_the_folder_or_in_one_folder_a_case(tmp_path):
    write(tmp_path / "flat", a=tube(), b_airway=tube())
    write(tmp_path / "deep").joinpath("c").mkdir()
    write(tmp_path / "deep/c", ct=tube(), airway=tube())
    assert list(find_cases(tmp_path / "flat")) == ["a", "b"]
    assert find_cases(tmp_path / "deep") == {"c": tmp_path / "deep/c/airway.nii.gz"}


def test_two_files_are_one_case(tmp_path):
    folder = write(tmp_path / "x", team_1=tube(20), truth=tube())
    (case,) = match_cases(folder / "team_1.nii.gz", folder / "truth.nii.gz")
    assert case == "team_1"


def test_what_does_not_match_is_named(tmp_path, folders):
    predictions, references = folders
    write(predictions, c=tube())
    write(references, d=tube(), e=tube())
    with pytest.raises(InputError) as caught:
        match_cases(predictions, references)
    assert f"{predictions} lacks d, e" in str(caught.value)
    assert f"{references} lacks c" in str(caught.value)


def test_references_may_hold_more_where_that_is_allowed(folders):
    predictions, references = folders
    write(references, c=tube())
    evaluation = evaluate_files(predictions, references, subset=True)
    assert evaluation.scores["case"].tolist() == ["a", "b"]
    assert evaluation.unmatched == ["c"]
    write(predictions, d=tube())
    with pytest.raises(InputError, match="lacks d"):
        evaluate_files(predictions, references, subset=True)


def test_hidden_files_are_no_cases_and_suffixes_may_be_in_capitals(folders):
    predictions, _ = folders
    (predictions / "._a.nii.gz").write_bytes(b"")
    (predictions / "b.nii.gz").rename(predictions / "b.NII.GZ")
    assert list(find_cases(predictions)) == ["a", "b"]


def test_other_faults_of_the_paths(tmp_path, folders):
    predictions, references = folders
    (tmp_path / "empty").mkdir()
    write(tmp_path / "twice", a=tube(), a_airway=tube())
    for paths, message in (
        ((predictions, tmp_path / "none"), "none: no such file or folder"),
        ((Path("/dev/null"), references), "give two mask files"),
        ((predictions / "a.nii.gz", references), "give two mask files, or two folders"),
        ((tmp_path / "empty", references), "no masks in it; CASE.nii.gz or"),
        ((tmp_path / "twice", references), "two masks of case a: a.nii.gz and a_airway.nii.gz"),
    ):
        with pytest.raises(InputError, match=message):
            match_cases(*paths)


# -------------------------------------------------------------------------------------------------------------- scoring


def test_folders_are_scored_case_by_case(folders):
    evaluation = evaluate_files(*folders)
    assert evaluation.scores["case"].tolist() == ["a", "b"]
    expected = evaluate(tube(20), tube(), (0.5, 0.5, 1.0))
    assert evaluation.scores.iloc[0].drop("case").to_dict() == pytest.approx(expected)
    assert (evaluation.faults, evaluation.empty) == ({}, [])
    summary = evaluation.summary()
    assert summary.loc["td", "mean"] == pytest.approx((expected["td"] + 100) / 2)
    assert summary.loc["td", "low"] == pytest.approx(expected["td"])


def test_a_bad_case_is_told_and_the_others_are_scored(folders):
    predictions, references = folders
    write(predictions, b=tube(30, (9, 9, 41)))
    (predictions / "c.nii.gz").write_bytes(b"no image")
    write(references, c=tube())
    evaluation = evaluate_files(predictions, references)
    assert evaluation.scores["case"].tolist() == ["a"]
    assert set(evaluation.faults) == {"b", "c"}
    assert "b.nii.gz" in evaluation.faults["b"]
    assert "not on one grid" in evaluation.faults["b"]
    assert evaluation.as_json()["left_out"] == evaluation.faults
    assert "c.nii.gz" in evaluation.faults["c"]


def test_nothing_to_score_is_an_error(folders):
    predictions, references = folders
    write(references, a=tube() & False, b=tube() & False)
    with pytest.raises(InputError, match=r"a\.nii\.gz: the mask is empty"):
        evaluate_files(predictions, references)


def test_an_empty_prediction_scores_0_and_is_named(folders):
    predictions, references = folders
    write(predictions, b=tube() & False)
    evaluation = evaluate_files(predictions, references)
    assert evaluation.empty == ["b"]
    assert evaluation.scores.set_index("case").loc["b", ["td", "bd", "dsc"]].tolist() == [0, 0, 0]


def test_given_branches_are_taken_by_case(tmp_path, folders):
    labels = tmp_path / "branches"
    labels.mkdir()
    halves = np.where(np.arange(40) < 20, 3, 8) * tube()
    for case in ("a", "b"):
        write_volume(Volume(halves.astype(np.uint8), spacing=(0.5, 0.5, 1.0)), labels / f"{case}.nii.gz")
    evaluation = evaluate_files(*folders, "atm26", labels)
    assert evaluation.scores["branches"].tolist() == [2, 2]
    assert evaluation.scores["branches_detected"].tolist() == [1, 2]
    (labels / "b.nii.gz").unlink()
    with pytest.raises(InputError, match="lacks b"):
        evaluate_files(*folders, "atm26", labels)
    with pytest.raises(InputError, match="'paper' parses the branches itself"):
        evaluate_files(*folders, "paper", labels)


def test_a_table_of_the_tree_command_is_no_phantoms_truth(tmp_path):
    folder = write(tmp_path / "case", airway=tube())
    write_tree(parse_tree(tube()), folder / "tree.csv")
    assert true_tree(folder / "airway.nii.gz") is None
    (folder / "tree.csv").write_text("")
    with pytest.raises(InputError, match=r"tree\.csv: not a readable table"):
        true_tree(folder / "airway.nii.gz")


def test_a_moved_grid_is_refused():
    one, other = Volume(tube()), Volume(tube(), origin=(0, 0, 5))
    with pytest.raises(InputError, match="are not on one grid"):
        score_case(one, other)


def test_a_phantom_is_scored_by_its_own_branches(tmp_path):
    phantom = mini(1)
    folder = write_phantom(phantom, tmp_path / "raw")
    masks = tmp_path / "predictions"
    masks.mkdir()
    half = phantom.airway.array.copy()
    half[:50] = False
    write_volume(phantom.airway.with_array(half), masks / "mini_0001.nii.gz")
    evaluation = evaluate_files(masks, tmp_path / "raw")
    table = evaluation.groups["mini_0001"]["by_generation"]
    truth = phantom.tree["generation"].value_counts().sort_index()
    assert table["branches"].tolist() == truth.tolist()
    (row,) = evaluation.scores.to_dict("records")
    assert row["bd_truth"] == pytest.approx(100 * table["branches_detected"].sum() / truth.sum())
    above = phantom.tree[["start_z", "end_z"]].min(axis=1) > 51
    assert 100 * above.mean() - 5 < row["bd_truth"] < 100 * above.mean() + 15
    assert true_tree(folder / "ct.nii.gz") is None


# --------------------------------------------------------------------------------------------------------------- tables


def test_the_table_for_a_terminal(folders):
    head, *rows = evaluate_files(*folders).as_text().splitlines()
    assert head.split() == ["case", "TD", "BD", "DSC", "precision", "TPR", "clDice", "branches"]
    assert [row.split()[0] for row in rows] == ["a", "b", "mean", "sd", "95"]
    assert rows[1].split()[1:4] == ["100.00", "100.00", "100.00"]
    assert rows[1].endswith("1 of 1")
    assert "mean" not in evaluate_files(folders[0] / "a.nii.gz", folders[1] / "a.nii.gz").as_text()


def test_json_is_plain_and_complete(folders):
    document = json.loads(json.dumps(evaluate_files(*folders, "atm22").as_json(), allow_nan=False))
    assert document["convention"] == "atm22"
    assert [case["case"] for case in document["cases"]] == ["a", "b"]
    first = document["cases"][0]
    assert {"td", "bd", "dsc", "precision", "branches", "branches_detected"} <= first.keys()
    assert first["branches"] == 1
    assert first["by_generation"][0]["generation"] == 0
    assert first["by_diameter"][0]["diameter_mm"] == "2-4"  # 3 x 3 voxels of 0.5 x 1 mm
    assert document["summary"]["td"].keys() == {"mean", "sd", "median", "low", "high"}


def test_one_case_has_no_spread_in_json(folders):
    document = evaluate_files(folders[0] / "a.nii.gz", folders[1] / "a.nii.gz").as_json()
    assert document["summary"]["td"]["sd"] is None


def test_csv_has_a_row_a_case(folders, tmp_path):
    (tmp_path / "scores.csv").write_text(evaluate_files(*folders).as_csv())
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table["case"].tolist() == ["a", "b"]
    assert table["convention"].tolist() == ["paper", "paper"]
    assert table["dsc"].tolist() == pytest.approx([200 * 18 / (18 + 36), 100], abs=1e-4)


def test_latex_is_exact09s_table(folders):
    lines = evaluate_files(*folders, "exact09").as_latex().splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrrrr}"
    assert lines[2].startswith(r"Case & Branch count & Branch detected (\%) &") and lines[1] == r"\toprule"
    names = [line.split(" & ")[0] for line in lines if line.count("&") == 7]
    write(folders[0], **{"x&y_1": tube()})
    write(folders[1], **{"x&y_1": tube()})
    assert r"x\&y\_1 & 0 & " in evaluate_files(*folders, "exact09").as_latex()
    assert names == ["Case", "a", "b", "Mean", "Std. dev.", "Min.", "1st quartile", "Median", "3rd quartile", "Max."]
    with pytest.raises(InputError, match="'paper' has no LaTeX table"):
        evaluate_files(*folders).as_latex()
