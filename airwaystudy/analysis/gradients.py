"""Gradients along real training runs: short runs of each loss and supervision over seeds, looked at epoch by epoch.

Every run is trained, its gradients are split by class on one crop of a held-out case after each chosen epoch, and its
missed branches are set against the erosion that they suffered. Whatever stands is not made again.
"""

import time
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, Field, model_validator
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.gradients.by_class import class_gradients
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
from airwaylib.losses.table import LOSSES, WEIGHTED, loss_by_name
from airwaylib.metrics.scores import DETECTED
from airwaylib.networks.checkpoints import load_checkpoint
from airwaylib.trees.parse import parse_tree
from airwaystudy import home
from airwaystudy.analysis.gradient_maps import maps_folder, write_maps
from airwaystudy.data.datasets import prepare_phantoms
from airwaystudy.data.store import Store
from airwaystudy.training.config import TrainConfig, snapshot_path
from airwaystudy.training.progress import airway_of
from airwaystudy.training.run import train

TABLES = ("layers", "bins", "branches")
RADII_MM = (0, 1, 2, 3, 4, 10)  # edges of bins: the diameters of Zheng et al., figure 9, halved
RADIUS_BIN = 2  # voxels
NAMES = ("run", "loss", "supervision", "seed")


class GradientParameters(BaseModel, extra="forbid", frozen=True):
    """Parameters of 01_gradient_erosion: the runs, and what is looked at. The defaults are those of `make study`."""

    study: str = Field("quick", description="results go to results/<study>/")
    data: str = Field("data/phantoms", description="folder with raw/CASE/ and prepared/CASE.zarr")
    train_cases: list[str] = Field([f"mini_{n:04d}" for n in range(7)], min_length=1, description="trained on")
    test_cases: list[str] = Field([f"mini_{n:04d}" for n in range(8, 12)], min_length=1, description="held out")
    losses: list[str] = Field(["dice", "general_union"], min_length=1, description="losses by name")
    supervisions: list[str] = Field(["final", "both"], min_length=1, description="supervisions by name")
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="one run each")
    width: int = Field(4, ge=1, description="channels of the first block; the paper's is 8")
    crop: int = Field(32, ge=16, multiple_of=8, description="side of a training crop, voxels")
    crops_per_case: int = Field(12, ge=1, description="crops a case per epoch")
    epochs: int = Field(5, ge=1, description="passes over the training cases")
    learning_rate: float = Field(8e-3, gt=0, description="highest learning rate")
    probe_every: int = Field(50, ge=1, description="training steps between looks at the loss's ratio and the erosion")
    looked_at: list[int] = Field([1, 5], min_length=1, description="epochs looked at; 0: before training")
    window: int = Field(64, ge=16, description="side of the windows in which a case is segmented, voxels")
    view: int = Field(64, ge=16, multiple_of=8, description="side of the crop looked at, voxels")
    branch_cases: int = Field(1, ge=1, description="test cases, from the first, whose branches are looked at")

    @model_validator(mode="after")
    def epochs_within(self) -> "GradientParameters":
        """The epochs looked at must be there; the last one shows what training has made of the network."""
        if sorted(set(self.looked_at)) != self.looked_at or self.looked_at[-1] != self.epochs:
            raise ValueError(
                f"looked_at {self.looked_at}: give rising epochs that end with the last one, {self.epochs}"
            )
        return self

    @property
    def early(self) -> int:
        """The first epoch looked at after the start, or the start if there is no other before the end."""
        return self.looked_at[min(1, max(0, len(self.looked_at) - 2))]

    def configs(self) -> list[TrainConfig]:
        """The training runs, seed by seed."""
        fields = {"study", "data", "train_cases", "test_cases", "width", "crop", "crops_per_case", "epochs", "window"}
        shared = self.model_dump(include=fields | {"learning_rate", "probe_every"})
        return [
            TrainConfig(
                run=f"{supervision}_{loss}_{seed}",
                supervision=supervision,
                loss=loss,
                seed=seed,
                snapshots=self.looked_at,
                label_threshold=0.6,
                spacing=1.0,
                **shared,
            )
            for seed, supervision, loss in product(self.seeds, self.supervisions, self.losses)
        ]


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
        """The whole case, or its cube of `side` voxels with most centreline of small airways."""
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
    """The cube of `side` voxels, or all of a shorter axis, that holds most centreline voxels of small airways."""
    shape = store.image.shape
    small = np.zeros(shape, np.float32)
    small[tuple(store.centreline_points.T)] = 1
    small[tuple(store.large_points.T)] *= 0.25  # a few of the large airways should be there to compare with
    sides = np.minimum(side, shape)
    held = ndimage.uniform_filter(small, sides, mode="constant", origin=-(sides // 2))  # of the cube from a voxel on
    allowed = held[tuple(slice(size - length + 1) for size, length in zip(shape, sides, strict=True))]
    corner = np.unravel_index(allowed.argmax(), allowed.shape)
    return tuple(slice(int(low), int(low + length)) for low, length in zip(corner, sides, strict=True))


def case_of(config: TrainConfig, epoch: int, view: View) -> tuple[Any, ...]:
    """A run's network after an epoch, its loss, and a view's image, label and weight: all `class_gradients` needs."""
    network, _ = load_checkpoint(snapshot_path(config, epoch))
    image, label, distance = (
        torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]
        for array in (view.image / np.float32(255), view.label, view.distance)
    )
    weighted = config.loss in WEIGHTED
    weight = general_union_weight(distance, label, **config.weight_parameters) if weighted else None
    return network, loss_by_name(config.loss, **config.loss_parameters), image, label, weight


def look(config: TrainConfig, parameters: GradientParameters) -> dict[str, pd.DataFrame]:
    """All measures of one trained run: its tables by name, see `TABLES`. Writes the run's gradient maps."""
    about = {name: getattr(config, name) for name in NAMES}
    view = View.of(config, config.test_cases[0], parameters.view)
    layers, bins, shares = [], [], []
    for epoch in parameters.looked_at:
        case = case_of(config, epoch, view)
        state = {f"loss_{name}": value for name, value in loss_state(*case).items()}
        found = [
            (
                layer,
                measure(gradients, view.regions),
                measure_bins(gradients, view.regions),
                foreground_share(gradients)[0],
            )
            for layer, gradients in class_gradients(*case, encoder_weight=config.encoder_weight, by_group=True).items()
        ]
        for layer, measures, binned, share in found:
            where = about | {"epoch": epoch, "layer": layer}
            layers.append(where | measures | state)
            bins += [where | row | bin_edges(row["by"], row["bin"]) for row in binned]
            shares.append((epoch, layer, share))
    measures = pd.DataFrame(layers)[["epoch", "layer", "erosion", "dilation", "ratio", "share"]]
    shown = about | {"case": view.case, "spacing": list(view.spacing)}
    write_maps(maps_folder(config.study) / f"{config.run}.zarr", shown, view.image, view.label, shares, measures)
    cases = config.test_cases[: parameters.branch_cases]
    branches = pd.concat([missed_branches(config, case, parameters.early) for case in cases])
    return {"layers": pd.DataFrame(layers), "bins": pd.DataFrame(bins), "branches": branches.assign(**about)}


def bin_edges(by: str, number: int) -> dict[str, float]:
    """Lowest and highest value of a bin: mm, voxels, or the generation itself."""
    if by == "radius_mm":
        return {"low": RADII_MM[number], "high": RADII_MM[number + 1]}
    if by == "radius_voxels":
        return {"low": RADIUS_BIN * number, "high": RADIUS_BIN * (number + 1)}
    return {"low": number, "high": number}


def missed_branches(config: TrainConfig, case: str, early: int) -> pd.DataFrame:
    """Branches of a held-out case: what the trained network finds of each, and how eroded each was on the way.

    Returns
    -------
    DataFrame
        A row a branch: `case`, `branch`, `generation`, `radius_mm`, `length_mm`, `detected` (share of its skeleton in
        the predicted airway), `missed` (less than 80 %), and `erosion_early` and `erosion_late`: the
        share of its voxels eroded at the first layer, which back-propagation reaches last, after epoch `early` and
        after the last one.
    """
    view = View.of(config, case)
    tree = parse_tree(view.label, view.spacing)
    network, info = load_checkpoint(snapshot_path(config, config.epochs))
    inside = airway_of(network, Store.open(config.prepared(case)), info.window)[tuple(tree.index.T)]
    branch = tree.centreline["branch"].to_numpy()
    detected = np.bincount(branch, inside)[1:] / np.bincount(branch)[1:]
    table = tree.branches[["branch", "generation", "radius_mm", "length_mm"]].assign(case=case, detected=detected)
    table["missed"] = detected < DETECTED
    for name, epoch in (("erosion_early", early), ("erosion_late", config.epochs)):
        eroded = share_at_first_layer(config, epoch, view)[tuple(tree.airway_index.T)] < 0.5
        table[name] = np.bincount(tree.airway_branch, eroded)[1:] / np.bincount(tree.airway_branch)[1:]
    return table


def share_at_first_layer(config: TrainConfig, epoch: int, view: View) -> np.ndarray:
    """Foreground share at the layer that back-propagation reaches last, on the view's grid."""
    gradients = class_gradients(*case_of(config, epoch, view), encoder_weight=config.encoder_weight)
    first = next(iter(gradients.values()))
    return spread(foreground_share(first)[0], view.label.shape)


def run_study(parameters: GradientParameters) -> dict[str, pd.DataFrame]:
    """Train and look at every run; returns and writes the tables results/<study>/gradients/{layers,bins,branches}.csv.

    A run's own tables are written to its folder, last of all: a run that has them, for these parameters, is done.
    """
    prepare_phantoms(home.path(parameters.data), [*parameters.train_cases, *parameters.test_cases])
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    configs, started = parameters.configs(), time.monotonic()
    for done, config in enumerate(configs, 1):
        train(config)
        for name, table in looked_at(config, parameters).items():
            tables[name].append(table)
        left = (time.monotonic() - started) / done * (len(configs) - done) / 60
        print(f"{config.run}: run {done} of {len(configs)}, about {left:.0f} min left", flush=True)
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    for name, table in joined.items():
        home.write_csv(maps_folder(parameters.study) / f"{name}.csv", table)
    return joined


def looked_at(config: TrainConfig, parameters: GradientParameters) -> dict[str, pd.DataFrame]:
    """The tables of one run, read if they stand for these parameters, else made."""
    done, store = config.folder / "gradients.json", maps_folder(config.study) / f"{config.run}.zarr"
    asked = parameters.model_dump(include={"looked_at", "view", "test_cases", "branch_cases"})
    files = {name: config.folder / f"gradient_{name}.csv" for name in TABLES}
    if not (done.exists() and home.read_json(done) == asked and store.exists()):
        for name, table in look(config, parameters).items():
            home.write_csv(files[name], table)
        home.write_json(done, asked)
    return {name: pd.read_csv(file) for name, file in files.items()}


def ensure_maps(name: str) -> None:
    """Run the study `name` with default parameters, about 20 minutes on two cores, unless all its maps are there."""
    table, parameters = maps_folder(name) / "layers.csv", GradientParameters(study=name)
    runs = pd.read_csv(table)["run"].unique() if table.exists() else [config.run for config in parameters.configs()]
    if not all(table.with_name(f"{run}.zarr").exists() for run in runs):
        run_study(parameters)


def ratios_of_losses(config: TrainConfig, parameters: GradientParameters) -> pd.DataFrame:
    """Every loss's gradient ratio on the same predictions: those of one run for its view, after each epoch looked at.

    Returns
    -------
    DataFrame
        `loss`, `epoch`, `index` (1 - loss) and `ratio` (mean |dL/dp| on the airway over that on the background); nan
        where a loss has no finite gradient on both.
    """
    view, rows = View.of(config, config.test_cases[0], parameters.view), []
    label, distance = (torch.from_numpy(np.float32(part))[None, None] for part in (view.label, view.distance))
    weight = general_union_weight(distance, label)
    for epoch in parameters.looked_at:
        network, _ = load_checkpoint(snapshot_path(config, epoch))
        predicted = predict_probability(network, view.image, np.ones_like(view.label), parameters.view, progress=False)
        probability = torch.from_numpy(predicted)[None, None]
        for name in LOSSES:
            loss = loss_by_name(name)
            try:
                ratio = measured_ratio(loss, probability, label, weight)
            except InputError:
                ratio = np.nan
            rows.append([name, epoch, 1 - loss(probability, label, weight).item(), ratio])
    return pd.DataFrame(rows, columns=["loss", "epoch", "index", "ratio"])


def probes(parameters: GradientParameters) -> pd.DataFrame:
    """What the runs' probes took down, a row a run, step and layer; InputError names a run without."""
    tables = []
    for config in parameters.configs():
        file = config.folder / "probes.csv"
        if not file.exists():
            raise InputError(f"{file}: the run has no probes; train it with probe_every, such as 20")
        tables.append(pd.read_csv(file).assign(**{name: getattr(config, name) for name in NAMES}))
    return pd.concat(tables, ignore_index=True)
