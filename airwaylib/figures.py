"""Every plot of the study. Okabe-Ito colours, units on the axes, PNG and SVG that a rebuild leaves unchanged."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import ndimage
from skimage.measure import block_reduce, marching_cubes

from airwaylib.files import atomic_path

# Okabe & Ito's colours, told apart with any colour vision.
BLUE, ORANGE, VERMILION, GREY = "#0072B2", "#E69F00", "#D55E00", "#7F7F7F"
HU_WINDOW = {"cmap": "gray", "vmin": -1000, "vmax": 200}
LAMP = np.array([-0.48, -0.6, 0.64])  # direction of the light on surfaces: x, y, z; unit length
Spacing = tuple[float, float, float]


def save_figure(figure: Figure, stem: str | Path, suffixes: Sequence[str] = (".png", ".svg")) -> list[Path]:
    """Write STEM.png and STEM.svg, atomically, byte for byte the same whenever the figure is; returns the paths."""
    paths = []
    for suffix in suffixes:
        path, metadata = Path(f"{stem}{suffix}"), {"Software": None} if suffix == ".png" else {"Date": None}
        with plt.rc_context({"svg.hashsalt": "airwaylib"}), atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=110, metadata=metadata)
        paths.append(path)
    return paths


def plot_training(metrics: pd.DataFrame) -> Figure:
    """Loss and validation scores over the epochs of a run's metrics.csv."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(metrics["epoch"], metrics["loss_decoder"], color=BLUE, marker=".", label="decoder group (the prediction)")
    if metrics["loss_encoder"].any():
        left.plot(metrics["epoch"], metrics["loss_encoder"], color=ORANGE, marker=".", ls="--", label="encoder group")
    left.set(xlabel="epoch", ylabel="training loss")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(frameon=False)
    styles = {
        "td": (BLUE, "o", "tree length detected"),
        "precision": (VERMILION, "s", "precision"),
        "dsc": (GREY, "^", "DSC"),
    }
    for name, (colour, marker, label) in styles.items():
        if name in metrics:
            scored = metrics.dropna(subset=name)
            right.plot(scored["epoch"], scored[name], color=colour, marker=marker, label=label)
    right.set(xlabel="epoch", ylabel="validation score (%)", ylim=(0, 102))
    right.xaxis.get_major_locator().set_params(integer=True)
    if right.lines:
        right.legend(frameon=False)
    return figure


def plot_crops(crops: Sequence[Mapping[str, np.ndarray]]) -> Figure:
    """Training crops (image and label, (1, S, S, S)) through the axial slice with most airway, label outlined."""
    figure, axes = plt.subplots(1, len(crops), figsize=(2.2 * len(crops), 2.4), layout="constrained", squeeze=False)
    for ax, crop in zip(axes[0], crops, strict=True):
        image, label = (np.asarray(crop[name][0]) for name in ("image", "label"))
        index = int(label.sum((1, 2)).argmax())
        ax.imshow(image[index], cmap="gray", vmin=0, vmax=1)
        if label.any():
            ax.contour(label[index], levels=[0.5], colors=ORANGE, linewidths=1)
        ax.set(xticks=[], yticks=[], xlabel=f"{label.shape[-1]} voxels")
    return figure


def draw_slice(
    ax: Axes, ct: np.ndarray, masks: Mapping[str, np.ndarray], axis: int, index: int, spacing: Spacing
) -> None:
    """One CT slice (`axis` 0 axial, 1 coronal, 2 sagittal; head up) with each mask outlined in its key's colour."""
    plane = np.take(ct, index, axis)
    step = {0: (spacing[1], spacing[0]), 1: (spacing[2], spacing[0]), 2: (spacing[2], spacing[1])}[axis]
    extent = (0, plane.shape[1] * step[1], 0, plane.shape[0] * step[0])
    origin = "upper" if axis == 0 else "lower"  # the first row of an axial slice is the front, of the others the feet
    ax.imshow(plane, extent=extent, origin=origin, **HU_WINDOW)
    for colour, mask in masks.items():
        section = np.take(mask, index, axis)
        if section.any():
            ax.contour(section, levels=[0.5], colors=colour, linewidths=1, extent=extent, origin=origin)
    ax.set(xlabel="mm", ylabel="mm")


def draw_surface(ax: Axes, masks: Mapping[str, np.ndarray], spacing: Spacing) -> None:
    """Surfaces of boolean masks (D, H, W) seen from the front like a coronal slice, head up, coloured by their keys."""
    shape = next(iter(masks.values())).shape
    stride = max(1, round(max(shape) / 160))  # more triangles than pixels help nobody
    surfaces = {colour: surface(mask, stride) * spacing for colour, mask in masks.items() if mask.any()}
    ax.set(xlim=(0, shape[2] * spacing[0]), ylim=(0, shape[0] * spacing[2]), xlabel="mm", ylabel="mm", aspect="equal")
    if not surfaces:
        return
    # Strategy: look along +y, without perspective: paint the triangles from the back to the front on a plane (x, z),
    # each as bright as it faces a lamp above the viewer's left shoulder.
    corners = np.concatenate(list(surfaces.values()))
    colours = np.repeat([to_rgb(colour) for colour in surfaces], [len(part) for part in surfaces.values()], axis=0)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facing = normal @ LAMP / np.maximum(np.linalg.norm(normal, axis=1), 1e-9)
    colours *= 0.6 + 0.4 * facing[:, None]
    order = np.argsort(-corners[..., 1].mean(1))
    ax.add_collection(
        PolyCollection(
            corners[order][..., [0, 2]], facecolors=colours[order], edgecolors="face", linewidths=0.2, rasterized=True
        )
    )


def surface(mask: np.ndarray, stride: int) -> np.ndarray:
    """Triangles (N, 3 corners, 3: x, y, z) of a mask's surface on a grid `stride` times coarser, in its voxels."""
    # Strategy: a coarse voxel is set where any of its voxels is, and the blur keeps a lone voxel above the level, so
    # that even the thinnest airway shows.
    coarse = np.pad(block_reduce(mask, stride, np.max), 2)
    smooth = ndimage.gaussian_filter(coarse.astype(np.float32), 0.5)
    points, triangles, _, _ = marching_cubes(smooth, 0.35)
    return ((points - 1.5) * stride)[:, ::-1][triangles]


def overlap(prediction: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Detected, missed and false voxels of a prediction, keyed by the colours they are drawn in."""
    return {BLUE: prediction & truth, ORANGE: truth & ~prediction, VERMILION: prediction & ~truth}


def plot_predictions(
    ct: np.ndarray, truth: np.ndarray, predictions: Mapping[str, np.ndarray], spacing: Spacing, caption: str
) -> Figure:
    """Truth and each prediction as coronal slice and 3-D rendering: detected blue, missed orange, false vermilion."""
    columns = {"truth": truth, **predictions}
    tallness = ct.shape[0] * spacing[2] / (ct.shape[2] * spacing[0])
    figure = plt.figure(figsize=(4 * len(columns), 1.4 + 6.6 * tallness), layout="constrained")
    index = int(np.argmax(truth.sum((0, 2))))  # the coronal slice with most airway
    for column, (name, mask) in enumerate(columns.items(), 1):
        ax = figure.add_subplot(2, len(columns), column)
        draw_slice(ax, ct, {ORANGE: truth} if name == "truth" else {ORANGE: truth, BLUE: mask}, 1, index, spacing)
        ax.set_title(name)
        ax = figure.add_subplot(2, len(columns), column + len(columns))
        draw_surface(ax, overlap(mask, truth), spacing)
    figure.suptitle(
        f"{caption}\n3-D: detected blue, missed orange, false vermilion; slices: truth orange, prediction blue"
    )
    return figure


def plot_segmentation(ct: np.ndarray, mask: np.ndarray, spacing: Spacing, title: str) -> Figure:
    """A CT with its airway mask: axial and coronal slice where the mask is largest, and the mask in 3-D."""
    depth, height, width = np.array(ct.shape) * spacing[::-1]
    figure = plt.figure(figsize=(13, 0.8 + 4.2 * max(depth, height) / width), layout="constrained")
    for column, (axis, others) in enumerate(((0, (1, 2)), (1, (0, 2))), 1):
        ax = figure.add_subplot(1, 3, column)
        index = int(np.argmax(mask.sum(others))) if mask.any() else ct.shape[axis] // 2
        draw_slice(ax, ct, {ORANGE: mask}, axis, index, spacing)
        ax.set_title(f"{('axial', 'coronal')[axis]} slice {index}")
    ax = figure.add_subplot(1, 3, 3)
    draw_surface(ax, {BLUE: mask}, spacing)
    figure.suptitle(title)
    return figure


# ----------------------------------------------------------------------------------------------------------------- tree


def tree_lines(tree, found: np.ndarray | None) -> pd.DataFrame:
    """Lines of a `tree.AirwayTree`, one row a stretch between two forks.

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
    """A parsed airway tree from the front and the left, coloured by generation, a point wide for each mm of radius.

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
    """A parsed airway tree as self-contained HTML: turn it, zoom, point at a branch for its numbers.

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
    """What a branch says of itself."""
    return (
        f"branch {row.branch}, generation {row.generation}<br>"
        f"length {row.length_mm:.1f} mm, radius here {row.radius_mm:.1f} mm, {row.voxels} voxels"
    )


def draw_tree_file(tree, path: str | Path, title: str, found: np.ndarray | None = None) -> None:
    """Draw a tree as what the suffix of `path` says: .html, .png or .svg."""
    path = Path(path)
    if path.suffix == ".html":
        with atomic_path(path) as temporary:
            temporary.write_text(tree_html(tree, title, found), encoding="utf-8")
        return
    figure = plot_tree(tree, title, found)
    save_figure(figure, path.with_suffix(""), [path.suffix])
    plt.close(figure)
