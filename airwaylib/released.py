"""The authors' released weights, read into our WingsNet: their program's names of the parameters beside ours."""

from pathlib import Path

import torch
from torch import Tensor

from airwaylib.errors import InputError
from airwaylib.wingsnet import DECODER, WingsNet


def load_author_checkpoint(path: str | Path, width: int = 8) -> WingsNet:
    """The authors' released weights, a file {"state_dict": ...}, as a WingsNet with both groups in evaluation mode.

    Only plain tensors are read: a file with Python objects is refused, since loading it could run its code.

    Raises
    ------
    InputError
        No such file, another kind of file, or weights that are missing, unexpected or of the wrong shape.
    """
    state = _read_state(Path(path))
    network = WingsNet(width)
    weights = network.state_dict()
    # The group heads are told apart by their channels: 24 taps make the encoder's, 12 the decoder's.
    swapped = "dc0_0.0.weight" in state and state["dc0_0.0.weight"].shape[1:2] == (2 * len(DECODER),)
    names = {_author_name(name, swapped): name for name in weights}
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


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly anything on a foreign file
        raise InputError(f"{path}: not a PyTorch file of plain tensors; no other is read, it could run code") from error
    state = loaded.get("state_dict") if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path}: must hold {{'state_dict': {{name: tensor}}}}, as the authors' files do")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def _author_name(name: str, swapped: bool) -> str:
    """The authors' name of our parameter `name`; `swapped` if their first group head is the decoder's."""
    renamed = {".conv.": ".conv1.", ".tap.": ".conv2.", ".gates.0.": ".conv_se.", ".gates.1.": ".conv_se2."}
    renamed |= {"heads.encoder.": f"dc0_{int(swapped)}.0.", "heads.decoder.": f"dc0_{int(not swapped)}.0."}
    for ours, theirs in renamed.items():
        name = name.replace(ours, theirs)
    return name
