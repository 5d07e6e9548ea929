"""A wheel holds all that the package needs, and works from any folder without the study's files and libraries."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from airwaylib.images.volume import Volume, read_mask, write_volume
from airwaystudy.phantoms.case import make_phantom

ROOT = Path(__file__).resolve().parents[1]
# A package that a plain install lacks must not be found, although the test's own environment has it.
HIDE = """
import importlib.abc, sys
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError("hidden", name=name)
sys.meta_path.insert(0, Hide())
"""
HIDDEN = {"lightning_fabric", "tensorboard", "zarr", "yaml", "papermill", "snakemake", "seaborn", "itables", "meshio"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of a copy: setuptools keeps what it built before, deleted modules too."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("airwaylib", "airwaystudy", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", built]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True, capture_output=True)
    return next(built.glob("airwaylib-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The second environment's folder of programs: the wheel, and the first one's libraries but for the study's."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    options = ["--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    command = [sys.executable, "-m", "pip", "--python", python, "install", *options, wheel]
    subprocess.run(command, check=True, capture_output=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # its own .pth files are not read
    (site / "sitecustomize.py").write_text(HIDE.replace("{names!r}", repr(HIDDEN)))
    return python.parent


@pytest.fixture
def run(installed, tmp_path, monkeypatch):
    """Run a program of the second environment in an empty folder; returns what it has printed."""
    monkeypatch.chdir(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AIRWAYLIB"))}

    def start(program, *arguments, status=0):
        done = subprocess.run([installed / program, *arguments], capture_output=True, text=True, env=environment)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return start


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(8, "mini")


def test_the_wheel_holds_what_the_package_needs_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    weights = ROOT / "airwaylib/inference/weights"
    assert {f"airwaylib/inference/weights/{path.name}" for path in weights.iterdir()} <= set(names)
    assert "airwaylib/inference/weights/README.md" in names  # the model's card
    templates = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("airwaystudy/**/*.html.in")}
    assert templates and templates <= set(names)
    modules = {
        path.relative_to(ROOT).as_posix()
        for room in ("airwaylib", "airwaystudy")
        for path in ROOT.glob(f"{room}/**/*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules


def test_the_libraries_hidden_are_the_studys_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core, study = (
        {canonicalize_name(Requirement(line).name) for line in lines}
        for lines in (project["dependencies"], project["optional-dependencies"]["study"])
    )
    hidden = {canonicalize_name({"yaml": "PyYAML"}.get(name, name)) for name in HIDDEN}
    assert hidden <= study and not hidden & core


def test_the_face_is_the_wheels(run, installed):
    names = "WingsNet, general_union_loss, class_gradients, parse_tree, evaluate, segment"
    printed = run("python", "-c", f"import airwaylib; print(airwaylib.__file__); from airwaylib import {names}")
    assert Path(printed.strip()).is_relative_to(installed.parent)
    assert "Segment the airway tree of a chest CT" in run("airwaylib", "--help")


def test_tree_and_evaluate(run, tmp_path):
    mask = np.zeros((9, 9, 30), bool)
    mask[3:6, 3:6] = True
    half = mask.copy()
    half[..., 15:] = False
    for name, array in (("whole", mask), ("half", half)):
        write_volume(Volume(array, (1.0, 1.0, 1.0)), tmp_path / f"{name}.nii.gz")
    assert "tree.csv" in run("airwaylib", "tree", "whole.nii.gz", "-o", "tree.csv", "--picture", "tree.png")
    assert (tmp_path / "tree.csv").read_text().count("\n") == 2 and (tmp_path / "tree.png").stat().st_size > 1000
    run("airwaylib", "evaluate", "half.nii.gz", "whole.nii.gz", "--json", "scores.json")
    (scores,) = json.loads((tmp_path / "scores.json").read_text())["cases"]
    assert (scores["precision"], scores["tpr"]) == (100, 50)


def test_segment_with_the_weights_that_come_along(run, tmp_path, phantom):
    middle = (slice(32, 96), slice(None), slice(None))
    write_volume(phantom.ct.crop(middle), tmp_path / "ct.nii.gz")
    assert "ml of airway" in run("airwaylib", "segment", "ct.nii.gz", "-o", "airway.nii.gz", "--device", "cpu")
    found, truth = read_mask(tmp_path / "airway.nii.gz").array, phantom.airway.array[middle]
    assert (found & truth).sum() > 0.7 * truth.sum() and (found & ~truth).sum() < 0.5 * found.sum()


def test_what_needs_the_study_says_so_in_one_line(run, tmp_path):
    for command in (["reproduce", "quick"], ["report", "quick"]):
        said = run("airwaylib", *command, status=2)
        assert said.startswith(f"airwaylib: {command[0]} needs the project's checkout") and str(tmp_path) in said
        assert said.count("\n") == 1
    assert run("airwaylib", "train", status=2) == (
        "airwaylib: this needs pip install 'airwaylib[study]' (no module 'yaml')\n"
    )
    printed = run("python", "-c", "from airwaystudy import home; print(home.path('data'))")
    assert printed.strip() == str(tmp_path / "data")  # not in site-packages
