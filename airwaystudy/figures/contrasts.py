"""Plots of what decides a study: arms at equal precision, contrasts with their margin, a replication."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from airwaystudy.figures.style import BLUE, GREY, VERMILION, plain, variant_styles

PANELS = {"td_thin_80": "thin airways (under 2.5 mm)", "td_wide_80": "wide airways (from 2.5 mm)"}
EVEN = "whitesmoke"  # of the margin within which two arms are equivalent


def plot_arms(outcomes: pd.DataFrame, arms: pd.DataFrame, names: Sequence[str], title: str) -> Figure:
    """Draw each arm's tree length detected at 80 % precision, thin airways beside wide ones: seeds, mean, interval.

    outcomes, arms: tables of `analysis.contrasts.write_tables`, percent; names: variants, from the top.
    """
    styles, names = variant_styles(names), [name for name in names if name in set(arms["variant"])]
    size = (9.5, 1.3 + 0.42 * len(names))
    figure, axes = plt.subplots(1, len(PANELS), figsize=size, layout="constrained", sharey=True)
    for ax, (outcome, words) in zip(axes, PANELS.items(), strict=True):
        seeds = outcomes.groupby(["variant", "seed"], sort=False)[outcome].mean()
        means = arms[arms["outcome"] == outcome].set_index("variant")
        for place, name in enumerate(names):
            own, style = seeds.loc[name], styles[name]
            beside = place + np.linspace(-0.18, 0.18, len(own)) if len(own) > 1 else np.full(1, place)
            ax.plot(own, beside, ls="", marker=style["marker"], ms=3, color=style["color"], alpha=0.45)
            row = means.loc[name]
            if np.isfinite([row["low"], row["high"]]).all():
                ax.plot([row["low"], row["high"]], [place, place], color=style["color"], lw=2)
            ax.plot(row["mean"], place, marker=style["marker"], ms=8, color=style["color"], mec="white")
            ax.annotate(f"{row['mean']:.1f}", (row["mean"], place), (0, 7), textcoords="offset points", ha="center")
        ax.set(xlabel="length detected at 80 % precision (%)", title=words)
        ax.locator_params(axis="x", nbins=6)
        ax.set_yticks(range(len(names)), [plain(name) for name in names])
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(axis="x", alpha=0.3)
    figure.suptitle(title)
    return figure


def plot_contrasts(contrasts: pd.DataFrame, title: str) -> Figure:
    """Draw each contrast's difference with its 95 % interval, the margin and the verdict in words.

    contrasts: rows of one outcome of `analysis.contrasts.contrast_table`, points. Filled: primary; hollow: attribution.
    """
    rows = contrasts.reset_index(drop=True)
    figure, ax = plt.subplots(figsize=(8.6, 1.5 + 0.5 * len(rows)), layout="constrained")
    margin = float(rows["margin"].iloc[0])
    ax.axvspan(-margin, margin, color=EVEN, zorder=0)
    ax.axvline(0, color="black", lw=0.8)
    for place, row in rows.iterrows():
        if np.isfinite([row["low"], row["high"]]).all():
            ax.plot([row["low"], row["high"]], [place, place], color=BLUE, lw=2.2, zorder=2)
        face = BLUE if row["primary"] else "white"
        ax.plot(row["difference"], place, marker="o", ms=7, mfc=face, mec=BLUE, zorder=3)
        ax.annotate(row["verdict"], (1.01, place), xycoords=("axes fraction", "data"), va="center")
    ax.set_yticks(
        range(len(rows)), [f"{row['name']}\n{plain(row['arm'])} − {plain(row['base'])}" for _, row in rows.iterrows()]
    )
    ax.tick_params(axis="y", labelsize="small")
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set(xlabel="tree length detected at 80 % precision, difference (points), 95 % interval over seeds and cases")
    handles = [
        Line2D([], [], marker="o", ls="", mfc=BLUE, mec=BLUE, label="primary (Holm)"),
        Line2D([], [], marker="o", ls="", mfc="white", mec=BLUE, label="attribution"),
        Patch(facecolor=EVEN, edgecolor=GREY, label=f"± {margin:g}: equivalent"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title)
    return figure


def plot_replication(contrasts: pd.DataFrame, title: str) -> Figure:
    """Draw this machine's differences on the reference's prediction intervals, contrast by contrast.

    contrasts: of `analysis.replication.replication`, points.
    """
    rows = contrasts.dropna(subset=["difference", "reference"]).reset_index(drop=True)
    figure, ax = plt.subplots(figsize=(8.6, 1.5 + 0.42 * len(rows)), layout="constrained")
    ax.axvline(0, color="black", lw=0.8)
    labels: Mapping[bool, str] = {True: "this machine, inside", False: "this machine, outside"}
    for place, row in rows.iterrows():
        ax.plot([row["low_predicted"], row["high_predicted"]], [place, place], color=GREY, lw=7, alpha=0.45, zorder=1)
        ax.plot(row["reference"], place, marker="|", ms=13, color="black", zorder=2)
        inside = bool(row["inside"])
        ax.plot(row["difference"], place, ls="", marker="o" if inside else "X", ms=8, zorder=3,
                color=BLUE if inside else VERMILION, label=labels[inside])  # fmt: skip
    ax.set_yticks(range(len(rows)), rows["name"])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set(xlabel="tree length detected at 80 % precision, difference (points)")
    found = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    handles = [Patch(facecolor=GREY, alpha=0.45, label="expected of another seed"), *found.values()]
    handles += [Line2D([], [], marker="|", ls="", ms=11, color="black", label="reference")]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title)
    return figure
