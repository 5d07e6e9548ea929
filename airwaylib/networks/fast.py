"""WingsNet's layers in forms that take less time and memory, or repeat bit for bit, for the same values and gradients.

PyTorch's own layers would do (see `tests/plain_wingsnet.py`). `GatedNorm` and `Convolution` make training on a CPU
bearable. `max_pool` and `upsample` are PyTorch's, unless deterministic algorithms are asked for
(`optimisation.make_deterministic`): on a GPU, the backward passes of PyTorch's add up in an order that differs from run
to run. `benchmarks/deterministic_forms.py` compares the two; on a CPU PyTorch's pooling is faster, and repeats anyway.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE, EPSILON = 0.01, 1e-5  # LeakyReLU's and InstanceNorm's, as in the authors' program


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


class Convolution(nn.Conv3d):
    """Convolution of the concatenation of its inputs as a sum of convolutions, which spares the concatenation."""

    def forward(self, *parts: Tensor) -> Tensor:
        """(B, C, D, H, W) of parts (B, C_i, D, H, W), whose channels add up to the layer's."""
        first, *others = self.weight.split([part.shape[1] for part in parts], 1)
        output = _convolve(parts[0], first, self.bias, self.dilation[0])
        for part, weight in zip(parts[1:], others, strict=True):
            output += _convolve(part, weight, None, self.dilation[0])
        return output


def _convolve(maps: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """3x3x3 convolution that keeps the size."""
    # PyTorch 2.13 gives a batch of one with B * C * D * H <= 20480 to a CPU kernel that is 2 to 8 times slower.
    # Strategy: the upper and lower half of such a volume, each with the slices its kernel reaches, are a batch of two.
    if maps.device.type != "cpu" or maps.shape[0] > 1 or math.prod(maps.shape[:4]) > 20480:
        return F.conv3d(maps, weight, bias, padding=dilation, dilation=dilation)
    depth = maps.shape[2]
    half = (depth + 1) // 2
    padded = F.pad(maps, (0, 0, 0, 0, dilation, dilation))
    halves = torch.cat((padded[:, :, : half + 2 * dilation], padded[:, :, depth - half :]))
    output = F.conv3d(halves, weight, bias, padding=(0, dilation, dilation), dilation=dilation)
    return torch.cat((output[:1], output[1:, :, 2 * half - depth :]), 2)


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
