"""Plots of how real the phantoms are: synthetic beside published and real.

Every function takes curves by name: the phantoms' first, solid blue; references after it, each with its own dashes.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from airwaystudy.figures.style import GREY, add_legend, series_styles
from airwaystudy.phantoms.realism import HU_EDGES

Curves = Mapping[str, pd.DataFrame]
BEYOND = 99  # an exponent off the axis


def draw_curves(ax: Axes, curves: Curves, x: str, y: str, marker: bool = True) -> None:
    """Draw column `y` over `x` of each table that has it."""
    for name, style in series_styles(curves).items():
        if y in curves[name] and len(curves[name]):
            ax.plot(curves[name][x], curves[name][y], label=name, **style | ({} if marker else {"marker": ""}))


def plot_morphometry(tables: Curves, published: Mapping[str, tuple], title: str) -> Figure:
    """Draw six properties by generation; `published` ranges (low, high, source) as grey bands."""
    panels = {
        "branches": "branches",
        "diameter_mm": "diameter (mm)",
        "length_mm": "length (mm)",
        "length_over_diameter": "length / diameter",
        "angle_deg": "branching angle (degrees)",
        "child_over_parent": "diameter / parent's diameter",
    }
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.4), layout="constrained", sharex=True)
    for ax, (column, label) in zip(axes.flat, panels.items(), strict=True):
        draw_curves(ax, tables, "generation", column)
        if column in published:
            ax.axhspan(*published[column][:2], color=GREY, alpha=0.25, lw=0, label="published range")
        ax.set(ylabel=label, yscale="log" if column in ("branches", "diameter_mm", "length_mm") else "linear")
        if ax in axes[1]:
            ax.set(xlabel="generation (trachea 0)", ylim=(0, 1.05 * ax.get_ylim()[1]))
    add_legend(figure, 11)
    figure.suptitle(title)
    return figure


def plot_murray(exponents: Mapping[str, np.ndarray], published: tuple[float, float, str], title: str) -> Figure:
    """Draw the share of forks with Murray's exponent up to x; a fork whose child is as wide as it has inf: never."""
    figure, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    ax.axvspan(*published[:2], color=GREY, alpha=0.25, lw=0, label=published[2])
    for name, style in series_styles(exponents).items():
        look = {"color": style["color"], "ls": style["ls"], "label": f"{name} ({len(exponents[name])} forks)"}
        if len(exponents[name]):
            seen = np.nan_to_num(exponents[name], posinf=BEYOND)  # seaborn leaves inf out of the sum
            sns.ecdfplot(x=seen, stat="percent", ax=ax, **look)
    ax.set(xlim=(0, 8), ylim=(0, 100), xlabel="Murray exponent of a fork", ylabel="forks with it or less (%)")
    ax.legend(frameon=False, fontsize="small")
    ax.set_title(title, fontsize="medium")
    return figure


def plot_histograms(histograms: Curves, title: str) -> Figure:
    """Draw the HU of lung and body: the share of the tissue's voxels per HU, logarithmic."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
    for ax, (tissue, label) in zip(axes, {"lung": "lung", "body": "body in the lungs' box"}.items(), strict=True):
        for name, style in series_styles(histograms).items():
            rows = histograms[name][histograms[name]["tissue"] == tissue]
            look = {"element": "step", "fill": False, "color": style["color"], "ls": style["ls"], "label": name}
            sns.histplot(rows, x="hu", weights="density", bins=list(HU_EDGES), ax=ax, **look)
        ax.set(xlabel="HU", yscale="log", title=label)
    axes[0].set(ylabel="share of the voxels per HU")
    axes[1].legend(frameon=False, fontsize="small")
    figure.suptitle(title)
    return figure


def plot_spectra(spectra: Curves, title: str) -> Figure:
    """Draw noise power spectra, in HU^2 mm^2 on a logarithmic axis, and as shares of their largest value."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    relative = {name: table.assign(power=table["power"] / table["power"].max()) for name, table in spectra.items()}
    draw_curves(axes[0], spectra, "frequency", "power")
    draw_curves(axes[1], relative, "frequency", "power")
    axes[0].set(xlabel="spatial frequency (1/mm)", ylabel="noise power (HU² mm²)", yscale="log")
    axes[1].set(xlabel="spatial frequency (1/mm)", ylabel="noise power / its maximum", ylim=(0, None))
    axes[0].legend(frameon=False, fontsize="small")
    figure.suptitle(title)
    return figure


def plot_walls(walls: Curves, title: str) -> Figure:
    """Draw the mean HU along the normals of the lumen's surface, a panel a bin of lumen diameter."""
    bins = list(dict.fromkeys(name for table in walls.values() for name in table["diameter_mm"]))
    bins.sort(key=lambda name: float(name.rstrip("+").split("-")[0]))
    width = 1 + 2.7 * max(len(bins), 1)
    figure, axes = plt.subplots(1, max(len(bins), 1), figsize=(width, 3.4), layout="constrained", sharey=True)
    for ax, diameter in zip(np.atleast_1d(axes), bins, strict=False):
        ax.axvline(0, color=GREY, lw=0.8)
        chosen = {name: table[table["diameter_mm"] == diameter] for name, table in walls.items()}
        draw_curves(ax, chosen, "distance_mm", "hu", marker=False)
        ax.set(xlabel="mm from the mask's surface", title=f"lumen {diameter} mm")
    np.atleast_1d(axes)[0].set(ylabel="mean HU")
    np.atleast_1d(axes)[0].legend(frameon=False, fontsize="small")
    figure.suptitle(title)
    return figure
