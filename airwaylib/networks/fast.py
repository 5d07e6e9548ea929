"""WingsNet of `wingsnet.py` in less time and memory: the same parameters, values and gradients, equal by test.

- **Folded groups.** Tap, upsampling, dropout and head are linear, and a 1x1x1 convolution commutes with upsampling. So
  the head is folded into the taps: one channel a tap, summed per level, upsampled once per level (`FoldedGroup`).
- **Recomputed tails.** What follows a block's convolution is cheap. The backward pass computes it again instead of
  storing it (`GatedNorm`).
- **Faster convolutions on a CPU**: channels-last maps, no concatenation, no slow kernel (`Convolution`, `prepared`,
  `SmallConvolution`).

Measured (one CPU thread, 64^3, width 8): a training step takes 4.2 instead of 6.3 s and 0.77 instead of 1.50 GB
(`benchmarks/wingsnet_step.py`). Of small volumes (at most `STORED` elements a block) the tails are stored, since
memory is no concern: a step takes 30 % of the plain one's time (the same benchmark with `--size 32 --width 4`).

`max_pool` and `upsample` also have forms for `torch.use_deterministic_algorithms`. On a GPU, the backward passes of
PyTorch's own add up in an order that differs from run to run. `benchmarks/deterministic_forms.py` compares the two; on
a CPU PyTorch's are faster, and repeat anyway.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airwaylib.networks.wingsnet import (
    BLOCKS,
    COARSEST,
    DROPOUT,
    MINIMUM_SIZE,
    SLOPE,
    Block,
    GroupLogits,
    WingsNet,
    at_least_float32,
    padded,
)

EPSILON = 1e-5  # InstanceNorm's
STORED = 2**20  # largest block output (elements) whose tail is stored on a CPU, not recomputed: memory is no concern


class FastWingsNet(WingsNet):
    """WingsNet with the same parameters and state, folded and recomputed. Arguments and errors as `WingsNet`.

    A forward hook on a block or on its `conv` runs as in the plain network. `gates`, taps and heads only hold
    parameters here, so hooks on them never run.
    """

    def __init__(self, width: int = 8, supervision: str = "both", dropout: float = DROPOUT):
        super().__init__(width, supervision, dropout)
        for name in BLOCKS:
            self.add_module(name, FastBlock(self.get_submodule(name)))

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> GroupLogits:
        """Compute the logits of each group at the image's size, see `WingsNet.forward`."""
        maps = prepared(image)
        kept = self.draw_channels(len(image), generator) if self.training else {}
        groups = {group: self.folded(group, len(image), kept.get(group)) for group in self.groups}
        logits = self.run(maps, image, groups)
        return GroupLogits(logits.pop("encoder", None), logits.pop("decoder"), tuple(logits.values()))

    def sample(self, image: Tensor, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Compute decoder logits without and with `samples` draws of channel dropout, see `WingsNet.sample`."""
        self.check_sampling(image)
        maps = prepared(image)
        drawn = self.folded("decoder", samples, self.draw_channels(samples, generator)["decoder"])
        many = FoldedGroup({name: w.transpose(0, 1) for name, w in drawn.weights.items()}, drawn.bias[None])
        whole = self.folded("decoder", 1, None)  # separate, so that not a bit differs from `forward`'s
        logits = self.run(maps, image, {"whole": whole, "many": many})
        return logits["whole"], logits["many"].transpose(0, 1)

    def run(self, maps: Tensor, image: Tensor, groups: dict[str, "FoldedGroup"]) -> dict[str, Tensor]:
        """Run the trunk on `maps`, the prepared image, and give each group's logits (B, K, D, H, W)."""
        # Strategy: a group takes in each block's output at once, and only skips are kept. In evaluation, all other maps
        # are free as soon as the next block has read them.
        full, skips, here = maps.shape[2:], [], 0
        for name, (level, *_) in BLOCKS.items():
            parts = (maps,)
            if level > here:
                skips.append(maps)
                parts = (max_pool(maps),)
            elif level < here:
                parts = (upsample(maps, [2 * length for length in maps.shape[2:]]), skips.pop())
            here = level
            maps = self.get_submodule(name)(*parts)
            for group in groups.values():
                group.add(name, maps)
        del maps, parts
        crop = (..., *(slice(length) for length in image.shape[2:]))
        return {name: group.logits(full)[crop] for name, group in groups.items()}

    def folded(self, group: str, batch: int, kept: Tensor | None) -> "FoldedGroup":
        """Fold head, dropout factors (B, C) and taps of a group into one linear map for each sample."""
        names = self.groups[group]
        taps = [self.get_submodule(name).tap for name in names]
        if group not in self.heads:
            weight = taps[0].weight.view(1, 1, -1).expand(batch, -1, -1)
            return FoldedGroup({names[0]: weight if kept is None else weight * kept.to(weight)[:, None]}, taps[0].bias)
        head = self.heads[group]
        mix = head.weight.view(1, -1).expand(batch, -1)
        if kept is not None:
            mix = mix * kept.to(mix)
        with torch.autocast(mix.device.type, enabled=False):
            bias = head.bias + mix @ torch.cat([tap.bias for tap in taps])
            weights = [(part @ tap.weight.flatten(1))[:, None] for part, tap in zip(mix.split(2, 1), taps, strict=True)]
        return FoldedGroup(dict(zip(names, weights, strict=True)), bias)


class FoldedGroup:
    """Head, dropout and taps of a group as one linear map: a weight (B, K, C) for each block and a bias (B, K).

    K is 1, except in `FastWingsNet.sample`, where it counts the draws.
    """

    def __init__(self, weights: dict[str, Tensor], bias: Tensor):
        self.weights, self.bias = weights, bias
        self.levels: dict[torch.Size, Tensor] = {}  # sum of the folded taps (B, K, d * h * w) on each grid (d, h, w)

    def add(self, name: str, maps: Tensor) -> None:
        """Add the output of block `name`, if the group has its tap."""
        if name in self.weights:
            tap, grid = self.weights[name] @ maps.flatten(2), maps.shape[2:]
            self.levels[grid] = self.levels[grid] + tap if grid in self.levels else tap

    def logits(self, size: torch.Size) -> Tensor:
        """(B, K, *size), in float32 at least."""
        total = self.bias.view(len(self.bias), -1, 1, 1, 1)
        for grid, taps in self.levels.items():
            level = at_least_float32(taps).unflatten(2, grid)
            if grid != size:
                level = upsample(level, size)
            total = total + level
        return total


def prepared(image: Tensor, coarsest: int = COARSEST, least: int = MINIMUM_SIZE) -> Tensor:
    """Pad an image as `wingsnet.padded`; on a CPU, store it channels-last, which all layers pass on."""
    image = padded(image, coarsest, least)
    if image.device.type == "cpu":  # halves the time of the convolutions
        return image.reshape(*image.shape[:1], *image.shape[2:], 1).movedim(-1, 1)
    return image


class FastBlock(nn.Module):
    """The parameters of a `wingsnet.Block`, and its function with the recomputed tail."""

    def __init__(self, block: Block):
        super().__init__()
        self.conv, self.gates, self.tap = Convolution(block.conv), block.gates, block.tap

    def forward(self, *parts: Tensor) -> Tensor:
        """(B, C, D, H, W) of inputs that stand for their concatenation."""
        maps = self.conv(*parts)
        weight = torch.cat([gate.weight.flatten(1) for gate in self.gates])
        if len(maps) == 1 and maps.device.type == "cpu" and maps.numel() <= STORED:
            return stored_gated_norm(maps, weight)
        if torch.is_grad_enabled() or self.conv._forward_hooks:  # a hook may have kept the convolution's output
            return GatedNorm.apply(maps, weight)
        gated_norm_(maps, weight, output=maps)
        return maps


class GatedNorm(torch.autograd.Function):
    """InstanceNorm, LeakyReLU and spatial gates in one step, which stores its input and nothing of what lies between.

    `apply` maps (B, C, D, H, W) and gate weights (G, C), with G = 1 or 2, to (B, C, D, H, W). A gate multiplies all
    channels of a voxel by sigmoid(weight . channels). Of two in a row both logits are linear in the activation a: the
    first gate is u = sigmoid(w1 . a), and the second sees u a, so it is sigmoid(u (w2 . a)).

    Half precision is computed in float32, also under autocast. There are no second derivatives.
    """

    @staticmethod
    def forward(ctx, maps: Tensor, weight: Tensor) -> Tensor:
        """Normalised, activated and gated maps."""
        output = torch.empty_like(maps)
        shift, scale = gated_norm_(maps, weight, output)
        ctx.save_for_backward(maps, weight.to(scale.dtype), shift, scale)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the maps and of the gate weights."""
        maps, weight, shift, scale = ctx.saved_tensors
        grad_maps, grad_weight = torch.empty_like(maps), torch.zeros_like(weight)
        source, above, target = _rows(maps), _rows(grad_output), _rows(grad_maps)
        total, dot = torch.zeros_like(scale), torch.zeros_like(scale)
        with torch.autocast(maps.device.type, enabled=False):
            for sample, rows in _chunks(source):
                normed = torch.addcmul(shift[sample], source[sample, rows].to(scale.dtype), scale[sample])
                grad, grad_weight_here = _tail_backward(normed, weight, above[sample, rows].to(scale.dtype))
                grad_weight += grad_weight_here
                total[sample] += grad.sum(0)
                dot[sample] += normed.mul_(grad).sum(0)
                torch.mul(grad, scale[sample], out=target[sample, rows])
            # InstanceNorm's backward, scale (g - mean(g) - n mean(g n)) with n = scale x + shift: what is left to
            # subtract from scale g is affine in the input x.
            slope = -dot * scale.square() / source.shape[1]
            offset = -(total + dot * shift) * scale / source.shape[1]
            for sample, rows in _chunks(source):
                part = source[sample, rows].to(scale.dtype)
                target[sample, rows] += torch.addcmul(offset[sample], part, slope[sample])
        return grad_maps, grad_weight


def stored_gated_norm(maps: Tensor, weight: Tensor) -> Tensor:
    """Compute `GatedNorm` of one sample by PyTorch's operations, which store what lies between."""
    # Of a single sample, BatchNorm in training is InstanceNorm, and faster on channels-last maps.
    active = F.leaky_relu(F.batch_norm(maps, None, None, training=True, eps=EPSILON), SLOPE)
    gate, *second = (_rows(active)[0] @ weight.T).split(1, 1)
    gate = torch.sigmoid(gate)
    for logit in second:
        gate = gate * torch.sigmoid(gate * logit)
    return active * gate.view(1, 1, *maps.shape[2:])


def gated_norm_(maps: Tensor, weight: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Write what `GatedNorm` yields to `output`, which may be `maps`; return InstanceNorm's shift and scale (B, C)."""
    # Strategy: voxels are rows of C channels, taken a chunk at a time, so that all intermediate results stay in the
    # processor's cache. That makes computing them a second time cheaper than writing them to memory and reading them.
    source, target = _rows(maps), _rows(output)
    with torch.autocast(maps.device.type, enabled=False):
        shift, scale = _normalisation(source)
        weight = weight.to(scale.dtype)
        for sample, rows in _chunks(source):
            active = torch.addcmul(shift[sample], source[sample, rows].to(scale.dtype), scale[sample])
            gates = _gates(weight @ F.leaky_relu_(active, SLOPE).T)
            torch.mul(active, math.prod(gates)[:, None], out=target[sample, rows])
    return shift, scale


def _rows(maps: Tensor) -> Tensor:
    """(B, C, D, H, W) as (B, D * H * W, C): a view, if the maps are contiguous in either memory format."""
    return maps.permute(0, 2, 3, 4, 1).flatten(1, 3)


def _chunks(rows: Tensor) -> Iterator[tuple[int, slice]]:
    """Sample and range of each chunk of (B, N, C) rows: half a MiB of float32 a CPU thread, 64 MiB on a GPU."""
    elements = torch.get_num_threads() << 17 if rows.device.type == "cpu" else 1 << 24
    length = max(1, elements // rows.shape[2])
    for sample in range(rows.shape[0]):
        for start in range(0, rows.shape[1], length):
            yield sample, slice(start, start + length)


def _normalisation(source: Tensor) -> tuple[Tensor, Tensor]:
    """InstanceNorm of (B, N, C) rows as shift and scale (B, C), float32 at least: normed = scale * source + shift."""
    mean = source.mean(1, dtype=torch.promote_types(source.dtype, torch.float32))
    variance = torch.zeros_like(mean)
    for sample, rows in _chunks(source):
        variance[sample] += (source[sample, rows] - mean[sample]).square_().sum(0)
    scale = (variance / source.shape[1] + EPSILON).rsqrt_()
    return -mean * scale, scale


def _gates(logits: Tensor) -> list[Tensor]:
    """The one or two gates (N,) of logits (G, N)."""
    first = torch.sigmoid(logits[0])
    return [first] + [torch.sigmoid(first * logit) for logit in logits[1:]]


def _tail_backward(normed: Tensor, weight: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of normalised rows (N, C) and of the gate weights (G, C), given that of their gated activations."""
    active = F.leaky_relu(normed, SLOPE)
    logits = weight @ active.T
    first, *second = _gates(logits)
    grad_gate = (above * active) @ torch.ones_like(weight[0])  # a row sum, but faster
    grad_logits = torch.empty_like(logits)
    gate, grad_first = first, grad_gate
    if second:
        gate = first * second[0]
        inner = grad_gate * gate * (1 - second[0])  # gradient of the second gate's argument, first * logits[1]
        grad_first = grad_gate * second[0] + inner * logits[1]
        grad_logits[1] = inner * first
    grad_logits[0] = grad_first * first * (1 - first)
    grad_active = (above * gate[:, None]).addmm_(grad_logits.T, weight)
    # True: the activation is given in place of its argument, whose sign it has.
    return torch.ops.aten.leaky_relu_backward(grad_active, active, SLOPE, True), grad_logits @ active


class Convolution(nn.Module):
    """The parameters of a 3x3x3 `nn.Conv3d`, applied to parts of its input, which spares their concatenation."""

    def __init__(self, conv: nn.Conv3d):
        super().__init__()
        self.weight, self.bias, self.dilation = conv.weight, conv.bias, conv.dilation[0]

    def forward(self, *parts: Tensor) -> Tensor:
        """(B, C, D, H, W) of parts (B, C_i, D, H, W), whose channels add up to the layer's."""
        first, *others = self.weight.split([part.shape[1] for part in parts], 1)
        output = _convolve(parts[0], first, self.bias, self.dilation)
        for part, weight in zip(parts[1:], others, strict=True):
            output += _convolve(part, weight, None, self.dilation)
        return output


def _convolve(maps: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """3x3x3 convolution that keeps the size."""
    if SmallConvolution.serves(maps):
        return SmallConvolution.apply(maps, weight, bias, dilation)
    return F.conv3d(maps, weight, bias, padding=dilation, dilation=dilation)


class SmallConvolution(torch.autograd.Function):
    """3x3x3 convolution of one small volume by oneDNN, which PyTorch 2.13 uses from a batch of two on.

    PyTorch's own kernel is 2 to 8 times slower. There are no second derivatives.
    """

    @staticmethod
    def serves(maps: Tensor) -> bool:
        """Tell whether PyTorch would choose the slow kernel for (1, C, D, H, W), and oneDNN is there."""
        slow = maps.device.type == "cpu" and maps.dtype == torch.float32 and math.prod(maps.shape[:4]) <= 20480
        return slow and len(maps) == 1 and torch.backends.mkldnn.is_available()

    @staticmethod
    def forward(ctx, maps: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        """(1, C, D, H, W)."""
        ctx.save_for_backward(maps, weight, bias)
        ctx.dilation = dilation
        return _onednn(maps, weight, bias, dilation)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of maps, weight and bias."""
        (maps, weight, bias), reach = ctx.saved_tensors, ctx.dilation
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        grad_maps = None
        if ctx.needs_input_grad[0]:
            grad_maps = _onednn(grad, weight.transpose(0, 1).flip(2, 3, 4), None, reach)
        # Strategy: the weights' gradient is a sum over places. So the upper and the lower half of the volume, each with
        # the slices that its kernel reaches, are a batch of two.
        half, odd = (maps.shape[2] + 1) // 2, maps.shape[2] % 2
        grad = F.pad(grad, (0, 0, 0, 0, 0, odd)) if odd else grad
        above = grad[0].unflatten(1, (2, half)).transpose(0, 1)  # (2, C, half, H, W)
        wide = F.pad(maps, (0, 0, 0, 0, reach, reach + odd))
        halves = torch.cat((wide[:, :, : half + 2 * reach], wide[:, :, half:]))
        sizes = None if bias is None else list(bias.shape)
        geometry = ([1] * 3, [0, reach, reach], [reach] * 3, False, [0] * 3, 1, [False, True, bias is not None])
        _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(above, halves, weight, sizes, *geometry)
        return grad_maps, grad_weight, grad_bias, None


def _onednn(maps: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """3x3x3 convolution by oneDNN that keeps the size."""
    return torch.mkldnn_convolution(maps, weight, bias, [dilation] * 3, [1] * 3, [dilation] * 3, 1)


def max_pool(maps: Tensor) -> Tensor:
    """2x2x2 max pooling (B, C, D, H, W) -> (B, C, D // 2, H // 2, W // 2); an odd last voxel counts nowhere."""
    return MaxPool.apply(maps) if torch.are_deterministic_algorithms_enabled() else F.max_pool3d(maps, 2)


def upsample(maps: Tensor, size: Sequence[int], align_corners: bool = True) -> Tensor:
    """Trilinear interpolation (B, C, d, h, w) -> (B, C, *size); `align_corners` as in `F.interpolate`."""
    if torch.are_deterministic_algorithms_enabled():
        return interpolate_by_products(maps, size, align_corners)
    return F.interpolate(maps, size=tuple(size), mode="trilinear", align_corners=align_corners)


class MaxPool(torch.autograd.Function):
    """`F.max_pool3d(maps, 2)` whose backward pass compares instead of scattering: the same on every run.

    Of equal voxels the first takes the gradient, as in PyTorch's form. Input and output are stored, which other layers
    store anyway, but no indices. There are no second derivatives.
    """

    @staticmethod
    def forward(ctx, maps: Tensor) -> Tensor:
        """Maximum of each 2x2x2 voxels."""
        pooled = F.max_pool3d(maps, 2)
        ctx.save_for_backward(maps, pooled)
        return pooled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output: Tensor) -> Tensor:
        """Gradient of the maps."""
        maps, pooled = ctx.saved_tensors
        grad_maps = torch.zeros_like(maps)
        not_taken = torch.ones_like(pooled, dtype=torch.bool)  # by none of the eight voxels so far
        for corner in itertools.product((0, 1), repeat=3):
            spans = zip(corner, pooled.shape[2:], strict=True)
            place = (..., *(slice(start, start + 2 * length - 1, 2) for start, length in spans))
            takes = (maps[place] == pooled) & not_taken
            torch.mul(grad_output, takes, out=grad_maps[place])
            not_taken &= ~takes
        return grad_maps


def interpolate_by_products(maps: Tensor, size: Sequence[int], align_corners: bool = True) -> Tensor:
    """`upsample` as a matrix product along each axis, so that the backward pass is the same on every run.

    Half precision is computed in float32, also under autocast, and rounded once, at the end.
    """
    # Strategy: the axes that the memory format has last come first, while the maps are small; the product along the
    # outermost axis, on the largest maps, is then a single one for each sample.
    channels_last = not maps.is_contiguous()
    lines = maps.to(torch.promote_types(maps.dtype, torch.float32))
    lines = lines.movedim(1, -1) if channels_last else lines
    with torch.autocast(maps.device.type, enabled=False):
        for axis, length in zip((2, 1, 0), reversed(size), strict=True):
            axis += 1 if channels_last else 2
            matrix = _interpolation(lines.shape[axis], length, align_corners, lines.dtype, lines.device)
            if axis == 4:
                lines = lines @ matrix.T
            else:
                lines = (matrix @ lines.flatten(axis + 1)).unflatten(-1, lines.shape[axis + 1 :])
    return (lines.movedim(-1, 1) if channels_last else lines).to(maps.dtype)


@functools.lru_cache(maxsize=64)
def _interpolation(before: int, after: int, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Linear interpolation of `before` values to `after` as a matrix (after, before)."""
    with torch.inference_mode(False):  # one made in inference mode would be of no use to a later backward pass
        units = torch.eye(before, dtype=dtype, device=device)[None]
        return F.interpolate(units, size=after, mode="linear", align_corners=align_corners)[0].T.contiguous()
