"""What class-separated gradients say of a layer: foreground share, erosion, dilation, class-wise ratio (ours).

With |.| the norm over channels of a part of the gradient, at a voxel of a layer

    foreground share   s = |foreground| / (|foreground| + |background|)
    erosion            share of the airway voxels where s < 1/2: the background owns their gradient
    dilation           share of the background voxels near an airway where s > 1/2
    class-wise ratio   sum |foreground| / sum |background|

A coarse layer's voxel stands for all voxels of the image that it covers. A voxel that no gradient reaches, or one that
is not a number, has no share; how many these are is told.
"""

from dataclasses import dataclass
from typing import Any

import edt
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from airwaylib.gradients.by_class import LayerGradients, class_gradients
from airwaylib.losses.ratio import measured_ratio
from airwaylib.networks.supervision import Loss, as_group_logits
from airwaylib.trees.skeleton import thin

SHELL = 3  # voxels: background this near an airway counts in dilation and in the ratio near airways (our choice)


@dataclass(frozen=True)
class Regions:
    """Where gradients are measured, on a crop's grid (D, H, W): the airway, the background around it, and any bins.

    `bins` holds integer maps by name: a voxel's bin where there is airway; what they hold elsewhere does not matter.
    """

    airway: np.ndarray
    shell: np.ndarray
    bins: dict[str, np.ndarray]

    @classmethod
    def around(cls, airway: np.ndarray, bins: dict[str, np.ndarray] | None = None, shell: int = SHELL) -> "Regions":
        """Regions of a boolean airway (D, H, W): the shell is the background within `shell` voxels of it."""
        return cls(airway, ~airway & (edt.edt(~airway) <= shell), bins or {})


def foreground_share(gradients: LayerGradients) -> np.ndarray:
    """Foreground share s (B, d, h, w), float32 in [0, 1]; nan where no gradient arrives or one is not a number."""
    foreground, background = (part.detach().float().norm(dim=1) for part in gradients[:2])
    return (foreground / (foreground + background)).cpu().numpy()


def spread(maps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A layer's map (d, h, w) on the image's grid `shape`: every voxel has the value of the layer's voxel around it."""
    for axis, (size, cells) in enumerate(zip(shape, maps.shape, strict=True)):
        stride = 2 ** int(np.ceil(np.log2(size / cells)))  # of the image padded to whole cells
        if stride > 1 or cells != size:
            maps = np.take(maps, np.minimum(np.arange(size) // stride, cells - 1), axis)
    return maps


def measure(gradients: LayerGradients, regions: Regions, sample: int = 0) -> dict[str, float]:
    """Erosion, dilation and class-wise ratio of a layer, for one sample of the batch.

    Returns
    -------
    dict
        `erosion` and `share` (mean s) on the airway, `dilation` on the shell, `ratio` everywhere and `ratio_near` on
        airway and shell, all as defined on top; `not_finite`, the share of voxels that have no s and count nowhere
        else; and `from_encoder`, if the gradients tell the groups.
    """
    shape = regions.airway.shape
    foreground, background = (part[sample].detach().float().norm(dim=0).cpu().numpy() for part in gradients[:2])
    share = spread(foreground_share(gradients)[sample], shape)
    inside, outside = share[regions.airway], share[regions.shell]
    measures = {} if "encoder" not in gradients.groups else {"from_encoder": from_encoder(gradients, regions, sample)}
    near = spread(np.isfinite(foreground + background), shape) & (regions.airway | regions.shell)
    return {
        "erosion": _mean(inside < 0.5, inside),
        "dilation": _mean(outside > 0.5, outside),
        "share": _mean(inside, inside),
        "ratio": _ratio(np.nansum(foreground, dtype=float), np.nansum(background, dtype=float)),
        "ratio_near": _ratio(*(spread(part, shape)[near].sum(dtype=float) for part in (foreground, background))),
        "not_finite": float(np.isnan(share).mean()),
    } | measures


def from_encoder(gradients: LayerGradients, regions: Regions, sample: int = 0) -> float:
    """Mean share of the gradient on the airway that the encoder group gave: |encoder| / (|encoder| + |decoder|)."""
    sizes = [
        spread(sum(gradients.groups[group])[sample].detach().float().norm(dim=0).cpu().numpy(), regions.airway.shape)
        for group in ("encoder", "decoder")
    ]
    encoder, decoder = (size[regions.airway] for size in sizes)
    with np.errstate(invalid="ignore"):
        share = encoder / (encoder + decoder)
    return _mean(share, share)


def measure_bins(gradients: LayerGradients, regions: Regions, sample: int = 0) -> list[dict[str, Any]]:
    """Erosion and mean share of a layer by the regions' bins: a row a bin with `by`, `bin`, `voxels`."""
    share = spread(foreground_share(gradients)[sample], regions.airway.shape)[regions.airway]
    rows = []
    for name, bins in regions.bins.items():
        inside = bins[regions.airway]
        for number in np.unique(inside):
            here = share[inside == number]
            measures = {"voxels": len(here), "erosion": _mean(here < 0.5, here), "share": _mean(here, here)}
            rows.append({"by": name, "bin": int(number), **measures})
    return rows


def _mean(values: np.ndarray, share: np.ndarray) -> float:
    """Mean of `values` where there is a share; nan if nowhere."""
    known = np.isfinite(share)
    return float(values[known].mean()) if known.any() else float("nan")


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else float("nan")


def airway_radius(airway: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Radius of the airway around each of its voxels: the inscribed one at the nearest centreline voxel.

    airway (D, H, W) boolean, spacing (x, y, z) in mm, or 1 to measure in voxels. Returns float32 (D, H, W), 0 outside.
    """
    steps = spacing[::-1]
    # From a voxel's centre to that of the nearest background voxel; the surface is half a voxel before it.
    inscribed = edt.edt(airway, anisotropy=steps, black_border=False) - min(spacing) / 2
    nearest = ndimage.distance_transform_edt(~thin(airway), steps, return_distances=False, return_indices=True)
    return np.where(airway, inscribed[tuple(nearest)], 0).astype(np.float32)


def probe(
    network: nn.Module, loss: Loss, batch: dict[str, Tensor], weight: Tensor | None, encoder_weight: float
) -> list[dict[str, float | str]]:
    """Rows of probes.csv for a batch's first crop: a layer each, forward order. Costs about two training steps.

    Returns
    -------
    list of dict
        `layer`, `erosion`, `dilation`, `layer_ratio` (class-wise, of the layer), see `gradient_measures`; `ratio`, of
        the loss: mean |dL/dp| on the airway over that on the background, at the prediction; `index`: 1 - loss. Empty if
        the crop lacks one of the classes.
    """
    image, label = batch["image"][:1], batch["label"][:1]
    weight = None if weight is None else weight[:1]
    if not (label > 0.5).any() or (label > 0.5).all():
        return []
    regions = Regions.around(label[0, 0].cpu().numpy() > 0.5)
    state = loss_state(network, loss, image, label, weight)
    rows = []
    for layer, gradients in class_gradients(network, loss, image, label, weight, encoder_weight=encoder_weight):
        measures = measure(gradients, regions)
        about = {"layer": layer, "layer_ratio": measures["ratio"]} | state
        rows.append(about | {name: measures[name] for name in ("erosion", "dilation")})
    return rows[::-1]


def loss_state(network: nn.Module, loss: Loss, image: Tensor, label: Tensor, weight: Tensor | None) -> dict[str, float]:
    """The loss at the network's prediction for a crop: its gradient `ratio`, and its `index`, 1 - loss."""
    with torch.no_grad():
        probability = torch.sigmoid(as_group_logits(network(image)).decoder.float())
        index = 1 - loss(probability, label, weight).item()
    return {"ratio": measured_ratio(loss, probability, label, weight), "index": index}
