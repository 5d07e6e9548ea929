"""What predictions are scored against: parses kept by content, a phantom's true branches, given labels."""

import numpy as np
import pandas as pd
import pytest
from mini_phantoms import mini

from airwaylib.errors import InputError
from airwaylib.metrics import reference
from airwaylib.metrics.reference import PARSES_KEPT, convention_by_name, parse_reference, true_reference


def tube(shape=(9, 9, 40), start=2, stop=38):
    mask = np.zeros(shape, bool)
    mask[3:6, 3:6, start:stop] = True
    return mask


@pytest.fixture
def parses(monkeypatch):
    """Counts the parses that are really made."""
    made = []
    monkeypatch.setattr(reference, "_parses", type(reference._parses)())
    original = reference.parse_cut
    monkeypatch.setattr(reference, "parse_cut", lambda *a, **k: made.append(1) or original(*a, **k))
    return made


def test_a_parse_is_kept_by_content(parses):
    first = parse_reference(tube())
    assert parse_reference(tube().copy()) is first
    assert len(parses) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"mask": tube(stop=37)},
        {"mask": np.roll(tube(), 1, axis=2)},  # the same voxels elsewhere
        {"mask": np.pad(tube(), 1)[1:-1, 1:-1, 1:]},  # on another grid
        {"spacing": (1.0, 1.0, 2.0)},
        {"convention": "aiib23"},
        {"convention": "atm22"},
    ],
    ids=["voxels", "place", "grid", "spacing", "merging", "skeleton"],
)
def test_what_differs_is_parsed_anew(parses, other):
    asked = {"mask": tube(), "spacing": (1.0, 1.0, 1.0), "convention": "paper"}
    first = parse_reference(**asked)
    assert parse_reference(**(asked | other)) is not first
    assert len(parses) == 2


def test_the_oldest_parse_goes_first(parses):
    for stop in range(10, 11 + PARSES_KEPT):
        parse_reference(tube(stop=stop))
    parse_reference(tube(stop=11))
    assert len(parses) == 1 + PARSES_KEPT
    parse_reference(tube(stop=10))
    assert len(parses) == 2 + PARSES_KEPT


def test_the_skeleton_of_the_label_as_given_has_points_of_no_branch():
    mask = tube()
    mask[7, 7, 2:12] = True  # a second component
    given, parsed = parse_reference(mask, convention="paper"), parse_reference(mask, convention="atm22")
    assert len(given.index) == len(parsed.index) + 10
    assert (given.branch == 0).sum() == 10
    assert (parsed.branch > 0).all()
    assert len(given.voxels) == mask.sum()
    assert mask[tuple(given.index.T)].all()


def test_a_branch_is_scored_by_its_points():
    parsed = parse_reference(tube())
    half = tube()
    half[:, :, 20:] = False
    (row,) = parsed.score(half).to_dict("records")
    inside = (parsed.index[:, 2] < 20).sum()
    assert (row["points"], row["share"]) == (len(parsed.index), inside / len(parsed.index))
    # A tube of 3 x 3 voxels: the mean distance of its faces is a little more than 1.5 voxels.
    assert row["diameter_mm"] == pytest.approx(3.2, abs=0.25)


def test_true_branches_of_a_phantom():
    phantom = mini(0)
    truth = true_reference(phantom.tree, phantom.airway.array.shape, phantom.airway.spacing)
    place = ([f"{name}_{axis}" for axis in "xyz"] for name in ("start", "middle", "end"))
    start, middle, end = (phantom.tree[columns].to_numpy() for columns in place)
    t = np.linspace(0, 1, 1001)[:, None, None]
    along = (1 - t) * (1 - 2 * t) * start + 4 * t * (1 - t) * middle + t * (2 * t - 1) * end
    length = np.linalg.norm(np.diff(along, axis=0), axis=2).sum(0)
    assert (length > 1.002 * np.linalg.norm(end - start, axis=1)).mean() > 0.5  # they are bent
    assert truth.table["length_mm"].tolist() == pytest.approx(length.tolist(), rel=2.5e-3)  # of pieces of half a voxel
    assert truth.table["generation"].tolist() == phantom.tree["generation"].tolist()
    first = truth.index[truth.branch == 5][[0, -1]][:, ::-1]
    assert np.abs(first - [start[4], end[4]]).max() <= 0.5 + 1e-6  # branch 5 is row 4, spacing 1 mm
    scored = truth.score(phantom.airway.array)
    assert scored["share"].mean() > 0.97  # an axis half a voxel off may leave a lumen of radius 1 here and there
    assert (truth.score(np.zeros_like(phantom.airway.array))["share"] == 0).all()


def test_points_beyond_the_grid_are_left_out():
    row = {"branch": 0, "generation": 0, "radius_start": 2.0, "radius_end": 1.0}
    row |= {"start_x": 4.0, "start_y": 4.0, "start_z": 4.0, "end_x": 4.0, "end_y": 4.0, "end_z": 14.0}
    row |= {"middle_x": 4.0, "middle_y": 4.0, "middle_z": 9.0}
    truth = true_reference(pd.DataFrame([row]), (10, 9, 9), (1.0, 1.0, 1.0))
    assert truth.index[:, 0].max() == 9
    assert truth.table["diameter_mm"].tolist() == [3.0]


def test_given_labels_share_the_length():
    parsed = parse_reference(tube())
    labels = np.zeros(tube().shape, int)
    labels[:, :, :20], labels[:, :, 20:] = 4, 9
    table = parsed.with_branches(labels).table
    assert table["branch"].tolist() == [4, 9]
    assert table["length_mm"].sum() == pytest.approx(parsed.table["length_mm"].sum())


@pytest.mark.parametrize(
    ("labels", "message"), [(0, "no label lies on"), (0.5, "must be whole numbers"), (-1, "must be whole numbers")]
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        parse_reference(tube()).with_branches(np.full(tube().shape, labels))


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="must be above 0 along x, y and z"):
        parse_reference(tube(), spacing=(1.0, -1.0, 1.0))
    with pytest.raises(InputError, match="the reference mask is empty"):
        parse_reference(np.zeros((3, 3, 3), bool))
    with pytest.raises(InputError, match="'bas' is unknown: choose one of paper"):
        convention_by_name("bas")
