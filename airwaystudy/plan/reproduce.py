"""One command reruns a study: Snakemake over papermill, first the runs, then the tables, figures and the report."""

import subprocess
import sys
import threading
import time

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.plan.presets import Preset, read_preset

PAUSE = 2.0  # seconds between looks at what is done


def reproduce(
    name: str, runs: list[str] | None = None, cores: int | None = 2, options: list[str] | None = None
) -> list[str]:
    """Make what is missing of preset `name`: its runs, or `runs` of them, and then the report of all that are done.

    Says after each run how long the others are likely to take. A run that fails does not keep the others back.

    Parameters
    ----------
    name, runs : str, list of str
        Preset of study.yaml, and names of some of its runs (None: all).
    cores : int, optional
        CPU cores to use, on a cluster: at most by a job (None: the profile says it).
    options : list of str, optional
        More options for Snakemake, such as `["--profile", "profiles/slurm"]`.

    Returns
    -------
    list of str
        The runs that are not done.

    Raises
    ------
    InputError
        No such preset or run; or no report could be made, since no run is done or a notebook fails.
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


def snakemake(arguments: list[str]) -> int:
    """Run Snakemake in the project's root; its exit status."""
    return subprocess.run([sys.executable, "-m", "snakemake", *arguments], cwd=home.HOME).returncode


def is_done(preset: Preset, run: str) -> bool:
    """Whether a run has been trained and scored."""
    return (home.run_folder(preset.study, run) / "scores.csv").exists()


class TimeLeft:
    """While the runs go on, print a line after each with the time that is left, by the pace so far."""

    def __init__(self, preset: Preset, runs: list[str]):
        self.preset, self.left = preset, [run for run in runs if not is_done(preset, run)]
        self.total, self.started, self.ended = len(runs), time.monotonic(), threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self):
        stands = self.total - len(self.left)
        print(f"{self.total} runs, {stands} done before", flush=True)
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
