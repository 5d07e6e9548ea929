"""A case (CT and airway label) -> its training store: what the samplers and the loss need, cut to the lungs' box.

Store: a zarr group of arrays on one grid (z, y, x), in chunks small enough that a crop reads in milliseconds:

- `image` uint8: HU clipped to [-1000, 400] and scaled to 0..255
- `label` uint8: airway
- `centreline` uint8: 3-D thinning of the label, see `thinning`
- `distance` float16: distance to the centreline over its maximum in the airway, d/dmax; kept up to two voxels outside
the
  airway too, so that it can be interpolated, and 0 beyond
- `small_airway` uint8: the airway without its large tubes

Attributes: case, shape of the whole CT, lung_box, spacing, origin, direction, distance_unit, distance_max.
"""

from pathlib import Path

import edt
import numpy as np
import zarr
from scipy import ndimage
from tqdm import tqdm
from zarr.codecs import BloscCodec

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.lungs import lung_box
from airwaylib.phantom import ensure_phantom, seed_and_size
from airwaylib.thinning import thin
from airwaylib.volume import Volume, read_ct, read_mask, window

CHUNK = 64  # voxels a side: a 128^3 crop meets 8 to 27 chunks
MARGIN = 5  # voxels around the lungs' box


def relative_distance(
    label: np.ndarray, centreline: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, float]:
    """d/dmax of each voxel in or near the airway, and dmax: distance to the centreline by `spacing` (x, y, z).

    Zheng et al. 2021 measure in voxels: pass spacing (1, 1, 1). Returns float32 (D, H, W) in [0, 1] and dmax.
    """
    distance = edt.edt(~centreline, anisotropy=spacing[::-1])
    maximum = float(distance[label].max())
    near = ndimage.binary_dilation(label, iterations=2)
    return np.where(near, np.minimum(distance / max(maximum, 1e-6), 1), 0).astype(np.float32), maximum


def small_airways(label: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The airway without the tubes thicker than half its thickest one: in a patient, without trachea and main bronchi.

    Zheng et al. remove trachea and main bronchi by hand; this opening by a ball of half the largest inscribed radius is
    our stand-in. label (D, H, W) boolean, spacing (x, y, z) in mm; returns boolean.
    """
    anisotropy = spacing[::-1]
    depth = edt.edt(label, anisotropy=anisotropy, black_border=False)
    radius = depth.max() / 2
    cores = depth >= radius
    # Half a voxel's diagonal more: without it, a rough surface leaves specks of the large tubes.
    return label & (edt.edt(~cores, anisotropy=anisotropy) > radius + np.linalg.norm(anisotropy) / 2)


def prepare_case(case: str, ct: Volume, airway: Volume, path: str | Path, distance_unit: str = "mm") -> Path:
    """Write the store of one case at `path` (a folder ending in .zarr), whole or not at all; returns `path`.

    Parameters
    ----------
    case: name of the case.
    ct: HU.
    airway: boolean label on the CT's grid.
    distance_unit: "mm" (default; right on anisotropic CT) or "voxels" (the authors').

    Raises
    ------
    InputError
        Label empty or on another grid, no lung found, no airway inside the lungs' box, unknown unit.
    """
    if distance_unit not in ("mm", "voxels"):
        raise InputError(f"distance unit {distance_unit!r} is unknown: choose mm or voxels")
    if not ct.same_grid(airway):
        raise InputError(
            f"{case}: CT {ct.array.shape} and label {airway.array.shape} are not on one grid; resample the label"
        )
    box = lung_box(ct, MARGIN)
    label = np.ascontiguousarray(airway.array[box])
    if not label.any():
        raise InputError(f"{case}: the label holds no airway inside the lungs' box; is it the label of this CT?")
    spacing = ct.spacing if distance_unit == "mm" else (1.0, 1.0, 1.0)
    centreline = thin(label)
    distance, maximum = relative_distance(label, centreline, spacing)
    cut = ct.crop(box)
    with atomic_path(path) as temporary:
        store = zarr.open_group(temporary, mode="w")
        for name, array in {
            "image": window(cut.array),
            "label": label.astype(np.uint8),
            "centreline": centreline.astype(np.uint8),
            "distance": distance.astype(np.float16),
            "small_airway": small_airways(label, ct.spacing).astype(np.uint8),
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
        )
    return Path(path)


def prepare_folder(folder: str | Path, out: str | Path, distance_unit: str = "mm") -> list[Path]:
    """Prepare every case of `folder` (CASE/ct.*, CASE/airway.*) as OUT/CASE.zarr; a store that stands is kept.

    Raises
    ------
    InputError
        No such folder, no case in it, or a bad case (the message names it).
    """
    cases = sorted(path for path in Path(folder).glob("[!.]*") if path.is_dir())
    if not cases:
        raise InputError(
            f"{folder}: no cases found; give a folder with one sub-folder a case, each with ct.* and airway.*"
        )
    return [prepare_files(case, out, distance_unit) for case in tqdm(cases, unit="case", disable=None)]


def prepare_phantoms(data: str | Path, cases: list[str]) -> None:
    """Make what is missing of the phantoms named in `cases`: DATA/raw/CASE and DATA/prepared/CASE.zarr.

    A case that is neither there nor a phantom's name (mini_0007) is left to whoever reads it to miss.
    """
    for case in tqdm(cases, unit="case", desc="phantoms", disable=None):
        if wanted := seed_and_size(case):
            prepare_files(ensure_phantom(*wanted, Path(data) / "raw"), Path(data) / "prepared")


def prepare_files(case: Path, out: str | Path, distance_unit: str = "mm") -> Path:
    """Prepare one case folder (ct.*, airway.*) as OUT/CASE.zarr unless that store stands; returns the store's path."""
    path = Path(out) / f"{case.name}.zarr"
    if path.exists():
        unit = zarr.open_group(path, mode="r").attrs["distance_unit"]
        if unit != distance_unit:
            raise InputError(f"{path}: its distances are in {unit}, not in {distance_unit}; delete it to make it anew")
    else:
        ct = read_ct(one_file(case, "ct"))
        try:
            prepare_case(case.name, ct, read_mask(one_file(case, "airway"), ct), path, distance_unit)
        except InputError as error:
            raise InputError(error if case.name in str(error) else f"{case.name}: {error}") from error
    return path


def one_file(case: Path, stem: str) -> Path:
    """The one file of a case folder called `stem` whatever its image suffix."""
    beside = (".json", ".raw", ".zraw")  # notes of DICOM converters, voxels of .mhd files
    found = sorted(file for file in case.glob(f"{stem}.*") if file.suffix not in beside)
    if len(found) != 1:
        raise InputError(f"{case}: {len(found) or 'no'} files {stem}.* found; one is needed, such as {stem}.nii.gz")
    return found[0]
