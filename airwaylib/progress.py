"""How far a run has come: a row of metrics.csv an epoch, the line printed after it, and the run in a few numbers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from airwaylib import study
from airwaylib.config import TrainConfig
from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.validation import best_epoch, rank, validated, validations_since_best

MAY_CHANGE = {"device", "workers", "memory"}  # settings that make no other numbers, or those of another device


def refuse_another_run(config: TrainConfig) -> None:
    """Raise `InputError` if the run's folder holds a run of other settings, `MAY_CHANGE` apart."""
    path = config.folder / "config.json"
    if not path.exists():
        return
    known = {name: field.get_default(call_default_factory=True) for name, field in TrainConfig.model_fields.items()}
    former, now = known | study.read_json(path), config.model_dump()  # older runs knew fewer settings
    changed = sorted(k for k in (now.keys() | former.keys()) - MAY_CHANGE if now.get(k) != former.get(k))
    if changed:
        raise InputError(
            f"{config.folder}: holds a run with another {', '.join(changed)}; choose another run name or delete it"
        )


@dataclass
class Progress:
    """How far a run has come: a row of metrics.csv an epoch, the seconds they took, and the rows of probes.csv."""

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    probes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.rows)

    @property
    def is_best(self) -> bool:
        """Whether the epoch just done validated best."""
        return best_epoch(self.rows) == self.epoch

    def ended(self, config: TrainConfig) -> bool:
        """Whether all epochs are done, or `patience` validations have brought nothing better."""
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
        return {"training_seconds": round(self.seconds, 1), **found, **self.rows[-1]}
