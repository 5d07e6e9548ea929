"""Training crops a second from one adult's case: ours beside loading the case's six volumes whole for each crop.

    python benchmarks/crops.py [--store STORE.zarr] [--crop 128 --crops 24 --threads 1]

Without --store, the synthetic chest_0018 is made and prepared first (not timed). Each way runs in a process of its own,
as one worker of training does, in turn in each of two rounds; the better round counts.

- six volumes: image, label, small airways, centreline, missed voxels (uint8) and distance (float64, scipy's) as .npy
  files of the lungs' box, loaded whole for every crop, as the authors' program does; a cube is cut out, not turned;
- six volumes, turned: the same, and image, label and distance turned by scipy.ndimage, which makes a crop of them;
- ours: `patches.Crops` on a zarr store, and on the same store held decoded in memory.

Files are read from the system's cache, or, "uncached", after it was told to forget them: what a data set larger than
memory costs. Reported: crops a second, how many times that of the first way, and the process's peak of resident memory.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

WAYS = {
    "volumes": "six volumes",
    "turned": "six volumes, turned",
    "volumes uncached": "six volumes, uncached",
    "turned uncached": "six volumes, turned, uncached",
    "disk": "ours from disk",
    "disk uncached": "ours from disk, uncached",
    "memory": "ours from memory",
}
FILES = {"image": "image", "label": "label", "small": "small_airway", "centreline": "centreline", "missed": "label"}


def write_volumes(store: Path, folder: Path) -> None:
    group = zarr.open_group(store, mode="r")
    for name, array in FILES.items():
        np.save(folder / f"{name}.npy", group[array][:])
    np.save(folder / "distance.npy", group["distance"][:].astype(np.float64))


def forget(folder: Path) -> None:
    """Let the system drop the files of a folder from its cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def volume_crop(folder: Path, crop: int, rng: np.random.Generator, turned: bool) -> dict[str, np.ndarray]:
    from scipy import ndimage

    volumes = {name: np.load(folder / f"{name}.npy") for name in (*FILES, "distance")}
    side = round(crop * 150 / 128)
    corner = [int(rng.integers(0, max(size - side, 0) + 1)) for size in volumes["image"].shape]
    box = tuple(slice(low, low + side) for low in corner)
    cut = {name: volumes[name][box].astype(np.float32) for name in ("image", "label", "distance")}
    if turned:
        axes, angle = [(0, 1), (0, 2), (1, 2)][rng.integers(3)], rng.uniform(-15, 15)
        cut = {name: ndimage.rotate(array, angle, axes, reshape=False, order=1) for name, array in cut.items()}
    return cut


def measure(way: str, args: argparse.Namespace) -> dict[str, float]:
    import torch

    from airwaystudy.data.crops import Crops
    from airwaystudy.data.store import Store, hold

    torch.set_num_threads(args.threads)
    rng, store = np.random.default_rng(0), Path(args.store)
    kind, _, uncached = way.partition(" ")
    if kind in ("volumes", "turned"):
        count = max(3, args.crops // 8)
        draw = lambda _: volume_crop(Path(args.volumes), args.crop, rng, kind == "turned")  # noqa: E731
    else:
        count = args.crops
        stores = hold([Store.open(store)], 2.0 if kind == "memory" else 0)
        draw = Crops(stores, args.crop, count + 1).__getitem__
    draw(0)
    seconds = 0.0
    for index in range(1, count + 1):
        if uncached:
            forget(Path(args.volumes) if kind != "disk" else store)
        start = time.perf_counter()
        draw(index)
        seconds += time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # from Linux's KiB
    return {"crops_per_second": count / seconds, "peak_gb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    for name, default in (("crop", 128), ("crops", 24), ("threads", 1), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--volumes", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args)))
        return
    if args.store is None:
        from airwaystudy import home
        from airwaystudy.data.datasets import prepare_phantoms

        prepare_phantoms(home.path("data/phantoms"), ["chest_0018"])
        args.store = home.path("data/phantoms/prepared/chest_0018.zarr")
    runs = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        write_volumes(args.store, Path(folder))
        given = [f"--{name}={getattr(args, name)}" for name in ("store", "crop", "crops", "threads")]
        for _ in range(args.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, *given, "--volumes", folder, "--measure", way]
                runs[way].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    shape = zarr.open_group(args.store, mode="r")["image"].shape
    print(f"{args.store.name}: {shape} voxels, crops of {args.crop}^3, one worker of {args.threads} thread(s)")
    base = max(run["crops_per_second"] for run in runs["volumes"])
    for way, title in WAYS.items():
        best = max(runs[way], key=lambda run: run["crops_per_second"])
        rate = best["crops_per_second"]
        print(f"{title:32}{rate:8.2f} crops/s{rate / base:7.1f} x{best['peak_gb']:8.2f} GB")


if __name__ == "__main__":
    main()
