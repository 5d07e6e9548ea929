"""The files of a segmentation: names refused before the work, contents that agree with the mask after it."""

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from synthetic_dicom import write_slices

from airwaylib.errors import InputError
from airwaylib.images.dicom_seg import read_sources
from airwaylib.images.mesh import surface
from airwaylib.images.volume import Volume, read_mask, read_volume
from airwaylib.inference.outputs import Found, Outputs, segment_file, uncertainty_beside
from airwaylib.networks.checkpoints import CheckpointInfo, build_network, save_checkpoint
from airwaylib.trees.parse import parse_tree


def bar(shape=(20, 9, 9)):
    mask = np.zeros(shape, bool)
    mask[2:-2, 3:6, 3:6] = True
    return mask


def test_all_are_written_and_hold_the_mask(tmp_path):
    folder = write_slices(tmp_path / "ct", np.zeros((20, 9, 9)))
    ct = read_volume(folder)
    mask, spread = ct.with_array(bar()), ct.with_array(np.full((20, 9, 9), 0.25, np.float32))
    names = ("mask.nii.gz", "seg.dcm", "mesh.stl", "tree.csv", "spread.nrrd")
    outputs = Outputs(*(tmp_path / "out" / name for name in names))
    outputs.check(folder)
    assert not (tmp_path / "out").exists()
    outputs.write(Found(mask, spread, read_sources(folder), "weights"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names)
    np.testing.assert_array_equal(read_mask(outputs.mask, ct).array, mask.array)
    assert pydicom.dcmread(outputs.dicom_seg).NumberOfFrames == 16
    assert outputs.mesh.stat().st_size == 84 + 50 * len(surface(mask)[1])
    branches = pd.read_csv(outputs.tree)
    assert branches.length_mm.sum() == pytest.approx(
        parse_tree(mask.array, ct.spacing, ct.origin, ct.direction).branches.length_mm.sum(), abs=1e-3
    )
    assert (read_volume(outputs.uncertainty).array == 0.25).all()


def test_a_dicom_folder_becomes_a_segmentation_of_its_slices(tmp_path):
    hu = np.full((36, 60, 80), 40, np.int16)
    hu[4:32, 8:52, 6:36] = hu[4:32, 8:52, 44:74] = -850
    folder = write_slices(tmp_path / "ct", hu, (2, 2, 2))
    torch.manual_seed(0)
    info = CheckpointInfo("wingsnet", {"width": 1, "supervision": "both"}, 80, None)
    save_checkpoint(tmp_path / "net.safetensors", build_network(info.network, **info.parameters), info)
    outputs = Outputs(tmp_path / "a.nrrd", dicom_seg=tmp_path / "a.dcm", uncertainty=tmp_path / "b.nrrd")
    found = segment_file(
        folder, outputs, tmp_path / "net.safetensors", samples=2, threshold=0.05, device="cpu", progress=False
    )
    ct = read_volume(folder)
    mask, segmentation = read_mask(outputs.mask, ct), pydicom.dcmread(outputs.dicom_seg)
    np.testing.assert_array_equal(mask.array, found.array)
    slices = found.array[found.array.any((1, 2))]
    assert len(slices) > 0 and segmentation.NumberOfFrames == len(slices)
    frames = segmentation.pixel_array.reshape(-1, 60, 80)
    groups = segmentation.PerFrameFunctionalGroupsSequence
    places = [group.PlanePositionSequence[0].ImagePositionPatient for group in groups]
    z = ct.point_to_index(np.array(places, float))[:, 0].round().astype(int)
    np.testing.assert_array_equal(frames[np.argsort(z)], slices)
    assert segmentation.SegmentSequence[0].SegmentAlgorithmName == "WingsNet, net"
    assert read_volume(outputs.uncertainty).array.max() > 0


def test_an_empty_mask_is_written_alone(tmp_path):
    outputs = Outputs(tmp_path / "mask.nii.gz", mesh=tmp_path / "mesh.ply", tree=tmp_path / "tree.csv")
    with pytest.raises(InputError, match=r"mesh.ply, .*tree.csv: not written, no airway was found.*mask.nii.gz"):
        outputs.write(Found(Volume(np.zeros((5, 5, 5), bool))))
    assert [path.name for path in tmp_path.iterdir()] == ["mask.nii.gz"]
    Outputs(tmp_path / "mask.nii.gz").write(Found(Volume(np.zeros((5, 5, 5), bool))))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"mask": "a.png"}, "a.png: unknown suffix"),
        ({"mesh": "a.obj"}, "a.obj: suffix '.obj' is unknown: choose .stl or .ply"),
        ({"tree": "a.xls"}, "a.xls: suffix '.xls' is unknown"),
        ({"uncertainty": "a.dcm"}, "a.dcm: unknown suffix"),
        ({"dicom_seg": "a.nii"}, "a.nii: suffix '.nii' is unknown"),
        ({"dicom_seg": "a.dcm"}, "ct.nii.gz: a file; .* DICOM folder"),
        ({"uncertainty": "mask.nii.gz"}, "give each output a name of its own"),
        ({"mesh": "file/a.stl"}, "a.stl: cannot be written"),
        ({"mesh": "folder.stl"}, "folder.stl: is a folder"),
    ],
)
def test_names_are_refused_before_the_work(tmp_path, names, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.stl").mkdir()
    (tmp_path / "ct.nii.gz").write_bytes(b"no CT: it must not be read")
    outputs = Outputs(**{key: tmp_path / name for key, name in ({"mask": "mask.nii.gz"} | names).items()})
    with pytest.raises(InputError, match=message):
        segment_file(tmp_path / "ct.nii.gz", outputs, tmp_path / "no weights", samples=8)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.stl", "ct.nii.gz"}


@pytest.mark.parametrize(
    ("mask", "name"),
    [("a.nii.gz", "a_uncertainty.nii.gz"), ("a.b.nrrd", "a.b_uncertainty.nrrd"), ("A.NII.GZ", "A_uncertainty.NII.GZ")],
)
def test_the_map_lies_beside_the_mask(tmp_path, mask, name):
    assert uncertainty_beside(tmp_path / mask) == tmp_path / name


def test_a_map_needs_samples(tmp_path):
    outputs = Outputs(tmp_path / "a.nii.gz", uncertainty=tmp_path / "b.nii.gz")
    for samples in (0, 1):
        with pytest.raises(InputError, match=rf"b.nii.gz: {samples} samples; .* --samples 8"):
            segment_file(tmp_path / "ct.nii.gz", outputs, tmp_path / "w", samples=samples)


def test_nothing_is_written_over_the_ct_or_among_its_slices(tmp_path):
    (tmp_path / "slices").mkdir()
    (tmp_path / "ct.nii.gz").touch()
    for outputs, ct in (
        (Outputs(tmp_path / "slices/../ct.nii.gz"), tmp_path / "ct.nii.gz"),
        (Outputs(tmp_path / "mask.nii.gz", dicom_seg=tmp_path / "slices/seg.dcm"), tmp_path / "slices"),
    ):
        with pytest.raises(InputError, match="would be written over the CT, or among its slices"):
            outputs.check(ct)
