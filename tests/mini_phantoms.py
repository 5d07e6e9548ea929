"""Mini phantoms in memory, each made once in a process; nobody changes them. conftest has their files."""

from functools import cache

from airwaystudy.phantoms.case import Phantom, make_phantom


@cache
def mini(seed: int = 0) -> Phantom:
    """The phantom mini_<seed>."""
    return make_phantom(seed, "mini")
