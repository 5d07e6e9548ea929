"""Measure time and memory of a WingsNet training step: the plain form, with folded groups, and the fast form.

    python benchmarks/wingsnet_step.py [--size 128 --width 8 --batch 1 --threads 2 --rounds 2]

A step is forward and backward of a Dice loss on both groups, on random voxels. Each measurement runs in a process of
its own, the three in turn in each round; it first makes a small step, then the one that counts. Reported: the least
wall and processor time of the rounds (the latter says more on a busy machine), the growth of the resident memory's peak
during the step, and the time of a forward pass without gradients.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from airwaylib.networks import fast  # noqa: E402
from airwaylib.networks.wingsnet import WingsNet  # noqa: E402

VARIANTS = {"plain": "plain", "folded": "folded", "fast": "fast: folded + recomputed"}


class StoredGatedNorm:
    """GatedNorm's values by PyTorch's own layers, which store every intermediate result."""

    @staticmethod
    def apply(maps: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Normalised, activated and gated maps."""
        maps = F.leaky_relu(F.instance_norm(maps), 0.01)
        for gate in weight[:, None, :, None, None, None]:
            maps = maps * torch.sigmoid(F.conv3d(maps, gate))
        return maps


def step(network: torch.nn.Module, size: int, batch: int) -> None:
    image = torch.rand(batch, 1, size, size, size)
    target = (torch.rand_like(image) > 0.9).float()
    loss = 0
    for logits in network(image)[:2]:
        probability = torch.sigmoid(logits)
        loss = loss + 1 - (2 * (probability * target).sum() + 1) / (probability.sum() + target.sum() + 1)
    loss.backward()


def measure(variant: str, args: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if variant == "folded":
        fast.GatedNorm = StoredGatedNorm
    network = WingsNet(args.width) if variant == "plain" else fast.FastWingsNet(args.width)
    step(network, 16, args.batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, processor = time.perf_counter(), time.process_time()
    step(network, args.size, args.batch)
    result = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    result["memory"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024  # MiB, from Linux's KiB
    image = torch.rand(args.batch, 1, args.size, args.size, args.size)
    wall = time.perf_counter()
    with torch.no_grad():
        network.eval()(image)
    return result | {"forward": time.perf_counter() - wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 128), ("width", 8), ("batch", 1), ("threads", 2), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--measure", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args)))
        return
    results = {variant: [] for variant in VARIANTS}
    for _ in range(args.rounds):
        for variant, runs in results.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", variant]
            runs.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    print(f"{args.batch} x {args.size}^3, width {args.width}, {args.threads} threads, least of {args.rounds} rounds")
    print(f"{'':26}{'step s':>14}{'processor s':>18}{'peak MiB':>18}{'no_grad s':>18}")
    best = {variant: {key: min(run[key] for run in runs) for key in runs[0]} for variant, runs in results.items()}
    for variant, row in best.items():
        cells = [f"{value:10.2f} ({value / best['plain'][key]:4.0%})" for key, value in row.items()]
        print(f"{VARIANTS[variant]:26}" + "".join(cells))


if __name__ == "__main__":
    main()
