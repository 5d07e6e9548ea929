"""Launching: all stages in one process or in several, cut off at any time, with one line for what goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from airwaylib.errors import InputError
from airwaylib.networks.checkpoints import load_checkpoint
from airwaystudy import home
from airwaystudy.training import launch
from airwaystudy.training.config import Recipe

STAGES = {"dice": {"loss": "dice"}, "hard": {"alpha": 0.2, "sampling": "hard_skeleton", "missed_by": "dice"}}
TINY = {"run": "r", "train_cases": ["mini_0000"], "width": 1, "crop": 32, "crops_per_case": 2, "device": "cpu"}


@pytest.fixture
def recipe(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(home, "HOME", tmp_path)
    return lambda **changes: Recipe(**{**TINY, "data": str(phantoms), "epochs": 1, "stages": STAGES} | changes)


def test_stages_are_trained_in_their_order_and_finished_ones_kept(recipe, tmp_path, capsys):
    first = launch.train(recipe())
    assert [summary["run"] for summary in first] == ["r_dice", "r"]
    assert "stage 2 of 2: r\n" in capsys.readouterr().out
    assert (tmp_path / "results/quick/runs/r_dice/missed/mini_0000.npz").exists()
    stamps = [run.folder.joinpath("checkpoint.safetensors").stat().st_mtime_ns for run in recipe().runs()]
    assert launch.train(recipe()) == first
    assert stamps == [run.folder.joinpath("checkpoint.safetensors").stat().st_mtime_ns for run in recipe().runs()]
    with pytest.raises(InputError, match="runs/r: holds a run with another epochs"):
        launch.train(recipe(stages=STAGES | {"hard": STAGES["hard"] | {"epochs": 2}}))


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_as_if_nothing_had_happened(recipe, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "AIRWAYLIB_HOME": str(tmp_path)}

    def start(run):
        file = tmp_path / "recipe.yaml"
        file.write_text(json.dumps(recipe(run=run, epochs=2, crops_per_case=4).model_dump()))
        command = [sys.executable, "-m", "airwaystudy", "train", "--config", str(file)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    for run in ("killed_dice", "killed"):
        process = start("killed")
        for line in process.stdout:
            if line.endswith(f": {run}\n"):
                break
        process.stdout.readline()  # the stage's first epoch
        time.sleep(0.05)  # somewhere in the second, or while its files are written
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not (tmp_path / f"results/quick/runs/{run}/summary.json").exists()
    for run in ("killed", "undisturbed"):
        process = start(run)
        process.communicate()
        assert process.returncode == 0
    for stage in ("_dice", ""):
        folders = [tmp_path / f"results/quick/runs/{run}{stage}" for run in ("killed", "undisturbed")]
        for name in ("metrics.csv", "checkpoint.safetensors"):
            a, b = (folder / name for folder in folders)
            if name == "metrics.csv":
                assert a.read_bytes() == b.read_bytes()
            else:
                weights = [load_checkpoint(path)[0].state_dict() for path in (a, b)]
                assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])


def test_two_processes_train_all_stages_and_only_the_first_writes(recipe, capsys):
    summaries = launch.train(recipe(devices=2, crops_per_case=4, epochs=2))
    assert [summary["run"] for summary in summaries] == ["r_dice", "r"]
    said = capsys.readouterr().out
    assert said.count("epoch 2/2") == 2 and said.count("stage 1 of 2") == 1  # one line an epoch, not one a process
    for run in recipe().runs():
        assert len(pd.read_csv(run.folder / "metrics.csv")) == 2
        assert len(list((run.folder / "tensorboard").glob("events*"))) == 1
        assert home.read_json(run.folder / "config.json")["devices"] == 2


@pytest.mark.slow
def test_what_goes_wrong_in_several_processes_is_one_line(recipe, capsys):
    with pytest.raises(InputError, match=r"^.*mini_0404\.zarr: no training store here.*prepare$"):
        launch.train(recipe(devices=2, train_cases=["mini_0404"]))
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"missed_by": "dcie", "sampling": "hard_skeleton"}, "r: missed_by 'dcie' is no earlier stage and no fin"),
        ({"loss": "hinge"}, "hinge"),
        ({"network": "alexnet"}, "network 'alexnet' is unknown"),
        ({"start": "none.safetensors"}, r"none\.safetensors: no such checkpoint"),
    ],
)
def test_what_a_later_stage_would_stumble_over_is_told_before_the_first(recipe, tmp_path, later, message):
    with pytest.raises(InputError, match=message):
        launch.train(recipe(stages={"first": {}, "late": later}))
    assert not (tmp_path / "results").exists()


def test_under_torchrun_devices_are_its_processes(recipe, monkeypatch):
    seen = []
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(launch, "train_run", lambda run: seen.append(run.devices) or {})
    launch.train(recipe())
    assert seen == [3, 3]


def test_a_loss_of_ones_own_lies_in_the_current_folder(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.chdir(tmp_path)
    code = "def both(probability, target, weight):\n    return (weight * (probability - target) ** 2).mean()\n"
    (tmp_path / "my_losses.py").write_text(code)
    (summary,) = launch.train(recipe(stages={}, loss="my_losses:both"))
    assert home.read_json(home.run_folder("quick", summary["run"]) / "config.json")["loss"] == "my_losses:both"
    with pytest.raises(InputError, match=r"loss 'my_losses:neither': .*my_losses\.py has no function 'neither'"):
        launch.train(recipe(stages={}, run="other", loss="my_losses:neither"))
    with pytest.raises(InputError, match=r"'my_losses:both' has no parameter alpha; it has none"):
        launch.train(recipe(stages={}, run="other", loss="my_losses:both", alpha=0.1))
