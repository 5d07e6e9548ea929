"""Scores by hand on lines, an L and boxes; and against the ATM'22 evaluator where the two conventions agree."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from airwaylib.errors import InputError
from airwaylib.metrics import evaluate, largest_component, summarise
from airwaylib.volume import read_mask

ATM22 = Path(__file__).parents[2] / "shared" / "data" / "atm22-teams"


def empty(shape=(9, 20, 30)):
    return np.zeros(shape, bool)


def line(start=0, stop=30):
    mask = empty()
    mask[4, 4, start:stop] = True
    return mask


def test_a_line_found_in_part():
    scores = evaluate(line(5, 20), line(0, 20))  # 15 of 20 voxels, and thinning leaves a line as it is
    assert scores == pytest.approx({"td": 75, "dsc": 2 * 15 / 35 * 100, "precision": 100, "tpr": 75})


def test_a_line_overshot():
    scores = evaluate(line(10, 30), line(0, 20))  # 10 voxels in common, 10 beyond the end, 10 missed
    assert scores == pytest.approx({"td": 50, "dsc": 50, "precision": 50, "tpr": 50})


def test_an_l_of_which_one_arm_is_found():
    reference = empty()
    reference[4, 5, 5:15] = True  # 10 voxels, the corner among them
    reference[4, 6:15, 5] = True  # 9 voxels
    prediction = empty()
    prediction[4, 5, 5:15] = True
    # Thinning takes the corner, whose neighbours touch by an edge: 9 + 9 skeleton voxels, of which 9 are found.
    assert evaluate(prediction, reference) == pytest.approx(
        {"td": 50, "dsc": 200 * 10 / 29, "precision": 100, "tpr": 100 * 10 / 19}
    )


def test_a_thick_tube_is_measured_along_its_axis():
    reference = empty()
    reference[3:6, 3:6, 3:27] = True  # 3 x 3 x 24: its skeleton is the axis without the end voxels, 22 long
    prediction = reference.copy()
    prediction[:, :, 15:] = False
    prediction[3] = False  # two thirds of the section stay, with the axis
    scores = evaluate(prediction, reference)
    assert scores == pytest.approx(
        {"td": 100 * 11 / 22, "dsc": 2 * 72 / (72 + 216) * 100, "precision": 100, "tpr": 100 / 3}
    )


def test_a_mask_against_itself_scores_100():
    assert set(evaluate(line(), line()).values()) == {100.0}


def test_scores_are_plain_floats():
    assert {type(score) for score in evaluate(line(3, 9), line()).values()} == {float}


def test_the_prediction_counts_with_its_largest_component_only():
    prediction = line(0, 12) | line(13, 20)  # 12 and 7 voxels, a gap of one
    assert evaluate(prediction, line(0, 20)) == evaluate(line(0, 12), line(0, 20))


@pytest.mark.parametrize("step", [(0, 1, 1), (1, 1, 1)], ids=["by an edge", "by a corner"])
def test_pieces_that_touch_diagonally_are_separate(step):
    piece = empty()
    piece[4, 4, :8] = True
    other = empty()
    z, y, x = 4 + step[0], 4 + step[1], 7 + step[2]
    other[z, y, x : x + 5] = True
    assert np.array_equal(largest_component(piece | other), piece)


def test_a_face_joins_pieces():
    mask = line(0, 8)
    mask[4, 5, 7:12] = True
    assert np.array_equal(largest_component(mask), mask)


def test_the_reference_is_scored_as_given():
    reference = line(0, 10)
    reference[4, 12, 0:10] = True  # a second component of the label stays in all scores
    scores = evaluate(line(0, 10), reference)
    assert scores == pytest.approx({"td": 50, "dsc": 200 * 10 / 30, "precision": 100, "tpr": 50})


def test_an_empty_prediction_scores_0():
    assert evaluate(empty(), line()) == {"td": 0, "dsc": 0, "precision": 0, "tpr": 0}


def test_inputs_stay_as_they_were():
    prediction, reference = line(0, 4) | line(6, 20), line()
    before = prediction.copy(), reference.copy()
    evaluate(prediction, reference)
    assert np.array_equal(prediction, before[0])
    assert np.array_equal(reference, before[1])


def even_tube():
    mask = empty((8, 8, 60))
    mask[3:5, 3:5, 5:55] = True
    return mask


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        (line(), np.zeros((9, 20, 31), bool), "(9, 20, 30) and reference (9, 20, 31) are not on one grid"),
        (line(), empty(), "the reference mask is empty"),
        (even_tube(), even_tube(), "thins to nothing (tubes of even width only)"),
    ],
    ids=["shapes", "empty", "even width"],
)
def test_what_cannot_be_scored_is_refused(prediction, reference, message):
    with pytest.raises(InputError) as caught:
        evaluate(prediction, reference)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(arrays(bool, (5, 6, 7)), st.integers(1, 7))
def test_dsc_is_the_harmonic_mean_of_precision_and_tpr(prediction, length):
    reference = empty((5, 6, 7))
    reference[2, 3, :length] = True
    scores = evaluate(prediction, reference)
    assert all(0 <= score <= 100 for score in scores.values())
    total = scores["precision"] + scores["tpr"]
    assert scores["dsc"] == pytest.approx(2 * scores["precision"] * scores["tpr"] / total if total else 0)


def test_runs_are_summed_up_in_their_order():
    scores = pd.DataFrame(
        {
            "run": ["gul", "dice", "gul", "gul"],
            "case": ["a", "a", "b", "c"],
            "td": [90.0, 70.0, 94.0, 98.0],
            "dsc": [80.0, 85.0, 80.0, 80.0],
        }
    )
    gul, dice = summarise(scores).to_dict("records")
    assert gul == {"run": "gul", "cases": 3, "td_mean": 94, "td_sd": 4, "dsc_mean": 80, "dsc_sd": 0}
    assert (dice["run"], dice["cases"], dice["td_mean"], dice["dsc_mean"]) == ("dice", 1, 70, 85)
    assert np.isnan(dice["td_sd"])  # one case has no spread


def test_atm22_evaluator_agrees_on_dsc_and_precision():
    """Its convention takes the prediction as given: the same as ours where that is one 6-connected component.

    YangLab's mask of case 305 is; the other teams' are not. The tree length is not compared: the evaluator's skeleton
    is that of the reference's filled largest component, ours that of the label as given.
    """
    if not ATM22.exists():
        pytest.skip(f"{ATM22} is absent: real masks of the ATM'22 teams")
    with (ATM22 / "official_metrics.csv").open() as file:
        rows = {(row["case"], row["prediction"]): row for row in csv.DictReader(file)}
    official = rows["305", "YangLab"]
    reference, prediction = (read_mask(ATM22 / f"{team}_305.nii.gz").array for team in ("deeptree_damo", "YangLab"))
    assert np.array_equal(largest_component(prediction), prediction)
    box = tuple(slice(index.min(), index.max() + 1) for index in np.nonzero(prediction | reference))
    scores = evaluate(prediction[box], reference[box])
    assert scores["dsc"] == pytest.approx(float(official["dsc"]), abs=0.005)
    assert scores["precision"] == pytest.approx(float(official["precision"]), abs=0.0005)
