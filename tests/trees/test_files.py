"""Trees as files: read back by other means, they hold what the tree holds; a failed write leaves nothing."""

import json
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from airwaylib.errors import InputError
from airwaylib.trees.files import WRITERS, check_tree_suffix, write_tree
from airwaylib.trees.parse import parse_tree

PLACE = ["x", "y", "z"]
DIGITS = {"rtol": 0, "atol": 0.5001e-4}  # four decimals are written


@pytest.fixture(scope="module")
def tree():
    """A T of two generations, posed anyhow."""
    mask = np.zeros((40, 9, 41), bool)
    mask[20:, 3:6, 19:22] = True
    mask[17:20, 3:6, 2:39] = True
    turn = (0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 1)
    return parse_tree(mask, (0.6, 0.7, 0.85), (-100.5, 20, 1 / 3), turn)


def written(tree, folder, name):
    path = folder / name
    write_tree(tree, path)
    assert [entry.name for entry in folder.iterdir()] == [name]  # no temporary file beside it
    return path


def test_csv_is_the_table_of_branches(tree, tmp_path):
    read = pd.read_csv(written(tree, tmp_path, "tree.csv"))
    pd.testing.assert_frame_equal(read, tree.branches, **DIGITS)


def test_json_holds_branches_and_centreline(tree, tmp_path):
    text = written(tree, tmp_path, "tree.json").read_text()

    def refuse(literal):
        raise AssertionError(f"{literal} is no JSON")

    read = json.loads(text, parse_constant=refuse)  # NaN, Infinity
    assert list(read) == ["units", "branches", "centreline"]
    assert read["branches"][0]["angle_deg"] is None  # the trachea has no parent to be at an angle to
    branches = pd.DataFrame(read["branches"])
    assert list(branches) == list(tree.branches)
    pd.testing.assert_frame_equal(branches.astype(tree.branches.dtypes), tree.branches, **DIGITS)
    centreline = pd.DataFrame(read["centreline"])
    pd.testing.assert_frame_equal(centreline, tree.centreline, check_dtype=False, **DIGITS)


def test_swc_is_the_centreline_parents_first(tree, tmp_path):
    lines = written(tree, tmp_path, "tree.swc").read_text().splitlines()
    rows = np.array([line.split() for line in lines if not line.startswith("#")], float)
    number, kind, parent = rows[:, [0, 1, 6]].astype(int).T
    assert number.tolist() == list(range(1, len(tree.centreline) + 1))
    assert parent[0] == -1
    assert (parent[1:] >= 1).all() and (parent[1:] < number[1:]).all()  # one root; parents are defined before
    # A voxel's place tells which row it is: all the rest must be that row's.
    expected = tree.centreline
    gap = np.abs(rows[:, None, 2:5] - expected[PLACE].to_numpy()).max(2)
    row = gap.argmin(1)
    assert sorted(row) == list(range(len(expected)))
    assert gap.min(1).max() < 0.5001e-4
    assert rows[:, 5] == pytest.approx(expected["radius_mm"].to_numpy()[row], abs=0.5001e-4)
    assert row[parent[1:] - 1].tolist() == expected["previous"].to_numpy()[row[1:]].tolist()
    generation = tree.branches.set_index("branch")["generation"]
    assert kind.tolist() == (generation[expected["branch"]].to_numpy()[row] + 5).tolist()


def numbers(element):
    values = np.array(element.text.split(), float)
    assert element.get("type") == ("Int64" if "." not in element.text else "Float64")
    return values.reshape(-1, int(element.get("NumberOfComponents", 1))).squeeze()


def test_vtp_is_a_line_a_branch(tree, tmp_path):
    root = ElementTree.parse(written(tree, tmp_path, "tree.vtp")).getroot()
    assert (root.tag, root.get("type")) == ("VTKFile", "PolyData")
    piece = root.find("PolyData/Piece")
    arrays = {part.tag: {array.get("Name"): numbers(array) for array in part} for part in piece}
    assert list(arrays) == ["Points", "Lines", "PointData", "CellData"]
    points, lines = arrays["Points"]["points"], arrays["Lines"]
    assert points.shape == (int(piece.get("NumberOfPoints")), 3)
    assert len(lines["offsets"]) == int(piece.get("NumberOfLines")) == len(tree.branches) == 3
    assert (np.diff(lines["offsets"], prepend=0) > 1).all()
    assert lines["offsets"][-1] == len(lines["connectivity"])
    assert sorted(lines["connectivity"]) == list(range(len(points)))
    of_point = arrays["PointData"]
    assert {len(values) for values in of_point.values()} == {len(points)}
    for branch, ids in enumerate(np.split(lines["connectivity"].astype(int), lines["offsets"][:-1].astype(int)), 1):
        path = tree.centreline.iloc[tree.path(branch)]
        assert np.allclose(points[ids], path[PLACE], **DIGITS)
        assert np.allclose(of_point["radius_mm"][ids], path["radius_mm"], **DIGITS)
        assert (of_point["branch"][ids] == branch).all()
    measures = [column for column in tree.branches if not column.startswith(("start_", "end_"))]
    assert list(arrays["CellData"]) == measures
    for column in measures:
        assert np.allclose(arrays["CellData"][column], tree.branches[column], equal_nan=True, **DIGITS)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".swc", ".vtp"])
def test_a_tree_of_a_single_voxel_can_be_written(suffix, tmp_path):
    path = written(parse_tree(np.ones((1, 1, 1), bool)), tmp_path, f"tree{suffix}")
    assert path.stat().st_size > 0


def test_vtk_finds_a_line_break_after_each_array(tmp_path):
    """Of a tree with one branch the angle is nan, and VTK cannot read a nan right before a tag."""
    write_tree(parse_tree(np.ones((1, 1, 9), bool)), tmp_path / "tree.vtp")
    assert "nan</DataArray>" not in (tmp_path / "tree.vtp").read_text()
    assert "nan\n</DataArray>" in (tmp_path / "tree.vtp").read_text()


def test_the_folder_is_made_and_a_former_file_replaced(tree, tmp_path):
    path = tmp_path / "new" / "folder" / "tree.csv"
    write_tree(parse_tree(np.ones((3, 3, 3), bool)), path)
    write_tree(tree, path)
    assert len(pd.read_csv(path)) == 3


@pytest.mark.parametrize("name", ["tree.txt", "tree", "tree.CSV", "tree.vtp.gz"])
def test_another_suffix_is_refused(tree, tmp_path, name):
    with pytest.raises(InputError) as caught:
        write_tree(tree, tmp_path / name)
    message = str(caught.value)
    assert name in message and message.endswith("is unknown: choose one of .csv, .json, .swc, .vtp")
    assert "\n" not in message
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError):
        check_tree_suffix(tmp_path / name)


def test_a_place_that_cannot_be_written_is_refused(tree, tmp_path):
    (tmp_path / "file").write_text("here already")
    with pytest.raises(InputError, match="cannot be written"):
        write_tree(tree, tmp_path / "file" / "tree.csv")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "here already"


def test_a_failed_write_leaves_the_former_file_and_no_other(tree, tmp_path, monkeypatch):
    path = written(tree, tmp_path, "tree.swc")
    before = path.read_text()

    def broken(tree):
        raise MemoryError

    monkeypatch.setitem(WRITERS, ".swc", broken)
    with pytest.raises(MemoryError):
        write_tree(tree, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tree.swc"]
    assert path.read_text() == before
