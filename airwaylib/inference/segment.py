"""From a CT to its airway mask: windows over the lungs, their mean probability, a threshold, one component.

As in Zheng et al. 2021 (authors' program): 128^3 windows at a stride of 64, mean of the sigmoids, >= 0.5, largest
6-connected component. Less overlap, leaving out the windows that hold no lung, and the component that reaches farthest
through the lungs, which is not always the largest, are our own choice.
"""

import math
import sys
import warnings
from collections.abc import Callable

import cc3d
import numpy as np
import torch
from monai.data.utils import dense_patch_slices
from monai.inferers import sliding_window_inference
from torch import Tensor, nn
from tqdm import tqdm

from airwaylib.errors import InputError
from airwaylib.images.lungs import bounding_box, lung_mask
from airwaylib.images.volume import Volume, resample, resample_to
from airwaylib.images.volume import window as window_hu
from airwaylib.metrics.scores import largest_component
from airwaylib.networks.checkpoints import CheckpointInfo

MARGIN = 5  # voxels around the lungs, as in training
OVERLAP = 0.25  # of windows, as a share of their side
LEAST_SIZE = 16  # voxels along an axis, of which windows are multiples: networks halve their input up to four times


def segment(
    ct: Volume,
    network: nn.Module,
    info: CheckpointInfo,
    probability: float | None = None,
    device: str = "auto",
    overlap: float = OVERLAP,
    progress: bool = True,
) -> Volume:
    """Segment the airway tree of a chest CT.

    Parameters
    ----------
    ct : Volume
        HU, axial slices first; at least 16 voxels along each axis.
    network : nn.Module
        Maps an image `(B, 1, D, H, W)` in [0, 1] to `GroupLogits`. It is moved to the device.
    info : CheckpointInfo
        Side of the window, and the spacing in mm to resample to (None: the CT's own grid).
    probability : float, optional
        Voxels at or above it are airway; in (0, 1). By default what the checkpoint asks for.
    device : str
        "cpu", "cuda", or "auto": CUDA where there is one.
    overlap, progress :
        As for `predict_probability`.

    Returns
    -------
    Volume
        bool, on the CT's own grid: one 6-connected component, see `airway_component`, or nothing, with a warning.

    Raises
    ------
    InputError
        Too small a CT, no lung in it, a probability or overlap out of range, a device that is not there.
    """
    return segment_maps(ct, network, info, decoder_probability, 1, probability, device, overlap, progress)[0]


def segment_maps(
    ct: Volume,
    network: nn.Module,
    info: CheckpointInfo,
    maps_of: Callable[[nn.Module, Tensor], Tensor],
    count: int,
    probability: float | None = None,
    device: str = "auto",
    overlap: float = OVERLAP,
    progress: bool = True,
) -> tuple[Volume, list[Volume]]:
    """`segment`'s mask by the first of `maps_of`'s `count` maps, and the others, float32 on the CT's grid.

    `maps_of` is as for `predict_maps`; all else is as for `segment`. The others are 0 away from the lungs' windows.
    """
    if probability is None:
        probability = info.probability
    if not 0 < probability < 1:
        raise InputError(f"probability {probability}: a threshold between 0 and 1 is needed, such as 0.5")
    if min(ct.array.shape) < LEAST_SIZE:
        raise InputError(
            f"a CT of {ct.array.shape} voxels (z, y, x) is too small: {LEAST_SIZE} along each axis are needed"
        )
    place = choose_device(device)
    air = lung_mask(ct)
    box = bounding_box(air, MARGIN)
    cut = ct.crop(box)
    image, lung = cut.with_array(window_hu(cut.array)), cut.with_array(air[box])
    if info.spacing is not None:
        image, lung = resample(image, info.spacing), resample(lung, info.spacing)
    maps = predict_maps(network, image.array, lung.array, maps_of, count, info.window, overlap, place, progress)
    if info.spacing is not None:
        maps = [resample_to(image.with_array(one), cut).array for one in maps]
    mask, *others = [np.zeros(ct.array.shape, kind) for kind in (bool, *["f4"] * (count - 1))]
    mask[box] = airway_component(maps[0] >= probability, air[box], ct.spacing)
    for whole, part in zip(others, maps[1:], strict=True):
        whole[box] = part
    if not mask.any():
        highest = f"the highest probability is {maps[0].max():.3f}, the threshold {probability:g}"
        warnings.warn(f"no airway found: {highest}; the mask is empty", stacklevel=3)
    return ct.with_array(mask), [ct.with_array(whole) for whole in others]


def predict_probability(
    network: nn.Module,
    image: np.ndarray,
    lung: np.ndarray,
    window: int = 128,
    overlap: float = OVERLAP,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> np.ndarray:
    """Mean airway probability of every voxel over the windows that hold it.

    Parameters
    ----------
    network : nn.Module
        As for `segment`; the sigmoid of its `decoder` logits counts. In bf16 where CUDA is fast at it, else float32.
    image : numpy.ndarray
        uint8 `(z, y, x)`, as `volume.window` makes it. Along an axis shorter than the window, the window is as long as
        the axis, brought up to a multiple of 16 by repeating the border voxels.
    lung : numpy.ndarray
        bool `(z, y, x)`. A window without any of it is not computed and counts as 0, so the mean is exact wherever
        `lung` is true, and too low only in places that such a window shares with others.
    window : int
        Side of the window, voxels; at least 16.
    overlap : float
        Of neighbouring windows along each axis, in [0, 1): 0.5, the paper's, is a stride of half a window and takes
        over three times as long as 0.25.
    device : str or torch.device
        Where the network computes; images stay in main memory.
    progress : bool
        Show a bar over the windows computed, on stderr.

    Returns
    -------
    numpy.ndarray
        float32 `(z, y, x)` in [0, 1].

    Raises
    ------
    InputError
        `lung` is of another shape, the window too small, or the overlap out of range.
    """
    return predict_maps(network, image, lung, decoder_probability, 1, window, overlap, device, progress)[0]


def decoder_probability(network: nn.Module, image: Tensor) -> Tensor:
    """Airway probability (1, 1, D, H, W), float32, of an image (1, 1, D, H, W) in [0, 1]."""
    return torch.sigmoid(network(image).decoder.float())


def predict_maps(
    network: nn.Module,
    image: np.ndarray,
    lung: np.ndarray,
    maps_of: Callable[[nn.Module, Tensor], Tensor],
    count: int,
    window: int,
    overlap: float,
    device: str | torch.device,
    progress: bool,
) -> np.ndarray:
    """Mean of maps over the windows that hold a voxel, float32 `(count, z, y, x)`.

    `maps_of` gives the `count` maps (1, count, D, H, W) of a window (1, 1, D, H, W) in [0, 1], as `decoder_probability`
    gives one; all else is as for `predict_probability`.
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
    bf16 = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    bar = progress_bar(count_windows(lung, sides, overlap), progress)

    def predict(patch: Tensor, places: list[list[slice]]) -> Tensor:
        if not lung[tuple(places[0][2:])].any():
            return patch.new_zeros(1, count, *patch.shape[2:])
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            maps = maps_of(network, patch / 255)
        bar.update()
        return maps

    was_training = network.training
    network.to(device).eval()
    with bar, torch.inference_mode():
        whole = torch.from_numpy(image)[None, None].float()
        mean = sliding_window_inference(
            whole, sides, 1, predict, overlap, sw_device=device, device="cpu", with_coord=True
        )
    network.train(was_training)
    inside = tuple(slice(low, size - high) for (low, high), size in zip(margins, image.shape, strict=True))
    return mean[0].numpy()[:, *inside]


def airway_component(mask: np.ndarray, lung: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The 6-connected component of `mask` that reaches farthest through `lung`, or the largest if none is there.

    lung: bool (D, H, W) of `lung_mask`, which holds the airways' air, too. spacing: x, y, z, mm. Gaps under the arms
    and bowel gas look much like a trachea and may be larger than the whole tree, but lie outside the lungs. Emphysema
    and bullae lie inside, but do not go from the trachea into both of them.
    """
    parts = cc3d.connected_components(mask, connectivity=6)
    boxes = cc3d.statistics(np.where(lung, parts, 0))["bounding_boxes"][1:]
    reach = [
        np.linalg.norm([(b.stop - b.start) * mm for b, mm in zip(box, spacing[::-1], strict=True)]) for box in boxes
    ]
    held = np.bincount(parts[mask & lung], minlength=len(reach) + 1)[1 : len(reach) + 1]
    return parts == 1 + np.argmax(np.where(held > 0, reach, 0)) if held.any() else largest_component(mask)


def count_windows(lung: np.ndarray, sides: list[int], overlap: float) -> int:
    """How many of MONAI's sliding windows over `lung` (no axis shorter than its side) hold any of it."""
    strides = [max(1, int(side * (1 - overlap))) for side in sides]
    places = dense_patch_slices(lung.shape, sides, strides)
    return sum(bool(lung[place].any()) for place in places)


def progress_bar(total: int, shown: bool) -> tqdm:
    """Bar with the time left; where stderr is no terminal (a notebook, a log) it is renewed at every tenth only."""
    pace = {} if sys.stderr.isatty() else {"miniters": max(1, total // 10), "mininterval": 0, "maxinterval": math.inf}
    return tqdm(total=total, desc="airways", unit="window", disable=not shown, **pace)


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is unknown: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda': no CUDA device is visible here; use auto or cpu")
    return torch.device(name)
