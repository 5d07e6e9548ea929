"""WingsNet written down plainly, layer by layer: what `airwaylib.networks.wingsnet` is tested against and timed beside.

Its parameters bear the names of the authors' released files, so `load_author_checkpoint` reads its state.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int, gates: int):
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, padding=dilation, dilation=dilation)
        self.norm = nn.InstanceNorm3d(outputs)
        self.act = nn.LeakyReLU(0.01)
        self.conv_se = nn.Conv3d(outputs, 1, 1, bias=False)
        if gates == 2:
            self.conv_se2 = nn.Conv3d(outputs, 1, 1, bias=False)
        self.conv2 = nn.Conv3d(outputs, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv1(x)))
        x = x * torch.sigmoid(self.conv_se(x))
        if hasattr(self, "conv_se2"):
            x = x * torch.sigmoid(self.conv_se2(x))
        return x


class PlainWingsNet(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        w = width
        self.ec1 = PlainBlock(1, w, 1, 1)
        self.ec2 = PlainBlock(w, 2 * w, 1, 1)
        self.ec3 = PlainBlock(2 * w, 4 * w, 2, 1)
        self.ec4 = PlainBlock(4 * w, 4 * w, 1, 2)
        self.ec5 = PlainBlock(4 * w, 4 * w, 2, 2)
        self.ec6 = PlainBlock(4 * w, 8 * w, 2, 2)
        self.ec7 = PlainBlock(8 * w, 8 * w, 1, 2)
        self.ec8 = PlainBlock(8 * w, 8 * w, 2, 2)
        self.ec9 = PlainBlock(8 * w, 8 * w, 2, 2)
        self.ec10 = PlainBlock(8 * w, 8 * w, 1, 2)
        self.ec11 = PlainBlock(8 * w, 8 * w, 1, 2)
        self.ec12 = PlainBlock(8 * w, 8 * w, 1, 2)
        self.dc1 = PlainBlock(16 * w, 8 * w, 1, 2)
        self.dc2 = PlainBlock(8 * w, 8 * w, 1, 2)
        self.dc3 = PlainBlock(16 * w, 8 * w, 1, 2)
        self.dc4 = PlainBlock(8 * w, 4 * w, 1, 2)
        self.dc5 = PlainBlock(8 * w, 4 * w, 1, 1)
        self.dc6 = PlainBlock(4 * w, 2 * w, 1, 1)
        self.dc0_0 = nn.Sequential(nn.Conv3d(24, 1, 1))
        self.dc0_1 = nn.Sequential(nn.Conv3d(12, 1, 1))

    def forward(self, image: Tensor, kept: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Encoder and decoder logits; `kept`, (B, 24) and (B, 12) booleans, are the channels to keep in training."""
        size, taps = image.shape[2:], {}

        def block(name: str, x: Tensor) -> Tensor:
            x = self.get_submodule(name)(x)
            taps[name] = F.interpolate(
                self.get_submodule(name).conv2(x), size=size, mode="trilinear", align_corners=True
            )
            return x

        def up(x: Tensor, skip: Tensor) -> Tensor:
            return torch.cat((F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True), skip), 1)

        level1 = block("ec3", block("ec2", block("ec1", image)))
        level2 = block("ec6", block("ec5", block("ec4", F.max_pool3d(level1, 2))))
        level3 = block("ec9", block("ec8", block("ec7", F.max_pool3d(level2, 2))))
        level4 = block("ec12", block("ec11", block("ec10", F.max_pool3d(level3, 2))))
        level3 = block("dc2", block("dc1", up(level4, level3)))
        level2 = block("dc4", block("dc3", up(level3, level2)))
        block("dc6", block("dc5", up(level2, level1)))
        encoder = torch.cat([taps[f"ec{i}"] for i in range(1, 13)], 1)
        decoder = torch.cat([taps[f"dc{i}"] for i in range(1, 7)], 1)
        if self.training and kept is None:
            kept = tuple(torch.rand(len(image), channels) >= 0.3 for channels in (24, 12))
        if self.training:
            encoder, decoder = drop(encoder, kept[0]), drop(decoder, kept[1])
        return self.dc0_0(encoder), self.dc0_1(decoder)


def drop(channels: Tensor, kept: Tensor) -> Tensor:
    """Zero the channels (B, C, ...) not kept and scale the others by C / kept, sample by sample."""
    return torch.stack(
        [c * (k.to(c) * len(k) / k.sum())[:, None, None, None] for c, k in zip(channels, kept, strict=True)]
    )


def random_plain_network(width: int = 2) -> PlainWingsNet:
    """One of random weights, biases included (they begin at 0), the same at every call."""
    torch.manual_seed(1)
    plain = PlainWingsNet(width)
    for name, parameter in plain.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return plain
