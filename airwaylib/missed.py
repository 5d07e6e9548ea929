"""Which centreline voxels a trained run misses: hard-skeleton sampling draws from them (Zheng et al., IEEE TMI 2021).

The paper's are those of a network first trained with the Dice loss.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from tqdm import tqdm

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.inference import predict_probability
from airwaylib.networks import load_checkpoint
from airwaylib.store import Store


def missed_points(store: Store, prediction: np.ndarray) -> np.ndarray:
    """Centreline voxels of a case outside `prediction` (D, H, W, boolean, on its grid): (N, 3) z, y, x.

    Raises
    ------
    InputError
        The prediction is on another grid.
    """
    if prediction.shape != store.shape:
        raise InputError(f"{store.name}: a prediction of {prediction.shape} voxels for a case of {store.shape}")
    return store.centreline_points[~prediction[tuple(store.centreline_points.T)].astype(bool)]


def with_missed_points(stores: list[Store], run: Path, fabric: Fabric) -> list[Store]:
    """The stores, each with what the finished run in folder `run` misses of it (probability below its threshold).

    Found once, with a bar, and kept as RUN/missed/CASE.npz; processes that share the run take turns.

    Raises
    ------
    InputError
        The run has no checkpoint: it has to be trained first.
    """
    lacking = [store for store in stores if read_points(missed_file(run, store), store) is None]
    fabric.barrier()  # all have looked before one writes
    if lacking:
        network, info = load_checkpoint(run / "checkpoint.safetensors")
        mine = lacking[fabric.global_rank :: fabric.world_size]
        for store in tqdm(mine, desc=f"missed by {run.name}", unit="case", leave=False, disable=None):
            image = store.image[:]
            probability = predict_probability(
                network, image, np.ones(image.shape, bool), info.window, device=fabric.device, progress=False
            )
            points = missed_points(store, probability >= info.probability)
            with atomic_path(missed_file(run, store)) as temporary:
                np.savez_compressed(temporary, points=points, shape=store.shape)
    fabric.barrier()
    return [replace(store, missed_points=read_points(missed_file(run, store), store)) for store in stores]


def missed_file(run: Path, store: Store) -> Path:
    """Where a run's misses of a case are kept."""
    return run / "missed" / f"{store.name}.npz"


def read_points(path: Path, store: Store) -> np.ndarray | None:
    """The points kept at `path`; None if there are none, or they are of another grid than the case's present one."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as kept:
        return kept["points"] if tuple(kept["shape"]) == store.shape else None
