"""Device, optimiser and schedule are what the configuration says."""

import pytest
import torch
from torch import nn

from airwaylib.config import TrainConfig
from airwaylib.errors import InputError
from airwaylib.optimisation import learning_rate_at, make_fabric, make_optimizer


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


def test_auto_is_full_precision_on_a_cpu():
    fabric = make_fabric(TrainConfig(device="cpu"))
    assert fabric.device.type == "cpu"
    assert fabric._precision.precision == "32-true"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_a_clear_error():
    with pytest.raises(InputError, match="no CUDA device"):
        make_fabric(TrainConfig(device="cuda"))
