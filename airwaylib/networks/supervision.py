"""Apply a loss to each supervised group of a network's logits."""

from collections.abc import Callable

import torch
from torch import Tensor

from airwaylib.errors import InputError
from airwaylib.networks.wingsnet import GroupLogits

DEEP_WEIGHTS = (0.5, 0.25)  # of the losses of the heads at 1/2 and 1/4 under "deep" supervision (our choice)

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def as_group_logits(output: GroupLogits | Tensor) -> GroupLogits:
    """Convert a network's output to `GroupLogits`; a single tensor, as MONAI's networks give, is the prediction."""
    if isinstance(output, GroupLogits):
        return output
    if isinstance(output, Tensor) and output.shape[1:2] == (1,):
        return GroupLogits(None, output)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise InputError(f"the network gives {shape}: WingsNet's groups or one tensor of logits (B, 1, D, H, W) are needed")


def group_losses(
    logits: GroupLogits, loss: Loss, label: Tensor, weight: Tensor | None = None, airway_gain: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Compute the loss of the decoder group, with any coarser heads, and of the encoder group (0 without one).

    Parameters
    ----------
    logits : GroupLogits
        All (B, 1, D, H, W).
    loss : callable
        (probability, target, weight) -> scalar, see `losses`.
    label, weight : Tensor
        (B, 1, D, H, W).
    airway_gain : float
        Factor on the gradient at the logits of airway voxels: the loss's class-wise ratio times this factor.
    """

    def loss_of(head: Tensor) -> Tensor:
        head = head.float()
        if airway_gain != 1:
            head = AirwayGain.apply(head, label, airway_gain)
        return loss(torch.sigmoid(head), label, weight)

    decoder, *coarser = (loss_of(head) for head in (logits.decoder, *logits.deep))
    decoder = decoder + sum(share * part for share, part in zip(DEEP_WEIGHTS, coarser, strict=False))
    if logits.encoder is None:
        return decoder, torch.zeros_like(decoder)
    return decoder, loss_of(logits.encoder)


class AirwayGain(torch.autograd.Function):
    """Return the logits as they are; multiply their gradient by `gain` where `label` is 1."""

    @staticmethod
    def forward(ctx, logits: Tensor, label: Tensor, gain: float) -> Tensor:
        """(B, 1, D, H, W), as given."""
        ctx.save_for_backward(label)
        ctx.gain = gain
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the logits."""
        (label,) = ctx.saved_tensors
        return grad * (1 + (ctx.gain - 1) * label), None, None
