"""A trained run on its held-out cases: masks on the CTs' grids, and their scores."""

import os
import shutil

import pandas as pd
import pytest

from airwaylib.errors import InputError
from airwaylib.images.volume import read_volume
from airwaylib.networks.checkpoints import CheckpointInfo, build_network, save_checkpoint
from airwaystudy import home
from airwaystudy.training.config import TrainConfig
from airwaystudy.training.held_out import read_run, score_test_cases


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
    for case in run.test_cases:
        assert read_volume(run.folder / f"predictions/{case}.nii.gz").array.shape == (128, 128, 128)


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
