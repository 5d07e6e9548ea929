"""Settings of a training run as one flat model, and recipes of several runs: unknown settings are errors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.data.cases import SPLITS, split_names


class TrainConfig(BaseModel, extra="forbid", frozen=True):
    """Settings of one run. Paths start at the project's root."""

    study: str = Field("quick", description="results go to results/<study>/")
    run: str = Field("both_general_union", description="name of the run, a folder under results/<study>/runs/")
    data: str = Field("data/phantoms", description="folder of airwaylib prepare: prepared/CASE.zarr, cases.csv")
    train_cases: list[str] = Field(["mini_0000"], min_length=1, description="names of the training cases")
    validation_cases: list[str] = Field([], description="names of the cases scored during training")
    test_cases: list[str] = Field([], description="names of the held-out cases, segmented and scored at the end")

    network: str = Field("wingsnet", description="network by name, see networks.NETWORKS")
    width: int = Field(8, ge=1, description="channels of the network's first block")
    supervision: Literal["both", "decoder", "deep", "final"] = Field("both", description="which outputs are supervised")
    dropout: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="channel dropout of WingsNet, the same for every supervision; others have their own",
    )
    loss: str = Field("general_union", description="loss by name, or module:function; see losses.table")
    alpha: float | None = Field(
        None, ge=0, le=0.5, description="weight of the loss's false positives; null: the loss's default"
    )
    root: float | None = Field(
        None, gt=0, le=1, description="exponent of p in the loss's overlap, 1 for none; null: the loss's default"
    )
    encoder_weight: float = Field(
        1.0, ge=0, description="lambda of the encoder group's loss; unpublished, 1 is our choice"
    )
    airway_gain: float = Field(
        1.0, gt=0, description="factor on the loss's gradient at the logits of airway voxels (ours; 1: none)"
    )
    start: str | None = Field(
        None, description="checkpoint to start from, such as the last stage's; null: random weights"
    )

    stage: int = Field(0, ge=0, description="number of stages before this one: each draws crops and dropout of its own")

    crop: int = Field(128, ge=16, multiple_of=8, description="side of a training crop in voxels")
    crops_per_case: int = Field(16, ge=1, description="crops a case per epoch")
    batch_size: int = Field(1, ge=1, description="crops a step")
    sampling: Literal["uniform", "small_airway", "centreline", "hard_skeleton"] = Field(
        "centreline",
        description="uniform: anywhere; small_airway: around small airways; centreline: half of these, half around "
        "centrelines; hard_skeleton: half of these, half around what an earlier run missed (the paper's)",
    )
    missed_by: str | None = Field(
        None, description="run of this study; hard_skeleton sampling draws the centreline voxels that it missed"
    )
    large_airways: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of crops around large airways (ours; small crops hardly show a trachea)",
    )
    rotation: float = Field(15.0, ge=0, le=180, description="largest rotation of a crop in degrees")
    augment: bool = Field(
        False, description="mirror and zoom crops and change their intensities (ours; the paper only rotates)"
    )
    label_threshold: float = Field(
        0.7, gt=0, lt=1, description="threshold of the rotated label: 0.7 in stage 1, 0.9 in stage 2"
    )
    thin_label_threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="label_threshold of airways one voxel wide, from where it rises to its full value at four voxels "
        "(ours); null: the same for all",
    )
    spacing: float | None = Field(
        None, gt=0, description="voxel size to resample a CT to before segmenting, mm; null: its own grid"
    )

    window: int | None = Field(
        None, ge=16, description="side of the sliding window when a case is segmented, voxels; null: crop (the paper's)"
    )

    epochs: int = Field(100, ge=1, description="passes over the training cases")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with momentum 0.9")
    learning_rate: float = Field(1e-3, gt=0, description="highest learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay")
    gradient_clip: float | None = Field(None, gt=0, description="clip gradients to this norm; null: no clipping")
    schedule: Literal["cosine", "steps"] = Field(
        "cosine", description="cosine to 0 after a warm-up, or the paper's steps"
    )
    milestones: list[int] = Field([60, 90], description="epochs after which `steps` divides the learning rate by 10")
    probe_every: int | None = Field(
        None,
        ge=1,
        description="steps between probes of the gradients (a probe takes as long as two steps); null: none",
    )
    snapshots: list[int] = Field([], description="keep the weights after these epochs; 0: before training")
    validate_every: int = Field(5, ge=1, description="epochs between validations; the last epoch is always validated")
    patience: int | None = Field(
        None, ge=1, description="stop after this many validations without improvement; null: never"
    )
    test_with: Literal["last", "best"] = Field(
        "last", description="checkpoint that segments the test cases: the last, or the best by validation"
    )

    seed: int = Field(0, ge=0, description="seed of weights, crops and channel dropout")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if there is one, else cpu")
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        "auto", description="auto: bf16 autocast if the device computes it fast"
    )
    devices: int = Field(
        1, ge=1, description="devices that share each step, with batch_size crops each; on a CPU, processes"
    )
    workers: int = Field(0, ge=0, description="processes that draw crops; 0 draws them in the training process")
    memory: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="GB of decoded cases to hold in memory; null: 1, or half of a GPU's free memory",
    )
    deterministic: bool = Field(
        False, description="bit-for-bit repeatable on a GPU, at some cost in speed (on a CPU it always is)"
    )

    @field_validator("train_cases", "validation_cases", "test_cases")
    @classmethod
    def case_names(cls, names: list[str]) -> list[str]:
        """Refuse names with slashes: stores and masks are files of these names."""
        if bad := [name for name in names if not name or Path(name).name != name]:
            raise ValueError(f"{bad[0]!r} is no name of a case: give plain names without slashes")
        return names

    @field_validator("study", "run")
    @classmethod
    def folder_name(cls, name: str) -> str:
        """Refuse names with slashes: results must not land elsewhere."""
        if not name or Path(name).name != name or name.startswith("."):
            raise ValueError("give a plain folder name without slashes")
        return name

    @property
    def folder(self) -> Path:
        """results/<study>/runs/<run>."""
        return home.run_folder(self.study, self.run)

    @model_validator(mode="after")
    def cases_apart(self) -> "TrainConfig":
        """Refuse a case in two lists: a score on a training case says nothing."""
        cases = self.cases
        twice = sorted({case for case in cases if cases.count(case) > 1})
        if twice:
            raise ValueError(f"cases named twice among train, validation and test: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def settings_that_need_each_other(self) -> "TrainConfig":
        """Refuse settings that do nothing without another."""
        if (self.sampling == "hard_skeleton") != (self.missed_by is not None):
            raise ValueError("sampling hard_skeleton and missed_by need each other: name the run that misses")
        if self.schedule == "steps" and any(not 0 < end < self.epochs for end in self.milestones):
            raise ValueError(f"milestones {self.milestones}: each must lie between 0 and the epochs, {self.epochs}")
        if any(not 0 <= epoch <= self.epochs for epoch in self.snapshots):
            raise ValueError(f"snapshots {self.snapshots}: each must be an epoch from 0 to {self.epochs}")
        if not self.validation_cases and (self.patience is not None or self.test_with == "best"):
            raise ValueError("patience and test_with best need validation_cases to tell which epoch is best")
        return self

    @property
    def side(self) -> int:
        """Side of the sliding window when a case is segmented, voxels."""
        return self.crop if self.window is None else self.window

    @property
    def loss_parameters(self) -> dict[str, float]:
        """Parameters of the loss that differ from its defaults, for `losses.table.loss_by_name`."""
        return {name: value for name in ("alpha", "root") if (value := getattr(self, name)) is not None}

    @property
    def weight_parameters(self) -> dict[str, float]:
        """The parameters of the loss that `general_union_weight` takes as well."""
        return {name: value for name, value in self.loss_parameters.items() if name == "alpha"}

    @property
    def network_parameters(self) -> dict[str, Any]:
        """Parameters of the network, for `checkpoints.build_network`."""
        dropout = {"dropout": self.dropout} if self.network == "wingsnet" else {}
        return {"width": self.width, "supervision": self.supervision} | dropout

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that segments the test cases."""
        return self.folder / {"last": "checkpoint.safetensors", "best": "best.safetensors"}[self.test_with]

    @property
    def cases(self) -> list[str]:
        """All cases: training, validation and test."""
        return [*self.train_cases, *self.validation_cases, *self.test_cases]

    def prepared(self, case: str) -> Path:
        """The case's training store."""
        return home.path(self.data) / "prepared" / f"{case}.zarr"


def with_cases(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add the cases that a run's settings leave out, from the column `split` of DATA/cases.csv.

    Call it where a run starts, before the settings are validated. Nothing is added if they give `train_cases`, or if
    there is no table. A case that they name in one list is left out of the others. null means "not given".

    Raises
    ------
    InputError
        A faulty table, or one without a case to train on.
    """
    lists = [f"{split}_cases" for split in SPLITS]
    settings = {name: value for name, value in settings.items() if value is not None or name not in lists}
    data = settings.get("data", TrainConfig.model_fields["data"].default)
    if "train_cases" in settings or not isinstance(data, str):  # of another type: for the model to refuse
        return settings
    listed = split_names(home.path(data))
    if listed is None:
        return settings
    named = [case for name in lists if isinstance(settings.get(name), list) for case in settings[name]]
    for name, split in zip(lists, SPLITS, strict=True):
        settings.setdefault(name, [case for case in listed[split] if case not in named])
    if not settings["train_cases"]:
        raise InputError(f"{data}/cases.csv has no case to train on; give train_cases, or prepare it with --split")
    return settings


def snapshot_path(config: TrainConfig, epoch: int) -> Path:
    """Return the path of the weights after `epoch` epochs, kept if `config.snapshots` names it; 0: before training."""
    return config.folder / f"snapshot_{epoch:04d}.safetensors"


class Recipe(TrainConfig):
    """Settings that all stages share, and by stage those that differ; without stages, one run.

    The last stage is the run itself, and the only one that is tested. A stage `dice` before it is, of run `paper`, the
    run `paper_dice`. A stage's `missed_by` may name an earlier stage. Its `start`, unless it names one, is the last
    checkpoint of the stage before, and its `stage` one more.

    Examples
    --------
    >>> recipe = Recipe(run="paper", epochs=100, stages={"dice": {"loss": "dice"}, "stage1": {"alpha": 0.1}})
    >>> [(run.run, run.loss, run.stage) for run in recipe.runs()]
    [('paper_dice', 'dice', 0), ('paper', 'general_union', 1)]
    >>> recipe.runs()[1].start
    'results/quick/runs/paper_dice/checkpoint.safetensors'
    """

    stages: dict[str, dict[str, Any]] = Field(
        {}, description="settings that differ, by stage, in the order of training"
    )

    @model_validator(mode="after")
    def every_stage_is_a_run(self) -> "Recipe":
        """Refuse a stage with an unknown setting, or one that changes what all stages share."""
        self.runs()
        return self

    def runs(self) -> list[TrainConfig]:
        """Return the runs of the stages, in their order."""
        shared = self.model_dump(exclude={"stages"})
        if not self.stages:
            return [TrainConfig(**shared)]
        runs, last = [], list(self.stages)[-1]
        for number, (name, changes) in enumerate(self.stages.items()):
            fixed = sorted({"study", "run", "data", "stage", "stages"} & changes.keys())
            if fixed:
                raise ValueError(f"stage {name}: {fixed[0]} is for all stages; set it above them")
            own = {"stage": self.stage + number}
            own |= {} if name == last else {"run": f"{self.run}_{name}", "test_cases": []}
            settings = shared | own | changes
            if runs and "start" not in changes:
                settings["start"] = (runs[-1].folder / "checkpoint.safetensors").relative_to(home.HOME).as_posix()
            if settings["missed_by"] in list(self.stages)[len(runs) :]:
                raise ValueError(f"stage {name}: missed_by {settings['missed_by']!r} is no earlier stage")
            if settings["missed_by"] in self.stages:
                settings["missed_by"] = f"{self.run}_{settings['missed_by']}"
            runs.append(home.validated(TrainConfig, settings, f"stage {name}"))
        return runs
