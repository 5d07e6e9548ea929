"""Volumes: voxels with their place in the patient (mm), read from and written to the usual CT formats.

SimpleITK is imported only where it reads, writes and resamples: phantoms, preparing and training run without it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from airwaylib.errors import InputError

HU_WINDOW = (-1000, 400)  # Zheng et al. 2021, preprocessing of the authors' program
AIR_AND_LUNG = (-1100, -500)  # HU; scanners' padding (-1024 may be air, -2000 to -3024 is not) lies below
LEAST_AIR = 0.001  # of the voxels; our choice: a chest CT, however cropped, holds far more lung or air than this
STORED_TISSUE = (900, 1300)  # soft tissue in stored values that still carry their offset of 1024
MOST_BONE = 0.05  # of the voxels; our choice: bone alone never fills the range of STORED_TISSUE beyond this
VOXEL_TYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")


@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """A 3-D image in the patient's space.

    Raises `InputError`: `array` is not 3-D or is empty, `spacing` not positive, or `direction` not orthonormal (to
    0.001).

    Parameters
    ----------
    array : numpy.ndarray
        Voxels, `(z, y, x)`.
    spacing : tuple of 3 floats
        Distance of neighbouring voxels along x, y, z, mm.
    origin : tuple of 3 floats
        Centre of voxel (0, 0, 0): x, y, z, mm, in DICOM's LPS axes (towards the patient's left, back and head).
    direction : tuple of 9 floats
        Unit vectors of the array's x, y and z axes, the columns of a 3x3 matrix written row by row.

    Examples
    --------
    >>> ct = Volume(np.zeros((2, 3, 4)), spacing=(0.5, 0.5, 2.0), origin=(10.0, 20.0, 30.0))
    >>> ct.index_to_point([[1, 2, 3]])
    array([[11.5, 21. , 32. ]])
    """

    array: np.ndarray
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self):
        object.__setattr__(self, "array", np.asarray(self.array))
        if self.array.ndim != 3 or self.array.size == 0:
            raise InputError(f"array of shape {self.array.shape}: three axes (z, y, x) are needed, none empty")
        for name, length in (("spacing", 3), ("origin", 3), ("direction", 9)):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != length or not np.isfinite(values).all():
                raise InputError(f"{name} {values}: {length} finite numbers are needed")
            object.__setattr__(self, name, values)
        if min(self.spacing) <= 0:
            raise InputError(f"spacing {self.spacing} mm: it must be above 0 along x, y and z")
        axes = np.reshape(self.direction, (3, 3))
        if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
            raise InputError(f"direction {self.direction}: its three columns must be orthogonal unit vectors")

    def __repr__(self):
        x, y, z = self.array.shape[::-1]
        spacing, origin = ("(" + ", ".join(f"{v:.7g}" for v in values) + ")" for values in (self.spacing, self.origin))
        oblique = np.abs(np.reshape(self.direction, (3, 3)) - np.eye(3)).max() > 1e-6
        direction = f", direction ({', '.join(f'{v:.4g}' for v in self.direction)})" if oblique else ""
        return f"Volume({x} x {y} x {z} {self.array.dtype}, spacing {spacing} mm, origin {origin} mm{direction})"

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return float(np.prod(self.spacing)) / 1000

    @property
    def _step(self) -> np.ndarray:
        """3x3 matrix: mm along (x, y, z) of one voxel along each of the array's x, y and z axes (its columns)."""
        return np.reshape(self.direction, (3, 3)) * self.spacing

    def index_to_point(self, index: np.ndarray) -> np.ndarray:
        """Return the points `(N, 3)` (x, y, z; mm, LPS) of the indices `(N, 3)` (z, y, x; may be fractional)."""
        return np.asarray(index, dtype=float)[..., ::-1] @ self._step.T + self.origin

    def point_to_index(self, point: np.ndarray) -> np.ndarray:
        """Return the indices `(N, 3)` (z, y, x; fractional) of the points `(N, 3)` (x, y, z; mm, LPS)."""
        return ((np.asarray(point, dtype=float) - self.origin) @ np.linalg.inv(self._step).T)[..., ::-1]

    def with_array(self, array: np.ndarray) -> "Volume":
        """Return a volume of other voxels on this grid; raises `InputError` if their shape differs."""
        if np.shape(array) != self.array.shape:
            raise InputError(f"array of shape {np.shape(array)}: this grid needs {self.array.shape}")
        return Volume(array, self.spacing, self.origin, self.direction)

    def same_grid(self, other: "Volume", tolerance: float = 0.01) -> bool:
        """Tell whether `other` has this shape and each of its corner voxels lies within `tolerance` mm of ours."""
        if self.array.shape != other.array.shape:
            return False
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in self.array.shape]), axis=-1).reshape(8, 3)
        offset = self.index_to_point(corners) - other.index_to_point(corners)
        return bool(np.linalg.norm(offset, axis=1).max() <= tolerance)

    def crop(self, box: tuple[slice, slice, slice]) -> "Volume":
        """Return the part in `box`, slices along z, y, x without a step; each voxel keeps its point in space.

        The voxels are a view. A box is cut off at the border; one without a voxel or with a step raises `InputError`.

        Examples
        --------
        >>> Volume(np.zeros((9, 9, 9)), spacing=(0.5, 0.5, 2.0)).crop((slice(1, 4), slice(2, 5), slice(3, 20)))
        Volume(6 x 3 x 3 float64, spacing (0.5, 0.5, 2) mm, origin (1.5, 1, 2) mm)
        """
        if len(box) != 3 or any(side.step not in (None, 1) for side in box):
            raise InputError(f"box {box}: three slices (z, y, x) without a step are needed")
        start = [side.indices(n)[0] for side, n in zip(box, self.array.shape, strict=True)]
        part = self.array[tuple(box)]
        if part.size == 0:
            raise InputError(f"box {box}: it holds no voxel of the volume's {self.array.shape}")
        return Volume(part, self.spacing, self.index_to_point(start), self.direction)


def read_volume(path: str | os.PathLike, series: str | None = None) -> Volume:
    """Read a 3-D image: `.nii`, `.nii.gz`, `.nrrd`, `.mha`, `.mhd`, or a folder with DICOM slices in it or below it.

    Raises `InputError`: no such path, or another suffix; a file that is damaged, truncated, not 3-D, of several
    components, or whose spacing is not above 0; a folder without a series or with several; a series that lacks, repeats
    or mixes slices; NIfTI voxels that are NaN or infinite, because SimpleITK would read them as 0.

    Parameters
    ----------
    path : path
        The file, or the folder that holds the slices, also in folders below it, as a CD has them.
    series : str, optional
        SeriesInstanceUID to read; needed when the folder holds several CTs. Scout images and other objects than CTs do
        not count.

    Returns
    -------
    Volume
        Of the file's data type. DICOM's rescale slope and intercept are applied (HU for CT), as int16 where nothing is
        lost by it, else float32.
    """
    from airwaylib.images.files import read_image

    return _from_image(read_image(Path(path), series))


def read_ct(path: str | os.PathLike, series: str | None = None) -> Volume:
    """Read a chest CT as `read_volume` does, and make sure that its values can be Hounsfield units (HU).

    At least 0.1 % of the voxels (our choice) must lie in -1100..-500 HU: air and lung. Any padding below is accepted.
    Raises `InputError` also if voxels are NaN or infinite, all are equal, or the values are an 8-bit window, a 0..1
    scale, stored values with their offset of 1024, or otherwise without air.
    """
    volume = read_volume(path, series)
    if fault := _why_not_hu(volume.array):
        raise InputError(f"{path}: {fault}; a CT in Hounsfield units is needed: air near -1000, water 0")
    return volume


def _why_not_hu(array: np.ndarray) -> str | None:
    if bad := array.size - np.count_nonzero(np.isfinite(array)):
        return f"{bad} of {array.size} voxels are NaN or infinite"
    low, high = array.min(), array.max()
    if low == high:
        return f"every voxel is {low:g}"
    if _share(array, AIR_AND_LUNG) >= LEAST_AIR:
        return None
    if low >= -1 and high <= 1:
        return f"values {low:g}..{high:g} are scaled, not HU"
    if low >= 0 and high <= 255:
        return f"values {low:g}..{high:g} are those of an 8-bit window, not HU"
    if _share(array, STORED_TISSUE) > MOST_BONE:
        return f"values {low:g}..{high:g} with soft tissue near 1000 still carry an offset: subtract 1024"
    return f"values {low:g}..{high:g} hold no air or lung ({AIR_AND_LUNG[0]}..{AIR_AND_LUNG[1]} HU)"


def _share(array: np.ndarray, limits: tuple[int, int]) -> float:
    return np.count_nonzero((array >= limits[0]) & (array <= limits[1])) / array.size


def read_mask(path: str | os.PathLike, grid: Volume | None = None, may_be_empty: bool = False) -> Volume:
    """Read a binary mask as `read_volume` does: 0 and one positive label become False and True.

    Raises `InputError` also if the mask is empty, unless it `may_be_empty`, holds other values, or does not lie on the
    grid of the volume `grid`, where one is given (`Volume.same_grid`).
    """
    volume = read_volume(path)
    label = volume.array.max()
    plain = volume.array.dtype == np.uint8 and label <= 1  # is boolean as it stands
    mask = volume.array.view(bool) if plain else volume.array != 0
    empty = not mask.any()
    if empty and not may_be_empty:
        raise InputError(f"{path}: the mask is empty; 0 and one positive label are needed")
    if not (empty or plain or (label > 0 and np.count_nonzero(volume.array == label) == np.count_nonzero(mask))):
        values = np.unique(volume.array)
        shown = ", ".join(f"{value:g}" for value in values[:8]) + (", ..." if len(values) > 8 else "")
        raise InputError(f"{path}: not a binary mask, it holds {shown}; 0 and one positive label are needed")
    if grid is not None and not volume.same_grid(grid):
        raise InputError(f"{path}: the mask's grid {volume!r} is not that of the image, {grid!r}")
    return volume.with_array(mask)


def write_volume(volume: Volume, path: str | os.PathLike) -> None:
    """Write a volume to `.nii`, `.nii.gz`, `.nrrd` or `.mha`, compressed but for `.nii`; bool becomes uint8 0 and 1.

    The file appears whole or not at all, and equal volumes give equal bytes. Voxels are kept exactly, and so is the
    geometry but for the float32 of NIfTI headers: spacing and direction to 1e-6, origin to 1e-4 mm. Raises `InputError`
    for an unknown suffix or data type, NaN in NIfTI, a folder that cannot be written, or a full disk.
    """
    from airwaylib.images.files import write_image

    write_image(_to_image(volume), Path(path))


def resample(volume: Volume, spacing: float | tuple[float, float, float], order: int = 1) -> Volume:
    """Resample to another spacing (x, y, z, or one for all; mm) over the same extent.

    The extent is kept to half a new voxel, its centre exactly. `order` 1 is linear, for images; 0 nearest, for labels;
    nothing is smoothed beforehand. The data type stays: integers are rounded, a bool is True from one half on. Half a
    voxel along the border repeats the outermost values, so nothing foreign comes in. Raises `InputError` if the spacing
    is not above 0 or the order neither 0 nor 1.

    Examples
    --------
    >>> resample(Volume(np.zeros((4, 6, 8)), spacing=(0.5, 0.5, 2.0)), 1.0)
    Volume(4 x 3 x 8 float64, spacing (1, 1, 1) mm, origin (0.25, 0.25, -0.5) mm)
    """
    spacing = np.broadcast_to(np.asarray(spacing, dtype=float), 3)
    if not (np.isfinite(spacing).all() and spacing.min() > 0):
        raise InputError(f"spacing {spacing.tolist()} mm: it must be above 0 along x, y and z")
    size = np.array(volume.array.shape[::-1])
    step = spacing / volume.spacing
    new_size = np.maximum(1, np.floor(size / step + 0.5)).astype(int)
    first = ((size - 1) - (new_size - 1) * step) / 2
    grid = Volume(np.broadcast_to(False, new_size[::-1]), spacing, volume.index_to_point(first[::-1]), volume.direction)
    return resample_to(volume, grid, order)


def resample_to(volume: Volume, grid: Volume, order: int = 1) -> Volume:
    """Resample onto the grid of another volume, whose voxels are not looked at; `order` is as for `resample`.

    Voxels whose centre lies outside the volume get its least value: air or padding for a CT, False for a mask.
    """
    import SimpleITK as sitk

    if order not in (0, 1):
        raise InputError(f"order {order!r}: 1 (linear) or 0 (nearest) is needed")
    # Strategy: SimpleITK cuts fractions off when its output is integer, so compute in floating point and round here.
    dtype = volume.array.dtype
    exact = sitk.sitkFloat32 if dtype.itemsize <= 2 or dtype == np.float32 else sitk.sitkFloat64
    interpolator, kind = (sitk.sitkLinear, exact) if order == 1 else (sitk.sitkNearestNeighbor, sitk.sitkUnknown)
    place = (grid.array.shape[::-1], sitk.Transform(), interpolator, grid.origin, grid.spacing, grid.direction)
    image = sitk.Resample(_to_image(volume), *place, float(volume.array.min()), kind)
    array = sitk.GetArrayFromImage(image)
    if order == 1 and dtype.kind != "f":
        array += 0.5
        np.floor(array, out=array)
    return Volume(array.astype(dtype, copy=False), grid.spacing, grid.origin, grid.direction)


def window(array: np.ndarray) -> np.ndarray:
    """Network input from HU: clip to [-1000, 400], scale to 0..255, round halves up (our choice); uint8.

    Source: preprocessing of the authors' program (Zheng et al. 2021). NaN raises `InputError`.

    Examples
    --------
    >>> window(np.array([-3024, -1000, -997, -860, 0, 400, 3071]))
    array([  0,   0,   1,  26, 182, 255, 255], dtype=uint8)
    """
    low, high = HU_WINDOW
    grey = np.clip(np.asarray(array, dtype=np.float32), low, high)
    if bad := np.count_nonzero(np.isnan(grey)):
        raise InputError(f"{bad} of {grey.size} voxels are NaN: HU must be numbers")
    # Multiplying before dividing keeps whole HU exact in float32, so that halves round the same way everywhere.
    grey -= low
    grey *= 255
    grey /= high - low
    grey += 0.5
    return grey.astype(np.uint8)


def _from_image(image) -> Volume:
    from airwaylib.images.files import ImageBuffer

    return Volume(np.asarray(ImageBuffer(image)), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def _to_image(volume: Volume):
    import SimpleITK as sitk

    dtype = volume.array.dtype
    if dtype.name not in VOXEL_TYPES:
        raise InputError(f"data type {dtype}: one of {', '.join(VOXEL_TYPES)} is needed")
    stored = np.dtype(np.uint8) if dtype == np.bool_ else dtype.newbyteorder("=")
    image = sitk.GetImageFromArray(volume.array.astype(stored, copy=False))
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    return image
