"""Image files and DICOM folders as SimpleITK images; what is damaged or ambiguous is refused, never guessed.

SimpleITK alone reads a truncated NIfTI file without a warning, takes NaN for 0 and a zero spacing for 1 mm there, drops
damaged DICOM slices and averages over missing ones. So headers are checked here before it reads the voxels.
"""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from airwaylib.errors import InputError
from airwaylib.files import atomic_path, check_writable

if TYPE_CHECKING:
    from pydicom import Dataset

WRITTEN = (".nii", ".nii.gz", ".nrrd", ".mha")
READ = (*WRITTEN, ".mhd")
UNEVEN = 0.1  # of the slice distance: how far a slice may lie off the even grid (headers round positions); our choice
CT_IMAGE = b"1.2.840.10008.5.1.4.1.1.2\0"  # SOP class UID "CT Image Storage"
DAMAGED = "{}: a DICOM slice that is damaged or truncated; fetch the series anew"

sitk.ProcessObject.SetGlobalWarningDisplay(False)


def read_image(path: Path, series: str | None = None) -> sitk.Image:
    """Read an image file or a DICOM folder; see `airwaylib.images.volume.read_volume`, which takes it from here."""
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        if path.is_dir():
            return _read_dicom(path, series)
        if series is not None:
            raise InputError(f"{path}: a series can be chosen in a DICOM folder only, not in a file")
        return _read_file(path)
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: unreadable, damaged or truncated ({_reason(error)})") from error


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image, compressed where the format can; see `airwaylib.images.volume.write_volume`."""
    suffix = _suffix(path, WRITTEN)
    if suffix in (".nii", ".nii.gz") and not np.isfinite(sitk.GetArrayViewFromImage(image)).all():
        raise InputError(f"{path}: SimpleITK reads NaN and infinity in NIfTI as 0; write .nrrd or .mha to keep them")
    with atomic_path(path) as temporary:
        # ITK's writers miss some short writes to a full disk (NIfTI's all of them): read back what arrived.
        try:
            sitk.WriteImage(image, str(temporary), useCompression=suffix != ".nii")
            written = read_image(temporary)
        except (RuntimeError, InputError) as error:
            raise InputError(f"{path}: could not be written whole; is the disk full?") from error
        if not _same(written, image):
            raise InputError(f"{path}: what arrived on the disk differs from what was written")


def check_output(path: Path) -> None:
    """Raise `InputError` if `write_image` could not write `path`, suffix or folder: before the work, not after it."""
    _suffix(path, WRITTEN)
    check_writable(path)


def _same(written: sitk.Image, image: sitk.Image) -> bool:
    """Tell whether voxels and geometry are equal, but for float32 and the quaternion of NIfTI headers."""
    near = all(
        np.allclose(getattr(written, get)(), getattr(image, get)(), rtol=1e-6, atol=1e-3)
        for get in ("GetSpacing", "GetOrigin", "GetDirection")
    )
    voxels = [sitk.GetArrayViewFromImage(one) for one in (written, image)]
    return near and np.array_equal(*voxels, equal_nan=voxels[0].dtype.kind == "f")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].removeprefix("sitk::ERROR: ").strip()


def _suffix(path: Path, known: tuple[str, ...]) -> str:
    for suffix in sorted(known, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return suffix
    folder = " or a folder of DICOM slices" if known is READ else ""
    raise InputError(f"{path}: unknown suffix '{path.suffix}'; {', '.join(known)}{folder} is needed")


def _read_file(path: Path) -> sitk.Image:
    if _suffix(path, READ) in (".nii", ".nii.gz"):
        _check_nifti(path)
    else:
        _check_text_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, spacing = reader.GetSize(), reader.GetSpacing()
    if len(size) < 3 or math.prod(size[3:]) != 1:
        raise InputError(f"{path}: a {len(size)}-D image of {' x '.join(map(str, size))}; one 3-D volume is needed")
    if reader.GetNumberOfComponents() != 1:
        raise InputError(f"{path}: {reader.GetNumberOfComponents()} components a voxel; a grey image has one")
    if min(spacing[:3]) <= 0:
        raise InputError(f"{path}: spacing {spacing[:3]} mm; it must be above 0 along x, y and z")
    reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
    return reader.Execute()


def _check_nifti(path: Path) -> None:
    """Refuse a NIfTI file that is truncated or fails its checksum, lacks a sound spacing, or holds NaN or infinity."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if compressed else path.open("rb") as file:
        header = file.read(348)
        order = "<" if header[:4] == struct.pack("<i", 348) else ">"
        if len(header) < 348 or header[:4] != struct.pack(order + "i", 348):
            raise InputError(f"{path}: damaged, or not a NIfTI-1 file: its header is missing")
        dim, pixdim = struct.unpack_from(order + "8h", header, 40), struct.unpack_from(order + "8f", header, 76)
        (code, bits), (offset,) = (struct.unpack_from(order + c, header, k) for c, k in (("2h", 70), ("f", 108)))
        if not 348 <= offset < math.inf:
            raise InputError(f"{path}: damaged: its header says that the voxels start at byte {offset:g}")
        if not all(0 < step < math.inf for step in pixdim[1 : min(dim[0], 3) + 1]):
            raise InputError(f"{path}: spacing {pixdim[1:4]} mm in its header; it must be above 0 along x, y and z")
        kind = {16: "f4", 64: "f8"}.get(code)
        needed = math.prod(dim[1 : dim[0] + 1]) * bits // 8
        there = strange = 0
        file.read(int(offset) - 348)
        while chunk := file.read(1 << 20):
            there += len(chunk)
            if kind:  # SimpleITK reads NaN and infinity as 0
                values = np.frombuffer(chunk, order + kind, count=len(chunk) // int(kind[1]))
                strange += values.size - np.count_nonzero(np.isfinite(values))
    if there < needed:
        raise InputError(f"{path}: truncated: {there} of {needed} bytes of voxels are there")
    if strange:
        raise InputError(f"{path}: {strange} voxels are NaN or infinite; numbers are needed")


def _check_text_header(path: Path) -> None:
    """Refuse an NRRD or MetaImage file without a spacing, or with compressed voxels that are truncated or damaged."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
        nrrd = head.startswith(b"NRRD")
        end = re.search(rb"\r?\n\r?\n" if nrrd else rb"ElementDataFile *= *LOCAL\r?\n", head)
        header = head[: end.end()] if end else head
        spacing = rb"\n(spacings|space directions):(?!.*nan)" if nrrd else rb"ElementS(pacing|ize) *="
        if not re.search(spacing, header):
            raise InputError(f"{path}: damaged, or no spacing in its header; mm along x, y and z are needed")
        detached = end is None or re.search(rb"\ndata ?file:", header)
        if detached or not re.search(rb"\nencoding: *gz" if nrrd else rb"CompressedData *= *True", header):
            return  # SimpleITK notices itself when there are too few voxels
        file.seek(end.end())
        decoder = zlib.decompressobj(32 + zlib.MAX_WBITS)  # 32: a gzip or a zlib stream
        while chunk := file.read(1 << 20):
            decoder.decompress(chunk)
    if not decoder.eof:
        raise InputError(f"{path}: truncated: its compressed voxels are cut off")


# --------------------------------------------------------------------------------------------------------------- DICOM


def slice_files(folder: Path, series: str | None = None) -> list[Path]:
    """Files of one series below a DICOM folder, in the order of the slices that `read_image` makes of them.

    Without `series` the folder must hold one CT series alone. Raises `InputError` as `read_image` does.
    """
    slices = _choose_series(folder, series)
    for path, header in slices.items():
        if header.get("SamplesPerPixel", 1) != 1 or (header.get("NumberOfFrames") or 1) > 1:
            raise InputError(f"{path}: several frames or colours; one grey slice a file is needed (convert to .nii.gz)")
    if len(slices) < 2:
        raise InputError(f"{folder}: the series has one slice; a volume is needed")
    return _in_order(folder, slices)


def _read_dicom(folder: Path, series: str | None) -> sitk.Image:
    paths = slice_files(folder, series)
    reader = sitk.ImageSeriesReader()  # unlike pydicom, it reads every compression without more libraries
    reader.SetFileNames([str(path) for path in paths])
    reader.SetOutputPixelType(sitk.sitkFloat32)  # slices may differ in slope and intercept; float32 holds them all
    try:
        image = reader.Execute()
    except RuntimeError:
        for path in paths:
            if not sitk.ImageFileReader.GetImageIOFromFileName(str(path)):
                raise InputError(DAMAGED.format(path)) from None
        raise
    whole = sitk.Cast(image, sitk.sitkInt16)
    same = np.array_equal(sitk.GetArrayViewFromImage(whole), sitk.GetArrayViewFromImage(image))
    return whole if same else image


def _choose_series(folder: Path, series: str | None) -> "dict[Path, Dataset]":
    """Headers of the series called `series`, or of the only one in a folder and the folders below it."""
    found: dict[str, dict[Path, Dataset]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if header := _read_header(path):
            found.setdefault(str(header.get("SeriesInstanceUID")), {})[path] = header
    if not found:
        images = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(READ))
        hint = f"; it holds images ({', '.join(images[:3])}{', ...' if images[3:] else ''}): give one"
        raise InputError(f"{folder}: no DICOM slices in this folder or below it{hint if images else ''}")
    if series is None:
        scans = {uid: slices for uid, slices in found.items() if _is_ct(next(iter(slices.values())))} or found
        if len(scans) > 1:
            raise InputError(f"{folder}: holds {len(scans)} CT series: choose one with --series UID: {_list(scans)}")
        return next(iter(scans.values()))
    if series not in found:
        raise InputError(f"{folder}: no series {series}, only {_list(found)}")
    return found[series]


def _read_header(path: Path) -> "Dataset | None":
    """Header of a DICOM slice; None of any other file. A slice that is damaged raises `InputError`."""
    with path.open("rb") as file:
        head = file.read(1024)
    is_slice = CT_IMAGE in head
    if not head and path.suffix == ".dcm":
        raise InputError(DAMAGED.format(path))
    if not is_slice and head[128:132] != b"DICM":
        return None
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if "Rows" in header:
            return header
    except Exception:  # of any type: pydicom raises what it meets in a damaged file
        pass
    if is_slice:
        raise InputError(DAMAGED.format(path))
    return None  # a DICOM file without an image, such as a report or a CD's index


def _is_ct(header: "Dataset") -> bool:
    """Tell whether a slice is of a CT, and not of the scout image it was planned on."""
    return header.get("Modality") == "CT" and "LOCALIZER" not in (header.get("ImageType") or ())


def _list(found: "dict[str, dict[Path, Dataset]]") -> str:
    """UID, number and size of slices, and description of each series."""
    parts = []
    for uid, slices in found.items():
        first = next(iter(slices.values()))
        size = f"{len(slices)} slices of {first.Columns} x {first.Rows}"
        parts.append(f"{uid} ({size}, '{first.get('SeriesDescription', '')}')")
    return ", ".join(parts)


def _numbers(path: Path, header: "Dataset", name: str, count: int) -> list[float]:
    try:
        values = [float(value) for value in header.get(name) or ()]
    except (ValueError, TypeError):
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise InputError(f"{path}: no sound {name} in its DICOM header; {count} numbers are needed")
    return values


def _in_order(folder: Path, slices: "dict[Path, Dataset]") -> list[Path]:
    """Order slices along their normal, once they are seen to be one even, upright stack."""
    from highdicom.spatial import get_volume_positions

    needed = (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2))
    place, axes, pixel = (np.array([_numbers(*one, *name) for one in slices.items()]) for name in needed)
    sizes = {(header.Rows, header.Columns) for header in slices.values()}
    if len(sizes) > 1 or np.ptp(pixel, axis=0).max() > 1e-3 or np.ptp(axes, axis=0).max() > 1e-3:
        raise InputError(f"{folder}: slices of different size, pixel spacing or orientation in one series")
    if pixel.min() <= 0:
        raise InputError(f"{folder}: pixel spacing {pixel[0].tolist()} mm; it must be above 0")
    # Strategy: highdicom orders the slices and compares neighbours. Looked for here: what adds up over the stack, as a
    # drift of the distance or a slight tilt do, and the slice at fault.
    tolerances = {"rtol": 2 * UNEVEN, "perpendicular_tol": 1e-3}
    _, order = get_volume_positions(place, axes[0], index_convention="RD", **tolerances)
    normal = np.cross(axes[0, :3], axes[0, 3:])
    rank = np.argsort(place @ normal) if order is None else np.argsort(order)
    paths, place = [list(slices)[k] for k in rank], place[rank]
    height = place @ normal
    gaps = np.diff(height)
    if gaps.min() < 1e-3:
        first, second = (paths[gaps.argmin() + k].name for k in (0, 1))
        raise InputError(f"{folder}: {first} and {second} lie at the same place; every slice is needed once")
    if np.abs(height - np.linspace(height[0], height[-1], len(height))).max() > UNEVEN * gaps.mean():
        wide, usual, after = gaps.max(), np.median(gaps), paths[gaps.argmax()].name
        raise InputError(f"{folder}: slices missing or uneven: {wide:g} mm follow {after}, {usual:g} mm is usual")
    sideways = place - place[0] - np.outer(height - height[0], normal)
    if order is None or np.linalg.norm(sideways, axis=1).max() > 0.5 * pixel.min():
        raise InputError(f"{folder}: the slices shift sideways (gantry tilt); a CT without tilt is needed")
    return paths


class ImageBuffer:
    """A SimpleITK image as something that NumPy takes without a copy, and that keeps the image alive meanwhile."""

    def __init__(self, image: sitk.Image):
        self.image = image
        interface = sitk.GetArrayViewFromImage(image).__array_interface__
        # SimpleITK calls it read-only, since others may hold the image. No one else holds this one.
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}
