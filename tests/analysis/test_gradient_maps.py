"""Gradient maps there and back, and what is no gradient map."""

import numpy as np
import pandas as pd
import pytest

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.analysis.gradient_maps import GradientMaps, find_maps, maps_folder, write_maps

ABOUT = {"run": "both_dice_0", "loss": "dice", "supervision": "both", "seed": 0, "case": "mini_0008"}
LAYERS = {"ec1": (4, 6, 8), "model.0.conv": (2, 3, 4)}


@pytest.fixture
def shares():
    rng = np.random.default_rng(0)
    return [(epoch, layer, rng.random(shape, np.float32)) for epoch in (0, 5) for layer, shape in LAYERS.items()]


@pytest.fixture
def path(tmp_path, shares):
    shares[0][2][0, 0, :2] = np.nan, np.inf
    measures = pd.DataFrame([{"epoch": e, "layer": name, "erosion": 0.25, "ratio": np.nan} for e, name, _ in shares])
    image = np.arange(192, dtype=np.uint8).reshape(4, 6, 8)
    write_maps(tmp_path / "a.zarr", ABOUT | {"spacing": [0.5, 0.5, 1.25]}, image, image % 2 == 1, shares, measures)
    return tmp_path / "a.zarr"


def test_all_comes_back(path, shares):
    maps = GradientMaps.open(path)
    assert {name: getattr(maps, name) for name in ABOUT} == ABOUT
    assert (maps.epochs, maps.layers, maps.spacing) == ([0, 5], list(LAYERS), (0.5, 0.5, 1.25))
    assert maps.image.ravel().tolist() == list(range(192))
    assert maps.label.dtype == bool
    assert (maps.label == (maps.image % 2 == 1)).all()
    assert maps.measures["erosion"].tolist() == [0.25] * 4
    assert maps.measures["ratio"].isna().all()
    for epoch, layer, share in shares:
        known = np.isfinite(share)
        found = maps.share(epoch, layer)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[known], share[known], atol=0.5 / 254 + 1e-6)
        assert np.isnan(found[~known]).all()


def test_no_such_epoch_or_layer(path):
    maps = GradientMaps.open(path)
    with pytest.raises(InputError, match="no epoch 3; there are 0, 5"):
        maps.share(3, "ec1")
    with pytest.raises(InputError, match=r"no layer 'ec9'; there are ec1, model\.0\.conv"):
        maps.share(0, "ec9")


def test_what_is_no_store_is_one_line_that_says_what_makes_one(tmp_path):
    (tmp_path / "file.zarr").write_text("no")
    (tmp_path / "empty.zarr").mkdir()
    for name in ("none.zarr", "file.zarr", "empty.zarr"):
        with pytest.raises(InputError, match="01_gradient_erosion") as caught:
            GradientMaps.open(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_maps_of_a_study_are_found(tmp_path, monkeypatch, path):
    monkeypatch.setattr(home, "HOME", tmp_path)
    with pytest.raises(InputError, match="no gradient maps"):
        find_maps("gradients")
    maps_folder("gradients").mkdir(parents=True)
    path.rename(maps_folder("gradients") / "b.zarr")
    assert [found.name for found in find_maps("gradients")] == ["b.zarr"]


def test_a_store_half_written_is_not_there(tmp_path, shares):
    def broken():
        yield shares[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_maps(
            tmp_path / "a.zarr", ABOUT, np.zeros((4, 6, 8), np.uint8), np.zeros((4, 6, 8)), broken(), pd.DataFrame()
        )
    assert not list(tmp_path.iterdir())
