"""Progress: its tables, the line after an epoch, the summary; the validation cases' scores and the best epoch."""

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from airwaylib.networks.wingsnet import GroupLogits
from airwaystudy.data.store import Store
from airwaystudy.training.config import TrainConfig
from airwaystudy.training.progress import VALIDATED, Progress, best_epoch, rank, validate, validations_since_best

SCORES = {"td": 90.0, "bd": 80.0, "precision": 70.0, "dsc": 60.0, "tpr": 50.0}


def row(epoch, **scores):
    return {"epoch": epoch, "learning_rate": 0.1, "loss": 0.5, "loss_decoder": 0.25, "loss_encoder": 0.25, **scores}


def test_tables_have_a_row_an_epoch_and_no_clock(tmp_path):
    Progress([row(1), row(2, **SCORES)], seconds=1234.5).write(tmp_path)
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert list(table["epoch"]) == [1, 2] and table["td"].isna().tolist() == [True, False]
    assert "1234" not in (tmp_path / "metrics.csv").read_text()
    assert not (tmp_path / "probes.csv").exists()


def test_probes_are_written_and_their_mean_is_the_epochs(tmp_path):
    probes = [{"epoch": 1, "ratio": 2.0, "erosion": 0.1}, {"epoch": 1, "ratio": 4.0, "erosion": 0.3}]
    progress = Progress([row(1)], probes=probes)
    progress.write(tmp_path)
    assert len(pd.read_csv(tmp_path / "probes.csv")) == 2
    assert progress.probed(1) == pytest.approx({"ratio": 3, "erosion": 0.2})
    assert Progress([row(1)]).probed(1) == {}


def test_the_line_tells_scores_pace_and_time_left():
    config = TrainConfig(epochs=4)
    line = Progress([row(1), row(2, **SCORES)], seconds=60.0).report(config)
    assert line == "epoch 2/4  loss 0.5000  td 90.0  precision 70.0  dsc 60.0  30.0 s/epoch, 1.0 min left"


def test_a_run_ends_with_its_epochs_or_its_patience():
    config = TrainConfig(epochs=4, patience=2, validation_cases=["v"])
    rows = [row(1, **SCORES), row(2, **SCORES), row(3, **SCORES)]
    assert [Progress(rows[:n]).ended(config) for n in (0, 1, 2, 3)] == [False, False, False, True]
    assert "stopped: 2 validations" in Progress(rows, 9.0).report(config)
    assert Progress([row(n) for n in range(1, 5)]).ended(TrainConfig(epochs=4))
    assert not Progress(rows).ended(TrainConfig(epochs=4))


def test_summary_tells_the_best_epoch_and_the_last_row():
    better = SCORES | {"td": 94.0}
    summary = Progress([row(1, **better), row(2, **SCORES)], seconds=1.26).summary()
    times, best = {"training_seconds": 1.3, "cpu_seconds": 0.0}, {"best_epoch": 1, "best_score": 76.0}
    assert summary == {**times, **best, **row(2, **SCORES)}
    assert "best_epoch" not in Progress([row(1)]).summary()
    assert Progress([row(1, **SCORES)]).is_best and not Progress([row(1, **better), row(2, **SCORES)]).is_best


class Bright(nn.Module):
    """Finds every voxel above half of the image's range."""

    def forward(self, image):
        return GroupLogits(None, 20 * (image - 0.5))


def tube(found):
    """A case with a straight tube along x, of which `found` of 40 slices are bright."""
    label = np.zeros((40, 40, 40), np.uint8)
    label[18:21, 18:21] = 1
    image = np.where(label > 0, 255, 0).astype(np.uint8)
    image[:, :, found:] = 0
    points = np.argwhere(label)
    return Store("tube", image, label, label, points, points, points)


def test_validation_scores_are_the_mean_over_the_cases():
    scores = validate(Bright(), [tube(40), tube(20)], 32, Fabric(accelerator="cpu", devices=1))
    assert list(scores) == list(VALIDATED)
    assert scores["precision"] == pytest.approx(100)
    assert scores["tpr"] == pytest.approx((100 + 50) / 2)
    assert scores["dsc"] == pytest.approx((100 + 200 / 3) / 2)
    assert scores["td"] == pytest.approx((100 + 50) / 2, abs=3)  # the skeleton is shorter than the tube


def test_the_network_goes_on_training_after_validation():
    network = Bright().train()
    validate(network, [tube(40)], 32, Fabric(accelerator="cpu", devices=1))
    assert network.training and torch.is_grad_enabled()


def validated(epoch, td=None):
    return {"epoch": epoch} | ({} if td is None else {"td": td, "bd": 60, "precision": 70, "dsc": 80})


def test_epochs_rank_by_the_mean_of_atm22s_four_scores():
    assert rank(validated(1, 90)) == 75
    assert best_epoch([validated(1), validated(2)]) is None and validations_since_best([validated(1)]) == 0
    rows = [validated(1, 50), validated(2), validated(3, 90), validated(4, 90), validated(5), validated(6, 80)]
    assert best_epoch(rows) == 3  # the first of equals
    assert validations_since_best(rows) == 2
    assert validations_since_best([*rows, validated(7, 91)]) == 0
