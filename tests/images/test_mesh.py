"""Surfaces with their volume, closed and facing outwards, in the patient's space; files read back byte by byte."""

import numpy as np
import pytest

from airwaylib.errors import InputError
from airwaylib.images.mesh import enclosed_volume, surface, write_mesh
from airwaylib.images.volume import Volume

TURNED = tuple(np.array([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]]).ravel())
MIRRORED = (1, 0, 0, 0, 1, 0, 0, 0, -1)  # left-handed
SPACING = (0.7, 0.8, 1.2)


def ball(radius, spacing=(1, 1, 1), size=(48, 48, 48)):
    """Voxels whose centre lies in a ball of that radius (mm) at the image's middle."""
    index = np.moveaxis(np.indices(size), 0, -1) - (np.array(size) - 1) / 2
    return ((index * spacing[::-1]) ** 2).sum(-1) <= radius**2


def assert_closed(triangles):
    """Each edge is run through as often in one direction as in the other, and by two triangles in all."""
    edges = np.concatenate([triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    there, back = (np.unique(way, axis=0, return_counts=True) for way in (edges, edges[:, ::-1]))
    assert np.array_equal(there[0], back[0])
    assert (there[1] == 1).all() and (back[1] == 1).all()


def winding_number(points, triangles, place):
    """How often the surface goes round a place: the triangles' solid angles (van Oosterom and Strackee 1983) / 4 pi."""
    a, b, c = np.moveaxis((points - place)[triangles], 1, 0)
    x, y, z = (np.linalg.norm(side, axis=1) for side in (a, b, c))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c))
    rest = x * y * z + (a * b).sum(1) * z + (b * c).sum(1) * x + (c * a).sum(1) * y
    return (2 * np.arctan2(volume, rest)).sum() / (4 * np.pi)


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), TURNED, MIRRORED])
def test_a_ball_has_its_volume_place_and_normals(direction):
    mask = Volume(ball(11, SPACING), SPACING, (-30, 20, 100), direction)
    points, triangles = surface(mask)
    assert_closed(triangles)
    assert enclosed_volume(points, triangles) == pytest.approx(4 / 3 * np.pi * 11**3, rel=0.02)
    ray = points - mask.index_to_point([[23.5, 23.5, 23.5]])
    assert np.abs(np.linalg.norm(ray, axis=1) - 11).max() < 0.75  # half of the voxel's diagonal is 0.8
    corners = points[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normals * ray[triangles].mean(1)).sum(1) > 0).all()


def test_the_surface_is_smoother_than_a_staircase():
    """Mean square angle between the triangles and the ball, weighed by area, below that of plain marching cubes."""
    from skimage.measure import marching_cubes

    mask = ball(15)
    angles = []
    for points, triangles in (marching_cubes(mask.astype(np.float32), 0.5)[:2], surface(Volume(mask))):
        corners = points[triangles] - 23.5
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area, ray = np.linalg.norm(normals, axis=1), corners.mean(1)
        cosine = np.abs((normals * ray).sum(1)) / np.maximum(area * np.linalg.norm(ray, axis=1), 1e-12)
        angles.append(np.average(np.degrees(np.arccos(cosine.clip(0, 1))) ** 2, weights=area) ** 0.5)
    assert angles[0] > 20 and angles[1] < 0.6 * angles[0]


def test_a_line_of_single_voxels_is_kept_over_its_whole_length():
    mask = np.zeros((9, 9, 40), bool)
    mask[4, 4, 5:35] = True
    points, triangles = surface(Volume(mask, spacing=(0.5, 0.5, 0.5)))
    assert_closed(triangles)
    low, high = points.min(0), points.max(0)
    assert (low < [5 * 0.5, 2, 2]).all() and (high > [34 * 0.5, 2, 2]).all()  # the voxels' centres are inside
    assert len(np.unique(points[:, 0].round(3))) >= 30  # points all along it: one piece
    assert 0.1 * 30 < enclosed_volume(points, triangles) / 0.125 < 30
    parents = np.arange(len(points))  # one piece: neighbours hand on the lowest number
    for _ in range(100):
        np.minimum.at(parents, triangles.ravel(), np.repeat(parents[triangles].min(1), 3))
    assert (parents == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_any_mask_is_closed_and_holds_its_voxels_and_no_others(seed):
    mask = np.random.default_rng(seed).random((7, 8, 9)) < 0.4  # up to the border, touching by edges and corners
    points, triangles = surface(Volume(mask))
    assert_closed(triangles)
    inside = [winding_number(points, triangles, voxel[::-1]) for voxel in np.ndindex(mask.shape)]
    np.testing.assert_allclose(np.reshape(inside, mask.shape), mask, atol=1e-6)


def test_an_empty_mask_has_no_surface(tmp_path):
    with pytest.raises(InputError, match="the mask is empty"):
        write_mesh(Volume(np.zeros((5, 5, 5), bool)), tmp_path / "a.stl")
    with pytest.raises(InputError, match=r"'.obj' is unknown: choose .stl or .ply"):
        write_mesh(Volume(np.ones((5, 5, 5), bool)), tmp_path / "a.obj")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small():
    return Volume(ball(4, size=(12, 12, 12)), SPACING, (-30, 20, 100), TURNED)


def test_stl(tmp_path, small):
    path = tmp_path / "a.stl"
    write_mesh(small, path)
    content = path.read_bytes()
    points, triangles = surface(small)
    assert b"SPACE=LPS" in content[:80] and not content.startswith(b"solid")
    assert int.from_bytes(content[80:84], "little") == len(triangles)
    assert len(content) == 84 + 50 * len(triangles)
    numbers = np.stack([np.frombuffer(content, "<f4", 12, 84 + 50 * k) for k in range(len(triangles))])
    np.testing.assert_allclose(numbers[:, 3:].reshape(-1, 3, 3), points[triangles], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(numbers[:, :3], axis=1), 1, rtol=1e-5)
    outward = points[triangles].mean(1) - points.mean(0)
    assert ((numbers[:, :3] * outward).sum(1) > 0).all()


def test_ply(tmp_path, small):
    path = tmp_path / "a.ply"
    write_mesh(small, path)
    header, body = path.read_bytes().split(b"end_header\n", 1)
    points, triangles = surface(small)
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"] and "SPACE=LPS" in lines[2]
    assert f"element vertex {len(points)}" in lines and f"element face {len(triangles)}" in lines
    assert len(body) == 12 * len(points) + 13 * len(triangles)
    np.testing.assert_allclose(np.frombuffer(body, "<f4", 3 * len(points)).reshape(-1, 3), points, rtol=1e-6)
    for k, triangle in enumerate(triangles[:50]):
        start = 12 * len(points) + 13 * k
        assert body[start] == 3
        assert np.frombuffer(body, "<i4", 3, start + 1).tolist() == triangle.tolist()
