"""Adapt MONAI's networks to WingsNet's interface, so that they are trained and used in the same way.

Each has one channel in and one out and takes an image of any size. `width` is w, the channels of the first block:

| name | what | channels of the levels | coarsest | w | parameters |
|---|---|---|---|---|---|
| `unet` | 3D U-Net (Cicek et al. 2016), two convolutions a level | w (1, 2, 4, 8, 16) | 1/16 | 8 | 1,416,001 |
| `vnet` | V-Net (Milletari et al. 2016): residual, 5x5x5, dropout | 16, 32, 64, 128, 256 | 1/16 | 16 | 45,593,890 |
| `attention_unet` | U-Net with gated skips (Oktay et al. 2018) | w (1, 2, 4, 8, 16) | 1/16 | 8 | 1,478,589 |
| `dynunet` | nnU-Net's for crops of 128^3 (Isensee et al. 2021) | w (1, 2, 4, 8, 10, 10) | 1/32 | 8 | 1,950,945 |

The last two columns hold for the default w. MONAI's networks are changed in three ways (our choice):

- Instance normalisation with a learnt scale and shift replaces batch normalisation, since a step may hold one crop. A
  single channel (V-Net's output, the attention maps) is not normalised: every window would seem to hold as much airway.
- Pooling and interpolation are those of `fast`, which are deterministic where that is asked for.
- `dynunet` gives its outputs at 1/2 and 1/4 of the resolution in evaluation as well, and upsamples them linearly.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from airwaylib.errors import InputError
from airwaylib.networks.fast import max_pool, prepared, upsample
from airwaylib.networks.wingsnet import GroupLogits, at_least_float32

# MONAI's networks take seconds to import. Each builder imports its own, since WingsNet needs none of them.


class Rival(nn.Module):
    """A network of one output, or of a prediction and coarser outputs, that takes an image of any size.

    Parameters
    ----------
    network : nn.Module
        Maps (B, 1, D, H, W) to logits (B, 1, D, H, W), or to a tuple of these and coarser ones (B, 1, d, h, w). Its
        layers are replaced in place, as described at the top of this file.
    coarsest : int
        Side of a voxel of the coarsest level, in voxels of the image.
    """

    def __init__(self, network: nn.Module, coarsest: int):
        super().__init__()
        self.network, self.coarsest = _adapted(network), coarsest

    def forward(self, image: Tensor) -> GroupLogits:
        """Compute logits at the image's size, float32 at least, without an encoder group.

        Raises `InputError`: the image has another shape or is not of a floating-point type.

        Parameters
        ----------
        image : Tensor
            (B, 1, D, H, W) floats. The last voxels are repeated up to a multiple of the coarsest level's voxels, two of
            them at least (instance normalisation would turn a single one into zero), and the logits cropped.
        """
        maps = prepared(image, self.coarsest, least=1)
        outputs = self.network(maps)
        crop = (..., *(slice(length) for length in image.shape[2:]))
        logits = []
        for output in outputs if isinstance(outputs, tuple) else (outputs,):
            output = at_least_float32(output)
            if output.shape[2:] != maps.shape[2:]:
                output = upsample(output, maps.shape[2:])
            logits.append(output[crop])
        return GroupLogits(None, logits[0], tuple(logits[1:]))


def unet(width: int = 8, supervision: str = "final") -> Rival:
    """3D U-Net: MONAI's BasicUNet."""
    from monai.networks.nets import BasicUNet

    _check("unet", width, supervision)
    return Rival(BasicUNet(3, 1, 1, features=[*_times(width, 1, 2, 4, 8, 16), width]), 16)


def vnet(width: int = 16, supervision: str = "final") -> Rival:
    """V-Net: MONAI's VNet, whose width is fixed."""
    from monai.networks.nets import VNet

    if width != 16:
        raise InputError(f"network 'vnet' has 16 channels in its first block, not {width}: set width=16")
    _check("vnet", width, supervision)
    return Rival(VNet(), 16)


def attention_unet(width: int = 8, supervision: str = "final") -> Rival:
    """U-Net with attention gates: MONAI's AttentionUnet."""
    from monai.networks.nets import AttentionUnet

    _check("attention_unet", width, supervision, least=2)  # a gate computes with half of a level's channels
    return Rival(AttentionUnet(3, 1, 1, _times(width, 1, 2, 4, 8, 16), strides=[2, 2, 2, 2]), 16)


def dynunet(width: int = 8, supervision: str = "final") -> Rival:
    """The network that nnU-Net plans for crops of 128^3: MONAI's DynUNet; nnU-Net's own width is 32.

    Supervision "deep" adds an output at 1/2 and one at 1/4 of the resolution.
    """
    from monai.networks.nets import DynUNet

    _check("dynunet", width, supervision, ("final", "deep"))
    strides, channels = [1, 2, 2, 2, 2, 2], _times(width, 1, 2, 4, 8, 10, 10)
    deep = {"deep_supervision": True, "deep_supr_num": 2} if supervision == "deep" else {}
    return Rival(DeepUNet(DynUNet(3, 1, 1, [3] * 6, strides, strides[1:], filters=channels, **deep)), 32)


RIVALS = {"unet": unet, "vnet": vnet, "attention_unet": attention_unet, "dynunet": dynunet}


class DeepUNet(nn.Module):
    """The blocks of a MONAI DynUNet, each held once, and a forward pass that gives all outputs in either mode.

    MONAI's network holds them twice, which safetensors refuses, and gives the coarser outputs in training only.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.encoder = nn.ModuleList([network.input_block, *network.downsamples, network.bottleneck])
        self.decoder = network.upsamples
        self.heads = nn.ModuleList([network.output_block, *getattr(network, "deep_supervision_heads", ())])

    def forward(self, maps: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, 1, D, H, W), then those of each coarser head (B, 1, d, h, w), from fine to coarse."""
        skips = []
        for block in self.encoder:
            maps = block(maps)
            skips.append(maps)
        levels = [skips.pop()]
        for block in self.decoder:
            levels.append(block(levels[-1], skips.pop()))
        return tuple(head(level) for head, level in zip(self.heads, reversed(levels), strict=False))


class MaxPool(nn.Module):
    """`fast.max_pool` as a module."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D // 2, H // 2, W // 2)."""
        return max_pool(maps)


class Upsample(nn.Module):
    """`fast.upsample` by two, without `align_corners`, as a module."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, 2 D, 2 H, 2 W)."""
        return upsample(maps, [2 * length for length in maps.shape[2:]], align_corners=False)


def _adapted(module: nn.Module) -> nn.Module:
    """Replace the layers of `module` as described at the top of this file."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm3d):
            channels = child.num_features
            setattr(module, name, nn.InstanceNorm3d(channels, affine=True) if channels > 1 else nn.Identity())
        elif isinstance(child, nn.MaxPool3d):
            setattr(module, name, MaxPool())
        elif isinstance(child, nn.Upsample):
            setattr(module, name, Upsample())
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
