"""One command reruns a study: it goes on after a kill, reports what failed, and makes nothing twice."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from airwaylib.errors import InputError
from airwaystudy import cli
from airwaystudy import home as study
from airwaystudy.plan import needs, reproduce
from airwaystudy.plan.reproduce import TimeLeft

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "phantoms": {"size": "mini", "train": "0", "test": "1"},
    "seeds": [0, 1],
    "settings": {"width": 1, "crop": 32, "crops_per_case": 4, "epochs": 2, "label_threshold": 0.6, "spacing": 1.0},
    "variants": {
        "final_dice": {"supervision": "final", "loss": "dice"},
        "both_general_union": {"supervision": "both", "loss": "general_union"},
    },
}


@pytest.fixture
def home(tmp_path):
    """A project with a tiny study and the repository's notebooks and Snakefile."""
    for name in ("Snakefile", "claims.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data/published.csv", tmp_path / "data")
    for name in ("notebooks", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"tiny": TINY}, sort_keys=False))
    return tmp_path


def start(home, *arguments):
    environment = os.environ | {"AIRWAYLIB_HOME": str(home)}
    command = [sys.executable, "-m", "airwaystudy", "reproduce", "tiny", "--cores", "2", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **streams)


def tables(home):
    return {name: pd.read_csv(home / f"results/tiny/tables/{name}.csv") for name in ("scores_by_case", "effects")}


@pytest.mark.slow
@pytest.mark.long
def test_a_study_killed_at_any_moment_ends_with_the_same_tables(home):
    (home / "study.yaml").write_text(yaml.safe_dump({"tiny": TINY | {"seeds": [0]}}, sort_keys=False))
    for seconds in (7, 12, 18, 26, 34):
        process = start(home)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    done = start(home)
    said = done.communicate()[0]
    assert done.returncode == 0, said
    found = tables(home)
    assert (home / "results/tiny/report.html").stat().st_size > 1e6
    stamp = (home / "results/tiny/report.html").stat().st_mtime_ns

    began = time.monotonic()
    again = start(home)
    assert again.communicate()[0].startswith("2 runs, 2 done before") and again.returncode == 0
    assert time.monotonic() - began < 60 and (home / "results/tiny/report.html").stat().st_mtime_ns == stamp

    shutil.rmtree(home / "results")
    undisturbed = start(home)
    said = undisturbed.communicate()[0]
    assert undisturbed.returncode == 0 and "2 of 2 runs" in said and "min left" in said
    for name, table in tables(home).items():
        pd.testing.assert_frame_equal(table, found[name])


@pytest.mark.slow
def test_a_failed_run_fails_its_line_and_not_the_study(home):
    broken = TINY | {"seeds": [0], "variants": TINY["variants"] | {"broken": {"learning_rate": 1e30}}}
    (home / "study.yaml").write_text(yaml.safe_dump({"tiny": broken}, sort_keys=False))
    done = start(home)
    said = done.communicate()[0]
    assert done.returncode == 2
    assert said.splitlines()[-1].startswith("airwaylib: runs that are not done: broken_0")
    assert "the loss is" in (home / "results/tiny/runs/broken_0/failed.txt").read_text()
    assert "broken_0" in (home / "results/tiny/report.html").read_text()
    runs = pd.read_csv(home / "results/tiny/tables/runs.csv").set_index("run")
    assert runs["status"].to_dict() == {"final_dice_0": "done", "both_general_union_0": "done", "broken_0": "failed"}


PAPERMILL = """# A stand-in that trains nothing: it leaves the run's scores, and its name.
import json, pathlib, sys
settings = json.loads(sys.argv[sys.argv.index("-y") + 1])
pathlib.Path(f"results/{settings['study']}/runs/{settings['run']}/scores.csv").write_text("case")
with open("order.txt", "a") as file:
    print(settings["run"], file=file)
"""


def test_runs_come_seed_by_seed_and_as_they_are_listed(home):
    variants = {name: {"loss": "dice"} for name in ("zero", "late", "early", "most")}
    variants["late"] = {"sampling": "hard_skeleton", "missed_by": "most"}  # must wait for the last of its seed
    (home / "study.yaml").write_text(yaml.safe_dump({"tiny": TINY | {"variants": variants}}, sort_keys=False))
    (home / "papermill.py").write_text(PAPERMILL)
    for case in ("mini_0000", "mini_0001"):
        (home / f"data/phantoms/prepared/{case}.zarr").mkdir(parents=True)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "preset=tiny", "--", "runs"]
    environment = os.environ | {"AIRWAYLIB_HOME": str(home)}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [f"{name}_{seed}" for seed in (0, 1) for name in ("zero", "early", "most", "late")]
    assert (home / "order.txt").read_text().split() == expected


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The tiny study's preset, and the calls of Snakemake, which does nothing."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"tiny": TINY}, sort_keys=False))
    monkeypatch.setattr(study, "HOME", tmp_path)
    monkeypatch.setattr(reproduce, "read_preset", lambda name: reproduce_preset(name, tmp_path / "study.yaml"))
    monkeypatch.setattr(needs, "training_seconds", lambda runs, threads, side_by_side: 3000 * len(runs))
    calls = []
    monkeypatch.setattr(reproduce, "snakemake", lambda arguments: calls.append(arguments) or 0)
    return tmp_path / "results/tiny/runs", calls


reproduce_preset = reproduce.read_preset


def finish(runs, *names):
    for name in names:
        (runs / name).mkdir(parents=True)
        (runs / name / "scores.csv").write_text("case\n")


def test_runs_first_then_the_report_of_what_is_done(tiny, capsys):
    runs, calls = tiny
    finish(runs, "final_dice_0", "both_general_union_0", "final_dice_1")
    assert reproduce.reproduce("tiny", cores=3) == ["both_general_union_1"]
    assert [call[-1] for call in calls] == ["runs", "report"]
    assert "--keep-going" in calls[0] and "--keep-going" not in calls[1]
    assert all(call[call.index("--cores") + 1] == "3" for call in calls)
    assert all(call[call.index("--resources") + 1] == "gpu=1" for call in calls)
    assert "not done: both_general_union_1" in capsys.readouterr().out


def test_some_runs_only(tiny):
    runs, calls = tiny
    finish(runs, "final_dice_1")
    assert reproduce.reproduce("tiny", ["final_dice_1"], options=["--profile", "p"]) == []
    assert "--resources" not in calls[0]  # a cluster has its own
    assert "runs=final_dice_1" in calls[0] and calls[0][calls[0].index("--profile") + 1] == "p"


def test_before_the_first_run_it_says_what_all_need(tiny, capsys):
    runs, _ = tiny
    finish(runs, "final_dice_1")
    with pytest.raises(InputError):
        reproduce.reproduce("tiny", ["final_dice_0"])
    said = capsys.readouterr().out.splitlines()[:2]
    assert said[0] == "1 runs, 0 done before"
    assert said[1] == (
        "1 run to train: each takes 1 CPU core and about 0.1 GB; 2 phantoms, 0.0 GB of disk; training takes about "
        "50 min on this CPU, by one timed step; data, scores and figures come on top"
    )
    reproduce.reproduce("tiny", ["final_dice_1"])
    assert "to train" not in capsys.readouterr().out


def test_runs_that_want_a_gpu_are_refused_without_one_unless_asked(tiny, monkeypatch, capsys):
    runs, calls = tiny
    (home := runs.parents[2]).joinpath("study.yaml").write_text(yaml.safe_dump({"tiny": TINY | {"gpus": 1}}))
    monkeypatch.setattr(needs, "gpu_is_visible", lambda: False)
    with pytest.raises(InputError) as caught:
        reproduce.reproduce("tiny")
    assert str(caught.value) == (
        "preset tiny: no GPU is visible. 4 runs to train: each takes 1 CPU core and about 0.1 GB on 1 GPU; 2 "
        "phantoms, 0.0 GB of disk. Without one, training takes about 3 h on this CPU, by one timed step. Give "
        "--profile for a cluster, or --cpu-anyway to start all the same"
    )
    assert calls == [] and not (home / "data").exists()
    finish(runs, "final_dice_1")
    assert len(reproduce.reproduce("tiny", cpu_anyway=True)) == 3
    assert len(reproduce.reproduce("tiny", options=["--profile", "p"])) == 3
    assert "depends on the nodes" in capsys.readouterr().out
    monkeypatch.setattr(needs, "gpu_is_visible", lambda: True)
    assert len(reproduce.reproduce("tiny")) == 3
    assert "on this GPU, by one timed step" in capsys.readouterr().out


def test_a_second_call_for_the_whole_study_says_that_the_first_is_at_work(tiny):
    runs, calls = tiny
    finish(runs, "final_dice_1")
    with (
        study.only_process(runs.parent),
        pytest.raises(InputError, match=r"results/tiny: process \d+ on .* is at work"),
    ):
        reproduce.reproduce("tiny")
    assert calls == []
    with study.only_process(runs.parent):  # some runs by name are made beside it
        assert reproduce.reproduce("tiny", ["final_dice_1"]) == []


def test_with_a_profile_this_machines_cores_are_no_limit(tiny):
    runs, calls = tiny
    finish(runs, "final_dice_1")
    for cores, given in ((None, [False]), (3, [True])):
        calls.clear()
        cli.reproduce("tiny", ["final_dice_1"], cores, Path("profiles/slurm"))
        assert ["--cores" in call for call in calls] == given * 2


def test_what_cannot_be_reproduced_is_told(tiny, monkeypatch):
    runs, _ = tiny
    with pytest.raises(InputError, match=r"no run 'dice': a run is a variant \(final_dice, both_general_union\)"):
        reproduce.reproduce("tiny", ["dice"])
    with pytest.raises(InputError, match="no preset 'large': choose one of tiny"):
        reproduce.reproduce("large")
    with pytest.raises(InputError, match="no run is done, so there is nothing to report"):
        reproduce.reproduce("tiny")
    finish(runs, "final_dice_0")
    monkeypatch.setattr(reproduce, "snakemake", lambda arguments: int(arguments[-1] == "report"))
    with pytest.raises(InputError, match="no report"):
        reproduce.reproduce("tiny")


def test_time_left_is_by_the_pace_of_the_runs_that_ended(tiny, monkeypatch, capsys):
    runs, _ = tiny
    monkeypatch.setattr(reproduce, "PAUSE", 0.05)
    finish(runs, "final_dice_0")
    preset = reproduce.read_preset("tiny")
    with TimeLeft(preset, list(preset.settings_by_run())) as left:
        left.started -= 120  # two minutes ago
        finish(runs, "both_general_union_0")
        time.sleep(0.3)
        finish(runs, "final_dice_1", "both_general_union_1")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "both_general_union_0 done: 2 of 4 runs after 2.0 min, about 4 min left for the others"
    assert {line.split()[0] for line in said[1:]} == {"final_dice_1", "both_general_union_1"}
