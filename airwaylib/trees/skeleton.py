"""Thin sparse masks to centrelines: 3-D thinning after Lee, Kashyap & Chu (CVGIP 56:462, 1994).

The result equals `skimage.morphology.skeletonize` voxel for voxel, with one thing mended: a component that thinning
wipes out, as it does to tubes of even width, keeps a centreline. scikit-image visits every voxel of the array in every
pass; here the time grows with the mask's voxels: 0.23 against 0.47 s for LIDC-IDRI-0002, and 0.67 against 4.2 s for
ATM'22 case 224 (367,000 voxels).
"""

from itertools import product

import cc3d
import numpy as np
from scipy import ndimage

# A voxel's neighbourhood is a number of 26 bits, one a neighbour in raster order: bits 0 to 12 come before the voxel
# itself, and bit 25 - b lies opposite to bit b.
NEIGHBOURS = np.array([step for step in product((-1, 0, 1), repeat=3) if any(step)])
EARLIER = 13
BITS = np.int32(1) << np.arange(26, dtype=np.int32)
REMOVED = np.int32(1 << 30)
PASSES = [(0, -1, 0), (0, 1, 0), (0, 0, 1), (0, 0, -1), (1, 0, 0), (-1, 0, 0)]  # the border that a pass takes off


def _bits(steps: list[tuple[int, int, int]]) -> np.int32:
    """The neighbours at `steps` as a number."""
    return np.int32(sum(int(BITS[(step == NEIGHBOURS).all(1)][0]) for step in steps))


def _cells() -> list[tuple[np.int32, int]]:
    """Neighbours that share each vertex, edge and face of a voxel, and its sign in Euler's formula."""
    cells = []
    for towards in NEIGHBOURS:
        sharing = [step for step in product(*({0, int(t)} for t in towards)) if any(step)]
        cells.append((_bits(sharing), -1 if np.count_nonzero(towards) == 2 else 1))
    return cells


def _reach() -> tuple[np.ndarray, np.ndarray]:
    """Neighbours in, or 26-adjacent to, each set of neighbours: tables for the low 13 bits and for the high 13 bits."""
    near = (np.abs(NEIGHBOURS[:, None] - NEIGHBOURS) <= 1).all(2) @ BITS.astype(np.int64)
    sets = np.arange(1 << 13)
    tables = []
    for half in (near[:13], near[13:]):
        table = np.zeros(1 << 13, np.int32)
        for bit, mask in enumerate(half):
            table |= np.where(sets >> bit & 1, mask, 0).astype(np.int32)
        tables.append(table)
    return tables[0], tables[1]


FACES = [_bits([step]) for step in PASSES]
CELLS = _cells()
REACH_LOW, REACH_HIGH = _reach()


def coordinates(mask: np.ndarray) -> np.ndarray:
    """Indices (N, 3) of the True voxels of a 3-D mask in raster order; several times as fast as `np.argwhere`."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), 1)


def thin(mask: np.ndarray) -> np.ndarray:
    """Centreline of a boolean mask (3-D, any order of axes), of its shape and boolean; see `thin_voxels`.

    Examples
    --------
    >>> tube = np.zeros((5, 5, 12), bool); tube[1:4, 1:4, 1:11] = True
    >>> np.argwhere(thin(tube)).tolist() == [[2, 2, x] for x in range(2, 10)]
    True
    """
    skeleton = np.zeros(mask.shape, bool)
    skeleton[tuple(thin_voxels(coordinates(mask)).T)] = True
    return skeleton


def thin_voxels(voxels: np.ndarray) -> np.ndarray:
    """Centreline voxels (M, 3) of a mask's voxels (N, 3), both in raster order.

    Every 26-connected component keeps at least one voxel; a twig of even width may still go. A single plane is thinned
    in 3-D, too; scikit-image takes it for a 2-D image. The result depends a little on the order of the axes.
    """
    table = _neighbour_rows(voxels)
    code = np.zeros(len(voxels) + 1, np.int32)  # the last row stands for all that is not in the mask
    for bit, neighbours in zip(BITS, table, strict=True):
        code[:-1] |= np.where(neighbours < len(voxels), bit, 0)
    code[-1] = REMOVED
    rows, idle, whole = np.arange(len(voxels)), 0, True
    while idle < len(FACES):
        for face in FACES:
            removed, alone = _peel(rows, code, face, table)
            idle, whole = (0 if len(removed) else idle + 1), whole and not alone
            for bit, neighbours in zip(BITS[::-1], table, strict=True):
                code[neighbours[removed]] &= ~bit
            code[removed] |= REMOVED
            code[-1] = REMOVED
        rows = rows[code[rows] < REMOVED]
    return voxels[rows] if whole else _mended(voxels, voxels[rows])


def _neighbour_rows(voxels: np.ndarray) -> np.ndarray:
    """Rows (26, N) of each voxel's neighbours among the N in raster order; N for a neighbour that is not there."""
    # Strategy: find each later neighbour (bits 13 to 25) by bisection; for it, the voxel is an earlier one, at the
    # opposite bit. The three neighbours along the last axis (-1, 0, 1) have consecutive indices: one search finds the
    # first, and each next one stands one row on if the former was found.
    count = len(voxels)
    table = np.full((len(NEIGHBOURS), count), count, np.int32)
    if not count:
        return table
    shape = voxels.max(0) + 3
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    flat = (voxels + 1) @ strides
    place = found = np.zeros(count, int)
    for bit in range(EARLIER, len(NEIGHBOURS)):
        target = flat + NEIGHBOURS[bit] @ strides
        first = bit == EARLIER or NEIGHBOURS[bit, 2] == -1
        place = np.searchsorted(flat, target) if first else place + found
        found = flat[np.minimum(place, count - 1)] == target
        here = np.flatnonzero(found)
        table[bit, here] = place[here]
        table[25 - bit, place[here]] = here
    return table


def _peel(rows: np.ndarray, code: np.ndarray, face: np.int32, table: np.ndarray) -> tuple[np.ndarray, bool]:
    """Choose the voxels of `rows` that one pass takes off the border without a neighbour at `face`; see `_in_turn`."""
    around = code[rows]
    border = (around & (face | REMOVED)) == 0
    border &= (around & (around - 1)) != 0  # the end of a line has one neighbour: it stays, as does a lone voxel
    rows, around = rows[border], around[border]
    for test in (_connected, _keeps_euler):
        passed = test(around)
        rows, around = rows[passed], around[passed]
    return _in_turn(rows, around, table)


def _connected(around: np.ndarray) -> np.ndarray:
    """Tell whether the neighbours hang together without the voxel (26-connected; none at all do)."""
    reached = around & -around  # start with one, and add what is adjacent until nothing changes
    result = np.zeros(len(around), bool)
    index = np.arange(len(around))
    while len(index):
        grown = (REACH_LOW[reached & 8191] | REACH_HIGH[reached >> 13]) & around
        result[index[grown == around]] = True
        going = (grown != reached) & (grown != around)
        index, around, reached = index[going], around[going], grown[going]
    return result


def _keeps_euler(around: np.ndarray) -> np.ndarray:
    """Tell whether removing the voxel keeps the Euler characteristic: its own vertices - edges + faces - 1 are 0."""
    owned = np.full(len(around), -1, np.int8)
    for mask, sign in CELLS:
        owned += np.where(around & mask, np.int8(0), np.int8(sign))
    return owned == 0


def _in_turn(rows: np.ndarray, around: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, bool]:
    """Choose the candidates `rows` (ascending) that go, if each in turn goes when its neighbours still hang together.

    Also returns whether one of them was the last of its component.
    """
    # Strategy: a candidate's outcome depends on its earlier neighbours alone. Suppose that all go; decide each anew.
    # Where an outcome changes, decide the later neighbours again, until none changes: then all outcomes agree with each
    # other, as those of the sequence do.
    gone = np.zeros(table.shape[1] + 1, bool)
    gone[rows] = True
    undecided, last = np.arange(len(rows)), np.zeros(len(rows), bool)  # undecided: indices into `rows`
    while len(undecided):
        here = rows[undecided]
        earlier_gone = np.zeros(len(here), np.int32)
        for bit, neighbours in zip(BITS[:EARLIER], table[:EARLIER], strict=True):
            earlier_gone |= np.where(gone[neighbours[here]], bit, 0)
        left = around[undecided] & ~earlier_gone
        goes = _connected(left)
        last[undecided] = left == 0
        changed = here[goes != gone[here]]
        gone[here] = goes
        affected = np.unique(table[EARLIER:, changed])
        place = np.searchsorted(rows, affected).clip(max=len(rows) - 1)
        undecided = place[rows[place] == affected]
    return rows[gone[rows]], bool(last.any())


def _mended(voxels: np.ndarray, skeleton: np.ndarray) -> np.ndarray:
    """The skeleton (M, 3) with a centreline for each 26-connected component of `voxels` (N, 3) that it lacks."""
    mask, kept = (np.zeros(voxels.max(0) + 2, bool) for _ in range(2))  # cc3d fails on single rows (26-connected)
    mask[tuple(voxels.T)], kept[tuple(skeleton.T)] = True, True
    components, number = cc3d.connected_components(mask, connectivity=26, return_N=True, binary_image=True)
    present = np.zeros(number + 1, bool)
    present[components[kept]] = True
    for label, box in enumerate(ndimage.find_objects(components), 1):
        if not present[label]:
            kept[box] |= longest_path(components[box] == label)
    return coordinates(kept)


def longest_path(component: np.ndarray) -> np.ndarray:
    """A path of voxels between the two ends of a 26-connected mask that keeps to its middle; boolean, same shape."""
    from skimage.graph import MCP_Geometric

    depth = ndimage.distance_transform_edt(np.pad(component, 1))[1:-1, 1:-1, 1:-1]
    cost = np.where(component, (depth.max() / np.maximum(depth, 1e-9)) ** 2, -1)
    end = tuple(np.argwhere(component)[0])
    for _ in range(2):  # from anywhere to the farthest voxel is one end, from there to the farthest the other
        paths = MCP_Geometric(cost)
        away = paths.find_costs([end])[0]
        end = np.unravel_index(np.where(component, away, -1).argmax(), component.shape)
    path = np.zeros_like(component)
    path[tuple(np.transpose(paths.traceback(end)))] = True
    return path
