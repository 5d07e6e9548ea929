"""Turn a case (CT and airway label) into its training store: the samplers' and the loss's arrays in the lungs' box.

Store: a zarr group of arrays on one grid (z, y, x), in chunks small enough that a crop reads in milliseconds:

- `image` uint8: HU clipped to [-1000, 400] and scaled to 0..255
- `label` uint8: airway
- `centreline` uint8: 3-D thinning of the label, see `thinning`
- `distance` float16: distance to the centreline over its maximum in the airway, d/dmax; kept up to two voxels outside
  the airway too, so that it can be interpolated, and 0 beyond
- `width` uint8: diameter in voxels of the airway that a voxel belongs to, kept as far out; 1 where it is one voxel wide
- `small_airway` uint8: the airway without trachea and main bronchi
- `lung` uint8: air inside the body, the airways' too, see `lungs`

Attributes: case, shape of the whole CT, lung_box, spacing, origin, direction, distance_unit, distance_max,
small_airway_by (tree or opening), mended (what was mended in the files, in words), sizes (bytes of CT and label).
"""

from collections.abc import Sequence
from pathlib import Path

import edt
import numpy as np
import pandas as pd
import zarr
from scipy import ndimage
from scipy.spatial import cKDTree
from zarr.codecs import BloscCodec

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.images.lungs import lung_mask
from airwaylib.images.masks import bounding_box
from airwaylib.images.volume import Volume, window
from airwaylib.losses.distance import check_unit, distance_to_centreline
from airwaylib.trees.parse import AXES, AirwayTree, parse_tree
from airwaylib.trees.skeleton import thin
from airwaystudy.data.cases import Case, read_case
from airwaystudy.data.store import REACH

CHUNK = 64  # voxels a side: a 128^3 crop meets 8 to 27 chunks
MARGIN = 5  # voxels around the lungs' box
ENDS = ("start", "end")
CARRIES = 0.9  # of what lies below a fork: a child with more is no main bronchus but goes on to one; our choice
WIDEST = 1.2  # trachea's radii that a branch may have at most; a wider one means that it is no trachea; our choice


def small_airways(label: np.ndarray, spacing: tuple[float, float, float]) -> tuple[np.ndarray, str]:
    """The airway without trachea and main bronchi, as Zheng et al. 2021 have it, and by what: "tree" or "opening".

    The trachea is the root of the label's parsed tree (`tree.parse_tree`), the main bronchi are its children; a voxel
    belongs to the branch that the parser gives it. Parts of the label off its largest component stay. Where the parse
    shows no trachea that forks, `without_thick_tubes` steps in. label (D, H, W) boolean, spacing (x, y, z) in mm.
    """
    tree = parse_tree(label, spacing)
    large = large_branches(tree)
    if not large:
        return without_thick_tubes(label, spacing), "opening"
    small = label.copy()
    small[tuple(tree.airway_index[np.isin(tree.airway_branch, large)].T)] = False
    return small, "tree"


def large_branches(tree: AirwayTree) -> list[int]:
    """Trachea and main bronchi among a tree's branches; none where nothing can be taken for a trachea that forks.

    Spurs of a rough label part the trachea. So what leaves the trachea in its upper half is counted to it, with all
    that follows; and where one child alone carries at least `CARRIES` of what lies below, the child continues it.
    """
    table = tree.branches.set_index("branch")
    below = table["voxels"].copy()  # of a branch and all that follow; children have higher numbers than parents
    for branch in reversed(table.index[1:]):
        below[table.at[branch, "parent"]] += below[branch]
    large, trachea = [1], 1
    while True:
        start, end = (table.loc[trachea, [f"{point}_{axis}" for axis in AXES]].to_numpy(float) for point in ENDS)
        children = table.index[table["parent"] == trachea]
        place = table.loc[children, [f"start_{axis}" for axis in AXES]].to_numpy()
        above = np.linalg.norm(place - start, axis=1) < np.linalg.norm(place - end, axis=1)
        for branch in children[above]:
            large += [branch, *descendants(table["parent"], branch)]
        children = children[~above]
        if len(children) == 0 or table["radius_mm"].max() > WIDEST * table.at[1, "radius_mm"]:
            return []
        large += list(children)
        main = below[children].idxmax()
        if below[main] < CARRIES * below[children].sum():
            return large
        trachea = main


def descendants(parent: pd.Series, branch: int) -> list[int]:
    """All branches that follow a branch; parent: of each branch (the index), parents before children."""
    found = {branch}
    for child, above in parent.items():
        if above in found:
            found.add(child)
    return sorted(found - {branch})


def without_thick_tubes(label: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The airway without the tubes thicker than half its thickest one; in a patient, about trachea and main bronchi.

    An opening by a ball of half the largest inscribed radius. label (D, H, W) boolean, spacing (x, y, z) in mm; returns
    boolean.
    """
    anisotropy = spacing[::-1]
    depth = edt.edt(label, anisotropy=anisotropy, black_border=False)
    radius = depth.max() / 2
    cores = depth >= radius
    # Half a voxel's diagonal more: without it, a rough surface leaves specks of the large tubes.
    return label & (edt.edt(~cores, anisotropy=anisotropy) > radius + np.linalg.norm(anisotropy) / 2)


def airway_width(label: np.ndarray, centreline: np.ndarray) -> np.ndarray:
    """Compute the airway's diameter in voxels where a voxel is: twice the radius at its centreline, less one.

    label, centreline : bool (D, H, W). Returns uint8, 1 for one voxel, up to `REACH` voxels outside the airway, then 0.
    """
    width, points = np.zeros(label.shape, np.uint8), np.argwhere(centreline)
    radius = edt.edt(label, black_border=True)[tuple(points.T)]  # in voxels, to the nearest voxel outside
    near = np.argwhere(ndimage.binary_dilation(label, iterations=REACH))
    width[tuple(near.T)] = np.clip(np.rint(2 * radius[cKDTree(points).query(near)[1]] - 1), 1, 255)
    return width


def prepare_case(
    case: str,
    ct: Volume,
    airway: Volume,
    path: str | Path,
    distance_unit: str = "mm",
    mended: Sequence[str] = (),
    sizes: Sequence[int] = (),
) -> Path:
    """Write the store of one case at `path` (a folder ending in .zarr), whole or not at all; returns `path`.

    Raises `InputError`: label empty or on another grid, no lung found, no airway inside the lungs' box, unknown unit.

    Parameters
    ----------
    case: name of the case.
    ct: HU.
    airway: boolean label on the CT's grid.
    distance_unit: "mm" (default; right on anisotropic CT) or "voxels" (the authors').
    mended, sizes: what was mended in the files (`cases.read_case`), and their bytes; kept in the attributes.
    """
    check_unit(distance_unit)
    if not ct.same_grid(airway):
        raise InputError(
            f"{case}: CT {ct.array.shape} and label {airway.array.shape} are not on one grid; resample the label"
        )
    lung = lung_mask(ct)
    box = bounding_box(lung, MARGIN)
    label = np.ascontiguousarray(airway.array[box])
    if not label.any():
        raise InputError(f"{case}: the label holds no airway inside the lungs' box; is it the label of this CT?")
    spacing = ct.spacing if distance_unit == "mm" else (1.0, 1.0, 1.0)
    centreline = thin(label)
    distance, maximum = distance_to_centreline(label, centreline, spacing)
    width = airway_width(label, centreline)
    small, by = small_airways(label, ct.spacing)
    cut = ct.crop(box)
    with atomic_path(path) as temporary:
        store = zarr.open_group(temporary, mode="w")
        for name, array in {
            "image": window(cut.array),
            "label": label.astype(np.uint8),
            "centreline": centreline.astype(np.uint8),
            "distance": distance.astype(np.float16),
            "width": width,
            "small_airway": small.astype(np.uint8),
            "lung": lung[box].astype(np.uint8),
        }.items():
            store.create_array(name, data=array, chunks=(CHUNK,) * 3, compressors=BloscCodec(cname="lz4"))
        store.attrs.update(
            case=case,
            shape=list(ct.array.shape),
            lung_box=[[s.start, s.stop] for s in box],
            spacing=list(cut.spacing),
            origin=list(cut.origin),
            direction=list(cut.direction),
            distance_unit=distance_unit,
            distance_max=maximum,
            small_airway_by=by,
            mended=list(mended),
            sizes=list(sizes),
        )
    return Path(path)


def prepare_files(case: Case, out: str | Path, distance_unit: str = "mm") -> Path:
    """Prepare one case from its files as OUT/CASE.zarr unless that store stands; returns the store's path.

    Raises `InputError`: as `cases.read_case` and `prepare_case`; a store that stands with distances in another unit, or
    of other files.
    """
    path = Path(out) / f"{case.name}.zarr"
    sizes = [sum(file.stat().st_size for file in (p.iterdir() if p.is_dir() else [p])) for p in (case.ct, case.airway)]
    if path.exists():
        try:
            attributes = zarr.open_group(path, mode="r").attrs
            unit, former = attributes["distance_unit"], attributes.get("sizes") or sizes  # older stores lack them
        except (KeyError, ValueError, OSError) as error:
            raise InputError(f"{path}: no training store ({error}); delete it to make it anew") from error
        if unit != distance_unit:
            raise InputError(f"{path}: its distances are in {unit}, not in {distance_unit}; delete it to make it anew")
        if former != sizes:
            raise InputError(f"{path}: was made of other files than {case.ct} and {case.airway}; delete it to renew it")
        return path
    try:
        ct, airway, mended = read_case(case)
        return prepare_case(case.name, ct, airway, path, distance_unit, mended, sizes)
    except InputError as error:
        raise InputError(error if case.name in str(error) else f"{case.name}: {error}") from error
