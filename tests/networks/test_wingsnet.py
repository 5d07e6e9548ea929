import pytest
import torch
import torch.nn.functional as F
from refusals import refused

from airwaylib.networks.fast import FastWingsNet
from airwaylib.networks.wingsnet import BLOCKS, SUPERVISION, WingsNet, channel_dropout
from airwaystudy.training.optimisation import make_deterministic


def pair(width=2, dtype=torch.float64, supervision="both"):
    """The plain network in float64 and the fast one with the same random weights, biases included."""
    torch.manual_seed(1)
    plain, fast = WingsNet(width, supervision), FastWingsNet(width, supervision)
    for name, parameter in plain.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    fast.load_state_dict(plain.state_dict())
    return plain.double().eval(), fast.to(dtype).eval()


def random_image(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    ("shape", "dtype", "tolerance"),
    [
        ((2, 1, 16, 24, 16), torch.float64, 1e-11),
        ((1, 1, 24, 16, 16), torch.float64, 1e-11),
        # The plain network in float32 is farther from itself in float64 than the fast one is (5e-5 and 2e-5 here).
        ((2, 1, 32, 32, 32), torch.float32, 3e-5),
    ],
)
def test_outputs_and_all_gradients_equal_the_plain_formulations(mode, shape, dtype, tolerance):
    plain, ours = pair(dtype=dtype)
    plain.train(mode == "train"), ours.train(mode == "train")
    exact, image = (random_image(*shape).to(kind).requires_grad_() for kind in (torch.float64, dtype))
    expected = plain(exact, generator=torch.Generator().manual_seed(5))[:2]
    logits = ours(image, generator=torch.Generator().manual_seed(5))
    assert logits.deep == ()
    for a, b in zip(logits[:2], expected, strict=True):
        assert torch.allclose(a.double(), b, rtol=0, atol=tolerance)
    above = [random_image(*shape, seed=seed) for seed in (1, 2)]
    got = torch.autograd.grad(logits[:2], [image, *ours.parameters()], [g.to(dtype) for g in above])
    want = torch.autograd.grad(expected, [exact, *plain.parameters()], above)
    assert len(want) == 1 + len(list(plain.parameters()))
    for name, a, b in zip(["image", *dict(ours.named_parameters())], got, want, strict=True):
        # InstanceNorm undoes a convolution's bias: its gradient is 0, and what is computed noise of its weight's size.
        if not name.endswith("conv.bias"):
            size = b.abs().max().item()
        assert (a - b).abs().max().item() <= (tolerance if dtype == torch.float64 else 1e-4) * size, name


def test_parameters_are_as_many_as_published_and_channels_scale_with_the_width():
    assert sum(p.numel() for p in WingsNet().parameters()) == 1_473_186
    for name in BLOCKS:
        eight, four = (WingsNet(width).get_submodule(name).conv for width in (8, 4))
        assert eight.out_channels == 2 * four.out_channels
    assert WingsNet(8).ec12.conv.weight.shape == (64, 64, 3, 3, 3)
    assert WingsNet(8).dc5.conv.weight.shape == (32, 64, 3, 3, 3)


def test_same_seed_same_trunk_in_every_supervision():
    trunks = []
    for supervision in SUPERVISION:
        torch.manual_seed(3)
        state = WingsNet(2, supervision).state_dict()
        trunks.append({name: w for name, w in state.items() if ".conv." in name or ".gates." in name})
    assert len(trunks[0]) == 18 * 3 + 13  # a weight and a bias each, and 5 + 13 * 2 gates
    for trunk in trunks[1:]:
        assert trunk.keys() == trunks[0].keys()
        assert all(torch.equal(trunk[name], trunks[0][name]) for name in trunk)


def test_decoder_supervision_is_the_decoder_group_alone():
    _, both = pair()
    alone = WingsNet(2, "decoder").double().eval()
    missing, unexpected = alone.load_state_dict(both.state_dict(), strict=False)
    assert missing == [] and len(unexpected) == 12 * 2 + 2  # the encoder's taps and its head
    image = random_image(1, 1, 16, 16, 16)
    logits = alone(image)
    assert logits.encoder is None and logits.deep == ()
    assert torch.allclose(logits.decoder, both(image).decoder, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("supervision", "blocks"), [("final", ["dc6"]), ("deep", ["dc6", "dc4", "dc2"])])
def test_single_heads_read_the_last_block_of_a_level(supervision, blocks):
    torch.manual_seed(0)
    network = WingsNet(2, supervision).double().eval()
    outputs = {}
    for name in blocks:
        torch.nn.init.normal_(network.get_submodule(name).tap.bias)
        network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: outputs.update({name: out}))
    logits = network(random_image(2, 1, 16, 24, 32))
    assert logits.encoder is None and len(network.heads) == 0
    assert len(logits.deep) == len(blocks) - 1
    for logit, name in zip((logits.decoder, *logits.deep), blocks, strict=True):
        coarse = network.get_submodule(name).tap(outputs[name])
        expected = F.interpolate(coarse, size=(16, 24, 32), mode="trilinear", align_corners=True)
        assert torch.allclose(logit, expected, rtol=0, atol=1e-12)
    sum(logit.sum() for logit in (logits.decoder, *logits.deep)).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_wrong_parameters_are_refused():
    refused(lambda: WingsNet(8, "group"), "'group'", "both, decoder, deep, final")
    refused(lambda: WingsNet(0), "width 0", "at least 1")


@pytest.mark.parametrize("size", [(9, 17, 20), (9, 9, 9), (24, 16, 31)])
def test_any_size_is_padded_by_repeating_the_last_voxels(size):
    plain, ours = pair()
    image = random_image(1, 1, *size)
    index = [torch.arange(-(-length // 8) * 8).clamp(max=length - 1) for length in size]
    expected = plain.eval()(image[:, :, index[0]][:, :, :, index[1]][:, :, :, :, index[2]])[:2]
    for a, b in zip(ours(image)[:2], expected, strict=True):
        assert a.shape == image.shape
        assert torch.allclose(a, b[:, :, : size[0], : size[1], : size[2]], rtol=0, atol=1e-10)


def test_wrong_images_are_refused():
    network = WingsNet(1)
    refused(lambda: network(torch.zeros(1, 1, 8, 16, 16)), "(8, 16, 16)", "at least 9")
    refused(lambda: network(torch.zeros(1, 2, 16, 16, 16)), "(1, 2, 16, 16, 16)", "(B, 1, D, H, W)")
    refused(lambda: network(torch.zeros(16, 16, 16)), "(16, 16, 16)", "(B, 1, D, H, W)")
    refused(lambda: network(torch.zeros(1, 1, 16, 16, 16, dtype=torch.uint8)), "torch.uint8", "float")


def test_channel_dropout_rescales_each_sample_by_what_it_keeps():
    factors = channel_dropout(1000, 12, torch.Generator().manual_seed(0))
    kept = (factors > 0).sum(1)
    assert kept.float().mean().item() == pytest.approx(12 * 0.7, abs=0.2)  # standard error 0.05
    assert len(kept.unique()) > 5
    for row, count in zip(factors, kept, strict=True):
        assert row.sum().item() == pytest.approx(12)
        assert row.max().item() == pytest.approx(12 / count.item())


def test_a_sample_that_would_lose_all_channels_keeps_them():
    factors = channel_dropout(1000, 1, torch.Generator().manual_seed(0))  # 300 of 1000 would
    assert torch.equal(factors, torch.ones(1000, 1, dtype=torch.float64))


@pytest.mark.parametrize("form", [WingsNet, FastWingsNet])
@pytest.mark.parametrize("supervision", ["both", "decoder", "deep", "final"])
def test_every_supervision_has_the_same_dropout(form, supervision):
    """Without it, a comparison of supervisions would be one of dropouts, too."""
    network, image = form(2, supervision, dropout=0.6).double(), random_image(1, 1, 16, 16, 16)
    torch.manual_seed(0)
    dropped = network(image).decoder
    torch.manual_seed(0)
    kept = network.draw_channels(1, None)["decoder"][0]
    assert 0 < (kept == 0).sum() < len(kept)
    name = network.groups["decoder"][-1]  # with dropped channels of no weight and the others scaled, it is the same
    layer = network.heads["decoder"] if supervision in ("both", "decoder") else network.get_submodule(name).tap
    assert len(kept) == layer.in_channels
    with torch.no_grad():
        layer.weight *= kept.view(1, -1, 1, 1, 1)
    assert torch.allclose(dropped, network.eval()(image).decoder, rtol=0, atol=1e-11)
    none = form(2, supervision, dropout=0).double()
    assert torch.allclose(none(image).decoder, none.eval()(image).decoder, rtol=0, atol=1e-11)


def test_dropout_must_leave_something():
    refused(lambda: WingsNet(1, dropout=1.0), "dropout 1.0", "below 1")


def test_dropout_follows_the_seed_and_stops_in_evaluation():
    network, image = WingsNet(1), random_image(2, 1, 16, 16, 16, dtype=torch.float32)
    seeded = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        seeded.append(network(image).decoder)
    assert torch.equal(seeded[0], seeded[1]) and not torch.equal(seeded[0], seeded[2])
    state = torch.get_rng_state()
    with_generator = network(image, generator=torch.Generator().manual_seed(0)).decoder
    assert torch.equal(with_generator, seeded[0])
    network.eval()
    assert torch.equal(network(image).decoder, network(image).decoder)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("supervision", ["both", "decoder"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", [WingsNet, FastWingsNet])
def test_samples_are_training_passes_from_one_pass_of_the_trunk(form, supervision, training):
    torch.manual_seed(0)
    network, image = form(2, supervision).double().train(training), random_image(1, 1, 16, 17, 24)
    for group in network.groups.values():
        for name in group:
            torch.nn.init.normal_(network.get_submodule(name).tap.bias)
    runs = []
    network.ec5.register_forward_hook(lambda *_: runs.append(1))
    logits, drawn = network.sample(image, 6, torch.Generator().manual_seed(4))
    assert runs == [1] and network.training is training
    copies = image.expand(6, -1, -1, -1, -1)
    expected = network.train()(copies, torch.Generator().manual_seed(4)).decoder
    assert drawn.shape == (6, 1, 16, 17, 24)
    assert torch.allclose(drawn, expected, rtol=0, atol=1e-11)
    assert drawn.std(0).min() > 0
    assert torch.equal(logits, network.eval()(image).decoder)


def test_samples_need_one_image_and_channel_dropout():
    network = WingsNet(1)
    refused(lambda: network.sample(torch.zeros(2, 1, 16, 16, 16), 3), "(2, 1, 16, 16, 16)", "one image at a time")
    refused(lambda: network.sample(torch.zeros(1, 1, 8, 16, 16), 3), "at least 9")
    for supervision in ("deep", "final"):
        refused(lambda s=supervision: WingsNet(1, s).sample(torch.zeros(1, 1, 16, 16, 16), 3), "'both' or 'decoder'")


def test_hooks_see_maps_whose_gradients_are_the_plain_networks():
    plain, ours = pair()
    plain.eval()
    maps = {}
    for name in BLOCKS:
        for key, module in (
            ((name, "plain"), plain.get_submodule(name)),
            ((name, "ours"), ours.get_submodule(name)),
            ((name, "plain conv"), plain.get_submodule(name).conv),
            ((name, "ours conv"), ours.get_submodule(name).conv),
        ):
            module.register_forward_hook(lambda _, __, out, key=key: maps.update({key: out}))
    image = random_image(1, 1, 16, 16, 24)
    keys = [(name, kind) for name in BLOCKS for kind in ("", " conv")]
    gradients = {}
    for network, label in ((plain, "plain"), (ours, "ours")):
        encoder, decoder = network(image)[:2]
        hooked = [maps[name, label + kind] for name, kind in keys]
        gradients[label] = torch.autograd.grad((encoder * decoder).sum(), hooked)
    for key, a, b in zip(keys, gradients["ours"], gradients["plain"], strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10 * b.abs().max().item()), key
        assert b.abs().max() > 0


def test_one_forward_takes_several_backward_passes_that_add_up():
    _, ours = pair()
    image = random_image(1, 1, 16, 16, 16)
    logits = ours(image).decoder
    whole, mask = torch.randn_like(logits), torch.rand_like(logits) > 0.5
    weight = ours.ec2.conv.weight
    parts = [torch.autograd.grad(logits, weight, whole * m, retain_graph=True)[0] for m in (mask, ~mask)]
    (total,) = torch.autograd.grad(logits, weight, whole)
    assert torch.allclose(parts[0] + parts[1], total, rtol=0, atol=1e-10 * total.abs().max().item())


def test_no_grad_gives_the_same_and_leaves_hooked_maps_alone():
    _, ours = pair()
    image = random_image(1, 1, 16, 16, 16)
    expected, seen = ours(image), []
    with torch.no_grad():
        assert torch.equal(ours(image).decoder, expected.decoder)
        handle = ours.ec1.conv.register_forward_hook(lambda _, __, out: seen.append(out))
        assert torch.equal(ours(image).encoder, expected.encoder)
        handle.remove()
        assert torch.allclose(seen[0], F.conv3d(image, ours.ec1.conv.weight, ours.ec1.conv.bias, padding=1), atol=1e-12)


def stored_bytes(network, image):
    """Memory of all tensors that a forward pass stores for the backward pass, each counted once."""
    storages = {}

    def store(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor):
        network(image)
    return sum(storage.nbytes() for storage in storages.values())


def test_training_stores_at_most_half_of_what_the_plain_formulation_does():
    image = torch.zeros(2, 1, 32, 32, 32)
    assert stored_bytes(FastWingsNet(4), image) < 0.5 * stored_bytes(WingsNet(4), image)


def test_bfloat16_autocast_comes_close():
    torch.manual_seed(0)
    network, image = FastWingsNet(2).eval(), random_image(1, 1, 16, 16, 16, dtype=torch.float32)
    full = network(image)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(image)
        sum(logit.square().mean() for logit in half[:2]).backward()
    for a, b in zip(half[:2], full[:2], strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().mean() < 0.05 * b.std()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def weights_after(steps, device, dtype):
    """All weights of a small WingsNet after some training steps on `device`, as bytes."""
    torch.manual_seed(0)
    network, image = FastWingsNet(2).to(device), random_image(2, 1, 24, 16, 24, dtype=torch.float32).to(device)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(steps):
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            logits = network(image)
        sum((torch.sigmoid(logit) - (image > 0).float()).square().mean() for logit in logits[:2]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).cpu()


def test_deterministic_forms_give_the_same_logits_and_gradients():
    torch.manual_seed(0)
    network, image = FastWingsNet(2, "deep").double().eval(), random_image(1, 1, 16, 24, 17)

    def logits_and_gradients():
        logits = network(image)
        total = sum((k * logit).square().mean() for k, logit in enumerate((logits.decoder, *logits.deep), 1))
        return [logits.decoder, *torch.autograd.grad(total, list(network.parameters()))]

    expected = logits_and_gradients()
    with make_deterministic():
        found = logits_and_gradients()
    assert not torch.equal(found[0], expected[0])  # rounded otherwise, so they are in use
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-11 * max(1, b.abs().max().item()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deterministic_training_on_cuda_repeats_bit_for_bit(dtype):
    with make_deterministic():
        first, second = (weights_after(3, "cuda", dtype) for _ in range(2))
    assert torch.isfinite(first).all() and torch.equal(first, second)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda_gives_what_the_cpu_gives(dtype):
    torch.manual_seed(0)
    network, image = FastWingsNet(4), random_image(2, 1, 32, 24, 20, dtype=torch.float32)
    torch.manual_seed(1)
    expected = network(image).decoder
    network.cuda()
    torch.manual_seed(1)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        logits = network(image.cuda())
    sum(logit.square().mean() for logit in logits[:2]).backward()
    tolerance = 1e-2 if dtype == torch.float32 else 0.1  # TF32 may be on
    assert (logits.decoder.cpu() - expected).abs().mean() < tolerance * expected.std()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
