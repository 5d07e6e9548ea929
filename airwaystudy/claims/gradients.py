"""Compute, for each seed, the numbers that the claims about gradients rest on: gradients/measures.csv.

claims.yaml says in words what each measure is, and judges it. Here is a function for each claim, named like it. All
numbers are differences or associations within one seed. Layers and sizes are measured on one crop of one case.

The last block is left out where layers are compared: at the output, an airway voxel has airway gradient only.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from airwaylib.gradients.theory import BOX_VARIANCE, critical_radius
from airwaylib.networks.wingsnet import BLOCKS, DECODER, ENCODER

LOSSES, SUPERVISIONS = ("dice", "general_union"), ("final", "both")  # the baseline, and what the paper sets against it
SMALL = 1  # bins of `RADII_MM` in analysis/gradients.py below it are small airways: less than 2 mm across
LARGE = 2  # from it on: more than 4 mm across
SHALLOW = ENCODER[:3]  # the blocks at full resolution, which back-propagation reaches last
FEWEST = 3  # branches missed, and found, for an association


class Run(NamedTuple):
    """Rows of one run in the tables of `analysis.gradients.analyse`: none if there is no such run."""

    layers: pd.DataFrame
    bins: pd.DataFrame
    branches: pd.DataFrame

    def last(self) -> "Run":
        """Keep of layers and bins the rows of the last epoch, when training has done what it does."""
        return Run(*(rows[rows["epoch"] == rows["epoch"].max()] for rows in self[:2]), self.branches)


Runs = Mapping[str, Run]  # the runs of one seed by variant, such as final_dice


def measures_by_seed(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tabulate all measures of the runs `SUPERVISION_LOSS_SEED`: `claim`, `measure`, `seed`, `value`.

    tables: `layers`, `bins` and `branches`. A value that cannot be computed, for want of a run, layer or branch, has no
    row.
    """
    rows = []
    for seed in sorted(tables["layers"]["seed"].unique()):
        variants = [f"{supervision}_{loss}" for supervision in SUPERVISIONS for loss in LOSSES]
        runs = {variant: rows_of_run(tables, f"{variant}_{seed}") for variant in variants}
        for claim in CLAIMS:
            rows += [(claim.__name__, measure, seed, value) for measure, value in claim(runs).items()]
    return pd.DataFrame(rows, columns=["claim", "measure", "seed", "value"]).dropna(ignore_index=True)


def rows_of_run(tables: Mapping[str, pd.DataFrame], run: str) -> Run:
    """Select the rows of one run by its name."""
    return Run(*(tables[name][tables[name]["run"] == run] for name in Run._fields))


# -------------------------------------------------------------------------------------------- a function for each claim


def background_erodes_small_airways(runs: Runs) -> dict[str, float]:
    """Compare airways by size, and branches that are found in the end with those that are missed.

    Erosion early in training counts: in the end a missed branch has more gradient just because it is missed.
    """
    run = runs["final_dice"].last()
    return {
        "erosion_small_minus_large": size_gap(run),
        "missed_more_eroded": missed_auc(run.branches, "erosion_early"),
        "missed_more_eroded_at_equal_radius": missed_auc(run.branches, "erosion_early", strata=3),
    }


def a_large_ratio_dilates(runs: Runs) -> dict[str, float]:
    """Compare dilation, the mean of the layers after the last epoch, between the losses."""
    dilation = {loss: runs[f"final_{loss}"].last().layers["dilation"].mean() for loss in LOSSES}
    return {"dilation_general_union_minus_dice": dilation["general_union"] - dilation["dice"]}


def erosion_accumulates(runs: Runs) -> dict[str, float]:
    """Compare erosion between layers near the output and layers far from it."""
    layers = runs["final_dice"].last().layers
    return {
        "erosion_follows_blur": depth_correlation(layers),
        "erosion_first_minus_last": at_layer(layers, ENCODER[0]) - at_layer(layers, DECODER[-2]),
        "erosion_deepest_minus_last": at_layer(layers, ENCODER[-1]) - at_layer(layers, DECODER[-2]),
    }


def group_supervision_feeds_shallow_layers(runs: Runs) -> dict[str, float]:
    """Compare erosion between the supervisions, in the shallow blocks and in the whole encoder."""
    found = {}
    for name, blocks in (("shallow", SHALLOW), ("encoder", ENCODER)):
        for loss in LOSSES:
            final, both = (mean_erosion(runs[f"{how}_{loss}"].last().layers, blocks) for how in SUPERVISIONS)
            found[f"erosion_{name}_final_minus_both_{loss}"] = final - both
    return found


def general_union_balances_size(runs: Runs) -> dict[str, float]:
    """Compare between the losses how much more small airways are eroded, and the loss's gradient ratio."""
    found = {}
    for how in SUPERVISIONS:
        dice, union = (runs[f"{how}_{loss}"].last() for loss in LOSSES)
        found[f"size_gap_dice_minus_general_union_{how}"] = size_gap(dice) - size_gap(union)
        found[f"ratio_general_union_minus_dice_{how}"] = loss_ratio(union) - loss_ratio(dice)
    return found


def dice_ratio_falls_to_one(runs: Runs) -> dict[str, float]:
    """Compare the gradient ratio of Dice after the last epoch with that at the first look."""
    layers = runs["final_dice"].layers
    first = Run(layers[layers["epoch"] == layers["epoch"].min()], *runs["final_dice"][1:])
    return {"dice_ratio_last_minus_first": loss_ratio(runs["final_dice"].last()) - loss_ratio(first)}


CLAIMS = (
    background_erodes_small_airways,
    a_large_ratio_dilates,
    erosion_accumulates,
    group_supervision_feeds_shallow_layers,
    general_union_balances_size,
    dice_ratio_falls_to_one,
)


# ------------------------------------------------------------------------------------------------ what they are made of


def at_layer(layers: pd.DataFrame, layer: str) -> float:
    """Erosion at a layer; nan without it."""
    return float(layers.loc[layers["layer"] == layer, "erosion"].mean())


def mean_erosion(layers: pd.DataFrame, blocks: tuple[str, ...]) -> float:
    """Mean erosion of some blocks; nan without them."""
    return float(layers.loc[layers["layer"].isin(blocks), "erosion"].mean())


def depth_correlation(layers: pd.DataFrame) -> float:
    """Spearman's correlation of erosion with `variance_to_output`, over all blocks but the last; nan without them."""
    layers = layers[layers["layer"].isin(list(BLOCKS)[:-1])]
    if layers.empty:
        return np.nan
    return float(spearmanr(layers["layer"].map(variance_to_output), layers["erosion"]).statistic)


def size_gap(run: Run) -> float:
    """Erosion of small airways less that of large ones, at the first layer; nan if one of them is not there."""
    rows = run.bins[(run.bins["by"] == "radius_mm") & (run.bins["layer"] == ENCODER[0])]
    small, large = rows[rows["bin"] < SMALL], rows[rows["bin"] >= LARGE]
    if small.empty or large.empty:
        return np.nan
    return float(
        np.average(small["erosion"], weights=small["voxels"]) - np.average(large["erosion"], weights=large["voxels"])
    )


def loss_ratio(run: Run) -> float:
    """Gradient ratio of the loss on the crop that is measured; nan for no run."""
    return float(next(iter(run.layers["loss_ratio"]), np.nan))


def missed_auc(branches: pd.DataFrame, by: str, strata: int = 1) -> float:
    """Probability that a missed branch has more of `by` than a found one, ties halved: the area under the ROC curve.

    strata: groups of equally many branches by radius; only pairs within a group count. nan for too few of a kind.
    """
    if min(branches["missed"].sum(), (~branches["missed"]).sum()) < FEWEST:
        return np.nan
    won = pairs = 0.0
    for _, group in branches.groupby(pd.qcut(branches["radius_mm"].rank(method="first"), strata, labels=False)):
        missed, found = (group.loc[group["missed"] == kind, by].to_numpy()[:, None] for kind in (True, False))
        difference = missed - found.T
        won += (difference > 0).sum() + 0.5 * (difference == 0).sum()
        pairs += difference.size
    return float(won / pairs) if pairs else np.nan


def variance_to_output(layer: str) -> float:
    """Variance, in square voxels, of the blur on the shortest way from the network's output to that of a block.

    A 3x3x3 kernel, taken for a box, adds 2/3 of the square of dilation times stride along each axis.
    """
    level, names = BLOCKS[layer][0], list(BLOCKS)
    after = names[names.index(layer) + 1 :]
    way = [name for name in after if name in DECODER and (layer in DECODER or BLOCKS[name][0] <= level)]
    way += [name for name in after if layer in ENCODER and name in ENCODER and BLOCKS[name][0] == level]
    return BOX_VARIANCE * sum((BLOCKS[name][3] * 2 ** BLOCKS[name][0]) ** 2 for name in way)


def law_by_layer(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Set the critical-radius law against measurement, layer by layer, where only WingsNet's last block is supervised.

    Returns
    -------
    DataFrame
        `loss`, `supervision`, `seed`, `layer`, `variance` (square voxels), `ratio` (the loss's, after the last epoch),
        `law` (critical radius, voxels) and `measured` (radius, voxels, at which half of the airway is eroded: nan if
        more or less is at every radius).
    """
    rows = []
    for name in tables["layers"]["run"].unique():
        run = rows_of_run(tables, name).last()
        loss, supervision, seed = run.layers[["loss", "supervision", "seed"]].iloc[0]
        if supervision != "final":
            continue
        ratio = loss_ratio(run)
        for layer, group in run.bins[run.bins["by"] == "radius_voxels"].groupby("layer", sort=False):
            if layer in BLOCKS:
                variance = variance_to_output(layer)
                law = float(critical_radius(1, ratio, variance)) if variance else 0.0
                rows.append([loss, supervision, seed, layer, variance, ratio, law, half_eroded(group)])
    return pd.DataFrame(rows, columns=["loss", "supervision", "seed", "layer", "variance", "ratio", "law", "measured"])


def half_eroded(bins: pd.DataFrame) -> float:
    """Radius in voxels at which erosion falls through one half, between the centres of bins 2 voxels wide."""
    radius, erosion = 2 * bins["bin"].to_numpy() + 1.0, bins["erosion"].to_numpy()
    for low in range(len(bins) - 1):
        if erosion[low] >= 0.5 > erosion[low + 1]:
            share = (erosion[low] - 0.5) / (erosion[low] - erosion[low + 1])
            return float(radius[low] + share * (radius[low + 1] - radius[low]))
    return np.nan
