"""Profiles for clusters: options that Snakemake knows, what jobs ask for, and a tiny study through a real Slurm."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from snakemake.cli import get_argument_parser

ROOT = Path(__file__).resolve().parents[1]
PROFILES = {"slurm": "slurm", "kubernetes": "cluster-generic"}  # and their executors
TINY = {
    "phantoms": {"size": "mini", "train": "0", "test": "1"},
    "seeds": [0],
    "settings": {"width": 1, "crop": 32, "crops_per_case": 4, "epochs": 1, "label_threshold": 0.6, "spacing": 1.0},
    "variants": {
        "final_dice": {"supervision": "final", "loss": "dice"},
        "both_general_union": {"supervision": "both", "loss": "general_union"},
    },
}
PRESETS = {"tiny": TINY, "on_gpus": TINY | {"gpus": 2, "threads": 4}}


def read(profile):
    return yaml.safe_load((ROOT / "profiles" / profile / "config.yaml").read_text())


def plugin(profile):
    """Skip where the executor's plugin is not installed."""
    if find_spec(f"snakemake_executor_plugin_{PROFILES[profile].replace('-', '_')}") is None:
        pytest.skip(f"no snakemake-executor-plugin-{PROFILES[profile]}: docs/cluster.md says how to install it")


@pytest.fixture
def home(tmp_path):
    """A project with tiny studies and the repository's notebooks, Snakefile and profiles."""
    for name in ("Snakefile", "claims.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("notebooks", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(PRESETS, sort_keys=False))
    return tmp_path


def snakemake(home, *arguments):
    environment = os.environ | {"AIRWAYLIB_HOME": str(home)}
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)


def asked_for(said):
    """What the jobs of a dry run ask for: rule -> {resource: value}, threads too."""
    found = {}
    for rule, about in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", said, re.MULTILINE):
        resources = dict(re.findall(r"(\w+)=([^,\s]+)", re.search(r"resources: (.*)", about)[1]))
        threads = re.search(r"threads: (\d+)", about)
        found[rule] = resources | {"threads": threads[1] if threads else "1"}
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_options_are_snakemakes_or_its_executors(profile):
    known = {option.lstrip("-") for action in get_argument_parser()._actions for option in action.option_strings}
    options = read(profile)
    assert options["executor"] == PROFILES[profile]
    prefix = f"{PROFILES[profile]}-"  # the plugin's own, which the dry run checks where it is installed
    assert [name for name in options if name not in known and not name.startswith(prefix)] == []


@pytest.mark.parametrize("profile", PROFILES)
def test_profile_is_about_rules_there_are(profile):
    rules = set(re.findall(r"^rule (\w+):", (ROOT / "Snakefile").read_text(), re.MULTILINE))
    options = read(profile)
    assert set(options["set-resources"]) == rules - {"runs", "report"}  # which start nothing; the rest are runs
    for resources in (options["default-resources"], *options["set-resources"].values()):
        assert {"mem_mb", "runtime"} <= set(resources)


@pytest.mark.parametrize("profile", PROFILES)
def test_readme_pins_what_the_profile_needs(profile):
    """The plugins are left out of requirements.lock: who computes on one machine does not need them."""
    readme = (ROOT / "docs/cluster.md").read_text()
    assert re.search(rf"pip install .*snakemake-executor-plugin-{PROFILES[profile]}==\d[\d.]*", readme)


@pytest.mark.parametrize("profile", PROFILES)
def test_jobs_ask_for_memory_time_and_the_presets_gpus(home, profile):
    plugin(profile)
    for preset, gpus, threads in (("tiny", "0", "1"), ("on_gpus", "2", "4")):
        dry = ["--dry-run", "--profile", f"profiles/{profile}", "--config", f"preset={preset}"]
        done = snakemake(home, *dry, "--", "runs")
        assert done.returncode == 0, done.stdout + done.stderr
        jobs = asked_for(done.stdout + done.stderr)
        assert (jobs["train_final_dice_0"].get("gpu"), jobs["train_final_dice_0"]["threads"]) == (gpus, threads)
        assert (jobs["train_final_dice_0"]["mem_mb"], jobs["train_final_dice_0"]["runtime"]) == ("16000", "1440")
        assert (jobs["case"]["mem_mb"], jobs["case"]["runtime"]) == ("8000", "120")
        assert jobs["case"].get("gpu", "0") == "0"


def test_gpus_limit_the_runs_side_by_side_on_one_machine(home):
    """`--resources gpu=N` counts the same resource: a run that asks for more than there is gets what there is."""
    done = snakemake(home, "-n", "--cores", "8", "--resources", "gpu=1", "--config", "preset=on_gpus", "--", "runs")
    jobs = asked_for(done.stdout + done.stderr)
    assert jobs["train_final_dice_0"]["gpu"] == "1" and "gpu" not in jobs["case"]


KUBECTL = """#!/bin/sh
# A stand-in that keeps what it is told, and knows of one Job that is done, one that failed and one that goes on.
echo "$@" >> told
case "$1 $3" in
"create "*) cat > job.yaml; printf airwaylib-abcde ;;
"get done") echo SuccessCriteriaMet Complete ;;
"get failed") echo FailureTarget Failed ;;
"get lost") exit 1 ;;
esac
"""


def test_jobs_of_kubernetes_say_what_snakemake_asks(tmp_path):
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "AIRWAYLIB_CLAIM": "lungs"}

    def job(*arguments):
        command = [ROOT / "profiles/kubernetes/job", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert job("submit", "4", "16000", "2", "1440", "/project/a job.sh") == "airwaylib-abcde"
    spec = yaml.safe_load((tmp_path / "job.yaml").read_text())["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["activeDeadlineSeconds"] == 24 * 60 * 60 and spec["backoffLimit"] == 0
    assert container["command"] == ["/bin/sh", "/project/a job.sh"] and container["workingDir"] == str(tmp_path)
    assert container["resources"]["limits"] == {"memory": "16000M", "nvidia.com/gpu": "2"}
    assert container["resources"]["requests"] == {"cpu": "4", "memory": "16000M"}
    mounted = {volume["name"] for volume in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert spec["template"]["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "lungs"}
    assert [job("status", name) for name in ("done", "failed", "lost", "new")] == [
        "success",
        "failed",
        "running",
        "running",
    ]
    job("one", "two")
    assert (tmp_path / "told").read_text().splitlines()[-1] == "delete job --ignore-not-found --wait=false one two"


@pytest.mark.slow
def test_a_tiny_study_through_slurm(home):
    plugin("slurm")
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no Slurm that answers (sinfo)")
    path = home / "profiles/slurm/config.yaml"
    trial = read("slurm") | {"seconds-between-status-checks": 5, "slurm-init-seconds-before-status-checks": 5}
    trial["slurm-keep-successful-logs"] = True
    trial["default-resources"] = {"mem_mb": 2000, "runtime": 30}
    trial["cores"] = os.cpu_count()
    del trial["set-resources"]
    if subprocess.run(["sacct"], capture_output=True).returncode:
        trial["slurm-status-command"] = "squeue"
    path.write_text(yaml.safe_dump(trial))
    options = ["--profile", "profiles/slurm", "--nolock", "--rerun-triggers", "mtime", "--config", "preset=tiny", "--"]
    for target in ("runs", "report"):
        done = snakemake(home, *options, target)
        assert done.returncode == 0, done.stdout + done.stderr
    assert all((home / f"results/tiny/runs/{run}_0/scores.csv").exists() for run in TINY["variants"])
    assert (home / "results/tiny/report.html").stat().st_size > 1e6
    # A log of Slurm's for each: two cases, two runs, tables, figures.
    logs = [next(part for part in log.parts if part.startswith("rule_")) for log in home.rglob("slurm_logs/**/*.log")]
    expected = ["rule_ablations", "rule_case", "rule_case", "rule_figures"]
    assert sorted(logs) == [*expected, "rule_train_both_general_union_0", "rule_train_final_dice_0"]
