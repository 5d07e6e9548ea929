"""The gradient explorer as one HTML file: plotly.js and the data are in it, so that it needs no kernel and no network.

The data are bytes, compressed by gzip and written as base64; the page's script unpacks them when they are asked for. If
all runs, epochs and voxels would make the page larger than 15 MB, some stay out, and the page says which.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from plotly.colors import diverging
from plotly.offline import get_plotlyjs
from scipy import ndimage

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.images.volume import HU_WINDOW
from airwaystudy.analysis.gradient_maps import GradientMaps
from airwaystudy.figures import gradient_slices as views
from airwaystudy.figures.style import BLUE, GREY, ORANGE, VERMILION
from airwaystudy.phantoms import names as phantoms_names

MOST_BYTES = 15_000_000
STEPS = 63  # of a share on the page, 64 stands for none: finer steps are not seen in colours, and compress badly
FEW = 3  # epochs that are kept before voxels are cut
SIDES = (96, 80, 64, 56, 48, 40, 32)  # voxels a side that the crop is cut to, if it must be
ALIGNED = 8  # a box starts at a multiple of it, or of the coarsest layer's stride: its cells are then the crop's
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Plan:
    """What goes into a page: numbers of runs, at most so many epochs of each, a cube of at most `side` voxels."""

    runs: tuple[int, ...]
    epochs: int
    side: int

    def epochs_of(self, maps: GradientMaps) -> list[int]:
        """The epochs of a run that are kept: the first and the last among them, or the last one alone."""
        return views.a_few(maps.epochs, self.epochs) if self.epochs > 1 else maps.epochs[-1:]


def write_page(maps: Sequence[GradientMaps], path: str | Path, most_bytes: int = MOST_BYTES) -> list[str]:
    """Write the explorer of these runs to `path`, one HTML file smaller than `most_bytes`; whole or not at all.

    Returns
    -------
    list of str
        What had to stay out, in words; empty if nothing had to.

    Raises
    ------
    InputError
        No maps, or nothing fits into `most_bytes`.
    """
    if not maps:
        raise InputError(f"{path}: no gradient maps to show; give those of one run at least")
    packer = Packer(maps)
    for plan in dict.fromkeys(plans(maps)):  # some may be the same
        text = packer.page(plan, most_bytes)
        if text is not None:
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            return left_out(maps, plan)
    raise InputError(f"{path}: nothing fits into {most_bytes} bytes; plotly.js alone takes 5 million")


# ------------------------------------------------------------------------------------------------- what goes into it


def plans(maps: Sequence[GradientMaps]) -> Iterator[Plan]:
    """Plans from all there is to one run's last epoch in the smallest box.

    Seeds but the first go first, then epochs down to `FEW`, then voxels, then epochs, then runs.
    """
    kept = {id(one) for one in views.one_seed(maps)}
    one_seed = tuple(number for number, one in enumerate(maps) if id(one) in kept)
    epochs = max(len(one.epochs) for one in maps)
    whole = max(max(one.label.shape) for one in maps)
    yield Plan(tuple(range(len(maps))), epochs, whole)
    for side in (whole, *(side for side in SIDES if side < whole)):
        yield Plan(one_seed, epochs, side)
        yield Plan(one_seed, min(epochs, FEW), side)
    smallest = min(whole, SIDES[-1])
    for count in (2, 1):
        yield Plan(one_seed, min(epochs, count), smallest)
    for count in range(len(one_seed) - 1, 0, -1):
        yield Plan(one_seed[:count], 1, smallest)


def left_out(maps: Sequence[GradientMaps], plan: Plan) -> list[str]:
    """In words, what of the maps a plan leaves out."""
    notes = []
    labels = views.run_labels(maps)
    if missing := [label for number, label in enumerate(labels) if number not in plan.runs]:
        notes.append(f"{len(missing)} of {len(maps)} runs are left out ({'; '.join(missing)})")
    kept = [maps[number] for number in plan.runs]
    if any(len(plan.epochs_of(one)) < len(one.epochs) for one in kept):
        notes.append(f"at most {plan.epochs} of the epochs looked at are kept")
    if any(max(one.label.shape) > plan.side for one in kept):
        notes.append(f"the crop is cut to {plan.side} voxels a side around its airway's centre")
    return notes


def central_box(label: np.ndarray, side: int, coarsest: int) -> Box:
    """A cube of at most `side` voxels about the centre of the airway, inside the crop, that cuts no layer's cell."""
    step = max(ALIGNED, coarsest)
    centre = ndimage.center_of_mass(label) if label.any() else np.array(label.shape) / 2
    slices = []
    for size, middle in zip(label.shape, centre, strict=True):
        last = -(-max(size - side, 0) // step) * step  # the box that ends with the crop may be shorter
        start = int(np.clip(round((middle - side / 2) / step) * step, 0, last))
        slices.append(slice(start, min(start + side, size)))
    return tuple(slices)


# ------------------------------------------------------------------------------------------------------------ packing


def squeeze(data: bytes) -> str:
    """Bytes by gzip, as base64; the same bytes give the same text."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


def stored_share(share: np.ndarray) -> np.ndarray:
    """Shares as bytes: 0..STEPS, and STEPS + 1 where there is none."""
    return np.where(np.isnan(share), STEPS + 1, np.rint(share * STEPS)).astype(np.uint8)


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it closes the element; nan as null."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


class Packer:
    """Packs runs into pages, each volume once, however many plans are tried."""

    def __init__(self, maps: Sequence[GradientMaps]):
        self.maps, self.done = maps, {}
        self.strides = [layer_strides(one) for one in maps]
        template = files("airwaystudy.report").joinpath("gradient_explorer.html.in").read_text(encoding="utf-8")
        self.template = template.replace("@@PLOTLY@@", get_plotlyjs()).replace("@@DATA@@", escape(describe(maps)))

    def page(self, plan: Plan, most_bytes: int) -> str | None:
        """The page, or None if it would not be smaller than `most_bytes`."""
        room = most_bytes - len(self.template.encode())
        names: dict[str, str] = {}  # of volumes by their content: runs on the same crop share image and label
        runs = []
        for number in plan.runs:
            coarsest = max(max(steps) for steps in self.strides[number].values())
            box = central_box(self.maps[number].label, plan.side, coarsest)
            volumes = {
                name: names.setdefault(data, f"volume{len(names)}") for name, data in self.volumes(number, plan, box)
            }
            if sum(map(len, names)) > room:
                return None
            runs.append(self.about(number, box) | {"epochs": plan.epochs_of(self.maps[number]), "volumes": volumes})
        elements = [f'<script type="text/plain" id="{name}">{data}</script>' for data, name in names.items()]
        about = script_json(self.shared() | {"runs": runs, "notes": left_out(self.maps, plan)})
        text = self.template.replace("@@ABOUT@@", about).replace("@@VOLUMES@@", "\n".join(elements))
        return text if len(text.encode()) < most_bytes else None

    def volumes(self, number: int, plan: Plan, box: Box) -> Iterator[tuple[str, str]]:
        """Name and compressed content of a run's volumes: image, label, and the shares of each epoch, by its number."""
        for name in ("image", "label", *map(str, plan.epochs_of(self.maps[number]))):
            key = (number, name, *(side for one in box for side in (one.start, one.stop)))
            if key not in self.done:
                self.done[key] = squeeze(self.content(number, name, box))
            yield name, self.done[key]

    def content(self, number: int, name: str, box: Box) -> bytes:
        """Bytes of a volume within the box; those of an epoch are its layers' one after the other."""
        one = self.maps[number]
        if name in ("image", "label"):
            return getattr(one, name)[box].astype(np.uint8).tobytes()
        shares = (one.share(int(name), layer)[cells] for layer, cells in self.cells(number, box).items())
        return b"".join(stored_share(share).tobytes() for share in shares)

    def cells(self, number: int, box: Box) -> dict[str, Box]:
        """The box in each layer's cells."""
        return {
            layer: tuple(slice(side.start // n, -(-side.stop // n)) for side, n in zip(box, steps, strict=True))
            for layer, steps in self.strides[number].items()
        }

    def about(self, number: int, box: Box) -> dict[str, Any]:
        """What the page's script must know of a run, but for its volumes."""
        one = self.maps[number]
        layers = [
            {"name": layer, "stride": self.strides[number][layer], "shape": [c.stop - c.start for c in cells]}
            for layer, cells in self.cells(number, box).items()
        ]
        start, shape = [side.start for side in box], [side.stop - side.start for side in box]
        return {"number": number, "case": one.case, "spacing": one.spacing, "start": start, "shape": shape} | {
            "layers": layers
        }

    def shared(self) -> dict[str, Any]:
        """What the page's script must know besides: measures of all runs, also of those without volumes; colours."""
        measures = [
            {
                "label": label,
                "layers": one.layers,
                **{name: curves(one, name) for name in ("erosion", "dilation", "ratio")},
            }
            for label, one in zip(views.run_labels(self.maps), self.maps, strict=True)
        ]
        colours = {"blue": BLUE, "orange": ORANGE, "vermilion": VERMILION, "grey": GREY, "none": views.NO_SHARE}
        return {"measures": measures, "colours": colours, "scale": diverging.RdBu_r, "steps": STEPS, "hu": HU_WINDOW}


def layer_strides(maps: GradientMaps) -> dict[str, tuple[int, ...]]:
    """Stride of each layer's grid along the three axes."""
    shapes = {layer: maps.share(maps.epochs[0], layer).shape for layer in maps.layers}
    return {
        layer: tuple(views.stride(m, n) for m, n in zip(shape, maps.label.shape, strict=True))
        for layer, shape in shapes.items()
    }


def curves(maps: GradientMaps, measure: str) -> dict[int, list[float | None]]:
    """A measure by epoch, of all layers in forward order; None where it is not known."""
    return {
        epoch: [round(value, 4) if np.isfinite(value) else None for value in views.curve(maps, epoch, measure)]
        for epoch in maps.epochs
    }


def describe(maps: Sequence[GradientMaps]) -> str:
    """What the data are, for the caption: nobody should take a phantom for a patient."""
    cases = sorted({one.case for one in maps})
    phantoms = [case for case in cases if phantoms_names.is_synthetic(case)]
    shown = f"Shown: a crop of {', '.join(cases)}."
    if not phantoms:
        return shown
    which = "CT and airways are" if phantoms == cases else f"{', '.join(phantoms)} are"
    return f"Synthetic data: {which} phantoms, not a patient's. {shown}"
