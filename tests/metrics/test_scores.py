"""Scores by hand on lines, an L and boxes, under each convention; and the ATM'22 evaluator's own numbers."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from airwaylib.errors import InputError
from airwaylib.images.masks import largest_component
from airwaylib.images.volume import read_mask
from airwaylib.metrics.reference import CONVENTIONS, Reference, parse_reference
from airwaylib.metrics.scores import (
    by_diameter,
    by_generation,
    evaluate,
    overlap_by_diameter,
    pool_groups,
)
from airwaystudy.phantoms.drawing import Grid, draw_tubes

ATM22 = Path(__file__).parents[3] / "shared" / "data" / "atm22-teams"


def empty(shape=(9, 20, 30)):
    return np.zeros(shape, bool)


def line(start=0, stop=30):
    mask = empty()
    mask[4, 4, start:stop] = True
    return mask


def scored(prediction, reference, *names, **options):
    """The scores called `names`."""
    scores = evaluate(prediction, reference, **options)
    return tuple(scores[name] for name in names)


def test_a_line_found_in_part():
    # 15 of 20 voxels, and thinning leaves a line as it is. One branch, of which 75 % is not enough.
    scores = evaluate(line(5, 20), line(0, 20))
    expected = {"td": 75, "bd": 0, "dsc": 2 * 15 / 35 * 100, "precision": 100, "tpr": 75, "fpr": 0, "iou": 75}
    expected |= {"leakage": 0, "amr": 25, "cldice": 200 * 0.75 / 1.75, "betti0_error": 0}
    expected |= {"branches": 1, "branches_detected": 0, "length_mm": 19, "length_detected_mm": 0.75 * 19}
    assert scores == pytest.approx(expected)


def test_a_branch_counts_from_80_percent_on():
    assert scored(line(4, 20), line(0, 20), "bd", "branches_detected") == (100, 1)
    assert scored(line(5, 20), line(0, 20), "bd", "branches_detected") == (0, 0)


def test_a_line_overshot():
    # 10 voxels in common, 10 beyond the end, 10 missed; 5400 voxels, 20 of them the label's.
    names = ("td", "dsc", "precision", "tpr", "fpr", "iou", "leakage", "amr", "cldice")
    expected = (50, 50, 50, 50, 100 * 10 / 5380, 100 / 3, 50, 50, 50)
    assert scored(line(10, 30), line(0, 20), *names) == pytest.approx(expected)


def test_an_l_of_which_one_arm_is_found():
    reference = empty()
    reference[4, 5, 5:15] = True  # 10 voxels, the corner among them
    reference[4, 6:15, 5] = True  # 9 voxels
    prediction = empty()
    prediction[4, 5, 5:15] = True
    # Thinning takes the corner, whose neighbours touch by an edge: 9 + 9 skeleton voxels, of which 9 are found.
    names = ("td", "dsc", "precision", "tpr")
    assert scored(prediction, reference, *names) == pytest.approx((50, 200 * 10 / 29, 100, 100 * 10 / 19))


def test_a_thick_tube_is_measured_along_its_axis():
    reference = empty()
    reference[3:6, 3:6, 3:27] = True  # 3 x 3 x 24: its skeleton is the axis without the end voxels, 22 long
    prediction = reference.copy()
    prediction[:, :, 15:] = False
    prediction[3] = False  # two thirds of the section stay, with the axis
    names = ("td", "dsc", "precision", "tpr")
    assert scored(prediction, reference, *names) == pytest.approx((50, 2 * 72 / (72 + 216) * 100, 100, 100 / 3))


def test_millimetres_follow_the_spacing():
    assert scored(line(0, 10), line(0, 20), "length_mm", spacing=(0.5, 3, 3)) == pytest.approx((19 * 0.5,))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_mask_against_itself_is_perfect(convention):
    scores = evaluate(tree_mask(), tree_mask(), convention=convention)
    perfect = {"td", "bd", "dsc", "precision", "tpr", "iou", "cldice"}
    assert {scores[name] for name in perfect} == {100.0}
    assert {scores[name] for name in ("fpr", "leakage", "amr", "betti0_error")} == {0}
    assert scores["branches_detected"] == scores["branches"] > 2
    assert scores["length_detected_mm"] == pytest.approx(scores["length_mm"])


def test_scores_are_plain_numbers():
    assert {type(score) for score in evaluate(line(3, 9), line()).values()} == {float, int}


# --------------------------------------------------------------------------------------------------------- conventions


def tree_mask():
    """A trunk that splits in two: tubes of radius 2, 3 branches."""
    start = np.array([[20.2, 10.1, 38.0], [20.2, 10.1, 22.0], [20.2, 10.1, 22.0]])
    end = np.array([[20.2, 10.1, 22.0], [6.0, 10.1, 6.0], [34.0, 10.1, 6.0]])
    return draw_tubes(Grid((42, 21, 42), (1.0, 1.0, 1.0)), start, end, np.full((3, 2), 2.2)) <= 0


def test_paper_and_aiib23_take_the_largest_component_and_atm22_the_mask_as_given():
    prediction = line(0, 12) | line(13, 20)  # 12 and 7 voxels, a gap of one
    for convention in ("paper", "aiib23", "exact09"):
        assert scored(prediction, line(0, 20), "td", "tpr", "betti0_error", convention=convention) == (60, 60, 0)
    assert scored(prediction, line(0, 20), "td", "tpr", "betti0_error", convention="atm22") == (95, 95, 1)


def test_atm26_takes_the_largest_component_for_td_and_bd_alone_and_26_connected():
    prediction = line(0, 12) | line(13, 20)
    assert scored(prediction, line(0, 20), "td", "bd", "tpr", "betti0_error", convention="atm26") == (60, 0, 95, 1)
    corner = line(0, 12)
    corner[5, 5, 12:20] = True  # touches by a corner: one piece when 26-connected, two when 6-connected
    assert scored(corner, line(0, 20), "betti0_error", convention="atm26") == (0,)
    assert scored(corner, corner, "td", convention="atm26") == (100,)
    assert largest_component(corner, 26).sum() == 20
    assert largest_component(corner, 6).sum() == 12


def test_the_label_counts_as_given_or_with_its_largest_component():
    reference = line(0, 12)
    reference[4, 12, 0:8] = True  # a second component, 8 of 20 skeleton voxels
    names = ("td", "bd", "tpr", "branches")
    assert scored(line(0, 12), reference, *names) == pytest.approx((60, 100, 60, 1))
    assert scored(line(0, 12), reference, *names, convention="atm22") == pytest.approx((100, 100, 60, 1))


def test_aiib23_does_not_merge():
    mask = line()
    mask[4, 5:8, 12] = True  # a twig that is too short for a branch, but parts the line in two
    assert scored(mask, mask, "branches", convention="aiib23") == (2,)
    assert scored(mask, mask, "branches", convention="paper") == (1,)


def test_given_branches_replace_the_parsed_ones():
    labels = np.zeros((9, 20, 30), np.uint8)
    labels[4, 4, :15], labels[4, 4, 15:] = 3, 7
    scores = evaluate(line(0, 20), line(), convention="atm26", branches=labels)
    assert (scores["branches"], scores["branches_detected"]) == (2, 1)  # 15 of 15, and 5 of 15
    assert scores["length_mm"] == pytest.approx(29)
    assert scores["td"] == pytest.approx(100 * 20 / 30)


def test_exact09_has_its_columns_besides():
    scores = evaluate(tree_mask(), tree_mask(), convention="exact09")
    assert scores["exact09_branch_count"] == 2  # without the trachea
    assert "exact09_branch_count" not in evaluate(tree_mask(), tree_mask())


# ----------------------------------------------------------------------------------------------------------- bad input


def test_an_empty_prediction_scores_0():
    scores = evaluate(empty(), line())
    assert {name: score for name, score in scores.items() if score} == pytest.approx(
        {"amr": 100, "betti0_error": 1, "branches": 1, "length_mm": 29}
    )


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float64])
def test_masks_of_0_and_1_are_masks(kind):
    prediction, reference = line(0, 12), line()
    numbers = evaluate(prediction.astype(kind), reference.astype(kind), convention="atm22")
    assert numbers == evaluate(prediction, reference, convention="atm22")


def test_inputs_stay_as_they_were():
    prediction, reference = line(0, 4) | line(6, 20), line()
    before = prediction.copy(), reference.copy()
    for convention in CONVENTIONS:
        evaluate(prediction, reference, convention=convention)
    assert np.array_equal(prediction, before[0])
    assert np.array_equal(reference, before[1])


@pytest.mark.parametrize(
    ("prediction", "reference", "options", "message"),
    [
        (line(), np.zeros((9, 20, 31), bool), {}, "(9, 20, 30) and reference (9, 20, 31) are not on one grid"),
        (line(), empty(), {}, "the reference mask is empty"),
        (line()[4], line()[4], {}, "prediction of shape (20, 30): three axes (z, y, x) are needed"),
        (line() * 0.7, line(), {}, "prediction of type float64: it must be a mask of booleans, or of 0 and 1"),
        (line(), line(), {"convention": "atm23"}, "'atm23' is unknown: choose one of paper, atm22, atm26, aiib23"),
        (line(), line(), {"branches": np.ones((3, 3, 3))}, "branches (3, 3, 3) are not on one grid"),
    ],
    ids=["shapes", "empty", "2-D", "float", "convention", "branches"],
)
def test_what_cannot_be_scored_is_refused(prediction, reference, options, message):
    with pytest.raises(InputError) as caught:
        evaluate(prediction, reference, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_of_even_width_keeps_a_length():
    tube = empty((8, 8, 60))
    tube[3:5, 3:5, 5:55] = True  # plain thinning leaves nothing of it
    assert scored(tube, tube, "td", "bd", "cldice") == (100, 100, 100)
    half = tube.copy()
    half[:, :, 30:] = False
    assert scored(half, tube, "td")[0] == pytest.approx(50, abs=3)


# ----------------------------------------------------------------------------------------------------------- properties


@settings(max_examples=50, deadline=None)
@given(arrays(bool, (5, 6, 7)), st.integers(1, 7))
def test_scores_of_voxels_agree_with_each_other(prediction, length):
    reference = empty((5, 6, 7))
    reference[2, 3, :length] = True
    for convention in CONVENTIONS:
        scores = evaluate(prediction, reference, convention=convention)
        percent = ("td", "bd", "dsc", "precision", "tpr", "fpr", "iou", "amr", "cldice")
        assert all(0 <= scores[name] <= 100 for name in percent)
        total = scores["precision"] + scores["tpr"]
        assert scores["dsc"] == pytest.approx(2 * scores["precision"] * scores["tpr"] / total if total else 0)
        assert scores["iou"] == pytest.approx(100 * scores["dsc"] / (200 - scores["dsc"]))
        assert scores["amr"] == pytest.approx(100 - scores["tpr"])


@settings(max_examples=25, deadline=None)
@given(
    st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), st.integers(0, 3), st.sampled_from(list(CONVENTIONS))
)
def test_turning_flipping_or_a_margin_changes_nothing(order, flips, margin, convention):
    """True of scores of voxels for any mask; of the tree's where thinning does not depend on the axes, as on lines."""
    reference = empty((12, 12, 24))
    reference[5, 5, 1:23] = True
    reference[5, 6:12, 11] = reference[0:5, 5, 11] = True  # two side branches; all four segments of another length
    prediction = reference.copy()
    prediction[:, 8:] = False
    prediction[3, 5, 2:8] = True

    def turned(mask):
        mask = np.pad(mask.transpose(order), margin)
        return np.flip(mask, [axis for axis in range(3) if flips[axis]])

    before = evaluate(prediction, reference, convention=convention)
    after = evaluate(turned(prediction), turned(reference), convention=convention)
    del before["fpr"], after["fpr"]  # the share of a background that the margin widens
    for name in before:
        # The voxel where branches meet goes to one or the other; EXACT'09's limit of 1 mm may hang on it.
        if not name.startswith("exact09"):
            assert after[name] == pytest.approx(before[name], abs=1.5 if "length" in name else 1e-6), name


# --------------------------------------------------------------------------------------------------------------- groups


def branch_scores():
    return pd.DataFrame(
        {
            "branch": [1, 2, 3, 4],
            "generation": [0, 1, 1, 2],
            "diameter_mm": [8.0, 3.9, 2.0, 1.99],
            "length_mm": [50.0, 20.0, 10.0, 5.0],
            "points": [50, 20, 10, 5],
            "share": [1.0, 0.9, 0.5, 0.0],
        }
    )


def test_branches_by_generation():
    table = by_generation(branch_scores())
    assert table["generation"].tolist() == [0, 1, 2]
    assert table["branches"].tolist() == [1, 2, 1]
    assert table["bd"].tolist() == [100, 50, 0]
    assert table["td"].tolist() == pytest.approx([100, 100 * (18 + 5) / 30, 0])


def test_branches_by_diameter():
    table = by_diameter(branch_scores())
    assert table["diameter_mm"].tolist() == ["0-2", "2-4", "8-20"]  # 2.0 mm belongs to the upper bin
    assert table["branches"].tolist() == [1, 2, 1]
    assert table["length_mm"].tolist() == [5, 30, 50]


def test_overlap_by_diameter_takes_the_nearest_branch():
    """Two branches along x, 3 and 9 mm wide, 12 mm apart in y; the points between them belong to the nearer one."""
    points = [(0, y, x) for y in (2, 8) for x in range(10)]
    table = pd.DataFrame({"branch": [1, 2], "generation": 0, "diameter_mm": [3.0, 9.0], "length_mm": 9.0})
    reference = Reference(np.array(points), np.repeat([1, 2], 10), table, np.zeros((0, 3), int))
    label, prediction = np.zeros((2, 12, 10), bool), np.zeros((2, 12, 10), bool)
    label[0, 2, :] = label[0, 7:10, :] = True  # 10 and 30 voxels
    prediction[0, 2, :4] = prediction[0, 4, :2] = True  # 4 hits, 2 false ones nearer to the thin branch
    prediction[0, 7:10, :] = prediction[0, 6, :] = True  # 30 hits, 10 false
    found = overlap_by_diameter(prediction, label, (1.0, 2.0, 1.0), reference).set_index("diameter_mm")
    assert list(found.index) == ["0-2", "2-4", "4-6", "6-8", "8-20"]
    assert found.loc["2-4", ["hit", "false", "missed"]].tolist() == [4, 2, 6]
    assert found.loc["8-20", ["hit", "false", "missed"]].tolist() == [30, 10, 0]
    assert found.loc["2-4", ["dsc", "precision"]].tolist() == pytest.approx([200 * 4 / 16, 100 * 4 / 6])
    assert found.loc["8-20", ["dsc", "precision"]].tolist() == pytest.approx([200 * 30 / 70, 75])
    assert found.loc[["0-2", "4-6", "6-8"], ["dsc", "precision"]].isna().all().all()


def test_points_of_no_branch_give_no_diameter():
    """The voxel lies on a point of branch 0 (of another component), but takes the diameter of the branch beyond."""
    table = pd.DataFrame({"branch": [1], "generation": 0, "diameter_mm": [5.0], "length_mm": 9.0})
    reference = Reference(np.array([(0, 0, 0), (0, 0, 5)]), np.array([0, 1]), table, np.zeros((0, 3), int))
    label = np.zeros((1, 1, 6), bool)
    label[0, 0, 0] = True
    found = overlap_by_diameter(label, label, (1.0, 1.0, 1.0), reference).set_index("diameter_mm")
    assert found["hit"].to_dict() == {"0-2": 0, "2-4": 0, "4-6": 1, "6-8": 0, "8-20": 0}
    without = Reference(reference.index, np.array([0, 0]), table.iloc[:0], reference.voxels)
    assert overlap_by_diameter(label, label, (1.0, 1.0, 1.0), without)["hit"].tolist() == [0, 0, 0, 0, 0]


def test_groups_of_several_cases_are_summed():
    one = by_diameter(branch_scores())
    pooled = pool_groups(pd.concat([one, one.iloc[:1].assign(branches_detected=1, points_detected=5)]), "diameter_mm")
    assert pooled["branches"].tolist() == [2, 2, 1]
    assert pooled["bd"].tolist() == [50, 50, 100]
    assert pooled["td"].tolist() == pytest.approx([50, 100 * 23 / 30, 100])


# --------------------------------------------------------------------------------------------------------------- ATM'22


def official():
    if not ATM22.exists():
        return []
    with (ATM22 / "official_metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def atm22():
    """Masks of the teams, each read once."""
    if not ATM22.exists():
        pytest.skip(f"{ATM22} is absent: real masks of the ATM'22 teams")
    masks = {}
    return lambda team, case: masks.setdefault((team, case), read_mask(ATM22 / f"{team}_{case}.nii.gz"))


@pytest.mark.parametrize("row", official() or [None], ids=lambda row: row and f"{row['prediction']} {row['case']}")
def test_atm22_evaluators_numbers_to_the_last_digit(atm22, row):
    reference = atm22(row["reference"], row["case"])
    scores = evaluate(atm22(row["prediction"], row["case"]).array, reference.array, reference.spacing, "atm22")
    for name in ("td", "bd", "dsc", "precision"):
        digits = 3 if name == "precision" else 2
        assert scores[name] == pytest.approx(float(row[name]), abs=0.5 * 10**-digits + 1e-9), name
    assert scores["branches"] == int(row["reference_branches"])
    assert scores["branches_detected"] == int(row["branches_detected"])
    parsed = parse_reference(reference.array, reference.spacing, "atm22")
    assert len(parsed.index) == int(row["reference_skeleton_voxels"])
