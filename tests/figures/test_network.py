"""The network's tables against the paper's, and the picture against the tables."""

import matplotlib.pyplot as plt
import pytest

from airwaylib.errors import InputError
from airwaylib.networks.checkpoints import build_network
from airwaylib.networks.wingsnet import WingsNet
from airwaystudy.figures.network import blocks_of, count, groups_of, plot_architecture, thousands


@pytest.fixture(scope="module")
def network():
    return WingsNet(width=8)


@pytest.fixture(scope="module")
def blocks(network):
    return blocks_of(network).set_index("block")


def test_blocks_are_the_papers(blocks):
    """Channels, scale, dilation and gates as in the authors' program, written out by hand."""
    expected = {
        **{"ec1": (1, 1, 8, 1, 1), "ec2": (1, 8, 16, 1, 1), "ec3": (1, 16, 32, 2, 1)},
        **{"ec4": (2, 32, 32, 1, 2), "ec5": (2, 32, 32, 2, 2), "ec6": (2, 32, 64, 2, 2)},
        **{"ec7": (4, 64, 64, 1, 2), "ec8": (4, 64, 64, 2, 2), "ec9": (4, 64, 64, 2, 2)},
        **{"ec10": (8, 64, 64, 1, 2), "ec11": (8, 64, 64, 1, 2), "ec12": (8, 64, 64, 1, 2)},
        **{"dc1": (4, 128, 64, 1, 2), "dc2": (4, 64, 64, 1, 2), "dc3": (2, 128, 64, 1, 2)},
        **{"dc4": (2, 64, 32, 1, 2), "dc5": (1, 64, 32, 1, 1), "dc6": (1, 32, 16, 1, 1)},
    }
    columns = ["scale", "inputs", "outputs", "dilation", "gates"]
    assert {name: tuple(row) for name, row in blocks[columns].T.items()} == expected
    assert list(blocks.index) == list(expected)
    assert (blocks["kernel"] == 3).all()


def test_skips_join_the_levels_last_encoder_block(blocks):
    assert blocks.loc[blocks["skip_from"] != "", "skip_from"].to_dict() == {"dc1": "ec9", "dc3": "ec6", "dc5": "ec3"}


def test_parameters_add_up(network, blocks):
    assert blocks.loc["ec1", "conv_parameters"] == 27 * 8 + 8
    assert blocks.loc["ec4", "gate_parameters"] == 2 * 32
    assert blocks.loc["ec1", "tap_parameters"] == 2 * 8 + 2
    parts = blocks[["conv_parameters", "gate_parameters", "tap_parameters"]].sum(axis=1)
    assert (parts == blocks["parameters"]).all()
    assert blocks["parameters"].sum() + groups_of(network)["parameters"].sum() == count(network) == 1473186


def test_groups_are_those_of_the_supervision(network):
    rows = groups_of(network).set_index("group")
    assert rows.loc["encoder"].to_list() == [12, 24, 25] and rows.loc["decoder"].to_list() == [6, 12, 13]
    final = WingsNet(width=1, supervision="final")
    assert groups_of(final).to_dict("records") == [{"group": "decoder", "blocks": 1, "channels": 1, "parameters": 0}]
    taps = blocks_of(final).set_index("block")["taps"]
    assert taps[taps > 0].to_dict() == {"dc6": 1}


def test_other_networks_are_refused():
    with pytest.raises(InputError, match="WingsNet alone"):
        blocks_of(build_network("unet", width=4))


@pytest.mark.parametrize("supervision", ["both", "deep", "final"])
def test_the_picture_says_what_the_tables_say(supervision):
    network = WingsNet(width=2, supervision=supervision)
    blocks, groups = blocks_of(network), groups_of(network)
    figure = plot_architecture(blocks, groups)
    (ax,) = figure.axes
    texts = [text.get_text() for text in ax.texts]
    for row in blocks.itertuples():
        assert row.block in texts and f"{row.inputs} → {row.outputs}" in texts
    assert texts.count("skip") == 3 and texts.count("pool") == 3 and texts.count("up") == 3
    assert len(ax.lines) == (blocks["taps"] > 0).sum()  # a line from each tap to its group
    assert f"{thousands(count(network))} parameters" in ax.get_title()
    assert sum(text.startswith(f"{group}") for group in groups["group"] for text in texts) == len(groups)
    plt.close("all")


def test_thousands_are_set_apart():
    assert thousands(1473186) == "1 473 186" and thousands(25) == "25"
