"""Augmentation of training crops: mirror, zoom, and the grey values of other scanners.

Ours, not the paper's, for networks trained on few or synthetic cases. Zoom and mirror are drawn here and applied by
`patches.rotate_and_crop`.
"""

import numpy as np
import torch
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

# Patients' CTs have 0.5-0.9 mm in plane, slices of 0.5-2.5 mm, any dose and kernel.
ZOOM = 1.25  # largest magnification common to the three axes, and its inverse the least
ZOOM_Z = 1.15  # the same along z, on top
NOISE = 0.04  # largest standard deviation of added noise: 56 HU
FLOOR = 0.04  # highest cut of the lowest intensities: -944 HU
RIM = 4  # voxels about a crop while it is filtered: MONAI's filters take what lies beyond for 0


def random_zoom(rng: np.random.Generator) -> np.ndarray:
    """Magnification of a crop along z, y, x, log-uniform, z a little apart; negative: mirrored, each with odds 1/2."""
    zoom = np.full(3, ZOOM ** rng.uniform(-1, 1))
    zoom[0] *= ZOOM_Z ** rng.uniform(-1, 1)
    return zoom * rng.choice([-1, 1], 3)


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
