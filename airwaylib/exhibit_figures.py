"""Plots of the study's results by variant: over training, by airway diameter, over the threshold, and in 3-D.

One look throughout, that of `ablation_figures`: `styles` are `variant_styles` of all the study's variants, also where a
figure shows a few of them. Lines are means over the seeds, bars and bands go from the lowest to the highest seed: with
few seeds, no interval says more. Saving is that of `figures`.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from airwaylib.ablation_figures import label_of
from airwaylib.figures import BLUE, GREY, ORANGE, VERMILION, Spacing, draw_surface
from airwaylib.gradient_figures import PLAIN_NUMBERS, add_legend, over_seeds, plain

Styles = Mapping[str, Mapping]  # of each variant: colour, marker, dashes
PARTS = {"detected": BLUE, "missed": ORANGE, "leaked": VERMILION}  # of `exhibits.parts_of`, as they are drawn
SCORES = {"dsc": "DSC (%)", "bd": "branches detected (%)", "td": "tree length detected (%)"}


def plot_scores_by_diameter(table: pd.DataFrame, styles: Styles, title: str) -> Figure:
    """DSC, BD and TD of each variant by airway diameter, with the branches of each bin.

    table: `exhibits.scores_by_diameter`; bars from the lowest to the highest seed.
    """
    variants, bins = (list(dict.fromkeys(table[name])) for name in ("variant", "diameter_mm"))
    figure, axes = plt.subplots(1, len(SCORES), figsize=(13, 4.2), layout="constrained", sharey=True)
    # Strategy: variants stand side by side within a bin, so that no bar hides another.
    for variant, shift in zip(variants, np.linspace(-0.3, 0.3, len(variants) + 2)[1:-1], strict=True):
        rows = table[table["variant"] == variant].set_index("diameter_mm").reindex(bins)
        look = styles[variant] | {"lw": 1, "elinewidth": 1.2, "capsize": 2.5, "label": label_of(variant, rows)}
        for ax, name in zip(axes, SCORES, strict=True):
            mean, low, high = (rows[f"{name}_{part}"] for part in ("mean", "min", "max"))
            ax.errorbar(np.arange(len(bins)) + shift, mean, yerr=np.maximum([mean - low, high - mean], 0), **look)
    branches = table.drop_duplicates("diameter_mm").set_index("diameter_mm")["branches"]
    ticks = [f"{name.replace('-', '–')}\n({branches[name]:.0f})" for name in bins]
    for ax, label in zip(axes, SCORES.values(), strict=True):
        ax.set_xticks(range(len(bins)), ticks, fontsize="small")
        ax.set(xlabel="airway diameter in mm (branches)", ylabel=label, ylim=(-3, 103))
    add_legend(figure, 13)
    figure.suptitle(title)
    return figure


def plot_class_ratios(
    probes: pd.DataFrame, styles: Styles, title: str, layers: Sequence[str] = ("dc6", "ec12", "ec1")
) -> Figure:
    """Class-wise gradient ratio over training: of the loss, and of what reaches each of `layers`, a panel each.

    probes: `exhibits.class_ratios`; bands go from the lowest to the highest seed.
    """
    layers = [name for name in layers if name in set(probes["layer"])]
    panels = {"at the output (the loss's)": probes.drop_duplicates(["variant", "seed", "step"]).assign(shown="ratio")}
    panels |= {f"at layer {name}": probes[probes["layer"] == name].assign(shown="layer_ratio") for name in layers}
    width = 1.5 + 3.2 * len(panels)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 4.2), layout="constrained", sharey=True, squeeze=False)
    for ax, (name, rows) in zip(axes[0], panels.items(), strict=True):
        ax.axhline(1, color=GREY, lw=0.8)
        for variant, chosen in rows.groupby("variant", sort=False):
            label = label_of(variant, chosen.assign(seeds=chosen["seed"].nunique()))
            found = over_seeds(chosen, ["step"], rows["shown"].iloc[0]).sort_index()
            ax.plot(found.index, found["mean"], label=label, **styles[variant])
            ax.fill_between(found.index, found["low"], found["high"], color=styles[variant]["color"], alpha=0.15, lw=0)
        ax.set_title(name, fontsize="medium")
        ax.set(xlabel="training step", yscale="log")
        ax.yaxis.set_major_formatter(PLAIN_NUMBERS)
    axes[0, 0].set(ylabel="gradient ratio, airway : background")
    add_legend(figure, width)
    figure.suptitle(title)
    return figure


def plot_trade_off(curves: pd.DataFrame, styles: Styles, title: str, marked: float = 0.5) -> Figure:
    """TD against precision as the threshold goes up: a thin line a seed, a thick one with markers their mean.

    curves: variant, seed, case, probability, td, precision (percent); means over the cases. The marker of the threshold
    `marked` is filled, the first and the last threshold are written beside theirs.
    """
    figure, ax = plt.subplots(figsize=(6.6, 5.4), layout="constrained")
    for variant, rows in curves.groupby("variant", sort=False):
        style = styles[variant]
        seeds = rows.groupby(["seed", "probability"])[["td", "precision"]].mean()
        for _, one in seeds.groupby(level="seed"):
            ax.plot(one["precision"], one["td"], color=style["color"], lw=0.6, alpha=0.6)
        mean = seeds.groupby(level="probability").mean()
        label = label_of(variant, rows.assign(seeds=rows["seed"].nunique()))
        ax.plot(mean["precision"], mean["td"], label=label, mfc="white", **style | {"lw": 1.8})
        at = mean[np.isclose(mean.index, marked)]
        ax.plot(at["precision"], at["td"], **style | {"ls": "", "ms": 9, "zorder": 5})
        for probability in (mean.index.min(), mean.index.max()):
            place = mean.loc[probability, ["precision", "td"]]
            ax.annotate(f"{probability:g}", place, (6, 6), textcoords="offset points", fontsize=8, color=style["color"])
    ax.plot([], [], color="black", ls="", marker="o", ms=9, label=f"threshold {marked:g}")
    ax.set(xlabel="precision (%)", ylabel="tree length detected (%)")
    add_legend(figure, 6.6)
    figure.suptitle(title)
    return figure


def plot_trees(parts: Mapping[str, Mapping[str, np.ndarray]], spacing: Spacing, title: str) -> Figure:
    """Trees in 3-D, a column each, from the front (above) and from the side (below): detected, missed and leaked.

    parts: name -> `exhibits.parts_of`, boolean (D, H, W). spacing: x, y, z, mm. False voxels in the rim of the label
    are counted, not drawn: they would hide it.
    """
    depth, height, width = np.array(next(iter(next(iter(parts.values())).values())).shape) * spacing[::-1]
    size = (1 + 4.4 * len(parts), 1.4 + 4.4 * 2 * depth / max(width, height))
    figure, axes = plt.subplots(2, len(parts), figsize=size, layout="constrained", squeeze=False)
    side = (spacing[1], spacing[0], spacing[2])
    for column, (name, masks) in zip(axes.T, parts.items(), strict=True):
        shown = {colour: masks[part] for part, colour in PARTS.items()}
        draw_surface(column[0], shown, spacing)
        # From the patient's left: y goes to the right, and what is nearest has the largest x.
        turned = {colour: np.flip(mask, 2).transpose(0, 2, 1) for colour, mask in shown.items()}
        draw_surface(column[1], turned, side)
        counts = ", ".join(f"{np.count_nonzero(masks[part]):,} {part}".replace(",", " ") for part in PARTS)
        rim = f"{np.count_nonzero(masks['rim']):,}".replace(",", " ")
        column[0].set_title(f"{plain(name)}\n{counts} voxels\n(not drawn: {rim} in the rim)", fontsize="medium")
        column[0].set(xlabel="x, towards the left (mm)", ylabel="z (mm)")
        column[1].set(xlabel="y, towards the back (mm)", ylabel="z (mm)")
    handles = [Patch(facecolor=colour, label=part) for part, colour in PARTS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(title)
    return figure
