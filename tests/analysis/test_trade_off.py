"""Curves over the threshold: by hand on a made-up probability, and of a run on a tiny case."""

import os

import numpy as np
import pandas as pd
import pytest
from tiny_cases import tiny_case

from airwaylib.errors import InputError
from airwaylib.images.lungs import lung_mask
from airwaylib.images.volume import write_volume
from airwaylib.inference.segment import segment
from airwaylib.metrics.scores import evaluate
from airwaylib.networks.checkpoints import CheckpointInfo, build_network, load_checkpoint, save_checkpoint
from airwaystudy import home
from airwaystudy.analysis.trade_off import COLUMNS, PROBABILITIES, curve, td_at_precision, trade_off
from airwaystudy.training.config import TrainConfig


def test_a_curve_by_hand():
    """The airway at 0.8, its left half at 0.4, and a block beside the trunk at 0.2."""
    ct, label = tiny_case()
    probability = np.where(label.array, 0.8, 0.0)
    left = label.array.copy()
    left[:, :, 28:] = False
    probability[left] = 0.4
    probability[30:34, 28:32, 26:30] = 0.2  # 64 voxels outside the label, touching it
    low, middle, high, none = curve(label.with_array(probability), lung_mask(ct), label, (0.1, 0.3, 0.5, 0.9))
    size = label.array.sum()
    assert (low["td"], low["bd"]) == (100, 100)
    assert low["precision"] == pytest.approx(100 * size / (size + 64))
    assert middle == {"probability": 0.3, "td": 100, "bd": 100, "precision": 100, "dsc": 100}
    assert high["precision"] == 100 and 30 < high["td"] < 70
    assert none["td"] == 0 and np.isnan(none["precision"])


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run with a network that has learnt nothing, and a case to test it on."""
    monkeypatch.setattr(home, "HOME", tmp_path)
    ct, label = tiny_case()
    write_volume(ct, tmp_path / "data/raw/tiny/ct.nii.gz")
    write_volume(label, tmp_path / "data/raw/tiny/airway.nii.gz")
    config = TrainConfig(run="tiny_0", data="data", train_cases=["other"], test_cases=["tiny"], width=1, device="cpu")
    network = build_network("wingsnet", width=1)
    save_checkpoint(config.checkpoint, network, CheckpointInfo("wingsnet", {"width": 1}, window=32, spacing=None))
    return config


def test_each_point_is_the_segmentation_at_that_threshold(config):
    table = trade_off(config, (0.4, 0.5))
    assert list(table) == COLUMNS and table["probability"].tolist() == [0.4, 0.5]
    ct, label = tiny_case()
    network, info = load_checkpoint(config.checkpoint)
    for row in table.to_dict("records"):
        mask = segment(ct, network, info, row["probability"], device="cpu", progress=False)
        scores = evaluate(mask.array, label.array, ct.spacing)
        assert mask.array.any()
        assert [row[name] for name in COLUMNS[2:]] == pytest.approx([scores[name] for name in COLUMNS[2:]])


def test_the_curve_is_kept_until_the_checkpoint_changes(config):
    first = trade_off(config)
    path = config.folder / "trade_off.csv"
    stamp = path.stat().st_mtime_ns
    pd.testing.assert_frame_equal(trade_off(config), first, atol=1e-4)
    assert path.stat().st_mtime_ns == stamp and len(first) == len(PROBABILITIES)
    assert len(trade_off(config, (0.5,))) == 1  # other thresholds: another curve
    stamp = path.stat().st_mtime_ns
    os.utime(config.checkpoint, ns=(stamp + 10**9, stamp + 10**9))
    trade_off(config, (0.5,))
    assert path.stat().st_mtime_ns != stamp


def test_a_run_without_a_checkpoint_is_an_error(config):
    config.checkpoint.unlink()
    with pytest.raises(InputError, match="no such checkpoint"):
        trade_off(config)


def test_the_longest_tree_at_a_precision_by_hand():
    """From 90 and 50 % precision of two cases at threshold 0.2 to 90 % of both at 0.4; beyond, nothing is found."""
    rows = [(0.2, 100, 90), (0.2, 80, 50), (0.4, 50, 90), (0.4, 70, 90), (0.9, 0, np.nan), (0.9, 0, np.nan)]
    curves = pd.DataFrame(rows, columns=["probability", "td", "precision"]).assign(variant="a", seed=3)
    table = td_at_precision(curves, (60, 80, 90, 95))
    assert table["precision"].tolist() == [60, 80, 90, 95] and set(table["seed"]) == {3}
    assert table["td"].tolist() == pytest.approx([90, 75, 60, np.nan], abs=0.2, nan_ok=True)  # 70 to 90 %: halfway
    assert td_at_precision(curves[curves["probability"] == 0.9], (60,))["td"].isna().all()
