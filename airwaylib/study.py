"""What the notebooks share: paths, strict parameters, provenance."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from airwaylib.errors import InputError
from airwaylib.files import atomic_path

HOME = Path(os.environ.get("AIRWAYLIB_HOME", Path(__file__).resolve().parents[1]))
"""The project's root: every relative path of a configuration starts here, whatever folder a notebook runs in."""

DEFAULT_WEIGHTS = HOME / "data/weights/wingsnet-phantom.safetensors"
VERSIONS_OF = ("torch", "numpy", "scipy", "monai", "lightning-fabric", "zarr")

Model = TypeVar("Model", bound=BaseModel)


def path(relative: str | Path) -> Path:
    """`relative` under the project's root; an absolute path stays as it is."""
    return HOME / relative


def results(study: str) -> Path:
    """The folder of a study's results: results/<study>."""
    return HOME / "results" / study


def run_folder(study: str, run: str) -> Path:
    """The folder of one training run: results/<study>/runs/<run>."""
    return results(study) / "runs" / run


def validated(model: type[Model], parameters: Mapping[str, Any], source: str) -> Model:
    """`parameters` as a `model`, strictly: an unknown name or an ill-typed value is an error that says what is valid.

    source: where the parameters come from, for the message.

    Raises
    ------
    InputError
        One line that names every fault.

    Examples
    --------
    >>> class Size(BaseModel):
    ...     model_config = {"extra": "forbid"}
    ...     width: int = 8
    >>> validated(Size, {"widht": 4}, "size.yaml")
    Traceback (most recent call last):
    airwaylib.errors.InputError: size.yaml: no parameter 'widht' (valid: width)
    """
    try:
        return model.model_validate(parameters)
    except ValidationError as error:
        raise InputError(f"{source}: {'; '.join(fault(entry, model) for entry in error.errors())}") from None


def fault(entry: Mapping[str, Any], model: type[BaseModel]) -> str:
    """One pydantic error in plain words."""
    name = ".".join(map(str, entry["loc"]))
    if entry["type"] == "extra_forbidden":
        return f"no parameter {name!r} (valid: {', '.join(model.model_fields)})"
    message = entry["msg"].removeprefix("Value error, ")
    return f"{name} = {entry['input']!r}: {message}" if name else message


def notebook_parameters(names: Mapping[str, Any], model: type[Model]) -> Model:
    """The notebook's parameters, as the tagged cell and papermill's injected one left them in `names` (its globals()).

    Call it in the cell after the parameters: every plain value defined so far counts as one, so that a misspelt `-p` is an
    error and not a silent default.
    """
    plain = (bool, int, float, str, list, dict, type(None))
    of_jupyter = {"In", "Out"}
    parameters = {
        k: v for k, v in names.items() if not k.startswith("_") and k not in of_jupyter and isinstance(v, plain)
    }
    return validated(model, parameters, "notebook parameters")


def provenance(parameters: BaseModel, **more: Any) -> dict[str, Any]:
    """Where a result comes from: commit, dirty flag, parameters, versions, machine, and `more` (seed, device, wall time...)."""
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "parameters": parameters.model_dump(),
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in VERSIONS_OF},
        "platform": platform.platform(),
        **more,
    }


def git(*arguments: str) -> str | None:
    """Output of a git command in the project's root; None outside a checkout."""
    try:
        done = subprocess.run(["git", *arguments], cwd=HOME, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file."""
    return json.loads(Path(path).read_text())


def checksum(*paths: Path) -> str:
    """SHA-256 of files and folders, names and contents, in sorted order."""
    digest = hashlib.sha256()
    for top in paths:
        for file in sorted(p for p in ([top] if top.is_file() else top.rglob("*")) if p.is_file()):
            digest.update(str(file.relative_to(top.parent)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
