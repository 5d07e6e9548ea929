"""Volumes by hand: geometry in closed form, every format there and back, every bad input, real CT and DICOM."""

import gzip
import math
import shutil
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import map_coordinates

from airwaylib.errors import InputError
from airwaylib.images.files import check_output
from airwaylib.images.volume import Volume, read_ct, read_mask, read_volume, resample, resample_to, window, write_volume

DATA = Path(__file__).parents[3] / "shared" / "data"
FORMATS = ("nii", "nii.gz", "nrrd", "mha")
QUARTER_TURN = (0, -1, 0, 1, 0, 0, 0, 0, 1)  # the array's x axis points along +y, its y axis along -x


def real(name):
    if not (DATA / name).exists():
        pytest.skip(f"real data {name} is not beside this checkout")
    return DATA / name


def rotation(angle_x, angle_y, angle_z):
    cx, sx, cy, sy, cz, sz = (f(a) for a in (angle_x, angle_y, angle_z) for f in (math.cos, math.sin))
    turn_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    turn_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    turn_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return turn_z @ turn_y @ turn_x


OBLIQUE = rotation(0.3, -0.5, 1.1)
MIRRORED = OBLIQUE * [1, 1, -1]  # left-handed: slices in the opposite order


def oblique_volume(array=None, direction=OBLIQUE):
    array = np.arange(-60, 60, dtype=np.int16).reshape(4, 5, 6) if array is None else array
    return Volume(array, (0.6816409826278687, 0.7, 1.25), (-147.55271911621094, -108.38082, 318.25), direction.ravel())


def one_line(path, reason, function=read_volume, **arguments):
    """The call is refused by one line that names the path and the reason."""
    with pytest.raises(InputError) as caught:
        function(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert reason in message
    return message


# Volume


def test_import_is_light():
    heavy = "{'SimpleITK', 'torch', 'scipy', 'monai'}"
    program = f"import sys, airwaylib.images.volume; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"array": np.zeros((2, 3))}, "three axes"),
        ({"array": np.zeros((2, 3, 4, 1))}, "three axes"),
        ({"array": np.zeros((2, 0, 4))}, "none empty"),
        ({"spacing": (1, 0, 1)}, "above 0"),
        ({"spacing": (1, -1, 1)}, "above 0"),
        ({"spacing": (1, math.nan, 1)}, "3 finite numbers"),
        ({"spacing": (1, 1)}, "3 finite numbers"),
        ({"origin": (0, 0, math.inf)}, "3 finite numbers"),
        ({"direction": (1, 0, 0, 0, 1, 0, 0, 0)}, "9 finite numbers"),
        ({"direction": (1, 0, 0, 0, 1, 0, 0, 0, 1.01)}, "orthogonal unit vectors"),
        ({"direction": (1, 0.01, 0, 0, 1, 0, 0, 0, 1)}, "orthogonal unit vectors"),
        ({"direction": np.zeros(9)}, "orthogonal unit vectors"),
    ],
)
def test_volume_refuses(change, reason):
    with pytest.raises(InputError, match=reason):
        Volume(**{"array": np.zeros((2, 3, 4)), **change})


def test_volume_fields_are_plain_floats():
    volume = Volume(np.zeros((2, 3, 4)), np.float32([0.5, 0.5, 2]), [1, 2, 3], np.eye(3).ravel())
    assert volume.spacing == (0.5, 0.5, 2.0)
    assert volume.origin == (1.0, 2.0, 3.0)
    assert volume.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert {type(value) for value in (*volume.spacing, *volume.origin, *volume.direction)} == {float}


def test_repr_is_short_and_tells_an_oblique_grid():
    assert repr(Volume(np.zeros((2, 3, 4), np.int16), (0.5, 0.5, 2), (1, 2, -3.25))) == (
        "Volume(4 x 3 x 2 int16, spacing (0.5, 0.5, 2) mm, origin (1, 2, -3.25) mm)"
    )
    assert "direction (0, -1, 0, 1, 0, 0, 0, 0, 1)" in repr(Volume(np.zeros((2, 3, 4)), direction=QUARTER_TURN))


def test_points_of_indices_by_hand():
    volume = Volume(np.zeros((2, 3, 4)), (0.5, 2, 10), (100, 200, 300), QUARTER_TURN)
    # One step in x goes 0.5 mm along +y, one in y 2 mm along -x, one in z 10 mm along +z.
    index = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 2, 3]])
    point = np.array([[100, 200, 300], [100, 200.5, 300], [98, 200, 300], [100, 200, 310], [96, 201.5, 310]])
    np.testing.assert_allclose(volume.index_to_point(index), point, atol=1e-12)
    np.testing.assert_allclose(volume.point_to_index(point), index, atol=1e-12)
    np.testing.assert_allclose(volume.index_to_point(index[4]), point[4], atol=1e-12)


@given(arrays(float, (5, 3), elements=st.floats(-1000, 1000)), st.tuples(*[st.floats(-3, 3)] * 3))
def test_points_come_back_as_indices_and_agree_with_simpleitk(index, angles):
    volume = oblique_volume(direction=rotation(*angles))
    point = volume.index_to_point(index)
    np.testing.assert_allclose(volume.point_to_index(point), index, atol=1e-8)
    image = sitk.Image([6, 5, 4], sitk.sitkInt16)
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    theirs = [image.TransformContinuousIndexToPhysicalPoint(one[::-1].tolist()) for one in index]
    np.testing.assert_allclose(point, theirs, atol=1e-8)


def test_crop_keeps_every_voxel_at_its_point():
    volume = oblique_volume()
    part = volume.crop((slice(1, 3), slice(2, None), slice(-4, 100)))
    np.testing.assert_array_equal(part.array, volume.array[1:3, 2:5, 2:6])
    np.testing.assert_allclose(part.index_to_point([1, 1, 1]), volume.index_to_point([2, 3, 3]), atol=1e-12)
    assert part.spacing == volume.spacing
    assert part.direction == volume.direction


@pytest.mark.parametrize(
    "box",
    [
        (slice(0, 2), slice(0, 2)),
        (slice(0, 2), slice(0, 2), slice(0, 4, 2)),
        (slice(0, 2), slice(3, 3), slice(0, 2)),
        (slice(9, 12), slice(0, 2), slice(0, 2)),
    ],
)
def test_crop_refuses(box):
    with pytest.raises(InputError, match="box"):
        oblique_volume().crop(box)


def test_with_array_keeps_the_grid_and_its_shape():
    volume = oblique_volume()
    mask = volume.with_array(volume.array > 0)
    assert mask.same_grid(volume)
    assert mask.array.sum() == 59
    with pytest.raises(InputError, match=r"shape \(4, 5, 5\).*\(4, 5, 6\)"):
        volume.with_array(np.zeros((4, 5, 5)))


def test_same_grid_measures_the_farthest_corner_in_mm():
    volume = Volume(np.zeros((11, 3, 4)), (1, 1, 2))
    assert volume.same_grid(Volume(np.ones((11, 3, 4)), (1, 1, 2.0009)))  # ten steps: 0.009 mm
    assert not volume.same_grid(Volume(np.ones((11, 3, 4)), (1, 1, 2.0011)))  # 0.011 mm
    assert volume.same_grid(Volume(np.ones((11, 3, 4)), (1, 1, 2.0011)), tolerance=0.02)
    assert not volume.same_grid(Volume(np.zeros((11, 3, 5)), (1, 1, 2)))
    assert not volume.same_grid(Volume(np.zeros((11, 3, 4)), (1, 1, 2), direction=QUARTER_TURN))


# There and back


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("direction", [np.eye(3), OBLIQUE, MIRRORED], ids=["straight", "oblique", "mirrored"])
def test_every_format_there_and_back(tmp_path, suffix, direction):
    volume = oblique_volume(direction=direction)
    path = tmp_path / f"ct.{suffix}"
    write_volume(volume, path)
    back = read_volume(path)
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.array.dtype == np.int16
    # NRRD and MetaImage keep the geometry to double precision, NIfTI to float32 (a quaternion's for the direction).
    spacing, origin, direction = (1e-6, 2e-5, 1e-6) if "nii" in suffix else (1e-14, 0, 1e-14)
    np.testing.assert_allclose(back.spacing, volume.spacing, rtol=0, atol=spacing)
    np.testing.assert_allclose(back.origin, volume.origin, rtol=0, atol=origin)
    np.testing.assert_allclose(back.direction, volume.direction, rtol=0, atol=direction)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_keeps_the_data_type(tmp_path, suffix):
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64", ">i2", ">f4"):
        array = np.arange(24).reshape(2, 3, 4).astype(name)
        array[0, 0, 0] = np.nan if array.dtype.kind == "f" and "nii" not in suffix else 100
        write_volume(Volume(array), tmp_path / f"a.{suffix}")
        back = read_volume(tmp_path / f"a.{suffix}").array
        assert back.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("suffix", FORMATS)
def test_same_volume_same_bytes_and_compressed(tmp_path, suffix):
    mask = oblique_volume(np.zeros((40, 50, 60), bool))
    mask.array[10:20, 10, 10:40] = True
    write_volume(mask, tmp_path / f"one.{suffix}")
    write_volume(mask, tmp_path / f"two.{suffix}")
    raw = (tmp_path / f"one.{suffix}").read_bytes()
    assert raw == (tmp_path / f"two.{suffix}").read_bytes()
    assert len(raw) == 120_352 if suffix == "nii" else len(raw) < 2000
    assert read_volume(tmp_path / f"one.{suffix}").array.dtype == np.uint8
    np.testing.assert_array_equal(read_mask(tmp_path / f"one.{suffix}", mask).array, mask.array)


def test_views_are_written_as_they_look(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(4, 3, 2).transpose(2, 1, 0)[:, ::-1]
    write_volume(Volume(array), tmp_path / "a.nrrd")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd").array, array)


def test_mhd_reads_its_second_file(tmp_path):
    volume = oblique_volume()
    image = sitk.GetImageFromArray(volume.array)
    sitk.WriteImage(image, str(tmp_path / "ct.mhd"), useCompression=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "ct.mhd").array, volume.array)
    (tmp_path / "ct.zraw").unlink()
    one_line(tmp_path / "ct.mhd", "unreadable")


def test_write_refuses_what_it_cannot_keep(tmp_path):
    volume = oblique_volume()
    for name in ("ct.mhd", "ct.jpg", "ct"):
        one_line(tmp_path / name, "unknown suffix", lambda path: write_volume(volume, path))
    for kind in ("float16", "complex64", "U3"):
        with pytest.raises(InputError, match="data type"):
            write_volume(volume.with_array(volume.array.astype(kind)), tmp_path / "ct.nii")
    (tmp_path / "file").write_text("a file")
    one_line(tmp_path / "file" / "ct.nii", "cannot be written", lambda path: write_volume(volume, path))
    one_line(Path("/proc/ct.nii"), "cannot be written", lambda path: write_volume(volume, path))
    (tmp_path / "folder.nii").mkdir()
    one_line(tmp_path / "folder.nii", "cannot be written", lambda path: write_volume(volume, path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.nii"]


FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    import numpy as np
    from airwaylib.errors import InputError
    from airwaylib.images.volume import Volume, write_volume

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails as on a full disk
    folder, shape = Path(sys.argv[1]), eval(sys.argv[2])
    volume = Volume(np.random.default_rng(0).integers(-1000, 400, shape, dtype=np.int16))
    for suffix in ("nii", "nii.gz", "nrrd", "mha"):
        path = folder / f"ct.{suffix}"
        write_volume(volume, path)
        whole = path.read_bytes()
        for limit in (0, 100, len(whole) // 2, len(whole) - 100, len(whole) - 9, len(whole) - 8, len(whole) - 1):
            path.write_text("former")
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                write_volume(volume, path)
                outcome = "unnoticed"
            except InputError as error:
                outcome = str(error)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert outcome.startswith(f"{path}: ") and "disk" in outcome, (suffix, limit, len(whole), outcome)
            assert path.read_text() == "former"
            assert [one for one in folder.iterdir()] == [path]
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole), resource.RLIM_INFINITY))
        write_volume(volume, path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert path.read_bytes() == whole
        path.unlink()
    print("every short write was noticed")
"""


@pytest.mark.parametrize("shape", [(4, 5, 6), (20, 50, 50)], ids=["below one buffer", "several buffers"])
def test_full_disk_is_noticed_in_every_format(tmp_path, shape):
    pytest.importorskip("resource", reason="file size limits need a POSIX system")
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path), str(shape)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "every short write was noticed\n", done.stderr


def thicker(image):
    image = sitk.Image(image)
    image.SetSpacing((0.68, 0.7, 9))
    return image


@pytest.mark.parametrize("change", [lambda image: image + 1, thicker], ids=["voxels", "geometry"])
def test_what_arrives_is_compared(tmp_path, monkeypatch, change):
    write = sitk.WriteImage
    monkeypatch.setattr(sitk, "WriteImage", lambda image, *rest, **options: write(change(image), *rest, **options))
    one_line(tmp_path / "ct.nrrd", "differs from what was written", lambda path: write_volume(oblique_volume(), path))
    assert list(tmp_path.iterdir()) == []


# Bad files


@pytest.fixture
def written(tmp_path):
    """Write random voxels as `ct.SUFFIX` (with SimpleITK alone where they are no volume); returns its path."""

    def write(suffix, shape=(10, 20, 20), dtype=np.int16, vector=False):
        array = np.random.default_rng(0).integers(-1000, 400, shape).astype(dtype)
        path = tmp_path / f"ct.{suffix}"
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path), useCompression=True)
        return path

    return write


def patch_header(path, place, code, *values):
    """Write `values` into a NIfTI header at the byte `place`."""
    packed = path.name.endswith(".gz")
    raw = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    struct.pack_into("<" + code, raw, place, *values)
    path.write_bytes(gzip.compress(bytes(raw)) if packed else bytes(raw))


def test_missing_and_unknown_files(tmp_path):
    one_line(tmp_path / "none.nii.gz", "no such file or folder")
    for name in ("ct.jpg", "ct.dcm", "ct"):
        (tmp_path / name).write_text("something")
        message = one_line(tmp_path / name, "unknown suffix")
        assert ".nii, .nii.gz, .nrrd, .mha, .mhd or a folder of DICOM slices is needed" in message
    one_line(tmp_path / "ct.jpg", "DICOM folder only", series="1.2.3")


def test_suffix_in_capitals(written, tmp_path):
    path = written("nii.gz").rename(tmp_path / "CT.NII.GZ")
    assert read_volume(path).array.shape == (10, 20, 20)


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_files(written, suffix):
    whole = written(suffix).read_bytes()
    path = written(suffix)
    for kept in (0, 2, 100, 400, len(whole) // 2, len(whole) - 9, len(whole) - 4, len(whole) - 1):
        path.write_bytes(whole[:kept])
        message = one_line(path, "")
        assert any(word in message for word in ("truncated", "damaged")), message
    path.write_bytes(whole)
    read_volume(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_garbage(tmp_path, suffix):
    path = tmp_path / f"ct.{suffix}"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    one_line(path, "damaged")


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
def test_one_flipped_byte_fails_the_checksum(written, suffix):
    path = written(suffix)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x55
    path.write_bytes(raw)
    one_line(path, "damaged")


@pytest.mark.parametrize("suffix", FORMATS)
def test_images_that_are_no_grey_volume(written, suffix):
    one_line(written(suffix, (20, 30)), "2-D image of 30 x 20")
    one_line(written(suffix, (3, 4, 5, 6)), "4-D image of 6 x 5 x 4 x 3")
    one_line(written(suffix, (4, 5, 6, 3), vector=True), "3 components")
    assert read_volume(written(suffix, (1, 4, 5, 6))).array.shape == (4, 5, 6)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("spacing", [0, -1, math.nan, math.inf])
def test_nifti_without_a_sound_spacing(written, suffix, spacing):
    path = written(suffix)
    patch_header(path, 76 + 4 * 3, "f", spacing)  # pixdim[3]: SimpleITK would take 0 for 1 mm
    one_line(path, "spacing")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nifti_with_voxels_that_are_no_number(tmp_path, suffix, dtype):
    array = np.zeros((70, 80, 90), dtype)  # more than one piece of the check's reading
    array[0, 0, 0], array[35, 40, 45], array[-1, -1, -1] = np.nan, np.inf, -np.inf
    path = tmp_path / f"ct.{suffix}"
    one_line(path, "as 0; write .nrrd or .mha", lambda path: write_volume(Volume(array), path))
    assert not path.exists()
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    for function in (read_volume, read_ct):
        one_line(path, "3 voxels are NaN or infinite", function)


@pytest.mark.parametrize("offset", [0, -1, math.nan, math.inf])
def test_nifti_whose_voxels_start_nowhere(written, offset):
    path = written("nii")
    patch_header(path, 108, "f", offset)
    one_line(path, "damaged")


def test_nifti_of_the_other_byte_order(tmp_path):
    array = np.arange(24).reshape(2, 3, 4)
    header = bytearray(352)
    struct.pack_into(">i", header, 0, 348)
    struct.pack_into(">8h", header, 40, 3, 4, 3, 2, 1, 1, 1, 1)
    struct.pack_into(">2h", header, 70, 4, 16)
    struct.pack_into(">8f", header, 76, 1, 0.5, 0.5, 2, 0, 0, 0, 0)
    struct.pack_into(">2f", header, 108, 352, 1)
    header[123] = 2  # millimetres
    header[344:347] = b"n+1"
    path = tmp_path / "ct.nii"
    path.write_bytes(header + array.astype(">i2").tobytes())
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.spacing == (0.5, 0.5, 2)
    path.write_bytes(path.read_bytes()[:-1])
    one_line(path, "truncated: 47 of 48 bytes of voxels")


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
@pytest.mark.parametrize(
    ("suffix", "old"),
    [("nrrd", b"space directions: (1,"), ("mha", b"ElementSpacing = 1 ")],
)
def test_text_header_without_a_sound_spacing(written, suffix, old, value):
    path = written(suffix)
    raw = path.read_bytes()
    assert raw.count(old) == 1
    path.write_bytes(raw.replace(old, old.replace(b"1", value.encode())))
    if (suffix, value) == ("nrrd", "-1"):
        assert read_volume(path).direction == (-1, 0, 0, 0, 1, 0, 0, 0, 1)  # NRRD's vectors: the x axis is reversed
    else:
        one_line(path, "spacing")


@pytest.mark.parametrize(
    ("suffix", "old"),
    [("nrrd", b"space directions: (1,0,0) (0,1,0) (0,0,1)\n"), ("mha", b"ElementSpacing = 1 1 1\n")],
)
def test_text_header_that_lacks_the_spacing(written, suffix, old):
    path = written(suffix)
    path.write_bytes(path.read_bytes().replace(old, b""))
    one_line(path, "no spacing in its header")


# DICOM


def write_series(folder, count=4, uid="1.2.3.1", description="thin", place=lambda k: (0, 0, 2 * k), **change):
    """Write `count` slices of 6 x 5 pixels of 0.7 x 0.6 mm, stored + 1024; slice k holds 1000 * k - 900 - x HU."""
    folder.mkdir(exist_ok=True)
    axes = change.get("axes", (1, 0, 0, 0, 1, 0))
    for k in range(count):
        grey = np.int16(1000 * k - 900) - np.arange(change.get("columns", 6), dtype=np.int16)
        image = sitk.GetImageFromArray(np.broadcast_to(grey, (1, 5, grey.size)).copy())
        image.SetSpacing((0.7, 0.6, 2))
        image.SetOrigin([float(value) for value in place(k)])
        image.SetDirection(np.column_stack([axes[:3], axes[3:], np.cross(axes[:3], axes[3:])]).astype(float).ravel())
        tags = {"0008|0060": "CT", "0020|000d": "1.2.3", "0020|000e": uid, "0008|103e": description}
        tags |= {"0028|1052": "-1024", "0028|1053": "1", "0020|0013": str(k)}
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{uid}-{change.get('start', 0) + k}.dcm"))
        writer.Execute(image)
    return folder


def test_dicom_in_hu_and_in_place(tmp_path):
    folder = write_series(tmp_path / "ct", place=lambda k: (10, 20, 30 - 2 * k))  # file order against the stack's
    (folder / "readme.txt").write_text("not a slice")
    volume = read_ct(folder)
    assert volume.array.dtype == np.int16
    assert volume.array.shape == (4, 5, 6)
    assert volume.spacing == (0.7, 0.6, 2)
    assert volume.origin == (10, 20, 24)
    assert volume.array[:, 2, 0].tolist() == [2100, 1100, 100, -900]
    assert volume.array[3, 2].tolist() == [-900, -901, -902, -903, -904, -905]


def test_dicom_slices_are_put_in_order(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "ct")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), "1.2.3.1")
    mixed = [names[k] for k in (2, 0, 3, 1)]
    monkeypatch.setattr(sitk.ImageSeriesReader, "GetGDCMSeriesFileNames", staticmethod(lambda folder, uid: mixed))
    volume = read_ct(folder)
    assert volume.array[:, 0, 0].tolist() == [-900, 100, 1100, 2100]
    assert volume.origin == (0, 0, 0)
    assert volume.spacing == (0.7, 0.6, 2)


def test_dicom_oblique(tmp_path):
    axes = np.round(OBLIQUE, 6)
    volume = read_volume(
        write_series(tmp_path / "ct", axes=(*axes[:, 0], *axes[:, 1]), place=lambda k: 3 * k * axes[:, 2])
    )
    np.testing.assert_allclose(np.reshape(volume.direction, (3, 3)), OBLIQUE, atol=2e-6)
    assert volume.spacing == pytest.approx((0.7, 0.6, 3))
    np.testing.assert_allclose(volume.index_to_point([3, 0, 0]), 9 * OBLIQUE[:, 2], atol=1e-4)


def test_dicom_of_several_series(tmp_path):
    folder = write_series(tmp_path / "ct", count=4)
    write_series(folder, count=3, uid="1.2.3.2", description="thick", place=lambda k: (0, 0, 5 * k))
    message = one_line(folder, "several series")
    assert "1.2.3.1 (4 slices, 'thin'), 1.2.3.2 (3 slices, 'thick')" in message
    assert read_volume(folder, series="1.2.3.1").array.shape == (4, 5, 6)
    assert read_ct(folder, series="1.2.3.2").spacing == (0.7, 0.6, 5)
    assert "1.2.3.2 (3 slices, 'thick')" in one_line(folder, "no series 1.2.3.9", series="1.2.3.9")


def test_dicom_folders_without_a_stack(tmp_path):
    (tmp_path / "empty").mkdir()
    one_line(tmp_path / "empty", "no DICOM slices")
    (tmp_path / "empty" / "garbage.dcm").write_bytes(np.random.default_rng(0).bytes(3000))
    one_line(tmp_path / "empty", "no DICOM slices")
    one_line(write_series(tmp_path / "one", count=1), "one slice")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (lambda k: (0, 0, (0, 2, 4, 8, 10)[k]), "4 mm follow 1.2.3.1-2.dcm, 2 mm is usual"),
        (lambda k: (0, 0, (0, 2, 4, 6, 10)[k]), "4 mm follow 1.2.3.1-3.dcm, 2 mm is usual"),
        (lambda k: (0, 0, (0, 2, 4, 6.5, 8.5)[k]), "missing or uneven"),
        (lambda k: (0, 0, (0, 2, 2, 4, 6)[k]), "same place"),
        (lambda k: (0, 0.5 * k, 2 * k), "gantry tilt"),
    ],
)
def test_dicom_stacks_that_are_not_even(tmp_path, place, reason):
    one_line(write_series(tmp_path / "ct", count=5, place=place), reason)


def test_dicom_positions_may_be_rounded(tmp_path):
    folder = write_series(tmp_path / "ct", count=9, place=lambda k: (0, 0, round(0.625 * k, 1)))
    assert read_volume(folder).spacing == pytest.approx((0.7, 0.6, 0.625))


def test_dicom_mixed_in_one_series(tmp_path):
    turned = {"axes": (1, 0, 0, 0, 0, -1), "start": 4, "place": lambda k: (0, 2 * k, 0)}
    one_line(write_series(write_series(tmp_path / "axes"), **turned), "different size, pixel spacing or orientation")
    wider = {"columns": 7, "start": 4, "place": lambda k: (0, 0, 8 + 2 * k)}
    one_line(write_series(write_series(tmp_path / "size"), **wider), "different size, pixel spacing or orientation")


@pytest.fixture
def real_slices(tmp_path):
    source = real("dicom-lidc-0002")
    folder = tmp_path / "slices"
    folder.mkdir()
    for path in sorted(source.iterdir())[:6]:
        shutil.copyfile(path, folder / path.name)
    return folder


def test_real_dicom():
    volume = read_ct(real("dicom-lidc-0002"))
    assert volume.array.shape == (30, 512, 512)
    assert volume.array.dtype == np.int16
    assert volume.spacing == (0.681641, 0.681641, 1.25)
    assert volume.origin == (-175.5, -174.5, -184.5)
    assert (volume.array.min(), volume.array.max()) == (-3024, 1469)  # padding -2000 and intercept -1024


def test_real_dicom_lies_where_the_cropped_ct_says():
    stack, ct = (read_ct(real(name)) for name in ("dicom-lidc-0002", "lidc/LIDC-IDRI-0002_ct_lungcrop.nii.gz"))
    offset = stack.point_to_index(ct.index_to_point([0, 0, 0]))
    z, y, x = np.rint(offset).astype(int)
    np.testing.assert_allclose(offset, [z, y, x], atol=1e-3)
    common = ct.array[-z : 30 - z]
    assert common.shape == (30, 300, 421)
    np.testing.assert_array_equal(common, np.maximum(stack.array[:, y : y + 300, x : x + 421], -1024))


@pytest.mark.parametrize("lost", ["001.dcm", "003.dcm", "004.dcm"])
def test_real_dicom_that_lacks_a_slice(real_slices, lost):
    (real_slices / lost).unlink()
    one_line(real_slices, f"2.5 mm follow 00{int(lost[2]) - 1}.dcm, 1.25 mm is usual")


@pytest.mark.parametrize("kept", [0, 500, 300_000])
@pytest.mark.parametrize("name", ["000.dcm", "003.dcm", "005.dcm"])
def test_real_dicom_with_a_truncated_slice(real_slices, name, kept):
    path = real_slices / name
    path.write_bytes(path.read_bytes()[:kept])
    one_line(real_slices, f"{name}: a DICOM slice that is damaged or truncated")


# HU


def ct_array(dtype=np.int16):
    """A tenth lung (-850 HU), a fifth air (-1000), the rest soft tissue (40) with some bone (1200)."""
    array = np.full((10, 10, 10), 40, dtype)
    array[0] = -850
    array[1:3] = -1000
    array[9, 0] = 1200
    return array


@pytest.fixture
def stored(tmp_path):
    def store(array):
        write_volume(Volume(array), tmp_path / "ct.nrrd")
        return tmp_path / "ct.nrrd"

    return store


@pytest.mark.parametrize("padding", [-1024, -2000, -2048, -3024, -32768])
def test_ct_with_padding_is_accepted(stored, padding):
    array = ct_array()
    array[:, :2] = padding
    np.testing.assert_array_equal(read_ct(stored(array)).array, array)
    assert read_ct(stored(array.astype(np.float32))).array.dtype == np.float32


def test_ct_that_is_windowed_in_hu_is_accepted(stored):
    read_ct(stored(np.clip(ct_array(), -1000, 400)))


def test_voxels_that_are_not_hu(stored):
    ct = ct_array()
    right = "a CT in Hounsfield units is needed: air near -1000, water 0"
    holes = ct.astype(np.float32)
    holes[0, 0, :3] = np.nan, np.inf, -np.inf
    padded = ct + np.int16(1024)
    padded[:, :2] = -2000
    cases = {
        "3 of 1000 voxels are NaN or infinite": holes,
        "every voxel is -1000": np.full((3, 3, 3), -1000, np.int16),
        "8-bit window": window(ct),
        "are scaled": window(ct) / np.float32(255),
        "values -1..1 are scaled": window(ct) / np.float32(127.5) - 1,
        "values 24..2224 with soft tissue near 1000 still carry an offset: subtract 1024": (ct + 1024).astype(
            np.uint16
        ),
        "values -2000..1064 with soft tissue near 1000": padded[:9],
        "values -160..240 hold no air or lung (-1100..-500 HU)": np.clip(ct, -160, 240),
        "values 40..1200 hold no air": ct[3:],
    }
    for reason, array in cases.items():
        assert right in one_line(stored(array), reason, read_ct)


def test_real_cts_are_accepted_and_their_masks_are_not():
    for name in ("lidc/LIDC-IDRI-0001_ct_lungcrop.nii.gz", "cip-64/ct-64.nrrd"):
        assert read_ct(real(name)).array.min() < -1000
    one_line(real("cip-64/lm-64.nrrd"), "hold no air", read_ct)
    one_line(real("lidc/LIDC-IDRI-0001_airway_regiongrow_silver.nii.gz"), "are scaled", read_ct)


# Masks


@pytest.mark.parametrize(("label", "dtype"), [(1, np.uint8), (255, np.uint8), (2, np.int16), (1, np.float32)])
def test_mask_of_any_one_label(stored, label, dtype):
    array = np.zeros((3, 3, 3), dtype)
    array[1, 1] = label
    mask = read_mask(stored(array), Volume(array)).array
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, array != 0)


def test_masks_that_are_none(stored):
    array = np.zeros((3, 3, 3), np.float32)
    one_line(stored(array), "empty", read_mask)
    for values, shown in (
        ((1, 2), "0, 1, 2;"),
        ((-1,), "-1, 0;"),
        ((0.5, 1), "0, 0.5, 1;"),
        ((np.nan, 1), "0, 1, nan;"),
    ):
        array[1, 1] = 0
        array[1, 1, : len(values)] = values
        one_line(stored(array), f"it holds {shown}", read_mask)
    one_line(stored(np.full((3, 3, 3), -1, np.int16)), "it holds -1;", read_mask)
    one_line(stored(np.arange(27).reshape(3, 3, 3)), "0, 1, 2, 3, 4, 5, 6, 7, ...;", read_mask)


def test_mask_on_another_grid(stored):
    path = stored(np.ones((3, 3, 3), np.uint8))
    read_mask(path, Volume(np.zeros((3, 3, 3))))
    message = one_line(path, "the mask's grid", read_mask, grid=Volume(np.zeros((3, 3, 3)), (1, 1, 1.25)))
    assert "spacing (1, 1, 1) mm" in message
    assert "spacing (1, 1, 1.25) mm" in message


def test_real_mask_lies_on_its_ct():
    ct = read_ct(real("lidc/LIDC-IDRI-0001_ct_lungcrop.nii.gz"))
    mask = read_mask(real("lidc/LIDC-IDRI-0001_airway_regiongrow_silver.nii.gz"), ct)
    assert np.median(ct.array[mask.array]) < -900


# Resampling


def test_resample_ramp_by_hand():
    # Two voxels of 2 mm at 0 and 2 mm become four of 1 mm at -0.5, 0.5, 1.5 and 2.5: the border repeats, between
    # them 40 * 1/4 and 40 * 3/4.
    volume = Volume(np.array([[[0, 40]]], np.int16), (2, 1, 1), (10, 0, 0))
    fine = resample(volume, 1)
    assert fine.array.tolist() == [[[0, 10, 30, 40]]]
    assert fine.array.dtype == np.int16
    assert fine.spacing == (1, 1, 1)
    assert fine.origin == (9.5, 0, 0)
    assert resample(volume, 1, order=0).array.tolist() == [[[0, 0, 40, 40]]]
    # Back: 2 mm voxels at 0 and 2, halfway between 1 mm voxels: (0 + 10) / 2 and (30 + 40) / 2.
    assert resample(fine, (2, 1, 1)).array.tolist() == [[[5, 35]]]


@pytest.mark.parametrize("sign", [1, -1])
def test_resample_rounds_to_the_nearest_integer(sign):
    # A quarter and three quarters of the way from 0 to 3: 0.75 and 2.25, not cut off to 0 and 2.
    array = np.array([[[0, 3 * sign]]], np.int16)
    assert resample(Volume(array, (2, 1, 1)), 1).array.tolist() == [[[0, sign, 2 * sign, 3 * sign]]]


def test_resample_keeps_a_bool_mask_and_labels():
    mask = Volume(np.array([[[False, True]]]), (2, 1, 1))
    fine = resample(mask, (0.5, 1, 1))
    assert fine.array.tolist() == [[[False] * 4 + [True] * 4]]
    labels = Volume(np.array([[[3, 2**31 - 1]]], np.int32), (2, 1, 1))
    assert resample(labels, 1, order=0).array.tolist() == [[[3, 3, 2**31 - 1, 2**31 - 1]]]
    assert resample(labels, 1).array.dtype == np.int32


@given(st.tuples(*[st.floats(0.3, 4)] * 3), st.tuples(*[st.integers(1, 9)] * 3), st.integers(0, 99))
def test_resample_keeps_the_extent_and_agrees_with_scipy(spacing, shape, seed):
    array = np.random.default_rng(seed).uniform(-1000, 400, shape)
    volume = oblique_volume(array)
    result = resample(volume, spacing)
    size = np.array(result.array.shape[::-1])
    old, new = np.array(shape[::-1]) * volume.spacing, size * spacing
    assert ((np.abs(old - new) <= np.array(spacing) / 2 + 1e-9) | (size == 1)).all()
    middle = [one.index_to_point((np.array(one.array.shape) - 1) / 2) for one in (volume, result)]
    np.testing.assert_allclose(*middle, atol=1e-9)
    index = np.stack(np.meshgrid(*map(np.arange, result.array.shape), indexing="ij"), axis=-1)
    there = np.moveaxis(volume.point_to_index(result.index_to_point(index)), -1, 0)
    expected = map_coordinates(array, there, order=1, mode="nearest")
    np.testing.assert_allclose(result.array, expected, rtol=0, atol=1e-6)


def test_round_trip_of_a_linear_image_leaves_no_rim():
    z, y, x = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in (12, 14, 16)], indexing="ij")
    volume = oblique_volume(100 + 3 * x - 2 * y + z)
    back = resample_to(resample(volume, 0.4), volume)
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(back.array[inner], volume.array[inner], atol=1e-3)
    # At the rim the border's repetition costs at most half a step along each axis.
    assert np.abs(back.array - volume.array).max() <= (3 + 2 + 1) / 2


def test_resample_to_another_grid():
    volume = Volume(np.arange(8, dtype=np.int16).reshape(2, 2, 2) + 10)
    shifted = Volume(np.zeros((2, 2, 3)), origin=(1, 0, 0))
    result = resample_to(volume, shifted)
    assert result.same_grid(shifted)
    assert result.array.tolist() == [[[11, 10, 10], [13, 10, 10]], [[15, 10, 10], [17, 10, 10]]]  # outside: the least
    turned = Volume(np.zeros((2, 2, 2)), origin=(1, 0, 0), direction=QUARTER_TURN)
    assert resample_to(volume, turned).array.tolist() == [[[11, 13], [10, 12]], [[15, 17], [14, 16]]]
    same = resample_to(volume, volume, order=0)
    np.testing.assert_array_equal(same.array, volume.array)


def test_resample_refuses():
    volume = oblique_volume()
    for spacing in (0, -1, math.nan, (1, 1, 0)):
        with pytest.raises(InputError, match="above 0"):
            resample(volume, spacing)
    for call in (lambda: resample(volume, 1, order=3), lambda: resample_to(volume, volume, order=2)):
        with pytest.raises(InputError, match="order"):
            call()


# Window


def test_window_by_hand():
    # 255 / 1400 a HU: -997 -> 0.546, -860 -> 25.5 exactly (half: up), -300 -> 127.5 exactly, 0 -> 182.14, 399 -> 254.8
    hu = np.array([-32768, -1000, -998, -997, -860, -300, 0, 399, 400, 3071])
    grey = [0, 0, 0, 1, 26, 128, 182, 255, 255, 255]
    for dtype in (np.int16, np.int32, np.float32, np.float64):
        result = window(hu.astype(dtype))
        assert result.dtype == np.uint8
        assert result.tolist() == grey
    assert window(np.array([-np.inf, np.inf])).tolist() == [0, 255]
    assert window(np.array([0, 255], np.uint8)).tolist() == [182, 229]


def test_window_agrees_with_exact_arithmetic_at_every_hu():
    hu = np.arange(-1100, 500)
    exact = [(510 * (min(max(int(value), -1000), 400) + 1000) + 1400) // 2800 for value in hu]
    assert window(hu.astype(np.int16)).tolist() == exact


def test_window_refuses_nan():
    with pytest.raises(InputError, match="1 of 2 voxels are NaN"):
        window(np.array([0, np.nan]))


def test_voxel_ml():
    assert Volume(np.zeros((2, 2, 2)), spacing=(0.5, 2.0, 10.0)).voxel_ml == pytest.approx(0.01)


def test_check_output_tells_before_the_work(tmp_path):
    check_output(tmp_path / "new" / "out.nii.gz")
    assert list(tmp_path.iterdir()) == []  # nothing is made yet
    with pytest.raises(InputError, match=r"out\.png.*unknown suffix"):
        check_output(tmp_path / "out.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        check_output(tmp_path / "file" / "out.nii.gz")
