"""Open a prepared case for training: arrays on disk or in memory, and the points that crops are drawn about."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import zarr
from scipy import ndimage
from torch import Tensor

from airwaylib.errors import InputError

REACH = 2  # voxels about the airway where distance and width are kept, see `prepare`


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
    width: zarr.Array | np.ndarray | Tensor | None = None  # likewise
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
            later = (group.get(name) for name in ("lung", "width"))
            return cls(group.attrs["case"], *arrays, *points, tuple(group.attrs["spacing"]), *later)
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
        """Device that holds the arrays; the CPU if they are on the disk."""
        return self.image.device if isinstance(self.image, Tensor) else torch.device("cpu")

    def on(self, device: str | torch.device) -> "Store":
        """The case with its arrays decoded in the memory of `device`."""
        names = ["image", "label", "distance"] + ["width"] * (self.width is not None)
        arrays = {name: torch.tensor(getattr(self, name)[:], device=device) for name in names}
        return replace(self, **arrays)

    def read(self, name: str, low: np.ndarray, side: int, plane: int = 0) -> Tensor:
        """Array `name` in the cube of side S at corner `low`: float32 (S, S, S), 0 beyond the grid.

        It lies in memory with axis `plane` last, as `patches.rotate_and_crop` goes through it; on the device that holds
        the array, or else on the CPU.
        """
        array = getattr(self, name)
        cube = torch.empty(side, side, side, device=self.device).movedim(2, plane)
        start, stop = np.maximum(low, 0), np.minimum(low + side, self.shape)
        if (stop - start < side).any():
            cube.zero_()
        source = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        target = tuple(slice(int(a), int(b)) for a, b in zip(start - low, stop - low, strict=True))
        cube[target] = torch.as_tensor(array[source])
        return cube

    def read_lines(self, name: str, low: np.ndarray, side: int, plane: int = 0) -> tuple[Tensor, Tensor]:
        """Read label, distance or width as `read` does, as the lines along axis `plane` that come near the airway.

        Returns their numbers (N,) among the side^2 lines of the cube, and the lines (N, S), float32. All others are 0.
        """
        array, flat = getattr(self, name), [axis for axis in range(3) if axis != plane]
        rim = 0 if name == "label" else REACH
        met = np.zeros((side + 2 * rim,) * 2, bool)
        for points in (self.small_points, self.large_points, self.centreline_points):
            near = points[((points >= low - rim) & (points < low + side + rim)).all(1)] - (low - rim)
            met[tuple(near[:, flat].T)] = True
        if rim:
            met = ndimage.binary_dilation(met, iterations=rim)[rim:-rim, rim:-rim]
        start, stop = np.maximum(low, 0), np.minimum(low + side, self.shape)
        part = torch.as_tensor(array[tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))])
        offset = start - low
        inside = tuple(slice(int(offset[axis]), int(offset[axis]) + part.shape[axis]) for axis in flat)
        places = torch.from_numpy(np.argwhere(met[inside])).to(part.device)
        numbers = (places[:, 0] + inside[0].start) * side + places[:, 1] + inside[1].start
        lines = torch.zeros(len(places), side, device=part.device)
        begin = int(offset[plane])
        lines[:, begin : begin + part.shape[plane]] = part.movedim(plane, 2)[places[:, 0], places[:, 1]]
        return numbers, lines


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
