"""Train a recipe: in this process, or in one process a device by torchrun.

`devices: N` starts torchrun here, since a study trains by notebooks, which torchrun cannot start. On several machines,
type on each of them:
`torchrun --nnodes N --nproc-per-node DEVICES --rdzv-backend c10d --rdzv-endpoint HOST:PORT -m airwaystudy train ...`.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from airwaylib.errors import InputError
from airwaylib.losses.table import loss_by_name
from airwaylib.networks.checkpoints import build_network, load_checkpoint
from airwaystudy import home
from airwaystudy.training.config import Recipe, TrainConfig
from airwaystudy.training.devices import is_first_process, world_size
from airwaystudy.training.run import train as train_run


def train(recipe: Recipe) -> list[dict[str, Any]]:
    """Train every stage of `recipe` on its `devices`, or finish them; return the summary of each stage.

    Under torchrun, `devices` is the number of processes that it started.

    Raises
    ------
    InputError
        As `training.train`; fewer devices than asked for; or training failed in the processes started here.
    """
    if "WORLD_SIZE" in os.environ:
        return train_stages(recipe.model_copy(update={"devices": world_size()}))
    if recipe.devices == 1:
        return train_stages(recipe)
    cuda = recipe.device != "cpu" and torch.cuda.is_available()
    if cuda and recipe.devices > torch.cuda.device_count():
        raise InputError(f"devices {recipe.devices}: only {torch.cuda.device_count()} CUDA devices are visible")
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "recipe.yaml"
        home.write_json(settings, recipe.model_dump())  # JSON is YAML
        run_processes(recipe.devices, ["-m", "airwaystudy", "train", "--config", str(settings)])
    return [home.read_json(run.folder / "summary.json") for run in recipe.runs()]


def train_stages(recipe: Recipe) -> list[dict[str, Any]]:
    """Train the unfinished stages in this process, in their order; return the summary of each."""
    runs, summaries = recipe.runs(), []
    refuse_what_would_fail_later(runs)
    for number, run in enumerate(runs, 1):
        if len(runs) > 1 and is_first_process():
            print(f"stage {number} of {len(runs)}: {run.run}", flush=True)
        summaries.append(train_run(run))
    return summaries


def refuse_what_would_fail_later(runs: list[TrainConfig]) -> None:
    """Raise `InputError` for a name that a later stage would stumble over, before the first one is trained."""
    made = set()
    for run in runs:
        loss_by_name(run.loss, **run.loss_parameters)
        build_network(run.network, **run.network_parameters)
        former = run.missed_by
        if former and former not in made and not (home.run_folder(run.study, former) / "summary.json").exists():
            raise InputError(f"{run.run}: missed_by {former!r} is no earlier stage and no finished run of this study")
        if run.start and home.path(run.start).parent not in {home.run_folder(run.study, name) for name in made}:
            load_checkpoint(home.path(run.start))
        made.add(run.run)


def run_processes(count: int, program: list[str]) -> None:
    """Run `program` in `count` processes of this machine, and print what they print, in a notebook, too."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"OMP_NUM_THREADS": threads} | os.environ | {"AIRWAYLIB_HOME": str(home.HOME)}
    fault, streams = None, {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([*torchrun, *program], env=environment, **streams) as process:
        try:
            for line in process.stdout:
                if fault is None and line.startswith("airwaylib: "):
                    fault = line.removeprefix("airwaylib: ").strip()  # what follows is torchrun's account of it
                elif fault is None:
                    print(line, end="", flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise InputError(fault or f"training in {count} processes failed, see above")
