"""Cases: where their files lie, and what of their geometry is mended, refused and reported."""

import numpy as np
import pandas as pd
import pytest
from tiny_cases import ORIGIN, SPACING, tiny_case, write_dicom

from airwaylib.errors import InputError
from airwaylib.images.volume import Volume, read_volume, write_volume
from airwaystudy.data.cases import (
    Case,
    find_case,
    folder_case,
    on_grid,
    one_file,
    read_case,
    read_table,
    split_names,
    upright,
    write_table,
)

SAGITTAL = (0, 0, 1, 0, 1, 0, 1, 0, 0)  # the array's x axis is the patient's z, and the other way round


@pytest.fixture
def pair():
    return tiny_case()


def stored(folder, ct, airway):
    """The case of two volumes written to a folder."""
    write_volume(ct, folder / "ct.nii.gz")
    write_volume(airway, folder / "airway.nii.gz")
    return Case("a", folder / "ct.nii.gz", folder / "airway.nii.gz")


# ------------------------------------------------------------------------------------------------------------ on a grid


def test_what_is_in_order_stays(pair, tmp_path):
    ct, airway, mended = read_case(stored(tmp_path, *pair))
    assert mended == []
    np.testing.assert_array_equal(ct.array, pair[0].array)
    np.testing.assert_array_equal(airway.array, pair[1].array)
    assert airway.array.dtype == bool and airway.same_grid(ct)


@pytest.mark.parametrize(
    ("place", "missing"),
    [
        ({}, "spacing, origin"),
        ({"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}, "spacing, origin, direction"),  # as from an identity affine
        ({"spacing": SPACING}, "origin"),
        ({"spacing": SPACING, "origin": ORIGIN, "direction": (1, 0, 0, 0, -1, 0, 0, 0, -1)}, "direction"),
    ],
)
def test_a_label_without_geometry_takes_the_cts(pair, tmp_path, place, missing):
    ct, airway, mended = read_case(stored(tmp_path, pair[0], Volume(pair[1].array, **place)))
    assert mended == [f"label without {missing}: takes the CT's"]
    np.testing.assert_array_equal(airway.array, pair[1].array)
    assert airway.same_grid(ct)


@pytest.mark.parametrize(
    "place",
    [
        {"spacing": SPACING, "origin": (-50, -40, 102)},
        {"spacing": (2, 2, 3), "origin": ORIGIN},
        {"spacing": (2, 2, 3)},  # one part that is not the CT's is enough
    ],
)
def test_a_label_elsewhere_is_refused_and_both_grids_named(pair, tmp_path, place):
    with pytest.raises(InputError, match=r"airway.nii.gz: the label's grid Volume.* is not that of the CT, Volume\(56"):
        read_case(stored(tmp_path, pair[0], Volume(pair[1].array, **place)))


def test_a_label_of_another_shape_is_refused(pair):
    with pytest.raises(InputError, match=r"label: the label's grid Volume\(56 x 48 x 39.* is not that of the CT"):
        on_grid(pair[1].crop((slice(0, 39), slice(None), slice(None))), pair[0])


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.5, 2, 2), SPACING])
def test_a_label_that_stored_z_as_x_is_transposed(pair, tmp_path, spacing):
    turned = Volume(pair[1].array.transpose(2, 1, 0), spacing)
    ct, airway, mended = read_case(stored(tmp_path, pair[0], turned))
    assert mended == ["label stored z as x: transposed"]
    np.testing.assert_array_equal(airway.array, pair[1].array)
    assert airway.same_grid(ct)


@pytest.mark.parametrize("turn", [False, True])
def test_a_mended_label_must_lie_in_air(pair, turn):
    array = np.zeros_like(pair[1].array)
    array[:2] = True  # tissue
    label = Volume(array.transpose(2, 1, 0) if turn else array)
    with pytest.raises(InputError, match="label's voxels have 40 HU in the CT then, which is no air"):
        on_grid(label, pair[0])


def test_two_equal_sides_in_another_order_are_not_guessed():
    ct, airway = tiny_case((40, 56, 56))
    cyclic = Volume(airway.array.transpose(1, 2, 0))  # y, x, z: of the shape of x, y, z
    with pytest.raises(InputError, match=r"its shape .56, 56, 40. is the CT's reversed, but not its axes' order"):
        on_grid(cyclic, ct)
    label, mended = on_grid(Volume(airway.array.transpose(2, 1, 0)), ct)
    np.testing.assert_array_equal(label.array, airway.array)
    assert len(mended) == 1


# ---------------------------------------------------------------------------------------------------------- upright CTs


def scan(**place):
    """A case of 256 x 256 x 40 voxels with air beside the body: CT and label."""
    ct, airway = tiny_case((40, 256, 256), **place)
    array = ct.array.copy()
    array[:, :, :5] = array[:, :, -5:] = -1000
    return ct.with_array(array), airway


@pytest.mark.parametrize("spacing", [(2, 1, 1), (1, 1, 2), (1, 1, 1)])  # in the array's order, the patient's, any
def test_a_ct_that_stored_z_as_x_is_transposed_with_its_label(tmp_path, spacing):
    ct, airway = scan()
    turned = [Volume(one.array.transpose(2, 1, 0), spacing) for one in (ct, airway)]
    found, label, mended = read_case(stored(tmp_path, *turned))
    np.testing.assert_array_equal(found.array, ct.array)
    np.testing.assert_array_equal(label.array, airway.array)
    assert found.spacing == ((1, 1, 1) if spacing == (1, 1, 1) else (1, 1, 2))
    assert label.same_grid(found)
    assert mended == ["CT stored z as x: transposed", "label stored z as x: transposed"]


def test_a_label_may_be_upright_beside_a_ct_that_is_not():
    ct, airway = scan()
    found, _ = upright(Volume(ct.array.transpose(2, 1, 0), (2, 1, 1)))
    label, mended = on_grid(Volume(airway.array), found)
    np.testing.assert_array_equal(label.array, airway.array)
    assert mended == ["label without spacing: takes the CT's"]


def test_a_header_that_tells_of_sagittal_slices_is_believed(pair):
    """The voxels keep their places in the patient."""
    turned = Volume(pair[0].array.transpose(2, 1, 0), SPACING[::-1], ORIGIN, SAGITTAL)
    found, mended = upright(turned)
    np.testing.assert_array_equal(found.array, pair[0].array)
    assert found.same_grid(pair[0])
    assert mended == ["CT stored by sagittal slices: turned to axial ones"]
    label, _ = on_grid(Volume(pair[1].array.transpose(2, 1, 0), SPACING[::-1], ORIGIN, SAGITTAL), found)
    np.testing.assert_array_equal(label.array, pair[1].array)


def test_spacing_that_fits_neither_order_is_refused():
    ct, _ = scan()
    with pytest.raises(InputError, match=r"ct.nii: 40 x 256 x 256 voxels look as if z was stored as x, but"):
        upright(Volume(ct.array.transpose(2, 1, 0), (1, 2, 3)), "ct.nii")


def test_a_ct_of_many_slices_that_was_cut_along_x_stays():
    """256 slices of 256 rows: shape alone tells nothing, but the end planes along x lie beside the body."""
    array = np.full((256, 256, 40), 40, np.int16)
    array[:, 20:-20, 3:-3] = -850
    array[:, :, :2] = array[:, :, -2:] = -1000
    found, mended = upright(Volume(array))
    assert found.array.shape == (256, 256, 40) and mended == []


# ------------------------------------------------------------------------------------------------------------ the table


def test_table_keeps_paths_inside_the_data_relative(tmp_path):
    data = tmp_path / "data"
    rows = [
        {"case": "1", "split": "train", "ct": data / "raw/1/ct.nii", "airway": data / "raw/1/a.nii", "mended": ""},
        {"case": "2", "split": "test", "ct": tmp_path / "x/ct", "airway": tmp_path / "x/a.nii", "mended": "b, c"},
    ]
    path = write_table(data, rows)
    plain = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert plain.columns.tolist() == ["case", "split", "ct", "airway", "mended"]
    assert plain["ct"].tolist() == ["raw/1/ct.nii", str(tmp_path / "x/ct")]
    assert plain["mended"].tolist() == ["", "b, c"]
    assert find_case(data, "1") == Case("1", data / "raw/1/ct.nii", data / "raw/1/a.nii")
    assert find_case(data, "2") == Case("2", tmp_path / "x/ct", tmp_path / "x/a.nii")
    assert split_names(data) == {"train": ["1"], "validation": [], "test": ["2"]}
    assert [entry.name for entry in data.iterdir()] == ["cases.csv"]


def test_without_a_table_a_case_is_a_folder(pair, tmp_path):
    assert read_table(tmp_path) is None and split_names(tmp_path) is None
    stored(tmp_path / "raw/a", *pair)
    case = find_case(tmp_path, "a")
    assert case == folder_case(tmp_path / "raw/a") == Case("a", *(tmp_path / f"raw/a/{n}.nii.gz" for n in NAMES))
    with pytest.raises(InputError, match=r"no case 'b' \(no cases.csv there, and no folder raw/b\)"):
        find_case(tmp_path, "b")
    write_table(tmp_path, [{"case": "c", "split": "train", "ct": "c", "airway": "d", "mended": ""}])
    assert find_case(tmp_path, "a") == case  # not in the table, but there
    with pytest.raises(InputError, match=r"no case 'b' \(not in its cases.csv"):
        find_case(tmp_path, "b")


NAMES = ("ct", "airway")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,split,ct\na,train,b\n", "no column airway, mended"),
        ("case,split,ct,airway,mended\na,train,b,c,\na,test,b,c,\n", "a is named twice"),
        ("case,split,ct,airway,mended\na,training,b,c,\n", "unknown split 'training'; choose train, validation, test"),
        ("", "not a readable table"),
    ],
)
def test_a_faulty_table_is_refused(tmp_path, text, message):
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(InputError, match=f"cases.csv: {message}"):
        read_table(tmp_path)


def test_files_beside_an_image_do_not_count(tmp_path):
    for name in ("ct.mhd", "ct.raw", "ct.json", "ct_old.nii.gz"):
        (tmp_path / name).touch()
    assert one_file(tmp_path, "ct") == tmp_path / "ct.mhd"


def test_a_ct_may_be_a_dicom_folder(pair, tmp_path):
    write_dicom(pair[0], tmp_path / "ct")
    placed = read_volume(tmp_path / "ct")
    write_volume(placed.with_array(pair[1].array), tmp_path / "airway.nrrd")
    ct, airway, mended = read_case(Case("a", tmp_path / "ct", tmp_path / "airway.nrrd"))
    np.testing.assert_array_equal(ct.array, pair[0].array)
    assert airway.same_grid(ct) and mended == []
