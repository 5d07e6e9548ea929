"""A synthetic CT as a folder of DICOM slices."""

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXES = np.array([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]])  # columns: along a row, down a column, from slice to slice
STUDY = {"PatientID": "P7", "PatientName": "Synthetic^Case", "PatientSex": "F", "PatientBirthDate": "19600102"}
STUDY |= {"StudyID": "3", "StudyDate": "20200304", "StudyTime": "101112", "AccessionNumber": "A1"}


def write_slices(folder, hu=None, spacing=(0.6, 0.7, 2), seed=0, **change):
    """Synthetic CT slices, oblique, of 6 x 5 x 7 voxels or of `hu`; names and instance numbers are shuffled.

    `change` replaces attributes; None leaves one out. Without `hu`, slice k is 100 * k HU.
    """
    folder.mkdir()
    if hu is None:
        hu = np.broadcast_to(100 * np.arange(6, dtype=np.int16)[:, None, None], (6, 5, 7))
    frame, study, series = (generate_uid() for _ in range(3))
    names = np.random.default_rng(seed).permutation(len(hu))
    for k, name in enumerate(names):
        place = np.array([10, -20, 30]) + spacing[2] * k * AXES[:, 2]
        tags = {"SOPClassUID": CTImageStorage, "SOPInstanceUID": generate_uid(), "Modality": "CT"}
        tags |= {"FrameOfReferenceUID": frame, "StudyInstanceUID": study, "SeriesInstanceUID": series} | STUDY
        tags |= {"SeriesNumber": 4, "InstanceNumber": int(name) + 1, "ReferringPhysicianName": ""}
        tags |= {"ImagePositionPatient": place.round(6).tolist(), "PixelSpacing": [spacing[1], spacing[0]]}
        tags |= {"ImageOrientationPatient": [*AXES[:, 0], *AXES[:, 1]], "Rows": hu.shape[1], "Columns": hu.shape[2]}
        tags |= {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16}
        tags |= {
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "RescaleSlope": 1,
            "RescaleIntercept": 0,
            "SliceThickness": 2,
        }
        tags |= {"PixelData": hu[k].astype(np.int16).tobytes(), **change}
        slice_ = pydicom.Dataset()
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        for key, value in tags.items():
            if value is not None:
                setattr(slice_, key, value)
        slice_.save_as(folder / f"{name:03}.dcm", enforce_file_format=True)
    return folder
