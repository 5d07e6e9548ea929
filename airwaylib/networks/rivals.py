"""Other networks to compare WingsNet with, built from MONAI's, and trained and used in the same way.

Each has one channel in and one out and takes an image of any size. `width` is w, the channels of the first block:

| name | what | channels of the levels | coarsest | w | parameters |
|---|---|---|---|---|---|
| `unet` | 3D U-Net (Cicek et al. 2016), two convolutions a level | w (1, 2, 4, 8, 16) | 1/16 | 8 | 1,416,001 |
| `vnet` | V-Net (Milletari et al. 2016): residual, 5x5x5, dropout | 16, 32, 64, 128, 256 | 1/16 | 16 | 45,593,890 |
| `attention_unet` | U-Net with gated skips (Oktay et al. 2018) | w (1, 2, 4, 8, 16) | 1/16 | 8 | 1,478,589 |
| `segresnet` | residual encoder, light decoder (Myronenko 2018) | w (1, 2, 4, 8) | 1/8 | 8 | 1,176,177 |
| `dynunet` | nnU-Net's for crops of 128^3 (Isensee et al. 2021) | w (1, 2, 4, 8, 10, 10) | 1/32 | 8 | 1,950,945 |

The w and the parameters are those by default. MONAI's networks are changed in three ways (our choice):

- Batch normalisation becomes instance normalisation with a learnt scale and shift, since a step may hold one crop.
  Where it is of a single channel (the output of V-Net, the attention maps), it is left out: it would tell every window
  that it holds as much airway as any other.
- Pooling and interpolation are those of `layers`, which are deterministic where that is asked for; residual blocks do
  not add in place, so that `gradients` can look into them.
- `dynunet` gives its outputs at 1/2 and 1/4 of the resolution in evaluation, too, and upsamples them linearly.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from airwaylib.errors import InputError
from airwaylib.networks.fast import max_pool, upsample
from airwaylib.networks.wingsnet import GroupLogits, prepared

# MONAI's networks take seconds to import. Each builder does it by itself, since WingsNet needs none of them.


class Baseline(nn.Module):
    """A network of one output, or of a prediction and coarser outputs, that takes an image of any size.

    Parameters
    ----------
    network : nn.Module
        Maps (B, 1, D, H, W) to logits (B, 1, D, H, W), or to a tuple of these and coarser ones (B, 1, d, h, w). It is
        changed in place, as the head of this file says.
    coarsest : int
        Voxels of the image to one of the coarsest level, along an axis.
    """

    def __init__(self, network: nn.Module, coarsest: int):
        super().__init__()
        self.network, self.coarsest = _adapted(network), coarsest

    def forward(self, image: Tensor) -> GroupLogits:
        """Logits at the image's size, float32 at least, without an encoder group.

        Parameters
        ----------
        image : Tensor
            (B, 1, D, H, W) floats. The last voxels are repeated up to a multiple of the coarsest level's voxels, to two
            of them at least (instance normalisation makes zero of a single one), and the logits cropped.

        Raises
        ------
        InputError
            The image has another shape or is not of a floating-point type.
        """
        maps = prepared(image, self.coarsest, least=1)
        outputs = self.network(maps)
        crop = (..., *(slice(length) for length in image.shape[2:]))
        logits = []
        for output in outputs if isinstance(outputs, tuple) else (outputs,):
            output = output.to(torch.promote_types(output.dtype, torch.float32))
            if output.shape[2:] != maps.shape[2:]:
                output = upsample(output, maps.shape[2:])
            logits.append(output[crop])
        return GroupLogits(None, logits[0], tuple(logits[1:]))


def unet(width: int = 8, supervision: str = "final") -> Baseline:
    """3D U-Net: MONAI's BasicUNet."""
    from monai.networks.nets import BasicUNet

    _check("unet", width, supervision)
    return Baseline(BasicUNet(3, 1, 1, features=[*_times(width, 1, 2, 4, 8, 16), width]), 16)


def vnet(width: int = 16, supervision: str = "final") -> Baseline:
    """V-Net: MONAI's VNet, whose width is fixed."""
    from monai.networks.nets import VNet

    if width != 16:
        raise InputError(f"network 'vnet' has 16 channels in its first block, not {width}: set width=16")
    _check("vnet", width, supervision)
    return Baseline(VNet(), 16)


def attention_unet(width: int = 8, supervision: str = "final") -> Baseline:
    """U-Net with attention gates: MONAI's AttentionUnet."""
    from monai.networks.nets import AttentionUnet

    _check("attention_unet", width, supervision, least=2)  # a gate computes with half of a level's channels
    return Baseline(AttentionUnet(3, 1, 1, _times(width, 1, 2, 4, 8, 16), strides=[2, 2, 2, 2]), 16)


def segresnet(width: int = 8, supervision: str = "final") -> Baseline:
    """Residual encoder and decoder: MONAI's SegResNet, with group normalisation in its 8 groups if these divide w."""
    from monai.networks.nets import SegResNet

    _check("segresnet", width, supervision)
    groups = ("group", {"num_groups": math.gcd(width, 8)})
    return Baseline(SegResNet(init_filters=width, out_channels=1, norm=groups), 8)


def dynunet(width: int = 8, supervision: str = "final") -> Baseline:
    """The network that nnU-Net plans for crops of 128^3: MONAI's DynUNet; nnU-Net's own width is 32.

    Supervision "deep" adds an output at 1/2 and one at 1/4 of the resolution.
    """
    from monai.networks.nets import DynUNet

    _check("dynunet", width, supervision, ("final", "deep"))
    strides, channels = [1, 2, 2, 2, 2, 2], _times(width, 1, 2, 4, 8, 10, 10)
    deep = {"deep_supervision": True, "deep_supr_num": 2} if supervision == "deep" else {}
    return Baseline(DeepUNet(DynUNet(3, 1, 1, [3] * 6, strides, strides[1:], filters=channels, **deep)), 32)


BASELINES = {
    "unet": unet,
    "vnet": vnet,
    "attention_unet": attention_unet,
    "segresnet": segresnet,
    "dynunet": dynunet,
}


class DeepUNet(nn.Module):
    """The blocks of a MONAI DynUNet, each held once, and a forward pass that gives all outputs in either mode.

    MONAI's holds them twice, which safetensors refuses, and gives the coarser outputs in training only.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.encoder = nn.ModuleList([network.input_block, *network.downsamples, network.bottleneck])
        self.decoder = network.upsamples
        self.heads = nn.ModuleList([network.output_block, *getattr(network, "deep_supervision_heads", ())])

    def forward(self, maps: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, 1, D, H, W), and those of each coarser head (B, 1, d, h, w), from fine to coarse."""
        skips = []
        for block in self.encoder:
            maps = block(maps)
            skips.append(maps)
        levels = [skips.pop()]
        for block in self.decoder:
            levels.append(block(levels[-1], skips.pop()))
        return tuple(head(level) for head, level in zip(self.heads, reversed(levels), strict=False))


class MaxPool(nn.Module):
    """`layers.max_pool` as a module."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D // 2, H // 2, W // 2)."""
        return max_pool(maps)


class Upsample(nn.Module):
    """`layers.upsample` by two, `align_corners` off, as a module."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, 2 D, 2 H, 2 W)."""
        return upsample(maps, [2 * length for length in maps.shape[2:]], align_corners=False)


class Residual(nn.Module):
    """A residual block of MONAI's SegResNet: normalisation, ReLU and convolution, twice, beside an identity."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.norm1, self.act, self.conv1, self.norm2, self.conv2 = (
            block.get_submodule(name) for name in ("norm1", "act", "conv1", "norm2", "conv2")
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D, H, W)."""
        inner = self.conv1(self.act(self.norm1(maps)))
        return maps + self.conv2(self.act(self.norm2(inner)))


def _adapted(module: nn.Module) -> nn.Module:
    """`module`, with the layers in it replaced as the head of this file says."""
    from monai.networks.blocks.segresnet_block import ResBlock

    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm3d):
            channels = child.num_features
            setattr(module, name, nn.InstanceNorm3d(channels, affine=True) if channels > 1 else nn.Identity())
        elif isinstance(child, nn.MaxPool3d):
            setattr(module, name, MaxPool())
        elif isinstance(child, nn.Upsample):
            setattr(module, name, Upsample())
        elif isinstance(child, ResBlock):
            setattr(module, name, Residual(child))
        else:
            _adapted(child)
    return module


def _times(width: int, *factors: int) -> list[int]:
    return [width * factor for factor in factors]


def _check(name: str, width: int, supervision: str, valid: Sequence[str] = ("final",), least: int = 1) -> None:
    if supervision not in valid:
        choices = " or ".join(f"supervision={one}" for one in valid)
        raise InputError(f"network {name!r} has no supervision {supervision!r}: set {choices}")
    if width < least:
        raise InputError(f"width {width} is too small: network {name!r} needs at least {least}")
