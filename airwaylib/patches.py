"""Training crops: the paper's samplers, rotation and label threshold (Zheng et al., IEEE TMI 2021).

A crop is drawn from a box larger by 150/128 than itself, turned by up to 15 degrees in a random plane, and the label
interpolated and thresholded anew. Every crop depends on (seed, epoch, index) alone: the same numbers whatever the
number of workers, and after a resume.

Augmentation is ours, not the paper's: mirror, zoom, and the grey values of other scanners, for networks trained on few
or synthetic cases.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zarr
from monai.transforms import (
    BorderPad,
    CenterSpatialCrop,
    Compose,
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSharpen,
    RandGaussianSmooth,
    RandLambda,
    RandScaleIntensity,
    RandShiftIntensity,
)
from torch.nn import functional as F
from torch.utils.data import Dataset

from airwaylib.errors import InputError

OUTER = 150 / 128  # the paper draws 150^3 and keeps the central 128^3 after rotation
MOST_LARGE = 200 / 150**3  # large-airway voxels admitted in a small-airway crop, as a share of the drawn box
MOST_IN_MEMORY = 2**24  # bytes of an array that is kept decoded
TRIES = 32  # draws before the small-airway sampler takes the best it has seen

# Augmentation (our choice): patients' CTs have 0.5-0.9 mm in plane, slices of 0.5-2.5 mm, any dose and kernel.
ZOOM = 1.25  # largest magnification common to the three axes, and its inverse the least
ZOOM_Z = 1.15  # the same along z, on top
NOISE = 0.04  # largest standard deviation of added noise: 56 HU
FLOOR = 0.04  # highest cut of the lowest intensities: -944 HU
RIM = 4  # voxels about a crop while it is filtered: MONAI's filters take what lies beyond for 0


class Crop(dict):
    """image in [0, 1], label in {0, 1}, distance = d/dmax in [0, 1]: float32 tensors (1, S, S, S)."""


@dataclass(frozen=True)
class Store:
    """A prepared case opened for sampling; points are (N, 3) z, y, x voxel indices of its grid, spacing x, y, z mm."""

    name: str
    image: zarr.Array | np.ndarray
    label: zarr.Array | np.ndarray
    distance: zarr.Array | np.ndarray
    centreline_points: np.ndarray
    small_points: np.ndarray
    large_points: np.ndarray
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """Open the store that `prepare.prepare_case` wrote at `path`."""
        try:
            group = zarr.open_group(path, mode="r")
            small = group["small_airway"][:] > 0
            large = (group["label"][:] > 0) & ~small
            centreline = group["centreline"][:] > 0
            points = (np.argwhere(mask).astype(np.int16) for mask in (centreline, small, large))  # int64 is 4 times it
            arrays = (in_memory(group[name]) for name in ("image", "label", "distance"))
            return cls(group.attrs["case"], *arrays, *points, tuple(group.attrs["spacing"]))
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise InputError(f"{path}: no training store here ({error}); make it with airwaylib prepare") from error

    def read(self, low: np.ndarray, side: int) -> np.ndarray:
        """image, label, distance of the cube of side S at corner `low`: float32 (3, S, S, S), air beyond the grid."""
        cube = np.zeros((3, side, side, side), np.float32)
        shape = np.array(self.image.shape)
        start, stop = np.maximum(low, 0), np.minimum(low + side, shape)
        source = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        target = tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))
        for channel, array in zip(cube, (self.image, self.label, self.distance), strict=True):
            channel[target] = array[source]
        cube[0] /= 255
        return cube


def in_memory(array: zarr.Array) -> zarr.Array | np.ndarray:
    """A small array decoded once and for all, a large one as it is: a crop then reads its chunks only."""
    return array[:] if array.nbytes <= MOST_IN_MEMORY else array


def random_corner(shape: tuple[int, ...], side: int, rng: np.random.Generator) -> np.ndarray:
    """Corner of a cube of `side` voxels drawn evenly inside `shape`; centred along an axis shorter than it."""
    room = np.array(shape) - side
    return np.where(room > 0, rng.integers(0, np.maximum(room, 0) + 1), room // 2)


def count_inside(points: np.ndarray, low: np.ndarray, side: int) -> int:
    """How many of `points` (N, 3) lie in the cube of `side` voxels at corner `low`."""
    return int(((points >= low) & (points < low + side)).all(1).sum())


def small_airway_corner(store: Store, side: int, rng: np.random.Generator) -> np.ndarray:
    """Small-airway sampling: with probability 1/2 redraw until the cube holds small airway and little large airway.

    The limit is the paper's 200 voxels in 150^3, in proportion. In a case where no cube satisfies it, the drawn cube
    with small airway and the fewest large-airway voxels is taken (ours: the paper does not say).
    """
    corner = random_corner(store.image.shape, side, rng)
    if rng.random() < 0.5 or not len(store.small_points):
        return corner
    best, fewest = corner, np.inf
    for _ in range(TRIES):
        if count_inside(store.small_points, corner, side):
            large = count_inside(store.large_points, corner, side)
            if large < fewest:
                best, fewest = corner, large
            if large <= MOST_LARGE * side**3:
                break
        corner = random_corner(store.image.shape, side, rng)
    return best


def corner_around(points: np.ndarray, shape: tuple[int, ...], side: int, rng: np.random.Generator) -> np.ndarray:
    """Corner of a cube inside `shape` that holds one of `points` (N, 3); points and places are drawn evenly."""
    point = points[rng.integers(len(points))]
    room = np.array(shape) - side
    corner = np.clip(point - rng.integers(0, side, 3), 0, np.maximum(room, 0))
    return np.where(room > 0, corner, room // 2)


def centreline_corner(store: Store, side: int, rng: np.random.Generator) -> np.ndarray:
    """Centreline sampling: a cube that holds a random centreline voxel."""
    return corner_around(store.centreline_points, store.image.shape, side, rng)


def large_airway_corner(store: Store, side: int, rng: np.random.Generator) -> np.ndarray:
    """Large-airway sampling (ours): a cube that holds a random voxel of the large airways, or else of any airway.

    The paper's crops of 128 voxels hold them anyway; in smaller ones the other two samplers hardly ever show a trachea.
    """
    points = store.large_points if len(store.large_points) else store.centreline_points
    return corner_around(points, store.image.shape, side, rng)


def outer_side(crop: int, zoom: np.ndarray | float = 1.0) -> int:
    """Side of the cube to read for a crop of `crop`^3 that is magnified by `zoom`."""
    # As wide on both sides: an odd rest would put every crop half a voxel off the grid and blur it.
    return crop + 2 * int(np.ceil(crop * (OUTER / np.abs(zoom).min() - 1) / 2))


def random_zoom(rng: np.random.Generator) -> np.ndarray:
    """Magnification of a crop along z, y, x, log-uniform, z a little apart; negative: mirrored, each with odds 1/2."""
    zoom = np.full(3, ZOOM ** rng.uniform(-1, 1))
    zoom[0] *= ZOOM_Z ** rng.uniform(-1, 1)
    return zoom * rng.choice([-1, 1], 3)


def rotate_and_crop(
    cube: torch.Tensor, crop: int, degrees: float, plane: int, zoom: np.ndarray | float = 1.0
) -> torch.Tensor:
    """The central `crop`^3 of `cube` (C, S, S, S), turned by `degrees` about axis `plane` (0 z, 1 y, 2 x); linear.

    zoom: magnification of what was turned along z, y, x; a negative one mirrors.
    """
    angle = np.deg2rad(degrees)
    i, j = (axis for axis in range(3) if axis != plane)  # the two axes that turn, in z, y, x
    matrix = torch.eye(3)
    matrix[i, i] = matrix[j, j] = float(np.cos(angle))
    matrix[i, j], matrix[j, i] = -float(np.sin(angle)), float(np.sin(angle))
    matrix = matrix / torch.tensor(zoom, dtype=torch.float32)  # from a place in the crop to one in the cube
    # grid_sample names axes x, y, z and measures in half sides of the cube; the crop spans crop/side of it.
    theta = torch.cat([matrix.flip(0, 1) * (crop / cube.shape[-1]), torch.zeros(3, 1)], 1)[None]
    grid = F.affine_grid(theta, [1, len(cube), crop, crop, crop], align_corners=False)
    return F.grid_sample(cube[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


def thick_slices(image: torch.Tensor) -> torch.Tensor:
    """`image` (1, D, H, W), D even, averaged over pairs of slices and interpolated back."""
    return F.interpolate(F.avg_pool3d(image[None], (2, 1, 1)), size=image.shape[1:], mode="trilinear")[0]


def intensity_changes(side: int) -> Compose:
    """Random changes of the grey values of a crop (1, S, S, S) of `side` voxels: contrast, noise, sharpness, slices."""
    any_axis, along_z, hardly = (0.2, 0.8), (0.5, 1.2), (0.05, 0.1)  # standard deviations in voxels; MONAI's x is our z
    return Compose(
        [
            BorderPad(RIM, mode="reflect"),
            RandAdjustContrast(prob=0.3, gamma=(0.8, 1.25)),  # lung is lighter or denser, air and soft tissue stay
            RandScaleIntensity(prob=0.5, factors=0.15),
            RandShiftIntensity(prob=0.5, offsets=0.03),
            RandGaussianNoise(prob=0.3, std=NOISE),  # ahead of the filters: grainy noise
            RandGaussianSmooth(any_axis, any_axis, any_axis, prob=0.3),
            RandGaussianSmooth(along_z, hardly, hardly, prob=0.25),
            RandGaussianSharpen(*[(0.2, 0.5)] * 3, *[(0.5, 1.0)] * 3, alpha=(0.5, 2.0), prob=0.3),
            RandLambda(thick_slices, prob=0.2),
            RandGaussianNoise(prob=0.3, std=NOISE),  # behind them: white noise
            CenterSpatialCrop(side),
        ]
    )


def change_intensity(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """`image` (1, S, S, S) in [0, 1] as another scanner, dose or kernel might show it; in [0, 1]."""
    changes = intensity_changes(image.shape[-1]).set_random_state(int(rng.integers(2**32)))
    floor = rng.uniform(0, FLOOR) if rng.random() < 0.2 else 0
    return changes(image).as_tensor().clamp(floor, 1)


class Crops(Dataset):
    """Crops of several stores, half by small-airway, half by centreline sampling; an index is always the same crop.

    Parameters
    ----------
    stores: opened cases.
    crop: side in voxels.
    per_case: crops a case per epoch; of an odd number, the odd one changes sides from epoch to epoch.
    rotation: largest angle in degrees.
    label_threshold: of the interpolated label (the paper: 0.7 in stage 1, 0.9 in stage 2).
    seed: of everything drawn here.
    augment: mirror and zoom the crops, and change the image's intensities.
    large_airways: share of the crops, in [0, 1], drawn by large-airway sampling in place of the other two.

    Raises
    ------
    InputError
        A store smaller than the crop; the message names it.
    """

    def __init__(
        self,
        stores: list[Store],
        crop: int,
        per_case: int,
        rotation: float = 15,
        label_threshold: float = 0.7,
        seed: int = 0,
        augment: bool = False,
        large_airways: float = 0.0,
    ):
        for store in stores:
            if min(store.image.shape) < crop:
                raise InputError(
                    f"{store.name}: {store.image.shape} voxels are less than a crop of {crop}^3; use a smaller crop"
                )
        self.stores, self.crop, self.per_case = stores, crop, per_case
        self.rotation, self.label_threshold, self.seed, self.augment = rotation, label_threshold, seed, augment
        self.large_airways = large_airways
        self.epoch = 0

    def __len__(self) -> int:
        return self.per_case * len(self.stores)

    def __getitem__(self, index: int) -> Crop:
        """Crop `index` of the epoch in `self.epoch`; cases and samplers come in a shuffled order."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        turn = int(np.random.default_rng([self.seed, self.epoch]).permutation(len(self))[index])
        rng = np.random.default_rng([self.seed, self.epoch, turn])
        store = self.stores[turn % len(self.stores)]
        sampler = (small_airway_corner, centreline_corner)[(turn // len(self.stores) + self.epoch) % 2]
        if self.large_airways and rng.random() < self.large_airways:
            sampler = large_airway_corner
        zoom = random_zoom(rng) if self.augment else 1.0
        side = outer_side(self.crop, zoom)
        cube = torch.from_numpy(store.read(sampler(store, side, rng), side))
        degrees, plane = rng.uniform(-self.rotation, self.rotation), int(rng.integers(3))
        image, label, distance = rotate_and_crop(cube, self.crop, degrees, plane, zoom)[:, None]
        if self.augment:
            image = change_intensity(image, rng)
        return Crop(image=image, label=(label > self.label_threshold).float(), distance=distance)
