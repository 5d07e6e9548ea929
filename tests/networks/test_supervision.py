"""What each group's logits cost, by hand."""

import pytest
import torch
from torch import nn

from airwaylib.errors import InputError
from airwaylib.losses.general_union import dice_loss, general_union_loss
from airwaylib.networks.supervision import as_group_logits, group_losses
from airwaylib.networks.wingsnet import GroupLogits


def square(probability, target, weight=None):
    """A loss that is easily worked out: the mean weighted square of the error."""
    return ((1 if weight is None else weight) * (probability - target) ** 2).mean()


def logits(probability):
    return torch.logit(torch.full((1, 1, 2, 2, 2), probability, dtype=torch.float64)).float()


LABEL = torch.ones(1, 1, 2, 2, 2)


def test_each_group_costs_what_its_probability_costs():
    decoder, encoder = group_losses(GroupLogits(logits(0.5), logits(0.9)), square, LABEL)
    assert decoder.item() == pytest.approx(0.01, rel=1e-4)  # (1 - 0.9)^2
    assert encoder.item() == pytest.approx(0.25, rel=1e-4)


def test_coarser_heads_count_a_half_and_a_quarter():
    decoder, encoder = group_losses(GroupLogits(None, logits(0.9), (logits(0.8), logits(0.6))), square, LABEL)
    assert decoder.item() == pytest.approx(0.01 + 0.04 / 2 + 0.16 / 4, rel=1e-4)
    assert encoder.item() == 0


def test_the_weight_reaches_the_loss_of_both_groups():
    decoder, encoder = group_losses(GroupLogits(logits(0.5), logits(0.9)), square, LABEL, 2 * LABEL)
    assert (decoder.item(), encoder.item()) == pytest.approx((0.02, 0.5), rel=1e-4)


@pytest.mark.parametrize("loss", [dice_loss, general_union_loss])
def test_half_precision_logits_are_summed_in_float32(loss):
    both = GroupLogits(None, logits(0.9).half())
    assert group_losses(both, loss, LABEL)[0].dtype == torch.float32


def test_a_gain_multiplies_the_gradient_of_airway_voxels_alone():
    label = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 1, 4)
    grads, losses = [], []
    for gain in (1.0, 4.0):
        heads = [torch.tensor([0.3, -2.0, 1.0, -1.0]).view(1, 1, 1, 1, 4).requires_grad_() for _ in range(3)]
        decoder, encoder = group_losses(GroupLogits(heads[0], heads[1], (heads[2],)), dice_loss, label, None, gain)
        grads.append(torch.autograd.grad(decoder + encoder, heads))
        losses.append((decoder.item(), encoder.item()))
    assert losses[0] == losses[1]  # the loss itself stays
    for plain, gained in zip(*grads, strict=True):
        assert torch.allclose(gained / plain, torch.tensor([4.0, 4.0, 1.0, 1.0]).view(1, 1, 1, 1, 4))


def test_one_tensor_is_the_prediction():
    output = nn.Conv3d(1, 1, 3, padding=1)(torch.zeros(1, 1, 4, 4, 4))
    assert as_group_logits(output) == GroupLogits(None, output)
    both = GroupLogits(output, output)
    assert as_group_logits(both) is both


@pytest.mark.parametrize("output", [torch.zeros(1, 2, 4, 4, 4), [torch.zeros(1, 1, 4, 4, 4)]])
def test_other_outputs_are_refused(output):
    with pytest.raises(InputError, match=r"one tensor of logits \(B, 1, D, H, W\)"):
        as_group_logits(output)
