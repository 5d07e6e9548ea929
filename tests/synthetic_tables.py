"""The committed tables of a made-up study, as 01, 03 and 04 leave them, with scores of one's own choice."""

from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from airwaystudy import home
from airwaystudy.figures import style


def write_scores(
    results: str | Path,
    variants: Iterable[str],
    score: Callable[[str, int, str], dict[str, float]],
    seeds: Iterable[int] = (0, 1, 2),
    cases: Iterable[str] = ("mini_0008", "mini_0009"),
) -> None:
    """RESULTS/tables/scores_by_case.csv: a row a variant, seed and case."""
    rows = [
        {"run": f"{variant}_{seed}", "variant": variant, "seed": seed, "case": case, **score(variant, seed, case)}
        for variant in variants
        for seed in seeds
        for case in cases
    ]
    home.write_csv(Path(results) / "tables" / "scores_by_case.csv", pd.DataFrame(rows).assign(convention="paper"))


def write_figure(results: str | Path, stem: str) -> None:
    """RESULTS/figures/STEM.png and .svg: a line."""
    figure, axes = plt.subplots(figsize=(8, 3))
    axes.plot([0, 1])
    style.save_figure(figure, Path(results) / "figures" / stem)
    plt.close(figure)
