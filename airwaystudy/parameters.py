"""Parameters of the notebooks, checked before anything heavy is imported."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, Field, model_validator

from airwaystudy.home import Model, validated


class GradientParameters(BaseModel, extra="forbid", frozen=True):
    """Parameters of 01_gradient_erosion: finished runs, and what of them is measured."""

    study: str = Field("quick", description="results are read from and written to results/<study>/")
    runs: list[str] | None = Field(None, min_length=1, description="runs to measure; null: all that kept snapshots")
    cases: int = Field(4, ge=1, description="test cases, from the first, that crops are measured of")
    crops: int = Field(2, ge=1, description="crops of each of them, as large as those the run was trained on")
    view: int = Field(64, ge=16, multiple_of=8, description="side of the crop kept as gradient maps, voxels")
    branch_cases: int = Field(1, ge=1, description="test cases, from the first, whose branches are measured")
    looked_at: list[int] | None = Field(
        None, min_length=1, description="epochs measured, rising; null: those with a snapshot, 0 before training"
    )

    @model_validator(mode="after")
    def epochs_rise(self) -> "GradientParameters":
        """Refuse epochs out of order, negative or repeated."""
        if self.looked_at and (sorted(set(self.looked_at)) != self.looked_at or self.looked_at[0] < 0):
            raise ValueError(f"looked_at {self.looked_at}: give rising epochs, such as [1, 5]")
        return self


class PhantomParameters(BaseModel, extra="forbid"):
    """Parameters of appendix/phantoms."""

    size: str = Field("mini", description="mini, thin or chest")
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


class IdeaParameters(BaseModel, extra="forbid"):
    """Parameters of 00_idea."""

    study: str = Field("quick", description="results go to results/<study>/")
    radius: float = Field(2.0, gt=0, description="of the tube, voxels")
    layers: int = Field(18, ge=3, description="box filters that the gradient passes")
    ratio: float = Field(2.0, gt=0, description="gradient of an airway voxel over that of a background voxel")


class FigureParameters(BaseModel, extra="forbid"):
    """Variants that the figures of 03_results and 04_exhibits show: what a preset may set under `figures`."""

    baseline: str = Field("final_dice", description="variant that stands beside ours")
    ours: str = Field("both_general_union", description="variant that is shown as the method")
    compared: list[str] | None = Field(
        None, min_length=1, description="variants in figures by diameter and over training; null: all of the study"
    )
    curves: list[str] | None = Field(
        None, min_length=1, description="variants of the precision-TD curves; null: the plainest and the paper's"
    )


class ResultParameters(BaseModel, extra="forbid"):
    """Parameters of 03_results."""

    study: str = Field("quick", description="results are read from and written to results/<study>/")
    runs: list[str] | None = Field(None, min_length=1, description="runs to compare; null: all that are there")
    planned: list[dict[str, Any]] = Field(
        [], description="variants planned: variant, its settings, seeds; none: no plan"
    )
    compared: list[str] | None = Field(None, description="variants scored by diameter; null: all; []: none")
    curves: list[str] | None = Field(
        None, description="variants of the precision-TD curves; null: the plainest and the paper's; []: none"
    )


class ExhibitParameters(BaseModel, extra="forbid"):
    """Parameters of 04_exhibits."""

    study: str = Field("quick", description="results are read from and written to results/<study>/")
    runs: list[str] | None = Field(None, min_length=1, description="runs to compare; null: all that are there")
    baseline: str = FigureParameters.model_fields["baseline"]
    ours: str = FigureParameters.model_fields["ours"]
    compared: list[str] | None = FigureParameters.model_fields["compared"]


class ExploreParameters(BaseModel, extra="forbid"):
    """Parameters of 05_explore_gradients."""

    study: str = Field("quick", description="results are read from and written to results/<study>/")
    axis: int = Field(1, ge=0, le=2, description="of the still's slice: 0 axial, 1 coronal, 2 sagittal")
    layers: int = Field(5, ge=1, description="layers in the still, evenly spread from the last to the first")


class ReportParameters(BaseModel, extra="forbid"):
    """Parameters of report.ipynb."""

    study: str = Field("quick", description="results are read from and written to results/<study>/")


def notebook_parameters(
    names: dict[str, Any], model: type[Model], complete: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> Model:
    """Check a notebook's parameters, as the tagged cell and papermill's injected one left them in `names` (globals()).

    complete: adds what the parameters leave out before they are checked, such as `config.with_cases`.

    Call it in the cell after the parameters: every plain value defined so far counts as one, so that a misspelt `-p` is
    an error and not a silent default. Their names are kept in `names`, so that the cell can be run again later on.
    """
    plain = (bool, int, float, str, list, dict, type(None))
    of_jupyter = {"In", "Out"}
    found = [k for k, v in names.items() if not k.startswith("_") and k not in of_jupyter and isinstance(v, plain)]
    known = names.setdefault("_parameter_names", found)
    given = {name: names[name] for name in known if name in names}
    return validated(model, complete(given), "notebook parameters")
