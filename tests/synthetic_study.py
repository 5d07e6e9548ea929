"""Run folders of a made-up study, with scores of one's own choice: nothing is trained, nothing is segmented."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from airwaystudy import home as study
from airwaystudy.training.config import TrainConfig

BINS = {"diameter_mm": ("0-2", "2-4", "4-6"), "generation": (0, 1, 2)}
SETTINGS = {"train_cases": ["train_a", "train_b"], "width": 4, "crop": 40, "crops_per_case": 10, "epochs": 5}


def plain_scores(variant: str, seed: int, case: str) -> dict[str, float]:
    """Scores that depend on the seed only."""
    return {"td": 60.0 + seed, "bd": 50.0 + seed, "dsc": 80.0, "precision": 90.0, "fpr": 0.05, "leakage": 8.0}


def write_runs(
    home: str | Path,
    variants: Mapping[str, Mapping[str, Any]],
    seeds: Iterable[int] = (0, 1, 2),
    cases: Iterable[str] = ("test_a", "test_b"),
    score: Callable[[str, int, str], Mapping[str, float]] = plain_scores,
    name: str = "made_up",
    commit: str | None = "c" * 40,
    data: str = "d" * 64,
) -> Path:
    """Write HOME/results/NAME/runs/VARIANT_SEED for each variant and seed; returns results/NAME.

    variants: by name, the settings that differ from `SETTINGS`. score: (variant, seed, case) -> percent by metric, of
    which some may do: the others are those of `plain_scores`. Each bin of a case has 10 branches of 10 points, of which
    the share td of the points and bd of the branches is detected.
    """
    results, cases = Path(home) / "results" / name, list(cases)
    for variant, settings in variants.items():
        for seed in seeds:
            run = f"{variant}_{seed}"
            config = TrainConfig(
                **SETTINGS | {"study": name, "run": run, "seed": seed, "test_cases": cases} | dict(settings)
            )
            scores = {case: plain_scores(variant, seed, case) | dict(score(variant, seed, case)) for case in cases}
            write_run(results / "runs" / run, config, scores, commit, data)
    return results


def write_run(
    folder: Path, config: TrainConfig, scores: Mapping[str, Mapping[str, float]], commit: str | None, data: str
) -> None:
    """One run's files, as 02_train leaves them, without checkpoint and predictions."""
    summary = {"run": config.run, "parameters": 1000, "training_seconds": 60.0, "epoch": config.epochs}
    origin = {"commit": commit, "dirty": False, "seed": config.seed, "device": "cpu", "data": data}
    bound = {"ATEN_CPU_CAPABILITY": "avx2"}
    origin["cpu"] = {"name": "a CPU", "instructions": "AVX2", "threads": 1, "environment": bound}
    study.write_json(folder / "config.json", config.model_dump())
    study.write_json(folder / "summary.json", summary)
    study.write_json(folder / "provenance.json", origin | {"parameters": config.model_dump()})
    study.write_csv(folder / "scores.csv", pd.DataFrame([{"case": case, **row} for case, row in scores.items()]))
    for group, bins in BINS.items():
        rows = [group_row(row) | {group: name, "case": case} for case, row in scores.items() for name in bins]
        study.write_csv(folder / f"scores_by_{group.removesuffix('_mm')}.csv", pd.DataFrame(rows))


def group_row(row: Mapping[str, float]) -> dict[str, float]:
    """10 branches of 10 points, found to the shares td and bd."""
    branches, points = round(row["bd"] / 10), round(row["td"])
    counts = {"branches": 10, "branches_detected": branches, "points": 100, "points_detected": points}
    return counts | {"bd": 10 * branches, "td": points, "length_mm": 50.0}
