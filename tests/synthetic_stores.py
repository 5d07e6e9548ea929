"""Stores of tests: made of points, with an image that numbers its voxels."""

import numpy as np
import torch

from airwaystudy.data.store import Store

NOWHERE = np.zeros((0, 3), int)


def synthetic(shape, centreline=NOWHERE, small=NOWHERE, large=NOWHERE, name="synthetic", missed=NOWHERE):
    """A store whose image is the running number of the voxel, and whose label is the points."""
    image = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    label = np.zeros(shape, np.uint8)
    for points in (centreline, small, large):
        label[tuple(np.asarray(points).T)] = 1
    points = map(np.asarray, (centreline, small, large))
    return Store(name, image, label, 0.5 * label, *points, missed_points=np.asarray(missed))


def block(low, high):
    """All points of a box, `high` left out."""
    return np.argwhere(np.ones(np.subtract(high, low), bool)) + low


def equal(crop, other):
    return all(torch.equal(crop[name], other[name]) for name in ("image", "label", "distance"))
