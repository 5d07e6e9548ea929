"""What runs need: steps, memory and time, by hand and by a timed step."""

import pytest
import torch

from airwaylib.errors import InputError
from airwaystudy.plan import needs
from airwaystudy.training.config import TrainConfig

RUN = TrainConfig(train_cases=["a", "b", "c"], crops_per_case=5, epochs=4, batch_size=2, crop=64, width=8)


def test_steps_and_memory_by_hand():
    assert needs.training_steps(RUN) == 4 * 8  # 15 crops in batches of 2
    assert needs.step_gigabytes(RUN) == pytest.approx(370 * 8 * 2 * 64**3 / 1e9)  # 1.55 GB


def test_time_is_that_of_the_steps_side_by_side(monkeypatch):
    monkeypatch.setattr(needs, "seconds_of_a_step", lambda run, threads: 0.5)
    assert needs.training_seconds([RUN] * 6, threads=1, side_by_side=2) == 6 * 32 * 0.5 / 2
    assert needs.training_seconds([RUN], threads=1, side_by_side=2) == 32 * 0.5  # one run is not shared
    large = RUN.model_copy(update={"crop": 128, "epochs": 1})
    assert needs.training_seconds([RUN, large], threads=1, side_by_side=1) == (32 + 8 * 8) * 0.5
    assert needs.training_seconds([], threads=1, side_by_side=1) == 0


def test_a_step_is_timed_on_small_crops_and_scaled(monkeypatch):
    monkeypatch.setattr(needs, "TIMED_SIDE", 16)
    before = torch.get_num_threads()
    small = RUN.model_copy(update={"crop": 16, "width": 1, "device": "cpu"})
    assert 0 < needs.seconds_of_a_step(small, 1) < 60
    ticks = iter([0.0, 9.0, 10.0, 12.0])
    monkeypatch.setattr(needs.time, "monotonic", lambda: next(ticks))
    assert needs.seconds_of_a_step(small.model_copy(update={"crop": 32}), 1) == 2 * 8
    assert torch.get_num_threads() == before


def test_names_that_do_not_exist_are_refused_with_the_run_that_has_them():
    needs.check_names([RUN])
    for update, line in (({"loss": "dise"}, "third: .*'dise'"), ({"network": "wings"}, "third: .*'wings'")):
        with pytest.raises(InputError, match=line):
            needs.check_names([RUN, RUN, RUN.model_copy(update={"run": "third"} | update)])
