"""A recipe: training stages as data, each a run that starts from the weights of the one before.

The paper's (Zheng et al., IEEE TMI 2021) are three, `recipes/paper.yaml`: Dice, whose misses hard-skeleton sampling
draws from, and two with the General Union loss.
"""

from typing import Any

from pydantic import Field, model_validator

from airwaylib import study
from airwaylib.config import TrainConfig


class Recipe(TrainConfig):
    """The settings that all stages share, and by stage those that differ; without stages, one run.

    Stage `dice` of run `paper` is the run `paper_dice`. A stage's `missed_by` may name an earlier stage. Its `start`,
    unless it names one, is the last checkpoint of the stage before.

    Examples
    --------
    >>> recipe = Recipe(run="paper", epochs=100, stages={"dice": {"loss": "dice"}, "stage1": {"alpha": 0.1}})
    >>> [(run.run, run.loss, run.epochs) for run in recipe.runs()]
    [('paper_dice', 'dice', 100), ('paper_stage1', 'general_union', 100)]
    >>> recipe.runs()[1].start
    'results/quick/runs/paper_dice/checkpoint.safetensors'
    """

    stages: dict[str, dict[str, Any]] = Field({}, description="stages in their order: settings that differ, by stage")

    @model_validator(mode="after")
    def every_stage_is_a_run(self) -> "Recipe":
        """Refuse a stage with a setting that no run has, or one that would change what all stages share."""
        self.runs()
        return self

    def runs(self) -> list[TrainConfig]:
        """The runs of the stages, in their order."""
        shared = self.model_dump(exclude={"stages"})
        if not self.stages:
            return [TrainConfig(**shared)]
        runs = []
        for name, changes in self.stages.items():
            fixed = sorted({"study", "run", "data", "stages"} & changes.keys())
            if fixed:
                raise ValueError(f"stage {name}: {fixed[0]} is for all stages; set it above them")
            settings = shared | {"run": f"{self.run}_{name}"} | changes
            if runs and "start" not in changes:
                settings["start"] = (runs[-1].folder / "checkpoint.safetensors").relative_to(study.HOME).as_posix()
            if settings["missed_by"] in list(self.stages)[len(runs) :]:
                raise ValueError(f"stage {name}: missed_by {settings['missed_by']!r} is no earlier stage")
            if settings["missed_by"] in self.stages:
                settings["missed_by"] = f"{self.run}_{settings['missed_by']}"
            runs.append(study.validated(TrainConfig, settings, f"stage {name}"))
        return runs
