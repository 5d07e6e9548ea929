"""Find a case's CT and airway label (DATA/cases.csv, or DATA/raw/CASE) and read both on one grid.

Public files are not always in order: a label has lost its header, or z was stored as x. What can be told beyond doubt
is mended and reported; anything else is an error that names both grids.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.images.volume import Volume, read_ct, read_mask

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "test")
COLUMNS = ["case", "split", "ct", "airway", "mended"]
MATRIX = 256  # scanners' matrices are squares of a multiple of it
TISSUE = -400  # HU; above it lies tissue, not lung or air
IN_AIR = -700  # HU; the median under an airway label is below, over tissue it is far above; our choice
EVEN = 1e-3  # mm by which equal spacings may differ


class Case(NamedTuple):
    """A case's name, and where its CT (a file or a DICOM folder) and its airway label (a file) lie."""

    name: str
    ct: Path
    airway: Path


# ------------------------------------------------------------------------------------------------------------ the table


def read_table(data: str | Path) -> pd.DataFrame | None:
    """DATA/cases.csv: case, split, ct, airway (absolute paths) and mended, all strings; None where there is none.

    Raises `InputError`: it cannot be read, lacks a column, or names a case twice or a split that is none.
    """
    path = Path(data) / "cases.csv"
    if not path.exists():
        return None
    import pandas as pd  # half a second, which a check of parameters shall not wait for

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path}: not a readable table ({error}); make it with airwaylib prepare") from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise InputError(f"{path}: no column {', '.join(missing)}; {', '.join(COLUMNS)} are needed")
    if twice := sorted(set(table["case"][table["case"].duplicated()])):
        raise InputError(f"{path}: {', '.join(twice)} is named twice; each case needs one row")
    if unknown := sorted(set(table["split"]) - set(SPLITS)):
        raise InputError(f"{path}: unknown split {', '.join(unknown)!r}; choose {', '.join(SPLITS)}")
    for name in ("ct", "airway"):
        table[name] = [str(Path(data) / place) for place in table[name]]
    return table


def write_table(data: str | Path, rows: list[dict[str, str]]) -> Path:
    """Write DATA/cases.csv, whole or not at all; paths inside DATA become relative to it, others absolute."""
    home, path = Path(data).absolute(), Path(data) / "cases.csv"  # links stay as they are

    def place(file: str) -> str:
        file = Path(file).absolute()
        return file.relative_to(home).as_posix() if file.is_relative_to(home) else str(file)

    import pandas as pd

    rows = [row | {name: place(row[name]) for name in ("ct", "airway")} for row in rows]
    with atomic_path(path) as temporary:
        pd.DataFrame(rows, columns=COLUMNS).to_csv(temporary, index=False)
    return path


def split_names(data: str | Path) -> dict[str, list[str]] | None:
    """Names of the cases of each split in DATA/cases.csv; None where there is no such file."""
    table = read_table(data)
    return None if table is None else {split: table["case"][table["split"] == split].tolist() for split in SPLITS}


def find_case(data: str | Path, name: str) -> Case:
    """Find the CT and the label of a case by DATA/cases.csv, else as DATA/raw/CASE/ct.* and airway.*.

    Raises `InputError`: no such case in either place, or a faulty table.
    """
    table = read_table(data)
    if table is not None and (table["case"] == name).any():
        row = table[table["case"] == name].iloc[0]
        return Case(name, Path(row["ct"]), Path(row["airway"]))
    folder = Path(data) / "raw" / name
    if not folder.is_dir():
        listed = "no cases.csv there" if table is None else "not in its cases.csv"
        raise InputError(f"{data}: no case {name!r} ({listed}, and no folder raw/{name}); see airwaylib prepare")
    return folder_case(folder)


def folder_case(folder: Path) -> Case:
    """The case in a folder of its own: ct.* and airway.*, whatever their image suffix."""
    return Case(folder.name, one_file(folder, "ct"), one_file(folder, "airway"))


def one_file(case: Path, stem: str) -> Path:
    """The one file of a case folder called `stem` whatever its image suffix."""
    beside = (".json", ".raw", ".zraw")  # notes of DICOM converters, voxels of .mhd files
    found = sorted(file for file in case.glob(f"{stem}.*") if file.suffix not in beside)
    if len(found) != 1:
        raise InputError(f"{case}: {len(found) or 'no'} files {stem}.* found; one is needed, such as {stem}.nii.gz")
    return found[0]


# --------------------------------------------------------------------------------------------------------- on one grid


def read_case(case: Case) -> tuple[Volume, Volume, list[str]]:
    """CT (HU, axial slices first), label (boolean, on its grid), and what had to be mended in them, in words.

    Raises `InputError`: a file that cannot be read, is no CT in HU or no binary mask, or a label on another grid.
    """
    stored = read_ct(case.ct)
    label = read_mask(case.airway)
    ct, mended = upright(stored, case.ct)
    label, more = on_grid(label, ct, case.airway)
    return ct, label, mended + more


def upright(ct: Volume, path: str | Path = "CT") -> tuple[Volume, list[str]]:
    """A CT with its axial slices first, and what was done to it.

    It is turned where its header says that its first axis is the patient's z, or where z was stored as x: a matrix of
    512 x 512 (256, 768, ...) along y and z only, with more tissue in the end planes along x, which cut through neck and
    abdomen, than along z, where they lie beside the body.

    Raises `InputError`: z was stored as x, and the spacing fits neither order of the axes.
    """
    z, y, x = ct.array.shape
    axes = np.reshape(ct.direction, (3, 3))
    if np.abs(axes).argmax(axis=0).tolist() == [2, 1, 0]:
        turned = np.ascontiguousarray(ct.array.transpose(2, 1, 0))
        whole = Volume(turned, ct.spacing[::-1], ct.origin, axes[:, ::-1].ravel())
        return whole, ["CT stored by sagittal slices: turned to axial ones"]
    if not (z == y != x and z % MATRIX == 0 and min(_ends(ct.array, 2)) > max(_ends(ct.array, 0))):
        return ct, []
    a, b, c = ct.spacing
    if abs(b - c) < EVEN:  # the header's order is the array's
        spacing = (c, b, a)
    elif abs(a - b) < EVEN:  # the header's order is the patient's
        spacing = (a, b, c)
    else:
        raise InputError(
            f"{path}: {x} x {y} x {z} voxels look as if z was stored as x, but of the spacing {ct.spacing} mm no two "
            "neighbours are equal, so z cannot be told; store it with axial slices"
        )
    turned = np.ascontiguousarray(ct.array.transpose(2, 1, 0))
    return Volume(turned, spacing, ct.origin, ct.direction), ["CT stored z as x: transposed"]


def _ends(array: np.ndarray, axis: int) -> list[float]:
    """Share of tissue in the first and the last plane along `axis`."""
    return [float((array.take(index, axis) > TISSUE).mean()) for index in (0, -1)]


def on_grid(label: Volume, ct: Volume, path: str | Path = "label") -> tuple[Volume, list[str]]:
    """A label on the CT's grid, and what was done to it.

    A label of the CT's shape takes its geometry where its own is missing: spacing, origin and direction are each the
    CT's or those of a header that was never filled in. One of the reversed shape, z stored as x, is transposed. Both
    only if it then lies in the CT's air.

    Raises `InputError`: another grid, or a label that would not lie in air.
    """
    if label.same_grid(ct):
        return label, []
    if label.array.shape == ct.array.shape and (missing := _missing(label, ct)):
        array, how = label.array, f"label without {', '.join(missing)}: takes the CT's"
    elif label.array.shape == ct.array.shape[::-1] != ct.array.shape:
        array, how = np.ascontiguousarray(label.array.transpose(2, 1, 0)), "label stored z as x: transposed"
        other = label.array.transpose(2, 0, 1)  # of two equal sides, which is which?
        if other.shape == ct.array.shape and np.median(ct.array[other]) < np.median(ct.array[array]):
            raise InputError(f"{path}: its shape {label.array.shape} is the CT's reversed, but not its axes' order")
    else:
        raise InputError(f"{path}: the label's grid {label!r} is not that of the CT, {ct!r}; resample the label")
    if (hu := np.median(ct.array[array])) > IN_AIR:
        raise InputError(
            f"{path}: {how} would be needed, but the label's voxels have {hu:.0f} HU in the CT then, which is no air; "
            f"is it the label of this CT ({label!r} and {ct!r})?"
        )
    return ct.with_array(array), [how]


def _missing(label: Volume, ct: Volume) -> list[str]:
    """Parts of the label's geometry that were never filled in; none if another part contradicts the CT's."""
    empty = {  # what writers leave where no one tells them: with NIfTI, x and y may be turned about
        "spacing": np.allclose(label.spacing, 1),
        "origin": np.allclose(label.origin, 0),
        "direction": np.allclose(np.abs(np.reshape(label.direction, (3, 3))), np.eye(3)),
    }
    differs = [name for name in empty if not np.allclose(getattr(label, name), getattr(ct, name), atol=EVEN)]
    return differs if all(empty[name] for name in differs) else []
