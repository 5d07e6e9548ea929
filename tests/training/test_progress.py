"""Progress: its tables, the line after an epoch and the summary."""

import pandas as pd
import pytest

from airwaystudy.training.config import TrainConfig
from airwaystudy.training.progress import Progress

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
    assert summary == {"training_seconds": 1.3, "best_epoch": 1, "best_score": 76.0, **row(2, **SCORES)}
    assert "best_epoch" not in Progress([row(1)]).summary()
    assert Progress([row(1, **SCORES)]).is_best and not Progress([row(1, **better), row(2, **SCORES)]).is_best
