"""The command line as a user meets it: results on success, one line and exit status 2 on bad input."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from airwaylib.networks import CheckpointInfo, build_network, save_checkpoint
from airwaylib.volume import Volume, read_mask, read_volume, write_volume

INFO = CheckpointInfo("wingsnet", {"width": 1, "supervision": "both"}, 32, 1.0)


def airwaylib(*arguments, home=None):
    """Run the command; returns the finished process with its text."""
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "2"} | ({"AIRWAYLIB_HOME": str(home)} if home else {})
    command = [sys.executable, "-m", "airwaylib", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def fails(*arguments, **options):
    """The one line on stderr of a command that must refuse its input."""
    done = airwaylib(*arguments, **options)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("airwaylib: ")
    return lines[0]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Folder of one phantom case, made by the command itself."""
    folder = tmp_path_factory.mktemp("cases")
    done = airwaylib("phantom", folder, "--cases", 1, "--seed", 3)
    assert done.returncode == 0, done.stderr
    return folder / "mini_0003"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Checkpoint of an untrained network."""
    path = tmp_path_factory.mktemp("weights") / "checkpoint.safetensors"
    torch.manual_seed(0)
    save_checkpoint(path, build_network(INFO.network, **INFO.parameters), INFO)
    return path


def test_help_names_every_command():
    done = airwaylib("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("phantom", "prepare", "train", "segment"))


def test_phantom_makes_the_case_and_keeps_it(case):
    files = {"ct.nii.gz", "airway.nii.gz", "lung.nii.gz", "centreline.nii.gz", "tree.csv"}
    assert {path.name for path in case.iterdir()} == files
    before = (case / "ct.nii.gz").stat().st_mtime_ns
    assert airwaylib("phantom", case.parent, "--seed", 3).returncode == 0
    assert (case / "ct.nii.gz").stat().st_mtime_ns == before


def test_prepare_then_train_then_segment(case, tmp_path):
    """From files on disk to a mask on the CT's grid by three commands."""
    done = airwaylib("prepare", case.parent, tmp_path / "data/prepared")
    assert done.returncode == 0, done.stderr
    settings = {"run": "r", "data": "data", "train_cases": ["mini_0003"], "crop": 32, "crops_per_case": 2, "epochs": 9}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings | {"spacing": 1.0}))
    done = airwaylib("train", "--config", tmp_path / "run.yaml", "epochs=1", "width=1", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "epoch 1/1" in done.stdout
    checkpoint = tmp_path / "results/quick/runs/r/checkpoint.safetensors"
    done = airwaylib(
        "segment", case / "ct.nii.gz", "-o", tmp_path / "out.nii.gz", "--weights", checkpoint, "--probability", 0.05
    )
    assert done.returncode == 0, done.stderr
    ct, mask = read_volume(case / "ct.nii.gz"), read_mask(tmp_path / "out.nii.gz")
    assert mask.same_grid(ct)
    assert "ml of airway" in done.stdout


def test_segment_refuses_bad_cts(case, weights, tmp_path):
    ct = read_volume(case / "ct.nii.gz")
    bad = {
        "flat.nii.gz": np.zeros_like(ct.array),
        "solid.nii.gz": np.full_like(ct.array, 40) + np.arange(128, dtype=np.int16),
        "tiny.nii.gz": ct.array[:8, :8, :8],
        "nan.nrrd": np.where(ct.array == ct.array[5, 5, 5], np.nan, ct.array.astype(np.float32)),
    }
    out = tmp_path / "out.nii.gz"
    for name, array in bad.items():
        write_volume(Volume(array, ct.spacing), tmp_path / name)
        assert name.split(".")[0] in fails("segment", tmp_path / name, "-o", out, "--weights", weights), name
    shutil.copy(case / "tree.csv", tmp_path / "text.nii.gz")
    assert "text.nii.gz" in fails("segment", tmp_path / "text.nii.gz", "-o", out, "--weights", weights)
    assert "nowhere.nii.gz" in fails("segment", tmp_path / "nowhere.nii.gz", "-o", out, "--weights", weights)
    assert not out.exists()
    assert not list(tmp_path.glob(".tmp*"))


def test_segment_refuses_bad_options(case, weights, tmp_path):
    ct, out = case / "ct.nii.gz", tmp_path / "out.nii.gz"
    assert "probability" in fails("segment", ct, "-o", out, "--weights", weights, "--probability", 1.5)
    assert "device" in fails("segment", ct, "-o", out, "--weights", weights, "--device", "abacus")
    assert "no such checkpoint" in fails("segment", ct, "-o", out, "--weights", tmp_path / "none.safetensors")
    assert "out.png" in fails("segment", ct, "-o", tmp_path / "out.png", "--weights", weights)
    assert "ct.nii.gz" in fails("segment", ct, "-o", ct / "inside.nii.gz", "--weights", weights)


def test_train_refuses_bad_settings(tmp_path):
    assert "widht" in fails("train", "widht=4", home=tmp_path)
    assert "epochs" in fails("train", "epochs=many", home=tmp_path)
    assert "KEY=VALUE" in fails("train", "epochs", home=tmp_path)
    assert "none.yaml" in fails("train", "--config", tmp_path / "none.yaml", home=tmp_path)
    (tmp_path / "bad.yaml").write_text("a: [")
    assert "bad.yaml" in fails("train", "--config", tmp_path / "bad.yaml", home=tmp_path)
    assert "mini_0000" in fails("train", home=tmp_path)  # no such case
    assert not (tmp_path / "results").exists()


def test_prepare_and_phantom_refuse_bad_input(tmp_path):
    assert "nowhere" in fails("prepare", tmp_path / "nowhere", tmp_path / "out")
    assert "huge" in fails("phantom", tmp_path, "--size", "huge")
    (tmp_path / "file").write_text("in the way")
    assert "file" in fails("phantom", tmp_path / "file")


def test_module_and_script_are_the_same_command():
    script = shutil.which("airwaylib", path=str(sys.prefix) + "/bin")
    assert script
    done = subprocess.run(
        [script, "--help"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "COLUMNS": "80"}
    )
    assert done.returncode == 0
    assert "segment" in done.stdout
