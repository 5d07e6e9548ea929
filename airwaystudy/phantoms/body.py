"""Draw what surrounds the airways in a synthetic chest CT: body, bones, organs, great vessels, lungs, fissures.

HU values are usual ones, varied from case to case; forms are schematic and our own choice. Lengths are standard mm.
"""

import numpy as np
from scipy import ndimage

from airwaystudy.phantoms.drawing import blend, coverage, refine
from airwaystudy.phantoms.scene import AIR, Scene, join
from airwaystudy.phantoms.thorax import CAGE, HEIGHT, ellipsoid, narrowing

# Axes of the great vessels, standard mm: u to the patient's left, v to the back, w upwards FROM THE CARINA's height.
TOP = 300  # u, v of a vessel that leaves the neck end at this height, whatever the carina's
ASCENDING_AORTA = [(-4, -22, -70), (-16, -20, -25), (-14, -18, 8), (2, -8, 26), (18, 14, 22)]
DESCENDING_AORTA_U = 25  # then straight down, 46 mm before the back of the cage
DESCENDING_AORTA_W = (4, -60)
HEAD_ARTERIES = [  # from the arch, and where they leave at the top (u, v): brachiocephalic, left carotid, subclavian
    ((-10, -14, 30), (-18, -18)),
    ((2, -8, 34), (8, -14)),
    ((12, 4, 32), (22, 0)),
]
PULMONARY_TRUNK = [(16, -42, -48), (16, -30, -22), (10, -20, -16)]
PULMONARY_RIGHT = [(10, -20, -16), (-16, -14, -22), (-34, -8, -30)]
PULMONARY_LEFT = [(14, -20, -14), (36, -2, -16)]
VENA_CAVA = [(-26, -14, -55), (-25, -12, 20), (-22, -18, 60)]
VENA_CAVA_TOP = (-30, -22)
LEFT_BRACHIOCEPHALIC_VEIN = (-22, -20, 48)
LEFT_BRACHIOCEPHALIC_VEIN_TOP = (-14, -34)
LEFT_ATRIUM = [(-16, 8, -48), (20, 10, -46)]

# Bones, standard mm: w upwards from the foot of the scene, u mirrored for the other side.
SPINE = range(-60, 340, 10)  # heights of the chain of vertebral bodies
VERTEBRA = 23  # height of a vertebra with its disc
SPINOUS_PROCESS = [(34, 4), (52, -8)]  # v behind the vertebra's axis, w above its disc
TRANSVERSE_PROCESS = [(8, 30, 9), (32, 42, 12)]  # u to a side, v and w as above
LAMINA = [(13, 16, 9), (0, 36, 3)]
STERNUM_U, STERNUM_W = (-9, 9), (95, 225)
CLAVICLE = [(18, 4, 236), (140, -20, 262)]  # v of the first from the front, of the second from the origin
SCAPULA = [(128, -14, 250), (112, 2, 180), (88, 12, 130), (92, 12, 225), (128, -14, 250)]  # v from the back
RIBS, TRUE_RIBS = 11, 8  # a side; those with cartilage on to the sternum
RADII = {"spine": 17.0, "disc": 3.5, "spinous": 4.5, "transverse": 5.0, "lamina": 4.0, "sternum": 6.0}
RADII |= {"rib": 4.6, "cartilage": 5.0, "clavicle": 6.0, "scapula": 4.5, "canal": 7.0}


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
    thorax, rng, chain = scene.thorax, scene.rng, scene.chain
    heart, blood = thorax.heart_depth(*scene.lattice), rng.normal(42, 6)
    scene.paint(blood, heart)
    if contrast:
        scene.paint(blood + contrast * rng.uniform(0.5, 1), heart - 9)
    arterial, venous = blood + contrast * rng.uniform(0.7, 1), blood + contrast * rng.uniform(0.5, 1.4)
    u, v, carina = map(float, thorax.carina)
    back = float(thorax.depth_v) - 46

    def above_carina(*points: tuple[float, float, float]) -> list[tuple[float, float, float]]:
        return [(u, v, carina + w) for u, v, w in points]

    aorta = above_carina(*ASCENDING_AORTA, *((DESCENDING_AORTA_U, back, w) for w in DESCENDING_AORTA_W))
    aorta += [(14, back + 4, 10), (8, back + 6, -40)]  # towards the midline behind the diaphragm
    heads = [[*above_carina(start), (*end, TOP)] for start, end in HEAD_ARTERIES]
    cava = [*above_carina(*VENA_CAVA), (*VENA_CAVA_TOP, TOP)]
    vein = [(*LEFT_BRACHIOCEPHALIC_VEIN_TOP, TOP), *above_carina(LEFT_BRACHIOCEPHALIC_VEIN)]
    trunk, right, left = (above_carina(*line) for line in (PULMONARY_TRUNK, PULMONARY_RIGHT, PULMONARY_LEFT))
    scene.tubes(arterial, join(chain(aorta, rng.uniform(11, 15)), *(chain(head, rng.uniform(4, 7)) for head in heads)))
    scene.tubes(venous, join(chain(cava, rng.uniform(7, 10)), chain(vein, 6)))
    sides = (chain(side, rng.uniform(8, 11)) for side in (right, left))
    scene.tubes(arterial, join(chain(trunk, rng.uniform(11, 14)), *sides))
    scene.tubes(blood + 0.8 * contrast, chain(above_carina(*LEFT_ATRIUM), 14))
    draw_oesophagus(scene)
    for _ in range(rng.integers(0, 9)):  # lymph nodes
        at = np.array([(u, v - 4, carina)]) + rng.normal(0, (22, 12, 28), (1, 3))
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
    thorax, rng = scene.thorax, scene.rng
    edge = float(thorax.depth_v)
    back, front = edge - 28, -edge - 8  # of the vertebrae's axis, of the sternum's

    def chain(points: list[tuple[float, float, float]], part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return scene.chain(points, RADII[part])

    bones, cartilage, discs = [chain([(0, back, w) for w in SPINE], "spine")], [], []
    for w in np.arange(-40 + rng.uniform(0, VERTEBRA), 330, VERTEBRA):
        discs.append(chain([(0, back, w - 1), (0, back, w + 1)], "disc"))
        bones.append(chain([(0, back + dv, w + dw) for dv, dw in SPINOUS_PROCESS], "spinous"))
        for side in (-1, 1):
            for part, line in (("transverse", TRANSVERSE_PROCESS), ("lamina", LAMINA)):
                bones.append(chain([(side * u, back + dv, w + dw) for u, dv, dw in line], part))
    bones.append(chain([(u, front, w) for u in STERNUM_U for w in STERNUM_W], "sternum"))
    for side in (-1, 1):
        for number in range(RIBS):
            rib, end = rib_line(edge, number, side, rng)
            bones.append(chain(rib, "rib"))
            cartilage += [chain(end, "cartilage")] if number < TRUE_RIBS else []
        (u, v, w), outer = CLAVICLE
        bones.append(chain([(side * u, front + v, w), (side * outer[0], *outer[1:])], "clavicle"))
        bones.append(chain([(side * u, edge + v, w) for u, v, w in SCAPULA], "scapula"))
    start, end, radii = join(*bones)
    shell = rng.uniform(1.0, 1.8) * scene.mm
    scene.tubes(rng.normal(95, 15), join(*cartilage))
    scene.tubes(rng.normal(480, 80), (start, end, radii))
    scene.tubes(rng.normal(170, 40), (start, end, np.maximum(radii - shell, 0.05)))
    scene.tubes(60, join(*discs))
    scene.tubes(25, chain([(0, back + 25, w) for w in SPINE[::4]], "canal"))  # spinal canal


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
