"""Plots of ablations: effects as a forest, detection by diameter, completeness against precision."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from airwaystudy.figures.scans import Spacing, draw_surface
from airwaystudy.figures.style import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    PLAIN_NUMBERS,
    VERMILION,
    add_legend,
    label_of,
    over_seeds,
    plain,
    variant_styles,
)

NAMES = {
    "td": "tree length detected",
    "bd": "branches detected",
    "dsc": "DSC",
    "precision": "precision",
    "fpr": "false positive rate",
    "leakage": "leakage",
    "td_truth": "true tree length detected",
    "bd_truth": "true branches detected",
}
AXES = ("precision", "td")  # of the figure of completeness against precision
MOST_BELOW = 9  # variants of a legend below the axes: a longer one stands beside them
MOST_LINES = 6  # in one panel: more cannot be told apart


def plot_effects(
    effects: pd.DataFrame, title: str, metrics: Sequence[str] = ("td", "bd", "dsc", "precision")
) -> Figure:
    """Effects as a forest plot: a row a pair of variants, grouped by factor, a panel a metric.

    Dot: difference. Thick bar: Student's 95 % interval over the seeds; thin one below it: bootstrap over the cases. A
    dot without a bar has one seed, or one case. Filled where the interval over the seeds leaves 0 out, else hollow.

    effects: `ablation.effects`.
    """
    metrics = [metric for metric in metrics if metric in set(effects["metric"])]
    rows, headings, depth = layout(effects)
    panels = max(1, len(metrics))
    size = (4.2 + 2.3 * panels, 1.9 + 0.3 * depth)
    figure, axes = plt.subplots(1, panels, figsize=size, layout="constrained", sharey=True, squeeze=False)
    colours = {factor: COLOURS[i % len(COLOURS)] for i, factor in enumerate(headings)}
    for ax, metric in zip(axes[0], metrics, strict=False):
        ax.axvline(0, color=GREY, lw=0.8)
        for row in effects[effects["metric"] == metric].to_dict("records"):
            draw_effect(ax, rows[pair_of(row)][0], row, colours[row["factor"]])
        ax.set(xlabel=f"{NAMES.get(metric, plain(metric))}\n(percentage points)")
    first = axes[0][0]
    places = [*headings.values(), *(place for place, _ in rows.values())]
    first.set_yticks(places, [*(plain(factor) for factor in headings), *(label for _, label in rows.values())])
    for tick in first.get_yticklabels()[: len(headings)]:
        tick.set_fontweight("bold")
    first.set_ylim(depth - 0.3, -0.7)
    for ax in axes[0]:
        ax.tick_params(axis="y", length=0)
    figure.suptitle(title)
    if effects.empty:
        first.set(title="no two variants differ in one factor alone", xticks=[])
        return figure
    explain(first)
    return figure


def explain(ax: Axes) -> None:
    """The forest's legend: what its lines and dots are, in grey."""
    ax.plot([], [], color=GREY, lw=2.2, marker="o", label="difference, 95 % interval over the seeds")
    ax.plot([], [], color=GREY, lw=0.9, label="bootstrap interval over the cases")
    ax.plot(
        [], [], color=GREY, ls="", marker="o", mfc="white", label="interval over the seeds holds 0, or there is none"
    )
    add_legend(ax.figure, ax.figure.get_figwidth())


def pair_of(row: dict) -> tuple[str, str, str]:
    """What names a row of the forest."""
    return row["factor"], row["from_variant"], row["to_variant"]


def layout(effects: pd.DataFrame) -> tuple[dict[tuple, tuple[int, str]], dict[str, int], int]:
    """Place and label of each pair, place of each factor's heading, and how many places there are.

    What all pairs of a factor hold fixed is left out of their labels.
    """
    rows, headings, place = {}, {}, 0
    for factor, part in effects.groupby("factor", sort=False):
        headings[factor] = place
        common = set.intersection(*(set(held.split(", ")) for held in part["held"]))
        for row in part.drop_duplicates(["from_variant", "to_variant"]).to_dict("records"):
            place += 1
            held = ", ".join(name for name in row["held"].split(", ") if name not in common)
            held = f"  ({plain(held)})" if held else ""
            rows[pair_of(row)] = place, f"{plain(row['from'])} → {plain(row['to'])}{held}"
        place += 1
    return rows, headings, place


def draw_effect(ax: Axes, place: float, row: dict, colour: str) -> None:
    """One dot with its two intervals."""
    clear = row["low"] > 0 or row["high"] < 0
    ax.plot([row["low"], row["high"]], [place, place], color=colour, lw=2.2, solid_capstyle="butt", zorder=2)
    ends = [row["low_cases"], row["high_cases"]]
    ax.plot(ends, [place + 0.27, place + 0.27], color=colour, lw=0.9, alpha=0.7, zorder=2)
    ax.plot(row["difference"], place, "o", color=colour, mfc=colour if clear else "white", ms=5.5, zorder=3)


def plot_td_by_diameter(table: pd.DataFrame, title: str) -> Figure:
    """Tree length detected by airway diameter: a line a variant, its mean over the seeds, bars from lowest to highest.

    table: `ablation.by_bin` of "diameter_mm"; under each bin is the number of its branches. Many variants share out
    among panels, six in one at most.
    """
    variants, bins = list(dict.fromkeys(table["variant"])), list(dict.fromkeys(table["diameter_mm"]))
    panels = max(1, -(-len(variants) // MOST_LINES))
    groups = [list(group) for group in np.array_split(variants, panels)]
    columns = min(2, panels)
    lines = -(-panels // columns)
    size = (5.6 * columns if columns > 1 else 6.6, 3.4 * lines + 0.9)
    figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained", sharey=True, squeeze=False)
    styles, counts = variant_styles(variants), table.groupby("diameter_mm")["branches"].max()
    for ax, group in zip(axes.flat, groups, strict=False):
        for i, name in enumerate(group):
            rows = table[table["variant"] == name].set_index("diameter_mm").reindex(bins)
            x = np.arange(len(bins)) + 0.06 * (i - (len(group) - 1) / 2)
            reach = [rows["td_mean"] - rows["td_min"], rows["td_max"] - rows["td_mean"]]
            ax.errorbar(x, rows["td_mean"], reach, capsize=2, elinewidth=1, label=label_of(name, rows), **styles[name])
        ax.set_xticks(range(len(bins)), [f"{name}\n({counts[name]:g})" for name in bins])
        ax.set(xlabel="airway diameter in mm (branches)", ylabel="tree length detected (%)", ylim=(-2, 103))
    for ax in axes.flat[panels:]:
        ax.remove()
    add_legend(figure, size[0])
    figure.suptitle(title)
    return figure


def plot_td_against_precision(table: pd.DataFrame, seeds: pd.DataFrame, title: str) -> Figure:
    """Tree length detected against precision: a variant's mean, with bars from the lowest to the highest seed.

    table: `ablation.ablation_table`; seeds: `ablation.by_seed`, each a small dot.
    """
    many = len(table) > MOST_BELOW
    figure, ax = plt.subplots(figsize=(10.4, 7.2) if many else (6.6, 5.2), layout="constrained")
    for name, style in variant_styles(table["variant"]).items():
        row, dots = table[table["variant"] == name].iloc[0], seeds[seeds["variant"] == name]
        ax.plot(dots["precision"], dots["td"], color=style["color"], ls="", marker="o", ms=3, zorder=4)
        reach = {
            metric: np.abs([[dots[metric].min()], [dots[metric].max()]] - row[f"{metric}_mean"]) for metric in AXES
        }
        label = label_of(name, table[table["variant"] == name])
        style = style | {"ls": "", "ms": 9, "mfc": "none", "mew": 1.6, "elinewidth": 1, "label": label, "zorder": 3}
        ax.errorbar(row["precision_mean"], row["td_mean"], reach["td"], reach["precision"], **style)
    ax.plot([], [], color=GREY, ls="", marker="o", ms=3, label="one seed")
    for metric, limit in zip(AXES, (ax.set_xlim, ax.set_ylim), strict=True):
        limit(*window([*seeds[metric], *table[f"{metric}_mean"]]))
    ax.set(xlabel="precision (%)", ylabel="tree length detected (%)")
    if many:
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    else:
        add_legend(figure, 6.6)
    figure.suptitle(title)
    return figure


def window(values: Sequence[float]) -> tuple[float, float]:
    """Limits with some room around percentages."""
    low, high = np.nanmin(values), np.nanmax(values)
    margin = max(0.1 * (high - low), 2.0)
    return max(low - margin, -1.0), min(high + margin, 101.0)


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
