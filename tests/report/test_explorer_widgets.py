"""The notebook's explorer: each control changes what the figure shows, and only that; bad input is one line."""

import base64
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from synthetic_maps import EPOCHS, STRIDES, open_study, write_run, write_study

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.figures import gradient_slices as views
from airwaystudy.figures.style import BLUE, VERMILION
from airwaystudy.report import explorer_widgets
from airwaystudy.report.explorer_widgets import Explorer, explore

SIZE = 32


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return open_study(tmp_path_factory.mktemp("maps"), size=SIZE)


@pytest.fixture
def widget(maps):
    """At an axial slice, whose index is an array's first."""
    widget = Explorer(maps)
    widget.axis.value = 0
    return widget


def shown(widget, panel="share"):
    """The picture in the browser, uint8 (H, W, 3)."""
    scheme, data = widget.traces[panel].source.split(",")
    assert scheme == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB"))


def line(widget, name):
    """Heights of a curve."""
    return np.array(widget.traces[name].y, float)


def expected(widget):
    """The share that the controls ask for."""
    share = widget.chosen.share(widget.epoch.value, widget.layer.value)
    return views.share_slice(share, widget.chosen.label.shape, widget.axis.value, widget.slice.value)


def check(widget):
    """The picture has the colours of the share that the controls ask for."""
    np.testing.assert_array_equal(shown(widget), views.share_colours(expected(widget)))


def test_explores_a_study_or_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "HOME", tmp_path)
    write_study(tmp_path / "results/tiny/gradients", size=16)
    names = [one.run for one in explore("tiny").maps]
    assert names == ["both_general_union_0", "final_dice_0"]
    assert [one.run for one in explore(tmp_path / "results/tiny/gradients").maps] == names


def test_without_maps_there_is_one_line_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "HOME", tmp_path)
    with pytest.raises(InputError, match=r"results/none/gradients: no gradient maps"):
        explore("none")
    with pytest.raises(InputError, match=r"no gradient maps in this folder; they are folders that end in \.zarr"):
        explore(tmp_path)


def test_starts_at_the_last_layer_and_epoch_where_most_airway_is(maps):
    widget = Explorer(maps)
    assert (widget.layer.value, widget.epoch.value) == ("dc6", EPOCHS[-1])
    assert list(widget.layer.options) == list(STRIDES)
    assert (widget.axis.label, widget.slice.value) == ("coronal", maps[0].label.sum((0, 2)).argmax())
    assert widget.slice.max == SIZE - 1
    check(widget)
    assert "synthetic phantom <b>mini_0008</b>" in widget.says.value


def test_layer_epoch_run_and_slice_change_the_share(widget):
    figures, seen = widget.children, [shown(widget)]
    changes = [("layer", "ec1"), ("epoch", 0), ("run", 1), ("slice", 20), ("layer", "ec8"), ("axis", 2)]
    for control, value in changes:
        getattr(widget, control).value = value
        check(widget)
        assert not any(shown(widget).shape == old.shape and np.array_equal(shown(widget), old) for old in seen), control
        seen.append(shown(widget))
    assert widget.children == figures and {"ct", "row"} <= set(widget.traces)  # in place


def test_voxels_without_a_gradient_are_nan_not_zero(widget):
    widget.slice.value = 0
    check(widget)
    grey = np.round(255 * np.array(to_rgb(views.NO_SHARE)))
    assert (shown(widget)[:8, :8] == grey).all() and not (shown(widget)[8:] == grey).all(-1).any()


def test_coarse_layer_is_spread_to_the_crops_voxels(widget):
    widget.layer.value = "ec11"
    cells = widget.chosen.share(widget.epoch.value, "ec11")[widget.slice.value // 8]
    np.testing.assert_array_equal(shown(widget), views.share_colours(np.kron(cells, np.ones((8, 8)))))


def test_pictures_of_ct_and_label(widget):
    index, one = widget.slice.value, widget.chosen
    np.testing.assert_array_equal(shown(widget, "ct"), np.stack([one.image[index]] * 3, -1))
    owners = views.owners(one.label[index], expected(widget))
    colours = {0: views.NO_SHARE, 1: BLUE, 2: VERMILION, 3: "white"}
    for owner in np.unique(owners):
        found = np.unique(shown(widget, "label")[owners == owner], axis=0)
        np.testing.assert_array_equal(found, [np.round(255 * np.array(to_rgb(colours[owner])))])
    assert len(np.unique(owners)) > 1
    assert len(widget.traces["ct outline"].x) == len(views.outline(one.label[index])[0])


@pytest.mark.parametrize(
    ("axis", "columns", "rows", "upwards", "ratio"),
    [(0, "x", "y", False, 1), (1, "x", "z", True, 1.5), (2, "y", "z", True, 1.5)],
)
def test_axis_turns_the_pictures(widget, axis, columns, rows, upwards, ratio):
    widget.axis.value = axis
    layout = widget.pictures.layout
    assert layout.xaxis.title.text == f"{columns} (voxel)" and layout.yaxis.title.text == f"{rows} (voxel)"
    assert (layout.yaxis.range[0] < layout.yaxis.range[1]) == upwards
    assert layout.yaxis.scaleratio == ratio
    assert widget.slice.value == views.best_slice(widget.chosen.label, axis)


def test_profile_follows_the_click(widget):
    row, _ = views.best_pixel(widget.chosen.label[widget.slice.value])
    np.testing.assert_array_equal(line(widget, "row"), expected(widget)[row])
    widget._pick(None, SimpleNamespace(xs=[5], ys=[7]), None)
    np.testing.assert_array_equal(line(widget, "row"), expected(widget)[7])
    lines = widget.pictures.layout.shapes
    assert [(line.yref, line.y0, line.y1) for line in lines] == [("y", 7, 7), ("y2", 7, 7), ("y3", 7, 7)]
    widget.along.value = 1
    np.testing.assert_array_equal(line(widget, "row"), expected(widget)[:, 5])
    np.testing.assert_array_equal(line(widget, "hu"), views.to_hu(widget.chosen.image[widget.slice.value])[:, 5])
    assert [(line.xref, line.x0, line.x1) for line in lines] == [("x", 5, 5), ("x2", 5, 5), ("x3", 5, 5)]
    assert "profile at x 5" in widget.curves.layout.annotations[0].text
    assert widget.curves.layout.xaxis.title.text == "y (voxel)"
    widget.slice.value = 3
    assert widget.picked == (7, 5)  # stays while the slice moves
    widget.axis.value = 1
    assert widget.picked is None


def test_pointing_at_a_picture_tells_all_of_a_voxel(widget):
    widget.axis.value, widget.slice.value = 1, 16
    row, column = np.argwhere(widget.chosen.label[:, 16])[0]
    widget._point(None, SimpleNamespace(xs=[column], ys=[row]), None)
    hu, share = views.to_hu(widget.chosen.image[row, 16, column]), expected(widget)[row, column]
    assert f"x {column}, z {row}, y 16: CT {hu} HU, label 1, share <b>{share:.2f}</b>" in widget.voxel.value
    widget.slice.value = 0
    widget._point(None, SimpleNamespace(xs=[0], ys=[0]), None)
    assert "label 0, no gradient" in widget.voxel.value


def test_a_click_beside_the_pictures_changes_nothing(widget):
    widget._pick(None, SimpleNamespace(xs=[], ys=[]), None)
    assert widget.picked is None


def test_erosion_curves_of_this_run_and_the_others(widget):
    this = 100 * views.curve(widget.maps[0], EPOCHS[-1]).to_numpy(np.float32)
    other = 100 * views.curve(widget.maps[1], EPOCHS[-1]).to_numpy(np.float32)
    np.testing.assert_allclose(line(widget, "this"), this, rtol=1e-6)
    np.testing.assert_allclose(line(widget, "others")[:-1], other, rtol=1e-6)
    widget.layer.value = "ec3"
    assert list(widget.traces["layer"].x) == [1]
    np.testing.assert_allclose(line(widget, "layer"), this[1:2], rtol=1e-6)
    assert list(widget.curves.layout.xaxis2.ticktext) == list(STRIDES)
    widget.run.value = 1
    np.testing.assert_allclose(line(widget, "this"), other, rtol=1e-6)
    assert set(widget.traces["others"].text) == {"general_union, both, seed 0"}


def test_one_run_alone(maps):
    widget = Explorer(maps[:1])
    assert np.isnan(line(widget, "others")).all()


def test_runs_may_differ_in_crop_layers_and_epochs(maps, tmp_path):
    strides = {"down1": 1, "ec5": 2, "up1": 1}
    write_run(tmp_path / "other.zarr", "tversky", "final", size=24, strides=strides, epochs=(2, 9), case="scan_1")
    widget = Explorer([*maps, explorer_widgets.open_all(tmp_path)[0]])
    widget.axis.value = 0
    widget.layer.value, widget.epoch.value, widget.slice.value = "ec5", 2, SIZE - 1
    widget.run.value = 2
    assert (widget.layer.value, widget.epoch.value) == ("ec5", 2)  # it has them too
    assert list(widget.epoch.options) == [2, 9]
    assert (widget.slice.max, widget.slice.value) == (23, views.best_slice(widget.chosen.label, 0))
    check(widget)
    assert list(widget.pictures.layout.xaxis.range) == [-0.5, 23.5]
    assert "synthetic" not in widget.says.value
    widget.epoch.value = 9  # no other run was looked at then
    assert np.isnan(line(widget, "others")).all()
    widget.layer.value = "up1"
    widget.run.value = 0
    assert (widget.layer.value, widget.epoch.value) == ("dc6", EPOCHS[-1])
    check(widget)


def test_same_crop_keeps_slice_and_click(widget):
    widget.slice.value = 11
    widget._pick(None, SimpleNamespace(xs=[4], ys=[6]), None)
    widget.run.value = 1
    assert (widget.slice.value, widget.picked) == (11, (6, 4))


def test_names_of_runs_are_no_markup(tmp_path):
    write_run(tmp_path / "odd.zarr", "<b>loss", "final", size=16, case="<i>case")
    widget = explore(tmp_path)
    assert "&lt;i&gt;case" in widget.says.value
    assert set(widget.traces["this"].text) == {"&lt;b&gt;loss, final, seed 0"}


def test_shares_are_read_once(widget):
    widget.layer.value = "ec1"
    before = widget.share.cache_info().misses
    widget.layer.value = "dc6"
    widget.slice.value = 3
    widget.layer.value = "ec1"
    assert widget.share.cache_info().misses == before
