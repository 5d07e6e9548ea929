"""Gradient maps of a made-up study: a forking airway whose gradient the background eats on the way to the first layer.

Nothing is trained: an airway's part, R times as strong as the background's, is blurred more and more from the last
layer down to the first. It looks like what theory says of a network; the numbers are those of none.
"""

import itertools

import numpy as np
import pandas as pd
from scipy import ndimage

from airwaystudy.analysis.gradient_maps import GradientMaps, write_maps
from airwaystudy.figures.gradient_slices import share_slice

STRIDES = {"ec1": 1, "ec3": 1, "ec5": 2, "ec8": 4, "ec11": 8, "dc2": 4, "dc4": 2, "dc6": 1}  # in forward order
EPOCHS = (0, 2, 5)
RATIOS = {"dice": 1.2, "general_union": 3.0}


def airway(size):
    """A trachea, two bronchi and four twigs, (size, size, size) boolean."""
    grid = np.indices((size, size, size)) / size
    label = np.zeros((size, size, size), bool)
    tubes = [((0.95, 0.5, 0.5), (0.62, 0.5, 0.5), 0.075)]
    for side in (-1, 1):
        fork = (0.35, 0.52, 0.5 + 0.2 * side)
        tubes.append(((0.62, 0.5, 0.5), fork, 0.045))
        tubes += [(fork, (0.1, 0.5 + 0.2 * turn, 0.5 + (0.2 + 0.12 * turn) * side), 0.022) for turn in (-1, 1)]
    for start, end, radius in tubes:
        start, along = np.array(start), np.array(end) - np.array(start)
        away = grid - start[:, None, None, None]
        along_it = np.clip(np.tensordot(along, away, 1) / (along @ along), 0, 1)
        nearest = along[:, None, None, None] * along_it
        label |= np.linalg.norm(away - nearest, axis=0) < max(radius, 0.6 / size)
    return label


def ct(label):
    """Grey values 0..255 of lung, airway lumen and wall, with noise."""
    noise = np.random.default_rng(0).normal(0, 5, label.shape)
    wall = ndimage.binary_dilation(label) & ~label
    return np.clip(ndimage.gaussian_filter(np.where(label, 2.0, np.where(wall, 150, 30)), 0.6) + noise, 0, 255).astype(
        np.uint8
    )


def share_of(label, ratio, blur, stride):
    """Foreground share of a layer, nan in one corner."""
    parts = [
        ndimage.gaussian_filter(part.astype(np.float32), blur).reshape(
            *itertools.chain.from_iterable((size // stride, stride) for size in label.shape)
        )
        for part in (ratio * label, ~label)
    ]
    foreground, background = (part.mean((1, 3, 5)) for part in parts)
    share = foreground / (foreground + background)
    share[: 8 // stride, : 8 // stride, : 8 // stride] = np.nan
    return share


def write_run(path, loss, supervision, seed=0, size=48, strides=STRIDES, epochs=EPOCHS, case="mini_0008"):
    """Write the maps of one run; returns the path."""
    label = airway(size)
    shares, rows = [], []
    for epoch, (place, (layer, stride)) in itertools.product(epochs, enumerate(strides.items())):
        from_end = len(strides) - 1 - place
        depth = min(from_end, 2 + place) if supervision == "both" else from_end
        ratio = RATIOS.get(loss, 2.0) * (1 + 0.1 * seed) * (0.3 + 0.14 * epoch)
        share = share_of(label, ratio, 0.3 * size / 48 * (1 + depth), stride)
        whole = np.stack([share_slice(share, label.shape, 0, index) for index in range(size)])
        measures = {"erosion": np.nanmean(whole[label] < 0.5), "dilation": np.nanmean(whole[~label] > 0.5)}
        rows.append({"epoch": epoch, "layer": layer, **measures, "ratio": ratio, "share": np.nanmean(whole[label])})
        shares.append((epoch, layer, share))
    about = {"run": f"{supervision}_{loss}_{seed}", "loss": loss, "supervision": supervision, "seed": seed}
    about |= {"case": case, "spacing": [1.0, 1.0, 1.5]}
    write_maps(path, about, ct(label), label, shares, pd.DataFrame(rows))
    return path


def write_study(folder, runs=(("dice", "final"), ("general_union", "both")), **options):
    """Write a run's maps for each loss and supervision into `folder` and their table; returns the paths, by name."""
    names = {f"{supervision}_{loss}_0": (loss, supervision) for loss, supervision in runs}
    paths = sorted(write_run(folder / f"{name}.zarr", *run, **options) for name, run in names.items())
    pd.DataFrame({"run": list(names)}).to_csv(folder / "layers.csv", index=False)  # the study is done
    return paths


def open_study(folder, **options):
    """Write a study and open its maps."""
    return [GradientMaps.open(path) for path in write_study(folder, **options)]
