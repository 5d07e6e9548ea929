"""Synthetic chest CT with exact truth: airways and vessels grown in a thorax, with disease, seen by a CT scanner.

The anatomy comes from `thorax`, `body` and `growth`, disease and traps from `disease`, the acquisition from `scanner`.
Calibres and HU values are our own choice; `calibration` tells how far they are from patients. The images are synthetic.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.images.volume import Volume, write_volume
from airwaylib.trees.axes import axes, tubes
from airwaystudy.phantoms import disease
from airwaystudy.phantoms.body import draw_body
from airwaystudy.phantoms.drawing import Grid, draw_axes, draw_tubes
from airwaystudy.phantoms.growth import AIRWAYS, VEINS, grow_tree, prune, unit
from airwaystudy.phantoms.names import SIZES, PhantomSize, phantom_name, seed_and_size
from airwaystudy.phantoms.scanner import Protocol, sample_slices, scan
from airwaystudy.phantoms.scene import AIR, Scene, Tubes, join
from airwaystudy.phantoms.thorax import CAGE, HEIGHT, Thorax

MATRIX = 512
FAINTEST = {"airway": 0.5, "vessel": 0.3}  # mm; radius of the thinnest that is drawn at all


@dataclass(frozen=True)
class Phantom:
    """One synthetic case.

    `ct` int16 HU; `airway` (lumen), `lung` and `centreline` boolean, all on one grid; `tree` one row a labelled branch:
    branch, parent (-1 for the trachea), generation, {start,middle,end}_{x,y,z} (the axis is the parabola through them),
    radius_start, radius_end (mm, LPS); `findings`, see `disease.PROBABILITY`; `protocol` of the scan.
    """

    name: str
    ct: Volume
    airway: Volume
    lung: Volume
    centreline: Volume
    tree: pd.DataFrame
    findings: tuple[str, ...]
    protocol: Protocol


# -------------------------------------------------------------------------------------------------------------- patient


@dataclass(frozen=True)
class Patient:
    """A case's anatomy, and the airways' properties that differ from patient to patient."""

    thorax: Thorax
    trachea_radius: float
    exponent: float  # of Murray's law in the airways
    wall: float  # thickness of airway walls relative to `wall_thickness`
    findings: tuple[str, ...]


def choose_grid(size: PhantomSize, rng: np.random.Generator) -> tuple[Protocol, Grid, float]:
    """Choose a patient's size (1: average), and the protocol and grid (of the CT) that take in the lungs."""
    if size.shape:
        extent = size.shape[2] * size.spacing
        return Protocol.plain(size.spacing), Grid(size.shape, (size.spacing,) * 3), 0.47 * extent / (CAGE + 33)
    scale = rng.uniform(0.84, 1.14)
    width = 2 * scale * (CAGE + rng.uniform(12, 50))
    protocol = Protocol.random(rng, float(np.clip(width / MATRIX, 0.5, 0.9)))
    slices = int(scale * HEIGHT * rng.uniform(0.95, 1.25) / protocol.interval)
    return protocol, Grid((slices, MATRIX, MATRIX), protocol.spacing), scale


def wall_thickness(radius: np.ndarray) -> np.ndarray:
    """Return the airway wall in mm for a lumen of `radius` mm: about a third of it, 2 mm at most or so (our choice)."""
    return 2.4 * (1 - np.exp(-np.asarray(radius) / 5))


# -------------------------------------------------------------------------------------------------------------- drawing


def arteries(airways: pd.DataFrame, rows: pd.DataFrame, wall: float, rng: np.random.Generator) -> pd.DataFrame:
    """Move a tree of arteries, grown as the airways (`rows` has the radii in mm), beside them, wall to wall.

    Both are tables of the same branches (see `growth.Tree.table`); wall: thickness relative to `wall_thickness`.
    """
    axis = unit(rng.normal([0, -2, 0], 1))  # the arteries keep to one side, mostly in front
    start, middle, end = (airways[[f"{p}_{a}" for a in "xyz"]].to_numpy() for p in ("start", "middle", "end"))
    across = np.cross(end - start, axis)
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    radius = airways["radius_end"].to_numpy()
    shift = across * (radius + wall * wall_thickness(radius) + rows["radius_end"].to_numpy())[:, None]
    first = shift[airways["parent"].clip(0)]  # at the end of the parent's artery: one tree, too
    moved = {"start": start + first, "middle": middle + (first + shift) / 2, "end": end + shift}
    return rows.assign(**{f"{p}_{a}": points[:, i] for p, points in moved.items() for i, a in enumerate("xyz")})


def trachea_tubes(tree: pd.DataFrame, narrow: bool, rng: np.random.Generator) -> Tubes:
    """Pieces of the trachea: round, wide, deep, like a horseshoe or a sabre's sheath in section, of about one area."""
    offsets, radius = {
        "round": ([(0, 0)], [1.0]),
        "wide": ([(-0.25, 0), (0.25, 0)], [0.86, 0.86]),
        "deep": ([(0, -0.28), (0, 0.28)], [0.84, 0.84]),
        "horseshoe": ([(0, -0.2), (-0.35, 0.25), (0.35, 0.25)], [0.86, 0.6, 0.6]),
        "sabre": ([(0, -0.75), (0, 0), (0, 0.75)], [0.6, 0.6, 0.6]),
    }["sabre" if narrow else rng.choice(["round", "wide", "deep", "horseshoe"], p=[0.4, 0.2, 0.2, 0.2])]
    start, end, radii = tubes(tree[:1])
    shift = [np.array([x, y, 0]) * radii.mean() for x, y in offsets]
    return join(*((start + move, end + move, radii * share) for move, share in zip(shift, radius, strict=True)))


def draw_trees(scene: Scene, patient: Patient, lobes: list[np.ndarray], contrast: float) -> tuple[pd.DataFrame, Tubes]:
    """Lay vessels, nodules and airways over the image; returns all airways, and the pieces of the trachea."""
    rng, findings, thorax = scene.rng, patient.findings, patient.thorax
    top = thorax.carina + np.array([rng.normal(0, 5), rng.normal(-16, 5), 400 - thorax.carina[2]])
    atrium = thorax.carina + np.array([[0, 4, -60], [0, 8, -46]])
    airway_tree = grow_tree(thorax, np.stack([top, thorax.carina]), AIRWAYS, lobes, rng)
    vein_tree = grow_tree(thorax, atrium, VEINS, [lobe[::2] for lobe in lobes], rng)
    airways = airway_tree.table(patient.trachea_radius, patient.exponent)
    if "bronchiectasis" in findings:
        airways = disease.widen(airways, rng)
    wide, blood = patient.trachea_radius * rng.uniform(0.72, 0.98), rng.normal(45, 5)
    artery = arteries(airways, airway_tree.table(wide, rng.uniform(2.6, 3)), patient.wall, rng)
    veins = vein_tree.table(wide * rng.uniform(0.8, 1.0), rng.uniform(2.6, 3))
    for vessels, share in ((artery, rng.uniform(0.6, 1)), (veins, rng.uniform(0.4, 1))):
        drawn = prune(vessels, FAINTEST["vessel"])
        scene.tubes(blood + share * contrast, tubes(drawn[drawn["generation"] >= 2]))
    disease.paint_nodules(scene, np.concatenate(lobes), findings)
    drawn = prune(airways, FAINTEST["airway"])
    trachea = trachea_tubes(drawn, "narrow trachea" in findings, rng)
    start, end, radii = join(trachea, tubes(drawn[1:]))
    scene.tubes(rng.uniform(0, 50), (start, end, radii + patient.wall * wall_thickness(radii)))
    if "calcified trachea" in findings:
        ring = trachea[2] + patient.wall * wall_thickness(trachea[2]) - 0.3
        scene.tubes(rng.uniform(120, 400), (*trachea[:2], ring))
    scene.tubes(AIR, (start, end, radii))
    if "mucus plugs" in findings:
        scene.tubes(rng.uniform(0, 50), disease.mucus_plugs(drawn, rng))
    return airways, trachea


def draw_labels(grid: Grid, tree: pd.DataFrame, trachea: Tubes) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the lumen and the centreline: a voxel is airway whose centre is inside, or which an axis passes through.

    The latter holds thin airways together between thick slices.
    """
    row, points, _ = axes(tree, min(grid.spacing))
    centreline = draw_axes(grid, np.split(points, np.flatnonzero(np.diff(row)) + 1))
    return (draw_tubes(grid, *join(trachea, tubes(tree[1:]))) <= 0) | centreline, centreline


def make_phantom(seed: int, size: str = "mini") -> Phantom:
    """Make a case of `size` "mini" (128^3 at 1 mm, healthy), "thin" or "chest" (an adult, 512 x 512).

    Same seed, same case. A thin one is the mini of that seed with thinner airways labelled: from a radius of 0.75 mm.

    Raises
    ------
    InputError
        Unknown size or negative seed.

    Examples
    --------
    >>> make_phantom(0).ct
    Volume(128 x 128 x 128 int16, spacing (1, 1, 1) mm, origin (0, 0, 0) mm)
    """
    if size not in SIZES:
        raise InputError(f"phantom size {size!r} is unknown: choose one of {', '.join(SIZES)}")
    if seed < 0:
        raise InputError(f"phantom seed {seed} is negative: give 0 or more")
    sizes, rng = SIZES[size], np.random.default_rng([seed, SIZES[size].stream])
    protocol, ct_grid, scale = choose_grid(sizes, rng)
    patient = choose_patient(sizes, ct_grid, scale, rng)
    planes = (ct_grid.shape[0] - 1) * protocol.steps + 1
    scene = Scene(Grid((planes, *ct_grid.shape[1:]), protocol.render_spacing), patient.thorax, rng)

    lung = draw_body(scene, protocol.contrast)
    lobes = patient.thorax.fill(sizes.points, rng)
    disease.paint_lungs(scene, lung, np.concatenate(lobes), patient.findings)
    airways, trachea = draw_trees(scene, patient, lobes, protocol.contrast)
    tree = prune(airways, max(sizes.smallest_airway, 0.6 * protocol.resolution, protocol.interval / 2))
    airway, centreline = draw_labels(ct_grid, tree, trachea)

    ct = Volume(scan(scene.image, protocol, rng), spacing=protocol.spacing)
    airway, lung, centreline = map(ct.with_array, (airway, sample_slices(lung, protocol), centreline))
    return Phantom(phantom_name(seed, size), ct, airway, lung, centreline, tree, patient.findings, protocol)


def choose_patient(size: PhantomSize, grid: Grid, scale: float, rng: np.random.Generator) -> Patient:
    """Choose a patient; the small phantoms have no disease."""
    findings = () if size.shape else disease.draw_findings(rng)
    radius = rng.uniform(*size.trachea_radius) * (1 if size.shape else scale**0.5)
    wall = rng.uniform(0.8, 1.2) * (0.65 if "thin walls" in findings else 1.6 if "thick walls" in findings else 1)
    return Patient(Thorax.random(grid, scale, radius, rng), radius, rng.uniform(*size.exponent), wall, findings)


def write_phantom(phantom: Phantom, folder: str | Path) -> Path:
    """Write `folder`/NAME/{ct,airway,lung,centreline}.nii.gz, tree.csv and case.json; whole or not at all.

    case.json holds the findings and the protocol. Returns the case's folder.
    """
    path = Path(folder) / phantom.name
    with atomic_path(path) as temporary:
        temporary.mkdir(parents=True)
        for name in ("ct", "airway", "lung", "centreline"):
            write_volume(getattr(phantom, name), temporary / f"{name}.nii.gz")
        phantom.tree.round(4).to_csv(temporary / "tree.csv", index=False)
        about = {"findings": phantom.findings, "protocol": asdict(phantom.protocol)}
        (temporary / "case.json").write_text(json.dumps(about, indent=1))
    return path


def ensure_phantom(seed: int, size: str, folder: str | Path) -> Path:
    """Return a case's folder under `folder`, made unless it stands."""
    path = Path(folder) / phantom_name(seed, size)
    return path if path.exists() else write_phantom(make_phantom(seed, size), folder)


def ensure_named(name: str, folder: str | Path) -> Path:
    """Return the folder of the phantom called `name` (mini_0007) under `folder`, made unless it stands.

    Raises
    ------
    InputError
        No phantom can have that name.
    """
    wanted = seed_and_size(name)
    if wanted is None:
        raise InputError(f"phantom {name!r}: a size and a seed are needed, such as {phantom_name(7, 'mini')}")
    return ensure_phantom(*wanted, folder)
