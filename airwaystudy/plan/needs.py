"""Estimate, before anything starts, what the runs of a study need and how long they train on this machine."""

import os
import time
from collections.abc import Iterable

import torch

from airwaylib.errors import InputError
from airwaylib.losses.general_union import general_union_weight
from airwaylib.losses.table import WEIGHTED, loss_by_name
from airwaylib.networks.checkpoints import build_network
from airwaylib.networks.supervision import as_group_logits, group_losses
from airwaystudy.training.config import TrainConfig
from airwaystudy.training.devices import make_fabric
from airwaystudy.training.optimisation import make_optimizer

STEP_BYTES = 370  # of a training step, a voxel of the crops and channel of the width: 0.77 GB at 64^3 and width 8
CASE_MB = {
    "mini": 5,
    "thin": 5,
    "chest": 140,
}  # on disk: a phantom (mini_0000: 3, chest_0000: 72) and its training store
TIMED_SIDE = 32  # voxels; on a CPU, a step on larger crops is estimated from this one


def training_steps(run: TrainConfig) -> int:
    """Return the number of optimiser steps of a run that is not stopped early."""
    return run.epochs * -(-len(run.train_cases) * run.crops_per_case // run.batch_size)


def step_gigabytes(run: TrainConfig) -> float:
    """Return the memory of one training step, GB, by the size of its crops and the network's width."""
    return STEP_BYTES * run.width * run.batch_size * run.crop**3 / 1e9


def check_names(runs: Iterable[TrainConfig]) -> None:
    """Raise `InputError` for a loss or a network that does not exist or has no such parameter, in any of the runs."""
    for run in runs:
        try:
            loss_by_name(run.loss, **run.loss_parameters)
            build_network(run.network, **run.network_parameters)
        except InputError as error:
            raise InputError(f"{run.run}: {error}") from error


def gpu_is_visible() -> bool:
    """Return whether PyTorch sees a CUDA device."""
    return torch.cuda.is_available()


def seconds_of_a_step(run: TrainConfig, threads: int) -> float:
    """Time one training step of a run here, on random voxels: on its GPU, or on `threads` cores.

    On a CPU a step on crops over 32^3 is not waited for: it is taken to last as much longer as it has more voxels.
    """
    fabric = make_fabric(run.model_copy(update={"devices": 1}))
    cuda = fabric.device.type == "cuda"
    side = run.crop if cuda else min(run.crop, TIMED_SIDE)
    network = build_network(run.network, **run.network_parameters)
    network, optimizer = fabric.setup(network, make_optimizer(run, network))
    loss = loss_by_name(run.loss, **run.loss_parameters)
    image, distance = torch.rand(2, run.batch_size, 1, side, side, side, device=fabric.device)
    label = (distance > 0.9).float()
    weight = general_union_weight(distance, label, **run.weight_parameters) if run.loss in WEIGHTED else None
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(threads, os.cpu_count() or 1)))
    try:
        for _ in range(2):  # the first one also sets things up
            started = time.monotonic()
            decoder, encoder = group_losses(as_group_logits(network(image)), loss, label, weight)
            fabric.backward(decoder + encoder)
            optimizer.step()
            optimizer.zero_grad()
            if cuda:
                torch.cuda.synchronize()
            seconds = time.monotonic() - started
    finally:
        torch.set_num_threads(before)
    return seconds * (run.crop / side) ** 3


def training_seconds(runs: Iterable[TrainConfig], threads: int, side_by_side: int) -> float:
    """Estimate how long runs train here, `side_by_side` at a time, by one timed step of the first of them."""
    runs = list(runs)
    if not runs:
        return 0.0
    size = runs[0].crop ** 3 * runs[0].batch_size
    step = seconds_of_a_step(runs[0], threads)
    works = [training_steps(run) * run.crop**3 * run.batch_size / size for run in runs]
    return max(sum(works) / side_by_side, max(works)) * step


def in_words(seconds: float) -> str:
    """Return a length of time as it is said: minutes, hours or days.

    Examples
    --------
    >>> in_words(20), in_words(1500), in_words(5 * 3600), in_words(3000 * 86400)
    ('under a minute', '25 min', '5 h', '3,000 days')
    """
    if seconds < 60:
        return "under a minute"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 3 * 86400 else f"{seconds / 86400:,.0f} days"
