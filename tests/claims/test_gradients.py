"""Measures of the claims on tables that are worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from airwaylib.gradients.theory import critical_radius
from airwaylib.networks.wingsnet import BLOCKS, ENCODER
from airwaystudy.claims import gradients
from airwaystudy.claims.gradients import (
    LOSSES,
    SUPERVISIONS,
    Run,
    depth_correlation,
    half_eroded,
    law_by_layer,
    measures_by_seed,
    missed_auc,
    size_gap,
    variance_to_output,
)
from airwaystudy.claims.ledger import read_claims

COLUMNS = ["run", "epoch", "layer", "erosion", "dilation", "loss_ratio", "by", "bin", "voxels", "missed", "radius_mm"]
NO_RUN = Run(*[pd.DataFrame(columns=COLUMNS).astype({"missed": bool})] * 3)
VARIANTS = [f"{supervision}_{loss}" for supervision in SUPERVISIONS for loss in LOSSES]


def depth(layer):
    """Erosion of a layer as a share of that of the deepest one, or so."""
    return (1 + variance_to_output(layer)) / 200


def study(seeds=(0, 1, 2)):
    """Runs whose erosion grows with depth, less with the new loss and with groups, and only of small airways."""
    layers, bins, branches = [], [], []
    for seed in seeds:
        for loss in LOSSES:
            for supervision in SUPERVISIONS:
                run = {"run": f"{supervision}_{loss}_{seed}", "loss": loss, "supervision": supervision, "seed": seed}
                level = 0.5 - 0.1 * (loss == "general_union") - 0.1 * (supervision == "both") + 0.01 * seed
                for epoch in (0, 1):
                    for layer in BLOCKS:
                        erosion = level * epoch * depth(layer)
                        row = run | {"epoch": epoch, "layer": layer}
                        ratio = 6.0 if loss == "general_union" else 2.5 - epoch
                        layers.append(row | {"erosion": erosion, "dilation": 0.1 * ratio, "loss_ratio": ratio})
                        bins += [
                            row | {"by": "radius_mm", "bin": b, "voxels": 10, "erosion": erosion / (b + 1)}
                            for b in range(4)
                        ]
                        bins += [
                            row | {"by": "radius_voxels", "bin": b, "voxels": 10, "erosion": 0.9 - 0.3 * b}
                            for b in range(4)
                        ]
                for branch in range(30):
                    small = branch >= 18
                    row = {"branch": branch, "radius_mm": 3 - 0.05 * branch - 0.01 * seed, "missed": small}
                    branches.append(run | row | {"erosion_early": 0.5 + 0.2 * small, "erosion_late": 0.5 + 0.1 * small})
    return {"layers": pd.DataFrame(layers), "bins": pd.DataFrame(bins), "branches": pd.DataFrame(branches)}


def value(tables, measure, seed=0):
    """The value of one measure; nan without a row."""
    table = measures_by_seed(tables)
    return table.loc[(table["measure"] == measure) & (table["seed"] == seed), "value"].squeeze()


def test_values_by_hand():
    values = measures_by_seed(study(seeds=[0])).set_index("measure")["value"]
    at_first = 0.5 * depth("ec1")
    assert values["erosion_small_minus_large"] == pytest.approx(at_first - (at_first / 3 + at_first / 4) / 2)
    assert values["missed_more_eroded"] == values["missed_more_eroded_at_equal_radius"] == 1
    assert values["dilation_general_union_minus_dice"] == pytest.approx(0.45)
    assert values["erosion_follows_blur"] == pytest.approx(1)
    assert values["erosion_first_minus_last"] == pytest.approx(at_first - 0.5 * depth("dc5"))
    assert values["erosion_deepest_minus_last"] == pytest.approx(0.5 * (depth("ec12") - depth("dc5")))
    for name, blocks in (("encoder", ENCODER), ("shallow", ("ec1", "ec2", "ec3"))):
        expected = 0.1 * np.mean([depth(layer) for layer in blocks])
        for loss in LOSSES:
            assert values[f"erosion_{name}_final_minus_both_{loss}"] == pytest.approx(expected)
    for supervision in SUPERVISIONS:  # the new loss's erosion is lower by 0.1 of 17/24 at every size
        gap = 0.1 * depth("ec1") * (1 - (1 / 3 + 1 / 4) / 2)
        assert values[f"size_gap_dice_minus_general_union_{supervision}"] == pytest.approx(gap)
        assert values[f"ratio_general_union_minus_dice_{supervision}"] == 4.5
    assert values["dice_ratio_last_minus_first"] == -1
    assert len(values) == 16


def test_each_seed_has_its_value():
    table = measures_by_seed(study())
    assert table.groupby("measure")["seed"].agg(list).map(lambda seeds: seeds == [0, 1, 2]).all()
    assert value(study(), "dice_ratio_last_minus_first", 2) == -1


def test_what_a_study_lacks_has_no_row():
    """Without Dice on the last block and without found branches of the others; and of a network with other layers."""
    tables = {name: table[table["run"] != "final_dice_0"] for name, table in study(seeds=[0]).items()}
    assert set(measures_by_seed(tables)["measure"]) == {
        "erosion_shallow_final_minus_both_general_union",
        "erosion_encoder_final_minus_both_general_union",
        "size_gap_dice_minus_general_union_both",
        "ratio_general_union_minus_dice_both",
    }
    other = study(seeds=[0])
    for name in ("layers", "bins"):
        other[name]["layer"] = "model." + other[name]["layer"]
    found = set(measures_by_seed(other)["measure"])
    assert "missed_more_eroded" in found and not any("erosion" in measure for measure in found)
    assert law_by_layer(other).empty


def test_variants_that_share_loss_and_supervision_are_kept_apart():
    tables = study(seeds=[0])
    for table in tables.values():
        more = table[table["run"] == "both_general_union_0"].assign(run="both_general_union_alpha02_0")
        table.loc[table["run"] == "both_general_union_0", "run"] = "both_general_union_0"
        tables = tables | {
            next(n for n, t in tables.items() if t is table): pd.concat([table, more.assign(loss_ratio=99)])
        }
    assert value(tables, "ratio_general_union_minus_dice_both") == 4.5


def test_claims_yaml_judges_every_measure_and_no_other():
    known = {
        (claim.__name__, measure) for claim in gradients.CLAIMS for measure in claim(dict.fromkeys(VARIANTS, NO_RUN))
    }
    measures = [
        (claim.id, measure) for claim in read_claims() for measure in claim.measures if measure.kind == "number"
    ]
    judged = {
        (claim, measure.where["measure"]) for claim, measure in measures if measure.table == "gradients/measures.csv"
    }
    assert known <= judged and {measure for _, measure in judged} == {measure for _, measure in known}


def test_rank_correlation_with_the_blur_on_the_way():
    blur = np.array([variance_to_output(layer) for layer in BLOCKS])
    layers = pd.DataFrame({"layer": list(BLOCKS), "erosion": 0.01 * blur})
    layers.loc[layers["layer"] == "dc6", "erosion"] = 9  # the last block does not count
    assert depth_correlation(layers) == pytest.approx(1)
    assert depth_correlation(layers.assign(erosion=-layers["erosion"])) == pytest.approx(-1)


def test_auc_by_hand():
    table = pd.DataFrame(
        {
            "missed": [True, True, True, False, False, False],
            "e": [3.0, 2, 1, 2, 0, 0],
            "radius_mm": [1, 2, 3, 1.1, 2.1, 3.1],
        }
    )
    # pairs won of 9: 3 beats all 3; 2 ties one, beats 2; 1 beats 2
    assert missed_auc(table, "e") == pytest.approx((3 + 2.5 + 2) / 9)
    # radius strata {1, 1.1}, {2, 2.1}, {3, 3.1}: 3 > 2, 2 > 0, 1 > 0
    assert missed_auc(table, "e", strata=3) == 1
    assert np.isnan(missed_auc(table.assign(missed=[True, True] + [False] * 4), "e"))


def test_gap_without_large_airways_is_not_a_number():
    bins = pd.DataFrame({"by": "radius_mm", "layer": "ec1", "bin": [0, 1], "voxels": 5, "erosion": [0.5, 0.1]})
    assert np.isnan(size_gap(Run(None, bins, None)))


@pytest.mark.parametrize(
    ("layer", "squares"),
    [
        ("dc6", 0),
        ("dc5", 1),
        ("dc4", 1 + 1),
        ("dc3", 1 + 1 + 4),
        ("dc1", 1 + 1 + 4 + 4 + 16),
        ("ec3", 1 + 1),  # by the skip: dc5, dc6
        ("ec1", 1 + 1 + 4 + 1),  # dc6, dc5, ec3 (dilation 2), ec2
        ("ec6", 1 + 1 + 4 + 4),  # dc6, dc5, dc4, dc3
        ("ec5", 1 + 1 + 4 + 4 + 16),  # and ec6: dilation 2 at stride 2
        ("ec12", 1 + 1 + 4 + 4 + 16 + 16),
    ],
)
def test_variance_of_the_way_from_the_output(layer, squares):
    assert variance_to_output(layer) == pytest.approx(2 / 3 * squares)


def test_radius_at_which_half_is_eroded():
    bins = pd.DataFrame({"bin": [0, 1, 2], "erosion": [0.9, 0.6, 0.2]})
    assert half_eroded(bins) == pytest.approx(3 + 0.25 * 2)  # centres at 1, 3, 5 voxels
    assert np.isnan(half_eroded(bins.assign(erosion=0.1)))


def test_law_is_set_against_measurement_for_final_supervision_alone():
    table = law_by_layer(study(seeds=[0]))
    assert set(table["supervision"]) == {"final"}
    assert len(table) == 2 * len(BLOCKS)
    row = table[(table["loss"] == "dice") & (table["layer"] == "ec1")].iloc[0]
    assert row["law"] == pytest.approx(critical_radius(7, 1.5))  # seven kernels' worth of variance
    assert row["measured"] == pytest.approx(3 + 2 / 3)  # 0.6 at 3 voxels, 0.3 at 5
    assert table[table["layer"] == "dc6"]["law"].eq(0).all()
