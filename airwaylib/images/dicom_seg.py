"""Write an airway mask as a DICOM Segmentation object on the CT's own slices, by highdicom.

Viewers and archives take it for what it is: patient, study, frame of reference and geometry are the CT's, and every
frame names the slice it belongs to. Source: DICOM PS3.3, A.51.
"""

import warnings
from importlib.metadata import version
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from highdicom.seg import Segmentation, SegmentDescription
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.images.files import slice_files
from airwaylib.images.volume import Volume

TRACHEOBRONCHIAL_TREE = Code("91724006", "SCT", "Tracheobronchial tree")  # SNOMED CT: trachea with all bronchi
SERIES = "Airway tree, automatic; research, not for clinical use"
LONGEST = 64  # characters of a DICOM long string


def check_seg_suffix(path: Path) -> None:
    """Raise `InputError` unless `path` ends in .dcm."""
    if path.suffix != ".dcm":
        raise InputError(f"{path}: suffix {path.suffix!r} is unknown: a DICOM Segmentation is a .dcm")


def read_sources(folder: str | Path, series: str | None = None) -> list[Dataset]:
    """Headers of the slices that `volume.read_volume` reads, in its order, once they are seen to suit a Segmentation.

    Raises `InputError`: `folder` is not a folder, or `read_volume` would refuse it; or the headers lack what a
    Segmentation takes from them, such as the frame of reference.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no DICOM folder; a DICOM Segmentation refers to DICOM slices")
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in slice_files(folder, series)]
    trial = np.zeros((len(sources), sources[0].Rows, sources[0].Columns), bool)
    trial[0, 0, 0] = True
    try:
        _segmentation(trial, sources, "trial")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: no DICOM Segmentation can refer to these slices ({error})") from error
    return sources


def write_dicom_seg(mask: Volume, sources: list[Dataset], path: str | Path, weights: str) -> None:
    """Write an airway mask as a binary DICOM Segmentation of one segment.

    Raises `InputError`: another suffix, an empty mask or one of another shape than the slices, or a place that cannot
    be written.

    Parameters
    ----------
    mask : Volume
        bool `(z, y, x)` on the CT's grid: slice z belongs to `sources[z]`.
    sources : list of Dataset
        As `read_sources` gives them.
    path : path
        A .dcm. Slices without airway have no frame in it.
    weights : str
        Name of the weights that made the mask, kept as that of the algorithm.
    """
    path = Path(path)
    check_seg_suffix(path)
    shape = (len(sources), sources[0].Rows, sources[0].Columns)
    if mask.array.shape != shape:
        raise InputError(f"mask of shape {mask.array.shape}: the DICOM slices need {shape}")
    if not mask.array.any():
        raise InputError("the mask is empty: a DICOM Segmentation needs a frame")
    segmentation = _segmentation(mask.array, sources, weights)
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)


def _segmentation(mask: np.ndarray, sources: list[Dataset], weights: str) -> Segmentation:
    release = version("airwaylib")
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=f"WingsNet, {weights}"[:LONGEST],
        family=codes.DCM.ArtificialIntelligence,
        version=release,
    )
    segment = SegmentDescription(
        segment_number=1,
        segment_label="Airway tree",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=TRACHEOBRONCHIAL_TREE,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what the CT's header has, which is copied as it stands
        return Segmentation(
            source_images=sources,
            pixel_array=mask,
            segmentation_type="BINARY",
            segment_descriptions=[segment],
            series_instance_uid=highdicom.UID(),
            series_number=1000 + int(sources[0].get("SeriesNumber") or 0),
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="airwaylib",
            manufacturer_model_name="airwaylib segment",
            software_versions=release,
            device_serial_number="none",
            omit_empty_frames=True,
            content_label="AIRWAY",
            content_description="Not for clinical use",
            series_description=SERIES,
        )
