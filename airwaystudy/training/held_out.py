"""Segment and score a trained run's held-out cases."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from airwaylib.errors import InputError
from airwaylib.images.volume import Volume, read_mask, write_volume
from airwaylib.inference.segment import airway_component, airway_mask, checked_lung, probability_map
from airwaylib.metrics.cases import Evaluation, Scored, score_case, score_cases, true_tree
from airwaylib.metrics.reference import convention_by_name, parse_reference, true_reference
from airwaylib.metrics.scores import overlap, tree_scores
from airwaylib.networks.checkpoints import CheckpointInfo, load_checkpoint
from airwaystudy import home
from airwaystudy.data.cases import find_case, read_case
from airwaystudy.training.config import TrainConfig

LOGITS = tuple(np.arange(-16, 16.5, 0.5))  # thresholds of a curve, on the logit scale: networks are sure of most voxels
THIN_MM = 2.5  # diameter below which a branch is thin, as the protocol of the study `decide` has it
CURVE = ("logit", "td", "bd", "td_thin", "td_wide", "precision", "dsc", "td_whole", "td_thin_whole", "precision_whole")


def read_run(folder: str | Path) -> TrainConfig:
    """The configuration of the run in `folder`, results/STUDY/runs/RUN.

    Raises
    ------
    InputError
        No run there, or one that has not been trained to its end.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: no training run (no config.json); give results/STUDY/runs/RUN, or masks and their references"
        )
    if not (folder / "summary.json").is_file():
        raise InputError(f"{folder}: the run is not finished; go on with it by airwaylib train and its settings")
    config = home.validated(TrainConfig, home.read_json(folder / "config.json"), f"{folder / 'config.json'}")
    if folder.resolve() != config.folder.resolve():
        raise InputError(f"{folder}: holds the run of {config.folder}; move it there, under the name it was trained by")
    return config


def score_test_cases(
    config: TrainConfig, convention: str = "paper", progress: Callable[[Any], Any] = iter
) -> Evaluation:
    """Segment every test case's CT with the run's checkpoint and score it (percent).

    Writes masks and threshold curves to the run's predictions/, then scores_by_diameter.csv, scores_by_generation.csv,
    trade_off.csv (`CURVE`, see `threshold_curve`) and, last, scores.csv: one row a case. What is newer than the
    checkpoint is reused, so an interrupted call can be repeated. A phantom's own tree gives the branches by diameter;
    see `metrics.cases`. progress: wraps the iteration over the cases.

    Raises
    ------
    InputError
        No test cases, no checkpoint, or no case that can be scored.
    """
    if not config.test_cases:
        raise InputError(f"{config.folder}: the run has no test_cases to score; name masks and references instead")
    convention_by_name(convention)  # an unknown one is an error before anything is segmented
    trained = load_checkpoint(config.checkpoint)  # and so is a missing checkpoint
    curves = []

    def score(case: str) -> Scored:
        files = find_case(home.path(config.data), case)
        ct, label, _ = read_case(files)
        truth = true_tree(files.airway)
        prediction, curve = load_or_segment(config, case, ct, label, truth, *trained)
        curves.append(curve.assign(case=case)[["case", *CURVE]])
        return prediction, *score_case(prediction, label, convention, truth=truth)

    evaluation = score_cases(config.test_cases, score, convention, progress)
    for group in ("by_diameter", "by_generation"):
        tables = [groups[group].assign(case=case) for case, groups in evaluation.groups.items()]
        home.write_csv(config.folder / f"scores_{group}.csv", pd.concat(tables))
    home.write_csv(config.folder / "trade_off.csv", pd.concat(curves), decimals=2)
    home.write_csv(config.folder / "scores.csv", evaluation.scores)
    return evaluation


def load_or_segment(
    config: TrainConfig,
    case: str,
    ct: Volume,
    label: Volume,
    truth: pd.DataFrame | None,
    network: nn.Module,
    info: CheckpointInfo,
) -> tuple[Volume, pd.DataFrame]:
    """Return the run's mask and threshold curve of a case: those in predictions/ if newer than the checkpoint."""
    path, table = (config.folder / "predictions" / f"{case}.{suffix}" for suffix in ("nii.gz", "csv"))
    made = config.checkpoint.stat().st_mtime_ns
    if all(file.exists() and file.stat().st_mtime_ns > made for file in (path, table)):
        kept = read_mask(path, may_be_empty=True)
        if kept.same_grid(ct):
            return kept, pd.read_csv(table)
    lung = checked_lung(ct)
    device = "cpu" if config.device == "cpu" else "auto"
    probability = probability_map(ct, network, info, device, lung=lung)
    mask = airway_mask(probability, lung, info.probability)
    curve = threshold_curve(probability, lung, label, truth)
    home.write_csv(table, curve, decimals=2)
    write_volume(mask, path)
    return mask, curve


def threshold_curve(
    probability: Volume, lung: np.ndarray, label: Volume, truth: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Score the mask at each threshold of `LOGITS`: `CURVE`, in percent.

    Parameters
    ----------
    probability : Volume
        Of the airway, `(z, y, x)`.
    lung : numpy.ndarray
        bool `(z, y, x)`, by which `airway_mask` chooses a component.
    label : Volume
        The reference mask, on the same grid.
    truth : DataFrame, optional
        A phantom's own tree, whose branches are scored. By default the label's parsed ones.

    Returns
    -------
    DataFrame
        A row a threshold. `td`, `bd` (tree length and branches detected), `td_thin` and `td_wide` (of branches under
        `THIN_MM` in diameter, and of the others), `precision` and `dsc` are of the one component that `airway_mask`
        keeps; `td_whole`, `td_thin_whole` and `precision_whole` of all voxels. No voxel, no precision (NaN).
    """
    if truth is None:
        reference = parse_reference(label.array, label.spacing)
    else:
        reference = true_reference(truth, label.array.shape, label.spacing)
    voxels = np.argwhere(label.array)
    thin = reference.table.set_index("branch")["diameter_mm"] < THIN_MM
    parts = {"": reference.branch >= 0} | {
        name: np.isin(reference.branch, thin.index[chosen]) for name, chosen in (("_thin", thin), ("_wide", ~thin))
    }
    rows = []
    for logit in LOGITS:
        whole = probability.array >= np.float32(1 / (1 + np.exp(-logit)))
        kept = airway_component(whole, lung, label.spacing) if whole.any() else whole
        row = {"logit": logit, "bd": tree_scores(kept, reference)[0]["bd"]}
        for suffix, mask in (("", kept), ("_whole", whole)):
            hit = mask[tuple(reference.index.T)]
            row |= {
                f"td{part}{suffix}": 100 * hit[points].mean() if points.any() else np.nan
                for part, points in parts.items()
            }
            found = overlap(mask, voxels)
            row |= {f"precision{suffix}": found["precision"] if mask.any() else np.nan, f"dsc{suffix}": found["dsc"]}
        rows.append(row)
    return pd.DataFrame(rows)[list(CURVE)]
