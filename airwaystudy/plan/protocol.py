"""Protocol of a study: its outcomes, its margin and its contrasts of two arms, all fixed before the first run."""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from airwaystudy import home

# Outcomes of a case in percent, in the protocol's order. Convention `paper`: the largest component counts.
OUTCOMES = {
    "td_80": "tree length detected at 80 % precision",
    "td_80_whole": "tree length detected at 80 % precision, without the component rule",
    "td_thin_80": "length of branches under 2.5 mm detected at 80 % precision",
    "bd_80": "branches detected at 80 % precision",
    "td_area": "tree length detected, mean over precisions of 70 to 95 %",
    "td_90": "tree length detected at 90 % precision",
    "td": "tree length detected at probability 0.5",
    "bd": "branches detected at probability 0.5",
    "precision": "precision at probability 0.5",
    "td_wide_80": "length of branches from 2.5 mm detected at 80 % precision",
    "td_thin_80_whole": "length of branches under 2.5 mm detected at 80 % precision, without the component rule",
}
PRIMARY = next(iter(OUTCOMES))
MARGIN = 1.0  # points within which two arms count as equivalent

Names = Annotated[list[str], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)]


class Contrast(BaseModel, extra="forbid", frozen=True):
    """Two arms that differ in one factor, and which of them the claim expects to score higher."""

    arm: str = Field(description="variant that is set against base", examples=["both_general_union"])
    base: str = Field(description="variant that it is paired with, by seed and case", examples=["both_dice"])
    factor: Names = Field(
        min_length=1,
        description="the one setting in which they differ, or the settings that belong to one factor",
        examples=["loss"],
    )
    expect: Literal["greater", "less"] = Field("greater", description="sign of arm minus base by the claim")
    primary: bool = Field(False, description="whether Holm's correction counts it; others are not corrected")
    name: str = Field("", description="short name; empty: ARM - BASE", examples=["loss_at_both"])
    claim: str = Field("", description="what the contrast decides, in words")

    @property
    def title(self) -> str:
        """The name, or the arms if there is none."""
        return self.name or f"{self.arm} - {self.base}"


def contrast_faults(
    contrasts: Collection[Contrast], primary: str | None, arms: Collection[str], version: int | None
) -> list[str]:
    """List what is wrong with a preset's contrasts, given its primary outcome, arms and protocol's version."""
    found = []
    if primary is not None and primary not in OUTCOMES:
        found.append(f"primary: no outcome {primary!r}{home.did_you_mean(primary, OUTCOMES)}")
    if contrasts and primary is None:
        found.append(f"contrasts need a primary outcome: set primary, such as {PRIMARY}")
    if contrasts and version is None:
        found.append("contrasts need a protocol: set its version, such as protocol: 1")
    for contrast in contrasts:
        unknown = [name for name in (contrast.arm, contrast.base) if name not in arms]
        found += [
            f"contrast {contrast.title}: {name!r} is no variant{home.did_you_mean(name, arms)}" for name in unknown
        ]
        if contrast.arm == contrast.base:
            found.append(f"contrast {contrast.title}: arm and base are the same")
    titles = [contrast.title for contrast in contrasts]
    return found + [f"contrast {title} comes twice" for title in sorted({t for t in titles if titles.count(t) > 1})]
