"""DICOM Segmentations read back voxel by voxel and slice by slice, on synthetic slices and on a patient's."""

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from refusals import refused
from synthetic_dicom import AXES, STUDY, write_slices

from airwaylib.images.dicom_seg import read_sources, write_dicom_seg
from airwaylib.images.files import slice_files
from airwaylib.images.volume import Volume, read_volume

REAL = Path(__file__).parents[3] / "shared/data/dicom-lidc-0002"


def written(folder, array, path, weights="some-weights"):
    """The Segmentation of a mask on the slices in `folder`, as a plain pydicom data set, and the CT."""
    ct = read_volume(folder)
    write_dicom_seg(ct.with_array(array), read_sources(folder), path, weights)
    return pydicom.dcmread(path), ct


def some(shape):
    """A mask of noise, with the second slice empty."""
    mask = np.random.default_rng(1).random(shape) < 0.3
    mask[1] = False
    return mask


def check_frames(dataset, ct, mask, sources):
    """Each frame's voxels, place and source slice by pydicom alone; and that only empty slices have none."""
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    assert set(np.unique(frames)) <= {0, 1}
    shared = dataset.SharedFunctionalGroupsSequence[0]
    seen = []
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        index = ct.point_to_index(place)
        np.testing.assert_allclose(index, [round(index[0]), 0, 0], atol=1e-3)
        z = round(index[0])
        np.testing.assert_array_equal(frame, mask[z])
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == sources[z].SOPInstanceUID
        seen.append(z)
    assert sorted(seen) == np.flatnonzero(mask.any((1, 2))).tolist()
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    np.testing.assert_allclose(axes.T, np.reshape(ct.direction, (3, 3))[:, :2], atol=1e-5)
    assert [float(mm) for mm in shared.PixelMeasuresSequence[0].PixelSpacing] == pytest.approx(ct.spacing[1::-1])


def test_a_mask_on_shuffled_oblique_slices_reads_back_exactly(tmp_path):
    folder = write_slices(tmp_path / "ct")
    mask = some((6, 5, 7))
    dataset, ct = written(folder, mask, tmp_path / "seg.dcm")
    np.testing.assert_allclose(np.reshape(ct.direction, (3, 3)), AXES, atol=1e-6)
    sources = [pydicom.dcmread(path) for path in slice_files(folder)]
    assert [one.pixel_array[0, 0] for one in sources] == [0, 100, 200, 300, 400, 500]  # the stack's order
    assert [path.name for path in slice_files(folder)] != sorted(path.name for path in folder.iterdir())
    check_frames(dataset, ct, mask, sources)
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    uids = [one.SOPInstanceUID for one in sources]
    by_source = segmentation.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(by_source, mask)


def test_one_voxel_alone(tmp_path):
    mask = np.zeros((6, 5, 7), bool)
    mask[3, 1, 5] = True
    dataset, ct = written(write_slices(tmp_path / "ct"), mask, tmp_path / "seg.dcm")
    assert dataset.NumberOfFrames == 1
    group = dataset.PerFrameFunctionalGroupsSequence[0]
    corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
    ((row, column),) = np.argwhere(dataset.pixel_array)
    place = corner + 0.6 * column * AXES[:, 0] + 0.7 * row * AXES[:, 1]  # PixelSpacing is of rows, then of columns
    np.testing.assert_allclose([place], ct.index_to_point([[3, 1, 5]]), atol=1e-4)
    np.testing.assert_allclose(place, np.array([10, -20, 30]) + AXES @ [0.6 * 5, 0.7 * 1, 2 * 3], atol=1e-4)


def test_header_says_whose_what_and_by_what(tmp_path):
    folder = write_slices(tmp_path / "ct")
    source = pydicom.dcmread(next(folder.iterdir()))
    dataset, _ = written(folder, some((6, 5, 7)), tmp_path / "seg.dcm", "some-weights")
    assert (dataset.Modality, dataset.SegmentationType) == ("SEG", "BINARY")
    kept = ["StudyInstanceUID", "FrameOfReferenceUID", *STUDY]
    assert [dataset[key].value for key in kept] == [source[key].value for key in kept]
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert "not for clinical use" in dataset.SeriesDescription
    (segment,) = dataset.SegmentSequence
    assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("AUTOMATIC", "WingsNet, some-weights")
    codes = [(key[0].CodingSchemeDesignator, key[0].CodeValue) for key in coded(segment)]
    assert codes == [("SCT", "91723000"), ("SCT", "91724006")]  # anatomical structure; tracheobronchial tree


def coded(segment):
    return segment.SegmentedPropertyCategoryCodeSequence, segment.SegmentedPropertyTypeCodeSequence


def test_a_long_name_of_weights_is_cut_and_two_objects_differ_in_their_uids(tmp_path):
    folder = write_slices(tmp_path / "ct")
    one, two = (written(folder, some((6, 5, 7)), tmp_path / f"{k}.dcm", "w" * 100)[0] for k in (1, 2))
    assert one.SegmentSequence[0].SegmentAlgorithmName == "WingsNet, " + "w" * 54
    assert one.SOPInstanceUID != two.SOPInstanceUID and one.SeriesInstanceUID != two.SeriesInstanceUID


def test_what_cannot_be_referred_to_is_refused(tmp_path):
    (tmp_path / "file.nii.gz").write_bytes(b"")
    refused(lambda: read_sources(tmp_path / "file.nii.gz"), "file.nii.gz", "DICOM folder")
    lost = write_slices(tmp_path / "lost", FrameOfReferenceUID=None)
    assert read_volume(lost).array.shape == (6, 5, 7)  # the CT itself is readable
    refused(lambda: read_sources(lost), "lost", "no DICOM Segmentation can refer", "Frame Of Reference")
    two = write_slices(tmp_path / "two", SeriesInstanceUID="1.2.3")
    refused(lambda: read_sources(two, "1.2.4"), "no series 1.2.4", "1.2.3")
    assert len(read_sources(two, "1.2.3")) == 6


def test_what_cannot_be_written_is_refused(tmp_path):
    sources = read_sources(write_slices(tmp_path / "ct"))
    mask = Volume(np.zeros((6, 5, 7), bool))
    refused(lambda: write_dicom_seg(mask, sources, tmp_path / "a.dcm", "w"), "the mask is empty")
    mask = Volume(np.ones((6, 7, 5), bool))
    refused(lambda: write_dicom_seg(mask, sources, tmp_path / "a.dcm", "w"), "(6, 7, 5)", "(6, 5, 7)")
    refused(lambda: write_dicom_seg(mask, sources, tmp_path / "a.nii", "w"), "'.nii'", ".dcm")
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


def test_a_patients_slices(tmp_path):
    if not REAL.exists():
        pytest.skip(f"no DICOM at {REAL}")
    mask = some((30, 512, 512))
    dataset, ct = written(REAL, mask, tmp_path / "seg.dcm")
    check_frames(dataset, ct, mask, [pydicom.dcmread(path, stop_before_pixels=True) for path in slice_files(REAL)])
