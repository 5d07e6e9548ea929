"""Scores of held-out cases while a run trains, and what they decide: which epoch is best, and when to stop."""

from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from airwaylib.inference import airway_component, predict_probability
from airwaylib.metrics import evaluate
from airwaylib.store import Store

VALIDATED = ("td", "bd", "precision", "dsc", "tpr")  # scores of the validation cases in metrics.csv
RANKED = ("td", "bd", "precision", "dsc")  # whose mean tells the best epoch: ATM'22 ranks by these four


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
    """How many validations have followed the best one."""
    return sum(row["epoch"] > best_epoch(rows) for row in validated(rows))
