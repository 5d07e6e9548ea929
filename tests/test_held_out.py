"""A trained run on its held-out cases: masks on the CTs' grids, and their scores."""

import pandas as pd

from airwaylib import study
from airwaylib.config import TrainConfig
from airwaylib.held_out import score_test_cases
from airwaylib.networks import CheckpointInfo, build_network, save_checkpoint
from airwaylib.prepare import prepare_phantoms
from airwaylib.volume import read_volume


def test_masks_and_scores_of_every_test_case(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "HOME", tmp_path)
    config = TrainConfig(run="tiny", width=1, crop=32, test_cases=["mini_0001"], device="cpu")
    prepare_phantoms(tmp_path / "data/phantoms", config.test_cases)
    info = CheckpointInfo("wingsnet", {"width": 1}, window=64, spacing=1.0, probability=0.01)
    save_checkpoint(config.folder / "checkpoint.safetensors", build_network("wingsnet", width=1), info)
    scores = score_test_cases(config)
    assert list(scores["case"]) == config.test_cases
    assert scores[["td", "precision", "dsc"]].stack().between(0, 100).all()
    assert (scores["td"] > 50).all()  # the checkpoint's threshold counts: nearly all is airway at 1 %
    pd.testing.assert_frame_equal(scores, pd.read_csv(config.folder / "scores.csv"), atol=1e-4)
    assert set(pd.read_csv(config.folder / "scores_by_diameter.csv")["case"]) == set(config.test_cases)
    for case in config.test_cases:
        assert read_volume(config.folder / f"predictions/{case}.nii.gz").array.shape == (128, 128, 128)
