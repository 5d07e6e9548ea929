"""What every figure and table of a study shows, in words: captions, and texts for those who cannot see the figures.

The one place for them: the report takes them from here. A key is the stem of a file in results/<study>/figures/ or
tables/.
"""

from typing import NamedTuple


class Caption(NamedTuple):
    """Of a figure. `alt` says what is seen; `maker`: the notebook it comes from; `of_data`: whether it shows data."""

    title: str
    alt: str
    maker: str
    of_data: bool = True


FIGURES = {
    "architecture": Caption(
        "WingsNet and its two groups",
        "Blocks from left to right in the order they run, finer levels higher; each block's tap goes up to the "
        "bar of the encoder group or of the decoder group.",
        "04_figures",
        False,
    ),
    "tube_erosion": Caption(
        "A tube under repeated averaging",
        "Left, the gradient across a tube of radius 2 voxels after 1 to 18 layers: its peak sinks below "
        "zero. Right, the share of a tube's cross-section that has lost its sign, by layer: thin tubes lose it first.",
        "04_figures",
        False,
    ),
    "gradient_maps": Caption(
        "Who owns the gradient, from the last layer to the first",
        "One slice of a held-out case at several layers, a row a run: red where the airway's part of the "
        "gradient is the larger one, blue where the background's is.",
        "04_figures",
    ),
    "class_ratios": Caption(
        "Class-wise gradient ratio over training",
        "A panel for the output and one for each of three layers; lines of the variants over training steps, "
        "with bands from the lowest to the highest seed and a grey line at 1.",
        "04_figures",
    ),
    "effects": Caption(
        "What one change of one factor does",
        "A forest plot: a row a pair of variants, grouped by factor, a panel a metric; a dot for the "
        "difference, a thick bar for the interval over the seeds, a thin one for that over the cases, and a line at 0.",
        "03_ablations",
    ),
    "td_against_precision": Caption(
        "Tree length detected against precision, variant by variant",
        "A marker a variant at its mean precision and tree length, with bars from the lowest to the highest seed, "
        "and a small dot for each seed.",
        "03_ablations",
    ),
    "ablation_by_diameter": Caption(
        "Tree length detected by airway diameter, variant by variant",
        "A line a variant over bins of airway diameter, with bars from the lowest to the highest seed and the "
        "number of branches under each bin.",
        "03_ablations",
    ),
    "scores_by_diameter": Caption(
        "DSC, branches and tree length detected by airway diameter",
        "Three panels; in each, markers of the variants side by side in bins of airway diameter from 0-2 to "
        "8-20 mm, with bars from the lowest to the highest seed.",
        "04_figures",
    ),
    "trade_off": Caption(
        "Tree length detected against precision as the threshold moves",
        "A thin line a seed and a thick one for their mean, for each variant, from threshold 0.001 to 0.999; the "
        "marker of 0.5 is filled.",
        "04_figures",
    ),
    "trees": Caption(
        "One held-out case in 3-D: detected, missed, leaked",
        "A column a variant with the airway tree from the front and from the side; detected parts, missed ones "
        "and leaks are told apart by colour. False voxels in the rim, within one voxel of the label, are counted and "
        "not drawn.",
        "04_figures",
    ),
    "predictions": Caption(
        "One held-out case: truth and predictions",
        "Above, a coronal CT slice with the true and the predicted airway outlined, a column for the truth and "
        "one for each variant; below, the airway tree in 3-D, detected parts blue, missed ones orange, false ones "
        "vermilion.",
        "04_figures",
    ),
    "tree": Caption(
        "Its tree: branches detected and missed",
        "Centrelines of the airway tree seen from the front and from the left; branches that the prediction detects "
        "are blue and solid, those that it misses orange and dotted.",
        "04_figures",
    ),
    "critical_radius": Caption(
        "The critical-radius law against simulation",
        "Critical radius in voxels over the number of layers, for gradient ratios of 1, 2, 6 and 9: curves of "
        "the law, markers of the simulation close above them.",
        "01_gradient_erosion",
        False,
    ),
    "ratios": Caption(
        "Gradient ratio by loss as the prediction gets better",
        "Closed forms over the loss's index, one curve a loss, with markers of the ratios measured in "
        "training; Dice's falls to 1, General Union's stays above it on the centreline.",
        "01_gradient_erosion",
    ),
    "erosion_by_layer": Caption(
        "Erosion and dilation, layer by layer",
        "Share of airway voxels whose gradient the background owns, for each block of the network from the "
        "last to the first, with one line a loss and supervision and bands over the seeds.",
        "01_gradient_erosion",
    ),
    "origin": Caption(
        "Which way the gradient came",
        "Share of an airway voxel's gradient that came by the encoder's own taps, for each block, where both groups "
        "are supervised.",
        "01_gradient_erosion",
    ),
    "erosion_by_radius": Caption(
        "Erosion by airway radius",
        "Share of eroded airway voxels at the first block over bins of airway radius, one line a loss and supervision.",
        "01_gradient_erosion",
    ),
    "law_by_layer": Caption(
        "The law in a trained network",
        "Radius at which half of the airway is eroded, as the law has it and as measured, for each block that has one.",
        "01_gradient_erosion",
    ),
    "missed": Caption(
        "Early erosion and branches missed in the end",
        "Every branch of the held-out cases by its radius and its erosion early in training; crosses are "
        "missed in the end, circles are found.",
        "01_gradient_erosion",
    ),
    "gradient_descent_by_layer": Caption(
        "Who owns the gradient, from the last layer to the first",
        "One slice of a held-out case at five layers: red where the airway's part of the gradient is the larger one, "
        "blue where the background's is.",
        "05_explore_gradients",
    ),
}

TABLES = {
    "ablation": "Each variant: mean over seeds of the mean over cases, with Student's 95 % interval over the seeds.",
    "effects": "One change of one factor: mean difference, paired by seed and case, with its interval over the seeds.",
    "scores": "Each variant on the held-out cases, with Student's 95 % interval over the seeds.",
    "comparison": "Each variant against the baseline, paired by seed and case.",
    "scores_by_diameter": "By airway diameter, in the bins of Zheng et al. 2021, figure 9; the cases of a seed pooled.",
    "published": "Beside published scores: other data and conventions, so the levels cannot be compared.",
    "exact09": "The columns of EXACT'09, case by case, under convention exact09.",
    "coverage": "What was planned, what was run and what was not.",
    "not_compared": "Pairs of variants that differ by more than one factor, and are not compared.",
    "runs": "Every run: settings, parameters, time.",
    "by_seed": "Each seed of each variant: mean over the cases.",
    "scores_by_case": "Every run on every held-out case.",
    "ablation_by_diameter": "Each variant by airway diameter, with intervals over the seeds.",
    "ablation_by_generation": "Each variant by generation of the branch, trachea 0.",
    "trees": "Voxels behind the figure of trees: detected, missed, in the rim, leaked.",
    "tree": "The branches of the tree to turn, with the share that is detected.",
    "architecture": "WingsNet's blocks: level, channels, dilation, gates, parameters.",
    "architecture_groups": "WingsNet's groups: taps, channels, parameters.",
    "gradient_maps": "Measures behind the figure of gradient maps.",
    "class_ratios": "Gradient ratios along the training runs, layer by layer.",
    "trade_off": "Tree length detected and precision by threshold.",
    "td_at_precision": "Tree length detected at the threshold that gives at least so much precision, run by run.",
    "tube_profiles": "The gradient across a tube after some layers.",
    "tube_erosion": "The share of a tube's cross-section that has lost its sign, by layer.",
}
EXPECTED_FIGURES = (
    "effects",
    "scores_by_diameter",
    "trade_off",
    "trees",
    "predictions",
    "tree",
    "class_ratios",
    "ratios",
)
EXPECTED_FIGURES += ("erosion_by_layer", "erosion_by_radius")
EXPECTED_TABLES = ("ablation", "effects", "scores_by_case", "scores_by_diameter", "runs")


def figure_caption(stem: str) -> Caption:
    """The caption of a figure; of one that is not listed, its name.

    Examples
    --------
    >>> figure_caption("loss_curves").title
    'Loss curves'
    """
    words = stem.replace("_", " ").capitalize()
    return FIGURES.get(stem, Caption(words, f"Figure: {words}. Its numbers are in the tables of this study.", ""))


def table_caption(stem: str) -> str:
    """The caption of a table; of one that is not listed, its name."""
    return TABLES.get(stem, stem.replace("_", " ").capitalize())
