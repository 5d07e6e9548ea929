"""Segment and score a trained run's held-out cases."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from airwaylib.errors import InputError
from airwaylib.images.volume import Volume, read_mask, write_volume
from airwaylib.inference.segment import segment
from airwaylib.metrics.cases import Evaluation, Scored, score_case, score_cases, true_tree
from airwaylib.metrics.reference import convention_by_name
from airwaylib.networks.checkpoints import CheckpointInfo, load_checkpoint
from airwaystudy import home
from airwaystudy.data.cases import find_case, read_case
from airwaystudy.training.config import TrainConfig


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

    Writes the masks to the run's predictions/, scores_by_diameter.csv, scores_by_generation.csv and, last, scores.csv:
    one row a case. Masks newer than the checkpoint are reused, so an interrupted call can be repeated. A phantom's own
    tree gives the branches by diameter; see `metrics.cases`. progress: wraps the iteration over the cases.

    Raises
    ------
    InputError
        No test cases, no checkpoint, or no case that can be scored.
    """
    if not config.test_cases:
        raise InputError(f"{config.folder}: the run has no test_cases to score; name masks and references instead")
    convention_by_name(convention)  # an unknown one is an error before anything is segmented
    trained = load_checkpoint(config.checkpoint)  # and so is a missing checkpoint

    def score(case: str) -> Scored:
        files = find_case(home.path(config.data), case)
        ct, label, _ = read_case(files)
        prediction = load_or_segment(config, case, ct, *trained)
        return prediction, *score_case(prediction, label, convention, truth=true_tree(files.airway))

    evaluation = score_cases(config.test_cases, score, convention, progress)
    for group in ("by_diameter", "by_generation"):
        tables = [groups[group].assign(case=case) for case, groups in evaluation.groups.items()]
        home.write_csv(config.folder / f"scores_{group}.csv", pd.concat(tables))
    home.write_csv(config.folder / "scores.csv", evaluation.scores)
    return evaluation


def load_or_segment(config: TrainConfig, case: str, ct: Volume, network: nn.Module, info: CheckpointInfo) -> Volume:
    """Return the run's mask of a case: the one in predictions/ if it is newer than the checkpoint, else a new one."""
    path = config.folder / "predictions" / f"{case}.nii.gz"
    if path.exists() and path.stat().st_mtime_ns > config.checkpoint.stat().st_mtime_ns:
        kept = read_mask(path, may_be_empty=True)
        if kept.same_grid(ct):
            return kept
    mask = segment(ct, network, info, device="cpu" if config.device == "cpu" else "auto")
    write_volume(mask, path)
    return mask
