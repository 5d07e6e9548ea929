"""Gradient shares of a run, layer by layer and epoch by epoch, on one crop: written by the study, read by the explorer.

A store results/<study>/gradients/<run>.zarr holds the crop's `image` and `label`, a group for each epoch with the
foreground share of every layer on the layer's own grid, and the layers' measures. See `gradients` for what they are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from zarr.codecs import BloscCodec

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaystudy import home

STEPS = 254  # of a stored share; 255 stands for a voxel without a share: no gradient reaches it, or it is not a number
ABOUT = ("run", "loss", "supervision", "seed", "case", "epochs", "layers", "spacing")


@dataclass(frozen=True)
class GradientMaps:
    """The shares of one run on one crop; they are read when asked for.

    Attributes
    ----------
    path : Path
        Of the store.
    run, loss, supervision, case : str
        The run's name, loss and supervision, and the case the crop is of.
    seed : int
        Of the run.
    epochs : list of int
        Epochs of training that were looked at; 0 is the network before training.
    layers : list of str
        In the order of the forward pass.
    spacing : tuple
        x, y, z, mm.
    image, label : arrays (D, H, W)
        uint8 and boolean.
    measures : DataFrame
        A row an epoch and layer: `epoch`, `layer`, `erosion`, `dilation`, `ratio`, `share`.
    """

    path: Path
    run: str
    loss: str
    supervision: str
    seed: int
    case: str
    epochs: list[int]
    layers: list[str]
    spacing: tuple[float, float, float]
    image: np.ndarray
    label: np.ndarray
    measures: pd.DataFrame

    @classmethod
    def open(cls, path: str | Path) -> "GradientMaps":
        """Open the store at `path`; InputError if there is none, or not one of ours."""
        path = Path(path)
        try:
            store = zarr.open_group(path, mode="r")
            about = {name: store.attrs[name] for name in ABOUT}
            arrays = {"image": store["image"][:], "label": store["label"][:] > 0}
            measures = pd.DataFrame(store.attrs["measures"])
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise InputError(
                f"{path}: no gradient maps here ({error}); notebooks/01_gradient_erosion.ipynb makes them"
            ) from error
        about["spacing"] = tuple(about["spacing"])
        return cls(path=path, **about, **arrays, measures=measures)

    def share(self, epoch: int, layer: str) -> np.ndarray:
        """Foreground share of the gradient, float32 (d, h, w) on the layer's grid in [0, 1]; nan where there is none.

        Raises
        ------
        InputError
            No such epoch or layer; the message lists what there is.
        """
        if epoch not in self.epochs:
            raise InputError(f"{self.path}: no epoch {epoch}; there are {', '.join(map(str, self.epochs))}")
        if layer not in self.layers:
            raise InputError(f"{self.path}: no layer {layer!r}; there are {', '.join(self.layers)}")
        stored = zarr.open_array(self.path / epoch_name(epoch) / layer, mode="r")[:]
        return np.where(stored > STEPS, np.nan, stored / np.float32(STEPS)).astype(np.float32)


def epoch_name(epoch: int) -> str:
    """Name of an epoch's group in the store."""
    return f"epoch_{epoch:04d}"


def maps_folder(name: str) -> Path:
    """results/<study>/gradients."""
    return home.results(name) / "gradients"


def find_maps(name: str) -> list[Path]:
    """All gradient maps of a study, by name; InputError if there are none."""
    found = sorted(maps_folder(name).glob("*.zarr"))
    if not found:
        raise InputError(f"{maps_folder(name)}: no gradient maps; notebooks/01_gradient_erosion.ipynb makes them")
    return found


def write_maps(
    path: str | Path,
    about: dict[str, Any],
    image: np.ndarray,
    label: np.ndarray,
    shares: Iterable[tuple[int, str, np.ndarray]],
    measures: pd.DataFrame,
) -> None:
    """Write a store, whole or not at all.

    Parameters
    ----------
    path :
        Of the store, a folder ending in .zarr.
    about : dict
        run, loss, supervision, seed, case and spacing.
    image, label : arrays (D, H, W)
        uint8 and boolean.
    shares : iterable of (epoch, layer, array (d, h, w))
        In [0, 1], nan where there is none; the layers in the order of the forward pass, the same in every epoch.
    measures : DataFrame
        As of `GradientMaps`.
    """
    compressors = BloscCodec(cname="zstd", clevel=7)
    epochs: dict[int, None] = {}
    layers: dict[str, None] = {}
    with atomic_path(path) as temporary:
        store = zarr.open_group(temporary, mode="w")
        for name, array in (("image", image), ("label", label.astype(np.uint8))):
            store.create_array(name, data=array, chunks=array.shape, compressors=compressors)
        for epoch, layer, share in shares:
            stored = np.where(np.isfinite(share), np.rint(np.clip(share, 0, 1) * STEPS), STEPS + 1).astype(np.uint8)
            name = f"{epoch_name(epoch)}/{layer}"
            store.create_array(name, data=stored, chunks=stored.shape, compressors=compressors)
            epochs[epoch] = layers[layer] = None
        rows = measures.astype(object).where(measures.notna(), None).to_dict("list")
        store.attrs.update(about | {"epochs": list(epochs), "layers": list(layers), "measures": rows})
