import pytest
import torch
import torch.nn.functional as F

from airwaylib.networks import fast
from airwaylib.networks.fast import (
    Convolution,
    GatedNorm,
    MaxPool,
    SmallConvolution,
    gated_norm_,
    interpolate_by_products,
    stored_gated_norm,
)
from airwaylib.networks.wingsnet import WingsNet

FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last_3d}


def plain_gated_norm(maps, weight):
    maps = F.leaky_relu(F.instance_norm(maps), 0.01)
    for gate in weight[:, None, :, None, None, None]:
        maps = maps * torch.sigmoid(F.conv3d(maps, gate))
    return maps


@pytest.fixture(params=FORMATS)
def memory_format(request):
    return FORMATS[request.param]


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 7 rows, so that small maps have many and the last is not full."""

    def chunks(rows):
        return [(b, slice(i, i + 7)) for b in range(rows.shape[0]) for i in range(0, rows.shape[1], 7)]

    monkeypatch.setattr(fast, "_chunks", chunks)


def maps_and_weight(gates, memory_format, dtype=torch.float64, shape=(2, 4, 3, 4, 5)):
    torch.manual_seed(gates)
    maps = (3 * torch.randn(*shape, dtype=dtype) + 1).to(memory_format=memory_format)
    return maps.requires_grad_(), torch.randn(gates, shape[1], dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("gates", [1, 2])
def test_gated_norm_equals_the_layers_one_by_one(gates, memory_format, small_chunks):
    maps, weight = maps_and_weight(gates, memory_format)
    ours, plain = GatedNorm.apply(maps, weight), plain_gated_norm(maps, weight)
    assert torch.allclose(ours, plain, rtol=0, atol=1e-12)
    above = torch.randn_like(plain)
    for a, b in zip(*(torch.autograd.grad(y, (maps, weight), above) for y in (ours, plain)), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gates", [1, 2])
def test_gated_norm_has_the_gradient_of_its_finite_differences(gates, memory_format, small_chunks):
    assert torch.autograd.gradcheck(GatedNorm.apply, maps_and_weight(gates, memory_format, shape=(1, 3, 2, 2, 3)))


def test_gated_norm_by_hand():
    # Channel 0 holds -1 and 1: mean 0, variance 1, so it stays (eps 1e-5 shrinks it by 5e-6); leaky: -0.01 and 1.
    # The gate's weight is ln 3: sigmoid(ln 3) = 3/4, so 1 becomes 0.75; two such gates in a row make it
    # 0.75 * sigmoid(0.75 ln 3) = 0.75 * 0.695081.
    maps = torch.tensor([-1.0, 1.0], dtype=torch.float64).view(1, 1, 1, 1, 2)
    gate = torch.tensor([[3.0]], dtype=torch.float64).log()
    assert GatedNorm.apply(maps, gate)[0, 0, 0, 0, 1].item() == pytest.approx(0.75, abs=1e-5)
    assert GatedNorm.apply(maps, gate.repeat(2, 1))[0, 0, 0, 0, 1].item() == pytest.approx(0.521311, abs=1e-5)


def test_gated_norm_in_place_gives_the_same(memory_format):
    maps, weight = (tensor.detach() for tensor in maps_and_weight(2, memory_format))
    expected = GatedNorm.apply(maps, weight)
    gated_norm_(maps, weight, output=maps)
    assert torch.equal(maps, expected)


def test_gated_norm_keeps_its_precision_far_from_zero():
    # 0..255 images give channels whose mean is much larger than their spread.
    torch.manual_seed(0)
    maps = torch.randn(1, 2, 20, 20, 20) + 1000
    ours = GatedNorm.apply(maps, torch.zeros(1, 2))
    assert torch.allclose(ours.double(), plain_gated_norm(maps.double(), torch.zeros(1, 2).double()), atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gated_norm_of_halves_is_computed_in_float32(dtype):
    maps, weight = maps_and_weight(2, torch.channels_last_3d, torch.float32)
    halves = maps.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        ours = GatedNorm.apply(halves, weight)
        ours.backward(torch.ones_like(ours))
    expected = plain_gated_norm(halves.detach().float(), weight.detach())
    assert ours.dtype == halves.grad.dtype == dtype
    assert torch.allclose(ours.float(), expected, rtol=2**-8, atol=1e-6)  # rounded once, at the end
    assert weight.grad.dtype == torch.float32


def test_gated_norm_stores_its_input_only():
    maps, weight = maps_and_weight(2, torch.channels_last_3d)
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: stored.append(tensor) or tensor, lambda tensor: tensor
    ):
        GatedNorm.apply(maps, weight)
    assert [tensor.data_ptr() for tensor in stored if tensor.numel() >= maps.numel()] == [maps.data_ptr()]


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(5, 4, 6), (2, 4, 4), (1, 3, 3), (9, 50, 60)])
def test_convolution_of_parts_equals_that_of_their_concatenation(size, dilation, memory_format):
    torch.manual_seed(0)
    layer = Convolution(torch.nn.Conv3d(5, 3, 3, padding=dilation, dilation=dilation)).double()
    parts = [torch.randn(1, c, *size, dtype=torch.float64).to(memory_format=memory_format) for c in (2, 3)]
    parts = [part.requires_grad_() for part in parts]
    ours = layer(*parts)
    plain = F.conv3d(torch.cat(parts, 1), layer.weight, layer.bias, padding=dilation, dilation=dilation)
    assert ours.shape == plain.shape and torch.allclose(ours, plain, rtol=0, atol=1e-12)
    above = torch.randn_like(plain)
    inputs = (*parts, layer.weight, layer.bias)
    for a, b in zip(*(torch.autograd.grad(y, inputs, above) for y in (ours, plain)), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(5, 4, 6), (2, 4, 4), (1, 3, 3), (8, 9, 7)])
def test_a_small_single_volume_has_the_convolution_of_a_batch(size, dilation, memory_format):
    """In float32, by oneDNN; PyTorch in float64 says what is right."""
    torch.manual_seed(0)
    layer = torch.nn.Conv3d(5, 3, 3, padding=dilation, dilation=dilation)
    maps = torch.randn(1, 5, *size).to(memory_format=memory_format).requires_grad_()
    assert SmallConvolution.serves(maps)
    ours = SmallConvolution.apply(maps, layer.weight, layer.bias, dilation)
    exact = [tensor.detach().double().requires_grad_() for tensor in (maps, layer.weight, layer.bias)]
    plain = F.conv3d(*exact, padding=dilation, dilation=dilation)
    assert torch.allclose(ours.double(), plain, rtol=0, atol=1e-5)
    above = torch.randn_like(plain)
    wanted = torch.autograd.grad(plain, exact, above)
    for a, b in zip(torch.autograd.grad(ours, (maps, layer.weight, layer.bias), above.float()), wanted, strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-5, atol=1e-5)


def test_which_volumes_are_small():
    for batch, channels, depth, small in ((1, 2, 8, True), (2, 2, 8, False), (1, 2, 102, False)):
        # 2 * 102 * 102 = 20808 channels and slices are no longer small
        assert SmallConvolution.serves(torch.zeros(batch, channels, depth, depth, 4)) is small
    assert not SmallConvolution.serves(torch.zeros(1, 2, 8, 8, 4, dtype=torch.float64))


@pytest.mark.parametrize("gates", [1, 2])
def test_gated_norm_of_a_small_volume_is_the_same_stored(gates, memory_format):
    maps, weight = maps_and_weight(gates, memory_format, shape=(1, 4, 3, 4, 5))
    stored, recomputed = stored_gated_norm(maps, weight), GatedNorm.apply(maps, weight)
    assert torch.allclose(stored, recomputed, rtol=0, atol=1e-12)
    above = torch.randn_like(stored)
    for a, b in zip(*(torch.autograd.grad(y, (maps, weight), above) for y in (stored, recomputed)), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stored", [0, 2**20])
def test_both_tails_make_the_plain_network(stored, monkeypatch):
    monkeypatch.setattr(fast, "STORED", stored)
    torch.manual_seed(0)
    plain = WingsNet(2).double().train()
    ours = fast.FastWingsNet(2).double().train()
    ours.load_state_dict(plain.state_dict())
    image = torch.rand(1, 1, 16, 16, 24, dtype=torch.float64)
    found = []
    for network in (plain, ours):
        torch.manual_seed(1)
        logits = network(image)
        (logits.decoder.square().mean() + logits.encoder.square().mean()).backward()
        found.append((logits.decoder, {name: one.grad for name, one in network.named_parameters()}))
    assert torch.allclose(found[0][0], found[1][0], rtol=0, atol=1e-9)
    for name, grad in found[0][1].items():
        assert torch.allclose(grad, found[1][1][name], rtol=1e-7, atol=1e-9), name


def trilinear(maps, size, align_corners=True):
    return F.interpolate(maps, size=size, mode="trilinear", align_corners=align_corners)


def assert_same_values_and_gradients(ours, plain, maps, tolerance):
    got, expected = ours(maps), plain(maps)
    assert got.shape == expected.shape and got.dtype == expected.dtype
    assert (got - expected).abs().max().item() <= tolerance
    above = torch.randn_like(expected)
    # A gradient is a sum of up to 8^3 = 512 terms here, rounded more often than a value: float64 says what is right.
    exact = maps.detach().double().requires_grad_()
    gradients = [torch.autograd.grad(output, maps, above)[0] for output in (got, expected)]
    (wanted,) = torch.autograd.grad(plain(exact), exact, above.double())
    error, plain_error = ((gradient - wanted).abs().max().item() for gradient in gradients)
    assert error <= max(tolerance * wanted.abs().max().item(), plain_error)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((2, 3, 4, 5, 6), (8, 10, 12)), ((1, 1, 2, 3, 4), (16, 24, 32)), ((2, 2, 3, 3, 3), (7, 3, 4))],
)
def test_products_interpolate_as_pytorch_does(shape, size, dtype, tolerance, memory_format, align_corners):
    torch.manual_seed(0)
    maps = torch.randn(shape, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    assert_same_values_and_gradients(
        lambda x: interpolate_by_products(x, size, align_corners),
        lambda x: trilinear(x, size, align_corners),
        maps,
        tolerance,
    )


def test_products_keep_the_memory_format(memory_format):
    maps = torch.randn(1, 3, 4, 4, 4).to(memory_format=memory_format)
    assert interpolate_by_products(maps, (8, 8, 8)).is_contiguous(memory_format=memory_format)


def test_interpolation_by_hand():
    # Corner on corner, 2 values to 3: the middle one is their mean. 0, 8 along z; 0, 4 along y; 0, 2 along x.
    maps = torch.tensor([0.0, 2, 4, 6, 8, 10, 12, 14]).view(1, 1, 2, 2, 2)
    (out,) = interpolate_by_products(maps, (3, 3, 3))[0]
    assert out[0, 0].tolist() == [0, 1, 2] and out[1, 1].tolist() == [6, 7, 8] and out[2, 2].tolist() == [12, 13, 14]


@pytest.mark.parametrize("size", [(4, 4, 4), (5, 4, 7), (2, 3, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pooling_is_pytorchs_bit_for_bit(size, dtype, memory_format):
    torch.manual_seed(0)
    maps = torch.randn(2, 3, *size, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    assert_same_values_and_gradients(MaxPool.apply, lambda x: F.max_pool3d(x, 2), maps, 0)


def test_of_equal_voxels_the_first_takes_the_gradient(memory_format):
    torch.manual_seed(0)
    maps = torch.randint(3, (2, 3, 6, 6, 6)).float().to(memory_format=memory_format).requires_grad_()
    assert_same_values_and_gradients(MaxPool.apply, lambda x: F.max_pool3d(x, 2), maps, 0)
    level = torch.ones(1, 1, 2, 2, 2, requires_grad=True)
    MaxPool.apply(level).backward(torch.full((1, 1, 1, 1, 1), 5.0))
    assert level.grad.flatten().tolist() == [5] + [0] * 7


def test_deterministic_forms_have_the_gradients_of_their_finite_differences(memory_format):
    torch.manual_seed(0)
    maps = torch.randn(1, 2, 3, 2, 4, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    assert torch.autograd.gradcheck(MaxPool.apply, maps)
    assert torch.autograd.gradcheck(lambda x: interpolate_by_products(x, (5, 4, 6)), maps)


def test_deterministic_forms_of_halves_under_autocast(memory_format):
    torch.manual_seed(0)
    maps = torch.randn(1, 3, 4, 4, 4).to(torch.bfloat16, memory_format=memory_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = interpolate_by_products(maps, (8, 8, 8))
        out.float().sum().backward()
        assert torch.equal(MaxPool.apply(maps), F.max_pool3d(maps, 2))
    exact = trilinear(maps.detach().float(), (8, 8, 8))
    assert out.dtype == maps.grad.dtype == torch.bfloat16
    assert torch.allclose(out.float(), exact, rtol=2**-8, atol=1e-6)  # rounded once, at the end


def test_matrices_made_in_inference_mode_serve_training():
    fast._interpolation.cache_clear()
    maps = torch.randn(1, 1, 5, 5, 5)
    with torch.inference_mode():
        expected = interpolate_by_products(maps, (9, 9, 9))
    out = interpolate_by_products(maps.requires_grad_(), (9, 9, 9))
    out.sum().backward()
    assert torch.equal(out, expected) and maps.grad.sum().item() == pytest.approx(9**3, rel=1e-5)


def test_the_flag_chooses_the_form(monkeypatch):
    maps = torch.randn(1, 2, 4, 4, 4, requires_grad=True)

    def forms():
        outputs = fast.max_pool(maps), fast.upsample(maps, (8, 8, 8))
        return [output.grad_fn.name() for output in outputs]

    assert forms() == ["MaxPool3DWithIndicesBackward0", "UpsampleTrilinear3DBackward0"]
    torch.use_deterministic_algorithms(True)
    try:
        pooled, upsampled = forms()
    finally:
        torch.use_deterministic_algorithms(False)
    assert pooled == "MaxPoolBackward" and "Upsample" not in upsampled
