"""Measure how far synthetic CTs are from real ones: tissues' HU, noise spectrum, airway walls; one table of deviations.

All of it is measured on CT and airway mask alone, so that phantoms and patients go the same way: the lungs are those of
`lungs.lung_mask`, not a phantom's own. Thresholds and sizes are our own choice. Trees are compared in `morphometry`.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import edt
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from airwaylib.errors import InputError
from airwaylib.images.lungs import lung_mask
from airwaylib.images.masks import bounding_box
from airwaylib.images.volume import Volume
from airwaylib.metrics.intervals import bootstrap_interval
from airwaylib.trees.parse import parse_tree
from airwaystudy.phantoms.morphometry import PUBLISHED, scaled_weibel

HU_EDGES = np.arange(-1024, 609, 16.0)
TISSUE = -300  # HU above which a voxel in or beside the lung is tissue
SOFT = (-20, 400)  # HU, smoothed; contrast agent included
TILE = 16  # voxels along a side of the squares whose noise is measured
SMOOTH = 2.0  # mm; structure coarser than this must be flat in a tile
FLAT = 30  # HU from a tile's median that the smoothed image may stray
LEAST_TILES = 8
MOST_SLICES = 100  # evenly spaced, are looked at for them
DIAMETERS = (0.0, 2.0, 4.0, 8.0, np.inf)  # mm, bins of lumen diameter
REACH = np.arange(-2, 4.01, 0.25)  # mm from the lumen's surface, outwards
PEAKS = {"fat_peak_hu": (-160, -50), "soft_peak_hu": (-20, 200)}  # where the body's histogram has its peaks
REFERENCE = ["property", "low", "high", "source"]


# ------------------------------------------------------------------------------------------------------------ tissues


def tissues(ct: Volume, airway: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of lung (parenchyma, no vessels), vessel, body (in the lungs' box) and airway, each without its rim.

    A voxel's breadth is taken off each, so that partial volume and blur do not count; vessels are thus those of three
    voxels and more. `airway`: boolean mask; it and 3 mm around it belong to neither lung nor vessel.
    """
    air = lung_mask(ct)
    box = bounding_box(air)
    wide = np.zeros_like(air)
    wide[box] = True
    closed = closing(air, ct.spacing, 8.0)
    near = edt.edt(~airway, anisotropy=ct.spacing[::-1]) < 3
    inner = edt.edt(closed, anisotropy=ct.spacing[::-1]) > 6
    masks = {
        "lung": air & ~near,
        "vessel": closed & inner & (ct.array > TISSUE) & ~near,
        "body": wide & ~closed & ~near & (ct.array > -200),
        "airway": airway,
    }
    return {name: ndimage.binary_erosion(mask) for name, mask in masks.items()}


def closing(mask: np.ndarray, spacing: tuple[float, float, float], radius: float) -> np.ndarray:
    """Close a mask by a ball of `radius` mm; beyond the image there is nothing."""
    pad = [int(np.ceil(radius / side)) + 1 for side in spacing[::-1]]
    wide = np.pad(mask, [(n, n) for n in pad])
    dilated = edt.edt(~wide, anisotropy=spacing[::-1]) <= radius
    closed = edt.edt(dilated, anisotropy=spacing[::-1]) > radius
    return closed[tuple(slice(n, -n) for n in pad)] | mask


def hu_histogram(hu: np.ndarray) -> pd.DataFrame:
    """Voxels in bins of 16 HU: hu (middle of the bin), voxels, density (share of all voxels per HU)."""
    counts, _ = np.histogram(hu, HU_EDGES)
    share = counts / max(hu.size, 1) / np.diff(HU_EDGES)
    return pd.DataFrame({"hu": (HU_EDGES[:-1] + HU_EDGES[1:]) / 2, "voxels": counts, "density": share})


# -------------------------------------------------------------------------------------------------------------- noise


def noise_tiles(ct: Volume) -> np.ndarray:
    """Squares (N, TILE, TILE) of axial slices through flat soft tissue (heart, vessels, liver, muscle), in HU.

    Flat: smoothed over 2 mm, no voxel strays more than 30 HU from the tile's median, which lies within -20 to 400 HU.
    Each tile's plane of least squares is taken off; tiles overlap by half.
    """
    sigma = [SMOOTH / side for side in ct.spacing[1::-1]]
    half = TILE // 2
    tiles = [np.empty((0, TILE, TILE))]
    for hu in ct.array[:: -(-len(ct.array) // MOST_SLICES)]:
        smooth, rough = (
            np.lib.stride_tricks.sliding_window_view(image, (TILE, TILE))[::half, ::half]
            for image in (ndimage.gaussian_filter(hu.astype(np.float32), sigma), hu)
        )
        likely = np.ptp(smooth, axis=(2, 3)) <= 2 * FLAT
        smooth, rough = smooth[likely], rough[likely]
        middle = np.median(smooth, (1, 2))
        flat = np.abs(smooth - middle[:, None, None]).max((1, 2), initial=0) <= FLAT
        tiles.append(rough[flat & (middle >= SOFT[0]) & (middle <= SOFT[1])].astype(float))
    tiles = np.concatenate(tiles)
    tiles -= tiles.mean((1, 2), keepdims=True)
    for axis in np.mgrid[:TILE, :TILE] - (TILE - 1) / 2:
        tiles -= (tiles * axis).sum((1, 2), keepdims=True) / (axis**2).sum() * axis
    return tiles


def noise_spectrum(tiles: np.ndarray, spacing: float) -> pd.DataFrame:
    """Radially averaged noise power spectrum of `tiles` (N, n, n) of `spacing` mm: frequency (1/mm), power (HU^2 mm^2).

    Power is |DFT|^2 spacing^2 / n^2, averaged over tiles and over rings one step of frequency wide, from the first step
    to the Nyquist frequency; white noise of variance v has v spacing^2 throughout (less at the first step, where the
    tile's plane was).

    Raises `InputError`: fewer than 8 tiles.
    """
    if len(tiles) < LEAST_TILES:
        raise InputError(f"{len(tiles)} flat tiles of soft tissue: {LEAST_TILES} or more are needed for a spectrum")
    n = tiles.shape[-1]
    power = (np.abs(np.fft.fft2(tiles)) ** 2).mean(0) * spacing**2 / n**2
    steps = np.fft.fftfreq(n) * n
    ring = np.rint(np.hypot(*np.meshgrid(steps, steps))).astype(int)
    mean = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())
    ring = np.arange(1, n // 2 + 1)
    return pd.DataFrame({"frequency": ring / (n * spacing), "power": mean[ring]})


def noise_summary(tiles: np.ndarray, spacing: float) -> dict[str, float]:
    """Noise in numbers: noise_hu (standard deviation), peak_frequency and mean_frequency of the spectrum (1/mm)."""
    spectrum = noise_spectrum(tiles, spacing)
    weight = spectrum["power"] * spectrum["frequency"]  # a ring's share of the variance goes with its circumference
    return {
        "noise_hu": float(np.sqrt((tiles**2).mean())),
        "peak_frequency": float(spectrum["frequency"][spectrum["power"].idxmax()]),
        "mean_frequency": float((weight * spectrum["frequency"]).sum() / weight.sum()),
    }


# -------------------------------------------------------------------------------------------------------------- walls


def wall_profile(ct: Volume, airway: np.ndarray) -> pd.DataFrame:
    """Mean HU along the normals of the lumen's surface, by lumen diameter.

    Returns diameter_mm (the bin, as "2-4"), distance_mm (from the mask's surface, outwards), hu, normals (how many).
    The surface is the mask's: one that leaves out voxels half in the wall lies inwards of the lumen's true border.
    """
    # Strategy: marching cubes on the signed distance gives points of the surface finer than a voxel, its smoothed
    # gradient their normals; the CT is sampled along these. A sample nearer to another part of the tree than to its own
    # point (at forks) is dropped, and one inside beyond the axis. Diameters are those at the nearest skeleton voxel.
    margin = int(np.ceil(REACH[-1] / min(ct.spacing))) + 2
    box = bounding_box(airway, margin)
    side = np.array(ct.spacing[::-1])
    mask = np.pad(airway[box], 1)
    hu = np.pad(ct.array[box], 1, mode="edge")
    outside, inside = (edt.edt(part, anisotropy=tuple(side)) for part in (~mask, mask))
    signed = outside - inside  # 0 half-way between two voxels, whatever the spacing
    points = marching_cubes(signed, 0.0, spacing=tuple(side))[0] / side  # z, y, x in voxels
    smooth = ndimage.gaussian_filter(signed, 1.0 / side)
    slope = [ndimage.map_coordinates(np.gradient(smooth, side[a], axis=a), points.T, order=1) for a in range(3)]
    normal = np.stack(slope, 1) / np.maximum(np.linalg.norm(slope, axis=0), 1e-6)[:, None]
    diameter = local_diameter(mask, ct.spacing, points * side)
    bins = pd.cut(diameter, DIAMETERS, right=False, labels=diameter_bins())
    rows = []
    for distance in REACH:
        place = (points + distance * normal / side).T
        own = diameter / 2 >= -distance
        if distance > 0:
            own = ndimage.map_coordinates(signed, place, order=1, mode="nearest") >= 0.7 * distance
        sample = pd.Series(ndimage.map_coordinates(hu, place, np.float32, order=1, mode="nearest"))[own]
        mean = sample.groupby(bins[own], observed=True).agg(["mean", "size"])
        rows += [(name, distance, row["mean"], int(row["size"])) for name, row in mean.iterrows()]
    table = pd.DataFrame(rows, columns=["diameter_mm", "distance_mm", "hu", "normals"])
    return table.sort_values(["diameter_mm", "distance_mm"], key=order_of_bins, kind="stable").reset_index(drop=True)


def diameter_bins() -> list[str]:
    """Names of the bins: "0-2", ..., "8+"."""
    limits = [f"{edge:g}" for edge in DIAMETERS[:-1]]
    return [f"{low}-{high}" for low, high in pairwise(limits)] + [f"{limits[-1]}+"]


def order_of_bins(column: pd.Series) -> pd.Series:
    """The column, with the bins' names replaced by their places, to sort by."""
    return column if column.name != "diameter_mm" else column.map(diameter_bins().index)


def local_diameter(mask: np.ndarray, spacing: tuple[float, float, float], points: np.ndarray) -> np.ndarray:
    """Lumen diameter in mm at `points` (N, 3; z, y, x in mm from the first voxel) of a mask's surface."""
    line = parse_tree(mask, spacing).centreline
    near = cKDTree(line[["z", "y", "x"]].to_numpy()).query(points)[1]
    return 2 * line["radius_mm"].to_numpy()[near]


def wall_peaks(profile: pd.DataFrame) -> dict[str, float]:
    """Largest mean HU from the surface to 2.5 mm out, of each diameter bin: wall_hu_2-4, ..."""
    near = profile[profile["distance_mm"].between(0, 2.5)]
    return {f"wall_hu_{name}": float(hu) for name, hu in near.groupby("diameter_mm", sort=False)["hu"].max().items()}


# ---------------------------------------------------------------------------------------------------------- a case


class Measured(NamedTuple):
    """Measures of a CT by `measure_ct`: numbers by name, and the curves behind them."""

    numbers: dict[str, float]
    histograms: pd.DataFrame  # tissue (lung, body), hu, voxels, density
    spectrum: pd.DataFrame  # frequency, power; empty without flat soft tissue
    walls: pd.DataFrame  # diameter_mm, distance_mm, hu, normals


def measure_ct(ct: Volume, airway: np.ndarray) -> Measured:
    """Measure a CT with its airway mask: medians of the tissues' HU, noise, walls; a number it has not is left out."""
    hu = {name: ct.array[mask] for name, mask in tissues(ct, airway).items()}
    numbers = {"lung_ml": float(lung_mask(ct).sum() * ct.voxel_ml)}
    numbers |= {f"{name}_hu": float(np.median(values)) for name, values in hu.items() if values.size}
    if hu["lung"].size:
        numbers["lung_hu_iqr"] = float(np.subtract(*np.percentile(hu["lung"], [75, 25])))
    for name, (low, high) in PEAKS.items():
        counts = hu_histogram(hu["body"])
        counts = counts[counts["hu"].between(low, high)]
        if counts["voxels"].any():
            numbers[name] = float(counts.loc[counts["voxels"].idxmax(), "hu"])
    tiles, spectrum = noise_tiles(ct), pd.DataFrame(columns=["frequency", "power"])
    if len(tiles) >= LEAST_TILES:
        spectrum = noise_spectrum(tiles, ct.spacing[0])
        numbers |= noise_summary(tiles, ct.spacing[0])
    walls = wall_profile(ct, airway)
    histograms = pd.concat([hu_histogram(hu[name]).assign(tissue=name) for name in ("lung", "body")])
    return Measured(numbers | wall_peaks(walls), histograms, spectrum, walls)


def mean_curve(tables: Sequence[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Mean over cases of a curve's other columns where their `keys` are the same, in the order of the first case."""
    numbers = pd.concat(tables)
    return numbers.groupby(list(keys), sort=False, observed=True).mean().reset_index()


# ---------------------------------------------------------------------------------------------------------- deviation


def published(lung_ml: float) -> pd.DataFrame:
    """Published values as references (property, low, high, source), Weibel's in mm for a lung of `lung_ml`."""
    weibel = f"Weibel 1963 model A (4800 ml), scaled to {lung_ml:.0f} ml of lung"
    names = ("trachea_diameter_mm", "main_bronchus_diameter_mm")
    values = scaled_weibel(lung_ml)["diameter_mm"][:2]
    rows = [(name, value, value, weibel) for name, value in zip(names, values, strict=True)]
    rows += [(name, *reference) for name, reference in PUBLISHED.items()]
    return pd.DataFrame(rows, columns=REFERENCE)


def measured(numbers: Sequence[Mapping[str, float]], source: str) -> pd.DataFrame:
    """Least and largest of each number over real cases, as references (property, low, high, source)."""
    table = pd.DataFrame(numbers)
    rows = [(name, table[name].min(), table[name].max(), source) for name in table]
    return pd.DataFrame(rows, columns=REFERENCE)


def deviation(phantoms: Sequence[Mapping[str, float]], references: pd.DataFrame) -> pd.DataFrame:
    """Tabulate how far phantoms are off, one row a reference.

    Returns property, unit, cases, phantom (median over the cases), mean_low, mean_high (bootstrap 95 % interval of the
    mean), reference_low, reference_high, source, difference, ratio.

    difference: the phantoms' median less the nearer end of the reference, 0 between its ends; ratio: their quotient,
    only where the unit has a true zero. A property that no phantom has is left out.

    Examples
    --------
    >>> references = pd.DataFrame([["angle_deg", 35.0, 45.0, "casts"]], columns=REFERENCE)
    >>> deviation([{"angle_deg": 49.0}, {"angle_deg": 51.0}], references)[["phantom", "difference"]].values.tolist()
    [[50.0, 5.0]]
    """
    table, rows = pd.DataFrame(phantoms), []
    for name, low, high, source in references[REFERENCE].itertuples(index=False):
        values = table[name].dropna().to_numpy(float) if name in table else np.empty(0)
        if not len(values):
            continue
        middle = float(np.median(values))
        nearest = float(np.clip(middle, low, high))
        ratio = middle / nearest if nearest and unit_of(name) not in ("HU", "deg") else np.nan
        interval = bootstrap_interval(values)
        rows.append([name, unit_of(name), len(values), middle, *interval, low, high, source, middle - nearest, ratio])
    columns = ["property", "unit", "cases", "phantom", "mean_low", "mean_high", "reference_low", "reference_high"]
    return pd.DataFrame(rows, columns=[*columns, "source", "difference", "ratio"])


def unit_of(name: str) -> str:
    """The unit of a property, from its name; "1" for a pure number."""
    units = {"_mm": "mm", "_deg": "deg", "_ml": "ml", "_frequency": "1/mm", "hu": "HU"}
    return next((unit for part, unit in units.items() if part in name), "1")
