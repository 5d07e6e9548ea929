"""Measure time and memory of class-separated gradients of a crop: every layer of WingsNet, with and without groups.

    python benchmarks/class_gradients.py [--side 128] [--width 8]

One ordinary forward and backward pass is timed for comparison. The measures of every layer are included.
"""

import argparse
import resource
import time

import torch

from airwaylib.gradients.by_class import class_gradients
from airwaylib.gradients.measures import Regions, measure
from airwaylib.losses.general_union import general_union_loss
from airwaylib.networks.checkpoints import build_network
from airwaylib.networks.supervision import group_losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--width", type=int, default=8)
    args = parser.parse_args()
    torch.manual_seed(0)
    network = build_network("wingsnet", width=args.width).eval()
    image = torch.rand(1, 1, *[args.side] * 3)
    label = torch.zeros_like(image)
    label[..., args.side // 2 : args.side // 2 + 4, args.side // 3 : args.side // 3 + 4] = 1  # a tube
    regions = Regions.around(label[0, 0].numpy() > 0)

    def ordinary() -> None:
        sum(group_losses(network(image), general_union_loss, label)).backward()

    def split(by_group: bool) -> None:
        layers = class_gradients(network, general_union_loss, image, label, by_group=by_group)
        assert len([measure(gradients, regions) for gradients in layers.values()]) == 18

    for name, task in {
        "by class": lambda: split(False),
        "by class and group": lambda: split(True),
        "one ordinary step": ordinary,
    }.items():
        start = time.perf_counter()
        task()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{args.side}^3, width {args.width}, {name}: {time.perf_counter() - start:.1f} s, peak so far {peak:.1f} GB"
        )


if __name__ == "__main__":
    main()
