"""Image files and DICOM folders as SimpleITK images; what is damaged or ambiguous is refused, never guessed.

SimpleITK alone reads a truncated NIfTI file without a word, takes NaN for 0 and a zero spacing for 1 mm there, leaves
damaged DICOM slices out and averages over missing ones.
"""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from airwaylib.errors import InputError
from airwaylib.files import atomic_path, check_writable

WRITTEN = (".nii", ".nii.gz", ".nrrd", ".mha")
READ = (*WRITTEN, ".mhd")
UNEVEN = 0.1  # of the slice distance: how far a slice may lie off the even grid (headers round positions); our choice
CT_IMAGE = b"1.2.840.10008.5.1.4.1.1.2\0"  # SOP class UID "CT Image Storage"

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
    """Whether all voxels are equal and the geometry is, but for the float32 and the quaternion of NIfTI headers."""
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
    """Refuse a NIfTI file that is cut off or fails its checksum, lacks a sound spacing, or holds NaN or infinity."""
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
    """Refuse an NRRD or MetaImage file without a spacing, or whose compressed voxels are cut off or fail a checksum."""
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


def slice_files(folder: Path, series: str | None = None) -> list[Path]:
    """Files of a DICOM folder's series, in the order of the slices that `read_image` makes of them; refuses as it does.

    Without `series` the folder must hold one series alone.
    """
    names = _choose_series(folder, series)
    headers = [_header(name) for name in names]
    for name, header in zip(names, headers, strict=True):
        if header.GetNumberOfComponents() != 1 or header.GetSize()[2:] != (1,):
            raise InputError(f"{name}: several frames or colours; one grey slice a file is needed (convert to .nii.gz)")
    return [Path(names[k]) for k in _slice_order(folder, names, headers)]


def _read_dicom(folder: Path, series: str | None) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in slice_files(folder, series)])
    reader.SetOutputPixelType(sitk.sitkFloat32)  # slices may differ in slope and intercept; float32 holds them all
    image = reader.Execute()
    whole = sitk.Cast(image, sitk.sitkInt16)
    same = np.array_equal(sitk.GetArrayViewFromImage(whole), sitk.GetArrayViewFromImage(image))
    return whole if same else image


def _choose_series(folder: Path, series: str | None) -> list[str]:
    """Names of the files of the one series that is meant."""
    dicom, where = sitk.ImageSeriesReader, str(folder)
    found = {uid: dicom.GetGDCMSeriesFileNames(where, uid) for uid in dicom.GetGDCMSeriesIDs(where)}
    listed = {Path(name).name for names in found.values() for name in names}
    for path in sorted(folder.iterdir()):
        if path.name not in listed and path.is_file():
            with path.open("rb") as file:
                head = file.read(1024)
            if CT_IMAGE in head or (not head and path.suffix == ".dcm"):
                raise InputError(f"{path}: a DICOM slice that is damaged or truncated; fetch the series anew")
    if not found:
        raise InputError(f"{folder}: no DICOM slices in this folder (subfolders are not searched)")
    if series is None and len(found) == 1:
        series = next(iter(found))
    if series not in found:
        fault = "several series, name one of" if series is None else f"no series {series}, only"
        raise InputError(f"{folder}: {fault} " + ", ".join(_describe(uid, names) for uid, names in found.items()))
    return list(found[series])


def _describe(uid: str, names: tuple[str, ...]) -> str:
    return f"{uid} ({len(names)} slices, '{_tag(_header(names[0]), '0008|103e')}')"


def _header(name: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(name)
    reader.ReadImageInformation()
    return reader


def _tag(header: sitk.ImageFileReader, key: str) -> str:
    return header.GetMetaData(key).strip() if header.HasMetaDataKey(key) else ""


def _numbers(name: str, header: sitk.ImageFileReader, key: str, what: str, count: int) -> list[float]:
    values = _tag(header, key).split("\\")
    try:
        if len(values) == count:
            return [float(value) for value in values]
    except ValueError:
        pass
    raise InputError(f"{name}: no sound {what} ({key}) in its DICOM header; {count} numbers are needed")


def _slice_order(folder: Path, names: list[str], headers: list[sitk.ImageFileReader]) -> np.ndarray:
    """Order of the slices along their normal, once they are seen to be one even, upright stack."""
    if len(names) < 2:
        raise InputError(f"{folder}: the series has one slice; a volume is needed")
    slices = list(zip(names, headers, strict=True))
    place = np.array([_numbers(*one, "0020|0032", "ImagePositionPatient", 3) for one in slices])
    axes = np.array([_numbers(*one, "0020|0037", "ImageOrientationPatient", 6) for one in slices])
    pixel = np.array([_numbers(*one, "0028|0030", "PixelSpacing", 2) for one in slices])
    sizes = {header.GetSize() for header in headers}
    if len(sizes) > 1 or np.ptp(pixel, axis=0).max() > 1e-3 or np.ptp(axes, axis=0).max() > 1e-3:
        raise InputError(f"{folder}: slices of different size, pixel spacing or orientation in one series")
    if pixel.min() <= 0:
        raise InputError(f"{folder}: pixel spacing {pixel[0].tolist()} mm; it must be above 0")
    normal = np.cross(axes[0, :3], axes[0, 3:])
    height = place @ normal
    order = np.argsort(height)
    height, place = height[order], place[order]
    gaps = np.diff(height)
    if gaps.min() < 1e-3:
        first, second = (Path(names[order[gaps.argmin() + k]]).name for k in (0, 1))
        raise InputError(f"{folder}: {first} and {second} lie at the same place; every slice is needed once")
    if np.abs(height - np.linspace(height[0], height[-1], len(height))).max() > UNEVEN * gaps.mean():
        wide, after = gaps.max(), Path(names[order[gaps.argmax()]]).name
        usual = np.median(gaps)
        raise InputError(f"{folder}: slices missing or uneven: {wide:g} mm follow {after}, {usual:g} mm is usual")
    sideways = place - place[0] - np.outer(height - height[0], normal)
    if np.linalg.norm(sideways, axis=1).max() > 0.5 * pixel.min():
        raise InputError(f"{folder}: the slices shift sideways (gantry tilt); a CT without tilt is needed")
    return order


class ImageBuffer:
    """A SimpleITK image as something that NumPy takes without a copy, and that keeps the image alive meanwhile."""

    def __init__(self, image: sitk.Image):
        self.image = image
        interface = sitk.GetArrayViewFromImage(image).__array_interface__
        # SimpleITK calls it read-only, since others may hold the image. No one else holds this one.
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}
