"""Device, optimiser and schedule of a training run."""

import math

import torch
from lightning_fabric import Fabric
from torch import nn

from airwaylib.config import TrainConfig
from airwaylib.errors import InputError


def learning_rate_at(config: TrainConfig, progress: float) -> float:
    """Learning rate at `progress` (0..1) through the training: cosine with 5 % linear warm-up, or steps by epoch."""
    if config.schedule == "steps":
        return config.learning_rate * 0.1 ** sum(progress * config.epochs >= end for end in config.milestones)
    warm_up = min(1.0, progress / 0.05 + 0.02)
    return config.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * progress))


def make_fabric(config: TrainConfig) -> Fabric:
    """Fabric for the device asked for; bf16 autocast where "auto" finds a GPU that is fast at it."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' asked for, but no CUDA device is visible; use device auto or cpu")
    cuda = config.device != "cpu" and torch.cuda.is_available()
    precision = config.precision
    if precision == "auto":
        precision = "bf16-mixed" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return Fabric(accelerator="cuda" if cuda else "cpu", devices=1, precision=precision)


def make_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9 (the authors hint at SGD; the paper does not say)."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), config.learning_rate, momentum=0.9, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
