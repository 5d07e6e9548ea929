"""What a run misses: the centreline outside its prediction, found once and kept with the run."""

import numpy as np
import pytest
from lightning_fabric import Fabric
from synthetic_stores import synthetic

from airwaylib.errors import InputError
from airwaylib.networks.checkpoints import CheckpointInfo, build_network, save_checkpoint
from airwaystudy.training import missed
from airwaystudy.training.missed import missed_file, missed_points, with_missed_points

LINE = [[8, 8, x] for x in range(20)]
FABRIC = Fabric(accelerator="cpu", devices=1)


def test_missed_are_the_centreline_voxels_outside_the_prediction():
    store = synthetic((20, 20, 20), centreline=LINE)
    prediction = np.zeros((20, 20, 20), bool)
    prediction[8, 8, 5:] = True
    assert missed_points(store, prediction).tolist() == LINE[:5]
    assert missed_points(store, ~np.zeros((20, 20, 20), bool)).shape == (0, 3)


def test_a_prediction_on_another_grid_is_named():
    with pytest.raises(
        InputError, match=r"synthetic: a prediction of \(20, 20, 19\) voxels for a case of \(20, 20, 20\)"
    ):
        missed_points(synthetic((20, 20, 20), centreline=LINE), np.zeros((20, 20, 19), bool))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that finds x > 11 with probability 0.6, and the number of cases it was asked for."""
    info = CheckpointInfo("wingsnet", {"width": 1}, window=32, spacing=1.0)
    save_checkpoint(tmp_path / "checkpoint.safetensors", build_network("wingsnet", width=1), info)
    (tmp_path / "summary.json").write_text("{}")
    asked = []

    def predict(network, image, lung, window, **_):
        asked.append(window)
        return np.where(np.arange(image.shape[2]) > 11, 0.6, 0.4) * np.ones(image.shape)

    monkeypatch.setattr(missed, "predict_probability", predict)
    return tmp_path, asked


def test_misses_are_found_once_and_kept_with_the_run(run):
    folder, asked = run
    stores = [synthetic((20, 20, 20), centreline=LINE, name=name) for name in "ab"]
    for _ in range(2):
        found = with_missed_points(stores, folder, FABRIC)
        assert [store.missed_points.tolist() for store in found] == [LINE[:12]] * 2
    assert asked == [32, 32]
    assert [len(store.missed_points) for store in stores] == [0, 0]


def test_misses_of_a_case_that_was_prepared_anew_are_found_anew(run):
    folder, asked = run
    with_missed_points([synthetic((20, 20, 20), centreline=LINE)], folder, FABRIC)
    (found,) = with_missed_points([synthetic((21, 20, 20), centreline=LINE)], folder, FABRIC)
    assert len(asked) == 2 and len(found.missed_points) == 12
    (found,) = with_missed_points([synthetic((21, 20, 20), centreline=LINE[:5])], folder, FABRIC)  # another label
    assert len(asked) == 3 and found.missed_points.tolist() == LINE[:5]


def test_misses_of_other_weights_are_found_anew(run):
    folder, asked = run
    store = synthetic((20, 20, 20), centreline=LINE)
    with_missed_points([store], folder, FABRIC)
    info = CheckpointInfo("wingsnet", {"width": 2}, window=32, spacing=1.0)
    save_checkpoint(folder / "checkpoint.safetensors", build_network("wingsnet", width=2), info)
    with_missed_points([store], folder, FABRIC)
    assert len(asked) == 2


def test_a_run_that_is_not_finished_is_named(run):
    folder, _ = run
    (folder / "summary.json").unlink()
    store = synthetic((20, 20, 20), centreline=LINE)
    with pytest.raises(InputError, match="not a finished run, so it is not known what it misses; train it first"):
        with_missed_points([store], folder, FABRIC)
    assert not missed_file(folder, store).exists()
