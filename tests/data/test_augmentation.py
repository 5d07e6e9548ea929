"""Augmentation: zooms, and changes of grey values, within their limits and as often as documented."""

import numpy as np
import pytest
import torch

from airwaystudy.data import augmentation
from airwaystudy.data.augmentation import change_intensity, random_zoom, thick_slices


def test_zooms_are_drawn_evenly_within_their_limits_and_mirror_half_the_time():
    zooms = np.array([random_zoom(np.random.default_rng(seed)) for seed in range(4000)])
    common, extra = np.log(np.abs(zooms[:, 1])) / np.log(1.25), np.log(np.abs(zooms[:, 0] / zooms[:, 1])) / np.log(1.15)
    np.testing.assert_allclose(np.abs(zooms[:, 1]), np.abs(zooms[:, 2]))
    for exponent in (common, extra):
        assert -1 <= exponent.min() < -0.99 and 0.99 < exponent.max() <= 1
        assert np.histogram(exponent, 4)[0] == pytest.approx(np.full(4, 1000), abs=130)  # 4.5 standard deviations
    assert abs(np.corrcoef(common, extra)[0, 1]) < 0.07
    mirrored = (zooms < 0) @ [4, 2, 1]
    assert np.bincount(mirrored) == pytest.approx(np.full(8, 500), abs=95)


def test_filters_leave_no_mark_at_the_rim(monkeypatch):
    monkeypatch.setattr(augmentation, "NOISE", 0)
    levels = set()
    for seed in range(40):
        changed = change_intensity(torch.full((1, 16, 16, 16), 0.5), np.random.default_rng(seed))
        assert changed.max() - changed.min() < 5e-3  # 7 HU
        levels.add(round(changed.mean().item(), 3))
    assert len(levels) > 20 and min(levels) > 0.39 and max(levels) < 0.61  # 0.85 * 0.5 - 0.03, 1.15 * 0.5 + 0.03


def test_noise_is_of_every_strength_and_now_and_then_grainy():
    noises = [
        change_intensity(torch.full((1, 24, 24, 24), 0.5), np.random.default_rng(seed))[0].numpy()
        for seed in range(150)
    ]
    strength = np.array([noise.std() for noise in noises])
    assert (strength < 1e-5).mean() == pytest.approx(0.49, abs=0.12)  # 0.7 twice
    assert 0.03 < strength.max() < 0.1
    noisy = [noise - noise.mean() for noise in noises if noise.std() > 0.003]
    neighbours = np.array([(noise[1:] * noise[:-1]).mean() / noise.var() for noise in noisy])
    assert (np.abs(neighbours) < 0.05).mean() > 0.2 and (neighbours > 0.2).mean() > 0.1


def test_contrast_changes_by_gamma_gain_and_offset(monkeypatch):
    monkeypatch.setattr(augmentation, "NOISE", 0)
    slabs = torch.tensor([0.1, 0.45, 0.8]).repeat_interleave(16)[:, None].expand(1, 48, 48, 48)
    changed = [change_intensity(slabs, np.random.default_rng(seed))[0, 24, [8, 24, 40], 24] for seed in range(120)]
    low, middle, high = torch.stack(changed).numpy().T
    gain = (high - low) / 0.7
    drawn = {  # the draw, its limits and its probability
        "gamma": (np.log((middle - low) / (high - low)) / np.log(0.5), 0.8, 1, 1.25, 0.3),
        "gain": (gain, 0.85, 1, 1.15, 0.5),
        "offset": (low - 0.1 * gain, -0.03, 0, 0.03, 0.5),
    }
    for values, least, none, most, probability in drawn.values():
        slack = 0.15 * (most - least)
        assert least - 0.01 < values.min() < least + slack and most - slack < values.max() < most + 0.01
        assert (np.abs(values - none) > 5e-4).mean() == pytest.approx(probability, abs=0.15)


def test_slices_are_thick_now_and_then(monkeypatch):
    monkeypatch.setattr(augmentation, "NOISE", 0)
    for axis, share in ((1, 0.2), (2, 0), (3, 0)):
        striped = torch.tensor([0.3, 0.6]).repeat(8).expand(1, 16, 16, 16).movedim(-1, axis)
        flat = 0
        for seed in range(100):
            middle = change_intensity(striped, np.random.default_rng(seed))[:, 4:12, 4:12, 4:12]
            flat += (middle.amax(axis) - middle.amin(axis)).max().item() < 1e-6
        assert flat / 100 == pytest.approx(share, abs=0.1 * (share > 0))


def test_sharpness_changes_both_ways(monkeypatch):
    monkeypatch.setattr(augmentation, "NOISE", 0)
    edge = torch.full((1, 24, 24, 24), 0.3)
    edge[:, :, 12:] = 0.6
    steepest = [
        (change_intensity(edge, np.random.default_rng(seed)).diff(dim=2).max() / 0.3).item() for seed in range(100)
    ]
    assert min(steepest) < 0.7 and max(steepest) > 1.25  # 0.85 and 1.15 by contrast alone


def test_slices_are_blurred_more_than_their_pixels(monkeypatch):
    monkeypatch.setattr(augmentation, "NOISE", 0)
    monkeypatch.setattr(augmentation, "thick_slices", lambda image: image)
    softest = []
    for axis in (1, 2, 3):
        edge = torch.full((24, 24, 24), 0.3)
        edge[12:] = 0.6
        edge = edge.movedim(0, axis - 1)[None]
        changed = [change_intensity(edge, np.random.default_rng(seed)) for seed in range(60)]
        softest.append(min(image.diff(dim=axis).max().item() / 0.3 for image in changed))
    assert softest[0] < 0.37 < min(softest[1:])  # 0.32 for a blur of 1.2 voxels; 0.47 for 0.8, and 0.85 of it


def test_lowest_intensities_are_cut_now_and_then(monkeypatch):
    monkeypatch.setattr(augmentation, "NOISE", 0)
    image = torch.zeros(1, 16, 16, 16)
    image[:, 8:] = 0.5
    lowest = np.array([change_intensity(image, np.random.default_rng(seed)).min().item() for seed in range(200)])
    assert lowest.max() <= max(augmentation.FLOOR, 0.03 * 1.15) + 1e-6
    assert 0.4 < (lowest == 0).mean() < 0.8


def test_thick_slices_average_pairs_along_z_alone():
    ramp = torch.arange(8.0)[None, :, None, None].expand(1, 8, 6, 6)
    torch.testing.assert_close(thick_slices(ramp)[:, 1:7], ramp[:, 1:7])
    striped = torch.tensor([0.0, 1.0]).repeat(4)
    assert thick_slices(striped[None, :, None, None].expand(1, 8, 8, 8)).unique().tolist() == [0.5]
    across = striped[None, None, :, None].expand(1, 8, 8, 8)
    torch.testing.assert_close(thick_slices(across), across)
