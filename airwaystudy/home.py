"""What the notebooks share: paths, strict parameters, provenance."""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError

from airwaylib.errors import InputError
from airwaylib.files import atomic_path

HOME = Path(os.environ.get("AIRWAYLIB_HOME", Path(__file__).resolve().parents[1]))
"""The project's root: every relative path of a configuration starts here, whatever folder a notebook runs in."""


DEFAULT_WEIGHTS = HOME / "airwaylib/inference/weights/wingsnet-phantom.safetensors"
CPU_FILE = Path("/proc/cpuinfo")
VERSIONS_OF = ("torch", "numpy", "scipy", "monai", "lightning-fabric", "zarr")


Model = TypeVar("Model", bound=BaseModel)


def path(relative: str | Path) -> Path:
    """`relative` under the project's root; an absolute path stays as it is."""
    return HOME / relative


def results(study: str) -> Path:
    """The folder of a study's results: results/<study>."""
    return HOME / "results" / study


def require_study(study: str) -> Path:
    """The folder results/<study>; `InputError` names the studies there are if it is none of them."""
    folder = results(study)
    if not study or study.startswith(".") or Path(study).name != study or not folder.is_dir():
        there = sorted(path.name for path in HOME.glob("results/[!.]*") if path.is_dir() and path.name != "reference")
        raise InputError(
            f"{folder}: no such study; there are {', '.join(there) or 'none: run airwaylib reproduce quick'}"
        )
    return folder


def run_folder(study: str, run: str) -> Path:
    """The folder of one training run: results/<study>/runs/<run>."""
    return results(study) / "runs" / run


def validated(model: type[Model], parameters: Mapping[str, Any], source: str) -> Model:
    """`parameters` as a `model`: an unknown name or a value that does not fit is an error that says what is valid.

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


def provenance(parameters: BaseModel, **more: Any) -> dict[str, Any]:
    """Record where a result comes from: commit, dirty flag, parameters, versions, machine, and `more`."""
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "parameters": parameters.model_dump(),
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in VERSIONS_OF},
        "platform": platform.platform(),
        "cpu": cpu(),
        **more,
    }


def cpu() -> dict[str, Any]:
    """Name the processor, the instruction set that torch uses on it, and torch's threads: results depend on all three.

    Keys `name` (empty if unknown), `instructions` (such as "AVX2") and `threads`.
    """
    import torch  # here, since most of what imports this module must start quickly

    try:
        found = re.search(r"^model name\s*:\s*(.+)$", CPU_FILE.read_text(), re.MULTILINE)
    except OSError:  # Linux alone has the file
        found = None
    name = found[1] if found else platform.processor()
    return {"name": name, "instructions": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


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


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table's columns as CSV, numbers to four decimals, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; `InputError` if it cannot be read or is damaged."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); delete it, or what it belongs to") from error


def checksum(*paths: Path) -> str:
    """SHA-256 of files and folders, names and contents, in sorted order."""
    digest = hashlib.sha256()
    for top in paths:
        for file in sorted(p for p in ([top] if top.is_file() else top.rglob("*")) if p.is_file()):
            digest.update(file.relative_to(top.parent).as_posix().encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())  # of one length: no content passes for a name
    return digest.hexdigest()
