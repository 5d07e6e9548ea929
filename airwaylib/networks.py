"""Networks by name, and checkpoints that know which network they belong to (safetensors; nothing is unpickled)."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from airwaylib.baselines import BASELINES
from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.wingsnet import WingsNet

NETWORKS = {"wingsnet": WingsNet, **BASELINES}


def build_network(name: str, **parameters: Any) -> nn.Module:
    """The network `name` with its `parameters`; it maps an image (B, 1, D, H, W) to `wingsnet.GroupLogits`.

    Raises
    ------
    InputError
        Unknown network or parameter; the message lists the valid ones.

    Examples
    --------
    >>> sum(p.numel() for p in build_network("wingsnet", width=8).parameters())
    1473186
    """
    if name not in NETWORKS:
        raise InputError(f"network {name!r} is unknown: choose one of {', '.join(NETWORKS)}")
    valid = inspect.signature(NETWORKS[name]).parameters
    unknown = [parameter for parameter in parameters if parameter not in valid]
    if unknown:
        raise InputError(f"network {name!r} has no parameter {unknown[0]!r}: it takes {', '.join(valid)}")
    return NETWORKS[name](**parameters)


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself: the network, and the images it was trained on."""

    network: str
    parameters: dict[str, Any]
    window: int  # side of the sliding window in voxels, the training crop's unless another was asked for
    spacing: float | None  # mm an image is resampled to before the network sees it; None keeps the native grid
    probability: float = 0.5  # at or above it a voxel is airway


def save_checkpoint(
    path: str | Path, network: nn.Module, info: CheckpointInfo, dtype: torch.dtype = torch.float32
) -> None:
    """Write the network's weights as `dtype` with `info` as safetensors metadata, atomically."""
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(path) as temporary:
        # One key: safetensors orders several at random, and equal networks must give equal bytes.
        # Written by Python: of a full disk, safetensors itself tells by an error of its own.
        about = {"airwaylib": json.dumps(vars(info), sort_keys=True)}
        temporary.write_bytes(safetensors.torch.save(weights, about))


def load_checkpoint(path: str | Path) -> tuple[nn.Module, CheckpointInfo]:
    """The network of a checkpoint by `save_checkpoint`, in float32, in evaluation mode, and what it says of itself.

    Raises
    ------
    InputError
        No such file, not a safetensors file, not one of ours, or weights that do not fit the network it names.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors checkpoint ({error})") from error
    if "airwaylib" not in metadata:
        raise InputError(f"{path}: holds no airwaylib metadata; give a checkpoint that airwaylib's training wrote")
    try:
        info = CheckpointInfo(**json.loads(metadata["airwaylib"]))
        network = build_network(info.network, **info.parameters)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: its metadata name no network of this version ({error})") from error
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise InputError(
            f"{path}: weights of another network than {info.network!r} ({len(wrong)} differ, first {wrong[0]})"
        )
    network.load_state_dict(weights)
    return network.eval(), info


def start_from(network: nn.Module, path: str | Path) -> None:
    """Give `network` the weights of the checkpoint at `path`, a network of the same architecture.

    Raises
    ------
    InputError
        As `load_checkpoint`; or the checkpoint is of another network.
    """
    former, info = load_checkpoint(path)
    try:
        network.load_state_dict(former.state_dict())
    except RuntimeError as error:
        raise InputError(
            f"{path}: a {info.network} with {info.parameters} cannot start this run; it needs the run's own network"
        ) from error
