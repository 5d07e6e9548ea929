"""What a WingsNet is made of, read off the network itself while it runs: blocks, scales, taps, groups, parameters."""

import pandas as pd
import torch
from torch import Tensor, nn

from airwaylib.errors import InputError
from airwaylib.wingsnet import COARSEST, WingsNet

SIDE = 2 * COARSEST  # voxels of the image that is passed through


def blocks_of(network: nn.Module) -> pd.DataFrame:
    """One row a block, in the order they run.

    Columns: `block`; `scale` (voxels of the image to one of the block's, along an axis); `inputs`, `outputs`
    (channels); `kernel`, `dilation`; `gates`; `taps` (channels); `groups` (those that its tap feeds, comma-separated);
    `skip_from` (the block whose output comes in beside the one before; empty: none); `parameters`, and of them
    `conv_parameters`, `gate_parameters`, `tap_parameters`.

    Raises
    ------
    InputError
        The network is no WingsNet.

    Examples
    --------
    >>> blocks_of(WingsNet(width=8)).loc[12:12, ["block", "scale", "inputs", "outputs", "skip_from"]].to_dict("records")
    [{'block': 'dc1', 'scale': 4, 'inputs': 128, 'outputs': 64, 'skip_from': 'ec9'}]
    """
    if not isinstance(network, WingsNet):
        raise InputError(f"network {type(network).__name__}: the architecture of a WingsNet alone can be read")
    seen = run_through(network)
    rows = []
    for name, (inputs, output) in seen.items():
        block, before = network.get_submodule(name), {id(out): other for other, (_, out) in seen.items()}
        counts = [count(part) for part in (block.conv, block.gates, block.tap)]
        rows.append(
            {
                "block": name,
                "scale": SIDE // output.shape[2],
                "inputs": sum(part.shape[1] for part in inputs),
                "outputs": output.shape[1],
                "kernel": block.conv.kernel_size[0],
                "dilation": block.conv.dilation[0],
                "gates": len(block.gates),
                "taps": block.tap.out_channels if block.tap is not None else 0,
                "groups": ",".join(group for group, names in network.groups.items() if name in names),
                "skip_from": before.get(id(inputs[1]), "") if len(inputs) > 1 else "",
                "parameters": sum(counts),
                **dict(zip(("conv_parameters", "gate_parameters", "tap_parameters"), counts, strict=True)),
            }
        )
    return pd.DataFrame(rows)


def groups_of(network: WingsNet) -> pd.DataFrame:
    """One row a supervised group: `group`, `blocks`, `channels` (of its taps), `parameters` (of its head; 0: none)."""
    rows = []
    for group, names in network.groups.items():
        channels = sum(network.get_submodule(name).tap.out_channels for name in names)
        head = count(network.heads[group]) if group in network.heads else 0
        rows.append({"group": group, "blocks": len(names), "channels": channels, "parameters": head})
    return pd.DataFrame(rows)


def run_through(network: WingsNet) -> dict[str, tuple[tuple[Tensor, ...], Tensor]]:
    """Inputs and output of every block, in the order they run, of an empty image of SIDE voxels along each axis."""
    seen: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs, output)}))
        for name, module in network.named_children()
        if name != "heads"
    ]
    device = next(network.parameters()).device
    was_training = network.training
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 1, SIDE, SIDE, SIDE, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    return seen


def count(part: nn.Module | None) -> int:
    """Parameters of a part of the network; none, if it is not there."""
    return sum(parameter.numel() for parameter in part.parameters()) if part is not None else 0
