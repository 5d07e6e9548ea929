"""One device or many: Fabric for what a run asks for, and what processes that share a step must exchange.

Processes are started by torchrun, see `launch`: each trains the whole network on its own crops, and Fabric's DDP
averages their gradients (NCCL between GPUs, gloo between processes of a CPU).
"""

import os
import warnings

import torch
from lightning_fabric import Fabric
from torch import Tensor

from airwaylib.errors import InputError
from airwaylib.inference.segment import choose_device
from airwaystudy.training.config import TrainConfig


def world_size() -> int:
    """Return the number of processes that torchrun started on all machines; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first_process() -> bool:
    """Return whether this is the first of torchrun's processes, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def make_fabric(config: TrainConfig) -> Fabric:
    """Fabric for the device asked for, one a process; bf16 autocast where "auto" finds a GPU that is fast at it.

    Raises
    ------
    InputError
        No such device, fewer of them than processes, or another number of processes than `devices`.
    """
    cuda = choose_device(config.device).type == "cuda"
    processes, here = world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if processes != config.devices:
        raise InputError(
            f"devices {config.devices}: {processes} processes are running; "
            f"type torchrun --nproc-per-node {config.devices} -m airwaystudy train ..."
        )
    if cuda and here > torch.cuda.device_count():
        raise InputError(f"devices {here}: only {torch.cuda.device_count()} CUDA devices are visible; ask for fewer")
    precision = config.precision
    if precision == "auto":
        precision = "bf16-mixed" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    several = {"strategy": "ddp", "num_nodes": processes // here} if processes > 1 else {}
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The `srun` command"
        )  # where Slurm is installed: we start processes ourselves
        fabric = Fabric(accelerator="cuda" if cuda else "cpu", devices=here, precision=precision, **several)
    if several:
        fabric.launch()  # torchrun has started the processes: this joins them
    return fabric


def gathered(tensor: Tensor, fabric: Fabric) -> Tensor:
    """(B, ...) of this process and the others', in the order of their ranks: (processes * B, ...).

    The paper's losses are one ratio over the whole batch, not a mean over its samples: every process computes that of
    all crops. The gradient flows to its own part alone. It is exact once the processes' gradients are added up; DDP
    takes their mean, so the loss goes to `backward` multiplied by their number.
    """
    if fabric.world_size == 1:
        return tensor
    parts = list(fabric.all_gather(tensor.detach()).unbind(0))
    parts[fabric.global_rank] = tensor
    return torch.cat(parts)
