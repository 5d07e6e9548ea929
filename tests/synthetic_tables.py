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
    """RESULTS/tables/scores_by_case.csv, a row a variant, seed and case, and runs.csv, a row a variant and seed.

    A variant's factors are those of its name: SUPERVISION_LOSS, or LOSS alone.
    """
    variants, seeds, cases = list(variants), list(seeds), list(cases)
    rows = [
        {"run": f"{variant}_{seed}", "variant": variant, "seed": seed, "case": case, **score(variant, seed, case)}
        for variant in variants
        for seed in seeds
        for case in cases
    ]
    home.write_csv(Path(results) / "tables" / "scores_by_case.csv", pd.DataFrame(rows).assign(convention="paper"))
    runs = (
        pd.DataFrame(rows)[["run", "variant", "seed"]]
        .drop_duplicates()
        .assign(supervision="both", sampling="centreline")
    )
    named = runs["variant"].str.extract("^(both|decoder|final)_(.+)$")
    runs = runs.assign(supervision=named[0].fillna("both"), loss=named[1].fillna(runs["variant"]), alpha=None)
    home.write_csv(Path(results) / "tables" / "runs.csv", runs)


def write_figure(results: str | Path, stem: str) -> None:
    """RESULTS/figures/STEM.png and .svg: a line."""
    figure, axes = plt.subplots(figsize=(8, 3))
    axes.plot([0, 1])
    style.save_figure(figure, Path(results) / "figures" / stem)
    plt.close(figure)
