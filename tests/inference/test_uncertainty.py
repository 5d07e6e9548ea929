"""Deviations over channel dropout against ordinary training-mode passes, window by window, and by a closed form."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from airwaylib.errors import InputError
from airwaylib.images.lungs import lung_mask
from airwaylib.images.masks import bounding_box
from airwaylib.images.volume import Volume
from airwaylib.inference.segment import predict_probability, segment, window_means
from airwaylib.inference.uncertainty import check_dropout, probability_and_deviation, segment_with_uncertainty
from airwaylib.networks.checkpoints import CheckpointInfo
from airwaylib.networks.fast import FastWingsNet
from airwaylib.networks.wingsnet import WingsNet, channel_dropout

INFO = CheckpointInfo("wingsnet", {}, window=80, spacing=None)


def network(seed=0):
    torch.manual_seed(seed)
    return FastWingsNet(1).eval()


def thorax():
    """Two lungs in a body, of some texture: a CT of 36 x 60 x 80 voxels of 2 mm."""
    hu = np.full((36, 60, 80), 40, np.int16)
    hu[4:32, 8:52, 6:36] = hu[4:32, 8:52, 44:74] = -850
    return hu + np.random.default_rng(0).integers(-30, 30, hu.shape, dtype=np.int16)


def drawn(model, image, samples, seed):
    """Probabilities (N, 1, D, H, W) of N ordinary passes in training mode with the draws of `seed`."""
    model.train()
    copies = torch.as_tensor(image).expand(samples, -1, -1, -1, -1)
    with torch.no_grad():
        probability = torch.sigmoid(model(copies, torch.Generator().manual_seed(seed)).decoder)
    model.eval()
    return probability


def test_deviation_is_that_of_ordinary_passes():
    model, image = network(), torch.rand(1, 1, 16, 17, 20, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        both = probability_and_deviation(model, image, 5, seed=3)
    expected = drawn(model, image, 5, seed=3)
    mean = expected.mean(0)
    deviation = ((expected - mean) ** 2).sum(0).div(4).sqrt()
    assert both.shape == (1, 2, 16, 17, 20) and both.dtype == torch.float32
    torch.testing.assert_close(both[0, 1:], deviation, rtol=0, atol=1e-6)
    torch.testing.assert_close(both[:, :1], torch.sigmoid(model(image).decoder), rtol=0, atol=1e-6)
    assert deviation.max() > 0.02


def test_deviation_in_closed_form():
    """Taps that give (1, 0), whatever the image: each draw's logit is the sum of the kept blocks' factors."""
    model = network()
    for name in model.groups["decoder"]:
        tap = model.get_submodule(name).tap
        nn.init.zeros_(tap.weight)
        tap.bias.data = torch.tensor([1.0, 0.0])
    head = model.heads["decoder"]
    nn.init.ones_(head.weight), nn.init.constant_(head.bias, -5.0)
    generator = torch.Generator().manual_seed(2)
    channel_dropout(7, 24, generator)  # the encoder's
    factors = channel_dropout(7, 12, generator)
    logits = factors[:, ::2].sum(1) - 5
    with torch.inference_mode():
        probability, deviation = probability_and_deviation(model, torch.rand(1, 1, 16, 16, 16), 7, seed=2)[0]
    torch.testing.assert_close(deviation.double(), logits.sigmoid().std().expand(16, 16, 16), rtol=1e-5, atol=0)
    assert probability[0, 0, 0].item() == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-6)


def test_every_window_sees_the_same_draws_and_overlaps_are_averaged():
    model = network()
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 24), dtype=np.uint8)  # windows at 0 and 8

    def both(patch):
        return probability_and_deviation(model, patch, 4, seed=5)

    maps = window_means(model, both, image, np.ones(image.shape, bool), 16, 0.5, "cpu", False)
    ends = [drawn(model, image[None, None, :, :, x : x + 16] / np.float32(255), 4, 5).std(0)[0] for x in (0, 8)]
    np.testing.assert_allclose(maps[1, :, :, :8], ends[0][:, :, :8], atol=1e-5)
    np.testing.assert_allclose(maps[1, :, :, 16:], ends[1][:, :, 8:], atol=1e-5)
    np.testing.assert_allclose(maps[1, :, :, 8:16], (ends[0][:, :, 8:] + ends[1][:, :, :8]) / 2, atol=1e-5)
    alone = predict_probability(model, image, np.ones(image.shape, bool), 16, 0.5, progress=False)
    np.testing.assert_array_equal(maps[0], alone)


def test_mask_is_the_ordinary_one_and_the_map_lies_on_the_ct_s_grid():
    ct, model = Volume(thorax(), (2, 2, 2), (5, 6, 7), (0, 1, 0, 1, 0, 0, 0, 0, 1)), network()
    options = {"threshold": 0.05, "progress": False}
    for spacing in (None, 3.0):
        info = dataclasses.replace(INFO, spacing=spacing)
        mask, uncertainty = segment_with_uncertainty(ct, model, info, 3, **options)
        assert uncertainty.same_grid(ct) and uncertainty.array.dtype == np.float32
        np.testing.assert_array_equal(mask.array, segment(ct, model, info, **options).array)
        box = bounding_box(lung_mask(ct), 5)
        assert uncertainty.array[box].max() > 0.01
        outside = uncertainty.array.copy()
        outside[box] = 0
        assert not outside.any()
    assert mask.array.any() and not mask.array.all()


def test_the_seed_makes_it_reproducible():
    ct, model = Volume(thorax(), (2, 2, 2)), network()
    options = {"threshold": 0.05, "progress": False}
    first, again, other = (segment_with_uncertainty(ct, model, INFO, 2, seed, **options)[1].array for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


@pytest.mark.parametrize(
    ("model", "samples", "message"),
    [
        (nn.Conv3d(1, 1, 1), 8, "no uncertainty from this Conv3d.*'both' or 'decoder'"),
        (WingsNet(1, "final"), 8, "no uncertainty from this WingsNet"),
        (WingsNet(1, "deep"), 8, "no uncertainty from this WingsNet"),
        (WingsNet(1), 1, "samples 1: at least 2"),
    ],
)
def test_what_has_no_deviation_is_told(model, samples, message):
    with pytest.raises(InputError, match=message):
        check_dropout(model, samples)
    with pytest.raises(InputError, match=message):
        segment_with_uncertainty(Volume(thorax()), model, INFO, samples)
    check_dropout(WingsNet(1, "decoder"), 2)
