"""The configuration of a run refuses what it does not know, by name; the stages of a recipe are runs."""

import pytest
import yaml
from pydantic import ValidationError

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.training.config import Recipe, TrainConfig, with_cases


def config(**changes):
    return TrainConfig(**{"train_cases": ["mini_0000"], "test_cases": ["mini_0001"], **changes})


def test_paths_start_at_the_projects_root():
    assert config(study="s", run="r").folder == home.HOME / "results/s/runs/r"
    assert config(data="d").prepared("mini_0000") == home.HOME / "d/prepared/mini_0000.zarr"
    assert config(data="/elsewhere").prepared("mini_0000").as_posix() == "/elsewhere/prepared/mini_0000.zarr"
    assert config().cases == ["mini_0000", "mini_0001"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "../elsewhere"}, "plain folder name"),
        ({"epochs": 0}, "epochs"),
        ({"gradient_clip": 0}, "gradient_clip"),
        ({"root": 0}, "root"),
        ({"root": 1.1}, "root"),
        ({"test_cases": ["mini_0000"]}, "named twice"),
        ({"widht": 4}, "widht"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        config(**change)


def listed(folder, **splits):
    """A cases.csv of the given splits."""
    rows = [f"{case},{split},x,y," for split, cases in splits.items() for case in cases]
    (folder / "cases.csv").write_text("\n".join(["case,split,ct,airway,mended", *rows]) + "\n")
    return str(folder)


def cases(**settings):
    """The three lists of cases of a run that starts with these settings."""
    found = TrainConfig(**with_cases(settings))
    return found.train_cases, found.validation_cases, found.test_cases


def test_cases_not_given_are_those_of_the_table(tmp_path):
    data = listed(tmp_path, train=["a", "1"], validation=["c"], test=["d"])
    assert cases(data=data) == (["a", "1"], ["c"], ["d"])
    assert cases(data=data, train_cases=None, test_cases=["a"]) == (["1"], ["c"], ["a"])
    assert cases(data=data, train_cases=["x"], test_cases=None) == (["x"], [], [])  # the table is not looked at
    assert cases(data=str(tmp_path / "elsewhere")) == (["mini_0000"], [], [])


def test_settings_alone_read_no_table(tmp_path):
    assert TrainConfig(data=listed(tmp_path, train=["a"])).train_cases == ["mini_0000"]


def test_a_table_may_give_the_validation_cases_that_patience_needs(tmp_path):
    settings = with_cases({"data": listed(tmp_path, train=["a"], validation=["c"]), "patience": 3})
    assert TrainConfig(**settings).patience == 3


def test_a_table_that_does_not_serve_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no case to train on; give train_cases, or prepare it with --split"):
        cases(data=listed(tmp_path, test=["a"]))
    with pytest.raises(ValidationError, match="test_cases"):
        cases(data=listed(tmp_path, train=["a"]), test_cases=5)
    with pytest.raises(InputError, match="unknown split"):
        cases(data=listed(tmp_path, training=["a"]))


def test_defaults_are_the_papers_recipe():
    assert (config().augment, config().gradient_clip) == (False, None)


def test_every_field_is_described():
    assert all(field.description for field in TrainConfig.model_fields.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "steps", "epochs": 30}, r"milestones \[60, 90\]: each must lie between 0 and the epochs, 30"),
        ({"snapshots": [101]}, r"snapshots \[101\]: each must be an epoch from 0 to 100"),
        ({"train_cases": ["a/../b"]}, "is no name of a case"),
        ({"memory": float("inf")}, "memory"),
        ({"sampling": "hard_skeleton"}, "sampling hard_skeleton and missed_by need each other"),
        ({"missed_by": "dice"}, "sampling hard_skeleton and missed_by need each other"),
        ({"patience": 3}, "need validation_cases"),
        ({"test_with": "best"}, "need validation_cases"),
    ],
)
def test_settings_that_would_do_nothing_or_harm_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        home.validated(TrainConfig, change, "settings")


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
