"""Optimiser and schedule of a training run, and its deterministic mode."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from airwaystudy.training.config import TrainConfig


def learning_rate_at(config: TrainConfig, progress: float) -> float:
    """Learning rate at `progress` (0..1) through the training: cosine with 5 % linear warm-up, or steps by epoch."""
    if config.schedule == "steps":
        return config.learning_rate * 0.1 ** sum(round(progress * config.epochs, 6) >= end for end in config.milestones)
    warm_up = min(1.0, progress / 0.05 + 0.02)
    return config.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9 (the authors hint at SGD; the paper does not say)."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), config.learning_rate, momentum=0.9, weight_decay=config.weight_decay
        )
    # Fused: one pass over all parameters instead of some ten small operations each.
    return torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True)


@contextmanager
def make_deterministic(enabled: bool = True) -> Iterator[None]:
    """Within this context PyTorch uses only algorithms that give the same bits on every run; afterwards as before.

    On a CPU with a fixed number of threads, all that is used here repeats anyway. On CUDA it takes PyTorch's flags,
    cuDNN without its search for the fastest algorithm, a fixed workspace of cuBLAS, and other forms of
    `layers.max_pool` and `layers.upsample`. An operation without a deterministic form raises RuntimeError and names
    itself. Equal bits are promised for one kind of GPU and one version of the libraries only.

    Enter it before the process's first CUDA operation: cuBLAS reads the size of its workspace once.

    Parameters
    ----------
    enabled : bool
        False changes nothing.

    Examples
    --------
    >>> with make_deterministic():
    ...     torch.are_deterministic_algorithms_enabled()
    True
    """
    if not enabled:
        yield
        return
    cudnn, variable = torch.backends.cudnn, "CUBLAS_WORKSPACE_CONFIG"
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags, workspace = (cudnn.deterministic, cudnn.benchmark), os.environ.get(variable)
    fills = torch.utils.deterministic.fill_uninitialized_memory
    try:
        if workspace not in (":4096:8", ":16:8"):  # the two that cuBLAS calls deterministic
            os.environ[variable] = ":4096:8"
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, and nothing here reads such memory
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = flags
        torch.utils.deterministic.fill_uninitialized_memory = fills
        if workspace is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = workspace
