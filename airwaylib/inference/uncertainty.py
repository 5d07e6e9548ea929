"""Measure how sure the network is of each voxel by Monte-Carlo channel dropout (Gal and Ghahramani, ICML 2016).

WingsNet drops tap channels while it trains. Dropping them again while it segments gives one network a draw. Where these
disagree, the airway depends on few channels. Taps, dropout and head are linear, so one pass of the trunk serves all
draws (`WingsNet.sample`). Whether the spread predicts errors is not shown here.
"""

import torch
from torch import Tensor, nn

from airwaylib.errors import InputError
from airwaylib.images.volume import Volume
from airwaylib.inference.segment import OVERLAP, airway_mask, checked_lung, checked_threshold, lung_maps
from airwaylib.networks.checkpoints import CheckpointInfo
from airwaylib.networks.wingsnet import WingsNet


def check_dropout(network: nn.Module, samples: int) -> None:
    """Raise `InputError` unless `network` has channel dropout at its decoder's head and `samples` make a deviation."""
    if not isinstance(network, WingsNet) or "decoder" not in network.heads:
        raise InputError(
            f"no uncertainty from this {type(network).__name__}, which drops no channels: a WingsNet of supervision "
            "'both' or 'decoder' is needed"
        )
    if samples < 2:
        raise InputError(f"samples {samples}: at least 2 are needed for a deviation")


def segment_with_uncertainty(
    ct: Volume,
    network: nn.Module,
    info: CheckpointInfo,
    samples: int,
    seed: int = 0,
    threshold: float | None = None,
    device: str = "auto",
    overlap: float = OVERLAP,
    progress: bool = True,
) -> tuple[Volume, Volume]:
    """Segment a chest CT, and measure where the network's draws of channels disagree.

    Raises `InputError`: as `segment`; or a network without channel dropout at its decoder's head, or fewer than two
    samples.

    Parameters
    ----------
    ct, network, info, threshold, device, overlap, progress :
        As for `segment`; the mask is the same.
    samples : int
        Draws of channel dropout, at least 2.
    seed : int
        Of the draws. Every window sees the same ones.

    Returns
    -------
    mask : Volume
        As from `segment`.
    uncertainty : Volume
        float32, on the CT's grid: standard deviation of the airway probability over the draws (n - 1 below the sum), in
        [0, 0.71]. Where windows overlap, their mean; 0 outside them.
    """
    check_dropout(network, samples)
    threshold = checked_threshold(threshold, info)
    lung = checked_lung(ct, device)

    def both(window: Tensor) -> Tensor:  # in one pass of the trunk
        return probability_and_deviation(network, window, samples, seed)

    probability, uncertainty = lung_maps(ct, lung, network, both, info, device, overlap, progress)
    return airway_mask(probability, lung, threshold), uncertainty


def probability_and_deviation(network: WingsNet, image: Tensor, samples: int, seed: int) -> Tensor:
    """Airway probability without dropout, and its deviation over the draws of `seed`: (1, 2, D, H, W), float32."""
    logits, drawn = network.sample(image, samples, torch.Generator().manual_seed(seed))
    probability = torch.sigmoid(drawn.float())
    # Tensor.std over the first axis gives the same in three times as long.
    squares = (probability - probability.mean(0, keepdim=True)).square_().sum(0, keepdim=True)
    return torch.cat([torch.sigmoid(logits.float()), squares.div_(samples - 1).sqrt_()], 1)
