"""Write the gradient explorer: one HTML page, shown in Jupyter and sent to others.

plotly.js and the data are in the page, so it needs no kernel and no network. The data are bytes, compressed by gzip and
written as base64; the page's script unpacks them on demand. One seed of each loss and supervision is in it, with its
first and last epoch; the curves and the answers to the questions are those of all runs.
"""

import base64
import gzip
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from plotly.colors import diverging
from plotly.offline import get_plotlyjs

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.images.volume import HU_WINDOW
from airwaystudy.analysis.gradient_maps import GradientMaps
from airwaystudy.figures import gradient_slices as views
from airwaystudy.figures.style import BLUE, GREY, ORANGE, VERMILION, plain
from airwaystudy.phantoms.names import is_synthetic

STEPS = 63  # of a share on the page; 64 means no gradient. Finer steps are invisible as colours and compress badly.
FINE = 2  # voxels to a layer's cell, at most, where the page opens: in coarser layers small airways are blocks
FIRST_LAYERS = 3  # of the encoder: the shallow layers that the question about supervision compares


def write_explorer(maps: Sequence[GradientMaps], path: str | Path) -> Path:
    """Write the explorer of these runs to `path`, whole or not at all; returns the path.

    Raises `InputError`: no maps.
    """
    if not maps:
        raise InputError(f"{path}: no gradient maps to show; give those of one run at least")
    volumes: dict[str, str] = {}  # element's name by content: runs on the same crop share image and label
    kept = {id(one) for one in views.one_seed(maps)}
    shown = [(number, one) for number, one in enumerate(maps) if id(one) in kept]
    labels = views.run_labels(maps)
    about = {
        "runs": [describe_run(one, number, volumes) for number, one in shown],
        "measures": [
            {"label": label, "layers": one.layers, **curves(one)} for label, one in zip(labels, maps, strict=True)
        ],
        "opening": dict(zip(("run", "layer"), opening([one for _, one in shown]), strict=True)),
        "colours": {"blue": BLUE, "orange": ORANGE, "vermilion": VERMILION, "grey": GREY, "none": views.NO_SHARE},
        "scale": diverging.RdBu_r,
        "steps": STEPS,
        "hu": HU_WINDOW,
    }
    questions = (
        f"<li><p><b>{title}.</b> {escape(ask)}</p><p>{escape(answer)}</p></li>" for title, ask, answer in ask_all(maps)
    )
    parts = {
        "PLOTLY": get_plotlyjs(),
        "DATA": escape(describe_data(maps)),
        "QUESTIONS": "\n".join(questions),
        "ABOUT": script_json(about),
        "VOLUMES": "\n".join(
            f'<script type="text/plain" id="{name}">{data}</script>' for data, name in volumes.items()
        ),
    }
    text = files("airwaystudy.report").joinpath("gradient_explorer.html.in").read_text(encoding="utf-8")
    for key, part in parts.items():
        text = text.replace(f"@@{key}@@", part)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def opening(shown: Sequence[GradientMaps]) -> tuple[int, int]:
    """Run and layer, by number, that the page opens on: the baseline (Dice, last block) where most of it is eroded."""
    run = min(range(len(shown)), key=lambda n: (shown[n].supervision != "final", shown[n].loss != "dice", n))
    one = shown[run]
    eroded = views.curve(one, one.epochs[-1]).fillna(-1).to_numpy()
    fine = [max(strides) <= FINE for strides in layer_strides(one).values()]
    return run, int(np.argmax(np.where(fine, eroded, -2)))


# ------------------------------------------------------------------------------------------------------------ packing


def describe_run(one: GradientMaps, number: int, volumes: dict[str, str]) -> dict[str, Any]:
    """A run as the page's script needs it; its compressed volumes are added to `volumes`.

    number: of the run among all measures.
    """
    epochs = list(dict.fromkeys([one.epochs[0], one.epochs[-1]]))
    layers = [
        {"name": layer, "stride": strides, "shape": one.share(epochs[0], layer).shape}
        for layer, strides in layer_strides(one).items()
    ]
    contents = {"image": one.image.astype(np.uint8).tobytes(), "label": one.label.astype(np.uint8).tobytes()}
    for epoch in epochs:  # the layers one after the other
        contents[str(epoch)] = b"".join(stored_share(one.share(epoch, layer)).tobytes() for layer in one.layers)
    names = {name: volumes.setdefault(squeeze(data), f"volume{len(volumes)}") for name, data in contents.items()}
    about = {"number": number, "case": one.case, "spacing": one.spacing, "shape": one.label.shape}
    return about | {"epochs": epochs, "layers": layers, "volumes": names}


def squeeze(data: bytes) -> str:
    """Compress bytes by gzip and write them as base64; the same bytes give the same text."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


def stored_share(share: np.ndarray) -> np.ndarray:
    """Shares as bytes: 0..STEPS, and STEPS + 1 where there is none."""
    return np.where(np.isnan(share), STEPS + 1, np.rint(share * STEPS)).astype(np.uint8)


def script_json(value: Any) -> str:
    """JSON for a script element: nothing in it closes the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def layer_strides(maps: GradientMaps) -> dict[str, tuple[int, ...]]:
    """Stride of each layer's grid along the three axes."""
    shapes = {layer: maps.share(maps.epochs[0], layer).shape for layer in maps.layers}
    return {
        layer: tuple(views.stride(m, n) for m, n in zip(shape, maps.label.shape, strict=True))
        for layer, shape in shapes.items()
    }


def curves(maps: GradientMaps) -> dict[str, dict[int, list[float | None]]]:
    """Erosion, dilation and ratio by epoch, of all layers in forward order; None where unknown."""
    return {
        measure: {
            epoch: [round(value, 4) if np.isfinite(value) else None for value in views.curve(maps, epoch, measure)]
            for epoch in maps.epochs
        }
        for measure in ("erosion", "dilation", "ratio")
    }


def describe_data(maps: Sequence[GradientMaps]) -> str:
    """State which cases are shown and which of them are synthetic: nobody should take a phantom for a patient."""
    cases = sorted({one.case for one in maps})
    phantoms = [case for case in cases if is_synthetic(case)]
    shown = f"Shown: a crop of {', '.join(cases)}."
    if not phantoms:
        return shown
    which = "CT and airways are" if phantoms == cases else f"{', '.join(phantoms)} are"
    return f"Synthetic data: {which} phantoms, not a patient's. {shown}"


# ---------------------------------------------------------------------------------------------------------- questions


def ask_all(maps: Sequence[GradientMaps]) -> list[tuple[str, str, str]]:
    """Title, task and answer of each guiding question; the answers are computed from the measures of all runs."""
    shown = views.one_seed(maps)
    run, layer = opening(shown)
    base = shown[run]
    table = pd.concat(
        one.measures.assign(loss=one.loss, supervision=one.supervision, seed=one.seed)
        for one in maps
        if one.case == base.case
    )
    last = table[table["epoch"] == base.epochs[-1]]
    own = table[(table["loss"] == base.loss) & (table["supervision"] == base.supervision)]
    task = (
        f"Choose {views.run_label(base)}, the last epoch and the last layer. Click a small bronchus, then move the "
        "layer slider to the left, one layer at a time. Where does its curve in the profile fall below ½?"
    )
    return [
        ("Erosion", task, answer_erosion(base, own[own["epoch"] == base.epochs[-1]], base.layers[layer])),
        (
            "The loss",
            "Change the run to another loss under the same supervision: slice, layer and profile stay. Which small "
            "airways turn red? Does the background beside them turn red as well (dilation)?",
            compare(
                last[last["supervision"] == base.supervision], "loss", base.loss, ("erosion", "dilation"), "all layers"
            ),
        ),
        (
            "Supervision",
            "Compare the supervisions at the first layers of the encoder. In which do they still see the airway?",
            compare(
                last[(last["loss"] == base.loss) & last["layer"].isin(base.layers[:FIRST_LAYERS])],
                *("supervision", base.supervision, ("erosion",), f"layers {', '.join(base.layers[:FIRST_LAYERS])}"),
            ),
        ),
        (
            "Training",
            "Move the epoch slider. How does the owner of the gradient change as the network learns?",
            compare(own, "epoch", base.epochs[0], ("erosion", "dilation"), "all layers"),
        ),
    ]


def answer_erosion(base: GradientMaps, rows: pd.DataFrame, here: str) -> str:
    """Tell how much of the most eroded layer, the first layer and the one that the page opens on is eroded."""
    means = rows.groupby("layer", sort=False)["erosion"].mean().reindex(base.layers)
    if means.isna().all():
        return "In these runs erosion was not measured."
    worst = means.idxmax()
    eroded = {layer: spread(rows[rows["layer"] == layer], "erosion") for layer in base.layers}
    opened = "" if here == worst else f" At {here}, where this page opens, it owns {eroded[here]}."
    return (
        f"{plain(base.loss)}, {plain(base.supervision)}, epoch {base.epochs[-1]}, {seeds_in_words(rows)}: erosion is "
        f"highest at {worst}, where the background owns the gradient of {eroded[worst]} of the airway voxels. At "
        f"{base.layers[0]}, the first layer, it owns {eroded[base.layers[0]]}.{opened}"
    )


def compare(rows: pd.DataFrame, by: str, base: Any, measures: Sequence[str], where: str) -> str:
    """Set the base's measures, meant over layers, beside those of the other values of a column."""
    others = [value for value in dict.fromkeys(rows[by]) if value != base]
    if not others:
        return f"These runs cannot tell: there is only one {by}, {plain(base)}."
    parts = [
        f"{measure} "
        + ", ".join(f"{by} {plain(value)} {spread(rows[rows[by] == value], measure)}" for value in (base, *others))
        for measure in measures
    ]
    return f"Mean of {where}, {seeds_in_words(rows)}: {'; '.join(parts)}."


def spread(rows: pd.DataFrame, measure: str) -> str:
    """A measure's mean over the seeds, percent, with the lowest and highest seed if there are several.

    Examples
    --------
    >>> spread(pd.DataFrame({"seed": [0, 1], "erosion": [0.1, 0.2]}), "erosion")
    '15 % (10 to 20)'
    """
    seeds = 100 * rows.groupby("seed")[measure].mean()
    return f"{seeds.mean():.0f} %" + (f" ({seeds.min():.0f} to {seeds.max():.0f})" if len(seeds) > 1 else "")


def seeds_in_words(rows: pd.DataFrame) -> str:
    """Count the seeds behind the numbers."""
    count = rows["seed"].nunique()
    return "one seed" if count == 1 else f"{count} seeds (lowest to highest)"
