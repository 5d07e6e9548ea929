"""Tabulate WingsNet's blocks and groups, and draw them: the U of blocks, the taps, the groups."""

import itertools

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import nn

from airwaylib.errors import InputError
from airwaylib.networks.wingsnet import BLOCKS, ENCODER, WingsNet
from airwaystudy.figures.style import BLUE, GREY, ORANGE, VERMILION

HALF_WIDTH, HALF_HEIGHT = 0.42, 0.33  # of a block's box; blocks are 1 apart, levels LEVEL apart
LEVEL = 1.45
LOOKS = {"encoder": (ORANGE, "--"), "decoder": (BLUE, "-"), "half": (VERMILION, ":"), "quarter": (GREY, "-.")}
DARK = "#444444"  # of small text
ARROW = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}


def plot_architecture(blocks: pd.DataFrame, groups: pd.DataFrame) -> Figure:
    """Draw the blocks from left to right in the order they run, finer levels higher, with taps up to their group's bar.

    blocks, groups: tables by `blocks_of` and `groups_of`. A box shows name, channels in and out, dilation and gates;
    the number below it counts its parameters, tap included.
    """
    levels = {scale: -LEVEL * i for i, scale in enumerate(sorted(blocks["scale"].unique()))}
    places = {row.block: (float(i), levels[row.scale]) for i, row in enumerate(blocks.itertuples())}
    figure, ax = plt.subplots(figsize=(1.5 + 0.78 * len(blocks), 2.4 + 1.25 * len(levels)), layout="constrained")
    draw_groups(ax, blocks, groups, places)
    draw_paths(ax, blocks, places)
    for row in blocks.itertuples():
        draw_block(ax, *places[row.block], row)
    for scale, y in levels.items():
        ax.text(-0.75, y, "full size" if scale == 1 else f"1/{scale}", ha="right", va="center")
    total = thousands(blocks["parameters"].sum() + groups["parameters"].sum())
    kernel = " and ".join(f"{side}x{side}x{side}" for side in sorted(blocks["kernel"].unique()))
    ax.set_title(
        f"{len(blocks)} blocks of {kernel} convolutions, {total} parameters. In a block: channels in → out, "
        "d dilation, g gates; below it: its parameters, tap included",
        fontsize="medium",
    )
    ax.set(xlim=(-1.7, len(blocks) - 0.4), ylim=(min(levels.values()) - 0.75, 2.0))
    ax.set_axis_off()
    return figure


def draw_block(ax: Axes, x: float, y: float, row) -> None:
    """Draw a block's box and its text."""
    colour = LOOKS.get(row.groups.split(",")[0], (GREY, "-"))[0]
    box = (x - HALF_WIDTH, y - HALF_HEIGHT), 2 * HALF_WIDTH, 2 * HALF_HEIGHT
    round_ = "round,pad=0,rounding_size=0.08"
    ax.add_patch(FancyBboxPatch(*box, round_, facecolor="white", edgecolor=colour, lw=1.4, zorder=3))
    ax.text(x, y + 0.18, row.block, ha="center", va="center", weight="bold", fontsize=9, zorder=4)
    ax.text(x, y - 0.02, f"{row.inputs} → {row.outputs}", ha="center", va="center", fontsize=8, zorder=4)
    ax.text(x, y - 0.21, f"d{row.dilation}  g{row.gates}", ha="center", va="center", fontsize=8, zorder=4)
    ax.text(x, y - HALF_HEIGHT - 0.14, thousands(row.parameters), ha="center", va="center", fontsize=7, color=DARK)


def thousands(number: int) -> str:
    """Format a whole number with spaces between thousands."""
    return f"{int(number):,}".replace(",", " ")


def draw_paths(ax: Axes, blocks: pd.DataFrame, places: dict[str, tuple[float, float]]) -> None:
    """Draw the arrows from block to block, labelled "pool" and "up", and the skip connections."""
    names = list(blocks["block"])
    for one, other in itertools.pairwise(names):
        (x0, y0), (x1, y1) = places[one], places[other]
        if y0 == y1:
            ends = (x0 + HALF_WIDTH, y0), (x1 - HALF_WIDTH, y1)
        else:
            side = 1 if y1 > y0 else -1
            ends = (x0 + HALF_WIDTH, y0), (x1 - 0.2, y1 - side * (HALF_HEIGHT + (0.24 if side > 0 else 0)))
        ax.annotate("", ends[1], ends[0], arrowprops=ARROW | {"color": "black", "lw": 1.1})
        if y0 != y1:
            word, left = ("pool", True) if y1 < y0 else ("up", False)
            where = (x1 - 0.4 if left else x1 - 0.12, (y0 + y1) / 2)
            ax.text(*where, word, fontsize=8, ha="right" if left else "left", va="center", style="italic", color=DARK)
    for row in blocks[blocks["skip_from"] != ""].itertuples():
        (x0, y0), (x1, y1) = places[row.skip_from], places[row.block]
        ends = (x0 + HALF_WIDTH, y0 + 0.2), (x1 - HALF_WIDTH, y1 + 0.2)
        ax.annotate("", ends[1], ends[0], arrowprops=ARROW | {"color": GREY, "lw": 1.1, "ls": (0, (6, 3))})
        under = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.text(
            x0 + 1.2, y0 + 0.2, "skip", fontsize=8, ha="center", va="center", style="italic", color=DARK, bbox=under
        )


def draw_groups(ax: Axes, blocks: pd.DataFrame, groups: pd.DataFrame, places: dict[str, tuple[float, float]]) -> None:
    """Draw a bar for each group above its blocks, with its taps and its head."""
    for row in groups.itertuples():
        colour, dash = LOOKS.get(row.group, (GREY, "-"))
        members = blocks[[row.group in names.split(",") for names in blocks["groups"]]]
        columns = [places[name][0] for name in members["block"]]
        low, high = min(columns) - HALF_WIDTH, max(columns) + HALF_WIDTH
        if row.blocks > 1:
            text = f"{row.group} group: {row.blocks} taps, {row.channels} channels\n"
            text += f"→ dropout → head {row.channels} → 1 ({row.parameters} parameters)"
        else:
            text, low, high = f"{row.group}:\ntap {row.channels}", low - 0.05, high + 0.05
        bar = FancyBboxPatch((low, 0.95), high - low, 0.8, "round,pad=0,rounding_size=0.1", facecolor="white")
        bar.set(edgecolor=colour, lw=2, zorder=3)
        ax.add_patch(bar)
        ax.text((low + high) / 2, 1.35, text, ha="center", va="center", fontsize=8.5, zorder=4)
        for name in members["block"]:
            x, y = places[name]
            x += 0.2
            ax.plot([x, x], [y + HALF_HEIGHT, 0.95], color=colour, ls=dash, lw=0.9, zorder=1)


def blocks_of(network: nn.Module) -> pd.DataFrame:
    """Tabulate a WingsNet's blocks, one row each, in the order they run.

    Columns: `block`; `scale` (side of the block's voxels, in voxels of the image); `inputs`, `outputs` (channels);
    `kernel`, `dilation`; `gates`; `taps` (channels); `groups` (those that its tap feeds, comma-separated); `skip_from`
    (encoder block whose output is concatenated; empty: none); `parameters`, and of them `conv_parameters`,
    `gate_parameters`, `tap_parameters`.

    Raises `InputError`: the network is no WingsNet.

    Examples
    --------
    >>> blocks_of(WingsNet(width=8)).loc[12:12, ["block", "scale", "inputs", "outputs", "skip_from"]].to_dict("records")
    [{'block': 'dc1', 'scale': 4, 'inputs': 128, 'outputs': 64, 'skip_from': 'ec9'}]
    """
    if not isinstance(network, WingsNet):
        raise InputError(f"network {type(network).__name__}: the architecture of a WingsNet alone can be read")
    last_of_level = {BLOCKS[name][0]: name for name in ENCODER}
    rows, above = [], 0
    for name, (level, _, _, dilation) in BLOCKS.items():
        block = network.get_submodule(name)
        counts = [count(part) for part in (block.conv, block.gates, block.tap)]
        outputs, inputs, kernel = block.conv.weight.shape[:3]
        rows.append(
            {
                "block": name,
                "scale": 2**level,
                "inputs": inputs,
                "outputs": outputs,
                "kernel": kernel,
                "dilation": dilation,
                "gates": len(block.gates),
                "taps": block.tap.out_channels if block.tap is not None else 0,
                "groups": ",".join(group for group, names in network.groups.items() if name in names),
                "skip_from": last_of_level[level] if level < above else "",
                "parameters": sum(counts),
                **dict(zip(("conv_parameters", "gate_parameters", "tap_parameters"), counts, strict=True)),
            }
        )
        above = level
    return pd.DataFrame(rows)


def groups_of(network: WingsNet) -> pd.DataFrame:
    """Tabulate the supervised groups: `group`, `blocks`, `channels` (of its taps), `parameters` (of its head)."""
    rows = []
    for group, names in network.groups.items():
        channels = sum(network.get_submodule(name).tap.out_channels for name in names)
        head = count(network.heads[group]) if group in network.heads else 0
        rows.append({"group": group, "blocks": len(names), "channels": channels, "parameters": head})
    return pd.DataFrame(rows)


def count(part: nn.Module | None) -> int:
    """Count the parameters of a part of the network; 0 if there is no such part."""
    return sum(parameter.numel() for parameter in part.parameters()) if part is not None else 0
