"""Paths of the project, strict parameters, provenance. Imports stay light: parameters are checked before all else."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from airwaylib.errors import InputError
from airwaylib.files import atomic_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

if TYPE_CHECKING:
    import pandas as pd

CHECKOUT = Path(__file__).resolve().parents[1]
INSTALLED = not (CHECKOUT / "study.yaml").is_file()  # by pip, without the study's files

HOME = Path(os.environ.get("AIRWAYLIB_HOME", Path.cwd() if INSTALLED else CHECKOUT))
"""The project's root: every relative path of a configuration starts here, whatever folder a notebook runs in.

AIRWAYLIB_HOME sets it. Without it, the checkout that this package lies in; where pip has installed the package
elsewhere, the current folder.
"""

if str(HOME) not in sys.path:
    sys.path.append(str(HOME))  # a run's loss may be a module of the project's root, `loss: module:function`

IN_CHECKOUT = (HOME / "study.yaml").is_file()
CPU_FILE = Path("/proc/cpuinfo")
CPU_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
VERSIONS_OF = ("torch", "numpy", "scipy", "monai", "lightning-fabric", "zarr")


Model = TypeVar("Model", bound=BaseModel)


def require_checkout(command: str) -> None:
    """Raise InputError unless the project's root holds the study's files: study.yaml, notebooks and so on."""
    if not IN_CHECKOUT:
        raise InputError(
            f"{command} needs the project's checkout (study.yaml, claims.yaml, notebooks), and {HOME} is none: run it "
            "there, or set AIRWAYLIB_HOME to it"
        )


def path(relative: str | Path) -> Path:
    """`relative` under the project's root; an absolute path stays as it is."""
    return HOME / relative


def results(study: str) -> Path:
    """The folder of a study's results: results/<study>."""
    return HOME / "results" / study


def run_folder(study: str, run: str) -> Path:
    """The folder of one training run: results/<study>/runs/<run>."""
    return results(study) / "runs" / run


def known_studies() -> list[str]:
    """List the studies that have runs, gradient maps or tables: folders of results/, by name."""
    folders, parts = (HOME / "results").glob("[!.]*"), ("runs", "gradients", "tables")
    return sorted(folder.name for folder in folders if any((folder / part).is_dir() for part in parts))


def require_study(name: str) -> None:
    """Raise `InputError` unless there is a study `name`; the message names those there are, and the likely one."""
    known = known_studies()
    if name in known:
        return
    if not known:
        raise InputError(f"{results(name)}: no such study, nor any other; train one first: airwaylib reproduce quick")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputError(f"{results(name)}: no such study; there are {', '.join(known)}{hint}")


def validated(model: type[Model], parameters: Mapping[str, Any], source: str) -> Model:
    """Return `parameters` as a `model`; refuse unknown names and values that do not fit.

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
    airwaylib.errors.InputError: size.yaml: no parameter 'widht'; did you mean width?
    """
    try:
        return model.model_validate(parameters)
    except ValidationError as error:
        raise InputError(f"{source}: {'; '.join(fault(entry, model) for entry in error.errors())}") from None


def fault(entry: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Say in plain words what one error of pydantic is about."""
    *above, last = entry["loc"] or ("",)
    name = ".".join(map(str, entry["loc"]))
    if entry["type"] == "extra_forbidden":
        for part in above:  # down to the model that the unknown name stands in
            model = inner_model(model, part) or model
        return f"no parameter {name!r}{did_you_mean(str(last), model.model_fields)}"
    if entry["type"] == "missing":
        return f"{name} is missing"
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"].endswith(("_type", "_parsing", "_from_float")) and (example := example_of(entry["loc"], model)):
        message += f"; write {example}"
    return f"{name} = {entry['input']!r}: {message}" if name else message


def example_of(place: tuple[str | int, ...], model: type[BaseModel]) -> str | None:
    """Return how the field at `place` of a model is written, such as "seeds: [0, 1, 2]"; None if nothing says so."""
    for part in place:
        field = model.model_fields.get(part)
        inner = inner_model(model, part)
        if inner is None or part == place[-1]:
            return f"{part}: {field.examples[0]}" if field is not None and field.examples else None
        model = inner
    return None


def inner_model(model: type[BaseModel], name: str | int) -> type[BaseModel] | None:
    """Return the model that field `name` holds, such as that of `Phantoms | None`; None if it holds none."""
    annotation = model.model_fields[name].annotation if name in model.model_fields else None
    for part in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest valid one, or all of them.

    Examples
    --------
    >>> did_you_mean("epoch", ["crop", "epochs"]), did_you_mean("colour", ["crop", "epochs"])
    ('; did you mean epochs?', ' (valid: crop, epochs)')
    """
    valid = list(valid)
    near = difflib.get_close_matches(name, valid, n=1)
    return f"; did you mean {near[0]}?" if near else f" (valid: {', '.join(valid)})"


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

    Keys `name` (empty if unknown), `instructions` (such as "AVX2"), `threads`, and `environment`: the variables of
    `CPU_LIMITS` that are set. They bound the instructions of torch and of oneDNN.
    """
    import torch  # here, since most of what imports this module must start quickly

    try:
        found = re.search(r"^model name\s*:\s*(.+)$", CPU_FILE.read_text(), re.MULTILINE)
    except OSError:  # Linux alone has the file
        found = None
    return {
        "name": found[1] if found else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "environment": {name: os.environ[name] for name in CPU_LIMITS if name in os.environ},
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


def write_csv(path: str | Path, table: pd.DataFrame, decimals: int = 4) -> None:
    """Write a table's columns as CSV, numbers to `decimals`, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format=f"%.{decimals}f")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; `InputError` if it cannot be read or is damaged."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); delete it, or what it belongs to") from error


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder` within this context.

    The lock is the operating system's (flock) on the file `folder`/.lock: it ends with the process, however that ends.
    The file may stay and does no harm; if nothing else was made, it goes, with the folders made for it. Where the file
    system has no locks, nothing is kept out.

    Raises
    ------
    InputError
        Another process is within; the message names it, its machine and since when.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError:  # whoever writes here will say so
        yield
        return
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InputError(f"{folder}: {holder} is at work here; wait for it, or end it first") from None
        except OSError:  # no locks here
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%Y-%m-%d %H:%M:%S')})\n")
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                if [path.name for path in folder.iterdir()] == [".lock"]:  # nothing was made here
                    (folder / ".lock").unlink()
                    for path in dict.fromkeys((folder, *made)):
                        path.rmdir()


def checksum(*paths: Path) -> str:
    """SHA-256 of files and folders, names and contents, in sorted order."""
    digest = hashlib.sha256()
    for top in paths:
        for file in sorted(p for p in ([top] if top.is_file() else top.rglob("*")) if p.is_file()):
            digest.update(file.relative_to(top.parent).as_posix().encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())  # of one length: no content passes for a name
    return digest.hexdigest()
