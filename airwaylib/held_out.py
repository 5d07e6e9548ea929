"""A trained run on its held-out cases: CT in, mask out, scores."""

import pandas as pd

from airwaylib import study
from airwaylib.config import TrainConfig
from airwaylib.evaluation import score_case, true_tree
from airwaylib.inference import segment
from airwaylib.networks import load_checkpoint
from airwaylib.prepare import one_file
from airwaylib.volume import read_ct, read_mask, write_volume


def score_test_cases(config: TrainConfig) -> pd.DataFrame:
    """Segment every test case's CT with the run's checkpoint and score it (percent, convention `paper`).

    Writes the masks to the run's predictions/, scores_by_diameter.csv and, last, scores.csv: one row a case, also
    returned. Of a phantom, its own tree decides about branches by diameter; see `evaluation`.
    """
    network, info = load_checkpoint(config.folder / "checkpoint.safetensors")
    rows, by_diameter = [], []
    for case in config.test_cases:
        ct = read_ct(one_file(config.raw(case), "ct"))
        label = one_file(config.raw(case), "airway")
        prediction = segment(ct, network, info, device=config.device)
        write_volume(prediction, config.folder / "predictions" / f"{case}.nii.gz")
        scores, groups = score_case(prediction, read_mask(label, ct), truth=true_tree(label))
        rows.append({"case": case, **scores})
        by_diameter.append(groups["by_diameter"].assign(case=case))
    scores = pd.DataFrame(rows)
    study.write_csv(config.folder / "scores_by_diameter.csv", pd.concat([pd.DataFrame(), *by_diameter]))
    study.write_csv(config.folder / "scores.csv", scores)
    return scores
