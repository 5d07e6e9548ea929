"""Shape a synthetic thorax for each case: lungs and lobes, chest wall, mediastinum, diaphragm and landmarks.

Everything is laid out once, in a standard adult of 260 mm from the lungs' base to their apex, and moved to a case's
own position, size and proportions; a smooth random warp makes no two alike. Standard coordinates are mm: u to the
patient's left and v to the back, from the middle of the cage; w up, from the base. Proportions are our own choice.
"""

from dataclasses import dataclass

import numpy as np

from airwaystudy.phantoms.drawing import Grid

HEIGHT = 260.0  # mm of the standard lungs
CAGE = 130.0  # mm, half the inner width of the standard rib cage
LOBES = ("right upper", "right middle", "right lower", "left upper", "left lower")
Axes = tuple[np.ndarray, np.ndarray, np.ndarray]


def ellipsoid(u: np.ndarray, v: np.ndarray, w: np.ndarray, centre: np.ndarray, semi: np.ndarray) -> np.ndarray:
    """Depth in an ellipsoid in mm, to first order; negative outside."""
    squares = (((a - c) / s) ** 2 for a, c, s in zip((u, v, w), centre, semi, strict=True))
    return (1 - np.sqrt(sum(squares))) * np.float32(min(semi))


def oval(u: np.ndarray, v: np.ndarray, semi_u: float, semi_v: float) -> np.ndarray:
    """Measure how far out a point is in a rounded rectangle, such as a chest's section: 1 on its border."""
    return (np.abs(u / semi_u) ** 2.4 + np.abs(v / semi_v) ** 2.4) ** np.float32(1 / 2.4)


def narrowing(w: np.ndarray) -> np.ndarray:
    """Width of the rib cage at height w, relative to its widest."""
    return np.sqrt(np.clip(1 - (np.clip(w - 105, 0, None) / (HEIGHT - 103)) ** 2, 0, 1))


def swell(at: np.ndarray, centre: float, width: float) -> np.ndarray:
    """A bump of height 1."""
    return np.exp(-(((at - centre) / width) ** 2))


@dataclass(frozen=True)
class Thorax:
    """One case's thorax. Lengths are standard mm unless they say otherwise."""

    scale: np.ndarray  # mm of the case to a standard mm along u, v, w
    origin: np.ndarray  # x, y, z in mm of the case, where u = v = w = 0
    waves: np.ndarray  # (4, 7): amplitude (3), wave vector (3), phase of each wave of the warp
    depth_v: float  # half the inner depth of the cage
    fat: float  # thickness under the skin
    muscle: float  # thickness around the cage
    breasts: float  # how far they stand out; 0: none
    mediastinum: float  # least half width
    heart: np.ndarray  # centre (3), semi-axes (3)
    domes: np.ndarray  # height of the right and left half of the diaphragm
    fissures: np.ndarray  # height of the oblique ones (right, left) and of the horizontal one
    carina: np.ndarray  # u, v, w

    @classmethod
    def random(cls, grid: Grid, size: float, trachea_radius: float, rng: np.random.Generator) -> "Thorax":
        """Draw a thorax of `size` (1: an average adult) for an image on `grid`, whose height the lungs nearly fill."""
        high = grid.extent[2] * rng.uniform(0.86, 0.94)
        scale = np.array([size, size, high / HEIGHT])
        middle = grid.extent[:2] / 2 + size * rng.normal(0, 6, 2)
        origin = np.array([*middle, (grid.extent[2] - high) * rng.uniform(0.3, 0.7)])
        lengths = rng.uniform(90, 220, (4, 1))
        vectors = rng.normal(size=(4, 3))
        vectors *= 2 * np.pi / lengths / np.linalg.norm(vectors, axis=1, keepdims=True)
        waves = np.hstack([rng.normal(0, 1, (4, 3)) * lengths * 0.012, vectors, rng.uniform(0, 6.28, (4, 1))])
        depth_v = rng.uniform(80, 104)
        domes = rng.uniform(45, 85) - np.array([0, rng.uniform(3, 22)])
        heart = [rng.uniform(16, 28), -0.36 * depth_v, rng.uniform(56, 74), *rng.uniform([54, 42, 42], [72, 54, 54])]
        numbers = {
            "scale": scale,
            "origin": origin,
            "waves": waves,
            "depth_v": depth_v,
            "fat": rng.gamma(3, 5) + 2,
            "muscle": rng.uniform(13, 24),
            "breasts": rng.uniform(10, 40) * (rng.random() < 0.45),
            "mediastinum": max(rng.uniform(12, 19), (1.45 * trachea_radius + 1.5) / size),
            "heart": np.array(heart),
            "domes": domes,
            "fissures": np.array([*rng.uniform(92, 112, 2), rng.uniform(118, 140)]),
            "carina": np.array([rng.normal(-2, 3), rng.uniform(4, 16), rng.uniform(148, 172)]),
        }
        return cls(**{name: np.float32(number) for name, number in numbers.items()})

    def standard(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Axes:
        """Standard coordinates u, v, w of points in mm; broadcasts."""
        point = [(a - o) / s for a, o, s in zip((x, y, z), self.origin, self.scale, strict=True)]
        sines = [np.sin(sum(k * a for k, a in zip(wave[3:6], point, strict=True)) + wave[6]) for wave in self.waves]
        shifts = (sum(a * sine for a, sine in zip(self.waves[:, i], sines, strict=True)) for i in range(3))
        return tuple(axis + shift for axis, shift in zip(point, shifts, strict=True))

    def place(self, points: np.ndarray) -> np.ndarray:
        """The points in mm (N, 3) whose standard coordinates are `points` (N, 3), to a tenth of a mm or so."""
        points = np.asarray(points, float)
        found = points
        for _ in range(8):
            found = found + points - np.stack(self.standard(*(self.origin + found * self.scale).T), 1)
        return self.origin + found * self.scale

    # Surfaces: depths in standard mm of points in standard coordinates, negative outside, to first order; broadcast.

    def body_depth(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Depth under the skin."""
        wall = self.fat + self.muscle
        shoulders = 1 + 0.22 / (1 + np.exp(-(w - 236) / 12))
        depth = (1 - oval(u, v, (CAGE + wall) * shoulders, self.depth_v + wall)) * (self.depth_v + wall)
        if self.breasts:
            centre = (68, -(self.depth_v + wall) + 6, 100)
            depth = np.maximum(depth, ellipsoid(np.abs(u), v, w, centre, (56, self.breasts + 6, 58)))
        return depth

    def cage_depth(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Depth within the rib cage, which narrows to the apex of the lungs and stays open below."""
        return (narrowing(w) - oval(u, v, CAGE, self.depth_v)) * self.depth_v

    def dome_depth(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Depth below the diaphragm."""
        right, left = (np.exp(-((u - c) ** 2 + (v + 8) ** 2) / 66**2) for c in (-62, 62))
        return np.maximum(self.domes[0] * right, self.domes[1] * left) - w

    def heart_depth(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Depth in the heart."""
        return ellipsoid(u, v, w, self.heart[:3], self.heart[3:])

    def lung_depth(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Depth inside the nearer lung."""
        vessels = 11 * swell(w, 190, 28) + 9 * swell(w, 140, 24)  # arch of the aorta, hila
        front = 0.45 + 0.55 / (1 + np.exp(-(v + 0.5 * self.depth_v) / 8))
        medial = np.abs(u) - np.maximum((self.mediastinum + vessels) * front, 7)
        spine = np.hypot(u, v - (self.depth_v - 28)) - 25
        aorta = np.where(w < 190, np.hypot(u - 25, v - (self.depth_v - 46)) - 16, 99)
        heart = -ellipsoid(u, v, w, self.heart[:3], self.heart[3:] + 3)
        inside = np.minimum(np.minimum(medial, spine), np.minimum(aorta, heart))
        return np.minimum(inside, np.minimum(self.cage_depth(u, v, w), -self.dome_depth(u, v, w)))

    def oblique(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Distance above the oblique fissure of the nearer lung."""
        height = np.where(u < 0, self.fissures[0], self.fissures[1]) + v + 7 * np.sin(u / 35)
        return (w - height) * np.float32(0.7)

    def horizontal(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Distance above the horizontal fissure of the right lung."""
        return w - self.fissures[2] + 0.2 * (v + 40) + 4 * np.sin(u / 25)

    def holds(self, point: np.ndarray) -> bool:
        """Tell whether a point (x, y, z in mm of the case) lies in a lung, 1 mm or more under the pleura."""
        return bool(self.lung_depth(*self.standard(*point)) > 1)

    def lobe(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Number of the lobe in LOBES that each point of a lung lies in."""
        lower = self.oblique(u, v, w) < 0
        middle = self.horizontal(u, v, w) < 0
        return np.where(u > 0, np.where(lower, 4, 3), np.where(lower, 2, np.where(middle, 1, 0)))

    def fill(self, count: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Spread `count` points over the lungs, 2 mm under the pleura: (n, 3) in mm of the case for each of LOBES."""
        low, high = [-CAGE, -self.depth_v, 0], [CAGE, self.depth_v, HEIGHT]
        points = np.zeros((0, 3))
        while len(points) < count:
            more = rng.uniform(low, high, (3 * count, 3))
            points = np.concatenate([points, more[self.lung_depth(*more.T) > 2]])[:count]
        lobe = self.lobe(*points.T)
        return [self.place(points[lobe == number]) for number in range(len(LOBES))]
