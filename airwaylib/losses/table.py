"""Losses by name, and the table of them.

A loss of the user's own is named `module:function` wherever a loss is named. `my_losses:cl_dice` is found in
`my_losses.py` in the current folder, in the project's root, or anywhere on Python's path:

    from monai.losses import SoftclDiceLoss

    def cl_dice(probability, target, weight=None):
        return SoftclDiceLoss()(probability, target)
"""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor

from airwaylib.errors import InputError
from airwaylib.losses import general_union, rivals  # noqa: F401  each loss enters the register where it is defined
from airwaylib.losses.registry import LOSSES, WEIGHTED, defaults


def loss_by_name(name: str, **parameters: float) -> Callable[..., Tensor]:
    """Return a loss with its parameters set: a function (probability, target, weight) -> scalar.

    `name` is one of `LOSSES`, or `module:function` of a Python module in the current folder or on Python's path.

    Raises `InputError`: the name or a parameter is unknown, a value is out of range, or an own loss breaks the
    contract: told here, not at the first step.

    Examples
    --------
    >>> loss_by_name("tversky", alpha=0.5)(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1, 1, 0]))
    tensor(0.1667)
    """
    function = own_loss(name) if ":" in name else LOSSES.get(name)
    if function is None:
        raise InputError(f"loss {name!r} is unknown; known are {', '.join(LOSSES)}, and module:function")
    known = defaults(function)
    if unknown := sorted(set(parameters) - set(known)):
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise InputError(f"loss {name!r} has no parameter {', '.join(unknown)}; {has}")
    chosen = functools.partial(function, **parameters) if parameters else function
    try_out(name, chosen)
    return chosen


def own_loss(name: str) -> Callable[..., Tensor]:
    """Import the loss `module:function`; InputError if there is none that takes three tensors."""
    module, _, function = name.partition(":")
    if not module:
        raise InputError(f"loss {name!r}: write module:function, such as my_losses:cl_dice")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a user's module may raise
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            raise InputError(f"loss {name!r}: no module {module!r} in {here} or on Python's path") from None
        raise InputError(f"loss {name!r}: module {module!r} cannot be imported ({describe(error)})") from error
    if not callable(own := getattr(found, function, None)):
        raise InputError(f"loss {name!r}: {found.__file__ or module} has no function {function!r}")
    try:
        inspect.signature(own).bind(None, None, None)
    except (TypeError, ValueError) as error:
        raise InputError(f"loss {name!r}: must take (probability, target, weight), but {error}") from error
    return own


def try_out(name: str, function: Callable[..., Tensor]) -> None:
    """Evaluate a loss on a small volume; InputError if it fails, gives no scalar or has no gradient."""
    probability = torch.full((1, 1, 16, 16, 16), 0.5, requires_grad=True)
    target = torch.zeros_like(probability, requires_grad=False)
    target[..., 4:12] = 1
    try:
        value = function(probability, target, torch.ones_like(target))
    except InputError:
        raise
    except Exception as error:  # whatever a user's function may raise
        raise InputError(f"loss {name!r}: fails on a small volume ({describe(error)})") from error
    if not isinstance(value, Tensor) or value.ndim != 0:
        kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"loss {name!r}: must return a scalar tensor, but returns {kind}")
    if not value.requires_grad:
        raise InputError(f"loss {name!r}: has no gradient; compute it of the probability with torch's functions")


def describe(error: Exception) -> str:
    """Return an exception's type and message in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def uses_weight(name: str) -> bool:
    """Tell whether a loss gets the weight map: those of `WEIGHTED`, and every own loss, which may ignore it."""
    return name in WEIGHTED or ":" in name


def loss_table() -> pd.DataFrame:
    """Return one row a loss: `name`, `formula`, `ratio`, `parameters` (with defaults), `source`; all text.

    `ratio` is R in the symbols of `losses`; "measured" where it depends on more than the two voxels and the index.

    Examples
    --------
    >>> loss_table().set_index("name").loc["tversky", ["ratio", "parameters"]].tolist()
    ['1/(alpha index) - 1', 'alpha=0.05, smooth=1.0']
    """
    rows = [
        {
            "name": name,
            "formula": function.formula,
            "ratio": ratio_as_text(function),
            "parameters": ", ".join(f"{key}={value}" for key, value in defaults(function).items()),
            "source": function.source,
        }
        for name, function in LOSSES.items()
    ]
    return pd.DataFrame(rows)


def ratio_as_text(function: Callable[..., Tensor]) -> str:
    """Return a loss's R as text: its closed form of symbols in place of numbers."""
    if function.ratio is None:
        return "measured"
    import sympy  # for this table alone

    names = ("p_f", "p_b", "index", "weight", *defaults(function))
    symbols = {name: sympy.Symbol("w" if name == "weight" else name) for name in names}
    return sympy.sstr(function.ratio(SimpleNamespace(**symbols)), order="rev-lex").replace("**", "^").replace("*", " ")
