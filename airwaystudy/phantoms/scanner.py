"""Scan a noiseless, finely rendered image as a CT scanner would: slices, resolution, noise and file conventions.

Every slice is filtered in the Fourier domain, so one transfer function shapes both the anatomy and the noise. Numbers
are our own choice within what clinical chest protocols use.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import asin, ceil, cos, log, pi, sin, sqrt

import numpy as np
from scipy import fft
from scipy.special import ive

FWHM = 2 * sqrt(2 * log(2))  # of a Gaussian, in standard deviations
FINEST = 0.8  # mm; rendered planes lie at most this far apart
INTERVALS = {0.5: 2, 0.6: 3, 0.625: 3, 0.7: 4, 0.75: 3, 0.8: 4, 1.0: 5, 1.25: 3, 1.5: 1, 2.0: 1, 2.5: 1}  # mm: weight
LIMITS = {"thickness": (0.5, 2.5), "noise": (8, 90), "offset": (-15, 15)}


@dataclass(frozen=True)
class Protocol:
    """Acquisition and reconstruction of one CT; mm and HU.

    `thickness` is the FWHM of the slice profile; `sharpness` goes from 0 (soft) to 1 (lung kernel); `noise` is the
    standard deviation in soft tissue of the finished image; `contrast` is what the renderer adds to blood; `offset` is
    the calibration error; `lowest` the least HU the file holds; `padding` what lies outside the circular field of view
    (None: the image goes on); `motion` how far the anatomy moves while a band of slices is taken.
    """

    pixel: float
    interval: float
    thickness: float
    sharpness: float
    noise: float
    contrast: float
    offset: float
    lowest: int
    padding: int | None
    motion: float = 0.0

    @classmethod
    def random(cls, rng: np.random.Generator, pixel: float) -> "Protocol":
        """Draw a plausible protocol: thin slices tend to go with sharp kernels, and both are noisy."""
        share = np.array(list(INTERVALS.values())) / sum(INTERVALS.values())
        interval = float(rng.choice(list(INTERVALS), p=share))
        overlap = rng.choice([1.0, rng.uniform(1, 1.6)])
        thickness = float(np.clip(interval * overlap, *LIMITS["thickness"]))
        sharpness = rng.uniform() ** (thickness / 1.2)
        noise = rng.lognormal(log(14), 0.35) * np.exp(1.3 * sharpness) / sqrt(thickness)  # 14 HU: soft kernel, 1 mm
        return cls(
            pixel,
            interval,
            thickness,
            sharpness,
            noise=float(np.clip(noise, *LIMITS["noise"])),
            contrast=rng.uniform(60, 350) if rng.uniform() < 0.3 else 0.0,
            offset=float(np.clip(rng.normal(0, 6), *LIMITS["offset"])),
            lowest=int(rng.choice([-1024, -1000], p=[0.8, 0.2])),
            padding=int(rng.choice([-1024, -2000, -3024])) if rng.uniform() < 0.35 else None,
            motion=rng.uniform(1, 2) if rng.uniform() < 0.25 else 0.0,
        )

    @classmethod
    def plain(cls, pixel: float) -> "Protocol":
        """Contiguous slices of cubic voxels, a medium soft kernel, moderate noise and nothing else."""
        return cls(pixel, pixel, pixel, 0.3, noise=27.0, contrast=0.0, offset=0.0, lowest=-1024, padding=None)

    @property
    def steps(self) -> int:
        """Rendered planes per slice interval."""
        return ceil(self.interval / FINEST - 1e-6)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size of the CT: x, y, z in mm."""
        return self.pixel, self.pixel, self.interval

    @property
    def render_spacing(self) -> tuple[float, float, float]:
        """Voxel size of the image that `scan` takes: x, y, z in mm."""
        return self.pixel, self.pixel, self.interval / self.steps

    @property
    def resolution(self) -> float:
        """FWHM of the in-plane point spread in mm."""
        return 1.4 - 0.6 * self.sharpness

    @property
    def enhancement(self) -> float:
        """Strength of the kernel's unsharp mask: 0 if soft, at most 1, where edges overshoot by 11 %."""
        return max(0.0, self.sharpness - 0.4) / 0.6


# -------------------------------------------------------------------------------------------------------------- filters


def grid_variance(fwhm: float, step: float) -> float:
    """Variance, in steps squared, to add on the grid: rendering has spread every point over a voxel (1/12) already."""
    return max(0.0, (fwhm / FWHM / step) ** 2 - 1 / 12)


def slice_profile(protocol: Protocol) -> np.ndarray:
    """Weights (2r + 1,) of the rendered planes about a slice; sum 1.

    The discrete analogue of the Gaussian: unlike a sampled one it has its exact variance even below a step.
    """
    step = protocol.render_spacing[2]
    radius = ceil(3 * protocol.thickness / FWHM / step)
    weights = ive(np.abs(np.arange(-radius, radius + 1)), grid_variance(protocol.thickness, step))
    return (weights / weights.sum()).astype(np.float32)


def transfer_functions(protocol: Protocol, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Modulation transfer of the anatomy, and of white to unit-variance CT noise: (y, x // 2 + 1) float32 each."""
    fy, fx = fft.fftfreq(shape[0])[:, None], fft.fftfreq(shape[1])  # cycles per pixel
    wave = np.cos(2 * pi * fy) + np.cos(2 * pi * fx) - 2
    mask = protocol.enhancement
    width = protocol.resolution * (1 + 0.068 * mask)  # the mask narrows the peak of the point spread by that much
    sharp, wide = (np.exp(grid_variance(fwhm, protocol.pixel) * wave) for fwhm in (width, 2 * width))
    anatomy = (1 + mask) * sharp - mask * wide
    # Filtered back-projection's power rises with frequency; soft kernels and iterative methods leave little of that.
    noise = anatomy * np.hypot(fy, fx) ** (0.5 * max(0.1, protocol.sharpness))
    noise /= np.sqrt(np.mean(noise**2))
    half = slice(shape[1] // 2 + 1)
    return anatomy[:, half].astype(np.float32), noise[:, half].astype(np.float32)


def absorption(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Noise amplitude as a product of rows (slices, y) and columns (slices, x): more behind much tissue.

    Its root mean square over the soft tissue is 1. The exponent is about a quarter of the physical one: tube current
    modulation and bow-tie filter level most of it.
    """
    # Strategy: mean absorption along each row and column, from every eighth pixel: the paths are hundreds of pixels.
    rows, columns = (
        np.exp(0.5 * np.clip(part / 1000 + 1, 0, 1.5).mean(axis))
        for part, axis in ((image[:, :, ::8], 2), (image[:, ::8, :], 1))
    )
    soft = image[:, ::8, ::8] > -200
    amplitude = (rows[:, ::8, None] * columns[:, None, ::8])[soft] if soft.any() else np.ones(1)
    return rows / np.sqrt(np.mean(amplitude**2)), columns


def motion_transfers(protocol: Protocol, shape: tuple[int, int, int], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield for each slice the transfer of its motion: a ghost, shifted in-plane, fades in and out over a band."""
    slices, ny, nx = shape
    centre, width, angle = rng.uniform([0.2, 0.04, 0], [0.8, 0.12, 2 * pi])
    ghost = 0.5 * np.exp(-0.5 * ((np.arange(slices) / slices - centre) / width) ** 2)
    shift = protocol.motion / protocol.pixel * np.array([sin(angle), cos(angle)])
    phase = fft.fftfreq(ny)[:, None] * shift[0] + fft.rfftfreq(nx) * shift[1]
    moved = np.exp(-2j * pi * phase).astype(np.complex64)
    for share in ghost.astype(np.float32):
        yield 1 - share + share * moved


# ----------------------------------------------------------------------------------------------------------------- scan


def sample_slices(array: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the rendered planes (z, y, x) at the centres of the slices: a view."""
    return array[:: protocol.steps]


def scan(image: np.ndarray, protocol: Protocol, rng: np.random.Generator) -> np.ndarray:
    """Scan an `image` (float32 HU; z, y, x at `render_spacing`): int16 HU (slices, y, x) at `spacing`.

    Slice k is centred on plane k * `steps`. In-plane filters wrap round at the border.
    """
    # Strategy: slice by slice, so that besides the result no array is large.
    planes = sample_slices(image, protocol)
    ct = np.empty(planes.shape, np.int16)
    shape = ct.shape[1:]
    profile = slice_profile(protocol)
    anatomy, texture = transfer_functions(protocol, shape)
    rows, columns = absorption(planes)
    moving = motion_transfers(protocol, ct.shape, rng) if protocol.motion else None
    # Neighbours share photons as far as they overlap: each slice's noise mixes its own with what is left of the last.
    mixing = asin(min(1.0, 2 * max(0.0, 1 - protocol.interval / protocol.thickness))) / 2
    y, x = np.ogrid[tuple(map(slice, shape))]
    outside = np.hypot(y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2) > min(shape) / 2

    last = rng.standard_normal(shape, np.float32)
    for k in range(len(ct)):
        near = np.arange(len(profile)) - len(profile) // 2 + k * protocol.steps
        spectrum = fft.rfft2(sum(w * image[z] for w, z in zip(profile, near.clip(0, len(image) - 1), strict=True)))
        spectrum *= anatomy * next(moving) if moving else anatomy
        white = rng.standard_normal(shape, np.float32)
        noise = np.float32(cos(mixing)) * white + np.float32(sin(mixing)) * last
        noise *= np.float32(protocol.noise) * rows[k, :, None] * columns[k]
        spectrum += texture * fft.rfft2(noise)
        hu = fft.irfft2(spectrum, s=shape, overwrite_x=True) + np.float32(protocol.offset)
        ct[k] = np.clip(np.rint(hu), protocol.lowest, 3071)
        if protocol.padding is not None:
            ct[k][outside] = protocol.padding
        last = white
    return ct
