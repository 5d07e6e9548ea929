"""Masks of made-up runs: their cases, their scores by diameter and their parts are known."""

import numpy as np
import pytest
from synthetic_study import write_runs
from tiny_cases import tiny_case

from airwaylib.errors import InputError
from airwaylib.images.volume import Volume, write_volume
from airwaystudy import home
from airwaystudy.analysis import exhibits
from airwaystudy.plan import runs
from airwaystudy.plan.runs import collect

CASES = ("test_a", "test_b")
FACTORS = {
    "final_dice": {"supervision": "final", "loss": "dice"},
    "both_dice": {"supervision": "both", "loss": "dice"},
    "both_general_union": {"supervision": "both", "loss": "general_union"},
}


def td_of(variant, seed, case):
    """60 for the baseline; 10 more for the middle one, and 20 + seed + (1 in case b) more for ours."""
    more = {"final_dice": 0, "both_dice": 10, "both_general_union": 20 + seed + (case == "test_b")}
    return {"td": 60.0 + more[variant]}


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Two seeds; the baseline finds the right half (x) of the airway, the others all of it and a leak."""
    monkeypatch.setattr(home, "HOME", tmp_path)
    ct, label = tiny_case(spacing=(1.0, 1.0, 1.0))
    for case in CASES:
        write_volume(ct, tmp_path / f"data/raw/{case}/ct.nii.gz")
        write_volume(label, tmp_path / f"data/raw/{case}/airway.nii.gz")
    variants = {name: {"data": "data", **settings} for name, settings in FACTORS.items()}
    results = write_runs(tmp_path, variants, (0, 1), CASES, td_of)
    for run in (results / "runs").iterdir():
        for case in CASES:
            mask = half(label) if run.name.startswith("final") else leaky(label)
            write_volume(mask, run / f"predictions/{case}.nii.gz")
    return collect("made_up")


def half(label):
    """The part of the label from the middle of x on."""
    array = label.array.copy()
    array[:, :, : array.shape[2] // 2] = False
    return label.with_array(array)


def leaky(label):
    """The label, and a block of 4 x 4 x 4 voxels that touches its trunk."""
    array = label.array.copy()
    array[30:34, 28:32, 26:30] = True  # the trunk ends at y = 27
    return label.with_array(array)


def test_variants_come_from_the_plainest_on(found):
    assert exhibits.variants_in_order(found, ["final_dice"]) == list(FACTORS)
    assert runs.runs_of(found, "both_dice") == ["both_dice_0", "both_dice_1"]
    with pytest.raises(InputError, match="variant 'deep_dice'; there are final_dice, both_dice, both_general_union"):
        exhibits.variants_in_order(found, ["final_dice", "deep_dice"])


def test_dsc_by_diameter_stands_beside_td_and_bd(found):
    table = exhibits.scores_by_diameter(found, list(FACTORS)).set_index(["variant", "diameter_mm"])
    assert table.loc[("both_dice", "2-4"), "td_mean"] == 70  # of the runs' own table
    thin = table.xs("2-4", level="diameter_mm")["dsc_mean"]
    assert thin["both_dice"] == pytest.approx(100)  # the leak is at the trunk
    assert 60 < thin["final_dice"] < 72  # half of the twigs, none false: 2 / 3
    assert (table["dsc_min"] == table["dsc_max"]).sum() == table["dsc_mean"].notna().sum()  # seeds have equal masks
    assert table.columns[-1] == "convention"
    assert set(exhibits.scores_by_diameter(found, ["both_dice"])["variant"]) == {"both_dice"}


def test_parts_of_a_mask_are_all_of_it():
    label = np.zeros((12, 12, 12), bool)
    label[4:7, 4:7, 2:10] = True
    prediction = label.copy()
    prediction[4:7, 4:7, 8:10] = False  # missed: 18
    prediction[5, 5, 2:8] = True
    prediction[7:10, 5, 5] = True  # 1 in the rim, 2 beyond
    prediction[0, 0, 0] = True  # not in the largest component: nothing
    parts = exhibits.parts_of(prediction, label)
    assert {name: int(mask.sum()) for name, mask in parts.items()} == {
        **{"detected": 54, "missed": 18, "rim": 1, "leaked": 2}
    }


def test_a_case_without_its_own_tree_is_parsed(found):
    case = exhibits.read_test_case(found.configs["both_dice_0"], "test_a")
    assert not case.synthetic and len(case.branches.table) >= 3
    assert isinstance(case.ct, Volume) and case.ct.same_grid(case.label)
