"""The training configuration refuses what it does not know, by name."""

import pytest
from pydantic import ValidationError

from airwaylib.errors import InputError
from airwaystudy import home
from airwaystudy.training.config import TrainConfig, with_cases


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
