"""A training step on a GPU: time and memory of several ways to compute it, and how far they are from the card's limits.

    python benchmarks/gpu_step.py [--size 128 --width 8 --batch 1 --repeats 10 --device cuda --json FILE]
    python benchmarks/gpu_step.py --size 32 --width 2 --device cpu      # does it run at all?

A step is forward and backward of a Dice loss on both groups and an update by AdamW, on random voxels. Each way runs in
a process of its own: warm-up steps first, then the median of the repeats, each between two synchronisations. Memory is
the peak of what PyTorch allocated (on a CPU: the growth of the resident memory's peak). Limits of the card, measured in
the same run: a large copy within its memory, and a large product of bfloat16 matrices.

The step's operations are counted by `torch.utils.flop_counter`. Its bytes are a lower bound: each convolution reads its
inputs and writes its output once; its backward pass reads the gradient and the inputs once and writes the inputs'
gradient once; everything else is taken to cost nothing. `crops` is how many training crops a second are cut and turned.
"""

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from airwaylib.networks.fast import Convolution, FastWingsNet  # noqa: E402
from airwaylib.networks.wingsnet import WingsNet  # noqa: E402
from airwaystudy.data.crops import Crops  # noqa: E402
from airwaystudy.data.store import Store  # noqa: E402
from airwaystudy.training.optimisation import make_deterministic  # noqa: E402

# Way: how it differs from the fast network in float32. "ours" is `FastWingsNet`.
WAYS = {
    "plain float32": {"plain"},
    "ours float32": set(),
    "ours float32, deterministic": {"deterministic"},
    "plain bf16": {"plain", "bf16"},
    "ours bf16": {"bf16"},
    "ours bf16, channels last": {"bf16", "channels_last"},
    "ours bf16, compiled": {"bf16", "compiled"},
    "ours bf16, deterministic": {"bf16", "deterministic"},
}
WARM_UP = 3  # steps
COPIED = 2**30  # bytes of the copy that shows the card's bandwidth
SIDE = 8192  # of the matrices that show its speed


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def median_seconds(work: Callable[[], object], device: str, repeats: int, warm_up: int = WARM_UP) -> float:
    times = []
    for number in range(warm_up + repeats):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        if number >= warm_up:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    probability = torch.sigmoid(logits.float())
    return 1 - (2 * (probability * target).sum() + 1) / (probability.sum() + target.sum() + 1)


def training_step(network: nn.Module, args: argparse.Namespace, traits: set[str]) -> Callable[[], None]:
    """A step of `network` on random voxels."""
    image = torch.rand(args.batch, 1, *[args.size] * 3, device=args.device)
    target = (torch.rand_like(image) > 0.9).float()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    run = network
    if "compiled" in traits:
        torch._dynamo.config.recompile_limit = 64  # the 18 blocks differ, and each is compiled by itself
        run = torch.compile(network, dynamic=False)

    def step() -> None:
        with torch.autocast(args.device, torch.bfloat16, enabled="bf16" in traits):
            logits = run(image)
        sum(dice(one, target) for one in logits[:2]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_network(args: argparse.Namespace, traits: set[str]) -> nn.Module:
    torch.manual_seed(0)
    network = WingsNet(args.width) if "plain" in traits else FastWingsNet(args.width)
    network.to(args.device)
    return network.to(memory_format=torch.channels_last_3d) if "channels_last" in traits else network


def peak_memory(device: str) -> float:
    """MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


def measure_way(way: str, args: argparse.Namespace) -> dict[str, float]:
    traits = WAYS[way]
    with make_deterministic("deterministic" in traits):
        before = 0 if args.device == "cuda" else peak_memory("cpu")
        step = training_step(make_network(args, traits), args, traits)
        seconds = median_seconds(step, args.device, args.repeats)
    return {"seconds": seconds, "memory": peak_memory(args.device) - before}


def convolution_bytes(network: nn.Module, image: Tensor, itemsize: int) -> int:
    """Lower bound of the bytes that a step's convolutions move, for maps of `itemsize` bytes a number."""
    moved = []

    def count(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        read = sum(maps.numel() for maps in inputs)
        to_inputs = read if any(maps.requires_grad for maps in inputs) else 0  # the image has no gradient
        moved.append(read + output.numel() + output.numel() + read + to_inputs)

    for module in network.modules():
        if isinstance(module, Convolution):
            module.register_forward_hook(count)
    network(image)
    return itemsize * sum(moved)


def measure_limits(args: argparse.Namespace) -> dict[str, float]:
    """The card's limits, and what a step of our network asks of it."""
    scale = 1 if args.device == "cuda" else 16
    source = torch.zeros(COPIED // scale, dtype=torch.uint8, device=args.device)
    target = torch.empty_like(source)
    copy = median_seconds(lambda: target.copy_(source), args.device, args.repeats)
    matrix = torch.randn(SIDE // scale, SIDE // scale, device=args.device).to(torch.bfloat16)
    product = median_seconds(lambda: matrix @ matrix, args.device, args.repeats)
    network = make_network(args, set())
    with FlopCounterMode(display=False) as counter:
        training_step(network, args, set())()
    image = torch.zeros(args.batch, 1, *[args.size] * 3, device=args.device)
    return {
        "bandwidth": 2 * source.numel() / copy,  # read and written
        "bf16_speed": 2 * (SIDE // scale) ** 3 / product,
        "operations": counter.get_total_flops(),
        "bytes_float32": convolution_bytes(network, image, 4),
    }


def crops_per_second(device: str, size: int = 128, crops: int = 8, side: int = 0) -> float:
    """Training crops of `size`^3 a second out of a random case of `side`^3 voxels held in the memory of `device`."""
    side = side or 2 * size
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (side,) * 3, dtype=np.uint8)
    label = (image > 250).astype(np.uint8)
    points = np.argwhere(label)[:1000].astype(np.int16)
    store = Store("random", image, label, label.astype(np.float32), points, points, points).on(device)
    drawn = Crops([store], size, crops, device=device)
    drawn[0]
    wait(device)
    start = time.perf_counter()
    for index in range(crops):
        drawn[index]
    wait(device)
    return crops / (time.perf_counter() - start)


def in_own_process(what: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", what]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"failed": done.returncode}  # its own message is on stderr already
    return json.loads(done.stdout.splitlines()[-1])


def report(args: argparse.Namespace, limits: dict[str, float], ways: dict[str, dict[str, float]]) -> None:
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(
        f"{args.batch} x {args.size}^3, width {args.width}, median of {args.repeats}, {name}, torch {torch.__version__}"
    )
    first = next(iter(WAYS))
    for way, row in ways.items():
        if "failed" in row:
            print(f"{way:30} failed")
            continue
        text = f"{way:30}{1e3 * row['seconds']:10.1f} ms{row['memory']:10.0f} MiB"
        if "failed" not in ways[first]:
            text += "".join(f"{row[key] / ways[first][key]:8.0%}" for key in ("seconds", "memory") if ways[first][key])
        if "failed" not in limits:
            moved = limits["bytes_float32"] / (2 if "bf16" in WAYS[way] else 1)
            row["of_bf16_speed"] = limits["operations"] / row["seconds"] / limits["bf16_speed"]
            row["of_bandwidth"] = moved / row["seconds"] / limits["bandwidth"]
            text += f"{row['of_bf16_speed']:10.1%} of bf16 speed{row['of_bandwidth']:8.1%} of bandwidth"
        print(text)
    if "failed" not in limits:
        print(
            f"limits: copy {limits['bandwidth'] / 1e9:.0f} GB/s, bf16 product {limits['bf16_speed'] / 1e12:.2f} TFLOP/s"
        )
        asked = f"{limits['operations'] / 1e12:.3f} TFLOP, at least {limits['bytes_float32'] / 1e9:.2f} GB in float32"
        print(f"a step: {asked}, half of that in bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 128), ("width", 8), ("batch", 1), ("repeats", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--json", type=Path, help="file to write the numbers to, in s, bytes, FLOP and MiB")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; --device cpu shows only that it runs")
    if args.measure:
        with contextlib.redirect_stdout(sys.stderr):
            if args.measure in WAYS:
                result = measure_way(args.measure, args)
            elif args.measure == "limits":
                result = measure_limits(args)
            else:
                result = {"per_second": crops_per_second(args.device, args.size)}
        print(json.dumps(result))
        return
    limits = in_own_process("limits")
    ways = {way: in_own_process(way) for way in args.ways}
    crops = in_own_process("crops")
    report(args, limits, ways)
    if "failed" not in crops:
        print(f"crops of {args.size}^3 cut and turned: {crops['per_second']:.1f} a second")
    if args.json:
        about = {key: getattr(args, key) for key in ("size", "width", "batch", "repeats", "device")}
        args.json.write_text(
            json.dumps({"about": about, "limits": limits, "ways": ways, "crops": crops}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
