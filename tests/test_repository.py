"""The repository hangs together: pins, imports, a test file a module, the notebooks' form, no scans and no pickles."""

import ast
import io
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from airwaystudy.plan.presets import read_preset

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in ("airwaylib", "airwaystudy")
    for path in sorted((ROOT / package).rglob("*.py"))
}
ROOMS = (
    "phantoms",
    "data",
    "training",
    "plan",
    "analysis",
    "claims",
    "figures",
    "report",
)  # lowest first

MOST_BYTES = 8_000_000
FORBIDDEN = r"\.(nii|nii\.gz|nrrd|nhdr|mha|mhd|raw|zraw|dcm|npy|npz|h5|pkl|pickle|joblib|ckpt|pt|pth|bin)$"


# ----------------------------------------------------------------------------------------------------------- pins


def locked():
    """The pins of requirements.lock: canonical name -> version."""
    pins = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            found = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)", line)
            assert found, f"requirements.lock: {line!r} is not NAME==VERSION"
            name = canonicalize_name(found[1])
            assert name not in pins, f"requirements.lock: {name} is pinned twice"
            pins[name] = found[2]
    return pins


LOCK = locked()


def fault(requirement):
    """What is wrong with the pin of a requirement; None if nothing."""
    version = LOCK.get(canonicalize_name(requirement.name))
    if version is None:
        return f"{requirement} is not pinned"
    return (
        None if requirement.specifier.contains(version, prereleases=True) else f"{requirement} is pinned to {version}"
    )


def declared(*extras):
    """The requirements of pyproject.toml, with those of the optional groups `extras`."""
    groups = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(line) for group in groups for line in group]


def test_lock_pins_what_the_project_asks_for():
    requirements = declared(*PROJECT["optional-dependencies"])
    assert len(requirements) > 20
    assert [fault(requirement) for requirement in requirements if fault(requirement)] == []
    without_bound = [str(one) for one in requirements if not any(part.operator == ">=" for part in one.specifier)]
    assert without_bound == []


def comes_with_torch(owner, requirement):
    """A CUDA wheel of torch pins its own libraries; which they are depends on the machine."""
    return owner == "torch" and re.match(r"nvidia-|cuda-|triton", requirement.name)


def test_lock_is_closed():
    faults, seen, waiting = [], set(), [(name, "") for name in LOCK]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in map(Requirement, distribution(name).requires or []):
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            if applies and not comes_with_torch(name, requirement):
                faults += [f"{name}: {fault(requirement)}"] if fault(requirement) else []
                waiting += [(canonicalize_name(requirement.name), extra) for extra in requirement.extras]
    assert faults == []


def test_environment_is_the_locks():
    differing = {name: (pin, distribution(name).version) for name, pin in LOCK.items()}
    assert {name: pair for name, pair in differing.items() if pair[0] != pair[1].split("+")[0]} == {}


def test_torch_is_never_the_slow_one():
    (torch,) = (requirement for requirement in declared() if requirement.name == "torch")
    assert LOCK["torch"] == "2.13.0"
    assert not torch.specifier.contains("2.9.1") and torch.specifier.contains("2.4.0")


def test_the_study_runs_on_one_python_and_the_package_on_three():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert "python=3.11" in dependencies
    assert [line for entry in dependencies if isinstance(entry, dict) for line in entry["pip"]] == [
        "-r requirements.lock",
        "-e .",
    ]
    versions = SpecifierSet(PROJECT["requires-python"])
    assert [minor for minor in range(8, 20) if versions.contains(f"3.{minor}.5")] == [11, 12, 13]
    assert sys.version_info[:2] == (3, 11)


def imports(path):
    """Dotted names of the modules that a file imports, at its top and within functions."""
    return imports_of(ast.parse(path.read_text()))


def imports_of(tree):
    """Dotted names of the modules that a syntax tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{node.module}: relative imports are not ours"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("package", "extras"), [("airwaylib", ()), ("airwaystudy", ("study",))])
def test_every_library_that_a_package_imports_is_declared(package, extras):
    names = {canonicalize_name(requirement.name) for requirement in declared(*extras)}
    modules = [path for module, path in MODULES.items() if module.split(".")[0] == package]
    foreign = {name.split(".")[0] for path in modules for name in imports(path)} - set(sys.stdlib_module_names)
    owners = packages_distributions()
    assert {"numpy", "torch"} <= foreign
    declared_or_ours = {"airwaylib", "airwaystudy"} | {
        name for name in foreign if names & {canonicalize_name(owner) for owner in owners.get(name, [])}
    }
    assert foreign - declared_or_ours == set()


# -------------------------------------------------------------------------------------------------------- modules


def room(module):
    """Place of a module in `ROOMS`: -1 for airwaylib, above them all for what stands beside the rooms."""
    package, *parts = module.split(".")
    if package == "airwaylib":
        return -1
    return ROOMS.index(parts[0]) if parts and parts[0] in ROOMS else len(ROOMS)


def test_no_module_imports_upward():
    """airwaylib never imports the study, and a room of the study imports only its own and lower ones."""
    for module, path in MODULES.items():
        ours = {name for name in imports(path) if name.split(".")[0] in ("airwaylib", "airwaystudy")}
        open_to_rooms = {name for name in ours if name.startswith(("airwaystudy.home", "airwaystudy.parameters"))}
        if room(module) < 0:
            assert {name for name in ours if name.startswith("airwaystudy")} == set(), module
        above = {name for name in ours - open_to_rooms if room(name) > room(module) and name != "airwaystudy.home"}
        assert above == set(), f"{module} may not import {', '.join(sorted(above))}"


def test_imports_have_no_ring():
    left = {
        module: {other for name in imports(path) for other in (name, name.rpartition(".")[0]) if other in MODULES}
        for module, path in MODULES.items()
    }
    left = {module: others - {module} for module, others in left.items()}
    while left:
        ready = {module for module, others in left.items() if not others & set(left)}
        assert ready, f"a ring among {', '.join(sorted(left))}"
        left = {module: others for module, others in left.items() if module not in ready}


def test_every_module_has_its_tests():
    """Every module that holds code is imported by a test."""
    tested = {name for test in (ROOT / "tests").rglob("test_*.py") for name in imports(test)}
    tested |= {name.rpartition(".")[0] for name in tested}
    untested = set(MODULES) - tested - {name for name in MODULES if name.endswith(("__init__", "__main__", "errors"))}
    assert untested == set()


def test_the_command_starts_without_heavy_imports():
    code = "import sys, airwaystudy.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {"torch", "numpy", "scipy", "pandas", "monai", "zarr", "SimpleITK", "matplotlib", "skimage"}
    assert "airwaystudy.cli" in done.stdout.split()
    assert heavy & set(done.stdout.split()) == set()


# ------------------------------------------------------------------------------------------------------ notebooks


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks_and_each_is_run_by_a_test():
    tests = (ROOT / "tests" / "test_notebooks.py").read_text()
    assert NOTEBOOKS
    assert [path.name for path in NOTEBOOKS if path.name not in tests] == []


def test_notebook_is_valid_and_holds_no_results(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.source for cell in code_cells(notebook) if cell.outputs or cell.execution_count is not None] == []


def test_first_code_cell_alone_holds_the_parameters(notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code_cells(notebook)[:1]


def test_each_parameter_is_one_literal_with_a_comment(notebook):
    lines = code_cells(notebook)[0].source.splitlines()
    assert lines
    for line in lines:
        if line.startswith("# "):  # names a group of parameters
            continue
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name), line
        value = ast.literal_eval(statement.value)
        assert isinstance(value, str | bool | int | float | list | dict | None), f"{line}: papermill cannot inject it"
        tokens = tokenize.generate_tokens(io.StringIO(line).readline)
        comment = "".join(token.string for token in tokens if token.type == tokenize.COMMENT)
        assert len(comment) > 5, f"{line}: a comment must say what it means and its unit"
        assert line.count("=") == 1, f"{line}: papermill loses a parameter with a second ="


def test_the_small_runs_agree_where_they_should():
    """02's defaults are a run of study.yaml's quick, on larger crops and for longer; recipes/small.yaml is as wide."""
    cell = ast.parse(code_cells(nbformat.read(ROOT / "notebooks/02_train.ipynb", as_version=4))[0].source)
    defaults = {line.targets[0].id: ast.literal_eval(line.value) for line in cell.body}
    quick = next(iter(read_preset("quick").settings_by_run().values()))
    shared = ("train_cases", "test_cases", "label_threshold", "spacing", "width", "window", "learning_rate")
    assert {name: defaults[name] for name in shared} == {name: quick[name] for name in shared}
    assert all(defaults[name] > quick[name] for name in ("crop", "crops_per_case", "epochs"))
    assert yaml.safe_load((ROOT / "recipes/small.yaml").read_text())["width"] == defaults["width"]


def test_parameters_are_checked_before_heavy_imports(notebook):
    """The cell after the parameters imports what is light, so that a misspelt one is an error within seconds."""
    names = set(imports_of(ast.parse(code_cells(notebook)[1].source)))
    light = ("airwaystudy.home", "airwaystudy.parameters", "airwaystudy.training.config")
    assert [name for name in names if not name.startswith(light)] == []


# ---------------------------------------------------------------------------------------------------------- files


def tracked():
    """Files that git tracks, as paths below the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name]


def test_no_scans_no_pickles_nothing_large():
    names = tracked()
    assert "pyproject.toml" in names
    assert [name for name in names if re.search(FORBIDDEN, name, re.IGNORECASE)] == []
    assert [name for name in names if (ROOT / name).is_file() and (ROOT / name).stat().st_size > MOST_BYTES] == []


def test_make_study_has_everything_to_do_in_a_fresh_clone(tmp_path):
    """The reference run's tables and figures are committed: they must not pass for results of this clone."""
    tracked()
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, tmp_path / "clone"], check=True)
    shutil.copy(ROOT / "Snakefile", tmp_path / "clone")  # as it stands here, committed or not
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--", "runs"]
    done = subprocess.run(command, cwd=tmp_path / "clone", capture_output=True, text=True, check=True)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE))
    assert jobs["case"] == "11" and sum(name.startswith("train_") for name in jobs) == 15


def test_what_runs_leave_behind_is_ignored():
    tracked()
    left = ["data/phantoms/raw/mini_0000/ct.nii.gz", "data/phantoms/prepared/mini_0000.zarr/zarr.json"]
    left += ["results/quick/runs/dice/resume.pt", "results/quick/notebooks/02_train_dice.ipynb", ".tmp-x/half.png"]
    done = subprocess.run(["git", "check-ignore", *left], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == left
