"""Scores of an airway mask against a reference mask, under the convention `paper`.

Convention `paper` (Zheng et al., IEEE TMI 2021): the prediction's largest 6-connected component; the reference's
skeleton is the 3-D thinning (Lee et al. 1994) of the label as given; trachea included. All scores in percent.
"""

import cc3d
import numpy as np
import pandas as pd
from skimage.morphology import skeletonize

from airwaylib.errors import InputError


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 6-connected component of a boolean mask (D, H, W); an empty mask stays empty."""
    return cc3d.largest_k(mask, k=1, connectivity=6) > 0


def evaluate(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Score boolean masks (D, H, W) on one grid: td (tree length detected), dsc, precision, tpr, in percent.

    td is the share of the reference skeleton's voxels inside the prediction. An empty prediction scores 0 everywhere.

    Raises
    ------
    InputError
        Masks of different shapes, or an empty reference.

    Examples
    --------
    >>> reference = np.zeros((9, 9, 20), bool); reference[3:6, 3:6] = True
    >>> half = reference.copy(); half[:, :, 10:] = False
    >>> scores = evaluate(half, reference)
    >>> scores["precision"], scores["tpr"], round(scores["dsc"], 1)
    (100.0, 50.0, 66.7)
    """
    if prediction.shape != reference.shape:
        raise InputError(f"prediction {prediction.shape} and reference {reference.shape} are not on one grid")
    if not reference.any():
        raise InputError("the reference mask is empty: there is no airway to score against")
    prediction = largest_component(prediction)
    skeleton = skeletonize(reference) > 0
    if not skeleton.any():
        raise InputError("the reference mask thins to nothing (tubes of even width only): it has no tree length")
    hit, predicted, labelled = (int(np.count_nonzero(mask)) for mask in (prediction & reference, prediction, reference))
    return {
        "td": 100 * float(prediction[skeleton].mean()),
        "dsc": 200 * hit / (predicted + labelled),
        "precision": 100 * hit / predicted if predicted else 0.0,
        "tpr": 100 * hit / labelled,
    }


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the cases of each run, in the runs' order.

    scores: columns run, case and one a metric (percent). Returns run, cases, and METRIC_mean and METRIC_sd.

    Examples
    --------
    >>> scores = pd.DataFrame({"run": ["a", "a"], "case": ["x", "y"], "td": [90.0, 94.0]})
    >>> summarise(scores).round(2).to_dict("records")
    [{'run': 'a', 'cases': 2, 'td_mean': 92.0, 'td_sd': 2.83}]
    """
    metrics = [column for column in scores.columns if column not in ("run", "case")]
    columns = {f"{m}_{name}": (m, how) for m in metrics for name, how in (("mean", "mean"), ("sd", "std"))}
    return scores.groupby("run", sort=False).agg(cases=("case", "size"), **columns).reset_index()
