"""Time and memory of parsing an airway mask and scoring one against it, and what the time grows with.

    python benchmarks/parse_tree.py [MASK [PREDICTION]] [--rounds 3]

Without a mask, the airways of a chest phantom are parsed (made first, half a minute). Three tables:

1. the command `airwaylib evaluate`, start-up and reading included, as a process of its own;
2. the steps up to the airway voxels' segments: ours beside the dense way of the reference parser (thinning, counting
   neighbours, labelling, distance transform on the whole array), which then dilates the array once for each branch;
3. ours on the same airways in a larger array, and on a part of the airways in the same array.

Least of the rounds, in seconds; memory is the process' peak.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

from airwaylib.images.masks import fill_holes, largest_component
from airwaylib.images.volume import read_mask
from airwaylib.metrics.reference import _parses
from airwaylib.metrics.scores import evaluate
from airwaylib.trees import segments
from airwaylib.trees.parse import parse_tree
from airwaylib.trees.skeleton import coordinates, thin_voxels


def sparse_segments(mask: np.ndarray) -> np.ndarray:
    box = segments.cut_out(mask, margin=1).box
    voxels = coordinates(segments.parser_order(fill_holes(largest_component(box))))
    points = thin_voxels(voxels)
    label = segments.label_segments(points)
    return label[segments.nearest_row(voxels, points, label)]


def dense_segments(mask: np.ndarray) -> np.ndarray:
    mask = np.ascontiguousarray(mask.T)
    label, _ = ndimage.label(mask)
    airway = ndimage.binary_fill_holes(label == np.bincount(label.ravel())[1:].argmax() + 1)
    skeleton = skeletonize(airway).astype(np.uint8)
    around = ndimage.convolve(skeleton, np.ones((3, 3, 3), np.uint8), mode="constant")
    kept, _ = ndimage.label(skeleton & (around <= 3), np.ones((3, 3, 3)))
    size = np.bincount(kept.ravel())
    kept[size[kept] < 5] = 0
    near = ndimage.distance_transform_edt(kept == 0, return_distances=False, return_indices=True)
    return np.unique(kept[tuple(near)][airway], return_inverse=True)[1]


def least(function, *arguments, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        _parses.clear()
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


def command(mask: Path, prediction: Path) -> tuple[float, float]:
    """Seconds and peak memory in GB of `airwaylib evaluate` as a process of its own."""
    code = (
        "import resource, sys; from airwaystudy.cli import app; sys.argv[0] = 'airwaylib'; app(standalone_mode=False); "
    )
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)"
    arguments = [sys.executable, "-c", code, "evaluate", str(prediction), str(mask), "--convention", "atm22"]
    start = time.perf_counter()
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, float(done.stdout.split()[-1])


def report(path: Path, prediction: Path, rounds: int) -> None:
    runs = [command(path, prediction) for _ in range(rounds)]
    print(f"airwaylib evaluate: {min(r[0] for r in runs):.2f} s, {max(r[1] for r in runs):.2f} GB")
    volume = read_mask(path)
    mask = volume.array
    print(f"{mask.shape} voxels (z, y, x), {np.count_nonzero(mask)} of airway, {parse_tree(mask, volume.spacing)!r}")
    cut = np.pad(
        segments.cut_out(mask).box.transpose(2, 1, 0), 1
    )  # the dense way, too, may look at the airways' box only
    ours, dense = least(sparse_segments, cut, rounds=rounds), least(dense_segments, cut, rounds=1)
    same = np.array_equal(sparse_segments(cut), dense_segments(cut))
    print(
        f"to the voxels' segments: ours {ours:.2f} s, dense {dense:.2f} s ({dense / ours:.1f} x); same segments: {same}"
    )
    print("parse and all scores (convention atm22), a mask against itself:")
    upper = mask.copy()
    upper[: np.flatnonzero(mask.any((1, 2)))[[0, -1]].sum() // 2] = False
    wide = np.pad(mask, [(n // 8, n // 8) for n in mask.shape])
    for name, array in (("as it is", mask), ("in a wider array", wide), ("upper half, same array", upper)):
        seconds = least(lambda a: evaluate(a, a, volume.spacing, "atm22"), array, rounds=rounds)
        airway = np.count_nonzero(array)
        print(f"  {name:23} {array.size / 1e6:6.0f} M voxels, {airway / 1e3:5.0f} k of airway: {seconds:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mask", nargs="?", type=Path)
    parser.add_argument("prediction", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.mask:
        report(args.mask, args.prediction or args.mask, args.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:  # made by a process of its own: its memory is not ours
        subprocess.run([sys.executable, "-m", "airwaylib", "phantom", folder, "--size", "chest"], check=True)
        path = Path(folder) / "chest_0000" / "airway.nii.gz"
        report(path, path, args.rounds)


if __name__ == "__main__":
    main()
