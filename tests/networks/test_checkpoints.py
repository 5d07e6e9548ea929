"""Networks by name; checkpoints there and back, byte by byte; the authors' files; every file that is neither."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from refusals import refused

from airwaylib.inference import DEFAULT_WEIGHTS
from airwaylib.networks.checkpoints import (
    CheckpointInfo,
    author_name,
    build_network,
    load_author_checkpoint,
    load_checkpoint,
    save_checkpoint,
    start_from,
)
from airwaylib.networks.wingsnet import WingsNet

INFO = CheckpointInfo("wingsnet", {"width": 2}, window=16, spacing=0.7)


def network(seed=0, width=2):
    torch.manual_seed(seed)
    return build_network("wingsnet", width=width)


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path / "weights.safetensors", network(), INFO)
    return tmp_path / "weights.safetensors"


def test_wingsnet_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in build_network("wingsnet").parameters()) == 1_473_186


def test_parameters_reach_the_network():
    # All channel counts but the input's and the taps' go with the width, so a narrower network is much smaller.
    assert sum(p.numel() for p in network(width=2).parameters()) < 0.1 * 1_473_186


def test_an_unknown_network_is_refused():
    refused(lambda: build_network("wingnet"), "'wingnet' is unknown", "wingsnet")


def test_an_unknown_parameter_is_refused():
    refused(lambda: build_network("wingsnet", widht=8), "no parameter 'widht'", "width")


@pytest.mark.parametrize("spacing", [0.7, None])
def test_a_checkpoint_brings_back_weights_and_info(tmp_path, spacing):
    saved, info = network(), replace(INFO, spacing=spacing)
    save_checkpoint(tmp_path / "a.safetensors", saved, info)
    loaded, found = load_checkpoint(tmp_path / "a.safetensors")
    assert found == info
    assert not loaded.training
    weights = saved.state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())


def test_a_loaded_network_computes_the_same(checkpoint):
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network().eval()(image).decoder
        found = load_checkpoint(checkpoint)[0](image).decoder
    assert found.shape == (1, 1, 16, 16, 16)
    assert torch.equal(found, expected)


def test_float16_halves_the_file_and_loads_as_float32(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "half.safetensors", network(), INFO, torch.float16)
    header = 12_000  # bytes at most that name the tensors
    full, half = checkpoint.stat().st_size, (tmp_path / "half.safetensors").stat().st_size
    assert abs(full - 2 * half) < header
    assert half < 0.6 * full
    loaded = load_checkpoint(tmp_path / "half.safetensors")[0].state_dict()
    for name, tensor in network().state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.half().float())


def test_equal_networks_give_equal_bytes(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "again.safetensors", network(), INFO)
    save_checkpoint(tmp_path / "other.safetensors", network(seed=1), INFO)
    assert (tmp_path / "again.safetensors").read_bytes() == checkpoint.read_bytes()
    assert (tmp_path / "other.safetensors").read_bytes() != checkpoint.read_bytes()


def test_saving_leaves_the_network_as_it_was(tmp_path):
    saved = network().double()
    save_checkpoint(tmp_path / "a.safetensors", saved, INFO, torch.float16)
    assert {p.dtype for p in saved.parameters()} == {torch.float64}
    assert all(p.requires_grad for p in saved.parameters())


def test_a_missing_file_is_refused(tmp_path):
    path = tmp_path / "none.safetensors"
    refused(lambda: load_checkpoint(path), path, "no such checkpoint file")
    refused(lambda: load_checkpoint(tmp_path), tmp_path, "no such checkpoint file")


@pytest.mark.parametrize("length", [0, 4, 300, -1])
def test_a_truncated_file_is_refused(checkpoint, length):
    checkpoint.write_bytes(checkpoint.read_bytes()[:length])
    refused(lambda: load_checkpoint(checkpoint), checkpoint, "not a readable safetensors checkpoint")


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.write_text, (Path(self.path), "sprung")


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_a_pickle_is_refused_and_not_run(tmp_path, save):
    path, sprung = tmp_path / "pickled.safetensors", tmp_path / "sprung"
    save({"state_dict": Trap(sprung)}, path)
    refused(lambda: load_checkpoint(path), path, "not a readable safetensors checkpoint")
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))  # the trap does work
    assert sprung.exists()


def test_the_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "wide.safetensors"
    save_checkpoint(path, network(width=4), INFO)
    refused(lambda: load_checkpoint(path), path, "weights of another network than 'wingsnet'")


def test_a_missing_or_surplus_weight_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    metadata = {"airwaylib": json.dumps(vars(INFO))}
    weights = network().state_dict()
    safetensors.torch.save_file(weights | {"stray": torch.zeros(1)}, path, metadata)
    refused(lambda: load_checkpoint(path), path, "1 differ, first stray")
    gone = next(iter(weights))
    safetensors.torch.save_file({name: weights[name] for name in weights if name != gone}, path, metadata)
    refused(lambda: load_checkpoint(path), path, f"1 differ, first {gone}")


def test_a_strangers_file_is_refused(tmp_path):
    path = tmp_path / "stranger.safetensors"
    safetensors.torch.save_file(network().state_dict(), path)
    refused(lambda: load_checkpoint(path), path, "no airwaylib metadata")


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[1]",
        '{"network": "wingsnet"}',
        json.dumps(vars(replace(INFO, network="alexnet"))),
        json.dumps(vars(replace(INFO, parameters={"depth": 3}))),
        json.dumps(vars(INFO) | {"colour": "red"}),
    ],
)
def test_metadata_that_name_no_network_are_refused(tmp_path, text):
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file(network().state_dict(), path, {"airwaylib": text})
    refused(lambda: load_checkpoint(path), path, "metadata")


def test_a_network_starts_from_the_weights_of_another(checkpoint):
    started = network(seed=1)
    start_from(started, checkpoint)
    for name, weight in network(seed=0).state_dict().items():
        torch.testing.assert_close(started.state_dict()[name], weight, rtol=0, atol=0)


def test_a_network_does_not_start_from_the_weights_of_another_architecture(checkpoint):
    refused(lambda: start_from(network(width=3), checkpoint), checkpoint, "wingsnet with {'width': 2}")
    refused(lambda: start_from(network(), checkpoint.with_name("none.safetensors")), "no such checkpoint")


def test_the_weights_of_the_package_are_the_default():
    network, info = load_checkpoint()
    assert info == load_checkpoint(DEFAULT_WEIGHTS)[1] and isinstance(network, WingsNet)


def as_authors_state(network):
    return {author_name(name): tensor for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("swapped", [False, True])
def test_author_checkpoint_is_read(tmp_path, prefix, swapped):
    plain = network().eval()
    heads = {"dc0_0": "dc0_1", "dc0_1": "dc0_0"} if swapped else {}
    state = {prefix + heads.get(name[:5], name[:5]) + name[5:]: w for name, w in as_authors_state(plain).items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pth")
    loaded = load_author_checkpoint(tmp_path / "w.pth", width=2)
    assert not loaded.training
    image = torch.randn(1, 1, 16, 16, 16, dtype=torch.float64)
    for a, b in zip(loaded.double()(image)[:2], plain.double()(image)[:2], strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-11)


def test_author_checkpoint_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    state = as_authors_state(network())
    torch.save({"state_dict": state}, path)
    refused(
        lambda: load_author_checkpoint(path),
        path,
        "width 8",
        "ec1.conv1.weight is (2, 1, 3, 3, 3), not (8, 1, 3, 3, 3)",
        "more",
    )
    torch.save({"state_dict": {k: v for k, v in state.items() if k != "ec4.conv_se2.weight"}}, path)
    refused(lambda: load_author_checkpoint(path, 2), path, "ec4.conv_se2.weight is missing")
    torch.save({"state_dict": state | {"ec1.conv_se2.weight": torch.zeros(1)}}, path)
    refused(lambda: load_author_checkpoint(path, 2), path, "ec1.conv_se2.weight is unexpected")
    for wrong in ([1, 2], {"weights": state}, {"state_dict": {"ec1": 1}}, {"state_dict": torch.zeros(3)}):
        torch.save(wrong, path)
        refused(lambda: load_author_checkpoint(path, 2), path, "state_dict")
    path.write_bytes(b"not a checkpoint")
    refused(lambda: load_author_checkpoint(path), path, "not a PyTorch file of plain tensors")
    refused(lambda: load_author_checkpoint(tmp_path / "none.pth"), "none.pth", "no such")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_author_checkpoint_with_code_is_refused_and_not_run(tmp_path, save):
    sprung = tmp_path / "sprung"
    save({"state_dict": {"ec1.conv1.weight": Trap(sprung)}}, tmp_path / "w.pth")
    refused(lambda: load_author_checkpoint(tmp_path / "w.pth"), tmp_path / "w.pth", "could run code")
    assert not sprung.exists()
