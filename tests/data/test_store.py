"""Stores: what is on disk, in memory or on a GPU gives the same cubes; a damaged one is named."""

import numpy as np
import pytest
import torch
import zarr
from synthetic_stores import synthetic

from airwaylib.errors import InputError
from airwaystudy.data.store import Store, hold


@pytest.fixture
def path(phantoms):
    """The store of a mini phantom."""
    return phantoms / "prepared/mini_0000.zarr"


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


def test_cases_are_held_in_memory_while_it_lasts(path):
    stores = [Store.open(path) for _ in range(3)]
    size = stores[0].nbytes
    assert size == 4 * stores[0].image.size  # uint8, uint8 and float16
    for fit in range(4):
        held = hold(stores, (fit + 0.5) * size / 1e9)
        assert [isinstance(store.image, torch.Tensor) for store in held] == [n < fit for n in range(3)]
    assert isinstance(stores[0].image, zarr.Array)  # those given stay as they were


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_cubes_are_the_same_from_memory_and_from_disk(path, plane):
    on_disk, held = Store.open(path), Store.open(path).on("cpu")
    for name in ("image", "label", "distance"):
        expected = getattr(on_disk, name)[20:60, 30:70, 10:50].astype(np.float32)
        for store in (on_disk, held):
            np.testing.assert_array_equal(store.read(name, np.array([20, 30, 10]), 40, plane), expected)
    assert expected.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cubes_of_a_case_on_a_gpu_are_cut_there(path):
    store = Store.open(path)
    cube = store.on("cuda").read("distance", np.array([20, -3, 10]), 40)
    assert cube.device.type == "cuda"
    torch.testing.assert_close(cube.cpu(), store.read("distance", np.array([20, -3, 10]), 40), rtol=0, atol=0)


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_cube_is_read_in_its_place_and_air_beyond_the_grid(plane):
    store = synthetic((4, 5, 6), large=[[0, 0, 0], [3, 4, 5]])
    image, label, distance = (
        store.read(name, np.array([-1, 2, -2]), 9, plane).numpy() for name in ("image", "label", "distance")
    )
    assert image.shape == (9, 9, 9) and image.dtype == np.float32
    np.testing.assert_array_equal(image[1:5, :3, 2:8], store.image[:, 2:])
    assert np.count_nonzero(image) == 4 * 3 * 6  # nothing of the air; voxel 0 lies outside the cube
    assert np.argwhere(label).tolist() == np.argwhere(distance).tolist() == [[4, 2, 7]]
    assert label[4, 2, 7] == 1 and distance[4, 2, 7] == 0.5


@pytest.mark.parametrize("plane", [0, 1, 2])
@pytest.mark.parametrize("low", [[20, 30, 10], [-7, 60, -2]])
def test_lines_near_the_airway_are_all_that_is_not_zero(path, plane, low):
    for store in (Store.open(path), Store.open(path).on("cpu")):
        for name in ("label", "distance"):
            numbers, lines = store.read_lines(name, np.array(low), 40, plane)
            cube = torch.zeros(40 * 40, 40)
            cube[numbers] = lines
            dense = store.read(name, np.array(low), 40, plane)
            assert torch.equal(cube.view(40, 40, 40).movedim(2, plane), dense) and dense.any()
            assert len(numbers) < 1000  # of 1600


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_cube_lies_in_memory_with_its_plane_last(plane):
    assert synthetic((30, 30, 30)).read("image", np.zeros(3, int), 8, plane).stride(plane) == 1


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
