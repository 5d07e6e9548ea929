"""Contrasts by hand: mean squares, degrees of freedom, tests, verdicts; coverage by simulation; refusals."""

import numpy as np
import pandas as pd
import pytest
from refusals import refused
from scipy.stats import t
from synthetic_study import write_runs

from airwaystudy import home
from airwaystudy.analysis.contrasts import (
    ARM_COLUMNS,
    COLUMNS,
    arm_table,
    contrast_table,
    crossed,
    differences,
    holm,
    judged,
    one_more_seed,
    require_one_factor,
    sign_flip,
    statistics,
    verdict,
    write_tables,
)
from airwaystudy.analysis.outcomes import OUTCOMES
from airwaystudy.plan.presets import Preset
from airwaystudy.plan.protocol import Contrast
from airwaystudy.plan.runs import collect

HAND = pd.DataFrame([[1.0, 2, 6], [3, 4, 11]])  # two seeds, three cases


# ---------------------------------------------------------------------------------------------------- one contrast


def test_mean_squares_by_hand():
    """Seeds 3 and 6, cases 2, 3 and 8.5, mean 4.5; residuals 0.5, 0.5, -1 and the opposite."""
    found = crossed(HAND)
    assert found.difference == 4.5
    assert (found.ms_seed, found.ms_case, found.ms_residual) == (3 * 4.5, 2 * 24.5 / 2, 3 / 2)
    total = 13.5 + 24.5 - 1.5
    assert found.error**2 == pytest.approx(total / 6)
    assert found.df == pytest.approx(total**2 / (13.5**2 / 1 + 24.5**2 / 2 + 1.5**2 / 2))


def test_variance_is_never_below_the_residuals_share():
    """All means are 0, and so the sum of mean squares is -4: the residual's 4 / 4 with one degree of freedom counts."""
    found = crossed(pd.DataFrame([[1.0, -1], [-1, 1]]))
    assert (found.ms_seed, found.ms_case, found.ms_residual) == (0, 0, 4)
    assert (found.error, found.df) == (1, 1)


def simulated(rng, seeds, cases, of_seed, of_case, residual, mean=0.0):
    parts = of_seed * rng.normal(size=(seeds, 1)) + of_case * rng.normal(size=(1, cases))
    return pd.DataFrame(mean + parts + residual * rng.normal(size=(seeds, cases)))


def test_the_mixed_model_of_statsmodels_agrees():
    mixed = pytest.importorskip("statsmodels.formula.api").mixedlm
    table = simulated(np.random.default_rng(3), 9, 7, 2.0, 1.5, 1.0, mean=1.0)
    rows = table.rename_axis("seed").reset_index().melt("seed", var_name="case", value_name="d")
    parts = {"seed": "0 + C(seed)", "case": "0 + C(case)"}
    model = mixed("d ~ 1", rows, groups=np.ones(len(rows)), vc_formula=parts, re_formula="0").fit(reml=True)
    found = crossed(table)
    assert found.difference == pytest.approx(model.params["Intercept"], abs=1e-6)
    assert found.error == pytest.approx(model.bse["Intercept"], rel=1e-3)
    assert found.ms_residual == pytest.approx(model.scale, rel=1e-3)
    components = dict(zip(model.model.exog_vc.names, model.vcomp, strict=True))
    assert (found.ms_seed - found.ms_residual) / 7 == pytest.approx(components["seed"], rel=5e-3)
    assert (found.ms_case - found.ms_residual) / 9 == pytest.approx(components["case"], rel=5e-3)


@pytest.mark.parametrize("spread", [(1, 1, 1), (0.3, 0.3, 1), (2, 0.3, 1), (0.2, 1, 0.5)])
def test_the_interval_covers_about_95_percent(spread):
    rng, hits, tries = np.random.default_rng(1), 0, 600
    for _ in range(tries):
        found = crossed(simulated(rng, 12, 12, *spread))
        hits += abs(found.difference) < t.ppf(0.975, found.df) * found.error
    assert 0.925 < hits / tries < 0.985  # 95 % give or take 2.5 standard errors; a little more where variances vanish


def test_intervals_and_tests_by_hand():
    row = statistics(HAND, margin=1)
    error, df = np.sqrt(36.5 / 6), 36.5**2 / 483.5
    assert [row["low"], row["high"]] == pytest.approx([4.5 - t.ppf(0.975, df) * error, 4.5 + t.ppf(0.975, df) * error])
    assert row["p"] == pytest.approx(2 * t.sf(4.5 / error, df))
    # The one-sided test against +1 has the larger p: its alternative, below 1, is far from 4.5.
    assert row["p_equivalence"] == pytest.approx(t.cdf(3.5 / error, df)) and row["p_equivalence"] > 0.8
    assert [row["low_90"], row["high_90"]] == pytest.approx(
        [4.5 - t.ppf(0.95, df) * error, 4.5 + t.ppf(0.95, df) * error]
    )
    assert (row["seeds"], row["cases"]) == (2, 3)
    assert row["sd_seed"] == pytest.approx(3 / np.sqrt(2)) and row["sd_case"] == pytest.approx(
        np.std([2, 3, 8.5], ddof=1)
    )
    # One more seed: 12.706 is Student's t for one degree of freedom.
    assert row["high_predicted"] - 4.5 == pytest.approx(12.706 * np.sqrt(4.5 * 1.5), abs=1e-3)
    assert row["low_predicted"] + row["high_predicted"] == pytest.approx(9)


def test_equivalent_just_where_the_90_percent_interval_is_within_the_margin():
    rng, equivalent = np.random.default_rng(2), []
    for mean in np.linspace(-1, 1, 60):
        row = statistics(simulated(rng, 6, 5, 0.5, 0.5, 0.5, mean), margin=1)
        equivalent.append(row["p_equivalence"] < 0.05)
        assert equivalent[-1] == (row["low_90"] > -1 and row["high_90"] < 1)
    assert 5 < sum(equivalent) < 55


def test_the_prediction_interval_holds_95_percent_of_further_seeds():
    rng, hits, tries = np.random.default_rng(4), 0, 600
    for _ in range(tries):
        means = simulated(rng, 13, 6, 1.0, 2.0, 1.0).mean(axis=1)
        low, high = one_more_seed(means[:12])
        hits += low < means[12] < high
    assert 0.925 < hits / tries < 0.975


def test_equal_arms_are_equivalent_and_equal_differences_are_sure():
    row = statistics(pd.DataFrame(np.zeros((3, 2))))
    assert (row["difference"], row["p"], row["p_sign_flip"]) == (0, 1, 1) and row["p_equivalence"] < 1e-9
    row = statistics(pd.DataFrame(np.full((3, 2), 2.5)))
    assert row["p"] < 1e-9 and row["p_equivalence"] > 0.999 and row["low"] == pytest.approx(2.5)


@pytest.mark.parametrize("shape", [(1, 4), (4, 1)])
def test_one_seed_or_one_case_has_a_difference_and_no_test(shape):
    row = statistics(pd.DataFrame(np.arange(4.0).reshape(shape)))
    assert row["difference"] == 1.5
    assert np.isnan([row[name] for name in ("low", "high", "df", "p", "p_equivalence")]).all()


def test_sign_flips_by_hand():
    """Of the 8 flips of 1, -2 and 4, whose sum is 3, those with a sum of 3 or more in size: 7, 3, 5 and mirrors."""
    assert sign_flip([1, -2, 4]) == 6 / 8
    assert sign_flip(np.full(12, 0.5)) == 2 / 4096


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1, and never less than the one before."""
    assert holm([0.5, 0.02, 0.01, 0.03]) == pytest.approx([0.5, 0.06, 0.04, 0.06])


def test_a_contrast_that_was_not_run_counts_in_holms_correction():
    found = holm([0.02, np.nan])
    assert found[0] == pytest.approx(0.04) and np.isnan(found[1])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((2.0, 0.04, 0.9, "greater"), ("supported", "")),
        ((-2.0, 0.04, 0.9, "greater"), ("contradicted", "")),
        ((-2.0, 0.04, 0.9, "less"), ("supported", "")),
        ((2.0, 0.06, 0.9, "greater"), ("open", "")),
        ((0.1, 0.6, 0.04, "greater"), ("equivalent", "")),
        ((0.3, 0.01, 0.01, "greater"), ("supported", "within the margin")),
        ((-0.3, 0.01, 0.01, "greater"), ("contradicted", "within the margin")),
    ],
)
def test_verdicts(given, expected):
    assert verdict(*given) == expected


def test_a_missing_cell_is_refused_by_seed_and_case():
    rows = [(v, seed, case, 1.0) for v in ("a", "b") for seed in (0, 1) for case in ("x", "y")]
    scores = pd.DataFrame(rows, columns=["variant", "seed", "case", "td"])
    assert differences(scores, "a", "b", "td").shape == (2, 2)
    refused(lambda: differences(scores.drop(6), "a", "b", "td"), "b: no td of seed 1, case x")
    refused(
        lambda: differences(scores.assign(td=[1.0] * 3 + [np.nan] + [1.0] * 4), "a", "b", "td"), "a", "seed 1, case y"
    )
    refused(lambda: differences(pd.concat([scores, scores[:1]]), "a", "b", "td"), "a: seed 0, case x comes twice")


# ---------------------------------------------------------------------------------------------- contrasts of a study

ARMS = {
    "both_dice": {"loss": "dice"},
    "both_union": {"loss": "general_union"},
    "final_dice": {"loss": "dice", "supervision": "final"},
    "wide_dice": {"loss": "dice", "width": 8},
}
TESTED = ["test_a", "test_b", "test_c"]
GAIN = {"both_union": 3.0, "final_dice": -0.1}  # of an arm in every outcome


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "HOME", tmp_path)
    return write_runs(tmp_path, ARMS, seeds=range(4), cases=TESTED)


def made_scores(runs):
    """Every outcome 80 + gain + what seed and case do to this arm; union's test_b of seed 2 never reaches 80 %."""
    rng, rows = np.random.default_rng(0), []
    for run in runs.table.to_dict("records"):
        for case in TESTED:
            value = 80 + GAIN.get(run["variant"], 0) + 0.2 * rng.normal()
            about = {name: run[name] for name in ("run", "variant", "seed")}
            reached = (run["run"], case) != ("both_union_2", "test_b")
            rows.append(about | {"case": case} | dict.fromkeys(OUTCOMES, value) | {"reached": reached})
    return pd.DataFrame(rows)


def made_preset(*contrasts, **changes):
    given = {"study": "s", "phantoms": {"train": "0", "test": "8"}, "seeds": [0], "primary": "td_80", "protocol": 1}
    given["variants"] = {**ARMS, "both_unborn": {}}
    return home.validated(Preset, given | {"contrasts": list(contrasts)} | changes, "file")


LOSS = {"arm": "both_union", "base": "both_dice", "factor": "loss", "primary": True, "name": "loss"}
SUPERVISION = {
    "arm": "both_dice",
    "base": "final_dice",
    "factor": "supervision",
    "primary": True,
    "name": "supervision",
}


def by_name(table, outcome="td_80"):
    return table[table["outcome"] == outcome].set_index("name")


def test_contrasts_of_a_study(study):
    runs = collect("made_up")
    scores = made_scores(runs)
    table = contrast_table(runs, scores, made_preset(LOSS, SUPERVISION, LOSS | {"primary": False, "name": "again"}))
    assert list(table) == COLUMNS and len(table) == 3 * len(OUTCOMES)
    rows = by_name(table)
    assert rows["verdict"].to_dict() == {"loss": "supported", "supervision": "equivalent", "again": "supported"}
    expected = statistics(differences(scores, "both_union", "both_dice", "td_80"))
    assert rows.loc["loss", list(expected)].astype(float).to_dict() == pytest.approx(expected)
    assert rows["p_holm"].tolist()[:2] == pytest.approx([2 * rows.at["loss", "p"], rows.at["supervision", "p"]])
    assert np.isnan(rows.at["again", "p_holm"])  # not primary: not corrected
    assert rows["flagged"].tolist() == [1, 0, 1] and rows["protocol"].tolist() == [1, 1, 1]
    others = table[table["outcome"] != "td_80"]
    assert set(others["verdict"]) == {""} and others["p_holm"].isna().all()  # shown, without a vote


def test_the_margin_is_the_presets(study):
    runs = collect("made_up")
    rows = by_name(contrast_table(runs, made_scores(runs), made_preset(LOSS, SUPERVISION, margin=0.01)))
    assert rows.at["supervision", "verdict"] == "open" and rows.at["loss", "verdict"] == "supported"


def test_arms_that_lack_runs_are_not_run(study):
    runs = collect("made_up")
    scores = made_scores(runs)
    unborn = LOSS | {"arm": "both_unborn", "name": "unborn"}
    rows = by_name(contrast_table(runs, scores[scores["run"] != "both_dice_3"], made_preset(LOSS, unborn)))
    assert set(rows["verdict"]) == {"not run"}
    assert rows.at["loss", "note"] == "no run of both_dice with seed 3"
    assert rows.at["unborn", "note"] == "no run of both_unborn"
    rows = by_name(contrast_table(runs, scores, made_preset(LOSS), seeds=range(12)))
    assert rows.at["loss", "verdict"] == "not run" and "both_union with seed 4, 5, 6" in rows.at["loss", "note"]
    rows = by_name(contrast_table(runs, scores, made_preset(LOSS), seeds=[0, 1, 2]))
    assert (rows.at["loss", "seeds"], rows.at["loss", "verdict"]) == (3, "supported")


def test_arms_that_differ_in_another_setting_are_not_compared(study):
    runs = collect("made_up")
    wide = LOSS | {"base": "wide_dice", "name": "wide"}
    preset = made_preset(
        wide, LOSS | {"factor": "alpha", "name": "alpha"}, wide | {"factor": ["loss", "width"], "name": "two"}
    )
    rows = by_name(contrast_table(runs, made_scores(runs), preset))
    assert (rows.at["wide", "verdict"], rows.at["wide", "note"]) == ("not run", "width: 4 and 8")
    assert (
        "loss: general_union and dice" in rows.at["alpha", "note"]
        and "do not differ in alpha" in rows.at["alpha", "note"]
    )
    assert rows.at["two", "verdict"] == "supported"
    refused(lambda: require_one_factor(runs, preset.contrasts[0]), "contrast wide", "width: 4 and 8")
    require_one_factor(runs, preset.contrasts[2])
    unborn = Contrast(arm="both_unborn", base="both_dice", factor="loss")
    refused(lambda: require_one_factor(runs, unborn), "no run of both_unborn")


def test_a_losss_own_parameter_belongs_to_the_loss(study):
    """Dice has no alpha; Tversky and General Union both have one."""
    write_runs(home.HOME, {"union2": {"alpha": 0.2}, "tversky": {"loss": "tversky", "alpha": 0.1}}, range(4), TESTED)
    runs = collect("made_up")
    require_one_factor(runs, Contrast(arm="union2", base="both_dice", factor="loss"))
    other = Contrast(arm="union2", base="tversky", factor="loss")
    refused(lambda: require_one_factor(runs, other), "alpha: 0.2 and 0.1")
    require_one_factor(runs, other.model_copy(update={"factor": ["loss", "alpha"]}))


def test_earlier_stages_may_differ_in_the_factor_alone(study):
    """The arms start from runs of their own, which have no scores."""
    starts = {f"both_{loss}_first": {"loss": loss} for loss in ("dice", "general_union")}
    write_runs(home.HOME, starts, seeds=[0], cases=TESTED)
    for name in starts:
        (study / f"runs/{name}_0/scores.csv").unlink()
    for arm, loss in (("both_dice", "dice"), ("both_union", "general_union")):
        start = f"results/made_up/runs/both_{loss}_first_0/checkpoint.safetensors"
        write_runs(home.HOME, {arm: {"loss": loss, "start": start}}, seeds=range(4), cases=TESTED)
    contrast = Contrast(**LOSS)
    require_one_factor(collect("made_up"), contrast)
    path = study / "runs/both_dice_first_0/config.json"
    home.write_json(path, home.read_json(path) | {"crop": 48})
    refused(
        lambda: require_one_factor(collect("made_up"), contrast),
        "crop: 40 and 48 in both_general_union_first_0 and both_dice_first_0",
    )
    path.unlink()
    refused(lambda: require_one_factor(collect("made_up"), contrast), "earlier stages: 1 and 0")


def test_sign_flips_that_disagree_are_noted():
    row = {"outcome": "td_80", "primary": True, "expect": "greater", "note": "", "seeds": 12, "difference": 2.0}
    row |= {"p": 0.04, "p_holm": 0.04, "p_equivalence": 0.9}
    assert judged(row | {"p_sign_flip": 0.01}, "td_80") == ("supported", "")
    assert judged(row | {"p_sign_flip": 0.06}, "td_80") == ("supported", "sign flips disagree: p 0.060, not 0.040")
    few = row | {"p_sign_flip": 0.25, "seeds": 3}  # three seeds never get below 0.25
    assert judged(few, "td_80") == ("supported", "")


def test_a_missing_case_is_refused(study):
    runs = collect("made_up")
    scores = made_scores(runs)
    left = scores[(scores["run"] != "both_dice_1") | (scores["case"] != "test_c")]
    refused(lambda: contrast_table(runs, left, made_preset(LOSS)), "both_dice", "seed 1, case test_c")


def test_an_empty_masks_precision_leaves_its_outcome_out(study):
    runs = collect("made_up")
    scores = made_scores(runs)
    scores.loc[(scores["run"] == "both_dice_1") & (scores["case"] == "test_c"), "precision"] = np.nan
    table = contrast_table(runs, scores, made_preset(LOSS))
    row = by_name(table, "precision").loc["loss"]
    assert np.isnan(row["difference"]) and row["note"] == "both_dice: no precision of seed 1, case test_c"
    assert by_name(table).at["loss", "verdict"] == "supported"


def test_one_seed_has_a_difference_and_is_open(study):
    runs = collect("made_up", [f"{arm}_2" for arm in ARMS])
    row = by_name(contrast_table(runs, made_scores(runs), made_preset(LOSS))).loc["loss"]
    assert row["difference"] == pytest.approx(3, abs=0.5) and row["verdict"] == "open" and "no test" in row["note"]


def test_a_preset_without_a_primary_outcome_is_refused(study):
    runs = collect("made_up")
    for preset in (made_preset(primary=None), made_preset()):
        refused(
            lambda preset=preset: contrast_table(runs, made_scores(runs), preset), "no primary outcome or no contrasts"
        )


def test_arms_by_themselves_stay_between_0_and_100():
    values = {("a", 0): (99, 100), ("a", 1): (100, 100), ("a", 2): (90, 94)}
    rows = [
        {"variant": arm, "seed": seed, "case": case, "reached": value > 95} | dict.fromkeys(OUTCOMES, float(value))
        for (arm, seed), pair in values.items()
        for case, value in zip("xy", pair, strict=True)
    ]
    table = arm_table(pd.DataFrame(rows))
    assert list(table) == ARM_COLUMNS and table["outcome"].tolist() == list(OUTCOMES)
    row = table.iloc[0]
    assert row["mean"] == pytest.approx((99.5 + 100 + 92) / 3)
    assert row["sd_seed"] == pytest.approx(np.std([99.5, 100, 92], ddof=1))
    assert 0 < row["low_predicted"] < row["low"] < row["mean"] < row["high"] < row["high_predicted"] < 100
    assert (row["seeds"], row["cases"], row["flagged"]) == (3, 2, 2)


def test_tables_are_written(study):
    columns = ["case", "logit", "td", "bd", "td_thin", "td_wide", "precision", "td_whole", "td_thin_whole"]
    columns += ["precision_whole", "dsc"]
    for seed in range(4):
        for arm in ARMS:
            td = 80 + GAIN.get(arm, 0) + 0.1 * seed
            rows = [[case, 0, td, td, td, td, 90, td, td, 90, 70] for case in TESTED]
            home.write_csv(study / f"runs/{arm}_{seed}/trade_off.csv", pd.DataFrame(rows, columns=columns))
    outcomes, arms, contrasts = write_tables(collect("made_up"), made_preset(LOSS, SUPERVISION))
    for name, table in (("outcomes", outcomes), ("arms", arms), ("contrasts", contrasts)):
        kept = pd.read_csv(study / "tables" / f"{name}.csv", keep_default_na=False, na_values={"p_holm": [""]})
        assert list(kept) == list(table) and len(kept) == len(table)
    assert by_name(contrasts)["difference"].tolist() == pytest.approx([3.0, 0.1])
