"""Time of the deterministic max pooling and upsampling beside PyTorch's own, by layer and in a whole training step.

    python benchmarks/deterministic_forms.py [--size 128 --width 8 --rounds 3 --threads 2 --device cpu]

The layers are all that one WingsNet step with both groups uses, at their sizes, forward and backward. The forms take
turns, and the least of the rounds counts; on a busy machine the ratio of processor times says more. A line `step` is
forward and backward of the whole network on random voxels. `--size 64 --width 4` is the size of small studies.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from airwaylib.networks.fast import FastWingsNet, max_pool, upsample
from airwaystudy.training.optimisation import make_deterministic

FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last_3d}


def layers_of(width: int, size: int) -> dict[str, list[tuple[tuple[int, ...], Callable[[Tensor], Tensor]]]]:
    """Shape (1, C, D, H, W) of the input and the layer, of all poolings and upsamplings of a step."""
    pools = [(4, 1), (8, 2), (8, 4)]  # channels in widths, and the level's voxel in the image's
    ups = [(8, 8), (8, 4), (8, 2)]
    taps = [2, 4, 8, 2, 4]  # levels of the encoder's group below the finest, and of the decoder's
    cube = lambda channels, voxel: (1, channels, *[size // voxel] * 3)  # noqa: E731
    double = lambda maps: upsample(maps, [2 * length for length in maps.shape[2:]])  # noqa: E731
    return {
        "max pooling": [(cube(c * width, v), max_pool) for c, v in pools],
        "upsampling of features": [(cube(c * width, v), double) for c, v in ups],
        "upsampling of groups": [(cube(1, v), lambda maps: upsample(maps, [size] * 3)) for v in taps],
    }


def seconds(work: Callable[[], None], device: str) -> tuple[float, float]:
    """Wall and processor time of `work`."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - processor


def turns(work: Callable[[], None], rounds: int, device: str) -> list[list[float]]:
    """Least wall and processor seconds of `work` as PyTorch does it, and in the deterministic form."""
    times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for number in range(rounds + 1):
        for deterministic, runs in times.items():
            with make_deterministic(deterministic):
                measured = seconds(work, device)
            if number > 0:  # in the first one memory is taken and matrices are made
                runs.append(measured)
    return [[min(kind) for kind in zip(*runs, strict=True)] for runs in times.values()]


def layer_work(
    cases: list[tuple[tuple[int, ...], Callable[[Tensor], Tensor]]], memory: torch.memory_format, device: str
) -> Callable[[], None]:
    """Forward and backward of layers on random maps."""
    inputs = [torch.randn(shape, device=device).to(memory_format=memory).requires_grad_() for shape, _ in cases]
    above = [torch.randn_like(layer(maps)) for maps, (_, layer) in zip(inputs, cases, strict=True)]

    def work() -> None:
        for maps, gradient, (_, layer) in zip(inputs, above, cases, strict=True):
            torch.autograd.grad(layer(maps), maps, gradient)

    return work


def step_work(width: int, size: int, device: str) -> Callable[[], None]:
    network, image = FastWingsNet(width).to(device), torch.rand(1, 1, size, size, size, device=device)

    def work() -> None:
        logits = network(image)
        (logits.encoder.sigmoid().mean() + logits.decoder.sigmoid().mean()).backward()

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 128), ("width", 8), ("rounds", 3), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"1 x {args.size}^3, width {args.width}, {args.device}, least of {args.rounds} rounds, milliseconds")
    print(f"{'':38}{'PyTorch':>10}{'ours':>10}{'ratio':>8}{'of processor time':>20}")

    def report(name: str, work: Callable[[], None]) -> None:
        plain, ours = turns(work, args.rounds, args.device)
        ratios = f"{ours[0] / plain[0]:8.2f}{ours[1] / plain[1]:20.2f}"
        print(f"{name:38}{1e3 * plain[0]:10.1f}{1e3 * ours[0]:10.1f}{ratios}", flush=True)

    for memory in FORMATS:
        for name, cases in layers_of(args.width, args.size).items():
            report(f"{name}, {memory}", layer_work(cases, FORMATS[memory], args.device))
    report("step", step_work(args.width, args.size, args.device))


if __name__ == "__main__":
    main()
