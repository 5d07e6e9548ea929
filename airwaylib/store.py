"""A prepared case opened for training: its arrays, on disk or held in memory, and the points crops are drawn about."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import zarr
from torch import Tensor

from airwaylib.errors import InputError


@dataclass(frozen=True)
class Store:
    """A prepared case opened for sampling; points are (N, 3) z, y, x voxel indices of its grid, spacing x, y, z mm."""

    name: str
    image: zarr.Array | np.ndarray | Tensor
    label: zarr.Array | np.ndarray | Tensor
    distance: zarr.Array | np.ndarray | Tensor
    centreline_points: np.ndarray
    small_points: np.ndarray
    large_points: np.ndarray
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    lung: zarr.Array | None = None  # None: a store from before it was kept
    missed_points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int16))  # see `missed`

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """Open the store that `prepare.prepare_case` wrote at `path`; its arrays stay on the disk, see `hold`."""
        try:
            group = zarr.open_group(path, mode="r")
            small = group["small_airway"][:] > 0
            large = (group["label"][:] > 0) & ~small
            centreline = group["centreline"][:] > 0
            points = (np.argwhere(mask).astype(np.int16) for mask in (centreline, small, large))  # int64 is 4 times it
            arrays = (group[name] for name in ("image", "label", "distance"))
            return cls(group.attrs["case"], *arrays, *points, tuple(group.attrs["spacing"]), group.get("lung"))
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise InputError(f"{path}: no training store here ({error}); make it with airwaylib prepare") from error

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        return tuple(self.image.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of image, label and distance, decoded."""
        return sum(array.nbytes for array in (self.image, self.label, self.distance))

    @property
    def device(self) -> torch.device:
        """Where the arrays are held; the CPU if they are on the disk."""
        return self.image.device if isinstance(self.image, Tensor) else torch.device("cpu")

    def on(self, device: str | torch.device) -> "Store":
        """The case with its arrays decoded in the memory of `device`."""
        arrays = {name: torch.tensor(getattr(self, name)[:], device=device) for name in ("image", "label", "distance")}
        return replace(self, **arrays)

    def read(self, name: str, low: np.ndarray, side: int, plane: int = 0, out: Tensor | None = None) -> Tensor:
        """Array `name` in the cube of side S at corner `low`: float32 (S, S, S), 0 beyond the grid.

        It lies in memory with axis `plane` last, as `patches.rotate_and_crop` goes through it; on the device that holds
        the array, or else on the CPU. out: (S, S, S) to write to, contiguous, on that device.
        """
        array = getattr(self, name)
        memory = torch.empty(side, side, side, device=self.device) if out is None else out
        cube = memory.movedim(2, plane)
        start, stop = np.maximum(low, 0), np.minimum(low + side, self.shape)
        if (stop - start < side).any():
            cube.zero_()
        source = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        target = tuple(slice(int(a), int(b)) for a, b in zip(start - low, stop - low, strict=True))
        cube[target] = torch.as_tensor(array[source])
        return cube


def hold(stores: list[Store], memory: float, device: str | torch.device = "cpu") -> list[Store]:
    """The stores in their order, held in the memory of `device` one after the other while `memory` GB last.

    A crop of a case on the disk costs about three times as much: the chunks that it meets are decoded for it.
    """
    left, held = memory * 1e9, []
    for store in stores:
        if fits := store.nbytes <= left:
            left -= store.nbytes
        held.append(store.on(device) if fits else store)
    return held
