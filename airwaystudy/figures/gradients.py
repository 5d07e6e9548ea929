"""Plots of gradient erosion, in theory and as measured. Style and saving are those of `figures`.

One look throughout: a loss has its colour and marker, a supervision its dashes. Where several seeds were run, a line or
marker is their mean and a band or bar goes from the lowest to the highest seed: with few seeds, no interval says more.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from airwaystudy.figures.style import (
    BLUE,
    DASHES,
    GREY,
    PLAIN_NUMBERS,
    VERMILION,
    add_legend,
    over_seeds,
    plain,
    series_styles,
)

CURVE_RANGE = (0.01, 1000)  # of gradient ratios: curves that go to 0 or infinity may leave the figure
Group = tuple[str, str]  # loss, supervision


def group_styles(table: pd.DataFrame) -> dict[Group, dict]:
    """A style for each (loss, supervision) of a table: the loss tells colour and marker, the supervision the dashes."""
    losses = series_styles(table["loss"])
    dashes = {name: DASHES[i % len(DASHES)] for i, name in enumerate(dict.fromkeys(table["supervision"]))}
    groups = dict.fromkeys(zip(table["loss"], table["supervision"], strict=True))
    return {(loss, supervision): losses[loss] | {"ls": dashes[supervision]} for loss, supervision in groups}


def group_label(group: Group, rows: pd.DataFrame) -> str:
    """A (loss, supervision) in words, with the number of its seeds."""
    seeds = rows["seed"].nunique()
    return f"{plain(group[0])}, {plain(group[1])} ({seeds} seed{'' if seeds == 1 else 's'})"


def plot_tube_erosion(profiles: pd.DataFrame, erosion: pd.DataFrame) -> Figure:
    """A gradient's profile across a tube after several layers, and how much of tubes of several radii is eroded.

    Parameters
    ----------
    profiles : DataFrame
        layers, position (voxels from the axis), value (in units of the background's gradient).
    erosion : DataFrame
        radius (voxels), layers, eroded (share of the cross-section, 0 to 1).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    left.axhline(0, color=GREY, lw=0.8)
    for layers, style in series_styles(profiles["layers"]).items():
        rows = profiles[profiles["layers"] == layers]
        left.plot(rows["position"], rows["value"], label=f"{layers} layer{'' if layers == 1 else 's'}", **style)
    left.set(xlabel="position across the tube (voxels)", ylabel="gradient (background's = −1)")
    left.legend(frameon=False, fontsize="small", title="after", alignment="left")
    for radius, style in series_styles(erosion["radius"]).items():
        rows = erosion[erosion["radius"] == radius]
        right.plot(rows["layers"], rows["eroded"], label=f"{radius:g}", **style)
    right.set(xlabel="layers passed", ylabel="share of the cross-section eroded", ylim=(-0.03, 1.03))
    right.xaxis.get_major_locator().set_params(integer=True)
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}
    right.legend(frameon=False, fontsize="small", title="tube radius (voxels)", alignment="left", **beside)
    return figure


def plot_critical_radius(table: pd.DataFrame) -> Figure:
    """Critical radius over the number of layers, a curve a ratio: the law as curves, the simulation as markers.

    table: ratio, layers, law, simulation (both voxels; a simulation that is NaN has no marker).
    """
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for ratio, style in series_styles(table["ratio"]).items():
        rows = table[table["ratio"] == ratio].sort_values("layers")
        ax.plot(rows["layers"], rows["law"], label=f"R = {ratio:g}", **style | {"marker": ""})
        ax.plot(rows["layers"], rows["simulation"], **style | {"ls": "", "ms": 5})
    ax.plot([], [], color=GREY, label="law")
    ax.plot([], [], color=GREY, ls="", marker="o", ms=5, label="simulation")
    ax.set(xlabel="layers passed", ylabel="critical radius (voxels)", ylim=(0, None))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False, ncols=2, fontsize="small")
    return figure


def plot_ratios(closed: pd.DataFrame, measured: pd.DataFrame) -> Figure:
    """Gradient ratio over a loss's own index, from 0 untrained to 1 perfect: closed forms as curves, runs as markers.

    Parameters
    ----------
    closed : DataFrame
        loss, index, ratio.
    measured : DataFrame
        loss, seed, step, index, ratio. The markers of a seed are joined, faintly, in the order of the steps.
    """
    figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    ax.axhline(1, color=GREY, lw=0.8)
    styles = series_styles([*closed["loss"], *measured["loss"]])
    for loss, rows in closed.groupby("loss", sort=False):
        rows = rows.sort_values("index")
        ax.plot(rows["index"], rows["ratio"], label=plain(loss), **styles[loss] | {"marker": ""})
    labelled = set(closed["loss"])
    for (loss, _), rows in measured.groupby(["loss", "seed"], sort=False):
        rows = rows.sort_values("step")
        label = None if loss in labelled else plain(loss)
        labelled.add(loss)
        ax.plot(rows["index"], rows["ratio"], label=label, mfc="none", **styles[loss] | {"ls": "-", "lw": 0.4})
    ax.set(
        xlabel="index of the loss, 1 − loss (dimensionless)", ylabel="ratio R at the probability, airway : background"
    )
    ax.set(
        yscale="log", xlim=(min(0, measured["index"].min() - 0.02), 1.02)
    )  # cross-entropies above 1 have theirs below 0
    shown = closed["ratio"].clip(*CURVE_RANGE)  # what is measured is shown whatever it is
    ends = [*shown[shown > 0], *measured["ratio"][measured["ratio"] > 0]]
    ax.set_ylim(0.7 * min(ends), 1.4 * max(ends))
    ax.yaxis.set_major_formatter(PLAIN_NUMBERS)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def plot_shares(measures: pd.DataFrame) -> Figure:
    """Erosion (above) and dilation (below) layer by layer in forward order, a column an epoch of training.

    measures: run, loss, supervision, seed, epoch, layer, erosion, dilation, share, ratio; the layers come in the order
    of the rows. Lines are means over the seeds, bands go from the lowest to the highest seed.
    """
    epochs, layers = sorted(measures["epoch"].unique()), list(dict.fromkeys(measures["layer"]))
    width = 1.2 + max(3.0, 0.2 * len(layers)) * len(epochs)
    shared = {"sharex": True, "sharey": "row", "squeeze": False}
    figure, axes = plt.subplots(2, len(epochs), figsize=(width, 6), layout="constrained", **shared)
    labels = {"erosion": "airway eroded (share)", "dilation": "background dilated (share)"}
    for group, style in group_styles(measures).items():
        chosen = measures[(measures["loss"] == group[0]) & (measures["supervision"] == group[1])]
        for row, value in zip(axes, labels, strict=True):
            for ax, epoch in zip(row, epochs, strict=True):
                draw_band(ax, chosen[chosen["epoch"] == epoch], layers, value, style, group_label(group, chosen))
    for ax, epoch in zip(axes[0], epochs, strict=True):
        ax.set_title(f"epoch {epoch}", fontsize="medium")
    for row, label in zip(axes, labels.values(), strict=True):
        row[0].set(ylabel=label, ylim=(-0.03 * row[0].get_ylim()[1], None))  # room for markers at 0
    for ax in axes[1]:
        ax.set_xticks(range(len(layers)), layers, rotation=90, fontsize="small")
        ax.set(xlabel="layer, in forward order")
    add_legend(figure, width)
    return figure


def draw_band(ax: Axes, rows: pd.DataFrame, layers: list[str], value: str, style: dict, label: str) -> None:
    """Draw column `value` over the layers: a line through the seeds' means, a band from the lowest to the highest."""
    values = rows.assign(place=rows["layer"].map(layers.index))
    every = {"estimator": "mean", "errorbar": ("pi", 100), "err_kws": {"alpha": 0.2, "lw": 0}}  # the whole range
    if rows[value].notna().any():
        sns.lineplot(values, x="place", y=value, ax=ax, label=label, legend=False, **every, **style)


def plot_erosion_by_radius(table: pd.DataFrame, unit: str = "mm") -> Figure:
    """Erosion by airway radius: means over the seeds, bars from the lowest to the highest seed.

    table: loss, supervision, seed, low, high (the bin's edges in `unit`, inf for an open one), erosion, voxels (of the
    airway in the bin; the ticks show them, as a range where runs differ).
    """
    bins = sorted(set(zip(table["low"], table["high"], strict=True)))
    styles = group_styles(table)
    width = max(6.0, 1.4 + 1.15 * len(bins))
    figure, ax = plt.subplots(figsize=(width, 4.4), layout="constrained")
    # Strategy: groups stand side by side within a bin, so that no bar hides another.
    for group, shift in zip(styles, np.linspace(-0.25, 0.25, len(styles) + 2)[1:-1], strict=True):
        rows = table[(table["loss"] == group[0]) & (table["supervision"] == group[1])]
        found = over_seeds(rows, ["low", "high"], "erosion")
        found = found.reindex(pd.MultiIndex.from_tuples(bins, names=["low", "high"]))
        bars = np.maximum([found["mean"] - found["low"], found["high"] - found["mean"]], 0)
        style = styles[group] | {"lw": 1, "elinewidth": 1.2, "capsize": 2.5, "label": group_label(group, rows)}
        ax.errorbar(np.arange(len(bins)) + shift, found["mean"], yerr=bars, **style)
    ticks = []
    for low, high in bins:
        counts = table.loc[(table["low"] == low) & (table["high"] == high), "voxels"]
        few, many = (f"{count:,.0f}".replace(",", " ") for count in (counts.min(), counts.max()))
        edges = f"{low:g}–{high:g}" if np.isfinite(high) else f"≥ {low:g}"
        ticks.append(f"{edges}\n({few if few == many else f'{few}–{many}'})")
    ax.set_xticks(range(len(bins)), ticks, fontsize="small")
    ax.set(xlabel=f"airway radius in {unit} (airway voxels)", ylabel="airway eroded (share)")
    ax.set_ylim(-0.03 * ax.get_ylim()[1], None)
    add_legend(figure, width)
    return figure


def plot_missed(table: pd.DataFrame) -> Figure:
    """Branches found and missed, over their radius and their erosion; a panel a loss and supervision.

    table: loss, supervision, seed, branch, radius_mm, erosion, missed (bool). Every branch of every seed is a
    marker; a panel tells how many were missed, and how many have no erosion and so no marker.
    """
    groups = list(group_styles(table))
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    size = (0.8 + 3.3 * columns, 0.9 + 3.0 * rows)
    shared = {"sharex": True, "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", **shared)
    looks = {
        False: {"color": BLUE, "marker": "o", "mfc": "none", "ms": 4.5, "mew": 0.8, "label": "branch found"},
        True: {"color": VERMILION, "marker": "x", "ms": 4.5, "mew": 1, "label": "branch missed"},
    }
    for ax, group in zip(axes.flat, groups, strict=False):
        chosen = table[(table["loss"] == group[0]) & (table["supervision"] == group[1])]
        for missed, look in looks.items():  # hollow rings and crosses leave each other visible
            seen = chosen[chosen["missed"].astype(bool) == missed]
            ax.plot(seen["radius_mm"], seen["erosion"], ls="", clip_on=False, **look)
        lost, unknown = int(chosen["missed"].sum()), int(chosen["erosion"].isna().sum())
        note = f"\n{lost} of {len(chosen)} missed" + (f", {unknown} without erosion" if unknown else "")
        ax.set_title(group_label(group, chosen) + note, fontsize="small")
        ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="branch radius (mm)")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        ax.xaxis.set_major_formatter(PLAIN_NUMBERS)
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(labelbottom=True)
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set(ylabel="branch's voxels eroded (share)")
    add_legend(figure, size[0])
    return figure


def plot_origin(measures: pd.DataFrame) -> Figure:
    """Share of the airway's gradient that came from the encoder group, layer by layer in forward order.

    measures: loss, supervision, seed, layer, from_encoder (nan without an encoder group: such runs are left out).
    """
    measures = measures.dropna(subset="from_encoder") if "from_encoder" in measures else measures.iloc[:0]
    layers = list(dict.fromkeys(measures["layer"]))
    figure, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    for group, style in group_styles(measures).items():
        chosen = measures[(measures["loss"] == group[0]) & (measures["supervision"] == group[1])]
        draw_band(ax, chosen, layers, "from_encoder", style, group_label(group, chosen))
    if not layers:
        ax.text(0.5, 0.5, "no run with an encoder group", ha="center", transform=ax.transAxes)
    ax.set_xticks(range(len(layers)), layers, rotation=90, fontsize="small")
    ax.set(xlabel="layer, in forward order", ylabel="gradient from the encoder group (share)", ylim=(-0.03, 1.03))
    add_legend(figure, 6.5)
    return figure


def plot_swaps(table: pd.DataFrame) -> Figure:
    """Differences between backward passes of the same weights, layer by layer in forward order: a panel a comparison.

    table: comparison, loss, supervision (the networks were trained with), seed, layer, difference. Lines are means over
    the seeds, bands go from the lowest to the highest seed.
    """
    comparisons, layers = list(dict.fromkeys(table["comparison"])), list(dict.fromkeys(table["layer"]))
    width = 1.2 + max(3.0, 0.2 * len(layers)) * len(comparisons)
    figure, axes = plt.subplots(1, len(comparisons), figsize=(width, 4.2), layout="constrained", squeeze=False)
    for ax, comparison in zip(axes[0], comparisons, strict=True):
        rows = table[table["comparison"] == comparison]
        ax.axhline(0, color=GREY, lw=0.8)
        for group, style in group_styles(table).items():
            chosen = rows[(rows["loss"] == group[0]) & (rows["supervision"] == group[1])]
            if len(chosen):
                draw_band(ax, chosen, layers, "difference", style, f"trained with {group_label(group, chosen)}")
        ax.set_xticks(range(len(layers)), layers, rotation=90, fontsize="small")
        ax.set_title(comparison, fontsize="medium")
        ax.set(xlabel="layer, in forward order", ylabel="difference (share of the voxels)")
    add_legend(figure, width)
    return figure


def plot_missed_voxel(table: pd.DataFrame) -> Figure:
    """Gradient at the logit of one airway voxel over its probability, a curve a loss; both axes logarithmic.

    table: loss, p, gradient (of any unit: shown relative to that at the loss's highest p).
    """
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for loss, style in series_styles(table["loss"]).items():
        rows = table[table["loss"] == loss].sort_values("p")
        ax.plot(rows["p"], rows["gradient"] / rows["gradient"].iloc[-1], label=plain(loss), **style | {"marker": ""})
    ax.set(xscale="log", yscale="log", xlabel="probability p of the missed airway voxel")
    ax.set_ylabel(f"gradient at its logit (of that at p = {table['p'].max():g})")
    ax.legend(frameon=False, fontsize="small")
    return figure


def plot_law(table: pd.DataFrame) -> Figure:
    """Erosion of the thinnest airways over the critical radius by the law: a marker a layer and seed.

    table: loss, seed, layer, law (voxels), erosion_thinnest (share), lost, half_eroded. The shaded part is where the
    layers that `lost` marks are by the law.
    """
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    end = 1.05 * max([2.0, *table["law"]])
    ax.fill_between([1, end], 0.5, 1, color=GREY, alpha=0.2, lw=0, label="where the law has them")
    for loss, style in series_styles(table["loss"]).items():
        rows = table[table["loss"] == loss]
        text = f"{plain(loss)} ({rows.loc[rows['lost'], 'half_eroded'].sum()} of {rows['lost'].sum()} as the law says)"
        ax.plot(rows["law"], rows["erosion_thinnest"], label=text, **style | {"ls": "", "mfc": "none"})
    ax.set(xlabel="critical radius by the law (voxels)", ylabel="thinnest airways eroded (share)")
    ax.set(xlim=(-0.02 * end, end), ylim=(-0.02, 1.02))
    figure.legend(loc="outside lower center", frameon=False, fontsize="small")
    return figure
