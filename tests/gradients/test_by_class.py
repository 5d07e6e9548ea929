"""Class-separated gradients: their sum is the ordinary gradient, on every layer of every network; and by hand."""

import pytest
import torch
from monai.networks.nets import AttentionUnet, DynUNet, UNet, VNet
from torch import nn

from airwaylib.errors import InputError
from airwaylib.gradients.by_class import class_gradients, layer_names
from airwaylib.losses.general_union import dice_loss, general_union_loss, general_union_weight
from airwaylib.networks.checkpoints import build_network
from airwaylib.networks.supervision import as_group_logits, group_losses
from airwaylib.networks.wingsnet import BLOCKS

SIDE = 24
TOLERANCE = 1e-4  # of the sum, as a share of the largest gradient


def crop(batch=1, side=SIDE, seed=0):
    """Noise with a tube along z, its label and its General Union weight (B, 1, D, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 1, side, side, side, generator=generator)
    label = torch.zeros_like(image)
    label[..., 8:12, 10:13] = 1
    distance = label * torch.rand(label.shape, generator=generator)
    return image, label, general_union_weight(distance, label)


def network(supervision="both", width=2):
    torch.manual_seed(0)
    return build_network("wingsnet", width=width, supervision=supervision).eval()


def ordinary(net, loss, image, label, weight, names, encoder_weight=1.0, group=None):
    """The gradient at each layer by one plain backward pass, of all groups or of one."""
    kept = {}
    hooks = [
        net.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: (output.retain_grad(), kept.__setitem__(name, output))[0]
        )
        for name in names
    ]
    decoder, encoder = group_losses(as_group_logits(net(image)), loss, label, weight)
    total = {None: decoder + encoder_weight * encoder, "decoder": decoder, "encoder": encoder_weight * encoder}[group]
    total.backward()
    for hook in hooks:
        hook.remove()
    return {name: torch.zeros_like(kept[name]) if kept[name].grad is None else kept[name].grad for name in names}


def assert_equal_gradients(found, expected):
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("loss", [dice_loss, general_union_loss])
@pytest.mark.parametrize("supervision", ["both", "decoder", "deep", "final"])
def test_both_classes_add_up_to_the_gradient_on_all_blocks(supervision, loss):
    net, (image, label, weight) = network(supervision), crop()
    expected = ordinary(net, loss, image, label, weight, BLOCKS, encoder_weight=0.5)
    found = class_gradients(net, loss, image, label, weight, encoder_weight=0.5)
    assert list(found) == list(BLOCKS)  # in the order of the forward pass
    for name, (airway, background) in found.items():
        assert airway.shape == expected[name].shape
        assert background.abs().max() > 0
        assert_equal_gradients(airway + background, expected[name])


def test_size_that_is_no_multiple_of_8_and_a_batch():
    net, (image, label, weight) = network(), [part[..., :21, :19] for part in crop(batch=2)]
    expected = ordinary(net, general_union_loss, image, label, weight, BLOCKS)
    for name, parts in class_gradients(net, general_union_loss, image, label, weight).items():
        assert_equal_gradients(sum(parts), expected[name])


def test_groups_add_up_and_are_those_of_their_own_loss():
    net, (image, label, weight) = network(), crop()
    expected = {
        group: ordinary(net, dice_loss, image, label, weight, BLOCKS, encoder_weight=0.5, group=group)
        for group in ("encoder", "decoder")
    }
    found = class_gradients(net, dice_loss, image, label, weight, encoder_weight=0.5, by_group=True)
    for name, (*parts, groups) in found.items():
        for group, both in groups.items():
            assert_equal_gradients(sum(both), expected[group][name])
        for number in (0, 1):
            torch.testing.assert_close(sum(both[number] for both in groups.values()), parts[number])
        if name.startswith("dc"):
            assert not any(part.any() for part in groups["encoder"])  # it never passes the decoder
        else:
            assert all(part.any() for part in groups["encoder"])


def test_without_an_encoder_group_there_are_no_groups_to_tell():
    image, label, _ = crop()
    found = class_gradients(network("final"), dice_loss, image, label, by_group=True)
    assert all(groups == {} for _, _, groups in found.values())


# MONAI's networks: in-place activations, residual sums, attention.
NETWORKS = {
    "unet": lambda: UNet(3, 1, 1, channels=(4, 8, 16), strides=(2, 2), num_res_units=1),
    "attention_unet": lambda: AttentionUnet(3, 1, 1, channels=(4, 8, 16), strides=(2, 2)),
    "vnet": lambda: VNet(3, 1, 1),
    "dynunet": lambda: DynUNet(3, 1, 1, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 16], res_block=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_monai(name):
    torch.manual_seed(0)
    net, (image, label, _) = NETWORKS[name]().eval(), crop(side=32)
    names = layer_names(net)
    assert len(names) >= 5
    inplace = [module for module in net.modules() if getattr(module, "inplace", False)]
    found = class_gradients(net, dice_loss, image, label)
    assert all(module.inplace for module in inplace)  # as they were
    for module in inplace:
        module.inplace = False
    expected = ordinary(net, dice_loss, image, label, None, names)
    assert found.keys() <= set(names)
    for layer, parts in found.items():
        assert_equal_gradients(sum(parts), expected[layer])


def test_one_convolution_by_hand():
    # Loss: sum of p times (-2 on the airway, 1 elsewhere). Identity "layer", then a box of 3: a voxel's gradient is
    # the sum over its 3^3 neighbourhood, of sigmoid'(0) = 1/4 times these; on airway voxels alone, and on the others.
    net = nn.Sequential(nn.Conv3d(1, 1, 1, bias=False), nn.Conv3d(1, 1, 3, padding=1, bias=False))
    for convolution in net:
        nn.init.ones_(convolution.weight)
    image, label = torch.zeros(1, 1, 5, 5, 5), torch.zeros(1, 1, 5, 5, 5)
    label[0, 0, 2, 2, 1:4] = 1
    loss = lambda p, g, w: (p * (1 - 3 * g)).sum()  # noqa: E731
    (airway, background) = class_gradients(net, loss, image, label, layers=["0"])["0"]
    assert airway[0, 0, 2, 2].tolist() == [-0.5, -1.0, -1.5, -1.0, -0.5]  # 1, 2, 3, 2, 1 airway voxels x -2/4
    assert background[0, 0, 2, 2].tolist() == [(18 - 1) / 4, (27 - 2) / 4, 6.0, (27 - 2) / 4, (18 - 1) / 4]
    assert airway[0, 0, 0].abs().sum() == 0  # two slices away


def test_any_layers_in_any_order_of_asking():
    net, (image, label, _) = network(), crop()
    full = class_gradients(net, dice_loss, image, label)
    some = class_gradients(net, dice_loss, image, label, layers=["dc5", "ec3.conv", "ec3"])
    assert list(some) == ["ec3.conv", "ec3", "dc5"]
    for name in ("dc5", "ec3"):
        torch.testing.assert_close(some[name][0], full[name][0], rtol=1e-3, atol=1e-7)


def test_nothing_is_left_behind():
    net, (image, label, _) = network(), crop()
    before = net(image).decoder
    class_gradients(net, dice_loss, image, label, by_group=True)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
    assert not net.training
    torch.testing.assert_close(net(image).decoder, before, rtol=0, atol=0)


def test_it_works_without_gradients_and_with_frozen_parameters():
    net, (image, label, _) = network().requires_grad_(False), crop()
    with torch.no_grad():
        found = class_gradients(net, dice_loss, image, label)
    assert all(airway.any() for airway, _ in found.values())


def test_unknown_layers_are_refused_and_the_known_listed():
    image, label, _ = crop()
    for name in ("ec13", ""):
        with pytest.raises(InputError, match=rf"layer '{name}' is unknown.*ec1, ec2.*dc6"):
            class_gradients(network(), dice_loss, image, label, layers=["ec1", name])


def test_a_layer_must_give_one_tensor_once():
    image, label, _ = crop()
    net = network()
    net.again = nn.Identity()
    net.forward = lambda image: net.again(net.again(image))
    with pytest.raises(InputError, match="layer 'again': it must give one tensor, once"):
        class_gradients(net, dice_loss, image, label, layers=["again"])


def test_a_layer_overwritten_in_place_is_refused():
    class Overwrites(nn.Sequential):
        def forward(self, maps):
            return self[1](torch.relu_(self[0](maps)))

    image, label, _ = crop()
    net = Overwrites(nn.Conv3d(1, 1, 3, padding=1), nn.Identity())
    with pytest.raises(InputError, match="layer '0': its output is changed in place"):
        class_gradients(net, dice_loss, image, label, layers=["0"])


@pytest.mark.parametrize("value", [0, 1])
def test_a_crop_of_one_class_is_refused(value):
    image, label, _ = crop()
    with pytest.raises(InputError, match="needs both classes"):
        class_gradients(network(), dice_loss, image, torch.full_like(label, value))


def test_a_loss_that_ignores_the_background_is_refused():
    image, label, _ = crop()
    with pytest.raises(InputError, match="no gradient on the background"):
        class_gradients(network(), lambda p, g, w: 1 - (p * g).sum() / g.sum(), image, label)


def test_what_is_not_a_number_stays_so():
    image, label, _ = crop()
    loss = lambda p, g, w: dice_loss(p, g) * torch.where(g > 0, torch.nan, 1.0).mean()  # noqa: E731
    airway, _ = class_gradients(network(), loss, image, label)["dc6"]
    assert airway.isnan().any()
