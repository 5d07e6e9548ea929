"""Shares, erosion, dilation and ratios of gradients that are worked out by hand; radii of tubes; probes of a step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from airwaylib.gradients.measures import (
    Regions,
    airway_radius,
    foreground_share,
    from_encoder,
    loss_state,
    measure,
    measure_bins,
    probe,
    spread,
)
from airwaylib.losses.general_union import dice_loss
from airwaylib.networks.wingsnet import BLOCKS, WingsNet


def row(*values, channels=1):
    """A map (1, C, 1, 1, N) with the same values in each channel."""
    return torch.tensor(values, dtype=torch.float32).expand(1, channels, 1, 1, -1)


AIRWAY = np.array([[[False, True, True, True, False, False, False, False]]])
REGIONS = Regions.around(AIRWAY, {"generation": np.array([[[-1, 0, 0, 1, 9, 9, 9, 9]]])}, shell=2)
#                            shell  airway (3)     shell     far
GRADIENTS = row(3.0, 3.0, 1.0, -1.0, 2.0, 0.0, 0.0, 0.0), row(1.0, 1.0, -3.0, 1.0, 2, 4, 1, 0)


def test_the_shell_is_the_background_near_the_airway():
    assert REGIONS.shell.ravel().tolist() == [True, False, False, False, True, True, False, False]


def test_share_is_of_norms_and_nan_without_any_gradient():
    share = foreground_share(GRADIENTS)
    assert share.shape == (1, 1, 1, 8)
    np.testing.assert_allclose(share.ravel(), [0.75, 0.75, 0.25, 0.5, 0.5, 0, 0, np.nan])


def test_norms_run_over_channels():
    foreground = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1, 1)  # norm 5
    background = torch.tensor([0.0, 15.0]).view(1, 2, 1, 1, 1)
    assert foreground_share((foreground, background)).item() == 0.25


def test_measures_by_hand():
    assert measure(GRADIENTS, REGIONS) == {
        "erosion": pytest.approx(1 / 3),  # of 0.75, 0.25, 0.5: one half is not less than one half
        "dilation": pytest.approx(1 / 3),  # of 0.75, 0.5, 0
        "share": pytest.approx(0.5),
        "ratio": pytest.approx(10 / 13),
        "ratio_near": pytest.approx(10 / 12),
        "not_finite": pytest.approx(1 / 8),
    }


def test_parts_of_the_airway_by_hand():
    parts = {"thin": np.roll(AIRWAY, 1) & AIRWAY, "none": np.zeros_like(AIRWAY)}  # the last two: 0.25 and 0.5
    measures = measure(GRADIENTS, replace(REGIONS, parts=parts))
    assert (measures["erosion_thin"], measures["voxels_thin"], measures["voxels_none"]) == (0.5, 2, 0)
    assert np.isnan(measures["erosion_none"])


def test_small_gradients_are_no_zeros():
    tiny = tuple(1e-30 * part for part in GRADIENTS)  # their squares are 0 in float32
    assert measure(tiny, REGIONS) == pytest.approx(measure(GRADIENTS, REGIONS))


def test_bins_by_hand():
    assert measure_bins(GRADIENTS, REGIONS) == [
        {"by": "generation", "bin": 0, "voxels": 2, "erosion": 0.5, "share": 0.5},
        {"by": "generation", "bin": 1, "voxels": 1, "erosion": 0.0, "share": 0.5},
    ]


def test_what_is_not_a_number_is_reported_and_counts_nowhere_else():
    foreground = GRADIENTS[0].clone()
    foreground[..., 2] = torch.nan
    measures = measure((foreground, GRADIENTS[1]), REGIONS)
    assert measures["not_finite"] == pytest.approx(2 / 8)
    assert measures["erosion"] == 0  # of 0.75 and 0.5
    assert measures["share"] == pytest.approx(0.625)
    assert measures["ratio_near"] == pytest.approx(9 / 9)  # 3 + 3 + 1 + 2 + 0 to 1 + 1 + 1 + 2 + 4, without that voxel
    everywhere = torch.full_like(foreground, torch.nan), GRADIENTS[1]
    measures = measure(everywhere, REGIONS)
    assert np.isnan([measures[name] for name in ("erosion", "dilation", "share")]).all()
    assert measures["not_finite"] == 1


def test_a_coarse_voxel_stands_for_all_it_covers():
    coarse = row(1.0, 3.0, 0.0, 0.0), row(3.0, 1.0, 1.0, 1.0)  # shares 1/4, 3/4, 0, 0
    measures = measure(coarse, REGIONS)
    assert measures["erosion"] == pytest.approx(1 / 3)  # voxel 1 lies in the first, 2 and 3 in the second
    assert measures["dilation"] == 0


def test_share_of_the_encoder_group():
    groups = {"encoder": (row(*[1.0] * 8), row(*[-0.5] * 8)), "decoder": (row(*[1.0] * 8), row(*[0.5] * 8))}
    gradients = row(*[2.0] * 8), row(*[0.0] * 8), groups
    assert from_encoder(groups, REGIONS) == pytest.approx(0.25)  # |1 - 0.5| to |1 + 0.5|
    assert measure(gradients, REGIONS)["from_encoder"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("size", "cells", "expected"),
    [
        (4, 4, [0, 1, 2, 3]),
        (8, 4, [0, 0, 1, 1, 2, 2, 3, 3]),
        (5, 3, [0, 0, 1, 1, 2]),  # padded to 6
        (20, 3, [0] * 8 + [1] * 8 + [2] * 4),  # padded to 24
        (21, 24, list(range(21))),  # padded, at full resolution
    ],
)
def test_spreading_repeats_the_cells_of_the_padded_image(size, cells, expected):
    maps = np.arange(cells).reshape(1, 1, -1)
    assert spread(maps, (1, 1, size)).ravel().tolist() == expected
    assert spread(maps.reshape(-1, 1, 1), (size, 1, 1)).ravel().tolist() == expected


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 2.0)])
def test_radius_of_tubes(spacing):
    _, y, x = np.mgrid[:30, :41, :61]
    tubes = {3.0: (y - 20) ** 2 + (x - 12) ** 2, 7.0: (y - 20) ** 2 + (x - 40) ** 2}  # radii in voxels across
    airway = np.any([square <= radius**2 for radius, square in tubes.items()], 0)
    found = airway_radius(airway, spacing)
    for radius, square in tubes.items():
        inside = found[10:20][(square <= radius**2)[10:20]]
        assert inside == pytest.approx(radius * spacing[0], abs=0.75 * spacing[0])
    assert (found[~airway] == 0).all()


def test_radius_of_a_row_of_single_voxels_is_half_a_voxel():
    airway = np.zeros((20, 7, 7), bool)
    airway[:, 3, 3] = True
    assert (airway_radius(airway)[airway] == 0.5).all()
    assert (airway_radius(airway, (0.8, 0.8, 2.0))[airway] == np.float32(0.4)).all()


@pytest.fixture
def batch():
    image = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    label = torch.zeros_like(image)
    label[..., 6:10, 6:10] = 1
    return {"image": image, "label": label}


def test_a_probe_is_a_row_a_layer_in_the_order_of_the_forward_pass(batch):
    rows = probe(WingsNet(1).eval(), dice_loss, batch, None, 1.0)
    assert [row["layer"] for row in rows] == list(BLOCKS)
    assert all(0 <= row[name] <= 1 for row in rows for name in ("erosion", "dilation"))
    assert all(row["layer_ratio"] > 0 for row in rows)
    assert len({row["ratio"] for row in rows}) == len({row["ratio_logit"] for row in rows}) == 1


def test_the_ratio_of_a_probe_is_the_closed_form(batch):
    image, label = batch["image"][:1], batch["label"][:1]
    network = WingsNet(1).eval()
    with torch.no_grad():
        index = 1 - dice_loss(torch.sigmoid(network(image).decoder), label).item()
    state = loss_state(network, dice_loss, image, label, None)
    at_logit = state.pop("ratio_logit")
    assert state == {"ratio": pytest.approx(2 / index - 1, rel=1e-4), "index": pytest.approx(index)}
    p, airway = torch.sigmoid(network(image).decoder.detach()), label > 0.5
    spread = p * (1 - p)  # Dice's dL/dp is one number on the airway and another on the background
    expected = state["ratio"] * spread[airway].mean() / spread[~airway].mean()
    assert at_logit == pytest.approx(expected.item(), rel=1e-4)


def test_a_probe_measures_the_first_crop_alone(batch):
    network = WingsNet(1).eval()
    alone = probe(network, dice_loss, {name: part[:1] for name, part in batch.items()}, None, 1.0)
    assert probe(network, dice_loss, batch, None, 1.0) == alone


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_probe_of_one_class_has_no_rows(batch, value):
    batch["label"].fill_(value)
    assert probe(WingsNet(1).eval(), dice_loss, batch, None, 1.0) == []
