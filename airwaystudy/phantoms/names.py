"""Name a phantom by its size and seed, so that it can be made again."""

from dataclasses import dataclass, replace

from airwaystudy.phantoms.drawing import Shape


def is_synthetic(case: str) -> bool:
    """Tell whether a case's name is that of a phantom."""
    return case.startswith(tuple(f"{size}_" for size in SIZES))


@dataclass(frozen=True)
class PhantomSize:
    """Size of a phantom, lengths in mm: a given shape, or an adult in a matrix of 512 x 512."""

    points: int  # that its trees serve
    trachea_radius: tuple[float, float]
    exponent: tuple[float, float]  # of Murray's law in the airways; 3 is the law's, patients' CTs show less
    smallest_airway: float  # radius of the thinnest labelled one, where the scan resolves it
    shape: Shape | None = None  # None: by patient and protocol
    spacing: float | None = None
    stream: int = 0  # of random numbers: two sizes of one stream have the same anatomies


MINI = PhantomSize(14_000, (4.7, 5.3), (2.8, 3.1), smallest_airway=0.93, shape=(128, 128, 128), spacing=1.0)
SIZES = {
    "mini": MINI,
    "chest": PhantomSize(150_000, (6.5, 10.0), (2.3, 2.9), smallest_airway=0.65, stream=1),
    "thin": replace(MINI, smallest_airway=0.75),  # the same images; about twice as many branches are labelled
}


# ----------------------------------------------------------------------------------------------------------------- case


def phantom_name(seed: int, size: str) -> str:
    """Name a case so that it can be made again: mini_0007."""
    return f"{size}_{seed:04d}"


def seed_and_size(name: str) -> tuple[int, str] | None:
    """Seed and size of the phantom called `name`, or None where no phantom can be called so."""
    size, _, seed = name.partition("_")
    return (int(seed), size) if size in SIZES and seed.isdecimal() else None
