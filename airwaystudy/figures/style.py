"""House style of all figures: colours, markers, dashes, legends, and files that a rebuild leaves unchanged."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from airwaylib.files import atomic_path

# Okabe & Ito's colours, told apart with any colour vision, and the black that they start with.
BLUE, ORANGE, VERMILION, GREY = "#0072B2", "#E69F00", "#D55E00", "#7F7F7F"
COLOURS = (BLUE, VERMILION, "#009E73", ORANGE, "#CC79A7", "#56B4E9", "#000000", GREY)
MARKERS = "osD^vPX*"
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
PLAIN_NUMBERS = FuncFormatter(lambda value, _: f"{value:g}")  # 0.5 and 20 on logarithmic axes, not powers of ten


def save_figure(figure: Figure, stem: str | Path, suffixes: Sequence[str] = (".png", ".svg")) -> list[Path]:
    """Write STEM.png and STEM.svg, atomically, byte for byte the same whenever the figure is; returns the paths."""
    paths = []
    for suffix in suffixes:
        path, metadata = Path(f"{stem}{suffix}"), {"Software": None} if suffix == ".png" else {"Date": None}
        with plt.rc_context({"svg.hashsalt": "airwaylib"}), atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=110, metadata=metadata)
        paths.append(path)
    return paths


def series_styles(names: Iterable) -> dict[object, dict]:
    """Give each of `names` a colour, marker and dash, in their order; a name that comes again changes nothing."""
    styles = {}
    for i, name in enumerate(dict.fromkeys(names)):
        styles[name] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "ms": 4}
        styles[name]["ls"] = DASHES[i % len(DASHES)]
    return styles


def plain(name: str) -> str:
    """Write a name from a table as words."""
    return str(name).replace("_", " ")


def add_legend(figure: Figure, width: float) -> None:
    """Add one legend below all panels, `width` inches wide at most, without a name twice."""
    handles = {text: h for ax in figure.axes for h, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    longest = max((len(text) for text in handles), default=1)
    columns = max(1, min(len(handles), int(width / (0.6 + 0.07 * longest))))
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)


def over_seeds(rows: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Find mean, lowest and highest over the seeds, indexed by `by` in the rows' order; seeds of NaN are left out.

    Examples
    --------
    >>> rows = pd.DataFrame({"seed": [0, 1], "layer": ["ec1", "ec1"], "erosion": [0.2, 0.4]})
    >>> over_seeds(rows, ["layer"], "erosion").round(2).to_dict("index")
    {'ec1': {'mean': 0.3, 'low': 0.2, 'high': 0.4}}
    """
    seeds = rows.groupby([*by, "seed"], sort=False)[value].mean().reset_index()
    return seeds.groupby(by, sort=False)[value].agg(mean="mean", low="min", high="max")


def variant_styles(names: Iterable[str]) -> dict[str, dict]:
    """Give each variant a style: colours come again after eight, each time with the next marker."""
    styles = series_styles(names)
    for i, style in enumerate(styles.values()):
        style["marker"] = MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
    return styles


def label_of(name: str, rows: pd.DataFrame) -> str:
    """Write a variant in words, with the number of its seeds."""
    seeds = int(rows["seeds"].max())
    return f"{plain(name)} ({seeds} seed{'' if seeds == 1 else 's'})"
