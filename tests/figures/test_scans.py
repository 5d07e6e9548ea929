"""Figures show what they should: shapes, places in mm, orientation; and a rebuild leaves their files unchanged."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import rgb_to_hsv, to_rgb, to_rgba
from matplotlib.contour import ContourSet

from airwaylib.errors import InputError
from airwaylib.trees.parse import parse_tree
from airwaystudy.figures import style
from airwaystudy.figures.scans import (
    LAMP,
    draw_slice,
    draw_surface,
    overlap,
    plot_predictions,
    plot_segmentation,
    surface,
)
from airwaystudy.figures.style import BLUE, GREY, ORANGE, VERMILION, save_figure
from airwaystudy.figures.training import plot_crops, plot_training
from airwaystudy.figures.trees import draw_tree_file, plot_tree, tree_html, tree_lines

SPACING = (0.5, 2.0, 3.0)  # x, y, z
SHAPE = (6, 8, 10)  # z, y, x: 18 x 16 x 5 mm


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def ct():
    """Soft tissue, and one voxel of air near the head, the front and the patient's right."""
    hu = np.full(SHAPE, 40, np.int16)
    hu[5, 1, 2] = -1000
    return hu


@pytest.fixture
def truth():
    """An airway 3 voxels high at the patient's right and a lone voxel at the left."""
    mask = np.zeros(SHAPE, bool)
    mask[1:4, 3:6, 1:4] = True
    mask[4, 4, 8] = True
    return mask


def contours(ax):
    return [part for part in ax.collections if isinstance(part, ContourSet)]


def surfaces(ax):
    return [part for part in ax.collections if isinstance(part, PolyCollection) and not isinstance(part, ContourSet)]


def outline(contour):
    """Lowest and highest corner (x, y) of a contour, mm."""
    points = np.concatenate([path.vertices for path in contour.get_paths()])
    return points.min(0), points.max(0)


def brightness_at(ax, x, y):
    """Grey value, 0 to 1, of the slice shown in `ax` at x, y mm, as drawn on the canvas."""
    ax.figure.canvas.draw()
    column, row = ax.transData.transform((x, y))
    return np.asarray(ax.figure.canvas.buffer_rgba())[-1 - int(row), int(column), 0] / 255


# --------------------------------------------------------------------------------------------------------- slices


@pytest.mark.parametrize(
    ("axis", "index", "extent", "place"),
    [
        (0, 5, (0, 5, 0, 16), (1.25, 13)),  # axial: x from the right; the front is up, so y counts from the top
        (1, 1, (0, 5, 0, 18), (1.25, 16.5)),  # coronal: x from the right, z upwards
        (2, 2, (0, 16, 0, 18), (3, 16.5)),  # sagittal: y from the front, z upwards
    ],
)
def test_slice_has_the_patient_upright_and_mm_on_its_axes(ct, axis, index, extent, place):
    ax = plt.figure(figsize=(4, 4), dpi=100).add_subplot()
    draw_slice(ax, ct, {}, axis, index, SPACING)
    assert tuple(ax.images[0].get_extent()) == extent
    assert ax.get_xlim() == extent[:2] and ax.get_ylim() == extent[2:]
    assert ax.get_aspect() == 1  # a mm is a mm along both axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("mm", "mm")
    assert brightness_at(ax, *place) == 0  # air
    other = (extent[1] - place[0], place[1]), (place[0], extent[3] - place[1])
    assert all(brightness_at(ax, *point) > 0.8 for point in other)


@pytest.mark.parametrize(
    ("axis", "index", "low", "high"),
    [
        # mask[1:4, 3:6, 1:4]; the outline runs half way from voxel centre to voxel centre: at the voxels' edges
        (0, 2, (0.5, 16 - 12), (2, 16 - 6)),
        (1, 4, (0.5, 3), (2, 12)),
        (2, 2, (6, 3), (12, 12)),
    ],
)
def test_outline_lies_on_the_edge_of_the_mask(ct, truth, axis, index, low, high):
    truth[4, 4, 8] = False
    ax = plt.figure().add_subplot()
    draw_slice(ax, ct, {VERMILION: truth}, axis, index, SPACING)
    (contour,) = contours(ax)
    np.testing.assert_allclose(outline(contour), [low, high])
    np.testing.assert_allclose(contour.get_edgecolor(), [to_rgba(VERMILION)])


def test_a_mask_that_misses_the_slice_has_no_outline(ct, truth):
    ax = plt.figure().add_subplot()
    draw_slice(ax, ct, {ORANGE: truth, BLUE: ~truth & False}, 0, 0, SPACING)
    assert contours(ax) == []


# ------------------------------------------------------------------------------------------------------- surfaces


def test_surface_encloses_the_mask():
    mask = np.zeros((20, 30, 40), bool)
    mask[5:15, 6:26, 7:37] = True
    triangles = surface(mask, 1)
    assert triangles.shape[1:] == (3, 3)
    np.testing.assert_allclose(triangles.min((0, 1)), [7, 6, 5], atol=0.2)  # x, y, z
    np.testing.assert_allclose(triangles.max((0, 1)), [37, 26, 15], atol=0.2)
    # Divergence theorem: the volume is a sixth of the sum of a . (b x c) over outward triangles.
    a, b, c = np.moveaxis(triangles - 20, 1, 0)
    assert np.sum(a * np.cross(b, c)) / 6 == pytest.approx(10 * 20 * 30, rel=0.07)  # 0.14 of a voxel outside


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("index", [(0, 0, 0), (5, 6, 7), (9, 10, 11)])
def test_a_lone_voxel_has_a_surface_whatever_the_grid(stride, index):
    mask = np.zeros((10, 11, 12), bool)
    mask[index] = True
    triangles = surface(mask, stride)
    assert len(triangles) >= 8
    assert np.abs(triangles.mean((0, 1)) - np.array(index[::-1]) - 0.5).max() <= stride / 2


def test_surfaces_are_seen_from_the_front_with_the_head_up():
    mask = np.zeros(SHAPE, bool)
    mask[4:6, 1:3, 0:4] = True  # at the head, on the patient's right
    ax = plt.figure().add_subplot()
    draw_surface(ax, {BLUE: mask}, SPACING)
    assert ax.get_xlim() == (0, 5) and ax.get_ylim() == (0, 18)
    assert ax.get_aspect() == 1
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("mm", "mm")
    (shape,) = surfaces(ax)
    low, high = outline(shape)
    np.testing.assert_allclose(low, [0, 12], atol=0.5)  # 0.14 of a voxel of 3 mm outside
    np.testing.assert_allclose(high, [2, 18], atol=0.5)


def test_what_lies_in_front_hides_what_lies_behind():
    behind, front = np.zeros((2, 12, 12, 12), bool)
    behind[3:9, 8:11, 3:9] = True
    front[4:8, 1:4, 4:8] = True
    for masks in ({BLUE: behind, ORANGE: front}, {ORANGE: front, BLUE: behind}):
        figure, ax = plt.subplots(dpi=100)
        draw_surface(ax, masks, (1.0, 1.0, 1.0))
        figure.canvas.draw()
        column, row = ax.transData.transform((6, 6)).astype(int)
        pixel = np.asarray(figure.canvas.buffer_rgba())[-1 - row, column, :3] / 255
        assert rgb_to_hsv(pixel)[0] == pytest.approx(rgb_to_hsv(to_rgb(ORANGE))[0], abs=0.02)


def test_light_falls_from_the_lamps_side():
    z, y, x = np.mgrid[:21, :21, :21] - 10
    ax = plt.figure().add_subplot()
    draw_surface(ax, {GREY: x * x + y * y + z * z <= 64}, (1.0, 1.0, 1.0))
    (ball,) = surfaces(ax)
    middle = np.array([path.vertices[:3].mean(0) for path in ball.get_paths()]) - 10.5
    light = ball.get_facecolor()[:, 0]
    assert np.linalg.norm(LAMP) == pytest.approx(1)
    assert LAMP[0] < 0 and LAMP[1] < 0 and LAMP[2] > 0  # at the viewer's left, in front, above
    towards = middle @ LAMP[[0, 2]] / 8
    assert light[towards > 0.7].min() > light[towards < -0.7].max()


def test_empty_masks_leave_the_axes_empty():
    ax = plt.figure().add_subplot()
    draw_surface(ax, {BLUE: np.zeros(SHAPE, bool)}, SPACING)
    assert surfaces(ax) == [] and ax.get_ylim() == (0, 18)


# ------------------------------------------------------------------------------------------------ predictions, CT


def test_overlap_parts_the_union():
    rng = np.random.default_rng(0)
    prediction, truth = rng.random((2, 5, 6, 7)) < 0.5
    parts = overlap(prediction, truth)
    np.testing.assert_array_equal(sum(part.astype(int) for part in parts.values()), prediction | truth)
    detected, missed, false = (parts[colour] for colour in (BLUE, ORANGE, VERMILION))
    assert detected.sum() + missed.sum() == truth.sum()
    assert detected.sum() + false.sum() == prediction.sum()
    assert not (false & truth).any() and not (missed & prediction).any()


def hues(collection):
    """The Okabe-Ito colours of a surface, shaded as they are."""
    found = rgb_to_hsv(collection.get_facecolor()[:, :3])[:, 0]
    known = {colour: rgb_to_hsv(to_rgb(colour))[0] for colour in (BLUE, ORANGE, VERMILION)}
    return {colour for colour, hue in known.items() if np.isclose(found, hue, atol=0.01).any()}


def test_predictions_beside_the_truth(ct, truth):
    missing, false = truth.copy(), truth.copy()
    missing[4, 4, 8] = False
    false[5, 0, 0] = True
    figure = plot_predictions(ct, truth, {"dice": missing, "gul": false, "none": truth & False}, SPACING, "case 1")
    axes = figure.axes
    assert len(axes) == 8
    slices, views = axes[::2], axes[1::2]
    assert [ax.get_title() for ax in slices] == ["truth", "dice", "gul", "none"]
    assert [hues(*surfaces(ax)) for ax in views] == [{BLUE}, {BLUE, ORANGE}, {BLUE, VERMILION}, {ORANGE}]
    assert [len(contours(ax)) for ax in slices] == [1, 2, 2, 1]
    for ax in slices:
        np.testing.assert_allclose(contours(ax)[0].get_edgecolor(), [to_rgba(ORANGE)])  # the truth, in every slice
        np.testing.assert_array_equal(ax.images[0].get_array(), ct[:, 4])  # the coronal slice with most airway
    assert all(ax.get_ylim() == (0, 18) and ax.get_xlim() == (0, 5) for ax in axes)
    assert (
        "case 1" in figure.get_suptitle() and "detected blue, missed orange, false vermilion" in figure.get_suptitle()
    )


def test_segmentation_in_three_views(ct, truth):
    figure = plot_segmentation(ct, truth, SPACING, "lidc: airways found")
    axial, coronal, view = figure.axes
    assert (axial.get_title(), coronal.get_title()) == ("axial slice 1", "coronal slice 4")
    np.testing.assert_array_equal(axial.images[0].get_array(), ct[1])
    np.testing.assert_array_equal(coronal.images[0].get_array(), ct[:, 4])
    assert [len(contours(ax)) for ax in figure.axes] == [1, 1, 0]
    assert hues(*surfaces(view)) == {BLUE}
    assert figure.get_suptitle() == "lidc: airways found"


def test_segmentation_of_nothing_shows_the_middle(ct):
    figure = plot_segmentation(ct, np.zeros(SHAPE, bool), SPACING, "nothing found")
    assert [ax.get_title() for ax in figure.axes[:2]] == ["axial slice 3", "coronal slice 4"]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 4.0), (1.0, 1.0, 0.3)])
def test_nothing_overlaps_whatever_the_volumes_proportions(spacing):
    ct, mask = np.zeros((40, 30, 40), np.int16), np.zeros((40, 30, 40), bool)
    mask[5:35, 10:20, 15:22] = True
    for figure in (
        plot_segmentation(ct, mask, spacing, "title"),
        plot_predictions(ct, mask, {"a": mask, "b": mask}, spacing, "title"),
    ):
        figure.canvas.draw()
        boxes = [*(ax.get_tightbbox() for ax in figure.axes), figure._suptitle.get_window_extent()]
        page = figure.bbox.padded(2)
        assert min(ax.bbox.width for ax in figure.axes) > 0.6 * page.width / 3  # three columns, filled
        for number, box in enumerate(boxes):
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
            assert box.count_overlaps(boxes[:number]) == 0


# ------------------------------------------------------------------------------------------------ training, crops


def metrics(**more):
    return pd.DataFrame({"epoch": [1, 2, 3], "loss_decoder": [0.9, 0.6, 0.5], "loss_encoder": [0.95, 0.8, 0.7]} | more)


def lines(ax):
    return {line.get_label(): line.get_xydata().tolist() for line in ax.lines}


def test_training_curves():
    nan = np.nan
    table = metrics(td=[nan, 70.0, 80.0], precision=[nan, 90.0, 85.0], dsc=[nan, 60.0, 65.0], tpr=[nan, 1.0, 1.0])
    left, right = plot_training(table).axes
    assert lines(left) == {
        "decoder group (the prediction)": [[1, 0.9], [2, 0.6], [3, 0.5]],
        "encoder group": [[1, 0.95], [2, 0.8], [3, 0.7]],
    }
    assert lines(right) == {
        "tree length detected": [[2, 70], [3, 80]],
        "precision": [[2, 90], [3, 85]],
        "DSC": [[2, 60], [3, 65]],
    }
    styles = {(line.get_color(), line.get_marker(), line.get_linestyle()) for ax in (left, right) for line in ax.lines}
    assert len(styles) == 5 and len({line.get_marker() for line in right.lines}) == 3  # told apart without colour
    assert left.get_legend() and right.get_legend()
    assert right.get_ylim() == (0, 102) and right.get_ylabel() == "validation score (%)"
    assert left.get_xlabel() == right.get_xlabel() == "epoch"


def test_training_without_encoder_group_or_validation():
    left, right = plot_training(metrics(loss_encoder=[0.0, 0.0, 0.0])).axes
    assert list(lines(left)) == ["decoder group (the prediction)"]
    assert lines(right) == {} and right.get_legend() is None


def test_crops_show_the_slice_with_most_airway():
    image, label = np.random.default_rng(0).random((1, 8, 8, 8)), np.zeros((1, 8, 8, 8))
    label[0, 5, 2:5, 3:6] = 1
    label[0, 2, 2, 2] = 1
    figure = plot_crops([{"image": image, "label": label}, {"image": image, "label": 0 * label}])
    first, second = figure.axes
    np.testing.assert_array_equal(first.images[0].get_array(), image[0, 5])
    assert first.images[0].get_clim() == (0, 1)
    (contour,) = contours(first)
    np.testing.assert_allclose(outline(contour), [(2.5, 1.5), (5.5, 4.5)])  # columns 3..5, rows 2..4
    assert contours(second) == []
    assert first.get_xlabel() == "8 voxels" and list(first.get_xticks()) == []


def test_crops_may_be_tensors():
    torch = pytest.importorskip("torch")
    crop = {"image": torch.rand(1, 4, 4, 4), "label": torch.zeros(1, 4, 4, 4)}
    crop["label"][0, 1, 1, 1] = 1
    (ax,) = plot_crops([crop]).axes
    np.testing.assert_array_equal(ax.images[0].get_array(), crop["image"][0, 1])


# --------------------------------------------------------------------------------------------------------- saving


def test_a_rebuild_gives_the_same_bytes(tmp_path, ct, truth):
    for stem in ("first", "second"):
        figure = plot_predictions(ct, truth, {"dice": truth & False}, SPACING, "case 1")
        paths = save_figure(figure, tmp_path / "figures" / stem)
        assert paths == [tmp_path / "figures" / f"{stem}.png", tmp_path / "figures" / f"{stem}.svg"]
        plt.close(figure)
    for suffix in (".png", ".svg"):
        first, second = ((tmp_path / "figures" / stem).with_suffix(suffix) for stem in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
        assert first.stat().st_size > 5000
    assert first.read_text().startswith("<?xml")
    assert len(list((tmp_path / "figures").iterdir())) == 4
    assert matplotlib.rcParams["svg.hashsalt"] is None  # as before


def test_a_stem_with_a_dot_keeps_it(tmp_path):
    figure, _ = plt.subplots()
    assert [path.name for path in save_figure(figure, tmp_path / "alpha_0.1")] == ["alpha_0.1.png", "alpha_0.1.svg"]


def test_a_figure_that_cannot_be_saved_leaves_the_former(tmp_path, monkeypatch):
    figure, _ = plt.subplots()
    (tmp_path / "f.png").write_text("former")
    monkeypatch.setattr(figure, "savefig", lambda path, **_: path.write_text("half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_figure(figure, tmp_path / "f")
    assert [path.name for path in tmp_path.iterdir()] == ["f.png"]
    assert (tmp_path / "f.png").read_text() == "former"
    with pytest.raises(InputError, match=r"f.png/g.png: cannot be written"):
        save_figure(figure, tmp_path / "f.png" / "g")


def test_colours_are_okabe_and_itos():
    rgb = {style.BLUE: (0, 114, 178), style.ORANGE: (230, 159, 0), style.VERMILION: (213, 94, 0)}
    assert all(to_rgb(colour) == tuple(value / 255 for value in values) for colour, values in rgb.items())


# ----------------------------------------------------------------------------------------------------------------- tree


@pytest.fixture
def tree():
    """A T on its head: a trunk of 5 x 5 voxels above, a bar of 3 x 3 below; 3 branches."""
    mask = np.zeros((40, 11, 41), bool)
    mask[14:39, 3:8, 18:23] = True
    mask[11:14, 4:7, 2:39] = True
    return parse_tree(mask, SPACING)


def test_lines_of_a_tree_are_its_whole_skeleton_in_mm(tree):
    lines = tree_lines(tree, None)
    points = {tuple(point) for line in lines["points"] for point in line}
    assert points == set(map(tuple, tree.centreline[["x", "y", "z"]].to_numpy()))
    assert lines["points"].iloc[0].mean(0) == pytest.approx((20 * 0.5, 5 * 2.0, 26 * 3.0), abs=6)  # the trunk
    assert set(lines["group"]) == {"generation 0", "generation 1"}
    assert set(lines["colour"]) == {"#440154", "#fde725"}  # both ends of viridis


def test_tree_is_seen_from_the_front_and_from_the_left(tree):
    figure = plot_tree(tree, "a tree")
    front, left = (next(c for c in ax.collections if isinstance(c, LineCollection)) for ax in figure.axes[:2])
    seen = [np.concatenate(lines.get_segments()) for lines in (front, left)]
    assert np.ptp(seen[0][:, 0]) > 30 * 0.5  # the bar runs along x
    assert np.ptp(seen[1][:, 0]) < 4 * 2.0  # the whole is flat along y
    assert list(front.get_linewidths()) == tree_lines(tree, None)["radius_mm"].tolist()
    assert figure.axes[2].get_ylabel() == "generation (trachea 0)"
    assert figure.get_suptitle() == "a tree"


def test_detected_and_missed_branches_differ_in_colour_and_dashes(tree):
    found = np.array([True, True, False])
    figure = plot_tree(tree, "a tree", found)
    assert "2 of 3 branches detected" in figure.get_suptitle()
    lines = tree_lines(tree, found)
    assert set(lines.loc[lines["branch"] == 3, "colour"]) == {ORANGE}
    assert set(lines.loc[lines["branch"] < 3, "colour"]) == {BLUE}
    assert set(lines.loc[lines["branch"] == 3, "dash"]) == {"dot"}


def test_page_of_a_tree_is_self_contained(tree):
    page = tree_html(tree, "a tree", np.array([True, True, False]))
    assert len(page) > 1_000_000  # plotly itself is in it
    assert 'src="http' not in page
    for text in ("a tree", "detected", "missed", "branch 1, generation 0", "radius here"):
        assert text in page
    assert tree_html(tree, "a tree", np.array([True, True, False])) == page


def test_tree_file_is_a_page_or_a_picture_and_nothing_else(tree, tmp_path):
    for name in ("a.html", "b.png", "c.svg"):
        draw_tree_file(tree, tmp_path / name, "dollars: $_$")  # no formula
    assert {path.name for path in tmp_path.iterdir()} == {"a.html", "b.png", "c.svg"}
    assert plt.get_fignums() == []
