"""Compute, for each seed, the number that each claim about gradients rests on: gradients/measures.csv.

claims.yaml says in words what each measure is, and judges it. Here is a function for each claim, named like it. It
compares backward passes of the same weights on the same crops: they differ in the loss, or in the encoder group's loss
(`swaps` of analysis/gradients.py). Networks are taken after their last epoch, and a seed's value is their mean.

The last block is left out where layers are compared: at the output, an airway voxel has airway gradient only.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from airwaylib.gradients.theory import BOX_VARIANCE, critical_radius
from airwaylib.losses.ratio import PLACES
from airwaylib.networks.wingsnet import BLOCKS, DECODER, ENCODER
from airwaystudy.analysis.gradients import RADIUS_BIN, last_epoch, over_crops

INNER = tuple(BLOCKS)[:-1]
SHALLOW = ENCODER[:3]  # the blocks at full resolution, which back-propagation reaches last


def measures_by_seed(swaps: pd.DataFrame) -> pd.DataFrame:
    """Tabulate all measures: `claim`, `seed`, `value`, `networks` (how many it is the mean of).

    A value that cannot be computed, for want of a network, layer or airway, has no row.
    """
    networks, rows = over_crops(last_epoch(swaps)), []
    for seed, of_seed in networks.groupby("seed"):
        for claim in CLAIMS:
            values = claim(of_seed).dropna()
            if len(values):
                rows.append((claim.__name__, seed, values.mean(), len(values)))
    return pd.DataFrame(rows, columns=["claim", "seed", "value", "networks"])


# ------------------------------------------------------------------ a function for each claim: a value for each network


def a_small_ratio_erodes(networks: pd.DataFrame) -> pd.Series:
    """Compare erosion in the encoder: Dice in the backward pass minus General Union."""
    return over_layers(between_losses(networks, networks["erosion"]), ENCODER)


def a_large_ratio_dilates(networks: pd.DataFrame) -> pd.Series:
    """Compare dilation in all blocks but the last: General Union in the backward pass minus Dice."""
    return -over_layers(between_losses(networks, networks["dilation"]), INNER)


def erosion_accumulates(networks: pd.DataFrame) -> pd.Series:
    """Compare erosion under Dice on the last block: at the first block minus the last but one."""
    plain = networks[(networks["supervision"] == "final") & (networks["backward_loss"] == "dice")]
    by_layer = plain.set_index(["run", "layer"])["erosion"].unstack().reindex(columns=list(BLOCKS))
    return by_layer[INNER[0]] - by_layer[INNER[-1]]


def group_supervision_feeds_shallow_layers(networks: pd.DataFrame) -> pd.Series:
    """Compare erosion in the shallow blocks: without the encoder group's loss minus with it, mean of the losses."""
    return over_layers(without_encoder_group(networks), SHALLOW)


def general_union_balances_size(networks: pd.DataFrame) -> pd.Series:
    """Compare how much more small airways are eroded than large ones at the first block: Dice minus General Union."""
    gap = networks["erosion_small"] - networks["erosion_large"]
    return over_layers(between_losses(networks, gap), INNER[:1])


CLAIMS = (
    a_small_ratio_erodes,
    a_large_ratio_dilates,
    erosion_accumulates,
    group_supervision_feeds_shallow_layers,
    general_union_balances_size,
)


# ------------------------------------------------------------------------------------------------ what they are made of


def between_losses(networks: pd.DataFrame, values: pd.Series) -> pd.Series:
    """Take values under Dice less those under General Union, groups as in training; by run and layer.

    networks: of `over_crops`, with one row for each run, layer, loss and group's loss; values: one for each row.
    """
    trained = networks["encoder_loss"] == networks.groupby("run")["encoder_loss"].transform("max")
    wide = networks.assign(value=values)[trained].pivot_table("value", ["run", "layer"], "backward_loss", sort=False)
    wide = wide.reindex(columns=["dice", "general_union"])
    return wide["dice"] - wide["general_union"]


def without_encoder_group(networks: pd.DataFrame) -> pd.Series:
    """Take erosion without the encoder group's loss less that with it, mean of the losses; by run and layer."""
    wide = networks.pivot_table("erosion", ["run", "layer"], "encoder_loss", sort=False)
    wide = wide.reindex(columns=[False, True])
    return wide[False] - wide[True]


def over_layers(differences: pd.Series, layers: Iterable[str]) -> pd.Series:
    """Average values by run and layer over some layers: a value a run."""
    return differences[differences.index.isin(list(layers), level="layer")].groupby("run").mean()


def variance_to_output(layer: str) -> float:
    """Compute the variance, in square voxels, of the blur on the shortest way from the network's output to a block.

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
        `loss`, `supervision`, `seed`, `layer`, `variance` (square voxels), `at` (where the loss's ratio is taken, see
        `losses.ratio`; what is propagated is the gradient at the logit), `ratio` (after the last epoch, geometric mean
        of the crops), `law` (critical radius, voxels), `measured` and `bound` (see `half_eroded`), `erosion_thinnest`
        (of airways thinner than 2 voxels in radius), `lost` (whether the law says that an airway as thin as their
        middle, 1 voxel, is lost) and `half_eroded` (whether at least half of them is in fact eroded).
    """
    layers, bins = (over_crops(last_epoch(tables[name])) for name in ("layers", "bins"))
    bins, rows = bins[(bins["by"] == "radius_voxels") & (bins["supervision"] == "final")], []
    for (run, layer), group in bins.groupby(["run", "layer"], sort=False):
        if layer not in BLOCKS:
            continue
        about = layers[(layers["run"] == run) & (layers["layer"] == layer)].iloc[0]
        group, variance = group.sort_values("bin"), variance_to_output(layer)
        thinnest, (measured, bound) = group["erosion"].iloc[0], half_eroded(group)
        for at, ratio in zip(PLACES, about[["loss_ratio", "loss_ratio_logit"]], strict=True):
            law = float(critical_radius(1, ratio, variance)) if variance else 0.0
            row = about[["loss", "supervision", "seed"]].to_dict() | {"layer": layer, "variance": variance}
            row |= {"at": at, "ratio": ratio, "law": law, "measured": measured, "bound": bound}
            lost = bool(law > RADIUS_BIN / 2)
            rows.append(row | {"erosion_thinnest": thinnest, "lost": lost, "half_eroded": bool(thinnest >= 0.5)})
    columns = ["loss", "supervision", "seed", "layer", "variance", "at", "ratio", "law", "measured", "bound"]
    return pd.DataFrame(rows, columns=[*columns, "erosion_thinnest", "lost", "half_eroded"])


def half_eroded(bins: pd.DataFrame) -> tuple[float, str]:
    """Find the radius in voxels at which erosion falls through one half, between the centres of the bins.

    A radius beyond the bins is bounded by the centre of the first or last one: the second value is "at most" if even
    the thinnest airways are less than half eroded, "at least" if all are more; else it is empty.
    """
    bins = bins.dropna(subset="erosion")
    radius, erosion = RADIUS_BIN * (bins["bin"].to_numpy() + 0.5), bins["erosion"].to_numpy()
    if not len(bins):
        return np.nan, ""
    if erosion[0] < 0.5:
        return float(radius[0]), "at most"
    for low in range(len(bins) - 1):
        if erosion[low + 1] < 0.5:
            share = (erosion[low] - 0.5) / (erosion[low] - erosion[low + 1])
            return float(radius[low] + share * (radius[low + 1] - radius[low])), ""
    return float(radius[-1]), "at least"
