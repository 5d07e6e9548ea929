"""Measure gradients that were split by class: a layer's foreground share, erosion, dilation, class-wise ratio (ours).

With |.| the norm over channels of a part of the gradient, at a voxel of a layer

    foreground share   s = |airway| / (|airway| + |background|)
    erosion            share of the airway voxels where s < 1/2: the background owns their gradient
    dilation           share of the background voxels near an airway where s > 1/2
    class-wise ratio   sum |airway| / sum |background|

A coarse layer's voxel stands for all voxels of the image that it covers. A voxel that no gradient reaches, or whose
gradient is not a number, has no share; `not_finite` counts these. `probe` takes all measures of a training step.

Gradients of a layer are a value of `by_class.class_gradients`: (airway, background), each (B, C, d, h, w), and with
`by_group` a third item, the groups.
"""

from dataclasses import dataclass, field
from typing import Any

import edt
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from airwaylib.gradients.by_class import class_gradients
from airwaylib.losses.ratio import PLACES, measured_ratio
from airwaylib.networks.supervision import Loss, as_group_logits
from airwaylib.trees.skeleton import thin

SHELL = 3  # voxels: background this near an airway counts in dilation and in the ratio near airways (our choice)


@dataclass(frozen=True)
class Regions:
    """The voxels to measure, on a crop's grid (D, H, W): the airway, the background around it, any bins and parts.

    `bins` holds integer maps by name, which give the bin of each airway voxel; values elsewhere are ignored. `parts`
    holds boolean maps by name: parts of the airway whose erosion `measure` gives, too.
    """

    airway: np.ndarray
    shell: np.ndarray
    bins: dict[str, np.ndarray]
    parts: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def around(cls, airway: np.ndarray, bins: dict[str, np.ndarray] | None = None, shell: int = SHELL) -> "Regions":
        """Make the regions of a boolean airway (D, H, W): the shell is the background within `shell` voxels of it."""
        return cls(airway, ~airway & (edt.edt(~airway) <= shell), bins or {})


def foreground_share(gradients: tuple) -> np.ndarray:
    """Compute the foreground share s (B, d, h, w), float32 in [0, 1]; nan where a voxel has none."""
    airway, background = (size(part) for part in gradients[:2])
    return (airway / (airway + background)).float().cpu().numpy()


def size(part: Tensor) -> Tensor:
    """Compute |.|, the norm over channels of a part of the gradient (B, C, d, h, w): float64 (B, d, h, w)."""
    # `Tensor.norm` takes ten times as long on a CPU. In float32, squares of small gradients would be 0.
    return part.detach().double().square().sum(1).sqrt()


def spread(maps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Spread a layer's map (d, h, w) over the image's grid: a voxel takes the value of the layer's voxel around it."""
    for axis, (size, cells) in enumerate(zip(shape, maps.shape, strict=True)):
        stride = 2 ** int(np.ceil(np.log2(size / cells)))  # of the image padded to whole cells
        if stride > 1 or cells != size:
            maps = np.take(maps, np.minimum(np.arange(size) // stride, cells - 1), axis)
    return maps


def measure(gradients: tuple, regions: Regions, sample: int = 0) -> dict[str, float]:
    """Measure erosion, dilation and class-wise ratio of a layer, for one sample of the batch.

    Returns
    -------
    dict
        `erosion` and `share` (mean s) on the airway, `dilation` on the shell, `ratio` everywhere and `ratio_near` on
        airway and shell, all as defined at the top of this file; `not_finite`, the share of voxels that have no s and
        are left out of the others; `from_encoder`, if the gradients are split by group, too; and `erosion_PART` and
        `voxels_PART` of each of the regions' parts.
    """
    shape = regions.airway.shape
    airway, background = (size(part[sample : sample + 1])[0].cpu().numpy() for part in gradients[:2])
    with np.errstate(invalid="ignore"):
        share = spread((airway / (airway + background)).astype(np.float32), shape)
    inside, outside = share[regions.airway], share[regions.shell]
    near = spread(np.isfinite(airway + background), shape) & (regions.airway | regions.shell)
    groups = gradients[2] if len(gradients) > 2 else {}
    return {
        "erosion": _mean(inside < 0.5, inside),
        "dilation": _mean(outside > 0.5, outside),
        "share": _mean(inside, inside),
        "ratio": _ratio(np.nansum(airway, dtype=float), np.nansum(background, dtype=float)),
        "ratio_near": _ratio(*(spread(part, shape)[near].sum(dtype=float) for part in (airway, background))),
        "not_finite": float(np.isnan(share).mean()),
        **({"from_encoder": from_encoder(groups, regions, sample)} if groups else {}),
        **{f"erosion_{name}": _mean(share[part] < 0.5, share[part]) for name, part in regions.parts.items()},
        **{f"voxels_{name}": int(np.isfinite(share[part]).sum()) for name, part in regions.parts.items()},
    }


def from_encoder(groups: dict[str, tuple[Tensor, Tensor]], regions: Regions, sample: int = 0) -> float:
    """Compute the encoder group's mean share of the gradient on the airway: |encoder| / (|encoder| + |decoder|)."""
    sizes = [
        spread(size(sum(groups[group])[sample : sample + 1])[0].cpu().numpy(), regions.airway.shape)
        for group in ("encoder", "decoder")
    ]
    encoder, decoder = (size[regions.airway] for size in sizes)
    with np.errstate(invalid="ignore"):
        share = encoder / (encoder + decoder)
    return _mean(share, share)


def measure_bins(gradients: tuple, regions: Regions, sample: int = 0) -> list[dict[str, Any]]:
    """Measure a layer's erosion and mean share in each of the regions' bins: a row a bin with `by`, `bin`, `voxels`."""
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
    """Average `values` where there is a share; nan if there is none anywhere."""
    known = np.isfinite(share)
    return float(values[known].mean()) if known.any() else float("nan")


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else float("nan")


def airway_radius(airway: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Measure the airway's radius around each of its voxels: the inscribed radius at the nearest centreline voxel.

    airway (D, H, W) boolean, spacing (x, y, z) in mm, or 1 to measure in voxels. Returns float32 (D, H, W), 0 outside.
    """
    steps = spacing[::-1]
    # `edt` measures to the centre of the nearest background voxel. The surface is half a voxel before it.
    inscribed = edt.edt(airway, anisotropy=steps, black_border=False) - min(spacing) / 2
    nearest = ndimage.distance_transform_edt(~thin(airway), steps, return_distances=False, return_indices=True)
    return np.where(airway, inscribed[tuple(nearest)], 0).astype(np.float32)


def probe(
    network: nn.Module, loss: Loss, batch: dict[str, Tensor], weight: Tensor | None, encoder_weight: float
) -> list[dict[str, float | str]]:
    """Measure every layer on a batch's first crop during training. Costs about two training steps.

    Returns
    -------
    list of dict
        A row a layer, in the order of the forward pass: `layer`, `erosion`, `dilation` and `layer_ratio`, the layer's
        class-wise ratio; `ratio`, `ratio_logit` and `index` of the loss, see `loss_state`. Empty if the crop lacks one
        of the classes.
    """
    image, label = batch["image"][:1], batch["label"][:1]
    weight = None if weight is None else weight[:1]
    if not (label > 0.5).any() or (label > 0.5).all():
        return []
    regions = Regions.around(label[0, 0].cpu().numpy() > 0.5)
    state = loss_state(network, loss, image, label, weight)
    rows = []
    for layer, gradients in class_gradients(network, loss, image, label, weight, encoder_weight=encoder_weight).items():
        measures = measure(gradients, regions)
        about = {"layer": layer, "layer_ratio": measures["ratio"]} | state
        rows.append(about | {name: measures[name] for name in ("erosion", "dilation")})
    return rows


def loss_state(network: nn.Module, loss: Loss, image: Tensor, label: Tensor, weight: Tensor | None) -> dict[str, float]:
    """Compute the loss's `ratio` and `index` at the network's prediction for a crop.

    `ratio` is mean |dL/dp| on the airway over that on the background, `ratio_logit` the same of the gradient at the
    logit, which is what back-propagation carries on; `index` is 1 - loss.
    """
    with torch.no_grad():
        probability = torch.sigmoid(as_group_logits(network(image)).decoder.float())
    return state_of(loss, probability, label, weight)


def state_of(loss: Loss, probability: Tensor, label: Tensor, weight: Tensor | None) -> dict[str, float]:
    """Compute a loss's `ratio`, `ratio_logit` and `index`, see `loss_state`, at a prediction."""
    ratio, at_logit = (measured_ratio(loss, probability, label, weight, at=place) for place in PLACES)
    return {"ratio": ratio, "ratio_logit": at_logit, "index": 1 - loss(probability, label, weight).item()}
