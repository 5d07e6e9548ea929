"""A mask's segments and the branches they merge into, by the steps of the public reference parser of ATM'22.

Largest 6-connected component, holes filled; thinning; skeleton voxels with more than two neighbours dropped; what hangs
together then is a segment, if it has 5 voxels; each airway voxel belongs to the nearest segment; the largest is the
trachea; generations by breadth-first search over touching segments; merging. The steps work on the coordinates of the
airway's voxels, in the order x, y, z of that parser, on which thinning and ties depend.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from airwaylib.errors import InputError
from airwaylib.trees.skeleton import NEIGHBOURS, coordinates

LEAST_SEGMENT = 5  # voxels: a shorter segment is dropped
MOST_NEIGHBOURS = 2  # of a skeleton voxel within a segment
Contacts = dict[tuple[int, int], int]  # faces between two segments a < b


class Cut(NamedTuple):
    """The box of a mask's voxels, in the order x, y, z.

    `box`: the mask in it, boolean; `voxels` (N, 3): x, y, z in the box, in raster order of z, y, x; `low`: the corner's
    index in the mask (x, y, z).
    """

    box: np.ndarray
    voxels: np.ndarray
    low: np.ndarray


def cut_out(mask: np.ndarray, margin: int = 0) -> Cut:
    """The box of a mask's (z, y, x) True voxels, `margin` wider on all sides.

    Raises
    ------
    InputError
        The mask is empty.
    """
    planes = np.flatnonzero(mask.any((1, 2)))
    if not len(planes):
        raise InputError("the mask is empty: there is no airway in it")
    slab = mask[planes[0] : planes[-1] + 1]
    seen = slab.any(0)
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    cut = np.ascontiguousarray(slab[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    voxels = coordinates(cut)[:, ::-1] + margin
    box = np.zeros(np.add(cut.shape[::-1], 2 * margin), bool)
    box[tuple(voxels.T)] = True
    return Cut(box, voxels, np.array([columns[0], rows[0], planes[0]]) - margin)


def keep_largest_component(cut: Cut) -> None:
    """Leave the largest 6-connected component in a mask's box (with a margin of 1), with its holes filled; in place."""
    box, voxels, _ = cut
    flat = np.ravel_multi_index(tuple(voxels.T[::-1]), box.shape[::-1])  # ascends, as the voxels do
    component = label_points(len(flat), face_pairs(flat, box.shape[::-1]))
    box[tuple(voxels[component != np.bincount(component).argmax()].T)] = False
    fill_holes(box)


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


def fill_holes(box: np.ndarray) -> None:
    """Fill the background in a mask's box (with an empty margin) that no 6-connected way leads out of, in place."""
    # Strategy: the background next to the mask (26-adjacent) is one piece around each hole and one around the outside,
    # so only these voxels need labelling, and only around a piece that is not the outside's need holes be filled.
    flat = np.flatnonzero(box)
    strides = (box.shape[1] * box.shape[2], box.shape[2], 1)
    near = np.zeros(box.size, bool)
    for step in NEIGHBOURS @ strides:
        near[flat + step] = True
    near[flat] = False
    shell = np.flatnonzero(near)
    component = label_points(len(shell), face_pairs(shell, box.shape))
    inner = np.flatnonzero(component != component[0])
    if not len(inner):
        return
    place = np.stack(np.unravel_index(shell[inner], box.shape), 1)
    for label in np.unique(component[inner]):
        of = place[component[inner] == label]
        around = tuple(slice(a - 1, b + 2) for a, b in zip(of.min(0), of.max(0), strict=True))
        box[around] = ndimage.binary_fill_holes(box[around])


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
    """Row of the segments' nearest skeleton voxel for each voxel (N, 3), in voxels; of equals the first by z, y, x."""
    # Strategy: with the skeleton in that order, the least row wins. Distances are roots of whole numbers, so that equal
    # ones are equal to the last bit.
    rows = np.flatnonzero(segment >= 0)
    rows = rows[np.lexsort(points[rows].T)]
    tree, count = cKDTree(points[rows]), min(2, len(rows))
    distance, near = tree.query(voxels, k=range(1, count + 1), workers=-1)
    tied = np.flatnonzero(distance[:, 0] == distance[:, -1])
    near[tied, 0] = near[tied].min(1)
    while len(tied) and count < len(rows):
        count = min(4 * count, len(rows))
        distance, more = tree.query(voxels[tied], k=count, workers=-1)
        near[tied, 0] = np.where(distance == distance[:, :1], more, len(rows)).min(1)
        tied = tied[distance[:, 0] == distance[:, -1]]
    return rows[near[:, 0]]


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
