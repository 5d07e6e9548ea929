"""Measure gradients by class along finished training runs: layer by layer, airway by airway, branch by branch.

Each run is measured by its own config.json, on one crop of a held-out case, after each epoch whose weights it kept.
Nothing is trained. A run's tables are kept in its folder and read again, so that a call that was cut off resumes.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.gradients.by_class import class_gradients, layer_names
from airwaylib.gradients.measures import (
    Regions,
    airway_radius,
    foreground_share,
    loss_state,
    measure,
    measure_bins,
    spread,
)
from airwaylib.inference.segment import predict_probability
from airwaylib.losses.general_union import general_union_weight
from airwaylib.losses.ratio import measured_ratio
from airwaylib.losses.table import LOSSES, loss_by_name, uses_weight
from airwaylib.metrics.scores import DETECTED
from airwaylib.networks.checkpoints import load_checkpoint
from airwaylib.trees.parse import parse_tree
from airwaystudy import home
from airwaystudy.analysis.gradient_maps import maps_folder, write_maps
from airwaystudy.data.store import Store
from airwaystudy.plan.runs import collect
from airwaystudy.training.config import TrainConfig, snapshot_path
from airwaystudy.training.progress import airway_of

TABLES = ("layers", "bins", "branches")
RADII_MM = (0, 1, 2, 3, 4, 10)  # edges of bins: the diameters of Zheng et al., figure 9, halved
RADIUS_BIN = 2  # voxels
NAMES = ("run", "loss", "supervision", "seed")


def analyse(
    study: str,
    runs: Iterable[str] | None = None,
    view: int = 64,
    branch_cases: int = 1,
    looked_at: list[int] | None = None,
) -> dict[str, pd.DataFrame]:
    """Measure finished runs; return and write results/<study>/gradients/{layers,bins,branches}.csv.

    Parameters
    ----------
    study :
        Name of the study.
    runs : iterable of str, optional
        Names of the runs, in the order of the tables; by default all that are done and kept snapshots.
    view :
        Side of the crop of the first test case that is measured, voxels.
    branch_cases :
        Number of test cases, from the first, whose branches are measured.
    looked_at : list of int, optional
        Epochs, rising; by default those whose snapshots the run kept. 0 is before training.

    Raises
    ------
    InputError
        No such study or run, or a run without snapshots or without test cases.
    """
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    chosen, started = runs_to_measure(study, runs, looked_at), time.monotonic()
    for done, (config, epochs) in enumerate(chosen, 1):
        for name, table in load_or_measure(config, epochs, view, branch_cases).items():
            tables[name].append(table)
        left = (time.monotonic() - started) / done * (len(chosen) - done) / 60
        print(f"{config.run}: run {done} of {len(chosen)}, about {left:.0f} min left", flush=True)
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    for name, table in joined.items():
        home.write_csv(maps_folder(study) / f"{name}.csv", table)
    return joined


def runs_to_measure(
    study: str, runs: Iterable[str] | None = None, looked_at: list[int] | None = None
) -> list[tuple[TrainConfig, list[int]]]:
    """List the configurations of a study's runs, each with the epochs to measure; see `analyse`."""
    home.require_study(study)
    wanted = None if runs is None else list(runs)
    configs = collect(study, wanted).configs
    if missing := [run for run in wanted or [] if run not in configs]:
        raise InputError(f"{home.results(study)}/runs: not finished: {', '.join(missing)}; train them first")
    found = [(config, kept_epochs(config, looked_at)) for config in configs.values()]
    lacking = [config.run for config, epochs in found if not epochs]
    if lacking and (wanted is not None or len(lacking) == len(found)):
        needed = looked_at or "epochs such as [1, 5]"
        raise InputError(
            f"{home.results(study)}/runs: no snapshots{f' of epochs {looked_at}' if looked_at else ''} of "
            f"{', '.join(lacking)}; train with snapshots: {needed}"
        )
    found = [(config, epochs) for config, epochs in found if epochs]
    if without := [config.run for config, _ in found if not config.test_cases]:
        raise InputError(f"{home.results(study)}/runs: no test cases of {', '.join(without)}; train with test_cases")
    return found


def kept_epochs(config: TrainConfig, looked_at: list[int] | None = None) -> list[int]:
    """List the epochs of a run to measure: all with a snapshot, or `looked_at` if each of these has one, else none."""
    kept = [epoch for epoch in sorted(set(config.snapshots)) if snapshot_path(config, epoch).exists()]
    return kept if looked_at is None else list(looked_at) if set(looked_at) <= set(kept) else []


def early_epoch(epochs: list[int]) -> int:
    """Choose the epoch that shows the network early in training.

    That is the second one if there are more than two, since the first may be before training; else the first.

    Examples
    --------
    >>> early_epoch([0, 1, 5]), early_epoch([1, 5]), early_epoch([5])
    (1, 1, 5)
    """
    return epochs[1] if len(epochs) > 2 else epochs[0]


def ensure_maps(study: str) -> None:
    """Measure the finished runs of a study, unless there are gradient maps of all that its tables name."""
    home.require_study(study)
    table = maps_folder(study) / "layers.csv"
    runs = list(pd.read_csv(table)["run"].unique()) if table.exists() else None
    if runs is None or not all(table.with_name(f"{run}.zarr").exists() for run in runs):
        analyse(study, runs)


@dataclass(frozen=True)
class View:
    """Part of a prepared case, and what is known of it: arrays (D, H, W).

    `distance` is d / dmax of the whole case; `regions` has the bins `radius_mm`, `radius_voxels` and `generation`.
    """

    case: str
    spacing: tuple[float, float, float]
    image: np.ndarray
    label: np.ndarray
    distance: np.ndarray
    regions: Regions = field(repr=False)

    @classmethod
    def of(cls, config: TrainConfig, case: str, side: int | None = None) -> "View":
        """Read the whole case, or its cube of `side` voxels with most centreline of small airways."""
        store = Store.open(config.prepared(case))
        label, spacing = store.label[:] > 0, store.spacing
        tree = parse_tree(label, spacing)
        generation = np.full(label.shape, -1)
        generation[tree.labels > 0] = tree.branches["generation"].to_numpy()[tree.labels[tree.labels > 0] - 1]
        bins = {
            "radius_mm": np.digitize(airway_radius(label, spacing), RADII_MM[1:-1]),
            "radius_voxels": (airway_radius(label) // RADIUS_BIN).astype(int),
            "generation": generation,
        }
        box = (slice(None),) * 3 if side is None else busiest_cube(store, side)
        regions = Regions.around(label[box], {name: numbers[box] for name, numbers in bins.items()})
        return cls(
            case, spacing, store.image[:][box], label[box], np.asarray(store.distance[:][box], np.float32), regions
        )


def busiest_cube(store: Store, side: int) -> tuple[slice, ...]:
    """Find the cube of `side` voxels, or all of a shorter axis, that holds most centreline voxels of small airways."""
    shape = store.image.shape
    small = np.zeros(shape, np.float32)
    small[tuple(store.centreline_points.T)] = 1
    small[tuple(store.large_points.T)] *= 0.25  # a few of the large airways should be there to compare with
    sides = np.minimum(side, shape)
    held = ndimage.uniform_filter(small, sides, mode="constant", origin=-(sides // 2))  # of the cube from a voxel on
    allowed = held[tuple(slice(size - length + 1) for size, length in zip(shape, sides, strict=True))]
    corner = np.unravel_index(allowed.argmax(), allowed.shape)
    return tuple(slice(int(low), int(low + length)) for low, length in zip(corner, sides, strict=True))


def load_view(config: TrainConfig, epoch: int, view: View) -> tuple[Any, ...]:
    """Load what `class_gradients` needs: a run's network after an epoch, its loss, a view's image, label and weight."""
    network, _ = load_checkpoint(snapshot_path(config, epoch))
    image, label, distance = (
        torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]
        for array in (view.image / np.float32(255), view.label, view.distance)
    )
    weighted = uses_weight(config.loss)
    weight = general_union_weight(distance, label, **config.weight_parameters) if weighted else None
    return network, loss_by_name(config.loss, **config.loss_parameters), image, label, weight


def gradients_of(config: TrainConfig, case: tuple[Any, ...], **options: Any) -> dict[str, tuple]:
    """Split the gradient of a case, as of `load_view`, by class at each layer, in the order of the forward pass.

    options: `layers` and `by_group` of `class_gradients`.
    """
    return class_gradients(*case, encoder_weight=config.encoder_weight, **options)


def measure_run(config: TrainConfig, epochs: list[int], view: int, branch_cases: int) -> dict[str, pd.DataFrame]:
    """Measure one finished run: its tables by name, see `TABLES`. Writes the run's gradient maps."""
    about = {name: getattr(config, name) for name in NAMES}
    crop = View.of(config, config.test_cases[0], view)
    layers, bins, shares = [], [], []
    for epoch in epochs:
        case = load_view(config, epoch, crop)
        state = {f"loss_{name}": value for name, value in loss_state(*case).items()}
        for layer, gradients in gradients_of(config, case, by_group=True).items():
            where = about | {"epoch": epoch, "layer": layer}
            layers.append(where | measure(gradients, crop.regions) | state)
            bins += [where | row | bin_edges(row["by"], row["bin"]) for row in measure_bins(gradients, crop.regions)]
            shares.append((epoch, layer, foreground_share(gradients)[0]))
    measures = pd.DataFrame(layers)[["epoch", "layer", "erosion", "dilation", "ratio", "share"]]
    shown = about | {"case": crop.case, "spacing": list(crop.spacing)}
    write_maps(maps_folder(config.study) / f"{config.run}.zarr", shown, crop.image, crop.label, shares, measures)
    branches = pd.concat([missed_branches(config, case, epochs) for case in config.test_cases[:branch_cases]])
    return {"layers": pd.DataFrame(layers), "bins": pd.DataFrame(bins), "branches": branches.assign(**about)}


def bin_edges(by: str, number: int) -> dict[str, float]:
    """Return the lowest and highest value of a bin: mm, voxels, or the generation itself."""
    if by == "radius_mm":
        return {"low": RADII_MM[number], "high": RADII_MM[number + 1]}
    if by == "radius_voxels":
        return {"low": RADIUS_BIN * number, "high": RADIUS_BIN * (number + 1)}
    return {"low": number, "high": number}


def missed_branches(config: TrainConfig, case: str, epochs: list[int]) -> pd.DataFrame:
    """Tabulate the branches of a held-out case: how much of each the trained network finds, and its erosion before.

    Returns
    -------
    DataFrame
        A row a branch: `case`, `branch`, `generation`, `radius_mm`, `length_mm`, `detected` (share of its skeleton in
        the airway predicted by the run's checkpoint), `missed` (less than 80 %), and `erosion_early` and
        `erosion_late`: the share of its voxels eroded at the first layer, which back-propagation reaches last, after
        `early_epoch` and after the last of `epochs`.
    """
    view = View.of(config, case)
    tree = parse_tree(view.label, view.spacing)
    network, info = load_checkpoint(config.checkpoint)
    inside = airway_of(network, Store.open(config.prepared(case)), info.window)[tuple(tree.index.T)]
    branch = tree.centreline["branch"].to_numpy()
    detected = np.bincount(branch, inside)[1:] / np.bincount(branch)[1:]
    table = tree.branches[["branch", "generation", "radius_mm", "length_mm"]].assign(case=case, detected=detected)
    table["missed"] = detected < DETECTED
    for name, epoch in (("erosion_early", early_epoch(epochs)), ("erosion_late", epochs[-1])):
        eroded = share_at_first_layer(config, epoch, view)[tuple(tree.airway_index.T)] < 0.5
        table[name] = np.bincount(tree.airway_branch, eroded)[1:] / np.bincount(tree.airway_branch)[1:]
    return table


def share_at_first_layer(config: TrainConfig, epoch: int, view: View) -> np.ndarray:
    """Compute the foreground share at the layer that back-propagation reaches last, on the view's grid."""
    case = load_view(config, epoch, view)
    (gradients,) = gradients_of(config, case, layers=layer_names(case[0])[:1]).values()
    return spread(foreground_share(gradients)[0], view.label.shape)


def load_or_measure(config: TrainConfig, epochs: list[int], view: int, branch_cases: int) -> dict[str, pd.DataFrame]:
    """Read the tables of one run, or measure it if they are missing or were made with other parameters."""
    done, store = config.folder / "gradients.json", maps_folder(config.study) / f"{config.run}.zarr"
    asked = {"looked_at": epochs, "view": view, "branch_cases": branch_cases, "test_cases": config.test_cases}
    files = {name: config.folder / f"gradient_{name}.csv" for name in TABLES}
    if not (done.exists() and home.read_json(done) == asked and store.exists()):
        for name, table in measure_run(config, epochs, view, branch_cases).items():
            home.write_csv(files[name], table)
        home.write_json(done, asked)  # last: a run that has it has its tables
    return {name: pd.read_csv(file) for name, file in files.items()}


def ratios_of_losses(config: TrainConfig, epochs: list[int], view: int = 64) -> pd.DataFrame:
    """Measure every loss's gradient ratio on the same predictions: those of one run for its view, after each epoch.

    Returns
    -------
    DataFrame
        `loss`, `epoch`, `index` (1 - loss) and `ratio` (mean |dL/dp| on the airway over that on the background); nan
        where a loss has no finite gradient on both.
    """
    crop, rows = View.of(config, config.test_cases[0], view), []
    label, distance = (torch.from_numpy(np.float32(part))[None, None] for part in (crop.label, crop.distance))
    weight = general_union_weight(distance, label)
    for epoch in epochs:
        network, _ = load_checkpoint(snapshot_path(config, epoch))
        predicted = predict_probability(network, crop.image, np.ones_like(crop.label), view, progress=False)
        probability = torch.from_numpy(predicted)[None, None]
        for name in LOSSES:
            loss = loss_by_name(name)
            try:
                ratio = measured_ratio(loss, probability, label, weight)
            except InputError:
                ratio = np.nan
            rows.append([name, epoch, 1 - loss(probability, label, weight).item(), ratio])
    return pd.DataFrame(rows, columns=["loss", "epoch", "index", "ratio"])


def read_probes(configs: Iterable[TrainConfig]) -> pd.DataFrame:
    """Join the runs' probes, a row a run, step and layer; empty, with its columns, if none was trained with probes."""
    columns = ["epoch", "step", "layer", "layer_ratio", "ratio", "index", "erosion", "dilation"]
    tables = [pd.DataFrame(columns=[*columns, *NAMES])]
    for config in configs:
        if (file := config.folder / "probes.csv").exists():
            tables.append(pd.read_csv(file).assign(**{name: getattr(config, name) for name in NAMES}))
    return pd.concat(tables[1:] or tables, ignore_index=True)
