"""Split a mask into segments and merge these into branches, by the steps of the public reference parser of ATM'22.

1. Keep the largest 6-connected component, fill its holes, and thin it.
2. Drop skeleton voxels with more than two neighbours; what stays connected is a segment if it has 5 voxels.
3. Give each airway voxel to the nearest segment. The largest segment is the trachea.
4. Count generations by breadth-first search over touching segments, and merge.

All but the first steps work on coordinates in that parser's order x, y, z, on which thinning and ties depend.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from airwaylib.images.masks import bounding_box
from airwaylib.trees.skeleton import coordinates

LEAST_SEGMENT = 5  # voxels: a shorter segment is dropped
MOST_NEIGHBOURS = 2  # of a skeleton voxel within a segment
Contacts = dict[tuple[int, int], int]  # faces between two segments a < b


class Cut(NamedTuple):
    """A mask cut to the box of its True voxels: `box`, and `low`, its corner in the mask; both z, y, x."""

    box: np.ndarray
    low: np.ndarray


def cut_out(mask: np.ndarray, margin: int = 0) -> Cut:
    """Cut a mask (z, y, x) to the box of its True voxels, with `margin` empty voxels added on all sides.

    Raises `InputError`: the mask is empty.
    """
    box = bounding_box(mask)
    return Cut(np.pad(mask[box], margin), np.array([side.start for side in box]) - margin)


def parser_order(box: np.ndarray) -> np.ndarray:
    """Reverse the axes of a mask (z, y, x) to the parser's x, y, z, contiguous in memory."""
    turned = np.zeros(box.shape[::-1], bool)
    turned[tuple(coordinates(box).T[::-1])] = True  # few voxels: faster than copying the transposed box
    return turned


def face_pairs(flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Rows (M, 2) of voxels that share a face; `flat`: ascending indices into a box of `shape` with an empty margin."""
    pairs = []
    for stride in (1, shape[2], shape[1] * shape[2]):
        row = np.searchsorted(flat, flat + stride).clip(max=len(flat) - 1)
        touch = np.flatnonzero(flat[row] == flat + stride)
        pairs.append(np.stack([touch, row[touch]], 1))
    return np.concatenate(pairs)


def label_points(count: int, pairs: np.ndarray) -> np.ndarray:
    """Component (0, 1, ... in the order of their first points) of each of `count` points joined by `pairs` (M, 2)."""
    joined = csr_array((np.ones(len(pairs), np.int8), pairs.T), shape=(count, count))
    return connected_components(joined, directed=False)[1]


def skeleton_pairs(points: np.ndarray) -> np.ndarray:
    """Rows (M, 2) of the voxels (N, 3) that are 26-adjacent."""
    return cKDTree(points).query_pairs(1.8, output_type="ndarray")


def label_segments(points: np.ndarray) -> np.ndarray:
    """Segment (0, 1, ...) of each skeleton voxel (N, 3), in raster order of their first voxels; -1 if dropped."""
    pairs = skeleton_pairs(points)
    keep = np.bincount(pairs.ravel(), minlength=len(points)) <= MOST_NEIGHBOURS
    component = label_points(len(points), pairs[keep[pairs].all(1)])
    keep &= np.bincount(component)[component] >= LEAST_SEGMENT
    if not keep.any():  # a mask too small to have segments is one branch
        return np.zeros(len(points), int)
    segment = np.full(len(points), -1)
    segment[keep] = np.unique(component[keep], return_inverse=True)[1]
    return segment


def nearest_row(voxels: np.ndarray, points: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Row of the nearest skeleton voxel of a segment for each voxel (N, 3), in voxels; of equals the first by z, y, x.

    points (M, 3), segment (M,): the skeleton, -1 where a voxel belongs to no segment.
    """
    rows = np.flatnonzero(segment >= 0)
    rows = rows[np.lexsort(points[rows].T)]  # by z, y, x: of equally near voxels, the least number wins
    tree, nearest = cKDTree(points[rows]), np.empty(len(voxels), int)
    undecided, count = np.arange(len(voxels)), 2
    while len(undecided):
        count = min(count, len(rows))
        distance, number = tree.query(voxels[undecided], k=range(1, count + 1), workers=-1)
        # Distances are roots of whole numbers, so equal ones are equal to the last bit.
        nearest[undecided] = np.where(distance == distance[:, :1], number, len(rows)).min(1)
        # Where all that were found are equally near, there may be more of them.
        undecided = undecided[(distance[:, 0] == distance[:, -1]) & (count < len(rows))]
        count *= 4
    return rows[nearest]


def count_contacts(shape: tuple[int, ...], voxels: np.ndarray, label: np.ndarray) -> Contacts:
    """Number of voxel faces between each two touching segments (a < b); voxels (N, 3) in raster order of their box."""
    pairs = label[face_pairs(np.ravel_multi_index(tuple(voxels.T), shape), shape)]
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    found, faces = np.unique(pairs, axis=0, return_counts=True)
    return {(int(a), int(b)): int(n) for (a, b), n in zip(found, faces, strict=True)}


# -------------------------------------------------------------------------------------------------------------- merging


def walk_generations(
    contacts: Contacts, owner: np.ndarray, volume: np.ndarray
) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Parents (ascending) and generation of each branch by breadth-first search from the largest, the trachea."""
    near = {branch: set() for branch in np.unique(owner).tolist()}
    for pair in contacts:
        a, b = owner[list(pair)].tolist()
        if a != b:
            near[a].add(b)
            near[b].add(a)
    trachea = int(np.bincount(owner, volume).argmax())
    generation, front = {trachea: 0}, [trachea]
    while front:
        reached = sorted(set().union(*(near[branch] for branch in front)) - generation.keys())
        generation |= dict.fromkeys(reached, generation[front[0]] + 1)
        front = reached
    parents = {b: sorted(p for p in near[b] if generation[p] == generation[b] - 1) for b in generation}
    return parents, generation


def merge_segments(contacts: Contacts, volume: np.ndarray) -> np.ndarray:
    """Branch that each segment ends up in, named by one of its segments."""
    # The order of the joins, and that one renames what bears the name just then, are the reference parser's: where a
    # branch's parents become one while it was the only child of one of them, both matter.
    owner = np.arange(len(volume))
    while True:
        parents, _ = walk_generations(contacts, owner, volume)
        children = {b: [] for b in parents}
        for child, above in parents.items():
            for parent in above:
                children[parent].append(child)
        joins = [(p[0], other) for _, p in sorted(parents.items()) for other in p[1:]]
        joins += [(b, c[0]) for b, c in sorted(children.items()) if len(c) == 1]
        if not joins:
            return owner
        for into, branch in joins:
            owner[owner == branch] = into


def root_branches(contacts: Contacts, owner: np.ndarray, volume: np.ndarray) -> tuple[dict[int, int], dict[int, int]]:
    """One parent (-1 for the trachea) and the generation of each branch; of several parents the one it touches most."""
    parents, generation = walk_generations(contacts, owner, volume)
    faces: Contacts = {}
    for pair, number in contacts.items():
        a, b = owner[list(pair)].tolist()
        for key in ((a, b), (b, a)):
            faces[key] = faces.get(key, 0) + number
    best = {b: max(p, key=lambda parent, b=b: faces[b, parent], default=-1) for b, p in parents.items()}
    return best, generation
