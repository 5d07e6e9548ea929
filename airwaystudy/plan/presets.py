"""Presets of study.yaml: the training runs of a study (variants by seeds), its data, and what its notebooks show."""

import itertools
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, model_validator

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.data.cases import SPLITS, split_names
from airwaystudy.parameters import FigureParameters, GradientParameters
from airwaystudy.plan.protocol import MARGIN, Contrast, contrast_faults
from airwaystudy.training.config import Recipe

PATH = home.HOME / "study.yaml"
LINKS = ("missed_by", "after")  # settings of a variant that name another one, of the same seed
FIGURES = ("baseline", "ours", "compared", "curves")  # parameters of 03_results and 04_exhibits that a study may set
GRADIENTS = ("cases", "crops", "view", "branch_cases", "looked_at")  # parameters of 01_gradient_erosion, alike
FIXED = ("study", "run", "seed", "data", "start", "stage")  # what the plan itself sets


def as_range(seeds: Any) -> Any:
    """Refuse a number or a list where a range of seeds is due, and say how to write it."""
    ends = [seeds] if isinstance(seeds, int) else seeds
    if isinstance(ends, list) and ends and all(isinstance(seed, int) for seed in ends):
        if sorted(ends) != list(range(min(ends), max(ends) + 1)):
            raise ValueError("a range of seeds without gaps is needed, such as 8-11")
        raise ValueError(f"a range of seeds is text: write {min(ends)}-{max(ends)}")
    return seeds


Range = Annotated[str, BeforeValidator(as_range)]


class Phantoms(BaseModel, extra="forbid", frozen=True):
    """Synthetic cases of a study by their seeds: "0-6" are seven. Examples say what to write, see `home.fault`."""

    size: Literal["mini", "thin", "chest"] = Field(
        "mini", description="mini (128^3 at 1 mm), thin (the same, thinner airways labelled) or chest (an adult)"
    )
    train: Range = Field(description="seeds of the training cases", examples=["0-6"])
    validation: Range = Field("", description="seeds of the cases scored while training", examples=["7-7"])
    test: Range = Field(description="seeds of the held-out cases", examples=["8-11"])

    def names(self, seeds: str) -> list[str]:
        """Return the names of the phantoms of these seeds.

        Examples
        --------
        >>> Phantoms(train="0-1", test="8").names("0-1")
        ['mini_0000', 'mini_0001']
        """
        first, dash, last = seeds.partition("-")
        return (
            [f"{self.size}_{seed:04d}" for seed in range(int(first), int(last if dash else first) + 1)] if seeds else []
        )

    @model_validator(mode="after")
    def seeds_are_ranges(self) -> "Phantoms":
        """Refuse what is no range of seeds."""
        for seeds in (self.train, self.validation, self.test):
            try:
                names = self.names(seeds)
            except ValueError:
                names = []
            if bool(seeds) != bool(names):
                raise ValueError(f"{seeds!r} is no range of seeds: write first-last, such as 0-6")
        return self


class Preset(BaseModel, extra="forbid", frozen=True):
    """A study: the data, the settings of all runs, the variants, their seeds, and what the notebooks look at."""

    study: str = Field(description="results go to results/<study>/", examples=["quick"])
    data: str = Field("data/phantoms", description="folder of airwaylib prepare", examples=["data/phantoms"])
    phantoms: Phantoms | None = Field(
        None,
        description="phantoms to make; null: the cases of DATA/cases.csv",
        examples=["{size: mini, train: 0-6, test: 8-11}"],
    )
    seeds: list[int] = Field(min_length=1, description="a run each, of every variant", examples=["[0, 1, 2]"])
    threads: int = Field(
        1, ge=1, description="CPU cores of a run; as many runs as fit train side by side", examples=["1"]
    )
    gpus: int = Field(0, ge=0, description="GPUs of a run; 0: none is needed", examples=["1"])
    settings: dict[str, Any] = Field(
        {}, description="settings of every run that differ from the defaults", examples=["{epochs: 5}"]
    )
    variants: dict[str, dict[str, Any]] = Field(
        min_length=1, description="settings of each variant, by name", examples=["{both_dice: {loss: dice}}"]
    )
    cross: list[dict[str, dict[str, Any]]] = Field(
        [],
        description="factors, each its levels' settings by name: every combination is a variant, too",
        examples=["[{both: {supervision: both}, final: {supervision: final}}]"],
    )
    gradients: dict[str, Any] | None = Field(
        None,
        description="for 01_gradient_erosion: variants (default: all), cases, crops, view, branch_cases, looked_at; "
        "null: left out",
        examples=["{view: 64}"],
    )
    figures: dict[str, Any] = Field(
        {},
        description="variants that figures show: baseline, ours, compared, curves",
        examples=["{baseline: both_dice}"],
    )

    @model_validator(mode="before")
    @classmethod
    def with_crossed_variants(cls, values: Any) -> Any:
        """Add the variants that `cross` stands for, behind those that are named."""
        try:
            return values | {"variants": all_variants(values)}
        except (AttributeError, TypeError, ValueError):  # a part of another type, which its field refuses
            return values

    @model_validator(mode="after")
    def runs_are_valid(self) -> "Preset":
        """Refuse variants with unknown settings or links, and figures of variants that are not there."""
        for variant in self.variants:
            changes = self.changes(variant)
            for name in FIXED:
                if name in changes:
                    raise ValueError(f"{variant}: {name} is set by the study; leave it out")
            for link in LINKS:
                if changes.get(link) is not None and changes[link] not in self.variants:
                    raise ValueError(f"{variant}: {link} {changes[link]!r} is no variant of the study")
        if unknown := sorted(set(self.figures) - set(FIGURES)):
            raise ValueError(f"figures: no setting {unknown[0]!r}{home.did_you_mean(unknown[0], FIGURES)}")
        home.validated(FigureParameters, self.figures, "figures")
        for named in self.figures.values():
            for name in [named] if isinstance(named, str) else named or []:
                if name not in self.variants:
                    raise ValueError(f"figures: {name!r} is no variant of the study")
        self.settings_by_run()
        self.refuse_gradients_of_nothing()
        return self

    def refuse_gradients_of_nothing(self) -> None:
        """Raise ValueError for a fault in `gradients`: an unknown setting or variant, or one that keeps no weights."""
        if self.gradients is None:
            return
        given = {name: value for name, value in self.gradients.items() if name != "variants"}
        if unknown := sorted(set(given) - set(GRADIENTS)):
            raise ValueError(f"gradients: no setting {unknown[0]!r}; there are variants, {', '.join(GRADIENTS)}")
        home.validated(GradientParameters, given, "gradients")
        for name in self.measured_variants:
            if name not in self.variants:
                raise ValueError(f"gradients: {name!r} is no variant of the study")
            if not self.changes(name).get("snapshots"):
                raise ValueError(f"gradients: {name} keeps no weights; set its snapshots, such as [1, 5]")

    @property
    def measured_variants(self) -> list[str]:
        """Variants that 01_gradient_erosion measures."""
        return (self.gradients or {}).get("variants") or list(self.variants)

    def changes(self, variant: str) -> dict[str, Any]:
        """Return the settings of a variant that differ from the defaults."""
        return self.settings | self.variants[variant]

    def settings_by_run(self) -> dict[str, dict[str, Any]]:
        """Return every setting of every run, by its name: all variants of the first seed, then of the next."""
        shared = {"study": self.study, "data": self.data}
        shared |= {f"{part}_cases": names for part, names in self.cases().items()}
        runs = {}
        for seed in self.seeds:
            for variant in self.variants:
                settings = shared | self.changes(variant) | {"run": f"{variant}_{seed}", "seed": seed}
                if (former := settings.pop("after", None)) is not None:
                    settings["start"] = f"results/{self.study}/runs/{former}_{seed}/checkpoint.safetensors"
                    settings["stage"] = self.stages_before(variant)
                if settings.get("missed_by") is not None:
                    settings["missed_by"] = f"{settings['missed_by']}_{seed}"
                run = home.validated(Recipe, settings, settings["run"])
                runs[run.run] = run.model_dump()
        return runs

    def stages_before(self, variant: str) -> int:
        """Count the stages of training that a variant's runs build on."""
        number, chain = 0, [variant]
        while (former := self.changes(chain[-1]).get("after")) is not None:
            if former in chain:
                raise ValueError(f"{variant}: after {former!r} comes back to itself")
            number += max(1, len(self.changes(former).get("stages", {})))
            chain.append(former)
        return number

    def scored_runs(self) -> list[str]:
        """Return the runs with test cases; the others are only built on."""
        return [run for run, settings in self.settings_by_run().items() if settings["test_cases"]]

    def result(self, run: str) -> str:
        """Return the file, from the project's root, that stands once a run is done: scores, if it has test cases."""
        variant = run.rpartition("_")[0]
        tested = self.changes(variant).get("test_cases", True)
        return f"results/{self.study}/runs/{run}/{'scores.csv' if tested else 'summary.json'}"

    def cases(self) -> dict[str, list[str]]:
        """Return the names of the cases by split: the phantoms', or those of DATA/cases.csv."""
        if self.phantoms is not None:
            return {part: self.phantoms.names(getattr(self.phantoms, part)) for part in SPLITS}
        if (names := split_names(home.path(self.data))) is None:
            raise ValueError(f"{self.data}: no cases.csv; make it with airwaylib prepare, or name phantoms")
        return names

    def needed(self, run: str) -> list[str]:
        """Return the runs that must be done before `run`."""
        variant, _, seed = run.rpartition("_")
        named = {self.changes(variant).get(link) for link in LINKS}
        return [f"{other}_{seed}" for other in sorted(named - {None})]

    def gradient_parameters(self, done: Collection[str]) -> dict[str, Any] | None:
        """Parameters of 01_gradient_erosion for the runs that are `done`, seed by seed; None if there are none."""
        runs = [f"{variant}_{seed}" for seed in self.seeds for variant in self.measured_variants]
        runs = [run for run in runs if run in done]
        if self.gradients is None or not runs:
            return None
        chosen = {name: value for name, value in self.gradients.items() if name != "variants"}
        return chosen | {"study": self.study, "runs": runs}

    def figure_parameters(self, done: Collection[str]) -> dict[str, Any]:
        """Choose the variants that figures show among those with a run that is `done`."""
        there = [name for name in self.variants if any(f"{name}_{seed}" in done for seed in self.seeds)]
        if not there:
            return {}
        wanted = FigureParameters(**self.figures)
        found = {name: [one for one in getattr(wanted, name) or [] if one in there] for name in ("compared", "curves")}
        found |= {"baseline": wanted.baseline if wanted.baseline in there else there[0]}
        found |= {"ours": wanted.ours if wanted.ours in there else there[-1]}
        return {name: chosen for name, chosen in found.items() if chosen}

    # The protocol: see airwaystudy.plan.protocol.
    protocol: int | None = Field(
        None, ge=1, description="version of docs/protocol.md that the study keeps to; null: none", examples=["1"]
    )
    reference: str | None = Field(
        None,
        description="study under results/reference/ that the report lays this one beside; null: none",
        examples=["decide"],
    )
    contrasts: list[Contrast] = Field(
        [],
        description="pairs of variants that the study decides on",
        examples=["[{arm: both_general_union, base: both_dice, factor: loss, primary: true}]"],
    )
    primary: str | None = Field(None, description="outcome that decides the contrasts", examples=["td_80"])
    margin: float = Field(MARGIN, gt=0, description="points within which two arms count as equivalent")

    @model_validator(mode="after")
    def contrasts_are_valid(self) -> "Preset":
        """Refuse contrasts of variants that are not there, or without a known primary outcome."""
        if wrong := contrast_faults(self.contrasts, self.primary, self.variants, self.protocol):
            raise ValueError("; ".join(wrong))
        return self


def all_variants(preset: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the variants of a preset of study.yaml: those named there, then the combinations of `cross`.

    A combination's name joins the names of its levels, empty ones left out. A variant named there keeps its settings.

    Examples
    --------
    >>> losses, samplings = {"dice": {"loss": "dice"}}, {"": {}, "uniform": {"sampling": "uniform"}}
    >>> all_variants({"variants": {"dice": {"loss": "dice", "alpha": None}}, "cross": [losses, samplings]})
    {'dice': {'loss': 'dice', 'alpha': None}, 'dice_uniform': {'loss': 'dice', 'sampling': 'uniform'}}
    """
    found, factors = dict(preset.get("variants") or {}), preset.get("cross") or []
    for levels in itertools.product(*(factor.items() for factor in factors)) if factors else ():
        name = "_".join(level for level, _ in levels if level)
        found.setdefault(name, {key: value for _, settings in levels for key, value in settings.items()})
    return found


def planned_variants(name: str, path: Path = PATH) -> list[dict[str, Any]]:
    """Return the variants of preset `name`, then those that only other presets have, with their settings.

    With these 03_results tells what was not run.
    """
    presets, found = read_presets(path), {}
    for preset in (name, *presets):
        try:
            shared = {"preset": preset} | presets[preset].get("settings", {})
            for variant, changes in all_variants(presets[preset]).items():
                found.setdefault(variant, {"variant": variant, **shared, **changes})
        except (AttributeError, TypeError, ValueError):
            read_preset(preset, path)  # says in one line what is wrong
            raise
    return list(found.values())


def read_preset(name: str, path: Path = PATH) -> Preset:
    """Read preset `name` of a study.yaml.

    Raises
    ------
    InputError
        No such preset (the message lists those there are), or one with a fault.
    """
    presets = read_presets(path)
    if name not in presets:
        raise InputError(f"{path}: no preset {name!r}: choose one of {', '.join(presets)}")
    if not isinstance(presets[name], dict):
        raise InputError(
            f"{path.name}, {name}: {presets[name]!r} is no preset: write its settings, one 'key: value' a line"
        )
    return home.validated(Preset, {"study": name} | presets[name], f"{path.name}, {name}")


def find_preset(name: str, path: Path = PATH) -> Preset | None:
    """Read preset `name`; None if study.yaml is not there or has none of that name."""
    return read_preset(name, path) if path.is_file() and name in read_presets(path) else None


def read_presets(path: Path) -> dict[str, dict[str, Any]]:
    """Read the presets of a study.yaml by name, as they stand there."""
    try:
        presets = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: no readable YAML ({' '.join(str(error).split())})") from error
    if not isinstance(presets, dict):
        raise InputError(f"{path}: no presets in it")
    return presets
