"""The authors' weights: read by name, by either order of the heads, and refused when foreign, broken or unsafe."""

import pickle

import pytest
import torch
from refusals import refused

from airwaylib.networks.checkpoints import author_name, load_author_checkpoint
from airwaylib.networks.wingsnet import WingsNet


def random_network():
    torch.manual_seed(1)
    return WingsNet(2).eval()


def as_authors_state(network):
    return {author_name(name): tensor for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("swapped", [False, True])
def test_author_checkpoint_is_read(tmp_path, prefix, swapped):
    plain = random_network()
    heads = {"dc0_0": "dc0_1", "dc0_1": "dc0_0"} if swapped else {}
    state = {prefix + heads.get(name[:5], name[:5]) + name[5:]: w for name, w in as_authors_state(plain).items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pth")
    network = load_author_checkpoint(tmp_path / "w.pth", width=2)
    assert not network.training
    image = torch.randn(1, 1, 16, 16, 16, dtype=torch.float64)
    for a, b in zip(network.double()(image)[:2], plain.double()(image)[:2], strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-11)


def test_author_checkpoint_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    state = as_authors_state(random_network())
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


class Touch:
    """Unpickling one of these makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_author_checkpoint_with_code_is_refused_and_not_run(tmp_path, save):
    victim = tmp_path / "victim"
    save({"state_dict": {"ec1.conv1.weight": Touch(victim)}}, tmp_path / "w.pth")
    refused(lambda: load_author_checkpoint(tmp_path / "w.pth"), tmp_path / "w.pth", "could run code")
    assert not victim.exists()
