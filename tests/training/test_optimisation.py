"""Optimiser and schedule are what the configuration says."""

import os

import pytest
import torch
from torch import nn

from airwaystudy.training.config import TrainConfig
from airwaystudy.training.optimisation import learning_rate_at, make_deterministic, make_optimizer


def test_learning_rate_schedules():
    cosine = TrainConfig(learning_rate=1.0)
    assert learning_rate_at(cosine, 0.5) == pytest.approx(0.5)
    assert learning_rate_at(cosine, 1.0) == pytest.approx(0.0)
    assert learning_rate_at(cosine, 0.0) < 0.1  # warm-up
    steps = TrainConfig(learning_rate=1.0, schedule="steps", epochs=100)
    assert [learning_rate_at(steps, e / 100) for e in (0, 59.9, 60, 90)] == pytest.approx([1, 1, 0.1, 0.01])


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimiser_is_the_one_asked_for(name, kind):
    config = TrainConfig(optimizer=name, learning_rate=0.02, weight_decay=0.03)
    optimizer = make_optimizer(config, nn.Conv3d(1, 1, 3))
    assert type(optimizer) is kind
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.02, 0.03)
    assert optimizer.param_groups[0].get("momentum", 0.9) == 0.9


def determinism():
    """All that `make_deterministic` sets."""
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


INSIDE = {"algorithms": True, "warn": False, "cudnn": (True, False), "fill": False, "cublas": ":4096:8"}


@pytest.mark.parametrize("workspace", [None, ":0:0"])
def test_deterministic_algorithms_within_and_everything_as_before_afterwards(monkeypatch, workspace):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    before = determinism()
    assert before["algorithms"] is False and before["cublas"] == workspace
    with make_deterministic(enabled=False):
        assert determinism() == before
    with make_deterministic():
        assert determinism() == INSIDE
        with make_deterministic():
            assert determinism() == INSIDE
        assert determinism() == INSIDE  # the inner one undoes what it did, no more
    assert determinism() == before


def test_an_error_within_leaves_everything_as_before(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = determinism()
        with pytest.raises(ZeroDivisionError), make_deterministic():
            assert determinism() == INSIDE | {"cublas": ":16:8"}  # deterministic as well
            raise ZeroDivisionError
        assert determinism() == before and before["warn"]
    finally:
        torch.use_deterministic_algorithms(False)
