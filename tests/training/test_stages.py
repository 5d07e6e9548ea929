"""Recipes: stages are runs, each from the weights of the last, and a wrong setting names its stage."""

import pytest
import yaml

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.training.config import Recipe, TrainConfig

STAGES = {
    "dice": {"loss": "dice"},
    "stage1": {"alpha": 0.1, "sampling": "hard_skeleton", "missed_by": "dice"},
    "stage2": {"alpha": 0.2, "label_threshold": 0.9, "sampling": "hard_skeleton", "missed_by": "dice", "epochs": 30},
}


def test_a_recipe_without_stages_is_one_run():
    assert Recipe(run="alone", epochs=3).runs() == [TrainConfig(run="alone", epochs=3)]


def test_stages_change_settings_and_start_from_the_last():
    dice, first, second = Recipe(study="s", run="paper", epochs=100, stages=STAGES).runs()
    assert [run.run for run in (dice, first, second)] == ["paper_dice", "paper_stage1", "paper"]
    assert [run.epochs for run in (dice, first, second)] == [100, 100, 30]
    assert dice.start is None
    assert home.path(first.start) == dice.folder / "checkpoint.safetensors"
    assert home.path(second.start) == first.folder / "checkpoint.safetensors"
    assert first.missed_by == second.missed_by == "paper_dice"
    assert [run.stage for run in (dice, first, second)] == [0, 1, 2]
    assert (second.alpha, second.label_threshold, first.label_threshold) == (0.2, 0.9, 0.7)


def test_only_the_last_stage_is_tested():
    first, last = Recipe(run="r", test_cases=["mini_0008"], stages={"a": {}, "b": {}}).runs()
    assert (first.test_cases, last.test_cases) == ([], ["mini_0008"])


def test_stages_count_on_from_those_before():
    assert [run.stage for run in Recipe(run="r", stage=2, stages={"a": {}, "b": {}}).runs()] == [2, 3]


def test_a_stage_may_start_elsewhere_or_draw_what_another_run_missed():
    stages = {"a": {}, "b": {"start": None, "sampling": "hard_skeleton", "missed_by": "elsewhere"}}
    _, b = Recipe(run="r", stages=stages).runs()
    assert b.start is None and b.missed_by == "elsewhere"


def test_the_first_stage_takes_the_start_of_all():
    first, second = Recipe(run="r", start="former.safetensors", stages={"a": {}, "b": {}}).runs()
    assert first.start == "former.safetensors" and second.start.endswith("r_a/checkpoint.safetensors")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"one": {"epoch": 3}}, "file: stage one: no parameter 'epoch'"),
        ({"one": {"epochs": 0}}, "stage one: epochs = 0"),
        ({"one": {"run": "x"}}, "stage one: run is for all stages"),
        ({"one": {"stage": 4}}, "stage one: stage is for all stages"),
        ({"one": {"stages": {}}}, "stage one: stages is for all stages"),
        ({"a/b": {}, "c": {}}, "stage a/b: .*plain folder name"),
        ({"one": {"sampling": "hard_skeleton"}}, "stage one: .*missed_by"),
        ({"one": 3}, "stages.one"),
        ({"one": {"sampling": "hard_skeleton", "missed_by": "one"}}, "stage one: missed_by 'one' is no earlier stage"),
        ({"a": {"sampling": "hard_skeleton", "missed_by": "b"}, "b": {}}, "stage a: missed_by 'b' is no earlier stage"),
    ],
)
def test_a_wrong_stage_is_named(stages, message):
    with pytest.raises(InputError, match=message):
        home.validated(Recipe, {"run": "r", "stages": stages}, "file")


@pytest.mark.parametrize(
    "path", sorted([*home.HOME.glob("recipes/*.yaml"), *home.HOME.glob("airwaylib/inference/weights/*.yaml")])
)
def test_every_recipe_of_the_repository_is_valid(path):
    assert len(home.validated(Recipe, yaml.safe_load(path.read_text()), path.name).runs()) >= 1


def test_the_papers_recipe_is_the_papers():
    settings = yaml.safe_load((home.HOME / "recipes/paper.yaml").read_text())
    dice, first, second = Recipe(**settings, data="elsewhere").runs()
    assert (dice.loss, first.loss, second.loss) == ("dice", "general_union", "general_union")
    for run in (dice, first, second):
        assert (run.width, run.crop, run.crops_per_case, run.batch_size, run.rotation) == (8, 128, 16, 1, 15)
        assert (run.supervision, run.schedule, run.learning_rate, run.spacing) == ("both", "steps", 0.01, None)
    assert [(run.alpha, run.label_threshold) for run in (first, second)] == [(0.1, 0.7), (0.2, 0.9)]
    assert [(run.epochs, run.milestones) for run in (dice, first, second)] == [
        (100, [60, 90]), (100, [60, 90]), (30, [15, 25])
    ]  # fmt: skip
    assert first.sampling == second.sampling == "hard_skeleton"
    assert first.missed_by == second.missed_by == dice.run
    assert [run.start for run in (dice, first, second)] == [
        None, *(f"results/quick/runs/paper_{stage}/checkpoint.safetensors" for stage in ("dice", "stage1"))
    ]  # fmt: skip
