"""Measures of claims: numbers worked out by hand, intervals by Student's t, and what is missing is named."""

import numpy as np
import pandas as pd
import pytest
from synthetic_tables import write_scores

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.claims.ledger import read_measure
from airwaystudy.claims.measures import KINDS, VERDICTS, Effect, MissingError, Number, Tables

T2 = 4.302652729911275  # Student's t, two degrees of freedom, 97.5 %


def measure(**given):
    return read_measure(given, "here")


def finding(results, **given):
    return measure(**given).finding(Tables(results))


@pytest.fixture
def results(tmp_path):
    """td of dice is 60 + seed on one case and 70 on the other; general_union has 1, 2, 3 more, by seed; dsc is flat."""

    def score(variant, seed, case):
        td = 60 + seed if case == "mini_0008" else 70
        return {"td": td + (1 + seed if variant == "union" else 0), "dsc": 80.0 + seed, "fpr": 0.1}

    write_scores(tmp_path, ["dice", "union"], score)
    return tmp_path


def test_effect_is_paired_by_seed_and_case(results):
    found = finding(results, kind="effect", metric="td", variant="union", base="dice", expect="greater")
    reach = T2 * 1 / np.sqrt(3)  # 1, 2, 3: mean 2, standard deviation 1
    assert found[2:6] == (pytest.approx(2), pytest.approx(2 - reach), pytest.approx(2 + reach), 3)
    assert found.verdict == "open" and found.expected == "> 0"  # 2 - 2.48 is below 0


def test_effect_uses_only_what_both_have(results):
    path = results / "tables/scores_by_case.csv"
    scores = pd.read_csv(path)
    scores[~((scores["variant"] == "dice") & (scores["seed"] == 2))].to_csv(path, index=False)
    found = finding(results, kind="effect", metric="td", variant="union", base="dice", expect="greater")
    assert (found.ours, found.seeds) == (1.5, 2)


def test_effect_of_one_seed_is_open(tmp_path):
    write_scores(tmp_path, ["a", "b"], lambda variant, seed, case: {"td": 90 if variant == "b" else 10}, seeds=[4])
    found = finding(tmp_path, kind="effect", metric="td", variant="b", base="a", expect="greater")
    assert found.ours == 80 and found.seeds == 1 and np.isnan(found.low) and found.verdict == "open"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"variant": "no_such"}, "no run of no_such"),
        ({"variant": "one", "base": "two"}, "no run of one nor of two"),
        ({"metric": "amr"}, "tables/scores_by_case.csv has no column amr"),
    ],
)
def test_what_an_effect_lacks_is_named(results, changes, why):
    given = {"kind": "effect", "metric": "td", "variant": "union", "base": "dice", "expect": "greater"} | changes
    with pytest.raises(MissingError, match=f"^{why}$"):
        finding(results, **given)


def test_an_effect_may_ask_how_both_were_trained(results):
    given = {"kind": "effect", "metric": "td", "variant": "union", "base": "dice", "expect": "greater"}
    path = results / "tables/runs.csv"
    home.write_csv(path, pd.read_csv(path).assign(sampling="uniform"))
    found = finding(results, **given, having={"sampling": "uniform"})
    assert found.measure == "td: union minus dice, uniform (points)"
    assert found[1:] == finding(results, **given)[1:]
    with pytest.raises(MissingError, match=r"^union and dice with sampling hard; here uniform$"):
        finding(results, **given, having={"sampling": "hard"})
    with pytest.raises(MissingError, match=r"^tables/runs\.csv has no column root$"):
        finding(results, **given, having={"root": "0.7"})


UNION = {"kind": "effect", "metric": "td", "variant": "both_union", "base": "final_dice", "expect": "greater"}


def test_variants_that_differ_in_two_factors_are_not_compared(tmp_path):
    write_scores(tmp_path, ["both_union", "final_dice", "both_dice"], lambda variant, seed, case: {"td": 80.0 + seed})
    with pytest.raises(
        MissingError, match=r"^both_union and final_dice differ in supervision and loss, not in one factor$"
    ):
        finding(tmp_path, **UNION)
    with pytest.raises(MissingError, match=r"differ in supervision and loss, not in loss alone$"):
        finding(tmp_path, **UNION, factors=["loss"])
    assert finding(tmp_path, **UNION, factors=["supervision", "loss"]).ours == 0
    assert finding(tmp_path, **UNION | {"base": "both_dice"}).ours == 0
    with pytest.raises(InputError, match=r"factors\.0 = 'lose'"):
        finding(tmp_path, **UNION, factors=["lose"])


def test_what_no_table_says_of_the_factors_is_not_compared(tmp_path):
    write_scores(tmp_path, ["both_union", "both_dice"], lambda variant, seed, case: {"td": 80.0 + seed})
    path, given = tmp_path / "tables/runs.csv", UNION | {"base": "both_dice"}
    runs = pd.read_csv(path)
    home.write_csv(path, runs.assign(loss="dice"))
    with pytest.raises(MissingError, match=r"^both_union and both_dice differ in no factor$"):
        finding(tmp_path, **given)
    home.write_csv(path, runs[runs["variant"] == "both_union"])
    with pytest.raises(MissingError, match=r"^tables/runs\.csv has no run of both_dice$"):
        finding(tmp_path, **given)
    path.unlink()
    with pytest.raises(MissingError, match=r"^no tables/runs\.csv$"):
        finding(tmp_path, **given)


@pytest.mark.parametrize(
    ("union", "other", "factors"),
    [(0.2, 0.1, "loss and alpha"), (0.2, None, None), (None, None, None)],  # None: left to the loss, or not its own
)
def test_a_losss_parameter_belongs_to_the_loss_unless_both_set_it(tmp_path, union, other, factors):
    write_scores(tmp_path, ["both_union", "both_dice"], lambda variant, seed, case: {"td": 80.0 + seed})
    path, given = tmp_path / "tables/runs.csv", UNION | {"base": "both_dice"}
    runs = pd.read_csv(path)
    home.write_csv(path, runs.assign(alpha=[union if v == "both_union" else other for v in runs["variant"]]))
    if factors is None:
        assert finding(tmp_path, **given).ours == 0
        return
    with pytest.raises(MissingError, match=f"differ in {factors}, not in one factor$"):
        finding(tmp_path, **given)


def test_no_table_no_seed_in_common(tmp_path, results):
    with pytest.raises(MissingError, match=r"^no tables/scores_by_case\.csv$"):
        finding(tmp_path / "empty", kind="spread", metric="bd", less="dsc", expect="greater")
    path = results / "tables/scores_by_case.csv"
    scores = pd.read_csv(path)
    scores.loc[scores["variant"] == "dice", "seed"] += 10
    scores.to_csv(path, index=False)
    with pytest.raises(MissingError, match="share no seed and case"):
        finding(results, kind="effect", metric="td", variant="union", base="dice", expect="greater")


def test_spread_is_the_difference_of_two_ranges(tmp_path):
    far = {"a": (60, 90), "b": (75, 92), "c": (95, 91)}  # bd ranges over 35, dsc over 2
    write_scores(tmp_path, far, lambda v, seed, case: {"bd": far[v][0] + seed * (v == "c"), "dsc": far[v][1]})
    found = finding(tmp_path, kind="spread", metric="bd", less="dsc", expect="greater")
    assert found.ours == pytest.approx(34) and found.seeds == 3 and found.verdict == "supported"
    close = finding(tmp_path, kind="spread", metric="bd", less="dsc", within=1, expect="greater")
    assert close.ours == pytest.approx(20) and close.measure.startswith(
        "range over the variants within 1 points of dsc"
    )
    with pytest.raises(MissingError, match="fewer than two such variants"):
        finding(tmp_path, kind="spread", metric="bd", less="dsc", within=0.5, expect="greater")


@pytest.mark.parametrize(
    ("expect", "tolerance", "low", "high", "says"),
    [
        ("greater", None, 0.1, 2, "supported"),
        ("greater", None, -1, 2, "open"),
        ("greater", None, -2, -1, "contradicted"),
        ("greater", None, np.nan, np.nan, "open"),
        ("less", None, -2, -0.1, "supported"),
        ("less", None, 1, 2, "contradicted"),
        ("less", None, -1, 0, "open"),
        ("equal", 1, -0.9, 1, "equivalent"),
        ("equal", 1, 0, 1.5, "open"),
        ("equal", 1, 1.5, 2, "contradicted"),
        ("equal", 1, -3, -1.5, "contradicted"),
    ],
)
def test_an_interval_decides_if_it_is_on_one_side(expect, tolerance, low, high, says):
    effect = Effect(kind="effect", metric="td", variant="b", base="a", expect=expect, tolerance=tolerance)
    assert effect.judge(low, high) == says and says in VERDICTS


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.5, 0.5, "equivalent"),
        (-0.9, -0.1, "equivalent"),  # the other way, and too little to matter
        (0.1, 0.9, "supported"),  # small, but as expected
        (-0.5, 1.5, "open"),
        (-1.5, -0.1, "contradicted"),
        (-1.5, 0.1, "open"),
        (np.nan, np.nan, "open"),
    ],
)
def test_an_interval_within_the_margin_is_equivalent_unless_it_is_as_expected(low, high, verdict):
    given = {"kind": "effect", "metric": "td", "variant": "b", "base": "a"}
    assert measure(**given, expect="greater", margin=1).judge(low, high) == verdict
    shifted = measure(**given, expect="greater", value=5, margin=1)
    assert shifted.judge(low + 5, high + 5) == verdict
    with pytest.raises(InputError, match="tolerance is the margin"):
        measure(**given, expect="equal", tolerance=1, margin=1)


@pytest.mark.parametrize(("value", "says"), [(-0.5, "supported"), (0.0, "contradicted")])
def test_greater_means_greater_than_the_value(value, says):
    assert measure(kind="closed_form", loss="dice", expect="greater", value=-0.25).expected == "> -0.25"
    number = Number(kind="number", table="t", column="c", expect="less")
    assert number.judge(value, value) == says


@pytest.fixture
def numbers(tmp_path):
    """x by seed and epoch; y is x - 1, but for one row."""
    rows = [(seed, epoch, 10 * seed + epoch) for seed in (1, 2, 3) for epoch in (0, 1, 5)]
    table = pd.DataFrame(rows, columns=["seed", "epoch", "x"])
    table["y"] = table["x"] - 1.0
    table.loc[0, "y"] -= 4
    (tmp_path / "tables").mkdir()
    table.to_csv(tmp_path / "tables/numbers.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "ours", "seeds"),
    [
        ({"where": {"seed": 2, "epoch": 5}}, 25, 0),
        ({"where": {"seed": [1, 2], "epoch": 5}}, 20, 0),
        ({"where": {"epoch": 5}, "over": "seed"}, 25, 3),
        ({"against": "y", "reduce": "largest"}, 5, 0),
        ({"where": {"epoch": 5}, "reduce": "share"}, 100 * 75 / (180 + 18), 0),
    ],
)
def test_numbers_of_a_table(numbers, given, ours, seeds):
    found = finding(numbers, kind="number", table="tables/numbers.csv", column="x", expect="greater", **given)
    assert found.ours == pytest.approx(ours) and found.seeds == seeds
    assert found.verdict == "supported" and np.isnan(found.low) == (not seeds)


def test_no_row_and_no_number_are_named(numbers):
    given = {"kind": "number", "table": "tables/numbers.csv", "column": "x", "expect": "less"}
    with pytest.raises(MissingError, match="no row with seed 9"):
        finding(numbers, where={"seed": 9}, **given)
    table = pd.read_csv(numbers / "tables/numbers.csv").assign(x=np.nan)
    table.to_csv(numbers / "tables/numbers.csv", index=False)
    for more in ({}, {"over": "seed"}):
        with pytest.raises(MissingError, match="no number"):
            finding(numbers, **given, **more)


@pytest.mark.parametrize(
    ("given", "ours"),
    [({"loss": "dice"}, 1), ({"loss": "general_union", "weight": 1 / 9, "parameters": {"epsilon": 0}}, 2 / 3)],
)
def test_closed_forms_at_a_perfect_prediction(tmp_path, given, ours):
    found = finding(tmp_path, kind="closed_form", expect="equal", value=ours, tolerance=1e-6, **given)
    assert found.ours == pytest.approx(ours, abs=1e-6) and found.seeds == 0 and found.verdict == "equivalent"
    assert "at the probability" in found.measure


@pytest.fixture
def contrasts(tmp_path):
    rows = [
        ("union", "dice", "td", 1.5, 0.5, 2.5, 12, "supported", "by 12 seeds"),
        ("union", "dice", "bd", 0.1, -0.5, 0.7, 12, "equivalent", None),
        ("odd", "dice", "td", 0.1, -0.5, 0.7, 12, "holds", None),
    ]
    columns = ["arm", "base", "outcome", "difference", "low", "high", "seeds", "verdict", "note"]
    table = pd.DataFrame(rows, columns=columns)
    (tmp_path / "tables").mkdir()
    table.assign(name=table["arm"] + " - " + table["base"]).to_csv(tmp_path / "tables/contrasts.csv", index=False)
    return tmp_path


def test_a_contrast_keeps_its_own_verdict_and_interval(contrasts):
    found = finding(contrasts, kind="contrast", name="union - dice", outcome="td")
    assert found[2:6] == (1.5, 0.5, 2.5, 12)
    assert (found.verdict, found.note, found.table) == ("supported", "by 12 seeds", "tables/contrasts.csv")
    assert found.measure == "td: union - dice"
    assert finding(contrasts, kind="contrast", name="union - dice", outcome="bd")[6:] == (
        *("equivalent", "tables/contrasts.csv", ""),
    )


@pytest.mark.parametrize(
    ("name", "outcome", "why"),
    [
        ("union - dice", "dsc", "0 rows of name union - dice, outcome dsc"),
        ("odd - dice", "td", "verdict 'holds' is none"),
    ],
)
def test_what_a_contrast_lacks_is_named(contrasts, tmp_path, name, outcome, why):
    with pytest.raises(MissingError, match=why):
        finding(contrasts, kind="contrast", name=name, outcome=outcome)
    with pytest.raises(MissingError, match=r"^no tables/contrasts\.csv$"):
        finding(tmp_path / "empty", kind="contrast", name=name, outcome=outcome)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "contrast"])
def test_equal_needs_a_tolerance(kind):
    fields = {"metric": "td", "variant": "b", "base": "a", "less": "dsc", "table": "t", "column": "c", "loss": "dice"}
    own = {name: value for name, value in fields.items() if name in KINDS[kind].model_fields}
    for wrong in ({"expect": "equal"}, {"expect": "less", "tolerance": 1}):
        with pytest.raises(InputError, match="need each other"):
            measure(kind=kind, **own, **wrong)


def test_cases_of_all_tables(results):
    (results / "gradients").mkdir()
    pd.DataFrame({"case": ["mini_0003"]}).to_csv(results / "gradients/branches.csv")
    assert Tables(results).cases == {"mini_0003", "mini_0008", "mini_0009"}
