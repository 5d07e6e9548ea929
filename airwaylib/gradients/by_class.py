"""Split the gradient at every layer into what comes from airway voxels and what from background voxels.

Once the forward pass is fixed, back-propagation is linear in the gradient at the network's output. So that gradient is
split into its part on airway voxels and its part on background voxels, and each is back-propagated alone. At every
layer the two add up to the ordinary gradient. Gradient erosion is Zheng et al.'s idea (2021); the split is ours.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from airwaylib.errors import InputError
from airwaylib.networks.supervision import Loss, as_group_logits, group_losses
from airwaylib.networks.wingsnet import BLOCKS, WingsNet


def class_gradients(
    network: nn.Module,
    loss: Loss,
    image: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    layers: Sequence[str] | None = None,
    encoder_weight: float = 1.0,
    by_group: bool = False,
) -> dict[str, tuple]:
    """Compute the gradient of the loss at each layer's output, in an airway part and a background part.

    Costs one forward pass and two backward passes, four with `by_group`. The parameters' `.grad` stays as it is.

    Parameters
    ----------
    network : nn.Module
        Gives `GroupLogits`, or one tensor of logits (B, 1, D, H, W). It stays in its mode; in training mode, WingsNet
        draws the channels to drop from PyTorch's global generator.
    loss : callable
        (probability, target, weight) -> scalar, see `losses`.
    image, label, weight : Tensor
        (B, 1, D, H, W); the label is 1 on the airway and 0 elsewhere, the weight `general_union_weight`'s or None.
    layers : sequence of str, optional
        Names of modules whose output is one tensor; by default those of `layer_names`.
    encoder_weight : float
        Weight of the encoder group's loss.
    by_group : bool
        Also split by supervised group.

    Returns
    -------
    dict
        Layer name -> (airway, background), in the order of the forward pass; both (B, C, d, h, w), the shape of the
        layer's output, and their sum is the ordinary gradient. With `by_group`, (airway, background, groups), where
        `groups` maps "encoder" and "decoder" to an (airway, background) of its own; it is empty if the network has no
        encoder group. Layers that do not run are left out.

    Raises
    ------
    InputError
        Unknown layer, a label without airway or without background, a loss that ignores the background.
    """
    if not (label > 0.5).any() or (label > 0.5).all():
        raise InputError(
            f"the label of shape {tuple(label.shape)} needs both classes; choose a crop that holds an airway"
        )
    image = image.detach().requires_grad_(image.is_floating_point())  # so that frozen layers have gradients, too
    with torch.enable_grad():
        with outputs_of(network, layer_names(network) if layers is None else layers) as kept:
            logits = as_group_logits(network(image))
        heads = [head for head in (logits.encoder, logits.decoder, *logits.deep) if head is not None]
        decoder, encoder = group_losses(logits, loss, label, weight)
        slopes = torch.autograd.grad(decoder + encoder_weight * encoder, heads, retain_graph=True)
    if not any(slope[label < 0.5].any() for slope in slopes):
        raise InputError("the loss has no gradient on the background: nothing can be eroded; use it with another loss")

    airway = label.to(slopes[0].dtype)

    def propagate(slopes: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, ...]:
        masked, layers = [slope * mask for slope in slopes], list(kept.values())
        # materialize_grads: a layer that no gradient reaches has zeros.
        return torch.autograd.grad(heads, layers, masked, retain_graph=True, allow_unused=True, materialize_grads=True)

    def split(slopes: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(propagate(slopes, airway), propagate(slopes, 1 - airway), strict=True))

    if not by_group or logits.encoder is None:
        return {name: (*parts, {}) if by_group else parts for name, parts in zip(kept, split(slopes), strict=True)}
    of_encoder, of_decoder = slopes
    groups = split((of_encoder, torch.zeros_like(of_decoder))), split((torch.zeros_like(of_encoder), of_decoder))
    return {
        name: (first[0] + second[0], first[1] + second[1], {"encoder": first, "decoder": second})
        for name, first, second in zip(kept, *groups, strict=True)
    }


def layer_names(network: nn.Module) -> list[str]:
    """List the default layers: WingsNet's 18 blocks; of another network, its convolutions wider than one voxel."""
    if isinstance(network, WingsNet):
        return list(BLOCKS)
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv3d) and max(module.kernel_size) > 1
    ]


@contextmanager
def outputs_of(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the layers' outputs of a forward pass within this context, by name, in the order in which they run.

    In-place activations are switched off meanwhile: they would overwrite an output.
    """
    modules = dict(network.named_modules())
    if unknown := [name for name in layers if name not in modules or not name]:
        raise InputError(f"layer {unknown[0]!r} is unknown: the network's layers are {', '.join(layer_names(network))}")
    kept: dict[str, Tensor] = {}
    versions: dict[str, int] = {}

    def keep(name: str, output: Any) -> None:
        if not isinstance(output, Tensor) or name in kept:
            raise InputError(f"layer {name!r}: it must give one tensor, once; choose another layer")
        kept[name], versions[name] = output, output._version

    with ExitStack() as stack:
        for name in layers:
            hook = modules[name].register_forward_hook(lambda _, __, output, name=name: keep(name, output))
            stack.callback(hook.remove)
        for module in modules.values():
            if getattr(module, "inplace", False):
                module.inplace = False
                stack.callback(setattr, module, "inplace", True)
        yield kept
    if changed := [name for name, output in kept.items() if output._version != versions[name]]:
        raise InputError(f"layer {changed[0]!r}: its output is changed in place afterwards; choose another layer")
