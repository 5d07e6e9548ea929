"""Draw CTs with masks: slices with outlines, and surfaces in 3-D."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import ndimage
from skimage.measure import block_reduce, marching_cubes

from airwaystudy.figures.style import BLUE, ORANGE, VERMILION

HU_WINDOW = {"cmap": "gray", "vmin": -1000, "vmax": 200}
LAMP = np.array([-0.48, -0.6, 0.64])  # direction of the light on surfaces: x, y, z; unit length
Spacing = tuple[float, float, float]


def draw_slice(
    ax: Axes, ct: np.ndarray, masks: Mapping[str, np.ndarray], axis: int, index: int, spacing: Spacing
) -> None:
    """Draw one CT slice (`axis` 0 axial, 1 coronal, 2 sagittal; head up) masks outlined in their keys' colours."""
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
    """Draw surfaces of boolean masks (D, H, W) seen from the front, head up, coloured by their keys."""
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
    """Find a mask's surface on a grid `stride` times coarser: triangles (N, 3 corners, 3: x, y, z), in its voxels."""
    # Strategy: a coarse voxel is set where any of its voxels is, and the blur keeps a lone voxel above the level, so
    # that even the thinnest airway shows.
    coarse = np.pad(block_reduce(mask, stride, np.max), 2)
    smooth = ndimage.gaussian_filter(coarse.astype(np.float32), 0.5)
    points, triangles, _, _ = marching_cubes(smooth, 0.35)
    return ((points - 1.5) * stride)[:, ::-1][triangles]


def overlap(prediction: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Split a prediction into detected, missed and false voxels, keyed by the colours they are drawn in."""
    return {BLUE: prediction & truth, ORANGE: truth & ~prediction, VERMILION: prediction & ~truth}


def plot_predictions(
    ct: np.ndarray, truth: np.ndarray, predictions: Mapping[str, np.ndarray], spacing: Spacing, caption: str
) -> Figure:
    """Draw truth and predictions as coronal slice and 3-D rendering: detected blue, missed orange, false vermilion."""
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
    """Draw a CT with its airway mask: axial and coronal slice where the mask is largest, and the mask in 3-D."""
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
