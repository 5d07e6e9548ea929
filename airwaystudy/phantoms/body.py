"""What surrounds the airways in a synthetic chest CT: body, bones, organs, great vessels, lungs with their fissures.

HU values are usual ones, varied from case to case; forms are schematic and our own choice. Lengths are standard mm.
"""

import numpy as np
from scipy import ndimage

from airwaystudy.phantoms.drawing import blend, coverage, refine
from airwaystudy.phantoms.scene import AIR, Scene, join
from airwaystudy.phantoms.thorax import CAGE, HEIGHT, ellipsoid, narrowing


def draw_body(scene: Scene, contrast: float) -> np.ndarray:
    """Draw everything but the trees of the lungs; contrast: HU added to blood. Returns the lung mask (z, y, x)."""
    draw_soft_tissue(scene)
    draw_abdomen(scene)
    draw_mediastinum(scene, contrast)
    lung = draw_lungs(scene)
    draw_bones(scene)
    return lung


def draw_soft_tissue(scene: Scene) -> None:
    """Table, skin, fat, muscle with fat between its layers, and what fills the cage around the organs."""
    (u, v, w), thorax, rng = scene.lattice, scene.thorax, scene.rng
    wall = float(thorax.fat + thorax.muscle)
    top = thorax.depth_v + wall + rng.uniform(4, 14)
    below = v - top + rng.uniform(0.0002, 0.0009) * u**2
    table = np.minimum(np.minimum(below, 22 - below), 230 - np.abs(u))
    shell = np.float32(rng.uniform(0.5, 1.2))
    scene.paint(rng.uniform(-940, -850), table)  # foam
    scene.paint(rng.uniform(-300, 100), table, lambda depth: shell - np.abs(depth))
    body, fat = thorax.body_depth(u, v, w), rng.normal(-100, 8)
    scene.paint(rng.uniform(-20, 50), body)
    scene.paint(fat, body - 1.8)
    scene.paint(rng.normal(50, 8), body - thorax.fat)
    layer = rng.uniform(0.3, 0.7) * thorax.muscle + thorax.fat + 4 * np.sin(u / 13) * np.sin(w / 19) + 2 * np.sin(v / 9)
    thick = np.float32(rng.uniform(0.4, 1.6))
    scene.paint(fat, body - layer, lambda depth: thick - np.abs(depth))
    filling = rng.choice([fat + rng.uniform(0, 20), rng.uniform(-60, 30)])
    scene.paint(filling, thorax.cage_depth(u, v, w))


def draw_abdomen(scene: Scene) -> None:
    """Below the diaphragm: its muscle, liver, spleen, and a stomach with fluid and often a bubble of gas."""
    (u, v, w), thorax, rng = scene.lattice, scene.thorax, scene.rng
    below = np.minimum(thorax.dome_depth(u, v, w), thorax.cage_depth(u, v, w))
    scene.paint(50, below, lambda depth: np.minimum(depth, 4 - depth))
    scene.paint(rng.normal(60, 15), np.minimum(below - 2, ellipsoid(u, v, w, (-50, -5, -40), (108, 88, 118))))
    scene.paint(rng.normal(50, 10), np.minimum(below - 2, ellipsoid(u, v, w, (92, 42, -12), (36, 42, 48))))
    centre, semi = (52, -18, float(thorax.domes[1]) - 52), rng.uniform((28, 28, 30), (46, 44, 46))
    stomach = np.minimum(below - 2, ellipsoid(u, v, w, centre, semi))
    scene.paint(rng.uniform(20, 50), stomach)
    if rng.random() < 0.7:  # gas rises to the front: the patient lies on the back
        scene.paint(AIR, np.minimum(stomach - 3, rng.uniform(-30, -8) - v))


def draw_mediastinum(scene: Scene, contrast: float) -> None:
    """Heart, great vessels, oesophagus with or without gas, lymph nodes."""
    thorax, rng = scene.thorax, scene.rng
    heart, blood = thorax.heart_depth(*scene.lattice), rng.normal(42, 6)
    scene.paint(blood, heart)
    if contrast:
        scene.paint(blood + contrast * rng.uniform(0.5, 1), heart - 9)
    arterial, venous = blood + contrast * rng.uniform(0.7, 1), blood + contrast * rng.uniform(0.5, 1.4)
    u, v, w = map(float, thorax.carina)
    back, chain = float(thorax.depth_v) - 46, scene.chain
    aorta = [(-4, -22, w - 70), (-16, -20, w - 25), (-14, -18, w + 8), (2, -8, w + 26), (18, 14, w + 22)]
    aorta += [(25, back, w + 4), (25, back, w - 60), (14, back + 4, 10), (8, back + 6, -40)]
    heads = [[(-10, -14, w + 30), (-18, -18, 300)], [(2, -8, w + 34), (8, -14, 300)], [(12, 4, w + 32), (22, 0, 300)]]
    trunk = [(16, -42, w - 48), (16, -30, w - 22), (10, -20, w - 16)]
    right, left = [(10, -20, w - 16), (-16, -14, w - 22), (-34, -8, w - 30)], [(14, -20, w - 14), (36, -2, w - 16)]
    cava = [(-26, -14, w - 55), (-25, -12, w + 20), (-22, -18, w + 60), (-30, -22, 300)]
    scene.tubes(arterial, join(chain(aorta, rng.uniform(11, 15)), *(chain(head, rng.uniform(4, 7)) for head in heads)))
    scene.tubes(venous, join(chain(cava, rng.uniform(7, 10)), chain([(-14, -34, 300), (-22, -20, w + 48)], 6)))
    sides = (chain(side, rng.uniform(8, 11)) for side in (right, left))
    scene.tubes(arterial, join(chain(trunk, rng.uniform(11, 14)), *sides))
    scene.tubes(blood + 0.8 * contrast, chain([(-16, 8, w - 48), (20, 10, w - 46)], 14))  # left atrium
    draw_oesophagus(scene)
    for _ in range(rng.integers(0, 9)):  # lymph nodes
        at = np.array([(u, v - 4, w)]) + rng.normal(0, (22, 12, 28), (1, 3))
        scene.tubes(rng.normal(35, 10), chain(np.repeat(at, 2, 0), rng.uniform(3, 8)))


def draw_oesophagus(scene: Scene) -> None:
    """Behind the trachea and the heart, to the stomach; gas in it now and then, in pieces."""
    thorax, rng = scene.thorax, scene.rng
    u, v, w = thorax.carina
    height = np.linspace(310, 0, 24)
    side = u + 6 + 4 * np.sin(height / 40 + rng.uniform(0, 6))
    depth = np.clip(v + 19 + 0.06 * (w - height), None, thorax.depth_v - 58)
    line, radius = np.stack([side, depth, height], 1), rng.uniform(6, 8.5)
    scene.tubes(rng.normal(38, 6), scene.chain(line, radius))
    for first in range(0, len(line) - 3, 3):
        if rng.random() < 0.3:
            scene.tubes(AIR, scene.chain(line[first : first + 4], rng.uniform(0.1, 0.75, 4) * radius))


def draw_bones(scene: Scene) -> None:
    """Ribs with their cartilage, spine, sternum, scapulae, clavicles: a bright shell around marrow."""
    thorax, rng, chain = scene.thorax, scene.rng, scene.chain
    edge = float(thorax.depth_v)
    back, front = edge - 28, -edge - 8
    bones, cartilage, discs = [chain([(0, back, z) for z in range(-60, 340, 10)], 17.0)], [], []
    for z in np.arange(-40 + rng.uniform(0, 23), 330, 23):
        discs.append(chain([(0, back, z - 1), (0, back, z + 1)], 3.5))
        bones.append(chain([(0, back + 34, z + 4), (0, back + 52, z - 8)], 4.5))
        for side in (-1, 1):
            bones.append(chain([(side * 8, back + 30, z + 9), (side * 32, back + 42, z + 12)], 5.0))
            bones.append(chain([(side * 13, back + 16, z + 9), (0, back + 36, z + 3)], 4.0))
    bones.append(chain([(u, front, w) for u in (-9, 9) for w in (95, 225)], 6.0))
    for side in (-1, 1):
        for number in range(11):
            rib, end = rib_line(edge, number, side, rng)
            bones.append(chain(rib, 4.6))
            cartilage += [chain(end, 5.0)] if number < 8 else []
        bones.append(chain([(side * 18, front + 4, 236), (side * 140, -20, 262)], 6.0))
        blade = ((128, -14, 250), (112, 2, 180), (88, 12, 130), (92, 12, 225), (128, -14, 250))
        bones.append(chain([(side * a, edge + b, c) for a, b, c in blade], 4.5))
    start, end, radii = join(*bones)
    shell = rng.uniform(1.0, 1.8) * scene.mm
    scene.tubes(rng.normal(95, 15), join(*cartilage))
    scene.tubes(rng.normal(480, 80), (start, end, radii))
    scene.tubes(rng.normal(170, 40), (start, end, np.maximum(radii - shell, 0.05)))
    scene.tubes(60, join(*discs))
    scene.tubes(25, chain([(0, back + 25, z) for z in range(-60, 340, 40)], 7.0))  # spinal canal


def rib_line(edge: float, number: int, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Axis of a rib from the spine around the cage, and of its cartilage on to the sternum."""
    angle, along = np.linspace(np.deg2rad(76), np.deg2rad(-58), 22), np.linspace(0, 1, 22)
    w = HEIGHT - 6 - 22 * number + rng.normal(0, 1.5) - (20 + 12 * min(number, 4)) * along**0.9
    narrow = np.maximum(narrowing(w - 8), 0.15)
    u, v = (np.sign(a) * np.abs(a) ** (2 / 2.4) for a in (np.cos(angle), np.sin(angle)))
    rib = np.stack([side * (CAGE * narrow + 7) * u, (edge * narrow + 7) * v, w], 1)
    sternum = (side * 14, -edge - 7, np.clip(w[-1] + 12, 100, 225))
    return rib, np.stack([rib[-1], (rib[-1] + sternum) / 2 + (0, -3, -2), sternum])


def draw_lungs(scene: Scene) -> np.ndarray:
    """Lay the parenchyma, denser at the back, and the fissures over the image; returns the lung mask."""
    (u, v, w), thorax, rng, grid = scene.lattice, scene.thorax, scene.rng, scene.grid
    hu = rng.uniform(8, 26) * correlated_noise(u.shape, 1.0, rng)
    hu += rng.uniform(-905, -820) + rng.uniform(10, 90) * v / 160
    fissure, gap = rng.uniform(-780, -650), np.float32(rng.uniform(0.5, 1))
    thick = np.float32(rng.uniform(0.15, 0.45))
    fields = thorax.lung_depth(u, v, w), thorax.oblique(u, v, w), thorax.horizontal(u, v, w), u, hu
    lung = np.zeros(grid.shape, bool)
    for slab in grid.slabs():
        depth, oblique, horizontal, left, tissue = (refine(field, grid, scene.step, slab) for field in fields)
        lung[slab] = depth >= 0
        blend(scene.image[slab], tissue, coverage(-depth * np.float32(scene.mm), grid.resolution))
        sheet = np.minimum(np.abs(oblique), np.where((left < 0) & (oblique > 0), np.abs(horizontal), 99))
        share = coverage((sheet - thick) * np.float32(scene.mm), grid.resolution)
        blend(scene.image[slab], fissure, share * (depth > 0) * gap)
    return lung


def correlated_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth white noise by a Gaussian of `sigma` voxels and bring it back to unit variance; float32."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap", truncate=3)
    return noise / noise.std()
