"""Paths, strict parameters, provenance, and the small files of a study."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, model_validator

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy import parameters as airwaystudy_parameters

ROOT = Path(__file__).resolve().parents[1]


class Tube(BaseModel, extra="forbid"):
    name: str = Field("trachea")
    radius: float = Field(9.0, gt=0)
    generation: int = 0
    children: list[str] = []
    parent: str | None = None

    @model_validator(mode="after")
    def no_own_child(self):
        if self.name in self.children:
            raise ValueError("a tube cannot be its own child")
        return self


# ------------------------------------------------------------------------------------------------------ validated


def test_valid_parameters_become_the_model():
    assert home.validated(Tube, {}, "here") == Tube()
    tube = home.validated(Tube, {"radius": 4, "children": ["a", "b"]}, "here")
    assert (tube.radius, tube.children, tube.name) == (4.0, ["a", "b"], "trachea")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"radus": 4}, "here: no parameter 'radus'; did you mean radius?"),
        ({"colour": "red"}, "here: no parameter 'colour' (valid: name, radius, generation, children, parent)"),
        ({"radius": "wide"}, "here: radius = 'wide': Input should be a valid number"),
        ({"radius": -1.0}, "here: radius = -1.0: Input should be greater than 0"),
        ({"generation": 1.5}, "here: generation = 1.5: Input should be a valid integer"),
        ({"generation": None}, "here: generation = None: Input should be a valid integer"),
        ({"name": 7}, "here: name = 7: Input should be a valid string"),
        ({"children": ["a", 3]}, "here: children.1 = 3: Input should be a valid string"),
        ({"children": "a"}, "here: children = 'a': Input should be a valid list"),
        ({"name": "a", "children": ["a"]}, "here: a tube cannot be its own child"),
    ],
)
def test_a_fault_is_one_line_that_says_what_is_valid(parameters, message):
    with pytest.raises(InputError) as caught:
        home.validated(Tube, parameters, "here")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


class Lung(BaseModel, extra="forbid"):
    trachea: Tube | None = None
    main: Tube


def test_a_misspelt_name_is_looked_for_where_it_stands():
    with pytest.raises(InputError) as caught:
        home.validated(Lung, {"trachea": {"generaton": 0}}, "lung.yaml")
    line = "lung.yaml: no parameter 'trachea.generaton'; did you mean generation?; main is missing"
    assert str(caught.value) == line


def test_every_fault_is_named_in_one_line():
    with pytest.raises(InputError) as caught:
        home.validated(Tube, {"radius": 0, "generation": "x\ny", "colour": "red"}, "tube.yaml")
    line = str(caught.value)
    assert line.startswith("tube.yaml: ") and line.count("; ") == 2 and "\n" not in line
    for part in ("radius = 0: ", r"generation = 'x\ny': ", "no parameter 'colour'"):
        assert part in line


# -------------------------------------------------------------------------------------------- notebook parameters


@pytest.mark.parametrize("module", ["airwaystudy.parameters", "airwaystudy.training.config"])
def test_parameters_are_checked_before_anything_heavy_is_imported(module):
    heavy = {"torch", "pandas", "zarr", "scipy", "SimpleITK", "matplotlib"}
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert heavy & set(done.stdout.split()) == set()


def test_a_notebook_shows_the_message_alone():
    cell = "from airwaylib.errors import InputError\nraise InputError('ct.nii: is no CT')"
    shell = f"from IPython.core.interactiveshell import InteractiveShell as S; S().run_cell({cell!r})"
    done = subprocess.run([sys.executable, "-c", shell], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "InputError: ct.nii: is no CT"


def names(**more):
    """What a kernel's globals() hold before the cell after the parameters."""
    return {
        "__name__": "__main__",
        "_": "the last result",
        "_i3": "the last cell",
        "In": ["", "radius = 3"],
        "Out": {},
        "exit": SimpleNamespace(),
        "np": np,
        "Path": Path,
        "tube": Tube,
        "print_twice": lambda text: None,
        "radius": 3.0,
        "parent": None,
        **more,
    }


def test_plain_values_are_the_parameters_and_modules_classes_and_functions_are_not():
    assert airwaystudy_parameters.notebook_parameters(names(children=["a"]), Tube) == Tube(radius=3.0, children=["a"])


def test_misspelt_parameter():
    with pytest.raises(InputError, match=r"^notebook parameters: no parameter 'chidren'; did you mean children\?$"):
        airwaystudy_parameters.notebook_parameters(names(chidren=["a"]), Tube)


@pytest.mark.parametrize("value", ["many", [1], {"a": 1}, True, 2, 2.5])
def test_every_plain_type_is_looked_at(value):
    with pytest.raises(InputError, match="no parameter 'unknown'"):
        airwaystudy_parameters.notebook_parameters(names(unknown=value), Tube)


def test_ill_typed_parameter():
    with pytest.raises(InputError, match=r"^notebook parameters: generation = 'many': Input should be a valid integer"):
        airwaystudy_parameters.notebook_parameters(names(generation="many"), Tube)


def test_the_cell_can_be_run_again_after_other_variables_appeared():
    kernel = names()
    assert airwaystudy_parameters.notebook_parameters(kernel, Tube).radius == 3.0
    kernel |= {"count": 5, "table": {"a": 1}, "generation": "late", "radius": 2.0}
    assert airwaystudy_parameters.notebook_parameters(kernel, Tube) == Tube(
        radius=2.0
    )  # the value it has now, and nothing else
    kernel["radius"] = "wide"
    with pytest.raises(InputError, match="radius = 'wide'"):
        airwaystudy_parameters.notebook_parameters(kernel, Tube)


def test_the_cell_can_be_mended_and_run_again_after_an_error():
    kernel = names(radius="wide")
    with pytest.raises(InputError):
        airwaystudy_parameters.notebook_parameters(kernel, Tube)
    kernel["radius"] = 5.0
    assert airwaystudy_parameters.notebook_parameters(kernel, Tube).radius == 5.0
    kernel = names(chidren=["a"])
    with pytest.raises(InputError):
        airwaystudy_parameters.notebook_parameters(kernel, Tube)
    del kernel["chidren"]
    assert airwaystudy_parameters.notebook_parameters(kernel, Tube).radius == 3.0


# ---------------------------------------------------------------------------------------------------------- paths


def test_paths_start_at_the_root(monkeypatch):
    monkeypatch.setattr(home, "HOME", Path("/project"))
    assert home.path("data/phantoms") == Path("/project/data/phantoms")
    assert home.path("/elsewhere/ct.nii") == Path("/elsewhere/ct.nii")
    assert home.results("quick") == Path("/project/results/quick")
    assert home.run_folder("quick", "dice") == Path("/project/results/quick/runs/dice")


def test_the_root_is_the_projects_whatever_the_folder_and_can_be_set(tmp_path):
    code = "from airwaystudy import home; print(home.HOME, home.path('data'), home.IN_CHECKOUT)"
    plain = {name: value for name, value in os.environ.items() if name != "AIRWAYLIB_HOME"} | {"PYTHONPATH": str(ROOT)}
    for root, more in ((ROOT, {}), (Path("/project"), {"AIRWAYLIB_HOME": "/project"})):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain | more, cwd=tmp_path)
        assert done.stdout.split() == [str(root), str(root / "data"), str(root == ROOT)]


def test_a_command_of_the_study_needs_its_files(monkeypatch):
    home.require_checkout("reproduce")
    monkeypatch.setattr(home, "IN_CHECKOUT", False)
    with pytest.raises(InputError, match=r"reproduce needs the project's checkout .* and .* is none: run it there, or"):
        home.require_checkout("reproduce")


# ----------------------------------------------------------------------------------------------------- provenance


def run_git(folder, *arguments):
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git repository with one commit, as the project's root."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "file").write_text("1")
    run_git(folder, "init", "--quiet")
    run_git(folder, "add", "file")
    run_git(folder, "commit", "--quiet", "--message", "one")
    monkeypatch.setattr(home, "HOME", folder)
    return folder


def test_provenance_tells_where_a_result_comes_from(checkout):
    (checkout / "untracked").write_text("results")
    record = home.provenance(Tube(radius=2.0), seed=3, device="cpu")
    assert set(record) == {"commit", "dirty", "parameters", "python", "versions", "platform", "cpu", "seed", "device"}
    assert len(record["commit"]) == 40 and int(record["commit"], 16) >= 0
    assert record["dirty"] is False
    assert record["parameters"] == {
        "name": "trachea",
        "radius": 2.0,
        "generation": 0,
        "children": [],
        "parent": None,
    }
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["versions"]["numpy"] == np.__version__
    assert set(record["versions"]) == {"torch", "numpy", "scipy", "monai", "lightning-fabric", "zarr"}
    assert (record["seed"], record["device"]) == (3, "cpu")
    assert json.loads(json.dumps(record)) == record


def test_cpu_is_named_with_its_instructions_and_threads(tmp_path, monkeypatch):
    described = tmp_path / "cpuinfo"
    described.write_text("processor\t: 0\nmodel name\t: A Fast One @ 2 GHz\nflags\t\t: fma\n")
    monkeypatch.setattr(home, "CPU_FILE", described)
    found = home.cpu()
    assert found["name"] == "A Fast One @ 2 GHz"
    assert (
        found["instructions"] == torch.backends.cpu.get_cpu_capability() and found["threads"] == torch.get_num_threads()
    )
    monkeypatch.setattr(home, "CPU_FILE", tmp_path / "none")
    assert isinstance(home.cpu()["name"], str)


def test_instructions_that_the_environment_bounds_are_noted(monkeypatch):
    for name in home.CPU_LIMITS:
        monkeypatch.delenv(name, raising=False)
    assert home.cpu()["environment"] == {}
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert home.cpu()["environment"] == {"ONEDNN_MAX_CPU_ISA": "AVX2"}


def test_the_instruction_set_is_what_torch_uses_under_a_bound():
    code = "from airwaystudy import home; found = home.cpu(); print(found['instructions'], found['environment'])"
    bound = os.environ | {"ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": str(Path(home.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=bound, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DEFAULT {") and "'ATEN_CPU_CAPABILITY': 'default'" in done.stdout


def test_a_changed_file_makes_it_dirty(checkout):
    before = home.provenance(Tube())
    (checkout / "file").write_text("2")
    after = home.provenance(Tube())
    assert (before["dirty"], after["dirty"]) == (False, True)
    assert before["commit"] == after["commit"]
    run_git(checkout, "commit", "--quiet", "--all", "--message", "two")
    last = home.provenance(Tube())
    assert last["dirty"] is False and last["commit"] != before["commit"]


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "HOME", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert home.git("rev-parse", "HEAD") is None
    assert (home.provenance(Tube())["commit"], home.provenance(Tube())["dirty"]) == (None, False)


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert home.git("rev-parse", "HEAD") is None


# ---------------------------------------------------------------------------------------------------------- files


def test_json_comes_back(tmp_path):
    value = {"run": "dice", "epoch": 3, "td": 91.25, "none": None, "list": [1, 2], "text": "±"}
    home.write_json(tmp_path / "new" / "summary.json", value)
    assert home.read_json(tmp_path / "new" / "summary.json") == value
    assert (tmp_path / "new" / "summary.json").read_text().endswith("}\n")


def test_csv_has_four_decimals_and_no_index(tmp_path):
    table = pd.DataFrame({"run": ["dice", "gul"], "td": [91.2349, 100.0], "cases": [4, 4], "dsc": [math.nan, 1 / 3]})
    home.write_csv(tmp_path / "tables" / "scores.csv", table.set_index(pd.Index([5, 7])))
    text = (tmp_path / "tables" / "scores.csv").read_text()
    assert text == "run,td,cases,dsc\ndice,91.2349,4,\ngul,100.0000,4,0.3333\n"


@pytest.mark.parametrize(
    ("write", "bad"),
    [(home.write_json, {"a": 1, "b": object()}), (home.write_csv, SimpleNamespace(to_csv=lambda *_, **__: 1 / 0))],
)
def test_a_file_that_stands_outlives_a_failed_write(tmp_path, write, bad):
    path = tmp_path / "result"
    path.write_text("former")
    with pytest.raises((TypeError, ZeroDivisionError)):
        write(path, bad)
    assert [file.name for file in tmp_path.iterdir()] == ["result"]
    assert path.read_text() == "former"


def test_a_place_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("a file")
    for write, value in ((home.write_json, {}), (home.write_csv, pd.DataFrame())):
        with pytest.raises(InputError, match="file/result: cannot be written"):
            write(tmp_path / "file" / "result", value)


# ----------------------------------------------------------------------------------------------------------- lock

HOLD = """
import pathlib, sys, time
from airwaystudy import home
with home.only_process(pathlib.Path(sys.argv[1])):
    print("within", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_kept_out_until_the_first_ends_even_by_a_kill(tmp_path):
    folder = tmp_path / "run"
    first = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with first.stdout:
        assert first.stdout.readline() == "within\n"
        line = (
            rf"^{folder}: process {first.pid} on \S+ \(since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\) is at work here; wait"
        )
        with pytest.raises(InputError, match=line), home.only_process(folder):
            raise AssertionError
        first.kill()
        first.wait()
    with home.only_process(folder):  # what the kill left behind does no harm
        assert f"process {os.getpid()} on" in (folder / ".lock").read_text()
    assert not folder.exists()  # nothing was made there
    with home.only_process(folder):
        (folder / "metrics.csv").touch()
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "metrics.csv"]


def test_without_locks_or_a_writable_folder_work_goes_on(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file")
    with home.only_process(tmp_path / "file" / "run"):
        pass

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(home.fcntl, "flock", no_locks)
    with home.only_process(tmp_path), home.only_process(tmp_path):
        pass
    monkeypatch.setattr(home, "fcntl", None)
    with home.only_process(tmp_path), home.only_process(tmp_path):
        pass


# ------------------------------------------------------------------------------------------------------- checksum


@pytest.fixture
def stores(tmp_path):
    """Two folders with files."""
    for name, text in {
        "a.zarr/zarr.json": "{}",
        "a.zarr/c/0": "12",
        "a.zarr/c/1": "3",
        "b.zarr/zarr.json": "{}",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "a.zarr", tmp_path / "b.zarr"


def move(first, second):
    first.write_text("1")
    second.write_text("23")


@pytest.mark.parametrize(
    "change",
    [
        lambda a: (a / "c/0").write_text("13"),
        lambda a: (a / "c/0").write_text(""),
        lambda a: (a / "c/0").unlink(),
        lambda a: (a / "c/2").touch(),
        lambda a: (a / "c/1").rename(a / "c/2"),
        lambda a: (a / "c").rename(a / "d"),
        lambda a: move(a / "c/0", a / "c/1"),
    ],
)
def test_checksum_changes_with_contents_and_names(stores, change):
    before = home.checksum(*stores)
    assert len(before) == 64 and home.checksum(*stores) == before
    change(stores[0])
    assert home.checksum(*stores) != before


def test_checksum_does_not_change_with_place_or_time(stores, tmp_path):
    before = home.checksum(*stores)
    (tmp_path / "elsewhere").mkdir()
    moved = [store.rename(tmp_path / "elsewhere" / store.name) for store in stores]
    os.utime(moved[0] / "zarr.json", (0, 0))
    assert home.checksum(*moved) == before
    assert home.checksum(*moved[::-1]) != before


def test_checksum_of_a_file_counts_its_name(stores):
    assert home.checksum(stores[0] / "zarr.json") == home.checksum(stores[1] / "zarr.json")
    assert home.checksum(stores[0] / "c/0") != home.checksum(stores[0] / "c/1")


FOLDER = st.dictionaries(st.sampled_from(["a", "aa", "b"]), st.sampled_from([b"", b"a", b"same/b", b"ab"]), min_size=1)


@given(FOLDER, FOLDER)
@example({"a": b"a"}, {"aa": b""})
@example({"a": b"", "b": b""}, {"a": b"same/b"})
def test_checksums_are_equal_only_for_equal_folders(tmp_path_factory, files, others):
    sums = []
    for content in (files, others):
        folder = tmp_path_factory.mktemp("checksum") / "same"
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_bytes(text)
        sums.append(home.checksum(folder))
    assert (sums[0] == sums[1]) == (files == others)
