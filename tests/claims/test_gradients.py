"""Measures of the claims on tables that are worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from airwaylib.gradients.theory import critical_radius
from airwaylib.networks.wingsnet import BLOCKS
from airwaystudy.claims import gradients
from airwaystudy.claims.gradients import half_eroded, law_by_layer, measures_by_seed, variance_to_output
from airwaystudy.claims.ledger import read_claims
from airwaystudy.claims.measures import Tables

LOSSES, SUPERVISIONS = ("dice", "general_union"), ("final", "both")
EROSION = {"dice": 0.5, "general_union": 0.3}


def swaps(seeds=(0, 1, 2), learned=0.0):
    """Four networks a seed on two crops: General Union erodes 0.2 less, the group 0.1, and small airways more.

    learned: taken off the erosion of networks that General Union trained, whatever the backward pass.
    """
    rows = []
    for seed in seeds:
        for loss in LOSSES:
            for supervision in SUPERVISIONS:
                run = {"run": f"{supervision}_{loss}_{seed}", "loss": loss, "supervision": supervision, "seed": seed}
                for epoch, backward, group, crop, (i, layer) in (
                    (epoch, backward, group, crop, layer)
                    for epoch in (0, 1)
                    for backward in LOSSES
                    for group in ([True, False] if supervision == "both" else [False])
                    for crop in (0, 1)
                    for layer in enumerate(BLOCKS)
                ):
                    erosion = epoch * (EROSION[backward] - 0.1 * group - learned * (loss == "general_union"))
                    erosion -= 0.01 * (i + seed) - 0.1 * (crop - 0.5)  # less, the nearer the output
                    row = run | {"epoch": epoch, "case": "mini_0008", "crop": crop, "layer": layer}
                    row |= {"backward_loss": backward, "encoder_loss": group, "voxels": 10, "erosion": erosion}
                    row |= {"dilation": 0.4 * (backward == "general_union") + 0.1 * seed}
                    gap = 0.3 if backward == "dice" else 0.1
                    row |= {"erosion_small": erosion + gap, "voxels_small": 4, "erosion_large": erosion}
                    rows.append(row | {"voxels_large": 6})
    return pd.DataFrame(rows)


def value(table, claim, seed=0):
    """The value of one claim; nan without a row."""
    return table.loc[(table["claim"] == claim) & (table["seed"] == seed), "value"].squeeze()


def test_values_by_hand():
    table = measures_by_seed(swaps(seeds=[0])).set_index("claim")
    assert table["value"].to_dict() == pytest.approx(
        {
            "a_small_ratio_erodes": 0.2,
            "a_large_ratio_dilates": 0.4,
            "erosion_accumulates": 0.01 * 16,  # ec1 is the first of 18 blocks, dc5 the 17th
            "group_supervision_feeds_shallow_layers": 0.1,
            "general_union_balances_size": 0.3 - 0.1,
        }
    )
    assert table["networks"].tolist() == [4, 4, 2, 2, 4]


def test_each_seed_has_its_value():
    table = measures_by_seed(swaps())
    assert table.groupby("claim")["seed"].agg(list).map(lambda seeds: seeds == [0, 1, 2]).all()
    assert value(table, "a_small_ratio_erodes", 2) == pytest.approx(0.2)


def test_how_far_a_network_has_learned_does_not_matter():
    """A network of General Union that is eroded less whatever the backward pass says nothing for the loss."""
    table, learned = measures_by_seed(swaps()), measures_by_seed(swaps(learned=0.3))
    pd.testing.assert_frame_equal(learned, table)


def test_the_first_epochs_do_not_count():
    table = swaps(seeds=[0])
    early = table["epoch"] == 0
    table.loc[early, ["erosion", "dilation"]] = 0.9
    pd.testing.assert_frame_equal(measures_by_seed(table), measures_by_seed(swaps(seeds=[0])))


def test_crops_count_by_their_voxels():
    table = swaps(seeds=[0])
    table.loc[(table["crop"] == 1) & (table["backward_loss"] == "dice"), "erosion"] = 1.0
    table["voxels"] = np.where(table["crop"] == 1, 30, 10)
    networks = gradients.over_crops(gradients.last_epoch(table))
    at = networks.query("run == 'final_dice_0' and layer == 'ec1' and backward_loss == 'dice'")
    assert at["erosion"].item() == pytest.approx((10 * 0.45 + 30 * 1.0) / 40)


def test_what_a_study_lacks_has_no_row():
    table = swaps(seeds=[0])
    both = measures_by_seed(table[table["supervision"] == "both"])
    assert "erosion_accumulates" not in set(both["claim"]) and len(both) == 4
    final = measures_by_seed(table[table["supervision"] == "final"])
    assert "group_supervision_feeds_shallow_layers" not in set(final["claim"]) and len(final) == 4
    dice = measures_by_seed(table[table["backward_loss"] == "dice"])
    assert set(dice["claim"]) == {"erosion_accumulates", "group_supervision_feeds_shallow_layers"}
    large = measures_by_seed(table.assign(erosion_small=np.nan))
    assert "general_union_balances_size" not in set(large["claim"]) and len(large) == 4
    assert measures_by_seed(table.assign(layer="model." + table["layer"])).empty


def test_claims_yaml_judges_every_measure_and_no_other():
    judged = {
        claim.id: claim.measure.where["claim"]
        for claim in read_claims()
        if claim.measure and getattr(claim.measure, "table", "") == "gradients/measures.csv"
    }
    assert judged == {claim.__name__: claim.__name__ for claim in gradients.CLAIMS}


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
    assert half_eroded(bins) == (pytest.approx(3 + 0.25 * 2), "")  # centres at 1, 3, 5 voxels


def test_radius_beyond_the_bins_is_bounded_and_not_dropped():
    bins = pd.DataFrame({"bin": [0, 1, 3], "erosion": [0.1, 0.6, 0.2]})
    assert half_eroded(bins) == (1, "at most")  # thin airways are kept, whatever becomes of wider ones
    assert half_eroded(bins.assign(erosion=[0.9, 0.6, 0.5])) == (7, "at least")
    assert half_eroded(bins.assign(erosion=[np.nan, 0.9, 0.1])) == (pytest.approx(3 + 4 * 0.5), "")


def law_tables(thinnest, ratio_logit=3.0, seeds=(0, 1, 2)):
    """Layers and bins of both supervisions on two crops; erosion falls by 0.3 a bin from `thinnest`, by seed."""
    layers, bins = [], []
    for seed in seeds:
        for supervision in SUPERVISIONS:
            run = {"run": f"{supervision}_dice_{seed}", "loss": "dice", "supervision": supervision, "seed": seed}
            for crop in (0, 1):
                for layer in BLOCKS:
                    row = run | {"epoch": 5, "case": "mini_0008", "crop": crop, "layer": layer}
                    ratio = {"loss_ratio": 1.0 + crop, "loss_ratio_logit": ratio_logit}
                    layers.append(row | {"erosion": 0.1, "voxels": 20} | ratio)
                    for b in range(4):
                        erosion = max(thinnest[seed] - 0.3 * b, 0) + 0.04 * (crop - 0.5)
                        radius = {"by": "radius_voxels", "bin": b, "low": 2 * b, "high": 2 * b + 2}
                        bins.append(row | radius | {"voxels": 10, "erosion": erosion, "share": 0.5})
    return {"layers": pd.DataFrame(layers), "bins": pd.DataFrame(bins)}


def test_law_is_set_against_measurement_for_final_supervision_alone():
    table = law_by_layer(law_tables([0.9], seeds=[0]))
    assert set(table["supervision"]) == {"final"}
    assert len(table) == 2 * len(BLOCKS) and set(table["at"]) == {"probability", "logit"}
    row = table[(table["at"] == "probability") & (table["layer"] == "ec1")].iloc[0]
    assert row["law"] == pytest.approx(critical_radius(7, 2**0.5))  # seven kernels' worth of variance; ratios 1 and 2
    assert row["measured"] == pytest.approx(3 + 2 / 3) and row["bound"] == ""  # 0.6 at 3 voxels, 0.3 at 5
    at_logit = table[(table["at"] == "logit") & (table["layer"] == "ec1")].iloc[0]
    assert at_logit["law"] == pytest.approx(critical_radius(7, 3.0))
    last = table[table["layer"] == "dc6"]
    assert last["law"].eq(0).all() and not last["lost"].any()


@pytest.mark.parametrize(
    ("thinnest", "share", "verdict"),
    [([0.9, 0.8, 0.6], 1, "supported"), ([0.2, 0.3, 0.1], 0, "contradicted"), ([0.9, 0.2, 0.1], 1 / 3, "open")],
)
def test_layers_that_erode_less_than_half_count_against_the_law(tmp_path, thinnest, share, verdict):
    """Where the law fails there is no radius at which half is eroded; that must not empty the measure."""
    (claim,) = [claim for claim in read_claims() if claim.id == "critical_radius_in_trained_networks"]
    table = law_by_layer(law_tables(thinnest))
    (tmp_path / "gradients").mkdir()
    table.to_csv(tmp_path / "gradients/law_by_layer.csv", index=False)
    finding = claim.measure.finding(Tables(tmp_path))
    assert finding.ours == pytest.approx(share) and finding.seeds == 3 and finding.verdict == verdict
    assert table["measured"].notna().all()
    assert set(table.loc[table["erosion_thinnest"] < 0.5, "bound"]) <= {"at most"}


def test_other_networks_have_no_law():
    tables = law_tables([0.9], seeds=[0])
    for table in tables.values():
        table["layer"] = "model." + table["layer"]
    assert law_by_layer(tables).empty
