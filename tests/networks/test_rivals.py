"""MONAI's networks by name: any size, the same training, checkpoints, inference and gradients as WingsNet's."""

import monai.networks.nets as nets
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from refusals import refused

from airwaylib.gradients.by_class import class_gradients, layer_names
from airwaylib.inference.segment import predict_probability
from airwaylib.losses.general_union import dice_loss
from airwaylib.networks import rivals
from airwaylib.networks.checkpoints import CheckpointInfo, build_network, load_checkpoint, save_checkpoint
from airwaylib.networks.rivals import RIVALS, Rival
from airwaystudy import home
from airwaystudy.training.config import TrainConfig
from airwaystudy.training.optimisation import make_deterministic
from airwaystudy.training.run import Run, train

PARAMETERS = {
    "unet": 1_416_001,
    "vnet": 45_593_890,
    "attention_unet": 1_478_589,
    "dynunet": 1_950_945,
}
COARSEST = {"unet": 16, "vnet": 16, "attention_unet": 16, "dynunet": 32}
WITHOUT_DROPOUT = ["unet", "attention_unet", "dynunet"]


def small(name, seed=0, **parameters):
    """A narrow network of that name."""
    torch.manual_seed(seed)
    return build_network(name, width=16 if name == "vnet" else 2, **parameters)


def random_image(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_parameters_at_the_default_width_are_the_documented_ones():
    assert RIVALS.keys() == PARAMETERS.keys()
    for name, count in PARAMETERS.items():
        assert sum(p.numel() for p in build_network(name).parameters()) == count
        (row,) = [line for line in rivals.__doc__.splitlines() if line.startswith(f"| `{name}`")]
        assert f" 1/{COARSEST[name]} |" in row and row.endswith(f" {count:,} |")


@pytest.mark.parametrize("name", WITHOUT_DROPOUT)
def test_channels_scale_with_the_width(name):
    counts = [sum(p.numel() for p in build_network(name, width=width).parameters()) for width in (4, 8)]
    assert counts[1] == pytest.approx(4 * counts[0], rel=0.03)  # biases and normalisations only double
    for width in (3, 5):
        channels = next(m for m in build_network(name, width=width).modules() if isinstance(m, torch.nn.Conv3d))
        assert channels.out_channels == width


@pytest.mark.parametrize(("name", "supervision"), [*((name, "final") for name in RIVALS), ("dynunet", "deep")], ids=str)
def test_any_size_a_gradient_everywhere_a_checkpoint_and_sliding_windows(tmp_path, name, supervision):
    network, image = small(name, supervision=supervision), random_image(1, 1, 17, 5, 20)
    logits = network(image)
    assert logits.encoder is None and len(logits.deep) == (2 if supervision == "deep" else 0)
    for logit in (logits.decoder, *logits.deep):
        assert logit.shape == image.shape and logit.dtype == torch.float32
    sum(dice_loss(torch.sigmoid(logit), (image > 0.8).float()) for logit in (logits.decoder, *logits.deep)).backward()
    for parameter_name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), parameter_name
    assert sum((p.grad != 0).any().item() for p in network.parameters()) > 0.5 * len(list(network.parameters()))

    parameters = {"width": 16 if name == "vnet" else 2, "supervision": supervision}
    info = CheckpointInfo(name, parameters, window=16, spacing=0.7)
    save_checkpoint(tmp_path / "a.safetensors", network, info)
    loaded, found = load_checkpoint(tmp_path / "a.safetensors")
    assert found == info and not loaded.training
    assert all(torch.equal(w, network.state_dict()[key]) for key, w in loaded.state_dict().items())

    grey = (255 * random_image(20, 16, 16).numpy()).astype(np.uint8)
    probability, again = (
        predict_probability(one, grey, np.ones(grey.shape, bool), window=16, progress=False)
        for one in (network, loaded)
    )
    assert probability.shape == grey.shape and 0 < probability.min() < probability.max() < 1
    assert np.array_equal(probability, again)


@pytest.mark.parametrize("name", ["unet", "dynunet"])
def test_an_image_is_padded_by_its_last_voxels_and_the_logits_cropped(name):
    network, image = small(name).eval(), random_image(1, 1, 2 * COARSEST[name] + 3, 9, 16)
    lengths = [3 * COARSEST[name], 2 * COARSEST[name], 2 * COARSEST[name]]
    index = [torch.arange(n).clamp(max=size - 1) for n, size in zip(lengths, image.shape[2:], strict=True)]
    padded = image[:, :, index[0]][:, :, :, index[1]][:, :, :, :, index[2]]
    with torch.no_grad():
        expected = network(padded).decoder[:, :, : image.shape[2], :9, :16]
        assert torch.equal(network(image).decoder, expected)


@pytest.mark.parametrize("name", WITHOUT_DROPOUT)
def test_a_crop_is_seen_alike_alone_in_a_batch_and_in_evaluation(name):
    network, images = small(name), random_image(2, 1, 32, 16, 16)
    with torch.no_grad():
        batch = network(images).decoder
        alone = network(images[:1]).decoder
        assert torch.allclose(batch[:1], alone, rtol=0, atol=1e-5)
        assert torch.equal(network.eval()(images[:1]).decoder, alone)
    assert not torch.allclose(batch[:1], batch[1:], atol=1e-3)


def test_a_single_channel_is_never_normalised():
    """An empty window and a full one must be told apart by their level, as V-Net's last norm would not allow."""
    for name in ("vnet", "attention_unet"):
        norms = [m for m in small(name).modules() if isinstance(m, torch.nn.InstanceNorm3d | torch.nn.BatchNorm3d)]
        assert len(norms) > 10 and all(isinstance(m, torch.nn.InstanceNorm3d) for m in norms)
        assert min(m.num_features for m in norms if m.affine) > 1


def test_values_are_those_of_monais_network():
    theirs = nets.BasicUNet(3, 1, 1, features=(2, 4, 8, 16, 32, 2)).eval()
    ours, image = small("unet").eval(), random_image(1, 1, 32, 32, 32)
    theirs.load_state_dict({key.removeprefix("network."): w for key, w in ours.state_dict().items()})
    with torch.no_grad():
        expected = theirs(image)
        assert torch.allclose(ours(image).decoder, expected, rtol=0, atol=1e-5)
        with make_deterministic():
            assert torch.allclose(ours(image).decoder, expected, rtol=0, atol=1e-5)


def test_dynunet_gives_monais_outputs_in_either_mode():
    torch.manual_seed(0)
    strides, filters = (1, 2, 2, 2, 2, 2), (2, 4, 8, 16, 20, 20)
    deep = {"deep_supervision": True, "deep_supr_num": 2}
    theirs = nets.DynUNet(3, 1, 1, [3] * 6, strides, strides[1:], filters=filters, **deep)
    image = random_image(1, 1, 64, 64, 64)
    with torch.no_grad():
        fine = theirs(image)[:, 0]
        half, quarter = theirs.heads  # before MONAI's interpolation to the nearest voxel
        ours = Rival(rivals.DeepUNet(theirs), 32)
        for network in (ours, ours.eval()):
            logits = network(image)
            assert torch.allclose(logits.decoder, fine, rtol=0, atol=1e-5)
            for found, coarse, size in zip(logits.deep, (half, quarter), (32, 16), strict=True):
                assert coarse.shape[2:] == (size,) * 3
                expected = F.interpolate(coarse, size=(64, 64, 64), mode="trilinear", align_corners=True)
                assert torch.allclose(found, expected, rtol=0, atol=1e-5)
    assert small("dynunet", supervision="deep").state_dict().keys() == ours.state_dict().keys()


def test_first_weights_follow_the_seed():
    for name in WITHOUT_DROPOUT:
        one, again, other = (small(name, seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[key], again[key]) for key in one)
        assert not all(torch.equal(one[key], other[key]) for key in one)


def test_gradients_by_class_add_up_at_every_layer():
    network, image = small("unet"), random_image(1, 1, 16, 16, 16)
    label = torch.zeros_like(image)
    label[..., 4:9, 4:9, :] = 1
    found = class_gradients(network, dice_loss, image, label)
    assert len(found) > 10 and set(found) == set(layer_names(network))
    first = layer_names(network)[0]
    outputs = []
    handle = network.get_submodule(first).register_forward_hook(lambda _, __, out: outputs.append(out))
    inplace = [module for module in network.modules() if getattr(module, "inplace", False)]
    for module in inplace:
        module.inplace = False
    loss = dice_loss(torch.sigmoid(network(image).decoder), label)
    handle.remove()
    (expected,) = torch.autograd.grad(loss, outputs)
    assert torch.allclose(sum(found[first]), expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert found[first][0].abs().max() > 0


def test_logits_are_float32_under_autocast():
    network, image = small("unet"), random_image(1, 1, 16, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(image).decoder
    assert logits.dtype == torch.float32


def test_what_a_network_does_not_have_is_refused():
    for name in RIVALS:
        width = 16 if name == "vnet" else 8
        refused(lambda n=name, w=width: build_network(n, width=w, supervision="both"), name, "set supervision=final")
        refused(lambda n=name: build_network(n, depth=3), name, "no parameter 'depth'", "width, supervision")
    refused(lambda: build_network("unet", supervision="deep"), "'deep'", "set supervision=final")
    refused(lambda: build_network("dynunet", supervision="both"), "supervision=final or supervision=deep")
    refused(lambda: build_network("vnet", width=8), "'vnet'", "not 8", "set width=16")
    refused(lambda: build_network("attention_unet", width=1), "width 1", "at least 2")
    refused(lambda: build_network("unet", width=0), "width 0", "at least 1")
    refused(lambda: build_network("resnet"), "'resnet' is unknown", "wingsnet", *RIVALS)
    refused(lambda: small("unet")(torch.zeros(1, 2, 16, 16, 16)), "(1, 2, 16, 16, 16)", "(B, 1, D, H, W)")


@pytest.mark.parametrize(("name", "supervision"), [("unet", "final"), ("dynunet", "deep")])
def test_a_run_trains_it(phantoms, tmp_path, monkeypatch, name, supervision):
    monkeypatch.setattr(home, "HOME", tmp_path)
    config = TrainConfig(
        run=name,
        data=str(phantoms),
        train_cases=["mini_0000"],
        network=name,
        supervision=supervision,
        width=2,
        crop=32,
        crops_per_case=2,
        epochs=2,
        spacing=1.0,
        device="cpu",
        probe_every=4 if name == "unet" else None,
    )
    before = {key: w.clone() for key, w in Run(config).plain_network.state_dict().items()}
    train(config)
    rows = pd.read_csv(config.folder / "metrics.csv")
    assert (config.folder / "probes.csv").exists() == (name == "unet")
    assert len(rows) == 2 and rows["loss"].between(0, 2).all() and (rows["loss_encoder"] == 0).all()
    after, info = load_checkpoint(config.folder / "checkpoint.safetensors")
    assert (info.network, info.parameters) == (name, {"width": 2, "supervision": supervision})
    assert any((w != before[key]).any() for key, w in after.state_dict().items())
