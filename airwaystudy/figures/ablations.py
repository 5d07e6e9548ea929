"""Plots of results: effects as a forest, scores by diameter, completeness against precision, gradient ratios, trees.

Tables come with means and intervals already. `spread` hands seaborn, which would work them out, three rows for each:
their median is the middle, and the interval of all of them goes from the lowest to the highest.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from airwaystudy.figures.scans import Spacing, draw_surface
from airwaystudy.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    PLAIN_NUMBERS,
    VERMILION,
    add_legend,
    label_of,
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
Styles = Mapping[str, Mapping]  # of each variant: colour, marker, dashes
LOOKS = {"palette": "color", "markers": "marker", "linestyles": "ls"}  # seaborn's names of them
PARTS = {"detected": BLUE, "missed": ORANGE, "leaked": VERMILION}  # of `exhibits.parts_of`, as they are drawn
SCORES = {"dsc": "DSC (%)", "bd": "branches detected (%)", "td": "tree length detected (%)"}
INTERVALS = {
    "difference, 95 % interval over the seeds": ("low", "high"),
    "bootstrap interval over the cases": ("low_cases", "high_cases"),
}
MOST_BELOW = 9  # variants of a legend below the axes: a longer one stands beside them
MOST_LINES = 6  # in one panel: more cannot be told apart


def spread(table: pd.DataFrame, middle: str, low: str, high: str) -> pd.DataFrame:
    """Repeat the rows of a table three times, `value` being the middle, the low and the high column; NaN is left out.

    Examples
    --------
    >>> table = pd.DataFrame({"bin": ["0-2"], "mean": [50.0], "min": [40.0], "max": [55.0]})
    >>> spread(table, "mean", "min", "max")["value"].tolist()
    [50.0, 40.0, 55.0]
    """
    parts = [table.assign(value=table[name]) for name in (middle, low, high)]
    return pd.concat(parts, ignore_index=True).dropna(subset="value")


AS_GIVEN = {"estimator": "median", "errorbar": ("pi", 100)}  # draws the rows of `spread` as they were in the table


def plot_effects(
    effects: pd.DataFrame, title: str, metrics: Sequence[str] = ("td", "bd", "dsc", "precision")
) -> Figure:
    """Draw effects as a forest: a row a pair of variants, grouped by factor, a panel a metric.

    Dot: difference. Bar: Student's 95 % interval over the seeds; grey bar below it: bootstrap over the cases. A dot
    without a bar has one seed, or one case.

    effects: `ablation.effects`.
    """
    metrics = [metric for metric in metrics if metric in set(effects["metric"])]
    rows, headings, depth = layout(effects)
    panels = max(1, len(metrics))
    size = (4.2 + 2.3 * panels, 1.9 + 0.3 * depth)
    figure, axes = plt.subplots(1, panels, figsize=size, layout="constrained", sharey=True, squeeze=False)
    effects = effects.assign(place=[rows[pair_of(row)][0] for row in effects.to_dict("records")])
    for ax, metric in zip(axes[0], metrics, strict=False):
        chosen = effects[effects["metric"] == metric]
        of = {name: spread(chosen, "difference", *ends) for name, ends in INTERVALS.items()}
        long = pd.concat([table.assign(interval=name) for name, table in of.items()])
        looks = {"palette": [BLUE, GREY], "markers": ["o", "|"], "linestyles": ["none", "none"], "dodge": 0.3}
        looks |= {"order": range(depth), "hue_order": list(INTERVALS), "legend": False, "err_kws": {"linewidth": 1.6}}
        sns.pointplot(long, x="value", y="place", hue="interval", orient="y", ms=5, ax=ax, **AS_GIVEN, **looks)
        ax.axvline(0, color="black", lw=0.8, zorder=0)
        ax.set(xlabel=f"{NAMES.get(metric, plain(metric))}\n(percentage points)", ylabel="")
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
    for (name, _), colour, marker in zip(INTERVALS.items(), (BLUE, GREY), "o|", strict=True):
        first.plot([], [], color=colour, marker=marker, label=name)
    add_legend(figure, size[0])
    return figure


def pair_of(row: dict) -> tuple[str, str, str]:
    """Name a row of the forest."""
    return row["factor"], row["from_variant"], row["to_variant"]


def layout(effects: pd.DataFrame) -> tuple[dict[tuple, tuple[int, str]], dict[str, int], int]:
    """Find the place and label of each pair, the place of each factor's heading, and the number of places.

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


def draw_by_diameter(ax: Axes, table: pd.DataFrame, score: str, styles: Styles) -> None:
    """Draw a score by diameter, the variants side by side within a bin, bars from the lowest to the highest seed.

    table: variant, diameter_mm, branches, and SCORE_mean, _min, _max in percent; the ticks show the branches of a bin.
    """
    bins = table.drop_duplicates("diameter_mm").set_index("diameter_mm")
    looks = {name: [style[key] for style in styles.values()] for name, key in LOOKS.items()}
    looks |= {
        "dodge": 0.13 * (len(styles) - 1),
        "linewidth": 1,
        "capsize": 0.05,
        "ms": 5,
        "err_kws": {"linewidth": 1.2},
    }
    rows = spread(table, f"{score}_mean", f"{score}_min", f"{score}_max")
    orders = {"order": list(bins.index), "hue_order": list(styles), "legend": False}
    sns.pointplot(rows, x="diameter_mm", y="value", hue="variant", ax=ax, **AS_GIVEN, **orders, **looks)
    for name, style in styles.items():
        ax.plot([], [], label=label_of(name, table[table["variant"] == name]), **style)
    ax.set_xticks(
        range(len(bins)), [f"{name}\n({row['branches']:g})" for name, row in bins.iterrows()], fontsize="small"
    )
    ax.set(xlabel="airway diameter in mm (branches)", ylabel=SCORES[score], ylim=(-3, 103))
    ax.yaxis.label.set_visible(True)  # seaborn hides it on axes that share their numbers


def plot_td_by_diameter(table: pd.DataFrame, title: str) -> Figure:
    """Draw the tree length detected by airway diameter; many variants share out among panels, six in one at most.

    table: `ablation.by_bin` of "diameter_mm".
    """
    variants = list(dict.fromkeys(table["variant"]))
    panels = max(1, -(-len(variants) // MOST_LINES))
    groups = [list(group) for group in np.array_split(variants, panels)]
    columns = min(2, panels)
    lines = -(-panels // columns)
    size = (5.6 * columns if columns > 1 else 6.6, 3.4 * lines + 0.9)
    figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained", sharey=True, squeeze=False)
    styles = variant_styles(variants)
    for ax, group in zip(axes.flat, groups, strict=False):
        chosen = table[table["variant"].isin(group)]
        draw_by_diameter(ax, chosen, "td", {name: styles[name] for name in group})
    for ax in axes.flat[panels:]:
        ax.remove()
    add_legend(figure, size[0])
    figure.suptitle(title)
    return figure


def plot_td_against_precision(table: pd.DataFrame, seeds: pd.DataFrame, title: str) -> Figure:
    """Draw tree length detected against precision: a variant's mean, with bars from the lowest to the highest seed.

    table: `ablation.ablation_table`; seeds: `ablation.by_seed`, each a small dot.
    """
    many = len(table) > MOST_BELOW
    figure, ax = plt.subplots(figsize=(10.4, 7.2) if many else (6.6, 5.2), layout="constrained")
    styles = variant_styles(table["variant"])
    colours = {name: style["color"] for name, style in styles.items()}
    looks = {"palette": colours, "s": 12, "linewidth": 0, "zorder": 4, "legend": False}
    sns.scatterplot(seeds, x="precision", y="td", hue="variant", ax=ax, **looks)
    for name, style in styles.items():
        row, dots = table[table["variant"] == name].iloc[0], seeds[seeds["variant"] == name]
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
    """Leave some room around percentages: the limits of their axis."""
    low, high = np.nanmin(values), np.nanmax(values)
    margin = max(0.1 * (high - low), 2.0)
    return max(low - margin, -1.0), min(high + margin, 101.0)


def plot_scores_by_diameter(table: pd.DataFrame, title: str) -> Figure:
    """Draw DSC, BD and TD of each variant by airway diameter, a panel each.

    table: `exhibits.scores_by_diameter`.
    """
    figure, axes = plt.subplots(1, len(SCORES), figsize=(13, 4.2), layout="constrained", sharey=True)
    for ax, score in zip(axes, SCORES, strict=True):
        draw_by_diameter(ax, table, score, variant_styles(table["variant"]))
    add_legend(figure, 13)
    figure.suptitle(title)
    return figure


def plot_class_ratios(
    probes: pd.DataFrame, styles: Styles, title: str, layers: Sequence[str] = ("dc6", "ec12", "ec1")
) -> Figure:
    """Draw the class-wise gradient ratio over training, of the loss and of what reaches `layers`, a panel each.

    probes: variant, seed, step, layer, ratio (of the loss), layer_ratio. Lines are means over the seeds, bands go from
    the lowest to the highest seed.
    """
    layers = [name for name in layers if name in set(probes["layer"])]
    of_loss = probes.drop_duplicates(["variant", "seed", "step"]).assign(shown="ratio")
    panels = {"at the probability (the loss's)": of_loss}
    panels |= {f"at layer {name}": probes[probes["layer"] == name].assign(shown="layer_ratio") for name in layers}
    width = 1.5 + 3.2 * len(panels)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 4.2), layout="constrained", sharey=True, squeeze=False)
    for ax, (name, rows) in zip(axes[0], panels.items(), strict=True):
        ax.axhline(1, color=GREY, lw=0.8)
        for variant, chosen in rows.groupby("variant", sort=False):
            label = label_of(variant, chosen.assign(seeds=chosen["seed"].nunique()))
            shown = rows["shown"].iloc[0]
            band = {"errorbar": ("pi", 100), "err_kws": {"alpha": 0.15, "lw": 0}}
            sns.lineplot(chosen, x="step", y=shown, label=label, legend=False, ax=ax, **band, **styles[variant])
        ax.set_title(name, fontsize="medium")
        ax.set(xlabel="training step", ylabel="gradient ratio, airway : background")
    # Only now, for all panels: on a logarithmic axis seaborn would draw geometric means.
    axes[0, 0].set(yscale="log")
    axes[0, 0].yaxis.set_major_formatter(PLAIN_NUMBERS)
    add_legend(figure, width)
    figure.suptitle(title)
    return figure


def plot_trade_off(curves: pd.DataFrame, styles: Styles, title: str, marked: float = 0.0) -> Figure:
    """Draw TD against precision as the threshold goes up: a thin line a seed, a thick one with markers their mean.

    curves: variant, seed, case, logit, td, precision (percent); means over the cases. The marker of the threshold
    `marked` (logit 0: probability ½) is filled, the first and the last threshold are written beside theirs.
    """
    figure, ax = plt.subplots(figsize=(6.6, 5.4), layout="constrained")
    for variant, rows in curves.groupby("variant", sort=False):
        style = styles[variant]
        seeds = rows.groupby(["seed", "logit"])[["td", "precision"]].mean()
        for _, one in seeds.groupby(level="seed"):
            ax.plot(one["precision"], one["td"], color=style["color"], lw=0.6, alpha=0.6)
        mean = seeds.groupby(level="logit").mean()
        label = label_of(variant, rows.assign(seeds=rows["seed"].nunique()))
        ax.plot(mean["precision"], mean["td"], label=label, mfc="white", **style | {"lw": 1.8})
        at = mean[np.isclose(mean.index, marked)]
        ax.plot(at["precision"], at["td"], **style | {"ls": "", "ms": 9, "zorder": 5})
        for logit in (mean.index.min(), mean.index.max()):
            place = mean.loc[logit, ["precision", "td"]]
            ax.annotate(f"{logit:g}", place, (6, 6), textcoords="offset points", fontsize=8, color=style["color"])
    ax.plot([], [], color="black", ls="", marker="o", ms=9, label=f"threshold at logit {marked:g}")
    ax.set(xlabel="precision (%)", ylabel="tree length detected (%)")
    add_legend(figure, 6.6)
    figure.suptitle(title)
    return figure


def plot_trees(parts: Mapping[str, Mapping[str, np.ndarray]], spacing: Spacing, title: str) -> Figure:
    """Draw trees in 3-D, a column each, from the front (above) and from the side (below): detected, missed and leaked.

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
