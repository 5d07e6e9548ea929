"""Outcomes by hand from literal threshold curves: crossings, cases that never reach 80 %, cases with nothing found."""

import numpy as np
import pandas as pd
import pytest
from refusals import refused
from synthetic_study import write_runs

from airwaystudy import home
from airwaystudy.analysis.outcomes import CURVE, OUTCOMES, PRIMARY, outcomes, study_outcomes
from airwaystudy.plan.runs import collect

NOTHING = np.nan


def curve(rows, case="a", **columns):
    """Rows (logit, td, precision); the other columns follow from td unless they are given."""
    table = pd.DataFrame(rows, columns=["logit", "td", "precision"]).assign(case=case)
    table = table.assign(bd=table["td"] - 10, td_thin=table["td"] / 2, td_wide=table["td"], dsc=50.0)
    table = table.assign(td_whole=table["td"], td_thin_whole=table["td_thin"], precision_whole=table["precision"])
    return table.assign(**columns)[list(CURVE)]


def only(table):
    (row,) = outcomes(table).to_dict("records")
    return row


def test_the_curve_is_crossed_between_two_thresholds_by_hand():
    """Precision 60, 70, 90 at -2, 0, 4: 80 % is crossed at logit 2, halfway, where TD is 70."""
    row = only(curve([(-2, 100, 60), (0, 90, 70), (4, 50, 90)]))
    assert row["td_80"] == pytest.approx(70) and row["bd_80"] == pytest.approx(60)
    assert row["td_thin_80"] == pytest.approx(35) and row["td_wide_80"] == pytest.approx(70)
    assert row["td_90"] == 50 and row["reached"]
    assert (row["td"], row["bd"], row["precision"]) == (90, 80, 70)
    # TD falls by 2 points a point of precision from 90 at 70 to 50 at 90, and stays 50, its value at the highest
    # precision, to 95: mean 70 over 20 points and 50 over 5.
    assert row["td_area"] == pytest.approx((70 * 20 + 50 * 5) / 25)


def test_columns_are_those_of_the_protocol():
    table = outcomes(curve([(0, 90, 85)]))
    assert list(table) == ["case", *OUTCOMES, "reached", "beyond"] and PRIMARY == "td_80"
    assert table["reached"].dtype == table["beyond"].dtype == bool
    assert table["beyond"].all()  # 85 % at the lowest threshold: at 80 % there would be more
    assert not outcomes(curve([(-1, 95, 70), (0, 90, 85)]))["beyond"].any()


def test_order_of_rows_does_not_matter():
    table = curve([(-2, 100, 60), (0, 90, 70), (4, 50, 90)])
    pd.testing.assert_frame_equal(outcomes(table), outcomes(table.iloc[[2, 0, 1]]))


def test_a_threshold_counts_as_well_as_a_crossing():
    """The largest component grows late: TD 20 at the crossing, 60 beyond it at precision 95."""
    row = only(curve([(0, 20, 70), (1, 20, 90), (2, 60, 95), (3, 40, 99)]))
    assert row["td_80"] == 60 and row["bd_80"] == 50
    assert row["td_90"] == 60


def test_curve_that_leaves_the_precision_and_comes_back():
    """80 % is met at 0, left at 1 and met again from 1.5 on."""
    row = only(curve([(0, 50, 80), (1, 90, 70), (2, 70, 90)]))
    assert row["td_80"] == pytest.approx(80)  # the crossing at 1.5; at 0 it is 50


def test_a_case_that_never_reaches_80_counts_at_its_highest_precision_and_is_flagged():
    row = only(curve([(-1, 95, 40), (0, 90, 60), (1, 70, 75), (2, 30, 75), (3, 10, 50)]))
    assert (row["td_80"], row["td_90"]) == (70, 70)
    # From 60 to 75 % TD falls from 90 to 70: 76.67 at 70 %, 70 at 75 %, and 70 for the 20 points beyond.
    assert row["td_area"] == pytest.approx((5 * (76 + 2 / 3 + 70) / 2 + 20 * 70) / 25)
    assert row["td_80_whole"] == 70 and not row["reached"]


def test_empty_masks_are_passed_over():
    """Between the last mask and the empty one nothing is interpolated: TD 40, not less."""
    row = only(curve([(0, 80, 70), (1, 40, 78), (2, 0, NOTHING)]))
    assert row["td_80"] == 40 and not row["reached"]


def test_a_case_in_which_nothing_is_found_has_0_and_is_flagged():
    row = only(curve([(-9, 0, NOTHING), (0, 0, NOTHING)], bd=0.0))
    assert {row[name] for name in OUTCOMES if name != "precision"} == {0.0}
    assert np.isnan(row["precision"]) and not row["reached"]


def test_without_the_component_rule_the_threshold_is_another():
    """`whole` crosses 80 % at logit 1, halfway, with TD 75; by the rule precision is 90 at 0 already."""
    table = curve([(0, 60, 90), (2, 50, 95)], td_whole=[80, 70], precision_whole=[70, 90], td_thin_whole=[40, 20])
    row = only(table)
    assert (row["td_80"], row["td_80_whole"], row["td_thin_80_whole"]) == (60, pytest.approx(75), pytest.approx(30))
    assert row["td_thin_80"] == 30


def test_each_case_has_its_own_threshold():
    table = pd.concat([curve([(0, 90, 85), (1, 60, 95)], "a"), curve([(0, 90, 60), (1, 60, 85)], "b")])
    found = outcomes(table).set_index("case")["td_80"]
    assert found["a"] == 90 and found["b"] == pytest.approx(90 - 30 * 20 / 25)


def test_faulty_curves_are_refused():
    good = curve([(0, 90, 85), (1, 60, 95)])
    refused(lambda: outcomes(good.drop(columns=["td_whole", "dsc"])), "no column td_whole, dsc")
    refused(lambda: outcomes(good.assign(logit=[1, 2])), "of a: no threshold at logit 0")
    refused(lambda: outcomes(good.assign(logit=[0, 0])), "of a: a threshold comes twice")
    refused(lambda: outcomes(good.assign(td=[90, np.nan])), "of a: a logit, td, bd or td_whole is no number")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Two arms of one seed, two cases; TD at 80 % is 90 but for the second arm's test_b."""
    monkeypatch.setattr(home, "HOME", tmp_path)
    folder = write_runs(tmp_path, {"dice": {"loss": "dice"}, "union": {}}, seeds=[3])
    for run in ("dice_3", "union_3"):
        curves = [curve([(0, 90, 85)], "test_a"), curve([(0, 70 if run == "union_3" else 90, 60)], "test_b")]
        home.write_csv(folder / "runs" / run / "trade_off.csv", pd.concat(curves))
    return folder


def test_outcomes_of_a_study(study):
    table = study_outcomes(collect("made_up"))
    assert table[["run", "variant", "seed", "case", "td_80", "reached"]].values.tolist() == [
        ["dice_3", "dice", 3, "test_a", 90, True],
        ["dice_3", "dice", 3, "test_b", 90, False],
        ["union_3", "union", 3, "test_a", 90, True],
        ["union_3", "union", 3, "test_b", 70, False],
    ]


def test_runs_without_a_curve_or_without_a_case_are_refused(study):
    path = study / "runs/union_3/trade_off.csv"
    home.write_csv(path, curve([(0, 90, 85)], "test_a"))
    refused(lambda: study_outcomes(collect("made_up")), "union_3", "no curve of test_b")
    path.unlink()
    refused(lambda: study_outcomes(collect("made_up")), "union_3", "no threshold curve")
