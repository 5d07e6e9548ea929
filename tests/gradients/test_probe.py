"""Probes: a row a layer, the loss's own ratio, and nothing from a crop of one class."""

import pytest
import torch

from airwaylib.gradients.measures import loss_state, probe
from airwaylib.losses.general_union import dice_loss
from airwaylib.networks.wingsnet import BLOCKS, WingsNet


@pytest.fixture
def batch():
    image = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    label = torch.zeros_like(image)
    label[..., 6:10, 6:10] = 1
    return {"image": image, "label": label}


def test_a_row_a_layer_in_the_order_of_the_forward_pass(batch):
    rows = probe(WingsNet(1).eval(), dice_loss, batch, None, 1.0)
    assert [row["layer"] for row in rows] == list(BLOCKS)
    assert all(0 <= row[name] <= 1 for row in rows for name in ("erosion", "dilation"))
    assert all(row["layer_ratio"] > 0 for row in rows)
    assert len({row["ratio"] for row in rows}) == len({row["ratio_logit"] for row in rows}) == 1


def test_ratio_is_the_closed_form(batch):
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


def test_only_the_first_crop_counts(batch):
    network = WingsNet(1).eval()
    alone = probe(network, dice_loss, {name: part[:1] for name, part in batch.items()}, None, 1.0)
    assert probe(network, dice_loss, batch, None, 1.0) == alone


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_crop_of_one_class_gives_no_rows(batch, value):
    assert (
        probe(WingsNet(1).eval(), dice_loss, batch | {"label": torch.full_like(batch["label"], value)}, None, 1.0) == []
    )
