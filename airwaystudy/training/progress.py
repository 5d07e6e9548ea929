"""Keep the state of a run: a row of metrics.csv an epoch, its validation, the line printed after it, a summary."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.inference.segment import airway_component, predict_probability
from airwaylib.metrics.scores import evaluate
from airwaystudy import home
from airwaystudy.data.store import Store
from airwaystudy.training.config import TrainConfig

MAY_CHANGE = {"device", "workers", "memory"}  # may differ when a run is resumed: they do not change the results
VALIDATED = ("td", "bd", "precision", "dsc", "tpr")  # scores of the validation cases in metrics.csv
RANKED = ("td", "bd", "precision", "dsc")  # their mean decides which epoch is best: ATM'22 ranks by these four


def refuse_another_run(config: TrainConfig) -> None:
    """Raise `InputError` if the run's folder holds a run of other settings, `MAY_CHANGE` apart."""
    path = config.folder / "config.json"
    if not path.exists():
        return
    known = {name: field.get_default(call_default_factory=True) for name, field in TrainConfig.model_fields.items()}
    former, now = known | home.read_json(path), config.model_dump()  # older runs knew fewer settings
    changed = sorted(k for k in (now.keys() | former.keys()) - MAY_CHANGE if now.get(k) != former.get(k))
    if changed:
        raise InputError(
            f"{config.folder}: holds a run with another {', '.join(changed)}; choose another run name or delete it"
        )


@dataclass
class Progress:
    """Progress of a run: a row of metrics.csv an epoch, the time and CPU time they took, and the rows of probes.csv."""

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    probes: list[dict[str, Any]] = field(default_factory=list)
    cpu_seconds: float = 0.0  # of this process; beside other work it says what a run costs better than the clock

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.rows)

    @property
    def is_best(self) -> bool:
        """Tell whether the epoch just done validated best."""
        return best_epoch(self.rows) == self.epoch

    def ended(self, config: TrainConfig) -> bool:
        """Tell whether all epochs are done, or `patience` validations have brought nothing better."""
        stopped = config.patience is not None and validations_since_best(self.rows) >= config.patience
        return self.epoch >= config.epochs or stopped

    def probed(self, epoch: int) -> dict[str, float]:
        """Mean ratio and erosion over an epoch's probes; nothing for a run without."""
        probes = pd.DataFrame(self.probes)
        return probes[probes["epoch"] == epoch][["ratio", "erosion"]].mean().to_dict() if len(probes) else {}

    def write(self, folder: Path) -> None:
        """metrics.csv: one row an epoch, nothing in it that differs between two equal runs (no clock); probes.csv."""
        tables = {"metrics.csv": self.rows} | ({"probes.csv": self.probes} if self.probes else {})
        for name, rows in tables.items():
            with atomic_path(folder / name) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")

    def report(self, config: TrainConfig) -> str:
        """One line about the epoch just done, with the time left."""
        row, rate = self.rows[-1], self.seconds / self.epoch
        scores = "".join(f"  {name} {row[name]:.1f}" for name in ("td", "precision", "dsc") if name in row)
        done = f"epoch {row['epoch']}/{config.epochs}  loss {row['loss']:.4f}{scores}"
        if self.epoch < config.epochs and self.ended(config):
            return f"{done}  stopped: {config.patience} validations without a better score"
        return f"{done}  {rate:.1f} s/epoch, {rate * (config.epochs - self.epoch) / 60:.1f} min left"

    def summary(self) -> dict[str, Any]:
        """The end of the run in a few numbers; `best_score` is the mean of TD, BD, precision and DSC."""
        best = [row for row in validated(self.rows) if row["epoch"] == best_epoch(self.rows)]
        found = {"best_epoch": best[0]["epoch"], "best_score": rank(best[0])} if best else {}
        times = {"training_seconds": round(self.seconds, 1), "cpu_seconds": round(self.cpu_seconds, 1)}
        return {**times, **found, **self.rows[-1]}


def validate(network: nn.Module, stores: list[Store], window: int, fabric: Fabric) -> dict[str, float]:
    """Mean scores (percent, convention `paper`) of the cases, by sliding window over the lungs, at 0.5, one component.

    Processes that share the run take turns; all get the same scores.
    """
    scores = torch.zeros(len(stores), len(VALIDATED), dtype=torch.float64, device=fabric.device)
    for number in range(fabric.global_rank, len(stores), fabric.world_size):
        store = stores[number]
        found = evaluate(airway_of(network, store, window, fabric.device), store.label[:] > 0)
        scores[number] = torch.tensor([float(found[name]) for name in VALIDATED])
    if fabric.world_size > 1:
        scores = fabric.all_reduce(scores, reduce_op="sum")
    return dict(zip(VALIDATED, np.nanmean(scores.cpu().numpy(), 0).tolist(), strict=True))


def airway_of(network: nn.Module, store: Store, window: int, device: torch.device | str = "cpu") -> np.ndarray:
    """Airway of a prepared case, bool (D, H, W): as `inference.segment` finds it, but on the case's own grid."""
    lung = np.ones(store.shape, bool) if store.lung is None else store.lung[:] > 0
    found = predict_probability(network, store.image[:], lung, window, device=device, progress=False)
    return airway_component(found >= 0.5, lung, store.spacing)


def validated(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of metrics.csv with scores."""
    return [row for row in rows if RANKED[0] in row]


def rank(row: dict[str, Any]) -> float:
    """Mean of TD, BD, precision and DSC of a row, percent."""
    return sum(row[name] for name in RANKED) / len(RANKED)


def best_epoch(rows: list[dict[str, Any]]) -> int | None:
    """The epoch that validated best, the first of equals; None before a validation.

    Examples
    --------
    >>> scores = [{"td": 50, "bd": 40}, {}, {"td": 90, "bd": 80}, {"td": 90, "bd": 70}]
    >>> rows = [{"epoch": n, **row, **({"precision": 80, "dsc": 80} if row else {})} for n, row in enumerate(scores, 1)]
    >>> best_epoch(rows), validations_since_best(rows)
    (3, 1)
    """
    return max(validated(rows), key=rank)["epoch"] if validated(rows) else None


def validations_since_best(rows: list[dict[str, Any]]) -> int:
    """Count the validations after the best one."""
    return sum(row["epoch"] > best_epoch(rows) for row in validated(rows))
