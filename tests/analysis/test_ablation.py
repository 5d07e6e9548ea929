"""Variants and effects by hand: literal scores, sums in the comments; what may not be compared is refused."""

import numpy as np
import pandas as pd
import pytest
from synthetic_study import SETTINGS, write_runs

from airwaylib.errors import InputError
from airwaystudy import home as study
from airwaystudy.analysis.ablation import (
    ablation_table,
    against_first,
    by_bin,
    by_seed,
    effects,
    training_steps,
)
from airwaystudy.plan.runs import collect
from airwaystudy.training.config import TrainConfig

FINAL, BOTH = {"supervision": "final", "loss": "dice"}, {"supervision": "both", "loss": "dice"}
GAIN = {"test_a": (2, 4, 6), "test_b": (4, 6, 8)}  # of both over final in TD, by seed
STUDENT = 4.302653  # 97.5 % point, 2 degrees of freedom


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "HOME", tmp_path)
    return tmp_path


def gained(variant, seed, case):
    return {"td": 60.0 + (GAIN[case][seed] if variant.startswith("both") else 0)}


def made(home, variants, **more):
    write_runs(home, variants, **more)
    return collect("made_up")


def changes(table):
    """Pairs of a table of effects, as (factor, from, to)."""
    return list(table[["factor", "from", "to"]].drop_duplicates().itertuples(index=False, name=None))


def test_an_effect_is_paired_by_seed_and_case(home):
    table, refused = effects(made(home, {"final": FINAL, "both": BOTH}, score=gained))
    assert refused.empty
    row = table.set_index("metric").loc["td"]
    assert (row["factor"], row["from"], row["to"], row["held"]) == ("supervision", "final", "both", "")
    assert (row["from_variant"], row["to_variant"], row["steps"]) == ("final", "both", "100")
    # Seed means 3, 5, 7: mean 5, standard deviation 2. Case means 4 and 6. All six: squares about 5 sum up to 22.
    assert row["difference"] == pytest.approx(5)
    reach = STUDENT * 2 / np.sqrt(3)
    assert [row["low"], row["high"]] == pytest.approx([5 - reach, 5 + reach], abs=1e-4)
    assert [row["low_cases"], row["high_cases"]] == pytest.approx([4, 6])
    assert row["cohen_dz"] == pytest.approx(5 / np.sqrt(22 / 5))
    assert (row["seeds"], row["cases"], row["convention"]) == (3, 2, "paper")


def test_no_difference_has_no_standardised_size(home):
    table, _ = effects(made(home, {"final": FINAL, "both": BOTH}))
    row = table.set_index("metric").loc["td"]
    assert row["difference"] == row["low"] == row["high"] == 0
    assert np.isnan(row["cohen_dz"])


def test_a_variant_in_one_row(home):
    table = ablation_table(made(home, {"both": BOTH, "final": FINAL}, score=gained))
    assert list(table["variant"]) == ["final", "both"]  # by their levels
    row = table.iloc[1]
    assert (row["supervision"], row["loss"], row["alpha"], row["steps"]) == ("both", "dice", "none", "100")
    assert (row["seeds"], row["cases"], row["parameters"], row["convention"]) == (3, 2, 1000, "paper")
    # Seeds 63, 65, 67; cases 64 and 66.
    reach = STUDENT * 0.02 / np.sqrt(3) / (0.65 * 0.35)  # on the logit scale
    low, high = (100 / (1 + np.exp(-(np.log(0.65 / 0.35) + sign * reach))) for sign in (-1, 1))
    numbers = row[["td_mean", "td_sd", "td_low", "td_high"]].astype(float).tolist()
    assert numbers == pytest.approx([65, np.sqrt(2), low, high], abs=1e-4)
    assert "td_truth_mean" not in table  # no such scores here


def test_true_branches_are_in_where_they_were_scored(home):
    runs = made(home, {"both": BOTH}, score=lambda variant, seed, case: {"td_truth": 40.0 + seed})
    assert ablation_table(runs).loc[0, "td_truth_mean"] == pytest.approx(41)


def test_each_seed_in_one_row(home):
    table = by_seed(made(home, {"both": BOTH, "final": FINAL}, score=gained))
    assert table[["variant", "seed", "cases", "td"]].values.tolist() == [
        *(["final", seed, 2, 60] for seed in range(3)),
        *(["both", seed, 2, 63 + 2 * seed] for seed in range(3)),
    ]


def test_of_one_seed_there_is_no_interval_over_seeds(home):
    runs = made(home, {"final": FINAL, "both": BOTH}, seeds=[1], score=gained)
    row = effects(runs)[0].set_index("metric").loc["td"]
    assert row["difference"] == 5
    assert np.isnan([row["low"], row["high"]]).all()
    assert [row["low_cases"], row["high_cases"]] == pytest.approx([4, 6])
    assert np.isnan(ablation_table(runs).loc[0, "td_low"])


def test_only_seeds_that_both_have_count(home):
    write_runs(home, {"final": FINAL}, seeds=[0, 1], score=gained)
    table, _ = effects(made(home, {"both": BOTH}, seeds=[1, 2], score=gained))
    row = table.set_index("metric").loc["td"]
    assert (row["seeds"], row["difference"]) == (1, 5)  # seed 1: 4 and 6


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        ({"a": {"supervision": "final"}, "b": {"loss": "dice"}}, []),  # two factors
        (
            {name: {"supervision": name, "loss": "dice"} for name in ("both", "decoder", "final")},
            [("supervision", a, b) for a, b in (("final", "decoder"), ("final", "both"), ("decoder", "both"))],
        ),
        ({"a": {"alpha": 0.2}, "b": {}}, [("alpha", "0.1", "0.2")]),  # General Union's default
        ({"a": {"alpha": 0.1}, "b": {}}, []),  # the same, said twice
        ({"a": {"alpha": 0.2}, "b": {"loss": "dice"}}, [("loss", "dice", "general_union")]),  # Dice has no alpha
        ({"a": {"alpha": 0.2}, "b": {"loss": "tversky", "alpha": 0.1}}, []),  # two factors
        ({"a": {"loss": "tversky"}, "b": {}, "c": {"loss": "dice"}}, "dice tversky general_union"),
        (
            {"a": {"root": 0.5}, "b": {}, "c": {"root": 0.9}},
            [("root", a, b) for a, b in (("0.5", "0.7"), ("0.5", "0.9"), ("0.7", "0.9"))],
        ),
        ({"a": {"encoder_weight": 0.5}, "b": {}}, [("encoder_weight", "0.5", "1")]),
        (
            {"a": {"supervision": "final"}, "b": {"supervision": "final", "network": "unet", "width": 8}},
            [("network", "unet", "wingsnet")],
        ),
        (
            {"a": {}, "b": {"sampling": "hard_skeleton", "missed_by": "a_0"}, "c": {"sampling": "uniform"}},
            [
                ("sampling", a, b)
                for a, b in (("uniform", "centreline"), ("uniform", "hard_skeleton"), ("centreline", "hard_skeleton"))
            ],
        ),
    ],
)
def test_what_is_compared(home, variants, expected):
    if isinstance(expected, str):
        first, second, third = expected.split()
        expected = [("loss", first, second), ("loss", first, third), ("loss", second, third)]
    table, refused = effects(made(home, variants, seeds=[0]))
    assert refused.empty
    assert changes(table) == expected


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"epochs": 6}, "steps: 100 and 120; epochs: 5 and 6"),
        ({"learning_rate": 0.5}, "learning_rate: 0.001 and 0.5"),
        ({"width": 8}, "width: 4 and 8"),  # of one network
        ({"start": "weights.safetensors"}, "start: False and True"),
        ({"train_cases": ["train_a", "train_c"]}, "train_cases: ['train_a', 'train_b'] and ['train_a', 'train_c']"),
    ],
)
def test_what_differs_otherwise_is_not_compared(home, other, reason):
    table, refused = effects(made(home, {"final": FINAL, "both": BOTH | other}, seeds=[0]))
    assert table.empty
    assert refused[["from_variant", "to_variant", "reason"]].values.tolist() == [["final", "both", reason]]


def test_other_seeds_are_not_compared(home):
    write_runs(home, {"final": FINAL}, seeds=[0])
    _, refused = effects(made(home, {"both": BOTH}, seeds=[1]))
    assert list(refused["reason"]) == ["no seed in common"]


def test_runs_of_one_variant_differ_by_the_seed_alone(home):
    write_runs(home, {"final": FINAL}, seeds=[0])
    runs = made(home, {"final": FINAL | {"learning_rate": 0.5}}, seeds=[1])
    with pytest.raises(InputError, match="final_0 and final_1 differ in learning_rate, not in the seed alone"):
        ablation_table(runs)


def test_one_variant_has_no_effects_but_a_table_of_them(home):
    table, refused = effects(made(home, {"both": BOTH}))
    assert table.empty and refused.empty
    assert {"factor", "difference", "cohen_dz", "convention"} <= set(table)
    assert against_first(table).empty and list(against_first(table)) == list(table)


def test_held_tells_what_varies_elsewhere_and_effects_start_at_the_plainest(home):
    losses = ("dice", "tversky", "general_union")
    grid = {f"{s}_{loss}": {"supervision": s, "loss": loss} for s in ("final", "both") for loss in losses}
    table, _ = effects(made(home, grid, seeds=[0]), metrics=["td"])
    assert len(table) == 3 + 2 * 3
    one = table[(table["from_variant"] == "final_tversky") & (table["to_variant"] == "both_tversky")].iloc[0]
    assert one["held"] == "loss tversky, alpha 0.05"
    first = against_first(table)
    assert set(first[first["factor"] == "loss"]["from"]) == {"dice"}
    assert set(first[first["factor"] == "loss"]["held"]) == {"supervision final", "supervision both"}  # not the alphas
    assert len(first) == 3 + 2 * 2


def test_bins_are_pooled_over_cases_and_averaged_over_seeds(home):
    results = write_runs(home, {"both": BOTH}, seeds=[0, 1])
    path = results / "runs/both_0/scores_by_diameter.csv"
    table = pd.read_csv(path)
    thin = table["diameter_mm"] == "0-2"
    # Seed 0: 10 of 100 points in the one case, 90 of 300 in the other: 25 %. Seed 1: 61 % in both.
    table.loc[thin, "points"], table.loc[thin, "points_detected"] = [100, 300], [10, 90]
    table.to_csv(path, index=False)
    row = by_bin(collect("made_up"), "diameter_mm").set_index("diameter_mm").loc["0-2"]
    assert (row["variant"], row["branches"], row["seeds"], row["convention"]) == ("both", 20, 2, "paper")
    assert [row["td_min"], row["td_mean"], row["td_max"]] == pytest.approx([25, 43, 61])
    reach = 12.7062 * 0.18 / (0.43 * 0.57)  # 97.5 % point of 1 degree of freedom; error of 25 and 61, at the logit
    ends = [100 / (1 + np.exp(-(np.log(0.43 / 0.57) + sign * reach))) for sign in (-1, 1)]
    assert [row["td_low"], row["td_high"]] == pytest.approx(ends, abs=0.01)
    assert 0 < row["td_low"] < row["td_high"] < 100  # Student's would be -186 to 272
    assert row["bd_mean"] == 50


def test_generations_are_bins_too(home):
    table = by_bin(made(home, {"both": BOTH, "final": FINAL}), "generation")
    assert table[["variant", "generation"]].values.tolist() == [[v, g] for v in ("final", "both") for g in range(3)]


def test_runs_without_bins_have_an_empty_table(home):
    results = write_runs(home, {"both": BOTH}, seeds=[0])
    (results / "runs/both_0/scores_by_generation.csv").unlink()
    table = by_bin(collect("made_up"), "generation")
    assert table.empty and {"variant", "generation", "td_mean"} <= set(table)


@pytest.mark.parametrize(("more", "steps"), [({}, 100), ({"batch_size": 3}, 35), ({"batch_size": 3, "devices": 2}, 20)])
def test_training_steps(more, steps):
    """20 crops an epoch, 5 epochs: 20 steps each; 7 of up to 3 crops; 10 crops a device, 4 steps."""
    assert training_steps(TrainConfig(**SETTINGS | more), 5) == steps
