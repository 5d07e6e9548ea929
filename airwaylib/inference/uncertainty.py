"""How sure the network is of each voxel: Monte-Carlo channel dropout (Gal and Ghahramani, ICML 2016).

WingsNet drops tap channels while it trains. Dropping them again while it segments gives as many networks as draws, and
where these disagree, the airway hangs on few channels. Taps, dropout and head are linear, so that one pass of the trunk
serves all draws (`WingsNet.sample`). The spread is the network's own; that it tells errors is not shown here.
"""

import torch
from torch import Tensor, nn

from airwaylib.errors import InputError
from airwaylib.images.volume import Volume
from airwaylib.inference.segment import segment_maps
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
    ct: Volume, network: nn.Module, info: CheckpointInfo, samples: int, seed: int = 0, **options
) -> tuple[Volume, Volume]:
    """Segment a chest CT, and say where the network's draws of channels disagree.

    Parameters
    ----------
    ct, network, info, **options :
        As for `inference.segment`; the mask is the same.
    samples : int
        Draws of channel dropout, at least 2.
    seed : int
        Of the draws. Every window sees the same ones.

    Returns
    -------
    mask : Volume
        As from `inference.segment`.
    uncertainty : Volume
        float32, on the CT's grid: standard deviation of the airway probability over the draws (n - 1 below the sum), in
        [0, 0.71]; where windows overlap, the mean of theirs; 0 where none is.

    Raises
    ------
    InputError
        As `inference.segment`; or a network without channel dropout at its decoder's head, or fewer than two samples.
    """
    check_dropout(network, samples)

    def maps_of(network: WingsNet, image: Tensor) -> Tensor:
        return probability_and_deviation(network, image, samples, seed)

    mask, (uncertainty,) = segment_maps(ct, network, info, maps_of, 2, **options)
    return mask, uncertainty


def probability_and_deviation(network: WingsNet, image: Tensor, samples: int, seed: int) -> Tensor:
    """(1, 2, D, H, W), float32: airway probability without dropout, and its deviation over the draws of `seed`."""
    logits, drawn = network.sample(image, samples, torch.Generator().manual_seed(seed))
    probability = torch.sigmoid(drawn.float())
    # Tensor.std over the first axis gives the same in three times as long.
    squares = (probability - probability.mean(0, keepdim=True)).square_().sum(0, keepdim=True)
    return torch.cat([torch.sigmoid(logits.float()), squares.div_(samples - 1).sqrt_()], 1)
