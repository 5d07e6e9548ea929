"""Rerun a study by one command: Snakemake over papermill, first the runs, then the tables, figures and the report."""

import subprocess
import sys
import threading
import time
from contextlib import nullcontext

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.plan.presets import Preset, read_preset
from airwaystudy.training.config import Recipe

PAUSE = 2.0  # seconds between looks at what is done


def reproduce(
    name: str,
    runs: list[str] | None = None,
    cores: int | None = 2,
    options: list[str] | None = None,
    cpu_anyway: bool = False,
) -> list[str]:
    """Make what is missing of preset `name`: its runs, or `runs` of them, and then the report of all that are done.

    Prints before the first run what the runs need, and after each run the time left. A run that fails does not keep
    the others back.

    Raises `InputError`: no such preset or run; no GPU for runs that want one; another process that makes the whole
    study; or no report could be made, since no run is done or a notebook fails.

    Parameters
    ----------
    name, runs : str, list of str
        Preset of study.yaml, and names of some of its runs (None: all).
    cores : int, optional
        CPU cores to use, on a cluster: at most by a job (None: the profile says it).
    options : list of str, optional
        More options for Snakemake, such as `["--profile", "profiles/slurm"]`.
    cpu_anyway : bool
        Train runs that want a GPU on a CPU.

    Returns
    -------
    list of str
        The runs that are not done.
    """
    preset = read_preset(name)
    wanted = runs or list(preset.settings_by_run())
    if unknown := [run for run in wanted if run not in preset.settings_by_run()]:
        raise InputError(
            f"preset {name} has no run {unknown[0]!r}: a run is a variant ({', '.join(preset.variants)}) and a seed "
            f"({', '.join(map(str, preset.seeds))}), such as {next(iter(preset.settings_by_run()))}"
        )
    chosen = ["--config", f"preset={name}", *([f"runs={','.join(runs)}"] if runs else [])]
    common = ["--rerun-incomplete", "--nolock", "--quiet", "all", *(options or []), *chosen]
    common += ["--rerun-triggers", "mtime", "params", *(["--cores", str(cores)] if cores else [])]
    if not options:  # on one machine, runs that need a GPU take turns on the first one: nothing parcels out several
        common += ["--resources", "gpu=1"]
    # Some runs by name may be made beside others: each keeps its own folder.
    with home.only_process(home.results(preset.study)) if runs is None else nullcontext():
        tell_needs(preset, wanted, cores, cluster=bool(options), cpu_anyway=cpu_anyway)
        with TimeLeft(preset, wanted):
            snakemake(["--keep-going", *common, "--", "runs"])
        missing = [run for run in wanted if not is_done(preset, run)]
        if missing:
            print(f"not done: {', '.join(missing)}; why is in results/{preset.study}/runs/RUN/log.txt", flush=True)
        if len(missing) == len(wanted):
            raise InputError(f"preset {name}: no run is done, so there is nothing to report")
        print("tables, figures, claims and report ...", flush=True)
        if snakemake([*common, "--", "report"]):
            raise InputError(f"preset {name}: no report; the message of what failed is above")
    return missing


def tell_needs(preset: Preset, runs: list[str], cores: int | None, cluster: bool, cpu_anyway: bool) -> None:
    """Print how many runs are to be trained, what each needs and how long all take here.

    Raises `InputError`: the runs want a GPU and none is visible here, unless they go to a cluster or `cpu_anyway`.
    """
    settings = preset.settings_by_run()
    missing = [run for run in runs if not is_done(preset, run)]
    left = [stage for run in missing for stage in Recipe(**settings[run]).runs()]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} done before", flush=True)
    if not left:
        return
    from airwaystudy.plan import needs  # torch takes seconds to import

    needs.check_names(left)
    memory = max(map(needs.step_gigabytes, left))
    of_them = f"{len(missing)} run{'s' * (len(missing) > 1)} to train"
    cores_each = f"{preset.threads} CPU core{'s' * (preset.threads > 1)}"
    asked = f"{of_them}: each takes {cores_each} and about {max(memory, 0.1):.1f} GB"
    if preset.gpus:
        asked += f" on {preset.gpus} GPU" + ("s" if preset.gpus > 1 else "")
    if preset.phantoms is not None:
        cases = sum(map(len, preset.cases().values()))
        asked += f"; {cases} phantoms, {cases * needs.CASE_MB[preset.phantoms.size] / 1000:.1f} GB of disk"
    if cluster:
        print(f"{asked}; how long they take depends on the nodes", flush=True)
        return
    gpu = preset.gpus > 0 and needs.gpu_is_visible()
    side_by_side = 1 if preset.gpus else max(1, (cores or 1) // preset.threads)
    seconds = needs.training_seconds(left, min(preset.threads, cores or preset.threads), side_by_side)
    here = f"training takes about {needs.in_words(seconds)} on this {'GPU' if gpu else 'CPU'}, by one timed step"
    if preset.gpus and not gpu and not cpu_anyway:
        raise InputError(
            f"preset {preset.study}: no GPU is visible. {asked}. Without one, {here}. Give --profile for a cluster, "
            "or --cpu-anyway to start all the same"
        )
    print(f"{asked}; {here}; data, scores and figures come on top", flush=True)


def snakemake(arguments: list[str]) -> int:
    """Run Snakemake in the project's root; return its exit status."""
    return subprocess.run([sys.executable, "-m", "snakemake", *arguments], cwd=home.HOME).returncode


def is_done(preset: Preset, run: str) -> bool:
    """Return whether a run has been trained, and scored if it has test cases."""
    return home.path(preset.result(run)).exists()


class TimeLeft:
    """Print a line after each run, with the time that is left by the pace so far."""

    def __init__(self, preset: Preset, runs: list[str]):
        self.preset, self.left = preset, [run for run in runs if not is_done(preset, run)]
        self.total, self.started, self.ended = len(runs), time.monotonic(), threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def watch(self) -> None:
        """Look for runs that have ended, until all have or Snakemake has."""
        before = len(self.left)
        while self.left:
            ended = self.ended.wait(PAUSE)
            for run in [run for run in self.left if is_done(self.preset, run)]:
                self.left.remove(run)
                elapsed = time.monotonic() - self.started
                minutes = elapsed / (before - len(self.left)) * len(self.left) / 60
                done = f"{run} done: {self.total - len(self.left)} of {self.total} runs"
                print(f"{done} after {elapsed / 60:.1f} min, about {minutes:.0f} min left for the others", flush=True)
            if ended:
                return
