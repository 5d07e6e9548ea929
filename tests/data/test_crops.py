"""Crops: rotation against closed forms and scipy, the samplers' rules, and the same numbers whoever draws them."""

from dataclasses import replace

import cc3d
import numpy as np
import pytest
import torch
from scipy import ndimage
from synthetic_stores import block, equal, synthetic
from torch.utils.data import DataLoader

from airwaylib.errors import InputError
from airwaystudy.data import crops as patches
from airwaystudy.data.crops import Crops, outer_side, rotate_and_crop, rotate_and_crop_lines
from airwaystudy.data.samplers import centreline_corner, small_airway_corner
from airwaystudy.data.store import Store, hold


@pytest.fixture
def path(phantoms):
    """The store of a mini phantom."""
    return phantoms / "prepared/mini_0000.zarr"


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


@pytest.mark.parametrize("plane", [0, 1, 2])
@pytest.mark.parametrize("zoom", [1.0, [0.8, -1.1, 1.25]])
def test_lines_turn_as_the_cube_that_they_make(cube, plane, zoom):
    rows = cube[1].movedim(plane, 2).reshape(1600, 40).clone()
    numbers = torch.arange(3, 1600, 7)
    rows[[number for number in range(1600) if number % 7 != 3]] = 0
    sparse = rows.view(40, 40, 40).movedim(2, plane)[None]
    expected = rotate_and_crop(sparse, 26, -12, plane, zoom)
    assert torch.equal(rotate_and_crop_lines(numbers, rows[numbers], 26, -12, plane, zoom), expected)
    nothing = rotate_and_crop_lines(numbers[:0], rows[numbers[:0]], 26, -12, plane, zoom)
    assert nothing.shape == (1, 26, 26, 26) and not nothing.any()


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


def watch_samplers(monkeypatch):
    """Replace the samplers of "centreline" and of large airways; the list of (case, sampler) they are asked for."""
    drawn = []

    def watched(name):
        return lambda store, *_: drawn.append((store.name, name)) or np.zeros(3, int)

    monkeypatch.setitem(patches.SAMPLING, "centreline", (watched("small"), watched("centreline")))
    monkeypatch.setattr(patches, "large_airway_corner", watched("large"))
    return drawn


def test_samplers_and_cases_share_an_epoch_equally_in_mixed_order(monkeypatch):
    drawn = watch_samplers(monkeypatch)
    crops = Crops([synthetic((20, 20, 20), name=name) for name in "abc"], 16, 6)
    orders = []
    for crops.epoch in (0, 1, 4):
        drawn.clear()
        assert len(crops) == 18 == len(list(crops))
        expected = {(case, name): 3 for case in "abc" for name in ("small", "centreline")}
        assert {pair: drawn.count(pair) for pair in drawn} == expected
        orders.append([case for case, _ in drawn])
    assert orders[0] != orders[1] != orders[2]
    assert all(len(set(order[:6])) > 1 for order in orders)


@pytest.mark.parametrize("share", [0.0, 0.35, 1.0])
def test_large_airways_take_their_share_of_the_crops(monkeypatch, share):
    drawn = watch_samplers(monkeypatch)
    crops = Crops([synthetic((24, 24, 24))], crop=16, per_case=400, large_airways=share)
    for index in range(len(crops)):
        crops[index]
    names = [name for _, name in drawn]
    assert names.count("large") == pytest.approx(400 * share, abs=0 if share in (0, 1) else 40)
    if share < 1:
        assert names.count("small") == pytest.approx(names.count("centreline"), abs=60)


def test_an_odd_number_of_crops_a_case_evens_out_over_two_epochs(monkeypatch):
    drawn = watch_samplers(monkeypatch)
    crops = Crops([synthetic((20, 20, 20)), synthetic((20, 20, 20))], 16, 1)
    for crops.epoch in (0, 1):
        assert len(list(crops)) == 2
    names = [name for _, name in drawn]
    assert names.count("small") == names.count("centreline") == 2


@pytest.mark.parametrize("sampling", list(patches.SAMPLING))
def test_every_sampling_draws_its_samplers_in_turn(monkeypatch, sampling):
    drawn = []
    watched = [lambda *_, n=n: drawn.append(n) or np.zeros(3, int) for n in range(len(patches.SAMPLING[sampling]))]
    monkeypatch.setitem(patches.SAMPLING, sampling, tuple(watched))
    assert len(list(Crops([synthetic((20, 20, 20))], 16, 12, sampling=sampling))) == 12
    assert [drawn.count(n) for n in range(len(watched))] == [12 // len(watched)] * len(watched)


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
            turn = int(np.random.default_rng([seed, 0, epoch]).permutation(4)[index])
            rng = np.random.default_rng([seed, 0, epoch, turn])
            sampler = centreline_corner if (turn + epoch) % 2 else small_airway_corner
            corner = sampler(store, 38, rng)
            cube = torch.stack([store.read(name, corner, 38) for name in ("image", "label", "distance")])
            cube[0] /= 255
            image, label, distance = rotate_and_crop(cube, 32, rng.uniform(-15, 15), int(rng.integers(3)))[:, None]
            expected = {"image": image, "label": (label > 0.7).float(), "distance": distance}
            assert equal(crops[index], plain[index])
            for name, tensor in expected.items():
                torch.testing.assert_close(crops[index][name], tensor, rtol=0, atol=1e-6)


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
    soft = rotate_and_crop(store.read("label", np.array([1, 1, 1]), 38)[None], 32, 12, 0)
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
    monkeypatch.setattr(patches, "rotate_and_crop_lines", lambda *_, **__: values[None].clone())
    store = synthetic((40, 40, 40), centreline=[[20, 20, 20]])
    for threshold, expected in {0.7: [0, 0, 0, 1, 1, 1, 1, 0], 0.9: [0, 0, 0, 0, 0, 1, 1, 0]}.items():
        label = Crops([store], 32, 2, label_threshold=threshold)[0]["label"]
        assert label.flatten().tolist() == expected


def test_thin_airways_outlive_a_high_label_threshold():
    """At 0.9 a tube one voxel wide loses nearly all of itself and breaks; scaled with the width, it keeps most."""
    line = np.array([[z, 30, 30] for z in range(60)])
    tube = block((0, 8, 8), (60, 15, 15))
    store = synthetic((60, 60, 60), centreline=line, large=tube)
    width = np.zeros(store.shape, np.uint8)
    width[:, 28:33, 28:33], width[:, 6:17, 6:17] = 1, 7
    store = replace(store, width=width)
    kept = {}
    for thin in (None, 0.5):
        crops = Crops([store], 48, 24, rotation=15, label_threshold=0.9, thin_label_threshold=thin, seed=3)
        labels = [crop["label"][0].numpy() > 0 for crop in crops]
        with_line = [label for label, crop in zip(labels, crops, strict=True) if (crop["distance"] > 0).any()]
        parts = [cc3d.connected_components(label, connectivity=26) for label in with_line]
        sizes = [np.bincount(part.ravel())[1:] for part in parts]
        kept[thin] = sum(size[size < 400].sum() for size in sizes), sum((size < 400).sum() for size in sizes)
    assert kept[0.5][0] > 2 * kept[None][0]  # voxels of the line
    assert kept[0.5][1] < kept[None][1]  # pieces


def test_widths_are_needed_to_scale_the_threshold():
    with pytest.raises(InputError, match=r"synthetic: its store has no widths; prepare it anew"):
        Crops([synthetic((40, 40, 40))], 32, 2, thin_label_threshold=0.5)


def test_rotation_is_drawn_up_to_its_limit_about_every_axis(monkeypatch):
    drawn, original = [], patches.bilinear
    monkeypatch.setattr(patches, "bilinear", lambda *given: drawn.append((given[2], given[3])) or original(*given))
    crops = Crops([synthetic((40, 40, 40), centreline=[[20, 20, 20]])], 32, 300, rotation=15)
    assert len(list(crops)) == 300
    assert drawn[::3] == drawn[1::3] == drawn[2::3]  # image, label and distance turn together
    degrees, planes = np.array(drawn[::3]).T
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


def test_every_stage_draws_crops_of_its_own(path):
    """Of the first two epochs of two stages, no crop is the same; of two arms at one stage, all are."""
    stages = []
    for stage in (0, 1, 1):
        crops = Crops([Store.open(path)], 32, 18, seed=5, stage=stage)
        stages.append([])
        for crops.epoch in (0, 1):
            stages[-1] += list(crops)
    assert len(stages[0]) == 36
    assert not any(equal(a, b) for a in stages[0] for b in stages[1])
    assert all(map(equal, stages[1], stages[2]))


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
        patches,
        "rotate_and_crop",
        lambda cube, **given: seen.append((cube.shape[-1], given["zoom"])) or original(cube, **given),
    )
    crops = Crops([synthetic((60, 60, 60), centreline=[[30, 30, 30]])], 32, 60, augment=True)
    assert len(list(crops)) == 60
    assert all(side == outer_side(32, zoom) for side, zoom in seen)
    sizes = np.abs([zoom for _, zoom in seen])
    assert sizes.min() < 0.8 and sizes.max() > 1.25 and len({tuple(np.sign(zoom)) for _, zoom in seen}) == 8


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


def test_cases_in_memory_give_the_same_crops(path):
    on_disk = [Store.open(path)]
    assert all(map(equal, Crops(on_disk, 32, 6), Crops(hold(on_disk, 1), 32, 6)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("augment", [False, True])
def test_crops_cut_on_a_gpu_are_those_of_the_cpu(path, augment):
    stores, settings = [Store.open(path)], {"crop": 32, "per_case": 6, "augment": augment}
    on_gpu, on_cpu = Crops(hold(stores, 1, "cuda"), device="cuda", **settings), Crops(stores, **settings)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        for name in ("image", "distance"):
            assert ours[name].device.type == "cuda"
            if name == "distance" or not augment:  # MONAI draws a GPU's noise in other places
                torch.testing.assert_close(ours[name].cpu(), theirs[name], rtol=0, atol=1e-5)
        assert (ours["label"].cpu() != theirs["label"]).float().mean() < 1e-4
