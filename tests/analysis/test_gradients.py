"""The study of gradients along training: its runs, its tables, what stands and is not made again."""

import numpy as np
import pandas as pd
import pytest

from airwaylib.errors import InputError
from airwaylib.losses.table import LOSSES
from airwaylib.networks.wingsnet import BLOCKS
from airwaystudy import home as study
from airwaystudy.analysis import gradients
from airwaystudy.analysis.gradient_maps import GradientMaps, maps_folder
from airwaystudy.analysis.gradients import GradientParameters, View, busiest_cube, probes, ratios_of_losses, run_study
from airwaystudy.data.store import Store

TINY = {
    "study": "gradients",
    "train_cases": ["mini_0000"],
    "test_cases": ["mini_0001"],
    "seeds": [0],
    "supervisions": ["both"],
    "losses": ["dice", "general_union"],
    "width": 1,
    "crops_per_case": 4,
    "epochs": 1,
    "looked_at": [0, 1],
    "probe_every": 2,
    "view": 32,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def parameters():
    return study.validated(GradientParameters, TINY, "test")


@pytest.fixture(scope="module")
def tables(home, parameters):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "HOME", home)
        return run_study(parameters)


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.setattr(study, "HOME", home)


def test_every_layer_of_every_run_and_epoch_has_its_measures(tables):
    layers = tables["layers"]
    assert list(layers["layer"]) == list(BLOCKS) * 4  # two losses, two epochs; forward order
    assert list(layers["run"].unique()) == ["both_dice_0", "both_general_union_0"]
    assert layers[["erosion", "dilation", "share", "from_encoder"]].stack().between(0, 1).all()
    assert (layers["not_finite"] == 0).all()
    dice = layers[layers["loss"] == "dice"]
    assert dice["loss_ratio"].to_numpy() == pytest.approx(2 / dice["loss_index"].to_numpy() - 1, rel=1e-3)
    assert (layers.loc[layers["layer"].str.startswith("dc"), "from_encoder"] == 0).all()
    assert (layers.loc[layers["layer"].str.startswith("ec"), "from_encoder"] > 0).all()


def test_bins_hold_all_airway_voxels_of_the_view(tables, parameters):
    bins = tables["bins"]
    voxels = bins.groupby(["run", "epoch", "layer", "by"])["voxels"].sum()
    airway = View.of(parameters.configs()[0], "mini_0001", 32).label.sum()
    assert (voxels == airway).all()
    assert set(bins["by"]) == {"radius_mm", "radius_voxels", "generation"}
    assert bins["bin"].min() >= 0


def test_branches_of_the_held_out_case_are_told_found_or_missed(tables):
    branches = tables["branches"]
    assert branches.groupby("run")["branch"].agg(list).map(lambda b: b == list(range(1, len(b) + 1))).all()
    assert (branches["missed"] == (branches["detected"] < 0.8)).all()
    assert branches[["erosion_early", "erosion_late", "detected"]].stack().between(0, 1).all()


def test_tables_and_maps_are_written(tables, home):
    for name, table in tables.items():
        pd.testing.assert_frame_equal(pd.read_csv(maps_folder("gradients") / f"{name}.csv"), table, atol=1e-4)
    maps = GradientMaps.open(maps_folder("gradients") / "both_dice_0.zarr")
    assert (maps.epochs, maps.layers, maps.case, maps.image.shape) == ([0, 1], list(BLOCKS), "mini_0001", (32,) * 3)
    share = maps.share(1, "ec1")
    eroded = (share[maps.label] < 0.5).mean()
    assert eroded == pytest.approx(maps.measures.query("epoch == 1 and layer == 'ec1'")["erosion"].item(), abs=0.02)


def test_probes_of_all_runs(tables, parameters):
    found = probes(parameters)
    assert set(found["run"]) == {"both_dice_0", "both_general_union_0"}
    assert set(found["step"]) <= {0, 2}


def test_a_run_without_probes_is_named(tables, parameters):
    other = parameters.model_copy(update={"seeds": [7]})
    with pytest.raises(InputError, match=r"both_dice_7/probes\.csv: the run has no probes; train it with probe_every"):
        probes(other)


def test_a_run_of_another_network_is_refused(tables, parameters):
    with pytest.raises(InputError, match="both_dice_0: holds a run with another width"):
        run_study(parameters.model_copy(update={"width": 2}))


def test_ratios_of_all_losses_on_the_same_predictions(tables, parameters):
    table = ratios_of_losses(parameters.configs()[0], parameters)
    assert list(table["loss"]) == list(LOSSES) * 2
    assert (table["ratio"] > 0).all()
    dice = table[table["loss"] == "dice"]
    assert dice["ratio"].to_numpy() == pytest.approx(2 / dice["index"].to_numpy() - 1, rel=1e-3)  # its closed form


def test_what_stands_is_not_made_again_but_other_epochs_are(tables, parameters, monkeypatch):
    asked = []
    monkeypatch.setattr(gradients, "look", lambda config, _: asked.append(config.run) or {})
    again = run_study(parameters)
    assert asked == []
    pd.testing.assert_frame_equal(again["layers"], tables["layers"], atol=1e-4)
    study.write_json(parameters.configs()[0].folder / "gradients.json", {"view": 24})
    run_study(parameters)
    assert asked == ["both_dice_0"]


def test_maps_are_made_only_where_some_are_missing(tables, monkeypatch):
    monkeypatch.setattr(gradients, "run_study", lambda parameters: pytest.fail(f"ran {parameters.study}"))
    gradients.ensure_maps("gradients")
    with pytest.raises(pytest.fail.Exception, match="ran another"):
        gradients.ensure_maps("another")
    store = maps_folder("gradients") / "both_dice_0.zarr"
    store.rename(store.with_suffix(".away"))  # a study that was cut off
    with pytest.raises(pytest.fail.Exception, match="ran gradients"):
        gradients.ensure_maps("gradients")
    store.with_suffix(".away").rename(store)


@pytest.mark.parametrize(("looked_at", "early"), [([0, 1, 5], 1), ([0, 5], 0), ([5], 5), ([2, 3, 5], 3)])
def test_early_is_the_first_look_after_the_start(looked_at, early):
    assert GradientParameters(epochs=5, looked_at=looked_at).early == early


@pytest.mark.parametrize("epochs", [[0, 1, 3], [1, 0, 2], [0, 2, 2]])
def test_epochs_looked_at_rise_to_the_last(epochs):
    with pytest.raises(InputError, match="rising epochs that end with the last one, 2"):
        study.validated(GradientParameters, TINY | {"epochs": 2, "looked_at": epochs}, "test")


def test_the_busiest_cube_holds_most_centreline():
    label = np.zeros((40, 30, 20), np.uint8)
    points = np.array([[30, 20, z] for z in range(4, 14)])
    nowhere = np.zeros((0, 3), int)
    store = Store("a", label, label, label, np.vstack([points, [[2, 2, 2]]]), points, nowhere)
    box = busiest_cube(store, 16)
    assert all(part.stop - part.start == 16 for part in box)
    assert all((points >= [part.start for part in box]).all(1) & (points < [part.stop for part in box]).all(1))
    assert busiest_cube(store, 64) == (slice(0, 40), slice(0, 30), slice(0, 20))
