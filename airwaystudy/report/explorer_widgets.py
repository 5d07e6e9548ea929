"""The gradient explorer of 05_explore_gradients: choose run, layer, epoch and slice, and see who owns the gradient.

Three pictures of one slice (CT, label, foreground share of the gradient), the share along a row across an airway, and
the erosion of every layer. The kernel cuts the slices and sends what has changed; the browser draws.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np

from airwaylib.errors import InputError
from airwaystudy.analysis.gradient_maps import GradientMaps, find_maps
from airwaystudy.figures import gradient_slices as views
from airwaystudy.figures.style import BLUE, GREY, ORANGE, VERMILION
from airwaystudy.phantoms import names as phantoms_names
from airwaystudy.report.explorer_figure import (
    CT_TITLE,
    LABEL_TITLE,
    OUTLINES,
    PALE,
    PANELS,
    as_source,
    coloured,
    curve_figure,
    numbers,
    owner_colours,
    picture_figure,
    profile_places,
    scale_html,
)

POINT = "Point at a picture for a voxel's values; click to lay the profile through it."
CACHED = 24  # decoded shares kept: at most 8 MiB each for a crop of 128^3


def explore(source: str | Path) -> "Explorer":
    """The explorer of a study's gradient maps, to be shown as a cell's last value.

    source: name of a study, whose maps are in results/<study>/gradients; or a `Path`, the folder they are in.

    Raises
    ------
    InputError
        There are no maps.
    """
    return Explorer(open_all(source))


def open_all(source: str | Path) -> list[GradientMaps]:
    """The maps of a study, or those in a folder (a `Path`), by name; InputError if there are none."""
    if isinstance(source, str):
        return [GradientMaps.open(path) for path in find_maps(source)]
    found = sorted(source.glob("*.zarr"))
    if not found:
        raise InputError(f"{source}: no gradient maps in this folder; they are folders that end in .zarr")
    return [GradientMaps.open(path) for path in found]


def offer(control: ipywidgets.SelectionSlider, options: Sequence) -> None:
    """Give a control other options; it keeps its value if that is still one of them, and takes the last one if not."""
    value = control.value if control.value in options else options[-1]
    if list(control.options) != list(options):
        control.options = list(options)
    control.value = value


class Explorer(ipywidgets.VBox):
    """Controls `run`, `layer`, `epoch`, `axis`, `slice`, `along`; figures `pictures` and `curves`; `traces` by name.

    The runs, `maps`, may differ in crop, layers and epochs: the controls follow the chosen run, and keep their values
    where it has them.
    """

    def __init__(self, maps: Sequence[GradientMaps]):
        self.maps = list(maps)
        self.share = lru_cache(CACHED)(lambda run, epoch, layer: self.maps[run].share(epoch, layer))
        self.curve = lru_cache(None)(lambda run, epoch, name: views.curve(self.maps[run], epoch, name))
        self.had: dict[tuple[str, str], Any] = {}  # what parts of the figures were last given, see _put
        self.picked: tuple[int, int] | None = None  # row and column of the pixel that was clicked
        self.quiet = 0  # blocks that change several controls, and draw once at their end
        (self.pictures, traces), (self.curves, others) = picture_figure(), curve_figure()
        self.traces = traces | others
        self._make_controls()
        rows = ((self.run, self.layer), (self.axis, self.epoch), (self.along, self.slice))
        self.says, self.voxel, scale = ipywidgets.HTML(), ipywidgets.HTML(POINT), ipywidgets.HTML(scale_html())
        super().__init__(
            [*(ipywidgets.HBox(pair) for pair in rows), self.says, self.voxel, self.pictures, scale, self.curves]
        )
        self._follow_run()
        self.run.observe(self._follow_run, "value")
        self.axis.observe(self._follow_axis, "value")
        for control in (self.layer, self.epoch, self.slice, self.along):
            control.observe(self._redraw, "value")
        for panel in PANELS:
            self.traces[panel].on_click(self._pick)
            self.traces[panel].on_hover(self._point)

    def _make_controls(self) -> None:
        """All controls, at the last layer and epoch of the first run."""
        look = {"layout": {"width": "430px"}, "style": {"description_width": "55px"}}
        runs = [(label, number) for number, label in enumerate(views.run_labels(self.maps))]
        self.run = ipywidgets.Dropdown(options=runs, description="run", **look)
        first = self.maps[0]
        self.layer = ipywidgets.SelectionSlider(
            options=first.layers, value=first.layers[-1], description="layer", **look
        )
        self.epoch = ipywidgets.SelectionSlider(
            options=first.epochs, value=first.epochs[-1], description="epoch", **look
        )
        axes = [(name, number) for number, name in enumerate(views.AXES)]
        self.axis = ipywidgets.Dropdown(options=axes, value=1, description="axis", **look)  # coronal: most branches
        self.slice = ipywidgets.IntSlider(max=0, description="slice", **look)
        along = [("along a row (click into a picture)", 0), ("along a column (click into a picture)", 1)]
        self.along = ipywidgets.Dropdown(options=along, description="profile", **look)

    @property
    def chosen(self) -> GradientMaps:
        """The chosen run."""
        return self.maps[self.run.value]

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Draw once, at the end of the outermost block, whatever changes in it."""
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1
        self._redraw()

    def _follow_run(self, _=None) -> None:
        """Offer the chosen run's layers, epochs and slices; another crop starts at its own best slice."""
        with self._together():
            offer(self.layer, self.chosen.layers)
            offer(self.epoch, self.chosen.epochs)
            crop = self.chosen.case, self.chosen.label.shape
            if crop != getattr(self, "crop", None):
                self.crop = crop
                self._follow_axis()

    def _follow_axis(self, _=None) -> None:
        """Offer the slices across the chosen axis, show the one with most airway, whole."""
        with self._together():
            axis, shape = self.axis.value, self.chosen.label.shape
            self.picked = None
            self.slice.max = shape[axis] - 1
            self.slice.value = views.best_slice(self.chosen.label, axis)
        rows, columns = np.delete(shape, axis)
        names, (width, height) = views.axis_names(axis), views.step_mm(self.chosen, axis)
        upwards = (-0.5, rows - 0.5) if views.head_up(axis) else (rows - 0.5, -0.5)
        with self.pictures.batch_update():
            layout = self.pictures.layout
            for number in (1, 2, 3):
                layout[f"xaxis{number}"].update(range=(-0.5, columns - 0.5), title_text=f"{names[0]} (voxel)")
                layout[f"yaxis{number}"].update(range=upwards)
            layout.yaxis.update(title_text=f"{names[1]} (voxel)", scaleratio=height / width)

    def _pick(self, trace, points, _) -> None:
        """Lay the profile through the pixel that was clicked."""
        if points.ys:
            self.picked = round(points.ys[0]), round(points.xs[0])
            self._redraw()

    def _point(self, trace, points, _) -> None:
        """Tell everything about the voxel that is pointed at."""
        if points.ys:
            row, column = round(points.ys[0]), round(points.xs[0])
            hu, label, share = (picture[row, column] for picture in self.shown)
            columns, rows, across = views.axis_names(self.axis.value)
            gradient = "no gradient" if np.isnan(share) else f"share <b>{share:.2f}</b>"
            where = f"{columns} {column}, {rows} {row}, {across} {self.slice.value}"
            self.voxel.value = f"voxel {where}: CT {hu} HU, label {int(label)}, {gradient}"

    def _redraw(self, _=None) -> None:
        """Show what the controls say, the pictures first. Figures send the browser only what differs."""
        if self.quiet:
            return
        axis, index = self.axis.value, self.slice.value
        label = np.take(self.chosen.label, index, axis)
        hu = views.to_hu(np.take(self.chosen.image, index, axis))
        share = self.share(self.run.value, self.epoch.value, self.layer.value)
        share = views.share_slice(share, self.chosen.label.shape, axis, index)
        self.shown = hu, label, share
        with self.pictures.batch_update():
            self._draw_pictures(label, share)
        with self.curves.batch_update():
            self._draw_profile(*self.shown)
            self._draw_erosion()
        self.says.value = self._summary()

    def _put(self, what: str, part, **properties) -> None:
        """Give a part of a figure those properties that differ from what it was last given.

        The figure would compare them as well, but it takes each apart first, which takes longer than all the rest.
        """
        for name, value in properties.items():
            if (what, name) not in self.had or self.had[what, name] != value:
                part[name] = self.had[what, name] = value

    def _draw_pictures(self, label: np.ndarray, share: np.ndarray) -> None:
        """The three panels; all arrays (H, W)."""
        grey = np.take(self.chosen.image, self.slice.value, self.axis.value)
        pictures = {
            "ct": np.repeat(grey[..., None], 3, 2),
            "label": owner_colours(views.owners(label, share)),
            "share": views.share_colours(share),
        }
        edges = tuple(map(numbers, views.outline(label)))
        for panel, colours in pictures.items():
            self._put(panel, self.traces[panel], source=as_source(colours))
        for panel in OUTLINES:
            self._put(f"{panel} outline", self.traces[f"{panel} outline"], x=edges[0], y=edges[1])
        places = profile_places(*self._pixel(label), self.along.value)
        titles = CT_TITLE, LABEL_TITLE, f"airway's share at <b>{escape(self.layer.value)}</b>"
        for number, (place, title) in enumerate(zip(places, titles, strict=True)):
            self._put(f"place {number}", self.pictures.layout.shapes[number], **place)
            self._put(f"title {number}", self.pictures.layout.annotations[number], text=title)

    def _pixel(self, label: np.ndarray) -> tuple[int, int]:
        """Row and column of the profile: those clicked, or those with most airway."""
        return self.picked or views.best_pixel(label)

    def _draw_profile(self, hu: np.ndarray, label: np.ndarray, share: np.ndarray) -> None:
        """Share and CT along a row or column."""
        row, column = self._pixel(label)
        lines = [picture[:, column] if self.along.value else picture[row] for picture in (hu, label, share)]
        places = list(range(len(lines[0])))
        for name, line in zip(("hu", "band", "row"), lines, strict=True):
            self._put(name, self.traces[name], x=places, y=numbers(line))
        along, other, _ = views.axis_names(self.axis.value)
        if self.along.value:
            along, other = other, along
        key = f"{coloured(BLUE, 'share')}, {coloured(GREY, 'CT')}, {coloured(ORANGE, 'airway')}"
        title = f"profile at {other} {column if self.along.value else row}: {key}"
        self._put("profile", self.curves.layout.annotations[0], text=title)
        self._put("along", self.curves.layout.xaxis, title_text=f"{along} (voxel)", range=(-0.5, len(places) - 0.5))

    def _draw_erosion(self) -> None:
        """Erosion of every layer after the chosen epoch: other runs that were looked at then, and the chosen one."""
        epoch, layers = self.epoch.value, self.chosen.layers
        places = list(range(len(layers)))
        names = [escape(label) for label, _ in self.run.options]
        lines = [numbers(100 * self.curve(run, epoch, "erosion").reindex(layers)) for run in range(len(self.maps))]
        name, this = names.pop(self.run.value), lines.pop(self.run.value)
        others = {
            "x": [*places, None] * len(lines),
            "y": [value for line in lines for value in (*line, None)],
            "text": [other for other in names for _ in (*places, None)],
        }
        self._put("others", self.traces["others"], **others)
        self._put("this", self.traces["this"], x=places, y=this, text=[name] * len(layers))
        place = layers.index(self.layer.value)
        self._put("layer", self.traces["layer"], x=[place], y=[this[place]])
        key = f"<b>{coloured(BLUE, 'this run')}</b>, {coloured(PALE, 'others')}, {coloured(VERMILION, '◆ this layer')}"
        self._put("erosion", self.curves.layout.annotations[1], text=f"erosion, epoch {epoch}: {key}")
        ticks = {"tickvals": places, "ticktext": layers, "range": (-0.5, len(layers) - 0.5)}
        self._put("layers", self.curves.layout.xaxis2, **ticks)

    def _summary(self) -> str:
        """The chosen layer's measures in words, HTML."""
        maps, layer, epoch = self.chosen, self.layer.value, self.epoch.value
        measures = {name: self.curve(self.run.value, epoch, name)[layer] for name in ("erosion", "dilation", "ratio")}
        kind = "synthetic phantom" if phantoms_names.is_synthetic(maps.case) else "case"
        cells = "×".join(map(str, self.share(self.run.value, epoch, layer).shape))
        voxel = "×".join(f"{size:g}" for size in maps.spacing)
        return (
            f"{kind} <b>{escape(maps.case)}</b> (voxels of {voxel} mm), epoch {epoch}, layer <b>{escape(layer)}</b> "
            f"({cells} cells): erosion <b>{measures['erosion']:.1%}</b>, dilation {measures['dilation']:.1%}, "
            f"gradient ratio {measures['ratio']:.3g}"
        )
