"""Every loss of the table keeps one contract; losses by name, the user's own too; the table."""

import inspect
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_checks import close, gradient, line, random_volume

from airwaylib.errors import InputError
from airwaylib.losses.general_union import general_union_weight
from airwaylib.losses.registry import LOSSES, WEIGHTED
from airwaylib.losses.table import loss_by_name, loss_table, uses_weight

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
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
    assert all(uses_weight(name) for name in WEIGHTED) and not uses_weight("dice")


@every_loss
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
    # TP = .75 n, FP = FN = .25 n.  General Union: overlap .5 * .7501^.7 n, union .1 * (.375 + .25) n + .9 * .5 n
    root_tversky = 1 - (0.7501**0.7 * n + 1) / (1.0 * n + 1)
    expected = {
        "general_union": 1 - (0.5 * 0.7501**0.7 * n + 1) / (0.5125 * n + 1),
        "general_union_without_root": 1 - 0.375 / 0.5125,
        "root_tversky": root_tversky,
        "tversky": 0.25,
        "dice": 0.25,
        "dice_bce": 0.125 - math.log(0.75) / 2,
        "weighted_bce": -math.log(0.75),
    }
    assert set(LOSSES) == set(expected)
    for name, value in expected.items():
        with torch.autocast(device, dtype):
            found = LOSSES[name](p, g, w)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(value, rel=1e-5), name


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
        for name, loss in LOSSES.items():
            # General Union may end below 0 by epsilon; cross-entropies go to where epsilon ends the logarithm.
            most = math.log(1e7) if name in ("weighted_bce", "dice_bce") else 1
            assert -EPSILON_SLACK <= loss(*tensors(voxels)) <= most + 1e-6, name

    @unhurried
    @given(st.data())
    def test_the_order_of_voxels_does_not_matter(self, data):
        listed = data.draw(voxels)
        shuffled = data.draw(st.permutations(listed))
        for loss in LOSSES.values():
            close(loss(*tensors(listed)), loss(*tensors(shuffled)))

    @unhurried
    @given(voxels, st.data())
    def test_a_better_voxel_lowers_the_loss(self, listed, data):
        p, g, w = tensors(listed)
        voxel = data.draw(st.integers(0, len(listed) - 1))
        better = p.clone()
        better[voxel] += 1 / 64 if g[voxel] else -1 / 64
        better.clamp_(0, 1)
        for name, loss in LOSSES.items():
            before, after = loss(p, g, w), loss(better, g, w)
            assert after == before if torch.equal(better, p) else after < before, name


class TestByName:
    def test_names(self):
        general_union = ["general_union", "general_union_without_root", "root_tversky", "tversky", "dice"]
        assert list(LOSSES) == [*general_union, "dice_bce", "weighted_bce"]

    @pytest.mark.parametrize("name", LOSSES)
    def test_of_no_parameters_is_the_loss(self, name):
        p, g, w = random_volume(1, 1, 4, 5, 6)
        close(loss_by_name(name)(p, g, w), LOSSES[name](p, g, w))

    def test_sets_parameters(self):
        p, g, w = random_volume(1, 1, 4, 5, 6)
        loss = loss_by_name("general_union", alpha=0.2, root=0.5)
        assert loss(p, g, w) == LOSSES["general_union"](p, g, w, alpha=0.2, root=0.5)

    def test_unknown_name(self):
        with pytest.raises(InputError, match=r"'dise' is unknown; known are general_union, .*, and module:function$"):
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
            ("dice", "smooth", "1", "0 to inf"),
            ("dice_bce", "share", 1.1, "0 to 1"),
            ("weighted_bce", "positive_weight", -1, "0 to inf"),
            ("weighted_bce", "epsilon", None, "0 to inf"),
        ],
    )
    def test_refuses_a_value_at_once(self, name, parameter, value, known):
        with pytest.raises(InputError, match=f"^{parameter}: {value!r} must be a number from {known}$"):
            loss_by_name(name, **{parameter: value})


OWN = """
import torch
from monai.losses import SoftclDiceLoss

def cl_dice(probability, target, weight=None):
    return SoftclDiceLoss()(probability, target)

def scaled(probability, target, weight, *, scale=2.0):
    return scale * (weight * (probability - target) ** 2).mean()

def of_two(probability, target): return (probability - target).mean()
def with_more(probability, target, weight, scale): return scale * probability.mean()
def a_map(probability, target, weight): return probability - target
def a_number(probability, target, weight): return 1.0
def detached(probability, target, weight): return probability.detach().mean()
def failing(probability, target, weight): raise RuntimeError("no\\nluck")

constant = 3
"""


class TestOwnLoss:
    """`module:function`, of a module in the current folder."""

    @pytest.fixture(autouse=True)
    def module(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sys.path", sys.path.copy())
        monkeypatch.chdir(tmp_path)
        for name, text in (("my_losses", OWN), ("broken", "import airways_of_nobody\n"), ("typo", "def f(:\n")):
            (tmp_path / f"{name}.py").write_text(text)
        yield
        for name in ("my_losses", "broken", "typo"):
            sys.modules.pop(name, None)

    def test_is_called_with_three_tensors(self):
        p, g, w = random_volume(1, 1, 16, 16, 16)
        close(loss_by_name("my_losses:scaled")(p, g, w), 2 * (w * (p - g) ** 2).mean())
        close(loss_by_name("my_losses:scaled", scale=5)(p, g, w), 5 * (w * (p - g) ** 2).mean())
        assert 0 < loss_by_name("my_losses:cl_dice")(p, g, w) < 1
        assert uses_weight("my_losses:scaled")  # it may ignore it

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("your_losses:cl_dice", r"no module 'your_losses' in .* or on Python's path"),
            ("my_losses:dice", r"my_losses\.py has no function 'dice'"),
            ("my_losses:constant", r"my_losses\.py has no function 'constant'"),
            ("my_losses:", r"has no function ''"),
            (":cl_dice", r"write module:function"),
            ("broken:f", r"module 'broken' cannot be imported \(ModuleNotFoundError: .*'airways_of_nobody'\)"),
            ("typo:f", r"module 'typo' cannot be imported \(SyntaxError: .*\)"),
            ("my_losses:of_two", r"must take \(probability, target, weight\), but too many positional arguments"),
            ("my_losses:with_more", r"must take \(probability, target, weight\), but missing .* 'scale'"),
            ("my_losses:a_map", r"must return a scalar tensor, but returns shape \(1, 1, 16, 16, 16\)"),
            ("my_losses:a_number", r"must return a scalar tensor, but returns float"),
            ("my_losses:detached", r"has no gradient"),
            ("my_losses:failing", r"fails on a small volume \(RuntimeError: no luck\)"),
        ],
    )
    def test_is_refused_in_one_line(self, name, message):
        with pytest.raises(InputError, match=f"^loss '{name}': .*{message}") as refusal:
            loss_by_name(name)
        assert "\n" not in str(refusal.value)

    def test_has_the_parameters_it_names(self):
        with pytest.raises(InputError, match=r"'my_losses:scaled' has no parameter alpha; it has scale$"):
            loss_by_name("my_losses:scaled", alpha=0.1)
        with pytest.raises(InputError, match=r"'my_losses:cl_dice' has no parameter alpha; it has none$"):
            loss_by_name("my_losses:cl_dice", alpha=0.1)


class TestTable:
    def test_has_a_row_a_loss(self):
        table = loss_table()
        assert list(table.columns) == ["name", "formula", "ratio", "parameters", "source"]
        assert list(table["name"]) == list(LOSSES)
        assert (table[["formula", "ratio", "source"]].map(len) > 4).all(axis=None)

    def test_prints_the_ratios_that_are_computed(self):
        ratios = loss_table().set_index("name")["ratio"]
        assert ratios["general_union"] == "w (root (p_f + epsilon)^(-1 + root)/(alpha index) - 1)"
        assert ratios["dice"] == "2/index - 1"
        assert set(ratios.index[ratios == "measured"]) == {"dice_bce"}

    def test_states_the_parameters_with_their_defaults(self):
        parameters = loss_table().set_index("name")["parameters"]
        assert parameters["general_union"] == "alpha=0.1, root=0.7, smooth=1.0, epsilon=0.0001"
        assert parameters["weighted_bce"] == "positive_weight=None, epsilon=1e-07"

    def test_every_source_has_a_year(self):
        sources = loss_table().set_index("name")["source"]
        assert list(sources.index[~sources.str.contains(r"\b(?:19|20)\d\d\b")]) == ["weighted_bce"]
