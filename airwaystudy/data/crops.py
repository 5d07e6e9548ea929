"""Training crops: drawn, turned, and their label thresholded anew (Zheng et al., IEEE TMI 2021).

A crop is drawn from a box larger by 150/128 than itself, turned by up to 15 degrees in a random plane, and the label
interpolated and thresholded anew. Interpolation is linear (ours: the authors' program turns by cubic splines, which
keep a few percent more of thin airways above a threshold of 0.9). Every crop depends on (seed, stage, epoch, index)
alone: the same numbers whatever the number of workers, and after a resume; other crops in each stage of a recipe.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from airwaylib.errors import InputError
from airwaystudy.data.augmentation import change_intensity, random_zoom
from airwaystudy.data.samplers import SAMPLING, large_airway_corner
from airwaystudy.data.store import Store

FULL_WIDTH = 4  # voxels; airways of this width or more take the full label threshold (our choice)
OUTER = 150 / 128  # the paper draws 150^3 and keeps the central 128^3 after rotation


class Crop(dict):
    """image in [0, 1], label in {0, 1}, distance = d/dmax in [0, 1]: float32 tensors (1, S, S, S)."""


def outer_side(crop: int, zoom: np.ndarray | float = 1.0) -> int:
    """Side of the cube to read for a crop of `crop`^3 that is magnified by `zoom`."""
    # As wide on both sides: an odd rest would put every crop half a voxel off the grid and blur it.
    return crop + 2 * int(np.ceil(crop * (OUTER / np.abs(zoom).min() - 1) / 2))


def rotate_and_crop(cube: Tensor, crop: int, degrees: float, plane: int, zoom: np.ndarray | float = 1.0) -> Tensor:
    """Cut the central `crop`^3 of `cube` (C, S, S, S), turned by `degrees` about axis `plane` (0 z, 1 y, 2 x); linear.

    zoom: magnification of what was turned along z, y, x; a negative one mirrors. Beyond the cube its border is
    repeated. It gives what
    `torch.nn.functional.grid_sample` gives, to 2e-5, in less time at the paper's size: on one core, three channels of
    128^3 take 70 ms against 308 ms (at 32^3, 6 ms against 2), if the cube is laid out as by `Store.read`.
    """
    # Strategy: nothing mixes along the axis of the turn but a change of scale. So the voxels of a line along it share
    # their four neighbours in the plane and the neighbours' weights: a weighted sum of four whole lines of all
    # channels. What is left is linear interpolation along the axis, if the scale changes at all.
    channels, side = len(cube), cube.shape[-1]
    i, j = (axis for axis in range(3) if axis != plane)
    lines, weights = bilinear(side, crop, degrees, plane, zoom, cube.device)
    source = cube.permute(1 + i, 1 + j, 0, 1 + plane).reshape(side * side, channels * side)
    turned = F.embedding_bag(lines, source, per_sample_weights=weights, mode="sum")
    return along_axis(turned.view(crop, crop, channels, side), plane, zoom)


def rotate_and_crop_lines(
    numbers: Tensor, source: Tensor, crop: int, degrees: float, plane: int, zoom: np.ndarray | float = 1.0
) -> Tensor:
    """Do the same as `rotate_and_crop` for the cube whose lines `source` (N, S) along `plane` have these `numbers`.

    All others are 0, as most are of an airway's label: they cost nothing. See `Store.read_lines`. Returns (1, crop^3).
    """
    side, device = source.shape[1], source.device
    lines, weights = bilinear(side, crop, degrees, plane, zoom, device)
    place = torch.zeros(side * side, dtype=torch.int64, device=device)
    place[numbers] = torch.arange(1, len(numbers) + 1, device=device)  # 0 is a line of zeros
    lines = place[lines]
    met = lines.any(1)
    turned = torch.zeros(crop * crop, side, device=device)
    turned[met] = F.embedding_bag(lines[met], F.pad(source, (0, 0, 1, 0)), per_sample_weights=weights[met], mode="sum")
    return along_axis(turned.view(crop, crop, 1, side), plane, zoom)


def along_axis(turned: Tensor, plane: int, zoom: np.ndarray | float) -> Tensor:
    """Lines (crop, crop, C, S) turned in the plane, cut or interpolated to `crop` voxels: (C, crop, crop, crop)."""
    crop, side, scale = len(turned), turned.shape[3], np.broadcast_to(zoom, 3)[plane]
    if scale == 1 and side >= crop and (side - crop) % 2 == 0:
        turned = turned.narrow(3, (side - crop) // 2, crop)
    else:
        turned = turned @ linear(side, crop, scale).to(turned)
    place = dict(zip([axis for axis in range(3) if axis != plane] + [plane], (0, 1, 3), strict=True))
    return turned.permute(2, *(place[axis] for axis in range(3)))


def bilinear(
    side: int, crop: int, degrees: float, plane: int, zoom: np.ndarray | float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For each of crop^2 places in the plane, its four neighbours' numbers in side^2 and their weights: (crop^2, 4)."""
    offset, angle = np.arange(crop) - (crop - 1) / 2, np.deg2rad(degrees)
    zoom = np.delete(np.broadcast_to(np.asarray(zoom, float), 3), plane)
    first, second = np.meshgrid(offset / zoom[0], offset / zoom[1], indexing="ij")
    turned = np.cos(angle) * first - np.sin(angle) * second, np.sin(angle) * first + np.cos(angle) * second
    (i, up), (j, right) = (neighbours(place, side) for place in turned)
    lines = np.stack([i * side + j, i * side + j + 1, (i + 1) * side + j, (i + 1) * side + j + 1], -1)
    weights = np.stack([(1 - up) * (1 - right), (1 - up) * right, up * (1 - right), up * right], -1)
    lines, weights = torch.from_numpy(lines.reshape(-1, 4)), torch.from_numpy(weights.reshape(-1, 4)).float()
    return lines.to(device), weights.to(device)


def linear(side: int, crop: int, zoom: float) -> Tensor:
    """The matrix (side, crop) that interpolates a line of `side` voxels at `crop` places 1 / zoom apart."""
    before, share = neighbours((np.arange(crop) - (crop - 1) / 2) / zoom, side)
    matrix = np.zeros((side, crop))
    matrix[before, np.arange(crop)] = 1 - share
    matrix[before + 1, np.arange(crop)] += share
    return torch.from_numpy(matrix)


def neighbours(place: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxel before each place (measured from the middle of `side` voxels, kept inside) and the share of the next."""
    place = np.clip(place + (side - 1) / 2, 0, side - 1)
    before = np.minimum(place.astype(int), side - 2)
    return before, place - before


class Crops(Dataset):
    """Crops of several stores, their samplers in equal shares; an index is always the same crop.

    Parameters
    ----------
    stores: opened cases.
    crop: side in voxels.
    per_case: crops a case per epoch; of an odd number, the odd one changes samplers from epoch to epoch.
    rotation: largest angle in degrees.
    label_threshold: of the interpolated label (the paper: 0.7 in stage 1, 0.9 in stage 2).
    thin_label_threshold: of airways one voxel wide; it rises with the width to `label_threshold` at `FULL_WIDTH`. None:
        `label_threshold` for all. A high one wipes out what is a voxel or two wide (ours; the paper's CTs are finer).
    seed: of everything drawn here.
    stage: number of stages before this one; of one seed, every stage draws other crops.
    augment: mirror and zoom the crops, and change the image's intensities.
    large_airways: share of the crops, in [0, 1], drawn by large-airway sampling in place of the others.
    sampling: name of the samplers, see `samplers.SAMPLING`.
    device: where crops are turned; those of cases held in a GPU's memory are cut there, too.

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
        stage: int = 0,
        augment: bool = False,
        large_airways: float = 0.0,
        sampling: str = "centreline",
        device: str | torch.device = "cpu",
        thin_label_threshold: float | None = None,
    ):
        for store in stores:
            if thin_label_threshold is not None and store.width is None:
                raise InputError(
                    f"{store.name}: its store has no widths; prepare it anew, or leave thin_label_threshold"
                )
            if min(store.shape) < crop:
                raise InputError(
                    f"{store.name}: {store.shape} voxels are less than a crop of {crop}^3; use a smaller crop"
                )
        self.stores, self.crop, self.per_case = stores, crop, per_case
        self.rotation, self.label_threshold, self.augment = rotation, label_threshold, augment
        self.seed, self.stage, self.thin_label_threshold = seed, stage, thin_label_threshold
        self.large_airways, self.samplers, self.device = large_airways, SAMPLING[sampling], device
        self.epoch = 0

    def __len__(self) -> int:
        return self.per_case * len(self.stores)

    def __getitem__(self, index: int) -> Crop:
        """Crop `index` of the epoch in `self.epoch`; cases and samplers come in a shuffled order."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        key = [self.seed, self.stage, self.epoch]
        turn = int(np.random.default_rng(key).permutation(len(self))[index])
        rng = np.random.default_rng([*key, turn])
        store = self.stores[turn % len(self.stores)]
        sampler = self.samplers[(turn // len(self.stores) + self.epoch) % len(self.samplers)]
        if self.large_airways and rng.random() < self.large_airways:
            sampler = large_airway_corner
        zoom = random_zoom(rng) if self.augment else 1.0
        side = outer_side(self.crop, zoom)
        corner = sampler(store, side, rng)
        degrees, plane = rng.uniform(-self.rotation, self.rotation), int(rng.integers(3))
        turn = {"crop": self.crop, "degrees": degrees, "plane": plane, "zoom": zoom}
        image = rotate_and_crop(store.read("image", corner, side, plane)[None].to(self.device), **turn).div_(255)

        def turned(name: str) -> Tensor:
            lines = store.read_lines(name, corner, side, plane)
            return rotate_and_crop_lines(*(part.to(self.device) for part in lines), **turn)

        label, distance, threshold = turned("label"), turned("distance"), self.label_threshold
        if (thin := self.thin_label_threshold) is not None:
            threshold = thin + (threshold - thin) * ((turned("width") - 1) / (FULL_WIDTH - 1)).clamp_(0, 1)
        if self.augment:
            image = change_intensity(image, rng)
        return Crop(image=image, label=label.gt_(threshold), distance=distance)
