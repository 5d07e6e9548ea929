"""Segment a CT in two steps: the airway probability of each voxel, then a threshold and one component.

As in Zheng et al. 2021 (authors' program): 128^3 windows at a stride of 64, mean of the sigmoids, >= 0.5, largest
6-connected component. Our own choice: less overlap, no windows without lung, and the component that reaches farthest
through the lungs, which is not always the largest.
"""

import math
import sys
import warnings
from collections.abc import Callable

import cc3d
import numpy as np
import torch
from monai.data.utils import dense_patch_slices
from torch import Tensor, nn
from tqdm import tqdm

from airwaylib.errors import InputError
from airwaylib.images.lungs import lung_mask
from airwaylib.images.masks import bounding_box, largest_component
from airwaylib.images.volume import Volume, resample, resample_to
from airwaylib.images.volume import window as window_hu
from airwaylib.networks.checkpoints import CheckpointInfo

MARGIN = 5  # voxels around the lungs, as in training
OVERLAP = 0.25  # of windows, as a share of their side
LEAST_SIZE = 16  # voxels; windows are multiples of it, since networks halve their input up to four times
WindowFunction = Callable[[Tensor], Tensor]  # window (1, 1, D, H, W) in [0, 1] to maps (1, C, D, H, W)


# ----------------------------------------------------------------------------------------------------------- the steps


def segment(
    ct: Volume,
    network: nn.Module,
    info: CheckpointInfo,
    threshold: float | None = None,
    device: str = "auto",
    overlap: float = OVERLAP,
    progress: bool = True,
) -> Volume:
    """Segment the airway tree of a chest CT: `probability_map`, then `airway_mask`.

    Raises `InputError`: too small a CT, no lung in it, a threshold or overlap out of range, a device that is not there.

    Parameters
    ----------
    ct, network, info, device, overlap, progress :
        As for `probability_map`.
    threshold : float, optional
        Voxels of at least this probability are airway; in (0, 1). By default the checkpoint's.

    Returns
    -------
    Volume
        bool, on the CT's own grid, as from `airway_mask`.
    """
    threshold = checked_threshold(threshold, info)
    lung = checked_lung(ct, device)
    return airway_mask(probability_map(ct, network, info, device, overlap, progress, lung), lung, threshold)


def probability_map(
    ct: Volume,
    network: nn.Module,
    info: CheckpointInfo,
    device: str = "auto",
    overlap: float = OVERLAP,
    progress: bool = True,
    lung: np.ndarray | None = None,
) -> Volume:
    """Compute the airway probability of every voxel of a chest CT.

    Raises `InputError`: too small a CT, no lung in it, an overlap out of range, a device that is not there.

    Parameters
    ----------
    ct : Volume
        HU, axial slices first; at least 16 voxels along each axis.
    network : nn.Module
        Maps an image `(B, 1, D, H, W)` in [0, 1] to `GroupLogits`. It is moved to the device.
    info : CheckpointInfo
        Side of the window, and the spacing in mm to resample to (None: the CT's own grid).
    device : str
        "cpu", "cuda", or "auto": CUDA where there is one.
    overlap, progress :
        As for `predict_probability`.
    lung : numpy.ndarray, optional
        bool `(z, y, x)`: the CT's `lung_mask`, if it is already known.

    Returns
    -------
    Volume
        float32 in [0, 1] on the CT's own grid; 0 outside the windows around the lungs.
    """
    lung = checked_lung(ct, device) if lung is None else lung
    return lung_maps(ct, lung, network, decoder_probability(network), info, device, overlap, progress)[0]


def airway_mask(probability: Volume, lung: np.ndarray, threshold: float = 0.5) -> Volume:
    """Threshold a probability map and keep one 6-connected component, see `airway_component`.

    Parameters
    ----------
    probability : Volume
        Airway probability `(z, y, x)`, such as from `probability_map`.
    lung : numpy.ndarray
        bool `(z, y, x)`, such as from `lung_mask`.
    threshold : float
        Voxels of at least this probability are airway.

    Returns
    -------
    Volume
        bool, on the same grid; empty, with a warning, if no voxel reaches the threshold.
    """
    mask = probability.array >= threshold
    if not mask.any():
        highest = f"the highest probability is {probability.array.max():.3f}, the threshold {threshold:g}"
        warnings.warn(f"no airway found: {highest}; the mask is empty", stacklevel=2)
        return probability.with_array(mask)
    box = bounding_box(mask)
    mask[box] = airway_component(mask[box], lung[box], probability.spacing)
    return probability.with_array(mask)


def airway_component(mask: np.ndarray, lung: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Keep the 6-connected component of `mask` that reaches farthest through `lung`, or the largest if none is there.

    mask, lung: bool (z, y, x); `lung` holds the airways' air too. spacing: x, y, z, mm. Gaps under the arms and bowel
    gas look much like a trachea and may be larger than the whole tree, but lie outside the lungs. Emphysema and bullae
    lie inside, but do not reach from the trachea into both of them.
    """
    parts = cc3d.connected_components(mask, connectivity=6)
    boxes = cc3d.statistics(np.where(lung, parts, 0))["bounding_boxes"][1:]  # None for a part without lung
    sides = [[b.stop - b.start for b in box] if box else [0, 0, 0] for box in boxes]
    reach = [np.linalg.norm(np.multiply(side, spacing[::-1])) for side in sides]
    held = np.bincount(parts[mask & lung], minlength=len(reach) + 1)[1 : len(reach) + 1]
    return parts == 1 + np.argmax(np.where(held > 0, reach, 0)) if held.any() else largest_component(mask)


# -------------------------------------------------------------------------------------------------------------- checks


def checked_threshold(threshold: float | None, info: CheckpointInfo) -> float:
    """Return the threshold, by default the checkpoint's; `InputError` unless it is between 0 and 1."""
    if threshold is None:
        threshold = info.probability
    if not 0 < threshold < 1:
        raise InputError(f"threshold {threshold}: a probability between 0 and 1 is needed, such as 0.5")
    return threshold


def checked_lung(ct: Volume, device: str = "auto") -> np.ndarray:
    """Find the lungs of a CT; `InputError` if it is too small or holds no lung, or the device is not there."""
    check_size(ct)
    choose_device(device)
    return lung_mask(ct)


def check_size(ct: Volume) -> None:
    """Raise `InputError` unless a CT has 16 voxels along each axis."""
    if min(ct.array.shape) < LEAST_SIZE:
        raise InputError(
            f"a CT of {ct.array.shape} voxels (z, y, x) is too small: {LEAST_SIZE} along each axis are needed"
        )


def choose_device(name: str) -> torch.device:
    """Choose the device to compute on; "auto" is CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is unknown: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda': no CUDA device is visible here; use auto or cpu")
    return torch.device(name)


# ------------------------------------------------------------------------------------------------------------- windows


def decoder_probability(network: nn.Module) -> WindowFunction:
    """Return the function from a window to its airway probability: the sigmoid of the decoder's logits, float32."""
    return lambda window: torch.sigmoid(network(window).decoder.float())


def lung_maps(
    ct: Volume,
    lung: np.ndarray,
    network: nn.Module,
    function: WindowFunction,
    info: CheckpointInfo,
    device: str,
    overlap: float = OVERLAP,
    progress: bool = True,
) -> list[Volume]:
    """Map the box of the lungs through `function` of `network`, window by window, at the checkpoint's spacing.

    Returns each of the function's maps as float32 on the CT's own grid, 0 outside the box; else as `probability_map`.
    """
    check_size(ct)
    place = choose_device(device)
    box = bounding_box(lung, MARGIN)
    cut = ct.crop(box)
    image, lung = cut.with_array(window_hu(cut.array)), cut.with_array(lung[box])
    if info.spacing is not None:
        image, lung = resample(image, info.spacing), resample(lung, info.spacing)
    maps = window_means(network, function, image.array, lung.array, info.window, overlap, place, progress)
    if info.spacing is not None:
        maps = [resample_to(image.with_array(one), cut).array for one in maps]
    whole = np.zeros((len(maps), *ct.array.shape), np.float32)
    for part, one in zip(whole, maps, strict=True):
        part[box] = one
    return [ct.with_array(part) for part in whole]


def predict_probability(
    network: nn.Module,
    image: np.ndarray,
    lung: np.ndarray,
    window: int = 128,
    overlap: float = OVERLAP,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> np.ndarray:
    """Average the airway probability of every voxel over the windows that hold it.

    Raises `InputError`: `lung` is of another shape, the window too small, or the overlap out of range.

    Parameters
    ----------
    network : nn.Module
        As for `segment`; the sigmoid of its `decoder` logits counts. In bf16 where CUDA is fast at it, else float32.
    image : numpy.ndarray
        uint8 `(z, y, x)`, as `volume.window` makes it. Along an axis shorter than the window, the window is as long as
        the axis, brought up to a multiple of 16 by repeating the border voxels.
    lung : numpy.ndarray
        bool `(z, y, x)`. A window without any of it is not computed and counts as 0. So the mean is exact wherever
        `lung` is true, and too low only where such a window overlaps another.
    window : int
        Side of the window, voxels; at least 16.
    overlap : float
        Of neighbouring windows along each axis, in [0, 1). The paper's 0.5 is a stride of half a window and takes over
        three times as long as 0.25.
    device : str or torch.device
        Where the network computes; images stay in main memory.
    progress : bool
        Show a bar over the windows computed, on stderr.

    Returns
    -------
    numpy.ndarray
        float32 `(z, y, x)` in [0, 1].
    """
    return window_means(network, decoder_probability(network), image, lung, window, overlap, device, progress)[0]


def window_means(
    network: nn.Module,
    function: WindowFunction,
    image: np.ndarray,
    lung: np.ndarray,
    window: int,
    overlap: float,
    device: str | torch.device,
    progress: bool,
) -> np.ndarray:
    """Average the maps of `function`, which calls `network`, over the windows that hold a voxel: float32 (C, z, y, x).

    All else is as for `predict_probability`.
    """
    if image.shape != lung.shape:
        raise InputError(f"lung mask of shape {lung.shape}: it must have the image's, {image.shape}")
    if window < LEAST_SIZE:
        raise InputError(f"window {window}: at least {LEAST_SIZE} voxels a side are needed")
    if not 0 <= overlap < 1:
        raise InputError(f"overlap {overlap}: 0 (none) to below 1 is needed, such as 0.5")
    sides = [min(window, -(-size // LEAST_SIZE) * LEAST_SIZE) for size in image.shape]
    short = [max(side - size, 0) for side, size in zip(sides, image.shape, strict=True)]
    margins = [(gap // 2, gap - gap // 2) for gap in short]
    image, lung = np.pad(image, margins, mode="edge"), np.pad(lung, margins)
    places = dense_patch_slices(image.shape, sides, [max(1, int(side * (1 - overlap))) for side in sides])
    with_lung = [place for place in places if lung[place].any()]
    bf16 = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    was_training = network.training
    network.to(device).eval()
    total = np.zeros((1, *image.shape), np.float32)
    with torch.inference_mode():
        for place in progress_bar(with_lung, progress):
            patch = torch.from_numpy(image[place])[None, None].to(device).float() / 255
            with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
                maps = function(patch)[0].cpu().numpy()
            if len(total) < len(maps):  # the first window tells how many maps there are
                total = np.zeros((len(maps), *image.shape), np.float32)
            total[:, *place] += maps
    network.train(was_training)
    windows = np.zeros(image.shape, np.float32)
    for place in places:
        windows[place] += 1
    total /= windows
    inside = tuple(slice(low, size - high) for (low, high), size in zip(margins, image.shape, strict=True))
    return total[:, *inside]


def progress_bar(windows: list, shown: bool) -> tqdm:
    """Show a bar with the time left, renewed at every tenth only where stderr is no terminal (a notebook, a log)."""
    total = len(windows)
    pace = {} if sys.stderr.isatty() else {"miniters": max(1, total // 10), "mininterval": 0, "maxinterval": math.inf}
    return tqdm(windows, desc="airways", unit="window", disable=not shown, **pace)
