"""Draw a parsed airway tree, flat or to turn it."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from airwaylib.files import atomic_path
from airwaystudy.figures.style import BLUE, ORANGE, save_figure


def tree_lines(tree, found: np.ndarray | None) -> pd.DataFrame:
    """Cut a `parse.AirwayTree` into lines, one row a stretch between two forks.

    Columns: points (n, 3; x, y, z in mm), the numbers of its branch, and how it is drawn: group, colour, dash.

    found: whether a prediction detects each branch of the table; else generations tell the colours.
    """
    place, of = tree.centreline[["x", "y", "z"]].to_numpy(), tree.centreline["branch"].to_numpy()
    table = tree.branches.copy()
    if found is None:
        colours = plt.get_cmap("viridis")(table["generation"] / max(table["generation"].max(), 1))
        table["group"] = [f"generation {generation}" for generation in table["generation"]]
        table["colour"], table["dash"] = [to_hex(colour) for colour in colours], "solid"
    else:
        found = np.asarray(found, bool)
        table["group"] = np.where(found, "detected", "missed")
        table["colour"], table["dash"] = np.where(found, BLUE, ORANGE), np.where(found, "solid", "dot")
    lines = table.iloc[[of[twig[-1]] - 1 for twig in tree.twigs]].reset_index(drop=True)
    lines["points"] = [place[twig] for twig in tree.twigs]
    lines["radius_mm"] = [tree.centreline["radius_mm"].to_numpy()[twig].mean() for twig in tree.twigs]
    return lines.sort_values("branch", kind="stable")


def plot_tree(tree, title: str, found: np.ndarray | None = None) -> Figure:
    """Draw a parsed tree from the front and the left, coloured by generation, a point wide for each mm of radius.

    found: whether a prediction detects each branch of the table. With it, branches detected are blue and solid, missed
    ones orange and dotted.
    """
    lines = tree_lines(tree, found)
    widths = np.ptp(np.concatenate(lines["points"].tolist()), axis=0)[:2] if len(lines) else np.ones(2)
    ratios = {"width_ratios": np.maximum(widths, 0.3 * widths.max() + 1e-6)}
    figure, axes = plt.subplots(1, 2, figsize=(11, 6), layout="constrained", sharey=True, gridspec_kw=ratios)
    style = {"colors": lines["colour"], "linewidths": np.clip(lines["radius_mm"], 0.6, 6), "capstyle": "round"}
    style["linestyles"] = ["-" if dash == "solid" else ":" for dash in lines["dash"]]
    for ax, axis, name in zip(axes, (0, 1), ("x, towards the left (mm)", "y, towards the back (mm)"), strict=True):
        ax.add_collection(LineCollection([points[:, [axis, 2]] for points in lines["points"]], **style))
        ax.autoscale()
        ax.set(xlabel=name, aspect="equal")
    axes[0].set(ylabel="z, towards the head (mm)")
    if found is None:
        norm = Normalize(0, max(int(tree.branches["generation"].max()), 1))
        figure.colorbar(
            ScalarMappable(norm, "viridis"),
            ax=axes,
            label="generation (trachea 0)",
            shrink=0.7,
            ticks=MaxNLocator(integer=True),
        )
    else:
        count = f"{np.count_nonzero(found)} of {len(found)}"
        title += f"\n{count} branches detected (blue), the others missed (orange, dotted)"
    figure.suptitle(title, parse_math=False)
    return figure


def tree_html(tree, title: str, found: np.ndarray | None = None, full_page: bool = True) -> str:
    """Write a parsed airway tree as self-contained HTML: turn it, zoom, point at a branch for its numbers.

    found: as for `plot_tree`. full_page: False for a part of a page, such as a notebook.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for group, rows in tree_lines(tree, found).groupby("group", sort=False):
        points = [np.append(line, [[np.nan] * 3], axis=0) for line in rows["points"]]  # a gap after each line
        text = [t for row, line in zip(rows.itertuples(), points, strict=True) for t in [_hover(row)] * len(line)]
        x, y, z = np.concatenate(points).round(2).T
        first = rows.iloc[0]
        width = 2 * float(np.clip(rows["radius_mm"].mean(), 1, 6))
        line = {"color": first["colour"], "width": width, "dash": first["dash"]}
        figure.add_trace(go.Scatter3d(x=x, y=y, z=z, mode="lines", name=group, line=line, text=text, hoverinfo="text"))
    titles = {"xaxis_title": "x (mm)", "yaxis_title": "y (mm)", "zaxis_title": "z (mm)"}
    camera = {"eye": {"x": 0, "y": -1.8, "z": 0.2}}  # from the front
    figure.update_layout(title=title, scene={"aspectmode": "data", "camera": camera, **titles}, height=800)
    return figure.to_html(include_plotlyjs=True, full_html=full_page, div_id="tree")


def _hover(row) -> str:
    """Describe a branch where the mouse points at it."""
    return (
        f"branch {row.branch}, generation {row.generation}<br>"
        f"length {row.length_mm:.1f} mm, radius here {row.radius_mm:.1f} mm, {row.voxels} voxels"
    )


def draw_tree_file(tree, path: str | Path, title: str, found: np.ndarray | None = None) -> None:
    """Draw a tree as .html, .png or .svg, by the suffix of `path`."""
    path = Path(path)
    if path.suffix == ".html":
        with atomic_path(path) as temporary:
            temporary.write_text(tree_html(tree, title, found), encoding="utf-8")
        return
    figure = plot_tree(tree, title, found)
    save_figure(figure, path.with_suffix(""), [path.suffix])
    plt.close(figure)
