"""The gradient explorer's two figures, pictures and curves, without data: traces, axes, titles. `explorer` fills them.

The pictures are sent as PNG and not as numbers: the browser draws them several times as fast, which a slider needs.
"""

import base64
import math
from io import BytesIO
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.colors import to_rgb
from matplotlib.image import imsave
from plotly.colors import diverging

from airwaylib.images.volume import HU_WINDOW
from airwaystudy.figures.gradient_slices import NO_SHARE
from airwaystudy.figures.style import BLUE, GREY, ORANGE, VERMILION

GREEN, PALE = "#009E73", "#B8B8B8"  # Okabe & Ito's, for the profile's place in the pictures; the other runs
PANELS = {"ct": ("x", "y"), "label": ("x2", "y2"), "share": ("x3", "y3")}
OUTLINES = {"ct": ORANGE, "share": "black"}  # the label is seen without
WIDTH, PICTURES_HEIGHT, CURVES_HEIGHT = 970, 380, 310  # pixels: a widget does not find out how wide its cell is
ACROSS = ((0.0, 0.31), (0.345, 0.655), (0.69, 1.0))  # of the pictures, as shares of the figure's width
BELOW = ((0.0, 0.38), (0.58, 1.0))  # of the curves
LOOK = {"template": "none", "width": WIDTH, "font": {"size": 13}, "showlegend": False}
OWNER_COLOURS = np.array([to_rgb(name) for name in (NO_SHARE, BLUE, VERMILION, "white")])  # of gradient_views.owners


def coloured(colour: str, text: str) -> str:
    """Text in a colour, for a plotly title: it stands for a legend."""
    return f'<span style="color:{colour}">{text}</span>'


LABEL_TITLE = f"label: {coloured(VERMILION, 'keeps its gradient')}, {coloured(BLUE, 'eroded')}"
CT_TITLE = f"CT, {coloured(ORANGE, 'airway')} outlined"


def as_source(colours: np.ndarray) -> str:
    """Colours (H, W, 3), uint8, as the source of an image trace: PNG in a data URI."""
    file = BytesIO()
    imsave(file, colours, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 1})
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def scale_html() -> str:
    """What the colours of the shares mean. A colour bar would be drawn anew at each move."""
    bar = "display:inline-block; height:12px; border:1px solid #777; vertical-align:middle; margin:0 6px"
    colours = ", ".join(diverging.RdBu_r)
    return (
        f"share of the airway: 0, all the background's<span style=\"{bar}; width:160px; "
        f"background:linear-gradient(to right, {colours})\"></span>1, all the airway's"
        f'<span style="{bar}; width:12px; margin-left:24px; background:{NO_SHARE}"></span>no gradient'
    )


def owner_colours(owners: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3), uint8, of `gradient_views.owners`."""
    return (255 * OWNER_COLOURS).round().astype(np.uint8)[owners]


def numbers(line: np.ndarray) -> list[float | None]:
    """A line as plain numbers, None for nan: the browser sends arrays back, which plotly 7.1 takes for an error."""
    return [None if math.isnan(number) else number for number in np.asarray(line, float).tolist()]


def titles(places: tuple) -> list[dict[str, Any]]:
    """An empty title above each place, given as a share of the figure's width."""
    title = {"xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "bottom", "showarrow": False}
    return [{**title, "x": sum(place) / 2, "y": 1.005, "text": " ", "font": {"size": 14}} for place in places]


def profile_places(row: int, column: int, along: int) -> list[dict[str, Any]]:
    """The line in each picture that the profile follows: a row, or a column if `along` is 1."""
    line = {"type": "line", "line": {"color": GREEN, "width": 1.5, "dash": "dash"}}
    if along:
        line |= {"x0": column, "x1": column, "y0": 0, "y1": 1}
        return [{**line, "xref": x, "yref": f"{y} domain"} for x, y in PANELS.values()]
    line |= {"x0": 0, "x1": 1, "y0": row, "y1": row}
    return [{**line, "xref": f"{x} domain", "yref": y} for x, y in PANELS.values()]


def picture_figure() -> tuple[go.FigureWidget, dict[str, Any]]:
    """The three pictures with the airway's outline, zoomed together; and their traces by name."""
    traces: dict[str, Any] = {}
    layout: dict[str, Any] = {"height": PICTURES_HEIGHT, "margin": {"l": 60, "r": 20, "t": 30, "b": 50}, **LOOK}
    axis = {
        "title": {"standoff": 8},
        "constrain": "domain",
        "showgrid": False,
        "zeroline": False,
        "showline": True,
        "mirror": True,
    }
    for (panel, (x, y)), domain in zip(PANELS.items(), ACROSS, strict=True):
        place = {"xaxis": x, "yaxis": y}
        traces[panel] = go.Image(hovertemplate="%{x}, %{y}<extra></extra>", **place)
        if panel in OUTLINES:
            edge = {"color": OUTLINES[panel], "width": 1.5}
            traces[f"{panel} outline"] = go.Scatter(mode="lines", line=edge, hoverinfo="skip", **place)
        layout[f"xaxis{x[1:]}"] = {"domain": domain, "anchor": y, "linecolor": PALE, **axis}
        layout[f"yaxis{y[1:]}"] = {"anchor": x, "linecolor": PALE, "constraintoward": "top", **axis}
        if panel != "ct":
            layout[f"xaxis{x[1:]}"]["matches"] = "x"
            layout[f"yaxis{y[1:]}"] |= {"matches": "y", "showticklabels": False}
    layout["yaxis"]["scaleanchor"] = "x"
    layout |= {"annotations": titles(ACROSS), "shapes": profile_places(0, 0, 0)}
    figure = go.FigureWidget(list(traces.values()), layout)
    return figure, dict(zip(traces, figure.data, strict=True))


def curve_figure() -> tuple[go.FigureWidget, dict[str, Any]]:
    """The profile (airway as a band, CT, share) and the erosion (other runs, this one, the layer); traces by name."""
    band = {"fill": "tozeroy", "fillcolor": "rgba(230, 159, 0, 0.3)", "line": {"width": 0, "shape": "hvh"}}
    hu, share = "%{x}: %{y:.0f} HU<extra></extra>", "%{x}: share %{y:.2f}<extra></extra>"
    right = {"xaxis": "x2", "yaxis": "y3"}
    lines = {"mode": "lines", "hovertemplate": "%{text}<br>%{y:.1f} %<extra></extra>", **right}
    diamond = {"color": VERMILION, "size": 14, "symbol": "diamond"}
    dotted = {"color": GREY, "width": 1.2, "dash": "dot"}
    traces = {
        "band": go.Scatter(mode="lines", hoverinfo="skip", **band),
        "hu": go.Scatter(mode="lines", line=dotted, hovertemplate=hu, yaxis="y2"),
        "row": go.Scatter(mode="lines+markers", line={"color": BLUE}, marker={"size": 4}, hovertemplate=share),
        "others": go.Scatter(line={"color": PALE, "width": 1}, **lines),
        "this": go.Scatter(line={"color": BLUE, "width": 3}, **lines),
        "layer": go.Scatter(mode="markers", marker=diamond, hoverinfo="skip", **right),
    }
    half = {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5, "line": {"width": 1}}
    hu_axis = {
        "title": {"text": "CT (HU)", "standoff": 8},
        "range": HU_WINDOW,
        "dtick": 400,
        "showgrid": False,
        "zeroline": False,
    }
    layers = {"title": {"text": "layer, in forward order", "standoff": 8}, "tickangle": -60, "zeroline": False}
    layout = {
        "xaxis": {"domain": BELOW[0], "anchor": "y", "zeroline": False, "title": {"standoff": 8}},
        "yaxis": {"range": (-0.03, 1.03), "title": {"text": "share of the airway", "standoff": 8}},
        "yaxis2": {"overlaying": "y", "side": "right", "anchor": "x", **hu_axis},
        "xaxis2": {"domain": BELOW[1], "anchor": "y3", **layers},
        "yaxis3": {"anchor": "x2", "range": (-3, 103), "title": {"text": "airway voxels eroded (%)", "standoff": 8}},
        "margin": {"l": 60, "r": 20, "t": 30, "b": 80},
    }
    layout |= {"height": CURVES_HEIGHT, "annotations": titles(BELOW), "shapes": [half], **LOOK}
    figure = go.FigureWidget(list(traces.values()), layout)
    return figure, dict(zip(traces, figure.data, strict=True))
