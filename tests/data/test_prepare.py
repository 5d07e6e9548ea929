"""Training stores: literal shapes with known distances, stores against plain recomputation, and bad cases."""

import shutil

import cc3d
import numpy as np
import pytest
import SimpleITK as sitk
import zarr
from mini_phantoms import mini
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.images.lungs import lung_mask
from airwaylib.images.masks import bounding_box
from airwaylib.images.volume import Volume, write_volume
from airwaylib.trees.axes import tubes
from airwaylib.trees.skeleton import thin
from airwaystudy.data import datasets
from airwaystudy.data.cases import folder_case
from airwaystudy.data.datasets import prepare_phantoms
from airwaystudy.data.prepare import (
    CHUNK,
    MARGIN,
    airway_width,
    prepare_case,
    prepare_files,
    small_airways,
    without_thick_tubes,
)
from airwaystudy.phantoms.drawing import Grid, draw_tubes

TURN = np.deg2rad(20)
PLACE = {
    "spacing": (0.9, 1.1, 1.4),
    "origin": (-120.0, 35.5, 1008.25),
    "direction": (np.cos(TURN), -np.sin(TURN), 0, np.sin(TURN), np.cos(TURN), 0, 0, 0, 1),
}


def cylinder(shape, axis, centre, radius, spacing=(1.0, 1.0, 1.0)):
    """A tube of `radius` mm through the whole grid along `axis` (0 z, 1 y, 2 x) about `centre`, two indices."""
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")
    across = [other for other in range(3) if other != axis]
    squared = sum(((grid[a] - c) * spacing[::-1][a]) ** 2 for a, c in zip(across, centre, strict=True))
    return squared <= radius**2


# ------------------------------------------------------------------------------------------------ centreline, distance


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_centreline_of_a_straight_tube_is_its_axis(axis):
    shape = [21, 21, 21]
    shape[axis] = 40
    tube = cylinder(shape, axis, (10, 10), 4)
    tube &= np.isin(np.indices(shape)[axis], range(5, 35))
    points = np.argwhere(thin(tube))
    assert (np.delete(points, axis, 1) == 10).all()
    along = points[:, axis]
    assert (np.diff(along) == 1).all()  # without a gap
    assert 5 <= along.min() <= 5 + 4 and 34 - 4 <= along.max() <= 34  # thinning eats the ends, at most by the radius


def test_centreline_of_the_phantom_is_one_line_inside_the_label():
    label = mini().airway.array
    centreline = thin(label)
    assert centreline.dtype == bool
    assert not (centreline & ~label).any()
    assert cc3d.connected_components(centreline, connectivity=26).max() == 1
    assert centreline.sum() < 0.1 * label.sum()
    assert (ndimage.distance_transform_edt(~mini().centreline.array)[centreline] < 4).all()


# -------------------------------------------------------------------------------------------------------- small airways


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (0.5, 0.8, 1.5)])
def test_the_opening_leaves_out_the_thick_tube(spacing):
    shape = tuple(round(mm / side) for mm, side in zip((40, 40, 60), spacing[::-1], strict=True))
    middle = [n // 2 for n in shape]
    thick = cylinder(shape, 0, (middle[1], middle[2]), 8, spacing)
    thin = cylinder(shape, 2, (middle[0], middle[1]), 2.2, spacing)
    small = without_thick_tubes(thick | thin, spacing)
    assert not (small & thick).any()
    beyond = np.abs(np.arange(shape[2]) - middle[2]) * spacing[0] > 8 + 8 / 2 + 2  # mm from the thick tube's axis
    assert (thin & beyond).any()
    np.testing.assert_array_equal(small[..., beyond], thin[..., beyond])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 1.25), (0.6, 0.6, 5.0)])
@pytest.mark.parametrize("radius", [2.5, 5, 7.3])
def test_a_tube_of_one_calibre_has_no_small_airways_not_even_specks(radius, spacing):
    tube = cylinder((20, 35, 37), 0, (16.7, 18.2), radius, spacing)
    assert not without_thick_tubes(tube, spacing).any()
    small, by = small_airways(tube, spacing)  # does not fork: no tree to go by
    assert by == "opening" and not small.any()


def test_small_airways_of_the_phantom_are_its_tree_without_trachea_and_main_bronchi():
    label, tree = mini().airway.array, mini().tree
    small, by = small_airways(label, (1.0, 1.0, 1.0))
    large, others = (
        label & (draw_tubes(Grid(label.shape, (1.0, 1.0, 1.0)), *tubes(tree[rows])) <= 0)
        for rows in (tree["generation"] <= 1, tree["generation"] > 1)
    )
    assert by == "tree"
    assert (small & large).sum() < 0.08 * large.sum()  # where branches meet, the nearer axis decides
    assert (small & others & ~large).sum() > 0.98 * (others & ~large).sum()


def draw_tree(*bars):
    """A label of 60 x 40 x 60 voxels, z up: bars ((z, y, x) of the lower corner, of the upper one), both included."""
    label = np.zeros((60, 40, 60), bool)
    for low, high in bars:
        label[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
    return label


TRUNK = ((25, 16, 26), (55, 24, 34))
ARMS = ((21, 18, 8), (24, 22, 52))
TWIGS = [((22, y, x), (24, y + 12, x + 2)) for y in (5, 22) for x in (8, 50)]
LEFT_TIPS = ((23, 5, 2), (23, 5, 16))


def test_trachea_and_both_main_bronchi_go_and_the_rest_stays():
    label = draw_tree(TRUNK, ARMS, *TWIGS)
    small, by = small_airways(label, (1.0, 1.0, 1.0))
    assert by == "tree"
    assert not small[28:].any() and not small[:, 18:22, 14:47].any()
    rest = draw_tree(*TWIGS)
    rest[:, 14:27] = False  # away from the arms' ends
    assert small[rest].all()


def test_a_spur_that_parts_the_trachea_changes_nothing():
    """Its upper part goes with it, and so do the main bronchi that the parser counts one generation later."""
    spur = ((42, 20, 35), (42, 20, 48))
    for upper in (((44, 18, 28), (59, 22, 32)), ((44, 16, 26), (59, 24, 34))):
        label = draw_tree(TRUNK, ARMS, *TWIGS, spur, upper)
        small, by = small_airways(label, (1.0, 1.0, 1.0))
        assert by == "tree"
        trunk = draw_tree(TRUNK, upper)
        trunk[:28] = False
        assert not small[trunk].any() and not small[:, 18:22, 14:47].any()
        assert small[:, 5:14].sum() > 0 and small[:, 28:].sum() > 0


def test_a_part_off_the_tree_stays():
    island = ((2, 2, 2), (6, 3, 3))
    small, _ = small_airways(draw_tree(TRUNK, ARMS, *TWIGS, island), (1.0, 1.0, 1.0))
    assert small[draw_tree(island)].all()


@pytest.mark.parametrize(
    "bars",
    [
        [TRUNK],  # nothing forks
        [((8, 18, 28), (59, 22, 32)), ((4, 16, 18), (12, 24, 27)), ((4, 16, 33), (12, 24, 42))],  # arms are wider
    ],
)
def test_without_a_trachea_that_forks_the_opening_steps_in(bars):
    label = draw_tree(*bars)
    small, by = small_airways(label, (1.0, 1.0, 1.0))
    assert by == "opening"
    np.testing.assert_array_equal(small, without_thick_tubes(label, (1.0, 1.0, 1.0)))


# ------------------------------------------------------------------------------------------------------------ the store


@pytest.fixture(scope="module")
def placed():
    """The mini phantom's CT and label on an oblique, anisotropic grid."""
    return Volume(mini().ct.array, **PLACE), Volume(mini().airway.array, **PLACE)


@pytest.fixture(scope="module")
def stores(placed, tmp_path_factory):
    """The store of `placed` in each distance unit."""
    folder = tmp_path_factory.mktemp("stores")
    return {
        unit: zarr.open_group(prepare_case("odd", *placed, folder / f"{unit}.zarr", unit), mode="r") for unit in UNITS
    }


UNITS = ("mm", "voxels")


def box_of(store):
    return tuple(slice(start, stop) for start, stop in store.attrs["lung_box"])


def test_store_holds_the_lungs_box_and_five_voxels(stores, placed):
    box = box_of(stores["mm"])
    assert box == bounding_box(lung_mask(placed[0]), 5)
    occupied = np.argwhere(mini().lung.array)
    for side, low, high, size in zip(box, occupied.min(0), occupied.max(0), (128,) * 3, strict=True):
        assert side.start <= max(low - MARGIN + 1, 0) and side.stop >= min(high + MARGIN, size)
    np.testing.assert_array_equal(stores["mm"]["lung"][:], lung_mask(placed[0])[box])
    assert stores["mm"].attrs["shape"] == [128, 128, 128]
    assert {name: array.shape for name, array in stores["mm"].arrays()} == dict.fromkeys(
        ["image", "label", "centreline", "distance", "width", "small_airway", "lung"],
        tuple(s.stop - s.start for s in box),
    )


def test_store_holds_ct_and_label_of_the_box(stores, placed):
    store, box = stores["mm"], box_of(stores["mm"])
    grey = np.floor((np.clip(placed[0].array[box].astype(float), -1000, 400) + 1000) * 255 / 1400 + 0.5)
    np.testing.assert_array_equal(store["image"][:], grey)
    np.testing.assert_array_equal(store["label"][:], placed[1].array[box])
    for name, dtype in {
        "image": "u1",
        "label": "u1",
        "centreline": "u1",
        "small_airway": "u1",
        "distance": "f2",
        "width": "u1",
    }.items():
        assert store[name].dtype == np.dtype(dtype)
        assert store[name].chunks == (CHUNK,) * 3


@pytest.mark.parametrize(("unit", "sampling"), [("mm", (1.4, 1.1, 0.9)), ("voxels", (1, 1, 1))])
def test_store_holds_the_distance_in_its_unit(stores, unit, sampling):
    store = stores[unit]
    label, centreline, distance = (store[name][:] for name in ("label", "centreline", "distance"))
    exact = ndimage.distance_transform_edt(centreline == 0, sampling=sampling)
    maximum = exact[label > 0].max()
    assert store.attrs["distance_unit"] == unit
    assert store.attrs["distance_max"] == pytest.approx(maximum, rel=1e-6)
    np.testing.assert_allclose(distance[label > 0], exact[label > 0] / maximum, atol=5e-4)  # float16
    assert distance.min() == 0 and distance.max() == 1
    steps = ndimage.distance_transform_cdt(label == 0, "taxicab")
    assert (distance[steps > 2] == 0).all()
    assert (distance[(steps > 0) & (steps <= 2)] > 0).all()


def test_width_is_the_local_diameter_in_voxels():
    """Tubes of square section 1, 3 and 5 voxels wide, and a voxel or two around them."""
    label, centreline = np.zeros((20, 40, 12), bool), np.zeros((20, 40, 12), bool)
    for middle, half in ((5, 0), (15, 1), (28, 2)):
        label[10 - half : 11 + half, middle - half : middle + half + 1, 1:-1] = True
        centreline[10, middle, 3:-3] = True
    width = airway_width(label, centreline)
    assert width[10, [5, 15, 28], 6].tolist() == [1, 3, 5]
    assert width[9:12, 14:17, 4:8].min() == width[9:12, 14:17, 4:8].max() == 3
    assert width[10, 7, 6] == 1 and width[10, 8, 6] == 0 and width[12, 30, 6] == 5  # kept for two voxels


def test_store_holds_centreline_and_small_airways_inside_the_label(stores):
    label, centreline, small = (stores["mm"][name][:] > 0 for name in ("label", "centreline", "small_airway"))
    assert centreline.any() and not (centreline & ~label).any()
    assert small.any() and not (small & ~label).any() and (label & ~small).any()
    assert stores["mm"].attrs["small_airway_by"] == "tree" and stores["mm"].attrs["mended"] == []
    np.testing.assert_array_equal(small, stores["voxels"]["small_airway"][:])  # in mm whatever the distance's unit


def test_a_voxel_of_the_store_lies_where_it_lay_in_the_ct(stores, placed):
    attributes, box = stores["mm"].attrs, box_of(stores["mm"])
    shape = stores["mm"]["image"].shape
    place = {name: attributes[name] for name in ("spacing", "origin", "direction")}
    store = Volume(np.zeros(shape, bool), **place)
    for index in ([0, 0, 0], [7, 20, 31], [n - 1 for n in shape]):
        original = np.add(index, [side.start for side in box])
        np.testing.assert_allclose(store.index_to_point([index]), placed[0].index_to_point([original]), atol=1e-9)
    assert attributes["case"] == "odd"


def test_store_appears_whole_or_not_at_all(placed, tmp_path, monkeypatch):
    written = []
    create = zarr.Group.create_array

    def broken(self, name, **settings):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(name)
        return create(self, name, **settings)

    monkeypatch.setattr(zarr.Group, "create_array", broken)
    with pytest.raises(KeyboardInterrupt):
        prepare_case("odd", *placed, tmp_path / "odd.zarr")
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- cases on disk


@pytest.fixture
def raw(phantoms):
    """A folder with the case mini_0000."""
    return phantoms / "raw"


@pytest.fixture
def case(raw, tmp_path):
    """A copy of the case, to spoil; its folder is called patient."""
    folder = tmp_path / "raw" / "patient"
    folder.mkdir(parents=True)
    for name in ("ct.nii.gz", "airway.nii.gz"):
        shutil.copy(raw / "mini_0000" / name, folder)
    return folder


def test_a_case_is_prepared_and_a_store_that_stands_is_kept(case, tmp_path):
    out = tmp_path / "new" / "prepared"
    assert prepare_files(folder_case(case), out) == out / "patient.zarr"
    assert [path.name for path in out.iterdir()] == ["patient.zarr"]
    assert zarr.open_group(out / "patient.zarr", mode="r").attrs["case"] == "patient"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    (case / "ct.nii.gz").write_bytes(bytes((case / "ct.nii.gz").stat().st_size))  # damaged since: it is not read
    assert prepare_files(folder_case(case), out) == out / "patient.zarr"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(InputError, match=r"patient.zarr: its distances are in mm, not in voxels"):
        prepare_files(folder_case(case), out, "voxels")
    (out / "patient.zarr/zarr.json").unlink()
    with pytest.raises(InputError, match=r"patient.zarr: no training store .*; delete it to make it anew"):
        prepare_files(folder_case(case), out)


def test_what_was_mended_is_kept_in_the_store(case, tmp_path):
    write_volume(Volume(mini().airway.array, origin=(0, 0, 0), spacing=(1, 1, 1)), case / "airway.nii.gz")
    write_volume(Volume(mini().ct.array, **PLACE), case / "ct.nii.gz")
    store = prepare_files(folder_case(case), tmp_path / "prepared")
    assert zarr.open_group(store, mode="r").attrs["mended"] == [
        "label without spacing, origin, direction: takes the CT's"
    ]


def test_phantoms_are_made_where_they_are_missing(raw, tmp_path, monkeypatch):
    made = []

    def ensure(seed, size, folder):
        made.append((seed, size, folder))
        return raw / "mini_0000"

    monkeypatch.setattr(datasets, "ensure_phantom", ensure)
    prepare_phantoms(tmp_path, ["mini_0000", "patient_7", "mini", "mini_x", "LIDC-IDRI-0002"])
    assert made == [(0, "mini", tmp_path / "raw")]
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == ["mini_0000.zarr"]


def respaced(case):
    image = sitk.ReadImage(case / "airway.nii.gz")
    image.SetSpacing((1, 1, 1.25))
    sitk.WriteImage(image, case / "airway.nii.gz")


def relabelled(change):
    def spoil(case):
        label = mini().airway.array.astype(np.uint8)
        change(label)
        write_volume(mini().airway.with_array(label), case / "airway.nii.gz")

    return spoil


def two_labels(label):
    label[64:] *= 3


def empty(label):
    label[:] = 0


def corner_only(label):
    label[:] = 0
    label[:3, :3, :3] = 1


def even_width(label):
    label[:] = 0
    label[60:62, 60:62, 40:90] = 1


def not_a_number(case):
    array = mini().ct.array.astype(np.float32)
    array[5, 6, 7] = np.nan
    write_volume(mini().ct.with_array(array), case / "ct.nrrd")
    (case / "ct.nii.gz").unlink()


def no_lung(case):
    array = np.where(mini().ct.array < -500, 40, mini().ct.array)
    array[:, :4] = -1000  # air, but outside
    write_volume(mini().ct.with_array(array), case / "ct.nii.gz")


def without(name):
    return lambda case: (case / name).unlink()


def twice(case):
    shutil.copy(case / "ct.nii.gz", case / "ct.old.nii.gz")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (respaced, r"patient/airway.nii.gz: the label's grid .* is not that of the CT"),
        (relabelled(two_labels), r"patient/airway.nii.gz: not a binary mask, it holds 0, 1, 3"),
        (relabelled(empty), r"patient/airway.nii.gz: the mask is empty"),
        (relabelled(corner_only), r"^patient: the label holds no airway inside the lungs' box"),
        (not_a_number, r"patient/ct.nrrd: 1 of 2097152 voxels are NaN"),
        (no_lung, r"^patient: no lung found"),
        (without("ct.nii.gz"), r"patient: no files ct\.\* found; one is needed"),
        (without("airway.nii.gz"), r"patient: no files airway\.\* found; one is needed"),
        (twice, r"patient: 2 files ct\.\* found; one is needed"),
    ],
)
def test_a_bad_case_is_one_line_that_names_it(case, tmp_path, spoil, message):
    spoil(case)
    with pytest.raises(InputError, match=message) as caught:
        prepare_files(folder_case(case), tmp_path / "prepared")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "prepared").exists()


def test_a_label_of_even_width_is_prepared_with_a_centreline(case, tmp_path):
    relabelled(even_width)(case)  # plain thinning leaves nothing of it
    store = prepare_files(folder_case(case), tmp_path / "prepared")
    group = zarr.open_group(store, mode="r")
    assert group["centreline"][:].sum() >= 50
    assert (group["centreline"][:] <= group["label"][:]).all()


def test_label_on_another_grid_is_refused_before_anything_is_written(placed, tmp_path):
    shifted = Volume(placed[1].array, **PLACE | {"origin": (-120.0, 35.5, 1009.25)})
    with pytest.raises(InputError, match=r"^odd: CT .* and label .* are not on one grid"):
        prepare_case("odd", placed[0], shifted, tmp_path / "odd.zarr")
    assert list(tmp_path.iterdir()) == []


def test_unknown_distance_unit(placed, tmp_path):
    with pytest.raises(InputError, match="distance unit 'inches' is unknown: choose mm or voxels"):
        prepare_case("odd", *placed, tmp_path / "odd.zarr", "inches")
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_other_files_is_not_taken_for_this_ones(case, tmp_path):
    store = prepare_files(folder_case(case), tmp_path)
    assert prepare_files(folder_case(case), tmp_path) == store
    zarr.open_group(store).attrs["sizes"] = [1, 2]
    with pytest.raises(InputError, match=r"was made of other files than .*ct.* and .*airway.*; delete it to renew it"):
        prepare_files(folder_case(case), tmp_path)
    del (group := zarr.open_group(store)).attrs["sizes"]  # a store from before sizes were kept
    assert prepare_files(folder_case(case), tmp_path) == store and "sizes" not in group.attrs
