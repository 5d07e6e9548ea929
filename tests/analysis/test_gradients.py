"""Gradients along finished runs: the tables, the runs that cannot be measured, and what is not measured twice."""

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refused

from airwaylib.losses.table import LOSSES
from airwaylib.networks.checkpoints import load_checkpoint
from airwaylib.networks.wingsnet import BLOCKS
from airwaystudy import home as study
from airwaystudy.analysis import gradients
from airwaystudy.analysis.gradient_maps import GradientMaps, maps_folder
from airwaystudy.analysis.gradients import (
    analyse,
    busiest_cube,
    last_epoch,
    over_crops,
    ratios_of_losses,
    read_crops,
    read_probes,
    runs_to_measure,
)
from airwaystudy.data.datasets import prepare_phantoms
from airwaystudy.data.store import Store
from airwaystudy.training.config import TrainConfig
from airwaystudy.training.run import train

TINY = {
    "study": "gradients",
    "train_cases": ["mini_0000"],
    "test_cases": ["mini_0001", "mini_0002"],
    "width": 1,
    "crop": 32,
    "crops_per_case": 4,
    "epochs": 1,
    "snapshots": [0, 1],
}
RUNS = {  # of any settings: another threshold of the label, another optimiser, no spacing, no probes
    "both_dice_0": {"loss": "dice", "probe_every": 2, "label_threshold": 0.5, "optimizer": "sgd"},
    "final_general_union_0": {"loss": "general_union", "supervision": "final", "alpha": 0.2, "spacing": 1.0},
    "without": {"loss": "dice", "snapshots": []},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained(home):
    """Three finished runs, as 02_train leaves them as far as is read here, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "HOME", home)
        prepare_phantoms(home / "data/phantoms", ["mini_0000", "mini_0001", "mini_0002"])
        configs = {run: TrainConfig(**TINY | {"run": run} | settings) for run, settings in RUNS.items()}
        for config in configs.values():
            train(config)
            study.write_csv(config.folder / "scores.csv", pd.DataFrame({"case": config.test_cases, "td": 50.0}))
    return configs


@pytest.fixture(scope="module")
def tables(home, trained):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "HOME", home)
        return analyse("gradients", view=32)


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.setattr(study, "HOME", home)


def test_every_layer_of_every_run_epoch_and_crop_has_its_measures(tables):
    layers = tables["layers"]
    assert list(layers["layer"]) == list(BLOCKS) * 16  # two losses, epochs, cases and crops; forward order
    assert list(layers["run"].unique()) == ["both_dice_0", "final_general_union_0"]  # the third kept no snapshots
    assert set(layers.groupby(["case", "crop"]).groups) == {(f"mini_000{n}", crop) for n in (1, 2) for crop in (0, 1)}
    assert layers[["erosion", "dilation", "share"]].stack().dropna().between(0, 1).all()
    # Under `both`, a block whose way to the output was dropped has no gradient, and counts nowhere.
    assert (layers.loc[layers["supervision"] == "final", "not_finite"] == 0).all()
    dice = layers[layers["loss"] == "dice"]
    assert dice["loss_ratio"].to_numpy() == pytest.approx(2 / dice["loss_index"].to_numpy() - 1, rel=5e-3)
    assert (dice["loss_ratio_logit"] > 0).all()
    assert (dice.loc[dice["layer"].str.startswith("dc"), "from_encoder"].dropna() == 0).all()
    assert (dice.loc[dice["layer"].str.startswith("ec"), "from_encoder"] > 0).all()


def test_bins_hold_all_airway_voxels_of_the_crops(tables, trained):
    bins = tables["bins"]
    voxels, airway = bins.groupby(["run", "epoch", "layer", "by"])["voxels"].sum(), 0
    for case in ("mini_0001", "mini_0002"):
        crops = read_crops(trained["both_dice_0"].prepared(case), 32, (0, 1))
        assert [crop.label.shape for crop in crops] == [(32, 32, 32)] * 2
        assert not np.array_equal(crops[0].image, crops[1].image)
        airway += sum(crop.label.sum() for crop in crops)
    assert (voxels == airway).all()
    assert set(bins["by"]) == {"radius_mm", "radius_voxels", "generation"}
    assert bins["bin"].min() >= 0


def test_swaps_have_both_losses_and_the_group_that_is_there(tables):
    swaps = tables["swaps"]
    kinds = swaps.groupby("run")[["backward_loss", "encoder_loss"]].apply(lambda rows: set(map(tuple, rows.to_numpy())))
    losses = ("dice", "general_union")
    assert kinds["both_dice_0"] == {(loss, group) for loss in losses for group in (True, False)}
    assert kinds["final_general_union_0"] == {(loss, False) for loss in losses}
    parts = ["erosion_small", "erosion_large", "erosion_missed", "erosion_found"]
    assert swaps[["erosion", *parts]].stack().dropna().between(0, 1).all()
    counted = swaps["voxels_missed"] + swaps["voxels_found"]
    assert (counted == swaps["voxels"]).mean() > 0.5 and (counted <= swaps["voxels"]).all()
    assert (counted == swaps["voxels"])[swaps["supervision"] == "final"].all()


def test_swaps_are_of_one_forward_pass(tables):
    """The trained loss with both groups is the run's own measurement; nothing but the loss and the group differs."""
    where = ["run", "epoch", "case", "crop", "layer"]
    swaps = tables["swaps"].set_index(where)
    own = swaps[(swaps["backward_loss"] == "dice") & swaps["encoder_loss"]]
    layers = tables["layers"].query("loss == 'dice'").set_index(where).loc[own.index]
    for name in ("erosion", "dilation", "ratio", "loss_ratio", "loss_ratio_logit"):
        np.testing.assert_allclose(own[name], layers[name], rtol=1e-6)
    dice = swaps.loc[["both_dice_0"]].query("backward_loss == 'dice'")
    decoder = dice[dice.index.get_level_values("layer").str.startswith("dc")]
    decoder = decoder.dropna(subset="ratio")
    same = decoder.groupby(where)["ratio"].agg(np.ptp) / decoder.groupby(where)["ratio"].mean()
    assert same.max() < 1e-5  # the encoder group's loss does not reach the decoder
    encoder = dice[dice.index.get_level_values("layer").str.startswith("ec")]
    assert (encoder.groupby(where)["ratio"].agg(np.ptp) > 0).all()


def test_measuring_leaves_the_random_generator_as_it_was(trained):
    crop = read_crops(trained["both_dice_0"].prepared("mini_0001"), 32, (0, 1))[0]
    network, _ = load_checkpoint(trained["both_dice_0"].checkpoint)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = list(gradients.measure_crop(trained["both_dice_0"], network.train(), crop, 3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = list(gradients.measure_crop(trained["both_dice_0"], network, crop, 3))
    assert repr(again) == repr(first)  # the seed alone draws the channels
    other = list(gradients.measure_crop(trained["both_dice_0"], network, crop, 4))
    assert repr(other) != repr(first)


def test_crops_are_pooled_by_voxels_and_counted_once_by_all_else():
    about = {"run": "a", "loss": "dice", "supervision": "both", "seed": 0, "layer": "ec1", "case": "c"}
    rows = pd.DataFrame(
        [
            about | {"epoch": 1, "crop": 0, "voxels": 30, "erosion": 0.2, "dilation": 0.2, "ratio": 1.0},
            about | {"epoch": 1, "crop": 1, "voxels": 10, "erosion": 0.6, "dilation": 0.4, "ratio": 4.0},
            about | {"epoch": 5, "crop": 0, "voxels": 10, "erosion": np.nan, "dilation": 0.0, "ratio": 1.0},
            about | {"epoch": 5, "crop": 1, "voxels": 10, "erosion": 0.5, "dilation": 0.0, "ratio": 1.0},
        ]
    ).assign(erosion_small=[1.0, 0.0, np.nan, np.nan], voxels_small=[1, 3, 0, 0])
    pool = over_crops(rows).set_index("epoch")
    assert "case" not in pool and "crop" not in pool
    assert pool.loc[1, ["erosion", "dilation", "ratio"]].tolist() == pytest.approx([0.3, 0.3, 2.0])  # ratios 1 and 4
    assert pool.loc[1, ["erosion_small", "voxels_small", "voxels"]].tolist() == [0.25, 4, 40]
    assert pool.loc[5, "erosion"] == 0.5 and np.isnan(pool.loc[5, "erosion_small"])
    assert list(last_epoch(rows)["epoch"]) == [5, 5]


def test_branches_of_the_held_out_case_are_told_found_or_missed(tables):
    branches = tables["branches"]
    assert branches.groupby("run")["branch"].agg(list).map(lambda b: b == list(range(1, len(b) + 1))).all()
    assert (branches["missed"] == (branches["detected"] < 0.8)).all()
    assert branches[["erosion", "detected"]].stack().between(0, 1).all()


def test_tables_and_maps_are_written(tables, home):
    for name, table in tables.items():
        pd.testing.assert_frame_equal(pd.read_csv(maps_folder("gradients") / f"{name}.csv"), table, atol=1e-4)
    maps = GradientMaps.open(maps_folder("gradients") / "both_dice_0.zarr")
    assert (maps.epochs, maps.layers, maps.case, maps.image.shape) == ([0, 1], list(BLOCKS), "mini_0001", (32,) * 3)
    share = maps.share(1, "ec1")
    eroded = (share[maps.label] < 0.5).mean()
    assert eroded == pytest.approx(maps.measures.query("epoch == 1 and layer == 'ec1'")["erosion"].item(), abs=0.02)


def test_probes_of_the_runs_that_have_some(trained):
    found = read_probes(trained.values())
    assert set(found["run"]) == {"both_dice_0"} and set(found["step"]) <= {0, 2}
    none = read_probes([trained["without"]])
    assert none.empty and set(none) == set(found)


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("gradient", {}, "results/gradient: no such study; there are gradients; did you mean gradients?"),
        ("gradients", {"runs": ["both_dice_0", "other_0"]}, "runs: not finished: other_0; train them first"),
        ("gradients", {"runs": ["without"]}, "no snapshots of without; train with snapshots: epochs such as [1, 5]"),
        (
            "gradients",
            {"looked_at": [1, 9]},
            "of both_dice_0, final_general_union_0, without; train with snapshots: [1, 9]",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(trained, name, asked, said):
    refused(lambda: analyse(name, **asked), said)


def test_epochs_are_those_asked_for_or_those_kept(trained):
    assert [(config.run, epochs) for config, epochs in runs_to_measure("gradients")] == [
        ("both_dice_0", [0, 1]), ("final_general_union_0", [0, 1])
    ]  # fmt: skip
    ((config, epochs),) = runs_to_measure("gradients", ["final_general_union_0"], [1])
    assert (config, epochs) == (trained["final_general_union_0"], [1])


def test_ratios_of_all_losses_on_the_same_predictions(trained):
    table = ratios_of_losses(trained["both_dice_0"], [0, 1], view=32)
    assert list(table["loss"]) == list(LOSSES) * 2
    assert (table[["ratio", "ratio_logit"]] > 0).all(axis=None)
    dice = table[table["loss"] == "dice"]
    assert dice["ratio"].to_numpy() == pytest.approx(2 / dice["index"].to_numpy() - 1, rel=1e-3)  # its closed form


def test_what_stands_is_not_measured_again_but_other_epochs_are(tables, monkeypatch):
    asked = []
    monkeypatch.setattr(gradients, "measure_run", lambda config, epochs, *_: asked.append((config.run, epochs)) or {})
    again = analyse("gradients", view=32)
    assert asked == []
    pd.testing.assert_frame_equal(again["layers"], tables["layers"], atol=1e-4)
    gradients.ensure_maps("gradients")
    assert asked == []
    kept = (study.run_folder("gradients", "both_dice_0") / "gradients.json").read_bytes()
    analyse("gradients", ["both_dice_0"], view=32, looked_at=[1])
    analyse("gradients", ["both_dice_0"], view=32, crops=3)
    assert asked == [("both_dice_0", [1]), ("both_dice_0", [0, 1])]
    (study.run_folder("gradients", "both_dice_0") / "gradients.json").write_bytes(kept)
    analyse("gradients", view=32)


def test_maps_are_made_where_some_are_missing(tables, monkeypatch):
    asked = []
    monkeypatch.setattr(gradients, "analyse", lambda name, runs: asked.append((name, runs)))
    store = maps_folder("gradients") / "both_dice_0.zarr"
    store.rename(store.with_suffix(".away"))  # a study that was cut off
    gradients.ensure_maps("gradients")
    store.with_suffix(".away").rename(store)
    assert asked == [("gradients", ["both_dice_0", "final_general_union_0"])]


def test_the_busiest_cube_holds_most_centreline():
    label = np.zeros((40, 30, 20), np.uint8)
    points = np.array([[30, 20, z] for z in range(4, 14)])
    nowhere = np.zeros((0, 3), int)
    store = Store("a", label, label, label, np.vstack([points, [[2, 2, 2]]]), points, nowhere)
    box = busiest_cube(store, 16)
    assert all(part.stop - part.start == 16 for part in box)
    assert all((points >= [part.start for part in box]).all(1) & (points < [part.stop for part in box]).all(1))
    assert busiest_cube(store, 64) == (slice(0, 40), slice(0, 30), slice(0, 20))
