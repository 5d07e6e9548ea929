"""A trained run on its held-out cases: masks on the CTs' grids, and their scores."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from mini_phantoms import mini
from tiny_cases import tiny_case

from airwaylib.errors import InputError
from airwaylib.images.lungs import lung_mask
from airwaylib.images.volume import read_volume
from airwaylib.metrics.reference import true_reference
from airwaylib.networks.checkpoints import CheckpointInfo, build_network, save_checkpoint
from airwaystudy import home
from airwaystudy.training.config import TrainConfig
from airwaystudy.training.held_out import CURVE, LOGITS, read_run, score_test_cases, threshold_curve


@pytest.fixture
def config(phantoms, tmp_path, monkeypatch):
    """A run of a network that takes nearly all for airway, whose checkpoint lies where `test_with` says."""
    monkeypatch.setattr(home, "HOME", tmp_path)

    def make(**changes):
        cases = {"validation_cases": ["mini_0002"], "test_cases": ["mini_0001"]}
        config = TrainConfig(**{"run": "tiny", "data": str(phantoms), "width": 1, "device": "cpu"} | cases | changes)
        info = CheckpointInfo("wingsnet", {"width": 1}, window=64, spacing=1.0, probability=0.01)
        save_checkpoint(config.checkpoint, build_network("wingsnet", width=1), info)
        return config

    return make


def test_masks_and_scores_of_every_test_case(config):
    run = config()
    scores = score_test_cases(run).scores
    assert list(scores["case"]) == run.test_cases
    assert scores[["td", "precision", "dsc"]].stack().between(0, 100).all()
    assert (scores["td"] > 50).all()  # the checkpoint's threshold counts: nearly all is airway at 1 %
    pd.testing.assert_frame_equal(scores, pd.read_csv(run.folder / "scores.csv"), atol=1e-4)
    assert set(pd.read_csv(run.folder / "scores_by_diameter.csv")["case"]) == set(run.test_cases)
    curve = pd.read_csv(run.folder / "trade_off.csv")
    assert list(curve) == ["case", *CURVE] and set(curve["case"]) == set(run.test_cases)
    assert curve["td"].iloc[0] >= curve["td"].iloc[-1]
    for case in run.test_cases:
        assert read_volume(run.folder / f"predictions/{case}.nii.gz").array.shape == (128, 128, 128)


def test_a_curve_by_hand():
    """The airway at 0.8, its left half at 0.4, a block beside the trunk at 0.2, and an island far off at 0.95."""
    ct, label = tiny_case()
    probability = np.where(label.array, 0.8, 0.0)
    left = label.array.copy()
    left[:, :, 28:] = False
    probability[left] = 0.4
    probability[30:34, 28:32, 26:30] = 0.2  # 64 voxels outside the label, touching it
    probability[4:6, 4:6, 4:6] = 0.95  # 8 voxels, in one component with nothing
    curve = threshold_curve(label.with_array(probability.astype(np.float32)), lung_mask(ct), label)
    assert list(curve) == list(CURVE) and curve["logit"].tolist() == list(LOGITS)
    low, middle, high, none = (curve[curve["logit"] == logit].iloc[0] for logit in (-2, -1, 0, 4))
    size = label.array.sum()  # logits of 0.2, 0.4, 0.8 and 0.95: -1.4, -0.4, 1.4 and 2.9
    assert (low["td"], low["bd"], low["td_whole"]) == (100, 100, 100)
    assert low["precision"] == pytest.approx(100 * size / (size + 64))
    assert low["precision_whole"] == pytest.approx(100 * size / (size + 64 + 8))
    assert (middle["td"], middle["precision"], middle["dsc"]) == (100, 100, 100)
    assert high["precision"] == 100 and 30 < high["td"] < 70
    assert (
        (none["td"], none["td_whole"]) == (0, 0) and np.isnan(none["precision"]) and np.isnan(none["precision_whole"])
    )


def test_a_phantoms_true_branches_are_scored_thin_apart_from_wide():
    phantom = mini(3)
    whole = phantom.airway.with_array(phantom.airway.array.astype(np.float32))
    curve = threshold_curve(whole, phantom.lung.array, phantom.airway, phantom.tree)
    assert curve[curve["logit"] <= 9][["td", "td_thin", "td_wide", "precision", "dsc"]].stack().gt(99.9).all()
    reference = true_reference(phantom.tree, phantom.airway.array.shape, phantom.airway.spacing)
    thin = reference.table["diameter_mm"] < 2.5
    assert 0 < thin.sum() < len(thin)
    points = reference.index[np.isin(reference.branch, reference.table["branch"][thin])]
    wide = reference.index[np.isin(reference.branch, reference.table["branch"][~thin])]
    without = whole.array.copy()
    without[tuple(points.T)] = 0
    without[tuple(wide.T)] = 1
    cut = threshold_curve(whole.with_array(without), phantom.lung.array, phantom.airway, phantom.tree)
    cut = cut[cut["logit"] == 0].iloc[0]
    assert cut["td_wide"] > 90 and cut["td_thin_whole"] < 20


def test_masks_younger_than_the_checkpoint_are_kept(config):
    run = config()
    first = score_test_cases(run).scores
    mask = run.folder / "predictions/mini_0001.nii.gz"
    stamp = mask.stat().st_mtime_ns
    pd.testing.assert_frame_equal(score_test_cases(run).scores, first)
    assert mask.stat().st_mtime_ns == stamp
    later = stamp + 10**9
    os.utime(run.checkpoint, ns=(later, later))
    score_test_cases(run)
    assert mask.stat().st_mtime_ns > stamp


def test_the_best_checkpoint_segments_where_asked_for(config):
    run = config(test_with="best")
    assert run.checkpoint.name == "best.safetensors" and not (run.folder / "checkpoint.safetensors").exists()
    assert len(score_test_cases(run).scores) == 1


def test_a_bad_case_is_noted_and_the_others_go_on(config, phantoms, tmp_path):
    shutil.copytree(phantoms / "raw", tmp_path / "copy/raw")
    (tmp_path / "copy/raw/mini_0002/ct.nii.gz").write_bytes(b"no image")
    run = config(data=str(tmp_path / "copy"), validation_cases=[], test_cases=["mini_0002", "mini_0001"])
    evaluation = score_test_cases(run)
    assert list(evaluation.scores["case"]) == ["mini_0001"]
    assert list(evaluation.faults) == ["mini_0002"] and "ct.nii.gz" in evaluation.faults["mini_0002"]


def test_nothing_to_score_is_a_clear_error(config, tmp_path):
    with pytest.raises(InputError, match="no test_cases to score"):
        score_test_cases(config(test_cases=[]))
    with pytest.raises(InputError, match="no case 'mini_0404'"):
        score_test_cases(config(test_cases=["mini_0404"]))
    with pytest.raises(InputError, match="convention"):
        score_test_cases(config(), "nobody's")


def test_only_a_finished_run_is_read(config):
    run = config()
    with pytest.raises(InputError, match=r"no training run \(no config.json\)"):
        read_run(run.folder)
    home.write_json(run.folder / "config.json", run.model_dump())
    with pytest.raises(InputError, match="not finished"):
        read_run(run.folder)
    home.write_json(run.folder / "summary.json", {})
    assert read_run(run.folder) == run
    (run.folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not readable as JSON"):
        read_run(run.folder)


def test_a_run_that_was_moved_is_not_taken_for_its_namesake(config, tmp_path):
    run = config()
    home.write_json(run.folder / "config.json", run.model_dump())
    home.write_json(run.folder / "summary.json", {})
    shutil.copytree(run.folder, tmp_path / "copy")
    with pytest.raises(InputError, match=r"copy: holds the run of .*results/quick/runs/tiny; move it there"):
        read_run(tmp_path / "copy")


def test_a_missing_checkpoint_is_told_before_any_case_is_read(config):
    run = config(test_cases=["mini_0404"])
    run.checkpoint.unlink()
    with pytest.raises(InputError, match="no such checkpoint"):
        score_test_cases(run)
