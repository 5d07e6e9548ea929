"""Build networks by name, and read and write their weights: our checkpoints and the authors' files.

A checkpoint is a safetensors file whose metadata name the network it belongs to. Nothing is ever unpickled.
"""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.inference import DEFAULT_WEIGHTS
from airwaylib.networks.fast import FastWingsNet
from airwaylib.networks.rivals import RIVALS
from airwaylib.networks.wingsnet import DECODER, WingsNet

# "wingsnet" is the fast form: all training and inference go through `build_network`. The plain `WingsNet` has the same
# parameters under the same names, so it loads the fast form's state and the other way round.
NETWORKS = {"wingsnet": FastWingsNet, **RIVALS}


def build_network(name: str, **parameters: Any) -> nn.Module:
    """Build the network `name` with its `parameters`; it maps an image (B, 1, D, H, W) to `wingsnet.GroupLogits`.

    Raises `InputError`: unknown network or parameter; the message lists the valid ones.

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
    """A checkpoint's metadata: its network, and the images the network was trained on."""

    network: str
    parameters: dict[str, Any]
    window: int  # side of the sliding window in voxels: the training crop's unless another was asked for
    spacing: float | None  # mm an image is resampled to before the network sees it; None keeps the native grid
    probability: float = 0.5  # at or above it a voxel is airway


def save_checkpoint(
    path: str | Path, network: nn.Module, info: CheckpointInfo, dtype: torch.dtype = torch.float32
) -> None:
    """Write the network's weights as `dtype` with `info` as safetensors metadata, atomically."""
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(path) as temporary:
        # One key: safetensors orders several at random, and equal networks must give equal bytes.
        # Serialised in memory and written by Python, so that a full disk raises OSError.
        about = {"airwaylib": json.dumps(vars(info), sort_keys=True)}
        temporary.write_bytes(safetensors.torch.save(weights, about))


def load_checkpoint(path: str | Path = DEFAULT_WEIGHTS) -> tuple[nn.Module, CheckpointInfo]:
    """Load the network of a checkpoint by `save_checkpoint`, in float32 and evaluation mode, and its metadata.

    path: a .safetensors file; by default the weights that come with the package, trained on synthetic CT.

    Raises `InputError`: no such file, not a safetensors file, not one of ours, or weights that do not fit the network
    it names.
    """
    path = _existing(path)
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
    """Load the weights of a checkpoint into `network`, which must have the same architecture.

    Raises `InputError`: as `load_checkpoint`; or the checkpoint belongs to another network.
    """
    former, info = load_checkpoint(path)
    try:
        network.load_state_dict(former.state_dict())
    except RuntimeError as error:
        raise InputError(
            f"{path}: a {info.network} with {info.parameters} cannot start this run; it needs the run's own network"
        ) from error


def load_author_checkpoint(path: str | Path, width: int = 8) -> WingsNet:
    """Load the authors' released weights as a WingsNet with both groups, in evaluation mode.

    Their file is {"state_dict": {name: tensor}}. A file with other Python objects is refused: reading it could run its
    code.

    Raises `InputError`: no such file, another kind of file, or weights that are missing, unexpected or of the wrong
    shape.
    """
    path = _existing(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly anything on a foreign file
        raise InputError(f"{path}: not a PyTorch file of plain tensors; no other is read, it could run code") from error
    state = loaded.get("state_dict") if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path}: must hold {{'state_dict': {{name: tensor}}}}, as the authors' files do")
    state = {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
    network = build_network("wingsnet", width=width)
    weights = network.state_dict()
    # The heads are told apart by their channels: 24 taps make the encoder's, 12 the decoder's.
    swapped = "dc0_0.0.weight" in state and state["dc0_0.0.weight"].shape[1:2] == (2 * len(DECODER),)
    names = {author_name(name, swapped): name for name in weights}
    problems = [f"{name} is missing" for name in names if name not in state]
    problems += [f"{name} is unexpected" for name in state if name not in names]
    for theirs, ours in names.items():
        if theirs in state and state[theirs].shape != weights[ours].shape:
            problems.append(f"{theirs} is {tuple(state[theirs].shape)}, not {tuple(weights[ours].shape)}")
    if problems:
        listed = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise InputError(f"{path}: not the authors' WingsNet of width {width}: {listed}")
    network.load_state_dict({ours: state[theirs] for theirs, ours in names.items()})
    return network.eval()


def author_name(name: str, swapped: bool = False) -> str:
    """Translate our parameter name to the authors'; `swapped` if their first head is the decoder's.

    Examples
    --------
    >>> author_name("ec4.gates.1.weight"), author_name("heads.encoder.bias")
    ('ec4.conv_se2.weight', 'dc0_0.0.bias')
    """
    renamed = {".conv.": ".conv1.", ".tap.": ".conv2.", ".gates.0.": ".conv_se.", ".gates.1.": ".conv_se2."}
    renamed |= {"heads.encoder.": f"dc0_{int(swapped)}.0.", "heads.decoder.": f"dc0_{int(not swapped)}.0."}
    for ours, theirs in renamed.items():
        name = name.replace(ours, theirs)
    return name


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint file")
    return Path(path)
