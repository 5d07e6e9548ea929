"""Claims 1 to 4 of Zheng et al. 2021 about gradients, each decided by measures over seeds.

Every measure is a difference or an association, one value a seed, with Student's 95 % interval of its mean. It supports
the claim if the interval lies above the measure's null, contradicts it if below, and leaves it open otherwise. A claim
holds if all its measures support it, and partly if some do and none contradicts it; it is mixed if some support and
some contradict it, doesn't hold if some contradict it and none supports it, and is open if none says anything. The
intervals cover the noise of training, not that of cases: one view is looked at.

The last block is left out where layers are compared: at the output, an airway voxel has airway gradient only.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from airwaylib.gradients.theory import BOX_VARIANCE, critical_radius
from airwaylib.metrics.intervals import mean_interval
from airwaylib.networks.wingsnet import BLOCKS, DECODER, ENCODER

CLAIMS = {
    1: "small airways are hard because background erodes their gradient",
    2: "erosion accumulates from the top layers to the bottom ones",
    3: "group supervision gives shallow layers complementary gradient",
    4: "the General Union loss takes airway size out of the balance and keeps the ratio high",
}
SMALL = 1  # bins of `gradient_study.RADII_MM` below it are small airways: less than 2 mm across
LARGE = 2  # from it on: more than 4 mm across
SHALLOW = ENCODER[:3]  # the blocks at full resolution, which back-propagation reaches last
FEWEST = 3  # branches missed, and found, for an association


class Tables(NamedTuple):
    """What a study took down: the tables of `gradient_study.run_study`."""

    layers: pd.DataFrame
    bins: pd.DataFrame
    branches: pd.DataFrame

    def of(self, loss: str, supervision: str, seed: int) -> "Tables":
        """The rows of one run; of layers and bins, those of the last epoch, when training has done what it does."""
        rows = [t[(t["loss"] == loss) & (t["supervision"] == supervision) & (t["seed"] == seed)] for t in self]
        return Tables(*(t[t["epoch"] == t["epoch"].max()] for t in rows[:2]), rows[2])


def verdicts(tables: Tables, losses: tuple[str, str], supervisions: tuple[str, str]) -> pd.DataFrame:
    """Every measure with its interval and what it says, and each claim's verdict.

    Parameters
    ----------
    losses, supervisions :
        The baseline and what the paper sets against it: ("dice", "general_union") and ("final", "both").

    Returns
    -------
    DataFrame
        `claim`, `statement`, `measure`, `null`, `value`, `low`, `high`, `seeds`, `says`, `verdict`.
    """
    seeds = sorted(tables.layers["seed"].unique())
    rows = []
    for claim, measure, null, of_seed in measures(tables, losses, supervisions):
        values = np.array([of_seed(seed) for seed in seeds], float)
        values = values[np.isfinite(values)]
        low, high = mean_interval(values)
        says = "supports" if low > null else "contradicts" if high < null else "open"
        middle = values.mean() if len(values) else np.nan
        rows.append([claim, CLAIMS[claim], measure, null, middle, low, high, len(values), says])
    columns = ["claim", "statement", "measure", "null", "value", "low", "high", "seeds", "says"]
    table = pd.DataFrame(rows, columns=columns)
    support = table["says"].eq("supports").groupby(table["claim"]).mean()
    against = table["says"].eq("contradicts").groupby(table["claim"]).any()
    names = support.map(lambda share: "holds" if share == 1 else "holds partly" if share else "open")
    names[against] = np.where(support[against] > 0, "mixed", "doesn't hold")
    return table.assign(verdict=table["claim"].map(names))


def measures(
    tables: Tables, losses: tuple[str, str], supervisions: tuple[str, str]
) -> Iterator[tuple[int, str, float, Callable[[int], float]]]:
    """Claim, measure in words, its null, and its value for a seed."""
    (plain_loss, new_loss), (plain, grouped) = losses, supervisions
    base = f"{plain_loss}, {plain}"

    def run(seed: int, loss: str = plain_loss, supervision: str = plain) -> Tables:
        return tables.of(loss, supervision, seed)

    yield (
        1,
        f"erosion at the first layer, airways under 2 mm minus those over 4 mm ({base})",
        0,
        lambda s: size_gap(run(s)),
    )
    # Early: in the end a missed branch has more gradient of its own just because it is missed.
    for strata, among in ((1, ""), (3, " among branches of similar radius")):
        yield (
            1,
            f"probability that a missed branch was more eroded early than a found one{among} ({base})",
            0.5,
            lambda s, strata=strata: missed_auc(run(s).branches, "erosion_early", strata),
        )
    yield (
        2,
        f"rank correlation of erosion with how much the way from the output blurs ({base})",
        0,
        lambda s: depth_correlation(run(s).layers),
    )
    yield (
        2,
        f"erosion at the first block minus the last but one ({base})",
        0,
        lambda s: at_layer(run(s).layers, ENCODER[0]) - at_layer(run(s).layers, DECODER[-2]),
    )
    yield (
        2,
        f"erosion at the deepest block minus the last but one ({base})",
        0,
        lambda s: at_layer(run(s).layers, ENCODER[-1]) - at_layer(run(s).layers, DECODER[-2]),
    )
    for blocks, name in ((SHALLOW, "shallow blocks"), (ENCODER, "encoder")):
        for loss in losses:
            yield (
                3,
                f"mean erosion of the {name}, {plain} minus {grouped} ({loss})",
                0,
                lambda s, loss=loss, blocks=blocks: (
                    mean_erosion(run(s, loss).layers, blocks) - mean_erosion(run(s, loss, grouped).layers, blocks)
                ),
            )
    for supervision in supervisions:
        yield (
            4,
            f"gap of erosion between small and large airways, {plain_loss} minus {new_loss} ({supervision})",
            0,
            lambda s, how=supervision: size_gap(run(s, plain_loss, how)) - size_gap(run(s, new_loss, how)),
        )
        yield (
            4,
            f"gradient ratio after the last epoch, {new_loss} minus {plain_loss} ({supervision})",
            0,
            lambda s, how=supervision: final_ratio(run(s, new_loss, how)) - final_ratio(run(s, plain_loss, how)),
        )


def at_layer(layers: pd.DataFrame, layer: str) -> float:
    """Erosion at a layer."""
    return float(layers.set_index("layer")["erosion"][layer])


def mean_erosion(layers: pd.DataFrame, blocks: tuple[str, ...]) -> float:
    """Mean erosion of some blocks."""
    return float(layers.loc[layers["layer"].isin(blocks), "erosion"].mean())


def depth_correlation(layers: pd.DataFrame) -> float:
    """Spearman's correlation of erosion with `variance_to_output`, over all blocks but the last."""
    layers = layers[layers["layer"] != DECODER[-1]]
    return float(spearmanr(layers["layer"].map(variance_to_output), layers["erosion"]).statistic)


def size_gap(run: Tables) -> float:
    """Erosion of small airways less that of large ones, at the first layer."""
    rows = run.bins[(run.bins["by"] == "radius_mm") & (run.bins["layer"] == ENCODER[0])]
    small, large = rows[rows["bin"] < SMALL], rows[rows["bin"] >= LARGE]
    if small.empty or large.empty:
        return np.nan
    return float(
        np.average(small["erosion"], weights=small["voxels"]) - np.average(large["erosion"], weights=large["voxels"])
    )


def missed_auc(branches: pd.DataFrame, by: str, strata: int = 1) -> float:
    """Probability that a missed branch has more of `by` than a found one, ties halved: the area under the ROC curve.

    strata: groups of equally many branches, by radius; only pairs within a group count. nan for too few of a kind.
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


def final_ratio(run: Tables) -> float:
    """Gradient ratio of the loss after the last epoch, on the crop looked at."""
    return float(run.layers["loss_ratio"].iloc[0])


def variance_to_output(layer: str) -> float:
    """Variance in square voxels that the blocks add up to on the shortest way from the network's output to a block's.

    One 3x3x3 kernel has 2/3 of the square of dilation times stride along each axis, if taken for a box.
    """
    level, names = BLOCKS[layer][0], list(BLOCKS)
    after = names[names.index(layer) + 1 :]
    way = [name for name in after if name in DECODER and (layer in DECODER or BLOCKS[name][0] <= level)]
    way += [name for name in after if layer in ENCODER and name in ENCODER and BLOCKS[name][0] == level]
    return BOX_VARIANCE * sum((BLOCKS[name][3] * 2 ** BLOCKS[name][0]) ** 2 for name in way)


def law_table(tables: Tables) -> pd.DataFrame:
    """The critical-radius law against measurement, layer by layer, where only the last block is supervised.

    Returns
    -------
    DataFrame
        `loss`, `supervision`, `seed`, `layer`, `variance` (square voxels), `ratio` (the loss's, after the last epoch),
        `law` (critical radius, voxels) and `measured` (radius, voxels, at which half of the airway is eroded: nan if
        more or less is at every radius).
    """
    rows = []
    for (loss, supervision, seed), _ in tables.layers.groupby(["loss", "supervision", "seed"], sort=False):
        run = tables.of(loss, supervision, seed)
        if supervision != "final":
            continue
        bins = run.bins[run.bins["by"] == "radius_voxels"]
        ratio = final_ratio(run)
        for layer, group in bins.groupby("layer", sort=False):
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
