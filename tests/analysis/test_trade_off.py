"""Curves over the threshold: collected from runs, and read at a given precision."""

import numpy as np
import pandas as pd
import pytest

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.analysis.trade_off import td_at_precision, trade_offs
from airwaystudy.plan.runs import StudyRuns


def test_curves_are_collected_by_variant_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "HOME", tmp_path)
    table = pd.DataFrame(
        {"run": ["a_1", "a_0", "b_0"], "variant": ["a", "a", "b"], "seed": [1, 0, 0], "status": "done"}
    )
    nothing = pd.DataFrame()
    runs = StudyRuns("some", table, nothing, nothing, nothing, configs={})
    for number, run in enumerate(table["run"]):
        curve = pd.DataFrame({"case": ["x", "x"], "logit": [0.0, 1.0], "td": [90.0, 80.0 + number]})
        home.write_csv(home.run_folder("some", run) / "trade_off.csv", curve)
    found = trade_offs(runs, ["a"])
    assert list(found) == ["variant", "seed", "case", "logit", "td"]
    assert found["seed"].tolist() == [0, 0, 1, 1] and found["td"].tolist() == [90, 81, 90, 80]
    (home.run_folder("some", "b_0") / "trade_off.csv").unlink()
    with pytest.raises(InputError, match=r"b_0/trade_off\.csv: not there; delete scores\.csv beside it"):
        trade_offs(runs, ["b"])


def test_the_longest_tree_at_a_precision_by_hand():
    """From 90 and 50 % precision of two cases at logit -2 to 90 % of both at 0; beyond, nothing is found."""
    rows = [(-2, 100, 90), (-2, 80, 50), (0, 50, 90), (0, 70, 90), (9, 0, np.nan), (9, 0, np.nan)]
    curves = pd.DataFrame(rows, columns=["logit", "td", "precision"]).assign(variant="a", seed=3)
    table = td_at_precision(curves, (60, 80, 90, 95))
    assert table["precision"].tolist() == [60, 80, 90, 95] and set(table["seed"]) == {3}
    assert table["td"].tolist() == pytest.approx([90, 75, 60, np.nan], abs=0.2, nan_ok=True)  # 70 to 90 %: halfway
    assert td_at_precision(curves[curves["logit"] == 9], (60,))["td"].isna().all()
