"""What the tests of the losses share: voxels to sum by hand, random volumes, the gradient, exact comparison."""

import torch

# TP = .9 + .6 = 1.5;  FP = .3 + .1 = .4;  FN = .1 + .4 = .5;  sum p = 1.9;  sum g = 2
PROBABILITY = torch.tensor([0.9, 0.6, 0.3, 0.1], dtype=torch.float64)
TARGET = torch.tensor([1, 1, 0, 0], dtype=torch.uint8)
WEIGHT = torch.tensor([1.0, 0.5, 1.0, 1.0], dtype=torch.float64)


def gradient(loss, probability, *arguments, **parameters):
    probability = probability.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(probability, *arguments, **parameters), probability)
    return slope


def close(actual, expected, **tolerances):
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, **({"rtol": 1e-9, "atol": 1e-12} | tolerances))


def agree(loss, other, p, g, rtol=1e-9, **parameters):
    """Two losses have the same value and the same gradient."""
    close(loss(p, g, **parameters), other(p, g), rtol=rtol)
    close(gradient(loss, p, g, **parameters), gradient(other, p, g), rtol=rtol)


def random_volume(*shape):
    """Probability away from 0 and 1, target (a fifth of it foreground) and weight, float64."""
    generator = torch.Generator().manual_seed(2)
    p, g, w = (torch.rand(shape, dtype=torch.float64, generator=generator) for _ in range(3))
    return p * 0.9 + 0.05, (g > 0.8).double(), w


def line(length=4, shape=(3, 3, 4)):
    """A straight line of `length` voxels through the middle of a volume (1, 1, *shape), float64."""
    mask = torch.zeros(1, 1, *shape, dtype=torch.float64)
    mask[0, 0, shape[0] // 2, shape[1] // 2, :length] = 1
    return mask
