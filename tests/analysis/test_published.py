"""Published numbers as they were published, and ours never in one series with them."""

import pandas as pd
import pytest

from airwaylib.metrics.reference import CONVENTIONS
from airwaystudy.analysis.published import SOURCES, beside_published, published_table


def test_every_row_names_its_data_convention_and_source():
    table = published_table()
    assert table["source"].isin(list(SOURCES)).all()
    assert table["convention"].isin(list(CONVENTIONS)).all()
    assert table["data"].str.contains("EXACT'09|BAS|ATM'22|AIIB23").all()
    assert table[["td", "bd"]].notna().all().all()


def test_the_papers_numbers():
    table = published_table().set_index("convention")
    exact = table.loc["exact09"]
    assert (exact["bd"], exact["bd_sd"], exact["td"], exact["td_sd"]) == (80.5, 12.5, 79.0, 11.1)
    assert (exact["exact09_fpr"], exact["leakage_mm3"], exact["source"]) == (5.79, 1313, "A")
    assert table.loc["paper", ["td", "bd"]].to_numpy().tolist() == [[92.5, 88.7], [90.8, 87.1]]
    assert table.loc["atm22", ["td", "bd", "dsc", "precision"]].tolist() == [95.9, 94.7, 93.9, 93.6]
    assert table.loc["aiib23", ["iou", "td", "bd"]].tolist() == [90.5, 93.7, 90.5]


def test_ours_stand_beside_and_not_among_them():
    means = {"td_mean": 80.0, "bd_mean": 70.0, "dsc_mean": 85.0, "precision_mean": 90.0, "td_sd": 2.0, "bd_sd": 3.0}
    summary = pd.DataFrame([{"variant": "both_dice", **means, "fpr_mean": 0.04}])
    names = ("tree_length_detected", "branches_detected", "false_positive_rate", "leakage_volume_mm3")
    cases = [
        {f"exact09_{name}": value for name, value in zip(names, row, strict=True)}
        for row in ((60, 50, 4, 10), (80, 70, 6, 30))
    ]
    table = beside_published(summary, pd.DataFrame(cases).assign(variant="both_dice"), "2 phantoms (synthetic)")
    ours, theirs = table[table["whose"] == "ours"], table[table["whose"] == "published"]
    assert len(theirs) == len(published_table()) and (theirs["comparable"] == "no: other data").all()
    assert (ours["data"] == "2 phantoms (synthetic)").all() and (ours["source"] == "this study").all()
    paper, official = ours.to_dict("records")
    assert (paper["convention"], paper["td"], paper["bd_sd"]) == ("paper", 80, 3)
    assert pd.isna(paper["exact09_fpr"])
    assert (official["convention"], official["td"], official["bd"]) == ("exact09", 70, 60)
    assert (official["exact09_fpr"], official["leakage_mm3"]) == (5, 20)
    assert official["td_sd"] == pytest.approx(200**0.5)
