"""data/published.csv has the numbers as they were published, each with its data, convention, source and grade."""

from pathlib import Path

import pandas as pd

from airwaylib.metrics.reference import CONVENTIONS

TABLE = pd.read_csv(Path(__file__).resolve().parents[1] / "data" / "published.csv")


def test_every_row_names_its_data_convention_and_source():
    assert set(TABLE["grade"]) == {"A", "B"}  # the authors themselves, or one secondary source
    assert TABLE["source"].str.len().gt(10).all()
    assert TABLE["convention"].isin(list(CONVENTIONS)).all()
    assert TABLE["data"].str.contains("EXACT'09|BAS|ATM'22|AIIB23").all()
    assert TABLE[["td", "bd"]].notna().all().all()


def test_the_papers_numbers():
    table = TABLE.set_index("convention")
    exact = table.loc["exact09"]
    assert (exact["bd"], exact["bd_sd"], exact["td"], exact["td_sd"]) == (80.5, 12.5, 79.0, 11.1)
    assert (exact["exact09_fpr"], exact["leakage_mm3"], exact["grade"]) == (5.79, 1313, "A")
    assert table.loc["paper", ["td", "bd"]].to_numpy().tolist() == [[92.5, 88.7], [90.8, 87.1]]
    assert table.loc["atm22", ["td", "bd", "dsc", "precision"]].tolist() == [95.9, 94.7, 93.9, 93.6]
    assert table.loc["aiib23", ["iou", "td", "bd"]].tolist() == [90.5, 93.7, 90.5]
