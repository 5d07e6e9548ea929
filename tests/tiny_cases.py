"""Tiny synthetic cases: a block of lung with a tube that forks twice, in a block of tissue; made in milliseconds."""

import numpy as np
import SimpleITK as sitk

from airwaylib.images.volume import Volume

SHAPE = (40, 48, 56)  # z, y, x: three different sides
SPACING = (2.0, 2.0, 2.5)
ORIGIN = (-50.0, -40.0, 100.0)


def tiny_airway(shape=SHAPE):
    """A trunk (7 voxels wide) from above, two arms (5), and two twigs (3) at the end of each; boolean (z, y, x)."""
    airway = np.zeros(shape, bool)
    z, y, x = (n // 2 for n in shape)
    airway[z : shape[0] - 4, y - 3 : y + 4, x - 3 : x + 4] = True
    airway[z - 2 : z + 3, y - 2 : y + 3, x - 16 : x + 17] = True
    for arm in (x - 16, x + 16):
        airway[z - 1 : z + 2, y - 14 : y + 15, arm - 1 : arm + 2] = True
    return airway


def tiny_case(shape=SHAPE, **place):
    """CT (HU, int16) and airway label (boolean) of one case on one grid."""
    ct = np.full(shape, 40, np.int16)
    ct[3:-3, 6:-6, 6:-6] = -850
    airway = tiny_airway(shape)
    ct[airway] = -990
    place = {"spacing": SPACING, "origin": ORIGIN} | place
    return Volume(ct, **place), Volume(airway, **place)


def write_dicom(ct, folder, suffix=".dcm"):
    """Write a CT as a folder of DICOM slices."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, plane in enumerate(ct.array):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing(ct.spacing)
        image.SetOrigin((*ct.origin[:2], ct.origin[2] + k * ct.spacing[2]))
        for key, value in {"0008|0060": "CT", "0020|000d": "1.2", "0020|000e": "1.2.3", "0020|0013": str(k)}.items():
            image.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(folder / f"IM{k:04}{suffix}"))
        writer.Execute(image)
    return folder
