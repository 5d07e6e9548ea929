"""One device or many: the right one is found, and two processes take the step that one takes with both their crops."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from lightning_fabric import Fabric

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.training.config import TrainConfig
from airwaystudy.training.devices import gathered, make_fabric, world_size
from airwaystudy.training.run import Run

# One step of training, with channel dropout off: each process would drop channels of its own crops. Every process
# writes the gradient that its optimiser sees.
STEP = """
import json, os, pathlib, sys
import safetensors.torch
from airwaystudy import home as study
from airwaystudy.training import config, run as training
study.HOME = pathlib.Path(sys.argv[1])
run = training.Run(config.TrainConfig(**json.loads(sys.argv[2])))
step = run.optimizer.step
gradients = lambda: {name: p.grad for name, p in run.plain_network.named_parameters()}
def watched():
    safetensors.torch.save_file(gradients(), sys.argv[1] + f"/gradient_{os.environ['RANK']}.safetensors")
    step()
run.optimizer.step = watched
row = run.train_epoch()
scores = training.validate(run.plain_network, run.validation, 32, run.fabric)
pathlib.Path(sys.argv[1], f"row_{os.environ['RANK']}.json").write_text(json.dumps(row | scores))
"""


@pytest.fixture(scope="module")
def settings(phantoms):
    return {
        "data": str(phantoms),
        "train_cases": ["mini_0000"],
        "validation_cases": ["mini_0001", "mini_0002"],
        "width": 1,
        "crop": 32,
        "crops_per_case": 2,
        "device": "cpu",
        "dropout": 0,
    }


@pytest.mark.parametrize("loss", ["general_union", pytest.param("weighted_bce", marks=pytest.mark.slow)])
def test_two_processes_have_the_gradient_of_one_with_both_their_crops(settings, loss, tmp_path, monkeypatch):
    program = tmp_path / "step.py"
    program.write_text(STEP)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    two = json.dumps(settings | {"loss": loss, "devices": 2, "batch_size": 1})
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, str(program), str(tmp_path), two], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    gradients = [safetensors.torch.load_file(tmp_path / f"gradient_{rank}.safetensors") for rank in (0, 1)]
    rows = [json.loads((tmp_path / f"row_{rank}.json").read_text()) for rank in (0, 1)]
    monkeypatch.setattr(home, "HOME", tmp_path)
    run = Run(TrainConfig(**settings, loss=loss, batch_size=2))
    expected = {}
    step = run.optimizer.step
    monkeypatch.setattr(
        run.optimizer,
        "step",
        lambda: (expected.update({n: p.grad.clone() for n, p in run.plain_network.named_parameters()}), step()),
    )
    row = run.train_epoch()
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        for other in gradients:
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-5 * float(largest))
    for other in rows:
        assert {name: other[name] for name in row} == pytest.approx(row, rel=1e-5)
        assert np.isfinite(other["td"])
    assert rows[0]["td"] == rows[1]["td"]  # each scored one of the two cases, and both know the mean


def test_one_process_gathers_nothing():
    tensor = torch.ones(2, 1, requires_grad=True)
    assert gathered(tensor, Fabric(accelerator="cpu", devices=1)) is tensor


def test_processes_are_those_of_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert world_size() == 1
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert world_size() == 8
    with pytest.raises(InputError, match="devices 2: 8 processes are running"):
        make_fabric(TrainConfig(device="cpu", devices=2))


def test_auto_is_full_precision_on_a_cpu():
    fabric = make_fabric(TrainConfig(device="cpu"))
    assert fabric.device.type == "cpu"
    assert fabric._precision.precision == "32-true"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_a_clear_error():
    with pytest.raises(InputError, match="no CUDA device"):
        make_fabric(TrainConfig(device="cuda"))
