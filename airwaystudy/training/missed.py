"""Find the centreline voxels that a trained run misses, for hard-skeleton sampling (Zheng et al., IEEE TMI 2021).

In the paper that run is a network first trained with the Dice loss.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from tqdm import tqdm

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.inference.segment import predict_probability
from airwaylib.networks.checkpoints import load_checkpoint
from airwaystudy import home
from airwaystudy.data.store import Store


def missed_points(store: Store, prediction: np.ndarray) -> np.ndarray:
    """Return the centreline voxels of a case outside `prediction` (D, H, W, boolean, on its grid): (N, 3) z, y, x.

    Raises
    ------
    InputError
        The prediction is on another grid.
    """
    if prediction.shape != store.shape:
        raise InputError(f"{store.name}: a prediction of {prediction.shape} voxels for a case of {store.shape}")
    return store.centreline_points[~prediction[tuple(store.centreline_points.T)].astype(bool)]


def with_missed_points(stores: list[Store], run: Path, fabric: Fabric) -> list[Store]:
    """Return the stores, each with the voxels that the finished run in folder `run` misses (below its threshold).

    Computed once (with a progress bar) and cached in RUN/missed/CASE.npz with a fingerprint of weights and case.
    Processes that share the run take turns.

    Raises
    ------
    InputError
        The run is not finished: it has to be trained first.
    """
    checkpoint = run / "checkpoint.safetensors"
    if not (run / "summary.json").exists():
        raise InputError(f"{run}: not a finished run, so it is not known what it misses; train it first")
    weights = home.checksum(checkpoint)
    lacking = [store for store in stores if read_points(run, store, weights) is None]
    fabric.barrier()  # all have looked before one writes
    if lacking:
        network, info = load_checkpoint(checkpoint)
        mine = lacking[fabric.global_rank :: fabric.world_size]
        for store in tqdm(mine, desc=f"missed by {run.name}", unit="case", leave=False, disable=None):
            image = store.image[:]
            probability = predict_probability(
                network, image, np.ones(image.shape, bool), info.window, device=fabric.device, progress=False
            )
            points = missed_points(store, probability >= info.probability)
            with atomic_path(missed_file(run, store)) as temporary:
                np.savez_compressed(temporary, points=points, of=fingerprint(store, weights))
    fabric.barrier()
    return [replace(store, missed_points=read_points(run, store, weights)) for store in stores]


def missed_file(run: Path, store: Store) -> Path:
    """Return the file that caches what a run misses of a case."""
    return run / "missed" / f"{store.name}.npz"


def fingerprint(store: Store, weights: str) -> str:
    """Return what a case's misses depend on: a checksum of the weights, the case's grid and its centreline."""
    centreline = hashlib.sha256(np.ascontiguousarray(store.centreline_points).tobytes()).hexdigest()
    return f"{weights} {store.shape} {centreline}"


def read_points(run: Path, store: Store, weights: str) -> np.ndarray | None:
    """Read the cached misses; None if there are none, or they belong to other weights or another case."""
    path = missed_file(run, store)
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as kept:
        return kept["points"] if "of" in kept and str(kept["of"]) == fingerprint(store, weights) else None
