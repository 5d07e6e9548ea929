"""Measure gradients by class along finished training runs: layer by layer, airway by airway, branch by branch.

Each run is measured by its own config.json, on crops of held-out cases, after each epoch whose weights it kept. Nothing
is trained. A run's tables are kept in its folder and read again, so that a call that was cut off resumes.

Erosion also measures how far a voxel is learned: where p is near 1, an airway voxel sends no gradient. So losses and
supervised groups are compared on fixed weights: the backward pass takes another loss, or leaves the encoder group's
loss out, on the same crops and with the same channels dropped (`swaps.csv`). Crops are measured in training mode.
"""

import functools
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
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
    measure,
    measure_bins,
    spread,
    state_of,
)
from airwaylib.inference.segment import predict_probability
from airwaylib.losses.general_union import general_union_weight
from airwaylib.losses.table import LOSSES, loss_by_name, uses_weight
from airwaylib.metrics.scores import DETECTED
from airwaylib.networks.checkpoints import load_checkpoint
from airwaylib.networks.supervision import as_group_logits
from airwaylib.trees.parse import parse_tree
from airwaystudy import home
from airwaystudy.analysis.gradient_maps import maps_folder, write_maps
from airwaystudy.data.samplers import centreline_corner
from airwaystudy.data.store import Store
from airwaystudy.plan.runs import collect
from airwaystudy.training.config import TrainConfig, snapshot_path
from airwaystudy.training.progress import airway_of

TABLES = ("layers", "bins", "swaps", "branches")
RADII_MM = (0, 1, 2, 3, 4, 10)  # edges of bins: the diameters of Zheng et al., figure 9, halved
SMALL, LARGE = 1, 2  # bins of `RADII_MM` below 1 are small airways, under 2 mm across; from 2 on large, over 4 mm
RADIUS_BIN = 2  # voxels
NAMES = ("run", "loss", "supervision", "seed")
SWAPS = ("backward_loss", "encoder_loss")
SWAPPED = ("dice", "general_union")  # losses of the backward pass on fixed weights, with their default parameters
PARTS = ("small", "large", "missed", "found")  # of the airway; missed: p below 1/2


def analyse(
    study: str,
    runs: Iterable[str] | None = None,
    cases: int = 4,
    crops: int = 2,
    view: int = 64,
    branch_cases: int = 1,
    looked_at: list[int] | None = None,
) -> dict[str, pd.DataFrame]:
    """Measure finished runs; return and write results/<study>/gradients/{layers,bins,swaps,branches}.csv.

    `layers` and `swaps` have a row for each crop, `bins` for all crops of a run together.

    Parameters
    ----------
    study :
        Name of the study.
    runs : iterable of str, optional
        Names of the runs, in the order of the tables; by default all that are done and kept snapshots.
    cases, crops :
        Number of test cases, from the first, and of crops of each that are measured. The crops are as large as those
        that the run was trained on; each holds a random centreline voxel. They are the same for all runs.
    view :
        Side of the crop of the first test case that is kept as gradient maps, voxels.
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
        for name, table in load_or_measure(config, epochs, cases, crops, view, branch_cases).items():
            tables[name].append(table)
        left = (time.monotonic() - started) / done * (len(chosen) - done) / 60
        print(f"{config.run}: run {done} of {len(chosen)}, about {left:.0f} min left", flush=True)
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    joined["bins"] = over_crops(joined["bins"])  # crop by crop they would be most of what a study keeps
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
    def of(cls, store: Store) -> "View":
        """Read a whole case."""
        label, spacing = store.label[:] > 0, store.spacing
        tree = parse_tree(label, spacing)
        generation = np.full(label.shape, -1)
        generation[tree.labels > 0] = tree.branches["generation"].to_numpy()[tree.labels[tree.labels > 0] - 1]
        bins = {
            "radius_mm": np.digitize(airway_radius(label, spacing), RADII_MM[1:-1]),
            "radius_voxels": (airway_radius(label) // RADIUS_BIN).astype(int),
            "generation": generation,
        }
        distance = np.asarray(store.distance[:], np.float32)
        return cls(store.name, spacing, store.image[:], label, distance, Regions.around(label, bins))

    def cut(self, box: tuple[slice, ...]) -> "View":
        """Cut a box out of the view; its shell is around the airway inside it."""
        regions = Regions.around(self.label[box], {name: bins[box] for name, bins in self.regions.bins.items()})
        arrays = (array[box] for array in (self.image, self.label, self.distance))
        return View(self.case, self.spacing, *arrays, regions)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Image in [0, 1], label and distance as tensors (1, 1, D, H, W)."""
        arrays = (self.image / np.float32(255), self.label, self.distance)
        return tuple(torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None] for array in arrays)


@functools.cache
def read_crops(path: Path, side: int, seeds: tuple[int, ...]) -> list[View]:
    """Read cubes of `side` voxels of the case at `path`, one a seed; each holds a random centreline voxel.

    A study's runs share them: they are kept, so that each case is parsed once.
    """
    store = Store.open(path)
    whole, crops = View.of(store), []
    for seed in seeds:
        corner = np.maximum(centreline_corner(store, side, np.random.default_rng(seed)), 0)
        crops.append(whole.cut(tuple(slice(int(low), int(low) + side) for low in corner)))
    return crops


@functools.cache
def read_busiest(path: Path, side: int) -> View:
    """Read the cube of `side` voxels with most centreline of small airways of the case at `path`; it is kept."""
    store = Store.open(path)
    return View.of(store).cut(busiest_cube(store, side))


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
    image, label, distance = view.tensors()
    return network, *loss_and_weight(config.loss, config.loss_parameters, image, label, distance)


def loss_and_weight(
    name: str, parameters: dict[str, float], image: torch.Tensor, label: torch.Tensor, distance: torch.Tensor
) -> tuple[Any, ...]:
    """Return what `class_gradients` needs after the network: loss, image, label, and a weight or None."""
    alpha = {key: value for key, value in parameters.items() if key == "alpha"}
    weight = general_union_weight(distance, label, **alpha) if uses_weight(name) else None
    return loss_by_name(name, **parameters), image, label, weight


def gradients_of(config: TrainConfig, case: tuple[Any, ...], **options: Any) -> dict[str, tuple]:
    """Split the gradient of a case, as of `load_view`, by class at each layer, in the order of the forward pass.

    options: `layers` and `by_group` of `class_gradients`.
    """
    return class_gradients(*case, encoder_weight=config.encoder_weight, **options)


def measure_run(
    config: TrainConfig, epochs: list[int], cases: int, crops: int, view: int, branch_cases: int
) -> dict[str, pd.DataFrame]:
    """Measure one finished run: its tables by name, see `TABLES`. Writes the run's gradient maps."""
    keep_maps(config, epochs, view)
    about = {name: getattr(config, name) for name in NAMES}
    tables: dict[str, list[dict[str, Any]]] = {"layers": [], "bins": [], "swaps": []}
    seeds, chosen = tuple(range(crops)), config.test_cases[:cases]
    views = {case: read_crops(config.prepared(case), config.crop, seeds) for case in chosen}
    for epoch in epochs:
        network, _ = load_checkpoint(snapshot_path(config, epoch))
        for draw, (case, seed) in enumerate(product(chosen, seeds)):
            crop = views[case][seed]
            where = about | {"epoch": epoch, "case": case, "crop": seed, "voxels": int(crop.label.sum())}
            for name, row in measure_crop(config, network.train(), crop, draw):
                tables[name].append(where | row)
    branches = pd.concat([missed_branches(config, case, epochs) for case in config.test_cases[:branch_cases]])
    return {name: pd.DataFrame(rows) for name, rows in tables.items()} | {"branches": branches.assign(**about)}


def keep_maps(config: TrainConfig, epochs: list[int], side: int) -> None:
    """Write a run's gradient maps: foreground shares by epoch and layer, on the first test case's busiest cube."""
    crop = read_busiest(config.prepared(config.test_cases[0]), side)
    measures, shares = [], []
    for epoch in epochs:
        for layer, gradients in gradients_of(config, load_view(config, epoch, crop)).items():
            measures.append({"epoch": epoch, "layer": layer} | measure(gradients, crop.regions))
            shares.append((epoch, layer, foreground_share(gradients)[0]))
    shown = {name: getattr(config, name) for name in NAMES} | {"case": crop.case, "spacing": list(crop.spacing)}
    table = pd.DataFrame(measures)[["epoch", "layer", "erosion", "dilation", "ratio", "share"]]
    write_maps(maps_folder(config.study) / f"{config.run}.zarr", shown, crop.image, crop.label, shares, table)


def measure_crop(
    config: TrainConfig, network: torch.nn.Module, crop: View, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure a network on a crop, under its own loss and under those of `SWAPPED`: rows, each with its table's name.

    All backward passes are of the same forward pass: `seed` draws the channels to drop.
    """
    tensors, own = crop.tensors(), (config.loss, config.loss_parameters)
    swapped = [(name, {}) for name in SWAPPED]
    with seeded(seed), torch.no_grad():
        probability = torch.sigmoid(as_group_logits(network(tensors[0])).decoder.float())
    regions = replace(crop.regions, parts=parts_of(crop, probability[0, 0].numpy() >= 0.5))
    for name, parameters in swapped if own in swapped else [own, *swapped]:
        loss, image, label, weight = loss_and_weight(name, parameters, *tensors)
        state = {f"loss_{key}": value for key, value in state_of(loss, probability, label, weight).items()}
        with seeded(seed):
            split = gradients_of(config, (network, loss, image, label, weight), by_group=True)
        for layer, gradients in split.items():
            if (name, parameters) == own:
                yield "layers", {"layer": layer} | measure(gradients, crop.regions) | state
                for row in measure_bins(gradients, crop.regions):
                    yield "bins", {"layer": layer} | row | bin_edges(row["by"], row["bin"])
            if (name, parameters) in swapped:
                for encoder_loss, part in without_encoder(gradients, config.encoder_weight).items():
                    about = {"layer": layer, "backward_loss": name, "encoder_loss": encoder_loss}
                    yield "swaps", about | measure(part, regions) | state


def without_encoder(gradients: tuple, encoder_weight: float) -> dict[bool, tuple]:
    """Give a layer's gradient with the encoder group's loss (True), if it has a weight, and without it (False)."""
    *whole, groups = gradients
    if not groups:
        return {False: tuple(whole)}
    return ({True: tuple(whole)} if encoder_weight else {}) | {False: groups["decoder"]}


def parts_of(crop: View, found: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of the airway's `PARTS` in a crop; found (D, H, W) is where the network's p is 1/2 or more."""
    radius = crop.regions.bins["radius_mm"]
    masks = (radius < SMALL, radius >= LARGE, ~found, found)
    return {part: mask & crop.label for part, mask in zip(PARTS, masks, strict=True)}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from PyTorch's global generator as after `torch.manual_seed(seed)`, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def over_crops(rows: pd.DataFrame) -> pd.DataFrame:
    """Average the measures of each run's crops: erosion and share over the airway's voxels, all else over the crops.

    rows: of `layers`, `bins` or `swaps`, without `case` and `crop` on return; `voxels` and its like are sums. Ratios
    have their geometric mean: one crop that a network gets wrong would outweigh all others.
    """
    keys = [name for name in (*NAMES, "epoch", "layer", *SWAPS, "by", "bin", "low", "high") if name in rows]
    groups, columns = rows.groupby(keys, sort=False), {}
    for name in rows.columns.difference([*keys, "case", "crop"], sort=False):
        voxels = "voxels" + name.removeprefix("erosion").removeprefix("share")
        if name.startswith("voxels"):
            columns[name] = groups[name].sum()
        elif voxels in rows:
            known = rows[voxels].where(rows[name].notna())
            sums = rows[keys].assign(value=rows[name] * known, known=known).groupby(keys, sort=False).sum()
            columns[name] = sums["value"] / sums["known"]
        elif "ratio" in name:
            with np.errstate(divide="ignore"):
                logarithms = rows[keys].assign(value=np.log(rows[name]))
            columns[name] = np.exp(logarithms.groupby(keys, sort=False)["value"].mean())
        else:
            columns[name] = groups[name].mean()
    return pd.DataFrame(columns).reset_index()


def last_epoch(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of each run's last epoch, when training has done what it does."""
    return rows[rows["epoch"] == rows.groupby("run")["epoch"].transform("max")]


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
        the airway predicted by the run's checkpoint), `missed` (less than 80 %), and `erosion`: the share of its voxels
        eroded early in training, after `early_epoch`, at the first layer, which back-propagation reaches last.
    """
    store = Store.open(config.prepared(case))
    view = View.of(store)
    tree = parse_tree(view.label, view.spacing)
    network, info = load_checkpoint(config.checkpoint)
    inside = airway_of(network, store, info.window)[tuple(tree.index.T)]
    branch = tree.centreline["branch"].to_numpy()
    detected = np.bincount(branch, inside)[1:] / np.bincount(branch)[1:]
    table = tree.branches[["branch", "generation", "radius_mm", "length_mm"]].assign(case=case, detected=detected)
    table["missed"] = detected < DETECTED
    eroded = share_at_first_layer(config, early_epoch(epochs), view)[tuple(tree.airway_index.T)] < 0.5
    return table.assign(erosion=np.bincount(tree.airway_branch, eroded)[1:] / np.bincount(tree.airway_branch)[1:])


def share_at_first_layer(config: TrainConfig, epoch: int, view: View) -> np.ndarray:
    """Compute the foreground share at the layer that back-propagation reaches last, on the view's grid."""
    case = load_view(config, epoch, view)
    (gradients,) = gradients_of(config, case, layers=layer_names(case[0])[:1]).values()
    return spread(foreground_share(gradients)[0], view.label.shape)


def load_or_measure(
    config: TrainConfig, epochs: list[int], cases: int, crops: int, view: int, branch_cases: int
) -> dict[str, pd.DataFrame]:
    """Read the tables of one run, or measure it if they are missing or were made with other parameters."""
    done, store = config.folder / "gradients.json", maps_folder(config.study) / f"{config.run}.zarr"
    asked = {"looked_at": epochs, "cases": cases, "crops": crops, "view": view, "branch_cases": branch_cases}
    asked["test_cases"] = config.test_cases
    files = {name: config.folder / f"gradient_{name}.csv" for name in TABLES}
    if not (done.exists() and home.read_json(done) == asked and store.exists()):
        for name, table in measure_run(config, epochs, cases, crops, view, branch_cases).items():
            home.write_csv(files[name], table)
        home.write_json(done, asked)  # last: a run that has it has its tables
    return {name: pd.read_csv(file) for name, file in files.items()}


def ratios_of_losses(config: TrainConfig, epochs: list[int], view: int = 64) -> pd.DataFrame:
    """Measure every loss's gradient ratio on the same predictions: those of one run for its view, after each epoch.

    Returns
    -------
    DataFrame
        `loss`, `epoch`, `index` (1 - loss), and `ratio` and `ratio_logit`: mean gradient on the airway over that on the
        background, at the probability and at the logit; nan where a loss has no finite gradient on both.
    """
    crop, rows = read_busiest(config.prepared(config.test_cases[0]), view), []
    _, label, distance = crop.tensors()
    weight = general_union_weight(distance, label)
    for epoch in epochs:
        network, _ = load_checkpoint(snapshot_path(config, epoch))
        predicted = predict_probability(network, crop.image, np.ones_like(crop.label), view, progress=False)
        probability = torch.from_numpy(predicted)[None, None]
        for name in LOSSES:
            try:
                state = state_of(loss_by_name(name), probability, label, weight)
            except InputError:
                state = {}
            rows.append({"loss": name, "epoch": epoch} | state)
    return pd.DataFrame(rows, columns=["loss", "epoch", "index", "ratio", "ratio_logit"])


def read_probes(configs: Iterable[TrainConfig]) -> pd.DataFrame:
    """Join the runs' probes, a row a run, step and layer; empty, with its columns, if none was trained with probes."""
    columns = ["epoch", "step", "layer", "layer_ratio", "ratio", "ratio_logit", "index", "erosion", "dilation"]
    tables = [pd.DataFrame(columns=[*columns, *NAMES])]
    for config in configs:
        if (file := config.folder / "probes.csv").exists():
            tables.append(pd.read_csv(file).assign(**{name: getattr(config, name) for name in NAMES}))
    return pd.concat(tables[1:] or tables, ignore_index=True)
