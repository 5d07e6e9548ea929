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

import pandas as pd
from pydantic import BaseModel, Field, ValidationError, model_validator

from airwaylib.errors import InputError
from airwaylib.files import atomic_path

HOME = Path(os.environ.get("AIRWAYLIB_HOME", Path(__file__).resolve().parents[1]))
"""The project's root: every relative path of a configuration starts here, whatever folder a notebook runs in."""

DEFAULT_WEIGHTS = HOME / "data/weights/wingsnet-phantom.safetensors"
VERSIONS_OF = ("torch", "numpy", "scipy", "monai", "lightning-fabric", "zarr")


class PhantomParameters(BaseModel, extra="forbid"):
    """Parameters of 00_phantoms."""

    size: str = Field("mini", description="mini or chest")
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="phantoms to measure, one a seed")
    cts: list[str] = Field([], description="real CTs to compare with; none: published values only")
    airways: list[str] = Field([], description="their airway masks, in the same order")
    masks: list[str] = Field([], description="more real airway masks, for their trees only")
    centreline: str = Field("", description="real airway centreline with radii (.vtu); empty: none")
    study: str = Field("phantoms", description="results go to results/<study>/")

    @model_validator(mode="after")
    def a_mask_for_each_ct(self) -> "PhantomParameters":
        """Refuse CTs without masks, and masks without CTs."""
        if len(self.cts) != len(self.airways):
            raise ValueError(f"{len(self.cts)} cts and {len(self.airways)} airways: each CT needs its airway mask")
        return self


class SegmentParameters(BaseModel, extra="forbid"):
    """Parameters of 06_segment_ct."""

    ct: str = Field("", description="chest CT (file or DICOM folder); empty: a phantom")
    output: str = Field("", description="mask file; empty: results/<study>/segmentations/<CT's name>_airway.nii.gz")
    weights: str = Field("", description="checkpoint; empty: ours, trained on phantoms")
    probability: float | None = Field(
        None, gt=0, lt=1, description="voxels at or above it are airway; null: the weights'"
    )
    device: str = Field("auto", description="auto, cpu or cuda")
    phantom: str = Field("chest_9005", description="synthetic case to segment where no CT is given: size_seed")
    study: str = Field("quick", description="results go to results/<study>/")


class FigureParameters(BaseModel, extra="forbid"):
    """Parameters of 04_figures."""

    study: str = Field("quick", description="results are read from and written to results/<study>/")
    runs: list[str] | None = Field(None, min_length=1, description="runs to compare; null: all that are there")
    baseline: str = Field("final_dice", description="variant that the others are compared with")
    ours: str = Field("both_general_union", description="variant that is shown as the method")
    compared: list[str] | None = Field(
        None, min_length=1, description="variants in figures by diameter and over training; null: all of the study"
    )
    curves: list[str] | None = Field(
        None, min_length=1, description="variants of the precision-TD curves; null: the baseline and ours"
    )


class AblationParameters(BaseModel, extra="forbid"):
    """Parameters of 03_ablations."""

    study: str = Field("quick", description="results are read from and written to results/<study>/")
    runs: list[str] | None = Field(None, min_length=1, description="runs to compare; null: all that are there")
    planned: list[dict[str, Any]] = Field(
        [], description="variants planned: variant, its settings, seeds; none: no plan"
    )


class ExploreParameters(BaseModel, extra="forbid"):
    """Parameters of 05_explore_gradients."""

    study: str = Field("quick", description="results are read from and written to results/<study>/")
    axis: int = Field(1, ge=0, le=2, description="of the still's slice: 0 axial, 1 coronal, 2 sagittal")
    layers: int = Field(5, ge=1, description="layers in the still, evenly spread from the last to the first")
    page_mb: float = Field(15, gt=0, description="the page is smaller than so many MB: what does not fit stays out")


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


def notebook_parameters(names: dict[str, Any], model: type[Model]) -> Model:
    """The notebook's parameters, as the tagged cell and papermill's injected one left them in `names` (its globals()).

    Call it in the cell after the parameters: every plain value defined so far counts as one, so that a misspelt `-p` is
    an error and not a silent default. Their names are kept in `names`, so that the cell can be run again later on.
    """
    plain = (bool, int, float, str, list, dict, type(None))
    of_jupyter = {"In", "Out"}
    found = [k for k, v in names.items() if not k.startswith("_") and k not in of_jupyter and isinstance(v, plain)]
    known = names.setdefault("_parameter_names", found)
    return validated(model, {name: names[name] for name in known if name in names}, "notebook parameters")


def provenance(parameters: BaseModel, **more: Any) -> dict[str, Any]:
    """Where a result comes from: commit, dirty flag, parameters, versions, machine, and `more`."""
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
