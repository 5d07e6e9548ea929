"""Register losses by name: formula, source and gradient ratio stand once, in the decorator `loss`."""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch import Tensor

LOSSES: dict[str, Callable[..., Tensor]] = {}
WEIGHTED: set[str] = set()  # names of the losses that use `weight`


def loss(
    name: str,
    *,
    formula: str,
    source: str,
    ratio: Callable[[SimpleNamespace], Any] | None = None,
    weighted: bool = False,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Enter the decorated function into `LOSSES`.

    Parameters
    ----------
    name : str
        The loss's name in settings and tables.
    formula, source : str
        The loss in the symbols of `losses`; who published it.
    ratio : callable, optional
        R in closed form, of an object with `p_f`, `p_b`, `index`, `weight` and the loss's own parameters. None: R
        depends on more than these.
    weighted : bool
        Whether the loss uses `weight`.
    """

    def enter(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        function.formula, function.source, function.ratio = formula, source, ratio
        LOSSES[name] = function
        if weighted:
            WEIGHTED.add(name)
        return function

    return enter


def defaults(function: Callable[..., Tensor]) -> dict[str, Any]:
    """Return a loss's parameters with their defaults, in order."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
