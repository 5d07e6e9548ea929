"""The command line as a user meets it: results on success, one line and exit status 2 on bad input."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from tiny_cases import tiny_case

from airwaylib.images.volume import Volume, read_mask, read_volume, write_volume
from airwaylib.networks.checkpoints import CheckpointInfo, build_network, save_checkpoint
from airwaystudy import home as study
from airwaystudy.cli import main

INFO = CheckpointInfo("wingsnet", {"width": 1, "supervision": "both"}, 32, 1.0)


def started(*arguments):
    """Run the command in a process of its own; returns the finished process with its text."""
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "airwaystudy", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture
def airwaylib(capfd, monkeypatch):
    """Run the command in this process, which has imported everything: (*arguments, home) -> status and text."""

    def run(*arguments, home=None):
        if home:
            monkeypatch.setattr(study, "HOME", home)
        monkeypatch.setattr(sys, "argv", ["airwaylib", *map(str, arguments)])
        capfd.readouterr()
        status = None
        try:
            main()
        except SystemExit as ended:
            status = ended.code
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=status, stdout=out, stderr=err)

    return run


def refusal(done):
    """The one line on stderr of a command that refuses its input."""
    assert done.returncode == 2, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("airwaylib: ")
    return lines[0]


@pytest.fixture
def fails(airwaylib):
    return lambda *arguments, **options: refusal(airwaylib(*arguments, **options))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Folder of one phantom case, made by the command itself."""
    folder = tmp_path_factory.mktemp("cases")
    done = started("phantom", folder, "--cases", 1, "--seed", 3)
    assert done.returncode == 0, done.stderr
    return folder / "mini_0003"


@pytest.fixture(scope="module")
def slab(case, tmp_path_factory):
    """File of the case's middle, 40 of its 128 slices: segmented in a third of the time."""
    path = tmp_path_factory.mktemp("slab") / "ct.nii.gz"
    write_volume(read_volume(case / "ct.nii.gz").crop((slice(40, 80), slice(20, 108), slice(None))), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Checkpoint of an untrained network."""
    path = tmp_path_factory.mktemp("weights") / "checkpoint.safetensors"
    torch.manual_seed(0)
    save_checkpoint(path, build_network(INFO.network, **INFO.parameters), INFO)
    return path


def test_help_names_every_command():
    done = started("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("phantom", "prepare", "train", "segment", "evaluate", "tree"))


def test_phantom_makes_the_case_and_keeps_it(airwaylib, case):
    files = {"ct.nii.gz", "airway.nii.gz", "lung.nii.gz", "centreline.nii.gz", "tree.csv", "case.json"}
    assert {path.name for path in case.iterdir()} == files
    before = (case / "ct.nii.gz").stat().st_mtime_ns
    assert airwaylib("phantom", case.parent, "--seed", 3).returncode == 0
    assert (case / "ct.nii.gz").stat().st_mtime_ns == before


def test_prepare_then_train_then_segment(airwaylib, case, slab, tmp_path):
    """From files on disk to a mask on the CT's grid by three commands."""
    done = airwaylib("prepare", "phantom", case.parent, "--jobs", 1, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/data/phantoms/cases.csv: 1 cases, stores in ")
    settings = {"run": "r", "crop": 32, "crops_per_case": 2, "epochs": 9}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings | {"spacing": 1.0}))
    done = airwaylib("train", "--config", tmp_path / "run.yaml", "epochs=1", "width=1", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "epoch 1/1" in done.stdout
    checkpoint = tmp_path / "results/quick/runs/r/checkpoint.safetensors"
    out = tmp_path / "out.nii.gz"
    done = airwaylib("segment", slab, "-o", out, "--weights", checkpoint, "--probability", 0.05)
    assert done.returncode == 0, done.stderr
    assert read_mask(out).same_grid(read_volume(slab))
    assert "ml of airway" in done.stdout


@pytest.mark.parametrize("override", ["epochs={", "milestones=[60"])
def test_an_override_that_is_no_yaml_is_one_line(fails, override):
    assert f"{override!r}: the value is no valid YAML" in fails("train", override)


def test_segment_refuses_bad_cts(fails, case, weights, tmp_path):
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


def test_segment_refuses_bad_options(fails, case, weights, tmp_path):
    ct, out = case / "ct.nii.gz", tmp_path / "out.nii.gz"
    assert "probability" in fails("segment", ct, "-o", out, "--weights", weights, "--probability", 1.5)
    assert "device" in fails("segment", ct, "-o", out, "--weights", weights, "--device", "abacus")
    assert "no such checkpoint" in fails("segment", ct, "-o", out, "--weights", tmp_path / "none.safetensors")
    assert "out.png" in fails("segment", ct, "-o", tmp_path / "out.png", "--weights", weights)
    assert "ct.nii.gz" in fails("segment", ct, "-o", ct / "inside.nii.gz", "--weights", weights)
    assert "2 CTs given" in fails("segment", ct, ct, "-o", out, "--weights", weights)


def test_segment_writes_all_that_is_asked_for(airwaylib, slab, tmp_path):
    out, names = tmp_path / "out", {"--mesh": "a.stl", "--tree": "a.swc"}
    options = [word for option, name in names.items() for word in (option, out / name)]
    done = airwaylib("segment", slab, "-o", out / "a.nii.gz", "--samples", 2, *options)
    assert done.returncode == 0, done.stderr
    written = {"a.nii.gz", "a.stl", "a.swc", "a_uncertainty.nii.gz"}
    assert {path.name for path in out.iterdir()} == written
    assert {line.split(":")[0].split("/")[-1] for line in done.stdout.splitlines()} == written
    ct, spread = read_volume(slab), read_volume(out / "a_uncertainty.nii.gz")
    assert spread.same_grid(ct) and 0 < spread.array.max() < 0.8


def test_segment_checks_its_outputs_first(fails, case, weights, tmp_path):
    ct, out = case / "ct.nii.gz", ("-o", tmp_path / "a.nii.gz", "--weights", weights)
    assert "ct.nii.gz: a file; a DICOM" in fails("segment", ct, *out, "--dicom-seg", tmp_path / "a.dcm")
    assert "choose .stl or .ply" in fails("segment", ct, *out, "--mesh", tmp_path / "a.vtk")
    assert "a name of its own" in fails("segment", ct, *out, "--uncertainty", tmp_path / "a.nii.gz", "--samples", 2)
    assert "such as --samples 8" in fails("segment", ct, *out, "--uncertainty", tmp_path / "b.nii.gz")
    final = tmp_path / "final.safetensors"
    info = CheckpointInfo("wingsnet", {"width": 1, "supervision": "final"}, 32, 1.0)
    save_checkpoint(final, build_network(info.network, **info.parameters), info)
    message = fails("segment", ct, "-o", tmp_path / "a.nii.gz", "--weights", final, "--samples", 2)
    assert "final.safetensors: no uncertainty from this FastWingsNet" in message
    assert [path.name for path in tmp_path.iterdir()] == ["final.safetensors"]


def test_train_refuses_bad_settings(fails, tmp_path):
    assert "widht" in fails("train", "widht=4", home=tmp_path)
    assert "epochs" in fails("train", "epochs=many", home=tmp_path)
    assert "KEY=VALUE" in fails("train", "epochs", home=tmp_path)
    assert "none.yaml" in fails("train", "--config", tmp_path / "none.yaml", home=tmp_path)
    (tmp_path / "bad.yaml").write_text("a: [")
    assert "bad.yaml" in fails("train", "--config", tmp_path / "bad.yaml", home=tmp_path)
    assert "mini_0000" in fails("train", home=tmp_path)  # no such case
    assert not (tmp_path / "results").exists()


def test_prepare_and_phantom_refuse_bad_input(fails, tmp_path):
    assert "nowhere: no such folder" in fails("prepare", "folder", tmp_path / "nowhere", "-o", tmp_path / "out")
    assert "'atm' is unknown: choose one of bas" in fails("prepare", "atm", tmp_path, "-o", tmp_path / "out")
    assert "no cases of layout atm22" in fails("prepare", "atm22", tmp_path, "-o", tmp_path / "out")
    assert "s.yaml: cannot be read" in fails("prepare", "atm22", tmp_path, "--split", tmp_path / "s.yaml")
    assert "huge" in fails("phantom", tmp_path, "--size", "huge")
    (tmp_path / "file").write_text("in the way")
    assert "file" in fails("phantom", tmp_path / "file")


def test_prepare_a_folder_with_good_mended_and_bad_cases(airwaylib, fails, tmp_path):
    """What is good is done, the rest is named at the end, and a second call goes on from there."""
    ct, airway = tiny_case()
    for name in ("a", "b", "c", "d"):
        write_volume(ct, tmp_path / f"set/images/{name}_0000.nii.gz")
        write_volume(airway, tmp_path / f"set/labels/{name}.nii.gz")
    write_volume(Volume(airway.array.transpose(2, 1, 0)), tmp_path / "set/labels/b.nii.gz")
    (tmp_path / "set/images/c_0000.nii.gz").write_bytes(b"no image")
    (tmp_path / "split.yaml").write_text("train: [a, b]\nvalidation: [c]\ntest: [d]\n")
    arguments = ("prepare", "folder", tmp_path / "set", "-o", tmp_path / "out", "--split", tmp_path / "split.yaml")
    done = airwaylib(*arguments)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0] == "b: mended (label stored z as x: transposed)"
    assert lines[1].startswith("c: ") and "c_0000.nii.gz: damaged, or not a NIfTI-1 file" in lines[1]
    assert lines[2:] == ["airwaylib: cases left out: c"]
    assert done.stdout == f"{tmp_path}/out/cases.csv: 3 cases, stores in {tmp_path}/out/prepared\n"
    write_volume(ct, tmp_path / "set/images/c_0000.nii.gz")
    done = airwaylib(*arguments, "--jobs", 1)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "out/cases.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [
        ["a", "train"],
        ["b", "train"],
        ["c", "validation"],
        ["d", "test"],
    ]
    (tmp_path / "split.yaml").write_text("train: [a]\nvalid: [c]\n")
    assert "split.yaml: unknown key valid" in fails(*arguments)


def test_module_and_script_are_the_same_command():
    script = shutil.which("airwaylib", path=str(sys.prefix) + "/bin")
    assert script
    done = subprocess.run(
        [script, "--help"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "COLUMNS": "80"}
    )
    assert done.returncode == 0
    assert "segment" in done.stdout


def masks(folder, **stops):
    """A folder of tubes of 36 voxels or, by case, of so many fewer."""
    folder.mkdir()
    for name, stop in stops.items():
        mask = np.zeros((9, 9, 40), bool)
        mask[3:6, 3:6, 2:stop] = True
        write_volume(Volume(mask), folder / f"{name}.nii.gz")
    return folder


def test_evaluate_prints_a_table_and_writes_files(airwaylib, tmp_path):
    predictions, references = masks(tmp_path / "p", a=20, b=38), masks(tmp_path / "r", a=38, b=38)
    files = {f"--{kind}": tmp_path / f"out/scores.{kind}" for kind in ("json", "csv", "latex")}
    options = [word for pair in files.items() for word in pair]
    done = airwaylib("evaluate", predictions, references, "--convention", "exact09", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("convention exact09; percent")
    assert "100.00" in done.stdout
    document = json.loads(files["--json"].read_text())
    assert [case["case"] for case in document["cases"]] == ["a", "b"]
    assert len(files["--csv"].read_text().splitlines()) == 3
    assert files["--latex"].read_text().startswith(r"\begin{tabular}")


def test_evaluate_refuses_what_it_cannot_score(fails, tmp_path):
    predictions, references = masks(tmp_path / "p", a=20), masks(tmp_path / "r", a=38, b=38)
    assert f"{predictions} lacks b" in fails("evaluate", predictions, references)
    one = (predictions / "a.nii.gz", references / "a.nii.gz")
    assert "choose one of paper, atm22" in fails("evaluate", *one, "--convention", "x")
    assert "add --convention exact09" in fails("evaluate", *one, "--latex", tmp_path / "t.tex")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in fails("evaluate", *one, "--json", tmp_path / "file/o.json")


def test_outputs_are_checked_before_the_work(fails, tmp_path):
    one = [masks(tmp_path / name, a=38) / "a.nii.gz" for name in ("p", "r")]
    assert "is a folder; give the name of a file" in fails("evaluate", *one, "--json", tmp_path)
    same = tmp_path / "o.txt"
    assert "several outputs have this name" in fails("evaluate", *one, "--json", same, "--csv", same)
    assert "'x' is unknown" in fails("evaluate", *one, "--convention", "x", "--json", tmp_path / "new/o.json")
    assert "give one mask file" in fails("tree", tmp_path / "p", "-o", tmp_path / "new/o.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"p", "r"}  # nothing is left behind


def test_evaluate_takes_a_subset_and_names_the_rest(airwaylib, tmp_path):
    predictions, references = masks(tmp_path / "p", a=20), masks(tmp_path / "r", a=38, b=38)
    done = airwaylib("evaluate", predictions, references, "--subset")
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "references without a prediction: b"


def test_evaluate_keeps_the_scores_of_good_cases(airwaylib, tmp_path):
    predictions, references = masks(tmp_path / "p", a=20, b=38), masks(tmp_path / "r", a=38, b=38)
    (predictions / "b.nii.gz").write_bytes(b"no image")
    done = airwaylib("evaluate", predictions, references, "--csv", tmp_path / "scores.csv")
    assert done.returncode == 2
    assert "cases left out: b: " in done.stderr
    assert "Traceback" not in done.stderr
    assert [line.split(",")[0] for line in (tmp_path / "scores.csv").read_text().splitlines()] == ["case", "a"]


def test_evaluate_says_that_a_prediction_is_empty(airwaylib, tmp_path):
    predictions, references = masks(tmp_path / "p", a=2), masks(tmp_path / "r", a=38)
    done = airwaylib("evaluate", predictions / "a.nii.gz", references / "a.nii.gz")
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "a: the prediction is empty: it scores 0"


@pytest.mark.parametrize("suffix", [".csv", ".json", ".swc", ".vtp"])
def test_tree_writes_a_mask_s_branches(airwaylib, case, tmp_path, suffix):
    done = airwaylib("tree", case / "airway.nii.gz", "-o", tmp_path / f"tree{suffix}")
    assert done.returncode == 0, done.stderr
    assert "branches" in done.stdout
    assert (tmp_path / f"tree{suffix}").stat().st_size > 1000


@pytest.mark.parametrize("picture", ["tree.png", "tree.html"])
def test_tree_draws_it(airwaylib, case, tmp_path, picture):
    done = airwaylib("tree", case / "airway.nii.gz", "-o", tmp_path / "tree.csv", "--picture", tmp_path / picture)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / picture).stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"tree.csv", picture}


def test_branches_lost_by_thinning_are_told_in_one_line(tmp_path):
    """In a process of its own: pytest keeps warnings from stderr."""
    mask = np.zeros((9, 60, 60), bool)
    mask[3:5, 10:58, 28:30] = mask[3:5, 10:12, 2:58] = True  # a T, 2 voxels wide
    write_volume(Volume(mask), tmp_path / "even.nii.gz")
    for done in (
        started("tree", tmp_path / "even.nii.gz", "-o", tmp_path / "tree.csv"),
        started("evaluate", tmp_path / "even.nii.gz", tmp_path / "even.nii.gz"),
    ):
        assert done.returncode == 0
        (line,) = done.stderr.splitlines()
        assert re.fullmatch(r"airwaylib: \d+ % of the mask lie far from its centreline, so whole branches .*", line)


def test_tree_refuses_what_it_cannot_write_or_read(fails, case, tmp_path):
    assert "suffix '.xls' is unknown" in fails("tree", case / "airway.nii.gz", "-o", tmp_path / "tree.xls")
    out = ("-o", tmp_path / "tree.csv")
    assert "suffix '.gif' is unknown" in fails("tree", case / "airway.nii.gz", *out, "--picture", tmp_path / "a.gif")
    assert "not a binary mask" in fails("tree", case / "ct.nii.gz", *out)
    assert list(tmp_path.iterdir()) == []


def test_scoring_starts_without_torch():
    code = "import sys, airwaystudy.cli, airwaylib.metrics.cases, airwaylib.trees.files; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "monai", "matplotlib", "skimage"} & set(done.stdout.split()) == set()
