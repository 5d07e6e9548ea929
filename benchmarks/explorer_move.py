"""Time of a move in the notebook's gradient explorer: from a control's new value to the message for the browser.

    python benchmarks/explorer_move.py [--size 128 --moves 30]

On made-up shares of the 18 layers of WingsNet for a crop of SIZE voxels a side: two runs, three epochs. Each control is
moved MOVES times, to and fro; `first looks` are moves to shares that have not been read yet. Making the message is
counted, with its arrays as bytes and the rest as JSON, as a kernel sends it; drawing is not (see tests/browser).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from airwaystudy.analysis.gradient_maps import write_maps
from airwaystudy.report.explorer_widgets import Explorer, explore

STRIDES = {f"ec{n + 1}": 2 ** (n // 3) for n in range(12)} | {f"dc{n + 1}": 4 >> n // 2 for n in range(6)}
EPOCHS = (0, 1, 5)


def write_store(path: Path, loss: str, size: int) -> None:
    """Random shares, and a tube for an airway."""
    generator = np.random.default_rng(0)
    middle = np.indices((size, size)) - size / 2
    label = np.broadcast_to(np.hypot(*middle) < size / 8, (size, size, size))
    shares = (
        (epoch, layer, generator.random((size // stride,) * 3, np.float32))
        for epoch in EPOCHS
        for layer, stride in STRIDES.items()
    )
    measures = pd.DataFrame([{"epoch": epoch, "layer": layer} for epoch in EPOCHS for layer in STRIDES])
    for name in ("erosion", "dilation", "ratio", "share"):
        measures[name] = generator.random(len(measures))
    image = generator.integers(0, 256, (size, size, size), np.uint8)
    about = {"run": loss, "loss": loss, "supervision": "both", "seed": 0, "case": "mini_0000", "spacing": [1, 1, 1]}
    write_maps(path, about, image, label, shares, measures)


def as_sent(explorer: Explorer) -> None:
    """Let every message of the figures be made into JSON and bytes, as for a browser."""

    def send(change) -> None:
        if change["new"] is not None:
            state = change["owner"].get_state(key=change["name"])
            json.dumps(state, default=lambda buffer: len(bytes(buffer)))

    for figure in (explorer.pictures, explorer.curves):
        figure.observe(send, "_py2js_update")


def timed(explorer: Explorer, control: str, values: Iterable) -> list[float]:
    """Milliseconds of each move of a control to the next of `values`."""
    taken = []
    for value in values:
        start = time.perf_counter()
        getattr(explorer, control).value = value
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def main() -> None:
    """Print a line for each control."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="voxels a side")
    parser.add_argument("--moves", type=int, default=30, help="moves of each control")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for loss in ("dice", "general_union"):
            write_store(Path(folder) / f"{loss}.zarr", loss, args.size)
        start = time.perf_counter()
        explorer = explore(Path(folder))
        print(f"{args.size}^3 voxels, {len(STRIDES)} layers; opened in {time.perf_counter() - start:.2f} s")
        as_sent(explorer)
        layers, several = list(STRIDES), range(args.moves)
        moves: dict[str, Callable[[], list[float]]] = {
            "layer, first looks": lambda: timed(explorer, "layer", layers),
            "layer": lambda: timed(explorer, "layer", (layers[-1 - n % len(layers)] for n in several)),
            "slice": lambda: timed(explorer, "slice", (n * 7 % args.size for n in several)),
            "epoch": lambda: timed(explorer, "epoch", (EPOCHS[n % len(EPOCHS)] for n in several)),
            "run": lambda: timed(explorer, "run", ((n + 1) % 2 for n in several)),
            "axis": lambda: timed(explorer, "axis", ((n + 1) % 3 for n in several)),
        }
        for name, move in moves.items():
            taken = move()
            print(f"{name:20}{len(taken):4} moves: {np.median(taken):6.1f} ms median, {max(taken):6.1f} ms at most")


if __name__ == "__main__":
    main()
