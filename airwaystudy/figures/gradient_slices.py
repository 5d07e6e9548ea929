"""Slice the shares of gradient maps, and draw them layer by layer."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from airwaystudy.analysis.gradient_maps import GradientMaps
from airwaystudy.figures.style import GREY, ORANGE
from airwaystudy.phantoms.names import is_synthetic

NO_SHARE = "#9E9E9E"  # grey, far from the white of a share of 1/2
SHARE_COLOURS = plt.get_cmap("RdBu_r").with_extremes(bad=NO_SHARE)


def run_label(maps: GradientMaps) -> str:
    """Label a run by loss, supervision and seed."""
    return f"{maps.loss}, {maps.supervision}, seed {maps.seed}"


def run_labels(all_maps: Sequence[GradientMaps]) -> list[str]:
    """A label for each run; runs that would have the same one also tell their names."""
    labels = [run_label(maps) for maps in all_maps]
    return [
        f"{label} ({maps.run})" if labels.count(label) > 1 else label
        for label, maps in zip(labels, all_maps, strict=True)
    ]


def one_seed(all_maps: Sequence[GradientMaps]) -> list[GradientMaps]:
    """The first run of each loss and supervision on each case, in their order."""
    first: dict[tuple[str, str, str], GradientMaps] = {}
    for maps in all_maps:
        first.setdefault((maps.case, maps.loss, maps.supervision), maps)
    return list(first.values())


def stride(cells: int, voxels: int) -> int:
    """Voxels of the crop, along an axis, to one of the `cells` of a layer's grid: a power of two.

    Examples
    --------
    >>> stride(64, 64), stride(32, 64), stride(7, 50)
    (1, 2, 8)
    """
    return 1 if cells >= voxels else 2 ** math.ceil(math.log2(voxels / cells))


def share_slice(share: np.ndarray, shape: tuple[int, ...], axis: int, index: int) -> np.ndarray:
    """Slice `index` across `axis` of a layer's shares (d, h, w) on the crop's grid `shape`, each voxel as its cell."""
    cells = [np.arange(n) // stride(m, n) for m, n in zip(share.shape, shape, strict=True)]
    cells[axis] = cells[axis][[index]]
    return share[np.ix_(*cells)].squeeze(axis)


def head_up(axis: int) -> bool:
    """Tell whether a slice's rows go up on the screen: an axial slice's first row is the front, others' the feet."""
    return axis > 0


def axis_names(axis: int) -> tuple[str, str, str]:
    """Names of a slice's columns, rows, and of the axis across it."""
    return (("x", "y", "z"), ("x", "z", "y"), ("y", "z", "x"))[axis]


def step_mm(maps: GradientMaps, axis: int) -> tuple[float, float]:
    """Width and height of a slice's pixel, mm."""
    columns, rows, _ = axis_names(axis)
    size = dict(zip("xyz", maps.spacing, strict=True))
    return size[columns], size[rows]


def best_slice(label: np.ndarray, axis: int) -> int:
    """The slice across `axis` with most airway; the middle one if there is none."""
    counts = label.sum(tuple({0, 1, 2} - {axis}))
    return int(counts.argmax()) if counts.any() else len(counts) // 2


def outline(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges around a mask (H, W), exactly along its pixels: x and y of each edge's two ends and a nan, float32."""
    padded = np.pad(mask, 1)
    rows, columns = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])  # the edge above a pixel
    y, x = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])  # the edge left of a pixel
    gap = np.full(len(rows) + len(y), np.nan)
    starts = np.concatenate([columns, x]) - 0.5, np.concatenate([rows, y]) - 0.5
    ends = np.concatenate([columns + 1, x]) - 0.5, np.concatenate([rows, y + 1]) - 0.5
    return tuple(np.stack([a, b, gap], 1).ravel().astype(np.float32) for a, b in zip(starts, ends, strict=True))


def curve(maps: GradientMaps, epoch: int, measure: str = "erosion") -> pd.Series:
    """A measure of all layers after an epoch, in forward order; nan where it is not known."""
    rows = maps.measures[maps.measures["epoch"] == epoch]
    return rows.set_index("layer")[measure].astype(float).reindex(maps.layers)


def a_few(names: Sequence, count: int) -> list:
    """At most `count` of the names, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(names) - 1, min(count, len(names)))
    return [names[i] for i in dict.fromkeys(np.rint(places).astype(int))]


def plot_descent(all_maps: Sequence[GradientMaps], axis: int = 1, count: int = 5) -> Figure:
    """Draw a row for each run, its last epoch: CT, then shares from the last layer down to the first.

    axis: that the slice cuts, of (D, H, W): 0 axial, 1 coronal, 2 sagittal; the slice is the one with most airway.
    count: layers shown, evenly spread.
    """
    shown = [a_few(maps.layers, count)[::-1] for maps in all_maps]
    columns = 1 + max(map(len, shown))
    size = (2.1 * columns + 0.8, 2.1 * len(all_maps) + 0.3)
    figure, axes = plt.subplots(len(all_maps), columns, figsize=size, layout="constrained", squeeze=False)
    for row, maps, layers in zip(axes, all_maps, shown, strict=True):
        index, (width, height) = best_slice(maps.label, axis), step_mm(maps, axis)
        look = {"origin": "lower" if head_up(axis) else "upper", "aspect": height / width, "interpolation": "nearest"}
        image, label = (np.take(array, index, axis) for array in (maps.image, maps.label))
        row[0].imshow(image, cmap="gray", vmin=0, vmax=255, **look)
        row[0].set_ylabel(f"{maps.loss},\n{maps.supervision}", fontsize="medium")
        row[0].set_title(
            f"{'synthetic CT' if is_synthetic(maps.case) else 'CT'}, epoch {maps.epochs[-1]}", fontsize="medium"
        )
        for ax, layer in zip(row[1:], layers, strict=False):
            share = share_slice(maps.share(maps.epochs[-1], layer), maps.label.shape, axis, index)
            drawn = ax.imshow(share, cmap=SHARE_COLOURS, vmin=0, vmax=1, **look)
            eroded = curve(maps, maps.epochs[-1])[layer]
            ax.set_title(f"{layer}: {eroded:.0%} eroded", fontsize="medium")
        for ax in row:
            ax.plot(*outline(label), color=ORANGE if ax is row[0] else "black", lw=0.8)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_color(GREY)
        for ax in row[1 + len(layers) :]:
            ax.set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, ticks=[0, 0.5, 1])
    bar.set_label("foreground share of the gradient\n(0 all background's, 1 all airway's; grey: no gradient)")
    return figure
