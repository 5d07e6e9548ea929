"""Whose gradient is it? Back-propagation split by class, at every layer (ours; the idea is of Zheng et al. 2021).

Once the forward pass is fixed, back-propagation is linear in the gradient at the network's output. So that gradient is
split into the part on airway voxels and the part on background voxels, and each is propagated by itself: at every layer
the two add up to the ordinary gradient. `gradient_measures` says what is read off them.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from airwaylib.errors import InputError
from airwaylib.networks.supervision import Loss, as_group_logits, group_losses
from airwaylib.networks.wingsnet import BLOCKS, WingsNet


class LayerGradients(NamedTuple):
    """Gradient of the loss with respect to a layer's output, each part (B, C, d, h, w); the parts add up to it.

    `groups` holds both parts for each supervised group alone, if they were asked for: these add up to the others.
    """

    foreground: Tensor
    background: Tensor
    groups: dict[str, tuple[Tensor, Tensor]]


class Cut(NamedTuple):
    """A layer's output, and the leaf that the rest of the network computes with in its place."""

    name: str
    output: Tensor
    leaf: Tensor


def layer_names(network: nn.Module) -> list[str]:
    """Layers looked at by default: WingsNet's 18 blocks; of another network, its convolutions wider than a voxel."""
    if isinstance(network, WingsNet):
        return list(BLOCKS)
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv3d) and max(module.kernel_size) > 1
    ]


def class_gradients(
    network: nn.Module,
    loss: Loss,
    image: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    layers: Sequence[str] | None = None,
    encoder_weight: float = 1.0,
    by_group: bool = False,
) -> Iterator[tuple[str, LayerGradients]]:
    """Gradients of airway and background at the layers, from the last one in the forward pass to the first.

    Layers are yielded one at a time, as back-propagation reaches them: one forward pass, and a backward pass for each
    part. Only the layers' outputs are kept throughout. Gradients of the parameters are left alone.

    Parameters
    ----------
    network : nn.Module
        Gives `GroupLogits`, or one tensor of logits (B, 1, D, H, W). It stays in its mode; in training mode, the
        channels that WingsNet drops are drawn from PyTorch's global generator.
    loss : callable
        (probability, target, weight) -> scalar, see `losses`.
    image, label, weight : Tensor
        (B, 1, D, H, W); the label is 1 on the airway and 0 elsewhere, the weight `general_union_weight`'s or None.
    layers : sequence of str, optional
        Names of modules whose output is one tensor; by default those of `layer_names`.
    encoder_weight : float
        Of the encoder group's loss.
    by_group : bool
        Also tell which supervised group the gradients came from, in two backward passes more.

    Raises
    ------
    InputError
        Unknown layer, a label without airway or without background, a loss that ignores the background.
    """
    if not (label > 0.5).any() or (label > 0.5).all():
        raise InputError(
            f"the label of shape {tuple(label.shape)} needs both classes; choose a crop that holds an airway"
        )
    with torch.enable_grad():
        logits, cuts = _cut_forward(network, image, layer_names(network) if layers is None else layers)
        parts = _output_gradients(logits, loss, label, weight, encoder_weight, by_group)
    # Strategy: every cut begins a graph of its own, which ends in the leaves of earlier cuts. The last cut's gradient
    # is complete at once. Once it is carried back to the earlier leaves, so is that of the cut before, and so on. What
    # the logits add to a leaf through its tap is computed in its turn: kept for all of them, it would fill the memory.
    waiting: dict[str, list[Tensor | None]] = {cut.name: [None] * len(parts) for cut in cuts}
    while cuts:
        cut = cuts.pop()
        gradients = [
            _sum(
                known,
                *torch.autograd.grad(part.outputs, cut.leaf, part.gradients, retain_graph=True, allow_unused=True),
            )
            for known, part in zip(waiting.pop(cut.name), parts, strict=True)
        ]
        gradients = [torch.zeros_like(cut.leaf) if gradient is None else gradient for gradient in gradients]
        yield cut.name, _named(parts, gradients)
        if cuts:
            for number, gradient in enumerate(gradients):
                leaves = [earlier.leaf for earlier in cuts]
                carried = torch.autograd.grad(cut.output, leaves, gradient, retain_graph=True, allow_unused=True)
                for earlier, more in zip(cuts, carried, strict=True):
                    waiting[earlier.name][number] = _sum(waiting[earlier.name][number], more)


class _Part(NamedTuple):
    """A part of the gradient at the network's output: of one class, and of one group or of all ("")."""

    group: str
    foreground: bool
    outputs: list[Tensor]
    gradients: list[Tensor]


def _cut_forward(network: nn.Module, image: Tensor, layers: Sequence[str]) -> tuple[Any, list[Cut]]:
    """The network's logits, and the layers' cuts in the order of the forward pass."""
    modules = dict(network.named_modules())
    if unknown := [name for name in layers if name not in modules or not name]:
        known = ", ".join(name for name in layer_names(network))
        raise InputError(f"layer {unknown[0]!r} is unknown: the network's layers are {known}")
    cuts: list[Cut] = []

    def cut_off(name: str, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or name in (cut.name for cut in cuts):
            raise InputError(f"layer {name!r}: it must give one tensor, once; choose another layer")
        cuts.append(Cut(name, output, output.detach().requires_grad_()))
        return cuts[-1].leaf

    with ExitStack() as stack:
        for name in layers:
            hook = modules[name].register_forward_hook(lambda _, __, output, name=name: cut_off(name, output))
            stack.callback(hook.remove)
        for module in modules.values():  # a leaf must not be changed in place
            if getattr(module, "inplace", False):
                module.inplace = False
                stack.callback(setattr, module, "inplace", True)
        logits = as_group_logits(network(image))
    return logits, cuts


def _output_gradients(
    logits: Any, loss: Loss, label: Tensor, weight: Tensor | None, encoder_weight: float, by_group: bool
) -> list[_Part]:
    """The gradient at the logits in parts."""
    outputs = [output for output in (logits.encoder, logits.decoder, *logits.deep) if output is not None]
    leaves = [output.detach().requires_grad_() for output in outputs]
    rest = iter(leaves)
    encoder = None if logits.encoder is None else next(rest)
    decoder_loss, encoder_loss = group_losses(type(logits)(encoder, next(rest), tuple(rest)), loss, label, weight)
    gradients = torch.autograd.grad(decoder_loss + encoder_weight * encoder_loss, leaves)
    inside = label.to(gradients[0].dtype)
    if not any(gradient[label < 0.5].any() for gradient in gradients):
        raise InputError("the loss has no gradient on the background: nothing can be eroded; use it with another loss")
    groups = {"": slice(None)}
    if by_group and encoder is not None:
        groups = {"encoder": slice(1), "decoder": slice(1, None)}
    return [
        _Part(group, foreground, outputs[which], [gradient * mask for gradient in gradients[which]])
        for group, which in groups.items()
        for foreground, mask in ((True, inside), (False, 1 - inside))
    ]


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Sum of two gradients, None standing for zero."""
    return other if one is None else one if other is None else one + other


def _named(parts: list[_Part], gradients: list[Tensor]) -> LayerGradients:
    """The gradients of the parts as `LayerGradients`."""
    classes = {True: None, False: None}
    groups: dict[str, dict[bool, Tensor]] = {}
    for part, gradient in zip(parts, gradients, strict=True):
        classes[part.foreground] = _sum(classes[part.foreground], gradient)
        groups.setdefault(part.group, {})[part.foreground] = gradient
    named = {group: (both[True], both[False]) for group, both in groups.items() if group}
    return LayerGradients(classes[True], classes[False], named)
