"""Layouts of public sets: every one built on disk with empty files, found whole, and each bad order named."""

import pytest
from tiny_cases import tiny_case, write_dicom

from airwaylib.errors import InputError
from airwaystudy.data.cases import Case
from airwaystudy.data.layouts import LAYOUTS, find_cases, images, stem


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def slices(root, *names):
    """Folders of DICOM slices, known by their signature alone."""
    for name in names:
        touch(root, f"{name}/DIRFILE", f"{name}/IM1")
        (root / name / "IM1").write_bytes(bytes(128) + b"DICM")


def found(layout, root):
    """Cases as {name: (ct, label)} of paths below the root, and what else was said."""
    cases, faults, notes = find_cases(layout, root)
    assert all(case.name == name for name, case in cases.items())
    return {n: tuple(str(p.relative_to(root)) for p in (c.ct, c.airway)) for n, c in cases.items()}, faults, notes


# ------------------------------------------------------------------------------------------------------------- each set


@pytest.mark.parametrize("above", ["", "TrainBatch1/"])
def test_atm22(tmp_path, above):
    touch(tmp_path, f"{above}imagesTr/ATM_001_0000.nii.gz", f"{above}labelsTr/ATM_001_0000.nii.gz")
    touch(tmp_path, "TrainBatch2/imagesTr/ATM_250_0000.nii.gz", "TrainBatch2/labelsTr/ATM_250_0000.nii.gz")
    touch(tmp_path, "imagesVal/ATM_301_0000.nii.gz", "__MACOSX/.x/imagesTr/ATM_2.nii.gz", "readme.txt")
    cases, faults, notes = found("atm22", tmp_path)
    assert cases == {
        "ATM_001": (f"{above}imagesTr/ATM_001_0000.nii.gz", f"{above}labelsTr/ATM_001_0000.nii.gz"),
        "ATM_250": ("TrainBatch2/imagesTr/ATM_250_0000.nii.gz", "TrainBatch2/labelsTr/ATM_250_0000.nii.gz"),
    }
    assert (faults, notes) == ({}, ["2 cases found; the whole set has 300"])


def test_aiib23(tmp_path):
    touch(tmp_path, *(f"AIIB23_Train_T1/{kind}/AIIB23_{n}.nii.gz" for kind in ("img", "gt") for n in range(1, 121)))
    cases, faults, notes = found("aiib23", tmp_path)
    assert len(cases) == 120 and not faults and notes == []
    assert cases["AIIB23_7"] == ("AIIB23_Train_T1/img/AIIB23_7.nii.gz", "AIIB23_Train_T1/gt/AIIB23_7.nii.gz")


def test_the_name_of_the_folder_that_holds_all_makes_no_label(tmp_path):
    top = "Binary Airway Segmentation"
    touch(tmp_path, f"{top}/image/LIDC_IDRI_0001.nii.gz", f"{top}/label/LIDC_IDRI_0001.nii.gz")
    cases, faults, _ = found("bas", tmp_path)
    assert not faults and list(cases) == ["LIDC_IDRI_0001"]
    assert cases["LIDC_IDRI_0001"][0] == f"{top}/image/LIDC_IDRI_0001.nii.gz"


@pytest.mark.parametrize("above", ["", "AeroPath/"])
def test_aeropath(tmp_path, above):
    for n in (1, 27):
        touch(tmp_path, *(f"{above}{n}/{n}_CT_HR{kind}.nii.gz" for kind in ("", "_label_airways", "_label_lungs")))
    cases, faults, _ = found("aeropath", tmp_path)
    assert not faults
    assert cases == {
        f"AeroPath_{n:02}": tuple(f"{above}{n}/{n}_CT_HR{kind}.nii.gz" for kind in ("", "_label_airways"))
        for n in (1, 27)
    }


def test_exact09(tmp_path):
    slices(tmp_path, "Training/CASE01", "Testing/CASE21", "Training/CASE02")
    touch(tmp_path, "labels/CASE01_label.nii.gz")
    cases, faults, notes = found("exact09", tmp_path)
    assert cases == {"EXACT09_CASE01": ("Training/CASE01", "labels/CASE01_label.nii.gz")}
    assert not faults
    assert notes == ["left out, their labels are not public: EXACT09_CASE02, EXACT09_CASE21"]


def test_bas(tmp_path):
    touch(tmp_path, "LIDC/image/LIDC_IDRI_0066.nii.gz", "LIDC/label/LIDC_IDRI_0066.nii.gz")
    touch(tmp_path, "LIDC/LIDC-IDRI-0140_clean_hu.nii.gz", "LIDC/LIDC-IDRI-0140_label.nii.gz")
    slices(tmp_path, "EXACT09/train/CASE01", "EXACT09/test/CASE40")
    touch(tmp_path, "EXACT09/train_label/EXACT09_CASE01.nii.gz", "EXACT09/train_label/EXACT09_CASE02.nii.gz")
    cases, faults, notes = found("bas", tmp_path)
    assert cases == {
        "LIDC_IDRI_0066": ("LIDC/image/LIDC_IDRI_0066.nii.gz", "LIDC/label/LIDC_IDRI_0066.nii.gz"),
        "LIDC_IDRI_0140": ("LIDC/LIDC-IDRI-0140_clean_hu.nii.gz", "LIDC/LIDC-IDRI-0140_label.nii.gz"),
        "EXACT09_CASE01": ("EXACT09/train/CASE01", "EXACT09/train_label/EXACT09_CASE01.nii.gz"),
    }
    label = tmp_path / "EXACT09/train_label/EXACT09_CASE02.nii.gz"
    assert faults == {"EXACT09_CASE02": f"EXACT09_CASE02: half a pair, {label} has no CT"}
    assert notes == [
        "left out, their labels are not public: EXACT09_CASE40",
        "3 cases found; the whole set has 90",
    ]


def test_phantom(tmp_path):
    touch(tmp_path, "mini_0001/ct.nii.gz", "mini_0001/airway.nii.gz", "mini_0001/lung.nii.gz", "mini_0001/tree.csv")
    touch(tmp_path, "patient/ct.mhd", "patient/ct.raw", "patient/airway.nrrd", "notes.txt", ".tmp-1/x/ct.nii")
    cases, faults, notes = found("phantom", tmp_path)
    assert cases == {
        "mini_0001": ("mini_0001/ct.nii.gz", "mini_0001/airway.nii.gz"),
        "patient": ("patient/ct.mhd", "patient/airway.nrrd"),
    }
    assert (faults, notes) == ({}, [])


def test_folder_of_any_file_type(tmp_path):
    touch(tmp_path, "images/a_0000.nii.gz", "labels/a.nii", "images/b.mha", "labels/b_0000.nrrd", "images/c.d.nii")
    touch(tmp_path, "labels/c.d.mhd")
    write_dicom(tiny_case((4, 8, 8))[0], tmp_path / "images/e", suffix="")
    touch(tmp_path, "labels/e.nii.gz")
    cases, faults, notes = found("folder", tmp_path)
    assert cases == {
        "a": ("images/a_0000.nii.gz", "labels/a.nii"),
        "b": ("images/b.mha", "labels/b_0000.nrrd"),
        "c.d": ("images/c.d.nii", "labels/c.d.mhd"),
        "e": ("images/e", "labels/e.nii.gz"),
    }
    assert (faults, notes) == ({}, [])


# --------------------------------------------------------------------------------------------------------------- faults


def test_half_a_pair_is_named_and_the_others_found(tmp_path):
    touch(tmp_path, *(f"{name}.nii" for name in ("images/a", "labels/a", "images/b", "labels/c")))
    cases, faults, _ = find_cases("folder", tmp_path)
    assert cases == {"a": Case("a", tmp_path / "images/a.nii", tmp_path / "labels/a.nii")}
    assert faults == {
        "b": f"b: half a pair, {tmp_path}/images/b.nii has no airway label",
        "c": f"c: half a pair, {tmp_path}/labels/c.nii has no CT",
    }


@pytest.mark.parametrize(("kind", "what"), [("images", "CTs"), ("labels", "labels")])
def test_a_name_that_occurs_twice_is_a_fault_that_names_both(tmp_path, kind, what):
    touch(tmp_path, "images/a.nii", "labels/a.nii", "images/b.nii", "labels/b.nii", f"more/{kind}/a_0000.nii.gz")
    cases, faults, _ = find_cases("folder", tmp_path)
    assert list(cases) == ["b"]
    both = f"{tmp_path}/{kind}/a.nii and {tmp_path}/more/{kind}/a_0000.nii.gz"
    assert faults == {"a": f"a: several {what} of this name, {both}"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_something_else_is_told_what_should_be_there(tmp_path, layout):
    touch(tmp_path, "some/thing.nii.gz")
    with pytest.raises(InputError, match=f"no cases of layout {layout} found; it needs ") as caught:
        find_cases(layout, tmp_path)
    assert LAYOUTS[layout].expected in str(caught.value)
    with pytest.raises(InputError, match="nowhere: no such folder; layout"):
        find_cases(layout, tmp_path / "nowhere")


def test_unknown_layout():
    with pytest.raises(InputError, match="layout 'atm' is unknown: choose one of bas, atm22, aiib23, exact09, "):
        find_cases("atm", ".")


@pytest.mark.parametrize(("name", "expected"), [("a_0000.nii.gz", "a"), ("a.b.NRRD", "a.b"), ("ct", "ct")])
def test_stem(tmp_path, name, expected):
    assert stem(tmp_path / name) == expected


def test_slices_are_no_images_of_their_own(tmp_path):
    slices(tmp_path, "a")
    touch(tmp_path, "a.nii", "b/readme.txt", ".b.nii", ".c/a.nii", "x.zarr/a.nii")
    assert [str(path.relative_to(tmp_path)) for path in images(tmp_path)] == ["a.nii", "a"]


def test_links_to_files_and_folders_are_followed(tmp_path):
    touch(tmp_path, "far/a/ct.nii", "far/a/airway.nii", "far/airways/b.nii", "root/b/ct.nii")
    (tmp_path / "root/a").symlink_to(tmp_path / "far/a")
    (tmp_path / "root/b/airway.nii").symlink_to(tmp_path / "far/airways/b.nii")
    cases, faults, _ = found("phantom", tmp_path / "root")
    assert cases == {name: (f"{name}/ct.nii", f"{name}/airway.nii") for name in "ab"} and not faults
