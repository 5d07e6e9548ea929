"""Data sets from disk to stores: each layout whole, splits, bad cases among good ones, a call that is repeated."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from tiny_cases import tiny_case, write_dicom

from airwaylib.errors import InputError
from airwaylib.images.volume import Volume, write_volume
from airwaystudy.data import datasets
from airwaystudy.data.cases import find_case, read_case
from airwaystudy.data.datasets import default_jobs, default_split, given_split, prepare_dataset

LIDC = [f"LIDC_IDRI_{n:04}" for n in range(70)]
EXACT = [f"EXACT09_CASE{n:02}" for n in range(1, 21)]


def write_pair(root, ct, label, volumes=None):
    """A tiny case at two paths below `root`; a CT without an image suffix becomes a DICOM folder."""
    volumes = volumes or tiny_case()
    if Path(ct).suffix:
        write_volume(volumes[0], root / ct)
    else:
        write_dicom(volumes[0], root / ct)
    write_volume(volumes[1], root / label)


def folder_of(root, *names):
    """A data set of layout `folder`."""
    for name in names:
        write_pair(root, f"images/{name}_0000.nii.gz", f"labels/{name}.nii.gz")
    return root


def table(data):
    return pd.read_csv(data / "cases.csv", dtype=str, keep_default_na=False).set_index("case")


# ------------------------------------------------------------------------------------------------------ whole data sets

TREES = {
    "bas": (
        {
            "LIDC_IDRI_0066": ("image/LIDC_IDRI_0066.nii.gz", "label/LIDC_IDRI_0066.nii.gz"),
            "EXACT09_CASE01": ("EXACT09/CASE01", "EXACT09_label/CASE01_label.nii.gz"),
        },
        {"LIDC_IDRI_0066": "train", "EXACT09_CASE01": "validation"},
    ),
    "atm22": (
        {"ATM_001": ("TrainBatch1/imagesTr/ATM_001_0000.nii.gz", "TrainBatch1/labelsTr/ATM_001_0000.nii.gz")},
        {"ATM_001": "train"},
    ),
    "aiib23": ({"AIIB23_1": ("img/AIIB23_1.nii.gz", "gt/AIIB23_1.nii.gz")}, {"AIIB23_1": "train"}),
    "exact09": (
        {
            "EXACT09_CASE20": ("CASE20", "labels/CASE20.nii.gz"),
            "EXACT09_CASE21": ("CASE21", "labels/CASE21.nii.gz"),
        },
        {"EXACT09_CASE20": "train", "EXACT09_CASE21": "test"},
    ),
    "aeropath": (
        {"AeroPath_03": ("3/3_CT_HR.nii.gz", "3/3_CT_HR_label_airways.nii.gz")},
        {"AeroPath_03": "test"},
    ),
    "phantom": ({"mini_0001": ("mini_0001/ct.nii.gz", "mini_0001/airway.nii.gz")}, {"mini_0001": "train"}),
    "folder": ({"a": ("images/a.mha", "labels/a.nrrd")}, {"a": "train"}),
}


@pytest.mark.parametrize("layout", TREES)
def test_each_layout_becomes_stores_and_a_table(tmp_path, layout):
    cases, splits = TREES[layout]
    root, data = tmp_path / "root", tmp_path / "data"
    for ct, label in cases.values():
        write_pair(root, ct, label)
    report = prepare_dataset(layout, root, data, jobs=1)
    assert report.faults == {}
    assert report.stores == {name: data / "prepared" / f"{name}.zarr" for name in sorted(cases)}
    rows = table(data)
    assert rows["split"].to_dict() == splits
    for name, (ct, label) in cases.items():
        assert (rows.at[name, "ct"], rows.at[name, "airway"]) == (str(root / ct), str(root / label))
        store = zarr.open_group(report.stores[name], mode="r")
        assert store["label"][:].sum() == tiny_case()[1].array.sum()
        found, airway, _ = read_case(find_case(data, name))
        np.testing.assert_array_equal(found.array, tiny_case()[0].array)
        np.testing.assert_array_equal(airway.array, tiny_case()[1].array)


def test_phantoms_in_place_keep_their_paths(tmp_path):
    write_pair(tmp_path / "raw", "mini_0001/ct.nii.gz", "mini_0001/airway.nii.gz")
    prepare_dataset("phantom", tmp_path / "raw", tmp_path, jobs=1)
    assert (tmp_path / "prepared/mini_0001.zarr").is_dir()
    assert table(tmp_path).at["mini_0001", "ct"] == "raw/mini_0001/ct.nii.gz"


# ------------------------------------------------------------------------------------------------- bad and mended cases


def test_bad_cases_are_named_in_a_line_and_the_good_ones_done(tmp_path):
    root, data = folder_of(tmp_path / "root", "a", "corrupt", "elsewhere", "flat", "half", "z"), tmp_path / "data"
    ct, airway = tiny_case()
    (root / "images/corrupt_0000.nii.gz").write_bytes(b"\x1f\x8b no image")
    write_volume(Volume(airway.array, (2, 2, 3)), root / "labels/elsewhere.nii.gz")
    write_volume(ct.with_array(np.full_like(ct.array, 40)), root / "images/flat_0000.nii.gz")
    (root / "labels/half.nii.gz").unlink()
    folder_of(root / "more", "z")
    report = prepare_dataset("folder", root, data, jobs=1)
    assert list(report.stores) == list(table(data).index) == ["a"]
    expected = {
        "corrupt": r"corrupt_0000.nii.gz: unreadable, damaged or truncated",
        "elsewhere": r"labels/elsewhere.nii.gz: the label's grid .* is not that of the CT",
        "flat": r"flat_0000.nii.gz: every voxel is 40",
        "half": r"half: half a pair, .*half_0000.nii.gz has no airway label",
        "z": r"z: several CTs of this name",
    }
    assert report.faults.keys() == expected.keys()
    for name, message in expected.items():
        assert re.search(message, report.faults[name])
        assert "\n" not in report.faults[name]
    assert sorted(path.name for path in (data / "prepared").iterdir()) == ["a.zarr"]


def test_what_was_mended_is_told_and_kept(tmp_path):
    root, data = folder_of(tmp_path / "root", "a", "b"), tmp_path / "data"
    write_volume(Volume(tiny_case()[1].array.transpose(2, 1, 0)), root / "labels/b.nii.gz")
    for _ in range(2):  # the second time from the store that stands
        report = prepare_dataset("folder", root, data, jobs=1)
        assert report.mended == {"b": "label stored z as x: transposed"}
        assert table(data)["mended"].to_dict() == {"a": "", "b": "label stored z as x: transposed"}
    labels = [zarr.open_group(store, mode="r")["label"][:] for store in report.stores.values()]
    np.testing.assert_array_equal(*labels)


def test_a_repeated_call_goes_on_where_it_stopped(tmp_path, monkeypatch):
    root, data = folder_of(tmp_path / "root", "a", "b", "c"), tmp_path / "data"

    def killed(done, total):
        assert total == 3
        for count, result in enumerate(done, 1):
            yield result
            if count == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_dataset("folder", root, data, jobs=1, progress=killed)
    assert sorted(path.name for path in data.rglob("*.zarr")) == ["a.zarr", "b.zarr"]
    assert not (data / "cases.csv").exists()
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    ct = root / "images/a_0000.nii.gz"
    ct.write_bytes(bytes(ct.stat().st_size))  # damaged since: it is not read again
    assert sorted(prepare_dataset("folder", root, data, jobs=1).stores) == ["a", "b", "c"]
    assert {path: path.stat().st_mtime_ns for path in before if path.suffix == ".json"} == {
        path: time for path, time in before.items() if path.suffix == ".json"
    }
    assert list(table(data).index) == ["a", "b", "c"]
    report = prepare_dataset("folder", folder_of(root, "d"), data, distance_unit="voxels", jobs=1)
    assert list(report.stores) == ["d"]
    assert "a.zarr: its distances are in mm, not in voxels" in report.faults["a"]


def test_several_processes_do_the_same(tmp_path):
    root = folder_of(tmp_path / "root", "a", "b", "bad")
    (root / "images/bad_0000.nii.gz").write_bytes(b"")
    reports = [prepare_dataset("folder", root, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2)]
    assert reports[0].faults == reports[1].faults
    assert list(reports[0].faults) == ["bad"]
    text = [(tmp_path / name / "cases.csv").read_text() for name in "12"]
    assert text[0] == text[1]
    for name in "ab":
        one, two = (zarr.open_group(report.stores[name], mode="r") for report in reports)
        for key, array in one.arrays():
            np.testing.assert_array_equal(array[:], two[key][:])


def die(case, out, unit):
    os._exit(9)


def test_a_killed_process_is_told(tmp_path, monkeypatch):
    root = folder_of(tmp_path / "root", "a")
    monkeypatch.setattr(datasets, "prepare_or_say_why", die)
    with pytest.raises(InputError, match="a process was killed, for lack of memory perhaps: give fewer than --jobs 2"):
        prepare_dataset("folder", root, tmp_path / "data", jobs=2)
    assert not (tmp_path / "data/cases.csv").exists()


def test_no_good_case_leaves_no_table(tmp_path):
    root = folder_of(tmp_path / "root", "a")
    (root / "labels/a.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"root: no case could be prepared; .*labels/a.nii.gz: "):
        prepare_dataset("folder", root, tmp_path / "data", jobs=1)
    assert not (tmp_path / "data/cases.csv").exists()


# --------------------------------------------------------------------------------------------------------------- splits


def counts(split):
    return tuple(list(split.values()).count(part) for part in ("train", "validation", "test"))


def test_bas_is_split_as_the_paper_counts():
    split = default_split("bas", [*LIDC, *EXACT])
    assert counts(split) == (50, 20, 20)
    assert {split[name] for name in EXACT} == {"validation"}
    assert split == default_split("bas", reversed([*LIDC, *EXACT]))


def test_sets_with_splits_of_their_own():
    assert set(default_split("aeropath", ["AeroPath_01", "AeroPath_27"]).values()) == {"test"}
    exact = default_split("exact09", [f"EXACT09_CASE{n:02}" for n in range(1, 41)])
    assert counts(exact) == (20, 0, 20)
    assert exact["EXACT09_CASE20"] == "train" and exact["EXACT09_CASE21"] == "test"


@pytest.mark.parametrize(
    ("cases", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (10, (8, 1, 1)), (300, (240, 30, 30))]
)
def test_our_split_takes_tenths(cases, expected):
    assert counts(default_split("atm22", [f"ATM_{n:03}" for n in range(cases)])) == expected


def test_our_split_is_drawn_and_a_new_case_hardly_moves_it():
    names = [f"ATM_{n:03}" for n in range(100)]
    split = default_split("atm22", names)
    assert list(split[name] for name in names) != sorted(split.values())
    more = default_split("atm22", [*names, "ATM_100"])
    assert sum(split[name] != more[name] for name in names) <= 2


def test_a_given_split_prepares_what_it_names(tmp_path):
    root, data = folder_of(tmp_path / "root", "a", "b", "c"), tmp_path / "data"
    report = prepare_dataset("folder", root, data, jobs=1, split={"train": ["c"], "test": ["a"], "validation": None})
    assert table(data)["split"].to_dict() == {"a": "test", "c": "train"}
    assert report.notes == ["in no split, left out: b"]
    assert not (data / "prepared/b.zarr").exists()


def test_a_given_split_passes_over_a_bad_case():
    assert given_split({"train": ["a", "half"]}, ["a"], ["half"]) == {"a": "train"}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": ["a"], "valid": ["b"]}, "unknown key valid; choose train, validation, test"),
        ({"train": ["a", "x"]}, "no case x in the data set; there are a, b"),
        ({"train": ["a", "b"], "test": ["b"]}, r"b is named twice \(train and test\)"),
        ({"train": ["a", "a"]}, r"a is named twice \(train and train\)"),
        ({"train": [], "test": ["a"]}, "no case to train on"),
        ({"test": ["a"]}, "no case to train on"),
        ({}, "no case to train on"),
        ({"train": "a"}, r"train must be a list of names of cases, such as \['a', 'b'\], digits in quotes"),
        ({"train": [1]}, "train must be a list of names"),
    ],
)
def test_a_faulty_split_is_refused(split, message):
    with pytest.raises(InputError, match=f"^split: {message}"):
        given_split(split, ["a", "b"])


def test_processes_by_cores_and_memory(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1e3, "SC_PHYS_PAGES": 20e6}.__getitem__)  # 20 GB
    assert default_jobs(100) == 3
    assert default_jobs(2) == 2
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1e3, "SC_PHYS_PAGES": 4e6}.__getitem__)
    assert default_jobs(100) == 1
