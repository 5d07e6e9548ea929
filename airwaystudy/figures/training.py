"""Plot a training run: losses, validation scores, and the crops it sees."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from airwaystudy.figures.style import BLUE, GREY, ORANGE, VERMILION


def plot_training(metrics: pd.DataFrame) -> Figure:
    """Draw loss and validation scores over the epochs of a run's metrics.csv."""
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
    """Draw training crops (image and label, (1, S, S, S)) through the axial slice with most airway, label outlined."""
    figure, axes = plt.subplots(1, len(crops), figsize=(2.2 * len(crops), 2.4), layout="constrained", squeeze=False)
    for ax, crop in zip(axes[0], crops, strict=True):
        image, label = (np.asarray(crop[name][0]) for name in ("image", "label"))
        index = int(label.sum((1, 2)).argmax())
        ax.imshow(image[index], cmap="gray", vmin=0, vmax=1)
        if label.any():
            ax.contour(label[index], levels=[0.5], colors=ORANGE, linewidths=1)
        ax.set(xticks=[], yticks=[], xlabel=f"{label.shape[-1]} voxels")
    return figure
