"""WingsNet, the network of Zheng et al. 2021 (IEEE TMI 40(9):2452-2462), written plainly; layers as in their program.

A U-shaped network of 18 blocks. Besides feeding the next block, each block has a **tap** of 2 channels. The encoder's
12 taps and the decoder's 6 form two **groups**, and each group predicts the airway at full resolution:

    block:  3x3x3 conv -> InstanceNorm -> LeakyReLU(0.01) -> x * sigmoid(gate(x)), once or twice
    tap:    1x1x1 conv of a block's output to 2 channels -> trilinear to full size
    group:  taps, concatenated -> channel dropout -> head, a 1x1x1 conv to 1 channel
            (a group of one block: channel dropout -> tap, a 1x1x1 conv to 1 channel)

Both groups are supervised, so shallow blocks receive a gradient that has not passed through the whole network. The
decoder's logits are the prediction. `checkpoints.build_network` builds the same network in a faster form.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airwaylib.errors import InputError

SLOPE = 0.01  # of LeakyReLU
DROPOUT = 0.3  # the paper's probability that a channel is dropped in training
# Block: (level, input channels, output channels, dilation). Level 0 is the finest. Channels are multiples of the width;
# 0 stands for the image's single channel. The first block of a decoder level reads cat(upsampled, skip).
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
# Blocks whose taps make each group's logits. A group of one block has no head: its tap has one channel.
SUPERVISION = {
    "both": {"encoder": ENCODER, "decoder": DECODER},
    "decoder": {"decoder": DECODER},
    "deep": {"decoder": ("dc6",), "half": ("dc4",), "quarter": ("dc2",)},
    "final": {"decoder": ("dc6",)},
}
COARSEST = 8  # side of a voxel of the coarsest level, in voxels of the image
MINIMUM_SIZE = COARSEST + 1  # gives two voxels there: InstanceNorm would turn a single one into zero


class GroupLogits(NamedTuple):
    """Logits of each group, all (B, 1, D, H, W) in float32 (float64 for a float64 network)."""

    encoder: Tensor | None  # None unless the supervision is "both"
    decoder: Tensor  # always the prediction: probability = sigmoid(decoder)
    deep: tuple[Tensor, ...] = ()  # supervision "deep": the heads at 1/2 and at 1/4 of the resolution, upsampled


class Block(nn.Module):
    """Convolution, InstanceNorm, LeakyReLU and one or two spatial gates. WingsNet adds a tap if the block has one.

    A forward hook on the block sees its output, a hook on `conv` the convolution's; gradients can be taken of both.
    """

    def __init__(self, inputs: int, outputs: int, dilation: int, gates: int):
        super().__init__()
        self.conv = initialised(nn.Conv3d(inputs, outputs, 3, padding=dilation, dilation=dilation))
        self.gates = nn.ModuleList(initialised(nn.Conv3d(outputs, 1, 1, bias=False)) for _ in range(gates))
        self.tap: nn.Conv3d | None = None

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, inputs, D, H, W) to (B, outputs, D, H, W)."""
        maps = F.leaky_relu(F.instance_norm(self.conv(maps)), SLOPE)
        for gate in self.gates:
            maps = maps * torch.sigmoid(gate(maps))
        return maps


class WingsNet(nn.Module):
    """WingsNet: blocks `ec1` to `ec12` and `dc1` to `dc6`, a tap on each supervised block, a head for each group.

    Raises `InputError`: unknown supervision, a width below 1, or a dropout out of range.

    Parameters
    ----------
    width : int
        Channels of the first block; all others scale with it. The paper's is 8: 1,473,186 parameters.
    supervision : str
        - "both": encoder and decoder group, the paper's group supervision;
        - "decoder": the decoder group alone;
        - "deep": classical deep supervision, one head at the last block of each decoder level. The two coarser heads
          give `GroupLogits.deep`;
        - "final": one head, at the last block.

        All four have the same trunk, with the same first weights under one seed (Kaiming normal: our choice).
    dropout : float
        Probability, in [0, 1), that a channel is dropped in training before the convolution that makes a group's
        logits: a tap channel, or in a group of one block, which the paper does not have, a channel of the block.

    Examples
    --------
    >>> logits = WingsNet(width=8).eval()(torch.zeros(1, 1, 20, 16, 16))
    >>> logits.encoder.shape, logits.decoder.shape
    (torch.Size([1, 1, 20, 16, 16]), torch.Size([1, 1, 20, 16, 16]))
    """

    def __init__(self, width: int = 8, supervision: str = "both", dropout: float = DROPOUT):
        super().__init__()
        if supervision not in SUPERVISION:
            raise InputError(f"supervision {supervision!r} is unknown: choose one of {', '.join(SUPERVISION)}")
        if width < 1:
            raise InputError(f"width {width} is too small: it must be at least 1")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout {dropout}: a probability from 0 to below 1 is needed, such as {DROPOUT}")
        self.dropout = dropout
        self.groups = SUPERVISION[supervision]
        for name, (level, inputs, outputs, dilation) in BLOCKS.items():
            self.add_module(name, Block(inputs * width or 1, outputs * width, dilation, gates=1 if level == 0 else 2))
        self.heads = nn.ModuleDict()
        for group, names in self.groups.items():
            channels = 2 if len(names) > 1 else 1
            for name in names:
                block = self.get_submodule(name)
                block.tap = initialised(nn.Conv3d(block.conv.out_channels, channels, 1))
            if len(names) > 1:
                self.heads[group] = initialised(nn.Conv3d(channels * len(names), 1, 1))

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> GroupLogits:
        """Compute the logits of each group at the image's size.

        Raises `InputError`: the image has another shape, is too small, or is not of a floating-point type.

        Parameters
        ----------
        image : Tensor
            (B, 1, D, H, W) floats, at least 9 voxels on each axis, with air at 0 as in training: the convolutions pad
            with 0. InstanceNorm removes the scale, so [0, 1] and 0..255 are alike. If a size is no multiple of 8, the
            last voxels are repeated and the logits cropped (our choice).
        generator : torch.Generator, optional
            Draws the channels to drop, in training mode only. The default is PyTorch's global generator on the CPU, so
            that a seed drops the same channels whatever the image's device.
        """
        outputs = self.trunk(padded(image))
        kept = self.draw_channels(len(image), generator) if self.training else {}
        logits = {group: self.group_logits(group, outputs, image, kept.get(group)) for group in self.groups}
        return GroupLogits(logits.pop("encoder", None), logits.pop("decoder"), tuple(logits.values()))

    def trunk(self, image: Tensor) -> dict[str, Tensor]:
        """Run the U: the output of every block by name, (B, C, d, h, w). The image's sides are multiples of 8."""
        outputs = {}

        def run(maps: Tensor, *names: str) -> Tensor:
            for name in names:
                maps = outputs[name] = self.get_submodule(name)(maps)
            return maps

        full = run(image, "ec1", "ec2", "ec3")
        half = run(F.max_pool3d(full, 2), "ec4", "ec5", "ec6")
        quarter = run(F.max_pool3d(half, 2), "ec7", "ec8", "ec9")
        eighth = run(F.max_pool3d(quarter, 2), "ec10", "ec11", "ec12")
        quarter = run(join(eighth, quarter), "dc1", "dc2")
        half = run(join(quarter, half), "dc3", "dc4")
        run(join(half, full), "dc5", "dc6")
        return outputs

    def group_logits(self, group: str, outputs: dict[str, Tensor], image: Tensor, kept: Tensor | None) -> Tensor:
        """Compute a group's logits at the image's size. `kept` are factors (B, C) of its channels; None: all 1."""
        full = outputs["ec1"].shape[2:]
        head = dict(self.heads.items()).get(group)  # a group of one block has none
        factors = None if kept is None else kept.to(image)[:, :, None, None, None]
        taps = []
        for name in self.groups[group]:
            maps = outputs[name] if head is not None or factors is None else outputs[name] * factors
            taps.append(resize(self.get_submodule(name).tap(maps), full))
        maps = torch.cat(taps, 1)
        if head is not None:
            maps = head(maps if factors is None else maps * factors)
        depth, height, width = image.shape[2:]
        return at_least_float32(maps)[..., :depth, :height, :width]

    def draw_channels(self, batch: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Draw the channel dropout (B, C) of every group, in the order of the groups."""
        return {
            group: channel_dropout(batch, self.dropped_channels(group), generator, self.dropout)
            for group in self.groups
        }

    def dropped_channels(self, group: str) -> int:
        """Count the channels that channel dropout acts on: the head's inputs, or the only tap's."""
        layer = self.heads[group] if group in self.heads else self.get_submodule(self.groups[group][0]).tap
        return layer.in_channels

    def sample(self, image: Tensor, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Compute decoder logits of one image without channel dropout and with `samples` draws of it.

        The image is (1, 1, D, H, W), as for `forward`. The logits are (1, 1, D, H, W) and (samples, 1, D, H, W): those
        of `forward` in evaluation mode, and in training mode on a batch of that many copies. The trunk runs once.

        Raises `InputError`: as `forward`; or several images, or a decoder group of one block.
        """
        self.check_sampling(image)
        outputs = self.trunk(padded(image))
        kept = self.draw_channels(samples, generator)["decoder"]  # the encoder's draws come first, as in `forward`
        return tuple(self.group_logits("decoder", outputs, image, factors) for factors in (None, kept))

    def check_sampling(self, image: Tensor) -> None:
        """Raise `InputError` unless the decoder group has several blocks and `image` is a single one."""
        if "decoder" not in self.heads:
            raise InputError(
                "this WingsNet's decoder group is one block; draws of channel dropout need 'both' or 'decoder'"
            )
        if len(image) != 1:
            raise InputError(f"image of shape {tuple(image.shape)}: draws are of one image at a time, (1, 1, D, H, W)")


def initialised(conv: nn.Conv3d) -> nn.Conv3d:
    """Give `conv` Kaiming normal weights and a bias of zero."""
    nn.init.kaiming_normal_(conv.weight, SLOPE)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def join(coarse: Tensor, skip: Tensor) -> Tensor:
    """Concatenate `coarse`, upsampled by two, and the encoder's output of that level."""
    return torch.cat((resize(coarse, skip.shape[2:]), skip), 1)


def resize(maps: Tensor, size: torch.Size) -> Tensor:
    """Interpolate linearly, corner voxels on corner voxels: (B, C, d, h, w) -> (B, C, *size)."""
    return F.interpolate(maps, size=tuple(size), mode="trilinear", align_corners=True)


def at_least_float32(maps: Tensor) -> Tensor:
    """Convert half precision to float32 and leave float32 and float64 alone."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def channel_dropout(
    batch: int, channels: int, generator: torch.Generator | None = None, probability: float = DROPOUT
) -> Tensor:
    """Draw factors (B, C), float64: 0 for a dropped channel, C / (number kept) for the others.

    Each sample has its own draw. A sample that would lose all its channels keeps them all (our choice; 1 in 2 million
    for the decoder's 12). The authors' program counts the kept channels over the whole batch: a gain of 1 / B.

    Examples
    --------
    >>> channel_dropout(1, 5, torch.Generator().manual_seed(0))
    tensor([[1.6667, 1.6667, 0.0000, 0.0000, 1.6667]], dtype=torch.float64)
    """
    device = generator.device if generator is not None else "cpu"
    kept = torch.rand(batch, channels, generator=generator, device=device) >= probability
    kept |= ~kept.any(1, keepdim=True)
    return kept * (channels / kept.sum(1, keepdim=True, dtype=torch.float64))


def padded(image: Tensor, coarsest: int = COARSEST, least: int = MINIMUM_SIZE) -> Tensor:
    """Repeat the last voxels of (B, 1, D, H, W) up to a multiple of `coarsest` on each axis, at least twice it.

    Raises `InputError`: the image has another shape, is smaller than `least` voxels, or is not of a floating-point
    type.
    """
    shape = tuple(image.shape)
    if image.ndim != 5 or shape[1] != 1 or not image.is_floating_point():
        raise InputError(f"image of shape {shape} and type {image.dtype}: it must be (B, 1, D, H, W) of a float type")
    if min(shape[2:]) < least:
        raise InputError(f"image of {shape[2:]} voxels is too small: at least {least} are needed on each axis")
    gaps = [max(-length % coarsest, 2 * coarsest - length) for length in reversed(shape[2:])]
    margins = [margin for gap in gaps for margin in (0, gap)]
    return F.pad(image, margins, mode="replicate") if any(margins) else image
