"""EXACT'09's seven columns by hand, on a trunk with two bronchi and two branches each."""

import numpy as np
import pytest

from airwaylib.metrics.exact09 import COLUMNS, exact09_columns
from airwaylib.metrics.reference import parse_reference
from airwaystudy.phantoms.drawing import Grid, draw_tubes

SHAPE, SPACING = (90, 30, 100), (0.5, 0.5, 0.5)
CARINA, RIGHT, LEFT = [25.0, 7.0, 30.0], [14.0, 7.0, 20.0], [36.0, 7.0, 20.0]
TUBES = [([25.0, 7.0, 43.0], CARINA), (CARINA, RIGHT), (CARINA, LEFT)]
TUBES += [(RIGHT, [4.0, 7.0, 12.0]), (RIGHT, [17.0, 7.0, 6.0]), (LEFT, [46.0, 7.0, 12.0]), (LEFT, [33.0, 7.0, 6.0])]


def mask(tubes=tuple(range(7))):
    start, end = (np.array([TUBES[i][side] for i in tubes]) for side in (0, 1))
    return draw_tubes(Grid(SHAPE, (0.5, 0.5, 0.5)), start, end, np.full((len(tubes), 2), 1.6)) <= 0


@pytest.fixture(scope="module")
def parsed():
    return parse_reference(mask(), SPACING, "exact09")


def columns(prediction, parsed):
    found = exact09_columns(prediction, mask(), SPACING, parsed)
    assert list(found) == list(COLUMNS)
    return [found[name] for name in COLUMNS]


def test_the_reference_against_itself(parsed):
    assert len(parsed.table) == 7
    length = parsed.table["length_mm"][1:].sum() / 10  # the trachea does not count
    assert columns(mask(), parsed) == pytest.approx([6, 100, length, 100, 0, 0, 0])


def test_nothing_predicted(parsed):
    assert columns(np.zeros(SHAPE, bool), parsed) == [0] * 7


def test_two_branches_missed(parsed):
    count, detected, length, length_detected, *leaks = columns(mask((0, 1, 2, 3, 5)), parsed)
    # Of the two that are missed, the first voxels lie inside the bronchus: more than 1 mm of their axis, so they count
    # as detected, with that little of their length.
    assert (count, detected) == (6, 100)
    inner = parsed.table["length_mm"][1:].sum() / 10
    assert length == pytest.approx(length_detected * inner / 100)
    assert 70 < length_detected < 85
    assert leaks == [0, 0, 0]


def test_less_than_a_millimetre_is_not_detected(parsed):
    cut = mask((0, 1, 2))
    found = parsed.score(cut)
    assert (found["length_mm"] * found["share"] >= 1).sum() - 1 == columns(cut, parsed)[0] < 7


def test_a_leak_is_a_group_that_goes_astray(parsed):
    leaked = mask()
    leaked[8:12, 14:16, 2:4] = True  # 16 voxels beside the tip of the first peripheral branch, far from it by 4 voxels
    near = np.argwhere(leaked & ~mask())
    *_, number, volume, rate = columns(leaked, parsed)
    assert (number, volume) == (1, pytest.approx(len(near) * 0.125))
    assert 0 < rate < 5


def test_a_rim_of_one_voxel_is_no_leak_but_wrong(parsed):
    rim = mask()
    rim |= np.roll(mask(), 1, axis=1)  # one voxel wider, towards the back
    *_, number, volume, rate = columns(rim, parsed)
    assert number == 0
    assert volume > 0
    assert rate > 0


def test_voxels_by_trachea_and_main_bronchi_do_not_count(parsed):
    beside = mask()
    beside[70:76, 20:24, 48:52] = True  # beside the trachea, well outside
    assert columns(beside, parsed)[4:] == [0, 0, 0]
