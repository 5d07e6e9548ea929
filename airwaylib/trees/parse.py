"""Parse an airway mask into its tree: branches, parents, generations, lengths and radii.

Branches reproduce those of the public reference parser of ATM'22 exactly, see `segments`. Lengths, radii, Strahler
orders and angles are ours. The time grows with the airway's voxels. Thinning shortens free ends by about half a radius,
and a branch of even width (2, 4, ... voxels) may lose its whole skeleton: a warning says so where many do. The trachea
is the largest segment. If a spur splits it, only one of its parts is called trachea.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from airwaylib.errors import InputError
from airwaylib.images.masks import fill_holes, largest_component
from airwaylib.trees import segments
from airwaylib.trees.skeleton import coordinates, thin_voxels

FAR = 3  # inscribed radii from an axis: flat ends and flattened sections lie nearer
MOST_LOST = 0.01  # of the voxels that thinning may leave without a skeleton; seen: 0.003 in patients, 0.2 in tubes
SMOOTHED = 5  # voxels over which a centreline's staircase is averaged before it is measured
AXES = ("x", "y", "z")


@dataclass(frozen=True, eq=False, repr=False)
class AirwayTree:
    """The parsed airway tree of a mask.

    Attributes
    ----------
    branches : DataFrame
        One row a branch, parents before children: `branch` (1, 2, ...; the trachea is 1), `parent` (0: none),
        `generation` (trachea 0), `start_x` .. `end_z` (mm; where the axis leaves the parent's, or a sibling's that
        shares the fork, and its far end), `length_mm` (along the axis between these), `radius_mm`, `radius_min_mm`,
        `radius_max_mm` (mean, least and largest along the axis), `voxels`, `strahler` (order; 1 at the tips),
        `angle_deg` (between the chords of parent and branch; NaN for the trachea), `tortuosity` (length / chord).
    centreline : DataFrame
        One row a skeleton voxel: `branch`, `x`, `y`, `z` and `radius_mm` (mm), `previous` (row of the next voxel
        towards the trachea's top; -1 there), `distance_mm` (from the top, along the skeleton).
    index : array (N, 3)
        z, y, x of the skeleton voxels in the mask, in the rows' order of `centreline`.
    shape : tuple
        Of the mask, z, y, x.
    airway_index, airway_branch : arrays (M, 3) and (M,)
        z, y, x of the parsed component's voxels, holes filled, and their branches.
    """

    branches: pd.DataFrame
    centreline: pd.DataFrame
    index: np.ndarray
    shape: tuple[int, int, int]
    airway_index: np.ndarray
    airway_branch: np.ndarray

    @cached_property
    def labels(self) -> np.ndarray:
        """Branch of every voxel, int32 (z, y, x): 0 outside the parsed component."""
        labels = np.zeros(self.shape, np.int32)
        labels[tuple(self.airway_index.T)] = self.airway_branch
        return labels

    def branch_at(self, index: np.ndarray) -> np.ndarray:
        """Branches (N,) at voxels (N, 3; z, y, x): 0 outside the parsed component."""
        flat, asked = (np.ravel_multi_index(tuple(i.T[::-1]), self.shape[::-1]) for i in (self.airway_index, index))
        row = np.searchsorted(flat, asked).clip(max=len(flat) - 1)
        return np.where(flat[row] == asked, self.airway_branch[row], 0)

    def path(self, branch: int) -> np.ndarray:
        """Rows of `centreline` along a branch's axis: from the last voxel of the branch it leaves to its far end."""
        of, previous = self.centreline["branch"].to_numpy(), self.centreline["previous"].to_numpy()
        return _axis(branch, of, previous, self.centreline["distance_mm"].to_numpy())

    @cached_property
    def twigs(self) -> list[np.ndarray]:
        """The skeleton cut where it forks: rows of `centreline` from one fork, or the top, to the next or to a tip."""
        previous = self.centreline["previous"].to_numpy()
        children = np.bincount(previous[previous >= 0], minlength=len(previous))
        twigs = []
        for end in np.flatnonzero((children != 1) & (previous >= 0)):
            way = [end, previous[end]]
            while children[way[-1]] == 1 and previous[way[-1]] >= 0:
                way.append(previous[way[-1]])
            twigs.append(np.array(way[::-1]))
        return twigs

    @property
    def length_mm(self) -> float:
        """Length of the whole skeleton: also of the short twigs that are no branches of their own."""
        place = self.centreline[list(AXES)].to_numpy()
        return sum((polyline_length(place[twig]) for twig in self.twigs), 0.0)

    def __repr__(self):
        last = self.branches["generation"].max()
        return (
            f"AirwayTree(branches: {len(self.branches)}, generations: 0-{last}, length: {self.length_mm / 10:.1f} cm)"
        )


def parse_tree(
    mask: np.ndarray,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    merge: bool = True,
) -> AirwayTree:
    """Parse an airway mask into its tree: rooted and without cycles, whatever the mask.

    Raises `InputError`: the mask is empty or not 3-D, or the spacing is not positive.

    Parameters
    ----------
    mask : array
        Airway, boolean (z, y, x). Its largest 6-connected component is parsed, with holes filled.
    spacing, origin, direction :
        As of `volume.Volume` (mm, x, y, z): all points are in that space.
    merge : bool
        Unless false: parents of one generation that share a child become one, and an only child joins its parent, until
        nothing changes. Without merging, a segment with several parents keeps the one it touches most.

    Examples
    --------
    >>> mask = np.zeros((40, 9, 41), bool); mask[20:, 3:6, 19:22] = True  # a trunk that ends
    >>> mask[17:20, 3:6, 2:39] = True  # in a bar: a T
    >>> parse_tree(mask).branches[["branch", "parent", "generation"]].values.tolist()
    [[1, 0, 0], [2, 1, 1], [3, 1, 1]]
    """
    if np.ndim(mask) != 3:
        raise InputError(f"mask of shape {np.shape(mask)}: three axes (z, y, x) are needed")
    cut = segments.cut_out(np.asarray(mask).astype(bool, copy=False), margin=1)
    return parse_cut(cut, np.shape(mask), spacing, origin, direction, merge)


def parse_cut(
    cut: segments.Cut,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    merge: bool = True,
) -> AirwayTree:
    """Parse a mask of `shape` (z, y, x) from its box with a margin of 1, as `parse_tree` does."""
    if np.shape(spacing) != (3,) or not np.isfinite(spacing).all() or min(spacing) <= 0:
        raise InputError(f"spacing {spacing} mm: it must be above 0 along x, y and z")
    # From here on, coordinates are in the reference parser's order x, y, z: thinning and ties depend on it.
    airway, low = segments.parser_order(fill_holes(largest_component(cut.box))), cut.low[::-1]
    voxels = coordinates(airway)
    points = thin_voxels(voxels)
    segment = segments.label_segments(points)
    if (lost := share_without_skeleton(airway.shape, voxels, points)) > MOST_LOST:
        warnings.warn(
            f"{100 * lost:.0f} % of the mask lie far from its centreline, so whole branches may be missing: thinning "
            "wipes out tubes of an even width in voxels",
            stacklevel=3,
        )
    label = segment[segments.nearest_row(voxels, points, segment)]
    contacts = segments.count_contacts(airway.shape, voxels, label)
    volume = np.bincount(label)
    owner = segments.merge_segments(contacts, volume) if merge else np.arange(len(volume))
    parent, generation = segments.root_branches(contacts, owner, volume)

    order = sorted(parent, key=lambda b: (generation[b], -volume[owner == b].sum(), b))
    number = {old: new for new, old in enumerate(order, 1)}
    branch = np.array([number[old] for old in owner.tolist()])
    whose = branch[label]
    rows = np.searchsorted(*(np.ravel_multi_index(tuple(p.T), airway.shape) for p in (voxels, points)))
    centreline = _centreline(points, whose[rows], np.asarray(spacing))
    centreline["radius_mm"] = _radii(airway, voxels, points, np.asarray(spacing))
    matrix = np.reshape(direction, (3, 3)) * spacing
    centreline[list(AXES)] = (points + low) @ matrix.T + origin
    parents = [number.get(parent[old], 0) for old in order]
    branches = _branches(centreline, parents, [generation[old] for old in order])
    branches.insert(13, "voxels", np.bincount(whose, minlength=len(order) + 1)[1:])
    zyx = (points + low)[:, ::-1], (voxels + low)[:, ::-1]
    return AirwayTree(branches, centreline, zyx[0], shape, zyx[1], whose)


# ------------------------------------------------------------------------------------------------------------- geometry


def share_without_skeleton(shape: tuple[int, int, int], voxels: np.ndarray, points: np.ndarray) -> float:
    """Estimate the share of voxels (N, 3) in tubes whose skeleton (M, 3) is lost: they lie `FAR` radii from the rest.

    The radius is the inscribed one of the nearest tube. Every eighth voxel is looked at.
    """
    faces = segments.face_pairs(np.ravel_multi_index(tuple(voxels.T), shape), shape)
    surface = voxels[np.bincount(faces.ravel(), minlength=len(voxels)) < 6]
    inscribed = cKDTree(surface).query(points, workers=-1)[0] + 1
    distance, nearest = cKDTree(points).query(voxels[::8], workers=-1)
    return float((distance > FAR * inscribed[nearest]).mean())


def _centreline(points: np.ndarray, branch: np.ndarray, spacing: np.ndarray) -> pd.DataFrame:
    """Skeleton voxels (N, 3; x, y, z) as a tree of shortest ways from the top: branch, previous, distance_mm."""
    pairs = segments.skeleton_pairs(points)
    step = np.linalg.norm((points[pairs[:, 0]] - points[pairs[:, 1]]) * spacing, axis=1)
    ways = csr_array((step, pairs.T), shape=(len(points),) * 2)
    trachea = np.flatnonzero(branch == 1)
    below = np.flatnonzero(branch != 1)
    # Of the trachea's two ends, the top is the one with less of the tree nearer to it: none, unless a spur parts it.
    one = trachea[dijkstra(ways, directed=False, indices=trachea[0])[trachea].argmax()]
    from_one = dijkstra(ways, directed=False, indices=one)
    other = trachea[from_one[trachea].argmax()]
    from_other = dijkstra(ways, directed=False, indices=other)
    top = one if (from_one < from_other)[below].sum() <= (from_other < from_one)[below].sum() else other
    distance, previous = dijkstra(ways, directed=False, indices=top, return_predecessors=True)
    return pd.DataFrame({"branch": branch, "previous": np.maximum(previous, -1), "distance_mm": distance})


def _radii(airway: np.ndarray, voxels: np.ndarray, points: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Radius in mm at each skeleton voxel: mean distance, weighted by area, to the faces of the surface around it.

    A face belongs to the skeleton voxel nearest to it. The mean over all sides forgives an axis half a voxel off.
    """
    nearest = cKDTree(points * spacing)
    area, moment = np.zeros(len(points)), np.zeros(len(points))
    for axis, step in enumerate(np.eye(3, dtype=int)):
        for side in (step, -step):
            bare = voxels[~airway[tuple((voxels + side).T)]]
            reach, whose = nearest.query((bare + side / 2) * spacing, workers=-1)
            face = np.delete(spacing, axis).prod()
            area += np.bincount(whose, minlength=len(points)) * face
            moment += np.bincount(whose, reach, minlength=len(points)) * face
    seen = area > 0
    radius = np.divide(moment, area, out=np.zeros(len(points)), where=seen)
    # A voxel whose surface all lies nearer to others takes the radius of the closest of those.
    hidden = np.flatnonzero(~seen)
    radius[hidden] = radius[np.flatnonzero(seen)[cKDTree(points[seen]).query(points[hidden])[1]]]
    return radius


def _branches(centreline: pd.DataFrame, parents: list[int], generations: list[int]) -> pd.DataFrame:
    """The table of branches from the centreline's points."""
    place, radius = centreline[list(AXES)].to_numpy(), centreline["radius_mm"].to_numpy()
    branch, previous = centreline["branch"].to_numpy(), centreline["previous"].to_numpy()
    distance = centreline["distance_mm"].to_numpy()
    rows, order = [], strahler_orders(parents)
    for number, (parent, generation) in enumerate(zip(parents, generations, strict=True), 1):
        path = _axis(number, branch, previous, distance)
        inner = path[branch[path] == number]
        start, end = place[path[0]], place[path[-1]]
        length, chord = polyline_length(place[path]), np.linalg.norm(end - start)
        radii = radius[inner].mean(), radius[inner].min(), radius[inner].max()
        angle = np.nan
        if parent:
            stem = np.array(rows[parent - 1][6:9]) - rows[parent - 1][3:6]
            cosine = stem @ (end - start) / max(np.linalg.norm(stem) * chord, 1e-9)
            angle = np.degrees(np.arccos(np.clip(cosine, -1, 1))) if chord else np.nan
        shape = (order[number - 1], angle, length / chord if chord else 1.0)
        rows.append([number, parent, generation, *start, *end, length, *radii, *shape])
    columns = ["branch", "parent", "generation", *(f"{end}_{axis}" for end in ("start", "end") for axis in AXES)]
    columns += ["length_mm", "radius_mm", "radius_min_mm", "radius_max_mm", "strahler", "angle_deg", "tortuosity"]
    return pd.DataFrame(rows, columns=columns)


def _axis(number: int, branch: np.ndarray, previous: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Rows of the centreline from the last voxel before branch `number` to its own voxel farthest from the top."""
    mine = np.flatnonzero(branch == number)
    path = [mine[distance[mine].argmax()]]
    while previous[path[-1]] >= 0:
        path.append(previous[path[-1]])
    # Where branches meet, their voxels may take turns: the branch begins with the first of its own.
    first = np.flatnonzero(branch[path] == number)[-1]
    return np.array(path[: first + 2][::-1])


def strahler_orders(parents: list[int]) -> list[int]:
    """Strahler order of branches 1, 2, ...: 1 at the tips, one more where two of the highest meet."""
    highest: list[list[int]] = [[] for _ in range(len(parents) + 1)]
    order = [1] * len(parents)
    for number in range(len(parents), 0, -1):  # children have higher numbers than their parents
        below = highest[number]
        if below:
            order[number - 1] = max(below) + (below.count(max(below)) > 1)
        highest[parents[number - 1]].append(order[number - 1])
    return order


def polyline_length(points: np.ndarray) -> float:
    """Length of a way of voxels (N, 3; mm), its staircase averaged over 5 of them; the ends stay where they are."""
    half = SMOOTHED // 2
    padded = np.concatenate([2 * points[0] - points[half:0:-1], points, 2 * points[-1] - points[-2 : -half - 2 : -1]])
    if len(points) > half:
        points = np.stack([padded[i : i + len(points)] for i in range(SMOOTHED)]).mean(0)
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
