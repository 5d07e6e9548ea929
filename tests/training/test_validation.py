"""Validation: the cases' mean scores, and which epoch is best."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from airwaylib.networks.wingsnet import GroupLogits
from airwaystudy.data.store import Store
from airwaystudy.training.progress import VALIDATED, best_epoch, rank, validate, validations_since_best


class Bright(nn.Module):
    """Finds every voxel above half of the image's range."""

    def forward(self, image):
        return GroupLogits(None, 20 * (image - 0.5))


def tube(found):
    """A case with a straight tube along x, of which `found` of 40 slices are bright."""
    label = np.zeros((40, 40, 40), np.uint8)
    label[18:21, 18:21] = 1
    image = np.where(label > 0, 255, 0).astype(np.uint8)
    image[:, :, found:] = 0
    points = np.argwhere(label)
    return Store("tube", image, label, label, points, points, points)


def test_scores_are_the_mean_over_the_cases():
    scores = validate(Bright(), [tube(40), tube(20)], 32, Fabric(accelerator="cpu", devices=1))
    assert list(scores) == list(VALIDATED)
    assert scores["precision"] == pytest.approx(100)
    assert scores["tpr"] == pytest.approx((100 + 50) / 2)
    assert scores["dsc"] == pytest.approx((100 + 200 / 3) / 2)
    assert scores["td"] == pytest.approx((100 + 50) / 2, abs=3)  # the skeleton is shorter than the tube


def test_the_network_goes_on_training_afterwards():
    network = Bright().train()
    validate(network, [tube(40)], 32, Fabric(accelerator="cpu", devices=1))
    assert network.training and torch.is_grad_enabled()


def row(epoch, td=None):
    return {"epoch": epoch} | ({} if td is None else {"td": td, "bd": 60, "precision": 70, "dsc": 80})


def test_epochs_rank_by_the_mean_of_atm22s_four_scores():
    assert rank(row(1, 90)) == 75
    assert best_epoch([row(1), row(2)]) is None and validations_since_best([row(1)]) == 0
    rows = [row(1, 50), row(2), row(3, 90), row(4, 90), row(5), row(6, 80)]
    assert best_epoch(rows) == 3  # the first of equals
    assert validations_since_best(rows) == 2
    assert validations_since_best([*rows, row(7, 91)]) == 0
