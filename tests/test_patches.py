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
    change_intensity,
    count_inside,
    large_airway_corner,
    outer_side,
    random_corner,
    random_zoom,
    rotate_and_crop,
    small_airway_corner,
    thick_slices,
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


def test_mirrored_is_flipped_in_every_channel(cube):
    for zoom in ([-1, 1, 1], [1, -1, 1], [1, 1, -1], [-1, -1, -1]):
        flipped = cube.flip([1 + axis for axis in range(3) if zoom[axis] < 0])
        expected = flipped[:, 4:36, 4:36, 4:36]
        torch.testing.assert_close(rotate_and_crop(cube, 32, 0, 0, np.array(zoom)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("zoom", "sides"), [(2.0, [16, 16, 16]), ([2, 1, 1], [16, 8, 8]), ([1, 1, -0.5], [8, 8, 4])])
def test_zoom_magnifies_along_its_axis(zoom, sides):
    cube = torch.zeros(1, 40, 40, 40)
    cube[:, 16:24, 16:24, 16:24] = 1
    points = torch.argwhere(rotate_and_crop(cube, 32, 0, 0, zoom)[0] > 0.4)  # its corners are 0.75^3
    assert (points.max(0).values - points.min(0).values + 1).tolist() == sides
    assert len(points) == np.prod(sides)


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_zoom_comes_after_the_turn(cube, plane):
    # What is stretched is the crop's z, as by a scanner's slices, not an axis of the turned chest.
    zoom, (i, j) = np.array([0.8, -1.1, 1.25]), (axis for axis in range(3) if axis != plane)
    turn, angle = np.eye(3), np.deg2rad(14)
    turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    inverse = turn @ np.diag(1 / zoom)
    middle = np.full(3, 19.5)
    expected = [ndimage.affine_transform(c, inverse, middle - inverse @ middle, order=1) for c in cube.numpy()]
    result = rotate_and_crop(cube, 24, 14, plane, zoom).numpy()
    np.testing.assert_allclose(result, np.array(expected)[:, 8:32, 8:32, 8:32], atol=1e-5)


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


def test_large_airway_cubes_hold_a_large_airway_voxel():
    rng = np.random.default_rng(0)
    store = synthetic((40, 40, 40), centreline=block((2, 2, 2), (4, 4, 4)), large=block((30, 30, 30), (34, 34, 34)))
    corners = np.array([large_airway_corner(store, 8, rng) for _ in range(200)])
    assert all(count_inside(store.large_points, corner, 8) for corner in corners)
    assert len(np.unique(corners, axis=0)) > 100


def test_large_airway_cubes_of_a_case_without_large_airways_hold_its_centreline():
    rng = np.random.default_rng(0)
    store = synthetic((40, 40, 40), centreline=block((2, 2, 2), (4, 4, 4)))
    assert all(count_inside(store.centreline_points, large_airway_corner(store, 8, rng), 8) for _ in range(20))


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


@pytest.mark.parametrize("share", [0.0, 0.35, 1.0])
def test_large_airways_take_their_share_of_the_crops(monkeypatch, share):
    drawn = []
    corner = np.zeros(3, int)
    for name in ("small_airway_corner", "centreline_corner", "large_airway_corner"):
        monkeypatch.setattr(patches, name, lambda *_, name=name: drawn.append(name) or corner)
    crops = Crops([synthetic((24, 24, 24))], crop=16, per_case=400, large_airways=share)
    for index in range(len(crops)):
        crops[index]
    assert drawn.count("large_airway_corner") == pytest.approx(400 * share, abs=0 if share in (0, 1) else 40)
    if share < 1:
        assert drawn.count("small_airway_corner") == pytest.approx(drawn.count("centreline_corner"), abs=60)


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
    assert outer_side(crop) == outer


@pytest.mark.parametrize("zoom", [0.8, 1.25, [-0.7, 0.8, 0.8], [1.4, -1.25, 1.25]])
def test_outer_cube_holds_what_a_zoomed_crop_sees(zoom):
    side = outer_side(64, np.array(zoom))
    assert (side - 64) % 2 == 0
    shell = torch.ones(1, side, side, side)
    shell[:, 1:-1, 1:-1, 1:-1] = 0  # what lies beyond repeats it
    assert rotate_and_crop(shell, 64, 0, 0, zoom).max() < 1e-5
    seen = [rotate_and_crop(shell, 64, 15, plane, zoom).mean() for plane in range(3)]
    assert max(seen) < 0.02  # as with the paper's cube, the corners of the widest turn
    assert rotate_and_crop(shell, 64, 0, 0, np.array(zoom) * 0.8).max() > 0.5  # and it is not much wider than needed


def test_without_augmentation_a_crop_is_the_papers_as_it_always_was(path):
    store = Store.open(path)
    for epoch, seed in ((0, 0), (3, 9)):
        crops, plain = Crops([store], 32, 4, seed=seed), Crops([store], 32, 4, seed=seed, augment=False)
        crops.epoch = plain.epoch = epoch
        for index in range(4):
            turn = int(np.random.default_rng([seed, epoch]).permutation(4)[index])
            rng = np.random.default_rng([seed, epoch, turn])
            sampler = centreline_corner if (turn + epoch) % 2 else small_airway_corner
            cube = torch.from_numpy(store.read(sampler(store, 38, rng), 38))
            image, label, distance = rotate_and_crop(cube, 32, rng.uniform(-15, 15), int(rng.integers(3)))[:, None]
            expected = {"image": image, "label": (label > 0.7).float(), "distance": distance}
            assert equal(crops[index], expected) and equal(plain[index], expected)


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
        patches, "rotate_and_crop", lambda cube, crop, degrees, plane, zoom: drawn.append((degrees, plane)) or cube
    )
    crops = Crops([synthetic((40, 40, 40), centreline=[[20, 20, 20]])], 32, 300, rotation=15)
    assert len(list(crops)) == 300
    degrees, planes = np.array(drawn).T
    assert -15 <= degrees.min() < -14 and 14 < degrees.max() <= 15 and abs(degrees.mean()) < 2.5
    assert np.bincount(planes.astype(int)) == pytest.approx([100, 100, 100], abs=35)


@pytest.mark.parametrize("augment", [False, True])
def test_a_crop_depends_on_seed_epoch_and_index_alone(path, augment):
    stores = [Store.open(path)]
    crops = Crops(stores, 32, 4, seed=5, augment=augment)
    first = list(crops)
    again = Crops([Store.open(path)], 32, 4, seed=5, augment=augment)
    np.random.seed(1)  # noqa: NPY002 (global state must not matter)
    torch.manual_seed(1)
    for index in (3, 0, 2, 1, 1):
        assert equal(again[index], first[index])
    assert not any(equal(a, b) for i, a in enumerate(first) for b in first[:i])
    for crops.epoch in (1, 2):
        assert not any(equal(a, b) for a in first for b in crops)
    assert not any(equal(a, b) for a in first for b in Crops(stores, 32, 4, seed=6, augment=augment))
    crops.epoch = 0
    assert all(map(equal, crops, first))


@pytest.mark.parametrize("augment", [False, True])
def test_workers_draw_the_same_crops_in_every_epoch(path, augment):
    crops = Crops([Store.open(path)], 32, 4, augment=augment)
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


# --------------------------------------------------------------------------------------------------------- augmentation


def test_zooms_are_drawn_evenly_within_their_limits_and_mirror_half_the_time():
    zooms = np.array([random_zoom(np.random.default_rng(seed)) for seed in range(4000)])
    common, extra = np.log(np.abs(zooms[:, 1])) / np.log(1.25), np.log(np.abs(zooms[:, 0] / zooms[:, 1])) / np.log(1.15)
    np.testing.assert_allclose(np.abs(zooms[:, 1]), np.abs(zooms[:, 2]))
    for exponent in (common, extra):
        assert -1 <= exponent.min() < -0.99 and 0.99 < exponent.max() <= 1
        assert np.histogram(exponent, 4)[0] == pytest.approx(np.full(4, 1000), abs=130)  # 4.5 standard deviations
    assert abs(np.corrcoef(common, extra)[0, 1]) < 0.07
    mirrored = (zooms < 0) @ [4, 2, 1]
    assert np.bincount(mirrored) == pytest.approx(np.full(8, 500), abs=95)


def augmented(path, count, **settings):
    """`count` augmented crops of 32^3."""
    return list(Crops([Store.open(path)], 32, count, augment=True, **settings))


def test_augmented_crop_has_the_documented_form(path):
    for crop in augmented(path, 40):
        for tensor in crop.values():
            assert type(tensor) is torch.Tensor and tensor.shape == (1, 32, 32, 32) and tensor.dtype == torch.float32
            assert tensor.min() >= 0 and tensor.max() <= 1
        assert set(crop["label"].unique().tolist()) <= {0, 1}


def test_intensity_alone_differs_from_the_crop_before_it_changed(path, monkeypatch):
    changed = augmented(path, 20)
    monkeypatch.setattr(patches, "change_intensity", lambda image, rng: image)
    before = augmented(path, 20)
    for name in ("label", "distance"):
        assert all(torch.equal(a[name], b[name]) for a, b in zip(changed, before, strict=True))
    same = [torch.equal(a["image"], b["image"]) for a, b in zip(changed, before, strict=True)]
    assert sum(same) < 5  # all changes stay out in about 3 % of the crops
    related = [
        np.corrcoef(a["image"].flatten(), b["image"].flatten())[0, 1] for a, b in zip(changed, before, strict=True)
    ]
    assert min(related) > 0.5


def test_label_and_image_keep_together(monkeypatch):
    monkeypatch.setattr(patches, "change_intensity", lambda image, rng: image)
    blobs = ndimage.gaussian_filter(np.random.default_rng(0).random((60, 60, 60)), 4) > 0.5
    points = np.argwhere(blobs)
    store = synthetic(blobs.shape, centreline=points, small=points)
    object.__setattr__(store, "image", (255 * (0.2 + 0.5 * blobs)).astype(np.uint8))
    crops = list(Crops([store], 32, 40, label_threshold=0.5, augment=True))
    for crop in crops:
        image, label = crop["image"].flatten(), crop["label"].flatten()
        assert np.corrcoef(image, label)[0, 1] > 0.95
        assert np.corrcoef(crop["distance"].flatten(), label)[0, 1] > 0.95


def test_augmentation_zooms_and_mirrors_the_crops(monkeypatch):
    seen = []
    original = patches.rotate_and_crop
    monkeypatch.setattr(
        patches, "rotate_and_crop", lambda *given: seen.append((len(given[0][0]), given[4])) or original(*given)
    )
    crops = Crops([synthetic((60, 60, 60), centreline=[[30, 30, 30]])], 32, 60, augment=True)
    assert len(list(crops)) == 60
    assert all(side == outer_side(32, zoom) for side, zoom in seen)
    sizes = np.abs([zoom for _, zoom in seen])
    assert sizes.min() < 0.8 and sizes.max() > 1.25 and len({tuple(np.sign(zoom)) for _, zoom in seen}) == 8


def test_filters_leave_no_mark_at_the_rim(monkeypatch):
    monkeypatch.setattr(patches, "NOISE", 0)
    levels = set()
    for seed in range(40):
        changed = change_intensity(torch.full((1, 16, 16, 16), 0.5), np.random.default_rng(seed))
        assert changed.max() - changed.min() < 5e-3  # 7 HU
        levels.add(round(changed.mean().item(), 3))
    assert len(levels) > 20 and min(levels) > 0.39 and max(levels) < 0.61  # 0.85 * 0.5 - 0.03, 1.15 * 0.5 + 0.03


def test_noise_is_of_every_strength_and_now_and_then_grainy():
    noises = [
        change_intensity(torch.full((1, 24, 24, 24), 0.5), np.random.default_rng(seed))[0].numpy()
        for seed in range(150)
    ]
    strength = np.array([noise.std() for noise in noises])
    assert (strength < 1e-5).mean() == pytest.approx(0.49, abs=0.12)  # 0.7 twice
    assert 0.03 < strength.max() < 0.1
    noisy = [noise - noise.mean() for noise in noises if noise.std() > 0.003]
    neighbours = np.array([(noise[1:] * noise[:-1]).mean() / noise.var() for noise in noisy])
    assert (np.abs(neighbours) < 0.05).mean() > 0.2 and (neighbours > 0.2).mean() > 0.1


def test_contrast_changes_by_gamma_gain_and_offset(monkeypatch):
    monkeypatch.setattr(patches, "NOISE", 0)
    slabs = torch.tensor([0.1, 0.45, 0.8]).repeat_interleave(16)[:, None].expand(1, 48, 48, 48)
    changed = [change_intensity(slabs, np.random.default_rng(seed))[0, 24, [8, 24, 40], 24] for seed in range(120)]
    low, middle, high = torch.stack(changed).numpy().T
    gain = (high - low) / 0.7
    drawn = {  # the draw, its limits and its probability
        "gamma": (np.log((middle - low) / (high - low)) / np.log(0.5), 0.8, 1, 1.25, 0.3),
        "gain": (gain, 0.85, 1, 1.15, 0.5),
        "offset": (low - 0.1 * gain, -0.03, 0, 0.03, 0.5),
    }
    for values, least, none, most, probability in drawn.values():
        slack = 0.15 * (most - least)
        assert least - 0.01 < values.min() < least + slack and most - slack < values.max() < most + 0.01
        assert (np.abs(values - none) > 5e-4).mean() == pytest.approx(probability, abs=0.15)


def test_slices_are_thick_now_and_then(monkeypatch):
    monkeypatch.setattr(patches, "NOISE", 0)
    for axis, share in ((1, 0.2), (2, 0), (3, 0)):
        striped = torch.tensor([0.3, 0.6]).repeat(8).expand(1, 16, 16, 16).movedim(-1, axis)
        flat = 0
        for seed in range(100):
            middle = change_intensity(striped, np.random.default_rng(seed))[:, 4:12, 4:12, 4:12]
            flat += (middle.amax(axis) - middle.amin(axis)).max().item() < 1e-6
        assert flat / 100 == pytest.approx(share, abs=0.1 * (share > 0))


def test_sharpness_changes_both_ways(monkeypatch):
    monkeypatch.setattr(patches, "NOISE", 0)
    edge = torch.full((1, 24, 24, 24), 0.3)
    edge[:, :, 12:] = 0.6
    steepest = [
        (change_intensity(edge, np.random.default_rng(seed)).diff(dim=2).max() / 0.3).item() for seed in range(100)
    ]
    assert min(steepest) < 0.7 and max(steepest) > 1.25  # 0.85 and 1.15 by contrast alone


def test_slices_are_blurred_more_than_their_pixels(monkeypatch):
    monkeypatch.setattr(patches, "NOISE", 0)
    monkeypatch.setattr(patches, "thick_slices", lambda image: image)
    softest = []
    for axis in (1, 2, 3):
        edge = torch.full((24, 24, 24), 0.3)
        edge[12:] = 0.6
        edge = edge.movedim(0, axis - 1)[None]
        changed = [change_intensity(edge, np.random.default_rng(seed)) for seed in range(60)]
        softest.append(min(image.diff(dim=axis).max().item() / 0.3 for image in changed))
    assert softest[0] < 0.37 < min(softest[1:])  # 0.32 for a blur of 1.2 voxels; 0.47 for 0.8, and 0.85 of it


def test_lowest_intensities_are_cut_now_and_then(monkeypatch):
    monkeypatch.setattr(patches, "NOISE", 0)
    image = torch.zeros(1, 16, 16, 16)
    image[:, 8:] = 0.5
    lowest = np.array([change_intensity(image, np.random.default_rng(seed)).min().item() for seed in range(200)])
    assert lowest.max() <= max(patches.FLOOR, 0.03 * 1.15) + 1e-6
    assert 0.4 < (lowest == 0).mean() < 0.8


def test_thick_slices_average_pairs_along_z_alone():
    ramp = torch.arange(8.0)[None, :, None, None].expand(1, 8, 6, 6)
    torch.testing.assert_close(thick_slices(ramp)[:, 1:7], ramp[:, 1:7])
    striped = torch.tensor([0.0, 1.0]).repeat(4)
    assert thick_slices(striped[None, :, None, None].expand(1, 8, 8, 8)).unique().tolist() == [0.5]
    across = striped[None, None, :, None].expand(1, 8, 8, 8)
    torch.testing.assert_close(thick_slices(across), across)


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
