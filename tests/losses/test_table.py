"""Every loss of the table keeps one contract and has the gradient ratio that the table states; losses by name."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_checks import close, gradient, line, random_volume
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.losses.general_union import general_union_weight, root_tversky_loss
from airwaylib.losses.rivals import local_imbalance_weight
from airwaylib.losses.table import LOSSES, WEIGHTED, loss_by_name, loss_table
from airwaylib.trees.skeleton import thin

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
OF_SHAPES = {"cl_dice", "boundary", "skeleton_recall", "local_imbalance"}
VOXELWISE = {name: loss for name, loss in LOSSES.items() if name not in OF_SHAPES}
EPSILON_SLACK = 0.7e-4 + 1e-9  # a perfect prediction's General Union index is (1 + epsilon)^root, not 1


@every_loss
class TestEveryLoss:
    def test_keeps_the_contract(self, loss):
        parameters = list(inspect.signature(loss).parameters.values())
        assert [each.name for each in parameters[:3]] == ["probability", "target", "weight"]
        assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters[3:])

    def test_gradcheck(self, loss):
        p, g, w = random_volume(2, 1, 3, 3, 3)
        assert torch.autograd.gradcheck(lambda p: loss(p, g, w), p.requires_grad_())

    def test_returns_a_scalar_of_the_precision_of_the_sums(self, loss):
        p, g, w = random_volume(2, 1, 4, 5, 6)
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
            value = loss(p.to(dtype), g, w)
            assert value.shape == ()
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)

    def test_takes_any_dtype_of_target(self, loss):
        p, g, w = random_volume(2, 1, 4, 5, 6)
        values = {loss(p, g.to(t), w).item() for t in (torch.bool, torch.uint8, torch.int64, torch.float16)}
        assert values == {loss(p, g, w).item()}

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_is_finite_at_0_and_1(self, loss, dtype):
        mixed = (torch.arange(24) % 2).reshape(1, 1, 2, 3, 4).to(dtype)
        for foreground in (0, 1, 12, 24):
            g = (torch.arange(24) < foreground).reshape(mixed.shape).to(dtype)
            w = general_union_weight(g, g)
            for p in (mixed, g, 1 - g, torch.zeros_like(g), torch.ones_like(g)):
                assert loss(p, g, w).isfinite()
                assert gradient(loss, p.float(), g, w).isfinite().all()

    @pytest.mark.parametrize("everywhere", [0, 1])
    def test_of_an_empty_or_full_target(self, loss, everywhere):
        g = torch.full((1, 1, 4, 4, 4), everywhere)
        right, wrong = (loss(torch.full(g.shape, p), g) for p in (everywhere, 1.0 - everywhere))
        close(right, 0, atol=1e-4)
        assert wrong > 0.45
        # a voxel that is half right is pulled towards its class
        assert ((gradient(loss, torch.full(g.shape, 0.5), g) > 0) == (everywhere == 0)).all()

    def test_a_missed_voxel_keeps_a_slope(self, loss):
        g = line(6, (5, 5, 6))
        slope = gradient(loss, g / 2, g)
        assert (slope[g == 1] < 0).all()
        assert (slope[g == 0] > 0).all()
        p = g.clone()
        p[0, 0, 2, 2, 3], p[0, 0, 0, 0, 0] = 0, 1
        slope = gradient(loss, p, g)
        assert slope[0, 0, 2, 2, 3] < 0 < slope[0, 0, 0, 0, 0]

    def test_refuses_shapes_that_differ(self, loss):
        with pytest.raises(InputError, match=r"target: shape \(2, 3\) must be \(2, 1, 3\)"):
            loss(torch.rand(2, 1, 3), torch.ones(2, 3))

    @pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
    def test_autocast_changes_neither_value_nor_gradient(self, loss, device):
        if device == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        generator = torch.Generator().manual_seed(1)
        logits = torch.randn(1, 1, 16, 16, 16, generator=generator).to(device)
        g, w = logits > 1, torch.rand(logits.shape, generator=generator).to(device)
        plain = loss(logits.sigmoid(), g, w), gradient(lambda x: loss(x.sigmoid(), g, w), logits)
        with torch.autocast(device, torch.bfloat16):
            assert (logits.flatten() @ logits.flatten()).dtype == torch.bfloat16  # autocast is on
            mixed = loss(logits.sigmoid(), g, w), gradient(lambda x: loss(x.sigmoid(), g, w), logits)
        torch.testing.assert_close(mixed, plain)


def test_only_the_weighted_use_the_weight():
    p, g, w = random_volume(2, 1, 4, 5, 6)
    assert {name for name, loss in LOSSES.items() if loss(p, g, w) != loss(p, g)} == WEIGHTED


@pytest.mark.parametrize("loss", VOXELWISE.values(), ids=VOXELWISE)
def test_is_one_ratio_a_batch(loss):
    g = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 1]])
    p = torch.tensor([[0.9, 0.8, 0.7, 0.2], [0.1, 0.2, 0.6, 0.1]])
    close(loss(p, g), loss(p.flatten(), g.flatten()), rtol=1e-6)


# Strategy: the sums of 128^3 ones, 2 097 152, are beyond float16 (65 504) and beyond bfloat16's whole numbers (256),
# so each sum taken in half precision would show. .75 and .25 are exact in both.
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_half_precision_on_a_large_volume(dtype, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    g = torch.zeros(1, 1, 128, 128, 128, dtype=torch.uint8, device=device)
    g[..., :64] = 1  # n = 2^20 voxels of each class
    p = torch.where(g.bool(), 0.75, 0.25).to(dtype)
    w = torch.where(g.bool(), 0.5, 1.0).to(dtype)
    n = 2**20
    # Share of airway around the layers at the surface: 4, 5 and 6 of 7; c is the mean of the weights
    c = 0.05 + 0.95 * sum((-math.log10(layers / 7)) ** 2.5 for layers in (4, 5, 6)) / 64
    # TP = .75 n, FP = FN = .25 n.  General Union: overlap .5 * .7501^.7 n, union .1 * (.375 + .25) n + .9 * .5 n
    root_tversky = 1 - (0.7501**0.7 * n + 1) / (1.0 * n + 1)
    expected = {
        "general_union": 1 - (0.5 * 0.7501**0.7 * n + 1) / (0.5125 * n + 1),
        "general_union_without_weights": root_tversky,
        "general_union_without_root": 1 - 0.375 / 0.5125,
        "root_tversky": root_tversky,
        "tversky": 0.25,
        "focal_tversky": 0.25**0.75,
        "dice": 0.25,
        "weighted_dice": 0.25,
        "dice_bce": 0.125 - math.log(0.75) / 2,
        "weighted_bce": -math.log(0.75),
        "focal": -math.log(0.75) * 0.25**2 / 2,
        "cl_dice": 0.125 + (1 - 2 / 2.0001) / 2,  # a slab has no soft skeleton: both its ratios are 1 / 1
        "boundary": 0.2475 + 0.01 * (0.25 * 32.5 - 0.75 * 31.5) / 2,  # 1 to 64 voxels outside, 0 to 63 inside
        "local_imbalance": 1 - (c * 0.7501**0.7 * n + 1) / ((0.05 * (0.75 * c + 0.25) + 0.95 * c) * n + 1),
    }
    assert set(LOSSES) - set(expected) == {"skeleton_recall"}  # a slab's skeleton is beyond us: see its own tests
    for name, value in expected.items():
        with torch.autocast(device, dtype):
            found = LOSSES[name](p, g, w)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(value, rel=1e-5), name


def closed_forms(p, g, w):
    """Of each loss: parameters, and R as a function of I = 1 - loss, foreground voxels down and background across."""
    on, off = g.bool(), ~g.bool()
    p_f, p_b, w_f = p[on][:, None], p[off], w[on][:, None]
    n, s, foreground = p.numel(), p.sum() + g.sum() + 1, g.sum()
    dice = (2 * (p * g).sum() + 1) / s
    mask = g[0, 0].bool().numpy()
    outside, inside = (torch.from_numpy(ndimage.distance_transform_edt(side)) for side in (~mask, mask))
    d_f, d_b = 1 - inside[mask][:, None], outside[~mask]
    axis = torch.from_numpy(thin(mask))
    local = local_imbalance_weight(g)[on][:, None]

    def root(index, alpha, w=1, epsilon=1e-4):
        return w * (0.7 * (p_f + epsilon) ** -0.3 / (alpha * index) - 1)

    def steepness(q, gamma):  # of (1 - q)^gamma log q
        return (1 - q) ** gamma / q - gamma * (1 - q) ** (gamma - 1) * q.log()

    return {
        "general_union": ({}, lambda i: root(i, 0.1, w_f)),
        "general_union_without_weights": ({"epsilon": 0}, lambda i: root(i, 0.1, epsilon=0)),
        "general_union_without_root": ({"alpha": 0.2, "smooth": 3}, lambda i: w_f * (1 / (0.2 * i) - 1)),
        "root_tversky": ({"alpha": 0.2, "smooth": 3}, lambda i: root(i, 0.2)),
        "tversky": ({}, lambda i: 1 / (0.05 * i) - 1),
        # Its loss is (1 - T)^gamma: T is 1 - loss^(1 / gamma)
        "focal_tversky": ({"epsilon": 0}, lambda i: 1 / (0.3 * (1 - (1 - i) ** (4 / 3))) - 1),
        "dice": ({}, lambda i: 2 / i - 1),
        "weighted_dice": (
            {},
            lambda i: (
                ((2 - i) / foreground**2 + i / (n - foreground) ** 2)
                / ((2 - i) / (n - foreground) ** 2 + i / foreground**2)
            ),
        ),
        "dice_bce": (
            {"share": 0.2, "epsilon": 0},
            lambda i: ((2 - dice) / s + 0.25 / n / p_f) / (dice / s + 0.25 / n / (1 - p_b)),
        ),
        "weighted_bce": ({"epsilon": 0}, lambda i: (n - foreground) / foreground * (1 - p_b) / p_f),
        "focal": (
            {"epsilon": 0, "gamma": 3},
            lambda i: 0.25 / 0.75 * steepness(p_f, 3) / steepness(1 - p_b, 3),
        ),
        "boundary": (
            {"share": 0.2},
            lambda i: ((2 - dice) / s - 0.25 / n * d_f) / (dice / s + 0.25 / n * d_b),
        ),
        "skeleton_recall": (
            {"dice": 0.5, "radius": 0},
            lambda i: (0.5 * (2 - dice) / s + axis[mask][:, None] / (axis.sum() + 1)) / (0.5 * dice / s),
        ),
        "local_imbalance": ({}, lambda i: root(i, 0.05, local)),
    }


class TestGradientRatio:
    """R = |dL/dp| at foreground over |dL/dp| at background: autograd against the closed forms, for every such pair."""

    P, _, W = random_volume(1, 1, 5, 6, 7)
    G = torch.zeros_like(P)
    G[0, 0, 1:4, 1:4, 1:6] = 1  # a tube, 3 voxels wide
    W[G == 0] = 1
    FORMS = closed_forms(P, G, W)

    def test_every_loss_has_a_closed_form_or_is_measured(self):
        ratios = loss_table().set_index("name")["ratio"]
        assert set(self.FORMS) == set(ratios.index[ratios != "measured"])
        assert set(ratios.index[ratios == "measured"]) == {"cl_dice"}

    @pytest.mark.parametrize("name", FORMS)
    def test_is_the_closed_form(self, name):
        parameters, form = self.FORMS[name]
        slope = gradient(LOSSES[name], self.P, self.G, self.W, **parameters)
        on, off = slope[self.G == 1], slope[self.G == 0]
        assert (on < 0).all() and (off > 0).all()
        ratio = form(1 - LOSSES[name](self.P, self.G, self.W, **parameters))
        close(-on[:, None] / off, ratio.expand(len(on), len(off)), rtol=1e-7)  # MONAI's distances are float32


unhurried = settings(deadline=None)  # a busy machine is no failure
# Multiples of 1/64: no two of them are so close that the loss's difference drowns in rounding.
voxels = st.lists(st.tuples(st.integers(0, 64).map(lambda k: k / 64), st.booleans(), st.floats(0.125, 1)), min_size=1)


def tensors(voxels):
    p, g, w = zip(*voxels, strict=True)
    return torch.tensor(p, dtype=torch.float64), torch.tensor(g), torch.tensor(w, dtype=torch.float64)


class TestProperties:
    @unhurried
    @given(voxels)
    def test_range(self, voxels):
        for name, loss in VOXELWISE.items():
            # General Union may end below 0 by epsilon; cross-entropies go to where epsilon ends the logarithm.
            most = math.log(1e7) if name in ("weighted_bce", "focal", "dice_bce") else 1
            assert -EPSILON_SLACK <= loss(*tensors(voxels)) <= most + 1e-6, name

    @unhurried
    @given(st.data())
    def test_the_order_of_voxels_does_not_matter(self, data):
        listed = data.draw(voxels)
        shuffled = data.draw(st.permutations(listed))
        for loss in VOXELWISE.values():
            close(loss(*tensors(listed)), loss(*tensors(shuffled)))

    @unhurried
    @given(voxels, st.data())
    def test_a_better_voxel_lowers_the_loss(self, listed, data):
        p, g, w = tensors(listed)
        voxel = data.draw(st.integers(0, len(listed) - 1))
        better = p.clone()
        better[voxel] += 1 / 64 if g[voxel] else -1 / 64
        better.clamp_(0, 1)
        for name, loss in VOXELWISE.items():
            before, after = loss(p, g, w), loss(better, g, w)
            assert after == before if torch.equal(better, p) else after < before, name


class TestByName:
    def test_names(self):
        general_union = ["general_union", "general_union_without_weights", "general_union_without_root"]
        overlap = ["root_tversky", "tversky", "focal_tversky", "dice", "weighted_dice", "dice_bce"]
        others = ["weighted_bce", "focal", "cl_dice", "boundary", "skeleton_recall", "local_imbalance"]
        assert list(LOSSES) == general_union + overlap + others

    def test_general_union_without_weights_is_root_tversky(self):
        p, g, w = random_volume(2, 1, 4, 5, 6)
        assert LOSSES["general_union_without_weights"] is root_tversky_loss
        close(LOSSES["general_union_without_weights"](p, g, w), LOSSES["general_union"](p, g))

    @pytest.mark.parametrize("name", LOSSES)
    def test_of_no_parameters_is_the_loss(self, name):
        p, g, w = random_volume(1, 1, 4, 5, 6)
        close(loss_by_name(name)(p, g, w), LOSSES[name](p, g, w))

    def test_sets_parameters(self):
        p, g, w = random_volume(1, 1, 4, 5, 6)
        loss = loss_by_name("general_union", alpha=0.2, root=0.5)
        assert loss(p, g, w) == LOSSES["general_union"](p, g, w, alpha=0.2, root=0.5)

    def test_unknown_name(self):
        with pytest.raises(InputError, match=r"'dise' is unknown; known are general_union, .*, local_imbalance$"):
            loss_by_name("dise")

    @pytest.mark.parametrize("unknown", ["alpa", "weight"])
    def test_unknown_parameter(self, unknown):
        with pytest.raises(InputError, match=f"'tversky' has no parameter {unknown}; it has alpha, smooth$"):
            loss_by_name("tversky", **{unknown: 0.1})

    @pytest.mark.parametrize(
        ("name", "parameter", "value", "known"),
        [
            ("general_union", "alpha", 1.5, "0 to 1"),
            ("general_union_without_root", "smooth", -1, "0 to inf"),
            ("root_tversky", "root", -0.1, "0 to 1"),
            ("root_tversky", "epsilon", -1, "0 to inf"),
            ("tversky", "alpha", math.nan, "0 to 1"),
            ("focal_tversky", "gamma", -1, "0 to inf"),
            ("dice", "smooth", "1", "0 to inf"),
            ("dice_bce", "share", 1.1, "0 to 1"),
            ("weighted_bce", "positive_weight", -1, "0 to inf"),
            ("weighted_bce", "epsilon", None, "0 to inf"),
            ("focal", "gamma", -1, "0 to inf"),
            ("focal", "alpha_balance", 25, "0 to 1"),
            ("cl_dice", "share", -0.5, "0 to 1"),
            ("cl_dice", "smooth", -1, "0 to inf"),
            ("boundary", "share", 2, "0 to 1"),
            ("skeleton_recall", "dice", -1, "0 to inf"),
            ("local_imbalance", "exponent", None, "0 to inf"),
        ],
    )
    def test_refuses_a_value_at_once(self, name, parameter, value, known):
        with pytest.raises(InputError, match=f"^{parameter}: {value!r} must be a number from {known}$"):
            loss_by_name(name, **{parameter: value})

    def test_refuses_a_part_of_a_voxel_at_once(self):
        with pytest.raises(InputError, match=r"^radius: 1\.5 must be a whole number, 0 or more$"):
            loss_by_name("skeleton_recall", radius=1.5)


class TestTable:
    def test_has_a_row_a_loss(self):
        table = loss_table()
        assert list(table.columns) == ["name", "formula", "ratio", "parameters", "source"]
        assert list(table["name"]) == list(LOSSES)
        assert (table[["formula", "ratio", "source"]].map(len) > 4).all(axis=None)

    def test_states_the_parameters_with_their_defaults(self):
        parameters = loss_table().set_index("name")["parameters"]
        assert parameters["general_union"] == "alpha=0.1, root=0.7, smooth=1.0, epsilon=0.0001"
        assert parameters["weighted_bce"] == "positive_weight=None, epsilon=1e-07"
        assert parameters["skeleton_recall"] == "dice=1.0, radius=2, smooth=1.0"
        assert parameters["weighted_dice"] == ""

    def test_every_source_has_a_year(self):
        sources = loss_table().set_index("name")["source"]
        assert list(sources.index[~sources.str.contains(r"\b(?:19|20)\d\d\b")]) == ["weighted_bce"]
