from pathlib import Path

import numpy as np
import pytest
from mini_phantoms import mini
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.images.lungs import AIR, enlarge, lung_mask, sides_with_body
from airwaylib.images.masks import bounding_box
from airwaylib.images.volume import Volume, read_ct

DATA = Path(__file__).parents[3] / "shared/data"


def thorax():
    """Body of 40 HU with 10 voxels of air around, two lungs (z 10-50, y 25-75) and a trachea up through the top."""
    hu = np.full((60, 100, 120), -1000, np.int16)
    hu[:, 10:90, 10:110] = 40
    hu[10:50, 25:75, 20:55] = -850
    hu[10:50, 25:75, 65:100] = -850
    hu[30:, 45:55, 55:65] = -1000
    return hu


LUNGS = 2 * 40 * 50 * 35 + 30 * 10 * 10  # voxels of the thorax


def test_both_lungs_and_the_trachea_exactly():
    mask = lung_mask(Volume(thorax()))
    assert mask.dtype == bool
    assert mask.sum() == LUNGS
    assert mask[10:50, 25:75, 20:55].all() and mask[10:50, 25:75, 65:100].all() and mask[30:, 45:55, 55:65].all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 1.25), (0.6, 0.6, 5.0), (4.0, 4.0, 4.0)])
def test_any_spacing(spacing):
    assert lung_mask(Volume(thorax(), spacing)).sum() == LUNGS


def test_lungs_that_a_tight_crop_brings_to_all_borders_are_kept():
    y, x = np.ogrid[:100, :120]
    round_lungs = (np.hypot((y - 49.5) / 25, (x - 36.5) / 17) < 1) | (np.hypot((y - 49.5) / 25, (x - 82.5) / 17) < 1)
    hu = np.full((60, 100, 120), 40)
    hu[10:50, round_lungs] = -850
    for inset, share in ((0, 0.99), (1, 0.99)):
        crop = (slice(10, 50), slice(25 + inset, 75 - inset), slice(20 + inset, 100 - inset))
        ct = Volume(hu[crop], (1.5, 1.5, 1.5))
        mask = lung_mask(ct)
        assert mask.sum() > share * (ct.array == -850).sum()
        assert bounding_box(mask, 5) == tuple(slice(0, size) for size in mask.shape)


@pytest.mark.parametrize("padding", [-1024, -2000, -3024])
def test_padding_outside_the_field_of_view_is_no_lung(padding):
    hu = thorax()
    y, x = np.ogrid[:100, :120]
    hu[:, np.hypot((y - 49.5) / 50, (x - 59.5) / 60) > 1.2] = padding
    assert lung_mask(Volume(hu)).sum() == LUNGS
    assert lung_mask(Volume(hu.astype(np.float32))).sum() == LUNGS


def test_air_of_the_bowel_and_the_table_is_dropped():
    hu = np.concatenate([np.full((50, 100, 120), 40, np.int16), thorax()])
    hu[:50] = hu[51]
    hu[20:44, 25:75, 20:100] = -995  # 96 ml of gas
    hu[6:14, 14:84, 12:108] = -700  # 54 ml, of which more than half are a rim of partial volume
    hu[8:12, 16:82, 14:106] = -995
    hu[46:49, 40:45, 40:45] = -850  # a small bubble
    hu[:, 93:95, 5:115] = hu[:, 98:, 5:115] = hu[:, 93:, 5:7] = hu[:, 93:, 113:115] = 200  # the table's shell
    hu[:, 95:98, 7:113] = -930  # 35 ml of its foam
    assert lung_mask(Volume(hu)).sum() == LUNGS


def test_air_between_head_and_arms_is_dropped():
    hu = np.concatenate([thorax(), np.full((40, 100, 120), -1000, np.int16)])
    hu[60:, 60:90, 10:110] = 40  # behind, and both sides: open to the front
    hu[60:, 10:60, 10:30] = hu[60:, 10:60, 90:110] = 40
    hu[60:, 10:60, 30:90] = -960  # 120 ml, not pure gas: hair, clothes
    hu[57:60, 10:90, 10:110] = 40  # the trachea ends below
    assert lung_mask(Volume(hu)).sum() == LUNGS - 3 * 10 * 10


def test_a_trachea_that_opens_through_the_mouth():
    hu = np.concatenate([thorax(), np.full((60, 100, 120), -1000, np.int16)])
    hu[57:60, :, 10:110] = np.where(hu[57:60, :, 10:110] == -1000, -1000, 40)
    hu[60:, 40:90, 10:110] = 40  # head, and an arm to its left: air in front has body on two sides
    hu[60:, 10:40, 10:20] = 40
    hu[60:70, 45:55, 55:65] = -1000  # the trachea, and from it the mouth
    hu[65:70, 40:50, 55:65] = -1000
    mask = lung_mask(Volume(hu))
    assert mask[:60].sum() == LUNGS
    assert mask[60:70, 45:55, 55:65].all() and not mask[60:, :36].any() and not mask[75:].any()


def test_a_slab_cuts_the_lungs_at_both_ends():
    assert lung_mask(Volume(thorax()[15:45])).sum() == 2 * 30 * 50 * 35 + 15 * 10 * 10


def test_emphysema_is_lung_yet():
    hu = thorax()
    hu[hu == -850] = -950
    assert lung_mask(Volume(hu)).sum() == LUNGS


@pytest.mark.parametrize("hu", [40, -1000, -850])
def test_no_lung_is_an_error_that_says_what_was_looked_for(hu):
    with pytest.raises(InputError, match=r"no lung found .*-975 to -400 HU, at least 100 ml.*0 ml found"):
        lung_mask(Volume(np.full((40, 60, 60), hu)))


def test_lungs_of_less_than_100_ml_are_an_error():
    with pytest.raises(InputError, match="no lung found"):
        lung_mask(Volume(thorax(), (0.8, 0.8, 0.8)))  # 73 ml


def test_sides_with_body_by_hand():
    hu = np.full((2, 5, 6), -1000)
    hu[0, 1:3, 1:3] = 40
    hu[1, 1:3, 1:3] = 40
    hu[1, 3:, 1] = hu[1, 3:, 5] = 40  # both reach the border y = 4: a crop that cuts what is between them
    some = [0, 1, 1, 0, 0, 0]
    assert sides_with_body(hu)[0].tolist() == [some, [1, 4, 4, 1, 1, 1], [1, 4, 4, 1, 1, 1], some, some]
    assert sides_with_body(hu)[1].tolist() == [
        [0, 1, 1, 1, 1, 1],
        [1, 4, 4, 2, 2, 2],
        [1, 4, 4, 2, 2, 2],
        [1, 4, 4, 3, 3, 4],
        [1, 4, 4, 3, 3, 4],
    ]


def test_enlarge_takes_the_nearest():
    coarse = np.array([True, False, True]).reshape(1, 1, 3)  # voxels 0, 3, 6 of 8
    assert enlarge(coarse, [1, 1, 3], (1, 1, 8))[0, 0].tolist() == [1, 1, 0, 0, 0, 1, 1, 1]


def test_phantom_lungs():
    phantom = mini(0)
    truth = phantom.lung.array | phantom.airway.array
    air = truth & (phantom.ct.array < AIR)
    mask = lung_mask(phantom.ct)
    assert (mask & air).sum() / air.sum() > 0.999
    assert (mask & truth).sum() / mask.sum() > 0.98
    # The wall's half-filled voxels are below AIR where fat lies behind it; a little gas of the oesophagus joins in.
    assert (mask & ndimage.binary_dilation(truth)).sum() / mask.sum() > 0.998


@pytest.mark.parametrize(
    ("name", "millilitres", "box"),
    [
        ("lidc/LIDC-IDRI-0001_ct_lungcrop.nii.gz", 3696, ((0, 116), (6, 288), (6, 377))),
        ("lidc/LIDC-IDRI-0002_ct_lungcrop.nii.gz", 5219, ((1, 248), (7, 293), (7, 414))),
        ("cip-64/ct-64.nrrd", 4631, ((2, 79), (3, 57), (0, 64))),
        ("dicom-lidc-0002", 1053, ((0, 30), (111, 390), (73, 449))),
    ],
)
def test_patients(name, millilitres, box):
    if not (DATA / name).exists():
        pytest.skip(f"no real CT at {DATA / name}")
    ct = read_ct(DATA / name)
    mask = lung_mask(ct)
    # Numbers of masks that were looked at; two voxels and 2 % leave room for another threshold, not for a lost lobe.
    assert mask.sum() * np.prod(ct.spacing) / 1000 == pytest.approx(millilitres, rel=0.02)
    assert np.abs(np.array([(side.start, side.stop) for side in bounding_box(mask, 5)]) - box).max() <= 2
