"""Scores that others published, each with its data, its convention and where it was read.

They were reached on other data than ours, mostly on patients' CT: their level says nothing about a study on phantoms.
"""

import pandas as pd

SOURCES = {
    "A": "the authors' program or words",
    "B": "one secondary source; the paper itself was not at hand",
}
SCORES = ("td", "bd", "dsc", "precision", "iou", "exact09_fpr")  # percent; and leakage_mm3
WINGSNET = "Zheng et al. 2021: WingsNet, General Union loss"

# td, bd: tree length and branches detected; exact09_fpr: EXACT'09's false positive rate. No figure: not published.
PUBLISHED = (
    {
        "method": WINGSNET,
        "data": "EXACT'09, 20 test cases",
        "convention": "exact09",
        "source": "A",
        **{"td": 79.0, "td_sd": 11.1, "bd": 80.5, "bd_sd": 12.5, "exact09_fpr": 5.79, "leakage_mm3": 1313.0},
    },
    {
        "method": WINGSNET,
        "data": "BAS, 20 test cases",
        "convention": "paper",
        "source": "B",
        **{"td": 92.5, "bd": 88.7},
    },
    {
        "method": "Zheng et al. 2021: group supervision and hard sampling alone",
        "data": "BAS, 20 test cases",
        "convention": "paper",
        "source": "B",
        **{"td": 90.8, "bd": 87.1},
    },
    {
        "method": "winner of ATM'22 (a WingsNet, losses of General Union's family)",
        "data": "ATM'22, hidden test",
        "convention": "atm22",
        "source": "B",
        **{"td": 95.9, "bd": 94.7, "dsc": 93.9, "precision": 93.6},
    },
    {
        "method": "winner of AIIB23",
        "data": "AIIB23, test",
        "convention": "aiib23",
        "source": "B",
        **{"td": 93.7, "bd": 90.5, "iou": 90.5},
    },
)


def published_table() -> pd.DataFrame:
    """`PUBLISHED` as a table: method, data, convention, source (of `SOURCES`), the scores, td_sd, bd_sd, leakage_mm3.

    Examples
    --------
    >>> published_table().loc[1:1, ["data", "convention", "source", "td", "bd"]].to_dict("records")
    [{'data': 'BAS, 20 test cases', 'convention': 'paper', 'source': 'B', 'td': 92.5, 'bd': 88.7}]
    """
    return pd.DataFrame(PUBLISHED)


def beside_published(summary: pd.DataFrame, official: pd.DataFrame, data: str) -> pd.DataFrame:
    """Our variants above what was published: one row each, and nothing that would make them one series.

    Parameters
    ----------
    summary : DataFrame
        `exhibits.summarise_variants`, convention `paper`.
    official : DataFrame
        One row a variant and case with the columns of `exact09`; its means make a row under convention `exact09`.
    data : str
        What ours were scored on.

    Returns
    -------
    DataFrame
        whose ("ours" or "published"), method, data, convention, source, `SCORES` (percent), td_sd, bd_sd, leakage_mm3,
        comparable (whether the row's level may be set beside the others': only among our own, under one convention).
    """
    rows = []
    for row in summary.to_dict("records"):
        found = {name: row[f"{name}_mean"] for name in ("td", "bd", "dsc", "precision")}
        found |= {f"{name}_sd": row[f"{name}_sd"] for name in ("td", "bd")}
        rows.append({"method": row["variant"], "convention": "paper", **found})
    for variant, cases in official.groupby("variant", sort=False):
        names = {"td": "tree_length_detected", "bd": "branches_detected", "exact09_fpr": "false_positive_rate"}
        found = {short: cases[f"exact09_{name}"] for short, name in names.items()}
        means = {short: values.mean() for short, values in found.items()}
        spread = {f"{short}_sd": found[short].std() for short in ("td", "bd")}
        leak = {"leakage_mm3": cases["exact09_leakage_volume_mm3"].mean()}
        rows.append({"method": variant, "convention": "exact09", **means, **spread, **leak})
    ours = pd.DataFrame(rows).assign(whose="ours", data=data, source="this study", comparable="with ours alone")
    theirs = published_table().assign(whose="published", comparable="no: other data")
    columns = [
        "whose",
        "method",
        "data",
        "convention",
        "source",
        *SCORES,
        "td_sd",
        "bd_sd",
        "leakage_mm3",
        "comparable",
    ]
    return pd.concat([ours.reindex(columns=columns), theirs.reindex(columns=columns)], ignore_index=True)
