"""Turn a mask's surface into triangles in the patient's space (mm, LPS) and into a binary STL or PLY file.

The surface goes between the centres of the mask's voxels and those around them, so that no airway is lost or cut off,
however thin. Where between, a smoothed copy of the mask says: without it, every wall would be a staircase. The files
are 20 lines of NumPy; a library for them would bring nothing else that is used here.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.measure import marching_cubes

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.images.volume import Volume

SMOOTHED = 0.8  # voxels; sigma of the smoothing: halves the angle between triangles and the wall they stand for
APART = 0.15  # of the mask's step from 0 to 1, by which a voxel stays on its side of the surface however thin it is
SPACE = b"SPACE=LPS"  # in the files' headers, where 3D Slicer looks for it


def surface(mask: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Closed surface of a mask, by marching cubes.

    Raises `InputError`: the mask is empty.

    Parameters
    ----------
    mask : Volume
        bool, of any spacing and direction.

    Returns
    -------
    points : numpy.ndarray
        float64 `(N, 3)`: x, y, z, mm, LPS. The centre of every voxel of the mask is inside, that of every other one
        outside. Large airways keep their volume within some percent; those a voxel wide come out thinner.
    triangles : numpy.ndarray
        int64 `(M, 3)`: rows of `points`, anticlockwise seen from outside. Each edge has a triangle on either side, also
        where the mask touches the border of the image.

    Examples
    --------
    >>> points, triangles = surface(Volume(np.ones((20, 20, 20), bool), spacing=(0.5, 0.5, 0.5)))
    >>> round(enclosed_volume(points, triangles))  # a cube of 10 mm, its edges rounded
    992
    """
    if not mask.array.any():
        raise InputError("the mask is empty: it has no surface")
    (box,) = ndimage.find_objects(mask.array.astype(np.uint8))
    field = np.pad(mask.array[box], 3).astype(np.float32)  # room for the smoothing, and air on all sides
    inside = field > 0
    # Twice the smoothed mask less the twice smoothed one: small airways shrink half as much as by smoothing alone.
    once = ndimage.gaussian_filter(field, SMOOTHED)
    field = 2 * once - ndimage.gaussian_filter(once, SMOOTHED)
    field = np.where(inside, np.maximum(field, 0.5 + APART), np.minimum(field, 0.5 - APART))
    index, triangles, _, _ = marching_cubes(field, 0.5)
    points = mask.index_to_point(index.astype(float) + [side.start - 3 for side in box])
    triangles = triangles.astype(np.int64)
    # Reversed axes (z, y, x) and a left-handed direction each turn the triangles inside out.
    return points, triangles if enclosed_volume(points, triangles) > 0 else triangles[:, ::-1]


def enclosed_volume(points: np.ndarray, triangles: np.ndarray) -> float:
    """Volume inside a closed surface, in the points' unit cubed; negative if the triangles face inwards."""
    a, b, c = np.moveaxis(points[triangles] - points.mean(0), 1, 0)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def write_mesh(mask: Volume, path: str | Path) -> None:
    """Write the surface of a mask as what the suffix of `path` says: .stl or .ply, binary; x, y, z in mm, LPS.

    Raises `InputError`: another suffix, an empty mask, or a place that cannot be written.
    """
    path = Path(path)
    check_mesh_suffix(path)
    content = WRITERS[path.suffix](*surface(mask))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def check_mesh_suffix(path: Path) -> None:
    """Raise `InputError` unless `write_mesh` knows the suffix of `path`."""
    if path.suffix not in WRITERS:
        raise InputError(f"{path}: suffix {path.suffix!r} is unknown: choose .stl or .ply")


def as_stl(points: np.ndarray, triangles: np.ndarray) -> bytes:
    """80 bytes of header, the number of triangles, and for each its normal, its corners and two bytes of nothing."""
    facets = np.zeros(len(triangles), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    corners = points[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facets["normal"] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.finfo(float).tiny)
    facets["corners"] = corners
    header = b"airway surface, mm, " + SPACE  # not "solid": that begins a text file
    return header.ljust(80) + np.uint32(len(facets)).astype("<u4").tobytes() + facets.tobytes()


def as_ply(points: np.ndarray, triangles: np.ndarray) -> bytes:
    """Header, points, triangles."""
    faces = np.zeros(len(triangles), [("count", "u1"), ("points", "<i4", 3)])
    faces["count"], faces["points"] = 3, triangles
    header = [b"ply", b"format binary_little_endian 1.0", b"comment airway surface, mm, " + SPACE]
    header += [b"element vertex %d" % len(points), *(b"property float " + axis for axis in (b"x", b"y", b"z"))]
    header += [b"element face %d" % len(faces), b"property list uchar int vertex_indices", b"end_header", b""]
    return b"\n".join(header) + points.astype("<f4").tobytes() + faces.tobytes()


WRITERS: dict[str, Callable[[np.ndarray, np.ndarray], bytes]] = {".stl": as_stl, ".ply": as_ply}
