"""WingsNet and its group supervision (Zheng et al. 2021, IEEE TMI 40(9):2452-2462; layers as in the authors' program).

A U-shaped network of 18 blocks. Besides feeding the next block, each block has a **tap** of 2 channels. The encoder's
12 taps and the decoder's 6 are two **groups**, and each group predicts the airway at full resolution:

    block:  3x3x3 conv -> InstanceNorm -> LeakyReLU(0.01) -> x * sigmoid(gate(x)), once or twice
    group:  taps (1x1x1 conv to 2) -> trilinear to full size -> concatenate -> channel dropout -> head (1x1x1 conv to 1)

Two rearrangements leave every value and gradient the same, and save half of the memory and much of the time:

- tap, upsampling, dropout and head are linear, and a 1x1x1 convolution commutes with upsampling. So the head is folded
  into the taps: one channel a tap, summed per level, upsampled once per level;
- what follows a block's convolution is cheap, so the backward pass recomputes it instead of storing it (`GatedNorm`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airwaylib.errors import InputError
from airwaylib.networks.fast import SLOPE, Convolution, GatedNorm, gated_norm_, max_pool, upsample

DROPOUT = 0.3
# Block: (level, input channels, output channels, dilation). Level 0 is the finest; channels are in units of the width,
# and 0 stands for the image's one channel. Going up a level, a block's input is cat(upsampled, skip).
# fmt: off
BLOCKS = {
    "ec1": (0, 0, 1, 1), "ec2": (0, 1, 2, 1), "ec3": (0, 2, 4, 2),
    "ec4": (1, 4, 4, 1), "ec5": (1, 4, 4, 2), "ec6": (1, 4, 8, 2),
    "ec7": (2, 8, 8, 1), "ec8": (2, 8, 8, 2), "ec9": (2, 8, 8, 2),
    "ec10": (3, 8, 8, 1), "ec11": (3, 8, 8, 1), "ec12": (3, 8, 8, 1),
    "dc1": (2, 16, 8, 1), "dc2": (2, 8, 8, 1),
    "dc3": (1, 16, 8, 1), "dc4": (1, 8, 4, 1),
    "dc5": (0, 8, 4, 1), "dc6": (0, 4, 2, 1),
}
# fmt: on
ENCODER = tuple(name for name in BLOCKS if name.startswith("ec"))
DECODER = tuple(name for name in BLOCKS if name.startswith("dc"))
# The blocks whose taps make each group's logits. A group of one block has no head: that block's tap has one channel.
SUPERVISION = {
    "both": {"encoder": ENCODER, "decoder": DECODER},
    "decoder": {"decoder": DECODER},
    "deep": {"decoder": ("dc6",), "half": ("dc4",), "quarter": ("dc2",)},
    "final": {"decoder": ("dc6",)},
}
COARSEST = 8  # voxels of the image to one of the coarsest level, along an axis
MINIMUM_SIZE = COARSEST + 1  # two voxels there: InstanceNorm would make zero of a single one


class GroupLogits(NamedTuple):
    """Logits of each group, all (B, 1, D, H, W) in float32 (float64 for a float64 network)."""

    encoder: Tensor | None  # None unless the supervision is "both"
    decoder: Tensor  # always the prediction: probability = sigmoid(decoder)
    deep: tuple[Tensor, ...] = ()  # supervision "deep": the heads at 1/2 and at 1/4 of the resolution, upsampled


def _initialise(conv: nn.Conv3d) -> nn.Conv3d:
    nn.init.kaiming_normal_(conv.weight, SLOPE)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class Block(nn.Module):
    """Convolution, InstanceNorm, LeakyReLU and one or two spatial gates.

    A forward hook on the block sees its output, one on `conv` the 3x3x3 convolution's; gradients can be taken of both.
    `gates` and `tap` only hold parameters: the network uses them in a folded form, so hooks on them never run.
    """

    def __init__(self, inputs: int, outputs: int, dilation: int, gates: int):
        super().__init__()
        self.conv = _initialise(Convolution(inputs, outputs, 3, padding=dilation, dilation=dilation))
        self.gates = nn.ModuleList(_initialise(nn.Conv3d(outputs, 1, 1, bias=False)) for _ in range(gates))
        self.tap: nn.Conv3d | None = None

    def forward(self, *parts: Tensor) -> Tensor:
        """(B, C, D, H, W) of inputs that stand for their concatenation."""
        maps = self.conv(*parts)
        weight = torch.cat([gate.weight.flatten(1) for gate in self.gates])
        if torch.is_grad_enabled() or self.conv._forward_hooks:  # a hook may have kept the convolution's output
            return GatedNorm.apply(maps, weight)
        gated_norm_(maps, weight, output=maps)
        return maps


class WingsNet(nn.Module):
    """WingsNet: blocks `ec1` to `ec12` and `dc1` to `dc6`, a tap on each supervised one, and a head for each group.

    Parameters
    ----------
    width : int
        Channels of the first block; all others scale with it. 8 is the paper's: 1,473,186 parameters.
    supervision : str
        - "both": encoder and decoder group, the paper's group supervision;
        - "decoder": the decoder group alone;
        - "deep": classical deep supervision, one head at the last block of each decoder level. The coarser two give
          `GroupLogits.deep`; the losses are meant to be weighted 1, 1/2, 1/4 from fine to coarse (our choice);
        - "final": one head, at the last block.

        The trunk is the same in all, and so are its first weights under one seed (Kaiming normal: our choice).

    Raises
    ------
    InputError
        Unknown supervision, or a width below 1.

    Examples
    --------
    >>> logits = WingsNet(width=8).eval()(torch.zeros(1, 1, 20, 16, 16))
    >>> logits.encoder.shape, logits.decoder.shape
    (torch.Size([1, 1, 20, 16, 16]), torch.Size([1, 1, 20, 16, 16]))
    """

    def __init__(self, width: int = 8, supervision: str = "both"):
        super().__init__()
        if supervision not in SUPERVISION:
            raise InputError(f"supervision {supervision!r} is unknown: choose one of {', '.join(SUPERVISION)}")
        if width < 1:
            raise InputError(f"width {width} is too small: it must be at least 1")
        self.groups = SUPERVISION[supervision]
        for name, (level, inputs, outputs, dilation) in BLOCKS.items():
            self.add_module(name, Block(inputs * width or 1, outputs * width, dilation, gates=1 if level == 0 else 2))
        self.heads = nn.ModuleDict()
        for group, names in self.groups.items():
            channels = 2 if len(names) > 1 else 1
            for name in names:
                block = self.get_submodule(name)
                block.tap = _initialise(nn.Conv3d(block.conv.out_channels, channels, 1))
            if len(names) > 1:
                self.heads[group] = _initialise(nn.Conv3d(channels * len(names), 1, 1))

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> GroupLogits:
        """Logits of each group at the image's size.

        Parameters
        ----------
        image : Tensor
            (B, 1, D, H, W) floats of any range (the first InstanceNorm undoes it), at least 9 voxels on each axis. If a
            size is no multiple of 8, the last voxels are repeated up to one (our choice), and the logits cropped.
        generator : torch.Generator, optional
            Draws the channels to drop, in training mode only; by default PyTorch's global one on the CPU, so that a
            seed drops the same channels whatever the image's device.

        Raises
        ------
        InputError
            The image has another shape, is too small, or is not of a floating-point type.
        """
        maps = prepared(image)
        size = maps.shape[2:]
        groups = {group: self._folded(group, len(image), generator, self.training) for group in self.groups}
        for name, maps in self._trunk(maps):  # noqa: B020 (one name, so that no map outlives its use)
            for group in groups.values():
                group.add(name, maps)
        crop = (..., *(slice(length) for length in image.shape[2:]))
        logits = {name: group.logits(size)[crop] for name, group in groups.items()}
        return GroupLogits(logits.pop("encoder", None), logits.pop("decoder"), tuple(logits.values()))

    def sample(self, image: Tensor, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Decoder logits of one image without channel dropout and with `samples` draws of it: one pass of the trunk.

        The image is (1, 1, D, H, W), as for `forward`; the logits are (1, 1, D, H, W) and (samples, 1, D, H, W): what
        `forward` gives in evaluation mode, and in training mode of a batch of that many copies of the image.

        Raises
        ------
        InputError
            As `forward`; or several images, or a supervision whose decoder has no channel dropout.
        """
        if "decoder" not in self.heads:
            raise InputError(
                "this WingsNet's decoder is one layer, without channel dropout; 'both' or 'decoder' has it"
            )
        if len(image) != 1:
            raise InputError(f"image of shape {tuple(image.shape)}: draws are of one image at a time, (1, 1, D, H, W)")
        maps = prepared(image)
        size = maps.shape[2:]
        # Every group draws, in `forward`'s order, so that a seed drops the same channels of the decoder here.
        drawn = {group: self._folded(group, samples, generator, drop=True) for group in self.groups}["decoder"]
        many = _FoldedGroup({name: w.transpose(0, 1) for name, w in drawn.weights.items()}, drawn.bias[None])
        whole = self._folded("decoder", 1, None, drop=False)  # apart, so that not a bit differs from `forward`'s
        for name, maps in self._trunk(maps):  # noqa: B020 (as in `forward`)
            whole.add(name, maps)
            many.add(name, maps)
        crop = (..., *(slice(length) for length in image.shape[2:]))
        return whole.logits(size)[crop], many.logits(size)[crop].transpose(0, 1)

    def _trunk(self, maps: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and output of each block in turn."""
        skips, here = [], 0
        for name, (level, *_) in BLOCKS.items():
            parts = (maps,)
            if level > here:
                skips.append(maps)
                parts = (max_pool(maps),)
            elif level < here:
                parts = (upsample(maps, [2 * length for length in maps.shape[2:]]), skips.pop())
            here = level
            maps = self.get_submodule(name)(*parts)
            yield name, maps

    def _folded(self, group: str, batch: int, generator: torch.Generator | None, drop: bool) -> "_FoldedGroup":
        names = self.groups[group]
        taps = [self.get_submodule(name).tap for name in names]
        if group not in self.heads:
            return _FoldedGroup({names[0]: taps[0].weight.view(1, 1, -1).expand(batch, -1, -1)}, taps[0].bias)
        head = self.heads[group]
        mix = head.weight.view(1, -1).expand(batch, -1)
        if drop:
            mix = mix * channel_dropout(batch, mix.shape[1], generator).to(mix)
        with torch.autocast(mix.device.type, enabled=False):
            bias = head.bias + mix @ torch.cat([tap.bias for tap in taps])
            weights = [(part @ tap.weight.flatten(1))[:, None] for part, tap in zip(mix.split(2, 1), taps, strict=True)]
        return _FoldedGroup(dict(zip(names, weights, strict=True)), bias)


class _FoldedGroup:
    """Head, dropout and taps of a group as one linear map: a weight (B, K, C) for each block and a bias (B, K).

    K is 1, but for `WingsNet.sample`, where it counts the draws.
    """

    def __init__(self, weights: dict[str, Tensor], bias: Tensor):
        self.weights, self.bias = weights, bias
        self.levels: dict[torch.Size, Tensor] = {}  # sum of the folded taps (B, K, d * h * w) on each grid (d, h, w)

    def add(self, name: str, maps: Tensor) -> None:
        """Take in the output of block `name`, if the group has its tap."""
        if name in self.weights:
            tap, grid = self.weights[name] @ maps.flatten(2), maps.shape[2:]
            self.levels[grid] = self.levels[grid] + tap if grid in self.levels else tap

    def logits(self, size: torch.Size) -> Tensor:
        """(B, K, *size), in float32 at least."""
        total = self.bias.view(len(self.bias), -1, 1, 1, 1)
        for grid, taps in self.levels.items():
            level = taps.to(torch.promote_types(taps.dtype, torch.float32)).unflatten(2, grid)
            if grid != size:
                level = upsample(level, size)
            total = total + level
        return total


def channel_dropout(batch: int, channels: int, generator: torch.Generator | None = None) -> Tensor:
    """Factors (B, C), float64: 0 for a channel dropped (probability 0.3), C / (number kept) for its sample's others.

    A sample that would lose all its channels keeps them all (our choice; 1 in 2 million for the decoder's 12).
    The authors' program counts the kept channels over the whole batch, which makes the gain 1 / B.

    Examples
    --------
    >>> channel_dropout(1, 5, torch.Generator().manual_seed(0))
    tensor([[1.6667, 1.6667, 0.0000, 0.0000, 1.6667]], dtype=torch.float64)
    """
    device = generator.device if generator is not None else "cpu"
    kept = torch.rand(batch, channels, generator=generator, device=device) >= DROPOUT
    kept |= ~kept.any(1, keepdim=True)
    return kept * (channels / kept.sum(1, keepdim=True, dtype=torch.float64))


def prepared(image: Tensor, coarsest: int = COARSEST, least: int = MINIMUM_SIZE) -> Tensor:
    """An image (B, 1, D, H, W) with its last voxels repeated up to two or more times `coarsest` along each axis.

    Raises
    ------
    InputError
        The image has another shape, is smaller than `least` voxels, or is not of a floating-point type.
    """
    shape = tuple(image.shape)
    if image.ndim != 5 or shape[1] != 1 or not image.is_floating_point():
        raise InputError(f"image of shape {shape} and type {image.dtype}: it must be (B, 1, D, H, W) of a float type")
    if min(shape[2:]) < least:
        raise InputError(f"image of {shape[2:]} voxels is too small: at least {least} are needed on each axis")
    gaps = [max(-length % coarsest, 2 * coarsest - length) for length in reversed(shape[2:])]
    margins = [margin for gap in gaps for margin in (0, gap)]
    if any(margins):
        image = F.pad(image, margins, mode="replicate")
    if image.device.type == "cpu":  # channels-last, passed on by all layers, halves the time of the convolutions there
        return image.reshape(*image.shape[:1], *image.shape[2:], 1).movedim(-1, 1)
    return image
