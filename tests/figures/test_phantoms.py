"""The calibration's plots show the numbers they are given, phantoms first and solid, on axes with units."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from airwaystudy.figures.phantoms import (
    plot_histograms,
    plot_morphometry,
    plot_murray,
    plot_spectra,
    plot_walls,
)
from airwaystudy.figures.style import save_figure

PUBLISHED = {"angle_deg": (35.0, 45.0, "casts")}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def generations():
    columns = ["branches", "diameter_mm", "length_mm", "length_over_diameter", "angle_deg", "child_over_parent"]
    table = pd.DataFrame({name: [1.0 + i, 2.0 + i] for i, name in enumerate(columns)}).assign(generation=[0, 1])
    return {"phantoms (synthetic)": table, "real": 2 * table, "model": table.drop(columns="angle_deg")}


def line(ax, label):
    (found,) = [line for line in ax.lines if line.get_label() == label]
    return found


def test_morphometry_shows_each_property_and_the_published_band(generations):
    figure = plot_morphometry(generations, PUBLISHED, "trees")
    axes = {ax.get_ylabel(): ax for ax in figure.axes}
    assert line(axes["diameter (mm)"], "real").get_ydata().tolist() == [4, 6]
    assert axes["branches"].get_yscale() == axes["length (mm)"].get_yscale() == "log"
    angle = axes["branching angle (degrees)"]
    assert [line.get_label() for line in angle.lines] == ["phantoms (synthetic)", "real"]  # the model has no angle
    (band,) = angle.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == (35, 45)
    assert not axes["length / diameter"].patches
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {*generations, "published range"}


def test_murray_is_a_cumulative_share_that_forks_without_exponent_keep_low():
    figure = plot_murray({"real": np.array([3.0, 1.0, np.inf, 2.0])}, (2.8, 3.0, "books"), "forks")
    (curve,) = figure.axes[0].lines
    assert curve.get_xdata()[1:4].tolist() == [1, 2, 3] and curve.get_xdata()[4] > 8  # off the axis
    assert curve.get_ydata()[:4].tolist() == [0, 25, 50, 75]
    assert curve.get_label() == "real (4 forks)"


def test_histograms_split_tissues():
    table = pd.DataFrame({"tissue": ["lung", "lung", "body"], "hu": [-900, -800, 40], "density": [0.1, 0.0, 0.2]})
    lung, body = plot_histograms({"phantoms": table}, "HU").axes
    assert lung.get_yscale() == "log" and lung.get_xlabel() == "HU"
    assert set(line(lung, "phantoms").get_ydata()) == {0, 0.1} and set(line(body, "phantoms").get_ydata()) == {0, 0.2}
    (start,) = [x for x, y in line(body, "phantoms").get_xydata() if y]
    assert start == 32  # a bin of 16 HU


def test_spectra_are_shown_absolute_and_relative():
    table = pd.DataFrame({"frequency": [0.1, 0.2], "power": [50.0, 200.0]})
    empty = pd.DataFrame(columns=["frequency", "power"])
    absolute, relative = plot_spectra({"phantoms": table, "none": empty}, "noise").axes
    assert line(absolute, "phantoms").get_ydata().tolist() == [50, 200]
    assert line(relative, "phantoms").get_ydata().tolist() == [0.25, 1]
    assert len(absolute.lines) == 1
    assert "HU² mm²" in absolute.get_ylabel() and "1/mm" in relative.get_xlabel()


def test_walls_have_a_panel_a_bin_in_order():
    table = pd.DataFrame({"diameter_mm": ["8+", "0-2", "2-4"], "distance_mm": [0.0, 0.5, 1.0], "hu": [1.0, 2.0, 3.0]})
    figure = plot_walls({"phantoms": table, "real": table[:1]}, "walls")
    assert [ax.get_title() for ax in figure.axes] == ["lumen 0-2 mm", "lumen 2-4 mm", "lumen 8+ mm"]
    assert line(figure.axes[0], "phantoms").get_xydata().tolist() == [[0.5, 2]]
    assert line(figure.axes[2], "real").get_xydata().tolist() == [[0, 1]]


def test_a_rebuild_leaves_the_file_unchanged(generations, tmp_path):
    for name in ("one", "two"):
        save_figure(plot_morphometry(generations, PUBLISHED, "trees"), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
