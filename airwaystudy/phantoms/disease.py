"""Disease and traps of a synthetic chest CT, each with a probability: what makes real airways hard to follow.

Airways change in the table of their branches, before they are drawn: the truth stays exact. Lungs change in the image.
Frequencies and forms are our own choice.
"""

import numpy as np
import pandas as pd

from airwaystudy.phantoms.scene import Scene, Tubes, balls

PROBABILITY = {
    "emphysema": 0.35,
    "bullae": 0.15,
    "cysts": 0.12,
    "nodules": 0.5,
    "mass": 0.15,
    "consolidation": 0.2,
    "ground glass": 0.25,
    "dependent collapse": 0.4,
    "bronchiectasis": 0.25,
    "mucus plugs": 0.3,
    "narrow trachea": 0.12,
    "calcified trachea": 0.2,
    "thin walls": 0.2,
    "thick walls": 0.2,
}


def draw_findings(rng: np.random.Generator) -> tuple[str, ...]:
    """Draw the findings of a case, each by its PROBABILITY."""
    return tuple(name for name, chance in PROBABILITY.items() if rng.random() < chance)


# -------------------------------------------------------------------------------------------------------------- airways


def widen(tree: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Bronchiectasis: airways of one to three segments widened 1.3 to 2.2 times, unevenly, with all beyond them."""
    tree = tree.copy()
    factor = np.ones(len(tree))
    likely = tree.index[tree["generation"].between(4, 7)]
    for root in rng.choice(likely, min(len(likely), rng.integers(1, 4)), replace=False):
        within = beyond(tree, root)
        factor[within] = rng.uniform(1.3, 2.2) * rng.uniform(0.85, 1.15, within.sum())
    tree["radius_start"] *= factor
    tree["radius_end"] *= factor * rng.uniform(0.95, 1.2, len(tree)) ** (factor > 1)
    return tree


def beyond(tree: pd.DataFrame, root: int) -> np.ndarray:
    """Find the rows of a tree beyond branch `root`, itself included; boolean (N,)."""
    within = np.zeros(len(tree), bool)
    within[root] = True
    for branch, parent in zip(tree["branch"], tree["parent"], strict=True):
        within[branch] |= parent >= 0 and within[parent]
    return within


def mucus_plugs(tree: pd.DataFrame, rng: np.random.Generator) -> Tubes:
    """Plugs that fill a part of some airways under 3 mm radius; the label keeps the airway's lumen there."""
    small = tree[(tree["radius_end"] < 3) & (tree["radius_start"] > 0.8)]
    chosen = small.sample(min(len(small), int(rng.integers(3, 25))), random_state=int(rng.integers(2**31)))
    start, middle, end = (chosen[[f"{p}_{a}" for a in "xyz"]].to_numpy() for p in ("start", "middle", "end"))
    share = rng.uniform(0.2, 0.8, (len(chosen), 1))
    radii = np.repeat(chosen[["radius_start"]].to_numpy() * 1.1, 2, 1)
    return middle + share * 0.5 * (start - middle), middle + share * 0.5 * (end - middle), radii


# ---------------------------------------------------------------------------------------------------------------- lungs


def paint_lungs(scene: Scene, lung: np.ndarray, points: np.ndarray, findings: tuple[str, ...]) -> None:
    """Lay the diseases of the parenchyma over the image; `points` (N, 3; mm) are spread over the lungs.

    lung: mask (z, y, x); what is made of balls does not leave it.
    """
    rng, mm = scene.rng, scene.mm
    if "emphysema" in findings:
        holes = points[rng.permutation(len(points))][: rng.integers(150, 1500)]
        if rng.random() < 0.7:  # of the upper lobes mostly
            holes = holes[scene.thorax.standard(*holes.T)[2] > rng.uniform(80, 160)]
        radius = rng.uniform(1, rng.uniform(3, 7), len(holes)) * mm
        scene.tubes(rng.uniform(-995, -940), balls(holes, radius), within=lung)
    depth = scene.thorax.lung_depth(*scene.lattice)
    for name, most, sizes, hu, slope in (
        ("ground glass", 6, (8, 35), rng.uniform(-720, -500), 0.1),
        ("consolidation", 5, (6, 28), rng.uniform(-60, 60), 0.4),
        ("bullae", 5, (7, 28), rng.uniform(-1000, -970), 1.0),
    ):
        if name in findings:
            union = cloud(scene, points, rng.integers(1, most + 1), sizes)
            scene.paint(hu, np.minimum(slope * union, depth))
    if "dependent collapse" in findings:
        thick = rng.uniform(2, 14) * np.clip((scene.lattice[1] - rng.uniform(35, 65)) / 20, 0, 1)
        inner = 0.12 * (thick - depth) - 2 * (thick <= 0)  # fades over 8 voxels
        scene.paint(rng.uniform(-650, -150), np.minimum(depth, inner))
    if "cysts" in findings:  # of one place, with walls: what a bronchus in section looks like
        near = points[np.argsort(np.linalg.norm(points - points[rng.integers(len(points))], axis=1))]
        near = near[rng.permutation(min(len(near), 600))[: rng.integers(8, 60)]]
        radius = rng.uniform(1.2, 4.5, len(near)) * mm
        scene.tubes(rng.uniform(-500, 0), balls(near, radius + rng.uniform(0.3, 0.9)), within=lung)
        scene.tubes(-990, balls(near, radius), within=lung)


def paint_nodules(scene: Scene, points: np.ndarray, findings: tuple[str, ...]) -> None:
    """Lay nodules, solid or not, and a mass over the image, vessels included."""
    rng = scene.rng
    if "nodules" in findings:
        some = points[rng.integers(len(points), size=rng.integers(1, 16))]
        hu = rng.choice([rng.uniform(0, 80), rng.uniform(-650, -300), 400], p=[0.7, 0.2, 0.1])
        scene.tubes(hu, balls(some, rng.uniform(1.2, 6, len(some)) * scene.mm))
    if "mass" in findings:
        depth = scene.thorax.lung_depth(*scene.lattice)
        scene.paint(rng.uniform(20, 70), np.minimum(cloud(scene, points, 1, (8, 24)), depth))


def cloud(scene: Scene, points: np.ndarray, number: int, sizes: tuple[float, float]) -> np.ndarray:
    """Depth in clusters of overlapping balls with a wavy border, on the lattice.

    Each of the `number` clusters lies at one of the `points` (N, 3; mm); `sizes` are least and largest radius.
    """
    (u, v, w), rng = scene.lattice, scene.rng
    waves = rng.normal(0, 0.35, (3, 3))
    union = np.full(u.shape, -99, np.float32)
    for radius in rng.uniform(*sizes, number):
        seed = np.array(scene.thorax.standard(*points[rng.integers(len(points))]))
        for a, b, c in seed + rng.normal(0, 0.5 * radius, (5, 3)):
            own = radius * rng.uniform(0.5, 1)
            np.maximum(union, own - np.sqrt((u - a) ** 2 + (v - b) ** 2 + (w - c) ** 2), out=union)
    return union + 1.2 * sum(np.sin(u * a + v * b + w * c) for a, b, c in waves)
