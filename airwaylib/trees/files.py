"""Write an airway tree as CSV, JSON, SWC (neuron viewers) or VTP (ParaView, 3D Slicer); points in mm, LPS."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.trees.parse import AXES, AirwayTree

DIGITS = 4  # decimals of a mm


def write_tree(tree: AirwayTree, path: str | Path) -> None:
    """Write a tree as what the suffix of `path` says: .csv, .json, .swc or .vtp; whole or not at all.

    - CSV: the table of branches; see `tree.AirwayTree`.
    - JSON: {"units", "branches": [...], "centreline": {column: [...]}}.
    - SWC: a node a skeleton voxel: id, type (generation + 5: 0 to 4 have other meanings), x, y, z, radius, parent.
    - VTP: a polyline a branch, with the table's columns as cell data and radius_mm and branch as point data.

    Raises `InputError`: another suffix, or a place that cannot be written.
    """
    path = Path(path)
    check_tree_suffix(path)
    with atomic_path(path) as temporary:
        temporary.write_text(WRITERS[path.suffix](tree))


def check_tree_suffix(path: Path) -> None:
    """Raise `InputError` unless `write_tree` knows the suffix of `path`."""
    if path.suffix not in WRITERS:
        raise InputError(f"{path}: suffix {path.suffix!r} is unknown: choose one of {', '.join(WRITERS)}")


def as_csv(tree: AirwayTree) -> str:
    """The table of branches."""
    return tree.branches.round(DIGITS).to_csv(index=False)


def as_json(tree: AirwayTree) -> str:
    """Branches as records, the centreline as columns; NaN becomes null."""
    branches = json.loads(tree.branches.to_json(orient="records", double_precision=DIGITS))
    centreline = tree.centreline.round(DIGITS).to_dict("list")
    units = "mm, LPS; angles in degrees; previous: row of the centreline, -1 at the trachea's top"
    return json.dumps({"units": units, "branches": branches, "centreline": centreline}) + "\n"


def as_swc(tree: AirwayTree) -> str:
    """One line a skeleton voxel, parents before children."""
    points = tree.centreline.sort_values("distance_mm", kind="stable")
    generation = tree.branches["generation"].to_numpy()[points["branch"] - 1]
    number = np.empty(len(points) + 1, int)
    number[points.index], number[-1] = np.arange(1, len(points) + 1), -1
    lines = ["# airway tree; id type x y z radius parent; mm, LPS; type = generation + 5"]
    columns = points[[*AXES, "radius_mm"]].to_numpy()
    for row, (kind, place, parent) in enumerate(zip(generation, columns, number[points["previous"]], strict=True), 1):
        lines.append(f"{row} {kind + 5} {' '.join(f'{value:.{DIGITS}f}' for value in place)} {parent}")
    return "\n".join(lines) + "\n"


def as_vtp(tree: AirwayTree) -> str:
    """VTK's XML PolyData, ASCII: the axis of each branch, from its parent's axis on, as a polyline."""
    paths = [tree.path(branch) for branch in tree.branches["branch"]]
    points = tree.centreline.iloc[np.concatenate(paths)]
    length = [len(path) for path in paths]
    ends = np.cumsum(length)
    point_data = {"radius_mm": points["radius_mm"], "branch": np.repeat(tree.branches["branch"], length)}
    cell_data = tree.branches.drop(columns=[f"{end}_{axis}" for end in ("start", "end") for axis in AXES])
    return "\n".join(
        [
            '<?xml version="1.0"?>',
            '<VTKFile type="PolyData" version="0.1" byte_order="LittleEndian">',
            "<PolyData>",
            f'<Piece NumberOfPoints="{len(points)}" NumberOfLines="{len(paths)}">',
            "<Points>",
            _array("points", points[list(AXES)].to_numpy()),
            "</Points>",
            "<Lines>",
            _array("connectivity", np.arange(len(points))),
            _array("offsets", ends),
            "</Lines>",
            "<PointData>",
            *(_array(name, values) for name, values in point_data.items()),
            "</PointData>",
            "<CellData>",
            *(_array(name, values) for name, values in cell_data.items()),
            "</CellData>",
            "</Piece>",
            "</PolyData>",
            "</VTKFile>",
            "",
        ]
    )


def _array(name: str, values: np.ndarray) -> str:
    """A DataArray element; floats to 4 decimals, NaN as nan."""
    values = np.asarray(values)
    whole = values.dtype.kind in "iu"
    parts = f' NumberOfComponents="{values.shape[1]}"' if values.ndim == 2 else ""
    text = " ".join(str(value) if whole else f"{value:.{DIGITS}f}" for value in values.ravel())
    kind = "Int64" if whole else "Float64"
    # VTK reads no nan right before a tag, hence the line break.
    return f'<DataArray type="{kind}" Name="{name}"{parts} format="ascii">\n{text}\n</DataArray>'


WRITERS: dict[str, Callable[[AirwayTree], str]] = {".csv": as_csv, ".json": as_json, ".swc": as_swc, ".vtp": as_vtp}
