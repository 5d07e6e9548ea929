"""Crops: rotation against closed forms and scipy, the samplers' rules, and the same numbers whoever draws them."""

import numpy as np
import pytest
import torch
import zarr
from scipy import ndimage
from torch.utils.data import DataLoader

from airwaylib import patches
from airwaylib.errors import InputError
from airwaylib.patches import (
    MOST_LARGE,
    Crops,
    Store,
    centreline_corner,
    count_inside,
    random_corner,
    rotate_and_crop,
    small_airway_corner,
)
from airwaylib.phantom import make_phantom
from airwaylib.prepare import prepare_case

NOWHERE = np.zeros((0, 3), int)


def synthetic(shape, centreline=NOWHERE, small=NOWHERE, large=NOWHERE, name="synthetic"):
    """A store whose image is the running number of the voxel, and whose label is the points."""
    image = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    label = np.zeros(shape, np.uint8)
    for points in (centreline, small, large):
        label[tuple(np.asarray(points).T)] = 1
    return Store(name, image, label, 0.5 * label, *map(np.asarray, (centreline, small, large)))


def block(low, high):
    """All points of a box, `high` left out."""
    return np.argwhere(np.ones(np.subtract(high, low), bool)) + low


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The store of a mini phantom."""
    phantom = make_phantom(0, "mini")
    return prepare_case("mini_0000", phantom.ct, phantom.airway, tmp_path_factory.mktemp("patches") / "mini_0000.zarr")


def equal(crop, other):
    return all(torch.equal(crop[name], other[name]) for name in ("image", "label", "distance"))


# ------------------------------------------------------------------------------------------------------------- rotation


@pytest.fixture
def cube():
    """Two channels of smooth noise in [0, 1], 40^3."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random((2, 40, 40, 40)), (0, 2, 2, 2))
    return torch.from_numpy((noise - noise.min()) / np.ptp(noise)).float()


@pytest.mark.parametrize("plane", [0, 1, 2])
@pytest.mark.parametrize("crop", [40, 32, 8])
def test_no_rotation_is_the_central_crop(cube, plane, crop):
    rim = (40 - crop) // 2
    centre = cube[:, rim : 40 - rim, rim : 40 - rim, rim : 40 - rim]
    torch.testing.assert_close(rotate_and_crop(cube, crop, 0, plane), centre, atol=1e-5, rtol=0)


@pytest.mark.parametrize("plane", [0, 1, 2])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_go_from_the_second_axis_of_the_plane_to_the_first(cube, plane, turns):
    axes = [axis for axis in range(3) if axis != plane]
    turned = np.rot90(cube.numpy(), -turns, [1 + axis for axis in axes])
    result = rotate_and_crop(cube, 32, 90 * turns, plane).numpy()
    np.testing.assert_allclose(result, turned[:, 4:36, 4:36, 4:36], atol=2e-5)


def test_a_voxel_turns_about_z_from_x_to_y():
    cube = torch.zeros(1, 9, 9, 9)
    cube[0, 4, 4, 7] = 1  # three voxels along x
    assert torch.argwhere(rotate_and_crop(cube, 9, 90, 0) > 0.99).tolist() == [[0, 4, 7, 4]]


@pytest.mark.parametrize("plane", [0, 1, 2])
@pytest.mark.parametrize("degrees", [10, -15])
def test_rotation_is_that_of_scipy(cube, plane, degrees):
    # 26 of 40 voxels: what the turn brings in from beyond the cube stays outside the crop.
    axes = [axis for axis in range(3) if axis != plane]
    expected = [ndimage.rotate(channel, -degrees, axes, reshape=False, order=1) for channel in cube.numpy()]
    result = rotate_and_crop(cube, 26, degrees, plane).numpy()
    np.testing.assert_allclose(result, np.array(expected)[:, 7:33, 7:33, 7:33], atol=1e-5)
    assert np.abs(result - cube[:, 7:33, 7:33, 7:33].numpy()).max() > 0.05  # and it did turn


def test_corners_beyond_the_cube_repeat_its_border():
    cube = torch.ones(1, 20, 20, 20)
    assert rotate_and_crop(cube, 20, 45, 1).min() > 1 - 1e-5


# ------------------------------------------------------------------------------------------------------------- samplers


def test_random_corners_cover_every_place_evenly():
    rng = np.random.default_rng(0)
    corners = np.array([random_corner((10, 7, 5), 5, rng) for _ in range(6000)])
    assert corners.min(0).tolist() == [0, 0, 0] and corners.max(0).tolist() == [5, 2, 0]
    assert np.bincount(corners[:, 0]) == pytest.approx(np.full(6, 1000), abs=130)  # 4.5 standard deviations
    assert np.bincount(corners[:, 1]) == pytest.approx(np.full(3, 2000), abs=165)


def test_an_axis_shorter_than_the_cube_is_centred():
    assert random_corner((4, 5, 9), 9, np.random.default_rng(0)).tolist() == [-3, -2, 0]


def test_points_are_counted_from_the_corner_on_and_the_far_side_is_out():
    points = np.array([[2, 2, 2], [6, 6, 6], [7, 6, 6], [2, 1, 2], [4, 4, 4]])
    assert count_inside(points, np.array([2, 2, 2]), 5) == 3
    assert count_inside(NOWHERE, np.array([2, 2, 2]), 5) == 0


def test_centreline_cubes_hold_a_centreline_voxel_and_lie_inside():
    points = np.array([[0, 0, 0], [29, 30, 31], [15, 3, 20]])
    store, rng = synthetic((30, 31, 32), centreline=points), np.random.default_rng(0)
    held = np.zeros(3)
    for _ in range(300):
        corner = centreline_corner(store, 12, rng)
        assert (corner >= 0).all() and (corner + 12 <= [30, 31, 32]).all()
        inside = ((points >= corner) & (points < corner + 12)).all(1)
        assert inside.any()
        held += inside
    assert (held > 60).all()  # each of them in turn


def test_centreline_cubes_are_placed_evenly_about_a_voxel_in_the_middle():
    store, rng = synthetic((40, 40, 40), centreline=[[20, 20, 20]]), np.random.default_rng(0)
    corners = np.array([centreline_corner(store, 8, rng) for _ in range(4000)])
    assert corners.min(0).tolist() == [13, 13, 13] and corners.max(0).tolist() == [20, 20, 20]
    assert np.bincount(corners[:, 1])[13:] == pytest.approx(np.full(8, 500), abs=100)


def test_centreline_cubes_of_a_small_case_are_centred():
    store = synthetic((8, 30, 30), centreline=[[0, 15, 15]])
    corners = np.array([centreline_corner(store, 10, np.random.default_rng(seed)) for seed in range(20)])
    assert (corners[:, 0] == -1).all() and (corners[:, 1:] >= 6).all() and (corners[:, 1:] <= 15).all()


def redrawn(store, side, count):
    """Corners of small-airway sampling: those it left as first drawn, and those it was free to draw again."""
    kept, again = [], []
    for seed in range(count):
        corner = small_airway_corner(store, side, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        first = random_corner(store.image.shape, side, rng)
        if rng.random() < 0.5:
            assert corner.tolist() == first.tolist()
            kept.append(corner)
        else:
            again.append(corner)
    return kept, again


def test_small_airway_cubes_hold_small_and_hardly_any_large_airway():
    # Large airway gets rarer along x, and small airway ends at x = 55: cubes from about x = 40 to 54 qualify.
    everywhere = block((0, 0, 0), (60, 60, 100))
    large = everywhere[np.random.default_rng(0).random(len(everywhere)) < 4e-4 * (1 - everywhere[:, 2] / 70)]
    small, side = block((20, 20, 30), (40, 40, 55)), 38
    store = synthetic((60, 60, 100), small=small, large=large)
    kept, again = redrawn(store, side, 120)
    assert 40 < len(again) < 80  # with probability 1/2
    limit = 200 * side**3 / 150**3  # 3.25 voxels
    assert limit == pytest.approx(MOST_LARGE * side**3)
    counts = [[(count_inside(small, c, side), count_inside(large, c, side)) for c in part] for part in (kept, again)]
    assert all(few > 0 and many <= limit for few, many in counts[1])
    assert any(many > 0 for _, many in counts[1])
    assert np.mean([few > 0 and many <= limit for few, many in counts[0]]) < 0.5  # so the rule was needed
    assert np.mean([few > 0 for few, _ in counts[0]]) < 1


def test_where_no_cube_is_admissible_the_one_with_least_large_airway_is_taken():
    # Small airway is everywhere, and so is large airway, the less the farther along x.
    everywhere = block((0, 0, 0), (20, 20, 40))
    large = everywhere[np.random.default_rng(0).random(len(everywhere)) < 0.3 * (1 - everywhere[:, 2] / 45)]
    store, side = synthetic((20, 20, 40), small=everywhere, large=large), 14
    kept, again = redrawn(store, side, 120)
    counts = [[count_inside(large, corner, side) for corner in corners] for corners in (kept, again)]
    assert min(counts[1]) > MOST_LARGE * side**3
    assert np.mean(counts[1]) < 0.6 * np.mean(counts[0])  # at the far end 0.48 times the mean


def test_a_case_without_small_airways_still_gives_cubes():
    store = synthetic((20, 20, 20), large=block((0, 0, 0), (20, 20, 20)))
    assert [small_airway_corner(store, 20, np.random.default_rng(seed)).tolist() for seed in (0, 1)] == [[0, 0, 0]] * 2


def test_samplers_and_cases_share_an_epoch_equally_in_mixed_order(monkeypatch):
    drawn = []
    for name in ("small_airway_corner", "centreline_corner"):
        monkeypatch.setattr(
            patches, name, lambda store, *_, name=name: drawn.append((store.name, name)) or np.zeros(3, int)
        )
    crops = Crops([synthetic((20, 20, 20), name=name) for name in "abc"], 16, 6)
    orders = []
    for crops.epoch in (0, 1, 4):
        drawn.clear()
        assert len(crops) == 18 == len(list(crops))
        assert {pair: drawn.count(pair) for pair in drawn} == {
            (case, name): 3 for case in "abc" for name in ("small_airway_corner", "centreline_corner")
        }
        orders.append([case for case, _ in drawn])
    assert orders[0] != orders[1] != orders[2]
    assert all(len(set(order[:6])) > 1 for order in orders)


def test_an_odd_number_of_crops_a_case_evens_out_over_two_epochs(monkeypatch):
    drawn = []
    for name in ("small_airway_corner", "centreline_corner"):
        monkeypatch.setattr(patches, name, lambda *_, name=name: drawn.append(name) or np.zeros(3, int))
    crops = Crops([synthetic((20, 20, 20)), synthetic((20, 20, 20))], 16, 1)
    for crops.epoch in (0, 1):
        assert len(list(crops)) == 2
    assert drawn.count("small_airway_corner") == drawn.count("centreline_corner") == 2


# ---------------------------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize("crop", [16, 24, 32, 64, 96])
def test_without_rotation_a_crop_is_a_piece_of_the_store(crop):
    side = crop + 20
    store = synthetic((side, side, side), centreline=block((side // 2, 0, 0), (side // 2 + 1, side, side)))
    piece = Crops([store], crop, 2, rotation=0)[0]
    image = piece["image"][0].double().numpy() * 255  # the store's image is the number of the voxel
    middle = tuple(np.array(image.shape) // 2)
    corner = np.array(np.unravel_index(round(image[middle]), (side,) * 3)) - middle
    where = tuple(slice(low, low + crop) for low in corner)
    np.testing.assert_allclose(image, store.image[where], rtol=1e-4, atol=0.05)
    np.testing.assert_array_equal(piece["label"][0], store.label[where])
    np.testing.assert_allclose(piece["distance"][0], store.distance[where], atol=1e-4)


@pytest.mark.parametrize(("crop", "outer"), [(128, 150), (64, 76), (96, 114), (32, 38), (16, 20)])
def test_outer_cube_is_the_papers_in_proportion_and_as_wide_on_both_sides(crop, outer):
    assert Crops([synthetic((crop,) * 3)], crop, 2).outer == outer


def test_crop_has_the_documented_form(path):
    crop = Crops([Store.open(path)], 32, 4)[0]
    for tensor in crop.values():
        assert tensor.shape == (1, 32, 32, 32) and tensor.dtype == torch.float32
        assert tensor.min() >= 0 and tensor.max() <= 1
    assert crop.keys() == {"image", "label", "distance"}
    assert set(crop["label"].unique().tolist()) <= {0, 1}


def test_label_is_interpolated_and_thresholded_anew():
    # A half space turned by 45 degrees: the interpolated label falls from 1 to 0 over about a voxel.
    store = synthetic((40, 40, 40), large=block((0, 0, 0), (40, 40, 20)), centreline=[[20, 20, 19]])
    cube = torch.from_numpy(store.read(np.array([1, 1, 1]), 38))
    soft = rotate_and_crop(cube, 32, 12, 0)[1]
    assert ((soft > 0.7) & (soft < 0.9)).any()
    labels = {}
    for threshold in (0.3, 0.7, 0.9):
        crops = Crops([store], 32, 8, rotation=15, label_threshold=threshold)
        assert all(set(crop["label"].unique().tolist()) <= {0, 1} for crop in crops)
        labels[threshold] = torch.stack([crop["label"] for crop in crops])
    assert (labels[0.3] >= labels[0.7]).all() and (labels[0.7] >= labels[0.9]).all()
    assert labels[0.3].sum() > labels[0.7].sum() > labels[0.9].sum() > 0


def test_label_threshold_is_applied_to_the_crop(monkeypatch):
    values = torch.tensor([0.0, 0.5, 0.7, 0.71, 0.9, 0.91, 1.0, 0.2]).reshape(2, 2, 2)
    monkeypatch.setattr(patches, "rotate_and_crop", lambda *_: values.expand(3, 2, 2, 2))
    store = synthetic((40, 40, 40), centreline=[[20, 20, 20]])
    for threshold, expected in {0.7: [0, 0, 0, 1, 1, 1, 1, 0], 0.9: [0, 0, 0, 0, 0, 1, 1, 0]}.items():
        label = Crops([store], 32, 2, label_threshold=threshold)[0]["label"]
        assert label.flatten().tolist() == expected


def test_rotation_is_drawn_up_to_its_limit_about_every_axis(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        patches, "rotate_and_crop", lambda cube, crop, degrees, plane: drawn.append((degrees, plane)) or cube
    )
    crops = Crops([synthetic((40, 40, 40), centreline=[[20, 20, 20]])], 32, 300, rotation=15)
    assert len(list(crops)) == 300
    degrees, planes = np.array(drawn).T
    assert -15 <= degrees.min() < -14 and 14 < degrees.max() <= 15 and abs(degrees.mean()) < 2.5
    assert np.bincount(planes.astype(int)) == pytest.approx([100, 100, 100], abs=35)


def test_a_crop_depends_on_seed_epoch_and_index_alone(path):
    stores = [Store.open(path)]
    crops = Crops(stores, 32, 4, seed=5)
    first = list(crops)
    again = Crops([Store.open(path)], 32, 4, seed=5)
    np.random.seed(1)  # noqa: NPY002 (global state must not matter)
    torch.manual_seed(1)
    for index in (3, 0, 2, 1, 1):
        assert equal(again[index], first[index])
    assert not any(equal(a, b) for i, a in enumerate(first) for b in first[:i])
    for crops.epoch in (1, 2):
        assert not any(equal(a, b) for a in first for b in crops)
    assert not any(equal(a, b) for a in first for b in Crops(stores, 32, 4, seed=6))
    crops.epoch = 0
    assert all(map(equal, crops, first))


def test_workers_draw_the_same_crops_in_every_epoch(path):
    crops = Crops([Store.open(path)], 32, 4)
    loaders = [DataLoader(crops, batch_size=2, num_workers=workers) for workers in (0, 2)]
    for crops.epoch in (0, 1):
        expected = list(crops)
        for loader in loaders:
            batches = list(loader)
            assert [batch["image"].shape for batch in batches] == [(2, 1, 32, 32, 32)] * 2
            drawn = [{name: batch[name][i] for name in batch} for batch in batches for i in range(2)]
            assert all(map(equal, drawn, expected))


def test_index_beyond_the_epoch():
    crops = Crops([synthetic((40, 40, 40), centreline=[[20, 20, 20]])], 32, 4)
    for index in (4, -1):
        with pytest.raises(IndexError):
            crops[index]


# ---------------------------------------------------------------------------------------------------------------- store


def test_store_opens_with_its_points(path):
    store, group = Store.open(path), zarr.open_group(path, mode="r")
    assert store.name == "mini_0000"
    label, small, centreline = (group[name][:] > 0 for name in ("label", "small_airway", "centreline"))
    for points, mask in (
        (store.centreline_points, centreline),
        (store.small_points, small),
        (store.large_points, label & ~small),
    ):
        assert len(points) == mask.sum() > 0
        assert mask[tuple(points.T)].all()


def test_large_arrays_stay_on_disk_and_give_the_same_crops(path, monkeypatch):
    kept = Store.open(path)
    assert all(isinstance(array, np.ndarray) for array in (kept.image, kept.label, kept.distance))
    monkeypatch.setattr(patches, "MOST_IN_MEMORY", kept.image.nbytes)  # the float16 distance is larger
    mixed = Store.open(path)
    assert isinstance(mixed.image, np.ndarray) and isinstance(mixed.distance, zarr.Array)
    monkeypatch.setattr(patches, "MOST_IN_MEMORY", 0)
    on_disk = Store.open(path)
    assert all(isinstance(array, zarr.Array) for array in (on_disk.image, on_disk.label, on_disk.distance))
    for other in (mixed, on_disk):
        assert all(map(equal, Crops([kept], 32, 4), Crops([other], 32, 4)))


def test_cube_is_read_in_its_place_and_air_beyond_the_grid():
    store = synthetic((4, 5, 6), large=[[0, 0, 0], [3, 4, 5]])
    cube = store.read(np.array([-1, 2, -2]), 9)
    assert cube.shape == (3, 9, 9, 9) and cube.dtype == np.float32
    np.testing.assert_allclose(cube[0, 1:5, :3, 2:8] * 255, store.image[:, 2:], rtol=1e-6)
    assert np.count_nonzero(cube[0]) == 4 * 3 * 6  # nothing of the air; voxel 0 lies outside the cube
    assert np.argwhere(cube[1]).tolist() == [[4, 2, 7]]
    assert cube[1, 4, 2, 7] == 1 and cube[2, 4, 2, 7] == 0.5


def test_a_case_between_crop_and_outer_cube_is_padded_with_air():
    store = synthetic((32, 32, 32), centreline=[[0, 0, 0]])
    object.__setattr__(store, "image", np.full((32, 32, 32), 255, np.uint8))
    crop = Crops([store], 32, 2, rotation=15)[0]["image"]
    assert crop.max() == pytest.approx(1, abs=1e-5) and crop.min() == 0  # turned corners reach into the air
    assert crop[0, 16, 16, 16] == pytest.approx(1, abs=1e-5)


def test_a_case_smaller_than_the_crop_is_named():
    with pytest.raises(InputError, match=r"^thin: \(40, 31, 40\) voxels are less than a crop of 32\^3"):
        Crops([synthetic((40, 40, 40)), synthetic((40, 31, 40), name="thin")], 32, 2)
    assert len(Crops([synthetic((32, 32, 32))], 32, 2)) == 2


def no_store(folder):
    pass


def a_file(folder):
    folder.write_text("no store")


def an_empty_folder(folder):
    folder.mkdir()


def damaged_metadata(folder):
    zarr.open_group(folder, mode="w")
    (folder / "zarr.json").write_text("{")


def an_array_alone(folder):
    zarr.open_array(folder, mode="w", shape=(3,), dtype="u1")


def lacking_an_array(folder):
    zarr.open_group(folder, mode="w").create_array("label", data=np.ones((2, 2, 2), np.uint8))


@pytest.mark.parametrize(
    "make", [no_store, a_file, an_empty_folder, damaged_metadata, an_array_alone, lacking_an_array]
)
def test_missing_or_damaged_store_is_one_line_that_names_it(tmp_path, make):
    make(tmp_path / "case.zarr")
    with pytest.raises(InputError, match=r"case.zarr: no training store here \(.*\); make it with airwaylib prepare"):
        Store.open(tmp_path / "case.zarr")
