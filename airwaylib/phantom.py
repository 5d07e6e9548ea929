"""Synthetic chest CT with exact truth: an airway tree and vessels drawn into a schematic thorax.

Thorax and trees come from `growth`. Calibres, HU values and noise are our own choice and schematic: the images are
synthetic.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.growth import Thorax, grow_points, grow_tree, unit
from airwaylib.volume import Volume, write_volume

Shape = tuple[int, int, int]  # z, y, x


@dataclass(frozen=True)
class PhantomSize:
    """Grid and airway calibre of a phantom: shape in voxels, everything else in mm."""

    shape: Shape
    spacing: float
    trachea_radius: float
    smallest_airway: float  # radius below which an airway is not drawn
    smallest_vessel: float


SIZES = {
    "mini": PhantomSize((128, 128, 128), 1.0, trachea_radius=5.0, smallest_airway=0.93, smallest_vessel=0.6),
    "chest": PhantomSize((400, 512, 512), 0.7, trachea_radius=9.0, smallest_airway=1.1, smallest_vessel=0.6),
}

HU = {"air": -1000, "lung": -860, "fat": -100, "soft": 40, "vessel": 50, "wall": 0}


@dataclass(frozen=True)
class Phantom:
    """One synthetic case.

    `ct` int16 HU; `airway` (lumen), `lung` and `centreline` boolean, all on one grid; `tree` one row a branch: branch,
    parent (-1 for the trachea), generation, start_{x,y,z}, end_{x,y,z}, radius_start, radius_end (mm, LPS).
    """

    name: str
    ct: Volume
    airway: Volume
    lung: Volume
    centreline: Volume
    tree: pd.DataFrame


# -------------------------------------------------------------------------------------------------------------- drawing


def draw_tubes(shape: Shape, spacing: float, start: np.ndarray, end: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Signed distance in mm (float32, negative inside, at most one voxel) to the union of tapered round-ended tubes.

    start, end: (N, 3) x, y, z in mm; radii: (N, 2) mm at start and end. Exact for an even tube; beside one that tapers
    with slope t, too large by a factor of sqrt(1 + t^2).
    """
    # Strategy: distance to a tube = distance to its axis - radius there, in a box of the voxels within one voxel of it.
    distance = np.full(shape, spacing, np.float32)
    extent = np.array(shape[::-1])
    reach = radii.max(1, keepdims=True) + spacing
    low = np.clip(np.floor((np.minimum(start, end) - reach) / spacing), 0, extent).astype(int)
    high = np.clip(np.ceil((np.maximum(start, end) + reach) / spacing) + 1, 0, extent).astype(int)
    for a, b, (r0, r1), lo, hi in zip(start, end, radii, low, high, strict=True):
        axes = np.ogrid[lo[2] : hi[2], lo[1] : hi[1], lo[0] : hi[0]][::-1]
        x, y, z = ((axis * spacing - a[i]).astype(np.float32) for i, axis in enumerate(axes))
        ab = (b - a).astype(np.float32)
        along = np.clip((x * ab[0] + y * ab[1] + z * ab[2]) / max(float(ab @ ab), 1e-6), 0, 1)
        squared = (x - along * ab[0]) ** 2 + (y - along * ab[1]) ** 2 + (z - along * ab[2]) ** 2
        box = distance[lo[2] : hi[2], lo[1] : hi[1], lo[0] : hi[0]]
        np.minimum(box, np.sqrt(squared) - np.float32(r0) - along * np.float32(r1 - r0), out=box)
    return distance


def coverage(distance: np.ndarray, spacing: float) -> np.ndarray:
    """Turn signed `distance` to a surface (mm, negative inside) into the share of each voxel that lies inside."""
    return np.clip(0.5 - distance / spacing, 0, 1)


def blend(image: np.ndarray, hu: float | np.ndarray, share: np.ndarray) -> None:
    """Lay a tissue of `hu` over `image` in place, `share` of each voxel."""
    image += share * (hu - image)


def draw_centreline(shape: Shape, spacing: float, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Mark the voxels that the branches' axes pass through; start, end (N, 3) x, y, z in mm."""
    mask = np.zeros(shape, bool)
    for a, b in zip(start, end, strict=True):
        steps = np.linspace(0, 1, int(np.linalg.norm(b - a) / spacing * 4) + 2)[:, None]
        index = np.rint((a + steps * (b - a)) / spacing).astype(int)
        index = index[((index >= 0) & (index < np.array(shape[::-1]))).all(1)]
        mask[index[:, 2], index[:, 1], index[:, 0]] = True
    return mask


def tubes(tree: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return start (N, 3), end (N, 3) and radii (N, 2) of a tree's branches in mm."""
    columns = tree[[f"{end}_{axis}" for end in ("start", "end") for axis in "xyz"]].to_numpy()
    return columns[:, :3], columns[:, 3:], tree[["radius_start", "radius_end"]].to_numpy()


def beside(tree: pd.DataFrame, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run an artery along each airway, about its size and wall to wall with it: start, end, radii as `tubes`."""
    start, end, radii = tubes(tree)
    axis = unit(rng.normal([0, -2, 0], 1))  # the arteries keep to one side, mostly in front
    across = np.cross(end - start, axis)
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    vessel = 1.05 * radii
    shift_end = across * (radii[:, 1:] + vessel[:, 1:] + wall_thickness(radii[:, 1:]))
    shift_start = shift_end[tree["parent"].clip(0)]  # at the end of the parent's artery: one tree, too
    return start + shift_start, end + shift_end, vessel


def wall_thickness(radius: np.ndarray) -> np.ndarray:
    """Return the airway wall in mm for a lumen of `radius` mm (our choice)."""
    return 0.3 + 0.2 * radius


# ---------------------------------------------------------------------------------------------------------------- image


def correlated_noise(shape: Shape, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth white noise by a Gaussian of `sigma` voxels and bring it back to unit variance; float32."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap", truncate=3)
    return noise / noise.std()


def lung_texture(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Vary the parenchyma smoothly, in HU: correlated noise on a grid four times coarser, interpolated linearly."""
    # Strategy: one axis after the other, the last of the array first: scipy's zoom takes ten times as long.
    texture = 22 * correlated_noise(tuple((n + 3) // 4 + 1 for n in shape), 1.0, rng)
    for axis in (2, 1, 0):
        node, step = np.divmod(np.arange(shape[axis]), 4)
        low, high = texture.take(node, axis), texture.take(node + 1, axis)
        texture = low + np.expand_dims(step.astype(np.float32) / 4, tuple({0, 1, 2} - {axis})) * (high - low)
    return texture


def draw_thorax(thorax: Thorax, size: PhantomSize, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the body without airways and vessels: image (float32 HU) and lung mask."""
    z, y, x = (axis.astype(np.float32) * size.spacing for axis in np.ogrid[tuple(map(slice, size.shape))])
    depth = thorax.body_depth(x, y)
    section = np.full(depth.shape, HU["air"], np.float32)
    blend(section, HU["fat"], coverage(-depth, size.spacing))
    blend(section, HU["soft"], coverage(0.06 * thorax.body.min() - depth, size.spacing))
    image = np.broadcast_to(section, size.shape).copy()
    inside = thorax.lung_depth(x, y, z)
    gravity = 60 * ((y - thorax.centre[1]) / thorax.body[1] / 2)  # the back of a lung is denser: the patient lies on it
    blend(image, HU["lung"] + gravity + lung_texture(size.shape, rng), coverage(-inside, size.spacing))
    return image, inside >= 0


def phantom_name(seed: int, size: str) -> str:
    """Name a case so that it can be made again: mini_0007."""
    return f"{size}_{seed:04d}"


def draw_vessels(
    image: np.ndarray, spacing: float, airways: pd.DataFrame, veins: pd.DataFrame, rng: np.random.Generator
) -> None:
    """Lay the `veins` and an artery beside each of the `airways` over `image` in place; none runs along the trachea."""
    trees = zip(beside(airways, rng), tubes(veins), strict=True)
    start, end, radii = (np.concatenate([arteries[1:], veins[1:]]) for arteries, veins in trees)
    blend(image, HU["vessel"], coverage(draw_tubes(image.shape, spacing, start, end, radii), spacing))


def draw_airways(image: np.ndarray, spacing: float, tree: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Lay the branches' walls and lumens over `image` in place; returns the masks of lumen and centreline."""
    start, end, radii = tubes(tree)
    outer = draw_tubes(image.shape, spacing, start, end, radii + wall_thickness(radii))
    blend(image, HU["wall"], coverage(outer, spacing))
    lumen = draw_tubes(image.shape, spacing, start, end, radii)
    blend(image, HU["air"], coverage(lumen, spacing))
    return lumen <= 0, draw_centreline(image.shape, spacing, start, end)


def scan(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur `image` (HU) by the scanner's point spread and add its correlated noise; int16."""
    image = ndimage.gaussian_filter(image, rng.uniform(0.45, 0.6), truncate=3)
    image += rng.uniform(20, 35) * correlated_noise(image.shape, rng.uniform(0.5, 0.7), rng)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)


def make_phantom(seed: int, size: str = "mini") -> Phantom:
    """Make a case of `size` "mini" (128^3 at 1 mm) or "chest" (512x512x400 at 0.7 mm); the same seed, the same case.

    Raises
    ------
    InputError
        Unknown size or negative seed.

    Examples
    --------
    >>> make_phantom(0).ct
    Volume(128 x 128 x 128 int16, spacing (1, 1, 1) mm, origin (0, 0, 0) mm)
    """
    if size not in SIZES:
        raise InputError(f"phantom size {size!r} is unknown: choose one of {', '.join(SIZES)}")
    if seed < 0:
        raise InputError(f"phantom seed {seed} is negative: give 0 or more")
    grid, rng = SIZES[size], np.random.default_rng([seed, list(SIZES).index(size)])
    thorax = Thorax.random(np.array(grid.shape[::-1]) * grid.spacing, rng)
    image, lung = draw_thorax(thorax, grid, rng)

    points = grow_points(thorax, int(25 * (grid.trachea_radius / grid.smallest_vessel) ** 3), rng)
    hila = np.array([[-0.30, 0.02, -0.22], [0.36, 0.04, -0.26]]) * rng.uniform(0.9, 1.1, (2, 3))
    hila = thorax.carina + thorax.body[0] * hila
    calibre = grid.trachea_radius, grid.smallest_vessel
    airways = grow_tree(thorax, hila, points, *calibre, rng)
    veins = grow_tree(thorax, hila + thorax.body[0] * np.array([0, -0.15, -0.12]), points, *calibre, rng)
    draw_vessels(image, grid.spacing, airways.table(), veins.table(), rng)  # arteries reach further than drawn airways
    tree = airways.table(grid.smallest_airway)
    airway, centreline = draw_airways(image, grid.spacing, tree)

    ct = Volume(scan(image, rng), spacing=(grid.spacing,) * 3)
    airway, lung, centreline = map(ct.with_array, (airway, lung, centreline))
    return Phantom(phantom_name(seed, size), ct, airway, lung, centreline, tree)


def write_phantom(phantom: Phantom, folder: str | Path) -> Path:
    """Write `folder`/NAME/{ct,airway,lung,centreline}.nii.gz and tree.csv, whole or not at all; returns that folder."""
    path = Path(folder) / phantom.name
    with atomic_path(path) as temporary:
        temporary.mkdir(parents=True)
        for name in ("ct", "airway", "lung", "centreline"):
            write_volume(getattr(phantom, name), temporary / f"{name}.nii.gz")
        phantom.tree.round(4).to_csv(temporary / "tree.csv", index=False)
    return path


def ensure_phantom(seed: int, size: str, folder: str | Path) -> Path:
    """Return a case's folder under `folder`, made unless it stands."""
    path = Path(folder) / phantom_name(seed, size)
    return path if path.exists() else write_phantom(make_phantom(seed, size), folder)
