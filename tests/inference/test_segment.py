import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mini_phantoms import mini
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from airwaylib.errors import InputError
from airwaylib.images.lungs import lung_mask
from airwaylib.images.masks import bounding_box, largest_component
from airwaylib.images.volume import Volume, read_ct, window
from airwaylib.inference.segment import (
    airway_component,
    airway_mask,
    choose_device,
    predict_probability,
    probability_map,
    segment,
)
from airwaylib.networks.checkpoints import CheckpointInfo

DATA = Path(__file__).parents[3] / "shared/data"
INFO = CheckpointInfo("fake", {}, window=32, spacing=None)


class Logits(NamedTuple):
    encoder: None
    decoder: Tensor


class Fake(nn.Module):
    """Logits by a given rule of the image in [0, 1]; remembers the windows it was given."""

    def __init__(self, rule):
        super().__init__()
        self.rule, self.windows = rule, []

    def forward(self, image):
        assert not self.training
        self.windows.append(tuple(image.shape))
        return Logits(None, self.rule(image))


def air():
    """A network that takes what is darker than -950 HU (9 of 255) for airway: logit +20, else -20."""
    return Fake(lambda image: torch.where(image < 9.1 / 255, 20.0, -20.0))


def thorax():
    """Lungs (z 8-40, two of 40 x 25 voxels) in a body, a trachea of 6 x 6 voxels down to z 20, and two main bronchi."""
    hu = np.full((48, 70, 90), 40, np.int16)
    hu[8:40, 15:55, 10:35] = hu[8:40, 15:55, 55:80] = -850
    airway = np.zeros(hu.shape, bool)
    airway[20:, 32:38, 42:48] = True
    airway[20:25, 32:37, 20:70] = True
    hu[airway] = -1000
    return hu, airway


def logit(p):
    return float(np.log(p / (1 - p)))


# ------------------------------------------------------------------------------------------------- predict_probability


def test_probability_is_the_sigmoid_of_the_decoder_of_the_scaled_image():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 60), dtype=np.uint8)
    probability = predict_probability(Fake(lambda x: 4 * x - 2), image, np.ones(image.shape, bool), window=32)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(2 - 4 * (image / 255.0))), atol=1e-6)


def test_mean_over_the_windows_by_hand():
    # One axis of 48 voxels, windows at 0, 16 (stride 32 / 2); each window's probability is its number: .2, then .6.
    rule = Fake(lambda x: torch.full_like(x, logit([0.2, 0.6][len(rule.windows) - 1])))
    image, lung = np.zeros((32, 32, 48), np.uint8), np.ones((32, 32, 48), bool)
    probability = predict_probability(rule, image, lung, window=32, overlap=0.5)
    assert rule.windows == [(1, 1, 32, 32, 32)] * 2
    np.testing.assert_allclose(probability[:, :, :16], 0.2, atol=1e-6)
    np.testing.assert_allclose(probability[:, :, 16:32], 0.4, atol=1e-6)
    np.testing.assert_allclose(probability[:, :, 32:], 0.6, atol=1e-6)


def local(x):
    """Logits that depend on the place in the window, so that the windows of a voxel disagree."""
    return 4 * x - 2 + torch.linspace(-2, 2, x.shape[-1]) + torch.linspace(-1, 1, x.shape[-3])[:, None, None]


@pytest.mark.parametrize("overlap", [0, 0.25, 0.45, 0.5])
def test_windows_without_lung_are_skipped_and_nothing_changes_in_the_lung(overlap):
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 101), dtype=np.uint8)
    lung = np.zeros(image.shape, bool)
    lung[3:9, 4:30, 5:40] = True
    every, some = Fake(local), Fake(local)
    whole = predict_probability(every, image, np.ones(image.shape, bool), 32, overlap)
    part = predict_probability(some, image, lung, 32, overlap)
    np.testing.assert_array_equal(part[lung], whole[lung])
    assert (part <= whole + 1e-6).all() and part[60, 40, 90] == 0
    stride = int(32 * (1 - overlap))
    starts = [[min(k * stride, n - 32) for k in range(-(-(n - 32) // stride) + 1)] for n in image.shape]
    assert len(every.windows) == np.prod([len(along) for along in starts])
    ends = zip(starts, (3, 4, 5), (9, 30, 40), strict=True)
    near = [[s for s in along if s < stop and s + 32 > first] for along, first, stop in ends]
    assert len(some.windows) == np.prod([len(along) for along in near]) < len(every.windows)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5])
def test_the_mean_is_monais(overlap):
    """MONAI's sliding window over the whole image, its weights constant, to the last bit."""
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 70), dtype=np.uint8)
    ours = predict_probability(Fake(local), image, np.ones(image.shape, bool), 32, overlap, progress=False)
    whole = torch.from_numpy(image)[None, None].float() / 255
    theirs = sliding_window_inference(whole, (32, 32, 32), 1, lambda x: torch.sigmoid(local(x)), overlap)
    np.testing.assert_array_equal(ours, theirs[0, 0].numpy())


def test_without_any_lung_nothing_runs():
    network = Fake(local)
    assert not predict_probability(network, np.zeros((40, 40, 40), np.uint8), np.zeros((40, 40, 40), bool), 32).any()
    assert network.windows == []


def test_along_a_short_axis_the_window_is_as_long_as_the_axis_and_the_border_is_repeated():
    ramp = np.arange(20, dtype=np.uint8)[:, None, None]
    image = np.broadcast_to(ramp, (20, 33, 7)).copy()
    seen = []
    network = Fake(lambda x: seen.append(x) or 255 * x - 10)
    probability = predict_probability(network, image, np.ones(image.shape, bool), window=32)
    np.testing.assert_allclose(probability[:, 0, 0], 1 / (1 + np.exp(10.0 - np.arange(20))), atol=1e-6)
    assert (probability == probability[:, :1, :1]).all()
    assert [tuple(x.shape) for x in seen] == [(1, 1, 32, 32, 16)] * 2
    along_z = (255 * seen[0][0, 0, :, 0, 0]).round().int().tolist()
    assert along_z == [0] * 6 + list(range(20)) + [19] * 6


def test_the_network_is_left_in_its_mode():
    for training in (True, False):
        network = air().train(training)
        predict_probability(network, np.zeros((20, 20, 20), np.uint8), np.ones((20, 20, 20), bool), window=16)
        assert network.training is training


def test_progress_goes_to_stderr_once_a_tenth_and_can_be_off(capsys):
    image, lung = np.zeros((16, 16, 168), np.uint8), np.ones((16, 16, 168), bool)  # windows at 0, 8, ... 152: 20
    predict_probability(air(), image, lung, window=16, progress=False)
    assert capsys.readouterr() == ("", "")
    predict_probability(air(), image, lung, window=16, overlap=0.5)
    out, err = capsys.readouterr()
    assert out == "" and "20/20" in err and err.count("\r") <= 13


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        ({"lung": np.ones((20, 20, 21), bool)}, r"lung mask of shape \(20, 20, 21\).*\(20, 20, 20\)"),
        ({"window": 8}, "window 8: at least 16"),
        ({"overlap": 1.0}, "overlap 1.0"),
        ({"overlap": -0.1}, "overlap -0.1"),
    ],
)
def test_faulty_arguments_are_told(faulty, message):
    arguments = {"image": np.zeros((20, 20, 20), np.uint8), "lung": np.ones((20, 20, 20), bool)} | faulty
    with pytest.raises(InputError, match=message):
        predict_probability(air(), **arguments)


# ------------------------------------------------------------------------------------------------------------- segment


def test_segment_finds_the_airway_exactly():
    hu, airway = thorax()
    mask = segment(Volume(hu, (1.2, 1.2, 1.2)), air(), INFO, progress=False)
    assert mask.array.dtype == bool
    np.testing.assert_array_equal(mask.array, airway)


@pytest.mark.parametrize("spacing", [None, 1.0])
def test_segment_is_the_two_steps(spacing):
    ct, info = Volume(thorax()[0], (1.2, 1.2, 1.2)), dataclasses.replace(INFO, spacing=spacing)
    probability, lung = probability_map(ct, air(), info, progress=False), lung_mask(ct)
    assert probability.same_grid(ct) and probability.array.dtype == np.float32
    box, outside = bounding_box(lung, 5), probability.array.copy()
    outside[box] = 0
    assert not outside.any() and 0.9 < probability.array.max() <= 1
    both = [airway_mask(probability, lung, 0.3), segment(ct, air(), info, 0.3, progress=False)]
    np.testing.assert_array_equal(both[0].array, both[1].array)


def test_only_the_largest_6_connected_component_stays():
    hu, airway = thorax()
    hu[30, 20, 20] = -1000
    hu[25, 37, 70] = -1000  # touches the bronchus by an edge only
    np.testing.assert_array_equal(segment(Volume(hu, (1.2, 1.2, 1.2)), air(), INFO, progress=False).array, airway)


def test_the_component_that_reaches_farthest_through_the_lungs_stays():
    mask, lung = np.zeros((2, 12, 9, 9), bool)
    mask[0, 8, 8] = True  # the first component, none of it in the lungs
    mask[1, 1, 1:8] = True  # the longest row, but hardly in the lungs
    mask[5:7, 5:7, 1:4] = True  # most voxels in the lungs
    mask[8, 8, 1:6] = mask[10, 8, 1:3] = True  # farthest through the lungs: five; and a rest
    lung[1, 1, 1:3] = lung[5:] = True
    assert np.argwhere(airway_component(mask, lung, (1, 1, 1))).tolist() == [[8, 8, x] for x in range(1, 6)]
    thick = airway_component(mask, lung, (1, 1, 5))  # two slices of 5 mm are more than five of 1 mm
    assert thick.sum() == 12 and thick[5, 5, 1]
    assert (airway_component(mask, ~mask, (1, 1, 1)) == largest_component(mask)).all()  # none in the lungs
    assert not airway_component(np.zeros_like(mask), lung, (1, 1, 1)).any()


def test_a_gap_outside_the_body_does_not_win_over_the_airway():
    hu, airway = thorax()
    hu[:, 9:13] = -1000  # within the lungs' box and its margin, and larger than the airway
    mask = segment(Volume(hu, (1.2, 1.2, 1.2)), air(), INFO, progress=False)
    np.testing.assert_array_equal(mask.array, airway)


def test_the_mask_lies_on_the_ct_grid_also_when_it_is_anisotropic_and_oblique():
    hu, airway = thorax()
    c, s = np.cos(0.3), np.sin(0.3)
    place = ((1.1, 1.3, 1.9), (-120.5, 33.0, 7.25), (c, -s, 0, s, c, 0, 0, 0, 1))
    for spacing in (None, 1.0):
        mask = segment(Volume(hu, *place), air(), dataclasses.replace(INFO, spacing=spacing), progress=False)
        assert (mask.spacing, mask.origin, mask.direction) == place
        assert mask.array.shape == airway.shape
        both = 2 * (mask.array & airway).sum() / (mask.array.sum() + airway.sum())
        assert both == 1 if spacing is None else both > 0.95


@pytest.mark.parametrize(
    ("spacing", "shape"),  # the lungs' box is 60 x 58 x 58 voxels of 2 mm
    [(None, (64, 64, 64)), (2.0, (64, 64, 64)), (2.5, (48, 48, 48)), (4.0, (32, 32, 32))],  # up to multiples of 16
)
def test_the_network_sees_the_spacing_of_its_checkpoint(spacing, shape):
    hu = np.full((60, 60, 60), 40, np.int16)
    hu[4:56, 6:54, 6:54] = -850
    seen = []
    network = Fake(lambda x: seen.append(x) or torch.full_like(x, -20.0))
    info = CheckpointInfo("fake", {}, window=64, spacing=spacing)
    with pytest.warns(UserWarning, match="no airway found"):
        segment(Volume(hu, (2.0, 2.0, 2.0)), network, info, progress=False)
    assert [tuple(x.shape) for x in seen] == [(1, 1, *shape)]


def test_a_ct_thinner_than_the_window():
    hu, airway = thorax()
    mask = segment(
        Volume(hu[10:30], (1.6, 1.6, 2.5)), air(), dataclasses.replace(INFO, window=64), device="cpu", progress=False
    )
    np.testing.assert_array_equal(mask.array, airway[10:30])


@pytest.mark.parametrize(("threshold", "found"), [(0.3, True), (0.5, True), (0.51, False), (0.9, False)])
def test_voxels_at_or_above_the_threshold_are_airway(threshold, found):
    hu, airway = thorax()
    network = Fake(lambda image: torch.where(image < 9.1 / 255, 0.0, -20.0))  # probability 1/2 in the airway, exactly
    ct = Volume(hu, (1.2, 1.2, 1.2))
    if found:
        np.testing.assert_array_equal(segment(ct, network, INFO, threshold, progress=False).array, airway)
    else:
        with pytest.warns(UserWarning, match=rf"no airway found: the highest probability is 0.500, .* {threshold:g}"):
            assert not segment(ct, network, INFO, threshold, progress=False).array.any()


def test_a_checkpoint_brings_its_own_threshold():
    hu, airway = thorax()
    network = Fake(lambda image: torch.where(image < 9.1 / 255, -0.5, -20.0))  # probability 0.38 in the airway
    ct, info = Volume(hu, (1.2, 1.2, 1.2)), dataclasses.replace(INFO, probability=0.3)
    np.testing.assert_array_equal(segment(ct, network, info, progress=False).array, airway)
    with pytest.warns(UserWarning, match="no airway found"):
        segment(ct, network, info, threshold=0.5, progress=False)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((15, 60, 60), {}, r"\(15, 60, 60\) voxels .* too small: 16 along each axis"),
        ((40, 60, 60), {"threshold": 0.0}, "threshold 0.0"),
        ((40, 60, 60), {"threshold": 1.0}, "threshold 1.0"),
        ((40, 60, 60), {"threshold": float("nan")}, "threshold nan"),
        ((40, 60, 60), {"device": "gpu"}, "device 'gpu' is unknown: choose auto, cpu or cuda"),
        ((40, 60, 60), {}, "no lung found"),
    ],
)
def test_what_cannot_be_segmented_is_told(shape, arguments, message):
    with pytest.raises(InputError, match=message):
        segment(Volume(np.full(shape, 40)), air(), INFO, **arguments)


def test_devices():
    cuda = torch.cuda.is_available()
    assert choose_device("auto") == torch.device("cuda" if cuda else "cpu")
    assert choose_device("cpu") == torch.device("cpu")
    if not cuda:
        with pytest.raises(InputError, match="no CUDA device is visible here; use auto or cpu"):
            choose_device("cuda")


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    hu, airway = thorax()
    np.testing.assert_array_equal(segment(Volume(hu, (1.2, 1.2, 1.2)), air(), INFO, device="cuda").array, airway)


def dark(ct):
    """What `air()` must find by a window over the lungs' box, whatever the windows."""
    expected, lung = np.zeros(ct.array.shape, bool), lung_mask(ct)
    box = bounding_box(lung, 5)
    expected[box] = airway_component(window(ct.array[box]) <= 9, lung[box], ct.spacing)
    return expected


def test_a_phantom():
    ct = mini(0).ct
    mask = segment(ct, air(), dataclasses.replace(INFO, window=64), progress=False)
    np.testing.assert_array_equal(mask.array, dark(ct))


def test_a_patient_with_fewer_slices_than_the_window():
    path = DATA / "lidc/LIDC-IDRI-0001_ct_lungcrop.nii.gz"
    if not path.exists():
        pytest.skip(f"no real CT at {path}")
    ct = read_ct(path)
    mask = segment(ct, air(), dataclasses.replace(INFO, window=128), progress=False)
    assert mask.same_grid(ct)
    np.testing.assert_array_equal(mask.array, dark(ct))
